"""Writes data files for mtp-train."""

from __future__ import annotations

import errno
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from mtp_tools.data.chat_tokenizer import ChatTokenizer, Sample
from mtp_tools.data.conversation import AUDIO, IMAGE, Kind, Medium

CHUNK = 1 << 16  # elements in a chunk
ERRNO = re.compile(r"errno = (\d+)")


@dataclass(frozen=True)
class Layout:
    """The names of what a file has of a kind of media."""

    token_id: str  # attributes
    rows_per_token: str
    rows: str  # datasets: patches or frames
    row_type: type
    offsets: str
    of_samples: str
    sizes: str | None = None


LAYOUTS = {
    IMAGE: Layout(
        "image_token_id", "patches_per_image_token", "patches", np.uint8, "image_offsets", "sample_images", "image_sizes"
    ),
    AUDIO: Layout(
        "audio_token_id", "frames_per_audio_token", "audio_features", np.float32, "audio_offsets", "sample_audios"
    ),
}  # fmt: skip
OF_MEDIA = {name for layout in LAYOUTS.values() for name in (layout.token_id, layout.rows_per_token)}


def attributes_of(chat: ChatTokenizer) -> dict[str, object]:
    of_media: dict[str, object] = {}
    for kind, reader in chat.readers.items():
        layout, tokens = LAYOUTS[kind], reader.tokens
        of_media |= {layout.token_id: tokens.soft, layout.rows_per_token: tokens.rows_per_token}
    return of_media | {
        "format": "mtp-data",
        "version": 1,
        "vocab_size": chat.vocab_size,
        "pad_token_id": chat.pad_token_id,
        "tokenizer": chat.fingerprint,
    }


class CannotWrite(Exception):
    """What HDF5 has in memory cannot be written any more, and it does not take that well when a program ends: the
    program must end without it (`end_at_once`)."""


