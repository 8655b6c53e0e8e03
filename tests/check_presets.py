#!/usr/bin/env python3
"""Every …-mini preset from end to end: made, given data, trained for two steps, exported, loaded by Hugging Face; and the
exports' tensors and configurations beside the released models'.

.venv-hf/bin/python tests/check_presets.py PROGRAMS
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors import safe_open

ROOT = Path(__file__).parents[1]
PRESETS = ("e2b-mini", "e4b-mini", "12b-mini", "26b-a4b-mini", "31b-mini")
SIZES = {"global_head_dim", "head_dim", "hidden_size", "hidden_size_per_layer_input", "intermediate_size", "layer_types",
         "moe_intermediate_size", "num_experts", "num_hidden_layers", "num_kv_shared_layers", "sliding_window",
         "top_k_experts", "vocab_size", "vocab_size_per_layer_input"}  # fmt: skip
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
    if preset.endswith("-mini"):
        compare_with_released(preset, folder / "hf")
    return run(sys.executable, ROOT / "scripts/dev/check_hf_load.py", folder / "hf")


def compare_with_released(preset: str, export: Path) -> None:
    """A mini has fewer and smaller layers; the kinds of its tensors, the numbers of their dimensions and all else in its
    configuration are the released model's (make_pair_test.cpp compares presets of full size, sizes included)."""
    released = json.loads((ROOT / "tests/model/released.json").read_text())
    for part, known in released[preset.removesuffix("-mini")].items():
        directory = export / part / "model/consolidated"
        with safe_open(directory / "model.safetensors", "np") as file:
            ranks = {kind_of(name): len(file.get_slice(name).get_shape()) for name in file.keys()}
        expected = {kind: rank_of(shapes) for kind, shapes in known["tensors"].items()}
        if ranks != expected:
            raise SystemExit(f"{preset} {part}: tensors {sorted(ranks.items() ^ expected.items())}")
        text = released["text_config_defaults"] | json.loads((directory / "config.json").read_text())["text_config"]
        known_text = known["config"]["text_config"]
        other = {key for key, value in known_text.items() if key not in SIZES and text.get(key) != value}
        if other:
            raise SystemExit(f"{preset} {part}: config.json differs in {sorted(other)}")


def kind_of(name: str) -> str:
    return re.sub(r"\.layers\.\d+\.", ".layers.N.", name)


def rank_of(shapes: list) -> int:
    """Of [[shape, layers], …], or of the shape alone."""
    return len(shapes[0][0] if isinstance(shapes[0], list) else shapes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    programs = parser.parse_args().programs
    for preset in PRESETS:
        with tempfile.TemporaryDirectory() as folder:
            print(preset, check(preset, programs, Path(folder)), sep="\n", flush=True)


if __name__ == "__main__":
    main()
