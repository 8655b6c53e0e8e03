"""The plots of a benchmark report: each a function that draws into axes."""

from __future__ import annotations

import io
from collections.abc import Callable

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from bench_results import Result
from matplotlib.axes import Axes

STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
    "svg.hashsalt": "mtp",
}


COLOURS = plt.get_cmap("tab10")


def svg(draw: Callable, *values: object, size: tuple[float, float] = (8.5, 4.5)) -> str:
    """The plot as text for a page."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        draw(axes, *values)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def node_plot(axes: Axes, speeds: dict[str, dict[str, float]], below: float) -> None:
    """A cell for each node and kind of work: its speed over the other nodes'."""
    names = list(speeds)
    kinds = list({kind: None for of in speeds.values() for kind in of})
    cells = np.array([[speeds[node].get(kind, np.nan) for kind in kinds] for node in names])
    axes.figure.set_size_inches(8.5, 1.4 + 0.32 * len(names))
    axes.imshow(cells, cmap="RdYlGn", vmin=2 * below - 1.1, vmax=1.1, aspect="auto")
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set_yticks(range(len(names)), names)
    axes.grid(False)
    for (row, column), speed in np.ndenumerate(cells):
        if not np.isnan(speed):
            weight = "bold" if speed < below else "normal"
            axes.text(column, row, f"{speed:.2f}", ha="center", va="center", weight=weight)


def share_plot(axes: Axes, shares: dict[str, list[float]]) -> None:
    """A row for each operation, a dot for each of its shapes."""
    names = sorted(shares, key=lambda name: np.exp(np.mean(np.log(shares[name]))))
    axes.figure.set_size_inches(8.5, 1.2 + 0.24 * len(names))
    for row, name in enumerate(names):
        axes.plot(shares[name], [row] * len(shares[name]), "o", color="#4c72b0", alpha=0.45, markersize=5)
        axes.plot(np.exp(np.mean(np.log(shares[name]))), row, "|", color="#1b1b1b", markersize=12)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(0, 1.02), xlabel="share of the floor, | geometric mean", title="Operations")


def bandwidth_plot(axes: Axes, collectives: list[Result]) -> None:
    """Bus bandwidth over size: of every collective on all nodes, and dashed inside one; thin, of the plain MPI call."""
    families = list({r.family: None for r in collectives})
    most_nodes = max(len(r.nodes) for r in collectives)
    for colour, family in enumerate(families):
        for nodes in {1, most_nodes}:
            points = [r for r in collectives if r.family == family and len(r.nodes) == nodes]
            if not points:
                continue
            sizes = sorted({size_of(r) for r in points})
            style = {"color": COLOURS(colour), "linestyle": "-" if nodes == most_nodes else "--"}
            label = f"{family}, {'a node' if nodes == 1 else f'{nodes} nodes'}"
            axes.plot(sizes, [median_rate(points, size) for size in sizes], label=label, linewidth=1.8, **style)
            plain = [median_rate(points, size, plain=True) for size in sizes]
            axes.plot(sizes, plain, linewidth=0.7, alpha=0.8, **style)
    axes.set(xscale="log", yscale="log", xlabel="bytes", ylabel="bus bandwidth, bytes/s", title="Collectives")
    axes.legend(frameon=False, ncols=2)


def size_of(collective: Result) -> int:
    return int(collective.name.split("/")[1])


def median_rate(collectives: list[Result], size: int, plain: bool = False) -> float:
    """Of the nodes that each did it alone, or of all at once."""
    rates = [
        r.counters["bus_bandwidth"] * (r.fastest / r.counters["floor_time"] if plain else 1)
        for r in collectives
        if size_of(r) == size
    ]
    return float(np.median(rates))
