#!/usr/bin/env python3
"""The benchmark programs run on two ranks, find their results right, and write JSON with context and counters.

    tests/check_bench.py PROGRAMS [ops|comm|step|checkpoint]

Times are not judged: what a benchmark says of a slow rank or a wrong result is tested in tests/bench.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from job import MPI, mpirun

RANKS = 2
CONTEXT = {"program", "version", "revision", "hosts", "ranks", "nodes", "ranks_per_node", "threads", "cpu", "gpu"}
CONTEXT |= {"device", "Boost", "HDF5", "fmt", "spdlog", "oneDNN", "MPI"}
COUNTERS = {"bytes", "flops", "fastest", "slowest_rank", "imbalance"}
FLOOR = {"floor_time", "share_of_floor"}
COLLECTIVE = FLOOR | {"algorithm_bandwidth", "bus_bandwidth"}
LINK = {"latency", "link_bandwidth"}
STEP = FLOOR | {"tokens", "tokens_per_second", "flops_utilisation", "memory_peak"}
STEP |= {"share_of_compute", "share_of_communication", "share_of_optimizer"}

OPERATIONS = """
rms_norm_forward rms_norm_backward add_rms_norm_forward add add_scaled scale accumulate concat_columns split_columns
copy_columns add_columns gated_gelu_forward gated_gelu_backward rope_forward rope_backward lookup_forward lookup_backward shift_rows_forward
shift_rows_backward linear_forward linear_backward_input linear_backward_weight attention_forward attention_backward
projected_cross_entropy projected_distillation projected_choice rowwise_linear rowwise_choice rowwise_attention
expert_linear_forward expert_linear_backward_input expert_linear_backward_weight
masked_cross_entropy masked_distillation masked_choice convert adamw sum_of_squares
""".split()


@dataclass
class Case:
    words: list[str]  # options
    kinds: dict[str, set[str]]  # first parts of names; the counters that such benchmarks have beside COUNTERS
    refused: tuple[str, ...] = ()  # options

    def kind_of(self, name: str) -> str:
        return next((kind for kind in self.kinds if f"{name}/".startswith(f"{kind}/")), name)


CASES = {
    "ops": Case(
        ["--benchmark_filter=floor/.*/131072|floor/matrix/256|/small/|masked_.*/17m/|expert_.*/26b-a4b/", "--dtype=fp32", "--dtype=bf16"],
        {"floor": FLOOR} | dict.fromkeys(OPERATIONS, FLOOR),
        ("--dtype=fp16", "--device=gpu"),
    ),
    "comm": Case(
        ["--max-bytes=65536"],
        {"barrier": FLOOR, "ping_pong": LINK}
        | dict.fromkeys(("gather", "exchange", "reduce_ordered", "reduce_fast"), COLLECTIVE),
        ("--max-bytes=1",),
    ),
    "step": Case(
        ["--preset=tiny", "--length=32", "--layer-groups=1", "--vocabulary=256"],
        {"joint_step/tiny-layer-groups-1-vocabulary-256/fp32/32/ordered": STEP},
        ("--length=7",),
    ),
    "checkpoint": Case(
        ["--mebibytes=72"], {"save/stopped": FLOOR, "save": FLOOR, "restore": FLOOR}, ("--mebibytes=71",)
    ),
}


def run(programs: Path, name: str, words: list[str], folder: Path) -> subprocess.CompletedProcess:
    command = [*mpirun(RANKS), programs / f"mtp-bench-{name}", "--benchmark_min_time=0.001", "--device=cpu", *words]
    return subprocess.run(command, cwd=folder, env=os.environ | MPI, text=True, capture_output=True, timeout=120)


def check(programs: Path, name: str, folder: Path) -> None:
    case = CASES[name]
    out = folder / "out.json"
    done = run(programs, name, [*case.words, f"--benchmark_out={out}"], folder)
    assert done.returncode == 0, f"exit code {done.returncode}:\n{done.stdout}{done.stderr}"
    assert list(folder.iterdir()) == [out], f"left behind: {[path.name for path in folder.iterdir()]}"
    results = json.loads(out.read_text())
    context, benchmarks = results["context"], results["benchmarks"]
    assert context.keys() >= CONTEXT, f"missing in the context: {CONTEXT - context.keys()}"
    assert context["program"] == f"mtp-bench-{name}" and context["ranks"] == str(RANKS), context
    assert len(context["hosts"].split()) == RANKS, context["hosts"]
    kinds = case.kinds.keys()
    found = {case.kind_of(benchmark["name"]) for benchmark in benchmarks}
    assert found == kinds, f"missing {kinds - found}, unexpected {found - kinds}"
    for benchmark in benchmarks:
        wanted = COUNTERS | case.kinds[case.kind_of(benchmark["name"])]
        missing = wanted - benchmark.keys()
        assert not missing, f"{benchmark['name']}: missing {missing}"
        assert benchmark["real_time"] > 0 and all(math.isfinite(benchmark[key]) for key in wanted), benchmark


def check_usage(programs: Path, name: str, folder: Path) -> None:
    for word in ("--benchmark_filter=no_such_benchmark", "--no-such-option", *CASES[name].refused):
        done = run(programs, name, [word], folder)
        assert done.returncode == 2 and done.stderr.count("error: ") == 1, f"{word}: {done.returncode}\n{done.stderr}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    parser.add_argument("names", nargs="*", default=list(CASES))
    arguments = parser.parse_args()
    failed = 0
    for name in arguments.names:
        begin = time.monotonic()
        try:
            with tempfile.TemporaryDirectory() as folder:
                check(arguments.programs.resolve(), name, Path(folder))
                check_usage(arguments.programs.resolve(), name, Path(folder))
            print(f"passed  mtp-bench-{name}  {time.monotonic() - begin:.1f} s", flush=True)
        except AssertionError as error:
            failed += 1
            print(f"FAILED  mtp-bench-{name}: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
