#!/usr/bin/env python3
"""What goes wrong ends the whole job at once, with one line that says what: on one rank and on several.

    .venv/bin/python tests/check_faults.py PROGRAMS
"""

import hashlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import h5py

from job import Job, comparable_lines, expect, run_cases, wait_until


def all_ranks_miss_a_file(job: Job) -> None:
    (job.fixture / "base" / "config.json").unlink()
    for ranks in (1, 3):
        expect(job.run(ranks), 1, r"base/config\.json: cannot be read")
    assert not (job.run_dir).exists(), "something was written"


def an_unknown_setting(job: Job) -> None:
    for ranks in (1, 2):
        expect(job.run(ranks, "--drafter.round", "3"), 2, r"drafter\.round")


def ranks_that_do_not_divide(job: Job) -> None:
    expect(job.run(5), 2, r"train\.global_batch.* 12 .* 5 ranks")


def masked_head_without_centroids(job: Job) -> None:
    config = job.fixture / "drafter" / "config.json"
    config.write_text(config.read_text().replace('"use_ordered_embeddings": true', '"use_ordered_embeddings": false'))
    expect(job.run(2, "--drafter.head", "masked"), 1, r"masked_embedding\.centroids\.weight is unknown")


def too_long_samples(job: Job) -> None:
    config = job.fixture / "base" / "config.json"
    config.write_text(re.sub(r'"max_position_embeddings": \d+', '"max_position_embeddings": 8', config.read_text()))
    expect(job.run(2), 2, r"data\.max_length.*23 positions.* is 8")


def one_rank_reads_a_damaged_sample(job: Job) -> None:
    with h5py.File(job.fixture / "data.h5", "r+") as data:
        data["tokens"][int(data["offsets"][4]) + 1] = 5000  # sample 4, which is rank 1's
    expect(job.run(3), 1, r"rank 1: .*data\.h5: sample 4")
    assert not (job.run_dir / "checkpoints").exists(), "a checkpoint was written"


def expect_gone(pids: list[int]) -> None:
    time.sleep(1)
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in pids), "a rank lives on"


def a_rank_is_killed(job: Job) -> None:
    for ranks in (2, 4):
        mpirun, pids = job.start_training(ranks)
        os.kill(pids[-1], signal.SIGKILL)
        result = job.wait(mpirun)
        assert result.code != 0 and result.seconds < 10, result
        expect_gone(pids)


def a_rank_is_stopped(job: Job) -> None:
    for ranks, stopped, reporter in ((2, 1, 0), (2, 0, 1), (4, 2, 0)):
        mpirun, pids = job.start_training(ranks, "--dist.timeout_minutes", "0.05")
        os.kill(pids[stopped], signal.SIGSTOP)
        result = job.wait(mpirun)
        line = f"rank {reporter}: no answer from rank {stopped} for 0.05 minutes .*timeout_minutes.* of [a-z]+"
        expect(result, 1, line)
        assert result.seconds < 15, result
        expect_gone(pids)


def a_loss_that_is_not_finite(job: Job) -> None:
    result = job.run(2, "--optimizer.lr", "1e30", "--schedule.style", "constant")
    expect(result, 1, r"step 2: .*not finite")
    assert not (job.run_dir / "checkpoints").exists(), "a checkpoint was written"


def a_file_without_a_label(job: Job) -> None:
    with h5py.File(job.fixture / "data.h5", "r+") as data:
        data["loss_mask"][:] = 0
    expect(job.run(2), 1, r"data\.h5: no sample has a target within data\.max_length")


def a_step_without_a_label(job: Job) -> None:
    """It changes nothing, and the run goes on: the samples of step 1 teach nothing, those of step 2 do."""
    with h5py.File(job.fixture / "data.h5", "r+") as data:
        data["loss_mask"][: data["offsets"][2]] = 0
    words = ["--train.global_batch", "2", "--train.max_steps", "2", "--data.shuffle", "false"]
    lines = []
    for ranks in (1, 2):
        job.run_dir = job.folder / f"run-{ranks}"
        result = job.run(ranks, *words)
        assert result.code == 0 and "2 of " in result.text and "teach nothing" in result.text, result.text
        assert "step 1: none of its samples has a label" in result.text, result.text
        lines.append(comparable_lines(job.run_dir / "metrics.jsonl"))
    first, second = lines[0]
    assert (first["label_tokens"], first["loss"], first["grad_norm"]) == (0, 0, 0) and second["loss"] > 0, lines[0]
    assert lines[0] == lines[1]


def data_of_another_tokenizer(job: Job) -> None:
    (job.fixture / "base" / "tokenizer.json").write_text("{}")
    with h5py.File(job.fixture / "data.h5", "r+") as data:
        data.attrs["tokenizer"] = "0" * 64
    expect(job.run(2), 1, r"data\.h5: made with another tokenizer than .*base/tokenizer\.json; prepare it")
    with h5py.File(job.fixture / "data.h5", "r+") as data:
        data.attrs["tokenizer"] = hashlib.sha256(b"{}").hexdigest()
    assert job.run(2).code == 0


def a_run_that_is_finished(job: Job) -> None:
    assert job.run(2).code == 0
    before = (job.run_dir / "metrics.jsonl").read_bytes()
    expect(job.run(2), 2, r"run\.dir: .*mtp-resume")
    assert (job.run_dir / "metrics.jsonl").read_bytes() == before


def a_run_directory_that_cannot_be_made(job: Job) -> None:
    (job.folder / "file").write_text("")
    job.run_dir = job.folder / "file" / "run"
    for ranks in (1, 2):
        expect(job.run(ranks), 1, r"rank 0: .*run directory cannot be made")


def srun_without_pmix(job: Job) -> None:
    """As its processes find themselves: alone, although srun started two. One of them says so."""
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_MPI_TYPE": "pmi2"}
    for process, lines in (("0", 1), ("1", 0)):
        with mock.patch.dict(os.environ, step | {"SLURM_PROCID": process}):
            expect(job.run(1), 2, "srun --mpi=pmi2: this MPI takes the 2 processes .* --mpi=pmix", times=lines)
    assert not job.run_dir.exists()


def a_run_directory_that_is_taken(job: Job) -> None:
    mpirun = job.start(1, "--train.max_steps", "1000000")
    wait_until((job.run_dir / "metrics.jsonl").exists, "the first step", job=mpirun)
    expect(job.run(1), 1, r"another job has this run directory")
    mpirun.kill()
    mpirun.communicate()


CASES: list[Callable[[Job], None]] = [
    all_ranks_miss_a_file,
    an_unknown_setting,
    ranks_that_do_not_divide,
    masked_head_without_centroids,
    too_long_samples,
    one_rank_reads_a_damaged_sample,
    a_rank_is_killed,
    a_rank_is_stopped,
    a_loss_that_is_not_finite,
    a_file_without_a_label,
    a_step_without_a_label,
    data_of_another_tokenizer,
    a_run_that_is_finished,
    a_run_directory_that_cannot_be_made,
    a_run_directory_that_is_taken,
    srun_without_pmix,
]


if __name__ == "__main__":
    sys.exit(run_cases(__doc__, {case.__name__: case for case in CASES}))
