"""Reference for joint base + drafter training, in PyTorch on Hugging Face's Gemma 4 modules.

It fixes the meaning of every number that the C++ trainer must reproduce: the joint forward, the loss, the
gradients, the AdamW step and the learning-rate schedule. It is written to be read, not to be fast.
Settings of the trainer that the first version lacked are marked "added".

    scripts/python_env.sh hf     (transformers 5.22.2: 5.23.0 refuses every Gemma 4 assistant)
    python joint_reference.py make-pair --config spec.json --out pair/     ({"base": …, "drafter": …}, see variants.py)
    python joint_reference.py make-data --vocab 512 --out data.h5
    python joint_reference.py train --base pair/base --drafter pair/drafter --data data.h5 --steps 5 --out ref/

Shapes: B sequences, S positions, V vocabulary, H base hidden size, K drafter rounds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import Gemma4AssistantForCausalLM, Gemma4ForConditionalGeneration
from transformers.models.gemma4.configuration_gemma4 import Gemma4Config
from transformers.models.gemma4_assistant.configuration_gemma4_assistant import Gemma4AssistantConfig

IGNORE = -100


@dataclass
class Recipe:
    """What one joint run does. `alignment` is explained in `drafter_round_inputs`."""

    alignment: str = "serving"  # or "pr2240"
    position_offset: int = 1  # serving: rope position of the drafter's query at t is t + offset; 0 or 1
    head: str = "dense"  # logits trained on: "dense" (whole vocabulary) or "masked" (through the centroids)
    target: str = "data"  # rounds learn the data's next token, or "base": the base's own distribution there
    num_rounds: int = 4  # K
    drafter_loss_weight: float = 0.01  # lambda
    freeze_base: bool = False
    freeze_embeddings: bool = False  # added: the base's token table (so its output projection) and per-layer table
    share_embedding_with_base: bool = False  # added: copy the base's token table into the drafter before the first step
    micro_batches: int = 4  # sequences per optimizer step, one at a time
    lr: float = 1e-5
    min_lr: float | None = None  # default 0.01 * lr
    init_lr: float | None = None  # default 0.1 * lr
    warmup_steps: int = 0
    decay_steps: int = 100
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0  # 0: no clipping (added)


# ---------------------------------------------------------------- joint forward


def causal_mask(s: int, window: int | None, offset: int) -> torch.Tensor:
    """Additive [1, 1, S, S] mask of a query at position t + offset over keys j <= t, within the window if any."""
    t = torch.arange(s)[:, None]
    j = torch.arange(s)[None, :]
    visible = j <= t
    if window is not None:
        visible &= j > t + offset - window
    mask = torch.full((s, s), torch.finfo(torch.float32).min)
    return mask.masked_fill(visible, 0.0)[None, None]


def shift_left(x: torch.Tensor, by: int, fill: int) -> torch.Tensor:
    out = torch.full_like(x, fill)
    if by < x.shape[-1]:
        out[..., : x.shape[-1] - by] = x[..., by:]
    return out


def drafter_round_inputs(recipe: Recipe, ids: torch.Tensor, labels: torch.Tensor, k: int, pad: int):
    """Token ids fed to round k and the labels of round k, both [B, S].

    labels[t] is token t + 1 (pre-shifted). Position t of round k is given
      pr2240 : token t + k      and is asked for token t + k + 1,
      serving: token t + k + 1  and is asked for token t + k + 2,
    beside the base's final hidden state of position t (k = 0) or its own projected state (k > 0). Serving is what
    speculative decoding does: when it drafts, the token after the last hidden state is already known.
    """
    lead = k + (1 if recipe.alignment == "serving" else 0)
    return shift_left(ids, lead, pad), shift_left(labels, lead, IGNORE)


def joint_forward(base, drafter, ids, recipe, extra=None):
    """Base logits [B, S, V] and a list of K drafter logits [B, S, V]."""
    out = base(input_ids=ids, output_hidden_states=True, return_shared_kv_states=True, use_cache=True, **(extra or {}))
    shared_kv = {name: kv for name, kv in out.shared_kv_states.items()}
    embed = base.get_input_embeddings()
    s = ids.shape[1]
    text = drafter.config.get_text_config()
    state = out.hidden_states[-1]
    pad = base.config.get_text_config().pad_token_id
    logits = []
    for k in range(recipe.num_rounds):
        tokens, _ = drafter_round_inputs(recipe, ids, ids, k, pad)
        x = torch.cat([embed(tokens), state], dim=-1)
        if recipe.alignment == "pr2240":
            # What Hugging Face's own forward does: its masks are bidirectional, so position t sees the keys of later tokens.
            projected = drafter.pre_projection(x)
            masks, position = drafter.create_attention_masks(projected, None, shared_kv), torch.arange(s)[None]
        else:
            offset = recipe.position_offset
            masks = {
                "full_attention": causal_mask(s, None, offset),
                "sliding_attention": causal_mask(s, text.sliding_window, offset),
            }
            projected, position = drafter.pre_projection(x), torch.arange(offset, s + offset)[None]
        h = drafter.model(
            input_ids=None,
            inputs_embeds=projected,
            attention_mask=masks,
            position_ids=position,
            shared_kv_states=shared_kv,
            use_cache=False,
        ).last_hidden_state
        state = drafter.post_projection(h)
        if recipe.head == "masked" and drafter.masked_embedding is not None:
            step_logits = drafter.masked_embedding(h, drafter.lm_head.weight)
        else:
            step_logits = drafter.lm_head(h)
        logits.append(step_logits)
    return out.logits, logits


def cross_entropy_sum(logits, labels):
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")


def round_loss_sum(recipe, draft_logits, base_logits, labels, k):
    """Summed loss of round k over the positions that have a label; draft_logits and base_logits [B, S, V]."""
    _, round_labels = drafter_round_inputs(recipe, labels, labels, k, 0)
    if recipe.target == "data":
        return cross_entropy_sum(draft_logits, round_labels)
    lead = k + (1 if recipe.alignment == "serving" else 0)
    chosen = round_labels != IGNORE
    teacher = torch.zeros_like(base_logits)
    if lead < base_logits.shape[1]:
        teacher[:, : base_logits.shape[1] - lead] = base_logits[:, lead:]
    p = teacher.detach().float().softmax(-1)
    return -(p * draft_logits.float().log_softmax(-1)).sum(-1)[chosen].sum()


def freeze(base, drafter, recipe):
    """What never receives a gradient leaves the optimizer."""
    for name, p in base.named_parameters():
        frozen = recipe.freeze_base or "vision_tower" in name or "audio_tower" in name
        frozen |= "embed_vision" in name or "embed_audio" in name
        frozen |= recipe.freeze_embeddings and "language_model.embed_tokens" in name  # added; the per-layer table too
        p.requires_grad_(not frozen)
    if recipe.num_rounds == 1:
        drafter.post_projection.requires_grad_(False)
    if drafter.masked_embedding is not None:
        drafter.masked_embedding.centroids.requires_grad_(False)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Rate of optimizer step `step` (0-based): linear from init_lr over the warm-up, then cosine to min_lr."""
    init = 0.1 * recipe.lr if recipe.init_lr is None else recipe.init_lr
    low = 0.01 * recipe.lr if recipe.min_lr is None else recipe.min_lr
    if recipe.warmup_steps > 0 and step <= recipe.warmup_steps:
        return init + (recipe.lr - init) * step / recipe.warmup_steps
    if step > recipe.decay_steps:
        return low
    done = (step - recipe.warmup_steps) / (recipe.decay_steps - recipe.warmup_steps)
    return low + (recipe.lr - low) * 0.5 * (math.cos(math.pi * done) + 1.0)


