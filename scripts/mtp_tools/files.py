"""Files of a script's: whatever is wrong with one ends it with a line that names the file."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SystemExit(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SystemExit(f"{path}: is not UTF-8; convert it (iconv -f latin1 -t utf-8)") from None


def write(path: Path, content: bytes | str) -> None:
    """All of it or nothing."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise SystemExit(f"{path}: cannot be written: {error.strerror}") from None
