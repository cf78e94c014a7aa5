"""Both pipelines: every container, every reason why a text is not read, with and without the package."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Any

import datasets
import pandas as pd
import pytest
import torch
from container_kit import CONTAINERS, TEXTS, MapStyle
from torch.utils.data import IterableDataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    TextClassificationPipeline,
    pipeline,
)
from transformers.pipelines.pt_utils import KeyDataset

import liminal_hf
from liminal_hf import LiminalConfig, LiminalForPADRegression
from liminal_hf.modeling.answers import verdict_names
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.modeling.pipeline_liminal import TargetClassificationPipeline, describe

# Containers without a length, and those that transformers reads as they are asked for.
LAZY = {"generator", "KeyDataset", "torch data set"}
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
MIXED = ["I love it", None, "", "\u200b", "\U0001f600", 3, {"text": "I love it"}, {"label": 1}, ["a"], "so " * 300]
ERRORS = [
    None,
    "no text (missing value)",
    "empty",
    "empty",
    "no token of this text is known to the model",
    "not a text: int",
    None,
    "not a text: dict",
    "not a text: list",
    None,
]


def small(minilm: Path, **config: Any) -> tuple[LiminalForPADRegression, Any]:
    """A model of random weights that reads with MiniLM's tokenizer."""
    torch.manual_seed(0)
    config = {"latent_size": 16, "num_outer_steps": 2, "max_seq_length": 64, **config}
    model = LiminalForPADRegression(LiminalConfig(text_config=BertConfig(**SIZE), **config)).eval()
    return model, AutoTokenizer.from_pretrained(minilm)


@pytest.fixture(scope="module")
def pad(minilm: Path) -> Any:
    model, tokenizer = small(minilm)
    return pipeline("pad-regression", model=model, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def classify(pad: Any) -> Any:
    return pipeline("text-classification", model=pad.model, tokenizer=pad.tokenizer)


@pytest.fixture(scope="module")
def folder(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, tokenizer = small(minilm)
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def pleasure(rows: Any) -> list[Any]:
    return [row["pleasure"] for row in rows]


# ---- containers ----


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_the_numbers_of_the_list(pad: Any, classify: Any, name: str, batch_size: int) -> None:
    expected = pleasure(pad(TEXTS))
    assert len(set(expected)) == len(TEXTS)
    rows = pad(CONTAINERS[name](TEXTS), batch_size=batch_size)
    assert isinstance(rows, list) == (name not in LAZY)
    assert pleasure(rows) == pytest.approx(expected, abs=1e-5)
    entries = list(classify(CONTAINERS[name](TEXTS), batch_size=batch_size))
    wanted = [classify(text)[0] for text in TEXTS]
    assert [entry["label"] for entry in entries] == [entry["label"] for entry in wanted]
    assert [entry["score"] for entry in entries] == pytest.approx([entry["score"] for entry in wanted], abs=1e-5)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_data_sets_are_read_by_workers(pad: Any, workers: int) -> None:
    rows = pad(MapStyle([{"text": text} for text in MIXED[:5]]), batch_size=2, num_workers=workers)
    assert [row["error"] for row in rows] == ERRORS[:5]


class Endless(IterableDataset):
    """Texts without an end."""

    def __iter__(self) -> Iterator[str]:
        while True:
            yield "again"


def test_what_has_no_length_is_read_as_it_is_asked_for(pad: Any) -> None:
    taken: list[str] = []

    def texts() -> Iterator[str]:
        for text in TEXTS * 100:
            taken.append(text)
            yield text

    rows = pad(texts(), batch_size=2)
    assert next(iter(rows))["error"] is None and len(taken) < 10
    assert next(iter(pad(Endless())))["pleasure"] == pytest.approx(pad("again")["pleasure"])
    assert pleasure(pad(map(str.upper, TEXTS))) == pytest.approx(pleasure(pad([text.upper() for text in TEXTS])))
    streamed = datasets.Dataset.from_dict({"text": TEXTS}).to_iterable_dataset()["text"]
    assert pleasure(pad(streamed)) == pytest.approx(pleasure(pad(TEXTS)))
    for empty in ([], (), iter([]), pd.Series([], dtype=str), MapStyle([])):
        assert list(pad(empty)) == []


@pytest.mark.parametrize(
    "table", [pd.DataFrame({"id": [1], "text": ["a"]}), datasets.Dataset.from_dict({"id": [1], "text": ["a"]})]
)
def test_a_table_is_told_to_give_its_column(pad: Any, classify: Any, table: Any) -> None:
    for reader in (pad, classify):
        with pytest.raises(LiminalError, match=r"columns id, text is a table.*data\['text'\]"):
            reader(table)


# ---- rows ----


@pytest.mark.parametrize("container", [list, iter, MapStyle, pd.Series])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_one_bad_text_never_stops_the_others(pad: Any, classify: Any, container: Any, batch_size: int) -> None:
    rows = list(pad(container(MIXED), batch_size=batch_size))
    assert [row["error"] for row in rows] == ERRORS
    assert [row["windows"] is not None for row in rows] == [False] * 9 + [True]
    for row, error in zip(rows, ERRORS, strict=True):
        values = [row[name] for name in ("pleasure", "confidence", "octant", "uncertainty")]
        assert (None in values) == (error is not None) and (values == [None] * 4) == (error is not None)
    assert rows[0]["pleasure"] == pytest.approx(rows[6]["pleasure"], abs=1e-5)
    entries = list(classify(container(MIXED), batch_size=batch_size))
    assert [entry.get("error") for entry in entries] == ERRORS
    assert [entry["score"] is None for entry in entries] == [error is not None for error in ERRORS]
    assert not any("truncated" in entry for entry in entries)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "must be a string, got a missing value"),
        (" \u200b", "The text is empty"),
        ("\U0001f600", "can't be read: no token of this text is known to the model"),
        (3, "must be a string, got int"),
        ({"text": ""}, "The text is empty"),
        ({"text": "a", "text_pair": "b"}, "must be a string, got dict"),
        ("\ud800", "half of a character at position 0"),
    ],
)
def test_a_single_text_that_cannot_be_read_is_an_error(pad: Any, classify: Any, value: Any, said: str) -> None:
    for reader in (pad, classify):
        with pytest.raises(LiminalError, match=said):
            reader(value)


