"""From a conversation to tokens, and which of them the model is to learn: its own turns."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # or it warns that PyTorch is not installed, as intended

import jinja2
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

Message = dict[str, object]
GENERATION_MARK = re.compile(r"{%-?\s*generation\s*-?%}")


@dataclass
class Sample:
    tokens: np.ndarray  # int32 [n]
    is_target: np.ndarray  # uint8 [n]


@dataclass
class Rendered:
    text: str
    spans: list[tuple[int, int]]  # characters of each assistant turn, its end-of-turn token included


class RefusedConversation(Exception):
    """The chat template does not take this conversation, for instance two user turns in a row."""


class ChatTokenizer:
    """A Hugging Face directory's tokenizer, chat template and sizes."""

    def __init__(self, directory: Path):
        try:
            config = json.loads((directory / "config.json").read_text())
            self.fingerprint = hashlib.sha256((directory / "tokenizer.json").read_bytes()).hexdigest()
        except OSError as error:
            raise SystemExit(f"{directory}: {error.strerror}: {error.filename}") from None
        text_config = config.get("text_config", config)
        self.vocab_size: int = text_config["vocab_size"]
        self.pad_token_id: int = text_config.get("pad_token_id", 0)
        self.directory = directory
        self.tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        if not self.tokenizer.chat_template:
            raise SystemExit(f"{directory}: no chat template (chat_template.jinja)")
        self.special = tuple(t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special)

    def _render(
        self, messages: list[Message], generation_prompt: bool = False, marks: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        """The conversation as text, and the spans in the template's {% generation %} marks if they are asked for."""
        texts, spans = render_jinja_template(
            [messages],
            chat_template=self.tokenizer.chat_template,
            add_generation_prompt=generation_prompt,
            return_assistant_tokens_mask=marks,
            **self.tokenizer.special_tokens_map,
        )
        return texts[0], spans[0] if marks else []

    def render(self, messages: list[Message]) -> Rendered:
        try:
            text, _ = self._render(messages)
            spans = self._spans_by_prefixes(text, messages)
            if spans is None and GENERATION_MARK.search(self.tokenizer.chat_template):
                _, spans = self._render(messages, marks=True)
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            raise RefusedConversation(str(error)) from None
        if spans is None:
            raise SystemExit(
                f"{self.directory}: its chat template rewrites earlier turns and has no {{% generation %}} marks,"
                f" so the assistant's turns cannot be found in {text[:200]!r}"
            )
        return Rendered(text, [(begin, self._end_of_turn(text, begin, end)) for begin, end in spans])

    def _spans_by_prefixes(self, text: str, messages: list[Message]) -> list[tuple[int, int]] | None:
        """A turn is what rendering one message more adds, after the header that asks the model to answer.

        Only where the conversation up to each turn renders as a prefix of the whole, else None.
        """
        spans = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:i])[0] if i else ""
            through, _ = self._render(messages[: i + 1])
            if not (text.startswith(through) and through.startswith(before)):
                return None
            # Some templates prompt with more than the header (an empty thought): the turn begins where they part.
            header = os.path.commonprefix([self._render(messages[:i], generation_prompt=True)[0], through])
            spans.append((max(len(header), len(before)), len(through)))
        return spans

    def _end_of_turn(self, text: str, begin: int, end: int) -> int:
        """Without the white space after the end-of-turn token: the template writes it, not the model."""
        turn = text[begin:end].rstrip()
        return begin + len(turn) if turn.endswith(self.special) else end

    def encode(self, rendered: list[Rendered]) -> list[Sample]:
        # The text has the special tokens already, <bos> too.
        encoded = self.tokenizer(
            [r.text for r in rendered],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        return [
            self._sample(ids, offsets, r.spans)
            for ids, offsets, r in zip(encoded["input_ids"], encoded["offset_mapping"], rendered)
        ]

    def encode_prompt(self, text: str) -> Sample:
        """A question of the user and the header that asks the model to answer; no token of it is a target."""
        rendered, _ = self._render([{"role": "user", "content": text}], generation_prompt=True)
        return self.encode([Rendered(rendered, [])])[0]

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def _sample(self, ids: list[int], offsets: list[tuple[int, int]], spans: list[tuple[int, int]]) -> Sample:
        tokens = np.array(ids, np.int32)
        if len(ids) and tokens.max() >= self.vocab_size:
            raise SystemExit(
                f"{self.directory}: token {tokens.max()} is beyond config.json's vocab_size {self.vocab_size}"
            )
        begins = np.array([begin for begin, _ in offsets], np.int64)
        is_target = np.zeros(len(ids), np.uint8)
        for begin, end in spans:
            is_target |= (begins >= begin) & (begins < end)
        return Sample(tokens, is_target)
