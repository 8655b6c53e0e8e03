#!/usr/bin/env python3
"""Conversations to a data file for mtp-train, with a model's own tokenizer and chat template.

    scripts/prepare_data.py chats.jsonl more.parquet --tokenizer gemma-4-E4B-it --out train.h5
    scripts/prepare_data.py chats/:0.7 OWNER/NAME:0.3 --seed 42 --tokenizer gemma-4-E4B-it --out train.h5
    scripts/prepare_data.py --preset tulu-magicoder --tokenizer gemma-4-E4B-it --out train.h5
    scripts/prepare_data.py --preset medpix --tokenizer gemma-4-E4B-it --out train.h5
    scripts/prepare_data.py --source pydoc --train-tokenizer DIR --max-length 192 --out train.h5

and what goes with decoding (prompt_files.py):

    scripts/prepare_data.py --prompts scripts/prompts.jsonl --tokenizer gemma-4-E4B-it --out prompts.h5
    scripts/prepare_data.py --questions-of validation.h5 --limit 20 --out prompts.h5
    scripts/prepare_data.py --decode decoded.json --tokenizer gemma-4-E4B-it
    scripts/prepare_data.py --continuations decoded.json --prompts prompts.h5 --out data.h5

A source is a file (JSON lines or arrays, CSV, Parquet, Arrow; compressed too), a directory of them, or a data set on the
Hugging Face Hub, OWNER/NAME[:CONFIG][@SPLIT]; docs/data.md lists what its records may hold. Sources are read one after
the other; with weights each conversation's source is drawn by its weight, and those that have ended are drawn no more.

What the model learns are the assistant's turns, each with its end-of-turn token, behind what a server would give the
model. Files are read and written as streams, and tokenised by one process per core; their number does not change the
result. What cannot be used is left out, counted, and the first ten are named.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mtp_tools.data import conversation_sources
from mtp_tools.data import prompt_files
from mtp_tools.data import pydoc_conversations
from mtp_tools.data import small_tokenizer
from mtp_tools.data.chat_template import Rendered, texts_of
from mtp_tools.data.chat_tokenizer import ChatTokenizer, Sample
from mtp_tools.data.conversation import Conversation, Kind, LeftOut, Medium, Refused
from mtp_tools.data.conversation_sources import PRESETS, Source, Stream
from mtp_tools.data.data_file import CannotWrite, DataFile, attributes_of, data_files, end_at_once
from mtp_tools.data.records import ColumnMap
from mtp_tools.data.workers import Stopped, end_by, in_order, stop_on_signals

BATCH = 128  # conversations tokenised at once,
MEDIA = 4  # or images and clips read
PROGRESS_SECONDS = 5.0
NAMED = 10  # of those that are left out


# ---------------------------------------------------------------- from conversations to samples


@dataclass
class Encoded:
    """Of one batch."""

    training: list[Sample] = field(default_factory=list)
    validation: list[Sample] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Item:
    """A text to tokenise, and what becomes of it."""

    text: Rendered
    media: dict[Kind, list[Medium]]
    is_for_validation: bool
    where: str


@dataclass(frozen=True)
class Encoder:
    chat: ChatTokenizer
    max_length: int
    cuts: bool  # what is longer, instead of leaving it out
    validation_fraction: float
    seed: int

    def encode(self, batch: list[Conversation | LeftOut]) -> Encoded:
        encoded = Encoded()
        items = list(self._items(batch, encoded))
        samples = self.chat.encode([item.text for item in items]) if items else []
        for sample, item in zip(samples, items):
            try:
                sample = self._fitted(self.chat.with_media(sample, item.media), encoded.notes)
                (encoded.validation if item.is_for_validation else encoded.training).append(sample)
            except Refused as refused:
                encoded.left_out.append(LeftOut.of(item.where, refused))
        return encoded

    def _items(self, batch: list[Conversation | LeftOut], encoded: Encoded) -> Iterator[Item]:
        for conversation in batch:
            if isinstance(conversation, LeftOut):
                encoded.left_out.append(conversation)
                continue
            try:
                rendering = self.chat.render(conversation)
                for_validation = self._is_for_validation(rendering.whole)
                media = self.chat.read_media(conversation, encoded.notes)
            except Refused as refused:
                encoded.left_out.append(LeftOut.of(conversation.where, refused))
                continue
            encoded.notes.update(rendering.notes)
            for text in rendering.samples:
                shown = {kind: of_kind[: text.media[kind]] for kind, of_kind in media.items()}
                yield Item(text, shown, for_validation, conversation.where)

    def _fitted(self, sample: Sample, notes: Counter[str]) -> Sample:
        """Cut to the greatest length if need be. Raises Refused."""
        if len(sample.tokens) < 2:
            raise Refused("empty")
        if not sample.is_target[1:].any():
            raise Refused("without a target")
        if self.max_length and len(sample.tokens) > self.max_length:
            if not self.cuts:
                raise Refused(f"longer than {self.max_length} tokens")
            sample = self.chat.cut(sample, self.max_length)
            if not sample.is_target[1:].any():
                raise Refused(f"without a target in its first {self.max_length} tokens")
            notes[f"cut to {self.max_length} tokens"] += 1
        return sample

    def _is_for_validation(self, text: str) -> bool:
        """From the text itself, so that equal conversations never end up on both sides."""
        try:
            content = text.encode()
        except UnicodeEncodeError:
            raise Refused("has half a surrogate pair, which is no text") from None
        digest = hashlib.blake2b(content, digest_size=8, key=self.seed.to_bytes(8, "little")).digest()
        return int.from_bytes(digest, "little") < self.validation_fraction * 2**64


# ---------------------------------------------------------------- into files


class Report:
    """What is left out: all of it counted, the first ones named. `strict`: the first one is the end."""

    def __init__(self, strict: bool):
        self.strict = strict
        self.counts: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.first: list[LeftOut] = []

    def add(self, encoded: Encoded) -> None:
        for left_out in encoded.left_out:
            if self.strict:
                raise SystemExit(f"{left_out} (--strict)")
            self.counts[left_out.reason] += 1
            if len(self.first) < NAMED:
                self.first.append(left_out)
        self.notes.update(encoded.notes)

    def skipped(self) -> list[str]:
        return [f"skipped: {count} {reason}" for reason, count in sorted(self.counts.items())]

    def show(self) -> None:
        for line in self.skipped() + [f"note: {count} {what}" for what, count in sorted(self.notes.items())]:
            print(line)

    def name_first(self) -> None:
        for left_out in self.first:
            print(left_out, file=sys.stderr)
        if (more := self.counts.total() - len(self.first)) > 0:
            print(f"and {more} more", file=sys.stderr)


class Progress:
    """A line on stderr every few seconds."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.start = self.last = time.monotonic()

    def show(self, files: list[DataFile], report: Report) -> None:
        now = time.monotonic()
        if now - self.last < self.seconds:
            return
        self.last = now
        samples, tokens = sum(f.samples for f in files), sum(f.tokens for f in files)
        parts = [f"{samples} samples", f"{tokens} tokens", f"{samples / (now - self.start):.0f} samples/s"]
        print(", ".join(parts + report.skipped()), file=sys.stderr, flush=True)


