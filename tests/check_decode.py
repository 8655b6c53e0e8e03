#!/usr/bin/env python3
"""mtp-bench-decode: what its JSON says, that with and without the drafter it says the same, and what it refuses.

    .venv/bin/python tests/check_decode.py PROGRAMS [CASE …]
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from job import FIXTURE, MPI, mpirun, run_cases

VOCABULARY = 512
AGGREGATE = {
    "prompts", "new_tokens", "target_forwards", "prefill_time", "decode_time",
    "tokens_per_second", "tokens_per_forward",
}  # fmt: skip
PROMPT = {
    "index", "prompt_tokens", "new_tokens", "output_ids", "target_forwards", "prefill_time", "decode_time",
}  # fmt: skip
DRAFTED = {"drafted", "accepted", "accepted_at", "accepted_by_forward"}
DRAFTED_AGGREGATE = {"drafted", "accepted", "accepted_at"}
LENGTHS = (1, 9, 40)


class Bench:
    """The program on a tiny random pair and three prompts."""

    def __init__(self, programs: Path, folder: Path):
        self.programs, self.folder = programs, folder
        self.pair, self.prompts, self.json = folder / "pair", folder / "prompts.h5", folder / "out.json"
        subprocess.run(
            [programs / "mtp-make-pair", "--preset", "tiny", "--out", self.pair], check=True, stdout=subprocess.DEVNULL
        )
        self.write_prompts()

    def write_prompts(self, change: Callable[[h5py.File], None] = lambda file: None) -> None:
        tokens = np.random.default_rng(1).integers(3, VOCABULARY, sum(LENGTHS)).astype(np.int32)
        with h5py.File(self.prompts, "w") as file:
            file.attrs.update({"format": "mtp-data", "version": 1, "vocab_size": VOCABULARY, "pad_token_id": 0})
            file["tokens"] = tokens
            file["offsets"] = np.cumsum([0, *LENGTHS]).astype(np.int64)
            change(file)

    def run(self, *options: str, launcher: list[str] | None = None) -> subprocess.CompletedProcess:
        paths = {"base": self.pair / "base", "drafter": self.pair / "drafter", "prompts": self.prompts}
        command = [*(launcher or []), self.programs / "mtp-bench-decode", "--json", self.json]
        for name, path in paths.items():
            command += [] if f"--{name}" in options else [f"--{name}", path]
        return subprocess.run([*command, *options], env=os.environ | MPI, capture_output=True, text=True)

    def results(self, *options: str) -> dict:
        done = self.run(*options)
        assert done.returncode == 0, done.stderr
        return json.loads(self.json.read_text())

    def refuses(self, code: int, line: str, *options: str, **more: object) -> None:
        self.json.unlink(missing_ok=True)
        done = self.run(*options, **more)
        errors = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
        assert done.returncode == code, f"exit code {done.returncode}, not {code}: {done.stderr}"
        assert len(errors) == 1 and re.search(line, errors[0]), f"expected {line!r}: {done.stderr}"
        assert not self.json.exists(), "wrote results"


def check_sums(run: dict, drafts: int) -> None:
    total, prompts = run["aggregate"], run["prompts"]
    assert total.keys() == AGGREGATE | (DRAFTED_AGGREGATE if drafts else set()), total.keys()
    assert total["prompts"] == len(prompts) == len(LENGTHS)
    for key in ("new_tokens", "target_forwards", *(("drafted", "accepted") if drafts else ())):
        assert total[key] == sum(prompt[key] for prompt in prompts), key
    for key in ("prefill_time", "decode_time"):
        assert abs(total[key] - sum(prompt[key] for prompt in prompts)) < 1e-9, key
    decoded = total["new_tokens"] - total["prompts"]
    assert abs(total["tokens_per_second"] * total["decode_time"] - decoded) < 1e-6 * decoded
    assert abs(total["tokens_per_forward"] * total["target_forwards"] - total["new_tokens"]) < 1e-6
    for index, prompt in enumerate(prompts):
        assert prompt.keys() == PROMPT | (DRAFTED if drafts else set()), prompt.keys()
        assert prompt["index"] == index and prompt["prompt_tokens"] == LENGTHS[index]
        assert prompt["new_tokens"] == len(prompt["output_ids"]) > 0
        assert all(0 <= token < VOCABULARY for token in prompt["output_ids"])
        accepted = prompt["accepted"] if drafts else 0
        assert prompt["new_tokens"] == prompt["target_forwards"] + accepted
        if drafts:
            assert len(prompt["accepted_at"]) == drafts and sum(prompt["accepted_at"]) == accepted
            assert accepted <= prompt["drafted"] <= drafts * (prompt["target_forwards"] - 1)
            by_forward = prompt["accepted_by_forward"]
            assert len(by_forward) == prompt["target_forwards"] - 1 and sum(by_forward) == accepted
            at_least = [sum(count > place for count in by_forward) for place in range(drafts)]
            assert prompt["accepted_at"] == at_least, (prompt["accepted_at"], by_forward)


def results_add_up(bench: Bench) -> None:
    results = bench.results("--drafts", "3", "--max-new-tokens", "20", "--ignore-eos", "true", "--threads", "1")
    assert results.keys() == {"settings", "plain", "drafted"}
    settings = results["settings"]
    assert (settings["drafts"], settings["max_new_tokens"], settings["ignore_eos"]) == (3, 20, True), settings
    check_sums(results["plain"], 0)
    check_sums(results["drafted"], 3)
    for plain, drafted in zip(results["plain"]["prompts"], results["drafted"]["prompts"], strict=True):
        assert plain["output_ids"] == drafted["output_ids"] and plain["new_tokens"] == 20


def either_mode_alone_says_the_same(bench: Bench) -> None:
    options = ("--max-new-tokens", "16", "--position-offset", "0")
    both = bench.results(*options)
    for mode, other in (("plain", "drafted"), ("drafted", "plain")):
        alone = bench.results(*options, "--mode", mode, "--threads", "2")
        assert mode in alone and other not in alone
        ids = [[prompt["output_ids"] for prompt in run[mode]["prompts"]] for run in (both, alone)]
        assert ids[0] == ids[1], ids


def a_batch_says_what_single_runs_say(bench: Bench) -> None:
    def without_times(run: dict) -> list[dict]:
        return [{key: value for key, value in prompt.items() if not key.endswith("_time")} for prompt in run["prompts"]]

    options = ("--max-new-tokens", "16", "--drafts", "3")
    single, batch = bench.results(*options), bench.results(*options, "--batch", "2")
    assert (single["settings"]["batch"], batch["settings"]["batch"]) == (1, 2)
    for mode in ("plain", "drafted"):
        assert without_times(batch[mode]) == without_times(single[mode]), batch[mode]["prompts"]
        check_sums(batch[mode], 3 if mode == "drafted" else 0)


def sampled_tokens_depend_on_the_seed_and_not_on_the_batch(bench: Bench) -> None:
    def outputs(*options: str) -> list[list[list[int]]]:
        sampled = ("--max-new-tokens", "16", "--drafts", "3", "--temperature", "0.9", "--top-k", "50", "--top-p", "0.95")
        results = bench.results(*sampled, *options)
        for mode in ("plain", "drafted"):
            check_sums(results[mode], 3 if mode == "drafted" else 0)
        assert results["settings"]["top_p"] == 0.95, results["settings"]
        return [[prompt["output_ids"] for prompt in results[mode]["prompts"]] for mode in ("plain", "drafted")]

    first = outputs("--seed", "7")
    assert outputs("--seed", "7", "--batch", "3") == first
    assert outputs("--seed", "8") != first
    # Of one token, with the least randomness that there is.
    greedy = bench.results("--max-new-tokens", "9")["plain"]["prompts"]
    coldest = bench.results("--max-new-tokens", "9", "--temperature", "1", "--top-k", "1")["drafted"]["prompts"]
    assert [prompt["output_ids"] for prompt in coldest] == [prompt["output_ids"] for prompt in greedy]


def bf16_decodes_with_the_drafter_as_without(bench: Bench) -> None:
    results = bench.results("--max-new-tokens", "16", "--device", "cpu", "--compute-dtype", "bf16")
    assert (results["settings"]["device"], results["settings"]["compute_dtype"]) == ("cpu", "bf16"), results["settings"]
    ids = [[prompt["output_ids"] for prompt in results[mode]["prompts"]] for mode in ("plain", "drafted")]
    assert ids[0] == ids[1], ids
    assert bench.results("--max-new-tokens", "1", "--device", "cpu")["settings"]["compute_dtype"] == "fp32"


def an_end_token_ends_a_prompt(bench: Bench) -> None:
    endless = bench.results("--max-new-tokens", "20", "--ignore-eos", "true")["plain"]["prompts"]
    end = endless[1]["output_ids"][5]
    (bench.pair / "base" / "generation_config.json").write_text(json.dumps({"eos_token_id": [end, 1]}))
    results = bench.results("--max-new-tokens", "20")
    for run in (results["plain"], results["drafted"]):
        for prompt, whole in zip(run["prompts"], endless, strict=True):
            ids = whole["output_ids"]
            first_end = next((i for i, token in enumerate(ids) if token in (end, 1)), len(ids))
            assert prompt["output_ids"] == ids[: first_end + 1], prompt


def the_table_shows_both(bench: Bench) -> None:
    shown = bench.run("--max-new-tokens", "8").stdout
    for line in (r"^ +plain +drafted$", r"^target forwards +\d+ +\d+$", r"^speed-up +\d"):
        assert re.search(line, shown, re.MULTILINE), shown


def several_numbers_of_drafts_are_compared_by_kind(bench: Bench) -> None:
    def set_kinds(file: h5py.File) -> None:
        file["kind"] = np.array([1, 0, 1], np.int32)
        file["kind"].attrs["names"] = "code\nprose"

    options = ("--max-new-tokens", "16", "--ignore-eos", "true")
    alone = {drafts: bench.results(*options, "--drafts", drafts)["drafted"] for drafts in ("1", "3", "6")}
    bench.write_prompts(set_kinds)
    shown = bench.run(*options, "--drafts", "1", "3", "6").stdout
    results = json.loads(bench.json.read_text())
    assert results["by_drafts"].keys() == alone.keys()
    rates = {drafts: run["aggregate"]["tokens_per_second"] for drafts, run in results["by_drafts"].items()}
    best = max(rates, key=rates.get)
    assert results["settings"]["drafts"] == int(best), (rates, results["settings"])
    assert results["drafted"]["aggregate"] == results["by_drafts"][best]["aggregate"]
    assert [prompt["kind"] for prompt in results["drafted"]["prompts"]] == ["prose", "code", "prose"]
    for drafts, run in results["by_drafts"].items():
        for key in ("new_tokens", "target_forwards", "drafted", "accepted", "accepted_at"):
            assert run["aggregate"][key] == alone[drafts]["aggregate"][key], (drafts, key)
            of_kinds = np.array([run["kinds"][kind][key] for kind in ("code", "prose")])
            assert of_kinds.sum(0).tolist() == run["aggregate"][key], (drafts, key)
            prompt = alone[drafts]["prompts"][1]
            assert key not in prompt or run["kinds"]["code"][key] == prompt[key], (drafts, key)
    for line in (
        r"^ +plain +1 draft +3 drafts +6 drafts$",
        r"^  draft 1 +\d\.\d+ +\d\.\d+ +\d\.\d+$",
        r"^  draft 6 +\d\.\d+$",
        r"^tokens a forward, code( +\d\.\d+){3}$",
        r"^  speed-up, prose( +\d+\.\d+){3}$",
        rf"^fastest with {best} drafts?$",
    ):
        assert re.search(line, shown, re.MULTILINE), shown


def bad_prompts_are_refused(bench: Bench) -> None:
    def set_offsets(file: h5py.File) -> None:
        file["offsets"][2] = 1

    def set_token(file: h5py.File) -> None:
        file["tokens"][1] = VOCABULARY

    def set_mask(file: h5py.File) -> None:
        file["loss_mask"] = np.ones(sum(LENGTHS), np.uint8)

    def set_vocabulary(file: h5py.File) -> None:
        file.attrs["vocab_size"] = VOCABULARY + 1

    short = ("--max-new-tokens", "8")
    for line, change in (
        (r"prompts\.h5: prompt 1 lies at 1 to 1: a prompt must have at least 1 token", set_offsets),
        (r"prompts\.h5: prompt 1: token 0 is 512, outside the vocabulary", set_token),
        (r"prompts\.h5 is a data file for training", set_mask),
        (r"prompts\.h5: made for a vocabulary of 513 tokens, the base has 512", set_vocabulary),
    ):
        bench.write_prompts(change)
        bench.refuses(1, line, *short)
    bench.write_prompts()
    bench.refuses(1, r"none\.h5: cannot open", *short, "--prompts", str(bench.folder / "none.h5"))
    bench.refuses(1, r"data\.h5 is a data file for training", *short, "--prompts", str(FIXTURE / "data.h5"))


def bad_options_are_refused(bench: Bench) -> None:
    too_long = r"--max-new-tokens: prompt 2 of .* has 40 tokens, .* max_position_embeddings 256"
    bench.refuses(2, too_long, "--max-new-tokens", "217")
    bench.refuses(2, r"--batch: 0 is out of range", "--batch", "0")
    bench.refuses(2, r"--temperature: -1 is out of range", "--temperature=-1")
    bench.refuses(2, r"--temperature: nan is out of range", "--temperature", "nan")
    bench.refuses(2, r"--top-k: -1 is out of range", "--top-k=-1")
    bench.refuses(2, r"--top-p: 0 is out of range", "--top-p", "0")
    bench.refuses(2, r"--drafts: 0 is out of range", "--drafts", "0")
    bench.refuses(2, r"--position-offset: 2 is out of range", "--position-offset", "2")
    bench.refuses(2, r"--mode: fast is none of both, plain, drafted", "--mode", "fast")
    bench.refuses(2, r"--ignore-eos: yes is none of true, false", "--ignore-eos", "yes")
    bench.refuses(2, r"--device: gpu is none of auto, cpu, cuda", "--device", "gpu")
    bench.refuses(2, r"--compute-dtype: fp16 is none of fp32, bf16", "--compute-dtype", "fp16")
    if not Path("/dev/nvidiactl").exists():
        bench.refuses(2, r"--device: there is no CUDA device: .+; use cpu", "--device", "cuda")
    bench.refuses(2, r"unrecognised option '--draft'", "--draft", "3")
    bench.refuses(2, r"runs on one process", launcher=mpirun(2))
    bench.json = bench.folder / "none" / "out.json"
    bench.refuses(2, r"--json: .*none/out\.json cannot be written")


def a_bad_pair_is_refused(bench: Bench) -> None:
    bench.refuses(1, r"e4b/drafter.* does not fit ", "--drafter", str(FIXTURE / "drafter"))
    (bench.pair / "base" / "generation_config.json").write_text('{"eos_token_id": "end"}')
    bench.refuses(1, r"generation_config\.json: eos_token_id must be a token", "--max-new-tokens", "8")


CASES = (
    results_add_up,
    either_mode_alone_says_the_same,
    a_batch_says_what_single_runs_say,
    sampled_tokens_depend_on_the_seed_and_not_on_the_batch,
    bf16_decodes_with_the_drafter_as_without,
    an_end_token_ends_a_prompt,
    the_table_shows_both,
    several_numbers_of_drafts_are_compared_by_kind,
    bad_prompts_are_refused,
    bad_options_are_refused,
    a_bad_pair_is_refused,
)


if __name__ == "__main__":
    sys.exit(run_cases(__doc__, {case.__name__: case for case in CASES}, Bench))
