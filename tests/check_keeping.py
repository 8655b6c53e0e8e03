#!/usr/bin/env python3
"""The best checkpoint is kept and exported, a run without progress ends early, and TensorBoard's own reader sees every
step once: also of a run that is killed.

    .venv/bin/python tests/check_keeping.py PROGRAMS [CASE …]
"""

import json
import random
import re
import struct
import subprocess
import sys
from pathlib import Path

from job import (
    Job,
    Result,
    comparable_lines,
    complete_checkpoints,
    expect,
    expect_same,
    kill_job,
    newest_checkpoint,
    run_cases,
    wait_until,
)

TENSORBOARD = Path(__file__).parent.parent / ".venv-tensorboard" / "bin" / "python"
LIMIT = 120  # seconds for a run
SEED = random.SystemRandom().randrange(10**6)
# At this rate the loss of the samples validated on falls for nine steps, and rises from then on.
SETTINGS = {
    "--train.max_steps": "40",
    "--optimizer.lr": "0.002",
    "--schedule.decay_steps": "1000",
    "--validation.every_steps": "3",
    "--checkpoint.every_steps": "2",
    "--checkpoint.keep": "1",
    "--checkpoint.keep_best": "loss_base",
    "--validation.patience": "4",
    "--run.tensorboard": "true",
}


def words(job: Job) -> list[str]:
    settings = SETTINGS | {"--data.validation": str(job.fixture / "validation.h5")}
    return [word for pair in settings.items() for word in pair]


def train(job: Job, ranks: int, *extra: str) -> Result:
    return job.wait(job.start(ranks, *words(job), *extra), limit=LIMIT)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def best_step(run_dir: Path, key: str = "loss_base") -> int:
    lines = [line for line in comparable_lines(run_dir / "validation.jsonl") if line["step"] > 0]
    return min(lines, key=lambda line: line[key])["step"]


def steps_of(run_dir: Path) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in complete_checkpoints(run_dir)]


def curves_of(line: dict) -> dict[str, float]:
    curves = {}
    for key, value in line.items():
        for name, number in [(f"{key}/round_{i}", v) for i, v in enumerate(value)] if isinstance(value, list) else [(key, value)]:
            curves[name] = struct.unpack("f", struct.pack("f", number))[0]
    return curves


def expect_every_step_in_tensorboard(run_dir: Path) -> None:
    reader = [TENSORBOARD, Path(__file__).parent / "read_events.py", run_dir]
    found = json.loads(subprocess.run(reader, capture_output=True, text=True, check=True).stdout)
    wanted: dict[str, list] = {}
    for kind, name in (("train", "metrics"), ("validation", "validation")):
        for text in (run_dir / f"{name}.jsonl").read_text().splitlines():
            line = json.loads(text)
            step = line.pop("step")
            for curve, value in curves_of(line).items():
                wanted.setdefault(f"{kind}/{curve}", []).append([step, value])
    assert found["curves"] == wanted
    assert found["texts"]["settings"] == "    " + (run_dir / "settings.cfg").read_text().replace("\n", "\n    ")


def the_best_is_kept_and_the_run_ends_early(job: Job) -> None:
    """… also where it is killed, on other numbers of ranks; decided alike, with the same bits."""
    rng = random.Random(SEED)
    result = train(job, 2)
    assert result.code == 0, result.text
    best, last = best_step(job.run_dir), len(comparable_lines(job.run_dir / "metrics.jsonl"))
    assert 3 < best < last < 40 and last == best + 4 * 3, f"seed {SEED}: best {best}, last {last}"
    assert f"ended after step {last}: 4 validations since the best, of step {best}" in result.text, result.text
    assert steps_of(job.run_dir) == [best, last]
    assert re.search(rf"^best +step_{best:08}$", job.run_program(1, "mtp-inspect", job.run_dir).text, re.MULTILINE)

    whole, job.run_dir = job.run_dir, job.folder / "killed"
    metrics = job.run_dir / "metrics.jsonl"
    running = job.start(1, *words(job))
    for _ in range(2):
        wanted = newest_checkpoint(job.run_dir) + rng.randint(3, 5)
        wait_until(
            lambda: newest_checkpoint(job.run_dir) > 0 and len(metrics.read_text().splitlines()) >= wanted,
            f"step {wanted}",
            LIMIT,
            job=running,
        )
        kill_job(running)
        running = job.start_program(3, "mtp-resume", "--from", job.run_dir)
    expect(job.wait(running, limit=LIMIT), 0, "", times=0)
    expect_same(job.run_dir, whole)
    assert comparable_lines(job.run_dir / "validation.jsonl") == comparable_lines(whole / "validation.jsonl")
    assert steps_of(job.run_dir) == [best, last], f"seed {SEED}: {steps_of(job.run_dir)}"
    expect_every_step_in_tensorboard(job.run_dir)

    again = job.resume(2, whole)
    assert again.code == 0 and "ended by validation.patience: nothing left to do" in again.text, again.text
    on = job.resume(1, whole, "--validation.patience", "0", "--train.max_steps", str(last + 1))
    assert on.code == 0 and steps_of(whole)[-1] == last + 1, on.text


def the_best_is_exported(job: Job) -> None:
    """… at the end of the run and by --best: what an export of that checkpoint alone gives."""
    expect(train(job, 2, "--checkpoint.export_at_end", "true", "--train.max_steps", "20"), 0, "", times=0)
    best = best_step(job.run_dir)
    checkpoint = job.run_dir / "checkpoints" / f"step_{best:08}"
    newest = job.run_dir / "checkpoints" / "latest"
    assert checkpoint != newest.resolve(), "the best must not be the newest here"
    for name, source in (("best", (job.run_dir, "--best")), ("named", (checkpoint,)), ("newest", (newest,))):
        expect(job.run_program(1, "mtp-export-hf", "--from", *source, "--out", job.folder / name), 0, "", times=0)
    exported = {name: files(job.folder / name) for name in ("best", "named", "newest")}
    assert exported["best"] == exported["named"] == files(job.run_dir / "hf")
    assert exported["best"] != exported["newest"]


def what_does_not_fit_is_refused(job: Job) -> None:
    validated = ("--data.validation", str(job.fixture / "validation.h5"), "--validation.every_steps", "3")
    expect(job.run(1, "--checkpoint.keep_best", "loss_base"), 2, "checkpoint.keep_best needs validations")
    expect(job.run(1, *validated, "--validation.patience", "2"), 2, "validation.patience needs checkpoint.keep_best")
    expect(job.run(1, *validated, "--checkpoint.keep_best", "step"), 2, "checkpoint.keep_best: 'step' is not none")
    assert job.run(1, *validated).code == 0
    export = job.run_program(1, "mtp-export-hf", "--from", job.run_dir, "--best", "--out", job.folder / "hf")
    expect(export, 1, "--best: .* has no best checkpoint")


CASES = {
    "kept": the_best_is_kept_and_the_run_ends_early,
    "exported": the_best_is_exported,
    "refused": what_does_not_fit_is_refused,
}

if __name__ == "__main__":
    sys.exit(run_cases(__doc__, CASES))
