#!/usr/bin/env python3
"""Damaged checkpoints, full and read-only disks, and jobs that die badly: the newest sound checkpoint is used or the
run refuses to go on, with a clear line; it never goes on wrongly and never hangs.

    .venv/bin/python tests/check_checkpoint_faults.py PROGRAMS [CASE …]      (needs root: it mounts small disks)
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from job import (
    Job,
    comparable_lines,
    complete_checkpoints,
    expect,
    expect_same,
    kill_job,
    newest_checkpoint,
    run_cases,
    wait_until,
)

SEED = random.SystemRandom().randrange(10**6)
RNG = random.Random(SEED)
EVERY_TWO = ("--checkpoint.every_steps", "2", "--checkpoint.keep", "9", "--data.shuffle", "true", "--run.threads", "1")


def train_whole(job: Job) -> Path:
    """A run of 8 steps on 2 ranks with checkpoints after 2, 4, 6 and 8."""
    result = job.wait(job.start(2, "--train.max_steps", "8", *EVERY_TWO), limit=120)
    assert result.code == 0, result.text
    return job.run_dir


# Damages


def flip(path: Path, position: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    position = RNG.randrange(len(data)) if position is None else position
    data[position] ^= RNG.randrange(1, 256)
    path.write_bytes(data)
    print(f"        byte {position} of {path.name}")


def flip_value(path: Path, kind: str) -> None:
    found = []
    with h5py.File(path) as file:
        file[kind].visititems(lambda _, item: found.append(item.id) if isinstance(item, h5py.Dataset) else None)
        chosen = RNG.choice(found)
        position = chosen.get_offset() + RNG.randrange(chosen.get_storage_size())
    flip(path, position)


def cut(path: Path) -> None:
    os.truncate(path, RNG.randrange(path.stat().st_size))


DAMAGES: list[tuple[str, Callable[[Path], None]]] = [
    ("rank_0000.h5", lambda path: flip_value(path, "parameters")),
    ("rank_0001.h5", lambda path: flip_value(path, "exp_avg_sq")),
    ("rank_0000.h5", lambda path: flip(path, RNG.randrange(96))),  # HDF5's superblock
    ("rank_0001.h5", flip),
    ("state.h5", flip),
    ("checksums.json", lambda path: flip(path, path.read_bytes().index(b"checksums") + RNG.randrange(9))),
    ("source/base/carried.safetensors", flip),
    ("source/drafter/config.json", flip),
    ("source/base/tensors.json", flip),
    ("rank_0001.h5", cut),
    ("state.h5", cut),
    ("checksums.json", cut),
    ("rank_0000.h5", Path.unlink),
    ("state.h5", Path.unlink),
    ("checksums.json", Path.unlink),
    ("source/drafter/carried.safetensors", Path.unlink),
]


def a_damaged_checkpoint(job: Job) -> None:
    whole = train_whole(job)
    run = job.folder / "damaged"
    for name, damage in DAMAGES:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole, run, symlinks=True)
        newest = complete_checkpoints(run)[-1]
        damage(newest / name)
        named = re.escape(name)
        expect(job.run_program(1, "mtp-inspect", newest), 1, named)
        expect(job.run_program(1, "mtp-inspect", run), 1, "1 of 4 checkpoints damaged")
        if name != "rank_0001.h5":  # of which an export needs nothing, or not all
            expect(job.run_program(1, "mtp-export-hf", "--from", newest, "--out", job.folder / "hf"), 1, named)
        if is_checkpoint(newest):
            expect(job.resume(1, newest), 1, named)
        result = job.resume(1, run)
        assert result.code == 0 and len(re.findall(f"damaged: .*{named}", result.text)) == 1, result.text
        assert "resumed after step 6" in result.text, result.text
        expect_same(run, whole)


def is_checkpoint(path: Path) -> bool:
    return (path / "state.h5").exists() or (path / "checksums.json").exists()


def damage_that_all_checkpoints_share(job: Job) -> None:
    run = train_whole(job)
    flip(run / "source" / "base" / "config.json")  # the same file in every checkpoint
    before = (run / "metrics.jsonl").read_bytes()
    for ranks in (1, 3):
        expect(job.resume(ranks, run), 1, r"source/base/config\.json: .*checksum")
    assert (run / "metrics.jsonl").read_bytes() == before, "a run that was refused has changed"


def what_cannot_be_read_now(job: Job) -> None:
    """A file that is not found wrong is no reason to go back, and nothing sound goes."""
    whole = train_whole(job)
    newest = complete_checkpoints(whole)[-1]
    for name in ("rank_0001.h5", "state.h5", "checksums.json", "source/base/config.json"):
        path, aside = newest / name, job.folder / "aside"
        path.rename(aside)
        path.symlink_to(path.name)  # which the system refuses to follow: too many levels
        for ranks in (1, 2):
            expect(job.resume(ranks, whole, "--train.max_steps", "10"), 1, f"{re.escape(name)}: cannot be read: Too many")
        path.unlink()
        aside.rename(path)
        assert len(complete_checkpoints(whole)) == 4
    assert job.resume(1, whole).code == 0


def a_checkpoint_of_another_version(job: Job) -> None:
    run = train_whole(job)
    newest = complete_checkpoints(run)[-1]
    listed = newest / "checksums.json"
    sound = listed.read_text()
    listed.write_text(sound.replace('"version": 1', '"version": 9'))
    expect(job.resume(1, run, "--train.max_steps", "10"), 1, r"checksums\.json: has version 9, this program reads")
    listed.write_text(sound)
    assert len(complete_checkpoints(run)) == 4


def a_directory_left_half_written(job: Job) -> None:
    whole = train_whole(job)
    run = job.folder / "half"
    shutil.copytree(whole, run, symlinks=True)
    newest = complete_checkpoints(run)[-1]
    partial = newest.with_name(f".{newest.name}.partial")
    newest.rename(partial)
    (partial / "checksums.json").unlink()
    (run / "checkpoints" / ".latest.partial").symlink_to("nowhere")
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 9, "los')  # as a kill leaves it
    result = job.resume(2, run)
    assert result.code == 0 and "resumed after step 6" in result.text, result.text
    assert "damaged" not in result.text and "cannot be read" not in result.text, result.text
    assert not [*run.glob("checkpoints/.*")], "what was half-written is still there"
    expect_same(run, whole)


def metrics_that_cannot_be_read(job: Job) -> None:
    run = train_whole(job)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join([lines[0], "\0\0\0\n", *lines[2:]]))
    result = job.resume(1, run, "--train.max_steps", "10")
    assert result.code == 0, result.text
    assert "metrics.jsonl: what follows step 1 cannot be read and is cut off" in result.text, result.text
    kept = [line["step"] for line in comparable_lines(run / "metrics.jsonl")]
    assert kept == [1, 9, 10], kept


# Files that changed, and what may change freely


def changed_files(job: Job) -> None:
    run = train_whole(job)
    more = ("--train.max_steps", "10")
    with h5py.File(job.fixture / "data.h5", "r+") as data:
        data["tokens"][3] = (int(data["tokens"][3]) + 1) % 50
    expect(job.resume(1, run, *more), 2, r"data\.train: .*--allow-change data")
    weights = job.fixture / "drafter" / "model.safetensors"
    flip(weights, weights.stat().st_size - 1)
    expect(job.resume(2, run, *more, "--allow-change", "data"), 2, r"model\.drafter/model\.safetensors: .*change model")
    result = job.resume(1, run, *more, "--allow-change", "data", "--allow-change", "model")
    assert result.code == 0 and "step 10/10" in result.text, result.text


def a_moved_run_without_its_source_pair(job: Job) -> None:
    run = train_whole(job)
    moved = job.folder / "moved"
    shutil.move(run, moved)
    shutil.move(job.fixture / "data.h5", moved / "other-name.h5")
    shutil.rmtree(job.fixture)
    paths = ("--data.train", moved / "other-name.h5", "--train.max_steps", "10", "--checkpoint.keep", "1")
    result = job.resume(3, moved, *paths)
    assert result.code == 0, result.text
    assert newest_checkpoint(moved) == 10 and len(complete_checkpoints(moved)) == 1
    assert job.run_program(1, "mtp-export-hf", "--from", moved, "--out", job.folder / "hf").code == 0


# Disks


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "mtp-test", folder]
    assert subprocess.run(mount).returncode == 0, "a small disk cannot be mounted; this test needs root"
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, leave: int) -> Path:
    """A file that takes all but `leave` bytes."""
    filler = disk / "filler"
    with filler.open("wb") as out:
        while (free := os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - leave) > 0:
            out.write(b"\0" * min(free, 1 << 16))
            out.flush()
    return filler


def start_saving(job: Job, ranks: int, **options: object) -> tuple[subprocess.Popen, Callable[[], str]]:
    """A run without an end that saves every 5 steps, once it has saved; and what its log says so far."""
    words = ("--checkpoint.every_steps", "5", "--checkpoint.keep", "1", "--run.threads", "1")
    process, _ = job.start_training(ranks, *words, "--run.log_every_steps", "1000", **options)
    wait_until(lambda: newest_checkpoint(job.run_dir) > 0, "the first checkpoint")
    return process, (job.run_dir / "log.txt").read_text


def stop(job: Job, process: subprocess.Popen, code: int, line: str | None = None) -> None:
    process.send_signal(signal.SIGTERM)
    result = job.wait(process)
    assert result.code == code, result.text
    if line:
        expect(result, code, line)


def a_disk_that_fills_up(job: Job) -> None:
    with small_disk(job.folder / "disk", 16) as disk:
        job.run_dir = disk / "run"
        process, log = start_saving(job, 2)
        filler = fill(disk, leave=1 << 19)
        wait_until(lambda: "is not saved" in log(), "the warning of a full disk")
        kept = newest_checkpoint(job.run_dir)
        metrics = job.run_dir / "metrics.jsonl"
        steps = len(metrics.read_text().splitlines())
        wait_until(lambda: len(metrics.read_text().splitlines()) > steps + 5, "the run to go on")
        assert newest_checkpoint(job.run_dir) == kept
        assert job.run_program(1, "mtp-inspect", job.run_dir).code == 0, "the checkpoint before is not whole"
        warning = re.search(r"warning: step \d+ is not saved: .*", log())
        assert re.search(r"MiB are needed.*goes on, the newest checkpoint is of step \d+", warning[0]), warning[0]
        filler.unlink()
        wait_until(lambda: newest_checkpoint(job.run_dir) > kept, "a checkpoint once there is room")
        fill(disk, leave=1 << 19)
        stop(job, process, 1, r"checkpoint of step \d+: .*MiB are needed")
        assert not [*job.run_dir.glob("checkpoints/.step*")], "what was half-written is still there"
        assert job.run_program(1, "mtp-inspect", job.run_dir).code == 0


def a_write_that_fails(job: Job) -> None:
    """A disk with room for the bytes of a checkpoint, but for one more file only: one rank cannot write its own."""
    with small_disk(job.folder / "disk", 16) as disk:
        job.run_dir = disk / "run"
        process, log = start_saving(job, 2)
        warning = r"warning: step \d+ is not saved: .*rank_000\d\.h5.*No space left.*the run goes on"

        def does_not_fit() -> bool:
            """Leaves room for so many files; where a save begins meanwhile, another one than a rank's does not fit."""
            wait_until(lambda: not [*job.run_dir.glob("checkpoints/.step*")], "a moment without a save")
            used, before = os.statvfs(disk).f_files - os.statvfs(disk).f_ffree, log().count("is not saved")
            subprocess.run(["mount", "-o", f"remount,nr_inodes={used + 2}", disk], check=True)
            wait_until(lambda: log().count("is not saved") > before, "the warning of a failed write")
            return re.search(warning, log()) is not None

        wait_until(does_not_fit, "a file of a rank that does not fit")
        stop(job, process, 1, r"checkpoint of step \d+: .*No space left on device")
        assert not [*job.run_dir.glob("checkpoints/.step*")], "what was half-written is still there"
        assert job.run_program(1, "mtp-inspect", job.run_dir).code == 0, "the checkpoint before is not whole"


