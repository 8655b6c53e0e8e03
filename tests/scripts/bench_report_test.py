#!/usr/bin/env python3
"""scripts/bench_report.py names what is slow, wrong or slower than before, and nothing else.

    .venv/bin/python tests/scripts/bench_report_test.py
"""

import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import bench_report

RANKS = 4  # of each node


def benchmark(name: str, seconds: float, **counters: float) -> dict:
    floor = {"floor_time": seconds / 2, "share_of_floor": 0.5}
    counters = {"fastest": seconds, "bytes": 4096, "flops": 0, "slowest_rank": 0, "imbalance": 1.05} | floor | counters
    name = f"{name}/manual_time"
    time = {"real_time": seconds * 1e6, "cpu_time": 0, "time_unit": "us", "iterations": 1}
    return {"name": name, "run_name": name, "run_type": "iteration"} | time | counters


def operations(slowness: float = 1, **counters: float) -> list[dict]:
    names = ["floor/copy/4096", "floor/matrix/256", "add/small/fp32", "linear_forward/small/fp32/q_proj"]
    return [benchmark(name, 1e-3 * slowness, **counters) for name in names]


def links(hosts: list[str], slow: tuple[str, str] = ("", "")) -> list[dict]:
    found = []
    for a in range(0, len(hosts), RANKS):
        for b in range(a + RANKS, len(hosts), RANKS):
            seconds = 5e-5 if (hosts[a], hosts[b]) == slow else 2e-5
            found.append(benchmark(f"ping_pong/4096/between/{a}-{b}", seconds, link_bandwidth=4096 / seconds))
    return found


