"""Sounds and images at the door: what is read, what is named, and the rows of the pipeline."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from senses_kit import RATE, clip, picture, processor, sense_model
from torch.utils.data import Dataset
from transformers import pipeline

from liminal_hf.modeling.errors import LiminalError
from liminal_hf.modeling.processors import read_signal

soundfile = pytest.importorskip("soundfile")


@pytest.fixture(scope="module")
def hear() -> Any:
    return pipeline("pad-regression", model=sense_model("wav2vec2"), feature_extractor=processor("wav2vec2"))


@pytest.fixture(scope="module")
def see() -> Any:
    return pipeline("pad-regression", model=sense_model("vit"), image_processor=processor("vit"))


def test_a_sound_in_every_form_has_one_answer(hear: Any, tmp_path: Path) -> None:
    samples = clip(0.5, 0.5, 0.2)
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    forms = [
        *(samples, torch.from_numpy(samples), samples.astype(np.float64), np.stack([samples, samples])),
        *(str(path), path, {"array": samples, "sampling_rate": RATE}, {"raw": samples, "sampling_rate": RATE}),
        {"path": str(path), "bytes": None},
    ]
    rows = hear(forms)
    assert [row["error"] for row in rows] == [None] * len(forms)
    for name in ("pleasure", "arousal", "dominance"):
        np.testing.assert_allclose([row[name] for row in rows], rows[0][name], atol=1e-5)
    single = hear(samples)
    assert single.keys() == rows[0].keys() and single["pleasure"] == pytest.approx(rows[0]["pleasure"], abs=1e-5)
    text_keys = {"octant", "uncertainty", "confidence", "windows", "truncated", "error", "in_domain", "percentile"}
    assert text_keys <= single.keys() and single["windows"] is None and single["truncated"] is False


def test_a_file_at_another_rate_is_resampled_and_an_array_is_refused(hear: Any, tmp_path: Path) -> None:
    time = np.arange(int(0.2 * 44_100)) / 44_100
    soundfile.write(tmp_path / "fast.wav", 0.5 * np.sin(2 * np.pi * 300 * time), 44_100)
    found = read_signal(tmp_path / "fast.wav", processor("wav2vec2"))
    assert found.dtype == np.float32 and abs(len(found) - 0.2 * RATE) <= 1
    rows = hear([{"array": time, "sampling_rate": 44_100}, tmp_path / "fast.wav"])
    assert rows[0]["error"].startswith("sampled at 44100 Hz, and the model wants 16000") and rows[1]["error"] is None


def test_what_can_not_be_heard_is_said_in_its_row(hear: Any, tmp_path: Path) -> None:
    (tmp_path / "no.wav").write_text("no sound")
    good, bad = clip(0.3, 0.6, 0.1), clip(0.3, 0.6, 0.1)
    bad[7] = np.nan
    items = [
        *(good, np.zeros(0, np.float32), np.zeros(800, np.float32), bad, np.ones(20, np.float32) * np.arange(20)),
        *(np.arange(900), np.zeros((20, 900), np.float32), tmp_path / "none.wav", tmp_path / "no.wav", None, {"a": 1}),
        *(picture(0.5, 0.5), good),
    ]
    rows = hear(items)
    found = [row["error"] for row in rows]
    said = [
        "empty",
        "silent",
        "NaN",
        "too short: 20 samples",
        "must be floating numbers",
        "shape (n,) or (channels, n)",
    ]
    said += ["there is no file", "not a sound that can be read", "nothing (missing value)", "a dict of array"]
    assert found[0] is None and found[-1] is None and found[-2] is not None
    for message, error in zip(said, found[1:-2], strict=True):
        assert message in error
    assert rows[0]["pleasure"] == pytest.approx(rows[-1]["pleasure"], abs=1e-6)
    assert all(row["pleasure"] is None for row in rows[1:-1])
    with pytest.raises(LiminalError, match="The audio can't be read: silent"):
        hear(np.zeros(800, np.float32))
    with pytest.raises(LiminalError, match="does not take 'memory'"):
        hear(good, memory=True)
    with pytest.raises(LiminalError, match="whole number of seconds"):
        hear(good, max_length=0.5)


def test_several_sounds_come_as_they_are_asked_for(hear: Any) -> None:
    clips = [clip(0.2 * index, 0.5, 0.1, index) for index in range(5)]
    expected = [hear(one)["arousal"] for one in clips]

    class Clips(Dataset):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> Any:
            return clips[index]

    for several in (clips, tuple(clips), pd.Series(clips, index=range(9, 14)), Clips(), (one for one in clips)):
        rows = hear(several, batch_size=2)
        assert isinstance(rows, list) == (not isinstance(several, Dataset) and hasattr(several, "__len__"))
        np.testing.assert_allclose([row["arousal"] for row in rows], expected, atol=1e-5)
    assert hear([]) == [] and hear(clip(0.5, 0.5, 1.5), max_length=1)["truncated"]


def test_an_image_in_every_form(see: Any, tmp_path: Path) -> None:
    image = picture(0.8, 0.1)
    image.save(tmp_path / "a.png")
    array = np.asarray(image)
    forms = [image, str(tmp_path / "a.png"), array, array.astype(np.float32) / 255, torch.from_numpy(array.copy())]
    forms.append(image.convert("RGBA"))
    rows = see(forms)
    assert [row["error"] for row in rows] == [None] * len(forms)
    np.testing.assert_allclose([row["pleasure"] for row in rows], rows[0]["pleasure"], atol=2e-3)
    grey = see([image.convert("L"), np.asarray(image.convert("L")), image.convert("L").convert("RGB")])
    assert [row["error"] for row in grey] == [None] * 3 and len({row["pleasure"] for row in grey}) == 1
    bad = array.astype(np.float32)
    bad[0, 0] = np.nan
    (tmp_path / "no.png").write_bytes(b"no image")
    errors = [row["error"] for row in see([bad, np.zeros((0, 4, 3)), tmp_path / "no.png", "http://x.org/a.png", None])]
    for said, error in zip(["NaN", "empty", "not an image", "there is no file", "missing"], errors, strict=True):
        assert said in error
    assert see(image)["pleasure"] == pytest.approx(rows[0]["pleasure"], abs=1e-6)
    assert isinstance(Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())), Image.Image)


def test_a_pipeline_is_saved_with_its_processor_and_text_tasks_say_no(hear: Any, tmp_path: Path) -> None:
    hear.save_pretrained(tmp_path)
    again = pipeline("pad-regression", model=str(tmp_path))
    sample = clip(0.7, 0.3, 0.1)
    assert type(again) is type(hear) and again(sample)["pleasure"] == hear(sample)["pleasure"]
    with pytest.raises(LiminalError, match="reads audio, not text"):
        pipeline("text-classification", model=hear.model, tokenizer=None)
