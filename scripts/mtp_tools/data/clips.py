"""From a clip of sound to the frames that a model's own Hugging Face feature extractor makes of it."""

from __future__ import annotations

import io
from collections import Counter
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile
import soxr

from mtp_tools.data.conversation import AUDIO, MediaSource, Medium, Refused, named
from mtp_tools.data.model_directory import AudioSizes, read_by

LONGEST = 30  # seconds; of longer clips, the extractor of the towers leaves out the rest without a word


class ClipReader:
    """Of a model's directory."""

    kind = AUDIO

    def __init__(self, directory: Path, sizes: AudioSizes):
        self.directory = directory
        self.sizes = sizes
        self.tokens = sizes.tokens

    @cached_property
    def extractor(self) -> object:
        from transformers import AutoFeatureExtractor

        return read_by(AutoFeatureExtractor, self.directory, "feature extractor")

    def read(self, source: MediaSource, notes: Counter[str]) -> Medium:
        """float32 [n, frame size]: log-mel frames or raw samples. Raises Refused."""
        samples, rate = opened(source)
        if rate != self.extractor.sampling_rate:
            notes[f"clips of sound resampled to {self.extractor.sampling_rate} Hz"] += 1
            samples = soxr.resample(samples, rate, self.extractor.sampling_rate, "HQ")
        made = self.extractor([samples], return_tensors="np")
        frames = made["input_features"][0][made["input_features_mask"][0].astype(bool)]
        if not len(frames):
            raise Refused("a clip of sound is too short for a token", named(source))
        if not np.isfinite(frames).all():
            raise Refused("a clip of sound is too loud for numbers of 32 bits", named(source))
        self._check(frames)
        return Medium(frames)

    def _check(self, frames: np.ndarray) -> None:
        if frames.dtype != np.float32 or frames.shape[1] != self.sizes.frame_size:
            raise SystemExit(
                f"{self.directory}: its feature extractor gives frames of {frames.shape[1]} numbers of type"
                f" {frames.dtype}, config.json asks for {self.sizes.frame_size} of type float32; get both from where the"
                " model is"
            )


def opened(source: MediaSource) -> tuple[np.ndarray, int]:
    """Samples of one channel, float32, and how many a second: channels are averaged."""
    try:
        stream = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        with stream, soundfile.SoundFile(stream) as sound:
            if sound.frames > LONGEST * sound.samplerate:
                raise Refused(f"a clip of sound is longer than {LONGEST} seconds", named(source))
            samples = sound.read(dtype="float32", always_2d=True)
            rate = sound.samplerate
    except soundfile.LibsndfileError as error:
        raise Refused("a clip of sound is broken or of no format that is known", f"{named(source)}: {error}") from None
    except OSError as error:
        raise Refused("a clip of sound cannot be read", f"{named(source)}: {error.strerror}") from None
    except (TypeError, ValueError) as error:  # a path that cannot be one; raw samples, by the ending of the name
        raise Refused("a clip of sound is broken or of no format that is known", f"{named(source)}: {error}") from None
    if not np.isfinite(samples).all():
        raise Refused("a clip of sound has samples that are no numbers", named(source))
    return samples.mean(axis=1, dtype=np.float32), rate
