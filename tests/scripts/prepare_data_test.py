#!/usr/bin/env python3
"""scripts/prepare_data.py: which tokens become targets, what is left out, and what the file holds.

.venv/bin/python tests/scripts/prepare_data_test.py
"""

import contextlib
import copy
import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from collections import Counter
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from unittest import mock

import h5py
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
from PIL import Image
from tokenizers import Tokenizer

TESTS = Path(__file__).parent
SCRIPTS = TESTS.parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from mtp_tools.data import conversation_sources
import prepare_data
from mtp_tools.data import pydoc_conversations, small_tokenizer
from mtp_tools.data.chat_tokenizer import ChatTokenizer
from mtp_tools.data.conversation import Conversation, LeftOut, Refused
from mtp_tools.data.conversation_sources import PRESETS, Source
from mtp_tools.data.records import ColumnMap, conversation_of

CHAT = [
    {"role": "user", "content": "What is up?"},
    {"role": "assistant", "content": "Nothing."},
    {"role": "user", "content": "And down?"},
    {"role": "assistant", "content": "Neither."},
]
STRICT = (
    "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}"
    "{% for m in messages %}{{ '<|turn>' + m.role + '\\n' + m.content + '<turn|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>assistant\\n' }}{% endif %}"
)


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


def question(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": "."}]


class SmallTokenizerTest(TestCase):
    def test_every_text_decodes_to_itself(self):
        tokenizer = Tokenizer.from_file(str(make_tokenizer(self.dir / "tokenizer") / "tokenizer.json"))
        self.assertEqual(tokenizer.get_vocab_size(), 320)
        for text in (" What  is\tup?\n\n  Nothing. ", "é 日本 😀\r\n\0", "<0x0A> <unused1>", ""):
            self.assertEqual(tokenizer.decode(tokenizer.encode(text).ids), text)

    def test_turns_are_control_tokens_and_special_tokens_come_first(self):
        directory = make_tokenizer(self.dir / "tokenizer")
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.assertEqual([tokenizer.id_to_token(i) for i in range(7)], [*small_tokenizer.SPECIAL_TOKENS, "<0x00>"])
        config = json.loads((directory / "tokenizer_config.json").read_text())
        self.assertEqual(config["extra_special_tokens"], {"sot_token": "<|turn>", "eot_token": "<turn|>"})


class FileCase(TestCase):
    def prepare(self, *arguments: object) -> subprocess.CompletedProcess:
        """prepare_data.py, in this process."""
        command = [str(a) for a in (SCRIPTS / "prepare_data.py", *arguments)]
        out, err, code = io.StringIO(), io.StringIO(), 0
        with (
            mock.patch.object(sys, "argv", command),
            mock.patch.object(prepare_data, "stop_on_signals"),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                prepare_data.main()
            except SystemExit as end:
                if isinstance(end.code, str):
                    err.write(end.code + "\n")
                code = end.code if isinstance(end.code, int) else 1
        return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())

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


class MediaCase(FileCase):
    """Of what a model sees or hears: `model`, its directory, and `out`, the data file, are the case's."""

    def setUp(self):
        super().setUp()
        self.out = self.dir / "o.h5"

    def prepared(self, source: object, *options: object) -> h5py.File:
        result = self.prepare(source, "--tokenizer", self.model, "--out", self.out, "--processes", 2, *options)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.report = result.stdout
        file = h5py.File(self.out)
        self.addCleanup(file.close)
        return file


def make_media_model(directory: Path, config: dict[str, object], text: str, preprocessor: object) -> Path:
    """With a small tokenizer, trained on a text, and one of Hugging Face's processors of images or sound."""
    directory.mkdir()
    config = {"text_config": {"vocab_size": 320, "pad_token_id": 0}} | config
    (directory / "config.json").write_text(json.dumps(config))
    small_tokenizer.train_into(directory, [text])
    preprocessor.save_pretrained(directory)
    return directory


class PythonsDocumentation(TestCase):
    def test_names_no_folder_of_this_machine(self):
        """Else the quick-start's data, and all its figures, would be others in every folder."""
        chats = [json.dumps(chat) for chat in pydoc_conversations.conversations(0)]
        self.assertGreater(len(chats), 1000)
        self.assertEqual([chat for chat in chats if f"{sys.prefix}/" in chat], [])


class Mixes(FileCase):
    def drawn(self, *sources: Source, max_turns: int = 0, seed: int = 0) -> tuple[list[str], Counter[str]]:
        """The first word of each conversation, and what was left out."""
        items = list(conversation_sources.conversations(sources, max_turns, seed))
        words = [i.messages[0]["content"].split()[0] for i in items if isinstance(i, Conversation)]
        return words, Counter(i.reason for i in items if isinstance(i, LeftOut))

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
        self.assertEqual(download.call_args.args, ("owner/name",))
        self.assertEqual(download.call_args.kwargs["repo_type"], "dataset")
        self.assertLessEqual({"README.md", "*.jsonl", "*.parquet", "*.json.gz"}, {*download.call_args.kwargs["allow_patterns"]})

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

    def test_end_with_what_ends_the_program_and_leave_nothing(self):
        model, source = make_tokenizer(self.dir / "m"), self.write("a.jsonl", [question("word " * 20000)] * 200)
        out = self.dir / "out" / "o.h5"
        # What a shell starts in the background ignores SIGINT, and so does what that starts.
        self.addCleanup(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL):
            with self.subTest(number.name):
                command = [sys.executable, SCRIPTS / "prepare_data.py", source, "--tokenizer", model, "--out", out]
                command += ["--processes", 2]
                program = subprocess.Popen([str(c) for c in command], start_new_session=True)
                while not processes_of(program.pid):
                    time.sleep(0.05)
                program.send_signal(number)
                self.assertEqual(program.wait(), -number)
                deadline = time.monotonic() + 10
                while processes_of(program.pid) and time.monotonic() < deadline:
                    time.sleep(0.05)
                self.assertEqual(processes_of(program.pid), [])
                if number != signal.SIGKILL:  # which nobody can clean up after
                    self.assertEqual(list(out.parent.glob("*")), [])  # workers may start before there is a folder
        few = self.write("b.jsonl", [CHAT])
        self.assertEqual(self.prepare(few, "--tokenizer", model, "--out", out).returncode, 0)
        self.assertEqual([path.name for path in out.parent.iterdir()], ["o.h5"])


def processes_of(session: int) -> list[int]:
    """Workers: all of a session but its leader."""
    found = subprocess.run(["ps", "-o", "pid=", "-s", str(session)], capture_output=True, text=True, check=False).stdout
    return [int(pid) for pid in found.split() if int(pid) != session]


class Formats(FileCase):
    """Every form in which data sets hold a question and its answer is the same conversation."""

    EXPECTED = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    RECORDS = {
        "messages": {"messages": EXPECTED},
        "messages as JSON text": {"messages": json.dumps(EXPECTED)},
        "ShareGPT": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        "roles in conversations": {"conversations": [{"role": "user", "content": "Hi"}, {"role": "model", "content": "Hello"}]},
        "prompt and completion": {"prompt": "Hi", "completion": "Hello"},
        "… as messages": {"prompt": EXPECTED[:1], "completion": EXPECTED[1:]},
        "Alpaca": {"instruction": "Hi", "input": "", "output": "Hello"},
        "problem": {"lang": "python", "problem": "Hi", "solution": "Hello"},
        "question": {"question": "Hi", "answer": "Hello"},
        "query": {"query": "Hi", "response": "Hello"},
    }  # fmt: skip

    def read(self, path: Path) -> list:
        return [getattr(i, "messages", i) for i in conversation_sources.read(Source(str(path)))]

    def test_of_records(self):
        for name, record in self.RECORDS.items():
            with self.subTest(name):
                self.assertEqual(conversation_of("here", record).messages, self.EXPECTED)

    def test_of_files(self):
        records = [{"question": f"{i}?", "answer": f"{i}."} for i in range(300)]
        lines = "".join(json.dumps(r) + "\n" for r in records)
        table = pyarrow.Table.from_pylist(records)
        saved = self.dir / "saved"
        saved.mkdir()
        (saved / "state.json").write_text("{}")
        with pyarrow.ipc.new_stream(saved / "data-00000-of-00001.arrow", table.schema) as writer:
            writer.write_table(table)
        with pyarrow.output_stream(self.dir / "z.jsonl.zst", compression="zstd") as stream:
            stream.write(lines.encode())
        (self.dir / "g.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        (self.dir / "a.json").write_text(json.dumps(records))
        (self.dir / "l.json").write_text(lines)
        (self.dir / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
        for name, mark in (("c.csv", ","), ("t.tsv", "\t")):
            (self.dir / name).write_text(f"question{mark}answer\n" + "".join(f"{i}?{mark}{i}.\n" for i in range(300)))
        pyarrow.parquet.write_table(table, self.dir / "p.parquet")
        expected = [[{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"{i}."}] for i in range(300)]
        for name in ("z.jsonl.zst", "g.jsonl.gz", "a.json", "l.json", "b.jsonl", "c.csv", "t.tsv", "p.parquet", "saved"):
            with self.subTest(name):
                self.assertEqual(self.read(self.dir / name), expected)

    def test_with_columns_that_are_named(self):
        columns = ColumnMap.parse("ask=user,say=assistant,rules=system")
        conversation = conversation_of("here", {"ask": "Hi", "say": "Hello", "rules": "Be brief.", "id": 1}, columns)
        self.assertEqual(conversation.messages, [{"role": "system", "content": "Be brief."}, *self.EXPECTED])

    def test_with_tools_template_arguments_and_calls(self):
        tools = [{"type": "function", "function": {"name": "f"}}]
        record = {
            "conversations": [
                {"from": "human", "value": "Hi"},
                {"from": "function_call", "value": '{"name": "f", "arguments": {"x": null}}'},
                {"from": "observation", "value": "3"},
                {"from": "gpt", "value": "Hello"},
            ],
            "system": "Be brief.",
            "tools": json.dumps(tools),
            "enable_thinking": True,
        }
        conversation = conversation_of("here", record)
        self.assertEqual([m["role"] for m in conversation.messages], ["system", "user", "assistant", "tool", "assistant"])
        self.assertEqual(conversation.messages[2]["tool_calls"][0]["function"], {"name": "f", "arguments": {"x": None}})
        self.assertEqual((conversation.tools, conversation.template_arguments), (tools, {"enable_thinking": True}))

    def test_that_are_unknown_say_what_they_have_and_what_to_do(self):
        with self.assertRaisesRegex(Refused, "has title, url; .*--map question=user,answer=assistant"):
            conversation_of("here", {"title": "a", "url": "b"})

    def test_of_whole_files_that_are_damaged_are_one_line(self):
        good = json.dumps({"messages": CHAT}) + "\n"
        files = {
            "pointer.parquet": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "damaged|cannot be read"),
            "pointer.jsonl": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
            "wide.jsonl": (good.encode("utf-16"), "wide.jsonl:1: is not UTF-8 but UTF-16; convert it"),
            "cut.jsonl.gz": (gzip.compress(good.encode() * 99)[:-30], "damaged|cannot be read"),
            "cut.json": (json.dumps([{"messages": CHAT}]).encode()[:-5], "not JSON"),
        }
        for name, (content, said) in files.items():
            with self.subTest(name):
                (self.dir / name).write_bytes(content)
                with self.assertRaisesRegex(SystemExit, f"^[^\n]*{name}[^\n]*$") as caught:
                    self.read(self.dir / name)
                self.assertRegex(str(caught.exception), said)


class Splits(FileCase):
    def lay_out(self, *names: str) -> Path:
        for name in names:
            self.write(f"set/{name}", [question(name.split(".")[0].replace("/", "."))])
        return self.dir / "set"

    def drawn(self, text: str) -> list[str]:
        with contextlib.redirect_stderr(io.StringIO()) as self.said:
            return [c.messages[0]["content"] for c in conversation_sources.read(Source.parse(text))]

    def test_for_evaluation_are_left_aside(self):
        place = self.lay_out("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "test.jsonl", "data/dev.jsonl")
        self.assertEqual(self.drawn(str(place)), ["train-00000-of-00002", "train-00001-of-00002"])
        self.assertIn("left aside: dev, test", self.said.getvalue())
        self.assertEqual(self.drawn(f"{place}@test"), ["test"])
        with self.assertRaisesRegex(SystemExit, "has no split other, but dev, test, train; name one"):
            self.drawn(f"{place}@other")

    def test_and_configurations_are_those_of_the_readme(self):
        place = self.lay_out("en/a.jsonl", "en/b.jsonl", "de/a.jsonl", "stray.jsonl")
        (place / "README.md").write_text(
            "---\nconfigs:\n- config_name: en\n  data_files:\n  - split: train\n    path: en/a*\n"
            "  - split: test\n    path: [en/b.jsonl]\n- config_name: de\n  default: true\n  data_files: de/*\n---\n# Set\n"
        )
        self.assertEqual(self.drawn(str(place)), ["de.a"])
        self.assertEqual(self.drawn(f"{place}:en"), ["en.a"])
        self.assertEqual(self.drawn(f"{place}:en@test"), ["en.b"])
        with self.assertRaisesRegex(SystemExit, "has the configurations en, de; name one"):
            self.drawn(f"{place}:fr")


class AnyRecord(TestCase):
    """Whatever a record holds, it becomes samples or is refused."""

    VALUES = [None, 0, 1.5, True, "", "x", "{", "[]", b"\xff", datetime(2020, 1, 1), Decimal("1.5"), float("nan"), [], {},
              [[]], [None], "\ud83d", 10**30, "<|turn>", "user", "assistant", "tool", [{"type": "text"}],
              [{"type": "image"}], {"name": "f"}, [{"function": {"name": "f", "arguments": "{}"}}], {"bytes": b"x"}]  # fmt: skip
    RECORDS = [
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "q"}]},
                {"role": "assistant", "content": "a", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
                {"role": "tool", "content": "r", "name": "f"},
                {"role": "assistant", "content": "b", "reasoning_content": "c"},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}],
            "chat_template_kwargs": {"enable_thinking": True},
        },
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"},
        {"prompt": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}], "completion": "a"},
        {"instruction": "q", "input": "i", "output": "o", "history": [["a", "b"]], "image": {"bytes": b"x"}},
    ]

    def changed(self, record: dict, rng: random.Random) -> dict:
        """With another value, one less or one more, at some place."""
        record = copy.deepcopy(record)
        places = [(record, key) for key in record]
        for container, key in places:  # grows
            value = container[key]
            if isinstance(value, (dict, list)):
                places += [(value, inner) for inner in (value if isinstance(value, dict) else range(len(value)))]
        container, key = rng.choice(places)
        if rng.random() < 0.2:
            del container[key]
        else:
            key = rng.choice(["tool_calls", "reasoning", "tool_responses", key]) if isinstance(container, dict) else key
            container[key] = copy.deepcopy(rng.choice(self.VALUES))
        return record

    def test_is_samples_or_refused(self):
        rng = random.Random(1)
        templates = [None, STRICT, *(path.read_text() for path in sorted((TESTS / "templates").glob("*.jinja")))]
        for i, template in enumerate(templates):
            chat = ChatTokenizer(make_tokenizer(self.dir / str(i), template))
            encoder, outcomes = prepare_data.Encoder(chat, 100, True, 0, 0), Counter()
            for _ in range(400):
                record = self.changed(rng.choice(self.RECORDS), rng)
                with self.subTest(template=i, record=record):
                    try:
                        encoded = encoder.encode([conversation_of("here", record)])
                    except Refused as refused:
                        encoded = prepare_data.Encoded(left_out=[LeftOut.of("here", refused)])
                    self.assertTrue(encoded.training or encoded.left_out)
                    outcomes["made" if encoded.training else str(encoded.left_out[0])] += 1
            self.assertGreater(outcomes["made"], 2)
            self.assertGreater(len(outcomes), 20)