# ---------------------------------------------------------------- data


def read_sample(f: h5py.File, i: int, max_length: int | None = None):
    lo, hi = f["offsets"][i], f["offsets"][i + 1]
    tokens = torch.tensor(f["tokens"][lo:hi].astype(np.int64))
    target = torch.tensor(f["loss_mask"][lo:hi].astype(bool))
    if max_length is not None:
        tokens, target = tokens[:max_length], target[:max_length]
    labels = torch.where(target[1:], tokens[1:], IGNORE)
    return tokens[:-1][None], labels[None]


def make_data(vocab: int, samples: int, length: int, out: Path, seed: int):
    rng = np.random.default_rng(seed)
    tokens, mask, offsets = [], [], [0]
    for _ in range(samples):
        n = int(rng.integers(length // 2, length + 1))
        # A noisy arithmetic walk: learnable, so that losses fall and drafts are accepted.
        t = [int(rng.integers(3, vocab))]
        step = int(rng.integers(1, 7))
        for _ in range(n - 1):
            t.append(3 + (t[-1] - 3 + step) % (vocab - 3) if rng.random() < 0.9 else int(rng.integers(3, vocab)))
        m = np.ones(n, np.uint8)
        m[: int(rng.integers(1, n // 4 + 2))] = 0
        tokens += t
        mask += m.tolist()
        offsets.append(len(tokens))
    with h5py.File(out, "w") as f:
        f.attrs["format"], f.attrs["version"] = "mtp-data", 1
        f.attrs["vocab_size"], f.attrs["pad_token_id"] = vocab, 0
        f["tokens"] = np.array(tokens, np.int32)
        f["loss_mask"] = np.array(mask, np.uint8)
        f["offsets"] = np.array(offsets, np.int64)


# ---------------------------------------------------------------- models


def make_pair(spec: dict, out: Path, seed: int, dtype: str = "float32"):
    """Random pair with every scale, norm and scalar moved off its neutral value, so that none can be left out.

    Adam divides by the gradient's size, so it turns rounding noise of tiny gradients into full steps. Compare weights
    after several steps with Recipe.eps around 1e-3 (steps then follow the gradient), first-step gradients with any.
    """
    torch.manual_seed(seed)
    base = Gemma4ForConditionalGeneration(Gemma4Config(**spec["base"]))
    drafter = Gemma4AssistantForCausalLM(Gemma4AssistantConfig(**spec["drafter"]))
    gain = spec.get("weight_std", 0.08)
    with torch.no_grad():
        for model in (base, drafter):
            for name, p in list(model.named_parameters()) + list(model.named_buffers()):
                if "inv_freq" in name or "embed_scale" in name or not p.is_floating_point():
                    continue
                if name.endswith(("input_min", "output_min")):
                    p.fill_(-2.0)
                elif name.endswith(("input_max", "output_max")):
                    p.fill_(2.0)
                elif name.endswith("layer_scalar"):
                    p.uniform_(0.6, 1.1)
                elif "q_norm" in name or "k_norm" in name:
                    p.uniform_(
                        0.2, 0.6
                    )  # attention has no 1/sqrt(d): larger weights make it one-hot and gradients chaotic
                elif "norm" in name or name.endswith("scale") or "std_" in name:
                    p.uniform_(0.5, 1.5)
                else:
                    p.normal_(0.0, gain)
        if drafter.masked_embedding is not None:
            v = drafter.config.get_text_config().vocab_size
            drafter.masked_embedding.token_ordering.copy_(torch.randperm(v))
    for model, name in ((base, "base"), (drafter, "drafter")):
        model.to(getattr(torch, dtype)).save_pretrained(out / name)


def load_pair(base_dir, drafter_dir, dtype=torch.float32):
    base = Gemma4ForConditionalGeneration.from_pretrained(base_dir, dtype=dtype, attn_implementation="eager")
    drafter = Gemma4AssistantForCausalLM.from_pretrained(drafter_dir, dtype=dtype, attn_implementation="eager")
    return base, drafter


# ---------------------------------------------------------------- training


class RoundedPair:
    """Added: the pair as it is computed with in another type than the fp32 of the weights that are trained.

    It is loaded in that type as from_pretrained does it and runs without autocast: parameters, buffers, activations and
    their gradients are all of that type. Its parameters are rounded from the trained ones before each step, and its
    gradients are added to theirs, in fp32, after each sequence's backward. All that is left to PyTorch's choice is what
    its operations keep in fp32 within themselves.
    """

    def __init__(self, trained, base_dir, drafter_dir, recipe, dtype):
        self.models = load_pair(base_dir, drafter_dir, dtype)
        freeze(*self.models, recipe)
        self.parameters = [
            pair for mine, its in zip(self.models, trained) for pair in zip(mine.parameters(), its.parameters(), strict=True)
        ]

    @torch.no_grad()
    def round_weights(self):
        for mine, trained in self.parameters:
            mine.copy_(trained)

    @torch.no_grad()
    def add_gradients(self):
        for mine, trained in self.parameters:
            if mine.grad is not None:
                trained.grad = mine.grad.float() if trained.grad is None else trained.grad + mine.grad.float()
                mine.grad = None


def train(
    base_dir,
    drafter_dir,
    data,
    steps,
    recipe: Recipe,
    out: Path | None,
    order=None,
    max_length=None,
    compute_dtype=torch.float32,
):
    """Run `steps` optimizer steps on samples order[0], order[1], … (default 0, 1, …) and record every number."""
    base, drafter = load_pair(base_dir, drafter_dir)
    freeze(base, drafter, recipe)
    rounded = None
    if compute_dtype != torch.float32:
        rounded = RoundedPair((base, drafter), base_dir, drafter_dir, recipe, compute_dtype)
    if recipe.share_embedding_with_base:  # added
        with torch.no_grad():
            drafter.get_input_embeddings().weight.copy_(base.get_input_embeddings().weight)
    named = [(f"base.{n}", p) for n, p in base.named_parameters() if p.requires_grad]
    named += [(f"drafter.{n}", p) for n, p in drafter.named_parameters() if p.requires_grad]
    params = [p for _, p in named]
    opt = torch.optim.AdamW(params, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay)
    records, grads = [], None
    with h5py.File(data) as f:
        count = len(f["offsets"]) - 1
        order = list(range(count)) if order is None else order
        for step in range(steps):
            rate = learning_rate(recipe, step)
            for group in opt.param_groups:
                group["lr"] = rate
            start = time.perf_counter()
            take = [order[(step * recipe.micro_batches + m) % len(order)] for m in range(recipe.micro_batches)]
            batch = [read_sample(f, i, max_length) for i in take]
            label_tokens = sum(int((labels != IGNORE).sum()) for _, labels in batch)
            base_loss, round_loss = 0.0, [0.0] * recipe.num_rounds
            opt.zero_grad()
            if rounded:
                rounded.round_weights()
            for ids, labels in batch:
                logits, draft_logits = joint_forward(*(rounded.models if rounded else (base, drafter)), ids, recipe)
                lb = cross_entropy_sum(logits, labels) / label_tokens
                total = lb
                for k, dl in enumerate(draft_logits):
                    l_k = round_loss_sum(recipe, dl, logits, labels, k) / label_tokens
                    round_loss[k] += float(l_k.detach())
                    total = total + recipe.drafter_loss_weight * l_k
                total.backward()
                if rounded:
                    rounded.add_gradients()
                base_loss += float(lb.detach())
            if step == 0:
                grads = {n: p.grad.detach().clone().contiguous() for n, p in named if p.grad is not None}
            norm = float(torch.nn.utils.clip_grad_norm_(params, recipe.max_grad_norm or math.inf))
            opt.step()
            records.append(
                {
                    "step": step + 1,
                    "loss": base_loss + recipe.drafter_loss_weight * sum(round_loss),
                    "loss_base": base_loss,
                    "loss_drafter": round_loss,
                    "grad_norm": norm,
                    "lr": rate,
                    "label_tokens": label_tokens,
                    "step_time": time.perf_counter() - start,
                }
            )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        save_file(grads, out / "grads_step1.safetensors")
        save_file({n: p.detach().clone().contiguous() for n, p in named}, out / "weights.safetensors")
    return records, grads, {n: p.detach() for n, p in named}


# ---------------------------------------------------------------- validation (added)


@torch.no_grad()
def validate(base, drafter, samples, recipe: Recipe):
    """A pair's line of validation.jsonl, but for `step`: always as when serving, with the head that serves.

    `samples` are ids and labels as `read_sample` gives them.
    """
    serving = replace(recipe, alignment="serving", head="masked", target="data")  # no centroids: dense
    rounds = range(serving.num_rounds)
    base_loss, round_loss, label_tokens = 0.0, [0.0 for _ in rounds], 0
    asked, right, agreed = ([0 for _ in rounds] for _ in range(3))
    starts, accepted = 0, 0  # positions whose rounds all have labels, and the drafts accepted there
    for ids, labels in samples:
        logits, draft_logits = joint_forward(base, drafter, ids, serving)
        base_loss += float(cross_entropy_sum(logits, labels))
        label_tokens += int((labels != IGNORE).sum())
        complete = running = torch.ones_like(labels, dtype=torch.bool)
        run = torch.zeros_like(labels)
        for k in rounds:
            round_loss[k] += float(round_loss_sum(serving, draft_logits[k], logits, labels, k))
            _, wanted = drafter_round_inputs(serving, labels, labels, k, 0)
            choice, teacher = draft_logits[k].argmax(-1), shift_left(logits.argmax(-1), k + 1, IGNORE)
            has_label = wanted != IGNORE
            asked[k] += int(has_label.sum())
            right[k] += int((choice == wanted)[has_label].sum())
            agreed[k] += int((choice == teacher)[has_label].sum())
            complete = complete & has_label
            running = running & (choice == teacher)
            run += running
        starts += int(complete.sum())
        accepted += int(run[complete].sum())
    return {
        "loss_base": base_loss / label_tokens,
        "loss_drafter": [loss / label_tokens for loss in round_loss],
        "accuracy_data": [n / max(of, 1) for n, of in zip(right, asked)],
        "accuracy_base": [n / max(of, 1) for n, of in zip(agreed, asked)],
        "accepted_length": 1 + accepted / max(starts, 1),
    }


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(dest="command", required=True)
    p = sub.add_parser("make-pair")
    p.add_argument("--config", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--dtype", default="float32")
    p = sub.add_parser("make-data")
    p.add_argument("--vocab", type=int, required=True)
    p.add_argument("--samples", type=int, default=64)
    p.add_argument("--length", type=int, default=48)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, required=True)
    p = sub.add_parser("train")
    p.add_argument("--base", required=True)
    p.add_argument("--drafter", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--recipe", default="{}", help="JSON of the Recipe fields to change")
    p.add_argument("--max-length", type=int)
    p.add_argument("--out", type=Path)
    a = ap.parse_args()
    if a.command == "make-pair":
        make_pair(json.loads(a.config.read_text()), a.out, a.seed, a.dtype)
    elif a.command == "make-data":
        make_data(a.vocab, a.samples, a.length, a.out, a.seed)
    else:
        records, _, _ = train(
            a.base, a.drafter, a.data, a.steps, Recipe(**json.loads(a.recipe)), a.out, max_length=a.max_length
        )
        for r in records:
            print(json.dumps(r))


if __name__ == "__main__":
    main()
