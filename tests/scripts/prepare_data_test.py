#!/usr/bin/env python3
"""scripts/prepare_data.py: which tokens become targets, what is left out, and what the file holds.

.venv/bin/python tests/scripts/prepare_data_test.py
"""

import json
import subprocess
import sys
import tempfile
import unittest
from collections import Counter
from pathlib import Path
from unittest import mock

import h5py
import pyarrow
import pyarrow.parquet

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import conversation_sources
import small_tokenizer
from chat_tokenizer import ChatTokenizer, RefusedConversation
from conversation_sources import PRESETS, Source

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


def question(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": "."}]


class FileCase(TestCase):
    def prepare(self, *arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, SCRIPTS / "prepare_data.py", *arguments]
        return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)

    def write(self, name: str, chats: list) -> Path:
        return self.write_records(name, [{"messages": c} for c in chats])

    def write_records(self, name: str, records: list[dict[str, object]]) -> Path:
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
        else:
            path.write_text("".join(json.dumps(r) + "\n" for r in records))
        return path

    def samples(self, path: Path) -> list[tuple[int, ...]]:
        with h5py.File(path) as f:
            offsets = f["offsets"][:]
            return [tuple(f["tokens"][a:b].tolist()) for a, b in zip(offsets, offsets[1:])]


class Mixes(FileCase):
    def drawn(self, *sources: Source, max_turns: int = 0, seed: int = 0) -> tuple[list[str], Counter[str]]:
        """The first word of each conversation, and what was left out."""
        skipped: Counter[str] = Counter()
        found = conversation_sources.conversations(sources, max_turns, seed, skipped)
        return [messages[0]["content"].split()[0] for messages in found], skipped

    def test_have_the_proportions_of_the_weights_until_one_source_ends_and_then_the_rest(self):
        a = self.write("a.jsonl", [question("a") for _ in range(2000)])
        b = self.write("b.parquet", [question("b") for _ in range(2000)])
        words, _ = self.drawn(Source(str(a), 0.8), Source(str(b), 0.2))
        self.assertEqual(Counter(words), {"a": 2000, "b": 2000})
        end_of_a = max(i for i, word in enumerate(words) if word == "a")
        self.assertAlmostEqual(2000 / (end_of_a + 1), 0.8, delta=0.03)
        self.assertEqual(set(words[end_of_a + 1 :]), {"b"})

    def test_are_the_same_for_the_same_seed_and_keep_each_source_in_order(self):
        a = Source(str(self.write("a.jsonl", [question(f"a{i}") for i in range(50)])), 1)
        b = Source(str(self.write("b.jsonl", [question(f"b{i}") for i in range(50)])), 3)
        first, again, other = (self.drawn(a, b, seed=seed)[0] for seed in (1, 1, 2))
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)
        self.assertEqual([word for word in first if word[0] == "a"], [f"a{i}" for i in range(50)])

    def test_without_weights_are_one_source_after_the_other(self):
        paths = [self.write(f"{name}.jsonl", [question(name)] * 2) for name in "ab"]
        self.assertEqual(self.drawn(*(Source(str(p)) for p in paths))[0], ["a", "a", "b", "b"])

    def test_leave_out_long_conversations_before_drawing(self):
        system = [{"role": "system", "content": "s"}]
        path = self.write("a.jsonl", [system + question("q") * 8, question("q") * 9, question("q")])
        words, skipped = self.drawn(Source(str(path)), max_turns=16)
        self.assertEqual((words, skipped), (["s", "q"], {"of more than 16 turns": 1}))

    def test_take_problem_and_solution_for_question_and_answer(self):
        records = [{"lang": "python", "problem": "p", "solution": "s"}]
        for name in ("m.jsonl", "m.parquet"):
            chats = list(conversation_sources.read(str(self.write_records(name, records))))
            self.assertEqual(chats, [[{"role": "user", "content": "p"}, {"role": "assistant", "content": "s"}]])

    def test_read_a_directory_in_the_order_of_its_names(self):
        self.write("d/2.jsonl", [question("second")])
        self.write("d/1.parquet", [question("first")])
        (self.dir / "d" / "README.md").write_text("no data")
        self.assertEqual(self.drawn(Source(str(self.dir / "d")))[0], ["first", "second"])

    # The Hub itself is replaced: what is tested is which data set is asked for and what is made of its files.
    def test_read_data_sets_on_the_hub(self):
        self.write("hub/data/train.jsonl", [question("q")])
        with mock.patch("huggingface_hub.snapshot_download", return_value=str(self.dir / "hub")) as download:
            self.assertEqual(self.drawn(Source("owner/name"))[0], ["q"])
        download.assert_called_once_with("owner/name", repo_type="dataset", allow_patterns=["*.jsonl", "*.parquet"])

    def test_say_in_one_line_that_the_hub_cannot_be_reached(self):
        with (
            mock.patch("huggingface_hub.snapshot_download", side_effect=OSError("no route\nmore")),
            self.assertRaisesRegex(SystemExit, "^owner/name: cannot be downloaded from the Hub: no route$"),
        ):
            self.drawn(Source("owner/name"))

    def test_are_written_as_places_with_weights(self):
        self.assertEqual(Source.parse("a/b:0.8"), Source("a/b", 0.8))
        self.assertEqual(Source.parse("a.jsonl"), Source("a.jsonl"))
        self.assertEqual(Source.parse("odd:name.jsonl"), Source("odd:name.jsonl"))

    def test_of_the_preset_take_local_copies(self):
        preset = PRESETS["tulu-magicoder"]
        self.assertEqual([s.weight for s in preset.sources], [0.8, 0.2])
        self.assertEqual((preset.max_turns, preset.seed), (16, 42))
        self.assertEqual(preset.at([Source("t"), Source("m")]), (Source("t", 0.8), Source("m", 0.2)))

    def test_that_contradict_themselves_are_wrong_usage(self):
        model = ["--tokenizer", self.dir, "--out", self.dir / "o.h5"]
        for arguments, said in (
            (["a.jsonl:1", "b.jsonl"], "either every source has a weight"),
            (["a.jsonl:1", "b.jsonl:0"], "either every source has a weight"),
            (["--preset", "tulu-magicoder", "a.jsonl"], "takes 2 sources without weights"),
            (["--preset", "tulu-magicoder", "a.jsonl:1", "b.jsonl:2"], "takes 2 sources without weights"),
            ([], "give sources or --preset"),
        ):
            with self.subTest(said):
                result = self.prepare(*arguments, *model)
                self.assertEqual(result.returncode, 2)
                self.assertIn(said, result.stderr)


