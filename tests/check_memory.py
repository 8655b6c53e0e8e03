#!/usr/bin/env python3
"""scripts/dev/memory_step.py, which plans the memory of runs that no machine here can hold, agrees with the arena's own
accounts: memory_peak of metrics.jsonl, of two presets on 1, 2 and 4 ranks, with and without recomputation, in fp32 and
bf16, with moments of both types.

    .venv/bin/python tests/check_memory.py PROGRAMS [--ranks N …]
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy

from job import MPI, mpirun

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts/dev"))
from memory_step import Run, Step
from mtp_tools.bench.costs import BF16, FP32, SMALL, TINY

BOUND = 0.03  # of what the arena counted
GAPS = 0.10  # and of it at most that is held between tensors: the plan counts tensors, memory_peak what is held
MICRO_BATCHES, STEPS = 2, 2  # of each rank; of a run
LENGTHS = {"tiny": 64, "small": 256}
PAIRS = {"tiny": TINY, "small": SMALL}


def write_data(path: Path, vocabulary: int, length: int) -> None:
    """Samples of `length` positions, different tokens throughout, each a target."""
    samples = 4 * MICRO_BATCHES * STEPS
    tokens = numpy.random.default_rng(1).integers(3, vocabulary, samples * (length + 1), dtype=numpy.int32)
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "mtp-data", "version": 1, "vocab_size": vocabulary, "pad_token_id": 0})
        file["tokens"] = tokens
        file["loss_mask"] = numpy.ones(len(tokens), dtype=numpy.uint8)
        file["offsets"] = numpy.arange(samples + 1, dtype=numpy.int64) * (length + 1)


def measured(programs: Path, folder: Path, preset: str, run: Run) -> int:
    """The peak of a rank's memory in a run's last step."""
    name = {FP32: "fp32", BF16: "bf16"}
    out = folder / f"{preset}-{run.ranks}-{run.recompute}-{run.dtype}-{run.moments}"
    command = [*mpirun(run.ranks), programs / "mtp-train", "--model.base", folder / preset / "base", "--model.drafter"]
    command += [folder / preset / "drafter", "--data.train", folder / f"{preset}.h5", "--run.dir", out]
    command += ["--train.max_steps", str(STEPS), "--train.global_batch", str(MICRO_BATCHES * run.ranks)]
    command += ["--train.compute_dtype", name[run.dtype], "--train.recompute", str(run.recompute).lower()]
    command += ["--optimizer.moments", name[run.moments], "--run.threads", "1"]
    subprocess.run(command, check=True, env=os.environ | MPI, stderr=subprocess.DEVNULL)
    return json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["memory_peak"]


def runs(preset: str, ranks: list[int]) -> list[Run]:
    ways = itertools.product(ranks, (False, True), (FP32, BF16))
    return [
        Run(PAIRS[preset], count, MICRO_BATCHES, LENGTHS[preset], dtype, recompute, dtype, is_gpu=False)
        for count, recompute, dtype in ways
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for preset, pair in PAIRS.items():
            make = [arguments.programs / "mtp-make-pair", "--preset", preset, "--out", folder / preset]
            subprocess.run(make, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            write_data(folder / f"{preset}.h5", pair.base.vocabulary, LENGTHS[preset])
            for run in runs(preset, arguments.ranks):
                peak, planned = measured(arguments.programs, folder, preset, run), Step(run).go().peak
                is_right = 1 - GAPS <= planned / peak <= 1 + BOUND
                failed += not is_right
                way = f"{run.ranks} ranks, {'bf16' if run.dtype == BF16 else 'fp32'}, recompute {run.recompute}"
                print(f"{'agrees' if is_right else 'DIFFERS'}  {preset}: {way}: planned {planned / 1e6:.2f} MB, "
                      f"counted {peak / 1e6:.2f} MB, ratio {planned / peak:.3f}", flush=True)  # fmt: skip
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
