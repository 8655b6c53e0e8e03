#!/usr/bin/env python3
"""Trains a released model's shape at its full size on this machine: a random pair of five billion parameters or more.

    .venv-hf/bin/python scripts/dev/full_size.py build/release/bin FOLDER [--tune lora|drafter] [--preset e2b]

makes the pair in FOLDER (bf16, unless it is there), trains three steps of one sequence in bf16, by adapters of the
base or of the drafter alone, and again with kill -9 after the first checkpoint and mtp-resume: the same bits. Then
exports, and has Hugging Face load both models without their values. Says seconds a step, the share of this machine's
matrix rate, and the most memory that a process held. E2B needs 50 GB of disk and 14 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]
from job import expect_same, kill_job, newest_checkpoint, wait_until  # noqa: E402
from mtp_tools.plan import planned  # noqa: E402

STEPS = 3
TUNE = {
    "lora": ["--lora.rank", "16", "--lora.alpha", "32"],
    "drafter": ["--freeze.base", "true"],
}


class Machine:
    """Runs commands and keeps the most memory that one of them held."""

    def __init__(self) -> None:
        self.peak = 0  # bytes

    def run(self, *command: object) -> float:
        """Seconds."""
        words = [str(word) for word in command]
        print("$", *words, flush=True)
        begin = time.monotonic()
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"full_size: {words[0]} failed")
        self.peak = max(self.peak, usage.ru_maxrss * 1024)
        return time.monotonic() - begin


def make_inputs(machine: Machine, programs: Path, pair: Path, preset: str, length: int) -> Path:
    """The file to train on."""
    if not pair.exists():
        machine.run(programs / "mtp-make-pair", "--preset", preset, "--dtype", "bf16", "--out", pair)
    data = pair.parent / "train.h5"
    tokens = ["--targets", "--prompts", STEPS, "--length", length + 1]
    machine.run(sys.executable, ROOT / "scripts/random_prompts.py", "--base", pair / "base", *tokens, "--out", data)
    return data


def killed_after_first_checkpoint(command: list[object], run: Path) -> None:
    job = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    wait_until(lambda: newest_checkpoint(run) > 0, "a checkpoint", seconds=3600, job=job)
    kill_job(job)


def report(machine: Machine, run: Path, flops: int, matrix_rate: float | None) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = min(line["step_time"] for line in lines)
    rate = flops / seconds / 1e9
    share = f", {rate / matrix_rate:.0%} of the matrix rate" if matrix_rate else ""
    print(f"{seconds:.2f} s a step, {rate:.0f} GFLOP/s{share}")
    print(f"arena {lines[-1]['memory_peak'] / 1e9:.2f} GB; the largest process {machine.peak / 1e9:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    parser.add_argument("folder", type=Path, help="of all files; pairs in it are used again")
    parser.add_argument("--preset", default="e2b", help="of mtp-make-pair (%(default)s)")
    parser.add_argument("--tune", choices=TUNE, default="lora", help="what is trained (%(default)s)")
    parser.add_argument("--length", type=int, default=128, help="positions of a sequence (%(default)s)")
    parser.add_argument("--matrix-rate", type=float, help="GFLOP/s that mtp-bench-ops reaches here in bf16")
    args = parser.parse_args()

    machine, programs = Machine(), args.programs.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    pair = args.folder / args.preset
    data = make_inputs(machine, programs, pair, args.preset, args.length)
    whole, killed, export = (args.folder / name for name in ("whole", "killed", "export"))
    for folder in (whole, killed, export):
        shutil.rmtree(folder, ignore_errors=True)
    settings = [*TUNE[args.tune], "--data.train", str(data), "--train.compute_dtype", "bf16"]
    settings += ["--train.global_batch", "1", "--train.max_steps", str(STEPS), "--checkpoint.every_steps", "1"]
    models = ["--model.base", pair / "base", "--model.drafter", pair / "drafter"]
    train = [programs / "mtp-train", *models, *settings, "--run.dir"]

    machine.run(*train, whole)
    killed_after_first_checkpoint([*train, killed], killed)
    print(f"killed; newest checkpoint: step {newest_checkpoint(killed)}", flush=True)
    machine.run(programs / "mtp-resume", "--from", killed)
    expect_same(killed, whole)
    print("killed and resumed: the same bits")
    machine.run(programs / "mtp-export-hf", "--from", whole, "--out", export)
    machine.run(sys.executable, ROOT / "scripts/dev/check_hf_load.py", export, "--shapes-only")
    print("Hugging Face: nothing missing, nothing unexpected")
    report(machine, whole, planned(programs, pair, *settings).flops, args.matrix_rate)


if __name__ == "__main__":
    main()
