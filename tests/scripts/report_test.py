#!/usr/bin/env python3
"""scripts/report.py makes one whole page of a run, of what there is of it.

    .venv/bin/python tests/scripts/report_test.py
"""

import contextlib
import io
import json
import sys
import tempfile
import unittest
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import report


def step(number: int) -> dict:
    losses = {"loss": 9 / number, "loss_base": 8 / number, "loss_drafter": [8.5 / number, 8.6 / number]}
    sizes = {"grad_norm": 1.0, "lr": 1e-3, "label_tokens": 90, "tokens": 100, "step_time": 0.5, "tokens_per_second": 200.0}
    return {"step": number, "epoch": 0} | losses | sizes | {"memory_peak": 1 << 30, "ranks": 2}


def validation(number: int) -> dict:
    losses = {"loss_base": 8.0, "loss_drafter": [8.5, 8.6], "accuracy_data": [0.1, 0.2], "accuracy_base": [0.3, 0.4]}
    return {"step": number} | losses | {"accepted_length": 1 + number / 10, "tokens_per_step": 1.25}


def decoded() -> dict:
    """Seven tokens: the prefill's, two accepted and the forward's own, none accepted, one accepted and its own."""
    prompt = {"index": 0, "prompt_tokens": 4, "output_ids": [11, 12, 13, 14, 15, 16, 17], "new_tokens": 7}
    plain = prompt | {"target_forwards": 7}
    drafted = prompt | {"target_forwards": 4, "accepted_at": [2, 1], "accepted_by_forward": [2, 0, 1]}
    return {
        way: {"aggregate": {"new_tokens": 7, "tokens_per_second": 9.5}, "prompts": [record]}
        for way, record in (("plain", plain), ("drafted", drafted))
    }


class Page(HTMLParser):
    """What a page shows, by the elements that matter."""

    def __init__(self, text: str):
        super().__init__()
        self.titles, self.cells, self.accepted, self.references = [], [], [], []
        self.plots, self.where = 0, ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.where = "accepted" if ("class", "accepted") in attributes else tag
        self.plots += tag == "svg"
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        named = {"h2": self.titles, "td": self.cells, "accepted": self.accepted}
        if self.where in named:
            named[self.where].append(data.strip())
            self.where = ""


class Report(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.run_dir = Path(folder.name) / "first"
        self.run_dir.mkdir()
        self.write("metrics.jsonl", map(step, range(1, 21)))
        (self.run_dir / "settings.cfg").write_text("[model]\nbase = a<b\n[optimizer]\nlr = 0.001\n")

    def write(self, name: str, lines: object) -> None:
        (self.run_dir / name).write_text("".join(json.dumps(line) + "\n" for line in lines))

    def report(self, *words: object) -> Page:
        with mock.patch.object(sys, "argv", ["report.py", str(self.run_dir), *map(str, words)]):
            with contextlib.redirect_stdout(io.StringIO()):
                report.main()
        return Page((self.run_dir / "report.html").read_text())

    def test_a_whole_run_is_on_the_page(self) -> None:
        self.write("validation.jsonl", map(validation, (0, 10, 20)))
        (self.run_dir / "decoded.json").write_text(json.dumps(decoded()))
        page = self.report("--decoded", self.run_dir / "decoded.json")
        titles = ["Run", "Losses", "Gradient norm and learning rate", "Throughput", "Memory", "Accepted length"]
        self.assertEqual(page.titles, [*titles, "Rounds", "Validations", "Decoding", "Samples", "Settings"])
        self.assertEqual(page.plots, 8)
        self.assertEqual(page.accepted, ["12 13", "16"])
        for cell in ("20, into epoch 0", "2,000, of them 1,800 labels", "1.000 → 3.000 (validation of step 20)", "9.5"):
            self.assertIn(cell, page.cells)
        self.assertIn("a<b", page.cells)

    def test_it_needs_no_other_file(self) -> None:
        page = self.report()
        self.assertEqual([to for to in page.references if not to.startswith("#")], [])
        self.assertEqual(page.titles, ["Run", "Losses", "Gradient norm and learning rate", "Throughput", "Memory", "Settings"])

    def test_what_is_no_run_is_named(self) -> None:
        (self.run_dir / "metrics.jsonl").unlink()
        with self.assertRaisesRegex(SystemExit, "metrics.jsonl: cannot be read: No such file"):
            self.report()


if __name__ == "__main__":
    unittest.main()
