#!/usr/bin/env python3
"""What goes wrong ends the whole job at once, with one line that says what: on one rank and on several.

    .venv/bin/python tests/check_faults.py PROGRAMS
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py

FIXTURE = Path(__file__).parent / "fixtures" / "e4b"
MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
LIMIT = 20  # seconds within which a job that failed must be gone


@dataclass
class Result:
    code: int
    text: str
    seconds: float

    @property
    def errors(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.startswith("error: ")]


class Job:
    """mtp-train on a copy of the fixture, which a case may damage first."""

    def __init__(self, programs: Path, folder: Path):
        self.programs, self.folder = programs, folder
        self.fixture = folder / "fixture"
        self.run_dir = folder / "run"
        shutil.copytree(FIXTURE, self.fixture)

    def start(self, ranks: int, *extra: str) -> subprocess.Popen:
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), self.programs / "mtp-train"]
        command += ["--config", self.fixture / "settings.cfg", "--model.base", self.fixture / "base"]
        command += ["--model.drafter", self.fixture / "drafter", "--data.train", self.fixture / "data.h5"]
        command += ["--run.dir", self.run_dir, "--train.global_batch", "12", "--train.micro_batch", "1", *extra]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env=os.environ | MPI, text=True, **pipes)

    def run(self, ranks: int, *extra: str) -> Result:
        return self.wait(self.start(ranks, *extra))

    def wait(self, process: subprocess.Popen) -> Result:
        begin = time.monotonic()
        try:
            text, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"still running after {LIMIT} s") from None
        return Result(process.returncode, text, time.monotonic() - begin)

    def start_training(self, ranks: int, *extra: str) -> tuple[subprocess.Popen, list[int]]:
        """mpirun and its ranks' processes, once a step is done of a run without an end."""
        shutil.rmtree(self.run_dir, ignore_errors=True)
        mpirun = self.start(ranks, "--train.max_steps", "1000000", *extra)
        metrics = self.run_dir / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size > 0):
            assert mpirun.poll() is None, mpirun.communicate()[0]
            time.sleep(0.05)
        pids = self.ranks_of(mpirun)
        assert len(pids) == ranks, pids
        return mpirun, pids

    def ranks_of(self, mpirun: subprocess.Popen) -> list[int]:
        found = subprocess.run(["pgrep", "-P", str(mpirun.pid)], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]


def expect(result: Result, code: int, line: str, times: int = 1) -> None:
    assert result.code == code, f"exit code {result.code}, not {code}:\n{result.text}"
    matching = [error for error in result.errors if re.search(line, error)]
    assert len(matching) == times and len(result.errors) == times, f"expected {times} × {line!r}:\n{result.text}"


def all_ranks_miss_a_file(job: Job) -> None:
    (job.fixture / "base" / "config.json").unlink()
    for ranks in (1, 3):
        expect(job.run(ranks), 1, r"base/config\.json: cannot be read")
    assert not (job.run_dir).exists(), "something was written"


def an_unknown_setting(job: Job) -> None:
    for ranks in (1, 2):
        expect(job.run(ranks, "--drafter.round", "3"), 2, r"drafter\.round")


def ranks_that_do_not_divide(job: Job) -> None:
    expect(job.run(5), 2, r"train\.global_batch.* 12 .* 5 ranks")


def masked_head_without_centroids(job: Job) -> None:
    config = job.fixture / "drafter" / "config.json"
    config.write_text(config.read_text().replace('"use_ordered_embeddings": true', '"use_ordered_embeddings": false'))
    expect(job.run(2, "--drafter.head", "masked"), 1, r"masked_embedding\.centroids\.weight is unknown")


def too_long_samples(job: Job) -> None:
    config = job.fixture / "base" / "config.json"
    config.write_text(re.sub(r'"max_position_embeddings": \d+', '"max_position_embeddings": 8', config.read_text()))
    expect(job.run(2), 2, r"data\.max_length.*23 positions.* is 8")


