#!/usr/bin/env python3
"""Bad input is refused before anything is written, with one line that names the file or setting and the reason.

    .venv/bin/python tests/check_bad_input.py PROGRAMS
"""

import json
import os
import re
import shutil
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from job import FIXTURE, Job, expect, run_cases

SEEING = FIXTURE.parent / "dense_31b_vision"
WEIGHTS = "base/model.safetensors"
NORM = "model.language_model.norm.weight"
Damage = Callable[[Path], None]  # does it to a copy of the fixture


@dataclass
class Case:
    name: str
    line: str  # what the error must match; the paths it names begin at the copy of the fixture
    damage: Damage = lambda fixture: None
    settings: list[str] = field(default_factory=list)  # FIXTURE stands for its folder
    code: int = 1
    ranks: tuple[int, ...] = (1,)
    shows_before_the_job: bool = True  # `mtp-train --check`, which knows no device, says the same

    def __call__(self, job: Job) -> None:
        self.damage(job.fixture)
        settings = [value.replace("FIXTURE", str(job.fixture)) for value in self.settings]
        before = everything_in(job.folder)
        for ranks in self.ranks:
            expect(job.run(ranks, *settings), self.code, self.line)
            assert everything_in(job.folder) == before, f"written: {everything_in(job.folder) ^ before}"
        if self.shows_before_the_job:
            expect(job.check(*settings), self.code, self.line)
            assert everything_in(job.folder) == before, f"written: {everything_in(job.folder) ^ before}"


