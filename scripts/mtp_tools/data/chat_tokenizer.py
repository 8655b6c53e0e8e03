"""From a conversation to tokens, and which of them the model is to learn: what it would generate itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mtp_tools.data.chat_template import ChatTemplate, Rendered, Rendering
from transformers import AutoTokenizer

from mtp_tools.data.conversation import Conversation, Refused
from mtp_tools.data.images import ImagePatches, ImageReader
from mtp_tools.data.model_directory import fingerprint_of, read_json, sizes_of


@dataclass
class Sample:
    tokens: np.ndarray  # int32 [n]
    is_target: np.ndarray  # uint8 [n]
    images: list[ImagePatches] = field(default_factory=list)  # in the order in which their tokens stand


class ChatTokenizer:
    """A Hugging Face directory's tokenizer, chat template, image processor and sizes. `template_arguments` go to the
    template with every conversation, unless the record has its own."""

    def __init__(self, directory: Path, template_arguments: dict[str, object] | None = None):
        sizes = sizes_of(directory)
        self.vocab_size, self.pad_token_id, self.vision = sizes.vocab_size, sizes.pad_token_id, sizes.vision
        self.reader = ImageReader(directory, sizes.vision) if sizes.vision else None
        self.fingerprint = fingerprint_of(directory)
        self.directory = directory
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        except Exception as error:  # whatever the libraries throw at a file that is none of theirs
            read_json(directory / "tokenizer.json")  # says what is wrong with it, if it is that
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

    def read_images(self, conversation: Conversation, notes: Counter[str]) -> list[ImagePatches]:
        """Raises Refused."""
        if conversation.images and self.reader is None:
            raise Refused("shows images, and the model takes none")
        return [self.reader.read(source, notes) for source in conversation.images]

    def with_images(self, sample: Sample, images: list[ImagePatches]) -> Sample:
        """The sample with the images that it shows, each one's token replaced by as many as the model computes of it,
        between those of begin and end. Raises Refused where there are more or fewer of these tokens."""
        if self.vision is None:
            return sample
        places = np.flatnonzero(sample.tokens == self.vision.image_token_id)
        if len(places) > len(images):
            raise Refused("its text asks for more images than there are")
        if len(places) < len(images):
            raise Refused("the chat template drops images")
        tokens, is_target = np.split(sample.tokens, places), np.split(sample.is_target, places)
        for i, image in enumerate(images, 1):
            shown = self._tokens_of(image)
            tokens[i] = np.concatenate([shown, tokens[i][1:]])
            is_target[i] = np.concatenate([np.zeros(len(shown), np.uint8), is_target[i][1:]])
        return Sample(np.concatenate(tokens), np.concatenate(is_target), images)

    def cut(self, sample: Sample, length: int) -> Sample:
        """Its first tokens, with the images that these show. Raises Refused where the cut goes through an image."""
        tokens, is_target = sample.tokens[:length], sample.is_target[:length]
        if not sample.images:
            return Sample(tokens, is_target)
        # The last token is only asked for, so it is none of an image's.
        shown = int((tokens[:-1] == self.vision.image_token_id).sum())
        ends = np.cumsum([0, *map(self._count, sample.images)])
        if shown not in ends or tokens[-1] == self.vision.image_token_id:
            raise Refused(f"an image lies across the end of its first {length} tokens")
        return Sample(tokens, is_target, sample.images[: int(np.searchsorted(ends, shown))])

    def _count(self, image: ImagePatches) -> int:
        return len(image.patches) // self.vision.patches_per_token

    def _tokens_of(self, image: ImagePatches) -> np.ndarray:
        soft = [self.vision.image_token_id] * self._count(image)
        return np.array([self.vision.begin_token_id, *soft, self.vision.end_token_id], np.int32)

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


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