class DataFile:
    """The data file of docs/files.md, grown sample by sample, under a name of its own until it is complete. A file of
    prompts has no targets; one of text alone nothing of media."""

    def __init__(self, path: Path, attributes: dict[str, object], has_targets: bool = True):
        self.path = path
        self.has_targets = has_targets
        if path.is_dir():
            raise SystemExit(f"{path}: is a folder; name a file")
        self.partial = path.with_name(f".{path.name}.partial")
        try:
            with told(path):
                self._begin(attributes)
        except CannotWrite:
            with suppress(OSError):
                self.partial.unlink()
            raise
        self.of_media = {name: attributes[name] for name in OF_MEDIA if name in attributes}
        self.samples = self.tokens = self.targets = 0
        self.media, self.rows = Counter[Kind](), Counter[Kind]()

    def _begin(self, attributes: dict[str, object]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = created(self.partial)
        self.file.attrs.update({name: attributes[name] for name in attributes if name not in OF_MEDIA})
        self._create("tokens", np.int32, [])
        self._create("offsets", np.int64, [0])
        if self.has_targets:
            self._create("loss_mask", np.uint8, [])

    def add(self, samples: list[Sample]) -> None:
        if not samples:
            return
        ends = self.tokens + np.cumsum([len(s.tokens) for s in samples])
        with told(self.path):
            self._append("offsets", ends)
            self._append("tokens", np.concatenate([s.tokens for s in samples]))
            if self.has_targets:
                self._append("loss_mask", np.concatenate([s.is_target for s in samples]))
            for kind in LAYOUTS:
                self._add_media(kind, [sample.media.get(kind, []) for sample in samples])
        self.samples += len(samples)
        self.tokens = int(ends[-1])
        self.targets += sum(int(s.is_target[1:].sum()) for s in samples)

    def add_kinds(self, kinds: list[str]) -> None:
        """What each of the file's prompts is."""
        names = sorted(set(kinds))
        with told(self.path):
            self.file["kind"] = np.array([names.index(kind) for kind in kinds], np.int32)
            self.file["kind"].attrs["names"] = "\n".join(names)

    def _add_media(self, kind: Kind, of_samples: list[list[Medium]]) -> None:
        layout, media = LAYOUTS[kind], [medium for of_sample in of_samples for medium in of_sample]
        if media and not self.media[kind]:
            self._begin_media(layout, media[0])
        if not media and not self.media[kind]:
            return
        self._append(layout.of_samples, self.media[kind] + np.cumsum([len(of_sample) for of_sample in of_samples]))
        for medium in media:
            self._append(layout.rows, medium.rows)
            if layout.sizes:
                self._append(layout.sizes, np.array([medium.size], np.int32))
            self.media[kind] += 1
            self.rows[kind] += len(medium.rows)
            self._append(layout.offsets, np.array([self.rows[kind]]))

    def _begin_media(self, layout: Layout, first: Medium) -> None:
        """With the file's first one: the samples before it have none."""
        for name in (layout.token_id, layout.rows_per_token):
            self.file.attrs[name] = self.of_media[name]
        self._create(layout.of_samples, np.int64, [0] * (self.samples + 1))
        self._create(layout.offsets, np.int64, [0])
        if layout.sizes:
            self._create(layout.sizes, np.int32, [], 2)
        self._create(layout.rows, layout.row_type, [], first.rows.shape[1])

    def _create(self, name: str, dtype: type, first: list[int], *row: int) -> None:
        """`row`: the shape of an element, if it is more than a number."""
        data, chunk = np.array(first, dtype).reshape(-1, *row), max(1, CHUNK // math.prod(row))
        self.file.create_dataset(name, data=data, maxshape=(None, *row), chunks=(chunk, *row))

    def _append(self, name: str, values: np.ndarray) -> None:
        dataset = self.file[name]
        before = len(dataset)
        dataset.resize(before + len(values), axis=0)
        dataset[before:] = values

    def close(self) -> None:
        """All of it is on the disk, still under the partial name."""
        with told(self.path):
            self.file.close()
            with self.partial.open("rb") as file:
                os.fsync(file.fileno())

    def __str__(self) -> str:
        found = [(kind.many, self.media[kind], self.rows[kind], kind.rows) for kind in LAYOUTS if self.media[kind]]
        media = "".join(f"; {count} {many} of {rows} {name}" for many, count, rows, name in found)
        if self.has_targets:
            return f"{self.path}: {self.samples} samples, {self.tokens} tokens, {self.targets} of them targets{media}"
        return f"{self.path}: {self.samples} prompts, {self.tokens} tokens{media}"


@contextmanager
def data_files(
    paths: list[Path], attributes: dict[str, object], has_targets: bool = True
) -> Iterator[list[DataFile]]:
    """New files that get their names together when the block has ended well, or not at all."""
    files: list[DataFile] = []
    try:
        for path in paths:
            files.append(DataFile(path, attributes, has_targets))
        yield files
        for file in files:
            file.close()
        rename_together([(file.partial, file.path) for file in files])
    except CannotWrite:
        remove(files)
        raise
    except BaseException:
        for file in files:
            file.file.close()
        remove(files)
        raise


def remove(files: list[DataFile]) -> None:
    for file in files:
        file.partial.unlink(missing_ok=True)


def rename_together(names: list[tuple[Path, Path]]) -> None:
    """Where one cannot be renamed, those before it get their old contents back."""
    done: list[tuple[Path, Path | None]] = []
    try:
        for new, path in names:
            old = path.with_name(f".{path.name}.old") if path.exists() else None
            if old:
                os.replace(path, old)
            done.append((path, old))
            os.replace(new, path)
    except OSError as error:
        for path, old in reversed(done):
            os.replace(old, path) if old else path.unlink(missing_ok=True)
        raise SystemExit(f"{error.filename}: cannot be written: {error.strerror}") from None
    for _, old in done:
        if old:
            old.unlink()


def created(path: Path) -> h5py.File:
    """A file system without locks is no reason not to write."""
    try:
        return h5py.File(path, "w")
    except OSError as error:
        number = errno_of(error)
        if "lock" in str(error) and number in (errno.EAGAIN, errno.EACCES):
            raise SystemExit(f"{path}: another preparation writes it; wait for it or choose another --out") from None
        if "lock" not in str(error):
            raise
        print(f"{path}: the file system has no locks ({os.strerror(number)}); nothing else must write it", file=sys.stderr)
        return h5py.File(path, "w", locking=False)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Faults of the disk name the file."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        number = errno_of(error)
        if not number:
            raise
        raise CannotWrite(f"{path}: {os.strerror(number)}; free some space or choose another --out") from None


def errno_of(error: BaseException) -> int:
    """HDF5 gives it in its text only."""
    found = ERRNO.search(str(error))
    return int(found[1]) if found else getattr(error, "errno", None) or 0


def end_at_once(error: BaseException) -> None:
    sys.stdout.flush()
    print(error, file=sys.stderr, flush=True)
    os._exit(1)
