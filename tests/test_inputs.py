"""What a training reads: given data in any container, labels and lengths that do not fit, targets by name."""

import json
import logging
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict
from training_kit import encoder_with_tokenizer, phase, same_weights, small_recipe, texts_and_labels
from transformers import CamembertConfig, ElectraConfig, PreTrainedConfig, pipeline

from liminal_hf.export.model_card import build_card, run_facts
from liminal_hf.modeling.encoders import build_encoder
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression
from liminal_hf.training import inputs
from liminal_hf.training.fit import fit
from liminal_hf.training.inputs import load_splits, load_tokenizer, readable_length, tokenized
from liminal_hf.training.recipe import Recipe
from liminal_hf.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("own_cache")


def rows(count: int, seed: int) -> dict[str, list]:
    texts, labels = zip(*texts_and_labels(count, seed), strict=True)
    return {"text": list(texts), "labels": [[(value - 3) / 2 for value in row] for row in labels]}


def quick(folder: Path, **changes: Any) -> Recipe:
    return small_recipe(folder, phases=[phase("head", trainable="head", cache=True, epochs=1)], **changes)


@pytest.mark.parametrize(("low", "high"), [(1, 5), (1, 9), (0, 100), (-50, 50)])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_labels_on_another_scale_are_named_with_their_range(tmp_path: Path, low: int, high: int, split: str) -> None:
    data = {"train": rows(8, 0), "validation": rows(8, 1)}
    scaled = [[low + (value + 1) / 2 * (high - low) for value in row] for row in data[split]["labels"]]
    data[split]["labels"] = [[float(low), float(high), *row[2:]] for row in scaled]
    with pytest.raises(LiminalError, match=rf"data\['{split}'\] lie in {low}\.\.{high}, and label_range is -1\.\.1"):
        fit(quick(tmp_path), tmp_path / "run", data=data)
    assert not (tmp_path / "run" / "phases").exists()


def test_given_data_come_in_any_container(tmp_path: Path) -> None:
    recipe = quick(tmp_path)
    usual = {"train": rows(12, 0), "validation": rows(6, 1)}
    frame = pd.DataFrame(usual["train"], index=range(50, 62)).sample(frac=1, random_state=0)
    expected = load_splits(recipe, {**usual, "train": Dataset.from_dict(frame.to_dict("list"))})
    records = frame.to_dict("records")
    for train in (frame, frame.to_dict("list"), records, Dataset.from_list(records).with_format("torch")):
        splits = load_splits(recipe, {"train": train, "validation": usual["validation"]})
        assert splits["train"]["text"][:] == list(frame["text"])
        np.testing.assert_allclose(splits["train"]["labels"][:], expected["train"]["labels"][:], atol=1e-6)


def test_missing_labels_and_texts_of_given_data(tmp_path: Path) -> None:
    recipe, data = quick(tmp_path), {"train": rows(6, 0), "validation": rows(6, 1)}
    data["train"]["labels"][2] = [None, float("nan"), 0.5]
    splits = load_splits(recipe, data)
    assert splits["train"]["labels"][2] == [-100.0, -100.0, 0.5]
    for text, message in ((None, "missing"), ("  ", "empty"), ("\ud800", "half of a character")):
        data["train"]["text"][3] = text
        with pytest.raises(LiminalError, match=rf"data\['train'\], row 3.*{message}"):
            records = [{"text": one, "labels": row} for one, row in zip(*data["train"].values(), strict=True)]
            load_splits(recipe, {**data, "train": records})
    with pytest.raises(LiminalError, match=r"must have the shape \(N, 3\)"):
        load_splits(recipe, {"train": {"text": ["a"], "labels": [[0.1, 0.2]]}, "validation": rows(6, 1)})


def test_a_target_without_labels_in_training_is_not_answered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = quick(tmp_path, phases__0__training__num_train_epochs=2)
    train = pd.read_csv(recipe.data.files["train"])
    train.assign(D="").to_csv(recipe.data.files["train"], index=False)
    with caplog.at_level(logging.WARNING):
        result = fit(recipe, tmp_path / "run")
    assert "dominance" in caplog.text
    assert result.model.config.trained_targets == [True, True, False]
    text = (tmp_path / "run" / "metrics.json").read_text()
    assert "NaN" not in text and json.loads(text) == result.metrics
    for split in ("validation", "test"):
        assert result.metrics[split]["pearson_dominance"] is None and result.metrics[split]["pearson_mean"] is not None
    history = result.metrics["phases"][0]["history"]
    assert history[0]["eval_pearson_dominance"] is None and history[0]["eval_pearson_mean"] is not None
    assert "NaN" not in (tmp_path / "run" / "phases" / "01-head" / "result" / "report.json").read_text()
    assert result.metrics["phases"][0]["best_metric"] is not None, "the best epoch is chosen by the other targets"
    assert pipeline("pad-regression", model=result.model, tokenizer=result.tokenizer)("w1 w2")["dominance"] is None
    card = str(build_card(result.model.config, run_facts(tmp_path / "run")))
    assert "`dominance` had no labels in training and is not answered" in card
    assert not re.search(r"\bnan\b", card, re.IGNORECASE)