def test_a_long_text_of_nothing_known_is_an_error_or_a_row_with_one(pad: Any, classify: Any) -> None:
    nothing = "\U0001f600 " * 300
    for reader in (pad, classify):
        with pytest.raises(LiminalError, match="can't be read: no token of this text is known"):
            reader(nothing)
        (row,) = reader([nothing])
        assert row["error"] == "no token of this text is known to the model"


def test_an_unknown_option_is_said_by_the_task_that_got_it(pad: Any, classify: Any) -> None:
    with pytest.raises(LiminalError, match=r"^text-classification does not take 'return_all_scores'.*top_k"):
        classify("Hi", return_all_scores=True)
    with pytest.raises(LiminalError, match=r"^pad-regression does not take 'top_k'.*memory"):
        pad("Hi", top_k=1)


def test_a_truncated_text_says_so(pad: Any) -> None:
    long = "so " * 300
    assert pad(long, truncation=True)["truncated"] and not pad("so", truncation=True)["truncated"]
    assert not pad(long, max_length=512, truncation=True)["truncated"]
    assert pad([{"role": "user", "content": long}])[0]["truncated"]
    assert pad("so " * 62, truncation=True)["truncated"] is False, "just as long as the model reads"


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_long_text_is_read_in_windows_whatever_is_beside_it(pad: Any, classify: Any, batch_size: int) -> None:
    long = ["I love it. " * 40 + "Go away! " * 30, "\U0001f600 " * 200 + "I love it."]
    rows = pad([long[0], "Go", None, long[1]], batch_size=batch_size)
    for text, row in zip(long, (rows[0], rows[3]), strict=True):
        expected = liminal_hf.timeline(text, pad)
        wanted, given = expected.whole, [(part["start"], part["end"]) for part in row["windows"]]
        assert given == [(part["start"], part["end"]) for part in expected.rows] and not row["truncated"]
        for part, sentence in zip(row["windows"], expected.rows, strict=True):
            assert part["arousal"] == pytest.approx(sentence["arousal"], abs=1e-5)
        for name in pad.model.config.targets:
            assert row[name] == pytest.approx(wanted[name], abs=1e-5)
            assert row["uncertainty"][name] == pytest.approx(wanted["uncertainty"][name], abs=1e-5)
    assert rows[1]["windows"] is rows[2]["windows"] is None and rows[2]["error"]
    assert rows[1]["pleasure"] == pytest.approx(pad("Go")["pleasure"], abs=1e-5)
    shares = {entry["label"]: entry["score"] for entry in classify(long, labels="emotions", top_k=None)[0]}
    assert shares == pytest.approx(rows[0]["emotions"], abs=1e-4)


