#!/usr/bin/env python3
"""Conversations to a data file for mtp-train, with a model's own tokenizer and chat template.

    scripts/prepare_data.py chats.jsonl more.parquet --tokenizer gemma-4-E4B-it --out train.h5
    scripts/prepare_data.py chats/:0.7 OWNER/NAME:0.3 --seed 42 --tokenizer gemma-4-E4B-it --out train.h5
    scripts/prepare_data.py --preset tulu-magicoder --tokenizer gemma-4-E4B-it --out train.h5
    scripts/prepare_data.py --source pydoc --train-tokenizer DIR --max-length 192 --out train.h5

and what goes with decoding (prompt_files.py):

    scripts/prepare_data.py --prompts scripts/prompts.jsonl --tokenizer gemma-4-E4B-it --out prompts.h5
    scripts/prepare_data.py --questions-of validation.h5 --limit 20 --out prompts.h5
    scripts/prepare_data.py --decode decoded.json --tokenizer gemma-4-E4B-it
    scripts/prepare_data.py --continuations decoded.json --prompts prompts.h5 --out data.h5

A source is a .jsonl or .parquet file, a directory of them, or a data set on the Hugging Face Hub. Its records have
`messages`, a list of {"role", "content"}, or `problem` and `solution`. Sources are read one after the other; with
weights each conversation's source is drawn by its weight, and those that have ended are drawn no more.

What the model learns are the assistant's turns, each with its end-of-turn token. Files are read and written as streams,
and tokenised by one process per core; their number does not change the result.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import math
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import pyarrow

import conversation_sources
import prompt_files
import pydoc_conversations
import small_tokenizer
from chat_tokenizer import ChatTokenizer, Message, RefusedConversation, Rendered, Sample
from conversation_sources import PRESETS, Source
from data_file import DataFile, attributes_of

BATCH = 128  # conversations tokenised at once
PROGRESS_SECONDS = 5.0


# ---------------------------------------------------------------- from conversations to samples


@dataclass
class Encoded:
    """Of one batch."""

    training: list[Sample] = field(default_factory=list)
    validation: list[Sample] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Encoder:
    chat: ChatTokenizer
    max_length: int
    validation_fraction: float
    seed: int

    def encode(self, batch: list[list[Message]]) -> Encoded:
        encoded = Encoded()
        rendered = list(self._rendered(batch, encoded.skipped))
        for item, sample in zip(rendered, self.chat.encode(rendered) if rendered else []):
            if reason := self._why_skipped(sample):
                encoded.skipped[reason] += 1
            elif self._is_for_validation(item.text):
                encoded.validation.append(sample)
            else:
                encoded.training.append(sample)
        return encoded

    def _rendered(self, batch: list[list[Message]], skipped: Counter[str]) -> Iterator[Rendered]:
        for messages in batch:
            try:
                if messages:
                    yield self.chat.render(messages)
                else:
                    skipped["empty"] += 1
            except RefusedConversation as error:
                skipped[f"refused by the chat template ({error})"] += 1

    def _why_skipped(self, sample: Sample) -> str | None:
        if len(sample.tokens) < 2:
            return "empty"
        if self.max_length and len(sample.tokens) > self.max_length:
            return f"longer than {self.max_length} tokens"
        if not sample.is_target[1:].any():
            return "without a target"
        return None

    def _is_for_validation(self, text: str) -> bool:
        """From the text itself, so that equal conversations never end up on both sides."""
        digest = hashlib.blake2b(text.encode(), digest_size=8, key=self.seed.to_bytes(8, "little")).digest()
        return int.from_bytes(digest, "little") < self.validation_fraction * 2**64


# ---------------------------------------------------------------- on all cores


_encoder: Encoder  # a worker process's own


def start_worker(encoder: Encoder) -> None:
    global _encoder
    _encoder = encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the cores are taken by the other workers


def encode_in_worker(batch: list[list[Message]]) -> Encoded:
    return _encoder.encode(batch)


def encode_all(encoder: Encoder, conversations: Iterable[list[Message]], processes: int) -> Iterator[Encoded]:
    """In the order of the conversations. Only a few batches per process are on their way at a time: what is read, but
    not yet written, does not grow with the data."""
    # Forked workers have the tokenizer that is loaded already.
    pool = ProcessPoolExecutor(processes, get_context("fork"), start_worker, (encoder,))
    under_way: deque[Future[Encoded]] = deque()
    try:
        for batch in batches(conversations, BATCH):
            under_way.append(pool.submit(encode_in_worker, batch))
            if len(under_way) > 2 * processes:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenProcessPool:
        raise SystemExit("a worker process was killed; is there memory for --processes of them?") from None
    finally:
        pool.shutdown(cancel_futures=True)


def batches(items: Iterable[list[Message]], size: int) -> Iterator[list[list[Message]]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


# ---------------------------------------------------------------- into files


class Progress:
    """A line on stderr every few seconds."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.start = self.last = time.monotonic()

    def show(self, files: list[DataFile], skipped: Counter[str]) -> None:
        now = time.monotonic()
        if now - self.last < self.seconds:
            return
        self.last = now
        samples, tokens = sum(f.samples for f in files), sum(f.tokens for f in files)
        parts = [f"{samples} samples", f"{tokens} tokens", f"{samples / (now - self.start):.0f} samples/s"]
        parts += [f"skipped: {count} {reason}" for reason, count in sorted(skipped.items())]
        print(", ".join(parts), file=sys.stderr, flush=True)


