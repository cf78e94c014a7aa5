"""What a model knows of its domain: other languages, code and gibberish get a large uncertainty and no verdict."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from datasets import Dataset
from training_kit import encoder_with_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, pipeline

import liminal_hf
from liminal_hf import LiminalForPADRegression
from liminal_hf.data.pooled_cache import _identity
from liminal_hf.modeling.answers import UNCLEAR
from liminal_hf.modeling.domain import widened
from liminal_hf.scoring import Scorer
from liminal_hf.training.domain import FEWEST_TEXTS, _logistic, fit_domain, scrambled

ENGLISH = [
    "What a lovely surprise!",
    "The train leaves at nine.",
    "I HATE YOU",
    "my brother broke his arm yesterday and we spent hours at the hospital",
    "ok",
]
# The last three are of kinds that nothing was fitted on.
FOREIGN = [
    "Estoy muy feliz con mi nueva casa.",
    "Ich bin heute sehr traurig, weil mein Hund weggelaufen ist.",
    "xqz vprt lkw mnbv hjgf qwpz",
    "for (int i = 0; i < n; i++) { total += values[i]; }",
    "Jestem dzisiaj bardzo zmęczony i smutny.",
    "Mutta minä rakastan tätä maata kovasti.",
    "SELECT name, age FROM people WHERE age > 30 ORDER BY name;",
]


@pytest.fixture(scope="module")
def pad() -> Any:
    return pipeline("pad-regression", model=liminal_hf.DEFAULT_CHECKPOINT)


def test_what_is_unlike_the_training_texts_is_said_in_the_row(pad: Any) -> None:
    spread = dict(zip(pad.model.config.targets, pad.model.config.label_std, strict=True))
    for text, row in zip(FOREIGN, pad(FOREIGN), strict=True):
        assert row["in_domain"] < 0.5, text
        assert all(row["uncertainty"][name] > spread[name] for name in spread), text
        assert set(row["verdict"].values()) == {UNCLEAR} and row["octant"] == "neutral", text
        assert row["emotions"] is None
    english = pad(ENGLISH)
    assert all(row["in_domain"] > 0.5 for row in english)
    base = pad.model.liminal.pooler
    gauge, base.domain = base.domain, None
    try:
        plain = pad(ENGLISH)
    finally:
        base.domain = gauge
    assert [row["uncertainty"] for row in english] == [row["uncertainty"] for row in plain], "inside nothing changes"
    assert [row["in_domain"] for row in plain] == [None] * len(ENGLISH)


@pytest.mark.nightly
def test_every_door_says_the_same(pad: Any, tmp_path: Path) -> None:
    expected = [row["in_domain"] for row in pad([*ENGLISH, *FOREIGN])]
    for backend in ("torch", "onnx"):
        table = Scorer(liminal_hf.DEFAULT_CHECKPOINT, backend, threads=1).score([*ENGLISH, None, *FOREIGN])
        found = table["in_domain"].to_pylist()
        assert found.pop(len(ENGLISH)) is None
        np.testing.assert_allclose(found, expected, atol=1e-4)
    pad.model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    for name, value in pad.model.liminal.pooler.domain.state_dict().items():
        assert torch.equal(again.liminal.pooler.domain.state_dict()[name], value)


def test_the_square_of_the_uncertainty_is_mixed() -> None:
    share = torch.tensor([1.0, 0.5, 0.25, 0.0])
    uncertainty = torch.tensor([[0.1, 2.0]]).expand(4, 2)
    outside = torch.tensor([0.0, 0.0, 0.5, 1.0])[:, None]
    anything = torch.tensor([4 / 12, 4.0])
    expected = ((1 - outside) * uncertainty**2 + outside * anything).sqrt()
    torch.testing.assert_close(widened(uncertainty, share, [-1.0, 1.0]), expected)


def test_the_logistic_regression_is_that_of_a_library() -> None:
    from sklearn.linear_model import LogisticRegression

    generator = torch.Generator().manual_seed(0)
    inside = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    outside = torch.randn(60, 4, generator=generator, dtype=torch.float64) * 2 + 1
    weight, bias = _logistic(inside, outside)
    centre, spread = inside.mean(0), inside.std(0) + 1e-3
    states = ((torch.cat([inside, outside]) - centre) / spread).numpy()
    theirs = LogisticRegression(C=1 / 120, tol=1e-10, max_iter=1000).fit(states, [1] * 60 + [0] * 60)
    np.testing.assert_allclose((weight * spread).numpy(), theirs.coef_[0], atol=1e-4)
    np.testing.assert_allclose(float(bias + weight @ centre), theirs.intercept_[0], atol=1e-4)


def test_too_few_texts_say_nothing(minilm: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    model = tiny_model("bert", vocab_size=tokenizer.vocab_size)
    texts = [f"text number {index}" for index in range(FEWEST_TEXTS)]
    assert not fit_domain(model, tokenizer, texts[1:]) and not model.config.domain_gauge
    before = _identity(model.liminal)
    assert fit_domain(model, tokenizer, texts) and model.config.domain_gauge
    assert _identity(model.liminal) == before, "states that are cached stay good"
    first = model.liminal.pooler.domain.weight.clone()
    assert fit_domain(model, tokenizer, texts) and torch.equal(model.liminal.pooler.domain.weight, first)
    assert not fit_domain(model, tokenizer, []) and model.liminal.pooler.domain is None
    assert model(**tokenizer("text", return_tensors="pt")).in_domain is None
    assert "no longer says `in_domain`" in caplog.text
    assert scrambled(texts, 1) != scrambled(texts, 2)


def test_the_stock_trainer_fits_it(tmp_path: Path) -> None:
    folder = encoder_with_tokenizer(tmp_path / "encoder")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LiminalForPADRegression.from_encoder_pretrained(folder, latent_size=16)
    texts = [f"w{index % 7} w{index % 5} w{index % 11} w{index // 2 % 13}" for index in range(2 * FEWEST_TEXTS)]
    rows = Dataset.from_dict({**tokenizer(texts), "labels": [[0.1, -0.1, 0.2], [0.3, 0.0, -0.2]] * FEWEST_TEXTS})
    options = {"max_steps": 1, "report_to": [], "save_strategy": "no", "use_cpu": True}
    for processing_class, fitted in ((tokenizer, True), (None, False)):
        arguments = TrainingArguments(str(tmp_path / "run"), **options)
        collator = None if processing_class else Trainer(model, arguments, processing_class=tokenizer).data_collator
        Trainer(model, arguments, train_dataset=rows, processing_class=processing_class, data_collator=collator).train()
        assert model.config.domain_gauge == fitted, "states of another encoder do not fit the old gauge"
