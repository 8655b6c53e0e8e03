#!/usr/bin/env python3
"""scripts/prepare_data.py with sound: that frames and tokens are Hugging Face's own, and what is left out.

.venv-hf/bin/python tests/scripts/sound_test.py build/release/bin
"""

import base64
import io
import json
import subprocess
import sys
import unittest
from pathlib import Path

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import soundfile
from transformers import AutoTokenizer, Gemma4AudioFeatureExtractor, Gemma4ImageProcessor, Gemma4Processor
from transformers import Gemma4UnifiedAudioFeatureExtractor, Gemma4VideoProcessor

sys.path.insert(0, str(Path(__file__).parent))

from prepare_data_test import SCRIPTS, MediaCase, make_media_model

AUDIO, BEGIN, END = 311, 316, 305
TEXT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


def make_model(directory: Path, extractor: object, model_type: str, audio: dict[str, object]) -> Path:
    config = {
        "model_type": model_type,
        "audio_token_id": AUDIO,
        "boa_token_id": BEGIN,
        "eoa_token_index": END,
        "audio_config": audio,
    }
    return make_media_model(directory, config, "What is said? A word.", extractor)


def about(audio: dict[str, object], text: str = "What is said?") -> dict[str, object]:
    content = [{"type": "audio"} | audio, {"type": "text", "text": text}]
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "A word."}]}


class SoundCase(MediaCase):
    def setUp(self):
        super().setUp()
        self.random = np.random.default_rng(3)
        channels = {"subsampling_conv_channels": [128, 32]}
        self.model = make_model(self.dir / "m", Gemma4AudioFeatureExtractor(), "gemma4", channels)

    def sound(self, name: str, samples: int, rate: int = 16000, channels: int = 1, **options: object) -> Path:
        """Noise whose values 16 bits hold exactly."""
        values = self.random.integers(-9999, 9999, (samples, channels)) / 2**15
        soundfile.write(self.dir / name, values, rate, **options)
        return self.dir / name


