"""A small byte-level BPE tokenizer with Gemma's turn format, for pairs that are trained from nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

# Their ids are their places in this list; the first three are what Gemma's configurations take for granted.
SPECIAL_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>"]
END_OF_TURN = "<turn|>"

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
    {%- set role = 'model' if message.role == 'assistant' else message.role -%}
    {{- '<|turn>' + role + '\\n' + message.content | trim + '<turn|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|turn>model\\n' -}}
{%- endif -%}
"""


def train_into(directory: Path, texts: Iterable[str]) -> None:
    """Writes tokenizer.json, tokenizer_config.json, chat_template.jinja and the end tokens of generation_config.json.

    The vocabulary has exactly the size that the directory's config.json gives.
    """
    config = json.loads((directory / "config.json").read_text())
    size = config.get("text_config", config)["vocab_size"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if size < len(SPECIAL_TOKENS) + len(alphabet):
        raise SystemExit(f"{directory}: a vocabulary of {size} is too small for the special tokens and every byte")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL_TOKENS, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    missing = size - tokenizer.get_vocab_size()
    tokenizer.add_tokens([AddedToken(f"<unused{i}>", normalized=False) for i in range(missing)])

    (directory / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    set_end_tokens(directory / "generation_config.json", ["<eos>", END_OF_TURN])


def set_end_tokens(path: Path, tokens: list[str]) -> None:
    config = json.loads(path.read_text()) if path.exists() else {"bos_token_id": 2, "pad_token_id": 0}
    config["eos_token_id"] = [SPECIAL_TOKENS.index(token) for token in tokens]
    write_json(path, config)


def write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
