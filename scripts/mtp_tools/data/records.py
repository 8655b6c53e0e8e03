"""From a record to a conversation: the forms in which data sets hold them."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mtp_tools.data import media_sources
from mtp_tools.data.conversation import Conversation, Message, Refused, shown

Record = dict[str, object]

ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "bing", "bard"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response", "ipython"), "tool"),
    "system": "system",
    "developer": "developer",
    "function_call": "function_call",
}
# A question and its answer under other names, with an optional addition to the question.
PAIRS = (
    ("instruction", "input", "output"),
    ("instruction", None, "response"),
    ("problem", None, "solution"),
    ("question", None, "answer"),
    ("query", None, "response"),
    ("prompt", None, "response"),
)
LISTS = ("messages", "conversations", "conversation")
BESIDE = ("system", "history", "tools", "chat_template_kwargs", "enable_thinking")
MAPPED = ("messages", "system", "user", "assistant", "tools", "image", "audio")
HINT = 'give it `messages`, or name its columns: --map question=user,answer=assistant'


@dataclass(frozen=True)
class ColumnMap:
    """What `--map` says: the role or field that each named column has."""

    columns: dict[str, str]

    @staticmethod
    def parse(text: str) -> ColumnMap:
        pairs = [part.partition("=") for part in text.split(",")]
        if not all(column and role in MAPPED for column, _, role in pairs):
            raise ValueError(f"COLUMN=ROLE,… is needed, with a role of {', '.join(MAPPED)}")
        if len({role for _, _, role in pairs}) != len(pairs):
            raise ValueError("a role is named twice")
        return ColumnMap({column: role for column, _, role in pairs})

    def apply(self, record: Record) -> Record:
        """The record with a `messages` of its own."""
        missing = [column for column in self.columns if column not in record and self.columns[column] in ("user", "assistant")]
        if missing:
            raise Refused(f"has no {missing[0]}, which --map names")
        by_role = {role: record[column] for column, role in self.columns.items() if column in record}
        fields = {name: by_role[name] for name in ("messages", "tools", "image", "audio") if name in by_role}
        if "messages" not in fields:
            texts = {role: text_of(by_role[role], role) for role in ("system", "user", "assistant") if role in by_role}
            contents = texts | {"user": media_sources.question(texts.get("user", ""), media_sources.beside(fields))}
            fields["messages"] = [{"role": role, "content": contents[role]} for role in texts]
        return {name: record[name] for name in BESIDE if name in record and name not in ("system", "history")} | fields


def needed_columns(names: Collection[str], column_map: ColumnMap | None) -> list[str]:
    """Of a columnar file; all where none is a conversation's, so that a record can be refused by what it has."""
    wanted = {*LISTS, "prompt", "completion", *BESIDE, *(name for pair in PAIRS for name in pair if name)}
    wanted |= {name for names in media_sources.COLUMNS.values() for name in names}
    if column_map:
        wanted = {*column_map.columns, *BESIDE}
    return [name for name in names if name in wanted] or list(names)


def conversation_of(
    where: str, record: Record, column_map: ColumnMap | None = None, directory: Path = Path()
) -> Conversation:
    """`directory`: what paths of media are relative to. Raises Refused."""
    if column_map:
        record = column_map.apply(record)
    messages = [message for message in messages_of(record)]
    if not messages:
        raise Refused("empty")
    tools = json_of(record.get("tools"), "tools")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise Refused("`tools` is no list of declarations")
    messages, media = media_sources.taken_out(messages, media_sources.beside(record), directory)
    return Conversation(messages, tools or None, template_arguments_of(record), where, media)


def template_arguments_of(record: Record) -> dict[str, object]:
    arguments = json_of(record.get("chat_template_kwargs"), "chat_template_kwargs") or {}
    if not isinstance(arguments, dict):
        raise Refused("`chat_template_kwargs` is no object")
    if isinstance(record.get("enable_thinking"), bool):
        arguments = {"enable_thinking": record["enable_thinking"], **arguments}
    return arguments


# ---------------------------------------------------------------- forms


def messages_of(record: Record) -> list[Message]:
    for name in LISTS:
        if name in record:
            return with_system(record, listed(json_of(record[name], name), name))
    if "prompt" in record and "completion" in record:
        return with_system(record, turns(record["prompt"], "user") + turns(record["completion"], "assistant"))
    for question, addition, answer in PAIRS:
        if question in record and answer in record:
            return with_system(record, history_of(record) + pair(record, question, addition, answer))
    keys = ", ".join(sorted(map(str, record))[:8]) or "nothing"
    raise Refused("is no conversation of a form that is known", f"has {keys}; {HINT}")


def with_system(record: Record, messages: list[Message]) -> list[Message]:
    system = record.get("system")
    if isinstance(system, str) and system.strip() and not (messages and messages[0]["role"] == "system"):
        return [{"role": "system", "content": system}, *messages]
    return messages


def listed(messages: object, name: str) -> list[Message]:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Refused(f'`{name}` is not a list of {{"role", "content"}}')
    return [message_of(message, name) for message in messages]


def message_of(message: Message, name: str) -> Message:
    """ShareGPT's `from` and `value` become `role` and `content`."""
    if "role" not in message and "from" in message:
        message = {"role": message["from"], "content": message.get("value")} | {
            key: value for key, value in message.items() if key not in ("from", "value")
        }
    role = ROLES.get(message["role"]) if isinstance(message.get("role"), str) else None
    if role is None:
        raise Refused(f"`{name}` has a role that is none", shown(message.get("role")))
    message = {key: value for key, value in message.items() if value is not None or key == "content"}
    if role == "function_call":
        return call_of(message.get("content"))
    return message | {"role": role}


def call_of(content: object) -> Message:
    call = json_of(content, "function_call")
    if not isinstance(call, dict) or "name" not in call:
        raise Refused("a `function_call` is no call", shown(content))
    function = {"name": call["name"], "arguments": call.get("arguments", {})}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}


def turns(value: object, role: str) -> list[Message]:
    """Of `prompt` and `completion`: text, or messages."""
    name = {"user": "prompt", "assistant": "completion"}[role]
    return listed(value, name) if isinstance(value, list) else [{"role": role, "content": text_of(value, name)}]


def pair(record: Record, question: str, addition: str | None, answer: str) -> list[Message]:
    texts = [text_of(record[question], question)]
    if addition and record.get(addition):
        texts.append(text_of(record[addition], addition))
    return [
        {"role": "user", "content": media_sources.question("\n".join(texts), media_sources.beside(record))},
        {"role": "assistant", "content": text_of(record[answer], answer)},
    ]


def history_of(record: Record) -> list[Message]:
    history = json_of(record.get("history"), "history") or []
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        raise Refused("`history` is no list of questions and answers")
    return [
        {"role": role, "content": text_of(text, "history")}
        for turn in history
        for role, text in zip(("user", "assistant"), turn)
    ]


def text_of(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise Refused(f"`{name}` is no text", shown(value))
    return value


def json_of(value: object, name: str) -> object:
    """Tables hold lists and objects as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except (ValueError, RecursionError) as error:
        raise Refused(f"`{name}` is text and no JSON", str(error)) from None
