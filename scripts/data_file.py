"""Writes data files for mtp-train."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np

from chat_tokenizer import ChatTokenizer, Sample

CHUNK = 1 << 16  # elements in a chunk


def attributes_of(chat: ChatTokenizer) -> dict[str, object]:
    return {
        "format": "mtp-data",
        "version": 1,
        "vocab_size": chat.vocab_size,
        "pad_token_id": chat.pad_token_id,
        "tokenizer": chat.fingerprint,
    }


class DataFile:
    """The data file of design.md, grown sample by sample; it gets its name when it is complete. A file of prompts has
    no targets."""

    def __init__(self, path: Path, attributes: dict[str, object], has_targets: bool = True):
        self.path = path
        self.has_targets = has_targets
        self.partial = path.with_name(f".{path.name}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = h5py.File(self.partial, "w")
        self.file.attrs.update(attributes)
        self._create("tokens", np.int32, [])
        self._create("offsets", np.int64, [0])
        if has_targets:
            self._create("loss_mask", np.uint8, [])
        self.samples = self.tokens = self.targets = 0

    def add(self, samples: list[Sample]) -> None:
        if not samples:
            return
        ends = self.tokens + np.cumsum([len(s.tokens) for s in samples])
        self._append("offsets", ends)
        self._append("tokens", np.concatenate([s.tokens for s in samples]))
        if self.has_targets:
            self._append("loss_mask", np.concatenate([s.is_target for s in samples]))
        self.samples += len(samples)
        self.tokens = int(ends[-1])
        self.targets += sum(int(s.is_target[1:].sum()) for s in samples)

    def _create(self, name: str, dtype: type, first: list[int]) -> None:
        self.file.create_dataset(name, data=np.array(first, dtype), maxshape=(None,), chunks=(CHUNK,))

    def _append(self, name: str, values: np.ndarray) -> None:
        dataset = self.file[name]
        before = len(dataset)
        dataset.resize(before + len(values), axis=0)
        dataset[before:] = values

    def finish(self) -> None:
        if self.samples == 0:
            raise SystemExit(f"{self.path}: no sample is left to write")
        self.file.close()
        os.replace(self.partial, self.path)
        if self.has_targets:
            print(f"{self.path}: {self.samples} samples, {self.tokens} tokens, {self.targets} of them targets")
        else:
            print(f"{self.path}: {self.samples} prompts, {self.tokens} tokens")

    def __enter__(self) -> DataFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.partial.unlink(missing_ok=True)
