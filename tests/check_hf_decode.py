#!/usr/bin/env python3
"""mtp-bench-decode against Hugging Face, token for token (scripts/dev/check_hf_decode.py): trained and random pairs, with
and without centroids, at both position offsets, with end tokens, with images and sound; and validation on the base's own texts.

    .venv-hf/bin/python tests/check_hf_decode.py PROGRAMS [CASE …]
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from safetensors.torch import load_file, save_file

TESTS = Path(__file__).parent
SCRIPTS = TESTS.parent / "scripts"
sys.path[:0] = [str(SCRIPTS / "dev"), str(TESTS / "reference")]
import check_hf_decode
from check_hf_load import directory_of
from job import run_cases
from joint_reference import make_data

VOCAB, SYMBOLS = 512, 24  # of the pair, and as many as the texts have
SETTINGS = {
    "--train.max_steps": 60,
    "--train.global_batch": 8,
    "--train.micro_batch": 4,
    "--optimizer.lr": 5e-3,
    "--drafter.loss_weight": 0.3,
    "--checkpoint.export_at_end": "true",
}


class Case:
    """A tiny pair, its data and prompts, which are the beginnings of some texts."""

    def __init__(self, programs: Path, folder: Path):
        self.programs, self.folder = programs, folder
        self.call("mtp-make-pair", "--preset", "tiny", "--out", folder / "pair")
        self.base, self.drafter = folder / "pair/base", folder / "pair/drafter"
        self.data, self.prompts, self.logits = folder / "train.h5", folder / "prompts.h5", folder / "logits.safetensors"
        make_data(SYMBOLS, 256, 64, self.data, seed=0)
        with h5py.File(self.data, "r+") as file:
            file.attrs["vocab_size"] = VOCAB

    def call(self, program: str, *words: object) -> None:
        command = [str(word) for word in (self.programs / program, *words)]
        result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert result.returncode == 0, f"{program}: exit {result.returncode}: {result.stderr[-500:]}"

    def edit_drafter(self, **changes: object) -> None:
        path = self.drafter / "config.json"
        config = json.loads(path.read_text()) | changes
        path.write_text(json.dumps(config))
        if not config["use_ordered_embeddings"]:
            weights = self.drafter / "model.safetensors"
            tensors = {name: t for name, t in load_file(weights).items() if not name.startswith("masked_embedding.")}
            save_file(tensors, weights, {"format": "pt"})

    def train(self) -> None:
        run = self.folder / "run"
        words = [word for setting in SETTINGS.items() for word in setting]
        self.call(
            "mtp-train", "--model.base", self.base, "--model.drafter", self.drafter, "--data.train", self.data,
            "--run.dir", run, *words,
        )  # fmt: skip
        self.base, self.drafter = directory_of(run / "hf", "base"), directory_of(run / "hf", "drafter")

    def decode(self, prompts: int, most: int, *options: object) -> Path:
        with h5py.File(self.data) as data:
            offsets = data["offsets"][:]
            texts = [data["tokens"][offsets[i] : offsets[i] + 6 + 4 * i] for i in range(prompts)]
        with h5py.File(self.prompts, "w") as file:
            file.attrs.update({"format": "mtp-data", "version": 1, "vocab_size": VOCAB, "pad_token_id": 0})
            file["tokens"] = np.concatenate(texts).astype(np.int32)
            file["offsets"] = np.cumsum([0, *map(len, texts)]).astype(np.int64)
        return self.decode_prompts(most, *options)

    def decode_prompts(self, most: int, *options: object) -> Path:
        decoded = self.folder / "decoded.json"
        self.call(
            "mtp-bench-decode", "--base", self.base, "--drafter", self.drafter, "--prompts", self.prompts,
            "--json", decoded, "--logits", self.logits, "--max-new-tokens", most, *options,
        )  # fmt: skip
        return decoded

    def compare(self, decoded: Path) -> tuple[check_hf_decode.Outcome, str]:
        with contextlib.redirect_stdout(io.StringIO()) as text:
            outcome = check_hf_decode.check(self.base, self.drafter, self.prompts, decoded, self.logits)
        return outcome, text.getvalue()

    def expect_agreement(self, decoded: Path) -> check_hf_decode.Outcome:
        outcome, text = self.compare(decoded)
        assert outcome.failures == 0, text
        return outcome


def accepted(decoded: Path) -> int:
    return sum(record["accepted"] for record in json.loads(decoded.read_text())["drafted"]["prompts"])


def check_random(case: Case) -> None:
    case.expect_agreement(case.decode(3, 32, "--position-offset", 0))


def check_centroids(case: Case) -> None:
    """Most centroids are chosen, so that a drafter without trained ones still finds some of the tokens."""
    case.edit_drafter(centroid_intermediate_top_k=12)
    case.train()
    decoded = case.decode(3, 40, "--position-offset", 0, "--drafts", 3)
    assert accepted(decoded) > 10, decoded.read_text()
    case.expect_agreement(decoded)


def check_dense(case: Case) -> None:
    """Texts longer than the sliding window, to their full length and to their end tokens; validation on them."""
    case.edit_drafter(use_ordered_embeddings=False)
    case.train()
    decoded = case.decode(4, 48)
    assert accepted(decoded) > 20, decoded.read_text()
    ids = json.loads(decoded.read_text())["plain"]["prompts"][0]["output_ids"]
    outcome = case.expect_agreement(decoded)
    check_validation(case, decoded, outcome.accepted_length)
    check_tampering(case)

    generation = json.loads((case.base / "generation_config.json").read_text())
    generation["eos_token_id"] = [1, ids[20]]
    (case.base / "generation_config.json").write_text(json.dumps(generation))
    decoded = case.decode(3, 32)
    records = json.loads(decoded.read_text())["drafted"]["prompts"]
    assert records[0]["new_tokens"] <= 21 and records[0]["output_ids"][-1] == ids[20], records[0]
    case.expect_agreement(decoded)
    case.expect_agreement(case.decode(1, 32, "--ignore-eos", "true"))


def check_images(case: Case) -> None:
    check_fixture(case, "dense_31b_vision")


def check_unified(case: Case) -> None:
    check_fixture(case, "unified")


def check_sound(case: Case) -> None:
    check_fixture(case, "e4b_audio")


def check_experts(case: Case) -> None:
    check_fixture(case, "experts_26b")


def check_fixture(case: Case, name: str) -> None:
    """Prompts with none, one and two images, with sound where the base hears; images that see themselves whole."""
    fixture = TESTS / "fixtures" / name
    case.base, case.drafter = fixture / "base", fixture / "drafter"
    with h5py.File(fixture / "data.h5") as data, h5py.File(case.prompts, "w") as prompts:
        prompts.attrs.update(data.attrs)
        for name in data.keys() - {"loss_mask"}:
            data.copy(name, prompts)
    case.expect_agreement(case.decode_prompts(16, "--ignore-eos", "true"))


def check_validation(case: Case, decoded: Path, expected: float) -> None:
    """On the decoded texts, mtp-train's accepted length is that of the loop on Hugging Face's modules, and its tokens a
    step are those that decoding measured."""
    data, run = case.folder / "own.h5", case.folder / "validated"
    words = [SCRIPTS / "prepare_data.py", "--continuations", decoded, "--prompts", case.prompts, "--out", data]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    case.call(
        "mtp-train", "--model.base", case.base, "--model.drafter", case.drafter, "--data.train", data,
        "--data.validation", data, "--validation.every_steps", 1, "--train.max_steps", 1, "--train.global_batch", 1,
        "--optimizer.lr", 0, "--schedule.init_lr", 0, "--schedule.min_lr", 0, "--run.dir", run,
    )  # fmt: skip
    validated = json.loads((run / "validation.jsonl").read_text().splitlines()[-1])
    length = validated["accepted_length"]
    assert abs(length - expected) < 1e-9, f"validation's accepted length {length}, Hugging Face's {expected}"
    measured = json.loads(decoded.read_text())["drafted"]["aggregate"]
    steps = measured["target_forwards"] - measured["prompts"]
    decoding, validation = (measured["new_tokens"] - measured["prompts"]) / steps, validated["tokens_per_step"]
    # They differ in the last steps of a text, which have fewer drafts.
    assert abs(validation / decoding - 1) < 0.05, f"tokens a step: validation {validation}, decoding {decoding}"


def check_tampering(case: Case) -> None:
    """A wrong token and a wrong count of drafts are seen."""

    def expect_failure(change: Callable[[dict], None], line: str) -> None:
        decoded = case.decode(1, 16)
        content = json.loads(decoded.read_text())
        change(content)
        decoded.write_text(json.dumps(content))
        outcome, text = case.compare(decoded)
        found = [failed for failed in text.splitlines() if failed.startswith("FAILED") and line in failed]
        assert outcome.failures and found, f"expected a failure with {line!r}: {text}"

    def change_token(content: dict) -> None:
        for way in ("plain", "drafted"):
            content[way]["prompts"][0]["output_ids"][5] += 1

    def change_count(content: dict) -> None:
        content["drafted"]["prompts"][0]["accepted_at"][0] += 1

    expect_failure(change_token, "generate: token 5: ours")
    expect_failure(change_count, "on Hugging Face's modules")


if __name__ == "__main__":
    torch.set_num_threads(1)
    cases = {"random": check_random, "centroids": check_centroids, "dense": check_dense, "images": check_images}
    cases |= {"unified": check_unified, "sound": check_sound, "experts": check_experts}
    sys.exit(run_cases(__doc__, cases, Case))