def a_disk_that_becomes_read_only(job: Job) -> None:
    process, log = start_saving(job, 2)
    checkpoints = job.run_dir / "checkpoints"
    subprocess.run(["mount", "--bind", checkpoints, checkpoints], check=True)
    remount = ["mount", "-o", "remount,bind,ro", checkpoints]
    try:
        wait_until(lambda: subprocess.run(remount, capture_output=True).returncode == 0, "a moment without a save")
        wait_until(lambda: "Read-only file system" in log(), "the warning of a read-only disk")
        assert re.search(r"warning: step \d+ is not saved: .*Read-only file system.*; the run goes on", log()), log()
        stop(job, process, 1, r"checkpoint of step \d+: .*Read-only file system")
    finally:
        kill_job(process)
        subprocess.run(["umount", "--lazy", checkpoints], check=True)
    result = job.resume(1, job.run_dir, "--train.max_steps", str(newest_checkpoint(job.run_dir) + 2))
    assert result.code == 0, result.text


def a_disk_without_room_from_the_start(job: Job) -> None:
    """Said before the first step, not when the state is lost."""
    with small_disk(job.folder / "disk", 1) as disk:
        job.run_dir = disk / "run"
        expect(job.run(2, "--train.max_steps", "2"), 1, r"run: \d+ MiB are needed for a checkpoint, \d+ MiB are free")
        assert not (job.run_dir / "metrics.jsonl").read_text()


