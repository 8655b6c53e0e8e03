#!/usr/bin/env python3
"""The tables of docs/memory.md: what `mtp-train --plan` says of the published pairs on GPUs.

    scripts/dev/memory_tables.py build/release/emulated --makers build/release/bin --write docs/memory.md

The first folder holds an mtp-train with a back end for GPUs, which may be the emulated one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mtp_tools.plan import Plan, make_configs, planned

GB = 1e9
LENGTH = 2048
RANKS = (1, 8, 64)
PRESETS = {"e2b": "E2B", "e4b": "E4B", "12b": "12B", "26b-a4b": "26B-A4B", "31b": "31B"}
COMMON = ("--run.device", "cuda", "--train.recompute", "true", "--length", str(LENGTH))
FROZEN = ("--freeze.base", "true")
LORA = ("--lora.rank", "16", "--lora.alpha", "32")
BF16_MOMENTS, ON_HOST = ("--optimizer.moments", "bf16"), ("--optimizer.moments_on", "host")
FROZEN_TABLES = ("--freeze.embeddings", "true")
ON_ONE_GPU = {
    "fp32 moments": (),
    "… on the host": ON_HOST,
    "bf16 moments": BF16_MOMENTS,
    "… on the host ": BF16_MOMENTS + ON_HOST,
    "embeddings frozen": FROZEN_TABLES,
    "… bf16 moments": FROZEN_TABLES + BF16_MOMENTS,
    "… on the host  ": FROZEN_TABLES + BF16_MOMENTS + ON_HOST,
}
BEGIN, END = "<!-- scripts/dev/memory_tables.py -->", "<!-- end -->"


def table(plans: dict[str, Plan]) -> str:
    """Markdown, in GB."""
    uses = list(dict.fromkeys(use for plan in plans.values() for use in plan.device if use != "held"))
    rows = [["", *(name.strip() for name in plans)], ["---"] * (len(plans) + 1)]
    rows += [[use, *(f"{plan.device.get(use, 0) / GB:.2f}" for plan in plans.values())] for use in uses]
    rows.append(["**held**", *(f"**{plan.device['held'] / GB:.1f}**" for plan in plans.values())])
    rows.append(["page-locked on the host", *(f"{plan.host.get('held', 0) / GB:.1f}" for plan in plans.values())])
    rows.append(["received in a step", *(f"{plan.received / GB:.1f}" for plan in plans.values())])
    rows.append(["PFLOPs of a step", *(f"{plan.flops / 1e15:.2f}" for plan in plans.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def text(programs: Path, makers: Path) -> str:
    with tempfile.TemporaryDirectory() as name:
        parts = []
        for preset, title in PRESETS.items():
            pair = make_configs(makers, preset, "bf16", Path(name) / preset)

            def plan(ranks: int, *options: str) -> Plan:
                job = ("--ranks", str(ranks), "--train.global_batch", str(ranks))
                return planned(programs, pair, *COMMON, *job, *options)  # noqa: B023

            plans = {f"{ranks} GPU{'s' * (ranks > 1)}": plan(ranks) for ranks in RANKS}
            plans |= {f"base frozen: {ranks}": plan(ranks, *FROZEN) for ranks in RANKS}
            plans |= {f"LoRA: {ranks}": plan(ranks, *LORA) for ranks in RANKS}
            parts.append(f"### {title}\n\n{table(plans)}")
            if preset == "e4b":
                one = {label: plan(1, *options) for label, options in ON_ONE_GPU.items()}
                parts.append(f"E4B on one GPU:\n\n{table(one)}")
        return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path, help="with mtp-train")
    parser.add_argument("--makers", type=Path, help="with mtp-make-pair (PROGRAMS)")
    parser.add_argument("--write", type=Path, help="the file whose tables are replaced; else they are printed")
    options = parser.parse_args()
    made = text(options.programs, options.makers or options.programs)
    if options.write is None:
        print(made)
        return
    before, rest = options.write.read_text().split(BEGIN)
    after = rest.split(END)[1]
    options.write.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}")


if __name__ == "__main__":
    main()
