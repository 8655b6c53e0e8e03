"""A conversation as the text that a server and the model would make of it, and which of it the model makes.

The engine's prompt for a turn is the conversation up to it, rendered with `add_generation_prompt`. What follows in the
rendering of the conversation with that turn, up to the end-of-turn token, is what the model generates: the target.
Where the rendering of the whole conversation has each target behind its own prompt, it is one text; turns that it shows
otherwise (behind an empty thought that only prompts have, say) become texts of their own, with their own context.

Positions come from renderings with a mark in the place of a message's text, and are taken only where the text without
the mark is the untouched one. What cannot be located is refused.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # or it warns that PyTorch is not installed, as intended

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

from mtp_tools.data.conversation import KINDS, Conversation, Kind, Message, Refused, one_line, shown

MARK = "\ue0fe\ue0ff"  # private use: no text of the world has it, no template knows it
GENERATION_MARK = re.compile(r"{%-?\s*generation\s*-?%}")
REASONING = ("reasoning_content", "reasoning", "thinking")
# Gemma's models think between these; its templates take such thoughts out of earlier turns' texts.
THOUGHT = re.compile(r"<\|channel>.*?<channel\|>", re.DOTALL)
TEMPLATE_ERRORS = (jinja2.TemplateError, TypeError, KeyError, ValueError, AttributeError, IndexError, RecursionError)

Span = tuple[int, int]  # characters begin … end - 1


@dataclass
class Rendered:
    text: str
    spans: list[Span]  # what the model generates
    media: dict[Kind, int] = field(default_factory=dict)  # that the text shows, the first ones of the conversation's


@dataclass
class Rendering:
    """All texts of one conversation."""

    samples: list[Rendered]
    whole: str  # the conversation at once: the same for equal ones
    notes: Counter[str] = field(default_factory=Counter)  # what is not learned, although nothing is refused


@dataclass(frozen=True)
class Generation:
    """Messages that the model generates at once: from `begin` up to the next that is not its own, at `end`."""

    begin: int
    end: int
    prompt: str


class ChatTemplate:
    """`special`: special tokens; `arguments`: given to the template with every conversation."""

    def __init__(
        self, source: str, special_tokens: dict[str, str], special: tuple[str, ...], arguments: dict[str, object]
    ):
        self.source = source
        self.special_tokens = special_tokens
        self.special = special
        self.arguments = arguments
        self.has_generation_marks = GENERATION_MARK.search(source) is not None
        self.takes_parts = self._takes_parts()

    def render(self, conversation: Conversation) -> Rendering:
        """Raises Refused."""
        return Renderer(self, self._prepared_all(conversation)).rendering()

    def prompt(self, conversation: Conversation) -> Rendered:
        """What an engine is given to answer a conversation."""
        conversation = self._prepared_all(conversation)
        text = Renderer(self, conversation).text(len(conversation.messages), is_prompt=True)
        return Rendered(text, [], media_in(conversation.messages))

    def _prepared_all(self, conversation: Conversation) -> Conversation:
        return replace(conversation, messages=[self._prepared(message) for message in conversation.messages])

    def raw(self, conversation: Conversation, is_prompt: bool = False, marks: bool = False) -> tuple[str, list[Span]]:
        """The rendering, and the spans of {% generation %} if they are asked for."""
        texts, spans = render_jinja_template(
            [conversation.messages],
            tools=conversation.tools,
            chat_template=self.source,
            add_generation_prompt=is_prompt,
            return_assistant_tokens_mask=marks,
            **{**self.special_tokens, **self.arguments, **conversation.template_arguments},
        )
        return texts[0], [tuple(span) for span in spans[0]] if marks else []

    def _takes_parts(self) -> bool:
        """Whether content may be a list of parts; else parts are joined, as servers do for such templates."""
        try:
            text, _ = self.raw(Conversation([{"role": "user", "content": [{"type": "text", "text": MARK}]}]))
        except TEMPLATE_ERRORS:
            return False
        return MARK in text and "'text'" not in text and '"text"' not in text

    def _prepared(self, message: Message) -> Message:
        """As templates expect a message: text under `content`, arguments as objects, reasoning under every name."""
        prepared = {key: value for key, value in message.items() if key not in REASONING}
        prepared["content"] = self._content_of(message)
        if reasoning := reasoning_of(message):
            prepared |= dict.fromkeys(REASONING, reasoning)
        if calls := message.get("tool_calls"):
            if not isinstance(calls, list):
                raise Refused("`tool_calls` is no list", shown(calls))
            prepared["tool_calls"] = [with_object_arguments(call) for call in calls]
        return prepared

    def _content_of(self, message: Message) -> object:
        content, role = message.get("content"), message["role"]
        if isinstance(content, list):
            texts = [text_of_part(part) for part in content if medium_of(part) is None]
            if not self.takes_parts and (kinds := [kind for part in content if (kind := medium_of(part))]):
                raise Refused(f"the chat template takes no {kinds[0].many}")
            return content if self.takes_parts else "\n".join(texts)
        if isinstance(content, str) or (isinstance(content, dict) and role == "tool"):
            return content
        if content is not None:
            raise Refused("its content is no text", shown(content))
        if role != "tool" and not message.get("tool_calls") and not message.get("tool_responses"):
            raise Refused(f"a message of the {role} has no text")
        return ""


def text_of_part(part: object) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" or not isinstance(kind, str):
        raise Refused('a part of its content is not {"type": "text", "text": …}', shown(part))
    raise Refused(f"a part of its content is of type {kind}")


def reasoning_of(message: Message) -> str | None:
    found = next((message[name] for name in REASONING if message.get(name)), None)
    if found is not None and not isinstance(found, str):
        raise Refused("its reasoning is no text", shown(found))
    return found


def with_object_arguments(call: object) -> dict:
    """Data sets hold arguments as JSON text, as servers' interfaces do; templates take objects."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Refused("a tool call has no function with a name", shown(call))
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise Refused("a tool call's arguments are no JSON", function["arguments"][:80]) from None
    if not isinstance(arguments, (dict, type(None))):
        raise Refused("a tool call's arguments are no object", shown(arguments))
    return {**call, "type": "function", "function": {**function, "arguments": arguments or {}}}


