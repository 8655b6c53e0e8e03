"""What goes into mtp-bench-decode and what comes out of it: prompts as tokens, decoded tokens as text, and both as a
data file. A part of prepare_data.py's command line:

    scripts/prepare_data.py --prompts scripts/prompts.jsonl --tokenizer DIR --out prompts.h5
    scripts/prepare_data.py --decode decoded.json --tokenizer DIR
    scripts/prepare_data.py --continuations decoded.json --prompts prompts.h5 --out data.h5

The first file has one JSON object a line, with the user's question under `prompt`. The last one makes samples of the
prompts and what the base made of them, with the base's own tokens as targets: to validate on what is decoded.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import h5py
import jinja2
import numpy as np

from chat_tokenizer import ChatTokenizer, Sample
from data_file import DataFile, attributes_of

OPTIONS = ("--prompts", "--decode", "--continuations")
COLUMN = 58  # characters of a text beside the other


def are_asked_for(arguments: list[str]) -> bool:
    return any(argument.split("=")[0] in OPTIONS for argument in arguments)


# ---------------------------------------------------------------- prompts → tokens


def read_prompts(path: Path) -> Iterator[str]:
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            prompt = json.loads(line)["prompt"]
        except (ValueError, KeyError, TypeError):
            raise SystemExit(f"{path}:{number}: no JSON object with a prompt") from None
        if not isinstance(prompt, str) or not prompt.strip():
            raise SystemExit(f"{path}:{number}: the prompt is no text")
        yield prompt


def write_prompts(source: Path, tokenizer: Path, out: Path) -> None:
    chat = ChatTokenizer(tokenizer)
    try:
        samples = [chat.encode_prompt(prompt) for prompt in read_prompts(source)]
    except jinja2.TemplateError as error:
        raise SystemExit(f"{tokenizer}: the chat template refuses a prompt: {error}") from None
    with DataFile(out, attributes_of(chat), has_targets=False) as file:
        file.add(samples)
        file.finish()


# ---------------------------------------------------------------- tokens → text


def read_decoded(path: Path) -> dict[str, list[dict]]:
    """The records of each way of decoding, "plain" and "drafted", in the order of the prompts."""
    try:
        decoded = json.loads(path.read_text())
        ways = {way: decoded[way]["prompts"] for way in ("plain", "drafted") if way in decoded}
        ids = [record["output_ids"] for records in ways.values() for record in records]
    except (ValueError, KeyError, TypeError):
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
    with h5py.File(prompts) as file:
        if "offsets" not in file or file.attrs.get("format") != "mtp-data":
            raise SystemExit(f"{prompts}: is no file of prompts")
        attributes, offsets, tokens = dict(file.attrs), file["offsets"][:], file["tokens"][:]
    samples = []
    for record in records:
        index, ids = record["index"], np.array(record["output_ids"], np.int32)
        if index + 1 >= len(offsets) or offsets[index + 1] - offsets[index] != record["prompt_tokens"]:
            raise SystemExit(f"{decoded}: prompt {index} is not the one in {prompts}")
        prompt = tokens[offsets[index] : offsets[index + 1]]
        is_target = np.concatenate([np.zeros(len(prompt), np.uint8), np.ones(len(ids), np.uint8)])
        samples.append(Sample(np.concatenate([prompt, ids]), is_target))
    with DataFile(out, attributes) as file:
        file.add(samples)
        file.finish()


# ---------------------------------------------------------------- command line


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="prompts to tokenise; with --continuations the file made of them"
    )
    parser.add_argument("--decode", type=Path, metavar="JSON", help="what mtp-bench-decode --json wrote, to show")
    parser.add_argument("--continuations", type=Path, metavar="JSON", help="the same, to make samples of")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="Hugging Face directory of the base model")
    parser.add_argument("--out", type=Path, help="data file to write")
    args = parser.parse_args()
    given = {name for name, value in vars(args).items() if value}
    try:
        if given == {"prompts", "tokenizer", "out"}:
            write_prompts(args.prompts, args.tokenizer, args.out)
        elif given == {"decode", "tokenizer"}:
            show_decoded(args.decode, args.tokenizer)
        elif given == {"continuations", "prompts", "out"}:
            write_continuations(args.continuations, args.prompts, args.out)
        else:
            parser.error("these options do not go together; --help shows the three ways")
    except OSError as error:
        raise SystemExit(f"{Path(sys.argv[0]).name}: {error}") from None
