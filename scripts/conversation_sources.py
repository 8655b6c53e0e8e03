"""Conversations from files, directories of files and data sets on the Hub; one after the other, or mixed by chance."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import huggingface_hub  # comes with transformers
import pyarrow.parquet

from chat_tokenizer import Message

Record = dict[str, object]

ROWS = 128  # of a Parquet file in memory at once
BUFFER = 1 << 16  # bytes read at once of each of its columns
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# What a record may hold: a conversation, or a question and its answer.
COLUMNS = (("messages",), ("problem", "solution"))


@dataclass(frozen=True)
class Source:
    """`place` is a .jsonl or .parquet file, a directory of them or a Hub id; `weight` its share of a mix, if any."""

    place: str
    weight: float | None = None

    @staticmethod
    def parse(text: str) -> Source:
        place, colon, weight = text.rpartition(":")
        try:
            return Source(place, float(weight)) if colon else Source(text)
        except ValueError:  # the colon is a part of the name
            return Source(text)


@dataclass(frozen=True)
class Preset:
    sources: tuple[Source, ...]
    max_turns: int
    seed: int

    def at(self, places: list[Source]) -> tuple[Source, ...]:
        """The same mix of other places, such as local copies."""
        return tuple(replace(source, place=other.place) for source, other in zip(self.sources, places, strict=True))


PRESETS = {
    "tulu-magicoder": Preset(
        sources=(
            Source("allenai/tulu-3-sft-mixture", 0.8),
            Source("ise-uiuc/Magicoder-OSS-Instruct-75K", 0.2),
        ),
        max_turns=16,
        seed=42,
    )
}


# ---------------------------------------------------------------- several sources


def conversations(
    sources: tuple[Source, ...], max_turns: int, seed: int, skipped: Counter[str]
) -> Iterator[list[Message]]:
    """Mixed where the sources have weights, else one after the other. What is left out is counted in `skipped`."""
    streams = [short_enough(read(source.place), max_turns, skipped) for source in sources]
    weights = [source.weight for source in sources if source.weight is not None]
    return mixed(streams, weights, seed) if weights else itertools.chain.from_iterable(streams)


def mixed(streams: list[Iterator[list[Message]]], weights: list[float], seed: int) -> Iterator[list[Message]]:
    """Draws the stream of each conversation by weight; one that has ended is drawn no more, until all have."""
    rng = random.Random(seed)
    live = list(zip(streams, weights))
    while live:
        drawn = rng.choices(live, [weight for _, weight in live])[0]
        try:
            yield next(drawn[0])
        except StopIteration:
            live.remove(drawn)


def short_enough(stream: Iterator[list[Message]], max_turns: int, skipped: Counter[str]) -> Iterator[list[Message]]:
    """Before the mix, so that its shares are those of what is kept."""
    for messages in stream:
        if max_turns and sum(m["role"] in ("user", "assistant") for m in messages) > max_turns:
            skipped[f"of more than {max_turns} turns"] += 1
        else:
            yield messages


# ---------------------------------------------------------------- one source


def read(place: str) -> Iterator[list[Message]]:
    for path in files_of(place):
        for where, record in READERS[path.suffix](path):
            yield conversation_of(where, record)


def files_of(place: str) -> list[Path]:
    path = Path(place)
    if not path.exists() and path.suffix not in READERS and HUB_ID.fullmatch(place):
        path = download(place)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in READERS)
        if not files:
            raise SystemExit(f"{place}: has no .jsonl or .parquet file")
        return files
    if path.suffix not in READERS:
        raise SystemExit(f"{place}: not a .jsonl or .parquet file, a directory or an OWNER/NAME on the Hub")
    return [path]


def download(hub_id: str) -> Path:
    """Into the Hub's cache on disk, once."""
    patterns = [f"*{suffix}" for suffix in READERS]
    try:
        return Path(huggingface_hub.snapshot_download(hub_id, repo_type="dataset", allow_patterns=patterns))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise SystemExit(f"{hub_id}: cannot be downloaded from the Hub: {reason}") from None


def read_jsonl(path: Path) -> Iterator[tuple[str, Record]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise SystemExit(f"{path}:{number}: not JSON: {error}") from None
                yield f"{path}:{number}", record if isinstance(record, dict) else {}


def read_parquet(path: Path) -> Iterator[tuple[str, Record]]:
    # Column chunks are streamed too: by default whole row groups are read ahead.
    file = pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
    names = set(file.schema_arrow.names)
    columns = next((list(c) for c in COLUMNS if names.issuperset(c)), None)
    if columns is None:
        raise SystemExit(f"{path}: no column messages, or problem and solution, only {', '.join(sorted(names))}")
    rows = itertools.count()
    for batch in file.iter_batches(batch_size=ROWS, columns=columns, use_threads=False):
        yield from ((f"{path}: row {next(rows)}", record) for record in batch.to_pylist())


READERS: dict[str, Callable[[Path], Iterator[tuple[str, Record]]]] = {".jsonl": read_jsonl, ".parquet": read_parquet}


def conversation_of(where: str, record: Record) -> list[Message]:
    if "messages" not in record and "problem" in record and "solution" in record:
        texts = {"user": record["problem"], "assistant": record["solution"]}
        if not all(isinstance(text, str) for text in texts.values()):
            raise SystemExit(f"{where}: `problem` and `solution` are not both text")
        return [{"role": role, "content": text} for role, text in texts.items()]
    messages = record.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, dict) and "role" in m for m in messages):
        raise SystemExit(f'{where}: `messages` is not a list of {{"role", "content"}}')
    return [without_nulls(m) for m in messages]


def without_nulls(value: object) -> object:
    """Parquet gives every message each field that any of them has; chat templates ask whether a field is there."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value
