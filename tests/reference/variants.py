"""Named pairs and recipes that together reach every branch of the joint forward, the loss and the optimizer.

Sizes are tiny and uneven on purpose: samples longer than the window, shorter than the number of rounds, of two tokens;
widths that are no multiple of a vector register.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from joint_reference import Recipe

VOCAB = 96
SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Variant:
    """A pair and what to do with it."""

    base: dict  # Gemma4Config, or by its model_type Gemma4UnifiedConfig
    drafter: dict  # Gemma4AssistantConfig, or Gemma4UnifiedAssistantConfig
    recipe: Recipe
    micro_batch: int = 1  # sequences of a forward; the reference takes each alone, the loss is a sum
    max_length: int = 0  # tokens a sample is cut to; 0: uncut
    dtype: str = "float32"  # of the stored weights
    as_written: bool = False  # config.json is the configuration above and nothing more, as on the Hub
    weight_std: float = 0.08
    surplus: bool = False  # the files hold tensors that no one uses: K/V of shared layers, an explicit lm_head
    validated: bool = False  # with validation data and the numbers of one validation before the first step
    bf16: bool = False  # with the numbers of a run that computes in bf16
    clips: dict | None = None  # bounds of the towers' clipped linears: see joint_reference.make_pair
    with_media: bool = False  # the data have the images and the sound that the base takes
    with_adapter: bool = False  # the recipe's adapters go on from one that PEFT has saved

    @property
    def spec(self) -> dict:
        return {"base": self.base, "drafter": self.drafter, "weight_std": self.weight_std, "clips": self.clips}

    @property
    def has_experts(self) -> bool:
        return self.base["text_config"].get("enable_moe_block", False)

    @property
    def pad_token_id(self) -> int:
        return self.base["text_config"].get("pad_token_id", 0)


def base(per_layer_width: int = 4, towers: dict | None = None, **text: object) -> dict:
    """E4B's shape: layers 0 … 2 compute keys and values, 3 and 4 share them; 1 and 2 are the store layers."""
    return {
        "text_config": {
            "vocab_size": VOCAB,
            "hidden_size": 24,
            "intermediate_size": 28,
            "num_hidden_layers": 5,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "global_head_dim": 16,
            "layer_types": [SLIDING, SLIDING, FULL, SLIDING, FULL],
            "num_kv_shared_layers": 2,
            "sliding_window": 6,
            "max_position_embeddings": 64,
            "hidden_size_per_layer_input": per_layer_width,
            "vocab_size_per_layer_input": VOCAB,
            "final_logit_softcapping": 30.0,
            **text,
        },
        **(towers or {}),
    }


def drafter(centroids: int = 12, backbone: int = 24, **text: object) -> dict:
    return {
        "backbone_hidden_size": backbone,
        "use_ordered_embeddings": centroids > 0,
        **({"num_centroids": centroids, "centroid_intermediate_top_k": 3} if centroids else {}),
        "text_config": {
            "model_type": "gemma4_text",
            "vocab_size": VOCAB,
            "hidden_size": 16,
            "intermediate_size": 20,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "global_head_dim": 16,
            "layer_types": [SLIDING, SLIDING, FULL],
            "sliding_window": 6,
            "max_position_embeddings": 64,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            **text,
        },
    }


def recipe(**changes: object) -> Recipe:
    """Steps that follow the gradient (see joint_reference.make_pair on eps) and are large enough to be compared."""
    return Recipe(**{"lr": 2e-3, "eps": 1e-3, "drafter_loss_weight": 0.1, "decay_steps": 6, **changes})


