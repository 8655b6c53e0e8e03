"""A report's parts, and how they look as one HTML page that needs no other file, and as Markdown."""

from __future__ import annotations

from dataclasses import dataclass, field

from mtp_tools.bench.plots import Plot, svg
from jinja2 import Environment

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
  th, td { text-align: left; padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid #e4e4e4; }
  th { font-weight: 600; } summary { cursor: pointer; margin: .8rem 0; color: #4c72b0; }
  .share { display: inline-block; width: 6rem; height: .6rem; background: #e9edf4; margin-right: .5rem; }
  .share i { display: block; height: 100%; background: #4c72b0; }
  .side-by-side { display: flex; gap: 1.5rem; } .side-by-side > div { flex: 1; min-width: 0; }
  h4 { margin: 1rem 0 .2rem; font-weight: 600; font-size: .9rem; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; margin: 0; }
  .accepted { background: #cfe8d5; color: #14532d; }
  svg { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
</style>
<h1>{{ title }}</h1>
{% macro table(t) %}
<table>
{% if t.header | select | list %}<tr>{% for cell in t.header %}<th>{{ cell }}</th>{% endfor %}</tr>{% endif %}
{% for row in t.rows %}
<tr>{% for cell in row %}<td>
{%- if cell.value is defined -%}
<span class="share"><i style="width: {{ (100 * cell.value) | round(1) }}%"></i></span>
{%- endif %}{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endmacro %}
{% for section in sections %}
{% if section.title %}<h2>{{ section.title }}</h2>{% endif %}
{% if section.text %}<p>{{ section.text }}</p>{% endif %}
{% for t in section.tables %}{{ table(t) }}{% endfor %}
{% if section.plot %}{{ svg(section.plot) | safe }}{% endif %}
{% for row in section.passages %}
<div class="side-by-side">
{% for passage in row %}
<div><h4>{{ passage.title }}</h4><pre>
{%- for text, kind in passage.pieces %}<span class="{{ kind }}">{{ text }}</span>{% endfor -%}
</pre></div>
{% endfor %}
</div>
{% endfor %}
{% for t in section.details %}
<details><summary>All {{ t.rows | length }} results</summary>{{ table(t) }}</details>
{% endfor %}
{% endfor %}
</html>
"""

SUMMARY = """# {{ title }}
{% for section in sections if section.text or section.tables %}
## {{ section.title }}
{% if section.text %}
{{ section.text }}
{% endif %}
{% for t in section.tables %}
| {{ t.header | join(" | ") }} |
|{{ " --- |" * (t.header | length) }}
{% for row in t.rows %}
| {{ row | join(" | ") }} |
{% endfor %}
{% endfor %}
{% endfor %}
"""


@dataclass(frozen=True)
class Share:
    """Of a limit, drawn as a bar."""

    value: float

    def __str__(self) -> str:
        return f"{self.value:.2f}"


@dataclass
class Table:
    header: list[str]
    rows: list[list]


@dataclass
class Passage:
    """A text in pieces, each with its kind: a class of the page's style."""

    title: str
    pieces: list[tuple[str, str]]


@dataclass
class Section:
    title: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)
    details: list[Table] = field(default_factory=list)  # on the page only
    plot: Plot | None = None
    passages: list[list[Passage]] = field(default_factory=list)  # rows, side by side; on the page only


def scaled(value: float, units: list[tuple[float, str]]) -> str:
    factor, unit = next((u for u in units if value >= u[0]), units[-1])
    return f"{value / factor:.3g} {unit}"


def seconds_text(value: float) -> str:
    return scaled(value, [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")])


def bytes_text(value: float) -> str:
    return scaled(value, [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")])


def html(title: str, sections: list[Section]) -> str:
    return render(PAGE, title, sections, autoescape=True)


def markdown(title: str, sections: list[Section]) -> str:
    return render(SUMMARY, title, sections, autoescape=False)


def render(template: str, title: str, sections: list[Section], autoescape: bool) -> str:
    environment = Environment(autoescape=autoescape, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return environment.from_string(template).render(title=title, sections=sections, svg=svg)
