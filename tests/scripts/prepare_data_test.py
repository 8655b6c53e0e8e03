#!/usr/bin/env python3
"""scripts/prepare_data.py: which tokens become targets, what is left out, and what the file holds.

.venv/bin/python tests/scripts/prepare_data_test.py
"""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py
import pyarrow
import pyarrow.parquet

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import small_tokenizer
from chat_tokenizer import ChatTokenizer, RefusedConversation

CHAT = [
    {"role": "user", "content": "What is up?"},
    {"role": "assistant", "content": "Nothing."},
    {"role": "user", "content": "And down?"},
    {"role": "assistant", "content": "Neither."},
]
CHATML = (
    "{% for m in messages %}{{ '<|turn>' + m.role + '\\n' + m.content + '<turn|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>assistant\\n' }}{% endif %}"
)
# Prompts with an empty thought that no past turn has, as reasoning models' templates do.
EMPTY_THOUGHT = CHATML.replace("'<|turn>assistant\\n' }}", "'<|turn>assistant\\n<think></think>' }}")
# Says how many messages there are at its head: no conversation is a prefix of a longer one.
REWRITING = "{{ messages | length }}" + CHATML
MARKED = (
    "{{ messages | length }}{% for m in messages %}<|turn>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<turn|>{% endgeneration %}"
    "{% else %}{{ m.content }}<turn|>{% endif %}\n{% endfor %}"
)
STRICT = "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}" + CHATML


def make_tokenizer(directory: Path, template: str | None = None) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 320, "pad_token_id": 0}}))
    small_tokenizer.train_into(directory, ["What is up? Nothing. And down? Neither."])
    if template:
        (directory / "chat_template.jinja").write_text(template)
    return directory


