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
    except (ValueError, RecursionError) as error:
        raise SystemExit(f"{path}: is damaged, not JSON ({error}); get it again from where the model is") from None
    if not isinstance(content, dict):
        raise SystemExit(f"{path}: is no JSON object; get it again from where the model is")
    return content


def read_by(auto: type, directory: Path, what: str) -> object:
    """What one of Hugging Face's Auto classes makes of a directory; `what` names it in the error."""
    try:
        return auto.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # whatever the libraries throw at a file that is none of theirs
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SystemExit(f"{directory}: its {what} cannot be read: {reason}") from None


@dataclass(frozen=True)
class MediaTokens:
    soft: int  # the id that stands for each that the model computes
    begin: int  # before an image's or a clip's
    end: int
    rows_per_token: int  # patches or frames, rounded up


@dataclass(frozen=True)
class VisionSizes:
    tokens: MediaTokens
    patch_side: int  # pixels
    positions: int  # patches that an image may be wide or high


@dataclass(frozen=True)
class AudioSizes:
    tokens: MediaTokens
    frame_size: int  # numbers


@dataclass(frozen=True)
class ModelSizes:
    vocab_size: int
    pad_token_id: int
    vision: VisionSizes | None  # of a model that sees
    audio: AudioSizes | None  # of one that hears


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
    vision = vision_sizes_of(path, config) if config.get("vision_config") is not None else None
    audio = audio_sizes_of(path, config) if config.get("audio_config") is not None else None
    return ModelSizes(vocab_size, pad, vision, audio)


def vision_sizes_of(path: Path, config: dict) -> VisionSizes:
    """What is missing has Hugging Face's defaults."""
    vision, is_unified = config["vision_config"], config.get("model_type") == "gemma4_unified"
    try:
        side, pooling = vision.get("patch_size", 16), vision.get("pooling_kernel_size", 3)
        positions = vision.get("mm_posemb_size", 1120) if is_unified else vision.get("position_embedding_size", 10240)
        side, per_token = (side * pooling, 1) if is_unified else (side, pooling**2)
    except (AttributeError, TypeError):
        raise SystemExit(f"{path}: its vision_config is damaged; get it again from where the model is") from None
    names = {"image_token_id": 258880, "boi_token_id": 255999, "eoi_token_id": 258882}
    return VisionSizes(media_tokens_of(config, names, per_token), side, positions)


def audio_sizes_of(path: Path, config: dict) -> AudioSizes:
    audio, is_unified = config["audio_config"], config.get("model_type") == "gemma4_unified"
    try:
        size = audio.get("audio_embed_dim", 640) if is_unified else audio.get("subsampling_conv_channels", (128, 32))[0]
    except (AttributeError, TypeError, LookupError):
        raise SystemExit(f"{path}: its audio_config is damaged; get it again from where the model is") from None
    names = {"audio_token_id": 258881, "boa_token_id": 256000, "eoa_token_index": 258883}
    return AudioSizes(media_tokens_of(config, names, 1 if is_unified else 4), size)


def media_tokens_of(config: dict, names: dict[str, int], rows_per_token: int) -> MediaTokens:
    """`names`: of the ids, with their defaults."""
    return MediaTokens(*(config.get(name, default) for name, default in names.items()), rows_per_token)


def fingerprint_of(directory: Path) -> str:
    """Of the tokenizer: data files and bases that belong together have the same."""
    return hashlib.sha256(read_bytes(directory / "tokenizer.json")).hexdigest()
