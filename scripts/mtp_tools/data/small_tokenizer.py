"""A small tokenizer of Gemma's kind with Gemma's turn format, for pairs that are trained from nothing.

BPE over characters, with a token for each byte where a character has none, and "▁" for spaces: engines recognise it as
Gemma's. As with Gemma's, a "▁" in a text decodes to a space; every other text decodes to itself.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mtp_tools.data.model_directory import ModelSizes, read_json, sizes_of
from mtp_tools.files import write

# Their ids are their places in this list; the first three are what Gemma's configurations take for granted.
SPECIAL_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>"]
END_OF_TURN = "<turn|>"
# Of a model that sees or hears, by their names in its tokenizer's configuration.
IMAGE_TOKENS = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"}
AUDIO_TOKENS = {"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# What merges do not go across: words with the space before them, digits, runs of signs, spaces and line ends.
PIECES = r"▁?\p{L}+|\p{N}|▁?[^▁\s\p{L}\p{N}]+|▁+(?=▁)|▁|\s+"

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
    {%- set role = 'model' if message.role == 'assistant' else message.role -%}
    {{- '<|turn>' + role + '\\n' -}}
    {%- if message.content is string -%}
        {{- message.content | trim -}}
    {%- else -%}
        {%- for part in message.content -%}
            {{- '<|' + part.type + '|>' if part.type in ('image', 'audio') else part.text | trim -}}
        {%- endfor -%}
    {%- endif -%}
    {{- '<turn|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|turn>model\\n' -}}
{%- endif -%}
"""


def train_into(directory: Path, texts: Iterable[str]) -> None:
    """Writes tokenizer.json, tokenizer_config.json, chat_template.jinja and the end tokens of generation_config.json.

    The vocabulary has exactly the size that the directory's config.json gives.
    """
    sizes = sizes_of(directory)
    size, media = sizes.vocab_size, media_tokens_of(sizes)
    placed = {id: token for id, (_, token) in media.items()}
    learned = size - len(SPECIAL_TOKENS) - len(BYTES) - len(placed)
    if learned < 2:
        raise SystemExit(f"{directory}: a vocabulary of {size} is too small for the special tokens and every byte")
    tokenizer = Tokenizer(with_bytes(learn(texts, learned), placed, size))
    special = [*SPECIAL_TOKENS, *placed.values()]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")  # Gemma's own: no space is left to split
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    unused = [token for token in tokenizer.get_vocab() if token.startswith("<unused")]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in unused])

    write(directory / "tokenizer.json", tokenizer.to_str(pretty=True))
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    extra = {"sot_token": "<|turn>", "eot_token": END_OF_TURN}  # control tokens in llama.cpp
    extra = {"extra_special_tokens": extra | dict(media.values())}
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names, **extra})
    write(directory / "chat_template.jinja", CHAT_TEMPLATE)
    set_end_tokens(directory / "generation_config.json", ["<eos>", END_OF_TURN])


def media_tokens_of(sizes: ModelSizes) -> dict[int, tuple[str, str]]:
    """Name and text of each, by its id."""
    kinds = ((sizes.vision, IMAGE_TOKENS), (sizes.audio, AUDIO_TOKENS))
    return {
        id: named
        for of_kind, names in kinds
        if of_kind
        for id, named in zip((of_kind.tokens.soft, of_kind.tokens.begin, of_kind.tokens.end), names.items())
    }


def learn(texts: Iterable[str], size: int) -> Tokenizer:
    """Characters and merges, at most `size` together; up to half of them characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=size, limit_alphabet=size // 2, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def with_bytes(learned: Tokenizer, placed: dict[int, str], size: int) -> models.BPE:
    """The same model with the special tokens and the bytes before what was learned, the `placed` ones at their ids, and
    as many unused ones behind it as the vocabulary has room for."""
    used = [*SPECIAL_TOKENS, *BYTES, *sorted(learned.get_vocab(), key=learned.token_to_id)]
    rest = itertools.chain(used, (f"<unused{i}>" for i in itertools.count()))
    vocabulary = [placed[i] if i in placed else next(rest) for i in range(size)]
    merges = json.loads(learned.to_str())["model"]["merges"]
    return models.BPE(
        vocab={token: i for i, token in enumerate(vocabulary)}, merges=[tuple(merge) for merge in merges],
        unk_token="<unk>", fuse_unk=True, byte_fallback=True,
    )  # fmt: skip


def set_end_tokens(path: Path, tokens: list[str]) -> None:
    config = read_json(path) if path.exists() else {"bos_token_id": 2, "pad_token_id": 0}
    config["eos_token_id"] = [SPECIAL_TOKENS.index(token) for token in tokens]
    write_json(path, config)


def write_json(path: Path, content: dict[str, object]) -> None:
    write(path, json.dumps(content, indent=2) + "\n")