# Two layer types with their own numbers of K/V heads: full layers reuse keys as values.
K_EQ_V = {"num_attention_heads": 4, "num_key_value_heads": 2, "attention_k_eq_v": True, "num_global_key_value_heads": 1}
NO_SHARING = {"num_kv_shared_layers": 0}
EXPERTS = {"enable_moe_block": True, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 14}
# The same without attention_k_eq_v, which only per_layer_config can say. Indices differ: 5 and 3 layers.
PER_LAYER_BASE = {"num_attention_heads": 4, "num_key_value_heads": 2} | {
    "per_layer_config": {
        "2": {"head_dim": 16, "num_key_value_heads": 4},
        "4": {"head_dim": 16, "num_key_value_heads": 4},
    }
}
PER_LAYER_DRAFTER = {"num_attention_heads": 4, "num_key_value_heads": 2} | {
    "per_layer_config": {"2": {"head_dim": 16, "num_key_value_heads": 4}}
}
ROPE = {
    "rope_parameters": {
        SLIDING: {"rope_type": "default", "rope_theta": 500.0},
        FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 2000.0, "factor": 2.0},
    }
}
ALL_LINEAR = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    *("per_layer_input_gate", "per_layer_projection", "per_layer_model_projection"),
)
TOWERS = {
    "vision_config": {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
        "num_key_value_heads": 1, "head_dim": 8, "patch_size": 2, "position_embedding_size": 4,
    },
    "audio_config": {
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "subsampling_conv_channels": [4, 2],
        "output_proj_dims": 8,
    },
}  # fmt: skip


MEDIA_IDS = {
    **{"boi_token_id": 90, "eoi_token_id": 91, "image_token_id": 92, "video_token_id": 89},
    **{"boa_token_id": 93, "eoa_token_index": 94, "audio_token_id": 95},
}


def vision(**config: object) -> dict:
    """A tower for images of up to 12 x 12 patches, and the ids of what stands for them."""
    return {
        **MEDIA_IDS,
        "vision_config": {
            "hidden_size": 20, "intermediate_size": 28, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 12, "patch_size": 2, "pooling_kernel_size": 3,
            "position_embedding_size": 12, "rms_norm_eps": 1e-5, **config,
        },
    }  # fmt: skip


# Patches of 6 x 6 pixels, in images of up to 4 x 4 of them; frames of 20 samples of sound.
UNIFIED = MEDIA_IDS | {
    "model_type": "gemma4_unified",
    "audio_config": {"model_type": "gemma4_unified_audio", "audio_embed_dim": 20, "rms_norm_eps": 1e-4},
    "vision_config": {
        "model_type": "gemma4_unified_vision", "patch_size": 2, "pooling_kernel_size": 3, "mm_embed_dim": 20,
        "mm_posemb_size": 4, "output_proj_dims": 20, "rms_norm_eps": 1e-5,
    },
}  # fmt: skip

# A tower for log-mel frames of 8 numbers, with states that reach their bounds.
AUDIO = MEDIA_IDS | {
    "audio_config": {
        "hidden_size": 18, "num_hidden_layers": 2, "num_attention_heads": 3, "subsampling_conv_channels": [8, 3],
        "conv_kernel_size": 3, "residual_weight": 0.7, "attention_chunk_size": 4, "attention_context_left": 5,
        "attention_logit_cap": 2.0, "gradient_clipping": 3.0, "rms_norm_eps": 1e-4, "output_proj_dims": 14,
    },
}  # fmt: skip