class BenchReport(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, name: str, program: str, hosts: list[str], benchmarks: list[dict]) -> None:
        context = {"program": program, "hosts": " ".join(hosts), "ranks": str(len(hosts)), "cpu": "a processor"}
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"context": context, "benchmarks": benchmarks}))

    def write_decoding(self, node: str, content: dict) -> None:
        path = self.folder / "run" / f"node-{node}-decode.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))

    def write_nodes(self, folder: str, slow: str = "", slowness: float = 1) -> None:
        for node in ("n1", "n2", "n3", "n10"):
            measured = operations(slowness if node == slow else 1)
            self.write(f"{folder}/node-{node}-ops.json", "mtp-bench-ops", [node] * RANKS, measured)

    def report(self, *words: object, code: int = 0) -> list[str]:
        """What the script prints, but for the report's place."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            words = [*words, "--out", self.folder / "report.html"]
            self.assertEqual(bench_report.main([str(word) for word in words]), code)
        return out.getvalue().splitlines()[:-1]

    def test_alike_nodes_have_no_outlier(self) -> None:
        self.write_nodes("run")
        self.assertEqual(self.report(self.folder / "run"), [])

    def test_a_slow_node_is_named(self) -> None:
        self.write_nodes("run", slow="n10", slowness=1.5)
        [line] = self.report(self.folder / "run")
        self.assertIn("slow node: n10: memory 0.67, matrix products 0.67, operations 0.67", line)

    def test_a_slow_rank_is_named_by_its_place_on_its_node(self) -> None:
        hosts = ["n1"] * RANKS + ["n2"] * RANKS
        self.write("run/ops.json", "mtp-bench-ops", hosts, operations(slowest_rank=6, imbalance=2))
        self.assertEqual(self.report(self.folder / "run"), ["slow rank: rank 2 of n2: 0.50 of the median rank's speed"])

    def test_a_slow_rank_of_two_is_named(self) -> None:
        self.write("run/ops.json", "mtp-bench-ops", ["n1"] * 2, operations(slowest_rank=1, imbalance=2))
        self.assertEqual(self.report(self.folder / "run"), ["slow rank: rank 1 of n1: 0.50 of the median rank's speed"])

    def test_the_rank_that_is_slow_in_most_repetitions_is_named(self) -> None:
        repeated = [b for rank in (0, 3, 1, 3) for b in operations(slowest_rank=rank, imbalance=2)]
        self.write("run/ops.json", "mtp-bench-ops", ["n1"] * RANKS, repeated)
        self.assertEqual(self.report(self.folder / "run"), ["slow rank: rank 3 of n1: 0.50 of the median rank's speed"])

    def test_a_rank_that_is_late_now_and_then_is_not_named(self) -> None:
        late = [benchmark("add/small/fp32", 1e-3, slowest_rank=rank, imbalance=2) for rank in range(RANKS)]
        self.write("run/ops.json", "mtp-bench-ops", ["n1"] * RANKS, [late[1], *operations()])
        self.assertEqual(self.report(self.folder / "run"), [])

    def test_a_slow_link_is_named(self) -> None:
        hosts = [node for node in ("n1", "n2", "n3", "n4") for _ in range(RANKS)]
        self.write("run/comm.json", "mtp-bench-comm", hosts, links(hosts, slow=("n2", "n4")))
        self.assertEqual(self.report(self.folder / "run"), ["slow link: n2 – n4: 0.40 of the other links' speed"])

    def test_a_slow_disk_is_named(self) -> None:
        self.write_nodes("run")
        for node, seconds in (("n1", 1), ("n2", 1), ("n3", 2)):
            lines = f"1024+0 records out\n1073741824 bytes (1.1 GB, 1.0 GiB) copied, {seconds} s, 1.1 GB/s\n" * 2
            (self.folder / "run" / f"disk-{node}.txt").write_text(lines)
        self.assertEqual(self.report(self.folder / "run"), ["slow disk: n3: 0.50 of the other nodes' bandwidth"])

    def test_a_disk_that_is_slow_once_is_not_named(self) -> None:
        self.write_nodes("run")
        for node, seconds in (("n1", (1, 1, 1)), ("n2", (1, 9, 1))):
            lines = [f"1073741824 bytes (1.1 GB, 1.0 GiB) copied, {each} s, 1.1 GB/s\n" for each in seconds]
            (self.folder / "run" / f"disk-{node}.txt").write_text("".join(lines))
        self.assertEqual(self.report(self.folder / "run"), [])

    def test_a_node_that_decodes_slowly_is_named(self) -> None:
        for node, seconds in (("n1", 1), ("n2", 1), ("n3", 2)):
            prompts = [{"decode_time": times * seconds, "target_forwards": 11} for times in (1, 1, 8)]
            aggregate = {"tokens_per_second": 10, "tokens_per_forward": 1}
            ways = {way: {"prompts": prompts, "aggregate": aggregate} for way in ("plain", "drafted")}
            self.write_decoding(node, {"settings": {"max_new_tokens": 11}} | ways)
        said = self.report(self.folder / "run")
        self.assertEqual(said, ["slow node: n3: decoding 0.50 of the other nodes' speed"])
        self.assertIn("| n3 | 10 | 10 | 200 ms | 200 ms | 1.00 |", (self.folder / "report.md").read_text())
        self.write_decoding("n3", {"settings": {}})
        [line] = self.report(self.folder / "run", code=1)
        self.assertIn("node-n3-decode.json: not the JSON of mtp-bench-decode", line)

    def test_a_wrong_result_is_named_and_fails(self) -> None:
        wrong = benchmark("add/small/fp32", 1e-3) | {"error_occurred": True, "error_message": "rank 1: element 3 is 5"}
        self.write("run/ops.json", "mtp-bench-ops", ["n1"] * RANKS, [*operations(), wrong])
        [line] = self.report(self.folder / "run", code=1)
        self.assertIn("add/small/fp32 on n1: rank 1: element 3 is 5", line)

    def test_a_regression_fails_only_below_the_threshold(self) -> None:
        self.write_nodes("old")
        slower = benchmark("linear_forward/small/fp32/q_proj", 1.25e-3)
        self.write("new/ops.json", "mtp-bench-ops", ["n1"] * RANKS, [*operations()[:3], slower])
        against = [self.folder / "new", "--against", self.folder / "old"]
        self.assertEqual(self.report(*against, "--fail-below", 0.75), [])
        [line] = self.report(*against, "--fail-below", 0.9, code=1)
        self.assertIn("slower: linear_forward/small/fp32/q_proj on 4 ranks of 1 nodes: 0.80", line)

    def test_repetitions_count_as_their_median(self) -> None:
        repeated = [benchmark("add/small/fp32", seconds) for seconds in (1e-3, 9e-3, 1e-3)]
        for node in ("n1", "n2"):
            measured = repeated if node == "n1" else [benchmark("add/small/fp32", 1e-3)]
            self.write(f"run/{node}.json", "mtp-bench-ops", [node] * RANKS, measured)
        self.assertEqual(self.report(self.folder / "run"), [])

    def test_the_page_needs_no_other_file_and_the_summary_has_the_findings(self) -> None:
        self.write_nodes("run", slow="n2", slowness=2)
        self.report(self.folder / "run", "--picture", self.folder / "plots.png")
        page = (self.folder / "report.html").read_text()
        self.assertIn("<svg", page)
        self.assertNotIn("src=", page)
        self.assertIn("| slow node | n2 | memory 0.50", (self.folder / "report.md").read_text())
        self.assertTrue((self.folder / "plots.png").read_bytes().startswith(b"\x89PNG"))

    def test_a_file_that_ends_too_early_is_named_and_the_rest_reported(self) -> None:
        self.write_nodes("run")
        (self.folder / "run" / "node-n3-ops.json").write_text('{"context": {')
        (self.folder / "run" / "disk-n1.txt").write_text("dd: failed to open '.bench-n1': Permission denied\n")
        said = self.report(self.folder / "run", code=1)
        self.assertEqual([line.split(":")[0] for line in said], ["no result"] * 2)
        self.assertIn("disk-n1.txt: no line of dd", said[0])
        self.assertIn("node-n3-ops.json: not the JSON", said[1])

    def test_other_files_are_refused_in_one_line(self) -> None:
        path = self.folder / "other.json"
        path.write_text("{}")
        with self.assertRaisesRegex(SystemExit, "other.json: not the JSON of a benchmark program of mtp"):
            self.report(path)


if __name__ == "__main__":
    unittest.main()
