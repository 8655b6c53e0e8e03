#!/usr/bin/env python3
"""Writes reference_values.json: what PyTorch and Hugging Face's Gemma 4 modules compute for small inputs.

    tests/ops/make_reference_values.py > tests/ops/reference_values.json     (needs scripts/requirements-hf.txt)

Every case holds inputs, an output, a gradient of the output and the gradients of the inputs that follow from it (null
where there is none). Inputs are multiples of 1/64, so that they are exact in fp32 and short in the file. The tests
build the same operation from the parameters that stand beside the case's name in their source.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Gemma4AssistantForCausalLM
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.models.gemma4.configuration_gemma4 import Gemma4AudioConfig, Gemma4TextConfig, Gemma4VisionConfig
from transformers.models.gemma4.modeling_gemma4 import (
    Gemma4AudioAttention,
    Gemma4AudioCausalConv1d,
    Gemma4ClippableLinear,
    Gemma4RMSNorm,
    Gemma4TextExperts,
    Gemma4TextRotaryEmbedding,
    Gemma4TextRouter,
    Gemma4TextScaledWordEmbedding,
    Gemma4VisionPooler,
    Gemma4VisionRotaryEmbedding,
    apply_multidimensional_rope,
    apply_rotary_pos_emb,
    create_masks_for_vision_model,
    eager_attention_forward,
    get_block_sequence_ids_for_mask,
)
from transformers.models.gemma4_assistant.modeling_gemma4_assistant import Gemma4AssistantMaskedEmbedder

sys.path.insert(0, str(Path(__file__).parent.parent / "reference"))
from joint_reference import IGNORE, Recipe, causal_mask, cross_entropy_sum, round_loss_sum, shift_left

CASES = {}
VISION_ROPE = {"rope_type": "axial", "rope_theta": 100.0}
LENGTH_SEEN = 9  # of the sequences in attention
CLIPS = {"input_min": -0.7, "input_max": 0.8, "output_min": -0.9, "output_max": 1.1}


def draw(*shape, scale=1.0):
    """Normal deviates, rounded to multiples of 1/64."""
    return torch.round(torch.randn(*shape, dtype=torch.float64) * scale * 64) / 64


def array(x):
    x = x.detach()
    return {"shape": list(x.shape), "values": [float(f"{v:.8g}") for v in x.double().flatten().tolist()]}


def case(name, inputs, function, output_gradient=None, **parameters):
    """Records `function` of leaf tensors and, where its output has one, the gradient of every input."""
    leaves = [x.clone().requires_grad_(True) for x in inputs]
    output = function(*leaves)
    gradient = draw(*output.shape) if output_gradient is None else output_gradient
    output.backward(gradient)
    CASES[name] = {
        "inputs": [array(x) for x in inputs],
        "output": array(output),
        "output_gradient": array(gradient),
        "gradients": [None if x.grad is None else array(x.grad) for x in leaves],
        **parameters,
    }


# ---------------------------------------------------------------- layers


def with_parameters(module, **parameters):
    """`module` computing on the given tensors in place of its parameters."""
    return lambda *args: torch.func.functional_call(module, parameters, args)


def layers():
    case("linear", [draw(5, 12), draw(7, 12)], F.linear)
    norm = Gemma4RMSNorm(12, eps=1e-6)
    case("rms_norm", [draw(5, 12), draw(12)], lambda x, w: with_parameters(norm, weight=w)(x))
    case("rms_norm_without_weight", [draw(5, 12)], Gemma4RMSNorm(12, eps=1e-6, with_scale=False))
    gelu = ACT2FN["gelu_pytorch_tanh"]
    case("gated_gelu", [draw(4, 9, scale=2), draw(4, 9)], lambda gate, up: gelu(gate) * up)


def embeddings():
    ids = [3, 0, 5, 3, 3, 0, 6]
    table = Gemma4TextScaledWordEmbedding(7, 6, padding_idx=0, embed_scale=1.75)
    case("lookup", [draw(7, 6)], lambda w: with_parameters(table, weight=w)(torch.tensor(ids)), ids=ids)
    for by in (2, 9):
        case(f"shift_rows_by_{by}", [draw(5, 3), draw(1, 3)], lambda x, fill, by=by: shifted_rows(x, fill, by))


def shifted_rows(x, fill, by):
    rows = shift_left(torch.arange(x.shape[0]), by, x.shape[0])
    return torch.cat([x, fill.detach()])[rows]


def rope():
    config = Gemma4TextConfig(
        hidden_size=32,
        head_dim=8,
        global_head_dim=16,
        num_hidden_layers=2,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
        },
    )
    embedding = Gemma4TextRotaryEmbedding(config)
    for kind, width, offset in (("sliding_attention", 8, 0), ("full_attention", 16, 1)):
        positions = torch.arange(offset, offset + 6)[None]
        cos, sin = embedding(torch.zeros(1, dtype=torch.float64), positions, kind)
        case(
            f"rope_{kind}",
            [draw(6, 2, width)],
            lambda x, cos=cos, sin=sin: apply_rotary_pos_emb(x[None], cos, sin, unsqueeze_dim=2)[0],
            inverse_frequencies=getattr(embedding, f"{kind}_inv_freq").tolist(),
        )


# ---------------------------------------------------------------- attention


def attention_masks(length, window):
    """Hugging Face's own masks: of the base and, mirrored, of the assistant's forward."""
    config = Gemma4TextConfig(sliding_window=window, attn_implementation="eager")
    x = torch.zeros(1, length, 1, dtype=torch.float64)
    base = {"config": config, "inputs_embeds": x, "attention_mask": None, "past_key_values": None}
    keys = torch.zeros(1, 1, length, 1, dtype=torch.float64)
    shared = {"full_attention": (keys, keys), "sliding_attention": (keys, keys)}
    assistant = Gemma4AssistantForCausalLM.create_attention_masks(
        SimpleNamespace(config=config), x, torch.ones(1, length), shared
    )
    return {
        "causal": create_causal_mask(**base),
        "sliding": create_sliding_window_causal_mask(**base),
        "sliding_offset_1": causal_mask(length, window, 1),
        "everything": assistant["full_attention"],
        "mirrored": assistant["sliding_attention"],
    }


def attention():
    for kind, mask in attention_masks(LENGTH_SEEN, window=3).items():
        attend(kind, mask)


def attend(kind, mask):
    length, heads, kv_heads, width = LENGTH_SEEN, 4, 2, 6
    module = SimpleNamespace(num_key_value_groups=heads // kv_heads, training=False)

    def function(q, k, v):
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return eager_attention_forward(module, q, k, v, mask, scaling=1.0)[0][0]

    case(f"attention_{kind}", [draw(length, n, width, scale=0.7) for n in (heads, kv_heads, kv_heads)], function)


# ---------------------------------------------------------------- losses

VOCABULARY, WIDTH, LENGTH = 24, 6, 8
LABELS = [IGNORE, 3, 17, IGNORE, 0, 23, 3, 11]


def capped(logits, cap):
    return torch.tanh(logits / cap) * cap


def losses():
    labels = torch.tensor(LABELS)[None]
    teacher_x, teacher_w = draw(LENGTH, 5), draw(VOCABULARY, 5)
    teacher = capped(F.linear(teacher_x, teacher_w), 4.0)[None]
    teacher_inputs = {"teacher_x": array(teacher_x), "teacher_w": array(teacher_w)}
    recipes = {
        "distillation": Recipe(target="base"),
        "total_variation": Recipe(target="base", loss="total_variation"),
        "mixed": Recipe(target="base", loss="mixed"),
    }

    centroids, top_k = 6, 2
    text = SimpleNamespace(hidden_size=WIDTH, vocab_size=VOCABULARY)
    masked = Gemma4AssistantMaskedEmbedder(
        SimpleNamespace(get_text_config=lambda: text, num_centroids=centroids, centroid_intermediate_top_k=top_k)
    ).double()
    with torch.no_grad():
        # Not rounded: among equal centroids torch.topk may choose any.
        masked.centroids.weight.copy_(torch.randn(centroids, WIDTH))
        masked.token_ordering.copy_(torch.randperm(VOCABULARY))
    masked_head = {"centroids": array(masked.centroids.weight), "ordering": masked.token_ordering.tolist()}

    heads = {
        "projected": (lambda x, w: F.linear(x, w)[None], {}),
        "capped": (lambda x, w: capped(F.linear(x, w), 2.0)[None], {}),
        "masked": (lambda x, w: masked(x[None], w), masked_head),
    }
    for head, (logits, parameters) in heads.items():
        inputs = [draw(LENGTH, WIDTH), draw(VOCABULARY, WIDTH)]
        gradient = torch.tensor(0.375, dtype=torch.float64)
        case(
            f"{head}_cross_entropy",
            inputs,
            lambda x, w, logits=logits: cross_entropy_sum(logits(x, w), labels),
            gradient,
            labels=LABELS,
            **parameters,
        )
        for name, recipe in recipes.items():
            case(
                f"{head}_{name}",
                inputs,
                lambda x, w, logits=logits, recipe=recipe: round_loss_sum(recipe, logits(x, w), teacher, labels, 0),
                gradient,
                labels=LABELS,
                **teacher_inputs,
                **parameters,
            )


# ---------------------------------------------------------------- optimizer


def optimizer():
    """Several AdamW steps, at another rate each, on gradients that a clip factor of 1/2 was multiplied into."""
    weight = nn.Parameter(draw(10).float())
    start = weight.detach().clone()
    adamw = torch.optim.AdamW([weight], lr=0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=False)
    rates, gradients = [0.01, 0.02, 0.005, 0.001], []
    for rate in rates:
        gradients.append(draw(10, scale=0.5).float())
        weight.grad = gradients[-1] * 0.5
        adamw.param_groups[0]["lr"] = rate
        adamw.step()
    state = adamw.state[weight]
    CASES["adamw"] = {
        "rates": rates,
        "start": array(start),
        "gradients": [array(g) for g in gradients],
        "weight": array(weight),
        "moment1": array(state["exp_avg"]),
        "moment2": array(state["exp_avg_sq"]),
    }


# ---------------------------------------------------------------- images


def sliding_mask_of_images(is_image, window):
    """Hugging Face's own, of the sliding layers of models that use bidirectional attention for vision."""
    config = Gemma4TextConfig(sliding_window=window, attn_implementation="eager")
    x = torch.zeros(1, len(is_image), 1, dtype=torch.float64)
    blocks = get_block_sequence_ids_for_mask(torch.tensor([is_image]), x.device)
    return create_masks_for_vision_model(config, x, None, None, None, blocks)["sliding_attention"]


