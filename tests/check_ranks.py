#!/usr/bin/env python3
"""The same bits on 1, 2, 3 and 4 ranks, 1 and 2 threads, with and without recomputation, in fp32 and in bf16 (AdamW's
moments too, in some ways on the host); with adapters; and with the experts divided among 2 and 4 ranks.

    tests/check_ranks.py PROGRAMS [--fixture DIR …]

trains one fixture for a few steps of 12 micro-batches in every way and compares metrics.jsonl (but for times, memory
and ranks), validation.jsonl (of 10 samples, which most numbers of ranks cannot share evenly) and every exported file
with the first way's.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from job import MPI, comparable_lines, mpirun

FIXTURES = Path(__file__).parent / "fixtures"
EXPERTS = FIXTURES / "experts_26b"
DEFAULT = ("e4b", "k_eq_v_shared_pr2240", EXPERTS.name, "unified", "e4b_audio", "e2b_masked_head")
# ranks, threads, recompute, ranks that keep the experts between them
WAYS = [(1, 1, False, 1), (2, 1, False, 1), (3, 1, True, 1), (4, 1, False, 1), (4, 2, True, 1), (1, 2, True, 1), (2, 2, False, 1)]
BF16_WAYS = [(1, 1, False, 1), (2, 2, False, 1), (3, 1, True, 1), (4, 1, False, 1)]
EXPERT_WAYS = [(2, 1, False, 2), (4, 1, True, 2), (4, 1, False, 4)]


def train(programs: Path, fixture: Path, run: Path, dtype: str, ranks: int, threads: int, recompute: bool, parts: int) -> None:
    place = "host" if threads > 1 else "device"
    command = [*mpirun(ranks), programs / "mtp-train"]
    command += ["--config", fixture / "settings.cfg", "--model.base", fixture / "base", "--model.drafter"]
    command += [fixture / "drafter", "--data.train", fixture / "data.h5", "--run.dir", run, "--run.threads"]
    command += [str(threads), "--train.recompute", str(recompute).lower(), "--train.global_batch", "12"]
    command += ["--train.micro_batch", "1", "--train.max_steps", "3", "--data.shuffle", "true", "--data.validation", fixture / "data.h5"]
    command += ["--validation.every_steps", "2", "--train.compute_dtype", dtype]
    command += ["--optimizer.moments", dtype, "--optimizer.moments_on", place, "--dist.expert_parallel", str(parts)]
    subprocess.run(command, check=True, env=os.environ | MPI, stderr=subprocess.DEVNULL)
    export = [programs / "mtp-export-hf", "--from", run, "--out", run / "hf"]
    subprocess.run(export, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def files(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted((run / "hf").rglob("*")) if path.is_file()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    parser.add_argument("--fixture", type=Path, action="append", help="default: six that cover most of the model")
    arguments = parser.parse_args()
    fixtures = arguments.fixture or [FIXTURES / name for name in DEFAULT]
    runs = [(fixture, "fp32", WAYS + EXPERT_WAYS * (fixture.name == EXPERTS.name)) for fixture in fixtures]
    runs.append((fixtures[-1], "bf16", BF16_WAYS))
    if not arguments.fixture:
        runs += [(FIXTURES / "lora", "bf16", BF16_WAYS), (EXPERTS, "bf16", [WAYS[0], *EXPERT_WAYS])]
    failed = 0
    for fixture, dtype, ways in runs:
        with tempfile.TemporaryDirectory() as folder:
            first = None
            for ranks, threads, recompute, parts in ways:
                run = Path(folder) / f"{ranks}-{threads}-{recompute}-{parts}"
                train(arguments.programs, fixture, run, dtype, ranks, threads, recompute, parts)
                result = (*(comparable_lines(run / f"{kind}.jsonl") for kind in ("metrics", "validation")), files(run))
                first = first or result
                same = result == first and len(result[0]) == 3 and [line["step"] for line in result[1]] == [0, 2, 3]
                failed += not same
                name = f"{fixture.name} in {dtype}: {ranks} ranks, {threads} threads, recompute {recompute}"
                name += f", experts divided among {parts}" if parts > 1 else ""
                print(f"{'same' if same else 'DIFFERENT'}  {name}", flush=True)
    print(f"{sum(len(ways) for _, _, ways in runs) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
