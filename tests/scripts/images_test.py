#!/usr/bin/env python3
"""scripts/prepare_data.py with images: that patches and tokens are Hugging Face's own, and what is left out.

.venv-hf/bin/python tests/scripts/images_test.py build/release/bin
"""

import base64
import json
import shutil
import struct
import subprocess
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import skimage
import sklearn
from PIL import Image, ImageOps
from transformers import AutoTokenizer, Gemma4ImageProcessor, Gemma4Processor, Gemma4UnifiedImageProcessor
from transformers import Gemma4AudioFeatureExtractor, Gemma4VideoProcessor

sys.path.insert(0, str(Path(__file__).parent))

from prepare_data_test import MediaCase, make_media_model

from mtp_tools.data.conversation_sources import PRESETS

PHOTOGRAPHS = Path(sklearn.__file__).parent / "datasets" / "images"
PICTURES = Path(skimage.__file__).parent / "data"
AS_THEY_ARE = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "chessboard_GRAY.png", "coffee.png",
    "coins.png", "color.png", "grass.png", "horse.png", "hubble_deep_field.jpg", "ihc.png", "logo.png",
    "motorcycle_left.png", "retina.jpg", "text.png",
)  # fmt: skip
ORIENTATION = 0x0112  # tag of EXIF
IMAGE, BEGIN, END = 310, 318, 304


def make_model(directory: Path, processor: object, model_type: str = "gemma4") -> Path:
    config = {
        "model_type": model_type,
        "image_token_id": IMAGE,
        "boi_token_id": BEGIN,
        "eoi_token_id": END,
        "vision_config": {"patch_size": 16, "pooling_kernel_size": 3},
    }
    return make_media_model(directory, config, "What is it? A cat.", processor)


def pictures(directory: Path) -> Iterator[Path]:
    """Thirty of different sizes, modes and formats."""
    for name in AS_THEY_ARE:
        yield Path(shutil.copy(PICTURES / name, directory))
    china, flower = (Image.open(PHOTOGRAPHS / f"{name}.jpg") for name in ("china", "flower"))
    cat, camera = Image.open(PICTURES / "chelsea.png"), Image.open(PICTURES / "camera.png")
    turned = {turn: Image.Exif() for turn in (2, 3, 6, 8)}
    for turn, exif in turned.items():
        exif[ORIENTATION] = turn
    deep = Image.fromarray(np.asarray(camera).astype(np.uint16) * 2)
    veiled = Image.merge("RGBA", (*cat.split(), camera.resize(cat.size)))
    for name, image, options in (
        ("turned2.jpg", flower, {"exif": turned[2]}),
        ("turned3.jpg", cat, {"exif": turned[3]}),
        ("turned6.jpg", china, {"exif": turned[6]}),
        ("turned8.webp", flower, {"exif": turned[8]}),
        ("palette.png", china.quantize(64), {}),
        ("palette.gif", flower.quantize(256), {"transparency": 3}),
        ("deep.png", deep, {}),
        ("deep.tif", deep.crop((30, 40, 300, 97)), {}),
        ("two.tif", camera.convert("1"), {}),
        ("inks.jpg", china.convert("CMYK"), {}),
        ("veiled.webp", veiled, {"lossless": True}),
        ("veiled.png", veiled.convert("LA"), {}),
        ("narrow.bmp", flower.crop((100, 0, 117, 400)), {}),
    ):
        image.save(directory / name, **options)
        yield directory / name


class ImageCase(MediaCase):
    @classmethod
    def setUpClass(cls):
        cls.processor = Gemma4ImageProcessor()

    def setUp(self):
        super().setUp()
        self.model = make_model(self.dir / "m", self.processor)

    def picture(self, name: str = "coins.png") -> Path:
        return Path(shutil.copy(PICTURES / name, self.dir))


def about(image: dict[str, object], text: str = "What is it?") -> dict[str, object]:
    content = [{"type": "image"} | image, {"type": "text", "text": text}]
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "A cat."}]}


def upright(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image)


