#!/usr/bin/env python3
"""Times a training step of mtp-train beside the PyTorch reference: same pair, data, settings and threads, in turn.

    .venv-hf/bin/python scripts/compare_with_reference.py build/release/bin [--threads 1] [--rounds 3] [--steps 4]

The pair is E4B-like with 17 million parameters (hidden 256, 12 layers, vocabulary 8192), S 512, K 4. A speed is the
fastest of all steps but a run's first; the programs take turns, so that a busy machine slows both alike. Memory is the
peak resident set of each process. mtp-train also takes its turn in bf16, beside its own fp32.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import h5py
import numpy as np

REFERENCE = Path(__file__).resolve().parents[1] / "tests" / "reference"
SLIDING, FULL = "sliding_attention", "full_attention"
VOCABULARY, LENGTH, SEQUENCES = 8192, 512, 2

COMMON = {"vocab_size": VOCABULARY, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
COMMON |= {"global_head_dim": 128, "sliding_window": 128, "max_position_embeddings": 1024}
BASE = COMMON | {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 12,
    "layer_types": ([SLIDING] * 5 + [FULL]) * 2,
    "num_kv_shared_layers": 5,
    "hidden_size_per_layer_input": 32,
    "vocab_size_per_layer_input": VOCABULARY,
    "final_logit_softcapping": 30.0,
}
DRAFTER = COMMON | {
    "model_type": "gemma4_text",
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "layer_types": [SLIDING] * 3 + [FULL],
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 0,
}
SPEC = {
    "weight_std": 0.05,
    "base": {"text_config": BASE},
    "drafter": {
        "backbone_hidden_size": BASE["hidden_size"],
        "use_ordered_embeddings": True,
        "num_centroids": 64,
        "centroid_intermediate_top_k": 8,
        "text_config": DRAFTER,
    },
}

# Run in a process of its own, so that its memory is its own.
REFERENCE_RUN = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch, joint_reference
torch.set_num_threads(int(sys.argv[3]))
pair, steps, recipe = sys.argv[2], int(sys.argv[4]), joint_reference.Recipe(micro_batches=int(sys.argv[5]))
data = f"{pair}/data.h5"
records, _, _ = joint_reference.train(f"{pair}/base", f"{pair}/drafter", data, steps, recipe, None)
print(json.dumps([r["step_time"] for r in records]))
"""


def make_inputs(folder: Path) -> None:
    sys.path.insert(0, str(REFERENCE))
    import joint_reference

    joint_reference.make_pair(SPEC, folder, 0)
    tokens = np.random.default_rng(0).integers(3, VOCABULARY, 8 * (LENGTH + 1))
    with h5py.File(folder / "data.h5", "w") as file:
        file.attrs.update({"format": "mtp-data", "version": 1, "vocab_size": VOCABULARY, "pad_token_id": 0})
        file["tokens"] = tokens.astype(np.int32)
        file["loss_mask"] = np.ones(len(tokens), np.uint8)
        file["offsets"] = np.arange(0, len(tokens) + 1, LENGTH + 1)


def run(command: list[str], threads: int) -> tuple[str, float]:
    """Standard output and the peak resident set in MiB."""
    # This machine's own choice of kernels, not one that a container's environment sets for older libraries.
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    with subprocess.Popen(
        command, env=kept | {"OMP_NUM_THREADS": str(threads)}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed with {process.returncode}: {' '.join(command)}")
    return output, usage.ru_maxrss / 1024


def run_reference(folder: Path, threads: int, steps: int) -> tuple[list[float], float]:
    words = [str(REFERENCE), str(folder), str(threads), str(steps), str(SEQUENCES)]
    output, memory = run([sys.executable, "-c", REFERENCE_RUN, *words], threads)
    return json.loads(output.splitlines()[-1]), memory


def run_trainer(bin_dir: Path, folder: Path, threads: int, steps: int, dtype: str) -> tuple[list[float], float]:
    with tempfile.TemporaryDirectory() as run_dir:
        settings = {
            "model.base": folder / "base",
            "model.drafter": folder / "drafter",
            "data.train": folder / "data.h5",
            "data.shuffle": "false",
            "train.max_steps": steps,
            "train.global_batch": SEQUENCES,
            "train.compute_dtype": dtype,
            "run.threads": threads,
            "run.dir": run_dir,
        }
        words = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
        _, memory = run([str(bin_dir / "mtp-train"), *words], threads)
        lines = (Path(run_dir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step_time"] for line in lines], memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin_dir", type=Path, help="folder of mtp-train")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each program")
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn")
    args = parser.parse_args()
    ours, in_bf16, theirs, memories = [], [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # In a process of its own: a program's peak memory is at least that of the process that starts it.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(make_inputs, folder).result()
        for _ in range(args.rounds):
            mine, my_memory = run_trainer(args.bin_dir, folder, args.threads, args.steps, "fp32")
            bf16, bf16_memory = run_trainer(args.bin_dir, folder, args.threads, args.steps, "bf16")
            their, their_memory = run_reference(folder, args.threads, args.steps)
            ours += mine[1:]
            in_bf16 += bf16[1:]
            theirs += their[1:]
            memories.append((my_memory, bf16_memory, their_memory))
            print(f"mtp-train {min(mine[1:]):.2f} s a step, reference {min(their[1:]):.2f} s", flush=True)
    my_memory, bf16_memory, their_memory = (max(turns) for turns in zip(*memories, strict=True))
    print(f"{args.threads} threads: {min(theirs) / min(ours):.2f} times as fast as the reference")
    print(f"peak memory {my_memory:.0f} MiB, reference {their_memory:.0f} MiB: {my_memory / their_memory:.2f} of it")
    print(f"bf16: {min(in_bf16) / min(ours):.2f} of the time of fp32, {bf16_memory:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