class Renderer:
    """One conversation; each of its renderings is made once."""

    def __init__(self, template: ChatTemplate, conversation: Conversation):
        self.template = template
        self.conversation = conversation
        self.messages = conversation.messages
        self.texts: dict[tuple[int, bool], str] = {}

    def text(self, count: int, is_prompt: bool = False) -> str:
        """Of the first `count` messages."""
        key = (count, is_prompt)
        if key not in self.texts:
            self.texts[key] = self.raw(self.messages[:count], is_prompt)
        return self.texts[key]

    def raw(self, messages: list[Message], is_prompt: bool = False) -> str:
        try:
            return self.template.raw(replace(self.conversation, messages=messages), is_prompt)[0]
        except TEMPLATE_ERRORS as error:
            raise Refused(f"refused by the chat template ({one_line(error)})") from None

    # ------------------------------------------------------------ the whole

    def rendering(self) -> Rendering:
        whole = self.text(len(self.messages))
        if MARK in whole:
            raise Refused("has characters of the private use area that mark places here")
        rendering = Rendering([], whole)
        if self.template.has_generation_marks:
            _, spans = self.template.raw(self.conversation, marks=True)
            spans = [(begin, begin + len(self._trimmed(whole[begin:end]))) for begin, end in spans]
            rendering.samples = [Rendered(whole, spans, media_in(self.messages))]
        else:
            rendering.samples = list(self._samples(whole))
        self._check_completeness("\n".join([whole, *(sample.text for sample in rendering.samples)]), rendering.notes)
        return rendering

    def _samples(self, whole: str) -> Iterator[Rendered]:
        together, alone = [], []
        for generation in self._generations():
            spans = self._spans_in(whole, generation)
            if spans is None:
                alone.append(self._by_itself(generation))
            else:
                together += spans
        if together or not alone:
            yield Rendered(whole, together, media_in(self.messages))
        yield from alone

    def _generations(self) -> Iterator[Generation]:
        begin, count = 0, len(self.messages)
        while begin < count:
            end = begin + 1
            if self.messages[begin]["role"] == "assistant":
                while end < count and self.messages[end]["role"] == "assistant" and self._joins(end):
                    end += 1
                yield Generation(begin, end, self.text(begin, is_prompt=True))
            begin = end

    def _joins(self, i: int) -> bool:
        """Whether the template makes one turn of message i and the one before."""
        return not self.text(i + 1).startswith(self.text(i))

    # ------------------------------------------------------------ one generation

    def _header(self, generation: Generation) -> str:
        """What stands before the generation in the rendering of the messages up to its end: the prompt, or where this
        has more than a header (an empty thought), which turns of the past do not have, what it has without."""
        text = self.text(generation.end)
        if text.startswith(generation.prompt):
            return generation.prompt
        header, _ = self._around_mark([*self.messages[: generation.begin], {"role": "assistant", "content": MARK}])
        if not text.startswith(header):
            raise Refused("the chat template rewrites earlier turns, so that this one cannot be found")
        return header

    def _by_itself(self, generation: Generation) -> Rendered:
        header, text = self._header(generation), self.text(generation.end)
        spans = [(len(header), len(self._trimmed(text)))]
        if has_answers(self.messages[generation.begin : generation.end]):
            spans = self._around_answers(text, len(header), generation, after=[])
        if spans is None:
            raise Refused("the chat template shows responses of tools where they cannot be told from the answer")
        shift = len(generation.prompt) - len(header)
        text = generation.prompt + text[len(header) : spans[-1][1]]
        spans = [(begin + shift, end + shift) for begin, end in spans]
        return Rendered(text, spans, media_in(self.messages[: generation.end]))

    def _spans_in(self, whole: str, generation: Generation) -> list[Span] | None:
        """Where the whole conversation's text has the generation behind its prompt; None where it has not."""
        begin = len(generation.prompt)
        if not whole.startswith(generation.prompt):
            return None
        if not has_answers(self.messages[generation.begin : generation.end]):
            header = self._header(generation)
            for text in self._ways_to_show(generation):
                generated = self._trimmed(text.removeprefix(header))
                if text.startswith(header) and whole.startswith(generated, begin):
                    return [(begin, begin + len(generated))]
        return self._around_answers(whole, begin, generation, self.messages[generation.end :])

    def _ways_to_show(self, generation: Generation) -> Iterator[str]:
        """Templates show thoughts of the last turn only: an earlier one is learned as it is shown later."""
        yield self.text(generation.end)
        own = self.messages[generation.begin : generation.end]
        if any(map(reasoning_of, own)):
            yield self.raw([*self.messages[: generation.begin], *map(without_reasoning, own)])

    def _around_answers(
        self, text: str, begin: int, generation: Generation, after: list[Message]
    ) -> list[Span] | None:
        """Tool responses that the template puts between a message's calls and its text are context. `text`: what it
        makes of the messages up to the generation's end and those `after` it; the generation begins at `begin`."""
        message, before = self.messages[generation.begin], self.messages[: generation.begin]
        if generation.end != generation.begin + 1 or not message.get("tool_calls"):
            return None
        calls_only = {key: value for key, value in message.items() if key != "tool_responses"}
        header, _ = self._around_mark([*before, {"role": "assistant", "content": MARK}])
        with_calls, _ = self._around_mark([*before, calls_only | {"content": MARK}])
        calls = with_calls.removeprefix(header)
        if not with_calls.startswith(header) or not text.startswith(calls, begin):
            return None
        end = begin + len(calls)
        # The model ends its calls with the token that asks for the responses, where there is one.
        end += len(self._special_at(text, end))
        shown = THOUGHT.sub("", "".join(texts_of(message["content"]))).strip()
        if not shown:
            return [(begin, end)]
        place, rest = self._around_mark([*before, message | {"content": MARK + shown}, *after])
        if place + rest != text or len(place) < end or not rest.startswith(shown):
            return None
        stop = len(place) + len(shown)
        return [(begin, end), (len(place), stop + len(self._special_at(text, stop)))]

    def _special_at(self, text: str, position: int) -> str:
        """The special token there, or nothing."""
        return max((token for token in self.template.special if text.startswith(token, position)), key=len, default="")

    def _around_mark(self, messages: list[Message]) -> tuple[str, str]:
        """The rendering before and after the mark in one of its messages."""
        parts = self.raw(messages).split(MARK)
        if len(parts) != 2:
            raise Refused("the chat template does not show an assistant's text just once")
        return parts[0], parts[1]

    def _trimmed(self, text: str) -> str:
        """Without the white space after the end-of-turn token: the template writes it, not the model."""
        stripped = text.rstrip()
        return stripped if stripped.endswith(self.template.special) else text

    # ------------------------------------------------------------ what is lost

    def _check_completeness(self, text: str, notes: Counter[str]) -> None:
        """What the record says must be in the text: a template drops what it does not know without a word."""
        for i, message in enumerate(self.messages):
            role = message["role"]
            for piece in pieces_of(message["content"], role == "assistant"):
                if piece not in text:
                    raise Refused(f"the chat template drops text of the {role}", piece[:60])
            if message.get("tool_calls") and not self._shows_calls(i, text):
                raise Refused("the chat template drops tool calls")
            reasoning = reasoning_of(message)
            if reasoning and reasoning.strip() not in text:
                notes["reasoning that the chat template does not show"] += 1
        for tool in self.conversation.tools or []:
            function = tool.get("function", tool) if isinstance(tool, dict) else {}
            if str(function.get("name")) not in text:
                raise Refused("the chat template drops the declarations of tools")


    def _shows_calls(self, i: int, text: str) -> bool:
        if all(call["function"]["name"] in text for call in self.messages[i]["tool_calls"]):
            return True
        without = {key: value for key, value in self.messages[i].items() if key != "tool_calls"}
        return self.raw([*self.messages[:i], without, *self.messages[i + 1 :]]) != self.text(len(self.messages))


def has_answers(messages: list[Message]) -> bool:
    return any(message.get("tool_responses") for message in messages)


def without_reasoning(message: Message) -> Message:
    return {key: value for key, value in message.items() if key not in REASONING}


def texts_of(content: object) -> list[str]:
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []  # else a tool's object
    return [part["text"] for part in parts if medium_of(part) is None]


def medium_of(part: object) -> Kind | None:
    """What a part shows, of which media_sources.taken_out has left nothing else in it."""
    return next((kind for kind in KINDS if part == kind.part), None)


def media_in(messages: list[Message]) -> dict[Kind, int]:
    contents = [message["content"] for message in messages if isinstance(message["content"], list)]
    return {kind: sum(content.count(kind.part) for content in contents) for kind in KINDS}


def pieces_of(content: object, may_think: bool) -> Iterator[str]:
    """The texts of a content as templates trim them; thoughts of Gemma's kind may be taken out."""
    for text in texts_of(content):
        yield from (piece.strip() for piece in (THOUGHT.split(text) if may_think else [text]) if piece.strip())
