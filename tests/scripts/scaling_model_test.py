#!/usr/bin/env python3
"""scripts/mtp_tools/bench/costs.py counts what the program moves: cases worked out by hand, and published sizes.

    .venv/bin/python tests/scripts/scaling_model_test.py
"""

import math
import sys
import unittest
from dataclasses import replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "scripts"), str(REPOSITORY / "scripts/dev")]
from mtp_tools.bench import costs as scaling
import scaling_model

# Two nodes of two ranks; 100 bytes/s inside a node, 10 between.
MACHINE = scaling.Machine(
    rate=1e6,
    efficiency=0.5,
    memory=1e3,
    gather=100,
    exchange=100,
    between=10,
    ranks_per_node=2,
    latency=0,
    message=0,
)


FLOPS = 1e9  # of a micro-batch
FLOPS_OF = {"e4b": 62737876893696, "31b": 415549258334208}  # as mtp-train --plan says them, of one of 2048 positions


class ScalingModel(unittest.TestCase):
    def test_counts_the_parameters_of_the_published_pairs(self) -> None:
        for pair, base, drafter in ((scaling.E4B, 7.5e9, 78.5e6), (scaling.DENSE_31B, 30.7e9, 469.5e6)):
            self.assertAlmostEqual(sum(u.elements for u in scaling.base_units(pair.base)) / base, 1, delta=0.01)
            self.assertAlmostEqual(sum(u.elements for u in scaling.drafter_units(pair)) / drafter, 1, delta=0.01)

    def test_a_layer_of_a_hand_sized_model(self) -> None:
        # A sliding layer and a full one: hidden 4, inner 8, one head of 2 and of 4 columns.
        model = scaling.Model(16, 4, 8, 1, 2, 1, repeats=1, sliding=1)
        sliding, full = (scaling.Model.layer_weights(model, *layer) for layer in model.layers())
        self.assertEqual(sliding, 4 * (2 + 2 + 2 + 2 + 3 * 8))
        self.assertEqual(full, 4 * (4 + 4 + 4 + 4 + 3 * 8))

    def test_links_inside_and_between_nodes(self) -> None:
        # 400 bytes on four ranks of two nodes: a rank gets 300, of which its node's two links bring in 200 together.
        self.assertEqual(scaling.ring(MACHINE, 400, 4), max(300 / 100, 100 / 10))
        # Each rank sends 100 bytes to each of the two ranks of the other node.
        self.assertEqual(scaling.exchange(MACHINE, 400, 4), 200 / 10)
        ordered = scaling.Step(FLOPS, reduction="ordered")
        self.assertEqual(scaling.reduction(MACHINE, ordered, 400, 4), 20)
        # Inside the node 200 bytes, then half of the other 200 over each link.
        self.assertEqual(scaling.reduction(MACHINE, replace(ordered, reduction="node-first"), 400, 4), 2 + 10)
        self.assertEqual(scaling.reduction(MACHINE, replace(ordered, reduction="fast"), 400, 4), 10)

    def test_ranks_that_share_cores_take_longer(self) -> None:
        step = scaling.Step(FLOPS, length=512, micro_batches=2, dtype=scaling.FP32)
        node = replace(MACHINE, cores=2, ranks_per_node=8)
        one, two, four = (scaling.times(scaling.PAIR_17M, step, node, ranks).compute for ranks in (1, 2, 4))
        self.assertEqual((two / one, four / one), (1, 2))
        self.assertEqual(one, 2 * FLOPS / 1e6 / 0.5)

    def test_a_fitted_machine_takes_the_seconds_that_were_measured(self) -> None:
        step = scaling.Step(FLOPS, length=512, micro_batches=2, dtype=scaling.FP32)
        other = scaling.times(scaling.PAIR_17M, step, replace(MACHINE, efficiency=math.inf), 4).total
        machine = scaling.fitted(MACHINE, scaling.PAIR_17M, step, 4, other + 1000)
        self.assertAlmostEqual(scaling.times(scaling.PAIR_17M, step, machine, 4).total, other + 1000)
        self.assertEqual(scaling.fitted(MACHINE, scaling.PAIR_17M, step, 4, other / 2).efficiency, math.inf)

    def test_the_document_has_the_tables_of_the_script(self) -> None:
        lines = (REPOSITORY / "docs" / "scaling.md").read_text().splitlines()
        for name, flops in FLOPS_OF.items():
            begin = next(i for i, line in enumerate(lines) if f" {name}: compute, s " in line)
            table = lines[begin : begin + 2 + len(scaling_model.RANKS)]
            sizes = [float(line.split(" | ")[-1].strip(" |")) for line in table[2:]]  # of mtp-train --plan
            self.assertEqual(scaling_model.table(name, scaling.Step(flops), scaling.H100, sizes), "\n".join(table))


if __name__ == "__main__":
    unittest.main()
