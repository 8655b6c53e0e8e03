#!/usr/bin/env python3
"""A page of how a pair answered questions about pictures, and how many of its answers are right.

    scripts/answers_page.py --questions DIR/held_out.jsonl --decoded decoded.json --tokenizer DIR --out answers.html

takes the questions of scripts/picture_questions.py and what mtp-bench-decode made of them, in the same order.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mtp_tools import files
from mtp_tools.data.chat_tokenizer import ChatTokenizer
from mtp_tools.data.prompt_files import read_decoded
from mtp_tools.pictures import page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, required=True, help="with the pictures beside it")
    parser.add_argument("--decoded", type=Path, required=True, help="what mtp-bench-decode --json wrote")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="DIR", help="Hugging Face directory of the base")
    parser.add_argument("--out", type=Path, required=True, help="HTML file to write")
    args = parser.parse_args()
    tokenizer = ChatTokenizer(args.tokenizer)
    records = [json.loads(line) for line in files.read_text(args.questions).splitlines()]
    decoded = read_decoded(args.decoded)
    if len(decoded) < 2:
        raise SystemExit(f"{args.decoded}: was decoded in one way alone; the page shows both (mtp-bench-decode --mode both)")
    ways = decoded["plain"], decoded["drafted"]
    answers = [
        page.of_record(record, args.questions.parent, plain, drafted, tokenizer)
        for record, plain, drafted in zip(records, *ways, strict=True)
    ]
    files.write(args.out, page.html("Questions about pictures", answers))
    for kind in page.results_of(answers):
        print(f"{kind.name:<20}{kind.right:>4} of {kind.asked} right, by chance 1 in {kind.answers}")
    print(f"{'all':<20}{sum(answer.is_right for answer in answers):>4} of {len(answers)} right")
    print(args.out)


if __name__ == "__main__":
    main()
