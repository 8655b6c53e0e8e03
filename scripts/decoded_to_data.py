#!/usr/bin/env python3
"""Makes a data file of prompts and what mtp-bench-decode wrote after them, whose new tokens are the targets.

    scripts/decoded_to_data.py prompts.h5 decoded.json --out continuations.h5

As a run's `data.validation` it tells how long drafts are accepted on the base's own text.
"""

import argparse
import json
from pathlib import Path

import h5py
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path, help="the prompts file")
    parser.add_argument("decoded", type=Path, help="the file of --json")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    results = json.loads(arguments.decoded.read_text())
    decoded = (results.get("plain") or results["drafted"])["prompts"]
    with h5py.File(arguments.prompts) as prompts, h5py.File(arguments.out, "w") as out:
        out.attrs.update(prompts.attrs)
        pieces = np.split(prompts["tokens"][:], prompts["offsets"][1:-1])
        if len(pieces) != len(decoded):
            parser.error(f"{arguments.prompts} has {len(pieces)} prompts, {arguments.decoded} has {len(decoded)}")
        outputs = [np.array(prompt["output_ids"], np.int32) for prompt in decoded]
        both = [part for pair in zip(pieces, outputs) for part in pair]
        out["tokens"] = np.concatenate(both)
        out["loss_mask"] = np.concatenate([np.full(len(part), i % 2, np.uint8) for i, part in enumerate(both)])
        out["offsets"] = np.cumsum([0] + [len(p) + len(o) for p, o in zip(pieces, outputs)]).astype(np.int64)


if __name__ == "__main__":
    main()