class Processes(FileCase):
    def prepare_measured(self, *arguments: object) -> int:
        """Peak memory of the largest of the processes, in MiB."""
        measure = (
            "import resource, subprocess, sys\n"
            "subprocess.run(sys.argv[1:], check=True, capture_output=True)\n"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)"
        )
        command = [sys.executable, "-c", measure, sys.executable, SCRIPTS / "prepare_data.py", *arguments]
        result = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True)
        return int(result.stdout)

    def test_write_the_same_bytes_whatever_their_number(self):
        model = make_tokenizer(self.dir / "m")
        tulu = self.write("tulu.jsonl", [question(f"{i}?") * (1 + i % 12) for i in range(1000)])
        magicoder = self.write_records("magicoder.jsonl", [{"problem": f"{i}", "solution": "."} for i in range(300)])
        written = []
        for processes in (1, 2, 3):
            outs = self.dir / f"t{processes}.h5", self.dir / f"v{processes}.h5"
            options = ["--out", outs[0], "--validation-out", outs[1], "--validation-fraction", 0.1]
            options += ["--tokenizer", model, "--processes", processes, "--preset", "tulu-magicoder"]
            result = self.prepare(*options, tulu, magicoder)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn("skipped: 332 of more than 16 turns", result.stdout)
            written.append([out.read_bytes() for out in outs])
        self.assertEqual(written[0], written[1])
        self.assertEqual(written[0], written[2])

    def test_take_no_more_memory_for_more_data(self):
        model, chat = make_tokenizer(self.dir / "m"), question("x" * 300)
        few, many = (self.write(f"{n}.parquet", [chat] * n) for n in (2000, 20000))
        peaks = [self.prepare_measured(f, "--tokenizer", model, "--out", self.dir / "o.h5") for f in (few, many)]
        self.assertLess(peaks[1] - peaks[0], 8, f"{peaks} MiB for 2000 and 20000 samples")

    def test_report_progress(self):
        source, model = self.write("a.jsonl", [question(f"{i}") for i in range(600)]), make_tokenizer(self.dir / "m")
        result = self.prepare(source, "--tokenizer", model, "--out", self.dir / "o.h5", "--progress-seconds", 0)
        self.assertRegex(result.stderr.splitlines()[-1], r"^600 samples, \d+ tokens, \d+ samples/s$")

    def test_pass_on_what_ends_a_worker(self):
        model = make_tokenizer(self.dir / "m", REWRITING)
        result = self.prepare(self.write("a.jsonl", [CHAT]), "--tokenizer", model, "--out", self.dir / "o.h5")
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stderr, "^[^\n]*rewrites earlier turns[^\n]*\n$")


