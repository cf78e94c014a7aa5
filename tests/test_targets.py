"""Any number of targets under any names: the config, every head, every loss and the memory follow them."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MINILM, tiny_config, tiny_model
from training_kit import encoder_with_tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from liminal_hf import DEFAULT_CHECKPOINT, HEADS, LOSSES, LiminalConfig, LiminalForPADRegression
from liminal_hf.modeling.errors import LiminalError

# The package's own heads; a test of a script may have registered another one.
OURS = sorted(name for name, head in HEADS.items() if head.__module__.startswith("liminal_hf."))
BATCH = {"input_ids": torch.tensor([[5, 6, 7], [8, 9, 10]]), "attention_mask": torch.ones(2, 3, dtype=torch.long)}


def test_the_default_is_pleasure_arousal_dominance() -> None:
    config = LiminalConfig(pooled_size=8)
    assert config.targets == ["pleasure", "arousal", "dominance"] and config.num_labels == 3
    assert config.id2label == {0: "pleasure", 1: "arousal", 2: "dominance"}
    assert config.pad_indices == (0, 1, 2) and config.trained_targets == [True] * 3


@pytest.mark.parametrize(
    "fields",
    [
        {"targets": ["valence", "arousal"]},
        {"id2label": {0: "valence", 1: "arousal"}},
        {"id2label": {"0": "valence", "1": "arousal"}, "num_labels": 2},
        {"label2id": {"valence": 0, "arousal": 1}},
        {"targets": ["valence", "arousal"], "num_labels": 2, "id2label": {0: "LABEL_0", 1: "LABEL_1"}},
    ],
)
def test_names_come_from_targets_or_from_transformers_fields(fields: dict[str, Any], tmp_path: Path) -> None:
    config = LiminalConfig(pooled_size=8, **fields)
    assert config.targets == ["valence", "arousal"] and config.num_labels == 2
    assert config.id2label == {0: "valence", 1: "arousal"} and config.label2id == {"valence": 0, "arousal": 1}
    assert config.label_mean == [0.0] * 2 and config.label_std == config.uncertainty_scale == [1.0] * 2
    assert config.pad_indices is None
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.targets == config.targets and loaded.to_json_string() == config.to_json_string()
    assert AutoConfig.from_pretrained(tmp_path, id2label={0: "warmth", 1: "haste"}).targets == ["warmth", "haste"]


def test_pad_is_found_by_name() -> None:
    assert LiminalConfig(pooled_size=8, targets=["anger", "Dominance", "arousal", "valence"]).pad_indices == (3, 2, 1)
    assert LiminalConfig(pooled_size=8, targets=["valence", "pleasure", "arousal", "dominance"]).pad_indices[0] == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_labels": 2}, r'num_labels asks for 2 targets .* targets=\["first"'),
        ({"id2label": {0: "LABEL_0", 1: "LABEL_1"}}, "id2label asks for 2"),
        ({"targets": ["a", "b"], "num_labels": 3}, "num_labels asks for 3"),
        ({"targets": ["a", "b"], "id2label": {0: "a", 1: "c"}}, "contradict"),
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}}, "contradict"),
        ({"id2label": {1: "a", 2: "b"}}, "must number the targets 0, 1, 2"),
        ({"targets": []}, "one or more names"),
        ({"targets": "valence"}, "one or more names"),
        ({"targets": ["a", "a"]}, "twice"),
        ({"targets": ["a", " "]}, "is no name"),
        ({"targets": ["a", 3]}, "is no name"),
        ({"targets": ["a", "mean"]}, "Use another name"),
        ({"targets": ["a", "b"], "label_mean": [0.0] * 3}, r"list of finite numbers, one per target \(a, b\)"),
        ({"targets": ["a", "b"], "label_std": [1.0, 0.0]}, "label_std must be above 0"),
        ({"targets": ["a"], "trained_targets": [True, False]}, "trained_targets must be"),
        (
            {"targets": ["a"], "prediction_quantiles": [[0.0, 1.0]] * 3},
            "prediction_quantiles must be a list per target",
        ),
    ],
)
def test_a_contradiction_is_an_error_that_says_what_to_type(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(LiminalError, match=message):
        LiminalConfig(pooled_size=8, **fields)


def test_a_loaded_model_keeps_its_number_of_targets(tmp_path: Path) -> None:
    LiminalForPADRegression(LiminalConfig(pooled_size=8, latent_size=16, targets=["a", "b"])).save_pretrained(tmp_path)
    for wrong in ({"num_labels": 3}, {"id2label": {0: "a"}}, {"targets": ["a", "b", "c"]}, {"label_mean": [0.0]}):
        with pytest.raises(LiminalError):
            AutoModelForSequenceClassification.from_pretrained(tmp_path, **wrong)
    config = LiminalConfig(pooled_size=8)
    with pytest.raises(LiminalError, match=r"targets=\[...\]"):
        config.num_labels = 2
    config.num_labels = 3  # transformers sets it where it is right already


@pytest.mark.parametrize(
    "fields",
    [
        {"pooled_scale": 0.0},
        {"pooled_scale": float("nan")},
        {"uncertainty_weight": -1.0},
        {"confidence_weight": float("nan")},
        {"deep_supervision": float("nan")},
        {"head_dropout": True},
        {"prediction_quantiles": [[0.0, 1.0]]},
        {"prediction_quantiles": [[0.0, 1.0], [0.0], [0.0, 1.0]]},
        {"prediction_quantiles": [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]},
        {"label_range": ["a", "b"]},
        {"label_range": [0.0, float("inf")]},
        {"label_range": "ab"},
        {"label_mean": "abc"},
        {"rinse": "no"},
        {"head": None},
        {"max_seq_length": 12.5},
        {"trained_targets": [1, 0, 1]},
    ],
    ids=str,
)
def test_every_field_is_checked_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(LiminalError, match=next(iter(fields))):
        LiminalConfig(pooled_size=8, **fields)
    config = LiminalConfig(pooled_size=8)
    setattr(config, *next(iter(fields.items())))
    with pytest.raises(LiminalError, match=next(iter(fields))):
        LiminalForPADRegression(config)


def test_a_mean_outside_of_the_label_range_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Such a model would answer the end of the range for every text."""
    folder = encoder_with_tokenizer(tmp_path)
    build = partial(LiminalForPADRegression.from_encoder_pretrained, folder, head="linear", label_std=[2.0] * 3)
    with pytest.raises(LiminalError, match=r"pleasure \(5\), dominance \(-2\) lies outside .* -1\.\.1.*label_range="):
        build(label_mean=[5.0, 0.0, -2.0])
    model = build(label_mean=[5.0, 4.0, 6.0], label_range=[1.0, 9.0])
    reader = pipeline("pad-regression", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
    assert 1 < reader("w1 w2")["pleasure"] < 9 and not caplog.records
    model.config.label_range = [-1.0, 1.0]  # as in a checkpoint of an earlier version, which still loads
    pipeline("pad-regression", model=model, tokenizer=reader.tokenizer)
    assert "lies outside of label_range" in caplog.text


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(LiminalError, match=r"no field 'banana'. Fields: .*pooled_layers"):
        LiminalForPADRegression.from_encoder_pretrained(MINILM, banana=5)
    with pytest.raises(LiminalError, match=r"no field 'layers'. Near: pooled_layers"):
        LiminalForPADRegression.from_encoder_pretrained(MINILM, layers="all")
    with pytest.raises(LiminalError, match="num_labels asks for 2"):
        LiminalForPADRegression.from_encoder_pretrained(MINILM, num_labels=2)


def test_whether_the_labels_were_measured_is_known(tmp_path: Path) -> None:
    config = LiminalConfig(pooled_size=8)
    assert not config.labels_measured
    config.save_pretrained(tmp_path)
    assert not LiminalConfig.from_pretrained(tmp_path).labels_measured
    config.label_mean = [0.1, 0.2, 0.3]
    assert config.labels_measured and LiminalConfig(pooled_size=8, label_std=[0.1] * 3).labels_measured
    old = AutoConfig.from_pretrained(DEFAULT_CHECKPOINT)
    assert old.labels_measured and old.targets == ["pleasure", "arousal", "dominance"]


@pytest.mark.parametrize("targets", [["joy"], ["valence", "arousal"], ["a", "b", "c", "d", "e"]], ids=len)
@pytest.mark.parametrize("head", OURS)
def test_every_head_has_an_answer_per_target(head: str, targets: list[str], tmp_path: Path) -> None:
    count = len(targets)
    mean, std = [0.1 * k for k in range(count)], [0.5 + k for k in range(count)]
    model = tiny_model("bert", head=head, targets=targets, label_mean=mean, label_std=std, linear_skip=True)
    labels = torch.rand(2, count)
    output = model(**BATCH, labels=labels)
    output.loss.backward()
    assert output.logits.shape == (2, count) and output.pad_trajectory.shape[-1] == count
    assert output.uncertainty is None or output.uncertainty.shape == (2, count)
    if head not in ("linear", "mlp", "v8"):
        moved = model(**BATCH, affect=torch.full((2, count), 0.7)).logits
        assert not torch.equal(moved, output.logits)
    if output.memory is not None:
        assert output.memory.pad.shape == model.initial_memory(2).pad.shape == (2, count)
        assert not torch.equal(model(**BATCH, memory=output.memory).logits, output.logits)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config.targets == targets and torch.equal(loaded(**BATCH).logits, output.logits)
    with pytest.raises(LiminalError, match=rf"a column per target \({', '.join(targets)}\)"):
        model(**BATCH, labels=torch.rand(2, count + 1))


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_loss_learns_any_number_of_targets(loss: str, count: int) -> None:
    torch.manual_seed(0)
    names = [f"target {index}" for index in range(count)]
    model = LiminalForPADRegression(LiminalConfig(pooled_size=8, latent_size=16, targets=names, loss=loss))
    inputs, labels = torch.randn(16, 8), torch.rand(16, count)
    labels[0, 0] = -100
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        losses.append(model(pooled_embeds=inputs, labels=labels).loss)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.05


def test_an_encoder_in_the_config_is_no_reason_for_other_targets() -> None:
    text_config = tiny_config("bert")
    text_config.num_labels = 5
    assert LiminalConfig(text_config=text_config).num_labels == 3
