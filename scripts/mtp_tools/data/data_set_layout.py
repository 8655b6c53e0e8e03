"""Which files of a data set's directory are its training split, or another that is asked for.

Its README.md says so under `configs`, as on the Hub; else the names of files and folders do, by the words that the
library `datasets` goes by. Splits for evaluation are never read beside the one for training.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml  # comes with transformers

from mtp_tools.data import record_files

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SHARD = re.compile(r"-\d{5}-of-\d{5}")


def files_of(directory: Path, name: str, config: str | None, split: str | None) -> tuple[list[Path], list[str]]:
    """The files of a split, and the splits that were left aside. `name`: the directory's in errors."""
    by_split = of_readme(directory, name, config) or by_names(directory, name, config)
    if not by_split:
        raise SystemExit(f"{name}: has no file of {record_files.KNOWN}")
    wanted = split or "train"
    if wanted not in by_split:
        kinds = [s for s in by_split if kind_of(s) == wanted]
        if len(kinds) != 1:
            raise SystemExit(f"{name}: has no split {wanted}, but {', '.join(sorted(by_split))}; name one: {name}@SPLIT")
        wanted = kinds[0]
    return by_split[wanted], sorted(set(by_split) - {wanted})


def of_readme(directory: Path, name: str, config: str | None) -> dict[str, list[Path]]:
    """Empty where there is none, or it says nothing about files."""
    configs = configs_of(directory / "README.md")
    if not configs:
        return {}
    names = [str(c.get("config_name", "default")) for c in configs]
    default = next((n for c, n in zip(configs, names) if c.get("default")), None)
    wanted = config or default or ("default" if "default" in names else names[0] if len(names) == 1 else None)
    if wanted not in names:
        raise SystemExit(f"{name}: has the configurations {', '.join(names)}; name one: {name}:CONFIG")
    return {
        split: sorted(file for pattern in patterns for file in directory.glob(pattern) if record_files.format_of(file))
        for split, patterns in patterns_of(configs[names.index(wanted)]["data_files"]).items()
    }


def configs_of(readme: Path) -> list[dict]:
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    _, _, rest = text.partition("---")
    front, closed, _ = rest.partition("\n---")
    try:
        content = yaml.safe_load(front) if text.startswith("---") and closed else None
    except yaml.YAMLError:
        return []
    configs = content.get("configs") if isinstance(content, dict) else None
    return [c for c in configs if isinstance(c, dict) and "data_files" in c] if isinstance(configs, list) else []


def patterns_of(data_files: object) -> dict[str, list[str]]:
    """A pattern, a list of them, or a list of {"split", "path"}."""
    items = data_files if isinstance(data_files, list) else [data_files]
    found: dict[str, list[str]] = {}
    for item in items:
        split, paths = (item.get("split", "train"), item.get("path")) if isinstance(item, dict) else ("train", item)
        found.setdefault(str(split), []).extend(map(str, paths if isinstance(paths, list) else [paths]))
    return found


def by_names(directory: Path, name: str, config: str | None) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in sorted(directory.rglob("*")):
        parts = file.relative_to(directory).parts
        hidden = any(part.startswith((".", "cache-")) for part in parts)
        if hidden or not file.is_file() or is_description(file) or record_files.format_of(file) is None:
            continue
        if config is None or config in parts[:-1]:
            found.setdefault(split_of(parts), []).append(file)
    if config and not found:
        raise SystemExit(f"{name}: has no folder {config} with data")
    return found


def is_description(file: Path) -> bool:
    """What a data set saved to disk has beside its tables."""
    return file.name in ("dataset_info.json", "dataset_dict.json", "dataset_infos.json", "state.json")


def split_of(parts: tuple[str, ...]) -> str:
    """By the file's name, else by the innermost folder that names one; what names none is for training."""
    for part in reversed(parts):
        stem = SHARD.split(part)[0].split(".")[0]
        kind = kind_of(stem)
        if kind:
            return stem if stem.startswith(SPLITS[kind]) else kind  # train_sft is a split, chats-train one's part
    return "train"


def kind_of(name: str) -> str | None:
    words = re.split(r"[\W_]+", name.lower())
    return next((kind for kind, known in SPLITS.items() if any(word in known for word in words)), None)