def test_targets_by_name_train_and_are_read_back(tmp_path: Path) -> None:
    recipe = quick(tmp_path)
    for path in recipe.data.files.values():
        table = pd.read_csv(path).rename(columns={"V": "warmth", "A": "urgency"}).drop(columns="D")
        table.to_csv(path, index=False)
    content = recipe.to_dict()
    content["data"]["labels"] = ["warmth", "urgency"]
    recipe = Recipe.from_dict(content)
    result = fit(recipe, tmp_path / "run")
    assert result.model.config.targets == ["warmth", "urgency"]
    loaded = LiminalForPADRegression.from_pretrained(tmp_path / "run" / "model")
    assert loaded.config.targets == ["warmth", "urgency"] and same_weights(loaded, result.model)
    assert "pearson_warmth" in result.metrics["test"] and "pearson_pleasure" not in result.metrics["test"]
    assert np.asarray(load_splits(recipe)["train"]["labels"][:]).shape == (48, 2)


def test_emobank_gives_the_targets_that_are_named(tmp_path: Path) -> None:
    lines = ["id,split,V,A,D,text", "1,train,5,3,1,w1", "2,dev,4,2,3,w2", "3,test,1,1,1,w3"]
    (tmp_path / "emobank.csv").write_text("\n".join(lines) + "\n")
    base = {"data": {"dataset": "emobank"}, "phases": [{"name": "head", "trainable": "head"}]}
    two = Recipe.from_dict({**base, "model": {"encoder": "x", "targets": ["dominance", "valence"]}})
    assert load_splits(two, data_dir=tmp_path)["train"]["labels"][:] == [[-1.0, 1.0]]
    other = Recipe.from_dict({**base, "model": {"encoder": "x", "targets": ["warmth"]}})
    with pytest.raises(LiminalError, match=r"EmoBank has labels for pleasure, arousal, dominance.*'warmth'"):
        load_splits(other, data_dir=tmp_path)


def test_a_table_is_read_by_every_option_of_the_recipe(tmp_path: Path) -> None:
    lines = [
        f"{text} é;{';'.join(f'{label:.2f}'.replace('.', ',') for label in labels)}"
        for text, labels in texts_and_labels(40, 0)
    ]
    (tmp_path / "mine.csv").write_bytes("\n".join(["corps;V;A;D", *lines]).encode("cp1252"))
    options = {"text": "corps", "separator": ";", "encoding": "cp1252", "decimal": ",", "validation_fraction": 0.25}
    recipe = quick(tmp_path).override({"data.files": {"train": str(tmp_path / "mine.csv")}}).to_dict()
    splits = load_splits(Recipe.from_dict({**recipe, "data": {**recipe["data"], **options}}))
    assert {name: len(part) for name, part in splits.items()} == {"train": 30, "validation": 10}
    assert splits["train"]["text"][0].endswith("é")
    with pytest.raises(LiminalError, match="validation_fraction above 0"):
        load_splits(Recipe.from_dict({**recipe, "data": {**recipe["data"], **options, "validation_fraction": 0}}))


FOREIGN: dict[str, PreTrainedConfig] = {
    "electra": ElectraConfig(
        embedding_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        vocab_size=60, max_position_embeddings=40,
    ),
    "camembert": CamembertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=60,
        max_position_embeddings=40, pad_token_id=0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", FOREIGN)
def test_more_tokens_than_the_encoder_reads_are_answered_before_the_work(
    tmp_path: Path, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = encoder_with_tokenizer(tmp_path / "encoder")
    torch.manual_seed(0)
    build_encoder(FOREIGN[family]).save_pretrained(folder)
    model = LiminalForPADRegression.from_encoder_pretrained(str(folder), latent_size=16)
    assert readable_length(model, 20) == 20
    with caplog.at_level(logging.WARNING):
        length = readable_length(model, 1000)
    assert f"the encoder reads at most {length} tokens" in caplog.text
    ids = torch.full((1, length), 7)
    assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.isfinite().all()
    with pytest.raises((LiminalError, IndexError, RuntimeError)):
        longer = torch.full((1, length + 1), 7)
        model.liminal.encoder(input_ids=longer, attention_mask=torch.ones_like(longer))


def test_tokenizing_pickles_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer(str(encoder_with_tokenizer(tmp_path / "encoder")))
    train = Dataset.from_dict(rows(8, 0))

    def refuse(self: Any, *args: Any) -> None:
        raise AssertionError("a model was pickled")

    monkeypatch.setattr(torch.nn.Module, "__reduce_ex__", refuse)
    first, second = tokenized(train, tokenizer, 32), tokenized(train, tokenizer, 4)
    assert max(first["length"]) > 4 >= max(second["length"])
    assert first["labels"][:] == train["labels"][:]
    assert pickle.dumps(inputs._tokens), "the function closes over nothing"


def test_the_run_says_on_what_data_it_was_trained(tmp_path: Path) -> None:
    recipe = quick(tmp_path)
    result = fit(recipe, tmp_path / "run")
    again = load_splits(RunFolder(result.output_dir).read_recipe())
    assert again["test"]["text"][:] == load_splits(recipe)["test"]["text"][:]
    data = DatasetDict({name: Dataset.from_dict(rows(8, seed)) for seed, name in enumerate(("train", "validation"))})
    fit(recipe, tmp_path / "given", data=data)
    with pytest.raises(LiminalError, match=r"fit\(data="):
        RunFolder(tmp_path / "given").read_recipe()
    with pytest.raises(LiminalError, match="holds no run"):
        RunFolder(tmp_path / "none").read_recipe()
