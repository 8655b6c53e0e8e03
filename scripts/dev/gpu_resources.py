#!/usr/bin/env python3
"""What the kernels use of a GPU, as ptxas reports it, as a table for docs/gpu.md: registers of a thread, bytes that it
spills or keeps on a stack, and bytes of static shared memory of a block. Compiles every kernel again.

    scripts/dev/gpu_resources.py [BUILD] [ARCHITECTURE...]      default: build/cuda sm_80 sm_90
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

KERNEL = re.compile(r"Compiling entry function '(\w+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USE = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def commands(build: Path) -> list[list[str]]:
    """How each kernel source is compiled, without what says for which architecture and where to."""
    found = []
    for entry in json.loads((build / "compile_commands.json").read_text()):
        command = shlex.split(entry["command"])
        if not entry["file"].endswith(".cu") or not any(word.endswith("/nvcc") for word in command):
            continue
        command = command[next(i for i, word in enumerate(command) if word.endswith("/nvcc")) :]
        kept = [word for word in command if not word.startswith("--generate-code") and word not in ("-MD", "-c")]
        for option in ("-MT", "-MF", "-o"):
            if option in kept:
                del kept[kept.index(option) : kept.index(option) + 2]
        found.append(kept)
    return found


def resources(command: list[str], architecture: str) -> dict[str, tuple[int, int, int]]:
    """Of each kernel: registers, local bytes, shared bytes."""
    run = subprocess.run(
        [*command, f"-arch={architecture}", "-Xptxas=-v", "-cubin", "-o", "/dev/null"], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(run.stderr)
    kernels: dict[str, tuple[int, int, int]] = {}
    kernel, local = "", 0
    for line in run.stderr.splitlines():
        if match := KERNEL.search(line):
            kernel = match.group(1)
        elif match := STACK.search(line):
            local = sum(int(n) for n in match.groups())
        elif match := USE.search(line):
            shared = SHARED.search(line)
            kernels[kernel] = (int(match.group(1)), local, int(shared.group(1)) if shared else 0)
    return kernels


def readable(kernel: str) -> str:
    name = subprocess.run(["c++filt", kernel], check=True, capture_output=True, text=True).stdout.strip()
    name = re.sub(r"\(anonymous namespace\)::|mtp::ops::cuda::|^void ", "", name)
    return re.sub(r"\((?!int\)|bool\)).*$", "", name).replace("(int)", "").replace("(bool)1", "true").replace(
        "(bool)0", "false")


def main() -> int:
    build = Path(sys.argv[1] if len(sys.argv) > 1 else "build/cuda")
    architectures = sys.argv[2:] or ["sm_80", "sm_90"]
    rows: dict[str, dict[str, tuple[int, int, int]]] = {}
    for command in commands(build):
        source = Path(next(word for word in command if word.endswith(".cu"))).stem
        for architecture in architectures:
            for kernel, use in resources(command, architecture).items():
                rows.setdefault(f"| {source} | `{readable(kernel)}` |", {})[architecture] = use
    print("| source | kernel |" + "".join(f" registers, {a} | local, {a} |" for a in architectures) + " shared |")
    print("| --- | --- |" + " --- |" * (2 * len(architectures) + 1))
    for row in sorted(rows):
        uses = rows[row]
        print(row + "".join(f" {uses[a][0]} | {uses[a][1]} |" for a in architectures) +
              f" {max(use[2] for use in uses.values())} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
