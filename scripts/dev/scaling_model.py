#!/usr/bin/env python3
"""A joint training step's time and memory on 1 to 1024 GPUs, from its bytes and FLOPs (docs/scaling.md).

    scripts/dev/scaling_model.py build/release/bin --out docs/scaling.png   # the plot, and the tables in Markdown
    scripts/dev/scaling_model.py build/release/bin --measure                # predicts 1, 2 and 4 ranks, times them

FLOPs and memory are what `mtp-train --plan` says, of GPUs if it has a back end for them (--planner).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mtp_tools.bench.costs import FP32, H100, KINDS, PAIRS, Machine, Pair, Step, fitted, times
from mtp_tools.plan import Plan, make_configs, planned

RANKS = [2**i for i in range(11)]
MEASURED_RANKS = (1, 2, 4)
MICROSECOND = 1e-6


class Planner:
    """Plans of steps of the published pairs on GPUs."""

    def __init__(self, programs: Path, makers: Path, folder: Path, length: int, micro_batches: int) -> None:
        self.programs, self.micro_batches = programs, micro_batches
        self.pairs = {name: make_configs(makers, name, "bf16", folder / name) for name in ("e4b", "31b")}
        self.options = ["--run.device", "cuda", "--length", str(length)]

    def plan(self, name: str, ranks: int, *options: str) -> Plan:
        job = ["--ranks", str(ranks), "--train.global_batch", str(ranks * self.micro_batches)]
        return planned(self.programs, self.pairs[name], *self.options, *job, *options)

    def memory(self, name: str, ranks: int, *options: str) -> float:
        return self.plan(name, ranks, *options).device["held"] / 1e9

    def flops(self, name: str) -> float:
        return self.plan(name, 1).flops / self.micro_batches


def table(name: str, step: Step, machine: Machine, sizes: list[float]) -> str:
    """Markdown. Efficiency is the share of compute in the step. `sizes`: GB of memory on so many RANKS."""
    columns = ["GPUs", f"{name}: compute, s", "gathers", "reduction: one exchange", "node first", "fast"]
    columns += ["step: one exchange", "node first", "node first, overlapped", "fast, overlapped"]
    columns += ["efficiency: node first", "node first, overlapped", "memory, GB"]
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for ranks, size in zip(RANKS, sizes, strict=True):
        by = {kind: times(PAIRS[name], replace(step, reduction=kind), machine, ranks) for kind in KINDS}
        ordered, first, fast = by.values()
        seconds = [ordered.compute, ordered.gather, ordered.reduce, first.reduce, fast.reduce]
        seconds += [ordered.total, first.total, first.hidden, fast.hidden]
        numbers = [f"{value:.2f}" for value in [*seconds, first.compute / first.total, first.compute / first.hidden]]
        lines.append(f"| {ranks} | {' | '.join(numbers)} | {size:.0f} |")
    return "\n".join(lines)


def draw(steps: dict[str, Step], machine: Machine, planner: Planner, out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    for (name, step), row in zip(steps.items(), panels, strict=True):
        pair = PAIRS[name]
        for kind in KINDS:
            of_ranks = [times(pair, replace(step, reduction=kind), machine, ranks) for ranks in RANKS]
            lines = {"one exchange" if kind == "ordered" else kind: [t.total for t in of_ranks]}
            if kind == "node-first":
                lines["node-first, overlapped"] = [t.hidden for t in of_ranks]
            for label, seconds in lines.items():
                shares = [t.compute / total for t, total in zip(of_ranks, seconds, strict=True)]
                row[0].plot(RANKS, seconds, "o-", markersize=3, label=label)
                row[1].plot(RANKS, shares, "o-", markersize=3, label=label)
        for recompute in ("false", "true"):
            sizes = [planner.memory(name, ranks, "--train.recompute", recompute) for ranks in RANKS]
            label = "recomputed" if recompute == "true" else "kept activations"
            row[2].plot(RANKS, sizes, "o-", markersize=3, label=label)
        row[2].axhline(80, color="black", linewidth=0.8, linestyle=":")
        row[0].set(title=f"{name}: step, s", ylim=(0, None))
        row[1].set(title=f"{name}: compute's share of the step", ylim=(0, 1))
        row[2].set(title=f"{name}: memory a rank, GB (dotted: 80)", yscale="log")
        for panel in row:
            panel.set_xscale("log", base=2)
            panel.set(xlabel="GPUs")
            panel.grid(alpha=0.25)
            panel.legend(frameon=False)
    figure.savefig(out, dpi=110)


def benchmark(programs: Path, ranks: int, program: str, *options: str) -> dict[str, dict]:
    """Name → counters of a benchmark program's run on this machine."""
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        words = ["mpirun", *root, "--oversubscribe", "--bind-to", "none", "-n", str(ranks), str(programs / program)]
        words += ["--threads", "1", "--benchmark_min_time=0.01", f"--benchmark_out={out}", *options]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return {run["name"].removesuffix("/manual_time"): run for run in json.loads(out.read_text())["benchmarks"]}