class Patches(ImageCase):
    def test_and_tokens_are_those_of_the_processor(self):
        """Its own pixels are bytes times 1/255 in fp32."""
        paths = list(pictures(self.dir))
        self.assertEqual(len(paths), 30)
        file = self.prepared(self.write_records("a.jsonl", [about({"path": path.name}) for path in paths]))
        tokenizer = AutoTokenizer.from_pretrained(self.model)
        tokenizer.boa_token = tokenizer.eoa_token = tokenizer.audio_token = "<unused0>"
        whole = Gemma4Processor(Gemma4AudioFeatureExtractor(), self.processor, tokenizer, Gemma4VideoProcessor())
        offsets, samples, images = (file[name][:] for name in ("offsets", "sample_images", "image_offsets"))
        self.assertEqual(samples.tolist(), list(range(31)))
        text = "<bos><|turn>user\n<|image|>What is it?<turn|>\n<|turn>model\nA cat.<turn|>\n"
        for i, path in enumerate(paths):
            with self.subTest(path.name):
                made = whole(text=[text], images=[[upright(path)]], return_tensors="np")
                tokens = file["tokens"][offsets[i] : offsets[i + 1]]
                self.assertEqual(tokens.tolist(), made["input_ids"][0].tolist())
                positions = made["image_position_ids"][0]
                positions = positions[positions[:, 0] >= 0]
                patches = file["patches"][images[i] : images[i + 1]].astype(np.float32) * np.float32(1 / 255)
                np.testing.assert_array_equal(patches, made["pixel_values"][0, : len(positions)])
                width, height = file["image_sizes"][i]
                n = np.arange(width * height)
                np.testing.assert_array_equal(positions, np.stack([n % width, n // width], axis=-1))
        self.assertEqual(file.attrs["image_token_id"], IMAGE)
        self.assertEqual(file.attrs["patches_per_image_token"], 9)
        self.assertIn("note: 2 images of more than 8 bits a pixel", self.report)

    def test_of_the_unified_family_are_its_larger_ones(self):
        self.model = make_model(self.dir / "unified", Gemma4UnifiedImageProcessor(), "gemma4_unified")
        path = self.picture()
        file = self.prepared(self.write_records("a.jsonl", [about({"path": path.name})]))
        made = Gemma4UnifiedImageProcessor()(upright(path), return_tensors="np")
        count = int(made["num_soft_tokens_per_image"][0])
        patches = file["patches"][:].astype(np.float32) * np.float32(1 / 255)
        np.testing.assert_array_equal(patches, made["pixel_values"][0, :count])
        self.assertEqual(int(np.prod(file["image_sizes"][0])), count)
        self.assertEqual(int((file["tokens"][:] == IMAGE).sum()), count)
        self.assertEqual(file.attrs["patches_per_image_token"], 1)

    def test_are_the_same_in_whatever_form_a_record_has_the_image(self):
        path = self.picture()
        content = path.read_bytes()
        encoded = base64.b64encode(content).decode()
        pair = {"question": "What is it?", "answer": "A cat."}
        lines = self.write_records("a.jsonl", [
            about({"image": path.name}),
            about({"url": f"file://{path}"}),
            about({"base64": encoded}),
            about({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}),
            about({}) | {"images": [str(path)]},
            pair | {"image": encoded},
        ])  # fmt: skip
        rows = self.write_records("b.parquet", [
            pair | {"image_id": {"bytes": content, "path": "coins.png"}},
            pair | {"image_id": {"bytes": None, "path": "coins.png"}},
        ])  # fmt: skip
        raw = self.dir / "c.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"q": ["What is it?"], "a": ["A cat."], "scan": [content]}), raw)
        file = self.prepared(lines)
        first = self.samples(self.out)
        self.assertEqual(len(first), 6)
        patches = file["patches"][:]
        for source, options, count in ((rows, (), 2), (raw, ("--map", "q=user,a=assistant,scan=image"), 1)):
            file.close()
            file = self.prepared(source, *options)
            self.assertEqual(self.samples(self.out), first[:count])
            np.testing.assert_array_equal(file["patches"][:], patches[: len(file["patches"])])
        self.assertEqual(len(set(first)), 1)
        self.assertTrue((patches.reshape(6, -1) == patches[: len(patches) // 6].reshape(-1)).all())


class Files(ImageCase):
    def test_have_the_images_of_each_sample_in_order(self):
        small, large = self.picture("text.png"), self.picture()
        two = about({"path": small.name})
        two["messages"][0]["content"] += [{"type": "image", "path": large.name}]
        text = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
        file = self.prepared(self.write_records("a.jsonl", [text, two, text, about({"path": large.name})]))
        self.assertEqual(file["sample_images"][:].tolist(), [0, 0, 2, 2, 3])
        sizes, offsets = file["image_sizes"][:], file["image_offsets"][:]
        self.assertEqual(np.diff(offsets).tolist(), sizes.prod(axis=1).tolist())
        self.assertEqual(sizes[1].tolist(), sizes[2].tolist())
        self.assertEqual(len(file["patches"]), offsets[-1])
        soft = [tokens.count(IMAGE) for tokens in self.samples(self.out)]
        self.assertEqual(soft, [0, offsets[2] // 9, 0, (offsets[3] - offsets[2]) // 9])
        self.assertFalse((file["loss_mask"][:].astype(bool) & (file["tokens"][:] >= END)).any())

    def test_of_text_alone_have_nothing_of_images(self):
        text = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
        file = self.prepared(self.write_records("a.jsonl", [text]))
        self.assertEqual(set(file), {"tokens", "offsets", "loss_mask"})
        self.assertNotIn("image_token_id", file.attrs)

    def test_are_the_same_with_any_number_of_processes(self):
        path = self.picture()
        source = self.write_records("a.jsonl", [about({"path": path.name}, f"{i}?") for i in range(9)])
        contents = []
        for processes in (1, 3):
            with self.prepared(source, "--processes", processes) as file:
                contents.append({name: file[name][:].tobytes() for name in file})
        self.assertEqual(*contents)

    def test_keep_the_images_that_a_cut_leaves_whole(self):
        path = self.picture("microaneurysms.png")
        two = about({"path": path.name})
        two["messages"] += about({"path": path.name})["messages"]
        source = self.write_records("a.jsonl", [two])
        with self.prepared(source) as file:
            tokens = file["tokens"][:].tolist()
            patches = file["patches"][: file["image_offsets"][1]]
        begins = [i for i, token in enumerate(tokens) if token == BEGIN]
        for length in (begins[1], begins[1] + 1):  # the last one is only asked for
            with self.prepared(source, "--max-length", length, "--overlong", "cut") as file:
                self.assertEqual(file["tokens"][:].tolist(), tokens[:length])
                self.assertEqual(file["sample_images"][:].tolist(), [0, 1])
                np.testing.assert_array_equal(file["patches"][:], patches)
        for length in (begins[1] + 2, len(tokens) - 1 - tokens[::-1].index(END)):
            cut = ("--max-length", length, "--overlong", "cut")
            result = self.prepare(source, "--tokenizer", self.model, "--out", self.out, *cut)
            self.assertIn(f"an image lies across the end of its first {length} tokens", result.stderr)

    def test_of_questions_have_their_images(self):
        path = self.picture()
        with self.prepared(self.write_records("a.jsonl", [about({"path": path.name})])) as file:
            patches, tokens = file["patches"][:], file["tokens"][:]
        prompts = self.dir / "p.h5"
        self.assertEqual(self.prepare("--questions-of", self.out, "--out", prompts).returncode, 0)
        asked = self.dir / "p.jsonl"
        asked.write_text(json.dumps({"prompt": "What is it?", "image": path.name}) + "\n")
        again = self.dir / "q.h5"
        self.assertEqual(self.prepare("--prompts", asked, "--tokenizer", self.model, "--out", again).returncode, 0)
        for made in (prompts, again):
            with h5py.File(made) as file:
                np.testing.assert_array_equal(file["patches"][:], patches)
                np.testing.assert_array_equal(file["tokens"][:], tokens[: len(file["tokens"])])
                self.assertEqual(file["sample_images"][:].tolist(), [0, 1])

    def test_are_what_mtp_inspect_shows(self):
        path = self.picture("rocket.jpg")
        with self.prepared(self.write_records("a.jsonl", [about({"path": path.name})])) as file:
            (width, height), patches = file["image_sizes"][0], file["patches"][:]
        inspect = [PROGRAMS / "mtp-inspect", self.out]
        said = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout
        self.assertRegex(said, f"images +1 of {len(patches)} patches, 9 patches a token, {patches.size} bytes\n")
        inspect += ["--sample", "0", "--tokenizer", self.model, "--images", self.dir]
        said = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout
        png = self.dir / "o_0_0.png"
        place = f"⟨{len(patches) // 9} tokens of {png}, {width * 16} × {height * 16} pixels⟩"
        self.assertIn(f"<|turn>user⏎\n<|image>{place}<image|>What is it?<turn|>", said)
        with Image.open(png) as image:
            pixels = np.asarray(image).reshape(height, 16, width, 16, 3)
        np.testing.assert_array_equal(pixels.transpose(0, 2, 1, 3, 4).reshape(len(patches), -1), patches)


class LeftOut(ImageCase):
    def test_are_counted_and_named(self):
        whole = self.picture("hubble_deep_field.jpg").read_bytes()
        (self.dir / "cut.jpg").write_bytes(whole[: len(whole) // 2])
        header = struct.pack("<IiiHHIIiiII", 40, 0, 5, 1, 24, 0, 0, 0, 0, 0, 0)  # 0 pixels wide, 5 high
        (self.dir / "empty.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header)
        Image.new("RGB", (1, 30000)).save(self.dir / "narrow.png")
        config = json.loads((self.model / "config.json").read_text())
        config["vision_config"]["position_embedding_size"] = 100
        (self.model / "config.json").write_text(json.dumps(config))
        self.picture("text.png")
        answer = about({"path": "hubble_deep_field.jpg"})
        answer["messages"][1]["content"] = answer["messages"][0]["content"]
        bad = {
            "an image is broken or cut off": about({"path": "cut.jpg"}),
            "an image is empty or of no format that is known": about({"path": "empty.bmp"}),
            "an image cannot be read": about({"path": "nowhere.png"}),
            "an image is no base64": about({"url": "data:image/png;base64,***"}),
            "an image is neither a path nor bytes nor base64": about({"image": 3}),
            "shows an image of the network; download it first": about({"url": "https://example.org/a.png"}),
            "shows more images than it has": about({}),
            "has images that none of its messages shows": about({"path": "cut.jpg"}) | {"images": ["cut.jpg"]},
            "shows an image in an answer": answer,
            "its text asks for more images than there are": about({"path": "text.png"}, "<|image|>?"),
            "an image is more than 100 patches wide or high": about({"path": "narrow.png"}),
        }
        good = about({"path": "text.png"})
        source = self.write_records("a.jsonl", [good, *bad.values()])
        file = self.prepared(source)
        self.assertEqual(len(file["offsets"]), 2)
        for reason in bad:
            self.assertIn(f"skipped: 1 {reason}\n", self.report)
        result = self.prepare(source, "--tokenizer", self.model, "--out", self.out, "--strict")
        self.assertIn(f"{source}:2: an image is broken or cut off: {self.dir}/cut.jpg", result.stderr)

    def test_are_images_that_the_template_does_not_show(self):
        template = "{% for m in messages %}{{ '<|turn>' + m.role + '\n' }}{% for p in m.content if p.type == 'text' %}"
        template += "{{ p.text }}{% endfor %}{{ '<turn|>\n' }}{% endfor %}"
        (self.model / "chat_template.jinja").write_text(template)
        record = about({"path": self.picture().name})
        record["messages"][1]["content"] = [{"type": "text", "text": "A cat."}]
        result = self.prepare(self.write_records("a.jsonl", [record]), "--tokenizer", self.model, "--out", self.out)
        self.assertIn("the chat template drops images", result.stderr)


class MedPix(ImageCase):
    # The Hub itself is replaced: what is tested is what of it is taken.
    def test_is_the_first_part_of_a_split(self):
        image = {"bytes": self.picture("microaneurysms.png").read_bytes(), "path": "a.png"}
        for split in ("train", "validation"):
            row = {"image_id": image, "mode": "CT", "case_id": "c", "question": f"{split}?", "answer": "It is."}
            self.write_records(f"hub/data/{split}-00000-of-00001.parquet", [row])
        tokenizer = AutoTokenizer.from_pretrained(self.model)
        for preset, split, limit in (("medpix", "train", 1000), ("medpix-validation", "validation", 500)):
            with mock.patch("huggingface_hub.snapshot_download", return_value=str(self.dir / "hub")) as download:
                result = self.prepare("--preset", preset, "--tokenizer", self.model, "--out", self.out)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual(download.call_args.args, ("mmoukouba/MedPix-VQA",))
            self.assertEqual(PRESETS[preset].limit, limit)
            (tokens,) = self.samples(self.out)
            self.assertIn(f"<image|>{split}?<turn|>", tokenizer.decode(tokens))


if __name__ == "__main__":
    PROGRAMS = Path(sys.argv.pop(1))
    unittest.main()
