#!/usr/bin/env python3
"""`cmake --install` into an empty prefix gives programs that train from there, and `cpack` a Debian package that goes
again without leaving anything.

    .venv/bin/python tests/check_install.py BUILD
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from job import FIXTURE, MPI

PROGRAMS = (
    "mtp-train", "mtp-resume", "mtp-export-hf", "mtp-inspect", "mtp-make-pair", "mtp-bench-decode", "mtp-generate",
)  # fmt: skip
SCRIPTS = ("mtp-prepare-data", "mtp-report", "mtp-plot-run", "mtp-track", "mtp-bench-report")


def run(*command: object, **options: object) -> str:
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert result.returncode == 0, f"{command} ended with {result.returncode}:\n{result.stdout}{result.stderr}"
    return result.stdout


def expect_files(prefix: Path) -> None:
    share = prefix / "share"
    wanted = [prefix / "bin" / name for name in PROGRAMS + SCRIPTS]
    wanted += [share / "man/man1" / f"{name}.1" for name in PROGRAMS]
    wanted += [share / "bash-completion/completions/mtp-train", share / "zsh/site-functions/_mtp-train"]
    wanted += [share / "mtp" / name for name in ("configs/quickstart.cfg", "jobs/joint_drafter.slurm", "jobs/launch.sh")]
    wanted += [share / "mtp/scripts" / name for name in ("prompts.jsonl", "requirements.txt", "mtp_tools/bench/page.py")]
    wanted += [share / "doc/mtp" / name for name in ("LICENSE", "NOTICE")]
    missing = [str(path) for path in wanted if not path.exists()]
    assert not missing, f"missing: {missing}"
    stray = [str(path) for path in prefix.rglob("*") if path.name in ("__pycache__", "site.sh", "dev")]
    assert not stray, f"installed although they should not be: {stray}"


def the_installed_programs_train(prefix: Path, folder: Path) -> None:
    """From a folder of their own, with nothing of the source tree but the fixture."""
    environment = os.environ | MPI | {"PATH": f"{prefix / 'bin'}:{os.environ['PATH']}", "MTP_PYTHON": sys.executable}
    settings = ["--config", FIXTURE / "settings.cfg", "--model.base", FIXTURE / "base", "--model.drafter"]
    settings += [FIXTURE / "drafter", "--data.train", FIXTURE / "data.h5", "--run.dir", "run", "--run.threads", "1"]
    options = {"cwd": folder, "env": environment}
    run("mtp-train", *settings, **options)
    assert "sound, latest" in run("mtp-inspect", "run", **options)
    run("mtp-export-hf", "--from", "run", "--out", "hf", **options)
    assert "3 steps" in run("mtp-report", "run", **options)
    run("bash", "-c", "cp -r $0/share/mtp/jobs . && source jobs/launch.sh && [[ $bin == $0/bin ]]", prefix, **options)


def the_manual_and_completion_know_the_settings(prefix: Path) -> None:
    manual = run("man", "-l", prefix / "share/man/man1/mtp-train.1", env=os.environ | {"MANWIDTH": "200"})
    script = f"source {prefix}/share/bash-completion/completions/mtp-train; complete -p mtp-train"
    completion = run("bash", "-c", script)
    for word in ("optimizer.lr", "checkpoint.keep"):
        assert word in manual and f"--{word}" in completion, word


def the_package_goes_without_a_trace(build: Path, folder: Path) -> None:
    run("cpack", "--config", build / "CPackConfig.cmake", "-B", folder / "pack")
    [package] = (folder / "pack").glob("*.deb")
    fields = run("dpkg-deb", "--field", package)
    assert "Package: mtp\n" in fields and "libopenmpi3" in fields and "libhdf5" in fields, fields
    root = folder / "root"
    (root / "var/lib/dpkg/updates").mkdir(parents=True)
    (root / "var/lib/dpkg/info").mkdir()
    (root / "var/lib/dpkg/status").touch()
    dpkg = ("dpkg", f"--root={root}", "--log=/dev/null", "--force-depends", "--force-not-root")
    run(*dpkg, "--install", package)
    expect_files(root / "usr")
    run(*dpkg, "--purge", "mtp")
    left = [path for path in root.rglob("*") if not path.is_relative_to(root / "var") and path.is_file()]
    assert not left, f"left behind: {left}"


def main() -> int:
    build = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prefix = folder / "prefix"
        run("cmake", "--install", build, "--prefix", prefix, "--strip")
        expect_files(prefix)
        the_manual_and_completion_know_the_settings(prefix)
        (folder / "elsewhere").mkdir()
        the_installed_programs_train(prefix, folder / "elsewhere")
        the_package_goes_without_a_trace(build, folder)
    print("4 passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
