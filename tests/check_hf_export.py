#!/usr/bin/env python3
"""What mtp-export-hf writes: loads in Hugging Face without a missing, unexpected or mismatched key, has the values of
the checkpoint rounded once, all else as in the source to the last bit, and does not depend on the number of ranks.

    .venv-hf/bin/python tests/check_hf_export.py PROGRAMS [CASE …]
"""

from __future__ import annotations

import configparser
import filecmp
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import Gemma4ForCausalLM, Gemma4ForConditionalGeneration, Gemma4TextConfig

import job

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS.parent / "scripts/dev"))
sys.path.insert(0, str(TESTS / "reference"))
import variants
from check_hf_load import directory_of, load
from joint_reference import make_pair, name_in_file

FIXTURES = TESTS / "fixtures"
LR_ZERO = ["--optimizer.lr", "0", "--schedule.init_lr", "0", "--schedule.min_lr", "0"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# What a directory from the Hub may have beside its weights; none of it is read by a trainer or an export.
SIDE_FILES = {
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b"{}",
    "tokenizer.model": b"\x00\xff\n",
    "special_tokens_map.json": b"{}",
    "processor_config.json": b"{}",
    "preprocessor_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "additional_chat_templates/tool_use.jinja": b"{{ tools }}",
}
# What else lies in such a folder: it describes another model, or none.
OTHER_FILES = {
    "README.md": b"# A model card",
    "trainer_state.json": b"{}",
    "notes.txt": b"mine",
    "optimizer.pt": b"\x80",
    ".git/config": b"[core]",
    "original/params.json": b"{}",
    "original/consolidated.safetensors": b"",
    "adapter.gguf": b"GGUF",
}


class Case:
    """A pair, trained for the few steps of its fixture."""

    def __init__(self, programs: Path, fixture: str, folder: Path):
        self.programs, self.folder = programs, folder
        self.source = folder / "source"
        shutil.copytree(FIXTURES / fixture, self.source)
        for name, content in (SIDE_FILES | OTHER_FILES).items():
            path = self.source / "base" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)

    def train(self, run: str, pair: Path | None = None, *extra: object, ranks: int = 1) -> Path:
        base, drafter = (self.source / part if pair is None else directory_of(pair, part) for part in ("base", "drafter"))
        adapter = self.source / "adapter"
        if pair is None and adapter.exists() and "--model.base_adapter" not in extra:
            extra = ("--model.base_adapter", adapter, *extra)
        self.call(
            "mtp-train", "--config", self.source / "settings.cfg", "--model.base", base, "--model.drafter", drafter,
            "--data.train", self.source / "data.h5", "--run.dir", self.folder / run, *extra, ranks=ranks,
        )  # fmt: skip
        return self.folder / run

    def export(self, run: Path, out: str, *extra: str, ranks: int = 1) -> Path:
        self.call("mtp-export-hf", "--from", run, "--out", self.folder / out, *extra, ranks=ranks)
        return self.folder / out

    def call(self, program: str, *words: object, ranks: int = 1) -> None:
        result = self.result(program, *words, ranks=ranks)
        assert result.returncode == 0, f"{program}: exit {result.returncode}: {result.stderr[-500:]}"

    def result(self, program: str, *words: object, ranks: int = 1) -> subprocess.CompletedProcess:
        launcher = job.mpirun(ranks) if ranks > 1 else []
        command = [*launcher, self.programs / program, *words]
        return subprocess.run([str(word) for word in command], capture_output=True, text=True, env=os.environ | job.MPI)


def expect_refusal(result: subprocess.CompletedProcess, code: int, line: str) -> None:
    errors = [text for text in result.stderr.splitlines() if text.startswith("error: ")]
    assert result.returncode == code, f"exit {result.returncode}, not {code}: {result.stderr}"
    assert len(errors) == 1 and line in errors[0], f"expected one line with {line!r}: {errors}"


# ---------------------------------------------------------------- what an export holds


def tensors_in(directory: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}, f"{path}: metadata {file.metadata()}"
            tensors |= {name: file.get_tensor(name) for name in file.keys()}
    return tensors


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8))


def lora_settings(run: Path) -> configparser.SectionProxy:
    settings = configparser.ConfigParser()
    settings.read(run / "settings.cfg")
    return settings["lora"]