class Frames(SoundCase):
    def test_and_tokens_are_those_of_the_processor(self):
        lengths = (161, 1000, 1601, 16000, 30 * 16000)
        paths = [self.sound(f"{length}.{'flac' if length % 2 else 'wav'}", length) for length in lengths]
        file = self.prepared(self.write_records("a.jsonl", [about({"path": path.name}) for path in paths]))
        tokenizer = AutoTokenizer.from_pretrained(self.model)
        tokenizer.boi_token = tokenizer.eoi_token = tokenizer.image_token = "<unused0>"
        tokenizer.image_token_id = tokenizer.convert_tokens_to_ids("<unused0>")
        whole = Gemma4Processor(Gemma4AudioFeatureExtractor(), Gemma4ImageProcessor(), tokenizer, Gemma4VideoProcessor())
        offsets, clips = file["offsets"][:], file["audio_offsets"][:]
        self.assertEqual(file["sample_audios"][:].tolist(), [0, 1, 2, 3, 4, 5])
        self.assertEqual(clips[-1], len(file["audio_features"]))
        text = "<bos><|turn>user\n<|audio|>What is said?<turn|>\n<|turn>model\nA word.<turn|>\n"
        for i, path in enumerate(paths):
            with self.subTest(path.name):
                samples, _ = soundfile.read(path, dtype="float32")
                made = whole(text=[text], audio=[samples], return_tensors="np")
                tokens = file["tokens"][offsets[i] : offsets[i + 1]]
                self.assertEqual(tokens.tolist(), made["input_ids"][0].tolist())
                frames = made["input_features"][0][made["input_features_mask"][0].astype(bool)]
                np.testing.assert_array_equal(file["audio_features"][clips[i] : clips[i + 1]], frames)
        self.assertEqual((file.attrs["audio_token_id"], file.attrs["frames_per_audio_token"]), (AUDIO, 4))

    def test_of_the_unified_family_are_raw_samples(self):
        extractor = Gemma4UnifiedAudioFeatureExtractor()
        self.model = make_model(self.dir / "unified", extractor, "gemma4_unified", {"audio_embed_dim": 640})
        path = self.sound("a.wav", 1500)
        file = self.prepared(self.write_records("a.jsonl", [about({"path": path.name})]))
        samples, _ = soundfile.read(path, dtype="float32")
        np.testing.assert_array_equal(file["audio_features"][:].ravel(), np.pad(samples, (0, 3 * 640 - 1500)))
        self.assertEqual(int((file["tokens"][:] == AUDIO).sum()), 3)
        self.assertEqual(file.attrs["frames_per_audio_token"], 1)

    def test_are_those_of_one_channel_at_16_kilohertz(self):
        """A tone stays the tone that it is."""
        def tone(rate: int) -> np.ndarray:
            return np.sin(2 * np.pi * 440 * np.arange(rate) / rate) / 2

        both = np.stack([tone(44100), np.zeros(44100)], axis=1)  # as loud as one of half the height
        soundfile.write(self.dir / "stereo.flac", both, 44100, subtype="PCM_24")
        soundfile.write(self.dir / "mono.wav", tone(16000) / 2, 16000, subtype="PCM_24")
        file = self.prepared(self.write_records("a.jsonl", [about({"path": "stereo.flac"}), about({"path": "mono.wav"})]))
        stereo, mono = np.split(file["audio_features"][:], file["audio_offsets"][1:-1])
        np.testing.assert_allclose(np.exp(stereo[5:-5]), np.exp(mono[5:-5]), atol=5e-4 * np.exp(mono.max()))
        self.assertIn("note: 1 clips of sound resampled to 16000 Hz\n", self.report)

    def test_are_the_same_in_whatever_form_a_record_has_the_sound(self):
        path = self.sound("a.wav", 3000)
        content = path.read_bytes()
        encoded = base64.b64encode(content).decode()
        pair = {"question": "What is said?", "answer": "A word."}
        lines = self.write_records("a.jsonl", [
            about({"audio": path.name}),
            about({"url": f"file://{path}"}),
            about({"type": "input_audio", "input_audio": {"data": encoded, "format": "wav"}}),
            about({"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{encoded}"}}),
            about({}) | {"audios": [str(path)]},
            pair | {"audio": encoded},
        ])  # fmt: skip
        rows = self.write_records("b.parquet", [pair | {"audio": {"bytes": content, "path": "a.wav"}}])
        raw = self.dir / "c.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"q": ["What is said?"], "a": ["A word."], "heard": [content]}), raw)
        file = self.prepared(lines)
        first, frames = self.samples(self.out), file["audio_features"][:]
        self.assertEqual(len(first), 6)
        self.assertEqual(len(set(first)), 1)
        self.assertTrue((frames.reshape(6, -1) == frames[: len(frames) // 6].reshape(-1)).all())
        for source, options in ((rows, ()), (raw, ("--map", "q=user,a=assistant,heard=audio"))):
            file.close()
            file = self.prepared(source, *options)
            self.assertEqual(self.samples(self.out), first[:1])
            np.testing.assert_array_equal(file["audio_features"][:], frames[: len(frames) // 6])


class Files(SoundCase):
    def test_have_the_clips_of_each_sample_in_order(self):
        short, long = self.sound("short.wav", 2000), self.sound("long.flac", 5000)
        two = about({"path": short.name})
        two["messages"][0]["content"] += [{"type": "audio", "path": long.name}]
        two["messages"] += about({"path": short.name})["messages"]
        source = self.write_records("a.jsonl", [TEXT, two, TEXT])
        with self.prepared(source) as file:
            self.assertEqual(file["sample_audios"][:].tolist(), [0, 0, 3, 3])
            lengths = np.diff(file["audio_offsets"][:])
            tokens = file["tokens"][file["offsets"][1] : file["offsets"][2]].tolist()
            frames = file["audio_features"][: lengths[:2].sum()]
            self.assertFalse((file["loss_mask"][:].astype(bool) & np.isin(file["tokens"][:], (AUDIO, BEGIN, END))).any())
        self.assertEqual(lengths[0], lengths[2])
        self.assertLess(lengths[0], lengths[1])
        self.assertEqual(tokens.count(AUDIO), int(np.ceil(lengths / 4).sum()))
        last = len(tokens) - tokens[::-1].index(BEGIN)
        with self.prepared(source, "--max-length", last, "--overlong", "cut") as file:
            self.assertEqual(file["sample_audios"][:].tolist(), [0, 0, 2, 2])
            np.testing.assert_array_equal(file["audio_features"][:], frames)
        cut = ("--max-length", last + 1, "--overlong", "cut", "--strict")
        result = self.prepare(source, "--tokenizer", self.model, "--out", self.out, *cut)
        self.assertIn(f"a clip of sound lies across the end of its first {last + 1} tokens", result.stderr)

    def test_of_questions_have_their_clips(self):
        path = self.sound("a.wav", 4000)
        with self.prepared(self.write_records("a.jsonl", [about({"path": path.name})])) as file:
            frames, tokens = file["audio_features"][:], file["tokens"][:]
        prompts, asked, again = self.dir / "p.h5", self.dir / "p.jsonl", self.dir / "q.h5"
        self.assertEqual(self.prepare("--questions-of", self.out, "--out", prompts).returncode, 0)
        asked.write_text(json.dumps({"prompt": "What is said?", "audio": path.name}) + "\n")
        self.assertEqual(self.prepare("--prompts", asked, "--tokenizer", self.model, "--out", again).returncode, 0)
        for made in (prompts, again):
            with h5py.File(made) as file:
                np.testing.assert_array_equal(file["audio_features"][:], frames)
                np.testing.assert_array_equal(file["tokens"][:], tokens[: len(file["tokens"])])
                self.assertEqual(file["sample_audios"][:].tolist(), [0, 1])

    def test_are_what_mtp_inspect_shows(self):
        path = self.sound("a.wav", 4000)
        with self.prepared(self.write_records("a.jsonl", [about({"path": path.name})])) as file:
            frames = len(file["audio_features"])
        inspect = [PROGRAMS / "mtp-inspect", self.out]
        said = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout
        self.assertRegex(said, f"clips of sound +1 of {frames} frames of 128 numbers, 4 frames a token\n")
        inspect += ["--sample", "0", "--tokenizer", self.model]
        said = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout
        place = f"⟨{-(-frames // 4)} tokens of clip 0, {frames} frames⟩"
        self.assertIn(f"<|turn>user⏎\n<|audio>{place}<audio|>What is said?<turn|>", said)


class LeftOut(SoundCase):
    def test_are_counted_and_named(self):
        whole = self.sound("whole.flac", 9000).read_bytes()
        (self.dir / "cut.flac").write_bytes(whole[:40])
        (self.dir / "text.wav").write_text("no sound")
        self.sound("blip.wav", 150)
        self.sound("long.flac", 8000 * 31, 8000)
        wild = io.BytesIO()
        soundfile.write(wild, np.full(999, np.nan, np.float32), 16000, format="WAV", subtype="FLOAT")
        (self.dir / "wild.wav").write_bytes(wild.getvalue())
        answer = about({"path": "whole.flac"})
        answer["messages"][1]["content"] = answer["messages"][0]["content"]
        bad = {
            "a clip of sound is broken or of no format that is known": 2,
            "a clip of sound is too short for a token": 1,
            "a clip of sound is longer than 30 seconds": 1,
            "a clip of sound has samples that are no numbers": 1,
            "a clip of sound cannot be read": 1,
            "a clip of sound is neither a path nor bytes nor base64": 1,
            "a clip of sound is no base64": 1,
            "shows a clip of sound of the network; download it first": 1,
            "shows more clips of sound than it has": 1,
            "has clips of sound that none of its messages shows": 1,
            "shows a clip of sound in an answer": 1,
            "its text asks for more clips of sound than there are": 1,
            "shows images, and the model takes none": 1,
        }
        names = ("cut.flac", "text.wav", "blip.wav", "long.flac", "wild.wav", "nowhere.wav")
        records = [about({"path": name}) for name in names] + [
            about({"audio": 3}),
            about({"url": "data:audio/wav;base64,***"}),
            about({"url": "https://example.org/a.wav"}),
            about({}),
            about({"path": "whole.flac"}) | {"audios": ["whole.flac"]},
            answer,
            about({"path": "whole.flac"}, "<|audio|>?"),
            about({"type": "image", "path": "a.png"}),
        ]
        source = self.write_records("a.jsonl", [about({"path": "whole.flac"}), *records])
        file = self.prepared(source)
        self.assertEqual(len(file["offsets"]), 2)
        for reason, count in bad.items():
            self.assertIn(f"skipped: {count} {reason}\n", self.report)
        result = self.prepare(source, "--tokenizer", self.model, "--out", self.out, "--strict")
        self.assertIn(f"{source}:2: a clip of sound is broken or of no format that is known: {self.dir}/cut.flac", result.stderr)

    def test_are_all_where_the_extractor_is_not_the_models(self):
        config = json.loads((self.model / "config.json").read_text())
        config["audio_config"]["subsampling_conv_channels"] = [64, 32]
        (self.model / "config.json").write_text(json.dumps(config))
        source = self.write_records("a.jsonl", [about({"path": self.sound("a.wav", 999).name})])
        result = self.prepare(source, "--tokenizer", self.model, "--out", self.out)
        said = "its feature extractor gives frames of 128 numbers of type float32, config.json asks for 64 of type float32"
        self.assertIn(said, result.stderr)


class WithoutLibrariesTest(unittest.TestCase):
    def test_a_model_that_does_not_hear_needs_none_of_them(self):
        script = "import sys; sys.modules |= {'soundfile': None, 'soxr': None}; import mtp_tools.data.chat_tokenizer"
        subprocess.run([sys.executable, "-c", script], check=True, cwd=SCRIPTS)


if __name__ == "__main__":
    PROGRAMS = Path(sys.argv.pop(1))
    unittest.main()