def prepare(args: argparse.Namespace, conversations: Iterable[list[Message]], skipped: Counter[str]) -> None:
    chat = ChatTokenizer(args.tokenizer or args.train_tokenizer)
    encoder = Encoder(chat, args.max_length, args.validation_fraction, args.seed)
    progress = Progress(args.progress_seconds)
    with contextlib.ExitStack() as stack:
        paths = [path for path in (args.out, args.validation_out) if path]
        files = [stack.enter_context(DataFile(path, attributes_of(chat))) for path in paths]
        for encoded in encode_all(encoder, conversations, args.processes):
            for file, samples in zip(files, (encoded.training, encoded.validation)):
                file.add(samples)
            skipped.update(encoded.skipped)
            progress.show(files, skipped)
        for file in files:
            file.finish()
    for reason, count in sorted(skipped.items()):
        print(f"skipped: {count} {reason}")


# ---------------------------------------------------------------- command line


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    tokenizer = parser.add_mutually_exclusive_group(required=True)
    tokenizer.add_argument("--tokenizer", type=Path, metavar="DIR", help="Hugging Face directory of the base model")
    tokenizer.add_argument(
        "--train-tokenizer", type=Path, metavar="DIR", help="one without a tokenizer: train a small one into it first"
    )
    parser.add_argument("--out", type=Path, required=True, help="data file to write")
    parser.add_argument("--max-length", type=int, default=0, help="leave out samples of more tokens; 0: none (default)")
    parser.add_argument("--validation-out", type=Path, help="a second data file, for a part of the conversations")
    parser.add_argument("--validation-fraction", type=float, default=0.0, help="that part, 0 … 1")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=int, default=cores, help=f"that tokenise; default: one per core ({cores})")
    parser.add_argument(
        "--progress-seconds", type=float, default=PROGRESS_SECONDS, help=f"between lines (default {PROGRESS_SECONDS})"
    )
    args = parser.parse_args()
    choose_sources(parser, args)
    if not 0 <= args.validation_fraction < 1 or (args.validation_fraction > 0) != (args.validation_out is not None):
        parser.error("--validation-fraction (above 0, below 1) and --validation-out go together")
    if min(args.max_length, args.max_turns, args.seed) < 0 or args.processes < 1:
        parser.error("--max-length, --max-turns and --seed cannot be negative, --processes cannot be below 1")
    return args


def add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="*",
        type=Source.parse,
        metavar="SOURCE[:WEIGHT]",
        help="file, directory or OWNER/NAME on the Hub; either all have a weight or none. With --preset: other places"
        " (local copies, say) of its sources, in its order and without weights",
    )
    parser.add_argument(
        "--source", choices=["files", "pydoc"], default="files", help="pydoc: Python's own documentation instead"
    )
    parser.add_argument("--preset", choices=PRESETS, help="a published mix: its sources, weights, --max-turns, --seed")
    parser.add_argument(
        "--max-turns",
        type=int,
        help="leave out conversations of more turns; 0: none (default). A turn is one message of the user or of the"
        " assistant: a question and its answer are two, a system prompt is none",
    )
    parser.add_argument("--limit", type=int, help="read so many conversations only")
    parser.add_argument("--seed", type=int, help="of the mix, of the split and of --source pydoc (default 0)")


def choose_sources(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Settles sources, max_turns and seed."""
    preset = PRESETS.get(args.preset)
    if (args.source == "files") != bool(args.sources or preset):
        parser.error("give sources or --preset, or --source pydoc without any")
    weights = [source.weight for source in args.sources]
    given = [weight for weight in weights if weight is not None]
    if preset and args.sources and (given or len(weights) != len(preset.sources)):
        parser.error(f"--preset {args.preset} takes {len(preset.sources)} sources without weights, or none")
    if given and (len(given) != len(weights) or not all(0 < weight < math.inf for weight in given)):
        parser.error("either every source has a weight, above 0, or none has")
    if preset:
        args.sources = preset.at(args.sources) if args.sources else preset.sources
    if args.max_turns is None:
        args.max_turns = preset.max_turns if preset else 0
    if args.seed is None:
        args.seed = preset.seed if preset else 0


def main() -> None:
    if prompt_files.are_asked_for(sys.argv[1:]):
        return prompt_files.main()
    args = parse_arguments()

    def conversations(skipped: Counter[str]) -> Iterator[list[Message]]:
        if args.source == "pydoc":
            found: Iterator[list[Message]] = pydoc_conversations.conversations(args.seed)
        else:
            found = conversation_sources.conversations(args.sources, args.max_turns, args.seed, skipped)
        return itertools.islice(found, args.limit)

    try:
        if args.train_tokenizer:
            texts = (str(m["content"]) for messages in conversations(Counter()) for m in messages)
            small_tokenizer.train_into(args.train_tokenizer, texts)
        skipped: Counter[str] = Counter()
        prepare(args, conversations(skipped), skipped)
    except (OSError, pyarrow.ArrowException) as error:
        raise SystemExit(f"{Path(sys.argv[0]).name}: {error}") from None


if __name__ == "__main__":
    main()
