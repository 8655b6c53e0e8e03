"""What a record of a data set says: all that a chat template is given."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Message = dict[str, object]
MediaSource = Path | bytes  # of a file, or a file's content


@dataclass(frozen=True)
class Kind:
    """Of what a message may show beside text, with its words in what is said of it."""

    type: str  # of its parts
    one: str
    many: str
    rows: str  # that one consists of

    @property
    def part(self) -> dict[str, str]:
        """Where a message shows one."""
        return {"type": self.type}


IMAGE = Kind("image", "an image", "images", "patches")
AUDIO = Kind("audio", "a clip of sound", "clips of sound", "frames")
KINDS = (IMAGE, AUDIO)


@dataclass
class Medium:
    """An image or a clip as the model takes it."""

    rows: np.ndarray  # [n, width]: patches or frames
    size: tuple[int, int] | None = None  # of an image: width and height in patches


class Refused(Exception):
    """A record that is left out. `reason` is what it is counted under, the same for every record with this fault;
    `detail` is what only this one can say."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Conversation:
    messages: list[Message]
    tools: list[dict[str, object]] | None = None  # declarations of functions, as the template takes them
    template_arguments: dict[str, object] = field(default_factory=dict)  # the record's own, such as enable_thinking
    where: str = ""  # FILE:LINE or FILE: row N, for reports
    media: dict[Kind, list[MediaSource]] = field(default_factory=dict)  # one for each part of the messages


def shown(value: object) -> str:
    """The beginning of a value, for a `detail`. Tables hold values that JSON does not."""
    return json.dumps(value, default=str)[:60]


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def named(source: MediaSource) -> str:
    return f"one of {len(source)} bytes" if isinstance(source, bytes) else str(source)


@dataclass(frozen=True)
class LeftOut:
    where: str
    reason: str
    detail: str = ""

    @staticmethod
    def of(where: str, refused: Refused) -> LeftOut:
        return LeftOut(where, refused.reason, refused.detail)

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" + (f": {self.detail}" if self.detail else "")
