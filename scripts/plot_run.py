#!/usr/bin/env python3
"""Draws a run's curves: the losses of the base and of every drafter round, gradient norm, learning rate, validation, and
of a base with experts how its routers share out the tokens.

scripts/plot_run.py RUN_DIR [--out FILE.png]
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from mtp_tools.files import read_text, write

BASE_COLOUR = "#1b1b1b"
ROUND_COLOURS = plt.get_cmap("viridis")
Records = list[dict]


def read(path: Path) -> Records:
    try:
        return [json.loads(line) for line in read_text(path).splitlines()]
    except ValueError as error:
        raise SystemExit(f"{path}: not a line of JSON: {error}") from None


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the window around each value; at the ends, of the part of it that there is."""
    ones = np.ones(window)
    return np.convolve(values, ones, "same") / np.convolve(np.ones_like(values), ones, "same")


def round_colour(k: int, rounds: int) -> tuple:
    return ROUND_COLOURS(0.15 + 0.7 * k / max(rounds - 1, 1))


def curves(records: Records) -> dict[str, tuple[np.ndarray, object]]:
    """Name → (losses, colour): the base, then round after round."""
    rounds = np.array([r["loss_drafter"] for r in records], float).T
    named = {"base": (np.array([r["loss_base"] for r in records], float), BASE_COLOUR)}
    return named | {f"round {k}": (values, round_colour(k, len(rounds))) for k, values in enumerate(rounds)}


def plot_losses(axes: Axes, records: Records, validation: Records) -> None:
    steps = np.array([r["step"] for r in records])
    window = max(1, len(steps) // 30) | 1  # odd, so that the mean is centred
    for name, (values, colour) in curves(records).items():
        axes.plot(steps, values, color=colour, alpha=0.18, linewidth=0.8)
        axes.plot(steps, smoothed(values, window), color=colour, linewidth=1.8, label=name)
    for name, (values, colour) in curves(validation).items() if validation else ():
        axes.plot(
            [r["step"] for r in validation],
            values,
            "o--",
            color=colour,
            markersize=4,
            linewidth=1,
            label=f"{name}, validation",
        )
    axes.set(ylabel="cross-entropy per label token", title="Losses")
    axes.legend(frameon=False, ncols=2 if validation else 1)


def plot_line(axes: Axes, records: Records, key: str, title: str) -> None:
    axes.plot([r["step"] for r in records], [r[key] for r in records], color="#4c72b0", linewidth=1.2)
    axes.set(title=title)


def plot_agreement(axes: Axes, validation: Records) -> None:
    steps = [r["step"] for r in validation]
    for k, values in enumerate(np.array([r["accuracy_base"] for r in validation], float).T):
        colour = round_colour(k, len(validation[0]["accuracy_base"]))
        axes.plot(steps, values, "o-", color=colour, markersize=3, linewidth=1.2, label=f"round {k}")
    axes.set(title="Rounds that agree with the base", ylim=(0, 1))


def plot_accepted_length(axes: Axes, validation: Records) -> None:
    steps = [r["step"] for r in validation]
    lengths = [r["accepted_length"] for r in validation]
    axes.plot(steps, lengths, "o-", color=BASE_COLOUR, markersize=4, linewidth=1.8, label="over all positions")
    decoding = [r["tokens_per_step"] for r in validation]
    axes.plot(steps, decoding, "--", color=BASE_COLOUR, linewidth=1.2, label="over steps of decoding")
    for i in {0, len(validation) - 1}:
        place = {"textcoords": "offset points", "xytext": (0, 8), "ha": "center"}
        axes.annotate(f"{lengths[i]:.2f}", (steps[i], lengths[i]), **place)
    axes.set(title="Accepted length: tokens per base forward", ylim=(0.8, max(2, max(lengths) * 1.1)))
    axes.legend(frameon=False)


def plot_layers(axes: Axes, records: Records, key: str, title: str) -> None:
    """Mean over the layers, and from the least to the largest of them."""
    steps = [r["step"] for r in records]
    values = np.array([r[key] for r in records], float)
    axes.fill_between(steps, values.min(1), values.max(1), color="#4c72b0", alpha=0.2, linewidth=0, label="all layers")
    axes.plot(steps, values.mean(1), color="#4c72b0", linewidth=1.2, label="mean")
    axes.set(title=title, ylim=(0, 1.05))
    axes.legend(frameon=False)


def draw(name: str, records: Records, validation: Records, out: Path) -> None:
    plt.rcParams.update(
        {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "font.size": 10}
    )
    rows = [["losses", "losses"], ["norm", "lr"]] + ([["length", "agreement"]] if validation else [])
    heights = [5.0, 1.8] + ([2.6] if validation else [])  # inches
    routed = [r for r in records if "expert_load" in r]
    if routed:
        rows.append(["busiest", "entropy"])
        heights.append(2.2)
    figure, axes = plt.subplot_mosaic(rows, figsize=(9, sum(heights)), height_ratios=heights, layout="constrained")
    plot_losses(axes["losses"], records, validation)
    plot_line(axes["norm"], records, "grad_norm", "Gradient norm, before clipping")
    plot_line(axes["lr"], records, "lr", "Learning rate")
    if validation:
        plot_accepted_length(axes["length"], validation)
        plot_agreement(axes["agreement"], validation)
    if routed:
        plot_layers(axes["busiest"], routed, "expert_busiest", "Busiest expert's share of the tokens")
        plot_layers(axes["entropy"], routed, "expert_entropy", "Entropy of the experts' loads, of the most possible")
    for panel in axes.values():
        panel.set_xlabel("step")
        panel.margins(x=0.01)
    figure.suptitle(name)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, format=out.suffix.removeprefix(".") or "png")
    write(out, picture.getvalue())


def report(records: Records, validation: Records) -> None:
    first, last = curves(records[:1]), curves(records[-1:])
    changes = ", ".join(f"{name} {first[name][0][0]:.3f} → {last[name][0][0]:.3f}" for name in first)
    print(f"Losses of step {records[0]['step']} → {records[-1]['step']}: {changes}")
    if validation:
        start, end = validation[0], validation[-1]
        lengths = f"{start['accepted_length']:.3f} → {end['accepted_length']:.3f}"
        print(f"Accepted length at step {start['step']} → {end['step']}: {lengths} tokens per base forward")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="a run directory of mtp-train")
    parser.add_argument("--out", type=Path, help="picture to write; default RUN_DIR/losses.png")
    args = parser.parse_args()
    records = read(args.run / "metrics.jsonl")
    if not records:
        raise SystemExit(f"{args.run / 'metrics.jsonl'}: no step yet")
    validation_file = args.run / "validation.jsonl"
    validation = read(validation_file) if validation_file.exists() else []
    draw(args.run.resolve().name, records, validation, args.out or args.run / "losses.png")
    report(records, validation)


if __name__ == "__main__":
    main()
