"""Reads what the benchmark suite writes, and finds in it the node, rank, link and disk that is slower than its like.

Where nodes, ranks and links are compared, a repetition's time is the mean over its timings, for a node that stops now
and then is a slow one, and the median of the repetitions counts, for a busy moment makes no node slow. Where runs are
compared, it is the fastest timing's.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, mode

UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
DISK_FILE = re.compile(r"disk-(.+)\.txt")
DECODING_FILE = re.compile(r"node-(.+)-decode\.json")
BETWEEN = re.compile(r"ping_pong/(\d+)/between/(\d+)-(\d+)")
DD_LINE = re.compile(r"^(\d+) bytes .*copied, ([\d.e-]+) s", re.MULTILINE)


class Unreadable(Exception):
    """A file without the results that it should hold; says which and why."""


@dataclass(frozen=True)
class Result:
    """A benchmark of one run of a program."""

    program: str
    name: str
    hosts: tuple[str, ...]  # of the ranks
    time: float  # seconds
    counters: dict[str, float] = field(default_factory=dict)
    error: str = ""

    @property
    def ranks(self) -> int:
        return len(self.hosts)

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.hosts))

    @property
    def family(self) -> str:
        return self.name.split("/")[0]

    @property
    def fastest(self) -> float:
        return self.counters.get("fastest", self.time)

    @property
    def share(self) -> float | None:
        """Of what its floor allows; a floor that was measured in a worse moment than the benchmark is reached."""
        share = self.counters.get("share_of_floor")
        return None if share is None else min(share, 1.0)

    @property
    def bandwidth(self) -> float:
        return self.counters.get("bytes", 0.0) / self.fastest


@dataclass(frozen=True)
class Disk:
    node: str
    bandwidth: float  # bytes/s


def numbers_as_numbers(name: str) -> list:
    """n2 comes before n10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@dataclass
class Results:
    """Of one job, or of one program where a single file was given."""

    context: dict = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    disks: list[Disk] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)  # files of programs that did not come to their end

    def add(self, file: Path) -> None:
        if disk := DISK_FILE.fullmatch(file.name):
            self.disks.append(read_disk(file, disk[1]))
        elif decoding := DECODING_FILE.fullmatch(file.name):
            self.results += read_decoding(file, decoding[1])
        elif file.suffix == ".json":
            context, results = read_file(file)
            self.results += results
            if int(context["ranks"]) >= int(self.context.get("ranks", 0)):
                self.context = context

    @property
    def sound(self) -> list[Result]:
        return [result for result in self.results if not result.error]

    @property
    def wrong(self) -> list[Result]:
        return [result for result in self.results if result.error]

    @property
    def nodes(self) -> list[str]:
        found = {node for result in self.results for node in result.nodes} | {disk.node for disk in self.disks}
        return sorted(found, key=numbers_as_numbers)


@dataclass(frozen=True)
class Outlier:
    kind: str  # "node", "rank", "link" or "disk"
    name: str
    speed: float  # of its like's
    what: str


def read_file(path: Path) -> tuple[dict, list[Result]]:
    try:
        content = json.loads(path.read_text())
        context = content["context"]
        hosts = tuple(host.split(".")[0] for host in context["hosts"].split())
        runs = defaultdict(list)
        for benchmark in content["benchmarks"]:
            if benchmark["run_type"] == "iteration":
                runs[benchmark["run_name"].removesuffix("/manual_time")].append(benchmark)
        return context, [result_of(context["program"], name, hosts, repeated) for name, repeated in runs.items()]
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise Unreadable(f"{path}: not the JSON of a benchmark program of mtp: {error!r}") from None


