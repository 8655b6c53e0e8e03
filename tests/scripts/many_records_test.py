#!/usr/bin/env python3
"""scripts/prepare_data.py on many conversations with one bad record of every kind in each hundred: every good one is in
the file, as it should be, and every bad one is counted by its reason.

    .venv/bin/python tests/scripts/many_records_test.py [--conversations 100000] [--processes 1]

Says how many samples a second of one core's time are made, and how many of their texts are tokenised alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core's time

import h5py
from tokenizers import Tokenizer

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from mtp_tools.data import small_tokenizer

MAX_LENGTH = 1000
TEMPLATE = (
    "{% if messages[0].role == 'assistant' %}{{ raise_exception('user first') }}{% endif %}"
    "{% for m in messages %}{{ '<|turn>' + m.role + '\\n' + m.content + '<turn|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>assistant\\n' }}{% endif %}"
)
Turns = list[tuple[str, str]]  # role and text


def user(text: object = "Hi") -> dict[str, object]:
    return {"role": "user", "content": text}


def answer(text: object = "Hello", **more: object) -> dict[str, object]:
    return {"role": "assistant", "content": text, **more}


def chat(*messages: object, **more: object) -> bytes:
    return json.dumps({"messages": messages, **more}).encode()


def calling(function: object) -> bytes:
    return chat(user(), answer(tool_calls=[{"type": "function", "function": function}]))


def showing(image: object) -> bytes:
    return chat(user([{"type": "image", "image": image}]), answer())


PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
# Lines, each with a fault of another kind, and the reason that each is counted under.
BAD = {
    b"{": "not JSON",
    b'{"messages": "Gr\xf6n"}': "is not UTF-8; convert it (iconv -f latin1 -t utf-8)",
    b"[1]": "is no JSON object",
    b'{"messages": ' + b"[" * 10000 + b"]" * 10000 + b"}": "nested too deep",
    b'{"id": ' + b"7" * 5000 + b', "question": "a", "answer": "b"}': "not JSON",
    b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "\\ud83d"}]}':
        "has half a surrogate pair, which is no text",
    chat(): "empty",
    b'{"messages": 3}': '`messages` is not a list of {"role", "content"}',
    b'{"messages": "Hi"}': "`messages` is text and no JSON",
    chat({"role": "king", "content": "Hi"}): "`messages` has a role that is none",
    b'{"title": "a"}': "is no conversation of a form that is known",
    b'{"question": 3, "answer": "b"}': "`question` is no text",
    b'{"prompt": {"a": 1}, "completion": "b"}': "`prompt` is no text",
    b'{"instruction": "a", "output": "b", "history": ["c"]}': "`history` is no list of questions and answers",
    chat(user(), {"role": "function_call", "content": "[]"}): "a `function_call` is no call",
    chat(user(), answer(), tools={"name": "f"}): "`tools` is no list of declarations",
    chat(user(), answer(), chat_template_kwargs=[1]): "`chat_template_kwargs` is no object",
    chat(user()): "without a target",
    chat(answer()): "refused by the chat template (user first)",
    chat(user(), answer(None)): "a message of the assistant has no text",
    chat(user(), answer({"a": 1})): "its content is no text",
    chat(user([{"type": "video"}]), answer()): "a part of its content is of type video",
    chat(user([{"type": "\ud83d"}]), answer()): r"a part of its content is of type \ud83d",
    chat(user([{"value": "Hi"}]), answer()): 'a part of its content is not {"type": "text", "text": …}',
    chat(user(), answer(reasoning=[1])): "its reasoning is no text",
    chat(user(), answer(tool_calls={"name": "f"})): "`tool_calls` is no list",
    calling({"arguments": {}}): "a tool call has no function with a name",
    calling({"name": "f", "arguments": "{"}): "a tool call's arguments are no JSON",
    calling({"name": "f", "arguments": [1]}): "a tool call's arguments are no object",
    calling({"name": "f", "arguments": {}}): "the chat template drops tool calls",
    chat(user(), answer(), tools=[{"name": "f"}]): "the chat template drops the declarations of tools",
    chat(user("\ue0fe\ue0ff"), answer()): "has characters of the private use area that mark places here",
    chat(user([{"type": "image"}]), answer()): "shows more images than it has",
    chat(user(), answer(), images=[PIXEL]): "has images that none of its messages shows",
    chat(user(), answer([{"type": "image", "image": PIXEL}])): "shows an image in an answer",
    showing(7): "an image is neither a path nor bytes nor base64",
    showing("https://example.com/a.png"): "shows an image of the network; download it first",
    showing("data:image/gif;base64,?"): "an image is no base64",
    showing(PIXEL): "the chat template takes no images",
    chat(*([user(), answer()] * 5)): "of more than 8 turns",
    chat(user("x" * 2 * MAX_LENGTH), answer()): f"longer than {MAX_LENGTH} tokens",
}  # fmt: skip
WORDS = "what is the shape of a river that runs for ten thousand years , and who was there to see it ? 3 . 14".split()


# ---------------------------------------------------------------- good ones


def good(count: int) -> Iterator[Turns]:
    """Of one to three questions and their answers, of up to 60 words."""
    rng = random.Random(1)

    def text(longest: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, longest)))

    for number in range(count):
        turns = [("user", f"{number}: {text(30)}"), ("assistant", text(60))]
        for _ in range(rng.choice((0, 0, 1, 2))):
            turns += [("user", text(30)), ("assistant", text(60))]
        yield turns


def record(number: int, turns: Turns) -> dict[str, object]:
    """In one form after the other."""
    messages = [{"role": role, "content": text} for role, text in turns]
    if number % 3 == 0:
        return {"messages": messages}
    if number % 3 == 1 or len(turns) > 2:
        names = {"user": "human", "assistant": "gpt"}
        return {"conversations": [{"from": names[role], "value": text} for role, text in turns]}
    return {"question": turns[0][1], "answer": turns[1][1]}


def text_of(turns: Turns) -> str:
    return "".join(f"<|turn>{role}\n{text}<turn|>\n" for role, text in turns)


def targets_of(turns: Turns) -> str:
    return "".join(f"{text}<turn|>" for role, text in turns if role == "assistant")


def write_records(path: Path, count: int) -> None:
    with path.open("wb") as file:
        for number, turns in enumerate(good(count)):
            if number % 100 == 0:
                file.writelines(line + b"\n" for line in BAD)
            file.write(json.dumps(record(number, turns)).encode() + b"\n")


# ---------------------------------------------------------------- checks


def check_samples(path: Path, tokenizer: Tokenizer, count: int) -> None:
    """Every sample against an independent rendering, and its targets."""
    with h5py.File(path) as file:
        tokens, mask, offsets = (file[name][:] for name in ("tokens", "loss_mask", "offsets"))
    assert len(offsets) == count + 1, f"{len(offsets) - 1} samples"
    expected = good(count)
    for begin in range(0, count, 1000):
        ends = offsets[begin : begin + 1001]
        pieces = list(zip(ends, ends[1:]))
        texts = tokenizer.decode_batch([tokens[a:b].tolist() for a, b in pieces], skip_special_tokens=False)
        targets = tokenizer.decode_batch(
            [tokens[a:b][mask[a:b] == 1].tolist() for a, b in pieces], skip_special_tokens=False
        )
        for number, turns in enumerate(islice(expected, len(pieces)), begin):
            found = texts[number - begin], targets[number - begin]
            assert found == (text_of(turns), targets_of(turns)), f"sample {number}: {found}"


def check_report(result: subprocess.CompletedProcess, source: Path, count: int) -> None:
    skipped = (line.split(" ", 2)[1:] for line in result.stdout.splitlines() if line.startswith("skipped: "))
    counts = {reason: int(number) for number, reason in skipped}
    expected = {reason: kinds * count // 100 for reason, kinds in Counter(BAD.values()).items()}
    assert counts == expected, sorted(counts.items() ^ expected.items())
    named = [line for line in result.stderr.splitlines() if line.startswith((f"{source}:", "and "))]
    assert len(named) == 11 and named[0].startswith(f"{source}:1: not JSON: "), named
    assert named[10] == f"and {count // 100 * len(BAD) - 10} more", named


def seconds_of_one_core(tokenizer: Tokenizer, count: int) -> float:
    texts = [text_of(turns) for turns in good(count)]
    begin = time.process_time()
    for first in range(0, count, 128):
        tokenizer.encode_batch(texts[first : first + 128], add_special_tokens=False)
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=1000, help="good ones; a multiple of 100")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    count = arguments.conversations
    with tempfile.TemporaryDirectory() as folder:
        source, model, out = Path(folder) / "chats.jsonl", Path(folder) / "model", Path(folder) / "train.h5"
        model.mkdir()
        (model / "config.json").write_text(json.dumps({"vocab_size": 512, "pad_token_id": 0}))
        small_tokenizer.train_into(model, [" ".join(WORDS)])
        (model / "chat_template.jinja").write_text(TEMPLATE)
        write_records(source, count)
        command = [sys.executable, SCRIPTS / "prepare_data.py", source, "--tokenizer", model, "--out", out]
        command += ["--max-turns", 8, "--max-length", MAX_LENGTH, "--processes", arguments.processes]
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        check_report(result, source, count)
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        check_samples(out, tokenizer, count)
        made, tokenised = (count / t for t in (used.ru_utime + used.ru_stime, seconds_of_one_core(tokenizer, count)))
        print(f"{result.stdout.splitlines()[0]}, beside {count // 100 * len(BAD)} records of {len(BAD)} bad kinds")
        print(f"{made:.0f} samples a second of one core's time; tokenised alone: {tokenised:.0f}")


if __name__ == "__main__":
    main()