@pytest.mark.parametrize("value", [0, -1, 2, "64", 2.5, True])
def test_a_max_length_is_checked_before_anything_is_read(pad: Any, classify: Any, value: Any) -> None:
    for call in (pad, classify):
        with pytest.raises(LiminalError, match=r"max_length must be a whole number of tokens, at least 3"):
            call(TEXTS, max_length=value)
    with pytest.raises(LiminalError, match=r"at most 512 tokens"):
        pad([{"role": "user", "content": "Hi"}], max_length=513)
    with pytest.raises(LiminalError, match=r"at most 512 tokens"):
        pipeline("pad-regression", model=pad.model, tokenizer=pad.tokenizer, max_length=10_000)
    with pytest.raises(LiminalError, match="num_outer_steps must be a whole number, at least 1"):
        pad("Hi", num_outer_steps=0)


def test_numbers_that_are_not_finite_are_no_row(minilm: Path) -> None:
    model, tokenizer = small(minilm)
    model.liminal.head.projection.weight.data.fill_(float("nan"))
    reader = pipeline("pad-regression", model=model, tokenizer=tokenizer)
    row = reader("x y")
    assert row["error"] == "the model gave a number that is not finite"
    assert row["pleasure"] is row["octant"] is row["percentile"] is row["confidence"] is None
    said = reader([{"role": "user", "content": "x y"}], memory=True)[0]
    assert said["error"] == row["error"] and not said["memory"], "and it leaves no trace in the memory"
    quantiles = {"prediction_quantiles": [[0.0, 1.0]] * 3}
    assert describe([float("inf")] * 3, None, LiminalConfig(pooled_size=8, **quantiles))["percentile"] is None


# ---- targets ----


def test_targets_have_their_names_and_an_octant_needs_three_of_them(minilm: Path) -> None:
    quantiles = [[-1.0, 0.0, 1.0]] * 2
    model, tokenizer = small(minilm, targets=["warmth", "urgency"], prediction_quantiles=quantiles)
    row = pipeline("pad-regression", model=model, tokenizer=tokenizer)("Hello there")
    assert list(row)[:2] == ["warmth", "urgency"] and "pleasure" not in row
    assert row["octant"] is None and set(row["uncertainty"]) == set(row["percentile"]) == {"warmth", "urgency"}
    entries = pipeline("text-classification", model=model, tokenizer=tokenizer)("Hello there")
    assert [entry["label"] for entry in entries] == [row["verdict"]["warmth"]] and row["emotions"] is None
    talk = pipeline("pad-regression", model=model, tokenizer=tokenizer)(
        [{"role": "user", "content": "Hi"}], memory=True
    )
    assert talk[0]["memory"]["user"].pad.shape == (1, 2)


def test_the_octant_goes_by_name_and_not_by_place() -> None:
    config = LiminalConfig(pooled_size=8, targets=["dominance", "valence", "x", "arousal"])
    assert describe([0.5, -0.5, 0.0, 0.5], None, config)["octant"] == "hostile"


def test_a_target_that_was_never_trained_is_none(minilm: Path) -> None:
    model, tokenizer = small(minilm, trained_targets=[True, True, False])
    model.config.label_std = [0.1, 0.2, 1.0]
    reader = pipeline("pad-regression", model=model, tokenizer=tokenizer)
    row = reader("Hello there")
    assert row["dominance"] is row["octant"] is row["uncertainty"]["dominance"] is None
    assert None not in (row["pleasure"], row["confidence"]) and row["error"] is None
    whole = describe([0.1, 0.2], [0.1, 0.2], LiminalConfig(pooled_size=8, targets=["a", "b"], label_std=[0.1, 0.2]))
    part = describe([0.1, 0.2, 9.0], [0.1, 0.2, 9.0], model.config)
    assert part["confidence"] == pytest.approx(whole["confidence"]), "it does not count in the confidence"
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    with pytest.raises(LiminalError, match="labels must be one of pleasure, arousal, got 'emotions'"):
        classify("Hello there", labels="emotions")


# ---- text-classification ----


