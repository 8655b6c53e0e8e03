"""The images of a record: in the parts of its messages, or in a column beside them.

A part is {"type": "image", …} or {"type": "image_url", …}, with the image under `image`, `path`, `url`, `image_url`,
`base64` or `bytes`; one without any shows the next image of the column `images` or `image`. An image is a path,
relative to the data set's file, its encoded bytes, or these as base64 or as a data URL; {"bytes", "path"}, as data sets
on the Hub have it, and {"url"} may hold either.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from mtp_tools.data.conversation import ImageSource, Message, Refused

PARTS = ("image", "image_url", "input_image")
KEYS = ("image", "path", "url", "image_url", "base64", "bytes")
COLUMNS = ("images", "image", "image_id")  # in the last one an image is MedPix's; elsewhere it is a number or a name
SHORTEST_BASE64 = 64  # of what is taken for an encoded image and not for the path of a missing one


def beside(record: dict[str, object]) -> list[object]:
    """The images in the record's own columns."""
    for name in COLUMNS:
        value = record.get(name)
        if value and (name != "image_id" or isinstance(value, (dict, bytes))):
            return value if isinstance(value, list) else [value]
    return []


def question(text: str, images: list[object]) -> str | list[dict[str, str]]:
    """The content of a question about images that stand beside it: they come first."""
    return [*({"type": "image"} for _ in images), {"type": "text", "text": text}] if images else text


def taken_out(
    messages: list[Message], images_beside: list[object], directory: Path
) -> tuple[list[Message], list[ImageSource]]:
    """The messages with {"type": "image"} where they show one, and these images. Raises Refused."""
    waiting, shown = list(images_beside), []

    def bare(part: object) -> object:
        if not is_image(part):
            return part
        given = next((part[key] for key in KEYS if part.get(key) is not None), None)
        if given is None and not waiting:
            raise Refused("shows more images than it has")
        shown.append(source_of(waiting.pop(0) if given is None else given, directory))
        return {"type": "image"}

    without = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and any(map(is_image, content)):
            if message["role"] == "assistant":
                raise Refused("shows an image in an answer")
            message = message | {"content": [bare(part) for part in content]}
        without.append(message)
    if waiting:
        raise Refused("has images that none of its messages shows")
    return without, shown


def is_image(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") in PARTS


def source_of(given: object, directory: Path) -> ImageSource:
    if isinstance(given, dict):
        given = next((given[key] for key in ("bytes", "path", "url") if given.get(key)), None)
    if isinstance(given, bytes):
        return given
    if not isinstance(given, str):
        raise Refused("an image is neither a path nor bytes nor base64", type(given).__name__)
    if given.startswith("data:"):
        return decoded(given.partition(",")[2])
    if given.startswith(("http://", "https://")):
        raise Refused("shows an image of the network; download it first", given[:80])
    path = directory / given.removeprefix("file://")
    if len(given) < SHORTEST_BASE64 or os.path.isfile(path):
        return path
    try:
        return decoded(given)
    except Refused:
        return path


def decoded(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refused("an image is no base64", text[:40]) from None
