"""A model's Hugging Face directory, read with one line for whatever is wrong with it."""

from __future__ import annotations

import codecs
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SystemExit(f"{path}: cannot be read: {error.strerror}; name a model's Hugging Face directory") from None
    if content.startswith(LFS_POINTER):
        raise SystemExit(f"{path}: is a Git LFS pointer and not the file itself; run `git lfs pull` in its repository")
    return content


def read_json(path: Path) -> dict:
    """An object."""
    content = read_bytes(path)
    if content.startswith(codecs.BOM_UTF8):
        raise SystemExit(f"{path}: begins with a byte-order mark, which Hugging Face's library refuses; save it without")
    try:
        content = json.loads(content)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise SystemExit(f"{path}: is damaged, not JSON ({error}); get it again from where the model is") from None
    if not isinstance(content, dict):
        raise SystemExit(f"{path}: is no JSON object; get it again from where the model is")
    return content


@dataclass(frozen=True)
class ModelSizes:
    vocab_size: int
    pad_token_id: int


def sizes_of(directory: Path) -> ModelSizes:
    path = directory / "config.json"
    config = read_json(path)
    text = config.get("text_config", config)
    vocab_size, pad = text.get("vocab_size") if isinstance(text, dict) else None, 0
    if not isinstance(vocab_size, int) or vocab_size < 1:
        raise SystemExit(f"{path}: vocab_size is {json.dumps(vocab_size)}, a number of tokens is needed")
    pad = text.get("pad_token_id", 0)
    if not isinstance(pad, int) or not 0 <= pad < vocab_size:
        raise SystemExit(f"{path}: pad_token_id is {json.dumps(pad)}, a token's id is needed (Gemma's is 0)")
    return ModelSizes(vocab_size, pad)


def fingerprint_of(directory: Path) -> str:
    """Of the tokenizer: data files and bases that belong together have the same."""
    return hashlib.sha256(read_bytes(directory / "tokenizer.json")).hexdigest()
