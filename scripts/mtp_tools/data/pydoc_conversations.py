"""Questions and answers about Python's standard library, from the documentation in the installed Python.

A real text corpus that is on every machine: the quick start trains on it without a download.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import pkgutil
import random
import re
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

Conversation = list[dict[str, str]]

# They open a browser, print or start something, need a display, hold tests or (encodings) a hundred near copies.
SKIPPED_PACKAGES = {
    "antigravity", "encodings", "ensurepip", "idlelib", "lib2to3", "test", "this", "tkinter", "turtle", "turtledemo",
}  # fmt: skip
SKIPPED_SUBMODULES = {"test", "tests", "idle_test"}
# Addresses and paths, those of this Python's own folder among them, differ from run to run and machine to machine.
MACHINE_TEXT = re.compile(rf"0x[0-9a-f]{{5,}}|/(home|root|usr|tmp)/|{re.escape(sys.prefix)}/")
LONGEST_ANSWER = 480  # characters


def conversations(seed: int) -> Iterator[Conversation]:
    """The same ones, in the same order, for the same Python and seed."""
    rng = random.Random(seed)
    found = [c for name, thing in documented_things() for c in about(name, thing, rng)]
    rng.shuffle(found)
    yield from found


# ---------------------------------------------------------------- the library


def documented_things() -> Iterator[tuple[str, object]]:
    """Every public module, class, function and method with its full name, each once."""
    seen: set[int] = set()
    for module in standard_modules():
        yield module.__name__, module
        for name, member in public_members(module):
            is_own = getattr(member, "__module__", None) in (module.__name__, f"_{module.__name__}")
            if not is_own or not (inspect.isclass(member) or inspect.isroutine(member)) or id(member) in seen:
                continue
            seen.add(id(member))
            yield f"{module.__name__}.{name}", member
            if inspect.isclass(member):
                yield from (
                    (f"{module.__name__}.{name}.{n}", m) for n, m in public_members(member) if inspect.isroutine(m)
                )


def standard_modules() -> Iterator[ModuleType]:
    warnings.simplefilter("ignore")  # deprecated modules have documentation too
    for name in sorted(sys.stdlib_module_names - SKIPPED_PACKAGES):
        if not name.startswith("_"):
            yield from with_submodules(name)


def with_submodules(name: str) -> Iterator[ModuleType]:
    module = import_quietly(name)
    if module is None:
        return
    yield module
    for found in sorted(pkgutil.iter_modules(getattr(module, "__path__", [])), key=lambda m: m.name):
        if not found.name.startswith("_") and found.name not in SKIPPED_SUBMODULES:
            yield from with_submodules(f"{name}.{found.name}")


def import_quietly(name: str) -> ModuleType | None:
    """None for a module that this system lacks a part of."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return importlib.import_module(name)
    except (Exception, SystemExit):
        return None


def public_members(owner: object) -> list[tuple[str, object]]:
    return sorted(((n, m) for n, m in vars(owner).items() if not n.startswith("_")), key=lambda item: item[0])


# ---------------------------------------------------------------- questions and answers


def about(name: str, thing: object, rng: random.Random) -> list[Conversation]:
    """A few conversations on one thing; none where its documentation says nothing."""
    paragraphs = paragraphs_of(thing)
    if not paragraphs or MACHINE_TEXT.search("".join(paragraphs)):
        return []
    if inspect.ismodule(thing):
        return about_module(name, thing, paragraphs, rng)
    if inspect.isclass(thing):
        return about_class(name, thing, paragraphs, rng)
    return about_function(name, thing, paragraphs, rng)


def about_module(name: str, module: ModuleType, paragraphs: list[str], rng: random.Random) -> list[Conversation]:
    purpose = rng.choice(["What is the module `{}` for?", "What does the module `{}` do?", "Describe the module `{}`."])
    made = [asked(purpose.format(name), cut(paragraphs))]
    functions = [n for n, m in public_members(module) if inspect.isroutine(m)]
    if functions:
        made.append(asked(f"Which functions does `{name}` have?", listed(functions)))
    return made


def about_class(name: str, cls: type, paragraphs: list[str], rng: random.Random) -> list[Conversation]:
    purpose = rng.choice(["What is `{}`?", "What is the class `{}` for?", "Explain the class `{}`."])
    first = asked(purpose.format(name), cut(paragraphs))
    methods = [n for n, m in public_members(cls) if inspect.isroutine(m)]
    return [first + asked("Which methods does it have?", listed(methods))] if methods else [first]


def about_function(name: str, function: object, paragraphs: list[str], rng: random.Random) -> list[Conversation]:
    purpose = rng.choice(["What does `{}` do?", "What is `{}` for?", "Explain `{}`.", "Tell me about `{}`."])
    call = signature(name, function)
    if call is None:
        return [asked(purpose.format(name), cut(paragraphs))]
    usage = asked(rng.choice(["How do I call `{}`?", "What are the arguments of `{}`?"]).format(name), call)
    return rng.choice(
        [
            [asked(purpose.format(name), cut([call, *paragraphs]))],
            [asked(purpose.format(name), cut(paragraphs)), usage],
            [usage + asked(rng.choice(["And what does it do?", "What is it for?"]), cut(paragraphs[:1]))],
        ]
    )


def asked(question: str, answer: str) -> Conversation:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def signature(name: str, function: object) -> str | None:
    try:
        text = f"`{name.split('.', name.count('.') - 1)[-1]}{inspect.signature(function)}`"
    except Exception:  # some functions written in C have none, or one that cannot be evaluated
        return None
    return None if MACHINE_TEXT.search(text) or " object at " in text or len(text) > LONGEST_ANSWER else text


def paragraphs_of(thing: object) -> list[str]:
    """Of the docstring; running text without its line breaks, everything indented as it is."""
    documentation = inspect.cleandoc(getattr(thing, "__doc__", None) or "")
    paragraphs = [p.strip("\n") for p in re.split(r"\n\s*\n", documentation) if p.strip()]
    return [p if re.search(r"^\s|^>>>", p, re.MULTILINE) else p.replace("\n", " ") for p in paragraphs]


def cut(paragraphs: list[str]) -> str:
    """As many whole paragraphs as fit an answer, and of a long first one as many whole sentences."""
    text = paragraphs[0]
    if len(text) > LONGEST_ANSWER:
        return text[: text.rfind(". ", 0, LONGEST_ANSWER) + 1] or text[: text.rfind(" ", 0, LONGEST_ANSWER)]
    for paragraph in paragraphs[1:]:
        if len(text) + len(paragraph) > LONGEST_ANSWER:
            break
        text += "\n\n" + paragraph
    return text


def listed(names: list[str]) -> str:
    shown = names[:16]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(f"`{n}`" for n in shown) + more + "."
