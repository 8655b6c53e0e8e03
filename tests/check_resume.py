#!/usr/bin/env python3
"""A run that is killed and resumed, on other numbers of ranks, ends with the bits of one that was left alone.

    .venv/bin/python tests/check_resume.py PROGRAMS [--seed N] [--torture N]

Compared are metrics.jsonl (but for times, memory and ranks) and every tensor of the last checkpoint: weights and
moments.
With --torture, N runs are killed at random and nothing else is checked.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from job import (
    FIXTURE,
    MPI,
    children_of,
    comparable_lines,
    expect_same,
    is_open_mpi,
    kill_job,
    mpirun,
    newest_checkpoint,
    tensors,
    wait_until,
)

SEEING = FIXTURE.parent / "experts_26b"
ADAPTED = FIXTURE.parent / "lora"
STEPS = 100
LIMIT = 120  # seconds to wait for steps, or for the end of a run


class Run:
    def __init__(self, programs: Path, directory: Path, fixture: Path = FIXTURE):
        self.programs, self.directory, self.fixture = programs, directory, fixture

    def train(self, ranks: int, *extra: str) -> subprocess.Popen:
        fixture = self.fixture
        settings = ["--config", fixture / "settings.cfg", "--model.base", fixture / "base", "--model.drafter"]
        settings += [fixture / "drafter", "--data.train", fixture / "data.h5", "--data.shuffle", "true"]
        settings += ["--train.global_batch", "12", "--train.micro_batch", "1", "--train.max_steps", str(STEPS)]
        settings += ["--checkpoint.every_steps", "2", "--run.dir", self.directory, "--run.threads", "1"]
        return self.start(ranks, "mtp-train", *settings, *extra)

    def resume(self, ranks: int, *extra: str) -> subprocess.Popen:
        return self.start(ranks, "mtp-resume", "--from", self.directory, *extra)

    def start(self, ranks: int, program: str, *words: object) -> subprocess.Popen:
        command = [*mpirun(ranks), self.programs / program, *words]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env=os.environ | MPI, text=True, start_new_session=True, **pipes)

    @property
    def steps_done(self) -> int:
        path = self.directory / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def kill_after(self, job: subprocess.Popen, steps: int, delay: float) -> bool:
        """kill -9 of every process of the job, some time after it has done `steps` steps; whether it was running."""
        wait_until(lambda: self.steps_done >= steps or job.poll() is not None, f"step {steps}", LIMIT)
        time.sleep(delay)
        was_running = job.poll() is None
        kill_job(job)
        return was_running

    def resumptions(self) -> list[int]:
        """The steps that the run was resumed after, as the log says."""
        log = self.directory / "log.txt"
        return [int(step) for step in re.findall(r"resumed after step (\d+)", log.read_text())] if log.exists() else []

    def metrics(self) -> list[dict]:
        return comparable_lines(self.directory / "metrics.jsonl")


def finish(job: subprocess.Popen, code: int = 0) -> str:
    output, _ = job.communicate(timeout=LIMIT)
    assert job.returncode == code, f"exit code {job.returncode}, not {code}:\n{output}"
    return output


def any_way(run: Run, ranks: int, rng: random.Random) -> list[str]:
    """Settings that must not change a bit."""
    words = ["--train.recompute", rng.choice(("true", "false")), "--run.threads", rng.choice("12")]
    words += ["--optimizer.moments_on", rng.choice(("device", "host"))]
    words += ["--checkpoint.every_steps", rng.choice("123"), "--checkpoint.keep", rng.choice("123")]
    if run.fixture == SEEING:
        words += ["--dist.expert_parallel", rng.choice([parts for parts in "124" if ranks % int(parts) == 0])]
    return words + ["--checkpoint.background", rng.choice(("true", "true", "false"))]


def killed_at_random(run: Run, whole: Run, ranks: list[int], rng: random.Random, *settings: str) -> None:
    """Many kills hit a save, as there is one every few steps. No resumption may go further back than the newest
    complete checkpoint."""
    killed, newest = 0, 0
    for count in ranks:
        seen = len(run.resumptions())
        job = run.resume(count, *any_way(run, count, rng)) if newest else run.train(count, *settings)
        killed += run.kill_after(job, run.steps_done + rng.randint(2, 6), rng.random() * 0.1)
        for step in run.resumptions()[seen:]:
            assert step >= newest, f"resumed after step {step}, step {newest} was complete"
        newest = newest_checkpoint(run.directory)
    count = rng.choice((1, 2, 3, 4))
    finish(run.resume(count, *any_way(run, count, rng)) if newest else run.train(2, *settings))
    assert killed >= 2, "the run was too short to be killed"
    expect_same(run.directory, whole.directory)


def killed_in_fp32_and_with_images_in_bf16(programs: Path, folder: Path, whole: Run, rng: random.Random) -> None:
    killed_at_random(Run(programs, folder / "killed"), whole, [1, 2, 3, 4], rng)
    bf16 = ("--train.compute_dtype", "bf16", "--optimizer.moments", "bf16")
    # Its base has experts, which 1, 2 or 4 ranks keep between them; its tower is frozen, its projector is trained; some micro-batches have no image.
    of_bf16 = Run(programs, folder / "bf16", SEEING)
    finish(of_bf16.train(2, *bf16))
    killed_at_random(Run(programs, folder / "killed-bf16", SEEING), of_bf16, [3, 4, 1], rng, *bf16)


def killed_with_adapters(programs: Path, folder: Path, rng: random.Random) -> None:
    """A checkpoint has adapters, drafter and their moments, and nothing of the frozen base."""
    whole = Run(programs, folder / "adapted", ADAPTED)
    adapter = ("--model.base_adapter", ADAPTED / "adapter")
    finish(whole.train(2, *adapter))
    killed_at_random(Run(programs, folder / "killed-adapted", ADAPTED), whole, [3, 4], rng, *adapter)
    names = tensors(whole.directory / "checkpoints" / "latest")
    of_base = [name for name in names if "/base." in name]
    assert of_base and all(".lora_" in name for name in of_base), of_base


def torture(programs: Path, folder: Path, whole: Run, rng: random.Random, runs: int) -> None:
    for number in range(1, runs + 1):
        run = Run(programs, folder / "tortured")
        ranks = [rng.choice((1, 2, 3, 4)) for _ in range(rng.randint(3, 6))]
        killed_at_random(run, whole, ranks, rng)
        print(f"run {number}: killed on {ranks} ranks, resumed after steps {run.resumptions()}, same bits", flush=True)
        shutil.rmtree(run.directory)


def stopped_by_signals(programs: Path, folder: Path, whole: Run) -> None:
    """A signal to mpirun, which passes it on to all ranks, or to one rank alone: exit code 75, nothing lost."""
    run = Run(programs, folder / "signalled")
    job = run.train(2)
    ways = ((signal.SIGUSR1, 3, False), (signal.SIGTERM, 4, True), (signal.SIGINT, 2, True), (signal.SIGHUP, 2, True))
    # MPICH's mpiexec passes on SIGUSR1, which the jobs send, but not SIGUSR2.
    for number, ranks, to_one in (*ways, (signal.SIGUSR2, 3, not is_open_mpi())):
        wanted = run.steps_done + 3
        wait_until(lambda: run.steps_done >= wanted, f"step {wanted}", LIMIT, job=job)
        os.kill(children_of(job)[-1] if to_one else job.pid, number)
        assert "stopped by a signal after step" in finish(job, 75)
        job = run.resume(ranks)
    finish(job)
    expect_same(run.directory, whole.directory)


def a_finished_run_changes_nothing(whole: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.directory.rglob("*")}
    assert "nothing left to do" in finish(whole.resume(2))
    assert before == {path: path.stat().st_mtime_ns for path in whole.directory.rglob("*")}


def another_run_is_refused(whole: Run) -> None:
    for name, value in (("optimizer.lr", "0.5"), ("optimizer.moments", "bf16")):
        output = finish(whole.resume(2, f"--{name}", value), 2)
        assert output.count("error: ") == 1 and name in output and "--allow-change" in output, output


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--torture", type=int, default=0, metavar="N")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder, programs = Path(name), arguments.programs.resolve()
        whole = Run(programs, folder / "whole")
        finish(whole.train(2))
        if arguments.torture > 0:
            torture(programs, folder, whole, rng, arguments.torture)
            print(f"{arguments.torture} runs were killed and ended with the bits of one that was not")
            return 0
        killed_in_fp32_and_with_images_in_bf16(programs, folder, whole, rng)
        killed_with_adapters(programs, folder, rng)
        stopped_by_signals(programs, folder, whole)
        a_finished_run_changes_nothing(whole)
        another_run_is_refused(whole)
        moved = Run(programs, folder / "moved")
        shutil.move(whole.directory, moved.directory)
        finish(moved.resume(1, "--train.max_steps", str(STEPS + 2)))
        assert len(moved.metrics()) == STEPS + 2
        rounded = ("--optimizer.moments", "bf16", "--allow-change", "optimizer.moments")
        finish(moved.resume(2, "--train.max_steps", str(STEPS + 4), *rounded))
        assert len(moved.metrics()) == STEPS + 4
    print("6 passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