def prepare(args: argparse.Namespace, conversations: Stream) -> None:
    chat = ChatTokenizer(args.tokenizer or args.train_tokenizer, args.template_arguments)
    encoder = Encoder(chat, args.max_length, args.overlong == "cut", args.validation_fraction, args.seed)
    progress, report = Progress(args.progress_seconds), Report(args.strict)
    paths = [path for path in (args.out, args.validation_out) if path]
    with data_files(paths, attributes_of(chat)) as files:
        for encoded in in_order(encoder.encode, conversations, weight, args.processes):
            for file, samples in zip(files, (encoded.training, encoded.validation)):
                file.add(samples)
            report.add(encoded)
            progress.show(files, report)
        for file in files:
            if file.samples == 0:
                report.show()
                raise SystemExit(nothing_left(args, file, report))
    report.name_first()
    for file in files:
        print(file)
    report.show()


def weight(item: Conversation | LeftOut) -> float:
    """Of a batch."""
    media = sum(map(len, item.media.values())) if isinstance(item, Conversation) else 0
    return 1 / BATCH + media / MEDIA


def nothing_left(args: argparse.Namespace, file: DataFile, report: Report) -> str:
    left_out = report.counts.total()
    if left_out:
        why = f"{left_out} are left out, the first: {report.first[0]}"
    elif args.validation_fraction:
        why = "so few conversations cannot be parted by --validation-fraction"
    else:
        why = f"nothing is in {', '.join(source.place for source in args.sources)}"
    return f"{file.path}: no sample is left to write; {why}"


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
    parser.add_argument("--max-length", type=int, default=0, help="tokens of the longest sample; 0: any (default)")
    parser.add_argument(
        "--overlong", choices=["drop", "cut"], default="drop", help="what is done with longer ones (default: drop)"
    )
    parser.add_argument("--strict", action="store_true", help="end at the first record that would be left out")
    parser.add_argument(
        "--enable-thinking", action="store_true", help="render the chat template with enable_thinking=true"
    )
    parser.add_argument(
        "--template-argument",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable for the chat template, as JSON or text; a record's own `chat_template_kwargs` win",
    )
    parser.add_argument("--validation-out", type=Path, help="a second data file, for a part of the conversations")
    parser.add_argument("--validation-fraction", type=float, default=0.0, help="that part, 0 … 1")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=int, default=cores, help=f"that tokenise; default: one per core ({cores})")
    parser.add_argument(
        "--progress-seconds", type=float, default=PROGRESS_SECONDS, help=f"between lines (default {PROGRESS_SECONDS})"
    )
    args = parser.parse_args()
    args.template_arguments = template_arguments(parser, args)
    choose_sources(parser, args)
    if not 0 <= args.validation_fraction < 1 or (args.validation_fraction > 0) != (args.validation_out is not None):
        parser.error("--validation-fraction (above 0, below 1) and --validation-out go together")
    if min(args.max_length, args.max_turns, args.seed) < 0 or args.processes < 1:
        parser.error("--max-length, --max-turns and --seed cannot be negative, --processes cannot be below 1")
    if args.limit is not None and args.limit < 0:
        parser.error("--limit cannot be negative")
    return args


