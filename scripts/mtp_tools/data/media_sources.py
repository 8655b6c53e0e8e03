"""The images and clips of sound of a record: in the parts of its messages, or in a column beside them.

A part is {"type": "image", …} or {"type": "image_url", …}, with the image under `image`, `path`, `url`, `image_url`,
`base64` or `bytes`; one without any shows the next image of the column `images` or `image`. An image is a path,
relative to the data set's file, its encoded bytes, or these as base64 or as a data URL; {"bytes", "path"}, as data sets
on the Hub have it, and {"url"} may hold either. Clips are the same, with `audio` for `image`; {"type": "input_audio",
"input_audio": {"data": base64}} is OpenAI's.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from mtp_tools.data.conversation import AUDIO, IMAGE, KINDS, Kind, MediaSource, Message, Refused

PARTS = {
    "image": IMAGE, "image_url": IMAGE, "input_image": IMAGE,
    "audio": AUDIO, "audio_url": AUDIO, "input_audio": AUDIO,
}  # fmt: skip
KEYS = {
    IMAGE: ("image", "path", "url", "image_url", "base64", "bytes"),
    AUDIO: ("audio", "path", "url", "audio_url", "input_audio", "base64", "bytes"),
}
# In `image_id` an image is MedPix's; elsewhere it is a number or a name.
COLUMNS = {IMAGE: ("images", "image", "image_id"), AUDIO: ("audios", "audio")}
SHORTEST_BASE64 = 64  # of what is taken for an encoded file and not for the path of a missing one

Beside = dict[Kind, list[object]]


def beside(record: dict[str, object]) -> Beside:
    """What is in the record's own columns."""
    return {kind: found for kind in KINDS if (found := in_columns(record, COLUMNS[kind]))}


def in_columns(record: dict[str, object], names: tuple[str, ...]) -> list[object]:
    for name in names:
        value = record.get(name)
        if value and (name != "image_id" or isinstance(value, (dict, bytes))):
            return value if isinstance(value, list) else [value]
    return []


def question(text: str, media: Beside) -> str | list[dict[str, str]]:
    """The content of a question about what stands beside it: this comes first."""
    shown = [kind.part for kind, of_kind in media.items() for _ in of_kind]
    return [*shown, {"type": "text", "text": text}] if shown else text


def taken_out(
    messages: list[Message], media_beside: Beside, directory: Path
) -> tuple[list[Message], dict[Kind, list[MediaSource]]]:
    """The messages with {"type": "image"} where they show one, and these images; so with sound. Raises Refused."""
    waiting = {kind: list(media_beside.get(kind, ())) for kind in KINDS}
    shown: dict[Kind, list[MediaSource]] = {kind: [] for kind in KINDS}

    def bare(part: object) -> object:
        kind = kind_of(part)
        if kind is None:
            return part
        given = next((part[key] for key in KEYS[kind] if part.get(key) is not None), None)
        if given is None and not waiting[kind]:
            raise Refused(f"shows more {kind.many} than it has")
        shown[kind].append(source_of(kind, waiting[kind].pop(0) if given is None else given, directory))
        return kind.part

    without = []
    for message in messages:
        content = message.get("content")
        found = [kind for part in content if (kind := kind_of(part))] if isinstance(content, list) else []
        if found:
            if message["role"] == "assistant":
                raise Refused(f"shows {found[0].one} in an answer")
            message = message | {"content": [bare(part) for part in content]}
        without.append(message)
    for kind in KINDS:
        if waiting[kind]:
            raise Refused(f"has {kind.many} that none of its messages shows")
    return without, shown


def kind_of(part: object) -> Kind | None:
    kind = part.get("type") if isinstance(part, dict) else None
    return PARTS.get(kind) if isinstance(kind, str) else None


def source_of(kind: Kind, given: object, directory: Path) -> MediaSource:
    if isinstance(given, dict):
        given = next((given[key] for key in ("bytes", "path", "url", "data") if given.get(key)), None)
    if isinstance(given, bytes):
        return given
    if not isinstance(given, str):
        raise Refused(f"{kind.one} is neither a path nor bytes nor base64", type(given).__name__)
    if given.startswith("data:"):
        return decoded(kind, given.partition(",")[2])
    if given.startswith(("http://", "https://")):
        raise Refused(f"shows {kind.one} of the network; download it first", given[:80])
    path = directory / given.removeprefix("file://")
    if len(given) < SHORTEST_BASE64 or os.path.isfile(path):
        return path
    try:
        return decoded(kind, given)
    except Refused:
        return path


def decoded(kind: Kind, text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refused(f"{kind.one} is no base64", text[:40]) from None
