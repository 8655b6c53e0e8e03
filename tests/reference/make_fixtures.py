#!/usr/bin/env python3
"""Writes the fixtures that the C++ tests compare with: for every variant a pair, its data, and the reference's numbers.

.venv-hf/bin/python tests/reference/make_fixtures.py [--out tests/fixtures] [VARIANT …]

VARIANT/{base,drafter}/   Hugging Face directories
VARIANT/adapter/          some variants: a PEFT directory that training goes on from
VARIANT/data.h5           training data
VARIANT/settings.cfg      the trainer's settings but for paths
VARIANT/metrics.jsonl     3 steps
VARIANT/grads_step1.safetensors     the first step's gradients before clipping
VARIANT/weights.safetensors         trained parameters after the steps, fp32
VARIANT/bf16/                       some variants: the numbers of a run that computes in bf16 (joint_reference.RoundedPair)
    metrics.jsonl, grads_step1.safetensors      as above, gradients in bf16, which is exact enough here
    weights_error.json                          how far the weights end from those of the fp32 run, of how far they move
                                                with experts only the first: the reference's router rounds, and chooses others
VARIANT/router_margin.json          with experts: the least ln(p_n / p_n+1) of all choices; a close one falls as rounding has it
VARIANT/validation.{h5,json}        some variants: validation data, and the numbers of the pair before the first step
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import peft
import torch
from safetensors.torch import load_file, save_file
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextRouter
from transformers.utils import logging

import joint_reference
from variants import LENGTHS, VARIANTS, Variant, keep_samples, settings_text, write_data

STEPS = 3
CANDIDATES = 40  # of each validation sample


def make_variant(out: Path, name: str, variant: Variant, seed: int) -> None:
    shutil.rmtree(out, ignore_errors=True)
    write_pair(variant, out, seed)
    if variant.with_adapter:
        write_adapter(variant, out, seed)
    write_samples(variant, out / "data.h5", seed)
    (out / "settings.cfg").write_text(settings_text(variant, STEPS))
    with router_margins() as margins:
        records, grads, weights = train(variant, out, out)
    write_metrics(out, records)
    if margins:
        (out / "router_margin.json").write_text(json.dumps(min(margins)) + "\n")
    if variant.bf16:
        write_bf16(variant, out, weights)
    if variant.validated:
        write_validation(variant, out, seed)
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    losses = " ".join(f"{r['loss']:.4f}" for r in records)
    print(
        f"{name:24} losses {losses}  norm {records[0]['grad_norm']:.3f}  {len(grads)} gradients  {size / 1024:.0f} KiB"
    )


@contextmanager
def router_margins() -> Iterator[list[float]]:
    """Of every call of a router that leaves experts out, ln(p_n / p_n+1) of the closest choice: of the last chosen expert
    and the next."""
    margins, forward = [], Gemma4TextRouter.forward

    def measured(router: Gemma4TextRouter, hidden_states: torch.Tensor) -> tuple:
        probabilities, weights, chosen = forward(router, hidden_states)
        if weights.shape[-1] < probabilities.shape[-1]:
            best = probabilities.detach().topk(weights.shape[-1] + 1).values.log()
            margins.append(float((best[..., -2] - best[..., -1]).min()))
        return probabilities, weights, chosen

    Gemma4TextRouter.forward = measured
    try:
        yield margins
    finally:
        Gemma4TextRouter.forward = forward


def write_samples(variant: Variant, path: Path, seed: int) -> None:
    if variant.with_media:
        joint_reference.make_media_data({"model_type": "gemma4"} | variant.base, 3 * STEPS, 16, path, seed)
    else:
        write_data(path, variant.pad_token_id, variant.base["text_config"]["vocab_size"], LENGTHS, seed)


def train(variant: Variant, pair: Path, out: Path | None, steps: int = STEPS, **settings: object) -> tuple:
    inputs = (pair / "base", pair / "drafter", pair / "data.h5")
    return joint_reference.train(*inputs, steps, variant.recipe, out, max_length=variant.max_length or None, **settings)


def write_metrics(out: Path, records: list[dict]) -> None:
    # Without step_time, so that the same numbers are the same files.
    lines = [json.dumps({k: v for k, v in r.items() if k != "step_time"}) + "\n" for r in records]
    (out / "metrics.jsonl").write_text("".join(lines))


def write_bf16(variant: Variant, out: Path, fp32_weights: dict) -> None:
    records, grads, weights = train(variant, out, None, compute_dtype=torch.bfloat16)
    _, _, start = train(variant, out, None, steps=0)
    (out / "bf16").mkdir()
    write_metrics(out / "bf16", records)
    if variant.has_experts:
        return
    save_file({name: grad.bfloat16() for name, grad in grads.items()}, out / "bf16" / "grads_step1.safetensors")

    def distance(a: dict, b: dict) -> float:
        return math.sqrt(sum(float((a[name] - b[name]).double().square().sum()) for name in b))

    error = distance(weights, fp32_weights) / distance(fp32_weights, start)
    (out / "bf16" / "weights_error.json").write_text(json.dumps(error) + "\n")


def write_validation(variant: Variant, out: Path, seed: int) -> None:
    """Of many random samples those in which most drafts are right: a random pair hardly ever agrees with anything."""
    pair = joint_reference.load_pair(out / "base", out / "drafter")
    path, vocab = out / "validation.h5", variant.base["text_config"]["vocab_size"]

    def read() -> list:
        with h5py.File(path) as f:
            samples = range(len(f["offsets"]) - 1)
            return [joint_reference.read_sample(f, i, variant.max_length or None) for i in samples]

    def right(sample: tuple) -> float:
        has_label = bool((sample[1] != joint_reference.IGNORE).any())
        found = joint_reference.validate(*pair, [sample], variant.recipe) if has_label else {}
        return sum(sum(values) for key, values in found.items() if key.startswith("accuracy"))

    if variant.with_media:
        write_samples(variant, path, seed + 100)
    else:
        write_data(path, variant.pad_token_id, vocab, LENGTHS * CANDIDATES, seed + 100)
        scores = np.reshape([right(sample) for sample in read()], (CANDIDATES, len(LENGTHS)))
        keep_samples(path, [best * len(LENGTHS) + i for i, best in enumerate(scores.argmax(0))])
    expected = joint_reference.validate(*pair, read(), variant.recipe)
    (out / "validation.json").write_text(json.dumps(expected) + "\n")


def write_pair(variant: Variant, out: Path, seed: int) -> None:
    joint_reference.make_pair(variant.spec, out, seed, variant.dtype)
    for part, config in (("base", variant.base), ("drafter", variant.drafter)):
        if variant.as_written:
            model_type = {"base": "gemma4", "drafter": "gemma4_assistant"}[part]
            text = json.dumps({"model_type": model_type, **config}, indent=2)
            (out / part / "config.json").write_text(text + "\n")
        if variant.surplus:
            add_surplus_tensors(out / part / "model.safetensors", config["text_config"], part)


def write_adapter(variant: Variant, out: Path, seed: int) -> None:
    """With a B that is not zero, so that A has a gradient."""
    torch.manual_seed(seed + 200)
    base = joint_reference.load_model(out / "base", torch.float32)
    adapter = peft.get_peft_model(base, joint_reference.lora_config(base, variant.recipe))
    with torch.no_grad():
        for name, p in adapter.named_parameters():
            if "lora_B" in name:
                p.normal_(0.0, 0.05)
    adapter.save_pretrained(out / "adapter")
    (out / "adapter" / "README.md").unlink()
    path = out / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text())
    config |= {"base_model_name_or_path": "base", "target_modules": sorted(config["target_modules"])}
    path.write_text(json.dumps(config, indent=2) + "\n")


def add_surplus_tensors(path: Path, text: dict, part: str) -> None:
    """What real files may hold besides: keys and values of layers that share, and the tied output projection."""
    tensors = load_file(path)
    layers = "model.language_model.layers" if part == "base" else "model.layers"
    first_shared = text["num_hidden_layers"] - text["num_kv_shared_layers"] if part == "base" else 0
    for layer in range(first_shared, text["num_hidden_layers"]):
        attention = f"{layers}.{layer}.self_attn"
        width = tensors[f"{attention}.q_norm.weight"].shape[0]
        for projection in ("k_proj", "v_proj"):
            tensors[f"{attention}.{projection}.weight"] = torch.ones(width, text["hidden_size"], dtype=torch.bfloat16)
        tensors[f"{attention}.k_norm.weight"] = torch.ones(width, dtype=torch.bfloat16)
    embedding = layers.replace("layers", "embed_tokens.weight")
    tensors["lm_head.weight"] = tensors[embedding].clone()
    save_file(tensors, path, metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"of {', '.join(VARIANTS)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "fixtures")
    args = parser.parse_args()
    if unknown := set(args.variants) - set(VARIANTS):
        parser.error(f"no such variant: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)  # the same sums every time
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for seed, (name, variant) in enumerate(VARIANTS.items(), 1):
        if not args.variants or name in args.variants:
            make_variant(args.out / name, name, variant, seed)


if __name__ == "__main__":
    main()