VARIANTS: dict[str, Variant] = {
    "e4b": Variant(base(), drafter(), recipe(), micro_batch=2, validated=True),
    "e2b_masked_head": Variant(
        base(use_double_wide_mlp=True),
        drafter(),
        recipe(head="masked", num_rounds=2, position_offset=0, target="base"),
        micro_batch=4,
        as_written=True,
        bf16=True,
    ),
    "dense_31b": Variant(
        base(per_layer_width=0, **K_EQ_V, **NO_SHARING),
        drafter(centroids=0, **K_EQ_V),
        recipe(num_rounds=1, warmup_steps=2),
        micro_batch=2,
        as_written=True,
        bf16=True,
    ),
    "k_eq_v_shared_pr2240": Variant(
        base(per_layer_width=0, **K_EQ_V),
        drafter(**K_EQ_V),
        recipe(alignment="pr2240", head="masked"),
        validated=True,
    ),
    "pr2240": Variant(
        base(), drafter(), recipe(alignment="pr2240", drafter_loss_weight=0.01), micro_batch=2, bf16=True
    ),
    "pr2240_target_base": Variant(
        base(**NO_SHARING, final_logit_softcapping=None),
        drafter(centroids=0),
        recipe(alignment="pr2240", target="base", num_rounds=2),
    ),
    "frozen_base_bf16": Variant(base(), drafter(), recipe(freeze_base=True, target="base"), dtype="bfloat16"),
    "frozen_embeddings_fp16": Variant(
        base(), drafter(), recipe(freeze_embeddings=True, position_offset=0), micro_batch=2, dtype="float16"
    ),
    "kv_heads_per_layer": Variant(
        base(**PER_LAYER_BASE, final_logit_softcapping=None),
        drafter(centroids=0, **PER_LAYER_DRAFTER, final_logit_softcapping=5.0),  # of no effect in a drafter
        recipe(target="base", weight_decay=0.1),
        micro_batch=4,
        validated=True,
    ),
    "shared_embedding": Variant(
        base(per_layer_width=0),
        drafter(hidden_size=24),
        recipe(share_embedding_with_base=True, num_rounds=2, max_grad_norm=0.0, head="masked"),
        micro_batch=2,
    ),
    "cut_other_pad_and_rope": Variant(
        base(pad_token_id=7, use_bidirectional_attention="vision", **ROPE),
        drafter(pad_token_id=7, **ROPE),
        recipe(max_grad_norm=0.05, warmup_steps=1, decay_steps=2, betas=(0.8, 0.9)),
        micro_batch=2,
        max_length=11,
        as_written=True,
    ),
    "towers_and_surplus": Variant(
        base(towers=TOWERS), drafter(), recipe(num_rounds=3, init_lr=1e-3, min_lr=5e-4), dtype="bfloat16", surplus=True
    ),
    "dense_31b_vision": Variant(
        base(
            per_layer_width=0,
            towers=vision(num_key_value_heads=2, head_dim=8, standardize=True),
            use_bidirectional_attention="vision",
            **K_EQ_V,
            **NO_SHARING,
        ),
        drafter(centroids=0, **K_EQ_V),
        recipe(freeze_vision_projector=False, num_rounds=2),
        micro_batch=2,
        with_media=True,
        bf16=True,  # without clipped linears, whose gradients jump where bf16 rounds a number across a bound
    ),
    "e4b_vision": Variant(
        base(towers=vision(use_clipped_linears=True)),
        drafter(),
        recipe(freeze_vision=False, freeze_vision_projector=False),
        clips={"input": [-1.7, 2.1], "output": [-1.1, 0.9]},
        weight_std=0.1,
        with_media=True,
        validated=True,
        bf16=True,
    ),
    "unified": Variant(
        base(per_layer_width=0, towers=UNIFIED, **K_EQ_V, **NO_SHARING),
        drafter(centroids=0, model_type="gemma4_unified_text", **K_EQ_V) | {"model_type": "gemma4_unified_assistant"},
        recipe(freeze_vision=False, freeze_vision_projector=False, freeze_audio_projector=False, num_rounds=2),
        micro_batch=2,
        as_written=True,
        with_media=True,
        validated=True,
        bf16=True,
    ),
    "detached_weighted_rounds": Variant(
        base(per_layer_width=0), drafter(centroids=0), recipe(detach=True, round_weights=0.7, target="base"), micro_batch=2
    ),
    "lora": Variant(
        base(),
        drafter(),
        recipe(lora_rank=3, lora_alpha=4.5, num_rounds=2, lora_targets=ALL_LINEAR),
        micro_batch=2,
        dtype="bfloat16",
        with_adapter=True,
        bf16=True,
    ),
    "lora_on_both": Variant(
        base(per_layer_width=0, **K_EQ_V),
        drafter(centroids=0, **K_EQ_V),
        recipe(lora_rank=2, lora_alpha=2, lora_on="both", lora_targets=("q_proj", "v_proj", "down_proj", "pre_projection")),
    ),
    "experts_26b": Variant(
        base(
            per_layer_width=0,
            towers=vision(num_key_value_heads=2, head_dim=8, standardize=True),
            use_bidirectional_attention="vision",
            num_hidden_layers=3,
            layer_types=[SLIDING, FULL, FULL],
            **EXPERTS,
            **K_EQ_V,
            **NO_SHARING,
        ),
        drafter(centroids=0, **K_EQ_V),
        recipe(freeze_vision_projector=False, num_rounds=2),
        micro_batch=2,
        with_media=True,
        validated=True,
        bf16=True,
    ),
    "e4b_audio": Variant(
        base(towers=AUDIO),
        drafter(),
        recipe(freeze_audio=False, freeze_audio_projector=False, num_rounds=2),
        micro_batch=2,
        clips={"input": [-1.7, 2.1], "output": [-1.1, 0.9]},
        weight_std=0.1,
        with_media=True,
        validated=True,
    ),
    "total_variation": Variant(
        base(per_layer_width=0), drafter(), recipe(target="base", loss="total_variation", head="masked"), micro_batch=2
    ),
    "mixed": Variant(
        base(per_layer_width=0), drafter(centroids=0), recipe(target="base", loss="mixed", num_rounds=2), micro_batch=2
    ),
}

