"""The bytes that a joint training step moves, and the time that they and its FLOPs take on a machine: see docs/scaling.md.
FLOPs and memory are what `mtp-train --plan` says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

FP32, BF16 = 4, 2  # bytes
BLOCK = 4096  # elements that a shard is a multiple of, in whole rows where the unit is a table
GROUP = 8  # consecutive micro-batches that are summed before their sum is added to the total
KINDS = ("ordered", "node-first", "fast")  # of reduction


@dataclass(frozen=True)
class Model:
    """A decoder: `repeats` times `sliding` sliding layers and a full one."""

    vocabulary: int
    hidden: int
    inner: int
    heads: int
    head_dim: int  # of sliding layers; of full ones twice as many
    kv_heads: int
    repeats: int
    sliding: int = 5
    sharing: int = 0  # so many last layers have no keys and values of their own
    per_layer: int = 0  # width of per-layer inputs
    full_kv_heads: int = 0  # 0: as many as kv_heads, and values of their own; else keys are the values of full layers

    def layers(self) -> Iterator[tuple[int, int, int]]:
        """Of each layer: columns of the queries, of the keys, and projections of keys and values."""
        count = self.repeats * (self.sliding + 1)
        for i in range(count):
            slides = (i + 1) % (self.sliding + 1) != 0
            head_dim = self.head_dim if slides else 2 * self.head_dim
            key_is_value = self.full_kv_heads > 0 and not slides
            kv_heads = self.full_kv_heads if key_is_value else self.kv_heads
            projections = 0 if i >= count - self.sharing else 1 if key_is_value else 2
            yield self.heads * head_dim, kv_heads * head_dim, projections

    def layer_weights(self, queries: int, keys: int, projections: int) -> int:
        """Elements of a layer's matrices; its norms are too small to count."""
        columns = 2 * queries + projections * keys + 3 * self.inner + 2 * self.per_layer
        return self.hidden * columns

    @property
    def packed(self) -> int:
        return self.repeats * (self.sliding + 1) * self.per_layer


@dataclass(frozen=True)
class Pair:
    base: Model
    drafter: Model
    rounds: int = 4


E4B = Pair(
    Model(262144, 2560, 10240, 8, 256, 2, repeats=7, sharing=18, per_layer=256),
    Model(262144, 256, 2048, 4, 256, 2, repeats=1, sliding=3, sharing=4),
)
DENSE_31B = Pair(
    Model(262144, 5376, 21504, 32, 256, 16, repeats=10, full_kv_heads=4),
    Model(262144, 1024, 8192, 32, 256, 16, repeats=1, sliding=3, sharing=4, full_kv_heads=4),
)
PAIR_17M = Pair(
    Model(8192, 256, 1024, 4, 64, 2, repeats=2, sharing=5, per_layer=32),
    Model(8192, 128, 512, 4, 64, 2, repeats=1, sliding=3, sharing=4),
)
SMALL = Pair(
    Model(4096, 256, 1024, 4, 32, 2, repeats=4, sliding=2, sharing=6, per_layer=16),
    Model(4096, 64, 128, 4, 32, 2, repeats=1, sliding=3, sharing=4),
)
PAIRS = {"e4b": E4B, "31b": DENSE_31B, "17m": PAIR_17M, "small": SMALL}


