#!/usr/bin/env python3
"""scripts/mtp_tools/data/chat_tokenizer.py: which tokens of a conversation become targets, and what stands before them.

.venv/bin/python tests/scripts/chat_tokenizer_test.py
MTP_CHAT_TEMPLATES=DIR …    with the templates in DIR beside those in templates/
"""

import json
import os
import sys
import tempfile
import unittest
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from mtp_tools.data import small_tokenizer
from mtp_tools.data.chat_tokenizer import ChatTokenizer
from mtp_tools.data.conversation import Conversation, Refused

TEMPLATES = Path(__file__).parent / "templates"
GEMMA_TOKENS = ["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>",
                "<|tool>", "<tool|>", "<|think|>", '<|"|>']  # fmt: skip
CHATML = (
    "{% for m in messages %}{{ '<|turn>' + m.role + '\\n' + m.content + '<turn|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>assistant\\n' }}{% endif %}"
)
# Prompts with an empty thought that no past turn has, as reasoning models' templates do.
EMPTY_THOUGHT = CHATML.replace("'<|turn>assistant\\n' }}", "'<|turn>assistant\\n<|channel>thought\\n<channel|>' }}")
# Says how many messages there are at its head: no conversation is a prefix of a longer one.
REWRITING = "{{ messages | length }}" + CHATML
MARKED = (
    "{{ messages | length }}{% for m in messages %}<|turn>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<turn|>{% endgeneration %}"
    "{% else %}{{ m.content }}<turn|>{% endif %}\n{% endfor %}"
)
STRICT = "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}" + CHATML
LAST_THOUGHT = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{{ '<|turn>' + m.role + '\\n' }}"
    "{% if m.thinking and loop.index0 > ns.last %}{{ '<think>' + m.thinking + '</think>' }}{% endif %}"
    "{{ m.content + '<turn|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>assistant\\n' }}{% endif %}"
)
JOINING = (
    "{% for m in messages %}{% if loop.previtem is not defined or loop.previtem.role != m.role %}"
    "{{ '<|turn>' + m.role + '\\n' }}{% endif %}{{ m.content }}"
    "{% if loop.nextitem is not defined or loop.nextitem.role != m.role %}{{ '<turn|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>assistant\\n' }}{% endif %}"
)


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def answer(text: str, **more: object) -> dict:
    return {"role": "assistant", "content": text, **more}


def call(name: str, **arguments: object) -> dict:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


def tool(text: str) -> dict:
    return {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": text}


CHAT = [user("What is up?"), answer("Nothing."), user("And down?"), answer("Neither.")]
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "", "parameters": {"type": "object", "properties": {}}}}]  # fmt: skip
ASKED = [user("Weather in Ulm?"), answer("", tool_calls=[call("weather", city="Ulm", hours=[1, 2], exact=True)])]
CONVERSATIONS = {
    "one turn": Conversation([user("Hi"), answer("Hello.")]),
    "two turns": Conversation(CHAT),
    "system": Conversation([{"role": "system", "content": "Be brief."}, *CHAT]),
    "developer": Conversation([{"role": "developer", "content": "Be brief."}, *CHAT]),
    "thinking on": Conversation(CHAT, template_arguments={"enable_thinking": True}),
    "a tag at the beginning": Conversation([user("A heading?"), answer("<h1>Hello</h1>"), user("Again?"), answer("<|")]),
    "an empty answer": Conversation([user("Hi"), answer("")]),
    "parts": Conversation([user("Hi"), {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]}]),
    "a thought in the text": Conversation([user("Is 91 prime?"), answer("<|channel>thought\n7 * 13<channel|>No.")]),
    "reasoning": Conversation([user("Is 91 prime?"), answer("No.", reasoning_content="7 * 13")]),
    "two answers": Conversation([user("Hi"), answer("Hello."), answer("How can I help?")]),
    "calls": Conversation([*ASKED, tool("14 degrees"), answer("It has 14 degrees.")], TOOLS),
    "calls, thinking": Conversation(
        [
            ASKED[0],
            answer("", reasoning="I must look.", tool_calls=[call("weather")]),
            tool("14 degrees"),
            answer("14."),
            user("And now?"),
            answer("", reasoning="Once more.", tool_calls=[call("weather")]),
            tool("15 degrees"),
            answer("15."),
        ],
        TOOLS,
        {"enable_thinking": True},
    ),
    "two calls": Conversation(
        [ASKED[0], answer("", tool_calls=[call("weather"), call("weather")]), tool("14"), tool("15"), answer("14, 15.")],
        TOOLS,
    ),
    "a call at the end": Conversation(ASKED, TOOLS),
    "text beside a call": Conversation(
        [ASKED[0], answer("Let me look.", tool_calls=[call("weather")]), tool("14 degrees"), answer("14.")], TOOLS
    ),
    "responses in the message": Conversation(
        [ASKED[0], answer("14.", tool_calls=[call("weather")], tool_responses=[{"name": "weather", "response": "14"}])],
        TOOLS,
    ),
}


