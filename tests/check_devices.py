#!/usr/bin/env python3
"""mtp-train on GPUs, which the emulation of tests/cuda_emulation stands in for: sixteen on this node, with NCCL.

    tests/check_devices.py EMULATED_PROGRAMS --cpu-programs PROGRAMS

The bits of one rank on any number of ranks, whatever tensors travel by; and what cannot be, or goes wrong, ends the job
with one line.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from job import MPI, Job, comparable_lines, expect, run_cases

CPU_PROGRAMS = Path(sys.argv.pop()).resolve()
sys.argv.remove("--cpu-programs")

STEPS = ("--train.max_steps", "2", "--train.global_batch", "4")


def train(job: Job, ranks: int, *extra: str) -> tuple:
    """The metrics and weights of a run, and what it says of its device."""
    job.run_dir = job.folder / f"run-{ranks}{''.join(extra)}".replace("/", "-")
    result = job.run(ranks, *STEPS, *extra)
    assert result.code == 0, result.text
    hf = job.run_dir / "hf"
    subprocess.run([CPU_PROGRAMS / "mtp-export-hf", "--from", job.run_dir, "--out", hf], check=True, capture_output=True)
    weights = [path.read_bytes() for path in sorted(hf.rglob("*.safetensors"))]
    lines = comparable_lines(job.run_dir / "metrics.jsonl")
    assert len(lines) == 2 and len(weights) == 2
    return lines, weights, re.search(r"device cuda .*", result.text)[0]


def the_same_bits_by_any_transport(job: Job) -> None:
    lines, weights, device = train(job, 1)
    assert re.search(r"emulated GPU, 1 GiB; 1 ranks .* computing in fp32", device), device
    ways = [(2, "auto", "NCCL"), (4, "nccl", "NCCL"), (2, "staged", "staged")]
    for ranks, choice, transport in ways:
        got = train(job, ranks, "--dist.transport", choice, "--train.recompute", str(ranks == 4).lower())
        assert got[:2] == (lines, weights), f"other bits on {ranks} ranks by {choice}"
        assert transport in got[2], got[2]


def bf16_is_the_default_on_gpus(job: Job) -> None:
    settings = job.fixture / "settings.cfg"
    settings.write_text(re.sub(r"compute_dtype *= *fp32\n", "", settings.read_text()))
    lines, weights, device = train(job, 1)
    assert "computing in bf16" in device, device
    assert "compute_dtype = bf16" in (job.run_dir / "settings.cfg").read_text()
    assert train(job, 2)[:2] == (lines, weights)
    result = subprocess.run(
        [CPU_PROGRAMS / "mtp-resume", "--from", job.run_dir, "--run.device", "cpu", "--train.max_steps", "3"],
        capture_output=True, text=True,
    )
    assert result.returncode == 2 and "another kind of device, cuda emulated GPU, this is cpu" in result.stderr, result


def ranks_that_share_a_gpu(job: Job) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = "4,2"
    batch = ("--train.global_batch", "3", "--train.max_steps", "1")
    expect(job.run(3, *batch, "--dist.transport", "nccl"), 2, "dist.transport: nccl cannot be used: ranks 0 and 2 share a GPU")
    result = job.run(3, *batch)
    del os.environ["CUDA_VISIBLE_DEVICES"]
    said = re.findall(r"tensors by MPI, staged through the host .ranks 0 and 2 share a GPU", result.text)
    assert result.code == 0 and len(said) == 1, result.text


def run_with_gpus(job: Job, of_rank: list[str]) -> subprocess.CompletedProcess:
    """Each rank sees the GPUs that are named."""
    settings = [word for pair in job.settings(*STEPS).items() for word in map(str, pair)]
    command = ["mpirun", "--oversubscribe", "--bind-to", "none"]
    for gpus in of_rank:
        command += ["-n", "1", "env", f"CUDA_VISIBLE_DEVICES={gpus}", str(job.programs / "mtp-train"), *settings, ":"]
    return subprocess.run(command[:-1], env=os.environ | MPI, capture_output=True, text=True, timeout=60)


def a_launcher_that_shows_each_rank_its_gpu(job: Job) -> None:
    result = run_with_gpus(job, ["2", "3"])
    assert result.returncode == 0 and "tensors by NCCL" in result.stdout + result.stderr, result


def a_rank_without_a_gpu(job: Job) -> None:
    result = run_with_gpus(job, ["0", ""])
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 2 and len(errors) == 1, result
    assert re.search(r"run\.device: rank 1 has no GPU: .*, although others have; use nodes", errors[0]), errors


def a_rank_is_killed(job: Job) -> None:
    mpirun, pids = job.start_training(2)
    os.kill(pids[1], signal.SIGKILL)
    result = job.wait(mpirun)
    assert result.code != 0 and result.seconds < 10, result


def a_rank_is_stopped(job: Job) -> None:
    for transport in ("nccl", "staged"):
        mpirun, pids = job.start_training(2, "--dist.transport", transport, "--dist.timeout_minutes", "0.03")
        os.kill(pids[1], signal.SIGSTOP)
        line = r"rank 0: no answer from rank 1 for 0.03 minutes .*timeout_minutes.* in the [a-z]+ of [a-z]+"
        expect(job.wait(mpirun), 1, line)


CASES = [the_same_bits_by_any_transport, bf16_is_the_default_on_gpus, ranks_that_share_a_gpu,
         a_launcher_that_shows_each_rank_its_gpu, a_rank_without_a_gpu, a_rank_is_killed, a_rank_is_stopped]

if __name__ == "__main__":
    sys.exit(run_cases(__doc__, {case.__name__: case for case in CASES}))