def one_rank_reads_a_damaged_sample(job: Job) -> None:
    with h5py.File(job.fixture / "data.h5", "r+") as data:
        data["tokens"][int(data["offsets"][4]) + 1] = 5000  # sample 4, which is rank 1's
    expect(job.run(3), 1, r"rank 1: .*data\.h5: sample 4")
    assert not (job.run_dir / "checkpoints").exists(), "a checkpoint was written"


def expect_gone(pids: list[int]) -> None:
    time.sleep(1)
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in pids), "a rank lives on"


def a_rank_is_killed(job: Job) -> None:
    for ranks in (2, 4):
        mpirun, pids = job.start_training(ranks)
        os.kill(pids[-1], signal.SIGKILL)
        result = job.wait(mpirun)
        assert result.code != 0 and result.seconds < 10, result
        expect_gone(pids)


def a_rank_is_stopped(job: Job) -> None:
    for ranks, stopped, reporter in ((2, 1, 0), (2, 0, 1), (4, 2, 0)):
        mpirun, pids = job.start_training(ranks, "--dist.timeout_minutes", "0.05")
        os.kill(pids[stopped], signal.SIGSTOP)
        result = job.wait(mpirun)
        line = f"rank {reporter}: no answer from rank {stopped} for 0.05 minutes .*timeout_minutes.* of [a-z]+"
        expect(result, 1, line)
        assert result.seconds < 15, result
        expect_gone(pids)


def a_loss_that_is_not_finite(job: Job) -> None:
    result = job.run(2, "--optimizer.lr", "1e30", "--schedule.style", "constant")
    expect(result, 1, r"step 2: .*not finite")
    assert not (job.run_dir / "checkpoints").exists(), "a checkpoint was written"


def a_step_without_a_label(job: Job) -> None:
    with h5py.File(job.fixture / "data.h5", "r+") as data:
        data["loss_mask"][:] = 0
    expect(job.run(2), 1, r"step 1: .*label")


def a_run_that_is_finished(job: Job) -> None:
    assert job.run(2).code == 0
    before = (job.run_dir / "metrics.jsonl").read_bytes()
    expect(job.run(2), 2, r"run\.dir: .*mtp-resume")
    assert (job.run_dir / "metrics.jsonl").read_bytes() == before


def a_run_directory_that_cannot_be_made(job: Job) -> None:
    (job.folder / "file").write_text("")
    job.run_dir = job.folder / "file" / "run"
    for ranks in (1, 2):
        expect(job.run(ranks), 1, r"rank 0: .*run directory cannot be made")


def a_run_directory_that_is_taken(job: Job) -> None:
    mpirun = job.start(1, "--train.max_steps", "1000000")
    while not (job.run_dir / "metrics.jsonl").exists():
        time.sleep(0.05)
    expect(job.run(1), 1, r"another job has this run directory")
    mpirun.kill()
    mpirun.communicate()


CASES: list[Callable[[Job], None]] = [
    all_ranks_miss_a_file,
    an_unknown_setting,
    ranks_that_do_not_divide,
    masked_head_without_centroids,
    too_long_samples,
    one_rank_reads_a_damaged_sample,
    a_rank_is_killed,
    a_rank_is_stopped,
    a_loss_that_is_not_finite,
    a_step_without_a_label,
    a_run_that_is_finished,
    a_run_directory_that_cannot_be_made,
    a_run_directory_that_is_taken,
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    parser.add_argument("cases", nargs="*", help="names of cases; default: all")
    arguments = parser.parse_args()
    failed = []
    cases = [case for case in CASES if not arguments.cases or case.__name__ in arguments.cases]
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            begin = time.monotonic()
            try:
                case(Job(arguments.programs.resolve(), Path(folder)))
                print(f"passed  {case.__name__}  {time.monotonic() - begin:.1f} s", flush=True)
            except AssertionError as error:
                failed.append(case.__name__)
                print(f"FAILED  {case.__name__}: {error}", flush=True)
    print(f"{len(cases) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
