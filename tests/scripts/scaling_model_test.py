#!/usr/bin/env python3
"""scripts/mtp_tools/bench/costs.py counts what the program does: cases worked out by hand, and numbers the programs print.

    .venv/bin/python tests/scripts/scaling_model_test.py
"""

import math
import sys
import unittest
from dataclasses import replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "scripts"), str(REPOSITORY / "scripts/dev")]
import memory_step
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


class ScalingModel(unittest.TestCase):
    def test_counts_the_flops_that_the_benchmark_counts(self) -> None:
        step = scaling.Step(length=512, micro_batches=2, dtype=scaling.FP32)
        # As in the JSON of mtp-bench-step, whose pairs are made from the presets themselves.
        self.assertEqual(2 * scaling.flops(scaling.PAIR_17M, step), 159_827_288_064)
        self.assertEqual(2 * scaling.flops(scaling.SMALL, step), 93_658_902_528)

    def test_counts_the_parameters_of_the_published_pairs(self) -> None:
        for pair, base, drafter in ((scaling.E4B, 7.5e9, 78.5e6), (scaling.DENSE_31B, 30.7e9, 469.5e6)):
            self.assertAlmostEqual(sum(u.elements for u in scaling.base_units(pair.base)) / base, 1, delta=0.01)
            self.assertAlmostEqual(sum(u.elements for u in scaling.drafter_units(pair)) / drafter, 1, delta=0.01)

    def test_a_layer_of_a_hand_sized_model(self) -> None:
        # A sliding layer with a window of 2 and a full one: hidden 4, inner 8, one head of 2 and of 4 columns.
        model = scaling.Model(16, 4, 8, 1, 2, 1, 2, repeats=1, sliding=1)
        sliding, full = (scaling.Model.layer_weights(model, *layer[1:]) for layer in model.layers())
        self.assertEqual(sliding, 4 * (2 + 2 + 2 + 2 + 3 * 8))
        self.assertEqual(full, 4 * (4 + 4 + 4 + 4 + 3 * 8))
        weights, attention = scaling.forward_flops(model, length=3, offset=0)
        self.assertEqual(weights, 2 * 3 * (sliding + full))
        self.assertEqual(attention, 4 * ((1 + 2 + 2) * 2 + (1 + 2 + 3) * 4))

    def test_links_inside_and_between_nodes(self) -> None:
        # 400 bytes on four ranks of two nodes: a rank gets 300, of which its node's two links bring in 200 together.
        self.assertEqual(scaling.ring(MACHINE, 400, 4), max(300 / 100, 100 / 10))
        # Each rank sends 100 bytes to each of the two ranks of the other node.
        self.assertEqual(scaling.exchange(MACHINE, 400, 4), 200 / 10)
        ordered = scaling.Step(reduction="ordered")
        self.assertEqual(scaling.reduction(MACHINE, ordered, 400, 4), 20)
        # Inside the node 200 bytes, then half of the other 200 over each link.
        self.assertEqual(scaling.reduction(MACHINE, replace(ordered, reduction="node-first"), 400, 4), 2 + 10)
        self.assertEqual(scaling.reduction(MACHINE, replace(ordered, reduction="fast"), 400, 4), 10)

    def test_ranks_that_share_cores_take_longer(self) -> None:
        step = scaling.Step(length=512, micro_batches=2, dtype=scaling.FP32)
        node = replace(MACHINE, cores=2, ranks_per_node=8)
        one, two, four = (scaling.times(scaling.PAIR_17M, step, node, ranks).compute for ranks in (1, 2, 4))
        self.assertEqual((two / one, four / one), (1, 2))
        self.assertEqual(one, 159_827_288_064 / 1e6 / 0.5)

    def test_a_fitted_machine_takes_the_seconds_that_were_measured(self) -> None:
        step = scaling.Step(length=512, micro_batches=2, dtype=scaling.FP32)
        other = scaling.times(scaling.PAIR_17M, step, replace(MACHINE, efficiency=math.inf), 4).total
        machine = scaling.fitted(MACHINE, scaling.PAIR_17M, step, 4, other + 1000)
        self.assertAlmostEqual(scaling.times(scaling.PAIR_17M, step, machine, 4).total, other + 1000)
        self.assertEqual(scaling.fitted(MACHINE, scaling.PAIR_17M, step, 4, other / 2).efficiency, math.inf)

    def test_shards_shrink_with_ranks(self) -> None:
        elements = sum(unit.elements for unit in scaling.units(scaling.PAIR_17M))
        for ranks in (1, 2, 4):
            run = memory_step.Run(scaling.PAIR_17M, ranks, 2, 512, scaling.FP32, is_gpu=False)
            shards = memory_step.Step(run).memory.in_use  # in the arena's blocks
            self.assertAlmostEqual(shards / (16 * elements / ranks), 1, delta=0.07)  # weight, two moments, one sum

    def test_the_document_has_the_tables_of_the_script(self) -> None:
        text = (REPOSITORY / "docs" / "scaling.md").read_text()
        for name in ("e4b", "31b"):
            self.assertIn(scaling_model.table(name, scaling.Step(), scaling.H100), text)


if __name__ == "__main__":
    unittest.main()
