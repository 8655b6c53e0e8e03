"""One HTML page that needs no other file: pictures, questions about them, and how a pair answered."""

from __future__ import annotations

import base64
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment

from mtp_tools.data.chat_tokenizer import ChatTokenizer
from mtp_tools.pictures.questions import KINDS

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 74rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.5rem; } table { border-collapse: collapse; margin-bottom: 1rem; }
  th, td { text-align: left; padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid #e4e4e4; } th { font-weight: 600; }
  main { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1rem; margin-top: 1.5rem; }
  article { display: flex; gap: 1rem; border: 1px solid #e4e4e4; border-radius: .4rem; padding: .8rem; }
  figure { flex: none; width: 8rem; margin: 0; display: flex; justify-content: center; align-items: start; }
  img { max-width: 8rem; max-height: 8rem; } p { margin: 0 0 .4rem; } small { color: #6a6a6a; display: block; }
  .wrong { border-color: #c44e52; } .wrong em { color: #c44e52; font-style: normal; }
  mark { background: #cfe8d2; color: inherit; border-radius: .15rem; }
</style>
<h1>{{ title }}</h1>
<table>
<tr><th>question about</th><th>right</th><th>by chance</th></tr>
{% for kind in kinds %}
<tr><td>{{ kind.name }}</td><td>{{ kind.right }} of {{ kind.asked }}</td><td>1 in {{ kind.answers }}</td></tr>
{% endfor %}
<tr><th>all</th><th>{{ answers | selectattr("is_right") | list | length }} of {{ answers | length }}</th><th></th></tr>
</table>
<p>With the drafter a forward of the base gives {{ "%.2f" | format(tokens_per_forward) }} tokens. Marked is what was
drafted and accepted.</p>
<main>
{% for a in answers %}
<article{% if not a.is_right %} class="wrong"{% endif %}>
<figure><img alt="" src="data:image/jpeg;base64,{{ a.picture }}"></figure>
<div>
<p><b>{{ a.question }}</b></p>
<p>{{ a.alone }}<small>base alone, {{ a.forwards_alone }} forwards</small></p>
<p>{% for piece in a.drafted %}
{% if piece.is_accepted %}<mark>{{ piece.text }}</mark>{% else %}{{ piece.text }}{% endif %}
{% endfor %}<small>with the drafter, {{ a.forwards }} forwards</small></p>
{% if not a.is_right %}<em>Right is: {{ a.expected }}</em>{% endif %}
</div>
</article>
{% endfor %}
</main>
</html>
"""


@dataclass(frozen=True)
class Piece:
    """The text of one token."""

    text: str
    is_accepted: bool  # a draft, or else the base's own


@dataclass(frozen=True)
class Answer:
    kind: str
    question: str
    expected: str
    picture: str  # a JPEG file's content in base64
    alone: str
    forwards_alone: int
    drafted: list[Piece]
    forwards: int

    @property
    def is_right(self) -> bool:
        return self.alone == self.expected


@dataclass(frozen=True)
class KindResult:
    name: str
    right: int
    asked: int
    answers: int  # to choose from


def of_record(record: dict, folder: Path, plain: dict, drafted: dict, tokenizer: ChatTokenizer) -> Answer:
    """`record`: a line of held_out.jsonl; `plain`, `drafted`: what mtp-bench-decode says of it."""
    return Answer(
        kind=record["kind"],
        question=record["prompt"],
        expected=record["response"],
        picture=base64.b64encode((folder / record["image"]).read_bytes()).decode(),
        alone=tokenizer.decode(plain["output_ids"]),
        forwards_alone=plain["target_forwards"],
        drafted=pieces(drafted["output_ids"], drafted["accepted_by_forward"], tokenizer),
        forwards=drafted["target_forwards"],
    )


def pieces(ids: list[int], accepted_by_forward: list[int], tokenizer: ChatTokenizer) -> list[Piece]:
    """The prefill gives the first token, each forward its accepted drafts and a token of its own."""
    is_accepted = [False]
    for accepted in accepted_by_forward:
        is_accepted += [True] * accepted + [False]
    made, before = [], ""
    for end, accepted in zip(range(1, len(ids) + 1), is_accepted, strict=True):
        text = tokenizer.decode(ids[:end])
        made.append(Piece(text[len(before) :], accepted))
        before = text
    return made


def results_of(answers: list[Answer]) -> list[KindResult]:
    asked = Counter(answer.kind for answer in answers)
    right = Counter(answer.kind for answer in answers if answer.is_right)
    return [KindResult(k.name, right[k.name], asked[k.name], len(k.answers)) for k in KINDS if asked[k.name]]


def html(title: str, answers: list[Answer]) -> str:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    tokens = sum(len(answer.drafted) for answer in answers)
    return environment.from_string(PAGE).render(
        title=title,
        answers=answers,
        kinds=results_of(answers),
        tokens_per_forward=tokens / sum(answer.forwards for answer in answers),
    )
