#!/usr/bin/env python3
"""Times a training step of mtp-train beside the PyTorch reference: same pair, data, settings and device, in turn.

    .venv-hf/bin/python scripts/dev/compare_with_reference.py build/release/bin [--threads 1] [--rounds 3] [--steps 4]
    .venv-hf/bin/python scripts/dev/compare_with_reference.py build/cuda/bin --device cuda [--dtype bf16] [--layer-groups 1]

On the CPU the pair is E4B-like with 17 million parameters (hidden 256, 12 layers, vocabulary 8192), S 512, K 4; memory is
the peak resident set of each process, and mtp-train also takes its turn in bf16, beside its own fp32. On a GPU the pair
has E4B's widths and vocabulary and a few of its layers, S 2048, K 4, the reference computes with the attention of
torch.nn.functional.scaled_dot_product_attention, and memory is the peak of tensors on the GPU. A speed is the fastest of
all steps but a run's first; the programs take turns, so that a busy machine slows both alike.
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
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

REFERENCE = Path(__file__).resolve().parents[2] / "tests" / "reference"
SLIDING, FULL = "sliding_attention", "full_attention"
GROUP = [SLIDING] * 5 + [FULL]  # layers
SEQUENCES = 2  # of a step, one a micro-batch


@dataclass(frozen=True)
class Shape:
    """A pair with E4B's structure, and the sequences that it sees."""

    vocabulary: int
    hidden: int  # of the base; the drafter's widths follow
    inner: int
    heads: int
    head_dim: int
    window: int
    per_layer: int
    drafter_hidden: int
    drafter_inner: int
    centroids: int
    top_k: int
    weight_std: float
    length: int
    positions: int

    def spec(self, groups: int) -> dict:
        common = {"vocab_size": self.vocabulary, "num_key_value_heads": 2, "head_dim": self.head_dim}
        common |= {"global_head_dim": 2 * self.head_dim, "sliding_window": self.window}
        common |= {"max_position_embeddings": self.positions, "num_attention_heads": 4}
        base = common | {
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_attention_heads": self.heads,
            "num_hidden_layers": groups * len(GROUP),
            "layer_types": GROUP * groups,
            "num_kv_shared_layers": 5 if groups > 1 else 0,
            "hidden_size_per_layer_input": self.per_layer,
            "vocab_size_per_layer_input": self.vocabulary,
            "final_logit_softcapping": 30.0,
        }
        drafter = common | {
            "model_type": "gemma4_text",
            "hidden_size": self.drafter_hidden,
            "intermediate_size": self.drafter_inner,
            "num_hidden_layers": 4,
            "layer_types": [SLIDING] * 3 + [FULL],
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
        }
        return {
            "weight_std": self.weight_std,
            "base": {"text_config": base},
            "drafter": {
                "backbone_hidden_size": self.hidden,
                "use_ordered_embeddings": True,
                "num_centroids": self.centroids,
                "centroid_intermediate_top_k": self.top_k,
                "text_config": drafter,
            },
        }


SHAPES = {
    "cpu": Shape(
        vocabulary=8192,
        hidden=256,
        inner=1024,
        heads=4,
        head_dim=64,
        window=128,
        per_layer=32,
        drafter_hidden=128,
        drafter_inner=512,
        centroids=64,
        top_k=8,
        weight_std=0.05,
        length=512,
        positions=1024,
    ),
    "cuda": Shape(
        vocabulary=262144,
        hidden=2560,
        inner=10240,
        heads=8,
        head_dim=256,
        window=512,
        per_layer=256,
        drafter_hidden=256,
        drafter_inner=2048,
        centroids=2048,
        top_k=32,
        weight_std=0.02,
        length=2048,
        positions=131072,
    ),
}


@dataclass(frozen=True)
class Turn:
    """What a program did in its turn."""

    step_times: list[float]  # seconds, without the first
    memory: float  # MiB

    @property
    def fastest(self) -> float:
        return min(self.step_times)


# Run in a process of its own, so that its memory is its own.
REFERENCE_RUN = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch, joint_reference
pair, device, dtype = sys.argv[2], sys.argv[3], {"fp32": torch.float32, "bf16": torch.bfloat16}[sys.argv[4]]
threads, steps, sequences = (int(word) for word in sys.argv[5:])
torch.set_num_threads(threads)
torch.set_default_device(device)

def load_pair(base, drafter, dtype=torch.float32):
    options = {"dtype": dtype, "attn_implementation": "sdpa"}
    with torch.device("cpu"):
        models = (joint_reference.Gemma4ForConditionalGeneration.from_pretrained(base, **options),
                  joint_reference.Gemma4AssistantForCausalLM.from_pretrained(drafter, **options))
    return tuple(model.to(device) for model in models)

