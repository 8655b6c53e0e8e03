#!/usr/bin/env python3
"""Greedy answers of an engine to the prompts of a file, and what it counts of its drafts, as JSON; a part of
check_serving.py. Run by the Python of an environment that has the engine and h5py (docs/serving.md says how to make it):

    ENV/bin/python scripts/dev/serve_with_engine.py vllm      --base DIR --drafter DIR --prompts prompts.h5 --out FILE
    ENV/bin/python scripts/dev/serve_with_engine.py llama.cpp --base FILE.gguf --drafter FILE.gguf --prompts … --out …

Without --drafter the base answers alone.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import h5py

Served = dict[str, object]  # answers; drafted and accepted, with a drafter


def read_prompts(path: Path) -> list[list[int]]:
    with h5py.File(path) as file:
        tokens, offsets = file["tokens"][:].tolist(), file["offsets"][:].tolist()
    return [tokens[begin:end] for begin, end in pairwise(offsets)]


def serve_with_vllm(args: argparse.Namespace, prompts: list[list[int]]) -> Served:
    # A processor's engine; cores are not bound, so that it runs in a container, too.
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCHDYNAMO_DISABLE": "1"}
    from vllm import LLM, SamplingParams

    speculative = {"method": "mtp", "model": str(args.drafter), "num_speculative_tokens": args.drafts}
    engine = LLM(
        model=str(args.base),
        dtype="float32",
        enforce_eager=True,
        max_model_len=1024,
        disable_log_stats=False,
        speculative_config=speculative if args.drafter else None,
    )
    sampling = SamplingParams(temperature=0, max_tokens=args.max_new_tokens)
    results = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling)
    answers = [list(result.outputs[0].token_ids) for result in results]
    counters = {metric.name: metric.value for metric in engine.get_metrics() if hasattr(metric, "value")}
    # Its own count of accepted drafts goes on behind an end token. Each forward gives one token more than it accepts.
    steps = counters.get("vllm:spec_decode_num_drafts", 0)
    return {
        "answers": answers,
        "drafted": counters.get("vllm:spec_decode_num_draft_tokens", 0),
        "accepted": sum(len(answer) - 1 for answer in answers) - steps if args.drafter else 0,
    }


def serve_with_llama_cpp(args: argparse.Namespace, prompts: list[list[int]]) -> Served:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(args.base)
    params.n_ctx, params.n_parallel = 1024, 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if args.drafter:
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_MTP]
        params.speculative.draft.mparams.path = str(args.drafter)
        params.speculative.draft.n_max = args.drafts
    server = xllamacpp.Server(params)
    request = {"n_predict": args.max_new_tokens, "temperature": 0, "logprobs": 1, "cache_prompt": False}
    served = [server.handle_completions({"prompt": prompt, **request}) for prompt in prompts]
    return {
        "answers": [[token["id"] for token in one["choices"][0]["logprobs"]["content"]] for one in served],
        "drafted": sum(one["timings"].get("draft_n", 0) for one in served),
        "accepted": sum(one["timings"].get("draft_n_accepted", 0) for one in served),
    }


ENGINES = {"vllm": (serve_with_vllm, "vllm-cpu"), "llama.cpp": (serve_with_llama_cpp, "xllamacpp")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--drafter", type=Path)
    parser.add_argument("--prompts", type=Path, required=True, help="the prompts file of mtp-bench-decode")
    parser.add_argument("--drafts", type=int, required=True)
    parser.add_argument("--max-new-tokens", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    serve, package = ENGINES[args.engine]
    served = serve(args, read_prompts(args.prompts))
    args.out.write_text(json.dumps({"version": f"{package} {version(package)}", **served}))


if __name__ == "__main__":
    main()
