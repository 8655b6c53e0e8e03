#!/usr/bin/env python3
"""jobs/bench_cluster.slurm in a real Slurm names what is slow in its report: a rank that is stopped three quarters of
the time, its node, and a node's disk that writes through.

    .venv/bin/python tests/check_bench_cluster.py PROGRAMS        (needs root: it starts a Slurm of its own)
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from job import wait_until
from local_slurm import Slurm, slurm_of_arguments

LIMIT = 200  # seconds for the job
RANKS = 2  # of each node
SLOW_RANK = 1  # of the last node


def slow_processes(node: str) -> list[int]:
    found = []
    for pid in map(int, subprocess.run(["pgrep", "^mtp-bench"], capture_output=True, text=True).stdout.split()):
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        if {f"SLURMD_NODENAME={node}".encode(), f"OMPI_COMM_WORLD_LOCAL_RANK={SLOW_RANK}".encode()} <= set(variables):
            found.append(pid)
    return found


class SlowRank:
    """Stops a rank of the benchmarks for 15 of 20 milliseconds."""

    def __init__(self, node: str):
        self.node = node
        self.thread = threading.Thread(target=self.run)
        self.ended = threading.Event()

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -20)
        while not self.ended.is_set():
            pids = slow_processes(self.node)
            for _ in range(50):
                self.send(pids, signal.SIGSTOP)
                time.sleep(0.015)
                self.send(pids, signal.SIGCONT)
                time.sleep(0.005)

    @staticmethod
    def send(pids: list[int], number: signal.Signals) -> None:
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass


def slow_disk(slurm: Slurm, node: str, folder: Path, image: Path) -> None:
    """On the node alone, the folder is a file system that writes every block at once. It goes with the node."""
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(600 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    mount = ["mount", "-o", "loop,sync", image, folder]
    subprocess.run(["nsenter", "--mount", "--target", slurm.process_inside(node), *mount], check=True)


def run_job(slurm: Slurm, folder: Path) -> str:
    """What the job said at its end."""
    log = folder / "job.log"
    words = ["--quick", folder / "results", folder / "disk"]
    job = slurm.submit(len(slurm.nodes()), RANKS, "bench_cluster.slurm", log, *words)
    running = ("PENDING", "RUNNING", "COMPLETING")
    wait_until(lambda: slurm.state(job) not in running, "the job's end", LIMIT, pause=0.2, log=log)
    assert slurm.state(job) == "COMPLETED", log.read_text()
    return log.read_text()


def main() -> int:
    with slurm_of_arguments(__doc__) as (slurm, folder):
        nodes = slurm.nodes()
        slow = nodes[-1]
        if len(nodes) > 1:
            slow_disk(slurm, slow, folder / "disk", folder / "image")
        with SlowRank(slow):
            said = run_job(slurm, folder)
        expected = [f"slow rank: rank {SLOW_RANK} of {slow}"]
        expected += [f"slow node: {slow}", f"slow disk: {slow}"] if len(nodes) > 1 else []
        for line in expected:
            assert line in said, f"no {line!r} in:\n{said}"
        for report in ("report.html", "report.md"):
            text = (folder / "results" / report).read_text()
            assert f"rank {SLOW_RANK} of {slow}" in text and "Decoding" in text, text
    print("1 passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
