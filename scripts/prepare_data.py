#!/usr/bin/env python3
"""Conversations to a data file for mtp-train, with a model's own tokenizer and chat template.

    scripts/prepare_data.py chats.jsonl more.parquet --tokenizer gemma-4-E4B-it --out train.h5
    scripts/prepare_data.py --source pydoc --train-tokenizer DIR --max-length 192 --out train.h5

Each line of a JSONL file and each row of a Parquet file has `messages`: a list of {"role", "content"}. What the model
learns are the assistant's turns, each with its end-of-turn token. Files are read and written as streams.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet

import pydoc_conversations
import small_tokenizer
from chat_tokenizer import ChatTokenizer, Message, RefusedConversation, Rendered, Sample

BATCH = 512  # conversations tokenised at once
CHUNK = 1 << 16  # elements in a chunk of the data file


# ---------------------------------------------------------------- reading


def read_conversations(paths: list[Path]) -> Iterator[list[Message]]:
    for path in paths:
        reader = {".jsonl": read_jsonl, ".parquet": read_parquet}.get(path.suffix)
        if reader is None:
            raise SystemExit(f"{path}: not a .jsonl or .parquet file")
        for where, messages in reader(path):
            check(where, messages)
            yield [without_nulls(m) for m in messages]


def read_jsonl(path: Path) -> Iterator[tuple[str, list[Message]]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise SystemExit(f"{path}:{number}: not JSON: {error}") from None
                yield f"{path}:{number}", record.get("messages") if isinstance(record, dict) else None


def read_parquet(path: Path) -> Iterator[tuple[str, list[Message]]]:
    file = pyarrow.parquet.ParquetFile(path)
    if "messages" not in file.schema_arrow.names:
        raise SystemExit(f"{path}: no column messages, only {', '.join(file.schema_arrow.names)}")
    rows = itertools.count()
    for batch in file.iter_batches(batch_size=BATCH, columns=["messages"]):
        yield from ((f"{path}: row {next(rows)}", messages) for messages in batch.column(0).to_pylist())


def check(where: str, messages: object) -> None:
    if not isinstance(messages, list) or not all(isinstance(m, dict) and "role" in m for m in messages):
        raise SystemExit(f'{where}: `messages` is not a list of {{"role", "content"}}')


def without_nulls(value: object) -> object:
    """Parquet gives every message each field that any of them has; chat templates ask whether a field is there."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value


# ---------------------------------------------------------------- writing


