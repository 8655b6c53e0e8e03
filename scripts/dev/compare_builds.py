#!/usr/bin/env python3
"""Two builds compute the same bits: what a change that must not change numbers has to show.

    .venv/bin/python scripts/dev/compare_builds.py OLD_BUILD NEW_BUILD [--fixture NAME …] [--quick]

trains every fixture with both builds in fp32 and in bf16, on 1 to 4 ranks, with recomputation and on the emulated GPU,
and compares metrics, validation, gradients and every tensor of the checkpoint; goes on with the new build from a
checkpoint of the old one; and decodes a random pair of each preset with both. scripts/dev/compare_commits.sh makes the
builds of two commits.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from job import MPI, comparable_lines, mpirun, tensors  # noqa: E402

FIXTURES = ROOT / "tests" / "fixtures"
STEPS = 4


@dataclass(frozen=True)
class Way:
    """How a run is carried out."""

    dtype: str = "fp32"
    ranks: int = 1
    recompute: bool = False
    emulated: bool = False

    def __str__(self) -> str:
        place = "emulated GPU" if self.emulated else "CPU"
        return f"{self.dtype}, {self.ranks} ranks, {place}{', recomputed' if self.recompute else ''}"


WAYS = [
    Way(),
    Way("bf16"),
    Way(ranks=2, recompute=True),
    Way(ranks=3),
    Way("bf16", 4, recompute=True),
    Way("bf16", 1, emulated=True),
    Way(ranks=2, emulated=True),
]


def run(command: list[object]) -> None:
    done = subprocess.run([str(word) for word in command], env=os.environ | MPI, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def programs(build: Path, way: Way) -> Path:
    return build / ("emulated" if way.emulated else "bin")


def train(build: Path, fixture: Path, way: Way, folder: Path) -> None:
    command = [*mpirun(way.ranks), programs(build, way) / "mtp-train", "--config", fixture / "settings.cfg"]
    command += ["--model.base", fixture / "base", "--model.drafter", fixture / "drafter", "--run.dir", folder]
    command += ["--data.train", fixture / "data.h5", "--data.shuffle", "true", "--train.max_steps", STEPS]
    command += ["--data.validation", fixture / "data.h5", "--validation.every_steps", "2"]
    command += ["--train.global_batch", "12", "--train.micro_batch", "1", "--train.compute_dtype", way.dtype]
    command += ["--train.recompute", str(way.recompute).lower(), "--run.threads", "1", "--run.device"]
    command += ["cuda" if way.emulated else "cpu", "--checkpoint.every_steps", STEPS // 2]
    command += ["--run.dump_gradients", folder.with_suffix(".gradients")]
    run(command)


def is_frozen(name: str, state: dict[str, bytes]) -> bool:
    """Checkpoints of version 2 hold frozen parameters too."""
    kind, _, tensor = name.partition("/")
    return kind == "parameters" and f"exp_avg/{tensor}" not in state


def result_of(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {
        f"{kind}.jsonl": comparable_lines(folder / f"{kind}.jsonl") for kind in ("metrics", "validation")
    }
    gradients = folder.with_suffix(".gradients")
    if gradients.exists():
        found["the first step's gradients"] = gradients.read_bytes()
    state = tensors(folder / "checkpoints" / "latest")
    return found | {name: value for name, value in state.items() if not is_frozen(name, state)}


def differences(old: dict[str, object], new: dict[str, object]) -> list[str]:
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def exported(build: Path, folder: Path) -> dict[str, object]:
    """The weights, wherever a checkpoint keeps them."""
    run([build / "bin" / "mtp-export-hf", "--from", folder, "--out", folder / "hf"])
    return {str(path.relative_to(folder)): path.read_bytes() for path in (folder / "hf").rglob("*.safetensors")}


def compare_way(builds: list[Path], fixture: Path, way: Way, folder: Path) -> list[str]:
    results = []
    for name, build in zip(("old", "new"), builds):
        train(build, fixture, way, folder / name)
        results.append(result_of(folder / name) | exported(build, folder / name))
    return differences(*results)


def compare_resumed(builds: list[Path], fixture: Path, folder: Path) -> list[str]:
    """The old build's run, and what the new one makes of its first checkpoint."""
    train(builds[0], fixture, Way(), folder / "old")
    whole = result_of(folder / "old") | exported(builds[0], folder / "old")
    halfway = folder / "old" / "checkpoints" / f"step_{STEPS // 2:06d}"
    checkpoint = halfway if halfway.exists() else sorted((folder / "old" / "checkpoints").glob("step_*"))[0]
    run([builds[1] / "bin" / "mtp-resume", "--from", checkpoint])
    (folder / "old" / "hf").rename(folder / "hf-of-old")
    return differences(whole, result_of(folder / "old") | exported(builds[1], folder / "old"))


