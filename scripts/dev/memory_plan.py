#!/usr/bin/env python3
"""What a rank needs of its device's memory to train E4B with its drafter, on how many GPUs and with which settings: the
tables of docs/memory.md.

    scripts/dev/memory_plan.py [--pair e4b] [--length 2048] [--micro-batches 1]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from memory_step import Run, Step
from mtp_tools.bench.costs import BF16, FP32, PAIRS

GB = 1e9
LIBRARIES = 3 * GB  # CUDA's context and modules, cuBLAS, NCCL: outside the arena; not measured on a card
CARDS = {"80": 80 * GB, "141": 141 * GB}
USES = ("weights, fp32", "weights, bf16", "moments", "sums of gradients", "gathered weights", "gradients of units",
        "activations", "gradients of activations", "rows of tables", "logits of a loss", "within operations")  # fmt: skip


@dataclass(frozen=True)
class Plan:
    name: str
    run: Run

    @property
    def moments_on_host(self) -> float:
        """Bytes of moments in the host's memory, which cross the bus twice in a step."""
        if not self.run.moments_on_host:
            return 0
        return Step(replace(self.run, moments_on_host=False)).memory.by_use["moments"]

    @property
    def snapshot(self) -> float:
        """Bytes of the copy on the host that a checkpoint in the background writes: all of it is fp32."""
        kept = Step(replace(self.run, moments_on_host=False, moments=FP32)).memory.by_use
        return kept["weights, fp32"] + kept["moments"]


def table(plans: list[Plan]) -> str:
    """Markdown, in GB: what is in use when it is most, by use."""
    columns = ["", *(plan.name for plan in plans)]
    peaks = [Step(plan.run).go() for plan in plans]
    rows = [[use, *(f"{memory.at_peak.get(use, 0) / GB:.2f}" for memory in peaks)] for use in USES]
    rows.append(["**peak of the arena**", *(f"**{memory.peak / GB:.1f}**" for memory in peaks)])
    for card, size in CARDS.items():
        rows.append([f"fits {card} GB", *("yes" if memory.peak + LIBRARIES <= size else "no" for memory in peaks)])
    rows.append(["host: moments", *(f"{plan.moments_on_host / GB:.1f}" for plan in plans)])
    rows.append(["host: snapshot", *(f"{plan.snapshot / GB:.1f}" for plan in plans)])
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *rows])


def plans_by_ranks(run: Run) -> list[Plan]:
    return [Plan(f"{ranks} GPU{'s' if ranks > 1 else ''}", replace(run, ranks=ranks)) for ranks in (1, 8, 64)]


def plans_on_one(run: Run) -> list[Plan]:
    bf16 = replace(run, moments=BF16)
    return [
        Plan("fp32 moments", run),
        Plan("… on the host", replace(run, moments_on_host=True)),
        Plan("bf16 moments", bf16),
        Plan("… on the host", replace(bf16, moments_on_host=True)),
        Plan("embeddings frozen", replace(run, freeze_embeddings=True)),
        Plan("… bf16 moments", replace(bf16, freeze_embeddings=True)),
        Plan("… on the host", replace(bf16, freeze_embeddings=True, moments_on_host=True)),
        Plan("base frozen", replace(run, freeze_base=True)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=PAIRS, default="e4b")
    parser.add_argument("--length", type=int, default=2048, help="positions of a micro-batch (%(default)s)")
    parser.add_argument("--micro-batches", type=int, default=1, help="of each rank in a step (%(default)s)")
    options = parser.parse_args()
    run = Run(PAIRS[options.pair], 1, options.micro_batches, options.length, BF16, recompute=True)
    print(table(plans_by_ranks(run)), table(plans_on_one(run)), sep="\n\n")


if __name__ == "__main__":
    main()
