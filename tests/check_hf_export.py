#!/usr/bin/env python3
"""Exports of trained fixtures load in Hugging Face: no key missing, unexpected or mismatched; what was not trained is as
in the source to the last bit.

    .venv-hf/bin/python tests/check_hf_export.py PROGRAMS
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open

TESTS = Path(__file__).parent
CHECK_LOAD = TESTS.parent / "scripts" / "check_hf_load.py"
# Centroids and none, PLE and none, carried vision and audio towers and surplus tensors, fp32, bf16 and fp16.
VARIANTS = ("e4b", "dense_31b", "towers_and_surplus", "frozen_base_bf16", "frozen_embeddings_fp16")


def train_and_export(programs: Path, fixture: Path, folder: Path) -> Path:
    run, export = folder / "run", folder / "hf"
    command = [programs / "mtp-train", "--config", fixture / "settings.cfg", "--model.base", fixture / "base"]
    command += ["--model.drafter", fixture / "drafter", "--data.train", fixture / "data.h5", "--run.dir", run]
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run([programs / "mtp-export-hf", "--from", run, "--out", export], check=True, capture_output=True)
    return export


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten().view(torch.uint8)


def faults_of(source: Path, exported: Path) -> list[str]:
    """Element types are the source's; tensors outside the text model are the source's bytes."""
    faults = []
    with safe_open(source, "pt") as before, safe_open(exported, "pt") as after:
        if after.metadata() != {"format": "pt"}:
            faults.append(f"metadata {after.metadata()}")
        for name in after.keys():
            a, b = before.get_tensor(name), after.get_tensor(name)
            if a.dtype != b.dtype or a.shape != b.shape:
                faults.append(f"{name}: {a.dtype} {tuple(a.shape)} became {b.dtype} {tuple(b.shape)}")
            carried = "tower" in name or "embed_vision" in name or "embed_audio" in name or "token_ordering" in name
            if (carried or "layer_scalar" in name) and not torch.equal(as_bytes(a), as_bytes(b)):
                faults.append(f"{name}: changed")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    programs = parser.parse_args().programs
    failed = 0
    for variant in VARIANTS:
        with tempfile.TemporaryDirectory() as folder:
            export = train_and_export(programs, TESTS / "fixtures" / variant, Path(folder))
            loads = subprocess.run([sys.executable, CHECK_LOAD, export], capture_output=True, text=True)
            faults = [loads.stdout + loads.stderr] if loads.returncode else []
            for part in ("base", "drafter"):
                file = Path("model.safetensors")
                source = TESTS / "fixtures" / variant / part / file
                faults += faults_of(source, export / part / "model" / "consolidated" / file)
            failed += bool(faults)
            print("FAILED " if faults else "passed ", variant, *faults, sep="  ", flush=True)
    print(f"{len(VARIANTS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
