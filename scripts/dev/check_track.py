#!/usr/bin/env python3
"""scripts/mtp_track.py with the real clients: a run directory goes to MLflow's file store and to an offline run of Weights
& Biases, is cut back and goes on as by a kill and a resume, and goes again. Not a part of CI, which does without the
clients' packages:

    python3 -m venv ENV && ENV/bin/pip install -r scripts/requirements-track.txt
    ENV/bin/python scripts/dev/check_track.py
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mlflow.tracking import MlflowClient

TRACK = Path(__file__).resolve().parents[1] / "mtp_track.py"


def write(path: Path, steps: range, mode: str = "w") -> None:
    with path.open(mode) as file:
        file.writelines(json.dumps({"step": step, "loss": 9 / step, "loss_drafter": [8.5, 8.6]}) + "\n" for step in steps)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = f"file:{folder / 'mlruns'}"
        os.environ |= {"MLFLOW_TRACKING_URI": store, "MLFLOW_ALLOW_FILE_STORE": "true"}
        os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "WANDB_SILENT": "true"}
        run = folder / "first"
        run.mkdir()
        (run / "settings.cfg").write_text("[optimizer]\nlr = 0.001\n")
        metrics = run / "metrics.jsonl"
        for steps, mode in ((range(1, 11), "w"), (range(1, 8), "w"), (range(8, 13), "a")):
            write(metrics, steps, mode)
            for kind in ("mlflow", "wandb"):
                subprocess.run([sys.executable, TRACK, run, "--to", kind], check=True)

        client = MlflowClient(store)
        [found] = client.search_runs([client.get_experiment_by_name("mtp").experiment_id])
        history = client.get_metric_history(found.info.run_id, "train/loss_drafter/round_1")
        assert [(m.step, m.value) for m in history] == [(step, 8.6) for step in range(1, 13)], history
        assert found.data.params == {"optimizer.lr": "0.001"} and found.info.status == "FINISHED", found
        runs = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
        sent = sum(path.read_bytes().count(b"train/loss_drafter/round_1") for path in runs)
        assert len(runs) == 3 and len({path.stem for path in runs}) == 1 and sent >= 12, (runs, sent)
    print("MLflow has every step once; Weights & Biases has one run, offline")


if __name__ == "__main__":
    main()
