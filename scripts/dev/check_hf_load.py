#!/usr/bin/env python3
"""Loads an exported pair with Hugging Face's own classes: no key may be missing, unexpected or of another shape.

.venv-hf/bin/python scripts/dev/check_hf_load.py EXPORT_DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from transformers import (
    AutoConfig,
    Gemma4AssistantForCausalLM,
    Gemma4ForCausalLM,
    Gemma4ForConditionalGeneration,
    Gemma4UnifiedAssistantForCausalLM,
    Gemma4UnifiedForCausalLM,
    Gemma4UnifiedForConditionalGeneration,
    PreTrainedModel,
)
from transformers.utils import logging

MODELS = {
    "gemma4": Gemma4ForConditionalGeneration,
    "gemma4_text": Gemma4ForCausalLM,
    "gemma4_assistant": Gemma4AssistantForCausalLM,
    "gemma4_unified": Gemma4UnifiedForConditionalGeneration,
    "gemma4_unified_text": Gemma4UnifiedForCausalLM,
    "gemma4_unified_assistant": Gemma4UnifiedAssistantForCausalLM,
}
FAULTS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")

logging.set_verbosity_error()
logging.disable_progress_bar()


def directory_of(export: Path, part: str) -> Path:
    return export / part / "model" / "consolidated"


def load(directory: Path, device: str | None = None) -> tuple[PreTrainedModel | None, list[str]]:
    """The model, and what is wrong with it."""
    if not directory.is_dir():
        return None, [f"{directory} is no directory"]
    try:
        model_type = AutoConfig.from_pretrained(directory, local_files_only=True).model_type
        model, info = MODELS[model_type].from_pretrained(
            directory, output_loading_info=True, local_files_only=True, device_map=device
        )
    except Exception as error:
        return None, [str(error)]
    faults = []
    for name in FAULTS:
        if found := sorted(map(str, info.get(name) or [])):
            faults.append(f"{len(found)} {name}: {', '.join(found[:5])}{', …' if len(found) > 5 else ''}")
    return model, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, metavar="EXPORT_DIR", help="what mtp-export-hf wrote")
    parser.add_argument("--shapes-only", action="store_true", help="no values, for pairs larger than memory")
    args = parser.parse_args()
    failed = False
    for part in ("base", "drafter"):
        model, faults = load(directory_of(args.export, part), "meta" if args.shapes_only else None)
        for fault in faults:
            print(f"{part}: failed: {fault}")
        if not faults:
            print(f"{part}: ok: {sum(p.numel() for p in model.parameters())} parameters, {model.dtype}")
        failed |= bool(faults)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
