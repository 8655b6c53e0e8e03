#!/usr/bin/env python3
"""Every …-mini preset from end to end: made, given data, trained for two steps, exported, loaded by Hugging Face.

.venv-hf/bin/python tests/check_presets.py PROGRAMS
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRESETS = ("e2b-mini", "e4b-mini", "12b-mini", "26b-a4b-mini", "31b-mini")
CHAT = [{"role": "user", "content": "What is up?"}, {"role": "assistant", "content": "Nothing that matters."}]


def run(*command: object) -> str:
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}")
    return result.stdout


def check(preset: str, programs: Path, folder: Path) -> str:
    """What Hugging Face says of the exported pair; ends the program where a step fails."""
    pair, chats, data = folder / "pair", folder / "chats.jsonl", folder / "train.h5"
    chats.write_text((json.dumps({"messages": CHAT}) + "\n") * 32)
    run(programs / "mtp-make-pair", "--preset", preset, "--out", pair)
    run(sys.executable, ROOT / "scripts/prepare_data.py", chats, "--train-tokenizer", pair / "base", "--out", data)
    run(programs / "mtp-inspect", data)
    run(
        programs / "mtp-train", "--model.base", pair / "base", "--model.drafter", pair / "drafter",
        "--data.train", data, "--train.max_steps", 2, "--run.dir", folder / "run",
    )  # fmt: skip
    steps = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    if len(steps) != 2 or not all(math.isfinite(step["loss"]) for step in steps):
        raise SystemExit(f"{preset}: {steps}")
    run(programs / "mtp-export-hf", "--from", folder / "run", "--out", folder / "hf")
    return run(sys.executable, ROOT / "scripts/dev/check_hf_load.py", folder / "hf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    programs = parser.parse_args().programs
    for preset in PRESETS:
        with tempfile.TemporaryDirectory() as folder:
            print(preset, check(preset, programs, Path(folder)), sep="\n", flush=True)


if __name__ == "__main__":
    main()