def shared_memory_that_is_full(job: Job) -> None:
    """What HDF5 lays out in memory lies in the run's folder then."""
    words = [str(word) for pair in job.settings("--train.max_steps", "2").items() for word in pair]
    for options in ("size=64k", "ro"):
        shutil.rmtree(job.run_dir, ignore_errors=True)
        command = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"'
        program = ["unshare", "-m", "bash", "-c", command, "-", job.programs / "mtp-train", *words]
        result = subprocess.run(program, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert job.run_program(1, "mtp-inspect", job.run_dir).code == 0
        assert not [path for path in newest_folder(job).iterdir() if path.name.startswith(".")]


def newest_folder(job: Job) -> Path:
    return complete_checkpoints(job.run_dir)[-1]


# Jobs that die badly


def two_jobs_on_one_run(job: Job) -> None:
    process, _ = start_saving(job, 1)
    expect(job.resume(1, job.run_dir), 1, "another job has this run directory")
    stop(job, process, 75)


def a_killed_mpirun(job: Job) -> None:
    """Its ranks live on for a moment: they are waited for."""
    process, _ = start_saving(job, 3)
    process.kill()
    process.communicate()
    newest = newest_checkpoint(job.run_dir)
    result = job.resume(2, job.run_dir, "--train.max_steps", str(newest + 20))
    resumed = re.search(r"resumed after step (\d+)", result.text)
    assert result.code == 0 and int(resumed[1]) >= newest, result.text


CASES: list[Callable[[Job], None]] = [
    a_damaged_checkpoint,
    damage_that_all_checkpoints_share,
    what_cannot_be_read_now,
    a_checkpoint_of_another_version,
    a_directory_left_half_written,
    metrics_that_cannot_be_read,
    changed_files,
    a_moved_run_without_its_source_pair,
    a_disk_that_fills_up,
    a_write_that_fails,
    a_disk_that_becomes_read_only,
    a_disk_without_room_from_the_start,
    shared_memory_that_is_full,
    two_jobs_on_one_run,
    a_killed_mpirun,
]


if __name__ == "__main__":
    print(f"seed {SEED}", flush=True)
    sys.exit(run_cases(__doc__, {case.__name__: case for case in CASES}))
