#!/usr/bin/env python3
"""The example of scripts/run.sh images, made small: that its answers are right, that its steps fit together, and that
Hugging Face loads what it exports, a trained tower with the rest.

.venv-hf/bin/python tests/scripts/pictures_test.py build/release/bin
"""

import base64
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from PIL import Image, ImageStat

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
HUES = {"red": 0, "yellow": 60, "green": 120, "turquoise": 180, "blue": 240, "purple": 300}
QUARTERS = {"top left": (0, 0), "top right": (1, 0), "bottom left": (0, 1), "bottom right": (1, 1)}  # column, row

sys.path.insert(0, str(SCRIPTS))

from mtp_tools.pictures import page, photographs
from mtp_tools.pictures.questions import KINDS


def run(*command: object) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    if result.returncode:
        raise AssertionError(f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}")
    return result.stdout


def script(name: str, *options: object) -> str:
    return run(sys.executable, SCRIPTS / name, *options)


def is_right(answer: str, picture: Image.Image) -> bool:
    """By other ways than the maker of the questions takes."""
    width, height = picture.size
    if answer.startswith("It is a"):
        return {"small": max(width, height) <= 40, "large": max(width, height) >= 160}[answer.split()[3]]
    if "as wide as" in answer:
        return abs(width - height) < 0.05 * height
    if answer.startswith("The picture is"):
        return width > 1.2 * height if "wider" in answer else height > 1.2 * width
    if answer.startswith("On the whole"):
        return colour_is(answer.removesuffix(".").split()[-1], ImageStat.Stat(picture).mean)
    place, extreme = re.fullmatch(r"The (.*) quarter is the (brightest|darkest)\.", answer).groups()
    means = {name: brightness(picture, *corner) for name, corner in QUARTERS.items()}
    return place == (max if extreme == "brightest" else min)(means, key=means.get)


def brightness(picture: Image.Image, column: int, row: int) -> float:
    width, height = picture.width // 2, picture.height // 2
    x, y = column * (picture.width - width), row * (picture.height - height)
    return sum(ImageStat.Stat(picture.crop((x, y, x + width, y + height))).mean)


def colour_is(name: str, mean: list[float]) -> bool:
    red, green, blue = mean
    is_grey = max(mean) - min(mean) < 0.1 * max(mean)
    if name == "grey" or is_grey:
        return name == "grey" and is_grey
    angle = math.degrees(math.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue))
    return abs((angle - HUES[name] + 180) % 360 - 180) < 30


class Example(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.dir = Path(cls.folder.name)
        cls.questions = cls.dir / "questions"
        script("picture_questions.py", "--out", cls.questions, "--pictures", 64, "--questions", 25)

    def records(self, name: str) -> list[dict]:
        return [json.loads(line) for line in (self.questions / name).read_text().splitlines()]

    def test_has_right_answers(self):
        given = []
        for record in self.records("train.jsonl"):
            image, _ = record["messages"][0]["content"]
            given += [(image["path"], message["content"]) for message in record["messages"][1::2]]
        self.assertGreater(len(given), 3 * 64)
        held_out = self.records("held_out.jsonl")
        self.assertEqual([record["kind"] for record in held_out], 5 * [kind.name for kind in KINDS])
        given += [(record["image"], record["response"]) for record in held_out]
        for path, answer in given:
            with Image.open(self.questions / path) as picture:
                self.assertTrue(is_right(answer, picture), f"{path}: {answer}")
        self.assertEqual({answer for _, answer in given}, {a for kind in KINDS for a in kind.answers.values()})
        self.assertFalse(set(photographs.TO_LEARN) & set(photographs.HELD_OUT))

    def test_goes_from_questions_to_a_page(self):
        pair, training, validation = self.dir / "pair", self.dir / "train.h5", self.dir / "validation.h5"
        prompts, decoded, out = self.dir / "prompts.h5", self.dir / "decoded.json", self.dir / "answers.html"
        run(PROGRAMS / "mtp-make-pair", "--preset", "small-vision", "--out", pair)
        prepare = ("prepare_data.py", "--strict", "--processes", 1)
        script(*prepare, self.questions / "train.jsonl", "--train-tokenizer", pair / "base", "--out", training)
        script(*prepare, self.questions / "held_out.jsonl", "--tokenizer", pair / "base", "--out", validation)
        script("prepare_data.py", "--questions-of", validation, "--out", prompts)
        run(
            PROGRAMS / "mtp-train", "--config", ROOT / "configs/quickstart_images.cfg",
            "--model.base", pair / "base", "--model.drafter", pair / "drafter", "--data.train", training,
            "--data.validation", validation, "--train.max_steps", 3, "--schedule.warmup_steps", 1,
            "--run.dir", self.dir / "run", "--checkpoint.export_at_end", "true",
        )  # fmt: skip
        run(sys.executable, SCRIPTS / "dev/check_hf_load.py", self.dir / "run/hf")
        base, drafter = (self.dir / "run/hf" / part / "model/consolidated" for part in ("base", "drafter"))
        pairs = ("--base", base, "--drafter", drafter, "--prompts", prompts)
        run(PROGRAMS / "mtp-bench-decode", *pairs, "--max-new-tokens", 8, "--json", decoded)
        questions = self.questions / "held_out.jsonl"
        said = script(
            "answers_page.py", "--questions", questions, "--decoded", decoded, "--tokenizer", base, "--out", out
        )
        self.assertIn(" of 25 right\n", said)
        text, records = out.read_text(), self.records("held_out.jsonl")
        shown = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', text)
        self.assertEqual([base64.b64decode(image) for image in shown],
                         [(self.questions / record["image"]).read_bytes() for record in records])  # fmt: skip
        self.assertEqual(re.findall(r"<b>(.*)</b>", text), [record["prompt"] for record in records])
        self.assertNotIn("http", text)


class Tokenizer:
    def decode(self, ids: list[int]) -> str:
        return "".join("abcdefg"[i] for i in ids)


class Page(unittest.TestCase):
    def answer(self, kind: str, alone: str, expected: str) -> page.Answer:
        drafted = page.pieces([0, 1, 2, 3, 4, 5, 6], [2, 0, 1], Tokenizer())
        return page.Answer(kind, "<which>?", expected, "", alone, 7, drafted, 4)

    def test_marks_accepted_drafts(self):
        text = page.html("A page", [self.answer("size", "abcdef", "abcdef")])
        self.assertIn("<p>a<mark>b</mark><mark>c</mark>de<mark>f</mark>g<small>", text)
        self.assertIn("gives 1.75 tokens", text)

    def test_counts_right_answers(self):
        answers = [self.answer("size", "yes", "yes"), self.answer("size", "no", "yes"), self.answer("colour", "a", "b")]
        results = [(r.name, r.right, r.asked, r.answers) for r in page.results_of(answers)]
        self.assertEqual(results, [("size", 1, 2, 2), ("colour", 0, 1, 7)])
        text = page.html("A page", answers)
        self.assertIn("<th>1 of 3</th>", text)
        self.assertIn("&lt;which&gt;?", text)
        self.assertEqual(text.count('class="wrong"'), 2)


if __name__ == "__main__":
    PROGRAMS = Path(sys.argv.pop(1))
    unittest.main()