class Files(FileCase):
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


class Prompts(FileCase):
    def setUp(self):
        super().setUp()
        self.model = make_tokenizer(self.dir / "m")
        self.chat = ChatTokenizer(self.model)
        self.out = self.dir / "prompts.h5"

    def prepare_prompts(self, *texts: str) -> None:
        source = self.write_records("p.jsonl", [{"kind": "writing", "prompt": text} for text in texts])
        result = self.prepare("--prompts", source, "--tokenizer", self.model, "--out", self.out)
        self.assertEqual(result.returncode, 0, result.stderr)

    def write_decoded(self, name: str = "d.json", **outputs: list[str]) -> Path:
        """As mtp-bench-decode writes it; `outputs` are texts for each prompt."""
        with h5py.File(self.out) as f:
            lengths = [int(b - a) for a, b in zip(f["offsets"], f["offsets"][1:])]
        decoded = {"settings": {}}
        for way, texts in outputs.items():
            ids = [self.chat.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
            decoded[way] = {"aggregate": {}, "prompts": [
                {"index": i, "prompt_tokens": n, "new_tokens": len(o), "output_ids": o, "target_forwards": 3}
                for i, (n, o) in enumerate(zip(lengths, ids))
            ]}  # fmt: skip
        path = self.dir / name
        path.write_text(json.dumps(decoded))
        return path

    def test_ask_the_model_to_answer_and_have_no_targets(self):
        self.prepare_prompts("What is up?", "And down?")
        with h5py.File(self.out) as f:
            self.assertEqual(set(f), {"tokens", "offsets"})
            self.assertEqual((f.attrs["format"], f.attrs["version"], f.attrs["vocab_size"]), ("mtp-data", 1, 320))
            self.assertEqual(f.attrs["tokenizer"], self.chat.fingerprint)
            begin, end, last = f["offsets"][:]
            first, second = f["tokens"][begin:end], f["tokens"][end:last]
        self.assertEqual(self.chat.tokenizer.decode(first), "<bos><|turn>user\nWhat is up?<turn|>\n<|turn>model\n")
        self.assertEqual(self.chat.tokenizer.decode(second), "<bos><|turn>user\nAnd down?<turn|>\n<|turn>model\n")

    def test_of_our_own_are_twenty_of_eight_kinds(self):
        lines = [json.loads(line) for line in (SCRIPTS / "prompts.jsonl").read_text().splitlines()]
        kinds = Counter(line["kind"] for line in lines)
        self.assertEqual(len({line["prompt"] for line in lines}), 20)
        self.assertEqual(
            set(kinds), {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}
        )
        self.assertGreaterEqual(min(kinds.values()), 2)
        result = self.prepare("--prompts", SCRIPTS / "prompts.jsonl", "--tokenizer", self.model, "--out", self.out)
        self.assertIn("20 prompts", result.stdout)

    def test_of_a_data_file_are_its_samples_up_to_the_answer(self):
        self.prepare_prompts("What is up?", "And down?")
        data = self.dir / "data.h5"
        decoded = self.write_decoded(plain=["Nothing.", "Up."])
        self.prepare("--continuations", decoded, "--prompts", self.out, "--out", data)
        again = self.dir / "again.h5"
        result = self.prepare("--questions-of", data, "--limit", 1, "--out", again)
        self.assertEqual(result.returncode, 0, result.stderr)
        with h5py.File(again) as f, h5py.File(self.out) as prompts:
            self.assertEqual(set(f), {"tokens", "offsets"})
            self.assertEqual(dict(f.attrs), dict(prompts.attrs))
            self.assertEqual(f["offsets"][:].tolist(), prompts["offsets"][:2].tolist())
            self.assertEqual(f["tokens"][:].tolist(), prompts["tokens"][: f["offsets"][1]].tolist())
        result = self.prepare("--questions-of", self.out, "--out", again)
        self.assertEqual((result.returncode, "is no data file" in result.stderr), (1, True))

    def test_and_their_outputs_are_shown_side_by_side(self):
        self.prepare_prompts("What is up?")
        decoded = self.write_decoded(plain=["Nothing.<turn|>"], drafted=["Neither.\n\nAnd down."])
        result = self.prepare("--decode", decoded, "--tokenizer", self.model)
        rows = [row.split() for row in result.stdout.splitlines() if "==" not in row and row.strip()]
        self.assertEqual(rows[0][0], "plain:", result.stdout)
        self.assertEqual(rows[1:], [["Nothing.", "Neither."], ["And", "down."]])
        self.assertRegex(result.stdout, r"== prompt 0, \d+ tokens")

    def test_and_continuations_become_samples_with_the_continuation_as_target(self):
        self.prepare_prompts("What is up?", "And down?")
        decoded = self.write_decoded(plain=["Nothing.<turn|>", "Up."])
        data = self.dir / "data.h5"
        result = self.prepare("--continuations", decoded, "--prompts", self.out, "--out", data)
        self.assertEqual(result.returncode, 0, result.stderr)
        with h5py.File(data) as f, h5py.File(self.out) as prompts:
            self.assertEqual(dict(f.attrs), dict(prompts.attrs))
            ends, prompt_ends = f["offsets"][:], prompts["offsets"][:]
            for i, text in enumerate(("Nothing.<turn|>", "Up.")):
                tokens, mask = f["tokens"][ends[i] : ends[i + 1]], f["loss_mask"][ends[i] : ends[i + 1]]
                self.assertEqual(self.chat.tokenizer.decode(tokens[mask == 1]), text)
                prompt = prompts["tokens"][prompt_ends[i] : prompt_ends[i + 1]]
                self.assertEqual(tokens[mask == 0].tolist(), prompt.tolist())
                self.assertEqual(mask.tolist(), sorted(mask.tolist()))

    def test_that_are_wrong_are_said_in_one_line(self):
        self.prepare_prompts("What is up?")
        decoded = self.write_decoded(plain=["Nothing."])
        other = self.dir / "other.h5"
        self.out.rename(other)
        self.prepare_prompts("Something else altogether?")
        out = self.dir / "new" / "o.h5"
        for arguments, code, said in (
            (["--continuations", decoded, "--prompts", self.out, "--out", out], 1, "prompt 0 is not the one in"),
            (["--continuations", self.out, "--prompts", other, "--out", out], 1, "is not what mtp-bench-decode"),
            (["--decode", self.dir / "none", "--tokenizer", self.model], 1, "none"),
            (["--prompts", self.write_records("b.jsonl", [{"prompt": 3}]), "--tokenizer", self.model, "--out", out], 1,
             "b.jsonl:1: the prompt is no text"),
            (["--prompts", self.write_records("c.jsonl", [{}]), "--tokenizer", self.model, "--out", out], 1,
             "c.jsonl:1: no JSON object with a prompt"),
            (["--prompts", self.out, "--out", out], 2, "do not go together"),
        ):  # fmt: skip
            with self.subTest(said):
                result = self.prepare(*arguments)
                self.assertEqual(result.returncode, code, result.stderr)
                self.assertIn(said, result.stderr.splitlines()[-1])
                self.assertTrue(code == 2 or len(result.stderr.splitlines()) == 1, result.stderr)
                self.assertFalse(out.exists())


if __name__ == "__main__":
    unittest.main()