@dataclass(frozen=True)
class Unit:
    elements: int
    gathers: int  # a micro-batch: in the forward, and in the backward again
    row: int = 0  # elements of a row, where rows are looked up
    dense: bool = True  # the gradient is that of the whole unit, not of rows alone

    def shard(self, ranks: int) -> int:
        block = -(-BLOCK // self.row) * self.row if self.row else BLOCK
        return -(-(-(-self.elements // block)) // ranks) * block


def base_units(base: Model) -> list[Unit]:
    """What is gathered and released together, the table first."""
    found = [Unit(base.vocabulary * base.hidden, 1, row=base.hidden)]
    if base.packed:
        found.append(Unit(base.vocabulary * base.packed, 0, row=base.packed, dense=False))
        found.append(Unit(base.packed * base.hidden, 2))
    return found + [Unit(base.layer_weights(*layer), 2) for layer in base.layers()]


def drafter_units(pair: Pair) -> list[Unit]:
    """The table first. Centroids are left out."""
    drafter = pair.drafter
    layers = [Unit(drafter.layer_weights(*layer), 2) for layer in drafter.layers()]
    projections = Unit(3 * pair.base.hidden * drafter.hidden, 2)
    return [Unit(drafter.vocabulary * drafter.hidden, 1), *layers, projections]


def units(pair: Pair) -> list[Unit]:
    return base_units(pair.base) + drafter_units(pair)


@dataclass(frozen=True)
class Step:
    flops: float  # of a micro-batch's forward and backward
    length: int = 2048  # positions of a sequence, one sequence a micro-batch
    micro_batches: int = 4  # of each rank
    dtype: int = BF16  # bytes of an element that is computed with
    reduction: str = "ordered"  # in one exchange; "node-first": groups are summed inside a node; or "fast"


@dataclass(frozen=True)
class Machine:
    rate: float  # FLOP/s of a rank's matrix products at their best
    efficiency: float  # of that, what a step's compute reaches
    memory: float  # bytes/s of a rank's memory
    gather: float  # bytes/s of a rank's link inside a node, gathering; exchanging
    exchange: float
    between: float  # bytes/s between nodes, a rank
    ranks_per_node: int
    latency: float  # seconds of a collective, for each doubling of the ranks
    message: float  # seconds for each message of an exchange
    cores: float = math.inf  # of a node, of which each rank needs one; infinite: each has its own device

    def crowding(self, ranks: int) -> float:
        """How many times longer all takes where ranks share cores."""
        return max(1.0, min(ranks, self.ranks_per_node) / self.cores)


H100 = Machine(989e12, 0.4, 0.8 * 3.35e12, 450e9, 450e9, 50e9, 8, 10e-6, 1e-6)


def ring(machine: Machine, size: float, ranks: int) -> float:
    """Gathering `size` bytes, or the sum and scattering of as many: each node's links carry the rest once, together."""
    n = min(ranks, machine.ranks_per_node)
    inside = size * (ranks - 1) / ranks / machine.gather
    between = size * (1 - n / ranks) / n / machine.between
    return max(inside, between) + machine.latency * math.log2(ranks)


def exchange(machine: Machine, size: float, ranks: int) -> float:
    """Of `size` bytes each rank keeps its part and sends every other rank one."""
    n = min(ranks, machine.ranks_per_node)
    inside, between = size * (n - 1) / ranks / machine.exchange, size * (1 - n / ranks) / machine.between
    return max(inside, between) + machine.latency * math.log2(ranks) + machine.message * (ranks - 1)


def reduction(machine: Machine, step: Step, size: float, ranks: int) -> float:
    """Seconds on the links for one unit's gradients of `size` bytes."""
    if step.reduction == "fast":
        return ring(machine, size, ranks)
    n = min(ranks, machine.ranks_per_node)
    if step.reduction == "ordered" or ranks == n:
        return exchange(machine, size, ranks)
    slices = size / n / machine.between * (1 - n / ranks) + machine.message * (ranks / n - 1)
    return exchange(machine, size, n) + slices + machine.latency * math.log2(ranks / n)


@dataclass(frozen=True)
class Times:
    """Seconds of a step: one after the other, as where MPI carries tensors; `hidden`: overlapped, as with NCCL."""

    compute: float
    gather: float
    reduce: float
    sums: float  # reading and adding gradients
    optimizer: float

    @property
    def total(self) -> float:
        return self.compute + self.gather + self.reduce + self.sums + self.optimizer

    @property
    def hidden(self) -> float:
        return max(self.compute + self.sums, self.gather + self.reduce) + self.optimizer


def memory_traffic(pair: Pair, step: Step, ranks: int) -> tuple[float, float]:
    """Bytes of a micro-batch's gradient sums, and of the norm and AdamW after the last one."""
    shards = sum(unit.shard(ranks) for unit in units(pair))
    sums = 0.0
    for unit in units(pair):
        if unit.dense:  # set to 0; then, of every slice, two numbers are read and one is written
            slices = 1 if step.reduction == "fast" else ranks
            sums += (FP32 + 3 * FP32 * slices / ranks) * unit.elements
        else:  # a group's sum is set to 0, and added to the total
            sums += 4 * FP32 * unit.shard(ranks) / GROUP
    return sums, 8 * FP32 * shards  # the norm and AdamW read a gradient, AdamW reads and writes weight and moments


def times(pair: Pair, step: Step, machine: Machine, ranks: int) -> Times:
    sums, update = memory_traffic(pair, step, ranks)
    gather = reduce = 0.0
    if ranks > 1:
        for unit in units(pair):
            rows = step.length * unit.row
            gather += unit.gathers * ring(machine, step.dtype * unit.elements, ranks)
            gather += exchange(machine, step.dtype * rows, ranks) if rows else 0
            reduce += reduction(machine, step, FP32 * unit.elements, ranks) if unit.dense else 0
            reduce += exchange(machine, FP32 * rows, ranks) if rows else 0
    compute = step.flops / machine.rate / machine.efficiency
    crowding = machine.crowding(ranks)
    count = step.micro_batches * crowding
    return Times(
        compute=count * compute,
        gather=count * gather,
        reduce=count * reduce,
        sums=count * sums / machine.memory,
        optimizer=crowding * update / machine.memory,
    )


def fitted(machine: Machine, pair: Pair, step: Step, ranks: int, seconds: float) -> Machine:
    """The machine with the efficiency at which a step on so many ranks takes these seconds; infinite, if all but
    compute takes longer."""
    ideal = times(pair, step, replace(machine, efficiency=1), ranks)
    compute = seconds - (ideal.total - ideal.compute)
    return replace(machine, efficiency=ideal.compute / compute if compute > 0 else math.inf)
