#!/usr/bin/env python3
"""A module uses only modules above it in the list of the README: checked from the `#include`s of sources and headers.

    tests/check_layering.py [ROOT]
"""

import re
import sys
from pathlib import Path

MODULE_LINE = re.compile(r"^\| `(\w+)` \|")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]mtp/(\w+)/')
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}


def modules_of(readme: Path) -> list[str]:
    return [m.group(1) for line in readme.read_text().splitlines() if (m := MODULE_LINE.match(line))]


def violations(root: Path, order: list[str]) -> list[str]:
    found = []
    for folder in ("include/mtp", "src"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in SUFFIXES:
                continue
            own = path.relative_to(root / folder).parts[0]
            if own not in order:
                found.append(f"{path}: folder {own} is no module of the README's list")
                continue
            for number, line in enumerate(path.read_text().splitlines(), 1):
                used = INCLUDE.match(line)
                if used and (used.group(1) not in order or order.index(used.group(1)) > order.index(own)):
                    found.append(f"{path}:{number}: {own} must not use {used.group(1)}")
    return found


def main() -> int:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent)
    order = modules_of(root / "README.md")
    if len(order) < 10:
        print(f"{root / 'README.md'}: the list of modules was not found")
        return 1
    found = violations(root, order)
    print("\n".join(found) if found else f"layering: {len(order)} modules, no violation")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
