#!/usr/bin/env python3
"""Loads an exported pair with Hugging Face's own classes: no key may be missing, unexpected or of another shape.

.venv-hf/bin/python scripts/check_hf_load.py EXPORT_DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from transformers import Gemma4AssistantForCausalLM, Gemma4ForConditionalGeneration
from transformers.utils import logging

MODELS = {"base": Gemma4ForConditionalGeneration, "drafter": Gemma4AssistantForCausalLM}
FAULTS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def check(part: str, directory: Path) -> bool:
    if not directory.is_dir():
        print(f"{part}: failed: {directory} is no directory")
        return False
    try:
        model, info = MODELS[part].from_pretrained(directory, output_loading_info=True, local_files_only=True)
    except Exception as error:
        print(f"{part}: failed: {error}")
        return False
    faults = {name: sorted(map(str, info[name])) for name in FAULTS if info.get(name)}
    for name, found in faults.items():
        print(f"{part}: failed: {len(found)} {name}: {', '.join(found[:5])}{', …' if len(found) > 5 else ''}")
    if not faults:
        print(f"{part}: ok: {sum(p.numel() for p in model.parameters())} parameters, {model.dtype}")
    return not faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, metavar="EXPORT_DIR", help="what mtp-export-hf wrote")
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    results = [check(part, args.export / part / "model" / "consolidated") for part in MODELS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
