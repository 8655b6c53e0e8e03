#!/usr/bin/env python3
"""mtp-generate: the same file on any number of ranks, killed and resumed or not, with the tokens of mtp-bench-decode;
what it takes of conversations, what it refuses, and that mtp-train takes what it writes.

    .venv/bin/python tests/check_generate.py PROGRAMS [CASE …]
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np

from job import MPI, Result, expect, kill_job, mpirun, run_cases, wait_until

VOCABULARY = 512
END = 7  # ends every turn of the conversations
Turns = list[tuple[list[int], list[int]]]  # what stands before each answer, and the answer
SAMPLED = ("--temperature", "0.9", "--top-k", "60", "--seed", "5")


def random_tokens(generator: np.random.Generator, length: int) -> list[int]:
    return generator.integers(10, VOCABULARY, length).tolist()


def conversations() -> list[Turns]:
    generator = np.random.default_rng(1)
    return [
        [
            (random_tokens(generator, 3 + turn + number % 4), [*random_tokens(generator, 5), END])
            for turn in range(turns)
        ]
        for number, turns in enumerate([1, 3, 2, 1, 2, 1, 4, 1, 2, 1, 1, 3])
    ]


def write(path: Path, texts: list[list[tuple[int, int]]], has_targets: bool) -> None:
    """Texts of tokens, each with 1 where it is a target."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "mtp-data", "version": 1, "vocab_size": VOCABULARY, "pad_token_id": 0})
        file.attrs["tokenizer"] = "0" * 64
        flat = np.array([pair for text in texts for pair in text])
        file["tokens"] = flat[:, 0].astype(np.int32)
        file["offsets"] = np.cumsum([0, *map(len, texts)]).astype(np.int64)
        if has_targets:
            file["loss_mask"] = flat[:, 1].astype(np.uint8)


def marked(turns: Turns) -> list[tuple[int, int]]:
    return [(token, part) for turn in turns for part, ids in enumerate(turn) for token in ids]


def samples(path: Path) -> list[Turns]:
    """A data file's conversations."""
    found = []
    with h5py.File(path) as file:
        tokens, mask, offsets = file["tokens"][:], file["loss_mask"][:], file["offsets"][:]
        for begin, end in zip(offsets[:-1], offsets[1:], strict=True):
            runs: list[list[int]] = []
            for i in range(begin, end):
                if i == begin or mask[i] != mask[i - 1]:
                    runs.append([])
                runs[-1].append(int(tokens[i]))
            assert mask[begin] == 0 and mask[end - 1] == 1, mask[begin:end]
            found.append(list(zip(runs[::2], runs[1::2], strict=True)))
    return found