def merged(weight: torch.Tensor, adapter: dict[str, torch.Tensor], run: Path) -> torch.Tensor:
    scale = float(lora_settings(run)["alpha"]) / float(lora_settings(run)["rank"])
    return weight.double() + scale * adapter["lora_B"].double() @ adapter["lora_A"].double()


def is_rounded_once(got: torch.Tensor, exact: torch.Tensor) -> bool:
    """Up to the rounding errors of a product in fp32."""
    own = torch.finfo(got.dtype).eps / 2 if got.dtype != torch.float32 else 0.0
    return bool(((got.double() - exact).abs() <= own * exact.abs() + 1e-6 * exact.abs().max()).all())


def expected_tensors(case: Case, run: Path, part: str, dtype: str | None) -> dict[str, torch.Tensor]:
    """Masters and frozen parameters in the element type asked for, or the source's; what is no parameter as it was. In
    double precision where an adapter is merged."""
    source = tensors_in(case.source / part)
    checkpoint = run / "checkpoints/latest"
    listed = json.loads((checkpoint / "source" / part / "tensors.json").read_text())
    carried = {tensor["name"] for tensor in listed if tensor["carried"]}
    with h5py.File(checkpoint / "state.h5") as state:
        masters = {
            name.removeprefix(f"{part}."): torch.from_numpy(values[()])
            for name, values in state["parameters"].items()
            if name.startswith(f"{part}.")
        }
    adapters: dict[str, dict[str, torch.Tensor]] = {}
    for name in [name for name in masters if ".lora_" in name]:
        layer, kind, _ = name.rsplit(".", 2)
        adapters.setdefault(f"{layer}.weight", {})[kind] = masters.pop(name)
    tied = {"lm_head.weight"}  # to the token table, and not exported
    parameters = {name: t for name, t in source.items() if name not in carried | tied} | masters
    expected = {name: t.to(DTYPES[dtype] if dtype else source[name].dtype) for name, t in parameters.items()}
    expected |= {name: merged(source[name], adapter, run) for name, adapter in adapters.items()}
    return expected | {name: source[name] for name in carried - tied}


def unused(directory: Path, names: Iterable[str]) -> set[str]:
    """Keys' and values' parameters of layers that share: Hugging Face's modules have no place for them."""
    config = json.loads((directory / "config.json").read_text())
    text = config.get("text_config", config)
    sharing = text.get("num_kv_shared_layers") or (text["num_hidden_layers"] if "drafter" in directory.parts else 0)
    layers = range(text["num_hidden_layers"] - sharing, text["num_hidden_layers"])
    kinds = [f".layers.{i}.self_attn.{kind}.weight" for i in layers for kind in ("k_proj", "v_proj", "k_norm")]
    return {name for name in names if "tower" not in name and any(kind in name for kind in kinds)}


def check_model(case: Case, run: Path, export: Path, part: str, dtype: str | None) -> None:
    directory = directory_of(export, part)
    expected, exported = expected_tensors(case, run, part, dtype), tensors_in(directory)
    assert expected.keys() == exported.keys(), f"{part}: {sorted(expected.keys() ^ exported.keys())[:5]}"
    for name, tensor in expected.items():
        same = is_rounded_once if tensor.dtype == torch.float64 else same_bytes
        assert same(exported[name], tensor), f"{part}: {name} is not the checkpoint's or the source's"
    check_side_files(case.source / part, directory, dtype)

    model, faults = load(directory)
    assert not faults, f"{part}: {faults}"
    state = {name_in_file(name): tensor for name, tensor in model.state_dict().items()}
    tied = {"lm_head.weight"}
    # Hugging Face does not report every key that it ignores.
    used = exported.keys() - unused(directory, exported)
    assert state.keys() - tied == used, f"{part}: {sorted((state.keys() - tied) ^ used)[:5]}"
    for name in used:
        tensor = exported[name]
        assert torch.equal(state[name], tensor.to(state[name].dtype)), f"{part}: {name} was loaded otherwise"
    head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert head.data_ptr() == table.data_ptr(), f"{part}: lm_head is not tied"
    parameters = {tensor.dtype for name, tensor in exported.items() if "embed_tokens" in name}
    assert {model.dtype} == parameters, f"{part}: loaded as {model.dtype}, written as {parameters}"