# A sample of two tokens, some with fewer positions than rounds, some longer than the window; steps straddle the end.
LENGTHS = [17, 2, 9, 24, 4, 13, 3, 20, 7, 11]


def write_data(path: Path, pad: int, vocab: int, lengths: list[int], seed: int) -> None:
    """Random tokens, pad and soft tokens among them; the first tokens of a sample and some more are no targets."""
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(0, vocab, n) for n in lengths]
    tokens[0][3] = pad
    masks = [(rng.random(n) < 0.85) & (np.arange(n) >= min(n // 4, 3)) for n in lengths]
    masks[0][-1] = True
    with h5py.File(path, "w") as f:
        f.attrs.update({"format": "mtp-data", "version": 1, "vocab_size": vocab, "pad_token_id": pad})
        f["tokens"] = np.concatenate(tokens).astype(np.int32)
        f["loss_mask"] = np.concatenate(masks).astype(np.uint8)
        f["offsets"] = np.cumsum([0, *lengths]).astype(np.int64)


def keep_samples(path: Path, chosen: list[int]) -> None:
    """Leaves only the chosen samples in a data file, in that order."""
    with h5py.File(path) as f:
        attributes, offsets = dict(f.attrs), f["offsets"][:]
        parts = {name: [f[name][offsets[i] : offsets[i + 1]] for i in chosen] for name in ("tokens", "loss_mask")}
    with h5py.File(path, "w") as f:
        f.attrs.update(attributes)
        for name, values in parts.items():
            f[name] = np.concatenate(values)
        f["offsets"] = np.cumsum([0, *(len(part) for part in parts["tokens"])]).astype(np.int64)


def settings_text(variant: Variant, steps: int) -> str:
    """The trainer's settings file for a variant, without any path."""
    r = variant.recipe
    sections: dict[str, dict[str, object]] = {
        "data": {"max_length": variant.max_length, "shuffle": False},
        "drafter": {
            "rounds": r.num_rounds,
            "loss_weight": r.drafter_loss_weight,
            "alignment": r.alignment,
            "position_offset": r.position_offset,
            "head": r.head,
            "target": r.target,
            **({"loss": r.loss} if r.loss != "cross_entropy" else {}),
            "share_embedding_with_base": r.share_embedding_with_base,
        }
        | ({"round_weights": r.round_weights} if r.round_weights != 1 else {})
        | ({"detach": True} if r.detach else {}),
        "freeze": {"base": r.freeze_base, "embeddings": r.freeze_embeddings}
        | ({"vision": r.freeze_vision, "vision_projector": r.freeze_vision_projector} if variant.with_media else {})
        | ({"audio_projector": r.freeze_audio_projector} if variant.with_media and "audio_config" in variant.base else {})
        | ({} if r.freeze_audio else {"audio": False}),
        "lora": {"rank": r.lora_rank, "alpha": r.lora_alpha, "targets": ",".join(r.lora_targets), "on": r.lora_on}
        if r.lora_rank
        else {},
        "train": {
            "max_steps": steps,
            "global_batch": r.micro_batches,
            "micro_batch": variant.micro_batch,
            "compute_dtype": "fp32",
        },
        "optimizer": {
            "lr": r.lr,
            "beta1": r.betas[0],
            "beta2": r.betas[1],
            "eps": r.eps,
            "weight_decay": r.weight_decay,
            "max_grad_norm": r.max_grad_norm,
        },
        "schedule": {"style": "cosine", "warmup_steps": r.warmup_steps, "decay_steps": r.decay_steps}
        | {key: value for key, value in (("init_lr", r.init_lr), ("min_lr", r.min_lr)) if value is not None},
    }
    return "\n".join(f"[{n}]\n" + "".join(line(k, v) for k, v in keys.items()) for n, keys in sections.items() if keys)


def line(key: str, value: object) -> str:
    return f"{key} = {str(value).lower() if isinstance(value, bool) else value}\n"
