"""What goes into mtp-bench-decode and what comes out of it: prompts as tokens, decoded tokens as text, and both as a
data file. A part of prepare_data.py's command line:

    scripts/prepare_data.py --prompts scripts/prompts.jsonl --tokenizer DIR --out prompts.h5
    scripts/prepare_data.py --questions-of validation.h5 --limit 20 --out prompts.h5
    scripts/prepare_data.py --decode decoded.json --tokenizer DIR
    scripts/prepare_data.py --continuations decoded.json --prompts prompts.h5 --out data.h5

The first file has one JSON object a line, with the user's question under `prompt`, what it is about, if it is about
images or sound, under `image`, `images`, `audio` or `audios`, and what it is ("code", "prose") under `kind`, for results
by kind. `--questions-of` takes the samples of a data file up to their first target instead. The last one makes samples of
the prompts and what the base made of
them, with the base's own tokens as targets: to validate on what is decoded.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from mtp_tools.data import media_sources
from mtp_tools.data.chat_tokenizer import ChatTokenizer, Sample
from mtp_tools.data.conversation import Conversation, Kind, Medium, Refused
from mtp_tools.data.data_file import LAYOUTS, Layout, attributes_of, data_files
from mtp_tools.files import read_text

OPTIONS = ("--prompts", "--questions-of", "--decode", "--continuations")
OTHER = "other"
COLUMN = 58  # characters of a text beside the other


def are_asked_for(arguments: list[str]) -> bool:
    return any(argument.split("=")[0] in OPTIONS for argument in arguments)


# ---------------------------------------------------------------- prompts → tokens


def read_prompts(path: Path) -> Iterator[tuple[Conversation, str]]:
    """Prompts, and what each is; "other" where the file does not say."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
            prompt, kind, beside = record["prompt"], record.get("kind", OTHER), media_sources.beside(record)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SystemExit(f"{where}: no JSON object with a prompt") from None
        if not isinstance(prompt, str) or not prompt.strip():
            raise SystemExit(f"{where}: the prompt is no text")
        if not isinstance(kind, str) or not kind.isprintable() or not kind:
            raise SystemExit(f"{where}: the kind is no word")
        question = [{"role": "user", "content": media_sources.question(prompt, beside)}]
        try:
            messages, media = media_sources.taken_out(question, beside, path.parent)
        except Refused as refused:
            raise SystemExit(f"{where}: a prompt is refused: {refused}") from None
        yield Conversation(messages, where=where, media=media), kind


def write_prompts(source: Path, tokenizer: Path, out: Path) -> None:
    chat = ChatTokenizer(tokenizer)
    prompts = list(read_prompts(source))
    if not prompts:
        raise SystemExit(f"{source}: holds no prompt")
    kinds = [kind for _, kind in prompts]
    samples = (encoded(prompt, chat) for prompt, _ in prompts)
    write(out, attributes_of(chat), samples, has_targets=False, kinds=kinds if set(kinds) != {OTHER} else None)


def encoded(prompt: Conversation, chat: ChatTokenizer) -> Sample:
    try:
        return chat.with_media(chat.encode_prompt(prompt), chat.read_media(prompt, Counter()))
    except Refused as refused:
        raise SystemExit(f"{prompt.where}: a prompt is refused: {refused}") from None


def write(
    out: Path,
    attributes: dict[str, object],
    samples: Iterable[Sample],
    has_targets: bool,
    kinds: list[str] | None = None,
) -> None:
    with data_files([out], attributes, has_targets) as (file,):
        for sample in samples:
            file.add([sample])
        if not file.samples:
            raise SystemExit(f"{out}: no sample is left to write")
        if kinds:
            file.add_kinds(kinds)
    print(file)


@contextmanager
def opened_data(path: Path, kind: str, *names: str) -> Iterator[h5py.File]:
    """A data file, or one of prompts, with these datasets."""
    try:
        opened = h5py.File(path)
    except OSError as error:
        if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError)):
            raise SystemExit(f"{path}: cannot be read: {os.strerror(error.errno)}") from None
        raise SystemExit(f"{path}: is no {kind}") from None
    with opened as file:
        if not {"offsets", *names} <= set(file) or file.attrs.get("format") != "mtp-data":
            raise SystemExit(f"{path}: is no {kind}")
        yield file


def media_of(file: h5py.File, i: int, tokens: np.ndarray) -> dict[Kind, list[Medium]]:
    """Of the sample's media those that these first tokens of it show."""
    present = {kind: layout for kind, layout in LAYOUTS.items() if layout.of_samples in file}
    return {kind: list(shown_by(tokens, file, layout, i)) for kind, layout in present.items()}


