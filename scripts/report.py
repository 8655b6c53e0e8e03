#!/usr/bin/env python3
"""Makes one page of a run, which needs no other file: curves, validation, accepted length, throughput, memory, settings,
and texts decoded with and without the drafter, with the accepted tokens in colour.

    scripts/report.py RUN [--decoded decoded.json --tokenizer DIR] [--out report.html]
"""

from __future__ import annotations

import argparse
import configparser
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import h5py
from matplotlib.axes import Axes
from mtp_tools.bench.page import Passage, Section, Table, bytes_text, html, scaled
from mtp_tools.bench.plots import BLUE, Plot
from mtp_tools.data.chat_tokenizer import ChatTokenizer
from mtp_tools.data.prompt_files import read_decoded
from plot_run import Records, plot_accepted_length, plot_agreement, plot_line, plot_losses, read

PROMPTS_SHOWN = 5


def last_state(run: Path) -> dict[str, object]:
    """What the newest checkpoint says of the program and the machine; nothing where there is none."""
    state = run / "checkpoints" / "latest" / "state.h5"
    if not state.exists():
        return {}
    with h5py.File(state) as file:
        return dict(file.attrs)


def text_of(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def duration(seconds: float) -> str:
    return scaled(seconds, [(86400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s")])


def numbers(values: float | list[float]) -> str:
    return " ".join(f"{value:.4g}" for value in (values if isinstance(values, list) else [values]))


def summary(run: Path, records: Records, validation: Records) -> Section:
    last, state = records[-1], last_state(run)
    rows = [
        ["steps", f"{last['step']}, into epoch {last['epoch']}"],
        ["tokens", f"{sum(r['tokens'] for r in records):,}, of them {sum(r['label_tokens'] for r in records):,} labels"],
        ["time in steps", duration(sum(r["step_time"] for r in records))],
        ["ranks", str(last["ranks"])],
        ["loss of the base", f"{records[0]['loss_base']:.4f} → {last['loss_base']:.4f}"],
        ["losses of the rounds", f"{numbers(records[0]['loss_drafter'])} → {numbers(last['loss_drafter'])}"],
    ]
    if validation:
        first, newest = validation[0], validation[-1]
        for key, name in (("accepted_length", "accepted length"), ("tokens_per_step", "tokens a step of decoding")):
            rows.append([name, f"{first[key]:.3f} → {newest[key]:.3f} (validation of step {newest['step']})"])
    rows += [["device", text_of(state["device"]).splitlines()[0]]] if "device" in state else []
    if "revision" in state:
        rows += [line.split(" ", 1) for line in text_of(state["revision"]).splitlines()[:2]]
    return Section("Run", tables=[Table([], rows)])


def line_plot(records: Records, value: Callable[[dict], float], title: str) -> Plot:
    def draw(axes: Axes) -> None:
        axes.plot([r["step"] for r in records], [value(r) for r in records], color=BLUE, linewidth=1.2)
        axes.set(title=title, xlabel="step", ylim=(0, None))

    return Plot(draw, 2.4)


def training(records: Records, validation: Records) -> list[Section]:
    return [
        Section("Losses", plot=Plot(lambda axes: plot_losses(axes, records, validation), 5)),
        Section(
            "Gradient norm and learning rate",
            plot=Plot(lambda axes: plot_line(axes, records, "grad_norm", "Gradient norm, before clipping"), 2.4),
        ),
        Section("", plot=Plot(lambda axes: plot_line(axes, records, "lr", "Learning rate"), 2.4)),
        Section("Throughput", plot=line_plot(records, lambda r: r["tokens_per_second"], "Tokens a second, all ranks")),
        Section(
            "Memory",
            f"At most {bytes_text(max(r['memory_peak'] for r in records))} on the device of rank 0.",
            plot=line_plot(records, lambda r: r["memory_peak"] / 2**30, "Peak so far, GiB"),
        ),
    ]


def flat(value: object) -> str:
    """A number, a list of numbers or an object of them, as a cell of a table."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {flat(part)}" for key, part in value.items())
    return f"{value}" if isinstance(value, (str, int)) else numbers(value)


def validations(validation: Records) -> list[Section]:
    if not validation:
        return []
    keys = list(dict.fromkeys(key for record in validation for key in record))
    table = Table(keys, [[flat(record[key]) if key in record else "" for key in keys] for record in validation])
    return [
        Section("Accepted length", plot=Plot(lambda axes: plot_accepted_length(axes, validation), 3)),
        Section(
            "Rounds",
            "How often each round's choice is the base's own.",
            plot=Plot(lambda axes: plot_agreement(axes, validation), 3),
        ),
        Section("Validations", details=[table]),
    ]


def settings(run: Path) -> list[Section]:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    try:
        parser.read_string((run / "settings.cfg").read_text())
    except OSError as error:
        raise SystemExit(f"{run / 'settings.cfg'}: {error.strerror}; name a run directory") from None
    rows = [[f"{section}.{key}", value] for section in parser.sections() for key, value in parser[section].items()]
    return [Section("Settings", details=[Table(["setting", "value"], rows)])]


def pieces(record: dict, chat: ChatTokenizer | None) -> list[tuple[str, str]]:
    """The text in runs of tokens: those that a forward accepted of its drafts, and those that it chose itself."""
    ids, kinds = record["output_ids"], ["own"]
    for accepted in record.get("accepted_by_forward", []):
        kinds += ["accepted"] * accepted + ["own"]
    kinds += ["own"] * (len(ids) - len(kinds))
    runs, end, shown = [], 0, 0
    whole = chat.decode(ids) if chat else ""
    for kind, of_kind in itertools.groupby(kinds):
        begin, end = end, end + len(list(of_kind))
        if chat is None:
            runs.append((" ".join(map(str, ids[begin:end])) + " ", kind))
            continue
        # A character may take several tokens: it belongs to the run that ends it.
        length = len(whole) if end == len(ids) else len(chat.decode(ids[:end]).rstrip("\ufffd"))
        runs.append((whole[shown:length], kind))
        shown = max(shown, length)
    return runs


def decoding(decoded: Path, tokenizer: Path | None) -> list[Section]:
    ways = read_decoded(decoded)
    aggregates = {way: json.loads(decoded.read_text())[way]["aggregate"] for way in ways}
    keys = list(next(iter(aggregates.values())))
    rows = [[key.replace("_", " "), *(flat(aggregate.get(key, "")) for aggregate in aggregates.values())] for key in keys]
    sections = [Section("Decoding", tables=[Table(["", *ways], rows)])]
    if "drafted" in ways:
        places = [sum(of) for of in zip(*(record["accepted_at"] for record in ways["drafted"]), strict=True)]
        forwards = sum(record["target_forwards"] - 1 for record in ways["drafted"]) or 1

        def draw(axes: Axes) -> None:
            axes.bar(range(1, len(places) + 1), [accepted / forwards for accepted in places], color=BLUE, width=0.6)
            axes.set(title="Drafts accepted, of all forwards, by place", xlabel="place of the draft", ylim=(0, 1))
            axes.set_xticks(range(1, len(places) + 1))

        sections.append(Section("", plot=Plot(draw, 2.6)))
    chat = ChatTokenizer(tokenizer) if tokenizer else None
    samples = []
    for records in itertools.islice(zip(*ways.values(), strict=True), PROMPTS_SHOWN):
        samples.append([])
        for way, record in zip(ways, records, strict=True):
            title = f"Prompt {record['index']}, {way}: {record['new_tokens']} tokens in {record['target_forwards']} forwards"
            samples[-1].append(Passage(title, pieces(record, chat)))
    text = "Accepted tokens of the drafter are in colour, the others are what the base's own forwards chose."
    return [*sections, Section("Samples", text, passages=samples)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory of mtp-train")
    parser.add_argument("--decoded", type=Path, help="what mtp-bench-decode --json wrote of the exported pair")
    parser.add_argument("--tokenizer", type=Path, help="Hugging Face directory, to show text in place of ids")
    parser.add_argument("--out", type=Path, help="page to write; default RUN/report.html")
    args = parser.parse_args()
    records = read(args.run / "metrics.jsonl")
    if not records:
        raise SystemExit(f"{args.run / 'metrics.jsonl'}: no step yet")
    validation = read(args.run / "validation.jsonl") if (args.run / "validation.jsonl").exists() else []
    sections = [summary(args.run, records, validation), *training(records, validation), *validations(validation)]
    if args.decoded:
        sections += decoding(args.decoded, args.tokenizer)
    page = html(args.run.resolve().name, [*sections, *settings(args.run)])
    out = args.out or args.run / "report.html"
    try:
        out.write_text(page)
    except OSError as error:
        raise SystemExit(f"{out}: cannot be written: {os.strerror(error.errno)}") from None
    print(f"{out}: {records[-1]['step']} steps, {len(validation)} validations, {len(page) // 1024} KiB")


if __name__ == "__main__":
    main()
