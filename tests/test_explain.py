"""The measurement of `explain`: gradients of the right tokens, and a run on a few sentences."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import liminal_hf
from liminal_hf.explaining.words import word_spans
from liminal_hf.scoring.scorer import load

pytestmark = pytest.mark.nightly

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import explain as script  # noqa: E402


def test_gradient_times_input_is_the_slope_along_a_words_embeddings(minilm: Path) -> None:
    model, tokenizer = load(liminal_hf.DEFAULT_CHECKPOINT)
    text = "An unforgettably lovely evening, and nobody's fault."
    words = word_spans(text)
    found = script.gradient_times_input(model.double(), tokenizer, text, words, 0)
    encoded = tokenizer(text, return_tensors="pt")
    embeds = model.get_input_embeddings()(encoded.pop("input_ids")).detach()
    tokens = [encoded.char_to_token(start) for start, _ in words] + [embeds.shape[1] - 2]

    def answer(first: int, last: int, factor: float) -> float:
        scaled = embeds.clone()
        scaled[0, first:last] *= factor
        with torch.no_grad():
            return float(model(inputs_embeds=scaled, **encoded).logits[0, 0])

    # A comma and the full stop are tokens, too, and belong to no word.
    ends = [encoded.char_to_token(end - 1) + 1 for _, end in words]
    slopes = [(answer(a, b, 1 + 1e-4) - answer(a, b, 1 - 1e-4)) / 2e-4 for a, b in zip(tokens, ends, strict=False)]
    assert ends[1] - tokens[1] > 1, "a word of several tokens"
    assert found == pytest.approx(slopes, abs=1e-5)


def test_the_interval_is_around_the_mean() -> None:
    values = np.random.default_rng(0).normal(1, 1, (400, 1))
    (cell,) = script.with_interval(values, script.resample_counts(400, 500))
    assert cell["mean"] == pytest.approx(values.mean())
    assert (cell["high"] - cell["low"]) == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_the_measurement_runs(data_dir: Path, minilm: Path, tmp_path: Path) -> None:
    script.main(["--sentences", "4", "--results", str(tmp_path)])
    report = json.loads((tmp_path / "explain.json").read_text(encoding="utf-8"))
    first = {name: cells[0]["mean"] for name, cells in report["moved"].items()}
    assert report["sentences"] == 4 and first["explain"] >= max(first.values()), "it has tried every word"
    assert "explain minus random" in (tmp_path / "explain.md").read_text(encoding="utf-8")