class TestCase(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.dir = Path(scratch.name)


class Targets(TestCase):
    def targets(self, template: str | None, messages=CHAT) -> list[str]:
        """Each run of target tokens as text."""
        chat = ChatTokenizer(make_tokenizer(self.dir / "model", template))
        sample = chat.encode([chat.render(messages)])[0]
        runs, previous = [], 0
        for token, is_target in zip(sample.tokens.tolist(), sample.is_target.tolist()):
            if is_target:
                runs += [] if previous else [""]
                runs[-1] += chat.tokenizer.decode([token])
            previous = is_target
        return runs

    def test_are_every_assistant_turn_with_its_end_token(self):
        for name, template in {
            "Gemma": None,
            "ChatML": CHATML,
            "empty thought": EMPTY_THOUGHT,
            "marked": MARKED,
        }.items():
            with self.subTest(name):
                self.assertEqual(self.targets(template), ["Nothing.<turn|>", "Neither.<turn|>"])

    def test_of_text_beyond_ascii_are_whole(self):
        chat = [CHAT[0], {"role": "assistant", "content": "\u00fc\u4e2d\U0001f600"}]
        model = ChatTokenizer(make_tokenizer(self.dir / "model"))
        sample = model.encode([model.render(chat)])[0]
        self.assertEqual(model.tokenizer.decode(sample.tokens[sample.is_target == 1]), "\u00fc\u4e2d\U0001f600<turn|>")

    def test_of_a_template_that_hides_the_turns_are_refused(self):
        with self.assertRaisesRegex(SystemExit, "rewrites earlier turns"):
            self.targets(REWRITING)

    def test_of_a_conversation_that_the_template_refuses_do_not_exist(self):
        with self.assertRaisesRegex(RefusedConversation, "user first"):
            self.targets(STRICT, CHAT[1:])


class Files(TestCase):
    def prepare(self, *arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, SCRIPTS / "prepare_data.py", *arguments]
        return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)

    def write(self, name: str, chats: list) -> Path:
        path = self.dir / name
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"messages": c} for c in chats]), path)
        else:
            path.write_text("".join(json.dumps({"messages": c}) + "\n" for c in chats))
        return path

    def test_jsonl_and_parquet_give_the_same_samples(self):
        model = make_tokenizer(self.dir / "model")
        for name in ("a.jsonl", "a.parquet"):
            result = self.prepare(
                self.write(name, [CHAT, CHAT[:2]]), "--tokenizer", model, "--out", self.dir / f"{name}.h5"
            )
            self.assertEqual(result.returncode, 0, result.stderr)
        with h5py.File(self.dir / "a.jsonl.h5") as a, h5py.File(self.dir / "a.parquet.h5") as b:
            self.assertEqual(dict(a.attrs), dict(b.attrs))
            self.assertEqual((a.attrs["format"], a.attrs["version"], a.attrs["vocab_size"]), ("mtp-data", 1, 320))
            self.assertEqual(len(a["offsets"]), 3)
            self.assertEqual(a["offsets"][2], len(a["tokens"]))
            for name in ("tokens", "loss_mask", "offsets"):
                self.assertEqual(a[name][:].tolist(), b[name][:].tolist())

    def test_samples_that_cannot_be_used_are_counted(self):
        source = self.write("a.jsonl", [CHAT, CHAT[:1], [], CHAT * 9])
        result = self.prepare(
            source, "--tokenizer", make_tokenizer(self.dir / "m"), "--out", self.dir / "o.h5", "--max-length", 100
        )
        self.assertIn(": 1 samples", result.stdout)
        for reason in ("1 without a target", "1 empty", "1 longer than 100 tokens"):
            self.assertIn(f"skipped: {reason}", result.stdout)

    def test_the_validation_part_is_the_same_every_time_and_shares_no_conversation(self):
        chats = [[{"role": "user", "content": f"{i % 60}?"}, {"role": "assistant", "content": "."}] for i in range(120)]
        source, model = self.write("a.jsonl", chats), make_tokenizer(self.dir / "m")
        sides = []
        for run in ("1", "2"):
            outs = self.dir / f"t{run}.h5", self.dir / f"v{run}.h5"
            options = ["--out", outs[0], "--validation-out", outs[1], "--validation-fraction", 0.3]
            self.assertEqual(self.prepare(source, "--tokenizer", model, *options).returncode, 0)
            sides.append([self.samples(out) for out in outs])
        self.assertEqual(sides[0], sides[1])
        train, validation = sides[0]
        self.assertEqual(len(train) + len(validation), 120)
        self.assertGreater(len(validation), 10)
        self.assertFalse(set(train) & set(validation))

    def samples(self, path: Path) -> list[tuple[int, ...]]:
        with h5py.File(path) as f:
            offsets = f["offsets"][:]
            return [tuple(f["tokens"][a:b].tolist()) for a, b in zip(offsets, offsets[1:])]

    def test_a_fault_is_one_line_and_leaves_no_file(self):
        model = make_tokenizer(self.dir / "m")
        broken = self.dir / "broken.jsonl"
        broken.write_text(json.dumps({"messages": CHAT}) + "\n{\n")
        for arguments, said in (
            ([broken, "--tokenizer", model], "broken.jsonl:2: not JSON"),
            ([self.dir / "none.jsonl", "--tokenizer", model], "none.jsonl"),
            ([self.write("a.txt", [CHAT]), "--tokenizer", model], "not a .jsonl or .parquet file"),
            ([self.write("b.jsonl", [CHAT[:1]]), "--tokenizer", model], "no sample is left"),
            ([self.write("c.jsonl", [CHAT]), "--tokenizer", self.dir / "nowhere"], "config.json"),
        ):
            with self.subTest(said):
                result = self.prepare(*arguments, "--out", self.dir / "out" / "o.h5")
                self.assertEqual(result.returncode, 1)
                self.assertIn(said, result.stderr)
                self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
                self.assertEqual(list((self.dir / "out").glob("*") if (self.dir / "out").exists() else []), [])


if __name__ == "__main__":
    unittest.main()
