#!/usr/bin/env python3
"""Compares what mtp-bench-decode wrote with Hugging Face, token for token, in fp32.

    mtp-bench-decode --base BASE --drafter DRAFTER --prompts prompts.h5 --json decoded.json
    .venv-hf/bin/python scripts/dev/check_hf_decode.py --base BASE --drafter DRAFTER --prompts prompts.h5 \\
        --decoded decoded.json

1. Generations: ours against Hugging Face's `generate`, greedy, without and with `assistant_model`. Where they part, two
   logits must be so close that rounding decides.
2. Drafts: a speculative loop on Hugging Face's modules, with the keys, positions and head that serve, must draft and
   accept as often as ours, prompt by prompt and place by place.
3. Logits (`--logits FILE` for both): the base's after each prompt.

Hugging Face's own assisted decoding (transformers 5.22.2) gives the same tokens in other steps: its drafter also sees
the keys of the first rejected draft, at the position of the token that came in its stead (and, once the text is longer
than the sliding window, those of all rejected drafts on sliding layers), and it drafts on after an end token.

Shapes: S positions of prompt and output, H base hidden size, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "reference"))
import joint_reference
from check_hf_load import MODELS

TIE = 1e-4  # logits that are closer may be ordered either way: the models compute in fp32, in other orders


# ---------------------------------------------------------------- what is compared


@dataclass
class Prompt:
    ids: list[int]
    ways: dict[str, dict]  # "plain" and "drafted": mtp-bench-decode's record
    images: Images | None = None
    clips: list[torch.Tensor] = field(default_factory=list)  # [frames, numbers] of each

    def inputs(self, output: list[int] | None = None) -> dict[str, torch.Tensor]:
        """What a model's forward takes of the prompt and of the tokens after it."""
        ids = torch.tensor([self.ids + (output or [])])
        inputs = {"input_ids": ids} | (self.images.inputs(ids) if self.images else {})
        if self.clips:
            longest = max(map(len, self.clips))
            frames = [torch.nn.functional.pad(clip, (0, 0, 0, longest - len(clip))) for clip in self.clips]
            valid = [torch.arange(longest) < len(clip) for clip in self.clips]
            inputs |= {"input_features": torch.stack(frames), "input_features_mask": torch.stack(valid)}
        return inputs


