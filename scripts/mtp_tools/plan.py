"""What `mtp-train --plan` says of a run."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

LINE = re.compile(r"(?P<what>\S.*?)  +(?P<number>\d+) +[\d.e+]+")


@dataclass
class Plan:
    """Of each rank in bytes, by use; `held` is all of it."""

    device: dict[str, int] = field(default_factory=dict)
    host: dict[str, int] = field(default_factory=dict)  # page-locked, beside a GPU's
    received: int = 0  # in a step
    flops: int = 0  # of a step of all ranks


def planned(programs: Path, pair: Path, *options: str) -> Plan:
    """`pair` holds base and drafter, of which config.json is enough."""
    command = [programs / "mtp-train", "--plan", "--model.base", pair / "base", "--model.drafter", pair / "drafter"]
    result = subprocess.run([*command, *options], check=True, stdout=subprocess.PIPE, text=True)
    plan = Plan()
    part = plan.device
    for line in result.stdout.splitlines():
        if line.startswith("page-locked"):
            part = plan.host
        found = LINE.fullmatch(line)
        if found is None:
            continue
        if found["what"] == "a rank receives":
            plan.received = int(found["number"])
        elif found["what"] == "FLOPs of all ranks":
            plan.flops = int(found["number"])
        else:
            part[found["what"]] = int(found["number"])
    return plan


def make_configs(programs: Path, preset: str, dtype: str, out: Path) -> Path:
    """The config.json files of a preset's pair."""
    command = [programs / "mtp-make-pair", "--preset", preset, "--dtype", dtype, "--weights", "false", "--out", out]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out
