"""The plots of a benchmark report."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from mtp_tools.bench.results import Result
from matplotlib.axes import Axes

WIDTH = 8.5  # inches
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
    "svg.hashsalt": "mtp",  # the same page for the same results
}
COLOURS = plt.get_cmap("tab10")
BLUE, BLACK = "#4c72b0", "#1b1b1b"


@dataclass(frozen=True)
class Plot:
    draw: Callable[[Axes], None]
    height: float  # inches


def svg(plot: Plot) -> str:
    """As a part of a page."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, plot.height), layout="constrained")
        plot.draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def picture(plots: list[Plot]) -> bytes:
    """One below the other, as PNG."""
    if not plots:
        raise SystemExit("--picture: nothing of these results is drawn; leave it out")
    heights = [plot.height for plot in plots]
    with plt.rc_context(STYLE):
        size = (WIDTH, sum(heights))
        layout = {"height_ratios": heights, "layout": "constrained", "squeeze": False}
        figure, axes = plt.subplots(len(plots), figsize=size, **layout)
        for plot, panel in zip(plots, axes[:, 0], strict=True):
            plot.draw(panel)
        content = io.BytesIO()
        figure.savefig(content, dpi=120)
        plt.close(figure)
    return content.getvalue()


def node_plot(speeds: dict[str, dict[str, float]], below: float) -> Plot:
    """A cell for each node and kind of work: its speed over the other nodes'."""
    names = list(speeds)
    kinds = list({kind: None for of in speeds.values() for kind in of})
    cells = np.array([[speeds[node].get(kind, np.nan) for kind in kinds] for node in names])

    def draw(axes: Axes) -> None:
        axes.imshow(np.clip(cells, 0, 1), cmap="RdYlGn", vmin=2 * below - 1, vmax=1, aspect="auto", alpha=0.7)
        axes.set_xticks(range(len(kinds)), kinds)
        axes.set_yticks(range(len(names)), names)
        axes.set_title("Speed of each node over the others'")
        axes.grid(False)
        for (row, column), speed in np.ndenumerate(cells):
            if not np.isnan(speed):
                weight = "bold" if speed < below else "normal"
                axes.text(column, row, f"{speed:.2f}", ha="center", va="center", weight=weight)

    return Plot(draw, 1.2 + 0.35 * len(names))


def share_plot(shares: dict[str, list[float]]) -> Plot:
    """A row for each operation, a dot for each of its shapes on each node."""
    means = {name: float(np.exp(np.mean(np.log(of)))) for name, of in shares.items()}
    names = sorted(shares, key=means.__getitem__)

    def draw(axes: Axes) -> None:
        for row, name in enumerate(names):
            axes.plot(shares[name], [row] * len(shares[name]), "o", color=BLUE, alpha=0.45, markersize=5)
            axes.plot(means[name], row, "|", color=BLACK, markersize=12)
        axes.set_yticks(range(len(names)), names)
        axes.set(xlim=(0, 1.02), xlabel="share of the floor; | geometric mean", title="Operations")

    return Plot(draw, 1.2 + 0.22 * len(names))


def bandwidth_plot(collectives: list[Result]) -> Plot:
    """Bus bandwidth over size of each collective, on all nodes and, dashed, inside one; thin, of the plain MPI call."""
    most_nodes = max(len(r.nodes) for r in collectives)

    def draw(axes: Axes) -> None:
        for colour, family in enumerate(dict.fromkeys(r.family for r in collectives)):
            for nodes in sorted({1, most_nodes}):
                points = [r for r in collectives if r.family == family and len(r.nodes) == nodes]
                sizes = sorted({size_of(r) for r in points})
                style = {"color": COLOURS(colour), "linestyle": "-" if nodes == most_nodes else "--"}
                label = f"{family}, {'a node' if nodes == 1 else f'{nodes} nodes'}"
                axes.plot(sizes, [median_rate(points, size) for size in sizes], label=label, linewidth=1.8, **style)
                plain = [median_rate(points, size, plain=True) for size in sizes]
                axes.plot(sizes, plain, linewidth=0.7, alpha=0.8, **style)
        axes.set(xscale="log", yscale="log", xlabel="bytes", ylabel="bus bandwidth, bytes/s")
        axes.set_title("Collectives; thin: the plain MPI call")
        axes.legend(frameon=False, ncols=2, fontsize=8)

    return Plot(draw, 5)


def size_of(collective: Result) -> int:
    return int(collective.name.split("/")[1])


def median_rate(collectives: list[Result], size: int, plain: bool = False) -> float:
    """Of the nodes that each did it alone, or of all nodes together. `plain`: of the call that is the floor."""
    rates = []
    for r in collectives:
        if size_of(r) == size:
            on_bus = r.counters["bytes"] * (r.ranks - 1) / r.ranks
            rates.append(on_bus / (r.counters["floor_time"] if plain else r.fastest))
    return float(np.median(rates))


def scaling_plot(steps: list[Result], predicted: dict[str, dict[int, float]]) -> Plot:
    """Tokens a second over ranks; what the model says, from its seconds by name and ranks; and proportion to ranks."""

    def draw(axes: Axes) -> None:
        for colour, name in enumerate(dict.fromkeys(r.name for r in steps)):
            of_name = [r for r in steps if r.name == name]
            ranks = sorted({r.ranks for r in of_name})
            rates = [float(np.median([tokens_per_second(r) for r in of_name if r.ranks == n])) for n in ranks]
            axes.plot(ranks, rates, "o-", color=COLOURS(colour), label=name.removeprefix("joint_step/"))
            axes.plot(ranks, [rates[0] * n / ranks[0] for n in ranks], ":", color=COLOURS(colour), linewidth=1)
            if name in predicted:
                tokens = of_name[0].counters["tokens"] / of_name[0].ranks
                modelled = [n * tokens / predicted[name][n] for n in ranks]
                axes.plot(ranks, modelled, "--", color=COLOURS(colour), linewidth=1.2)
        axes.set_xscale("log", base=2)
        axes.set(yscale="log", xlabel="ranks", ylabel="tokens/s")
        axes.set_title("Training step; dashed: the model; dotted: in proportion to the ranks")
        ticks = sorted({r.ranks for r in steps})
        axes.set_xticks(ticks, ticks)
        axes.legend(frameon=False)

    return Plot(draw, 4)


def tokens_per_second(step: Result) -> float:
    return step.counters["tokens_per_second"]