def test_labels_are_verdicts_and_words_whose_scores_sum_to_one(
    pad: Any, classify: Any, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    row, config = pad("I love it"), pad.model.config
    with caplog.at_level("WARNING"):
        alias = pipeline("sentiment-analysis", model=pad.model, tokenizer=pad.tokenizer)
        assert alias("I love it") == classify("I love it")
    assert not caplog.records and not recwarn.list
    for target, (low, high) in zip(config.targets, config.neutral_zone, strict=True):
        error = NormalDist(row[target], row["uncertainty"][target])
        names = ("calm", "neutral", "aroused") if target == "arousal" else verdict_names(target)
        wanted = dict(zip(names, (error.cdf(low), error.cdf(high) - error.cdf(low), 1 - error.cdf(high)), strict=True))
        entries = classify("I love it", labels=target, top_k=None)
        assert {entry["label"]: entry["score"] for entry in entries} == pytest.approx(wanted, abs=1e-6)
        assert [entry["score"] for entry in entries] == sorted(wanted.values(), reverse=True) or target
    words = classify("I love it", labels="emotions", top_k=None)
    assert {entry["label"]: entry["score"] for entry in words} == pytest.approx(row["emotions"])
    assert sum(entry["score"] for entry in words) == pytest.approx(1)
    likeliest = classify("I love it")[0]
    assert likeliest == classify("I love it", labels="pleasure", top_k=1)[0]
    for name, function in (("none", math.log), ("sigmoid", lambda share: 1 / (1 + 1 / share)), ("softmax", float)):
        score = classify("I love it", function_to_apply=name)[0]["score"]
        assert score == pytest.approx(function(likeliest["score"]))
    assert classify("I love it", truncation=True, padding=True, max_length=64) == [likeliest]
    with pytest.raises(LiminalError, match="function_to_apply must be one of softmax"):
        classify("I love it", function_to_apply="tanh")
    with pytest.raises(LiminalError, match="top_k must be"):
        classify("I love it", top_k=0)
    with pytest.raises(LiminalError, match="labels must be one of pleasure, arousal, dominance, emotions, got 'joy'"):
        classify("I love it", labels="joy")
    with pytest.raises(LiminalError, match=r'For chat messages: pipeline\("pad-regression"'):
        classify([{"role": "user", "content": "Hi"}])


def shape(answer: Any) -> Any:
    return [shape(item) for item in answer] if isinstance(answer, list) else sorted(answer)


@pytest.mark.parametrize("settings", [{}, {"top_k": 1}, {"top_k": 2}, {"top_k": None}, {"top_k": 99}])
def test_answers_have_the_shapes_of_transformers_own_class(pad: Any, classify: Any, settings: dict[str, Any]) -> None:
    model = BertForSequenceClassification(BertConfig(num_labels=3, **SIZE)).eval()
    stock = pipeline("text-classification", model=model, tokenizer=pad.tokenizer)
    for texts in ("I love it", ["I love it"], ["I love it", "Go"], {"text": "I love it"}, [{"text": "Go"}]):
        assert shape(classify(texts, **settings)) == shape(stock(texts, **settings))
    given = {"model": pad.model, "tokenizer": pad.tokenizer, **settings}
    theirs = pipeline("text-classification", **{**given, "model": model})
    ours = pipeline("text-classification", **given)
    for texts in ("I love it", ["I love it", "Go"]):
        assert shape(ours(texts)) == shape(theirs(texts))


def test_what_was_not_read_is_said_in_the_entry(classify: Any) -> None:
    read, unread, cut = classify(["I love it", None, "so " * 300])
    assert set(read) == set(cut) == {"label", "score"}
    assert classify(["so " * 300], truncation=True)[0]["truncated"] is True
    assert unread == {"label": None, "score": None, "error": "no text (missing value)"}
    assert [entry["error"] for entry in classify(["I love it", None], top_k=2)[1]] == ["no text (missing value)"]


def test_a_head_without_uncertainty_knows_the_spread_of_its_labels(minilm: Path) -> None:
    model, tokenizer = small(minilm, head="v6")
    row = pipeline("pad-regression", model=model, tokenizer=tokenizer)("Hello there")
    assert row["uncertainty"] is row["emotions"] is None
    (low, high), error = model.config.neutral_zone[0], NormalDist(row["pleasure"], model.config.label_std[0])
    entries = pipeline("text-classification", model=model, tokenizer=tokenizer)("Hello there", top_k=None)
    shares = {entry["label"]: entry["score"] for entry in entries}
    assert shares["neutral"] == pytest.approx(error.cdf(high) - error.cdf(low), abs=1e-6)


def test_other_models_keep_transformers_own_class(pad: Any) -> None:
    stock = BertForSequenceClassification(BertConfig(num_labels=2, **SIZE)).eval()
    reader = pipeline("text-classification", model=stock, tokenizer=pad.tokenizer)
    assert type(reader) is TextClassificationPipeline and set(reader("Hi")[0]) == {"label", "score"}
    assert len(reader("Hi", top_k=None)) == 2


def test_a_saved_pipeline_is_the_checkpoint(classify: Any, tmp_path: Path) -> None:
    classify.save_pretrained(tmp_path)
    tasks = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["custom_pipelines"]
    assert set(tasks) == {"pad-regression", "text-classification"}
    again = pipeline("text-classification", model=str(tmp_path))
    assert type(again) is TargetClassificationPipeline and again("I love it") == classify("I love it")


STRANGER = """
import json, sys
sys.modules["liminal_hf"] = None  # importing it would fail, as where it is not installed
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
folder, texts = sys.argv[1], json.loads(sys.argv[2])
classify = pipeline("text-classification", model=folder, trust_remote_code=True)
alias = pipeline("sentiment-analysis", model=folder, trust_remote_code=True)
by_task = pipeline("pad-regression", model=folder, trust_remote_code=True)
without_task = pipeline(model=folder, trust_remote_code=True)
answers = {
    "default": classify(texts[0]), "none": classify(texts[0], top_k=None), "list": classify(texts),
    "alias": alias(texts[0]), "rows": by_task(texts), "class": type(without_task).__name__,
}
print(json.dumps(answers))
print("end of the quiet part", file=sys.stderr)
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
stock = pipeline("text-classification", model=model, tokenizer=tokenizer)
print(json.dumps({"class": type(stock).__name__, "labels": sorted(row["label"] for row in stock("Hi", top_k=None))}))
"""


def test_a_stranger_gets_the_same_without_a_word(folder: Path, tmp_path: Path) -> None:
    texts = ["I love it", None, "so " * 300, "\U0001f600"]
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder), json.dumps(texts)], capture_output=True, text=True, check=False,
        cwd=tmp_path, env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers, of_an_object = map(json.loads, done.stdout.strip().splitlines()[-2:])
    quiet = done.stderr.partition("end of the quiet part")[0]
    assert not [line for line in quiet.splitlines() if line.strip() and "Loading weights" not in line], quiet
    here = pipeline("text-classification", model=str(folder))
    assert answers["default"] == answers["none"][:1] == answers["alias"] == here(texts[0])
    assert answers["list"] == here(texts)
    assert answers["rows"] == pipeline("pad-regression", model=str(folder))(texts)
    assert answers["class"] == "PADRegressionPipeline", "without a task it is ours"
    # A model object in such a process is transformers' own business: every target, if asked for.
    assert of_an_object == {"class": "TextClassificationPipeline", "labels": ["arousal", "dominance", "pleasure"]}


