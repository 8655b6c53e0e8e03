"""The model of a step's time (docs/scaling.md) with this cluster's own numbers: what benchmarks of the same job say."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median

from mtp_tools.bench.results import Result, Results
from mtp_tools.bench.costs import PAIRS, Machine, Pair, Step, fitted, times

BYTES = {"fp32": 4, "bf16": 2}
SIZE = 1 << 22  # bytes of the collectives whose rates count: about those of a unit


def step_of(result: Result) -> tuple[Pair, Step] | None:
    """From joint_step/PRESET/TYPE/LENGTH/REDUCTION[/recompute]; nothing for a preset that the model does not know."""
    _, preset, dtype, length, reduction, *_ = result.name.split("/")
    if preset not in PAIRS:
        return None
    micro_batches = round(result.counters["tokens"] / result.ranks / int(length))
    flops = result.counters["flops"] / micro_batches
    return PAIRS[preset], Step(flops, int(length), micro_batches, BYTES[dtype], reduction)


def machine_of(results: Results, ranks_per_node: int) -> Machine | None:
    """Nothing where floors or collectives inside the nodes were not measured."""
    alone = [r for r in results.sound if len(r.nodes) == 1 and r.ranks == ranks_per_node]
    together = [r for r in results.sound if len(r.nodes) > 1]

    def rates(prefix: str, of: list[Result], rate: Callable[[Result], float]) -> list[float]:
        return [rate(r) for r in of if r.name.startswith(prefix)]

    def moved(result: Result) -> float:  # by each rank's link
        return result.counters["bytes"] * (result.ranks - 1) / result.ranks / result.fastest

    def moved_between(result: Result) -> float:
        return result.counters["bytes"] * (1 - ranks_per_node / result.ranks) / result.fastest

    matrix = rates("floor/matrix/", alone, lambda r: r.counters["flops"] / r.fastest)
    memory = rates("floor/copy/", alone, lambda r: r.bandwidth)
    gather, exchange = (rates(f"{name}/{SIZE}", alone, moved) for name in ("gather", "exchange"))
    if not (matrix and memory and gather and exchange):
        return None

    def latency(result: Result) -> float:  # for each doubling of the ranks
        return result.fastest / math.log2(result.ranks)

    cores = math.inf
    if results.context["gpu"] == "none":
        cores = int(results.context["num_cpus"]) / int(results.context["threads"])
    crowding = max(1.0, ranks_per_node / cores)  # slowed what was measured, and the model counts it
    return Machine(
        rate=max(matrix) * crowding,
        efficiency=1,
        memory=memory[-1] * crowding,
        gather=max(gather) * crowding,
        exchange=max(exchange) * crowding,
        between=max(rates(f"exchange/{SIZE}", together, moved_between), default=math.inf),
        ranks_per_node=ranks_per_node,
        latency=median(rates("exchange/4096", together or alone, latency)),
        message=0,
        cores=cores,
    )


def predictions(results: Results, measured: list[Result]) -> dict[int, float] | None:
    """Ranks → seconds of a step; its fewest ranks tell how much of the matrix rate the step's compute reaches."""
    known = step_of(measured[0])
    ranks_per_node = max(r.ranks // len(r.nodes) for r in measured)
    machine = machine_of(results, ranks_per_node)
    if known is None or machine is None:
        return None
    fewest = min(measured, key=lambda r: r.ranks)
    machine = fitted(machine, *known, fewest.ranks, fewest.fastest)
    if math.isinf(machine.efficiency):
        return None
    return {ranks: times(*known, machine, ranks).total for ranks in sorted({r.ranks for r in measured})}