class LeftOutRecords(FileCase):
    def test_are_none_where_images_cannot_be_read_at_all(self):
        """This environment has no PyTorch: that is no fault of a record."""
        model = make_tokenizer(self.dir / "m")
        config = {"vision_config": {}, "image_token_id": 310, "boi_token_id": 311, "eoi_token_id": 312}
        (model / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 320}} | config))
        Image.new("RGB", (2, 2)).save(self.dir / "a.png")
        source = self.write_records("a.jsonl", [{"question": "What?", "answer": "That.", "image": "a.png"}])
        result = self.prepare(source, "--tokenizer", model, "--out", self.dir / "o.h5")
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stderr, "^images need PyTorch and torchvision, .*\n$")

    def test_are_the_end_with_strict(self):
        source = self.dir / "a.jsonl"
        source.write_text(json.dumps({"messages": CHAT}) + "\n{\n")
        model = make_tokenizer(self.dir / "m")
        result = self.prepare(source, "--tokenizer", model, "--out", self.dir / "o.h5", "--strict")
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stderr, f"^{source}:2: not JSON: [^\n]*\\(--strict\\)\n$")
        self.assertFalse((self.dir / "o.h5").exists())

    def test_are_said_where_nothing_is_left(self):
        source = self.write("a.jsonl", [CHAT[1:]])
        result = self.prepare(source, "--tokenizer", make_tokenizer(self.dir / "m", STRICT), "--out", self.dir / "o.h5")
        self.assertIn("skipped: 1 refused by the chat template (user first)", result.stdout)
        self.assertRegex(result.stderr, f"^[^\n]*no sample is left to write; 1 are left out, the first: {source}:1: refused")

    def test_are_cut_instead_where_that_is_asked_for(self):
        long = [*question("q"), {"role": "user", "content": "x" * 300}, {"role": "assistant", "content": "y"}]
        source = self.write("a.jsonl", [long, [{"role": "user", "content": "x" * 300}, *CHAT[1:2]]])
        model, out = make_tokenizer(self.dir / "m"), self.dir / "o.h5"
        result = self.prepare(source, "--tokenizer", model, "--out", out, "--max-length", 40, "--overlong", "cut")
        self.assertEqual([len(sample) for sample in self.samples(out)], [40])
        self.assertIn("note: 1 cut to 40 tokens", result.stdout)
        self.assertIn("skipped: 1 without a target in its first 40 tokens", result.stdout)


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
        broken.write_text("{\n")
        for arguments, said in (
            ([broken, "--tokenizer", model], "broken.jsonl:1: not JSON"),
            ([self.dir / "none.jsonl", "--tokenizer", model], "none.jsonl"),
            ([self.write("a.txt", [CHAT]), "--tokenizer", model], "not a file of .jsonl"),
            ([self.write("b.jsonl", [CHAT[:1]]), "--tokenizer", model], "no sample is left"),
            ([self.write("c.jsonl", [CHAT]), "--tokenizer", self.dir / "nowhere"], "config.json"),
            ([self.write("d.jsonl", [CHAT]), "--tokenizer", model, "--validation-fraction", 0.5, "--validation-out", self.dir],
             "is a folder; name a file"),
        ):
            with self.subTest(said):
                result = self.prepare(*arguments, "--out", self.dir / "out" / "o.h5")
                self.assertEqual(result.returncode, 1)
                self.assertIn(said, result.stderr)
                self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
                self.assertEqual(list((self.dir / "out").glob("*") if (self.dir / "out").exists() else []), [])


    def test_appear_together_or_not_at_all(self):
        model, source = make_tokenizer(self.dir / "m"), self.write("a.jsonl", [CHAT] * 3)
        out, other = self.dir / "t.h5", self.dir / "v.h5"
        out.write_text("old")
        arguments = [source, "--tokenizer", model, "--out", out, "--validation-out", other, "--validation-fraction"]
        result = self.prepare(*arguments, 0.0001)
        self.assertEqual((result.returncode, out.read_text(), other.exists()), (1, "old", False))
        source.write_text("".join(json.dumps({"messages": question(f"{i}?")}) + "\n" for i in range(40)))
        replace = os.replace

        def fails(old: Path, new: Path) -> None:
            if new == other:
                raise PermissionError(13, "Permission denied", str(new))
            replace(old, new)

        with mock.patch("os.replace", side_effect=fails):
            result = self.prepare(*arguments, 0.5)
        self.assertEqual((result.returncode, out.read_text(), other.exists()), (1, "old", False), result.stderr)
        self.assertRegex(result.stderr, "^[^\n]*v.h5: cannot be written: Permission denied\n$")
        self.assertFalse([path for path in self.dir.iterdir() if path.name.startswith(".")])

    def test_are_there_where_nobody_reads_what_is_said(self):
        model, source = make_tokenizer(self.dir / "m"), self.write("a.jsonl", [CHAT])
        command = [sys.executable, SCRIPTS / "prepare_data.py", source, "--tokenizer", model, "--out", self.dir / "o.h5"]
        read, write = os.pipe()
        os.close(read)
        result = subprocess.run([str(c) for c in command], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
        os.close(write)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertTrue((self.dir / "o.h5").exists())

    def test_on_a_full_disk_are_one_line_and_none(self):
        model = make_tokenizer(self.dir / "m")
        source = self.write("a.jsonl", [question("word " * 4000)] * 300)
        (self.dir / "small").mkdir()
        command = (
            f"mount -t tmpfs -o size=1m tmpfs {self.dir}/small && {sys.executable} {SCRIPTS}/prepare_data.py {source}"
            f" --tokenizer {model} --out {self.dir}/small/o.h5; code=$?; ls -A {self.dir}/small; exit $code"
        )
        result = subprocess.run(["unshare", "-m", "bash", "-c", command], capture_output=True, text=True, check=False)
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertRegex(result.stderr, r"^[^\n]*small/o.h5: No space left on device; [^\n]*\n$")

    def test_options_that_make_no_sense_are_wrong_usage(self):
        for options, said in (
            (["--limit", -1], "--limit cannot be negative"),
            (["--map", "a=king"], "COLUMN=ROLE"),
            (["--template-argument", "x"], "NAME=VALUE is needed"),
        ):
            with self.subTest(said):
                result = self.prepare("a.jsonl", "--tokenizer", self.dir, "--out", self.dir / "o.h5", *options)
                self.assertEqual((result.returncode, said in result.stderr), (2, True), result.stderr)

    def test_model_directories_that_are_damaged_are_one_line(self):
        source = self.write("a.jsonl", [CHAT])
        for name, content, said in (
            ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\n", "tokenizer.json: is a Git LFS pointer"),
            ("tokenizer.json", b'{"model": 3}', "its tokenizer cannot be read"),
            ("config.json", b'{"vocab_size": ', "config.json: is damaged, not JSON"),
            ("config.json", b"\xef\xbb\xbf{}", "config.json: begins with a byte-order mark"),
            ("config.json", b'{"vocab_size": 320, "pad_token_id": null}', "config.json: pad_token_id is null"),
        ):
            with self.subTest(said):
                model = make_tokenizer(self.dir / "m")
                (model / name).write_bytes(content)
                result = self.prepare(source, "--tokenizer", model, "--out", self.dir / "o.h5")
                self.assertEqual(result.returncode, 1)
                self.assertRegex(result.stderr, f"^[^\n]*{said}[^\n]*\n$")


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
            self.assertEqual(set(f), {"tokens", "offsets", "kind"})
            self.assertEqual((f["kind"][:].tolist(), f["kind"].attrs["names"]), ([0, 0], "writing"))
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
            (["--continuations", self.out, "--prompts", other, "--out", out], 1, "is not UTF-8"),
            (["--continuations", self.write_records("e.json", [{"plain": 3}]), "--prompts", other, "--out", out], 1,
             "is not what mtp-bench-decode"),
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
