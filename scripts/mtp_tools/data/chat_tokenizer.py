"""From a conversation to tokens, and which of them the model is to learn: what it would generate itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtp_tools.data.chat_template import ChatTemplate, Rendered, Rendering
from transformers import AutoTokenizer

from mtp_tools.data.conversation import Conversation
from mtp_tools.data.model_directory import fingerprint_of, sizes_of


@dataclass
class Sample:
    tokens: np.ndarray  # int32 [n]
    is_target: np.ndarray  # uint8 [n]


class ChatTokenizer:
    """A Hugging Face directory's tokenizer, chat template and sizes. `template_arguments` go to the template with every
    conversation, unless the record has its own."""

    def __init__(self, directory: Path, template_arguments: dict[str, object] | None = None):
        sizes = sizes_of(directory)
        self.vocab_size, self.pad_token_id = sizes.vocab_size, sizes.pad_token_id
        self.fingerprint = fingerprint_of(directory)
        self.directory = directory
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        except Exception as error:  # whatever the libraries throw at a file that is none of theirs
            raise SystemExit(f"{directory}: its tokenizer cannot be read: {first_line(error)}") from None
        if not self.tokenizer.chat_template:
            raise SystemExit(f"{directory}: no chat template (chat_template.jinja); copy it from the model it belongs to")
        special = tuple(t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special)
        self.template = ChatTemplate(
            self.tokenizer.chat_template, self.tokenizer.special_tokens_map, special, template_arguments or {}
        )

    def render(self, conversation: Conversation) -> Rendering:
        """Raises Refused."""
        return self.template.render(conversation)

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
        prompt = self.template.prompt(Conversation([{"role": "user", "content": text}]))
        return self.encode([Rendered(prompt, [])])[0]

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


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