def check_side_files(source: Path, directory: Path, dtype: str | None) -> None:
    def names(folder: Path) -> set[str]:
        files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        return {str(name) for name in files if ".safetensors" not in name.name and str(name) not in OTHER_FILES}

    left = [name for name in OTHER_FILES if (directory / name).exists()]
    assert not left, f"{left} describe the source, not the export"

    assert names(source) == names(directory), names(source) ^ names(directory)
    for name in names(source):
        if name != "config.json" or not dtype:
            assert filecmp.cmp(source / name, directory / name, shallow=False), f"{name} changed"
    if dtype:
        written = json.loads((directory / "config.json").read_text())
        wanted = json.loads((source / "config.json").read_text())
        name = str(DTYPES[dtype]).removeprefix("torch.")
        wanted["dtype"] = name
        for part in wanted.values():
            if isinstance(part, dict) and "dtype" in part:
                part["dtype"] = name
        assert written == wanted, f"config.json with --dtype {dtype}: {written}"


def check_same(a: Path, b: Path) -> None:
    files = [sorted(path.relative_to(export) for path in export.rglob("*") if path.is_file()) for export in (a, b)]
    assert files[0] == files[1], f"{files[0]} and {files[1]}"
    for name in files[0]:
        assert filecmp.cmp(a / name, b / name, shallow=False), f"{name} differs between {a.name} and {b.name}"


# ---------------------------------------------------------------- cases


def check_variant(case: Case) -> None:
    """Exported at the end of the run, by the program, split by three ranks, in both types, and trained on again."""
    run = case.train("run", None, "--checkpoint.export_at_end", "true")
    plain = case.export(run, "plain")
    check_same(run / "hf", plain)
    for part in ("base", "drafter"):
        assert not (directory_of(plain, part) / "model.safetensors.index.json").exists()
        check_model(case, run, plain, part, None)

    for dtype in DTYPES:
        options = ["--dtype", dtype, "--max-shard-size", "4KB"]
        split = case.export(run, f"split-{dtype}", *options, ranks=3)
        check_same(split, case.export(run, f"split-{dtype}-alone", *options))
        for part in ("base", "drafter"):
            shards = sorted(path.name for path in directory_of(split, part).glob("*.safetensors"))
            assert len(shards) > 2 and shards[0] == f"model-00001-of-{len(shards):05}.safetensors", shards
            check_model(case, run, split, part, dtype)

    # A step at rate 0 changes nothing: the export of the export is the export.
    settings = ["--train.max_steps", "1", "--drafter.share_embedding_with_base", "false"]
    again = case.train("again", plain, *LR_ZERO, *settings)
    check_same(plain, case.export(again, "plain-again"))
    case.train("split-again", split, "--train.max_steps", "1")


def check_text_alone(case: Case) -> None:
    """A base's text decoder as a model of its own, as AutoModelForCausalLM saves it: trained to the same numbers."""
    whole = case.train("whole")
    path = case.source / "base/config.json"
    config = json.loads(path.read_text())
    alone = Gemma4ForCausalLM(Gemma4TextConfig(**config["text_config"]))
    prefix, tensors = "model.language_model.", tensors_in(case.source / "base")
    unknown = alone.load_state_dict({name.replace(prefix, "model."): t for name, t in tensors.items()}, strict=False)
    assert unknown.missing_keys == ["lm_head.weight"] and not unknown.unexpected_keys, unknown
    shutil.rmtree(case.source / "base")
    alone.save_pretrained(case.source / "base")
    assert json.loads(path.read_text())["model_type"] == "gemma4_text"
    run = case.train("run")
    numbers, of_whole = (job.comparable_lines(path / "metrics.jsonl") for path in (run, whole))
    assert numbers == of_whole, f"{numbers} {of_whole}"
    out = case.export(run, "hf")
    check_model(case, run, out, "base", None)
    ours = tensors_in(directory_of(out, "base"))
    for name, tensor in tensors_in(directory_of(case.export(whole, "whole-hf"), "base")).items():
        assert torch.equal(ours[name.replace(prefix, "model.")], tensor), name


