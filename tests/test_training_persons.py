"""A recipe that names persons: the prior is fitted on held-out ones, kept with the model, and used by every door."""

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from training_kit import encoder_with_tokenizer, phase, predict_texts, texts_and_labels

from liminal_hf import LiminalConfig, LiminalForPADRegression, PersonPrior, fit_person_prior
from liminal_hf.data import load_table
from liminal_hf.modeling.encoders import load_tokenizer
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.scoring.persons import prior_of
from liminal_hf.training.fit import fit
from liminal_hf.training.recipe import Recipe, RecipeError

HEAD = ["text", "V", "A", "who", "day"]


def diary(path: Path, persons: int = 40, each: int = 6) -> Path:
    """Texts that say half of their labels; the rest is the person's own level."""
    chance = random.Random(1)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEAD)
        for person in range(persons):
            level = chance.gauss(0, 0.5)
            for turn, (text, labels) in enumerate(texts_and_labels(each, seed=person)):
                v, a = (min(max(label + level, 1), 5) for label in labels[:2])
                writer.writerow([text, f"{v:.4f}", f"{a:.4f}", f"p{person}", f"2024-03-{turn + 1:02d} 10:00"])
    return path


def recipe(folder: Path, **data: Any) -> dict[str, Any]:
    table = diary(folder / "mine.csv")
    given = {"files": {"train": str(table)}, "labels": {"pleasure": "V", "arousal": "A"}, "validation_fraction": 0.4}
    return {
        "model": {"encoder": str(encoder_with_tokenizer(folder / "encoder")), "latent_size": 16, "num_outer_steps": 2},
        "data": {**given, "max_length": 32, "person": "who", "time": "day", **data},
        "phases": [phase("head", trainable="head", cache=True)],
        "evaluate_test": False,
    }


def liminal(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    line = [sys.executable, "-m", "liminal_hf", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `liminal train` on persons."""
    folder = tmp_path_factory.mktemp("persons")
    (folder / "mine.yaml").write_text(json.dumps(recipe(folder)), encoding="utf-8")  # JSON is YAML
    done = liminal("train", folder / "mine.yaml", "-o", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder


def test_the_prior_is_that_of_persons_whom_no_weight_has_seen(trained: Path) -> None:
    config = LiminalConfig.from_pretrained(trained / "run" / "model")
    content = Recipe.from_yaml(trained / "mine.yaml").data
    options = content.model_dump(exclude={"dataset", "files", "max_length"}, exclude_none=True)
    splits = load_table({"train": content.files["train"]}, **options)  # type: ignore[index]
    train, held_out = (set(splits[name]["person"][:]) for name in ("train", "validation"))
    assert len(held_out) == 16 and not train & held_out, "whole persons"
    model = LiminalForPADRegression.from_pretrained(trained / "run" / "model").eval()
    rows = splits["validation"]
    predictions = predict_texts(model, load_tokenizer(trained / "run" / "model"), rows["text"][:])
    expected = fit_person_prior(predictions, np.array(rows["labels"][:]), rows["person"][:], rows["time"][:])
    own = PersonPrior.of_model(config)
    for name in own:
        np.testing.assert_allclose(own[name], expected[name], rtol=1e-3, atol=1e-6)
    assert float(own.shrinkage[0]) < 2, "in this table persons differ as much as their texts leave open"
    metrics = json.loads((trained / "run" / "metrics.json").read_text("utf-8"))
    assert metrics["persons"]["shrinkage"]["arousal"] == float(own.shrinkage[1])


def test_the_prior_travels_bit_by_bit(trained: Path, tmp_path: Path) -> None:
    model = LiminalForPADRegression.from_pretrained(trained / "run" / "model")
    own = PersonPrior.of_model(model.config)
    model.save_pretrained(tmp_path)
    again = PersonPrior.of_model(LiminalForPADRegression.from_pretrained(tmp_path).config)
    assert all(torch.equal(own[name], again[name]) for name in own)
    own.save(tmp_path / "prior.safetensors")
    assert all(torch.equal(own[name], PersonPrior.load(tmp_path / "prior.safetensors")[name]) for name in own)


def test_score_uses_the_models_own_prior_and_a_file_wins(trained: Path, tmp_path: Path, run: Run) -> None:
    table, model = trained / "mine.csv", trained / "run" / "model"
    options = ["--person", "who", "--time", "day", "--ratings", "pleasure=V,arousal=A", "--scale", "1,5"]
    done = liminal("score", table, "-o", tmp_path / "own.csv", "-m", model, *options)
    assert done.returncode == 0, done.stderr
    assert "is a guess" not in done.stderr
    with (tmp_path / "own.csv").open(encoding="utf-8", newline="") as file:
        first, second = list(csv.DictReader(file))[:2]
    assert first["adjusted_pleasure"] == first["pleasure"], "nothing is rated before the first row"
    k = float(PersonPrior.of_model(LiminalConfig.from_pretrained(model)).shrinkage[0])
    residual = (float(first["V"]) - 3) / 2 - float(first["pleasure"])
    expected = float(second["pleasure"]) + residual / (1 + k)
    assert float(second["adjusted_pleasure"]) == pytest.approx(expected, abs=1e-3)
    same = PersonPrior.guess([0.3, 0.3], [0.3, 0.3])
    PersonPrior(**{**same, "residual_between": 0 * same.mean}).save(tmp_path / "prior.safetensors")
    given = ["--prior", str(tmp_path / "prior.safetensors")]
    arguments = ["score", str(table), "-o", str(tmp_path / "file.csv"), "-m", str(model), *options, *given]
    assert run(*arguments)[0] == 0
    with (tmp_path / "file.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(row["adjusted_pleasure"] == row["pleasure"] for row in rows), "by that prior persons do not differ"


def test_a_model_without_a_prior_warns_of_the_guess(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = LiminalConfig.from_pretrained(trained / "run" / "model")
    prior_of(None, config)
    assert not caplog.records
    config.person_prior = None
    prior_of(None, config)
    assert "is a guess" in caplog.text


def test_a_finished_run_is_not_that_of_other_persons(trained: Path) -> None:
    table = trained / "mine.csv"
    before = table.read_text(encoding="utf-8")
    try:
        table.write_text(before.replace(",p0,", ",p1,"), encoding="utf-8")
        with pytest.raises(LiminalError, match="holds a run of another data set"):
            fit(trained / "mine.yaml", trained / "run")
    finally:
        table.write_text(before, encoding="utf-8")


def test_too_few_persons_are_an_error_before_any_training(tmp_path: Path) -> None:
    content = recipe(tmp_path, validation_fraction=0.2)
    with pytest.raises(RecipeError, match=r"there 8 persons have 3 labels or more of pleasure; 10 are needed"):
        fit(content, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    with pytest.raises(RecipeError, match="no column 'person'"):
        rows = [{"text": "w1 w2", "labels": [0.1, 0.2]}] * 4
        fit(content, tmp_path / "given", data={"train": rows, "validation": rows})


def test_columns_that_belong_to_persons_need_them(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="time and date_order go with `person`"):
        Recipe.from_dict(recipe(tmp_path, person=None))
    with pytest.raises(RecipeError, match="emobank names no writers"):
        Recipe.from_dict({**recipe(tmp_path), "data": {"dataset": "emobank", "person": "who"}})
    older = Recipe.from_dict({**recipe(tmp_path), "data": {"dataset": "emobank"}})
    assert not {"person", "time", "date_order"} & set(older.to_dict()["data"]), "older runs keep their hash"
