#!/usr/bin/env python3
"""`mtp-train --plan`, which runs steps on a device that counts, says what a run's arenas count: every byte by its use, of
CPUs and of the emulated GPU, on 1 to 4 ranks. Plans of fixtures are made of config.json alone.

    .venv/bin/python tests/check_memory.py PROGRAMS EMULATED_PROGRAMS
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy

from job import MPI, mpirun

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "scripts"))
from mtp_tools.plan import Plan, planned

OWN_HOST = REPOSITORY / "scripts" / "dev" / "own_host.sh"  # lets ranks that share the emulated GPU use NCCL
FIXTURES = REPOSITORY / "tests" / "fixtures"
SAMPLES, LENGTH = 64, 40
FLOPS_OF_SMALL = 93_658_902_528  # two sequences of 512, three products a weight and six a pair in attention


@dataclass(frozen=True)
class Case:
    pair: str
    ranks: int
    options: str  # settings, without their "--"
    on_gpu: bool = False


CASES = [
    Case("tiny", 1, "train.compute_dtype fp32"),
    Case("tiny", 1, "train.compute_dtype bf16 train.recompute true optimizer.moments bf16"),
    Case("tiny", 1, "freeze.base true train.compute_dtype bf16"),
    Case("tiny", 2, "train.compute_dtype fp32 train.micro_batch 2 train.recompute true"),
    Case("tiny", 2, "freeze.embeddings true dist.reduction fast"),
    Case("tiny", 3, "train.global_batch 12 train.compute_dtype bf16"),
    Case("tiny", 4, "train.global_batch 16 freeze.base true train.compute_dtype bf16 train.recompute true"),
    Case("tiny", 2, "validation.every_steps 1 train.compute_dtype bf16"),
    Case("e4b_vision", 1, "train.compute_dtype fp32"),
    Case("e4b_vision", 2, "freeze.vision false freeze.vision_projector false train.compute_dtype bf16"),
    Case("e4b_vision", 1, "freeze.vision false freeze.vision_projector false train.recompute true"),
    Case("tiny", 1, "optimizer.moments_on host", on_gpu=True),
    Case("tiny", 2, "train.compute_dtype fp32 train.recompute true", on_gpu=True),
    Case("tiny", 2, "freeze.base true train.recompute true", on_gpu=True),
    Case("tiny", 2, "dist.transport nccl train.recompute true", on_gpu=True),
    Case("e4b_vision", 1, "freeze.vision false freeze.vision_projector false", on_gpu=True),
    Case("e2b_masked_head", 1, "drafter.head masked", on_gpu=True),
]


def write_equal_samples(path: Path, like: Path | None, vocabulary: int) -> None:
    """The same sample again and again, so that every rank does what the plan takes it to do: of different tokens, or the
    one with the most images of a file."""
    tokens, mask, images = numpy.arange(3, 3 + LENGTH, dtype=numpy.int32), numpy.ones(LENGTH, dtype=numpy.uint8), {}
    attributes = {"format": "mtp-data", "version": 1, "vocab_size": vocabulary, "pad_token_id": 0}
    if like is not None:
        with h5py.File(like) as file:
            attributes, offsets = dict(file.attrs), file["offsets"][:]
            first_images = file["sample_images"][:]
            best = int(numpy.diff(first_images).argmax())
            here = slice(first_images[best], first_images[best + 1])
            tokens, mask = (file[name][offsets[best] : offsets[best + 1]] for name in ("tokens", "loss_mask"))
            sizes, begins = file["image_sizes"][here], file["image_offsets"][:]
            patches = file["patches"][begins[here.start] : begins[here.stop]]
        count = len(sizes)
        images = {
            "image_sizes": numpy.tile(sizes, (SAMPLES, 1)),
            "patches": numpy.tile(patches, (SAMPLES, 1)),
            "image_offsets": numpy.cumsum([0, *numpy.tile(sizes.prod(axis=1), SAMPLES)], dtype=numpy.int64),
            "sample_images": numpy.arange(SAMPLES + 1, dtype=numpy.int64) * count,
        }
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        file["tokens"], file["loss_mask"] = numpy.tile(tokens, SAMPLES), numpy.tile(mask, SAMPLES)
        file["offsets"] = numpy.arange(SAMPLES + 1, dtype=numpy.int64) * len(tokens)
        for name, values in images.items():
            file[name] = values


def prepare(programs: Path, folder: Path) -> None:
    """PAIR/base and PAIR/drafter, of fixtures the same in configs without weights, and PAIR.h5."""
    for pair in {case.pair for case in CASES}:
        like = None
        if pair == "tiny":
            make = [programs / "mtp-make-pair", "--preset", pair, "--dtype", "bf16", "--out", folder / pair]
            subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        else:
            shutil.copytree(FIXTURES / pair, folder / pair)
            data = folder / pair / "data.h5"
            like = data if "vision" in pair else None
        vocabulary = json.loads((folder / pair / "base" / "config.json").read_text())["text_config"]["vocab_size"]
        for model in ("base", "drafter"):
            (folder / "configs" / pair / model).mkdir(parents=True)
            shutil.copy(folder / pair / model / "config.json", folder / "configs" / pair / model)
        write_equal_samples(folder / f"{pair}.h5", like, vocabulary)


def settings(case: Case, folder: Path) -> list[str]:
    data = str(folder / f"{case.pair}.h5")
    defaults = {"train.global_batch": "8", "drafter.rounds": "3", "run.threads": "1", "run.device": "cpu"}
    if case.on_gpu:
        defaults |= {"run.device": "cuda", "dist.transport": "staged"}
    words = case.options.split()
    given = defaults | dict(zip(words[::2], words[1::2], strict=True))
    given |= {"data.train": data, "data.validation": data, "train.max_steps": "3"}
    return [word for name, value in given.items() for word in (f"--{name}", value)]


def counted(programs: Path, case: Case, folder: Path) -> tuple[Plan, int]:
    """What the arenas of a run's rank 0 counted, and memory_peak."""
    out = folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    pair = folder / case.pair
    command = [*mpirun(case.ranks), OWN_HOST, programs / "mtp-train", "--model.base", pair / "base", "--model.drafter"]
    command += [pair / "drafter", "--run.dir", out, "--run.profile", "true", *settings(case, folder)]
    subprocess.run(command, check=True, env=os.environ | MPI, stderr=subprocess.DEVNULL)
    memory = json.loads((out / "profile.json").read_text())["memory"]
    device, host = ({use: size for use, size in memory[of].items() if size > 0} for of in ("device", "host"))
    peak = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["memory_peak"]
    return Plan(device, host if case.on_gpu else {}), peak


