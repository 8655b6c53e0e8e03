#!/usr/bin/env python3
"""The recipes of packaging/ and the jobs for PBS and LSF, as far as they can be tried where their programs are not:
packaging/README.md says what that is.

    .venv-hf/bin/python tests/check_recipes.py PROGRAMS
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from easybuild.framework.easyconfig.easyconfig import EasyConfig
from easybuild.framework.easyconfig.style import cmdline_easyconfigs_style_check
from easybuild.tools.options import set_up_configuration
from job import FIXTURE, MPI, newest_checkpoint

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGING = REPOSITORY / "packaging"
VERSION = re.search(r"project.mtp VERSION ([\d.]+)", (REPOSITORY / "CMakeLists.txt").read_text()).group(1)
MODULES = "/usr/share/modules/init/bash"  # of Environment Modules
OPTION = re.compile(r"MTP_[A-Z]+\b")


def run(*command: object, code: int = 0, **options: object) -> str:
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert result.returncode == code, f"{command}: {result.returncode}, not {code}\n{result.stdout}{result.stderr}"
    return result.stdout


def options_exist(text: str) -> None:
    known = set(OPTION.findall((REPOSITORY / "cmake/Options.cmake").read_text()))
    assert (used := set(OPTION.findall(text))) and used <= known, f"no options of CMake: {used - known}"


def spack() -> None:
    text = (PACKAGING / "spack/spack_repo/mtp/packages/mtp/package.py").read_text()
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    variants = [call.args[0].value for call in calls if getattr(call.func, "id", "") == "variant"]
    assert variants == ["cuda", "nccl", "native"], variants
    options_exist(text)


def easybuild(folder: Path) -> None:
    command = run("bash", "-c", f"source {MODULES}; echo $MODULES_CMD").strip()
    os.environ |= {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "MODULES_CMD": command}
    root = ["--allow-use-as-root-and-accept-consequences", "--allow-modules-tool-mismatch", "--tmpdir", str(folder)]
    set_up_configuration(args=["--modules-tool=EnvironmentModules", "--module-syntax=Tcl", *root], silent=True)
    files = sorted((PACKAGING / "easybuild").glob("*.eb"))
    assert cmdline_easyconfigs_style_check([EasyConfig(str(file)) for file in files])
    [own] = (file for file in files if file.name.startswith("mtp-"))
    assert EasyConfig(str(own)).version == VERSION
    options_exist(own.read_text())


def is_sound_shell(text: str) -> None:
    run("bash", "-n", "-c", text)


def containers(programs: Path) -> None:
    options_exist((PACKAGING / "docker/build.sh").read_text())
    is_sound_shell((PACKAGING / "docker/build.sh").read_text())
    path = {"PATH": f"{programs}:{os.environ['PATH']}"}
    stages = set()
    for line in (PACKAGING / "docker/Dockerfile").read_text().splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.add(rest.split()[-1])
        elif word == "COPY" and rest.startswith("--from="):
            assert rest.split()[0].removeprefix("--from=") in stages, line
        elif word == "RUN":
            is_sound_shell(rest)
            names = re.findall(r"/src/(\S+)", rest)
            assert all((REPOSITORY / name).exists() for name in names), line
            if rest.startswith("mtp-"):
                run(*rest.split(), env=os.environ | MPI | path)
    assert stages == {"build-cpu", "cpu", "build-cuda", "cuda"}, stages

    sections = re.split(r"^%(\w+)\n", (PACKAGING / "apptainer/mtp.def").read_text(), flags=re.MULTILINE)
    texts = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert texts.keys() == {"files", "post", "test", "runscript", "help"}, texts.keys()
    for name in ("post", "test", "runscript"):
        is_sound_shell(texts[name])
    run("sh", "-ec", texts["test"], env=os.environ | MPI | path)


def module(folder: Path) -> None:
    (folder / "mtp").mkdir()
    (folder / "mtp" / VERSION).write_text((PACKAGING / "modules/mtp.tcl").read_text())
    show = 'echo "${MTP_BIN:-none} ${PATH%%:*}"'
    lines = [f"source {MODULES}", f"module use {folder}", "export MTP_ROOT=/opt/x", "module load mtp"]
    said = run("bash", "-c", "\n".join([*lines, show, "module unload mtp", show])).splitlines()
    assert said[0] == "/opt/x/bin /opt/x/bin" and said[1].startswith("none ") and "/opt/x" not in said[1], said


def jobs(programs: Path, folder: Path) -> None:
    """Trains until the warning, leaves with 75, and goes on from there. PBS's script gives the warning itself."""
    files = {"base": FIXTURE / "base", "drafter": FIXTURE / "drafter"}
    text = (FIXTURE / "settings.cfg").read_text().replace("max_steps = 3", "max_steps = 1000000")
    text = text.replace("[data]", f"[data]\ntrain = {FIXTURE / 'data.h5'}")
    text += "\n[model]\n" + "".join(f"{name} = {path}\n" for name, path in files.items()) + "[run]\nthreads = 1\n"
    (folder / "run.cfg").write_text(text)
    names = {"CONFIG": str(folder / "run.cfg"), "RUN_DIR": str(folder / "run"), "MTP_BIN": str(programs)}
    pbs = {"PBS_O_WORKDIR": str(REPOSITORY), "SECONDS_TO_RUN": "3", "MTP_LAUNCH": "env"}
    lsf = {"MTP_LAUNCH": "timeout --preserve-status --signal=USR1 3"}  # the part of LSF
    before = 0
    for script, variables in (("pbs", pbs), ("lsf", lsf)):
        environment = os.environ | MPI | names | variables
        command = ["bash", REPOSITORY / f"jobs/joint_drafter.{script}"]
        run(*command, code=75, env=environment, cwd=REPOSITORY)
        steps = newest_checkpoint(folder / "run")
        assert steps > before, f"{script}: from step {before} to {steps}"
        before = steps


def main() -> None:
    programs = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as name:
        for part in ("easybuild", "modules", "jobs"):
            (Path(name) / part).mkdir()
        spack()
        containers(programs)
        module(Path(name) / "modules")
        jobs(programs, Path(name) / "jobs")
        easybuild(Path(name) / "easybuild")
    print("5 passed, 0 failed")


if __name__ == "__main__":
    main()
