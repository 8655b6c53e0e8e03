#!/usr/bin/env python3
"""Pictures made of the photographs that come with scikit-image and scikit-learn, and questions about them whose answers
are computed from their pixels.

    .venv-hf/bin/python scripts/picture_questions.py --out DIR

writes conversations of several questions about one picture to DIR/train.jsonl, single questions about pictures of other
photographs to DIR/held_out.jsonl, both for prepare_data.py, and the pictures beside them.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mtp_tools.pictures import photographs
from mtp_tools.pictures.questions import KINDS, Kind


@dataclass(frozen=True)
class Picture:
    content: bytes  # of a JPEG file
    answers: dict[str, str]  # by kind of question, without those that it leaves open

    @staticmethod
    def of(image: Image.Image) -> Picture:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        with Image.open(file) as saved:
            pixels = np.asarray(saved)
        answers = {kind.name: kind.answer(pixels) for kind in KINDS}
        return Picture(file.getvalue(), {name: answer for name, answer in answers.items() if answer})


def pictures(names: tuple[str, ...], rng: np.random.Generator) -> Iterator[Picture]:
    """Without end, of one photograph after the other."""
    for photo in itertools.cycle([photographs.photograph(name) for name in names]):
        yield Picture.of(photographs.picture(photo, rng))


def conversation(picture: Picture, path: str, rng: np.random.Generator) -> dict[str, object]:
    """All questions that the picture answers, in any order."""
    messages: list[dict[str, object]] = []
    kinds = [kind for kind in KINDS if kind.name in picture.answers]
    for i in rng.permutation(len(kinds)):
        messages.append({"role": "user", "content": str(rng.choice(kinds[i].wordings))})
        messages.append({"role": "assistant", "content": picture.answers[kinds[i].name]})
    messages[0]["content"] = [{"type": "image", "path": path}, {"type": "text", "text": messages[0]["content"]}]
    return {"messages": messages}


def question(picture: Picture, path: str, kind: Kind, rng: np.random.Generator) -> dict[str, object]:
    wording = str(rng.choice(kind.wordings))
    return {"image": path, "prompt": wording, "response": picture.answers[kind.name], "kind": kind.name}


def write_training(out: Path, count: int, rng: np.random.Generator) -> None:
    with open(out / "train.jsonl", "w") as file:
        for i, picture in enumerate(itertools.islice(pictures(photographs.TO_LEARN, rng), count)):
            name = f"train_{i:05}.jpg"
            (out / name).write_bytes(picture.content)
            file.write(json.dumps(conversation(picture, name, rng)) + "\n")


def write_held_out(out: Path, count: int, rng: np.random.Generator) -> None:
    """As many questions of each kind."""
    made = pictures(photographs.HELD_OUT, rng)
    with open(out / "held_out.jsonl", "w") as file:
        for i, kind in enumerate(itertools.islice(itertools.cycle(KINDS), count)):
            picture = next(picture for picture in made if kind.name in picture.answers)
            name = f"held_out_{i:05}.jpg"
            (out / name).write_bytes(picture.content)
            file.write(json.dumps(question(picture, name, kind, rng)) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--pictures", type=int, default=2000, help="to learn from (default 2000)")
    parser.add_argument("--questions", type=int, default=100, help="held out (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of all choices (default 0)")
    args = parser.parse_args()
    training, held_out = np.random.default_rng(args.seed).spawn(2)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        write_training(args.out, args.pictures, training)
        write_held_out(args.out, args.questions, held_out)
    except OSError as error:
        raise SystemExit(f"{error.filename or args.out}: cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    main()