def check_adapter(case: Case) -> None:
    """PEFT loads what --adapter writes on the source base, with the logits of the merged base; training goes on from it."""
    run = case.train("run")
    alone = case.export(run, "alone", "--adapter")
    check_same(alone, case.export(run, "alone-3", "--adapter", ranks=3))
    assert not (alone / "base/model").exists()
    check_model(case, run, alone, "drafter", None)
    saved = safetensors_of(alone / "base/adapter/adapter_model.safetensors")
    with h5py.File(run / "checkpoints/latest/state.h5") as state:
        for name, tensor in saved.items():
            own = state["parameters/base." + name.removeprefix("base_model.model.")][()]
            assert same_bytes(tensor, torch.from_numpy(own)), name

    source, merged_base = case.source / "base", directory_of(case.export(run, "merged", "--dtype", "fp32"), "base")
    models = [Gemma4ForConditionalGeneration.from_pretrained(path, dtype=torch.float32) for path in (source, merged_base)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT warns of keys that are missing
        adapted = PeftModel.from_pretrained(models[0], alone / "base/adapter")
    assert {n for n, _ in adapted.named_parameters() if ".lora_" in n} == {
        n.replace(".weight", ".default.weight") for n in saved
    }
    ids = torch.arange(3, 40)[None]
    logits = [model(input_ids=ids).logits for model in (adapted, models[1])]
    assert (logits[0] - logits[1]).abs().max() < 1e-4 * logits[1].abs().max(), (logits[0] - logits[1]).abs().max()
    plain = Gemma4ForConditionalGeneration.from_pretrained(source, dtype=torch.float32)(input_ids=ids).logits
    assert (plain - logits[1]).abs().max() > 1e-2 * logits[1].abs().max(), "the adapter does nothing"

    # A step at rate 0 changes nothing.
    adapter = ["--model.base_adapter", alone / "base/adapter"]
    again = case.train("again", None, "--train.max_steps", "1", *LR_ZERO, *adapter)
    exported = case.export(again, "alone-again", "--adapter") / "base/adapter/adapter_model.safetensors"
    assert filecmp.cmp(exported, alone / "base/adapter/adapter_model.safetensors", shallow=False)
    case.call("mtp-resume", "--from", again, "--train.max_steps", "2", ranks=2)

    words = ["--config", case.source / "settings.cfg", "--model.base", source, "--model.drafter", case.source / "drafter"]
    words += ["--data.train", case.source / "data.h5", "--run.dir", case.folder / "refused"]
    words += adapter
    for setting, value, line in (
        ("rank", "2", "setting lora.rank: the adapter in "),
        ("alpha", "1", "setting lora.alpha: the adapter in "),
        ("targets", "q_proj", "setting lora.targets: "),
        ("targets", "q_proj,out_proj", "setting lora.targets: no linear layer of what has adapters is called out_proj"),
    ):
        expect_refusal(case.result("mtp-train", *words, f"--lora.{setting}", value), 2, line)
    full = case.train("full", case.folder / "merged", "--lora.rank", "0")
    refused = case.result("mtp-export-hf", "--from", full, "--out", case.folder / "none", "--adapter")
    expect_refusal(refused, 2, "has no adapter")


def safetensors_of(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def check_targets(case: Case) -> None:
    """An export never destroys what it does not replace."""
    run = case.train("run")
    out = case.export(run, "hf")
    before = case.folder / "before"
    shutil.copytree(out, before)
    words = ["mtp-export-hf", "--from", run, "--dtype", "bf16", "--out"]
    expect_refusal(case.result(*words, out), 1, "hf: already exists; choose another --out, or --force to replace it")
    check_same(before, out)

    damaged = case.folder / "damaged"
    shutil.copytree((run / "checkpoints/latest").resolve(), damaged)
    name = "parameters/drafter.model.norm.weight"
    parts = json.loads((damaged / "checksums.json").read_text())["ranks"][0]["parts"]
    with (damaged / "rank_0000.h5").open("r+b") as file:
        file.seek(parts[name]["position"])
        file.write(b"\x55")
    for ranks in (1, 3):
        command = ["mtp-export-hf", "--from", damaged, "--out", out, "--force"]
        expect_refusal(case.result(*command, ranks=ranks), 1, f"dataset {name}: the checksum")
        check_same(before, out)
        assert not Path(f"{out}.partial").exists()

    foreign = case.folder / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    expect_refusal(case.result(*words, foreign, "--force"), 1, "foreign: is no export of this program")
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]

    case.export(run, "hf/", "--force", "--dtype", "bf16", ranks=2)
    check_same(out, case.export(run, "other", "--dtype", "bf16"))
    assert not list(case.folder.glob("hf?*")), list(case.folder.glob("hf?*"))


def check_end_of_run(case: Case) -> None:
    """export_at_end under mpirun; a run that goes on replaces its export; a folder of the user's stops it at once."""
    settings = ["--checkpoint.export_at_end", "true", "--train.global_batch", "4", "--train.micro_batch", "1"]
    run = case.train("run", None, *settings, ranks=2)
    check_same(run / "hf", case.export(run, "first"))
    case.call("mtp-resume", "--from", run, "--train.max_steps", "7", ranks=2)
    check_same(run / "hf", case.export(run, "second"))
    weights = [directory_of(case.folder / out, "base") / "model.safetensors" for out in ("first", "second")]
    assert not filecmp.cmp(*weights, shallow=False)

    (case.folder / "other/hf/mine").mkdir(parents=True)
    words = ["mtp-train", "--config", case.source / "settings.cfg", "--model.base", case.source / "base"]
    words += ["--model.drafter", case.source / "drafter", "--data.train", case.source / "data.h5"]
    result = case.result(*words, "--run.dir", case.folder / "other", *settings)
    expect_refusal(result, 1, "other/hf: is no export of this program")
    assert not (case.folder / "other/metrics.jsonl").exists()


MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_memory(*command: object) -> int:
    """Bytes that a program took at most. A small process starts it: its own memory would count too."""
    words = [sys.executable, "-S", "-c", MEASURE, *map(str, command)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout) * 1024


def check_memory(case: Case) -> None:
    """An export does not even hold its largest tensor as a whole."""
    vocabulary = {"vocab_size": 500_000, "vocab_size_per_layer_input": 500_000}
    shutil.rmtree(case.source)
    spec = {"base": variants.base(**vocabulary), "drafter": variants.drafter(centroids=0, vocab_size=500_000)}
    make_pair(spec, case.source, seed=1)
    shutil.copy(FIXTURES / "e4b/settings.cfg", case.source)
    variants.write_data(case.source / "data.h5", pad=0, vocab=500_000, lengths=[4], seed=1)
    run = case.train("run", None, "--train.max_steps", "1", "--freeze.base", "true", "--train.global_batch", "2")
    largest = max(tensor.nbytes for tensor in tensors_in(case.source / "base").values())
    program = case.programs / "mtp-export-hf"
    memory = peak_memory(program, "--from", run, "--out", case.folder / "hf") - peak_memory(program, "--help")
    assert memory < largest, f"{memory} bytes of memory, the largest tensor has {largest}"


def check_usage(case: Case) -> None:
    for words, line in {
        ("--dtype", "fp16"): "option --dtype: 'fp16' is not fp32 or bf16",
        ("--max-shard-size", "5TB"): "option --max-shard-size: '5TB' is not a number of bytes",
        ("--max-shard-size", "0"): "option --max-shard-size: '0' is not a number of bytes",
        ("--fast",): "unrecognised option '--fast'",
    }.items():
        command = ["mtp-export-hf", "--from", "nowhere", "--out", "x", *words]
        expect_refusal(case.result(*command), 2, line)
    command = ["mtp-export-hf", "--from", "nowhere", "--out", "x"]
    expect_refusal(case.result(*command, ranks=2), 1, "nowhere: does not exist")
    help_text = case.result("mtp-export-hf", "--help", ranks=2).stdout
    assert help_text.count("--max-shard-size") == 1, help_text


def on(fixture: str, check: Callable[[Case], None]) -> Callable[[tuple[Path, Path]], None]:
    return lambda folders: check(Case(folders[0], fixture, folders[1]))


if __name__ == "__main__":
    cases = {path.name: on(path.name, check_variant) for path in sorted(FIXTURES.iterdir())}
    cases |= {"adapter": on("lora", check_adapter)}
    cases |= {"targets": on("e4b", check_targets), "end-of-run": on("e4b", check_end_of_run)}
    cases |= {"text-alone": on("e4b", check_text_alone)}
    cases |= {"memory": on("e4b", check_memory), "usage": on("e4b", check_usage)}
    sys.exit(job.run_cases(__doc__, cases, lambda programs, folder: (programs, folder)))