def make_tokenizer(directory: Path, template: str | None = None) -> Path:
    """A small one with Gemma's special tokens."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 400, "pad_token_id": 0}}))
    small_tokenizer.train_into(directory, ["What is up? Nothing. And down? Neither."])
    path = directory / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in GEMMA_TOKENS])
    tokenizer.save(str(path))
    config = json.loads((directory / "config.json").read_text())
    config["text_config"]["vocab_size"] = tokenizer.get_vocab_size()
    (directory / "config.json").write_text(json.dumps(config))
    if template:
        (directory / "chat_template.jinja").write_text(template)
    return directory


class TestCase(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.dir = Path(scratch.name)

    def chat(self, template: str | None = None, **arguments: object) -> ChatTokenizer:
        return ChatTokenizer(make_tokenizer(self.dir / "model", template), arguments)

    def marked(self, chat: ChatTokenizer, conversation: Conversation | list) -> list[str]:
        """Each sample as text, its targets in ⟦ ⟧."""
        if isinstance(conversation, list):
            conversation = Conversation(conversation)
        return [marked(chat, sample) for sample in chat.encode(chat.render(conversation).samples)]


def marked(chat: ChatTokenizer, sample) -> str:
    text, i, ids, mask = "", 0, sample.tokens.tolist(), sample.is_target.tolist()
    while i < len(ids):
        j = i
        while j < len(ids) and mask[j] == mask[i]:
            j += 1
        piece = chat.tokenizer.decode(ids[i:j])
        text += f"⟦{piece}⟧" if mask[i] else piece
        i = j
    return text


def generated(tokens: list[str]) -> list[int]:
    """Token by token, by the grammar of Gemma's turns: what stands in a turn of the model is generated, up to its
    end-of-turn token, but neither the header nor what tools answer. The token that asks for answers is the last one
    that the model generates before them. A turn may go on behind its end, without a header."""
    mask, state = [], "other"  # header, model, answer, end (of the model's turn)
    for i, token in enumerate(tokens):
        before = tokens[i - 1] if i else ""
        if state == "end" and token.strip() and token != "<|turn>":
            state = "model"
        is_generated = state == "model" and not (token == "<|tool_response>" and before == "<tool_response|>")
        if token == "<|turn>":
            state, is_generated, role = "header", False, ""
        elif state == "header":
            role += token
            if token.endswith("\n"):
                state = "model" if role == "model\n" else "other"
        elif token == "<turn|>":
            state = "end" if state == "model" else "other"
        elif token == "<|tool_response>":
            state = "answer"
        elif token == "<tool_response|>":
            state = "model"
        mask.append(int(is_generated))
    return mask


class GemmaTemplates(TestCase):
    """For each template and each kind of conversation."""

    def for_each(self, check) -> None:
        """check(chat, conversation, rendering)"""
        folders = [TEMPLATES, *map(Path, os.environ.get("MTP_CHAT_TEMPLATES", "").split())]
        for path in sorted(path for folder in folders for path in folder.glob("*.jinja")):
            chat = self.chat(path.read_text())
            for name, conversation in CONVERSATIONS.items():
                with self.subTest(f"{path.name}, {name}"):
                    check(chat, conversation, chat.render(conversation))

    def prompts_of(self, chat: ChatTokenizer, conversation: Conversation) -> list[str]:
        """The engine's, for every answer."""
        messages = [dict(message) for message in conversation.messages]
        for message in messages:
            if "reasoning" in message or "reasoning_content" in message:  # a server gives the template both
                text = message.get("reasoning") or message["reasoning_content"]
                message |= {"reasoning": text, "reasoning_content": text}
        return [
            chat.tokenizer.apply_chat_template(
                messages[:i], tools=conversation.tools, add_generation_prompt=True, tokenize=False,
                **conversation.template_arguments,
            )
            for i in range(1, len(messages)) if messages[i]["role"] == "assistant"
        ]  # fmt: skip

    def expected(self, chat: ChatTokenizer, conversation: Conversation, text: str, is_whole: bool) -> list[int]:
        """What the grammar says is generated, where an engine's prompt stands before it, or where it is the text of a
        message whose calls stand before it. In a sample of its own, only what is behind the last prompt."""
        prompts = self.prompts_of(chat, conversation)
        beside = [str(m["content"]) for m in conversation.messages if m.get("tool_calls") and m["content"]]
        first = 0 if is_whole else max(len(p) for p in prompts if text.startswith(p))
        encoded = chat.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        begins = [begin for begin, _ in encoded["offset_mapping"]]
        tokens = [chat.tokenizer.decode([i]) for i in encoded["input_ids"]]
        mask = generated(tokens)
        is_target = calls_are_targets = False
        for i, begin in enumerate(begins):
            is_beside = calls_are_targets and any(text.startswith(b, begin) for b in beside)
            starts = begin >= first and (text[:begin] in prompts or is_beside)
            is_target = bool(mask[i]) and (starts or is_target)
            if tokens[i] == "<tool_call|>":
                calls_are_targets = is_target
            mask[i] = int(is_target)
        return mask

    def test_the_targets_are_what_the_grammar_of_turns_says(self):
        def check(chat, conversation, rendering):
            for rendered, sample in zip(rendering.samples, chat.encode(rendering.samples)):
                expected = self.expected(chat, conversation, rendered.text, rendered.text == rendering.whole)
                self.assertEqual(sample.is_target.tolist(), expected, marked(chat, sample))

        self.for_each(check)

    def test_before_the_first_target_stands_the_engines_prompt(self):
        def check(chat, conversation, rendering):
            prompts = self.prompts_of(chat, conversation)
            for rendered in rendering.samples:
                self.assertIn(rendered.text[: rendered.spans[0][0]], prompts)

        self.for_each(check)

    def test_every_turn_is_learned_once(self):
        def check(chat, conversation, rendering):
            learned = "".join(r.text[begin:end] for r in rendering.samples for begin, end in r.spans)
            for message in conversation.messages:
                if message["role"] == "assistant" and isinstance(message["content"], str) and message["content"]:
                    spoken = message["content"].split("<channel|>")[-1]
                    said = sum(str(m["content"]).count(spoken) for m in conversation.messages if m["role"] == "assistant")
                    self.assertEqual(learned.count(spoken), said, learned)
            calls = sum(len(message.get("tool_calls", [])) for message in conversation.messages)
            self.assertEqual(learned.count("<|tool_call>"), calls, learned)

        self.for_each(check)


