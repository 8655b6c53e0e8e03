#!/usr/bin/env python3
"""Sends a run directory to Weights & Biases or MLflow by their own clients: curves, validation, settings, git revision.

    scripts/mtp_track.py RUN --to wandb [--project mtp] [--name NAME] [--follow]
    scripts/mtp_track.py RUN --to mlflow …

Where to is for the clients' own variables to say: WANDB_MODE=offline, WANDB_DIR, WANDB_API_KEY; MLFLOW_TRACKING_URI
(http://…, or a folder: file:/path with MLFLOW_ALLOW_FILE_STORE=true). It needs the packages of scripts/requirements-track.txt, and reads files only: beside the job, on
a login node, or after it. RUN/track_wandb.json and RUN/track_mlflow.json remember what was sent, so that a run that was
killed and resumed, and a tracker that was, go on with the same curves, every step once.
"""

from __future__ import annotations

import argparse
import configparser
import fcntl
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import h5py

Values = dict[str, float]
KINDS = {"train": "metrics.jsonl", "validation": "validation.jsonl"}
BATCH = 100  # steps sent between two notes of what was sent


class Tracker(Protocol):
    id: str

    def describe(self, settings: dict[str, str], facts: dict[str, str]) -> None: ...
    def log(self, step: int, values: Values) -> None: ...
    def finish(self) -> None: ...


class WeightsAndBiases:
    def __init__(self, project: str, name: str, known_id: str | None):
        import wandb

        self.run = wandb.init(project=project, name=name, id=known_id, resume="allow")
        self.id = self.run.id
        self.run.define_metric("*", step_metric="step")

    def describe(self, settings: dict[str, str], facts: dict[str, str]) -> None:
        self.run.config.update(settings | facts, allow_val_change=True)

    def log(self, step: int, values: Values) -> None:
        self.run.log(values | {"step": step})

    def finish(self) -> None:
        self.run.finish()


class MLflow:
    MOST = 100  # parameters of one call

    def __init__(self, project: str, name: str, known_id: str | None):
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self.metric, self.param, self.client = Metric, Param, MlflowClient()
        experiment = self.client.get_experiment_by_name(project)
        experiment_id = experiment.experiment_id if experiment else self.client.create_experiment(project)
        self.id = known_id or self.client.create_run(experiment_id, run_name=name).info.run_id
        self.client.update_run(self.id, status="RUNNING")

    def describe(self, settings: dict[str, str], facts: dict[str, str]) -> None:
        """Parameters cannot change: what a resumed run has otherwise becomes a tag."""
        known = self.client.get_run(self.id).data.params
        fresh = [self.param(key, value) for key, value in settings.items() if key not in known]
        for begin in range(0, len(fresh), self.MOST):
            self.client.log_batch(self.id, params=fresh[begin : begin + self.MOST])
        changed = {f"changed.{key}": value for key, value in settings.items() if known.get(key, value) != value}
        for key, value in (facts | changed).items():
            self.client.set_tag(self.id, key, value)

    def log(self, step: int, values: Values) -> None:
        now = int(time.time() * 1000)
        self.client.log_batch(self.id, metrics=[self.metric(key, value, now, step) for key, value in values.items()])

    def finish(self) -> None:
        self.client.set_terminated(self.id)


TRACKERS: dict[str, type] = {"wandb": WeightsAndBiases, "mlflow": MLflow}


