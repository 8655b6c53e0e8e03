#!/usr/bin/env python3
"""The layering check finds what it is for: run on small trees that break the rule."""

import subprocess
import sys
import tempfile
from pathlib import Path

CHECK = Path(__file__).parent / "check_layering.py"
MODULES = ["core", "tensor", "ops", "graph", "parallel", "hf", "model", "data", "checkpoint", "train", "decode", "apps"]


def run_on(files: dict[str, str]) -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        readme = "".join(f"| `{m}` | what it holds |\n" for m in MODULES)
        files = {"README.md": readme, "CMakeLists.txt": "", **files}
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return subprocess.run([sys.executable, CHECK, root], capture_output=True, text=True)


def expect(files: dict[str, str], accepted: bool, words: str = "") -> None:
    result = run_on(files)
    assert (result.returncode == 0) == accepted and words in result.stdout, (files, result.stdout, result.stderr)


expect({"src/model/a.cpp": '#include "mtp/graph/graph.h"\n'}, True)
expect({"src/model/a.cpp": '#include "mtp/model/b.h"\n'}, True)
expect({"src/graph/a.cpp": '#include "mtp/model/b.h"\n'}, False, "graph must not use model")
expect({"include/mtp/core/a.h": "#pragma once\n#include <mtp/tensor/tensor.h>\n"}, False, "a.h:2: core must not use tensor")
expect({"src/ops/cuda/a.cu": '#include "mtp/parallel/b.h"\n'}, False, "ops must not use parallel")
expect({"src/other/a.cpp": ""}, False, "other is no module")
expect({"src/model/a.cpp": '#include "../graph/b.h"\n', "src/graph/b.h": ""}, True)
expect({"src/graph/a.cpp": '#include "../model/b.h"\n', "src/model/b.h": ""}, False, "graph must not use model")
USE = {"src/model/a.cpp": '#include "mtp/graph/graph.h"\n'}
expect(USE | {"CMakeLists.txt": "mtp_module(model USES graph LINKS Some::library)\n"}, True)
expect(USE | {"CMakeLists.txt": "mtp_module(model USES core graph)\n"}, False, "model does not use core")
expect(USE | {"CMakeLists.txt": "mtp_module(model LINKS Some::library)\n"}, False, "model uses graph, which is not named")
expect({"README.md": "nothing\n"}, False, "was not found")
print("the layering check accepts and refuses what it should")