class Targets(TestCase):
    def test_are_every_assistant_turn_with_its_end_token(self):
        for name, template in {"Gemma": None, "ChatML": CHATML, "marked": MARKED}.items():
            with self.subTest(name):
                (text,) = self.marked(self.chat(template), CHAT)
                self.assertEqual(text.count("⟦"), 2)
                self.assertIn("⟦Nothing.<turn|>⟧", text)
                self.assertIn("⟦Neither.<turn|>⟧", text)

    def test_behind_an_empty_thought_are_samples_of_their_own(self):
        before = "<|turn>user\nWhat is up?<turn|>\n<|turn>assistant\n"
        thought = "<|channel>thought\n<channel|>"
        self.assertEqual(
            self.marked(self.chat(EMPTY_THOUGHT), CHAT),
            [
                before + thought + "⟦Nothing.<turn|>⟧",
                before + "Nothing.<turn|>\n<|turn>user\nAnd down?<turn|>\n<|turn>assistant\n" + thought
                + "⟦Neither.<turn|>⟧",
            ],
        )  # fmt: skip

    def test_begin_with_their_first_character_whatever_the_prompt_ends_with(self):
        chat = self.chat(EMPTY_THOUGHT)
        for text in ("<h1>Hello</h1>", "<|channel>thought\n7 * 13\n<channel|>No.", "<", ""):
            (sample,) = self.marked(chat, [user("Hi"), answer(text)])
            self.assertTrue(sample.endswith(f"<|channel>thought\n<channel|>⟦{text}<turn|>⟧"), sample)

    def test_of_a_template_that_rewrites_earlier_turns_are_rendered_turn_by_turn(self):
        self.assertEqual(
            self.marked(self.chat(REWRITING), CHAT),
            [
                "1<|turn>user\nWhat is up?<turn|>\n<|turn>assistant\n⟦Nothing.<turn|>⟧",
                "3<|turn>user\nWhat is up?<turn|>\n<|turn>assistant\nNothing.<turn|>\n<|turn>user\nAnd down?<turn|>\n"
                "<|turn>assistant\n⟦Neither.<turn|>⟧",
            ],
        )

    def test_of_earlier_turns_are_what_later_prompts_show_of_them(self):
        messages = [user("91?"), answer("No.", thinking="7 * 13"), user("97?"), answer("Yes.", reasoning="Nothing.")]
        chat = self.chat(LAST_THOUGHT)
        (text,) = self.marked(chat, messages)
        self.assertIn("⟦No.<turn|>⟧", text)
        self.assertIn("⟦<think>Nothing.</think>Yes.<turn|>⟧", text)
        notes = chat.render(Conversation(messages)).notes
        self.assertEqual(dict(notes), {"reasoning that the chat template does not show": 1})

    def test_of_turns_that_the_template_joins_are_one(self):
        (text,) = self.marked(self.chat(JOINING), [user("Hi"), answer("Hello. "), answer("How can I help?")])
        self.assertIn("⟦Hello. How can I help?<turn|>⟧", text)

    def test_of_text_beyond_ascii_are_whole(self):
        model = self.chat()
        sample = model.encode(model.render(Conversation([CHAT[0], answer("\u00fc\u4e2d\U0001f600")])).samples)[0]
        self.assertEqual(model.tokenizer.decode(sample.tokens[sample.is_target == 1]), "\u00fc\u4e2d\U0001f600<turn|>")

    def test_leave_out_what_a_tool_answers(self):
        chat = self.chat((TEMPLATES / "folding.jinja").read_text())
        text, earlier = self.marked(chat, CONVERSATIONS["calls, thinking"])
        self.assertIn('⟦<|tool_call>call:weather{}<tool_call|><|tool_response>⟧response:weather{value:<|"|>14', text)
        self.assertIn("<tool_response|>⟦15.<turn|>⟧", text)
        # Its prompt showed the thought that later ones do not show.
        self.assertIn("<|channel>thought\nI must look.\n<channel|><|tool_call>", earlier)
        self.assertTrue(earlier.endswith("<tool_response|>⟦14.<turn|>⟧"), earlier)
        self.assertIn("⟦<|channel>thought\nOnce more.\n<channel|><|tool_call>call:weather{}<tool_call|>", text)


