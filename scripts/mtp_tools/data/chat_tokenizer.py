"""From a conversation to tokens, and which of them the model is to learn: what it would generate itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mtp_tools.data.chat_template import ChatTemplate, Rendered, Rendering
from transformers import AutoTokenizer

from mtp_tools.data.conversation import Conversation, Kind, Medium, Refused
from mtp_tools.data.images import ImageReader
from mtp_tools.data.model_directory import fingerprint_of, read_by, read_json, sizes_of


@dataclass
class Sample:
    tokens: np.ndarray  # int32 [n]
    is_target: np.ndarray  # uint8 [n]
    media: dict[Kind, list[Medium]] = field(default_factory=dict)  # in the order in which their tokens stand


class ChatTokenizer:
    """A Hugging Face directory's tokenizer, chat template, processors and sizes. `template_arguments` go to the
    template with every conversation, unless the record has its own."""

    def __init__(self, directory: Path, template_arguments: dict[str, object] | None = None):
        sizes = sizes_of(directory)
        self.vocab_size, self.pad_token_id = sizes.vocab_size, sizes.pad_token_id
        readers = [ImageReader(directory, sizes.vision)] if sizes.vision else []
        if sizes.audio:
            from mtp_tools.data.clips import ClipReader  # needs libraries that nothing else does

            readers.append(ClipReader(directory, sizes.audio))
        self.readers = {reader.kind: reader for reader in readers}
        self.fingerprint = fingerprint_of(directory)
        self.directory = directory
        try:
            self.tokenizer = read_by(AutoTokenizer, directory, "tokenizer")
        except SystemExit:
            read_json(directory / "tokenizer.json")  # says what is wrong with it, if it is that
            raise
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

    def read_media(self, conversation: Conversation, notes: Counter[str]) -> dict[Kind, list[Medium]]:
        """Raises Refused."""
        for kind, sources in conversation.media.items():
            if sources and kind not in self.readers:
                raise Refused(f"shows {kind.many}, and the model takes none")
        return {
            kind: [reader.read(source, notes) for source in conversation.media.get(kind, ())]
            for kind, reader in self.readers.items()
        }

    def with_media(self, sample: Sample, media: dict[Kind, list[Medium]]) -> Sample:
        """The sample with what it shows, each image's or clip's token replaced by as many as the model computes of it,
        between those of begin and end. Raises Refused where there are more or fewer of these tokens."""
        for kind in self.readers:
            sample = self._with(kind, sample, media.get(kind, []))
        return sample

    def _with(self, kind: Kind, sample: Sample, media: list[Medium]) -> Sample:
        places = np.flatnonzero(sample.tokens == self.readers[kind].tokens.soft)
        if len(places) > len(media):
            raise Refused(f"its text asks for more {kind.many} than there are")
        if len(places) < len(media):
            raise Refused(f"the chat template drops {kind.many}")
        tokens, is_target = np.split(sample.tokens, places), np.split(sample.is_target, places)
        for i, medium in enumerate(media, 1):
            shown = self._tokens_of(kind, medium)
            tokens[i] = np.concatenate([shown, tokens[i][1:]])
            is_target[i] = np.concatenate([np.zeros(len(shown), np.uint8), is_target[i][1:]])
        return Sample(np.concatenate(tokens), np.concatenate(is_target), sample.media | {kind: media})

    def cut(self, sample: Sample, length: int) -> Sample:
        """Its first tokens, with what these show. Raises Refused where the cut goes through an image or a clip."""
        tokens, is_target = sample.tokens[:length], sample.is_target[:length]
        media = {kind: self._left(kind, of_kind, tokens) for kind, of_kind in sample.media.items() if of_kind}
        return Sample(tokens, is_target, media)

    def _left(self, kind: Kind, media: list[Medium], tokens: np.ndarray) -> list[Medium]:
        """Of a sample's media those that its first tokens show."""
        # The last token is only asked for, so it is none of an image's or a clip's.
        soft = self.readers[kind].tokens.soft
        shown = int((tokens[:-1] == soft).sum())
        ends = np.cumsum([0, *(self._count(kind, medium) for medium in media)])
        if shown not in ends or tokens[-1] == soft:
            raise Refused(f"{kind.one} lies across the end of its first {len(tokens)} tokens")
        return media[: int(np.searchsorted(ends, shown))]

    def _count(self, kind: Kind, medium: Medium) -> int:
        return -(-len(medium.rows) // self.readers[kind].tokens.rows_per_token)

    def _tokens_of(self, kind: Kind, medium: Medium) -> np.ndarray:
        tokens = self.readers[kind].tokens
        return np.array([tokens.begin, *[tokens.soft] * self._count(kind, medium), tokens.end], np.int32)

    def encode_prompt(self, conversation: Conversation) -> Sample:
        """A conversation and the header that asks the model to answer; no token of it is a target."""
        return self.encode([self.template.prompt(conversation)])[0]

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
