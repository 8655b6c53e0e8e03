#!/usr/bin/env python3
"""Every file that a program or a script reads, broken in every way, and every place that it writes to, without room or
permission: one line that names it, an exit code, and nothing written.

    unshare -m .venv/bin/python tests/check_broken_files.py PROGRAMS [CASE …]

As root, and apart from others, who are not to see the full disk.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))

from mtp_tools.data import data_file, workers

import job

Break = Callable[[Path, bytes], None]  # a path that names nothing, and what was there
BREAKS: dict[str, Break] = {
    "missing": lambda path, content: None,
    "folder": lambda path, content: path.mkdir(),
    "unreadable": lambda path, content: path.symlink_to("/proc/self/mem"),  # reading it is an input/output error
    "empty": lambda path, content: path.write_bytes(b"") and None,
    "cut": lambda path, content: path.write_bytes(content[: len(content) * 2 // 3]) and None,
    "garbage": lambda path, content: path.write_bytes(bytes((i * i * 7 + i * 31 + 1) % 251 for i in range(3000))) and None,
}
# Where nothing can be written, by what an error names of it.
NOWHERE = {"in a folder of the kernel": "/proc/out", "below a file": "chats.jsonl/out", "on a full disk": "full/out"}
CHAT = {"messages": [{"role": "user", "content": "What is up?"}, {"role": "assistant", "content": "Nothing."}]}
CHECKPOINT = "run/checkpoints/latest"


@dataclass(frozen=True)
class Command:
    """`words`: a program or script and what it is given; OUT stands for what it writes. `reads`: files that it cannot
    do without, and that are broken one after the other."""

    words: str
    reads: tuple[str, ...] = ()
    but: tuple[str, ...] = ()  # ways that are none here

    def ending(self, out: str) -> list[str]:
        return self.words.replace("OUT", out).split()


def checkpoint_files(*names: str) -> tuple[str, ...]:
    return tuple(f"{CHECKPOINT}/{name}" for name in names)


PAIR = "pair/base/config.json", "pair/base/model.safetensors"
STATE = checkpoint_files("state.h5", "rank_0000.h5", "checksums.json", "source/base/config.json")
TRAIN = "mtp-train --model.base pair/base --model.drafter pair/drafter --train.max_steps 1 --run.dir OUT"
DECODE = "mtp-bench-decode --base pair/base --drafter pair/drafter --prompts prompts.h5 --max-new-tokens 1"
GENERATE = "mtp-generate --base pair/base --drafter pair/drafter --max-new-tokens 1"
PREPARE = "prepare_data.py --tokenizer pair/base --out OUT"
COMMANDS = {
    # check_checkpoint_faults.py is about full disks.
    "train": Command(f"{TRAIN} --data.train train.h5", ("train.h5", *PAIR), but=("on a full disk",)),
    "train-settings": Command(f"{TRAIN} --config run.cfg", ("run.cfg",), but=("empty", "on a full disk")),
    "resume": Command("mtp-resume --from run --train.max_steps 3", STATE),
    "resume-file": Command("mtp-resume --from thing", ("thing",)),
    "export": Command(f"mtp-export-hf --from {CHECKPOINT} --out OUT", STATE),
    "export-file": Command("mtp-export-hf --from thing --out out", ("thing",)),
    "make-pair": Command("mtp-make-pair --preset tiny --out OUT"),
    "decode": Command(f"{DECODE} --json OUT", ("prompts.h5", "pair/drafter/config.json", "pair/base/model.safetensors")),
    "decode-logits": Command(f"{DECODE} --logits OUT"),
    # Where its disk is full, it goes on with what it has.
    "generate": Command(f"{GENERATE} --prompts prompts.h5 --out OUT", ("prompts.h5", *PAIR), but=("on a full disk",)),
    "generate-data": Command(f"{GENERATE} --data train.h5 --out out", ("train.h5",)),
    "inspect-checkpoint": Command(f"mtp-inspect {CHECKPOINT}", STATE),
    "inspect-model": Command("mtp-inspect pair/base", PAIR),
    "inspect-data": Command("mtp-inspect train.h5 --sample 0 --tokenizer pair/base", ("train.h5", "pair/base/tokenizer.json")),
    "inspect-file": Command("mtp-inspect thing", ("thing",)),
    "bench-ops": Command("mtp-bench-ops --benchmark_filter=floor/copy --benchmark_min_time=0.001 --benchmark_out=OUT"),
    "bench-checkpoint": Command("mtp-bench-checkpoint --mebibytes 72 --benchmark_min_time=0.001 --dir OUT"),
    "bench-step": Command("mtp-bench-step --preset tiny --length 16 --benchmark_min_time=0.001 --directory OUT"),
    "prepare": Command(f"{PREPARE} chats.jsonl", ("chats.jsonl", "pair/base/config.json", "pair/base/tokenizer.json")),
    "prepare-tokenizer": Command(
        "prepare_data.py chats.jsonl --train-tokenizer new --out out", ("new/config.json",)
    ),
    **{
        f"prepare-{ending}": Command(f"{PREPARE} --max-length 99 chats.{ending}", (f"chats.{ending}",))
        for ending in ("json", "parquet", "arrow", "jsonl.gz", "jsonl.zst")
    },
    "prompts": Command("prepare_data.py --prompts prompts.jsonl --tokenizer pair/base --out OUT", ("prompts.jsonl",)),
    "questions": Command("prepare_data.py --questions-of train.h5 --out OUT", ("train.h5",)),
    "texts": Command("prepare_data.py --decode decoded.json --tokenizer pair/base", ("decoded.json",)),
    "continuations": Command(
        "prepare_data.py --continuations decoded.json --prompts prompts.h5 --out OUT", ("decoded.json", "prompts.h5")
    ),
    "random-prompts": Command("random_prompts.py --base pair/base --out OUT", ("pair/base/config.json",)),
    "plot": Command("plot_run.py run --out OUT.png", ("run/metrics.jsonl",)),
    "report": Command("bench_report.py ops.json --out OUT.html", ("ops.json",)),
    "report-against": Command("bench_report.py good.json --out OUT.html --against ops.json", ("ops.json",)),
}  # fmt: skip


@dataclass
class Ended:
    code: int
    said: list[str]  # a script's lines on stderr, a program's errors


class Place:
    """A folder with a sound file of every kind, in which programs run."""

    def __init__(self, programs: Path, folder: Path):
        self.programs, self.folder = programs, folder
        os.chdir(folder)
        lines = json.dumps(CHAT) + "\n"
        Path("chats.jsonl").write_text(lines)  # of which a part is none
        Path("chats.json").write_text(json.dumps([CHAT] * 20))
        Path("chats.jsonl.gz").write_bytes(gzip.compress(lines.encode() * 20))
        with pyarrow.output_stream("chats.jsonl.zst", compression="zstd") as stream:
            stream.write(lines.encode() * 20)
        table = pyarrow.Table.from_pylist([CHAT] * 20)
        pyarrow.parquet.write_table(table, "chats.parquet")
        with pyarrow.ipc.new_file("chats.arrow", table.schema) as writer:
            writer.write_table(table)
        Path("prompts.jsonl").write_text(json.dumps({"prompt": "What is up?"}) + "\n")
        Path("full").mkdir()
        self.sound("mtp-make-pair --preset tiny --out pair")
        self.sound("prepare_data.py chats.jsonl --train-tokenizer pair/base --out train.h5")
        self.sound("prepare_data.py --prompts prompts.jsonl --tokenizer pair/base --out prompts.h5")
        self.sound(f"{DECODE} --json decoded.json")
        self.sound(TRAIN.replace("OUT", "run") + " --data.train train.h5")
        self.sound("mtp-bench-ops --benchmark_filter=floor/copy --benchmark_min_time=0.001 --benchmark_out=ops.json")
        shutil.copy("ops.json", "good.json")
        shutil.copytree("pair/base", "new")
        Path("run.cfg").write_text("[data]\ntrain = train.h5\n[optimizer]\nlr = 1e-3\n")

    def sound(self, words: str) -> None:
        ended = self.run(words.split())
        assert ended.code == 0, f"{words}: {ended}"

    def run(self, words: list[str]) -> Ended:
        return run_script(words) if words[0].endswith(".py") else self.run_program(words)

    def run_program(self, words: list[str]) -> Ended:
        command = [self.programs / words[0], *words[1:]]
        environment = os.environ | job.MPI | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", timeout=60)
        # Google Benchmark says there what the machine is, and mtp-train what it does.
        return Ended(result.returncode, [line for line in result.stderr.splitlines() if line.startswith("error: ")])

    def contents(self) -> set[tuple[str, int]]:
        return {(str(path), path.lstat().st_size) for path in Path().rglob("*") if not path.is_dir()}


def run_script(words: list[str]) -> Ended:
    """In this process: Python's libraries are read once."""
    said, code = io.StringIO(), 0

    def end(error: BaseException) -> None:
        raise SystemExit(str(error))

    with (
        mock.patch.object(sys, "argv", [str(SCRIPTS / words[0]), *words[1:]]),
        mock.patch.object(sys, "stdout", io.TextIOWrapper(io.BytesIO())),
        contextlib.redirect_stderr(said),
        mock.patch.object(workers, "stop_on_signals"),
        mock.patch.object(data_file, "end_at_once", end),
    ):
        try:
            runpy.run_path(str(SCRIPTS / words[0]), run_name="__main__")
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            print(ended.code if isinstance(ended.code, str) else "", file=said)
        except BaseException:
            code = 1
            traceback.print_exc()
    return Ended(code, [line for line in said.getvalue().splitlines() if line.strip()])


