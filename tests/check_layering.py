#!/usr/bin/env python3
"""Checked from the `#include`s of sources and headers, those of private headers included: a module uses only modules
above it in the list of the README, and CMakeLists.txt names exactly the modules that each one uses.

    tests/check_layering.py [ROOT]
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

MODULE_LINE = re.compile(r"^\| `(\w+)` \|")
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:[<"]mtp/(?P<module>\w+)/|"(?P<private>[^"]+)")')
DECLARED = re.compile(r"^\s*mtp_(?:module|programs)\((?:src/)?(\w+)((?:\s+USES)?(?:\s+[a-z]+)*)", re.MULTILINE)
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}


def modules_of(readme: Path) -> list[str]:
    return [m.group(1) for line in readme.read_text().splitlines() if (m := MODULE_LINE.match(line))]


def used_module(root: Path, path: Path, line: str) -> str | None:
    """The module whose header a line of `path` includes."""
    include = INCLUDE.match(line)
    if not include:
        return None
    if include["module"]:
        return include["module"]
    header = (path.parent / include["private"]).resolve()
    return header.relative_to(root / "src").parts[0] if header.is_relative_to(root / "src") else None


def violations(root: Path, order: list[str]) -> tuple[list[str], dict[str, set[str]]]:
    """What breaks the order, and the modules that each one uses."""
    found: list[str] = []
    uses: dict[str, set[str]] = defaultdict(set)
    for folder in ("include/mtp", "src"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in SUFFIXES:
                continue
            own = path.relative_to(root / folder).parts[0]
            if own not in order:
                found.append(f"{path}: folder {own} is no module of the README's list")
                continue
            for number, line in enumerate(path.read_text().splitlines(), 1):
                used = used_module(root, path, line)
                if used in (None, own):
                    continue
                uses[own].add(used)
                if used not in order or order.index(used) > order.index(own):
                    found.append(f"{path}:{number}: {own} must not use {used}")
    return found, uses


def wrong_edges(build_file: Path, uses: dict[str, set[str]]) -> list[str]:
    """Where the build does not say what the sources do."""
    found = []
    for module, words in DECLARED.findall(build_file.read_text()):
        declared = set(words.split()) - {"USES"}
        found += [f"{build_file}: {module} uses {used}, which is not named" for used in sorted(uses[module] - declared)]
        found += [f"{build_file}: {module} does not use {used}" for used in sorted(declared - uses[module])]
    return found


def main() -> int:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
    order = modules_of(root / "README.md")
    if len(order) < 10:
        print(f"{root / 'README.md'}: the list of modules was not found")
        return 1
    found, uses = violations(root, order)
    found += wrong_edges(root / "CMakeLists.txt", uses)
    print("\n".join(found) if found else f"layering: {len(order)} modules, no violation")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