def template_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, object]:
    arguments: dict[str, object] = {"enable_thinking": True} if args.enable_thinking else {}
    for given in args.template_argument:
        name, equals, value = given.partition("=")
        if not equals or not name.isidentifier():
            parser.error(f"--template-argument {given}: NAME=VALUE is needed")
        try:
            arguments[name] = json.loads(value)
        except json.JSONDecodeError:
            arguments[name] = value
    return arguments


def column_map(text: str) -> ColumnMap:
    try:
        return ColumnMap.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="*",
        type=Source.parse,
        metavar="SOURCE[:WEIGHT]",
        help="file, directory[@SPLIT] or OWNER/NAME[:CONFIG][@SPLIT] on the Hub; either all have a weight or none. With"
        " --preset: other places (local copies, say) of its sources, in its order and without weights",
    )
    parser.add_argument(
        "--map",
        type=column_map,
        metavar="COLUMN=ROLE,…",
        help="which columns hold a conversation, such as question=user,answer=assistant; roles: messages, system, user,"
        " assistant, tools, image, audio",
    )
    parser.add_argument(
        "--source", choices=["files", "pydoc"], default="files", help="pydoc: Python's own documentation instead"
    )
    parser.add_argument(
        "--preset", choices=PRESETS, help="a published set: its sources, weights, --max-turns, --limit, --seed"
    )
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
    if args.limit is None and preset:
        args.limit = preset.limit
    if args.seed is None:
        args.seed = preset.seed if preset else 0


def run() -> None:
    if prompt_files.are_asked_for(sys.argv[1:]):
        return prompt_files.main()
    args = parse_arguments()

    def conversations() -> Stream:
        if args.source == "pydoc":
            chats = enumerate(pydoc_conversations.conversations(args.seed), start=1)
            found: Stream = (Conversation(messages, where=f"pydoc:{number}") for number, messages in chats)
        else:
            found = conversation_sources.conversations(args.sources, args.max_turns, args.seed, args.map)
        return conversation_sources.limited(found, args.limit)

    if args.train_tokenizer:
        read = (item for item in conversations() if isinstance(item, Conversation))
        texts = (text for c in read for m in c.messages for text in texts_of(m["content"]))
        small_tokenizer.train_into(args.train_tokenizer, texts)
    prepare(args, conversations())


def main() -> None:
    stop_on_signals()
    try:
        run()
        sys.stdout.flush()
    except Stopped as stopped:
        end_by(stopped)
    except CannotWrite as error:
        end_at_once(error)
    except BrokenPipeError:  # nobody reads what is said; the files are there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except MemoryError:
        raise SystemExit("not enough memory; lower --processes") from None
    except OSError as error:
        raise SystemExit(f"{error.filename or Path(sys.argv[0]).name}: {error.strerror or error}") from None


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: records and names of files may hold anything
    main()