@dataclass
class Images:
    token_id: int
    patches: list[torch.Tensor]  # [patches, values] in 0 … 1, of each image
    widths: list[int]  # in patches

    def inputs(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        most = max(len(patches) for patches in self.patches)
        pixels = torch.zeros(len(self.patches), most, self.patches[0].shape[1])
        positions = torch.full((len(self.patches), most, 2), -1)  # -1: padding
        for i, (patches, width) in enumerate(zip(self.patches, self.widths)):
            n = torch.arange(len(patches))
            pixels[i, : len(n)] = patches
            positions[i, : len(n)] = torch.stack([n % width, n // width], dim=-1)
        types = (ids == self.token_id).long()
        return {"pixel_values": pixels, "image_position_ids": positions, "mm_token_type_ids": types}


def read_images(file: h5py.File, i: int) -> Images | None:
    """Of prompt i."""
    if "sample_images" not in file or file["sample_images"][i] == file["sample_images"][i + 1]:
        return None
    own = range(file["sample_images"][i], file["sample_images"][i + 1])
    places = [slice(file["image_offsets"][image], file["image_offsets"][image + 1]) for image in own]
    patches = [torch.tensor(file["patches"][place]).float() * (1 / 255) for place in places]
    return Images(int(file.attrs["image_token_id"]), patches, [int(file["image_sizes"][image, 0]) for image in own])


def read_clips(file: h5py.File, i: int) -> list[torch.Tensor]:
    """Of prompt i."""
    if "sample_audios" not in file:
        return []
    own, offsets = range(*file["sample_audios"][i : i + 2]), file["audio_offsets"]
    return [torch.tensor(file["audio_features"][offsets[clip] : offsets[clip + 1]]) for clip in own]


def read_prompts(prompts: Path, decoded: dict) -> list[Prompt]:
    ways = {way: decoded[way]["prompts"] for way in ("plain", "drafted") if way in decoded}
    with h5py.File(prompts) as file:
        tokens, offsets = file["tokens"][:].tolist(), file["offsets"][:].tolist()
        count = len(offsets) - 1
        media = [(read_images(file, i), read_clips(file, i)) for i in range(count)]
    if any([record["index"] for record in records] != list(range(count)) for records in ways.values()):
        raise SystemExit(f"{prompts}: has {count} prompts, the decoded ones are others")
    return [
        Prompt(tokens[offsets[i] : offsets[i + 1]], {way: records[i] for way, records in ways.items()}, *media[i])
        for i in range(count)
    ]


def load(directory: Path) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    options = {"dtype": torch.float32, "attn_implementation": "eager", "local_files_only": True}
    if getattr(config.get_text_config(), "enable_moe_block", False):  # whose grouped products want rows of multiples of 16 bytes
        options["experts_implementation"] = "eager"
    model = MODELS[config.model_type].from_pretrained(directory, **options)
    if config.model_type == "gemma4_unified":
        model.model.register_forward_pre_hook(use_masks_of_images, with_kwargs=True)
    return model


def use_masks_of_images(model: torch.nn.Module, args: tuple, inputs: dict) -> tuple[tuple, dict]:
    """Hands the masks of a prompt with images over. Those that Gemma4UnifiedModel.forward makes by itself let images see
    ahead on full layers and beyond the window; create_masks_for_generate of the same model, which `generate` uses with
    static caches, and engines do not."""
    text, types = model.config.get_text_config(), inputs.get("mm_token_type_ids")
    if types is not None and text.use_bidirectional_attention == "vision":
        inputs["attention_mask"] = joint_reference.vision_masks(types[0] == 1, text.sliding_window)
    return args, inputs


def end_tokens_of(base: PreTrainedModel) -> list[int]:
    ends = base.generation_config.eos_token_id
    if ends is None:
        ends = base.config.get_text_config().eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


# ---------------------------------------------------------------- 1. generations


@dataclass
class Generation:
    ids: list[int]
    forwards: int  # of the base


def generate(base: PreTrainedModel, prompt: Prompt, most: int, assistant: PreTrainedModel | None) -> Generation:
    forwards = 0

    def count(*_: object) -> None:
        nonlocal forwards
        forwards += 1

    hook = base.model.register_forward_hook(count)
    inputs = prompt.inputs()
    mask = torch.ones_like(inputs["input_ids"])
    out = base.generate(
        **inputs, attention_mask=mask, max_new_tokens=most, do_sample=False, assistant_model=assistant
    )
    hook.remove()
    return Generation(out[0, len(prompt.ids) :].tolist(), forwards)


def parting(base: PreTrainedModel, prompt: Prompt, ours: list[int], theirs: list[int]) -> tuple[str, bool] | None:
    """Where two generations part, and whether rounding explains it; none where they do not."""
    if ours == theirs:
        return None
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    if at == min(len(ours), len(theirs)):
        return f"token {at}: one has {len(ours)} tokens, the other {len(theirs)}", False
    logits_V = base(**prompt.inputs(ours[:at])).logits[0, -1]
    (first, second), tokens = logits_V.topk(2)
    gap = float(first - second)
    is_tie = gap < TIE and {ours[at], theirs[at]} == set(tokens.tolist())
    return f"token {at}: ours {ours[at]}, theirs {theirs[at]}, top-two gap {gap:.3g}", is_tie


# ---------------------------------------------------------------- 2. drafts


@dataclass
class Draft:
    token: int
    is_tie: bool  # another token is as good, but for rounding


@dataclass
class Steps:
    """A prompt's speculative steps."""

    target_forwards: int = 1  # the prefill, which gives the first token
    drafted: int = 0
    accepted_at: list[int] = field(default_factory=list)
    ties: list[int] = field(default_factory=list)  # drafts, by number, that rounding may have decided

    def counts(self) -> dict[str, object]:
        return {
            "target_forwards": self.target_forwards,
            "drafted": self.drafted,
            "accepted": sum(self.accepted_at),
            "accepted_at": self.accepted_at,
        }


class Speculation:
    """Drafts for a text that is known already: the base's forward over all of it has the hidden state and the keys and
    values of every position, as they are when decoding arrives there."""

    def __init__(self, base: PreTrainedModel, drafter: PreTrainedModel, settings: dict, end_tokens: list[int]):
        self.base, self.drafter, self.end_tokens = base, drafter, end_tokens
        self.drafts, self.offset = settings["drafts"], settings["position_offset"]
        self.most = settings["max_new_tokens"]
        self.window = drafter.config.get_text_config().sliding_window

    def read(self, prompt: Prompt, output: list[int]) -> object:
        inputs = prompt.inputs(output)
        return self.base(**inputs, output_hidden_states=True, return_shared_kv_states=True, use_cache=True)

    def steps(self, prompt: Prompt, output: list[int], second_choice_of: int | None = None) -> Steps:
        """`second_choice_of`: the number of a draft for which the second best token is taken."""
        ids = prompt.ids + output
        text = self.read(prompt, output)
        steps = Steps(accepted_at=[0] * self.drafts)
        given = 1
        while given < len(output):
            count = min(self.drafts, self.most - given - 1)
            last = len(prompt.ids) + given - 2  # the last position that the base has computed
            other = None if second_choice_of is None else second_choice_of - steps.drafted
            drafts = list(self.draft(text, ids, last, count, other))
            steps.ties += [steps.drafted + i for i, draft in enumerate(drafts) if draft.is_tie]
            # The text's last token is the forward's own, even if it was drafted.
            accepted = min(leading_run(drafts, output[given:]), len(output) - given - 1)
            for place in range(accepted):
                steps.accepted_at[place] += 1
            steps.drafted += len(drafts)
            steps.target_forwards += 1
            given += accepted + 1
        return steps

    def draft(self, text: object, ids: list[int], last: int, count: int, other: int | None = None) -> Iterator[Draft]:
        """What the drafter says after token `last` + 1, as far as an end token; the second best for number `other`."""
        token, state_11H = ids[last + 1], text.hidden_states[-1][:, last : last + 1]
        keys = {kind: (k[:, :, : last + 1], v[:, :, : last + 1]) for kind, (k, v) in text.shared_kv_states.items()}
        seen = torch.arange(last + 1)
        hidden = torch.finfo(torch.float32).min
        masks = {
            "full_attention": torch.zeros(1, 1, 1, last + 1),
            "sliding_attention": torch.where(seen > last + self.offset - self.window, 0.0, hidden)[None, None, None],
        }
        for number in range(count):
            embedded = self.base.get_input_embeddings()(torch.tensor([[token]]))
            hidden_11D = self.drafter.model(
                input_ids=None,
                inputs_embeds=self.drafter.pre_projection(torch.cat([embedded, state_11H], dim=-1)),
                attention_mask=masks,
                position_ids=torch.tensor([[last + self.offset]]),
                shared_kv_states=keys,
                use_cache=False,
            ).last_hidden_state
            state_11H = self.drafter.post_projection(hidden_11D)
            logits, tokens = self._logits(hidden_11D).topk(2)
            first, second = tokens.tolist()
            token = second if number == other else first
            yield Draft(token, bool(logits[0] - logits[1] < TIE))
            if token in self.end_tokens:
                return

    def _logits(self, hidden_11D: torch.Tensor) -> torch.Tensor:
        head = self.drafter.lm_head
        if self.drafter.masked_embedding is not None:
            return self.drafter.masked_embedding(hidden_11D, head.weight)[0, 0]
        return head(hidden_11D)[0, 0]

    def explains(self, prompt: Prompt) -> tuple[dict, bool]:
        """Counts of the loop, and whether they are ours: as they stand or with one tie decided otherwise."""
        record = prompt.ways["drafted"]
        steps = self.steps(prompt, record["output_ids"])
        ours = {name: record[name] for name in steps.counts()}
        others = (self.steps(prompt, record["output_ids"], tie) for tie in steps.ties)
        return steps.counts(), steps.counts() == ours or any(other.counts() == ours for other in others)

    def accepted_length(self, prompts: list[Prompt]) -> float:
        """Validation's number on these texts: the mean over all positions, not only over those where a step begins."""
        runs = []
        for prompt in prompts:
            output = prompt.ways["drafted"]["output_ids"]
            ids, text = prompt.ids + output, self.read(prompt, output)
            for last in range(len(prompt.ids) - 2, len(ids) - 1 - self.drafts):
                runs.append(leading_run(list(self.draft(text, ids, last, self.drafts)), ids[last + 2 :]))
        return 1 + sum(runs) / len(runs)


def leading_run(drafts: list[Draft], tokens: list[int]) -> int:
    return next((i for i, (draft, token) in enumerate(zip(drafts, tokens)) if draft.token != token), len(drafts))


# ---------------------------------------------------------------- report


class Report:
    def __init__(self) -> None:
        self.failures = 0

    def line(self, is_right: bool, text: str) -> None:
        self.failures += not is_right
        print("ok    " if is_right else "FAILED", text, flush=True)


@dataclass
class Outcome:
    failures: int
    accepted_length: float | None  # see Speculation.accepted_length; none where nothing was drafted


@torch.no_grad()
def check(
    base_dir: Path, drafter_dir: Path, prompts_file: Path, decoded_file: Path, logits_file: Path | None = None
) -> Outcome:
    """Prints what agrees and what does not."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    decoded = json.loads(decoded_file.read_text())
    settings, prompts = decoded["settings"], read_prompts(prompts_file, decoded)
    base, drafter = load(base_dir), load(drafter_dir)
    end_tokens = [] if settings["ignore_eos"] else end_tokens_of(base)
    base.generation_config.eos_token_id = end_tokens or None
    drafter.generation_config.num_assistant_tokens = settings["drafts"]
    speculation, report = Speculation(base, drafter, settings, end_tokens), Report()
    totals = {"ours": 0, "Hugging Face's": 0}
    for number, prompt in enumerate(prompts):
        outputs = [record["output_ids"] for record in prompt.ways.values()]
        ours = outputs[0]
        report.line(all(ids == ours for ids in outputs), f"prompt {number}: the same tokens with and without drafter")
        for name, assistant in (("generate", None), ("generate with assistant_model", drafter)):
            theirs = generate(base, prompt, settings["max_new_tokens"], assistant)
            difference, is_tie = parting(base, prompt, ours, theirs.ids) or ("all alike", True)
            report.line(is_tie, f"prompt {number}: {len(ours)} tokens, {name}: {difference}")
        if "drafted" in prompt.ways:
            record = prompt.ways["drafted"]
            counts, is_right = speculation.explains(prompt)
            text = "as on Hugging Face's modules" if is_right else f"{counts} on Hugging Face's modules"
            report.line(
                is_right,
                f"prompt {number}: {record['target_forwards']} target forwards, {record['drafted']} drafts,"
                f" {record['accepted']} accepted, by place {record['accepted_at']}: {text}",
            )
            totals["ours"] += record["target_forwards"]
            totals["Hugging Face's"] += theirs.forwards
    if logits_file:
        for number, (name, ours) in enumerate(sorted(load_file(logits_file).items(), key=lambda item: int(item[0]))):
            theirs = base(**prompts[number].inputs()).logits[0, -1]
            difference = float((ours - theirs).abs().max())
            report.line(difference <= TIE, f"prompt {name}: the logits after it differ by {difference:.1e} at most")
    print("target forwards in all:", ", ".join(f"{who} {forwards}" for who, forwards in totals.items()))
    length = speculation.accepted_length(prompts) if "drafted" in decoded else None
    return Outcome(report.failures, length)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, metavar="DIR")
    parser.add_argument("--drafter", type=Path, required=True, metavar="DIR")
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="the prompts that were decoded")
    parser.add_argument("--decoded", type=Path, required=True, metavar="JSON", help="what mtp-bench-decode wrote")
    parser.add_argument("--logits", type=Path, metavar="FILE", help="what mtp-bench-decode --logits wrote")
    parser.add_argument("--threads", type=int, help="of PyTorch; small models are faster with 1")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    outcome = check(args.base, args.drafter, args.prompts, args.decoded, args.logits)
    if outcome.accepted_length is not None:
        print(f"accepted length over all positions, as validation takes it: {outcome.accepted_length:.4f}")
    print(f"{outcome.failures} failures")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
