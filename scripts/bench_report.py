#!/usr/bin/env python3
"""Makes one page, and a summary in Markdown, of what the benchmark suite measured: files of mtp-bench-*, or the folders
that jobs/bench_cluster.slurm fills.

    scripts/bench_report.py RESULTS… --out report.html [--against OLD…] [--fail-below 0.9]

Ends with 1 where a benchmark's result was wrong or, with --fail-below, where one is slower than that share of its speed
in OLD.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import geometric_mean

from bench_page import Section, Share, Table, bytes_text, html, markdown, seconds_text
from bench_plots import bandwidth_plot, node_plot, share_plot, svg
from bench_results import Change, Result, Results, changes, node_speeds, outliers, read

CONTEXT = ("date", "version", "revision", "cpu", "gpu", "MPI", "ranks", "nodes", "threads")


def of_program(results: Results, program: str, floors: bool = False) -> list[Result]:
    return [r for r in results.sound if r.program == program and (r.family == "floor") == floors]


def where(result: Result) -> str:
    return result.nodes[0] if len(result.nodes) == 1 else f"{len(result.nodes)} nodes"


def findings(results: Results, below: float) -> Section:
    rows = [[o.kind, o.name, o.what] for o in outliers(results, below)]
    rows += [["wrong result", f"{r.program} {r.name} on {where(r)}", r.error] for r in results.wrong]
    text = f"Slower than {below} of the median of its like, or wrong." if rows else "No outliers, no wrong results."
    return Section("Findings", text, [Table(["what", "where", "how much"], rows)] if rows else [])


def floors(results: Results) -> Section:
    rows = []
    for node in results.nodes:
        alone = [r for r in of_program(results, "mtp-bench-ops", floors=True) if r.nodes == (node,)]
        copies = [r.bandwidth * r.ranks for r in alone if r.name.startswith("floor/copy/")]
        products = [r.counters["flops"] * r.ranks / r.fastest for r in alone if r.name.startswith("floor/matrix/")]
        disk = [d.bandwidth for d in results.disks if d.node == node]
        rates = [bytes_text(copies[-1]) + "/s" if copies else "", f"{max(products) / 1e9:.0f} GFLOP/s" if products else ""]
        rows.append([node, *rates, bytes_text(disk[0]) + "/s" if disk else ""])
    header = ["node", "copies from memory", "matrix products", "disk (dd with fsync)"]
    return Section("What the nodes can do", "Of all ranks of a node together.", [Table(header, rows)])


def nodes(results: Results, below: float) -> Section:
    speeds = node_speeds(results)
    text = "Speed of each node alone over the median of the others." if speeds else "One node: nothing to compare with."
    return Section("Nodes", text, plot=svg(node_plot, speeds, below) if speeds else None)


def operations(results: Results) -> Section:
    measured = [r for r in of_program(results, "mtp-bench-ops") if r.share]
    shares = {family: [r.share for r in measured if r.family == family] for family in {r.family: None for r in measured}}
    rows = [[family, Share(geometric_mean(s)), Share(min(s)), len(s)] for family, s in shares.items()]
    rows.sort(key=lambda row: row[1].value)
    summary = Table(["operation", "share of floor (geometric mean)", "lowest", "results"], rows)
    header = ["operation, shape", "where", "ranks", "fastest", "bandwidth", "GFLOP/s", "share of floor"]
    full = [[r.name, where(r), r.ranks, *speed_cells(r)] for r in measured]
    text = "The floor is the time for an operation's bytes at the copy bandwidth or its FLOPs at the matrix rate."
    return Section("Operations", text, [summary], [Table(header, full)], svg(share_plot, shares) if shares else None)


def speed_cells(result: Result) -> list:
    rate = result.counters.get("flops", 0) / result.fastest / 1e9
    bandwidth = bytes_text(result.bandwidth) + "/s" if result.bandwidth else ""
    share = "" if result.share is None else Share(result.share)
    return [seconds_text(result.fastest), bandwidth, f"{rate:.1f}" if rate else "", share]


def communication(results: Results) -> Section:
    measured = of_program(results, "mtp-bench-comm")
    collectives = [r for r in measured if "bus_bandwidth" in r.counters]
    largest = max((int(r.name.split("/")[1]) for r in collectives), default=0)
    rows = [comm_row(r) for r in measured if r.name.endswith(f"/{largest}") or "/between/" in r.name or r.family == "barrier"]
    header = ["collective/bytes", "where", "ranks", "fastest", "bus bandwidth", "share of plain MPI"]
    text = "Bus bandwidth as in nccl-tests; the floor is the plain call's time. Links: ranks numbered over all nodes."
    plot = svg(bandwidth_plot, collectives, size=(8.5, 6.5)) if collectives else None
    return Section("Communication", text, [Table(header, rows)], [Table(header, [comm_row(r) for r in measured])], plot)


def comm_row(result: Result) -> list:
    rate = result.counters.get("bus_bandwidth", result.counters.get("link_bandwidth"))
    share = "" if result.share is None or result.family == "ping_pong" else Share(result.share)
    where_to = where(result)
    return [result.name, where_to, result.ranks, seconds_text(result.fastest), f"{bytes_text(rate)}/s" if rate else "", share]


def compared(found: list[Change], threshold: float | None) -> Section:
    rows = [[c.name, f"{c.speed:.2f}", seconds_text(c.old), seconds_text(c.new)] for c in found]
    slower = [row for change, row in zip(found, rows, strict=True) if change.speed < (threshold or 0.9)]
    text = f"{len(found)} benchmarks in both runs; the geometric mean of the speeds is "
    text += f"{geometric_mean(c.speed for c in found):.3f} of the old run's." if found else "undefined."
    header = ["benchmark", "speed, new / old", "old", "new"]
    return Section("Against the other run", text, [Table(header, slower)] if slower else [], [Table(header, rows)])


def sections(results: Results, below: float) -> list[Section]:
    context = [[key, results.context[key]] for key in CONTEXT if results.context.get(key)]
    return [
        findings(results, below),
        Section("Machine", "", [Table(["", ""], context)]),
        floors(results),
        nodes(results, below),
        operations(results),
        communication(results),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS")
    parser.add_argument("--out", type=Path, required=True, help="page to write; the summary goes beside it, as .md")
    parser.add_argument("--against", type=Path, nargs="+", metavar="OLD", help="results of an earlier run")
    parser.add_argument("--fail-below", type=float, metavar="SHARE", help="of the speed in OLD; needs --against")
    parser.add_argument("--outlier-below", type=float, default=0.8, metavar="SHARE", help="of the median speed (0.8)")
    args = parser.parse_args()
    if args.fail_below and not args.against:
        parser.error("--fail-below needs --against")
    results = read(args.results)
    parts = sections(results, args.outlier_below)
    found = changes(read(args.against), results) if args.against else []
    if args.against:
        parts.insert(1, compared(found, args.fail_below))
    title = f"Cluster benchmark: {', '.join(results.nodes)}"
    args.out.write_text(html(title, parts))
    args.out.with_suffix(".md").write_text(markdown(title, parts))
    for outlier in outliers(results, args.outlier_below):
        print(f"slow {outlier.kind}: {outlier.name}: {outlier.what}")
    for result in results.wrong:
        print(f"wrong result: {result.program} {result.name} on {where(result)}: {result.error}")
    slower = [change for change in found if change.speed < (args.fail_below or 0)]
    for change in slower:
        print(f"slower: {change.name}: {change.speed:.2f} of its speed before")
    print(f"{args.out}")
    return 1 if results.wrong or slower else 0


if __name__ == "__main__":
    raise SystemExit(main())