if device == "cuda":  # its masks in the form that this attention takes in every type
    additive_mask = joint_reference.causal_mask
    joint_reference.causal_mask = lambda *words: additive_mask(*words) == 0
    joint_reference.load_pair = load_pair
recipe, data = joint_reference.Recipe(micro_batches=sequences), f"{pair}/data.h5"
records, gradients, _ = joint_reference.train(
    f"{pair}/base", f"{pair}/drafter", data, steps, recipe, None, compute_dtype=dtype
)
result = {"step_times": [record["step_time"] for record in records]}
if device == "cuda":  # without its copy of the first gradients, which is for tests
    copied = sum(gradient.nbytes for gradient in gradients.values())
    result["memory"] = torch.cuda.max_memory_allocated() - copied
print(json.dumps(result))
"""


def make_inputs(folder: Path, shape: Shape, groups: int) -> None:
    sys.path.insert(0, str(REFERENCE))
    import joint_reference

    joint_reference.make_pair(shape.spec(groups), folder, 0)
    tokens = np.random.default_rng(0).integers(3, shape.vocabulary, 8 * (shape.length + 1))
    with h5py.File(folder / "data.h5", "w") as file:
        file.attrs.update({"format": "mtp-data", "version": 1, "vocab_size": shape.vocabulary, "pad_token_id": 0})
        file["tokens"] = tokens.astype(np.int32)
        file["loss_mask"] = np.ones(len(tokens), np.uint8)
        file["offsets"] = np.arange(0, len(tokens) + 1, shape.length + 1)


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


def run_reference(folder: Path, arguments: argparse.Namespace) -> Turn:
    words = [REFERENCE, folder, arguments.device, arguments.dtype, arguments.threads, arguments.steps, SEQUENCES]
    output, memory = run([sys.executable, "-c", REFERENCE_RUN, *map(str, words)], arguments.threads)
    result = json.loads(output.splitlines()[-1])
    return Turn(result["step_times"][1:], result["memory"] / 2**20 if "memory" in result else memory)


def run_trainer(folder: Path, arguments: argparse.Namespace, dtype: str) -> Turn:
    with tempfile.TemporaryDirectory() as run_dir:
        settings = {
            "model.base": folder / "base",
            "model.drafter": folder / "drafter",
            "data.train": folder / "data.h5",
            "data.shuffle": "false",
            "train.max_steps": arguments.steps,
            "train.global_batch": SEQUENCES,
            "train.compute_dtype": dtype,
            "run.device": arguments.device,
            "run.threads": arguments.threads,
            "run.dir": run_dir,
        }
        words = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
        _, memory = run([str(arguments.bin_dir / "mtp-train"), *words], arguments.threads)
        lines = [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]
    if arguments.device == "cuda":
        memory = lines[-1]["memory_peak"] / 2**20
    return Turn([line["step_time"] for line in lines[1:]], memory)


def best(turns: list[Turn]) -> Turn:
    return Turn([time for turn in turns for time in turn.step_times], max(turn.memory for turn in turns))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin_dir", type=Path, help="folder of mtp-train")
    parser.add_argument("--device", choices=SHAPES, default="cpu")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), help="of both programs (default: fp32; on a GPU bf16)")
    parser.add_argument("--layer-groups", type=int, help="of the base, five sliding layers and a full one (default: 2; on a GPU 1)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each program")
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn")
    args = parser.parse_args()
    on_gpu, shape = args.device == "cuda", SHAPES[args.device]
    args.dtype = args.dtype or ("bf16" if on_gpu else "fp32")
    groups = args.layer_groups or (1 if on_gpu else 2)
    ours, in_bf16, theirs = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # In a process of its own: a program's peak memory is at least that of the process that starts it.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(make_inputs, folder, shape, groups).result()
        for _ in range(args.rounds):
            ours.append(run_trainer(folder, args, args.dtype))
            if args.dtype == "fp32" and not on_gpu:
                in_bf16.append(run_trainer(folder, args, "bf16"))
            theirs.append(run_reference(folder, args))
            print(f"mtp-train {ours[-1].fastest:.2f} s a step, reference {theirs[-1].fastest:.2f} s", flush=True)
    mine, their, tokens = best(ours), best(theirs), SEQUENCES * shape.length
    where = args.device if on_gpu else f"{args.threads} threads"
    speeds = f"{tokens / mine.fastest:.0f} tokens/s, reference {tokens / their.fastest:.0f}"
    print(f"{where}, {args.dtype}: {speeds}: {their.fastest / mine.fastest:.2f} times as fast as the reference")
    print(f"peak memory {mine.memory:.0f} MiB, reference {their.memory:.0f} MiB: {mine.memory / their.memory:.2f} of it")
    if in_bf16:
        rounded = best(in_bf16)
        print(f"bf16: {rounded.fastest / mine.fastest:.2f} of the time of fp32, {rounded.memory:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
