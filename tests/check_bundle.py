#!/usr/bin/env python3
"""scripts/bundle.sh: after a move, the folder runs where nothing is but glibc, a shell and a few commands; no driver.

    .venv/bin/python tests/check_bundle.py PROGRAMS

PROGRAMS is the folder bin of a build. Needs root: the bundle runs in a root directory of its own.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from job import FIXTURE, MPI, comparable_lines

REPOSITORY = Path(__file__).parent.parent
COMMANDS = ["env", "sh", "basename", "dirname", "readlink"]
GLIBC = ["m.so.6", "dl.so.2", "pthread.so.0", "rt.so.1", "resolv.so.2", "util.so.1"]
MOUNTED = ["proc", "sys", "dev"]
# Of a build with CUDA: what a node with GPUs has in a folder that its loader knows.
OF_GPU_NODES = re.compile(r"lib(cublas|cublasLt|cudart|nccl)\.so")
RANKS = 2


def libraries_of(command: Path) -> list[Path]:
    found = subprocess.run(["ldd", command], capture_output=True, text=True, check=True).stdout
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", found)]


def make_root(root: Path, commands: list[str]) -> None:
    """A node: glibc, a shell, a few commands."""
    paths = {Path("/lib64/ld-linux-x86-64.so.2")}
    for command in commands:
        path = Path(shutil.which(command))
        (root / "bin").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / "bin" / command)
        if path.read_bytes().startswith(b"\x7fELF"):
            paths.update(libraries_of(path))
    libc = next(path for path in paths if path.name.startswith("libc.so"))
    paths.update(libc.with_name(f"lib{name}") for name in GLIBC)
    for path in paths:
        to = root / path.relative_to("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    (root / "usr").mkdir(exist_ok=True)
    (root / "usr/bin").symlink_to("../bin")
    for folder in ["tmp", "etc", "work"]:
        (root / folder).mkdir()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")


def gpu_libraries(program: Path) -> dict[str, Path]:
    """Folders that LD_LIBRARY_PATH names on a node, and what is mounted there; none of a build without CUDA."""
    folders = {path.resolve().parent for path in libraries_of(program) if OF_GPU_NODES.match(path.name)}
    return {f"gpu/{i}": folder for i, folder in enumerate(sorted(folders))}


def run_on_node(root: Path, gpu: dict[str, Path], *command: str, code: int = 0, seconds: int = 120) -> str:
    mounted = {name: Path("/", name) for name in MOUNTED} | gpu
    for name in mounted:
        (root / name).mkdir(parents=True, exist_ok=True)
    mounts = "; ".join(f"mount --rbind {source} {root / name}" for name, source in mounted.items())
    environment = ["env", "-i", "PATH=/bin", "HOME=/tmp", *(f"{name}={value}" for name, value in MPI.items())]
    environment += [f"LD_LIBRARY_PATH={':'.join(f'/{name}' for name in gpu)}"] if gpu else []
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{mounts}; exec chroot {root} "$@"', "sh",
         *environment, *command], capture_output=True, text=True, timeout=seconds,
    )  # fmt: skip
    assert done.returncode == code, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def train(mpirun: str, program: str, fixture: str, run_dir: str) -> list[str]:
    files = {"model.base": "base", "model.drafter": "drafter", "data.train": "data.h5", "data.validation": "validation.h5"}
    command = [mpirun, "--oversubscribe", "-n", str(RANKS), program, "--config", f"{fixture}/settings.cfg"]
    command += ["--run.dir", run_dir, "--train.max_steps", "2"]
    return command + [word for name, file in files.items() for word in (f"--{name}", f"{fixture}/{file}")]


def main() -> None:
    programs = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder, root = Path(name), Path(name) / "root"
        bundle = [REPOSITORY / "scripts/bundle.sh", folder / "made", "--build", programs.parent]
        subprocess.run(bundle, check=True, stdout=subprocess.DEVNULL)
        make_root(root, COMMANDS)
        gpu = gpu_libraries(programs / "mtp-train")
        libraries = [path.name for path in (folder / "made/lib").iterdir()]
        assert not [name for name in libraries if OF_GPU_NODES.match(name)], libraries
        shutil.move(folder / "made", root / "opt/mtp")
        shutil.copytree(FIXTURE, root / "fixture")

        for program in sorted(path.name for path in programs.glob("mtp-*")):
            help_text = run_on_node(root, gpu, f"/opt/mtp/bin/{program}", "--help")
            assert "MCA" not in help_text and "help file" not in help_text, f"{program}:\n{help_text}"
        assert "revision" in run_on_node(root, gpu, "/opt/mtp/bin/mtp-train", "--version")

        run_on_node(root, gpu, *train("/opt/mtp/bin/mpirun", "/opt/mtp/bin/mtp-train", "/fixture", "/tmp/run"))
        here = train("mpirun", str(programs / "mtp-train"), str(FIXTURE), str(folder / "run"))
        subprocess.run(here, check=True, env=os.environ | MPI, capture_output=True)
        expected = comparable_lines(folder / "run/metrics.jsonl")
        assert len(expected) == 2 and comparable_lines(root / "tmp/run/metrics.jsonl") == expected
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