def check(programs: Path, case: Case, folder: Path) -> bool:
    per_node = ("--ranks", str(case.ranks), "--ranks-per-node", str(case.ranks))
    # The layers of a random pair scale by 1, which is left out; a plan of config.json takes them for trained ones.
    pair = folder / case.pair if case.pair == "tiny" else folder / "configs" / case.pair
    plan = planned(programs, pair, *settings(case, folder), *per_node)
    run, peak = counted(programs, case, folder)
    agrees = (plan.device, plan.host, plan.device["held"]) == (run.device, run.host, peak)
    way = f"{case.pair}, {case.ranks} {'GPUs' if case.on_gpu else 'CPUs'}, {case.options}"
    print(f"{'agrees' if agrees else 'DIFFERS'}  {way}: {peak} bytes", flush=True)
    if not agrees:
        print(f"  planned {plan.device} {plan.host}\n  counted {run.device} {run.host} {peak}")
    return agrees


def check_flops(programs: Path, folder: Path) -> bool:
    make = [programs / "mtp-make-pair", "--preset", "small", "--weights", "false", "--out", folder / "small"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    batch = ("--run.device", "cpu", "--length", "512", "--train.global_batch", "2")
    one, two = (planned(programs, folder / "small", *batch, "--ranks", ranks) for ranks in ("1", "2"))
    print(f"FLOPs {one.flops}, {two.flops}; received {one.received}, {two.received}")
    return one.flops == two.flops == FLOPS_OF_SMALL and one.received == 0 < two.received


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    parser.add_argument("emulated", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(arguments.programs, folder)
        sound = [check_flops(arguments.programs, folder)]
        for case in CASES:
            sound.append(check(arguments.emulated if case.on_gpu else arguments.programs, case, folder))
    print(f"{sound.count(False)} failed")
    return 1 if False in sound else 0


if __name__ == "__main__":
    sys.exit(main())