def test_the_shipped_checkpoint_answers_both_tasks(minilm: Path) -> None:
    rows = pipeline("pad-regression", model=liminal_hf.DEFAULT_CHECKPOINT)(["I hate this.", "\U0001f600"])
    entries = pipeline("text-classification", model=liminal_hf.DEFAULT_CHECKPOINT)("I hate this.")
    assert [entry["label"] for entry in entries] == [rows[0]["verdict"]["pleasure"]] == ["negative"]
    assert rows[0]["pleasure"] < 0 and rows[1]["error"] == "no token of this text is known to the model"
    model = AutoModelForSequenceClassification.from_pretrained(liminal_hf.DEFAULT_CHECKPOINT)
    assert model.config.problem_type == "regression"


def test_key_data_sets_of_conversations_are_chat(pad: Any) -> None:
    talks = [[{"role": "user", "content": text}, {"role": "assistant", "content": "Yes"}] for text in TEXTS]
    table = datasets.Dataset.from_dict({"messages": talks})
    expected = [[row["pleasure"] for row in rows] for rows in pad(talks)]
    for given in (KeyDataset(table, "messages"), table["messages"], iter(talks), pd.Series(talks), tuple(talks)):
        rows = [[row["pleasure"] for row in rows] for rows in pad(given, batch_size=3)]
        assert rows == [pytest.approx(values, abs=1e-5) for values in expected]
    one = pad(message for message in talks[0])
    assert [row["speaker"] for row in one] == ["user", "assistant"]
