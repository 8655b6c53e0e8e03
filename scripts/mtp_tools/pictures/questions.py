"""Kinds of questions about a picture, whose answers are computed from its pixels, uint8 [height, width, 3]."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SMALL, LARGE = 40, 160  # pixels of the longer side: at most, at least
QUARTERS = ("top left", "top right", "bottom left", "bottom right")
COLOURS = ("red", "yellow", "green", "turquoise", "blue", "purple")  # a sixth of the circle of hues apart


@dataclass(frozen=True)
class Kind:
    name: str
    wordings: tuple[str, ...]
    answers: dict[str, str]
    choose: Callable[[np.ndarray], str | None]  # of the answers' keys; none where a picture leaves it open

    def answer(self, pixels: np.ndarray) -> str | None:
        choice = self.choose(pixels)
        return None if choice is None else self.answers[choice]


def shape(pixels: np.ndarray) -> str | None:
    height, width, _ = pixels.shape
    if 0.95 < width / height < 1.05:
        return "square"
    if width > 1.2 * height:
        return "wide"
    return "high" if height > 1.2 * width else None


def size(pixels: np.ndarray) -> str | None:
    longer = max(pixels.shape)
    if longer <= SMALL:
        return "small"
    return "large" if longer >= LARGE else None


def quarter(pixels: np.ndarray, sign: int) -> str | None:
    """The one that is the brightest on the average, or the darkest for a sign of -1, by 10 of 255 at least."""
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    rows, columns = (slice(None, height), slice(-height, None)), (slice(None, width), slice(-width, None))
    means = [sign * pixels[row, column].mean() for row in rows for column in columns]
    second, first = np.argsort(means)[-2:]
    return QUARTERS[first] if means[first] >= means[second] + 10 else None


def colour(pixels: np.ndarray) -> str | None:
    """Of the mean of all pixels, where it is clear."""
    hue, saturation, _ = colorsys.rgb_to_hsv(*(pixels.reshape(-1, 3).mean(axis=0) / 255))
    if saturation < 0.1:
        return "grey"
    nearest = round(6 * hue)
    return COLOURS[nearest % 6] if saturation > 0.25 and abs(6 * hue - nearest) < 0.35 else None


KINDS = (
    Kind(
        "shape",
        ("Is the picture wide, high or square?", "What shape is the picture?"),
        {
            "wide": "The picture is wider than it is high.",
            "high": "The picture is higher than it is wide.",
            "square": "The picture is as wide as it is high.",
        },
        shape,
    ),
    Kind(
        "size",
        ("Is the picture small or large?", "How large is the picture?"),
        {name: f"It is a {name} picture." for name in ("small", "large")},
        size,
    ),
    Kind(
        "brightest quarter",
        ("Which quarter is the brightest?", "Where is the picture brightest?"),
        {name: f"The {name} quarter is the brightest." for name in QUARTERS},
        lambda pixels: quarter(pixels, 1),
    ),
    Kind(
        "darkest quarter",
        ("Which quarter is the darkest?", "Where is the picture darkest?"),
        {name: f"The {name} quarter is the darkest." for name in QUARTERS},
        lambda pixels: quarter(pixels, -1),
    ),
    Kind(
        "colour",
        ("What colour is the picture?", "Which colour does it have on the whole?"),
        {name: f"On the whole it is {name}." for name in (*COLOURS, "grey")},
        colour,
    ),
)
