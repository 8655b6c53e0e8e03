#!/usr/bin/env python3
"""scripts/mtp_track.py sends every step once, whatever happens to the run and to itself. With a client of our own:
scripts/dev/check_track.py has the real ones.

    .venv/bin/python tests/scripts/track_test.py
"""

import json
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import mtp_track


class Client:
    """Remembers what it is given, by the run's id."""

    runs: dict[str, list] = {}

    def __init__(self, project: str, name: str, known_id: str | None):
        self.id = known_id or f"{project}-{name}-{len(self.runs)}"
        self.steps = self.runs.setdefault(self.id, [])
        self.settings: dict[str, str] = {}

    def describe(self, settings: dict[str, str], facts: dict[str, str]) -> None:
        self.settings |= settings

    def log(self, step: int, values: dict[str, float]) -> None:
        self.steps.append((step, values))

    def finish(self) -> None:
        pass


class Track(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.run_dir = Path(folder.name)
        self.metrics = self.run_dir / "metrics.jsonl"
        Client.runs = {}
        patched = mock.patch.dict(mtp_track.TRACKERS, {"own": Client})
        patched.start()
        self.addCleanup(patched.stop)

    def sender(self) -> mtp_track.Sender:
        return mtp_track.Sender(self.run_dir, "own", "mtp", "first")

    def write(self, steps: range, mode: str = "w") -> None:
        with self.metrics.open(mode) as file:
            file.writelines(json.dumps({"step": step, "loss": 1.5}) + "\n" for step in steps)

    def steps_sent(self) -> list[int]:
        [steps] = Client.runs.values()
        return [step for step, _ in steps]

    def test_a_line_is_sent_once_it_is_whole(self) -> None:
        sender = self.sender()
        self.assertEqual(sender.send_fresh(), 0)
        self.write(range(1, 4))
        with self.metrics.open("a") as file:
            file.write('{"step": 4, "lo')
        self.assertEqual(sender.send_fresh(), 3)
        with self.metrics.open("a") as file:
            file.write('ss": 1.5}\n')
        self.assertEqual(sender.send_fresh(), 1)
        self.assertEqual(self.steps_sent(), [1, 2, 3, 4])

    def test_a_run_that_was_killed_and_resumed_has_one_curve(self) -> None:
        sender = self.sender()
        self.write(range(1, 11))
        sender.send_fresh()
        self.write(range(1, 8))  # cut back to its checkpoint
        self.write(range(8, 10), "a")
        sender.send_fresh()
        self.write(range(10, 15), "a")
        sender.send_fresh()
        self.assertEqual(self.steps_sent(), list(range(1, 15)))

    def test_a_tracker_that_was_stopped_goes_on_with_the_same_run(self) -> None:
        self.write(range(1, 4))
        self.sender().send_fresh()
        self.write(range(4, 6), "a")
        self.sender().send_fresh()
        self.assertEqual(self.steps_sent(), [1, 2, 3, 4, 5])

    def test_lists_and_objects_are_curves_of_their_own(self) -> None:
        (self.run_dir / "settings.cfg").write_text("[optimizer]\nlr = 0.001\n")
        line = {"step": 0, "loss_drafter": [3, 2], "domains": {"code": {"loss_base": 1.0}}}
        (self.run_dir / "validation.jsonl").write_text(json.dumps(line) + "\n")
        sender = self.sender()
        sender.send_fresh()
        [[(step, values)]] = Client.runs.values()
        rounds = {"validation/loss_drafter/round_0": 3.0, "validation/loss_drafter/round_1": 2.0}
        self.assertEqual((step, values), (0, rounds | {"validation/domains/code/loss_base": 1.0}))
        self.assertEqual(sender.tracker.settings, {"optimizer.lr": "0.001"})


if __name__ == "__main__":
    unittest.main()
