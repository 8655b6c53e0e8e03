"""Conversations from files, directories of files and data sets on the Hub; one after the other, or mixed by chance."""

from __future__ import annotations

import itertools
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import huggingface_hub  # comes with transformers

from mtp_tools.data import data_set_layout
from mtp_tools.data import record_files
from mtp_tools.data.conversation import Conversation, LeftOut, Refused
from mtp_tools.data.record_files import COMPRESSIONS, KNOWN, READERS
from mtp_tools.data.records import ColumnMap, conversation_of, needed_columns

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PLACE = re.compile(r"(?P<place>.+?)(?::(?P<config>[\w.-]+))?(?:@(?P<split>[\w.-]+))?")
Stream = Iterator[Conversation | LeftOut]


@dataclass(frozen=True)
class Source:
    """`place` is a file, a directory of them or a Hub id; `weight` its share of a mix, if any. `config` and `split`
    choose among the files of a data set; without a split it is its training split."""

    place: str
    weight: float | None = None
    config: str | None = None
    split: str | None = None

    @staticmethod
    def parse(text: str) -> Source:
        place, colon, weight = text.rpartition(":")
        try:
            return Source.named(place, float(weight)) if colon else Source.named(text)
        except ValueError:  # the colon is a part of the name, or of a configuration's
            return Source.named(text)

    @staticmethod
    def named(text: str, weight: float | None = None) -> Source:
        if Path(text).exists():
            return Source(text, weight)
        parts = PLACE.fullmatch(text)
        if parts is None or not (Path(parts["place"]).is_dir() or HUB_ID.fullmatch(parts["place"])):
            return Source(text, weight)
        return Source(parts["place"], weight, parts["config"], parts["split"])


@dataclass(frozen=True)
class Preset:
    sources: tuple[Source, ...]
    seed: int
    max_turns: int = 0
    limit: int | None = None

    def at(self, places: list[Source]) -> tuple[Source, ...]:
        """The same mix of other places, such as local copies."""
        return tuple(
            replace(other, weight=source.weight, split=other.split or source.split)
            for source, other in zip(self.sources, places, strict=True)
        )


PRESETS = {
    "tulu-magicoder": Preset(
        sources=(
            Source("allenai/tulu-3-sft-mixture", 0.8),
            Source("ise-uiuc/Magicoder-OSS-Instruct-75K", 0.2),
        ),
        max_turns=16,
        seed=42,
    ),
    "medpix": Preset(sources=(Source("mmoukouba/MedPix-VQA", split="train"),), limit=1000, seed=42),
    "medpix-validation": Preset(sources=(Source("mmoukouba/MedPix-VQA", split="validation"),), limit=500, seed=42),
}


# ---------------------------------------------------------------- several sources


def conversations(
    sources: tuple[Source, ...], max_turns: int, seed: int, column_map: ColumnMap | None = None
) -> Stream:
    """Mixed where the sources have weights, else one after the other; and what is left out of them."""
    streams = [short_enough(read(source, column_map), max_turns) for source in sources]
    weights = [source.weight for source in sources if source.weight is not None]
    return mixed(streams, weights, seed) if weights else itertools.chain.from_iterable(streams)


def mixed(streams: list[Stream], weights: list[float], seed: int) -> Stream:
    """Draws the stream of each conversation by weight; one that has ended is drawn no more, until all have."""
    rng = random.Random(seed)
    live = list(zip(streams, weights))
    while live:
        drawn = rng.choices(live, [weight for _, weight in live])[0]
        for item in drawn[0]:
            yield item
            if isinstance(item, Conversation):
                break
        else:
            live.remove(drawn)


def short_enough(stream: Stream, max_turns: int) -> Stream:
    """Before the mix, so that its shares are those of what is kept."""
    for item in stream:
        if isinstance(item, LeftOut) or not max_turns:
            yield item
        elif sum(m["role"] in ("user", "assistant") for m in item.messages) > max_turns:
            yield LeftOut(item.where, f"of more than {max_turns} turns")
        else:
            yield item


def limited(stream: Stream, limit: int | None) -> Stream:
    """Up to so many conversations."""
    left = limit
    for item in stream:
        if left == 0:
            return
        if left is not None and isinstance(item, Conversation):
            left -= 1
        yield item


# ---------------------------------------------------------------- one source


def read(source: Source, column_map: ColumnMap | None = None) -> Stream:
    for path in files_of(source):
        for item in record_files.read(path, lambda names: needed_columns(names, column_map)):
            if isinstance(item, LeftOut):
                yield item
                continue
            where, record = item
            try:
                yield conversation_of(where, record, column_map, path.parent)
            except Refused as refused:
                yield LeftOut.of(where, refused)


def files_of(source: Source) -> list[Path]:
    path = Path(source.place)
    if not path.exists() and record_files.format_of(path) is None and HUB_ID.fullmatch(source.place):
        path = download(source.place)
    if path.is_dir():
        chosen, aside = data_set_layout.files_of(path, source.place, source.config, source.split)
        if aside:
            print(f"{source.place}: left aside: {', '.join(aside)} (SOURCE@SPLIT chooses another)", file=sys.stderr)
        return chosen
    if record_files.format_of(path) is None:
        raise SystemExit(f"{source.place}: not a file of {KNOWN}, a directory or an OWNER/NAME on the Hub")
    return [path]


def download(hub_id: str) -> Path:
    """Into the Hub's cache on disk, once."""
    patterns = ["README.md", *(f"*{s}" for s in READERS), *(f"*{s}{c}" for s in READERS for c in COMPRESSIONS)]
    try:
        return Path(huggingface_hub.snapshot_download(hub_id, repo_type="dataset", allow_patterns=patterns))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise SystemExit(f"{hub_id}: cannot be downloaded from the Hub: {reason}") from None
