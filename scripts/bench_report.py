#!/usr/bin/env python3
"""Makes one page, and a summary in Markdown, of what the benchmark suite measured: files of mtp-bench-*, or the folders
that jobs/bench_cluster.slurm fills.

    scripts/bench_report.py RESULTS… --out report.html [--against OLD…] [--fail-below 0.9]

Ends with 1 where a benchmark's result is wrong or missing or, with --fail-below, where one is slower than that share of
its speed in OLD.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import geometric_mean

from mtp_tools.bench.model import predictions
from mtp_tools.bench.page import Section, Share, Table, bytes_text, html, markdown, seconds_text
from mtp_tools.bench.plots import bandwidth_plot, node_plot, picture, scaling_plot, share_plot, size_of
from mtp_tools.bench.results import Change, Outlier, Result, Results, changes, node_speeds, outliers, read
from mtp_tools.files import write

CONTEXT = ("date", "version", "revision", "cpu", "gpu", "MPI", "nodes", "ranks", "threads")
NOTEWORTHY = 0.9  # of the old run's speed


def of_program(results: Results, program: str, floors: bool = False) -> list[Result]:
    return [r for r in results.sound if r.program == program and (r.family == "floor") == floors]


def where(result: Result) -> str:
    return result.nodes[0] if len(result.nodes) == 1 else f"{len(result.nodes)} nodes"


def rate_text(bytes_per_second: float | None) -> str:
    return f"{bytes_text(bytes_per_second)}/s" if bytes_per_second else ""


def finding_rows(results: Results, found: list[Outlier]) -> list[list[str]]:
    """What is slow, wrong or missing; where; and how."""
    rows = [[f"slow {o.kind}", o.name, o.what] for o in found]
    rows += [["wrong result", f"{r.program} {r.name} on {where(r)}", r.error] for r in results.wrong]
    return rows + [["no result", *message.split(": ", 1)] for message in results.unreadable]


def findings(rows: list[list[str]], below: float) -> Section:
    if not rows:
        return Section("Findings", f"Nothing is below {below} of the speed of its like, and no result is wrong.")
    table = Table(["what", "where", "how"], rows)
    return Section("Findings", f"Below {below} of the speed of its like, wrong or missing.", [table])


def floors(results: Results) -> Section:
    rows = []
    for node in results.nodes:
        alone = [r for r in of_program(results, "mtp-bench-ops", floors=True) if r.nodes == (node,)]
        copies = [r.bandwidth * r.ranks for r in alone if r.name.startswith("floor/copy/")]
        products = [r.counters["flops"] * r.ranks / r.fastest for r in alone if r.name.startswith("floor/matrix/")]
        disk = [d.bandwidth for d in results.disks if d.node == node]
        matrix = f"{max(products) / 1e9:.0f} GFLOP/s" if products else ""
        rows.append([node, rate_text(copies[-1] if copies else None), matrix, rate_text(disk[0] if disk else None)])
    header = ["node", "copies from memory", "matrix products", "disk (dd with fsync)"]
    return Section("What the nodes can do", "All ranks of a node together.", [Table(header, rows)])


def nodes(results: Results, below: float) -> Section:
    speeds = node_speeds(results)
    if not speeds:
        return Section("Nodes", "One node: there is nothing to compare it with.")
    text = "What each node did alone, over the median of the others."
    return Section("Nodes", text, plot=node_plot(speeds, below))


def operations(results: Results) -> Section:
    measured = [r for r in of_program(results, "mtp-bench-ops") if r.share]
    families = dict.fromkeys(r.family for r in measured)
    shares = {family: [r.share for r in measured if r.family == family] for family in families}
    rows = [[name, Share(geometric_mean(of)), Share(min(of)), len(of)] for name, of in shares.items()]
    rows.sort(key=lambda row: row[1].value)
    summary = Table(["operation", "share of floor, geometric mean", "lowest", "results"], rows)
    full = Table(["operation/shape", "where", "ranks", "fastest", "bandwidth", "GFLOP/s", "share of floor"], [])
    for r in measured:
        rate = r.counters["flops"] / r.fastest / 1e9
        cells = [seconds_text(r.fastest), rate_text(r.bandwidth), f"{rate:.1f}" if rate else "", Share(r.share)]
        full.rows.append([r.name, where(r), r.ranks, *cells])
    text = "The floor is the time for an operation's bytes, at the better bandwidth of copies and of updates in place, "
    text += "or for its FLOPs, at the matrix rate."
    return Section("Operations", text, [summary], [full], share_plot(shares) if shares else None)


def communication(results: Results) -> Section:
    measured = of_program(results, "mtp-bench-comm")
    collectives = [r for r in measured if "bus_bandwidth" in r.counters]
    table = Table(["benchmark/bytes", "where", "ranks", "fastest", "bandwidth", "share of plain MPI"], [])
    for r in measured:
        bandwidth = r.counters.get("bus_bandwidth", r.counters.get("link_bandwidth"))
        share = Share(r.share) if r.share and r.family != "ping_pong" else ""
        table.rows.append([r.name, where(r), r.ranks, seconds_text(r.fastest), rate_text(bandwidth), share])
    largest = max(map(size_of, collectives), default=0)
    short = [row for row in table.rows if row[0].endswith(f"/{largest}") or "/between/" in row[0]]
    text = "Bandwidth is the bus's, as nccl-tests define it, or the link's one way. Links are named by ranks."
    plot = bandwidth_plot(collectives) if collectives else None
    return Section("Communication", text, [Table(table.header, short)], [table], plot)


def training(results: Results) -> Section:
    steps = of_program(results, "mtp-bench-step")
    names = dict.fromkeys(r.name for r in steps)
    models = {name: predictions(results, [r for r in steps if r.name == name]) for name in names}
    models = {name: model for name, model in models.items() if model}
    phases = ["compute", "communication", "optimizer"]
    header = ["step", "where", "ranks", "time", "model", "tokens/s", "FLOPs utilisation", *phases, "peak memory"]
    table = Table(header, [])
    for r in sorted(steps, key=lambda r: (r.name, r.ranks)):
        counters = r.counters
        rates = [f"{counters['tokens_per_second']:.0f}", Share(min(counters["flops_utilisation"], 1))]
        shares = [Share(counters[f"share_of_{phase}"]) for phase in phases]
        modelled = seconds_text(models[r.name][r.ranks]) if r.name in models else ""
        cells = [seconds_text(r.fastest), modelled, *rates, *shares, bytes_text(counters["memory_peak"])]
        table.rows.append([r.name.removeprefix("joint_step/"), where(r), r.ranks, *cells])
    text = "Communication is what is not hidden behind compute. Every rank has as many sequences, however many ranks. "
    text += "The model (docs/scaling.md) knows the rates above, and from the fewest ranks how much of them is reached."
    return Section("Training step", text, [table], plot=scaling_plot(steps, models))


def checkpoints(results: Results) -> Section:
    header = ["benchmark", "where", "ranks", "fastest", "bandwidth", "share of plain writing, copying, reading"]
    table = Table(header, [])
    for r in of_program(results, "mtp-bench-checkpoint"):
        share = "" if r.share is None else Share(r.share)
        table.rows.append([r.name, where(r), r.ranks, seconds_text(r.fastest), rate_text(r.bandwidth * r.ranks), share])
    return Section("Checkpoints", "Of all ranks together, every node at the same time.", [table])


def decoding(results: Results) -> Section:
    measured = of_program(results, "mtp-bench-decode")
    header = ["where", "tokens/s alone", "with the drafter", "forward alone", "step with drafts", "step / forward"]
    table = Table(header, [])
    for node in results.nodes:
        of_node = {r.name.split("/")[1]: r for r in measured if r.nodes == (node,)}
        if of_node:
            plain, drafted = of_node["plain"], of_node["drafted"]
            rates = [f"{r.counters['tokens_per_second']:.0f}" for r in (plain, drafted)]
            seconds = [seconds_text(r.time) for r in (plain, drafted)]
            table.rows.append([node, *rates, *seconds, f"{drafted.time / plain.time:.2f}"])
    text = "On one rank, of a random pair, whose drafts are of no use. A good drafter pays where a step gives more "
    text += "tokens than the forwards that take as long."
    return Section("Decoding", text, [table])


def comparison(found: list[Change], threshold: float) -> Section:
    if not found:
        return Section("Against the other run", "No benchmark is in both.")
    rows = [[c.name, f"{c.speed:.2f}", seconds_text(c.old), seconds_text(c.new)] for c in found]
    slower = [row for change, row in zip(found, rows, strict=True) if change.speed < threshold]
    mean = geometric_mean(c.speed for c in found)
    text = f"{len(found)} benchmarks are in both, {len(slower)} of them below {threshold} of their speed before; the "
    text += f"geometric mean is {mean:.3f}."
    header = ["benchmark", "speed, new / old", "old", "new"]
    return Section("Against the other run", text, [Table(header, slower)] if slower else [], [Table(header, rows)])


def sections(results: Results, found: list[list[str]], below: float) -> list[Section]:
    context = [[key, results.context[key]] for key in CONTEXT if results.context.get(key)]
    parts = [
        findings(found, below),
        Section("Machine", tables=[Table(["", ""], context)]),
        floors(results),
        nodes(results, below),
    ]
    programs = {"mtp-bench-ops": operations, "mtp-bench-comm": communication, "mtp-bench-step": training}
    programs |= {"mtp-bench-checkpoint": checkpoints, "mtp-bench-decode": decoding}
    return parts + [section(results) for program, section in programs.items() if of_program(results, program)]


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS")
    parser.add_argument("--out", type=Path, required=True, help="page to write; the summary goes beside it, as .md")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw the plots into one picture too")
    parser.add_argument("--against", type=Path, nargs="+", metavar="OLD", help="results of an earlier run")
    parser.add_argument("--fail-below", type=float, metavar="SHARE", help="of the speed in OLD")
    parser.add_argument("--outlier-below", type=float, default=0.8, metavar="SHARE", help="of its like's speed (0.8)")
    args = parser.parse_args(words)
    if args.fail_below and not args.against:
        parser.error("--fail-below needs --against")
    return args


def main(words: list[str] | None = None) -> int:
    args = parse_arguments(words)
    results = read(args.results)
    found = finding_rows(results, outliers(results, args.outlier_below))
    parts = sections(results, found, args.outlier_below)
    changed = changes(read(args.against), results) if args.against else []
    if args.against:
        parts.insert(1, comparison(changed, args.fail_below or NOTEWORTHY))
    title = f"Cluster benchmark: {', '.join(results.nodes)}"
    write(args.out, html(title, parts))
    write(args.out.with_suffix(".md"), markdown(title, parts))
    if args.picture:
        write(args.picture, picture([part.plot for part in parts if part.plot]))
    for row in found:
        print(": ".join(row))
    slower = [change for change in changed if change.speed < (args.fail_below or 0)]
    for change in slower:
        print(f"slower: {change.name}: {change.speed:.2f} of its speed before")
    print(f"The report: {args.out}")
    return 1 if results.wrong or results.unreadable or slower else 0


if __name__ == "__main__":
    raise SystemExit(main())
