"""mtp-train under mpirun on a fixture that a case damages first; for the checks of faults and of bad input."""

import argparse
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

FIXTURE = Path(__file__).parent / "fixtures" / "e4b"
# What MPI keeps of a job; killed ones do not remove it.
SESSIONS = tempfile.TemporaryDirectory(prefix="mpi-", ignore_cleanup_errors=True)
MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "TMPDIR": SESSIONS.name}
# What a line of metrics.jsonl says of how a run was carried out, not of what it computed.
VARYING = {"step_time", "tokens_per_second", "memory_peak", "ranks"}
LIMIT = 20  # seconds within which a job that failed must be gone


@dataclass
class Result:
    code: int
    text: str
    seconds: float

    @property
    def errors(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.startswith("error: ")]


# Of the MPI that the programs were built with; CTest names it.
MPIRUN = os.environ.get("MTP_MPIRUN", "mpirun")


@functools.cache
def is_open_mpi() -> bool:
    """It alone must be told that there may be more ranks than cores."""
    said = subprocess.run([MPIRUN, "--version"], capture_output=True, text=True, env=os.environ | MPI).stdout
    return any(name in said for name in ("Open MPI", "OpenRTE"))  # its mpirun, its mpiexec


def mpirun(ranks: int) -> list[str]:
    options = ["--oversubscribe", "--bind-to", "none"] if is_open_mpi() else []
    return [MPIRUN, *options, "-n", str(ranks)]


def comparable_lines(path: Path) -> list[dict]:
    """metrics.jsonl or validation.jsonl, without what may differ between runs of the same bits."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in VARYING} for line in lines]


def tensors(checkpoint: Path) -> dict[str, bytes]:
    """Weights and moments."""
    found = {}

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()].tobytes()

    with h5py.File(checkpoint / "state.h5") as state:
        state.visititems(add)
    return found


def expect_same(run_dir: Path, whole_dir: Path) -> None:
    """The same metrics, and the same bits in the newest checkpoint."""
    ours, theirs = (comparable_lines(path / "metrics.jsonl") for path in (run_dir, whole_dir))
    assert ours == theirs, "metrics.jsonl differs"
    ours, theirs = (tensors(path / "checkpoints" / "latest") for path in (run_dir, whole_dir))
    assert ours.keys() == theirs.keys() and len(theirs) > 100
    different = [name for name in theirs if ours[name] != theirs[name]]
    assert not different, f"{len(different)} tensors differ, the first is {different[0]}"


def wait_until(
    condition: Callable[[], bool],
    what: str,
    seconds: float = 30,
    pause: float = 0.02,
    job: subprocess.Popen | None = None,
    log: Path | None = None,
) -> None:
    """Asks every `pause` seconds. A job that ends meanwhile fails the check. A failure shows the log's end."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            said = log.read_text()[-4000:] if log and log.exists() else ""
            raise AssertionError(f"waited {seconds} s for {what}\n{said}")
        assert job is None or job.poll() is None, job.communicate()[0]
        time.sleep(pause)


def children_of(process: subprocess.Popen) -> list[int]:
    """The ranks of an mpirun; MPICH's has a process between itself and them."""

    def below(pid: int) -> list[int]:
        found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
        return [int(child) for child in found.stdout.split()]

    children = below(process.pid)
    return [grandchild for child in children for grandchild in below(child)] or children


def kill_job(job: subprocess.Popen) -> None:
    """kill -9 of mpirun and of every rank, or of the one process that runs without mpirun."""
    for pid in [job.pid, *children_of(job)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    job.communicate()


def complete_checkpoints(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "checkpoints").glob("step_*"))


def newest_checkpoint(run_dir: Path) -> int:
    """The step of the newest complete one; 0 where there is none."""
    found = complete_checkpoints(run_dir)
    return int(found[-1].name.removeprefix("step_")) if found else 0


