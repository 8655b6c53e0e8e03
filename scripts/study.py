#!/usr/bin/env python3
"""What fine-tuning does to a drafter: the study in docs/alignment.md.

    .venv/bin/python scripts/study.py build/release/bin FOLDER [--results FILE] [--seeds 3] [--only KIND …]

A small pair learns Python's documentation with its drafter. Then it is fine-tuned on other text, the King James
Bible of Debian's package bible-kjv, in each of KINDS, and decodes held-out questions of both. Each result is a line of
JSON; what is there already is not done again, so that a study that was stopped goes on. About two hours on two cores.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"]
VERSE = re.compile(r"(\w+?\d+:\d+) (.*)")
DOMAINS = {"python": "Python's documentation", "bible": "the Bible"}
LENGTH = 160  # tokens that conversations are cut to
BEFORE, BASE_ALONE = "before", "base alone"
JOINT = {"drafter.loss_weight": 0.1}
FROM_BASE = JOINT | {"drafter.target": "base"}
KINDS: dict[str, dict[str, object]] = {
    BASE_ALONE: {"drafter.loss_weight": 0},  # a drafter without a gradient stays as it is
    "λ 0.1": JOINT,
    "pr2240, λ 0.01": {"drafter.alignment": "pr2240", "drafter.loss_weight": 0.01},
    "λ 0.01": {"drafter.loss_weight": 0.01},
    "λ 1": {"drafter.loss_weight": 1},
    "base's distribution": FROM_BASE,
    "… total variation": FROM_BASE | {"drafter.loss": "total_variation"},
    "… mixed": FROM_BASE | {"drafter.loss": "mixed"},
    "detached": JOINT | {"drafter.detach": "true"},
    "LoRA": JOINT | {"lora.rank": 16, "lora.alpha": 32, "optimizer.lr": 4e-3},
    "pr2240, λ 0.1": JOINT | {"drafter.alignment": "pr2240"},
}


class Study:
    def __init__(self, programs: Path, folder: Path, results: Path):
        self.programs, self.folder, self.results = programs, folder, results
        lines = results.read_text().splitlines() if results.exists() else []
        self.done = {(line["kind"], line["seed"]) for line in map(json.loads, lines)}

    def call(self, *command: object) -> None:
        words = [str(word) for word in command]
        result = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode:
            raise SystemExit(f"study: {' '.join(words)}\n{result.stdout[-2000:]}")

    def prepare(self) -> None:
        """Data of both domains, and the pair that knows the first."""
        pair = self.folder / "pair"
        if (self.folder / "trained").exists():
            return
        if self.folder.exists() and any(self.folder.iterdir()):
            raise SystemExit(f"study: {self.folder} has files but no trained pair; name a new folder, or empty it")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.call(self.programs / "mtp-make-pair", "--preset", "small", "--out", pair)
        bible = self.folder / "bible.jsonl"
        bible.write_text("".join(json.dumps(line) + "\n" for line in bible_conversations()))
        for domain, source in (("python", ["--source", "pydoc"]), ("bible", [bible])):
            tokenizer = "--train-tokenizer" if domain == "python" else "--tokenizer"
            self.prepare_data(
                *source, tokenizer, pair / "base", "--max-length", LENGTH, "--out", self.data(domain),
                "--validation-out", self.held_out(domain), "--validation-fraction", 0.03,
            )  # fmt: skip
            questions = ["--questions-of", self.held_out(domain), "--limit", 20]
            self.prepare_data(*questions, "--out", self.folder / f"{domain}-prompts.h5")
        give_tokenizer(pair)
        self.train(pair, "python", self.folder / "run", {"train.max_steps": 400, "drafter.loss_weight": 0.3})
        self.export(self.folder / "run", self.folder / "trained")

    def prepare_data(self, *options: object) -> None:
        self.call(sys.executable, ROOT / "scripts/prepare_data.py", *options)

    def data(self, domain: str) -> Path:
        return self.folder / f"{domain}.h5"

    def held_out(self, domain: str) -> Path:
        return self.folder / f"{domain}-held-out.h5"

    def train(self, pair: Path, domain: str, run: Path, settings: dict[str, object]) -> None:
        shutil.rmtree(run, ignore_errors=True)
        common = {
            "model.base": pair / "base", "model.drafter": pair / "drafter", "data.train": self.data(domain),
            "run.dir": run, "drafter.rounds": 4, "train.global_batch": 16, "train.micro_batch": 4, "optimizer.lr": 4e-3,
            "schedule.warmup_steps": 20,
        }  # fmt: skip
        words = [word for name, value in (common | settings).items() for word in (f"--{name}", value)]
        self.call(self.programs / "mtp-train", *words)

    def export(self, run: Path, to: Path) -> None:
        """A directory with base/ and drafter/."""
        exported, whole = to.with_name("exported"), to.with_name("whole")
        for folder in (exported, whole, to):
            shutil.rmtree(folder, ignore_errors=True)
        self.call(self.programs / "mtp-export-hf", "--from", run, "--out", exported)
        whole.mkdir()
        for part in ("base", "drafter"):
            (exported / part / "model" / "consolidated").rename(whole / part)
        shutil.rmtree(exported)
        give_tokenizer(whole)
        whole.rename(to)  # at once: what is there is whole

    def run(self, kind: str, seed: int) -> None:
        if (kind, seed) in self.done:
            return
        trained, tuned = self.folder / "trained", self.folder / "tuned"
        settings = {"train.max_steps": 100, "optimizer.lr": 1e-3, "data.seed": seed, "run.seed": seed}
        if kind == BEFORE:
            tuned = trained
        else:
            self.train(trained, "bible", self.folder / "tuning", settings | KINDS[kind])
            self.export(self.folder / "tuning", tuned)
        drafter = (trained if kind == BASE_ALONE else tuned) / "drafter"
        decoded = {domain: self.decode(tuned / "base", drafter, domain) for domain in DOMAINS}
        line = {"kind": kind, "seed": seed} | decoded
        with self.results.open("a") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        print(line, flush=True)

    def decode(self, base: Path, drafter: Path, domain: str) -> dict[str, object]:
        out = self.folder / "decoded.json"
        prompts = self.folder / f"{domain}-prompts.h5"
        self.call(
            self.programs / "mtp-bench-decode", "--base", base, "--drafter", drafter, "--prompts", prompts,
            "--max-new-tokens", 96, "--drafts", 4, "--json", out,
        )  # fmt: skip
        decoded = json.loads(out.read_text())
        plain, drafted = decoded["plain"]["aggregate"], decoded["drafted"]["aggregate"]
        return {
            "tokens_per_forward": drafted["tokens_per_forward"],
            "speed_up": drafted["tokens_per_second"] / plain["tokens_per_second"],
            "accepted_at": drafted["accepted_at"],
            "target_forwards": drafted["target_forwards"],
        }


def bible_conversations() -> list[dict[str, str]]:
    """A verse, and the two that follow it."""
    try:
        said = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise SystemExit("study: no program `bible`; install Debian's package bible-kjv") from None
    verses = [found[2] for line in said.splitlines() if (found := VERSE.fullmatch(line.strip()))]
    assert len(verses) > 30000, len(verses)
    return [
        {"prompt": f"What comes after this? {verses[i]}", "completion": " ".join(verses[i + 1 : i + 3])}
        for i in range(0, len(verses) - 2, 3)
    ]


def give_tokenizer(pair: Path) -> None:
    """The drafter's directory the files that it lacks."""
    for name in TOKENIZER_FILES:
        if (pair / "base" / name).exists():
            shutil.copy(pair / "base" / name, pair / "drafter" / name)


