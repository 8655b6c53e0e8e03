#!/usr/bin/env python3
"""Whether an engine serves an exported pair as it is, with the greedy tokens that mtp-bench-decode found.

Run by the Python of an environment that has the engine and h5py (docs/serving.md says how to make one):

    ENV/bin/python scripts/dev/check_engines.py vllm      --base DIR --drafter DIR --prompts prompts.h5 --decoded decoded.json
    ENV/bin/python scripts/dev/check_engines.py llama.cpp --base FILE.gguf --drafter FILE.gguf --prompts … --decoded …
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import h5py

DRAFTS = 4


@dataclass(frozen=True)
class Prompt:
    tokens: list[int]
    expected: list[int]  # an end token included


def read_prompts(prompts: Path, decoded: Path) -> list[Prompt]:
    answers = json.loads(decoded.read_text())["plain"]["prompts"]
    with h5py.File(prompts) as file:
        tokens, offsets = file["tokens"][:].tolist(), file["offsets"][:].tolist()
    return [
        Prompt(tokens[begin:end], answer["output_ids"])
        for (begin, end), answer in zip(pairwise(offsets), answers, strict=True)
    ]


def serve_with_vllm(base: Path, drafter: Path | None, prompts: Sequence[Prompt], limit: int) -> list[list[int]]:
    # A processor's engine; cores are not bound, so that it runs in a container, too.
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCHDYNAMO_DISABLE": "1"}
    from vllm import LLM, SamplingParams

    speculative = {"method": "mtp", "model": str(drafter), "num_speculative_tokens": DRAFTS} if drafter else None
    engine = LLM(
        model=str(base), dtype="float32", enforce_eager=True, max_model_len=1024, speculative_config=speculative
    )
    results = engine.generate(
        [{"prompt_token_ids": prompt.tokens} for prompt in prompts], SamplingParams(temperature=0, max_tokens=limit)
    )
    return [list(result.outputs[0].token_ids) for result in results]


def serve_with_llama_cpp(base: Path, drafter: Path | None, prompts: Sequence[Prompt], limit: int) -> list[list[int]]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(base)
    params.n_ctx, params.n_parallel = 1024, 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if drafter:
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_MTP]
        params.speculative.draft.mparams.path = str(drafter)
        params.speculative.draft.n_max = DRAFTS
    server = xllamacpp.Server(params)
    request = {"n_predict": limit, "temperature": 0, "logprobs": 1, "cache_prompt": False}
    answers = [server.handle_completions({"prompt": p.tokens, **request})["choices"][0] for p in prompts]
    return [[token["id"] for token in answer["logprobs"]["content"]] for answer in answers]


ENGINES = {"vllm": serve_with_vllm, "llama.cpp": serve_with_llama_cpp}


def without_end(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Engines differ in whether an answer has the end token that ends it."""
    return list(tokens[:-1] if tokens and tokens[-1] in ends else tokens)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--drafter", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True, help="the prompts file of mtp-bench-decode")
    parser.add_argument("--decoded", type=Path, required=True, help="what mtp-bench-decode --json wrote")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="as given to mtp-bench-decode")
    parser.add_argument("--end-tokens", type=int, nargs="*", default=[1, 5], help="default: those of small pairs")
    args = parser.parse_args()
    prompts = read_prompts(args.prompts, args.decoded)
    failed = False
    for name, drafter in (("base alone", None), ("with the drafter", args.drafter)):
        served = ENGINES[args.engine](args.base, drafter, prompts, args.max_new_tokens)
        same = [
            without_end(tokens, args.end_tokens) == without_end(prompt.expected, args.end_tokens)
            for tokens, prompt in zip(served, prompts, strict=True)
        ]
        print(f"{args.engine}, {name}: {sum(same)} of {len(same)} answers are the same", flush=True)
        failed |= not all(same)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