class Generate:
    """The program on a tiny random pair, twelve conversations, and their first questions as prompts."""

    def __init__(self, programs: Path, folder: Path):
        self.programs, self.folder = programs, folder
        self.pair, self.prompts, self.data = folder / "pair", folder / "prompts.h5", folder / "data.h5"
        make = [programs / "mtp-make-pair", "--preset", "tiny", "--out", self.pair]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        # A random pair chooses any token: a few of them end an answer.
        ends = [END, *range(10, 60)]
        (self.pair / "base" / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
        self.conversations = conversations()
        write(self.data, [marked(turns) for turns in self.conversations], has_targets=True)
        write(self.prompts, [marked([(turns[0][0], [])]) for turns in self.conversations], has_targets=False)

    def start(self, out: str, *options: str, ranks: int = 1, source: str = "prompts") -> subprocess.Popen:
        words = {"base": self.pair / "base", "drafter": self.pair / "drafter", source: self.folder / f"{source}.h5"}
        words |= {"out": self.folder / out, "max-new-tokens": "24", "threads": "1"}
        command = [*(mpirun(ranks) if ranks > 1 else []), self.programs / "mtp-generate"]
        for name, value in words.items():
            command += [] if f"--{name}" in options else [f"--{name}", value]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen([*command, *options], env=os.environ | MPI, text=True, **pipes)

    def run(self, out: str, *options: str, **more: object) -> Result:
        begin, job = time.monotonic(), self.start(out, *options, **more)
        text, _ = job.communicate(timeout=120)
        return Result(job.returncode, text, time.monotonic() - begin)

    def generate(self, out: str, *options: str, **more: object) -> bytes:
        """The bytes of the file, beside which nothing stays."""
        done = self.run(out, *options, **more)
        assert done.code == 0, done.text
        left = [path.name for path in self.folder.glob(f"*{out}*")]
        assert left == [out], left
        return (self.folder / out).read_bytes()

    def killed(self, out: str, *options: str, ranks: int = 1, lines: int = 3, **more: object) -> None:
        """Begins a file, and kills the job once it has so many answers."""
        job = self.start(out, *options, ranks=ranks, **more)
        parts = self.folder / f"{out}.answers"

        def answered() -> int:
            return sum(part.read_bytes().count(b"\n") for part in parts.glob("part_*"))

        wait_until(lambda: answered() >= lines, "some answers", pause=0.001, job=job)
        kill_job(job)
        assert parts.is_dir() and not (self.folder / out).exists(), "was done before it was killed"


def the_file_is_the_same_on_any_number_of_ranks(generate: Generate) -> None:
    one = generate.generate("one.h5", *SAMPLED, source="data")
    for ranks, batch in ((2, "1"), (4, "3")):
        other = generate.generate(f"{ranks}.h5", *SAMPLED, "--batch", batch, ranks=ranks, source="data")
        assert other == one, f"{ranks} ranks"
    assert generate.generate("again.h5", *SAMPLED[:-1], "6", source="data") != one


def a_killed_job_goes_on(generate: Generate) -> None:
    long = ("--max-new-tokens", "200", "--temperature", "1")
    (generate.pair / "base" / "generation_config.json").write_text('{"eos_token_id": [510, 511]}')
    whole = generate.generate("whole.h5", *long)
    generate.killed("killed.h5", *long, "--batch", "1")
    generate.killed("killed.h5", *long, "--batch", "2", ranks=2, lines=6)
    folder = generate.folder / "killed.h5.answers"
    [first, *_] = sorted(folder.glob("part_*"))
    first.write_bytes(first.read_bytes() + b'{"conversation": 3, "answers": [[1, 2')  # cut off
    expect(generate.run("killed.h5", *long, "--seed", "1"), 2, r"--seed: .*killed\.h5\.answers was begun with 0, not 1")
    assert generate.generate("killed.h5", *long, ranks=3) == whole


def another_pair_or_source_is_refused(generate: Generate) -> None:
    long = ("--max-new-tokens", "200")
    generate.killed("out.h5", *long, "--batch", "1", lines=1)
    weights = generate.pair / "drafter" / "model.safetensors"
    before = weights.read_bytes()
    first = 8 + int.from_bytes(before[:8], "little")  # behind the header
    weights.write_bytes(before[:first] + bytes([before[first] ^ 1]) + before[first + 1 :])
    changed = r"--drafter: model\.safetensors is not the one that .*out\.h5\.answers was begun with"
    expect(generate.run("out.h5", *long), 2, changed)
    expect(generate.run("out.h5", *long, ranks=2), 2, changed)
    weights.write_bytes(before)
    prompts = generate.prompts.read_bytes()
    write(generate.prompts, [marked([([9, 8], [])])], has_targets=False)
    expect(generate.run("out.h5", *long), 2, r"--prompts: prompts\.h5 is not the one that .*out\.h5\.answers was begun")
    generate.prompts.write_bytes(prompts)
    generate.generate("out.h5", *long)
    expect(generate.run("out.h5", *long), 2, r"--out: .*out\.h5 is there; remove it")


def answers_are_those_of_mtp_bench_decode(generate: Generate) -> None:
    for number, options in enumerate(((), SAMPLED)):
        out, decoded = f"out{number}.h5", generate.folder / f"decoded{number}.json"
        pair = ["--base", generate.pair / "base", "--drafter", generate.pair / "drafter", "--prompts", generate.prompts]
        command = [generate.programs / "mtp-bench-decode", *pair, "--max-new-tokens", "24", "--json", decoded, *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        drafted, plain = (json.loads(decoded.read_text())[way]["prompts"] for way in ("drafted", "plain"))
        for way, drafts in ((drafted, "4"), (plain, "0")):
            generate.generate(out, *options, "--drafts", drafts)
            for sample, turns, record in zip(samples(generate.folder / out), generate.conversations, way, strict=True):
                assert sample == [(turns[0][0], record["output_ids"])], record
            (generate.folder / out).unlink()


def every_turn_or_the_last_is_answered_anew(generate: Generate) -> None:
    ends = set(json.loads((generate.pair / "base" / "generation_config.json").read_text())["eos_token_id"])
    generate.generate("all.h5", *SAMPLED, source="data")
    several = 0
    for sample, turns in zip(samples(generate.folder / "all.h5"), generate.conversations, strict=True):
        several += len(sample) > 1
        assert [before for before, _ in sample] == [before for before, _ in turns[: len(sample)]]
        for place, (_, answer) in enumerate(sample):
            assert len(answer) <= 24 and not ends & set(answer[:-1]), answer
            # What was cut off is the last.
            assert (answer[-1] in ends) or place == len(sample) - 1, sample
        assert len(sample) == len(turns) or sample[-1][1][-1] not in ends
    assert several > 2, "no conversation goes on behind an own answer"
    generate.generate("last.h5", *SAMPLED, "--turns", "last", source="data")
    for sample, turns in zip(samples(generate.folder / "last.h5"), generate.conversations, strict=True):
        [(before, _)] = sample
        assert before == [token for token, _ in marked(turns)[: -len(turns[-1][1])]]


def what_cannot_be_answered_is_left_out(generate: Generate) -> None:
    texts = [marked(turns) for turns in generate.conversations[:2]]
    texts += [[(token, 0) for token in range(10, 20)]]  # no answer
    texts += [[(token, 1) for token in range(10, 20)]]  # nothing before it
    texts += [[(20, 0)] * 256 + [(21, 1)]]  # no position left: the pair has 256
    texts += [[(22, 0)] * 250 + [(23, 1)]]  # six are left
    write(generate.data, texts, has_targets=True)
    done = generate.run("out.h5", source="data")
    assert done.code == 0 and "3 samples; 3 left out" in done.text, done.text
    found = samples(generate.folder / "out.h5")
    assert len(found) == 3 and len(found[-1][0][0]) == 250 and len(found[-1][0][1]) <= 6, found
    write(generate.data, texts[2:5], has_targets=True)
    expect(generate.run("none.h5", source="data"), 1, r"data\.h5: nothing in it can be answered")
    assert not (generate.folder / "none.h5").exists()


def an_answer_ends_before_a_media_token(generate: Generate) -> None:
    generate.generate("whole.h5")
    [(_, whole)] = samples(generate.folder / "whole.h5")[0]
    config = generate.pair / "base" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"image_token_id": whole[-1]}))
    generate.generate("out.h5")
    [(_, answer)] = samples(generate.folder / "out.h5")[0]
    assert answer == whole[: whole.index(whole[-1])], (answer, whole)
    # Of one that begins with it, nothing is left.
    config.write_text(json.dumps(json.loads(config.read_text()) | {"image_token_id": whole[0]}))
    done = generate.run("first.h5")
    assert "left out" in done.text and len(samples(generate.folder / "first.h5")) < 12, done.text