class DataFile:
    """The data file of design.md, grown sample by sample; it gets its name when it is complete."""

    def __init__(self, path: Path, chat: ChatTokenizer):
        self.path = path
        self.partial = path.with_name(f".{path.name}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = h5py.File(self.partial, "w")
        self.file.attrs.update(
            {
                "format": "mtp-data",
                "version": 1,
                "vocab_size": chat.vocab_size,
                "pad_token_id": chat.pad_token_id,
                "tokenizer": chat.fingerprint,
            }
        )
        for name, dtype, first in (("tokens", np.int32, []), ("loss_mask", np.uint8, []), ("offsets", np.int64, [0])):
            self.file.create_dataset(name, data=np.array(first, dtype), maxshape=(None,), chunks=(CHUNK,))
        self.targets = 0

    def add(self, samples: list[Sample]) -> None:
        if not samples:
            return
        lengths = np.cumsum([len(s.tokens) for s in samples])
        self._append("offsets", self.file["offsets"][-1] + lengths)
        self._append("tokens", np.concatenate([s.tokens for s in samples]))
        self._append("loss_mask", np.concatenate([s.is_target for s in samples]))
        self.targets += sum(int(s.is_target[1:].sum()) for s in samples)

    def _append(self, name: str, values: np.ndarray) -> None:
        dataset = self.file[name]
        before = len(dataset)
        dataset.resize(before + len(values), axis=0)
        dataset[before:] = values

    def finish(self) -> None:
        samples, tokens = len(self.file["offsets"]) - 1, len(self.file["tokens"])
        if samples == 0:
            raise SystemExit(f"{self.path}: no sample is left to write")
        self.file.close()
        os.replace(self.partial, self.path)
        print(f"{self.path}: {samples} samples, {tokens} tokens, {self.targets} of them targets")

    def __enter__(self) -> DataFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.partial.unlink(missing_ok=True)


# ---------------------------------------------------------------- from conversations to samples


def rendered(chat: ChatTokenizer, conversations: Iterable[list[Message]], skipped: Counter[str]) -> Iterator[Rendered]:
    for messages in conversations:
        try:
            if messages:
                yield chat.render(messages)
            else:
                skipped["empty"] += 1
        except RefusedConversation as error:
            skipped[f"refused by the chat template ({error})"] += 1


def why_skipped(sample: Sample, max_length: int) -> str | None:
    if len(sample.tokens) < 2:
        return "empty"
    if max_length and len(sample.tokens) > max_length:
        return f"longer than {max_length} tokens"
    if not sample.is_target[1:].any():
        return "without a target"
    return None


def is_for_validation(text: str, fraction: float, seed: int) -> bool:
    """From the text itself, so that equal conversations never end up on both sides."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


def batches(items: Iterable[Rendered], size: int) -> Iterator[list[Rendered]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def prepare(args: argparse.Namespace, chat: ChatTokenizer, conversations: Iterable[list[Message]]) -> None:
    skipped: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        training = stack.enter_context(DataFile(args.out, chat))
        validation = stack.enter_context(DataFile(args.validation_out, chat)) if args.validation_out else None
        for batch in batches(rendered(chat, conversations, skipped), BATCH):
            kept: dict[bool, list[Sample]] = {False: [], True: []}
            for item, sample in zip(batch, chat.encode(batch)):
                if reason := why_skipped(sample, args.max_length):
                    skipped[reason] += 1
                else:
                    kept[is_for_validation(item.text, args.validation_fraction, args.seed)].append(sample)
            training.add(kept[False])
            if validation:
                validation.add(kept[True])
        for file in filter(None, (training, validation)):
            file.finish()
    for reason, count in sorted(skipped.items()):
        print(f"skipped: {count} {reason}")


# ---------------------------------------------------------------- command line


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="JSONL and Parquet files with `messages`")
    parser.add_argument(
        "--source",
        choices=["files", "pydoc"],
        default="files",
        help="pydoc: Python's own documentation instead of files",
    )
    tokenizer = parser.add_mutually_exclusive_group(required=True)
    tokenizer.add_argument("--tokenizer", type=Path, metavar="DIR", help="Hugging Face directory of the base model")
    tokenizer.add_argument(
        "--train-tokenizer", type=Path, metavar="DIR", help="one without a tokenizer: train a small one into it first"
    )
    parser.add_argument("--out", type=Path, required=True, help="data file to write")
    parser.add_argument("--max-length", type=int, default=0, help="leave out samples of more tokens; 0: none (default)")
    parser.add_argument("--validation-out", type=Path, help="a second data file, for a part of the conversations")
    parser.add_argument("--validation-fraction", type=float, default=0.0, help="that part, 0 … 1")
    parser.add_argument("--limit", type=int, help="read so many conversations only")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of --source pydoc")
    args = parser.parse_args()
    if (args.source == "files") != bool(args.files):
        parser.error("give files, or --source pydoc without files")
    if not 0 <= args.validation_fraction < 1 or (args.validation_fraction > 0) != (args.validation_out is not None):
        parser.error("--validation-fraction (above 0, below 1) and --validation-out go together")
    if args.max_length < 0 or args.seed < 0:
        parser.error("--max-length and --seed cannot be negative")
    return args


def main() -> None:
    args = parse_arguments()

    def conversations() -> Iterator[list[Message]]:
        all_of_them = read_conversations(args.files) if args.files else pydoc_conversations.conversations(args.seed)
        return itertools.islice(all_of_them, args.limit)

    try:
        if args.train_tokenizer:
            small_tokenizer.train_into(args.train_tokenizer, (str(m["content"]) for c in conversations() for m in c))
        prepare(args, ChatTokenizer(args.tokenizer or args.train_tokenizer), conversations())
    except (OSError, pyarrow.ArrowException) as error:
        raise SystemExit(f"{Path(sys.argv[0]).name}: {error}") from None


if __name__ == "__main__":
    main()
