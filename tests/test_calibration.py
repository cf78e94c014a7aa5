"""What is measured around a training: labels of every container, their range, the states' scale, the spread."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from datasets import Dataset
from torch.utils.data import DataLoader

from liminal_hf.modeling.configuration_liminal import LiminalConfig
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.modeling.heads import Head
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression
from liminal_hf.training.calibration import (
    Predicted,
    calibrate,
    check_label_range,
    liminal_model,
    measure_labels,
    measure_pooled_scale,
    predict,
    read_labels,
)

LABELS = [[0.1, 0.5, -100], [0.3, 0.5, -100], [-100, 0.5, -100]]
ROWS = [{"labels": row} for row in LABELS]
WITH_NONE = [[None if value == -100 else value for value in row] for row in LABELS]


def model_of(**fields: Any) -> LiminalForPADRegression:
    torch.manual_seed(0)
    return LiminalForPADRegression(LiminalConfig(**{"pooled_size": 8, "latent_size": 16, **fields}))


@pytest.mark.parametrize(
    "data",
    [
        LABELS,
        np.array(LABELS),
        torch.tensor(LABELS, dtype=torch.float64),
        WITH_NONE,
        ROWS,
        Dataset.from_list(ROWS),
        Dataset.from_list(ROWS).with_format("torch", dtype=torch.float64),
        Dataset.from_dict({"labels": WITH_NONE}),
        [{"labels": torch.tensor(LABELS[:2], dtype=torch.float64)}, {"labels": torch.tensor(LABELS[2:])}],
        DataLoader([{"labels": torch.tensor(row, dtype=torch.float64)} for row in LABELS], batch_size=2),
    ],
    ids=lambda data: type(data).__name__,
)
def test_labels_are_read_from_every_container(data: Any) -> None:
    assert read_labels(data, 3).tolist() == pytest.approx(np.array(LABELS))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Dataset.from_dict({"text": ["a"]}), r"no labels: their columns are \['text'\]"),
        ([{"input_ids": [1]}], r"no labels: their columns are \['input_ids'\]"),
        ([{"labels": None}], "no labels"),
        ([["0.1", "x", "0.2"]], r"Row 0: the labels \['0.1', 'x', '0.2'\] are not one number"),
        (Dataset.from_dict({"labels": [[0.1, 0.2, 0.3], None]}), "Row 1: the labels None"),
        (Dataset.from_dict({"labels": ["joy", "fear"]}), "Row 0: the labels 'joy' are not one number"),
        ([[0.1, 0.2]], r"shape \(N, 3\).*got \(1, 2\)"),
        ([0.1, 0.2], r"shape \(N, 3\)"),
        ([], "no row"),
    ],
)
def test_what_is_no_label_is_named(data: Any, message: str) -> None:
    with pytest.raises(LiminalError, match=message):
        read_labels(data, 3)


def test_statistics_leave_out_what_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    model = model_of()
    measure_labels(model, LABELS)
    config = model.config
    assert config.label_mean == pytest.approx([0.2, 0.5, 0.0]) and config.label_std == pytest.approx([0.1, 1.0, 1.0])
    assert config.trained_targets == [True, True, False] and config.labels_measured
    assert "No training row has a label for dominance" in caplog.text


def test_labels_outside_of_the_range_name_it_and_what_to_type() -> None:
    config = LiminalConfig(pooled_size=8)
    check_label_range(LABELS, config)
    with pytest.raises(LiminalError, match=r"lie in 1\.2\.\.8\.7.*label_range=\[1, 9\].*scale=\(1, 9\)") as raised:
        check_label_range([[1.2, 8.7, -100]], config)
    assert "map them to -1..1" in str(raised.value)
    check_label_range([[1.2, 8.7, -100]], LiminalConfig(pooled_size=8, label_range=[1, 9]))


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_pooled_states_are_scaled_to_one(family: str) -> None:
    model = tiny_model(family, pooled_layers="all", pooled_scale=3.0).train()
    tokens = torch.randint(3, 60, (8, 7), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "row": torch.arange(8)}
    measure_pooled_scale(model, [batch])
    assert model.training, "the mode comes back"
    with torch.no_grad():
        states = model.eval().liminal.pool(tokens, batch["attention_mask"]) * model.config.pooled_scale
    assert float(states.square().mean()) == pytest.approx(1.0, rel=1e-4)


def test_an_adapter_knows_what_was_measured() -> None:
    peft = pytest.importorskip("peft")
    from liminal_hf import lora_config

    model = tiny_model("bert")
    wrapped = peft.get_peft_model(model, lora_config(model, r=2))
    measure_labels(wrapped, LABELS)
    heads = [module for module in wrapped.modules() if isinstance(module, Head)]
    assert len(heads) == 2 and all(head.config.label_mean == model.config.label_mean for head in heads)
    assert wrapped.peft_config["default"].auto_mapping["liminal"]["label_mean"] == model.config.label_mean
    assert liminal_model(torch.nn.ModuleDict({"any": wrapped})) is model.liminal


def test_uncertainty_is_scaled_to_the_error_and_quantiles_are_those_of_labelled_texts() -> None:
    model = model_of(label_std=[0.2] * 3)
    rows = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    labels = rows[:, :3] * 0.3
    labels[::3, 1] = -100
    labels[5] = -100
    batches = [{"pooled_embeds": rows, "labels": labels}]
    for _ in range(2):  # a second calibration changes nothing
        predicted = predict(model, batches)
        calibrate(model, predicted, predicted)
    again = predict(model, batches)
    assert again.uncertainty is not None
    present = again.labels != -100
    for target in range(3):
        error, spread = (
            np.square(values[present[:, target], target]).mean()
            for values in (again.predictions - again.labels, again.uncertainty)
        )
        assert spread == pytest.approx(error, rel=1e-4)
    quantiles = np.array(model.config.prediction_quantiles)
    labelled = np.delete(again.predictions, 5, axis=0)
    assert quantiles.shape == (3, 101)
    assert quantiles[:, 0] == pytest.approx(labelled.min(0), abs=1e-4)
    calibrate(model, Predicted(again.predictions, None, again.labels), None)
    assert model.config.prediction_quantiles == quantiles.tolist()