def calibrated(programs: Path, pair: Pair, step: Step, seconds: float) -> Machine:
    """This machine: rates from the floors, the efficiency of compute from the seconds of a step on one rank."""
    operations = benchmark(programs, 1, "mtp-bench-ops", "--benchmark_filter=^floor/")
    filters = "--benchmark_filter=^(gather|exchange)/"
    collectives = benchmark(programs, 2, "mtp-bench-comm", "--max-bytes", "16777216", filters)
    rate = max(run["flops"] / run["fastest"] for name, run in operations.items() if name.startswith("floor/matrix"))
    updates, size = operations["floor/update/134217728"], 4194304
    latency = collectives["exchange/4096"]["fastest"]
    machine = Machine(
        rate=rate,
        efficiency=1,
        memory=updates["bytes"] / updates["fastest"],
        gather=size / 2 / collectives[f"gather/{size}"]["fastest"],
        exchange=size / 2 / collectives[f"exchange/{size}"]["fastest"],
        between=math.inf,
        ranks_per_node=max(MEASURED_RANKS),
        latency=latency,
        message=latency,
        cores=len(os.sched_getaffinity(0)),
    )
    return fitted(machine, pair, step, 1, seconds)


def measure(programs: Path, name: str, repeats: int) -> None:
    """Ranks take turns, and the fastest of their steps counts. What the model predicts is compared with the processor
    time of a rank, times the ranks that share a core, and with the clock, which other work on the machine slows."""
    pair, micro_batches = PAIRS[name], 2
    runs: dict[int, list[dict]] = {ranks: [] for ranks in MEASURED_RANKS}
    for _ in range(repeats):
        for ranks in runs:
            runs[ranks] += benchmark(programs, ranks, "mtp-bench-step", "--preset", name).values()
    processor = {ranks: min(run["cpu_time"] for run in of) * MICROSECOND for ranks, of in runs.items()}
    flops = runs[1][0]["flops"] / micro_batches
    step = Step(flops, length=512, micro_batches=micro_batches, dtype=FP32)
    machine = calibrated(programs, pair, step, processor[1])
    print(f"{machine}\n\n| ranks | predicted, s | processor, s | ratio | clock, s | ratio | memory, MB |")
    print("|" + " --- |" * 7)
    for ranks, of in runs.items():
        predicted = times(pair, step, machine, ranks).total
        seconds, clock = processor[ranks] * machine.crowding(ranks), min(run["fastest"] for run in of)
        print(f"| {ranks} | {predicted:.3f} | {seconds:.3f} | {predicted / seconds:.2f} "
              f"| {clock:.3f} | {predicted / clock:.2f} | {of[0]['memory_peak'] / 1e6:.0f} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path, help="the folder of the programs")
    parser.add_argument("--planner", type=Path, help="that of an mtp-train for GPUs (PROGRAMS)")
    parser.add_argument("--out", type=Path, help="where the plot goes")
    parser.add_argument("--measure", action="store_true", help="steps of this machine")
    parser.add_argument("--preset", choices=["17m", "small"], default="17m", help="of --measure")
    parser.add_argument("--repeats", type=int, default=3, help="of --measure")
    parser.add_argument("--length", type=int, default=2048, help="positions of a micro-batch (%(default)s)")
    parser.add_argument("--micro-batches", type=int, default=4, help="of each rank in a step (%(default)s)")
    options = parser.parse_args()
    if options.measure:
        return measure(options.programs, options.preset, options.repeats)
    with tempfile.TemporaryDirectory() as folder:
        planner = Planner(options.planner or options.programs, options.programs, Path(folder), options.length,
                          options.micro_batches)  # fmt: skip
        steps = {name: Step(planner.flops(name), options.length, options.micro_batches) for name in planner.pairs}
        for name, step in steps.items():
            print(table(name, step, H100, [planner.memory(name, ranks) for ranks in RANKS]) + "\n")
        if options.out:
            draw(steps, H100, planner, options.out)


if __name__ == "__main__":
    main()
