"""The photographs that come with scikit-image and scikit-learn, and any number of pictures made of one of them."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
import skimage
import sklearn
from PIL import Image

from mtp_tools.pictures.questions import LARGE, SMALL

FOLDERS = (Path(skimage.__file__).parent / "data", Path(sklearn.__file__).parent / "datasets" / "images")
TO_LEARN = (
    "astronaut.png", "brick.png", "camera.png", "clock_motion.png", "coins.png", "color.png", "flower.jpg",
    "grass.png", "gravel.png", "horse.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png",
    "page.png", "retina.jpg",
)  # fmt: skip
HELD_OUT = ("chelsea.png", "china.jpg", "coffee.png", "rocket.jpg")
RATIOS = (0.5, 2 / 3, 1.0, 1.0, 1.5, 2.0)  # of width to height; a third of each shape
SIDES = ((SMALL // 2, SMALL), (LARGE, 280))  # pixels of the longer one: of small pictures and of large ones


def photograph(name: str) -> Image.Image:
    path = next(folder / name for folder in FOLDERS if (folder / name).exists())
    with Image.open(path) as image:
        return image.convert("RGB")


def picture(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part of the photograph: small or large, mirrored or not, in some light."""
    part = cut_out(photo, rng.choice(RATIOS), rng)
    scale = rng.integers(*rng.choice(SIDES), endpoint=True) / max(part.size)
    part = part.resize([max(1, round(scale * side)) for side in part.size], Image.Resampling.LANCZOS)
    for mirror in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM):
        if rng.random() < 0.5:
            part = part.transpose(mirror)
    return lit(part, rng)


def cut_out(photo: Image.Image, ratio: float, rng: np.random.Generator) -> Image.Image:
    width = rng.uniform(0.5, 1) * min(photo.width, photo.height * ratio)
    height = width / ratio
    x, y = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
    return photo.crop([round(edge) for edge in (x, y, x + width, y + height)])


def lit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """As it is (15 %), without colours (15 %), or its colours paled and in light of some colour."""
    kind = rng.random()
    if kind < 0.15:
        return image
    if kind < 0.3:
        return image.convert("L").convert("RGB")
    light = np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.3, 0.8), 1))
    paled = 0.4 * np.asarray(image) + 0.6 * np.asarray(image.convert("L"))[..., None]
    return Image.fromarray((paled * light).astype(np.uint8))
