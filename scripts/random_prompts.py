#!/usr/bin/env python3
"""Random tokens for a random pair, which has no tokenizer: to time mtp-bench-decode or mtp-train without a model.

    mtp-make-pair --preset small --out pair
    scripts/random_prompts.py --base pair/base --out prompts.h5
    scripts/random_prompts.py --base pair/base --targets --out train.h5
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mtp_tools.data.chat_tokenizer import Sample
from mtp_tools.data.data_file import CannotWrite, data_files, end_at_once
from mtp_tools.data.model_directory import sizes_of

FIRST = 3  # after pad, end and begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, metavar="DIR", help="of mtp-make-pair")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--prompts", type=int, default=8, help="how many (%(default)s)")
    parser.add_argument("--length", type=int, default=64, help="tokens of each (%(default)s)")
    parser.add_argument("--targets", action="store_true", help="every token is a target: a file to train on")
    args = parser.parse_args()
    sizes = sizes_of(args.base)
    vocabulary = sizes.vocab_size
    tokens = np.random.default_rng(0).integers(FIRST, vocabulary, (args.prompts, args.length), dtype=np.int32)
    attributes = {"format": "mtp-data", "version": 1, "vocab_size": vocabulary, "pad_token_id": sizes.pad_token_id}
    with data_files([args.out], attributes, has_targets=args.targets) as (file,):
        file.add([Sample(prompt, np.full(args.length, args.targets, np.uint8)) for prompt in tokens])


if __name__ == "__main__":
    try:
        main()
    except CannotWrite as error:
        end_at_once(error)