def mtp_train_takes_it(generate: Generate) -> None:
    generate.generate("own.h5", *SAMPLED, source="data")
    settings = {"model.base": generate.pair / "base", "model.drafter": generate.pair / "drafter"}
    settings |= {"data.train": generate.folder / "own.h5", "run.dir": generate.folder / "run", "train.max_steps": 1}
    settings |= {"train.global_batch": 4, "train.micro_batch": 2}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [generate.programs / "mtp-train", *words]
    done = subprocess.run(command, env=os.environ | MPI, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((generate.folder / "run" / "metrics.jsonl").read_text())
    assert metrics["label_tokens"] > 0, metrics


def bad_options_are_refused(generate: Generate) -> None:
    refused = {
        r"--prompts and --data: give one of the two": ("--data", str(generate.data)),
        r"--turns: first is none of all, last": ("--turns", "first"),
        r"--drafts: 65 is out of range": ("--drafts", "65"),
        r"--out: .* cannot be written": ("--out", str(generate.folder / "none" / "out.h5")),
        r"data\.h5 is a data file for training": ("--prompts", str(generate.data)),
        r"e4b/drafter.* does not fit": ("--drafter", str(Path(__file__).parent / "fixtures" / "e4b" / "drafter")),
        r"option --out: .*prompts\.h5 is there": ("--out", str(generate.prompts)),
    }
    for line, options in refused.items():
        done = generate.run("out.h5", *options)
        expect(done, 1 if "data file" in line or "fit" in line else 2, line)
    expect(generate.run("out.h5", "--drafts", "65", ranks=2), 2, r"--drafts: 65 is out of range")
    assert not list(generate.folder.glob("*out.h5*"))


CASES = (
    the_file_is_the_same_on_any_number_of_ranks,
    a_killed_job_goes_on,
    another_pair_or_source_is_refused,
    answers_are_those_of_mtp_bench_decode,
    every_turn_or_the_last_is_answered_anew,
    what_cannot_be_answered_is_left_out,
    an_answer_ends_before_a_media_token,
    mtp_train_takes_it,
    bad_options_are_refused,
)


if __name__ == "__main__":
    sys.exit(run_cases(__doc__, {case.__name__: case for case in CASES}, Generate))