def decoded(build: Path, pair: Path, prompts: Path, dtype: str, out: Path) -> list[object]:
    command = [build / "bin" / "mtp-bench-decode", "--base", pair / "base", "--drafter", pair / "drafter"]
    command += ["--prompts", prompts, "--max-new-tokens", "40", "--compute-dtype", dtype, "--json", out]
    run(command)
    kept = ("output_ids", "target_forwards", "drafted", "accepted_at")
    text = json.loads(out.read_text())
    return [
        [prompt.get(key) for key in kept] for way in ("plain", "drafted") for prompt in text[way]["prompts"]
    ]


def compare_decoding(builds: list[Path], preset: str, folder: Path) -> list[str]:
    pairs = [folder / "old-pair", folder / "new-pair"]
    for build, pair in zip(builds, pairs):
        run([build / "bin" / "mtp-make-pair", "--preset", preset, "--out", pair])
    files = [path.relative_to(pairs[0]) for path in sorted(pairs[0].rglob("*")) if path.is_file()]
    different = [str(file) for file in files if (pairs[0] / file).read_bytes() != (pairs[1] / file).read_bytes()]
    prompts = folder / "prompts.h5"
    run([sys.executable, ROOT / "scripts/random_prompts.py", "--base", pairs[0] / "base", "--out", prompts])
    for dtype in ("fp32", "bf16"):
        answers = [decoded(build, pairs[0], prompts, dtype, folder / "decoded.json") for build in builds]
        if answers[0] != answers[1]:
            different.append(f"decoding in {dtype}")
    return different


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="build folder with bin/ and emulated/")
    parser.add_argument("new", type=Path)
    parser.add_argument("--fixture", action="append", help="default: all")
    parser.add_argument("--quick", action="store_true", help="one way for each fixture, all ways for the first")
    arguments = parser.parse_args()
    builds = [arguments.old.resolve(), arguments.new.resolve()]
    fixtures = [FIXTURES / name for name in arguments.fixture or sorted(path.name for path in FIXTURES.iterdir())]
    cases = [(f"{fixture.name}: {way}", compare_way, (fixture, way))
             for i, fixture in enumerate(fixtures)
             for way in (WAYS[:2] if arguments.quick and i > 0 else WAYS)]
    cases += [(f"{fixtures[0].name}: resumed by the new build", compare_resumed, (fixtures[0],))]
    cases += [(f"{preset}: made and decoded", compare_decoding, (preset,))
              for preset in ("tiny", "e2b-mini", "e4b-mini", "31b-mini")]
    failed = 0
    for name, compare, details in cases:
        with tempfile.TemporaryDirectory(prefix="mtp-compare-") as folder:
            different = compare(builds, *details, Path(folder))
        failed += bool(different)
        print(f"{'DIFFERENT' if different else 'same'}  {name}"
              + (f": {len(different)} differ, first {different[0]}" if different else ""), flush=True)
    print(f"{len(cases) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
