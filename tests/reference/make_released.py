#!/usr/bin/env python3
"""Writes what the tests know of the released models: the keys of their configurations that a text decoder or a drafter
depends on, and the names and shapes of its tensors, as Hugging Face's modules have them.

.venv-hf/bin/python tests/reference/make_released.py CONFIGS [--out tests/model/released.json]

CONFIGS holds gemma-4-…-it.json and gemma-4-…-it-assistant.json, the config.json of google/gemma-4-….
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path

import torch
from transformers import Gemma4TextConfig

from joint_reference import MODELS

# The pairs, and how many tensors the released base has in all: its index says so.
PAIRS = {
    "e2b": ("E2B", 2011),
    "e4b": ("E4B", 2130),
    "12b": ("12B", 677),
    "26b-a4b": ("26B-A4B", 1013),
    "31b": ("31B", 1188),
}
TOP = ("model_type", "tie_word_embeddings", "backbone_hidden_size", "use_ordered_embeddings", "num_centroids")
TOP += ("centroid_intermediate_top_k",)
# Presets are of fp32, and without images, among whose tokens alone attention is bidirectional.
LEFT_OUT = {"dtype", "use_bidirectional_attention"}
Shapes = dict[str, list[int]]


def shapes_of(config: dict) -> Shapes:
    architecture = MODELS[config["model_type"]]
    with torch.device("meta"):
        model = architecture(architecture.config_class(**config))
    head = {"lm_head.weight"}  # tied
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items() if name not in head}


def with_shared_layers(shapes: Shapes, text: dict) -> Shapes:
    """Released bases have keys' and values' parameters of layers that share them, too; the modules do not."""
    prefix, count = "model.language_model.layers.", text["num_hidden_layers"]
    own = count - text["num_kv_shared_layers"]
    like = {text["layer_types"][i]: i for i in range(own)}
    for i in range(own, count):
        for name in ("k_proj", "v_proj", "k_norm"):
            source = f"{prefix}{like[text['layer_types'][i]]}.self_attn.{name}.weight"
            shapes[f"{prefix}{i}.self_attn.{name}.weight"] = shapes[source]
    return shapes


def by_kind(shapes: Shapes) -> dict[str, list]:
    """Names with N for the layer's number, each with its shapes: [[shape, layers], …], or the shape alone."""
    kinds = defaultdict(list)
    for name, shape in shapes.items():
        layer = re.search(r"\.layers\.(\d+)\.", name)
        if not layer:
            kinds[name] = shape
            continue
        groups = kinds[name.replace(layer[0], ".layers.N.")]
        group = next((layers for other, layers in groups if other == shape), None)
        if group is None:
            groups.append([shape, group := []])
        group.append(int(layer[1]))
    return kinds


def facts(config: dict, shapes: Shapes) -> dict:
    top = {key: config[key] for key in TOP if key in config}
    text = {key: value for key, value in config["text_config"].items() if key not in LEFT_OUT}
    return {"config": top | {"text_config": text}, "tensors": by_kind(shapes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "model/released.json")
    arguments = parser.parse_args()

    def read(name: str) -> dict:
        return json.loads((arguments.configs / f"{name}.json").read_text())

    released = {}
    for preset, (name, tensors) in PAIRS.items():
        base, drafter = read(f"gemma-4-{name}-it"), read(f"gemma-4-{name}-it-assistant")
        del drafter["text_config"]["max_position_embeddings"]  # not known of every one
        shapes = with_shared_layers(shapes_of(base), base["text_config"])
        assert len(shapes) == tensors, f"{name}: {len(shapes)} tensors, the released model has {tensors}"
        text = {tensor: shape for tensor, shape in shapes.items() if tensor.startswith("model.language_model.")}
        released[preset] = {
            "base": facts(base, text),
            "drafter": facts(drafter, shapes_of(drafter)),
        }
    stated = released["e4b"]["base"]["config"]["text_config"].keys() - {"layer_types"}
    defaults = {key: value for key, value in Gemma4TextConfig().to_dict().items() if key in stated}
    lines = [f' "text_config_defaults": {json.dumps(defaults)}']
    for preset, pair in released.items():
        parts = [f'  "{part}": {json.dumps(content)}' for part, content in pair.items()]
        lines.append(f' "{preset}": {{\n' + ",\n".join(parts) + "\n }")
    arguments.out.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
