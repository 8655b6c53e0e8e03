"""A Slurm of the checks' own, which scripts/dev/slurm_local.sh starts; it needs root."""

import argparse
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from job import MPI

ROOT = Path(__file__).resolve().parents[1]


class Slurm:
    def __init__(self, folder: Path, programs: Path):
        self.folder, self.programs = folder, programs
        settings = {"SLURM_CONF": str(folder / "slurm.conf"), "MTP_BIN": str(programs)}
        # The nodes share this machine's cores, which mpirun does not know.
        self.env = os.environ | MPI | settings | {"OMPI_MCA_mpi_yield_when_idle": "1", "SLURM_WAIT": "2"}
        self.env.pop("MTP_LAUNCH", None)

    def __enter__(self) -> "Slurm":
        subprocess.run([ROOT / "scripts/dev/slurm_local.sh", "start", self.folder], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([ROOT / "scripts/dev/slurm_local.sh", "stop", self.folder], check=True)

    def call(self, *words: object, **env: str) -> str:
        result = subprocess.run([str(w) for w in words], env=self.env | env, capture_output=True, text=True)
        assert result.returncode == 0, f"{words}: {result.stderr}"
        return result.stdout.strip()

    def submit(self, nodes: int, ranks: int, script: str, log: Path, *words: object, **env: str) -> str:
        """The number of a job with so many ranks on each node."""
        options = [f"--nodes={nodes}", f"--ntasks-per-node={ranks}", "--gpus-per-node=0", "--cpus-per-task=1"]
        options += ["--oversubscribe", f"--output={log}", f"--chdir={ROOT}", "--parsable"]
        return self.call("sbatch", *options, ROOT / "jobs" / script, *words, **env)

    def state(self, job: str) -> str:
        return self.call("scontrol", "show", "job", job).split("JobState=")[1].split()[0]

    def nodes(self) -> list[str]:
        return self.call("sinfo", "--noheader", "--Node", "--format=%N").splitlines()

    def process_inside(self, node: str) -> str:
        """The first in the node's namespaces, where there are several nodes."""
        outside = (self.folder / "run" / f"{node}.pid").read_text().strip()
        return Path(f"/proc/{outside}/task/{outside}/children").read_text().split()[0]


@contextmanager
def slurm_of_arguments(description: str) -> Iterator[tuple[Slurm, Path]]:
    """A Slurm for the programs that the command line names, and an empty folder."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    programs = parser.parse_args().programs.resolve()
    with tempfile.TemporaryDirectory() as name, Slurm(Path(name) / "slurm", programs) as slurm:
        yield slurm, Path(name)
