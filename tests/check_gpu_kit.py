#!/usr/bin/env python3
"""scripts/dev: the folder for a machine with a GPU runs on its own, and the comparison of bits finds faults.

    .venv/bin/python tests/check_gpu_kit.py PROGRAMS

PROGRAMS is the folder bin of a build with tests, whose emulated GPU stands in for a card. Needs root.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from check_bundle import COMMANDS, REPOSITORY, gpu_libraries, make_root, run_on_node
from job import MPI

# Of every system; there is no nvidia-smi, and no Python.
SYSTEM = ["bash", "cat", "cp", "diff", "grep", "head", "ls", "mkdir", "mktemp", "nproc", "paste", "realpath", "rm", "sed",
          "sort", "tail", "tee", "timeout", "true", "ldd"]  # fmt: skip
STAGES = ["environment", "operations", "fixtures", "same-bits", "nccl", "floors", "step", "memory-checker"]
EMULATED = ["--preset", "tiny", "--layer-groups", "1", "--vocabulary", "128", "--head-size", "64", "--length", "24"]


def summary(root: Path, results: str) -> dict[str, str]:
    """The outcome of each stage: a line is the stage, its seconds and that."""
    lines = (root / results / "summary.txt").read_text().splitlines()
    return {stage: outcome for stage, _, _, outcome in (line.split(maxsplit=3) for line in lines)}


def runs_to_its_end_without_a_card(build: Path, folder: Path) -> None:
    root = folder / "root"
    bundle = [REPOSITORY / "scripts/bundle.sh", folder / "made", "--build", build, "--with-tests"]
    subprocess.run(bundle, check=True, stdout=subprocess.DEVNULL)
    make_root(root, [*COMMANDS, *SYSTEM])
    shutil.move(folder / "made", root / "opt/gpu-kit")
    gpu = gpu_libraries(build / "bin/mtp-train")
    checks = "/opt/gpu-kit/scripts/dev/gpu_checks.sh"
    run_on_node(root, gpu, "env", "OUT=/tmp/results", "LIMIT=300", checks, seconds=400)
    outcomes = summary(root, "tmp/results")
    expected = dict.fromkeys(STAGES, "skipped: no device")
    expected |= {"environment": "passed"} | dict.fromkeys(("same-bits", "nccl"), "passed on an emulated device")
    log = (root / "tmp/results/log.txt").read_text()
    assert outcomes == expected, f"{outcomes}\n{log}"
    assert log.count("the same bits") == 3, log
    assert {path.name for path in (root / "tmp/results").iterdir()} == {"summary.txt", "log.txt"}

    # A stage that hangs, or fails, does not stop the next.
    program = root / "opt/gpu-kit/tests/programs/same-bits-inputs"
    for outcome, body in (("TIMEOUT", "exec tail -f /dev/null"), ("FAILED", "exit 1")):
        program.write_text(f"#!/bin/sh\n{body}\n")
        run_on_node(root, gpu, "env", f"OUT=/tmp/{outcome}", "LIMIT=10", checks, "same-bits", "environment", code=1)
        assert list(summary(root, f"tmp/{outcome}").values()) == [outcome, "passed"], summary(root, f"tmp/{outcome}")


def faults_are_found(build: Path, folder: Path) -> None:
    inputs = folder / "inputs"
    subprocess.run([build / "tests/same-bits-inputs", *EMULATED, "--samples", "32", "--out", inputs], check=True)
    environment = os.environ | MPI | {"PATH": f"{build / 'bin'}:{os.environ['PATH']}", "ROUNDS": "1"}
    for fault, way in (("order", "ranks"), ("rounding", "resumed")):
        command = [REPOSITORY / "scripts/dev/same_bits.sh", build / f"fault-{fault}", inputs, folder / fault, way]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 1 and f"same_bits: {way}: other bits" in result.stderr, f"{fault}: {result}"


def main() -> None:
    build = Path(sys.argv[1]).resolve().parent
    for case in (runs_to_its_end_without_a_card, faults_are_found):
        with tempfile.TemporaryDirectory() as folder:
            case(build, Path(folder))
    print("2 passed, 0 failed")


if __name__ == "__main__":
    main()