def expect_one_line(ended: Ended, name: str) -> None:
    assert ended.code in (1, 2), f"exit code {ended.code}: {ended.said}"
    assert len(ended.said) == 1, "more than a line, or none:\n" + "\n".join(ended.said)
    assert name in ended.said[0] and "unexpected: " not in ended.said[0], f"{name} is not named: {ended.said[0]}"


def cases() -> Iterator[tuple[str, Command, str, str]]:
    """The name, the command, a file that it reads and a way to break it; or none, and where it is to write."""
    for name, command in COMMANDS.items():
        for file in command.reads:
            for way in [way for way in BREAKS if way not in command.but]:
                yield name, command, file, way
        if "OUT" in command.words:
            for way in [way for way in NOWHERE if way not in command.but]:
                yield name, command, "", way


def check_file(place: Place, command: Command, file: str, way: str) -> None:
    path, kept = Path(file), Path("kept")
    is_there = path.exists()
    content = path.read_bytes() if is_there else b"content"
    if is_there:
        path.rename(kept)
    try:
        BREAKS[way](path, content)
        before = place.contents()
        expect_one_line(place.run(command.ending("out")), path.name)
        assert place.contents() == before, f"written: {place.contents() ^ before}"
    finally:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        if is_there:
            kept.rename(path)


def check_place(place: Place, command: Command, way: str) -> None:
    before = place.contents()
    ended = place.run(command.ending(NOWHERE[way]))
    expect_one_line(ended, NOWHERE[way].removesuffix("/out"))
    assert place.contents() == before, f"written: {place.contents() ^ before}"


def main() -> None:
    programs, chosen = Path(sys.argv[1]).resolve(), sys.argv[2:]
    passed = failed = 0
    home = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        place = Place(programs, Path(folder).resolve())
        # As little as a file system can hold.
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", "full"], check=True)
        Path("full/.other").write_bytes(bytes(4096))
        try:
            for name, command, file, way in cases():
                if chosen and name not in chosen:
                    continue
                try:
                    check_file(place, command, file, way) if file else check_place(place, command, way)
                    passed += 1
                except AssertionError as error:
                    failed += 1
                    print(f"FAILED  {name}: {f'{file} {way}' if file else way}: {error}", flush=True)
        finally:
            os.chdir(folder)
            subprocess.run(["umount", "full"], check=True)
        os.chdir(home)
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