def images():
    """Two images of 6 × 3 and 3 × 6 patches, each by itself as the modules see it, and one after the other here."""
    config = Gemma4VisionConfig(hidden_size=5, head_dim=8, num_attention_heads=2, rope_parameters=VISION_ROPE)
    embedding, pooler = Gemma4VisionRotaryEmbedding(config), Gemma4VisionPooler(config)
    sizes = [(6, 3), (3, 6)]
    positions = [torch.tensor([(n % w, n // w) for n in range(w * h)])[None] for w, h in sizes]
    turns = [embedding(torch.zeros(1, dtype=torch.float64), p) for p in positions]

    def of_each(x, function):
        parts = torch.split(x, [w * h for w, h in sizes])
        return torch.cat([function(part[None], i)[0] for i, part in enumerate(parts)])

    def rotated(x, i):
        return apply_multidimensional_rope(x, *turns[i], positions[i])

    def pooled(x, i):
        visible = torch.zeros(x.shape[:2], dtype=torch.bool)
        return pooler(x, positions[i], visible, x.shape[1] // 9)[0]

    case("rope_2d", [draw(36, 2, 8)], lambda x: of_each(x, rotated), inverse_frequencies=embedding.inv_freq.tolist())
    case("pool_patches", [draw(36, 5)], lambda x: of_each(x, pooled))
    attend("sliding_image", sliding_mask_of_images([0, 1, 1, 1, 1, 0, 0, 1, 1], 3))
    linear = Gemma4ClippableLinear(Gemma4VisionConfig(use_clipped_linears=True), 5, 7)
    bounds = {name: torch.tensor(at) for name, at in CLIPS.items()}
    case(
        "clipped_linear",
        [draw(6, 5), draw(7, 5)],
        lambda x, w: with_parameters(linear, **{"linear.weight": w}, **bounds)(x),
    )


# ---------------------------------------------------------------- experts


def experts():
    """A router, whose output here has a column for every expert; and experts with a choice that is given."""
    config = Gemma4TextConfig(
        hidden_size=6, num_experts=5, top_k_experts=2, moe_intermediate_size=3, enable_moe_block=True
    )
    router, experts = Gemma4TextRouter(config), Gemma4TextExperts(config)

    def weights_of(x, scale, proj, per_expert_scale):
        parameters = {"scale": scale, "proj.weight": proj, "per_expert_scale": per_expert_scale}
        _, weights, chosen = with_parameters(router, **parameters)(x)
        return torch.zeros(x.shape[0], 5, dtype=weights.dtype).scatter(1, chosen, weights)

    def outputs_of(x, gate_up, down, weights):
        parameters = {"gate_up_proj": gate_up, "down_proj": down}
        return with_parameters(experts, **parameters)(x, torch.tensor(chosen), weights)

    case("router", [draw(7, 6), draw(6), draw(5, 6, scale=3), draw(5)], weights_of)
    chosen = [[0, 3], [1, 3], [0, 1], [3, 4], [0, 3]]  # expert 2 by no row
    case("experts", [draw(5, 6), draw(5, 6, 6), draw(5, 6, 3), draw(5, 2)], outputs_of, chosen=chosen)


def layer_norms():
    case("layer_norm", [draw(5, 12), draw(12), draw(12)], lambda x, w, b: F.layer_norm(x, (12,), w, b))


# ---------------------------------------------------------------- sound


class Given(nn.Module):
    """In place of a projection: what it gives."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, _):
        return self.value


def sound():
    case("silu", [draw(4, 9, scale=3)], ACT2FN["silu"])
    case("gated_sigmoid", [draw(4, 12)], lambda x: F.glu(x, dim=-1))
    case("neighbours", [draw(5 * 6, 2)], neighbours_of)
    convolution = Gemma4AudioCausalConv1d(6, 6, 3, groups=6, bias=False)
    case("causal_convolution", [draw(7, 6), draw(6, 1, 3)], lambda x, w: with_parameters(convolution, weight=w)(x.T).T)
    case("softplus_scale", [draw(6, 4), draw(4)], lambda x, s: x * 0.5 * F.softplus(s))
    case("local_attention", [draw(7, 2, 6), draw(7, 2, 6), draw(7, 2, 6), draw(4, 2, 6)], local_attention)


def neighbours_of(x):
    return F.unfold(x.view(1, 5, 6, 2).permute(0, 3, 1, 2), 3, padding=1, stride=2)[0].T


def local_attention(q, k, v, r):
    """Hugging Face's own, with chunks of 4, of what the projections give before its own scales; r is of distances 0 …
    3, it has one of distance 4 that nothing sees."""
    config = Gemma4AudioConfig(
        hidden_size=12, num_attention_heads=2, attention_chunk_size=4, attention_context_left=5, attention_logit_cap=2.0
    )
    attention = Gemma4AudioAttention(config, 0)
    attention.q_proj = Given(q / (attention.q_scale * F.softplus(attention.per_dim_scale.detach())))
    attention.k_proj, attention.v_proj, attention.post = Given(k / attention.k_scale), Given(v), nn.Identity()
    attention.relative_k_proj = Given(torch.cat([torch.zeros(1, 2, 6), r.flip(0)]))
    t, key = torch.arange(8).view(2, 4, 1), 4 * torch.arange(2).view(2, 1, 1) + torch.arange(8) - 4
    is_seen = (t - key >= 0) & (t - key < 4) & (key >= 0) & (key < 7)
    return attention(torch.zeros(1, 7, 12), None, ~is_seen[None, None])[0].view(7, 2, 6)


def write(out):
    """One line for every field, so that a change shows what changed."""
    entries = []
    for name, fields in CASES.items():
        lines = ",\n".join(f'  "{key}": {json.dumps(value, separators=(",", ":"))}' for key, value in fields.items())
        entries.append(f'"{name}": {{\n{lines}\n}}')
    out.write("{\n" + ",\n".join(entries) + "\n}\n")


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for family in (layers, embeddings, rope, attention, losses, optimizer, images, experts, layer_norms, sound):
        family()
    write(sys.stdout)