class Job:
    """mtp-train on a copy of the fixture, which a case may damage first."""

    def __init__(self, programs: Path, folder: Path):
        self.programs, self.folder = programs, folder
        self.fixture = folder / "fixture"
        self.run_dir = folder / "run"
        shutil.copytree(FIXTURE, self.fixture)

    def settings(self, *extra: str) -> dict[str, object]:
        settings = {
            "--config": self.fixture / "settings.cfg",
            "--model.base": self.fixture / "base",
            "--model.drafter": self.fixture / "drafter",
            "--data.train": self.fixture / "data.h5",
            "--run.dir": self.run_dir,
            "--train.global_batch": "12",
            "--train.micro_batch": "1",
        }
        return settings | dict(zip(extra[::2], extra[1::2], strict=True))

    def start(self, ranks: int, *extra: str, **options: object) -> subprocess.Popen:
        words = [word for pair in self.settings(*extra).items() for word in pair]
        return self.start_program(ranks, "mtp-train", *words, **options)

    def check(self, *extra: str) -> Result:
        """`mtp-train --check` of what `run` would run."""
        words = [word for pair in self.settings(*extra).items() for word in pair]
        return self.run_program(1, "mtp-train", "--check", *words)

    def start_program(self, ranks: int, program: str, *words: object, **options: object) -> subprocess.Popen:
        # One rank needs no mpirun, which takes two seconds to notice that it has failed.
        command = [*(mpirun(ranks) if ranks > 1 else []), self.programs / program, *words]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env=os.environ | MPI, text=True, **pipes, **options)

    def run_program(self, ranks: int, program: str, *words: object) -> Result:
        return self.wait(self.start_program(ranks, program, *words), limit=6 * LIMIT)

    def resume(self, ranks: int, source: Path, *words: object) -> Result:
        return self.run_program(ranks, "mtp-resume", "--from", source, *words)

    def run(self, ranks: int, *extra: str) -> Result:
        return self.wait(self.start(ranks, *extra))

    def wait(self, process: subprocess.Popen, limit: int = LIMIT) -> Result:
        begin = time.monotonic()
        try:
            text, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"still running after {limit} s") from None
        return Result(process.returncode, text, time.monotonic() - begin)

    def start_training(self, ranks: int, *extra: str, **options: object) -> tuple[subprocess.Popen, list[int]]:
        """mpirun and its ranks' processes, once a step is done of a run without an end."""
        shutil.rmtree(self.run_dir, ignore_errors=True)
        job = self.start(ranks, "--train.max_steps", "1000000", *extra, **options)
        metrics = self.run_dir / "metrics.jsonl"
        wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, "the first step", seconds=120, job=job)
        pids = children_of(job) if ranks > 1 else [job.pid]
        assert len(pids) == ranks, pids
        return job, pids


def expect(result: Result, code: int, line: str, times: int = 1) -> None:
    assert result.code == code, f"exit code {result.code}, not {code}:\n{result.text}"
    matching = [error for error in result.errors if re.search(line, error)]
    assert len(matching) == times and len(result.errors) == times, f"expected {times} × {line!r}:\n{result.text}"


def run_cases(
    description: str, cases: dict[str, Callable[[Any], None]], make: Callable[[Path, Path], Any] = Job
) -> int:
    """Gives each case what `make` makes of the programs' folder and an empty one."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    parser.add_argument("cases", nargs="*", help="names of cases; default: all")
    arguments = parser.parse_args()
    chosen = {name: case for name, case in cases.items() if not arguments.cases or name in arguments.cases}
    failed = 0
    for name, case in chosen.items():
        with tempfile.TemporaryDirectory() as folder:
            begin = time.monotonic()
            try:
                case(make(arguments.programs.resolve(), Path(folder)))
                print(f"passed  {name}  {time.monotonic() - begin:.1f} s", flush=True)
            except AssertionError as error:
                failed += 1
                print(f"FAILED  {name}: {error}", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0