def numbers(name: str, value: object) -> Iterator[tuple[str, float]]:
    """Every number in a value, under its name; of a list and an object each member under its own."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from numbers(f"{name}/{key}", part)
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from numbers(f"{name}/round_{i}", part)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, float(value)


class Lines:
    """The lines of a file that a run adds to, and cuts back where it is resumed from an older checkpoint."""

    def __init__(self, path: Path):
        self.path, self.position = path, 0

    def fresh(self) -> Iterator[dict]:
        if not self.path.exists():
            return
        if self.path.stat().st_size < self.position:
            self.position = 0
        with self.path.open("rb") as file:
            file.seek(self.position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    values = json.loads(line)
                except ValueError:  # cut back and grown past where this was
                    self.position = 0
                    return
                self.position += len(line)
                yield values


class Sender:
    def __init__(self, run: Path, kind: str, project: str, name: str):
        self.run, self.memory = run, run / f"track_{kind}.json"
        known = json.loads(self.memory.read_text()) if self.memory.exists() else {}
        self.sent: dict[str, int] = known.get("sent", {})  # the last step of each kind
        self.lines = {kind: Lines(run / file) for kind, file in KINDS.items()}
        self.tracker: Tracker = TRACKERS[kind](project, name, known.get("id"))
        self.remember()

    def remember(self) -> None:
        fresh = self.memory.with_suffix(".partial")
        fresh.write_text(json.dumps({"id": self.tracker.id, "sent": self.sent}))
        fresh.replace(self.memory)

    def send_fresh(self) -> int:
        self.tracker.describe(settings_of(self.run), facts_of(self.run))
        count = 0
        for kind, lines in self.lines.items():
            for line in lines.fresh():
                step = line.pop("step")
                if step <= self.sent.get(kind, -1):
                    continue
                self.tracker.log(step, {f"{kind}/{key}": value for k, v in line.items() for key, value in numbers(k, v)})
                self.sent[kind] = step
                count += 1
                if count % BATCH == 0:
                    self.remember()
        self.remember()
        return count


def settings_of(run: Path) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.read(run / "settings.cfg")
    return {f"{section}.{key}": value for section in parser.sections() for key, value in parser[section].items()}


def facts_of(run: Path) -> dict[str, str]:
    """Of the program and the machine, once a checkpoint says so."""
    try:
        with h5py.File(run / "checkpoints" / "latest" / "state.h5", locking=False) as state:
            texts = {key: state.attrs[key] for key in ("revision", "device") if key in state.attrs}
    except OSError:
        return {}
    words = {key: text.decode() if isinstance(text, bytes) else str(text) for key, text in texts.items()}
    found = dict(line.split(" ", 1) for line in words.get("revision", "").splitlines() if " " in line)
    facts = {"git_revision": found["revision"]} if "revision" in found else {}
    return facts | ({"device": words["device"]} if "device" in words else {})


def is_running(run: Path) -> bool:
    """Whether a job has the run directory: it locks RUN/lock."""
    try:
        with (run / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # not there yet, or a file system without locks
        return False
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory of mtp-train")
    parser.add_argument("--to", choices=TRACKERS, required=True)
    parser.add_argument("--project", default="mtp", help="W&B's project, MLflow's experiment; default mtp")
    parser.add_argument("--name", help="of the run; default: its directory's")
    parser.add_argument("--follow", action="store_true", help="go on until the job that has the run ends, or SIGTERM")
    parser.add_argument("--interval", type=float, default=10, help="seconds between looks; default 10")
    args = parser.parse_args()
    if not args.run.is_dir():
        raise SystemExit(f"{args.run}: is no directory; name a run of mtp-train")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        sender = Sender(args.run, args.to, args.project, args.name or args.run.resolve().name)
    except ImportError as error:
        raise SystemExit(f"{error}; install the packages of scripts/requirements-track.txt") from None
    except Exception as error:  # the clients' own: no server, no key, no right to write
        raise SystemExit(f"{args.to} cannot be used: {error}") from None
    try:
        goes_on = True
        while goes_on:
            goes_on = args.follow and is_running(args.run)  # asked before the look: what came until the end is sent
            sender.send_fresh()
            if goes_on:
                time.sleep(args.interval)
    except KeyboardInterrupt:
        pass
    finally:
        sender.tracker.finish()
    print(f"{args.run}: sent up to step {max(sender.sent.values(), default=0)} as {args.to} run {sender.tracker.id}")


if __name__ == "__main__":
    main()
