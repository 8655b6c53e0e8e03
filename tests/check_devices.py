#!/usr/bin/env python3
"""mtp-train on GPUs, which the emulation of tests/cuda_emulation stands in for: sixteen on this node, with NCCL.

    tests/check_devices.py EMULATED_PROGRAMS --cpu-programs PROGRAMS

The bits of one rank on any number of ranks, whatever tensors travel by; and what cannot be, or goes wrong, ends the job
with one line.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from job import FIXTURE, MPI, Job, comparable_lines, expect, run_cases

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
    assert re.search(r"emulated GPU, .*; 1 GiB; 1 ranks .* computing in fp32", device), device
    ways = [(2, "auto", "NCCL"), (4, "nccl", "NCCL"), (2, "staged", "MPI, staged")]
    for ranks, choice, transport in ways:
        got = train(job, ranks, "--dist.transport", choice, "--train.recompute", str(ranks == 4).lower())
        assert got[:2] == (lines, weights), f"other bits on {ranks} ranks by {choice}"
        assert f"tensors by {transport}" in got[2], got[2]


def fast_sums_of_two_ranks(job: Job) -> None:
    """Which have one order only: whether gradients are exchanged while the next layer computes changes nothing."""
    ways = [train(job, 2, "--dist.reduction", "fast", "--dist.transport", way)[:2] for way in ("staged", "nccl")]
    assert ways[0] == ways[1]


def the_same_bits_of_experts_that_ranks_keep_between_them(job: Job) -> None:
    job.fixture = FIXTURE.parent / "experts_26b"
    one = train(job, 1)[:2]
    for ranks, transport in ((2, "staged"), (4, "nccl")):
        got = train(job, ranks, "--dist.expert_parallel", "2", "--dist.transport", transport)
        assert got[:2] == one, f"other bits on {ranks} ranks by {transport}"


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
    change = "another kind of device, cuda emulated GPU, .*; this is cpu, oneDNN"
    assert result.returncode == 2 and re.search(change, result.stderr), result


def ranks_that_share_a_gpu(job: Job) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = "4,2"
    batch = ("--train.global_batch", "3", "--train.max_steps", "1")
    expect(job.run(3, *batch, "--dist.transport", "nccl"), 2, "dist.transport: nccl cannot be used: ranks 0 and 2 share a GPU")
    result = job.run(3, *batch)
    del os.environ["CUDA_VISIBLE_DEVICES"]
    said = re.findall(r"tensors by MPI, staged through the host .ranks 0 and 2 share a GPU", result.text)
    assert result.code == 0 and len(said) == 1, result.text


def run_ranks(
    job: Job, environments: list[str], *extra: str, programs: Path | None = None
) -> subprocess.CompletedProcess:
    """A rank for each environment, such as "CUDA_VISIBLE_DEVICES=2"."""
    settings = [word for pair in job.settings(*STEPS, *extra).items() for word in map(str, pair)]
    command = ["mpirun", "--oversubscribe", "--bind-to", "none"]
    for environment in environments:
        command += ["-n", "1", "env", environment, str((programs or job.programs) / "mtp-train"), *settings, ":"]
    return subprocess.run(command[:-1], env=os.environ | MPI, capture_output=True, text=True, timeout=60)


def refusal(result: subprocess.CompletedProcess) -> str:
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 2 and len(errors) == 1, result
    return errors[0]


def ranks_that_share_a_gpu_as_machines_of_their_own(job: Job) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = "4"
    refused = run_ranks(job, ["NCCL_HOSTID=one", "NCCL_HOSTID=one"], "--dist.transport", "nccl")
    result = run_ranks(job, ["NCCL_HOSTID=one", "NCCL_HOSTID=other"], "--dist.transport", "nccl")
    del os.environ["CUDA_VISIBLE_DEVICES"]
    assert "nccl cannot be used: ranks 0 and 1 share a GPU" in refusal(refused), refused
    assert result.returncode == 0 and "tensors by NCCL" in result.stdout + result.stderr, result


def ranks_that_would_compute_other_bits(job: Job) -> None:
    others = {
        "NAME=emulated GPU of another kind": "cuda emulated GPU of another kind",
        "MULTIPROCESSORS=3": "3 multiprocessors",
        "DRIVER=12090": "driver 12.9",
        "RUNTIME=12080": "CUDA runtime 12.8",
        "CUBLASLT=13.1.0": "cuBLASLt 13.1.0",
        "NCCL=22707": "NCCL 2.27.7",
    }
    alike = "A=alike"
    for other, named in others.items():
        line = refusal(run_ranks(job, [alike, alike, f"EMULATED_{other}"]))
        here = r"rank 0 has cuda emulated GPU, 2 multiprocessors, .* NCCL 2\.28\.9, rank 2 has .*"
        assert re.search(here + re.escape(named) + ".*: they would", line), line
    line = refusal(run_ranks(job, [alike, "ONEDNN_MAX_CPU_ISA=SSE41"], programs=CPU_PROGRAMS))
    assert re.search(r"rank 0 has cpu, oneDNN .*, rank 1 has cpu, oneDNN .* with sse41: they would", line), line
    assert not job.run_dir.exists(), "a refused run left its directory"


def a_processor_of_another_kind_goes_on_only_if_that_is_meant(job: Job) -> None:
    result = run_ranks(job, ["A=alike"], programs=CPU_PROGRAMS)
    assert result.returncode == 0, result
    command = [CPU_PROGRAMS / "mtp-resume", "--from", job.run_dir, "--train.max_steps", "3"]
    lesser = {"env": os.environ | {"ONEDNN_MAX_CPU_ISA": "SSE41"}, "capture_output": True, "text": True}
    line = refusal(subprocess.run(command, **lesser))
    assert re.search(r"another kind of device, cpu, oneDNN .*; this is cpu, oneDNN .* with sse41; --allow", line), line
    result = subprocess.run([*command, "--allow-change", "run.device"], **lesser)
    assert result.returncode == 0, result


def a_launcher_that_shows_each_rank_its_gpu(job: Job) -> None:
    result = run_ranks(job, ["CUDA_VISIBLE_DEVICES=2", "CUDA_VISIBLE_DEVICES=3"])
    assert result.returncode == 0 and "tensors by NCCL" in result.stdout + result.stderr, result


def a_rank_without_a_gpu(job: Job) -> None:
    line = refusal(run_ranks(job, ["CUDA_VISIBLE_DEVICES=0", "CUDA_VISIBLE_DEVICES="]))
    assert re.search(r"run\.device: rank 1 has no GPU: .*, although others have; use nodes", line), line


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


def time_by_operation_and_ranges_for_profilers(job: Job) -> None:
    steps = ("--train.max_steps", "3", "--run.profile", "true")
    for ranks, programs in ((2, job.programs), (1, CPU_PROGRAMS)):
        job.run_dir = job.folder / f"run-{ranks}"
        ranges = job.folder / f"ranges-{ranks}"
        environments = [f"EMULATED_RANGES={ranges}-{rank}" for rank in range(ranks)]
        result = run_ranks(job, environments, *steps, programs=programs)
        assert result.returncode == 0, result
        profile = json.loads((job.run_dir / "profile.json").read_text())
        rows = profile["operations"]
        assert profile["steps"] == 2, profile["steps"]  # all but the first
        assert profile["seconds_in_operations"] <= profile["seconds"], profile
        assert abs(sum(row["seconds"] for row in rows) - profile["seconds_in_operations"]) < 1e-9
        assert rows == sorted(rows, key=lambda row: -row["seconds"])
        calls = {(row["part"], row["operation"]): row["calls"] for row in rows}
        micro_batches = 2 * 4 // ranks
        for operation in ("attention_forward", "attention_backward"):
            assert calls["base.layers.0", operation] == micro_batches, calls
            assert calls["drafter.layers.0", operation] == 4 * micro_batches, calls  # a round each
        assert calls["", "adamw"] == 2, calls
        assert ("base.layers.0", "gather") in calls or ranks == 1, calls
        memory = profile["memory"]["device"]
        held = memory.pop("held")
        peak = json.loads((job.run_dir / "metrics.jsonl").read_text().splitlines()[-1])["memory_peak"]
        assert sum(memory.values()) == held == peak, (memory, held, peak)
        assert min(memory["weights"], memory["moments"], memory["gradient sums"], memory["activations"]) > 0, memory
    lines = (job.folder / "ranges-2-0").read_text().splitlines()
    layer = lines[lines.index("begin base.layers.0") :]
    layer = layer[: layer.index("end base.layers.0")]
    assert "begin attention_forward" in layer and "end attention_forward" in layer, layer
    uses = 3 * 4 // 2 * 2 * 2  # of this rank, forward and backward, of the gathered unit and of the layer within
    assert lines.count("begin base.layers.0") == lines.count("end base.layers.0") == uses, lines


CASES = [the_same_bits_by_any_transport, fast_sums_of_two_ranks,
         the_same_bits_of_experts_that_ranks_keep_between_them,
         bf16_is_the_default_on_gpus, ranks_that_share_a_gpu,
         ranks_that_share_a_gpu_as_machines_of_their_own, ranks_that_would_compute_other_bits,
         a_processor_of_another_kind_goes_on_only_if_that_is_meant,
         time_by_operation_and_ranges_for_profilers,
         a_launcher_that_shows_each_rank_its_gpu, a_rank_without_a_gpu, a_rank_is_killed, a_rank_is_stopped]

if __name__ == "__main__":
    sys.exit(run_cases(__doc__, {case.__name__: case for case in CASES}))
