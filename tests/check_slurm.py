#!/usr/bin/env python3
"""The job scripts in a real Slurm: preempted by the warning signal, by `scontrol requeue` and by the death of a rank, a
run ends with the bits of one that was left alone; on one node and on two, under mpirun and under srun.

    .venv/bin/python tests/check_slurm.py PROGRAMS        (needs root: it starts a Slurm of its own)
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from check_resume import Run, finish
from job import FIXTURE, expect_same, wait_until
from local_slurm import Slurm, slurm_of_arguments

LIMIT = 60  # seconds to wait for any one thing
PIECE = 10  # steps between a job's disturbances
SRUN = "srun --mpi=pmix"


@dataclass
class Job:
    """Two ranks of a job script, under mpirun if no launcher is named."""

    slurm: Slurm
    name: str
    nodes: int
    launcher: str | None
    config: Path
    run: Run

    def __post_init__(self) -> None:
        self.log = self.run.directory.with_suffix(".log")
        self.target = 0

    def submit(self, *settings: str) -> None:
        script = "joint_drafter.slurm" if self.nodes == 1 else "joint_drafter_multinode.slurm"
        words = [self.config, self.run.directory, *settings]
        launcher = {"MTP_LAUNCH": self.launcher} if self.launcher else {}
        self.id = self.slurm.submit(self.nodes, 2 // self.nodes, script, self.log, *words, **launcher)

    @property
    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, what, LIMIT, pause=0.05, log=self.log)

    def reach_next_piece(self) -> None:
        self.target = max(self.target, self.run.steps_done) + PIECE
        self.wait_for(lambda: self.run.steps_done >= self.target, f"step {self.target}")

    def wait_for_start(self, number: int) -> None:
        self.wait_for(lambda: f"start {number}: " in self.text, f"start {number}")

    def wait_for_state(self, state: str) -> None:
        self.wait_for(lambda: self.slurm.state(self.id) == state, f"the state {state}")

    def kill_a_rank(self) -> None:
        found = subprocess.run(["pgrep", "-f", f"^[^ ]*/mtp-.*{self.run.directory}"], capture_output=True, text=True)
        os.kill(int(found.stdout.split()[-1]), signal.SIGKILL)


def write_config(path: Path) -> None:
    """The fixture's settings, for a run without an end that is saved often."""
    text = (FIXTURE / "settings.cfg").read_text()
    keep = [line for line in text.splitlines() if not line.startswith(("max_steps", "global_batch", "micro_batch"))]
    changed = "\n".join(keep).replace("[train]", "[train]\nmax_steps = 1000000\nglobal_batch = 4\nmicro_batch = 1")
    paths = f"[model]\nbase = {FIXTURE / 'base'}\ndrafter = {FIXTURE / 'drafter'}\n"
    paths += "[checkpoint]\nevery_steps = 5\n[run]\nthreads = 1\n"
    path.write_text(paths + changed.replace("[data]", f"[data]\ntrain = {FIXTURE / 'data.h5'}"))


def preempt(jobs: list[Job]) -> None:
    """All jobs at once, for most of the time goes by in Slurm's queue."""
    for job in jobs:
        job.submit()
    for job in jobs:
        job.reach_next_piece()
        job.slurm.call("scancel", "--signal=USR1", "--batch", job.id)  # what --signal=B:USR1@120 sends
    for job in jobs:
        job.wait_for(lambda job=job: "end with 75" in job.text, "the job to stop on the warning")
    for job in jobs:
        job.wait_for_start(1)
        job.reach_next_piece()
        job.slurm.call("scontrol", "requeue", job.id)
    for job in jobs:
        job.wait_for_start(2)
        job.reach_next_piece()
        job.kill_a_rank()
    for job in jobs:
        job.wait_for_state("FAILED")


def cancelled_jobs_stay_cancelled(jobs: list[Job]) -> None:
    """Slurm's SIGTERM makes srun's ranks save and leave with 75, as the warning does."""
    for job in jobs:
        job.submit()
    for job in jobs:
        job.reach_next_piece()
        job.slurm.call("scancel", job.id)
    for job in jobs:
        job.wait_for_state("CANCELLED")


def main() -> int:
    with slurm_of_arguments(__doc__) as (slurm, folder):
        config = folder / "fixture.cfg"
        write_config(config)

        def job(nodes: int, launcher: str | None, suffix: str = "") -> Job:
            name = f"{nodes}-nodes-{'srun' if launcher else 'mpirun'}{suffix}"
            return Job(slurm, name, nodes, launcher, config, Run(slurm.programs, folder / name))

        jobs = [job(nodes, launcher) for nodes in range(1, len(slurm.nodes()) + 1) for launcher in (None, SRUN)]
        cancelled = [job(1, launcher, "-cancelled") for launcher in (None, SRUN)]
        cancelled_jobs_stay_cancelled(cancelled)
        preempt(jobs)
        steps = str(max(job.run.steps_done for job in jobs) + PIECE)
        for each in jobs:
            each.submit("--train.max_steps", steps)
        whole = Run(slurm.programs, folder / "whole")
        command = ["--config", config, "--run.dir", whole.directory, "--train.max_steps", steps]
        finish(whole.start(2, "mtp-train", *command))
        for each in jobs:
            each.wait_for_state("COMPLETED")
            expect_same(each.run.directory, whole.directory)
        for each in cancelled:
            each.wait_for_state("CANCELLED")
    print(f"{len(jobs) + 1} passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