def everything_in(folder: Path) -> set[tuple[Path, int, int]]:
    return {(path, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def write(path: str, content: bytes) -> Damage:
    return lambda fixture: (fixture / path).write_bytes(content) and None


def cut(path: str, size: int) -> Damage:
    """To `size` bytes, or by so many where it is negative."""
    return lambda fixture: os.truncate(fixture / path, size if size >= 0 else (fixture / path).stat().st_size + size)


def replace(path: str, make: Callable[[Path], None]) -> Damage:
    def damage(fixture: Path) -> None:
        (fixture / path).unlink()
        make(fixture / path)

    return damage


def header(change: Callable[[dict], None]) -> Damage:
    """Changes what the header of the base's weights says and leaves the data alone."""

    def damage(fixture: Path) -> None:
        content = (fixture / WEIGHTS).read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        entries = json.loads(content[8 : 8 + size])
        change(entries)
        text = json.dumps(entries).encode()
        (fixture / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])

    return damage


def entry(**changes: object) -> Damage:
    return header(lambda entries: entries[NORM].update(changes))


def overlap(entries: dict) -> None:
    begin, end = entries[NORM]["data_offsets"]
    entries[NORM]["data_offsets"] = [begin - 4, end - 4]


def add_unknown(entries: dict) -> None:
    end = max(entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__")
    entries["model.extra\nweight"] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}


def config(model: str, **changes: object) -> Damage:
    """Changes keys of a config.json; those that begin with text_ are keys of its text_config."""

    def damage(fixture: Path) -> None:
        path = fixture / model / "config.json"
        whole = json.loads(path.read_text())
        for key, value in changes.items():
            section = whole["text_config"] if key.startswith("text_") else whole
            section[key.removeprefix("text_")] = value
        path.write_text(json.dumps(whole))

    return damage


def config_text(model: str, pattern: str, replacement: str) -> Damage:
    def damage(fixture: Path) -> None:
        path = fixture / model / "config.json"
        path.write_text(re.sub(pattern, replacement, path.read_text(), count=1))

    return damage


def data(change: Callable[[h5py.File], None]) -> Damage:
    def damage(fixture: Path) -> None:
        with h5py.File(fixture / "data.h5", "r+") as file:
            change(file)

    return damage


def attribute(name: str, value: object) -> Damage:
    return data(lambda file: file.attrs.__setitem__(name, value))


def dataset(name: str, value: Callable[[np.ndarray], np.ndarray]) -> Damage:
    def change(file: h5py.File) -> None:
        old = file[name][:]
        del file[name]
        file[name] = value(old)

    return data(change)


def seeing(damage: Damage) -> Damage:
    """To a pair that sees and data with images."""

    def whole(fixture: Path) -> None:
        shutil.copytree(SEEING, fixture, dirs_exist_ok=True)
        damage(fixture)

    return whole


def element(name: str, index: int | tuple[int, int], value: int) -> Damage:
    return data(lambda file: file[name].__setitem__(index, value))


def make_virtual(file: h5py.File) -> None:
    shape = file["tokens"].shape
    del file["tokens"]
    layout = h5py.VirtualLayout(shape=shape, dtype=np.int32)
    layout[:] = h5py.VirtualSource("gone.h5", "tokens", shape=shape)
    file.create_virtual_dataset("tokens", layout)


def make_external(file: h5py.File) -> None:
    shape = file["tokens"].shape
    del file["tokens"]
    file.create_dataset("tokens", shape, np.int32, external="gone.bin")


def make_unwritten(file: h5py.File) -> None:
    shape = file["tokens"].shape
    del file["tokens"]
    file.create_dataset("tokens", shape, np.int32)


NESTED = b"[" * 1_000_000
ANY = (1, 3)  # numbers of ranks of the cases that stand for the others

CASES = [
    # Weights
    Case("weights_cut_off", r"model\.safetensors: tensor .* ends at byte .* cut off", cut(WEIGHTS, -10), ranks=ANY),
    Case(
        "weights_cut_in_the_header",
        r"model\.safetensors: the header claims \d+ bytes, the file has 100",
        cut(WEIGHTS, 100),
    ),
    Case("weights_empty", r"model\.safetensors: has 0 bytes", cut(WEIGHTS, 0)),
    Case("weights_missing", r"model\.safetensors: cannot be read: No such file", replace(WEIGHTS, lambda path: None)),
    Case("weights_are_a_folder", r"model\.safetensors: is no regular file", replace(WEIGHTS, Path.mkdir)),
    Case("weights_are_a_pipe", r"model\.safetensors: is no regular file", replace(WEIGHTS, os.mkfifo)),
    Case("header_longer_than_any", r"model\.safetensors: the header claims 184\d+ bytes", write(WEIGHTS, b"\xff" * 64)),
    Case(
        "header_no_json",
        r"model\.safetensors: the header is no valid JSON",
        write(WEIGHTS, b"\4" + bytes(7) + b"abcd"),
    ),
    Case(
        "header_nested_deeply",
        r"model\.safetensors: the header is no valid JSON: it is nested deeper",
        write(WEIGHTS, struct.pack("<Q", len(NESTED)) + NESTED),
    ),
    Case(
        "offsets_overlap",
        r"model\.safetensors: tensor .* begins at byte \d+, the one before ends at \d+",
        header(overlap),
    ),
    Case(
        "offsets_beyond_the_file",
        r"model\.safetensors: tensor .*norm\.weight",
        entry(shape=[1 << 40], data_offsets=[0, 1 << 42]),
    ),
    Case("shape_huge", r"norm\.weight of shape \[1099511627776, 1099511627776\]", entry(shape=[1 << 40, 1 << 40])),
    Case("shape_of_fractions", r"norm\.weight: shape has no integer but 24\.5", entry(shape=[24.5])),
    Case(
        "shape_wrong",
        r"base: tensor .*norm\.weight has shape \[6, 4\], the config needs \[24\]",
        entry(shape=[6, 4]),
    ),
    Case("type_wrong", r"base: tensor .*norm\.weight has type I32; F32, BF16 or F16 is needed", entry(dtype="I32")),
    Case("type_unknown", r"norm\.weight has the unknown element type F33", entry(dtype="F33")),
    Case(
        "key_missing",
        r"base: tensor .*norm\.weight is missing",
        header(lambda e: e.update({"model.x": e.pop(NORM)})),
        ranks=ANY,
    ),
    Case("key_unknown", r"base: tensor model\.extra weight is unknown: the config has no place", header(add_unknown)),
    Case(
        "shard_outside_the_folder",
        r"model\.safetensors\.index\.json: tensor a has no file name but \"\.\./x\"",
        lambda fixture: (
            (fixture / WEIGHTS).unlink(),
            write("base/model.safetensors.index.json", b'{"weight_map": {"a": "../x"}}')(fixture),
        )
        and None,
    ),
    # Configurations
    Case("config_no_json", r"base/config\.json: is no valid JSON", write("base/config.json", b"{"), ranks=ANY),
    Case("config_no_object", r"drafter/config\.json: is no JSON object", write("drafter/config.json", b"[1]")),
    Case(
        "config_nested_deeply",
        r"base/config\.json: is no valid JSON: it is nested",
        write("base/config.json", NESTED),
    ),
    Case("config_is_a_folder", r"base/config\.json: is no regular file", replace("base/config.json", Path.mkdir)),
    Case("config_of_another_model", r"base/config\.json: model_type is \"llama\"", config("base", model_type="llama")),
    Case(
        "config_against_tensors",
        r"base: tensor .* has shape \[28, 24\], the config needs \[30, 24\]",
        config("base", text_intermediate_size=30),
    ),
    Case(
        "config_more_layers",
        r"layer_types names 5 layers, num_hidden_layers is 6",
        config("base", text_num_hidden_layers=6),
    ),
    Case(
        "config_huge_number",
        r"num_hidden_layers is 2147483647, it must be at most",
        config("base", text_layer_types=None, text_num_hidden_layers=2**31 - 1),
    ),
    Case(
        "config_size_beyond_64_bits",
        r"hidden_size has the wrong type: 18446744073709551615",
        config("base", text_hidden_size=2**64 - 1),
    ),
    Case(
        "config_number_beyond_double",
        r"base/config\.json: is no valid JSON",
        config_text("base", r'"hidden_size": 24', '"hidden_size": 1e999'),
    ),
    Case("config_truth_for_a_number", r"hidden_size has the wrong type: true", config("base", text_hidden_size=True)),
    Case(
        "config_list_for_a_number",
        r"hidden_size has the wrong type: an array",
        config("base", text_hidden_size=[[1]]),
    ),
    Case(
        "config_rope_beyond_the_head",
        r"partial_rotary_factor is 7",
        config_text("base", r'"partial_rotary_factor": 0.25', '"partial_rotary_factor": 7'),
    ),
    # Base and drafter that do not fit
    Case(
        "fit_backbone",
        r"drafter/config\.json does not fit .*base/config\.json: .*: 24 in the base, 32 in",
        config("drafter", backbone_hidden_size=32),
        ranks=ANY,
    ),
    Case(
        "fit_vocabulary",
        r"does not fit .*: vocab_size: 96 in the base, 192 in the drafter",
        config("drafter", text_vocab_size=192),
    ),
    Case(
        "fit_head_size",
        r"does not fit .*: sliding_attention head size: 8 in the base, 4 in",
        config("drafter", text_head_dim=4),
    ),
    Case(
        "fit_kv_heads",
        r"does not fit .*: full_attention key/value heads: 1 in the base, 2 in",
        config("drafter", text_num_key_value_heads=2),
    ),
    # Data files
    Case("data_no_hdf5", r"data\.h5: cannot open as an HDF5 file", write("data.h5", b"tokens")),
    Case("data_cut_off", r"data\.h5: cannot open as an HDF5 file: truncated file", cut("data.h5", -100), ranks=ANY),
    Case("data_is_a_folder", r"data\.h5: is no regular file", replace("data.h5", Path.mkdir)),
    Case("data_missing", r"data\.h5: cannot open as an HDF5 file: No such file", replace("data.h5", lambda path: None)),
    Case("data_other_format", r"data\.h5 is not a data file", attribute("format", "other")),
    Case(
        "data_other_version",
        r"data\.h5 is a data file of version 2, this program reads version 1",
        attribute("version", 2),
    ),
    Case("data_version_no_integer", r"data\.h5: attribute version must be an integer", attribute("version", 1.0)),
    Case("data_empty", r"data\.h5 has no samples", dataset("offsets", lambda old: old[:1])),
    Case("data_unsorted_offsets", r"data\.h5: sample 2 lies at 19 to 4", element("offsets", 3, 4)),
    Case(
        "data_offsets_beyond_tokens",
        r"data\.h5: dataset tokens has 110 elements, offsets end at 1000",
        element("offsets", 10, 1000),
    ),
    Case(
        "data_offsets_of_another_type",
        r"data\.h5: dataset offsets has elements of int32",
        dataset("offsets", lambda old: old.astype(np.int32)),
    ),
    Case(
        "data_offsets_in_two_dimensions",
        r"data\.h5: dataset offsets must have one dimension",
        dataset("offsets", lambda old: old[:, None]),
    ),
    Case(
        "data_tokens_of_another_type",
        r"data\.h5: dataset tokens has elements of int64",
        dataset("tokens", lambda old: old.astype(np.int64)),
    ),
    Case(
        "data_tokens_scalar",
        r"data\.h5: dataset tokens must have one dimension",
        dataset("tokens", lambda old: old[0]),
    ),
    Case("data_tokens_virtual", r"data\.h5: dataset tokens is virtual", data(make_virtual)),
    Case("data_tokens_external", r"data\.h5: dataset tokens has its elements in another file", data(make_external)),
    Case("data_tokens_never_written", r"data\.h5: dataset tokens was never written", data(make_unwritten)),
    Case("data_no_mask", r"data\.h5 has no dataset loss_mask", data(lambda file: file.__delitem__("loss_mask"))),
    Case("data_mask_out_of_range", r"data\.h5: sample 1: loss_mask of token 0 is 2", element("loss_mask", 17, 2)),
    Case(
        "data_token_out_of_range",
        r"data\.h5: sample 4: token 0 is 96, outside",
        element("tokens", 52, 96),
        ranks=ANY,
    ),
    Case(
        "data_tokens_all_out_of_range",
        r"data\.h5: sample \d: token 0 is -1",
        dataset("tokens", lambda old: old * 0 - 1),
        ranks=ANY,
    ),
    Case(
        "data_other_vocabulary",
        r"data\.h5: made for a vocabulary of 97 tokens, the base has 96",
        attribute("vocab_size", 97),
    ),
    Case("data_other_pad", r"data\.h5: pad_token_id is 3, the base's is 0", attribute("pad_token_id", 3)),
    # Images
    Case(
        "images_for_a_base_that_does_not_see",
        r"data\.h5 has images, which the base .*/base does not take: it has no vision_config",
        lambda fixture: shutil.copy(SEEING / "data.h5", fixture) and None,
        ranks=ANY,
    ),
    Case(
        "image_tokens_without_an_image",
        r"data\.h5: sample 0: its image tokens are not those of its 0 images; prepare the file anew",
        seeing(element("tokens", 2, 92)),
        ranks=ANY,
    ),
    Case(
        "image_without_its_tokens",
        r"data\.h5: sample 3: its image tokens are not those of its 1 images",
        seeing(dataset("tokens", lambda old: np.concatenate([old[:63], np.full(18, 8, np.int32), old[81:]]))),
    ),
    Case(
        "image_larger_than_the_position_table",
        r"data\.h5: image 0 is 48 × 3 patches, the base has positions for 12; leave it out or make it smaller",
        seeing(dataset("image_sizes", lambda old: np.vstack([[(48, 3)], old[1:]]).astype(np.int32))),
        ranks=ANY,
    ),
    Case(
        "image_of_no_size",
        r"data\.h5: image 1 is 0 × 6 patches; both must be multiples of 3",
        seeing(element("image_sizes", (1, 0), 0)),
    ),
    Case(
        "image_offsets_lie",
        r"data\.h5: image 0 is 12 × 12 patches, image_offsets give it 153",
        seeing(element("image_offsets", 1, 153)),
    ),
    Case(
        "image_patches_cut_off",
        r"data\.h5: dataset patches must have two dimensions and 450 rows",
        seeing(dataset("patches", lambda old: old[:-1])),
    ),
    Case(
        "images_of_samples_lie",
        r"data\.h5: sample_images ends at 9, the file has 8 images",
        seeing(element("sample_images", 9, 9)),
        ranks=ANY,
    ),
    # Settings
    Case(
        "setting_unknown",
        r"command line: unknown setting drafter\.round",
        settings=["--drafter.round", "3"],
        code=2,
        ranks=ANY,
    ),
    Case(
        "setting_unknown_in_the_file",
        r"settings\.cfg: unknown setting run\.x",
        lambda f: (f / "settings.cfg").open("a").write("[run]\nx = 1\n") and None,
        code=2,
    ),
    Case(
        "more_memory_than_there_is",
        r"the machine has [0-9.]+ GB for each rank, and this run needs \d{3,}\.\d GB; "
        "use more ranks, .* mtp-train --plan",
        settings=["--lora.rank", "50000000"],
        code=2,
        ranks=ANY,
        shows_before_the_job=False,
    ),
    Case(
        "setting_out_of_range",
        r"train\.micro_batch: 0 is out of range",
        settings=["--train.micro_batch", "0"],
        code=2,
    ),
    Case(
        "setting_contradiction_batches",
        r"train\.global_batch: 12 .* train\.micro_batch, 5",
        settings=["--train.micro_batch", "5"],
        code=2,
    ),
    Case(
        "setting_contradiction_warmup",
        r"schedule\.warmup_steps: .* 6 steps",
        settings=["--schedule.warmup_steps", "6"],
        code=2,
    ),
    Case(
        "setting_expert_parallel",
        r"dist\.expert_parallel: .* has no experts",
        settings=["--dist.expert_parallel", "2"],
        code=2,
    ),
    Case(
        "setting_shared_embedding",
        r"share_embedding_with_base: .* width of 24, the drafter's 16",
        settings=["--drafter.share_embedding_with_base", "true"],
        code=2,
    ),
    Case(
        "setting_no_gpu",
        r"setting run\.device: rank 0 has no GPU: .*; use nodes with GPUs, or set it to cpu",
        settings=["--run.device", "cuda"],
        code=2,
        ranks=ANY,
        shows_before_the_job=False,
    ),
    Case(
        "setting_contradiction_transport",
        r"dist\.transport: nccl cannot be used: it moves tensors of GPUs, and run\.device is the cpu",
        settings=["--run.device", "cpu", "--dist.transport", "nccl"],
        code=2,
        ranks=ANY,
        shows_before_the_job=False,
    ),
    Case("setting_frozen_for_good", r"freeze\.vision: ", settings=["--freeze.vision", "false"], code=2),
    # Places that cannot be written
    Case(
        "run_dir_read_only",
        r"/proc/lock: cannot be written",
        settings=["--run.dir", "/proc"],
        ranks=ANY,
        shows_before_the_job=False,
    ),
    Case(
        "run_dir_cannot_be_made",
        r"/proc/run: the run directory cannot be made",
        settings=["--run.dir", "/proc/run"],
        shows_before_the_job=False,
    ),
    Case("run_dir_is_a_file", r"data\.h5: the run directory cannot be made", settings=["--run.dir", "FIXTURE/data.h5"]),
    Case(
        "gradients_nowhere",
        r"run\.dump_gradients: .*none/g cannot be written: No such file",
        settings=["--run.dump_gradients", "FIXTURE/none/g"],
        code=2,
        ranks=ANY,
    ),
    Case(
        "gradients_are_a_folder",
        r"run\.dump_gradients: .*base is a folder",
        settings=["--run.dump_gradients", "FIXTURE/base"],
        code=2,
    ),
]


def sound_input_is_found_sound(job: Job) -> None:
    """By --check, which writes nothing and says what the run would be."""
    before = everything_in(job.folder)
    result = job.check()
    assert result.code == 0 and not result.errors, result.text
    for line in ("steps +3 of 12 sequences", "ranks +1, 2, 3, 4, 6, 12: ", "checkpoints +0.00 GiB each"):
        assert re.search(line, result.text), f"{line}:\n{result.text}"
    assert everything_in(job.folder) == before


def what_is_not_there(job: Job) -> None:
    """Is all that is said."""
    missing, out = job.folder / "missing", job.folder / "out"
    models = ("--model.base", missing, "--model.drafter", missing)
    for line, command in (
        ("missing: is no folder; download the model", ("mtp-train", "--plan", "--length", "8", *models)),
        ("missing: does not exist", ("mtp-export-hf", "--from", missing, "--best", "--out", out)),
    ):
        result = job.run_program(1, *command)
        expect(result, 1, line)
        assert result.text.count("\n") == 1, result.text


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # there may be GPUs
    cases = {case.name: case for case in CASES}
    sys.exit(run_cases(__doc__, {"sound": sound_input_is_found_sound, "missing": what_is_not_there} | cases))