def shown_by(tokens: np.ndarray, file: h5py.File, layout: Layout, i: int) -> Iterator[Medium]:
    missing = int((tokens == file.attrs[layout.token_id]).sum())
    for medium in range(*file[layout.of_samples][i : i + 2]):
        begin, end = file[layout.offsets][medium : medium + 2]
        missing -= -(-int(end - begin) // int(file.attrs[layout.rows_per_token]))
        if missing < 0:
            break
        size = tuple(map(int, file[layout.sizes][medium])) if layout.sizes else None
        yield Medium(file[layout.rows][begin:end], size)


def write_questions(data: Path, limit: int | None, out: Path) -> None:
    with opened_data(data, "data file", "tokens", "loss_mask") as file:
        write(out, dict(file.attrs), itertools.islice(questions_of(file), limit), has_targets=False)


def questions_of(file: h5py.File) -> Iterator[Sample]:
    """Each sample up to its first target; none of a sample that has none, or begins with one."""
    for i, (begin, end) in enumerate(itertools.pairwise(file["offsets"][:])):
        is_target = file["loss_mask"][begin:end]
        first = int(is_target.argmax())
        if first:
            tokens = file["tokens"][begin : begin + first]
            yield Sample(tokens, is_target[:first], media_of(file, i, tokens))


# ---------------------------------------------------------------- tokens → text


def read_decoded(path: Path) -> dict[str, list[dict]]:
    """The records of each way of decoding, "plain" and "drafted", in the order of the prompts."""
    text = read_text(path)
    try:
        decoded = json.loads(text)
        ways = {way: decoded[way]["prompts"] for way in ("plain", "drafted") if way in decoded}
        ids = [record["output_ids"] for records in ways.values() for record in records]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise SystemExit(f"{path}: is not what mtp-bench-decode --json writes") from None
    if not ids:
        raise SystemExit(f"{path}: has no decoded prompt")
    return ways


def side_by_side(texts: dict[str, str]) -> str:
    columns = []
    for way, text in texts.items():
        lines = [textwrap.wrap(line, COLUMN) or [""] for line in text.splitlines()]
        columns.append([way, "", *itertools.chain(*lines)])
    rows = itertools.zip_longest(*columns, fillvalue="")
    return "\n".join("    ".join(cell.ljust(COLUMN) for cell in row).rstrip() for row in rows)


def show_decoded(path: Path, tokenizer: Path) -> None:
    chat = ChatTokenizer(tokenizer)
    ways = read_decoded(path)
    for records in zip(*ways.values(), strict=True):
        print(f"== prompt {records[0]['index']}, {records[0]['prompt_tokens']} tokens\n")
        texts = {}
        for way, record in zip(ways, records):
            title = f"{way}: {record['new_tokens']} tokens, {record['target_forwards']} target forwards"
            texts[title] = chat.decode(record["output_ids"])
        print(side_by_side(texts), "\n")


# ---------------------------------------------------------------- prompts and continuations → data file


def write_continuations(decoded: Path, prompts: Path, out: Path) -> None:
    records = next(iter(read_decoded(decoded).values()))
    with opened_data(prompts, "file of prompts", "tokens") as file:
        write(out, dict(file.attrs), (continuation(file, record, decoded) for record in records), has_targets=True)


def continuation(file: h5py.File, record: dict, decoded: Path) -> Sample:
    index, ids, offsets = record["index"], np.array(record["output_ids"], np.int32), file["offsets"]
    if index + 1 >= len(offsets) or offsets[index + 1] - offsets[index] != record["prompt_tokens"]:
        raise SystemExit(f"{decoded}: prompt {index} is not the one in {file.filename}")
    prompt = file["tokens"][offsets[index] : offsets[index + 1]]
    is_target = np.concatenate([np.zeros(len(prompt), np.uint8), np.ones(len(ids), np.uint8)])
    return Sample(np.concatenate([prompt, ids]), is_target, media_of(file, index, prompt))


# ---------------------------------------------------------------- command line


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="prompts to tokenise; with --continuations the file made of them"
    )
    parser.add_argument("--questions-of", type=Path, metavar="DATA", help="a data file, to make prompts of")
    parser.add_argument("--limit", type=int, help="take so many prompts only")
    parser.add_argument("--decode", type=Path, metavar="JSON", help="what mtp-bench-decode --json wrote, to show")
    parser.add_argument("--continuations", type=Path, metavar="JSON", help="the same, to make samples of")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="Hugging Face directory of the base model")
    parser.add_argument("--out", type=Path, help="data file to write")
    args = parser.parse_args()
    if args.limit is not None and args.limit < 0:
        parser.error("--limit cannot be negative")
    given = {name for name, value in vars(args).items() if value is not None}
    if given == {"prompts", "tokenizer", "out"}:
        write_prompts(args.prompts, args.tokenizer, args.out)
    elif given - {"limit"} == {"questions_of", "out"}:
        write_questions(args.questions_of, args.limit, args.out)
    elif given == {"decode", "tokenizer"}:
        show_decoded(args.decode, args.tokenizer)
    elif given == {"continuations", "prompts", "out"}:
        write_continuations(args.continuations, args.prompts, args.out)
    else:
        parser.error("these options do not go together; --help shows the four ways")
