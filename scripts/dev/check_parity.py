#!/usr/bin/env python3
"""Compares mtp-train with the PyTorch reference on pairs that neither has seen: random sizes, weights, data and recipe.

    .venv-hf/bin/python scripts/dev/check_parity.py build/release/bin [--pairs 10] [--seed 0] [--ranks 1] [--images]
        [--experts] [--adapters]

A pair passes where
    every loss of the first step      differs by at most 1e-5 of itself,
    every gradient of the first step  by ‖Δ‖ ≤ 1e-4 ‖g‖,
    the weights after 5 steps         by ‖w - w_ref‖ ≤ 2e-4 ‖w_ref - w_0‖, all of the base's together and the drafter's.

Some random pairs cannot be compared so closely in fp32: where the reference's own numbers move by a third of a limit
when every weight changes in its last bit, or a choice of experts is so close that rounding could make another, another
pair is drawn.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "reference"))

import joint_reference
from joint_reference import Recipe
from make_fixtures import router_margins
from variants import ALL_LINEAR, FULL, SLIDING, Variant, settings_text, write_data

STEPS = 5
LOSS_LIMIT, GRADIENT_LIMIT, WEIGHT_LIMIT = 1e-5, 1e-4, 2e-4
LEAST_MARGIN = 1e-4  # of a choice of experts: see make_fixtures.router_margins
Tensors = dict[str, torch.Tensor]


# ---------------------------------------------------------------- random pairs


@dataclass(frozen=True)
class Kinds:
    """What pairs have."""

    images: bool
    experts: bool
    adapters: bool


def random_variant(rng: np.random.Generator) -> Variant:
    def pick(*choices: object) -> object:
        return choices[rng.integers(len(choices))]

    vocab, width, shared = int(pick(256, 384, 512)), int(pick(40, 48, 64)), int(pick(0, 2, 3))
    k_eq_v, per_layer_width = bool(pick(False, True)), int(pick(0, 8))
    common = {
        "vocab_size": vocab,
        "num_attention_heads": 4,
        "num_key_value_heads": int(pick(1, 2, 4)),
        "head_dim": int(pick(8, 16)),
        "global_head_dim": int(pick(16, 32)),
        "attention_k_eq_v": k_eq_v,
        **({"num_global_key_value_heads": int(pick(1, 2))} if k_eq_v else {}),
        "sliding_window": int(pick(4, 8, 16)),
        "max_position_embeddings": 128,
        "pad_token_id": int(pick(0, 5)),
    }
    own_layers = [SLIDING, *rng.permutation([SLIDING, FULL, FULL]).tolist()]
    sharing_layers = [SLIDING, SLIDING, FULL][3 - shared :]
    base_layers = own_layers + sharing_layers if shared else [*own_layers, FULL]
    base = common | {
        "hidden_size": width,
        "intermediate_size": int(pick(64, 96)),
        "num_hidden_layers": len(base_layers),
        "layer_types": base_layers,
        "num_kv_shared_layers": shared,
        "use_double_wide_mlp": bool(pick(False, True)),
        "hidden_size_per_layer_input": per_layer_width,
        "vocab_size_per_layer_input": vocab,
        "final_logit_softcapping": pick(None, 20.0),
    }
    shares_embedding = bool(pick(False, False, True))
    drafter_layers = [SLIDING] * int(pick(1, 3)) + [FULL]
    drafter = common | {
        "model_type": "gemma4_text",
        "hidden_size": width if shares_embedding else int(pick(24, 32)),
        "intermediate_size": 56,
        "num_hidden_layers": len(drafter_layers),
        "layer_types": drafter_layers,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 0,
    }
    has_centroids = bool(pick(False, True))
    assistant = {"backbone_hidden_size": width, "use_ordered_embeddings": has_centroids, "text_config": drafter}
    if has_centroids:
        assistant |= {"num_centroids": 16, "centroid_intermediate_top_k": int(pick(3, 6))}
    freeze_base = bool(pick(False, False, False, True))
    recipe = Recipe(
        alignment=str(pick("serving", "serving", "pr2240")),
        position_offset=int(pick(0, 1)),
        head=str(pick("dense", "masked")) if has_centroids else "dense",
        target=str(pick("data", "base")),
        loss=str(pick("cross_entropy", "total_variation", "mixed")),
        num_rounds=int(pick(1, 2, 4)),
        drafter_loss_weight=float(pick(0.1, 0.5)),
        round_weights=float(pick(1.0, 1.0, 0.6)),
        detach=bool(pick(False, False, False, True)),
        freeze_base=freeze_base,
        freeze_embeddings=bool(pick(False, True)),
        share_embedding_with_base=shares_embedding,
        lr=float(pick(2e-3, 5e-3)),
        eps=1e-3,
        warmup_steps=int(pick(0, 2)),
        decay_steps=STEPS,
        weight_decay=float(pick(0.0, 0.1)),
        max_grad_norm=float(pick(0.0, 1.0)),
    )
    if recipe.target == "data":
        recipe = replace(recipe, loss="cross_entropy")
    micro_batch, max_length = int(pick(1, 2)), int(pick(0, 24))
    return Variant({"text_config": base}, assistant, recipe, micro_batch, max_length, weight_std=0.08)


def seeing(variant: Variant, rng: np.random.Generator) -> Variant:
    """The same pair with a vision and an audio tower, trained or not, and data with images and sound."""

    def pick(*choices: object) -> object:
        return choices[rng.integers(len(choices))]

    text, pooling, heads = variant.base["text_config"], int(pick(2, 3)), int(pick(2, 4))
    clipped = bool(pick(False, True))
    vision = {
        "hidden_size": int(pick(20, 32)),
        "intermediate_size": int(pick(28, 40)),
        "num_hidden_layers": int(pick(1, 2)),
        "num_attention_heads": heads,
        "num_key_value_heads": int(pick(1, heads)),
        "head_dim": int(pick(8, 12)),
        "patch_size": int(pick(2, 4)),
        "pooling_kernel_size": pooling,
        "position_embedding_size": 4 * pooling,
        "rms_norm_eps": float(pick(1e-6, 1e-5)),
        "standardize": bool(pick(False, True)),
        "use_clipped_linears": clipped,
    }
    heads, span = int(pick(1, 3)), int(pick(2, 5))
    audio = {
        "hidden_size": 6 * heads,
        "num_hidden_layers": int(pick(1, 2)),
        "num_attention_heads": heads,
        "subsampling_conv_channels": [int(pick(4, 12)), int(pick(2, 5))],
        "conv_kernel_size": int(pick(1, 4)),
        "residual_weight": float(pick(0.5, 0.8)),
        "attention_chunk_size": span,
        "attention_context_left": span + 1,
        "attention_logit_cap": float(pick(2, 50)),
        "gradient_clipping": float(pick(3, 1e10)),
        "rms_norm_eps": 1e-4,
        "output_proj_dims": int(pick(10, 24)),
        "use_clipped_linears": clipped,
    }
    frozen = ("freeze_vision", "freeze_vision_projector", "freeze_audio", "freeze_audio_projector")
    return replace(
        variant,
        base={
            **media_ids(text["vocab_size"]),
            "vision_config": vision,
            "audio_config": audio,
            "text_config": text | {"use_bidirectional_attention": pick(None, "vision")},
        },
        recipe=replace(variant.recipe, **{name: bool(pick(False, True)) for name in frozen}),
        max_length=0,  # a cut must not go through an image
        clips={"input": [-1.7, 2.1], "output": [-1.1, 0.9]} if clipped else None,
        with_media=True,
    )


def media_ids(vocab: int) -> dict[str, int]:
    names = ("video_token_id", "boi_token_id", "image_token_id", "eoi_token_id", "boa_token_id", "audio_token_id",
             "eoa_token_index")  # fmt: skip
    return dict(zip(names, range(vocab - len(names), vocab)))


def unified(variant: Variant, rng: np.random.Generator) -> Variant:
    """The same pair, but for per-layer inputs, as one of the unified family that sees and hears."""

    def pick(*choices: object) -> object:
        return choices[rng.integers(len(choices))]

    text, width = variant.base["text_config"] | {"hidden_size_per_layer_input": 0}, int(pick(20, 32))
    vision = {
        "model_type": "gemma4_unified_vision",
        "patch_size": int(pick(1, 2)),
        "pooling_kernel_size": int(pick(2, 3)),
        "mm_embed_dim": width,
        "output_proj_dims": width,
        "mm_posemb_size": int(pick(4, 9)),
        "rms_norm_eps": float(pick(1e-6, 1e-5)),
    }
    audio = {"model_type": "gemma4_unified_audio", "audio_embed_dim": int(pick(12, 20)), "rms_norm_eps": 1e-4}
    frozen = ("freeze_vision", "freeze_vision_projector", "freeze_audio_projector")
    trained = {name: bool(pick(False, True)) for name in frozen}
    return replace(
        variant,
        base={
            "model_type": "gemma4_unified",
            **media_ids(text["vocab_size"]),
            "vision_config": vision,
            "audio_config": audio,
            "text_config": text | {"use_bidirectional_attention": pick(None, "vision")},
        },
        drafter={"model_type": pick("gemma4_assistant", "gemma4_unified_assistant"), **variant.drafter},
        recipe=replace(variant.recipe, **trained),
        max_length=0,
        with_media=True,
    )


def with_experts(variant: Variant, rng: np.random.Generator) -> Variant:
    def pick(*choices: object) -> object:
        return choices[rng.integers(len(choices))]

    experts = {
        "enable_moe_block": True,
        "num_experts": int(pick(4, 9)),
        "top_k_experts": int(pick(1, 2, 4)),
        "moe_intermediate_size": int(pick(12, 24)),
    }
    return replace(variant, base=variant.base | {"text_config": variant.base["text_config"] | experts})


def with_adapters(variant: Variant, rng: np.random.Generator) -> Variant:
    def pick(*choices: object) -> object:
        return choices[rng.integers(len(choices))]

    r = variant.recipe
    rank, on, all_linear = int(pick(1, 3, 8)), str(pick("base", "both")), bool(pick(False, True))
    has_per_layer_inputs = variant.base["text_config"]["hidden_size_per_layer_input"] > 0
    # A drafter whose own weights stay as they are cannot begin as a copy of something else.
    share = r.share_embedding_with_base and on == "base"
    adapted = replace(
        r,
        lora_rank=rank,
        lora_alpha=float(rank * pick(1, 2)),
        lora_on=on,
        lora_targets=ALL_LINEAR if all_linear and has_per_layer_inputs else r.lora_targets,
        freeze_base=False,
        share_embedding_with_base=share,
    )
    return replace(variant, recipe=adapted)


def describe(variant: Variant) -> str:
    text, r = variant.base["text_config"], variant.recipe
    parts = [
        f"K={r.num_rounds}",
        r.alignment if r.alignment == "pr2240" else f"serving+{r.position_offset}",
        r.head,
        r.target if r.target == "data" else r.loss,
    ]
    flags = {
        "ple": text["hidden_size_per_layer_input"],
        "k=v": text["attention_k_eq_v"],
        f"experts{text.get('top_k_experts')}/{text.get('num_experts')}": "num_experts" in text,
        f"shared{text['num_kv_shared_layers']}": text["num_kv_shared_layers"],
        "centroids": variant.drafter["use_ordered_embeddings"],
        f"weights{r.round_weights}": r.round_weights != 1,
        "detached": r.detach,
        "frozen-base": r.freeze_base,
        f"lora{r.lora_rank}-on-{r.lora_on}": r.lora_rank,
        "frozen-emb": r.freeze_embeddings,
        "copied-emb": r.share_embedding_with_base,
    }
    if vision := variant.base.get("vision_config"):
        flags |= {
            "unified": "model_type" in variant.base,
            "bidirectional": text["use_bidirectional_attention"],
            "standardized": vision.get("standardize"),
            "clipped": vision.get("use_clipped_linears"),
            "trained-tower": not r.freeze_vision,
            "trained-projector": not r.freeze_vision_projector,
            "trained-audio-tower": not r.freeze_audio,
            "trained-audio-projector": not r.freeze_audio_projector,
        }
    return " ".join(parts + [name for name, on in flags.items() if on])


# ---------------------------------------------------------------- the two programs


@dataclass
class Outcome:
    losses: list[float]  # of the first step: total, base, each round
    gradients: Tensors
    weights: Tensors  # trained ones, after the last step


def run_reference(variant: Variant, where: Path) -> tuple[Outcome, Tensors]:
    """Also the weights before the first step."""
    pair = where / "base", where / "drafter", where / "data.h5"
    cut = variant.max_length or None
    _, _, start = joint_reference.train(*pair, 0, variant.recipe, None, max_length=cut)
    records, gradients, weights = joint_reference.train(*pair, STEPS, variant.recipe, None, max_length=cut)
    return Outcome(first_losses(records[0]), gradients, weights), start


def run_trainer(variant: Variant, where: Path, bin_dir: Path, ranks: int) -> Outcome:
    (where / "settings.cfg").write_text(settings_text(variant, STEPS))
    run, export = where / "run", where / "hf"
    launcher = [] if ranks == 1 else f"mpirun --oversubscribe --bind-to none -n {ranks}".split()
    call(
        *launcher, bin_dir / "mtp-train", "--config", where / "settings.cfg", "--model.base", where / "base",
        "--model.drafter", where / "drafter", "--data.train", where / "data.h5", "--run.dir", run,
        "--run.device", "cpu", "--run.dump_gradients", where / "gradients.safetensors",
    )  # fmt: skip
    call(bin_dir / "mtp-export-hf", "--from", run, "--out", export)
    record = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    if variant.recipe.lora_rank > 0:  # which the export merges
        with h5py.File(run / "checkpoints" / "latest" / "state.h5") as state:
            weights = {name: torch.from_numpy(item[()]) for name, item in datasets(state["parameters"]).items()}
    else:
        weights = {
            f"{part}.{name}": tensor
            for part in ("base", "drafter")
            for file in (export / part / "model" / "consolidated").glob("*.safetensors")
            for name, tensor in load_file(file).items()
        }
    return Outcome(first_losses(record), load_file(where / "gradients.safetensors"), weights)


def datasets(group: h5py.Group) -> dict[str, h5py.Dataset]:
    """By their names within the group."""
    found = {}
    group.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    return found


def call(*command: object) -> None:
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    words = [str(c) for c in command]
    result = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | allowed)
    if result.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit {result.returncode}: {result.stderr.strip()[-500:]}")


def first_losses(record: dict) -> list[float]:
    return [record["loss"], record["loss_base"], *record["loss_drafter"]]


# ---------------------------------------------------------------- comparison


def compare(got: Outcome, want: Outcome, start: Tensors) -> list[tuple[str, float, float, str]]:
    """(what, largest difference, limit, where it is) for each thing that is compared."""
    losses = [abs(g - w) / abs(w) for g, w in zip(got.losses, want.losses, strict=True)]
    gradients = {n: relative(got.gradients[n] - g, g) for n, g in want.gradients.items()}
    if unexpected := got.gradients.keys() - want.gradients.keys():
        raise RuntimeError(f"gradients that the reference does not have: {', '.join(sorted(unexpected))}")
    worst = max(gradients, key=gradients.__getitem__)
    rows = [("losses", max(losses), LOSS_LIMIT, ""), ("gradients", gradients[worst], GRADIENT_LIMIT, worst)]
    for part in ("base", "drafter"):
        names = [n for n in want.weights if n.startswith(f"{part}.")]
        if names:
            rows.append((f"{part} weights", *compare_weights(names, got.weights, want.weights, start)))
    return rows


def compare_weights(names: list[str], got: Tensors, want: Tensors, start: Tensors) -> tuple[float, float, str]:
    off = {n: got[n].float() - want[n] for n in names}
    moved = {n: want[n] - start[n] for n in names}
    each = {n: relative(off[n], moved[n]) for n in names}
    worst = max(each, key=each.__getitem__)
    together = relative(torch.cat([off[n].flatten() for n in names]), torch.cat([moved[n].flatten() for n in names]))
    return together, WEIGHT_LIMIT, f"{worst} {each[worst]:.1e}"


def relative(difference: torch.Tensor, reference: torch.Tensor) -> float:
    return float(difference.double().norm() / reference.double().norm().clamp_min(1e-30))


def make_pair_and_data(variant: Variant, where: Path, seed: int, rng: np.random.Generator) -> None:
    joint_reference.make_pair(variant.spec, where, seed)
    path, pad = where / "data.h5", variant.pad_token_id
    if variant.with_media:
        joint_reference.make_media_data({"model_type": "gemma4"} | variant.base, 12, 32, path, seed)
        with h5py.File(path, "a") as file:
            file.attrs["pad_token_id"] = pad
    else:
        lengths = [48, 2, *rng.integers(2, 49, 10).tolist()]
        write_data(path, pad, variant.base["text_config"]["vocab_size"], lengths, seed)


def is_well_conditioned(variant: Variant, where: Path, want: Outcome, start: Tensors) -> bool:
    """Whether rounding errors stay far below the limits, in the reference itself."""
    with tempfile.TemporaryDirectory() as scratch:
        nudged = Path(scratch)
        shutil.copytree(where, nudged, dirs_exist_ok=True)
        generator = torch.Generator().manual_seed(0)
        for file in nudged.glob("*/model.safetensors"):
            tensors = load_file(file)
            for tensor in tensors.values():
                if tensor.is_floating_point():
                    tensor *= 1 + 2**-24 * torch.randn(tensor.shape, generator=generator)
            save_file(tensors, file, metadata={"format": "pt"})
        moved, _ = run_reference(variant, nudged)
    return all(difference <= limit / 3 for _, difference, limit, _ in compare(moved, want, start))


def check_pair(index: int, seed: int, bin_dir: Path, ranks: int, kinds: Kinds) -> bool:
    for attempt in itertools.count():
        rng = np.random.default_rng([seed, index, attempt])
        variant = random_variant(rng)
        if kinds.images:
            variant = (unified if index % 2 else seeing)(variant, rng)
        if kinds.experts:
            variant = with_experts(variant, rng)
        if kinds.adapters:
            variant = with_adapters(variant, rng)
        with tempfile.TemporaryDirectory() as scratch:
            where = Path(scratch)
            make_pair_and_data(variant, where, int(rng.integers(2**31)), rng)
            with router_margins() as margins:
                want, start = run_reference(variant, where)
            if min(margins, default=LEAST_MARGIN) < LEAST_MARGIN:
                print(f"pair {index}: a choice of experts is too close, drawn again", flush=True)
            elif is_well_conditioned(variant, where, want, start):
                print(f"pair {index}: {describe(variant)}", flush=True)
                return check_trainer(variant, where, want, start, bin_dir, ranks)


def check_trainer(variant: Variant, where: Path, want: Outcome, start: Tensors, bin_dir: Path, ranks: int) -> bool:
    try:
        rows = compare(run_trainer(variant, where, bin_dir, ranks), want, start)
    except (RuntimeError, OSError, KeyError) as error:
        print(f"  failed: {error}")
        return False
    for what, difference, limit, place in rows:
        print(f"  {'ok  ' if difference <= limit else 'FAIL'} {what:16} {difference:.1e} of {limit:.0e}  {place}")
    return all(difference <= limit for _, difference, limit, _ in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin_dir", type=Path, help="folder of mtp-train and mtp-export-hf")
    parser.add_argument("--pairs", type=int, default=10, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="other pairs for another seed")
    parser.add_argument("--ranks", type=int, default=1, help="MPI ranks of mtp-train, at most 2")
    parser.add_argument("--images", action="store_true", help="pairs that see and hear, with images and sound in their data; every second one is of the unified family")
    parser.add_argument("--experts", action="store_true", help="bases with experts")
    parser.add_argument("--adapters", action="store_true", help="PEFT's adapters in the base, or in both models")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    kinds = Kinds(args.images, args.experts, args.adapters)
    passed = sum(check_pair(i, args.seed, args.bin_dir, args.ranks, kinds) for i in range(args.pairs))
    print(f"{passed} passed, {args.pairs - passed} failed")
    return 0 if passed == args.pairs else 1


if __name__ == "__main__":
    sys.exit(main())
