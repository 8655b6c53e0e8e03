"""From an image to the patches that a model's own Hugging Face processor makes of it."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mtp_tools.data.conversation import IMAGE, MediaSource, Medium, Refused, named
from mtp_tools.data.model_directory import VisionSizes, read_by

WITHOUT_TORCH = (
    "images need PyTorch and torchvision, which do the resizing in Hugging Face's image processor: make .venv-hf with"
    " `scripts/python_env.sh hf` and run this with .venv-hf/bin/python"
)
DEEP = ("I", "F")  # modes of more than 8 bits begin so


class ImageReader:
    """Of a model's directory. PyTorch is loaded with the first image."""

    kind = IMAGE

    def __init__(self, directory: Path, sizes: VisionSizes):
        self.directory = directory
        self.sizes = sizes
        self.tokens = sizes.tokens

    @cached_property
    def processor(self) -> object:
        try:
            import torch
            import torchvision  # noqa: F401  (without it transformers resizes with Pillow, to other pixels)
        except ImportError:
            raise SystemExit(WITHOUT_TORCH) from None
        from transformers import AutoImageProcessor

        torch.set_num_threads(1)  # the cores are taken by the other workers
        return read_by(AutoImageProcessor, self.directory, "image processor")

    def read(self, source: MediaSource, notes: Counter[str]) -> Medium:
        """uint8 [width · height, 3 · side²]: patches row by row, their pixels too, red, green and blue together.
        Raises Refused."""
        image = opened(source)
        if image.mode.startswith(DEEP):
            notes["images of more than 8 bits a pixel, of which the image processor cuts off what is above 255"] += 1
        try:
            made = self.processor(image, do_rescale=False, return_tensors="pt")
        except ValueError as error:
            raise Refused("the image processor refuses an image", f"{named(source)}: {error}") from None
        positions = made["image_position_ids"][0].numpy()
        positions = positions[positions[:, 0] >= 0]  # without what it pads with
        patches = made["pixel_values"][0, : len(positions)].numpy()
        self._check(patches)
        width, height = (int(last) + 1 for last in positions.max(axis=0))
        if max(width, height) > self.sizes.positions:
            raise Refused(f"an image is more than {self.sizes.positions} patches wide or high", named(source))
        return Medium(patches, (width, height))

    def _check(self, patches: np.ndarray) -> None:
        numbers = 3 * self.sizes.patch_side**2
        if patches.dtype != np.uint8 or patches.shape[1] != numbers:
            raise SystemExit(
                f"{self.directory}: its image processor gives patches of {patches.shape[1]} numbers of type"
                f" {patches.dtype}, config.json asks for {numbers} bytes; get both from where the model is"
            )


def opened(source: MediaSource) -> Image.Image:
    """Upright, in its own mode."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes that are still read
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                image = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise Refused("an image is empty or of no format that is known", named(source)) from None
    except Image.DecompressionBombError as error:
        raise Refused("an image has too many pixels", f"{named(source)}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders throw all kinds of things at what is broken
        if isinstance(error, OSError) and error.strerror:
            raise Refused("an image cannot be read", f"{named(source)}: {error.strerror}") from None
        raise Refused("an image is broken or cut off", f"{named(source)}: {error}") from None
    return image