def by_kind(results: Path) -> dict[str, list[dict]]:
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    return {kind: [line for line in lines if line["kind"] == kind] for kind in (BEFORE, *KINDS)}


def table(results: Path) -> str:
    """Markdown: means over the seeds, and the standard deviation where there are several."""
    rows = [["", "seeds", *(f"{name}: tokens a forward | speed-up" for name in DOMAINS.values())]]
    rows.append(["---"] * (2 + 2 * len(DOMAINS)))
    for kind, lines in by_kind(results).items():
        figures = [(domain, figure) for domain in DOMAINS for figure in ("tokens_per_forward", "speed_up")]
        if lines:
            cells = [text_of([line[domain][figure] for line in lines]) for domain, figure in figures]
            rows.append([kind, str(len(lines)), *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def text_of(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f}" + (f" ± {spread_of(values):.2f}" if len(values) > 1 else "")


def spread_of(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0


def plot(results: Path, out: Path) -> None:
    """Tokens a forward of the base, a group of bars for each kind."""
    kinds = {kind: lines for kind, lines in by_kind(results).items() if lines}
    figure = Figure(figsize=(8, 0.5 + 0.5 * len(kinds)), layout="constrained")
    axes = figure.subplots()
    for i, (domain, name) in enumerate(DOMAINS.items()):
        values = [[line[domain]["tokens_per_forward"] for line in lines] for lines in kinds.values()]
        places = [place + 0.4 * i for place in range(len(kinds))]
        means, spreads = [statistics.mean(v) for v in values], [spread_of(v) for v in values]
        axes.barh(places, means, 0.38, xerr=spreads, label=f"held-out questions: {name}")
    axes.set_yticks([place + 0.2 for place in range(len(kinds))], list(kinds))
    axes.invert_yaxis()
    axes.set_xlabel("tokens a forward of the base")
    figure.legend(loc="outside upper center", ncols=len(DOMAINS))
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    parser.add_argument("folder", type=Path, help="of data, pairs and runs: empty, or of a study before")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/study.jsonl", help="(%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="of the order of the samples (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help="of the kinds")
    args = parser.parse_args()
    study = Study(args.programs.resolve(), args.folder.resolve(), args.results.resolve())
    study.prepare()
    study.run(BEFORE, 0)
    for seed in range(args.seeds):
        for kind in args.only:
            study.run(kind, seed)
    print(table(args.results))
    plot(args.results, args.results.with_suffix(".png"))


if __name__ == "__main__":
    main()
