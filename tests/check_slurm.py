#!/usr/bin/env python3
"""jobs/joint_drafter.slurm in a real Slurm: preempted by the warning signal, by `scontrol requeue` and by the death of a
rank, it ends with the bits of a run that was left alone.

    .venv/bin/python tests/check_slurm.py PROGRAMS        (needs root: it starts a Slurm of its own)
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from check_resume import FIXTURE, Run, expect_same, finish
from job import MPI

ROOT = Path(__file__).resolve().parents[1]
STEPS = 1000
LIMIT = 180  # seconds for a whole job, its requeues included


class Slurm:
    def __init__(self, folder: Path):
        self.folder = folder
        self.env = os.environ | MPI | {"SLURM_CONF": str(folder / "slurm.conf"), "MTP_LAUNCH": "mpirun --oversubscribe"}

    def __enter__(self) -> "Slurm":
        subprocess.run([ROOT / "scripts" / "slurm_local.sh", "start", self.folder], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([ROOT / "scripts" / "slurm_local.sh", "stop", self.folder], check=True)

    def call(self, *words: object) -> str:
        result = subprocess.run([str(w) for w in words], env=self.env, capture_output=True, text=True)
        assert result.returncode == 0, f"{words}: {result.stderr}"
        return result.stdout

    def submit(self, programs: Path, config: Path, run: Path, log: Path) -> str:
        self.env["MTP_BIN"] = str(programs)
        options = ["--ntasks=2", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1", "--parsable"]
        options += [f"--output={log}", f"--chdir={ROOT}"]
        return self.call("sbatch", *options, ROOT / "jobs" / "joint_drafter.slurm", config, run).strip()

    def state(self, job: str) -> str:
        fields = self.call("scontrol", "show", "job", job)
        return fields.split("JobState=")[1].split()[0]


def wait_for(condition, what: str) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"waited {LIMIT} s for {what}"
        time.sleep(0.05)


def trainers() -> list[int]:
    found = subprocess.run(["pgrep", "-f", "bin/mtp-(train|resume) "], capture_output=True, text=True).stdout.split()
    names = {pid: Path(f"/proc/{pid}/comm") for pid in map(int, found)}
    return [pid for pid, comm in names.items() if comm.exists() and comm.read_text().startswith("mtp-")]


def write_config(path: Path) -> None:
    text = (FIXTURE / "settings.cfg").read_text()
    keep = [line for line in text.splitlines() if not line.startswith(("max_steps", "global_batch", "micro_batch"))]
    changed = "\n".join(keep).replace("[train]", f"[train]\nmax_steps = {STEPS}\nglobal_batch = 12\nmicro_batch = 1")
    paths = f"[model]\nbase = {FIXTURE / 'base'}\ndrafter = {FIXTURE / 'drafter'}\n"
    paths += "[checkpoint]\nevery_steps = 20\n[run]\nthreads = 1\n"
    path.write_text(paths + changed.replace("[data]", f"[data]\ntrain = {FIXTURE / 'data.h5'}"))


def preempted(slurm: Slurm, programs: Path, config: Path, run: Run, log: Path) -> None:
    job = slurm.submit(programs, config, run.directory, log)

    def reach(steps: int) -> None:
        target = run.steps_done + steps
        wait_for(lambda: run.steps_done >= target, f"step {target}; the log: {log.read_text() if log.exists() else '-'}")

    reach(10)
    slurm.call("scancel", "--signal=USR1", "--batch", job)  # what --signal=B:USR1@120 sends
    wait_for(lambda: "end with 75" in log.read_text(), "the job to stop on the warning")
    wait_for(lambda: log.read_text().count("mtp-resume") >= 1, "the job to start again")
    reach(10)
    slurm.call("scontrol", "requeue", job)
    wait_for(lambda: log.read_text().count("mtp-resume --from") >= 2, "the requeued job to start again")
    reach(30)
    os.kill(trainers()[0], signal.SIGKILL)
    wait_for(lambda: slurm.state(job) == "FAILED", "the job to fail with its rank")
    last = slurm.submit(programs, config, run.directory, log)
    wait_for(lambda: slurm.state(last) == "COMPLETED", "the last job to end")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    programs = parser.parse_args().programs.resolve()
    with tempfile.TemporaryDirectory() as name, Slurm(Path(name) / "slurm") as slurm:
        folder = Path(name)
        config = folder / "fixture.cfg"
        write_config(config)
        run = Run(programs, folder / "run")
        preempted(slurm, programs, config, run, folder / "job.log")
        whole = Run(programs, folder / "whole")
        finish(whole.start(2, "mtp-train", "--config", config, "--run.dir", whole.directory))
        expect_same(run, whole)
    print("1 passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