def result_of(program: str, name: str, hosts: tuple[str, ...], repeated: list[dict]) -> Result:
    """Repetitions (--benchmark_repetitions) count as their median, and the rank that is the slowest in most of them."""
    errors = [run["error_message"] for run in repeated if run.get("error_occurred")]
    if errors:
        return Result(program, name, hosts, float("nan"), error=errors[0])
    known = {"family_index", "per_family_instance_index", "repetitions", "repetition_index", "threads", "iterations"}
    known |= {"real_time", "cpu_time"}
    counters = {
        key: median(run[key] for run in repeated)
        for key, value in repeated[0].items()
        if isinstance(value, (int, float)) and key not in known
    }
    if "slowest_rank" in counters:
        counters["slowest_rank"] = mode(run["slowest_rank"] for run in repeated)
    time = median(run["real_time"] * UNITS[run["time_unit"]] for run in repeated)
    return Result(program, name, hosts, time, counters)


def read_decoding(path: Path, node: str) -> list[Result]:
    """What mtp-bench-decode wrote on a node: the seconds of a forward of the base, alone and with the drafts before it.
    Prompts count as repetitions."""
    try:
        content = json.loads(path.read_text())
        tokens = content["settings"]["max_new_tokens"]
        found = []
        for way in ("plain", "drafted"):
            times = [run["decode_time"] / (run["target_forwards"] - 1) for run in content[way]["prompts"]]
            counters = {key: content[way]["aggregate"][key] for key in ("tokens_per_second", "tokens_per_forward")}
            counters["fastest"] = min(times)
            found.append(Result("mtp-bench-decode", f"decode/{way}/{tokens}", (node,), median(times), counters))
        return found
    except (OSError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise Unreadable(f"{path}: not the JSON of mtp-bench-decode: {error!r}") from None


def read_disk(path: Path, node: str) -> Disk:
    """What dd said, once or several times."""
    try:
        rates = [int(size) / float(seconds) for size, seconds in DD_LINE.findall(path.read_text())]
    except (OSError, ValueError, ZeroDivisionError) as error:
        raise Unreadable(f"{path}: not what dd says: {error!r}") from None
    if not rates:
        raise Unreadable(f"{path}: no line of dd with bytes and seconds")
    return Disk(node, median(rates))


def read(paths: Iterable[Path]) -> Results:
    """Files, and every result in folders."""
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    found = Results()
    for file in files:
        try:
            found.add(file)
        except Unreadable as error:
            found.unreadable.append(str(error))
    if not found.results and not found.disks:
        raise SystemExit("\n".join(found.unreadable) or f"{', '.join(map(str, paths))}: no results")
    return found


def relative_to_others(values: dict[str, float]) -> dict[str, float]:
    """Each value over the median of all others; empty if there are none."""
    if len(values) < 2:
        return {}
    return {name: value / median(v for n, v in values.items() if n != name) for name, value in values.items()}


KINDS = {
    "mtp-bench-ops": "operations",
    "mtp-bench-comm": "communication",
    "mtp-bench-step": "training step",
    "mtp-bench-checkpoint": "checkpoints",
    "mtp-bench-decode": "decoding",
}
FLOOR_KINDS = {"copy": "memory", "update": "memory", "matrix": "matrix products"}


def kind_of_work(result: Result) -> str:
    if result.family == "floor":
        return FLOOR_KINDS.get(result.name.split("/")[1], "communication")
    return KINDS[result.program]


def node_speeds(results: Results) -> dict[str, dict[str, float]]:
    """Node → kind of work → its speed over the other nodes', from what each node did alone."""
    alike: dict[tuple[str, Result], dict[str, float]] = defaultdict(dict)
    for result in results.sound:
        if len(result.nodes) == 1:
            alike[kind_of_work(result), result.program, result.name, result.ranks][result.nodes[0]] = 1 / result.time
    speeds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (kind, *_), of_nodes in alike.items():
        for node, speed in relative_to_others(of_nodes).items():
            speeds[node][kind].append(speed)
    found = {node: {kind: median(several) for kind, several in of.items()} for node, of in speeds.items()}
    for node, speed in relative_to_others({disk.node: disk.bandwidth for disk in results.disks}).items():
        found.setdefault(node, {})["disk"] = speed
    return found


def slow_nodes(results: Results, below: float) -> list[Outlier]:
    found = []
    for node, speeds in node_speeds(results).items():
        slow = {kind: speed for kind, speed in speeds.items() if speed < below and kind != "disk"}
        if slow:
            what = ", ".join(f"{kind} {speed:.2f}" for kind, speed in slow.items())
            found.append(Outlier("node", node, min(slow.values()), f"{what} of the other nodes' speed"))
        if speeds.get("disk", 1) < below:
            found.append(Outlier("disk", node, speeds["disk"], f"{speeds['disk']:.2f} of the other nodes' bandwidth"))
    return found


def slow_ranks(results: Results, below: float) -> list[Outlier]:
    """Ranks that are the last in most of a program's benchmarks, by much."""
    runs = defaultdict(list)
    for result in results.sound:
        if result.ranks > 1 and "imbalance" in result.counters:
            runs[result.program, result.hosts].append(result)
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for (_, hosts), several in runs.items():
        late = [r for r in several if 1 / r.counters["imbalance"] < below]
        if not late:
            continue
        rank, times = Counter(int(r.counters["slowest_rank"]) for r in late).most_common(1)[0]
        if times > len(several) / 2:
            place = f"rank {rank - hosts.index(hosts[rank])} of {hosts[rank]}"
            found[place] += [1 / r.counters["imbalance"] for r in late if r.counters["slowest_rank"] == rank]
    return [
        Outlier("rank", place, median(speeds), f"{median(speeds):.2f} of the median rank's speed")
        for place, speeds in found.items()
    ]


def link_speeds(results: Results) -> dict[str, float]:
    """Pair of nodes → its speed over the other pairs', from messages between their first ranks."""
    alike: dict[int, dict[str, float]] = defaultdict(dict)
    for result in results.sound:
        if link := BETWEEN.fullmatch(result.name):
            ends = [result.hosts[int(rank)] for rank in link.group(2, 3)]
            alike[int(link[1])][" – ".join(ends)] = 1 / result.time
    speeds: dict[str, list[float]] = defaultdict(list)
    for of_links in alike.values():
        for link, speed in relative_to_others(of_links).items():
            speeds[link].append(speed)
    return {link: median(several) for link, several in speeds.items()}


def slow_links(results: Results, below: float) -> list[Outlier]:
    return [
        Outlier("link", link, speed, f"{speed:.2f} of the other links' speed")
        for link, speed in link_speeds(results).items()
        if speed < below
    ]


def outliers(results: Results, below: float) -> list[Outlier]:
    return slow_nodes(results, below) + slow_ranks(results, below) + slow_links(results, below)


@dataclass(frozen=True)
class Change:
    """A benchmark in two runs; `speed` is the new over the old one's."""

    name: str
    speed: float
    old: float  # seconds of the fastest timing
    new: float


def fastest_times(results: Results) -> dict[tuple, float]:
    alike = defaultdict(list)
    for result in results.sound:
        alike[result.program, result.name, result.ranks, len(result.nodes)].append(result.fastest)
    return {key: median(several) for key, several in alike.items()}


def changes(old: Results, new: Results) -> list[Change]:
    """What both runs measured on as many ranks and nodes, the slowest of the new first."""
    before, after = fastest_times(old), fastest_times(new)
    found = [
        Change(f"{name} on {ranks} ranks of {nodes} nodes", before[key] / after[key], before[key], after[key])
        for key in before.keys() & after.keys()
        for _, name, ranks, nodes in [key]
    ]
    if old.disks and new.disks:
        disk, disk_now = (median(d.bandwidth for d in run.disks) for run in (old, new))
        found.append(Change("disk, seconds a byte", disk_now / disk, 1 / disk, 1 / disk_now))
    return sorted(found, key=lambda change: (change.speed, change.name))