class Refusals(TestCase):
    def refused(self, template: str | None, messages: list, tools: list | None = None) -> str:
        with self.assertRaises(Refused) as caught:
            self.chat(template).render(Conversation(messages, tools))
        return caught.exception.reason

    def test_name_what_the_template_itself_refuses(self):
        self.assertEqual(self.refused(STRICT, CHAT[1:]), "refused by the chat template (user first)")

    def test_are_of_what_would_be_lost_without_a_word(self):
        for messages, tools, reason in (
            ([user("Weather?"), answer("", tool_calls=[call("weather")])], None, "the chat template drops tool calls"),
            (CHAT, TOOLS, "the chat template drops the declarations of tools"),
            ([user("Hi"), {"role": "assistant", "content": {"text": "Hello"}}], None, "its content is no text"),
            ([user("Hi"), {"role": "assistant"}], None, "a message of the assistant has no text"),
            ([user("Hi"), {"role": "assistant", "content": [{"type": "text", "value": "Hello"}]}], None,
             'a part of its content is not {"type": "text", "text": …}'),
            ([{"role": "user", "content": [{"type": "video", "path": "a.mp4"}]}, answer("A cat.")], None,
             "a part of its content is of type video"),
        ):  # fmt: skip
            with self.subTest(reason):
                self.assertEqual(self.refused(None, messages, tools), reason)

    def test_are_of_a_template_that_drops_text(self):
        no_system = "{% for m in messages if m.role != 'system' %}" + CHATML.partition("%}")[2]
        system = {"role": "system", "content": "Be brief."}
        self.assertEqual(self.refused(no_system, [system, *CHAT]), "the chat template drops text of the system")


class Arguments(TestCase):
    TEMPLATE = "{% if enable_thinking %}<|think|>{% endif %}" + CHATML

    def test_are_given_to_every_conversation(self):
        self.assertEqual(self.marked(self.chat(self.TEMPLATE, enable_thinking=True), CHAT)[0][:9], "<|think|>")

    def test_of_a_record_win(self):
        chat = self.chat(self.TEMPLATE, enable_thinking=True)
        conversation = Conversation(CHAT, template_arguments={"enable_thinking": False})
        self.assertEqual(self.marked(chat, conversation)[0][:7], "<|turn>")

    def test_of_calls_may_be_json_text_and_keep_their_nulls(self):
        template = CHATML.replace("m.content +", "((m.tool_calls or []) | map(attribute='function.arguments') | list | tojson) + m.content +")  # fmt: skip
        as_text = {"type": "function", "function": {"name": "f", "arguments": '{"limit": null, "query": "rain"}'}}
        (text,) = self.marked(self.chat(template), [user("Search."), answer("", tool_calls=[as_text])])
        self.assertIn('⟦[{"limit": null, "query": "rain"}]<turn|>⟧', text)


if __name__ == "__main__":
    unittest.main()
