"""The Trainer route: stock `Trainer` and `LiminalTrainer`, bare and in a PeftModel, on a model that nobody prepared."""

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from datasets import Dataset, DatasetDict
from torch import nn
from torch.utils.data import IterableDataset
from training_kit import encoder_with_tokenizer, phase, small_recipe, texts_and_labels
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from liminal_hf import LiminalConfig, LiminalForPADRegression, LiminalTrainer, LiminalTrainingArguments, lora_config
from liminal_hf.data import pooled_dataset
from liminal_hf.metrics import compute_metrics, make_compute_metrics
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.modeling.heads import HEADS, Head, HeadInput, HeadOutput
from liminal_hf.training.callbacks import EMACallback
from liminal_hf.training.fit import fit

SIZE = 8
ROUTES = pytest.mark.parametrize("route", [Trainer, LiminalTrainer], ids=["stock", "ours"])


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-2,
        "eval_strategy": "epoch",
        "save_strategy": "no",
    }
    return {**defaults, **changes}


def rows(count: int = 48, scale: tuple[float, float] = (-1, 1), seed: int = 0, targets: int = 3) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(count, SIZE, generator=generator) * 4
    labels = (states[:, :targets] * 0.05 + 0.3).clamp(-1, 1)
    low, high = scale
    labels = low + (labels + 1) / 2 * (high - low)
    return Dataset.from_dict({"pooled_embeds": states.tolist(), "labels": labels.tolist()})


def fresh(**fields: Any) -> LiminalForPADRegression:
    torch.manual_seed(0)
    return LiminalForPADRegression(LiminalConfig(**{"pooled_size": SIZE, "latent_size": 16, **fields}))


def tokens(count: int = 40) -> Dataset:
    ids = torch.randint(3, 60, (count, 6), generator=torch.Generator().manual_seed(0))
    labels = (ids[:, :3].float() / 60 - 0.5) * 0.4 + 0.2
    return Dataset.from_dict(
        {"input_ids": ids.tolist(), "attention_mask": [[1] * 6] * count, "labels": labels.tolist()}
    )


# ---- the same as fit ----


@pytest.mark.parametrize("decay", [None, 0.9])
def test_fit_and_both_trainers_give_the_same_model(tmp_path: Path, own_cache: None, decay: float | None) -> None:
    training = {"eval_strategy": "epoch"}
    recipe = small_recipe(
        tmp_path, phases=[phase("head", trainable="head", cache=True, ema_decay=decay, training=training)]
    )
    scaled = [(text, [(label - 3) / 2 for label in labels]) for text, labels in texts_and_labels(64, seed=7)]
    table = {"text": [text for text, _ in scaled], "labels": [labels for _, labels in scaled]}
    whole = Dataset.from_dict(table)
    data = DatasetDict({"train": whole.select(range(40)), "validation": whole.select(range(40, 64))})
    result = fit(recipe, tmp_path / "run", data=data)
    fields = {name: value for name, value in recipe.model.items() if name not in ("encoder", "revision")}
    encoder = recipe.model["encoder"]
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    inputs = tokenizer(table["text"], return_tensors="pt", padding=True)
    expected = result.model.config
    with torch.no_grad():
        answers = result.model(**inputs)
    routes = (Trainer, LiminalTrainer) if decay is None else (LiminalTrainer,)
    for route in routes:
        set_seed(recipe.seed)
        model = LiminalForPADRegression.from_encoder_pretrained(encoder, **fields)
        model.freeze_encoder()
        states = pooled_dataset(model, tokenizer, data, max_length=32).remove_columns("text")
        kind = LiminalTrainingArguments if route is LiminalTrainer else TrainingArguments
        best = {"save_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "pearson_mean"}
        own = {"ema_decay": decay} if route is LiminalTrainer else {}
        seeds = {"seed": recipe.seed, "data_seed": recipe.seed}
        args = kind(**settings(tmp_path / route.__name__, **best, **seeds, **own))
        set_seed(recipe.seed)
        route(
            model,
            args,
            data_collator=default_data_collator,
            train_dataset=states["train"],
            eval_dataset=states["validation"],
            compute_metrics=compute_metrics,
        ).train()
        config = model.config
        assert config.label_mean == pytest.approx(expected.label_mean, abs=1e-6)
        assert config.label_std == pytest.approx(expected.label_std, abs=1e-6)
        assert config.pooled_scale == pytest.approx(expected.pooled_scale, rel=1e-5) and config.pooled_scale != 1
        assert config.uncertainty_scale == pytest.approx(expected.uncertainty_scale, rel=1e-3)
        np.testing.assert_allclose(config.prediction_quantiles, expected.prediction_quantiles, atol=2e-4)
        with torch.no_grad():
            output = model.cpu().eval()(**inputs)
        torch.testing.assert_close(output.logits, answers.logits, atol=1e-4, rtol=0)
        torch.testing.assert_close(output.uncertainty, answers.uncertainty, atol=1e-4, rtol=1e-3)


@ROUTES
@pytest.mark.parametrize("targets", [None, ["joy"]])
def test_a_fresh_model_learns_the_scale_of_its_labels(tmp_path: Path, route: Any, targets: list[str] | None) -> None:
    """Narrow labels around .3: without their mean and spread little is learned, and the uncertainty is too large."""
    width = 3 if targets is None else 1
    model = fresh(targets=targets)
    data = rows(targets=width)
    metrics = make_compute_metrics(targets=model.config.targets)
    trainer = route(
        model,
        TrainingArguments(**settings(tmp_path, num_train_epochs=20)),
        train_dataset=data,
        eval_dataset=rows(targets=width, seed=1),
        compute_metrics=metrics,
    )
    trainer.train()
    labels = np.asarray(data["labels"][:])
    assert model.config.label_mean == pytest.approx(labels.mean(0)) and model.config.labels_measured
    assert model.config.label_std == pytest.approx(labels.std(0))
    assert np.shape(model.config.prediction_quantiles) == (width, 101)
    with torch.no_grad():
        output = model.eval()(pooled_embeds=torch.tensor(rows(targets=width, seed=1)["pooled_embeds"][:]))
    gold = torch.tensor(rows(targets=width, seed=1)["labels"][:])
    error = (output.logits - gold).square().mean().sqrt()
    assert trainer.evaluate()["eval_pearson_mean"] > 0.8 and 0.5 < float(output.uncertainty.mean() / error) < 2


def test_only_what_was_not_measured_is_measured_and_other_models_are_left_alone(tmp_path: Path) -> None:
    model = fresh(label_mean=[0.1] * 3, label_std=[0.2] * 3)
    Trainer(model, TrainingArguments(**settings(tmp_path, eval_strategy="no")), train_dataset=rows()).train()
    config = model.config
    assert (config.label_mean, config.label_std, config.pooled_scale) == ([0.1] * 3, [0.2] * 3, 1.0)
    assert config.uncertainty_scale == [1.0] * 3, "there was nothing to calibrate on"
    assert config.prediction_quantiles is not None
    encoder = tiny_model("bert").config.text_config
    encoder.num_labels = 3
    encoder.problem_type = "multi_label_classification"  # labels of any size
    other = BertForSequenceClassification(encoder)
    data = tokens().map(lambda row: {"labels": [9.0, 0.0, 1.0]})
    Trainer(other, TrainingArguments(**settings(tmp_path, eval_strategy="no")), train_dataset=data).train()
    assert not hasattr(other.config, "label_mean")


class OtherTask(nn.Module):
    """A model of ours within one that has a task, and labels, of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = fresh()
        self.readout = nn.Linear(3, 5)

    def forward(self, pooled_embeds: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.readout(self.inner(pooled_embeds=pooled_embeds).logits)
        return {"loss": nn.functional.cross_entropy(scores, labels), "logits": scores}


def test_labels_of_another_task_are_not_ours_to_check(tmp_path: Path) -> None:
    model = OtherTask()
    data = rows().map(lambda row, index: {"labels": index % 5}, with_indices=True, remove_columns=["labels"])
    Trainer(model, TrainingArguments(**settings(tmp_path, eval_strategy="no")), train_dataset=data).train()
    assert model.inner.config.label_mean == [0.0] * 3


# ---- labels ----


@ROUTES
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (rows(scale=(1, 9)), r"training labels lie in .*\.\..*label_range is -1\.\.1.*label_range=\[\d, \d\]"),
        (rows().remove_columns("labels"), "no labels"),
        (rows().map(lambda row: {"labels": ["a", "b", "c"]}, remove_columns=["labels"]), "Row 0: the labels"),
        (rows(targets=2), r"shape \(N, 3\)"),
    ],
    ids=["1..9", "none", "words", "two"],
)
def test_labels_that_can_not_be_learned_are_named_before_the_first_step(
    tmp_path: Path, route: Any, data: Dataset, message: str
) -> None:
    trainer = route(fresh(), TrainingArguments(**settings(tmp_path, eval_strategy="no")), train_dataset=data)
    with pytest.raises(LiminalError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


@ROUTES
def test_labels_of_another_scale_train_where_the_model_is_told(tmp_path: Path, route: Any) -> None:
    model = fresh(label_range=[1, 9])
    args = TrainingArguments(**settings(tmp_path, num_train_epochs=10))
    route(model, args, train_dataset=rows(scale=(1, 9)), eval_dataset=rows(scale=(1, 9))).train()
    with torch.no_grad():
        logits = model.eval()(pooled_embeds=torch.tensor(rows()["pooled_embeds"][:])).logits
    assert 4 < float(logits.mean()) < 8 and model.config.label_mean == pytest.approx([6.2] * 3, abs=0.3)


def test_our_trainer_takes_none_for_a_missing_label_and_checks_the_evaluation_labels(tmp_path: Path) -> None:
    holes = rows().map(lambda row, index: {"labels": [None, *row["labels"][1:]] if index % 2 else row["labels"]},
                       with_indices=True)  # fmt: skip
    model = fresh()
    LiminalTrainer(model, TrainingArguments(**settings(tmp_path)), train_dataset=holes, eval_dataset=holes).train()
    known = np.array([row for row in np.asarray(holes["labels"][:], dtype=float)])
    assert model.config.label_mean == pytest.approx(np.nanmean(known, axis=0))
    wrong = LiminalTrainer(
        fresh(), TrainingArguments(**settings(tmp_path)), train_dataset=rows(), eval_dataset=rows(scale=(1, 9))
    )
    with pytest.raises(LiminalError, match="The evaluation labels lie in"):
        wrong.train()
    unlabelled = rows().remove_columns("labels")
    assert wrong.predict(unlabelled).predictions.shape == (48, 3)
    with pytest.raises(LiminalError, match=r"evaluate: The rows have no labels: .*use predict"):
        wrong.evaluate(unlabelled)


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        yield from rows().with_format("torch")


@ROUTES
def test_labels_are_read_from_streams_and_lists(tmp_path: Path, route: Any) -> None:
    want = fresh()
    route(want, TrainingArguments(**settings(tmp_path, eval_strategy="no")), train_dataset=rows()).train()
    for data in (Stream(), [*rows()], rows().to_iterable_dataset(), rows().rename_column("labels", "label")):
        model = fresh()
        args = TrainingArguments(**settings(tmp_path, eval_strategy="no", max_steps=2))
        route(model, args, train_dataset=data).train()
        assert model.config.label_mean == pytest.approx(want.config.label_mean, abs=1e-6)
        assert model.config.pooled_scale == pytest.approx(want.config.pooled_scale, rel=1e-5)


# ---- metrics ----


class SpreadOnly(Head):
    """Has uncertainty and no confidences."""

    def __init__(self, config: LiminalConfig, pooled_size: int) -> None:
        super().__init__(config, pooled_size)
        self.read = nn.Linear(pooled_size, 2 * config.num_labels)

    def forward(self, inputs: HeadInput) -> HeadOutput:
        mean, log_variance = self.read(inputs.pooled).chunk(2, -1)
        return HeadOutput(pad_trajectory=self.to_label_units(mean)[:, None], log_variance=log_variance)


@ROUTES
@pytest.mark.parametrize("extra", [{}, {"eval_accumulation_steps": 1}, {"batch_eval_metrics": True}])
def test_a_function_of_the_user_gets_an_array_of_predictions(tmp_path: Path, route: Any, extra: dict[str, Any]) -> None:
    shapes = []

    def mine(evaluation: Any, compute_result: bool = True) -> dict[str, float]:
        shapes.append(tuple(evaluation.predictions.shape))
        return {"mse": float(((evaluation.predictions - evaluation.label_ids) ** 2).mean())}

    args = TrainingArguments(**settings(tmp_path, per_device_eval_batch_size=20, **extra))
    trainer = route(fresh(), args, train_dataset=rows(), eval_dataset=rows(), compute_metrics=mine)
    assert trainer.evaluate()["eval_mse"] > 0
    assert shapes == ([(20, 3), (20, 3), (8, 3)] if "batch_eval_metrics" in extra else [(48, 3)])
    assert trainer.predict(rows()).predictions.shape == (48, 3)


@pytest.mark.parametrize("extra", [{}, {"eval_accumulation_steps": 1}, {"batch_eval_metrics": True}])
def test_our_metrics_know_each_output_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]
) -> None:
    args = TrainingArguments(**settings(tmp_path, per_device_eval_batch_size=20, **extra))
    found = LiminalTrainer(fresh(), args, train_dataset=rows(), eval_dataset=rows()).evaluate()
    assert {"eval_faith", "eval_uncertainty_spearman_arousal", "eval_pearson_mean"} <= set(found)
    monkeypatch.setitem(HEADS, "spread-only", SpreadOnly)
    model = fresh(head="spread-only")
    trainer = LiminalTrainer(model, args, train_dataset=rows(), eval_dataset=rows())
    trainer.train()
    found = trainer.evaluate()
    assert "eval_faith" not in found and "eval_uncertainty_spearman_mean" in found
    assert model.config.uncertainty_scale != [1.0] * 3
    predicted = trainer.predict_by_name(rows())
    assert predicted.uncertainty is not None and predicted.uncertainty.shape == predicted.predictions.shape == (48, 3)


# ---- drop-ins ----


def test_what_a_stock_trainer_takes_ours_takes(tmp_path: Path) -> None:
    args = TrainingArguments(**settings(tmp_path))
    before = copy.deepcopy(args.to_dict())
    trainer = LiminalTrainer(model_init=lambda: fresh(), args=args, train_dataset=rows(), eval_dataset=rows())
    trainer.train()
    assert args.to_dict() == before, "the caller's arguments stay as they are"
    assert trainer.model.config.labels_measured and "eval_pearson_mean" in trainer.evaluate()
    names = [type(callback).__name__ for callback in trainer.callback_handler.callbacks]
    assert names.count("FitCallback") == 1
    several = LiminalTrainer(fresh(), args, None, rows(), {"one": rows(), "two": rows(seed=1)})
    several.train()
    assert "eval_two_pearson_mean" in several.evaluate()
    with_column = rows().add_column("row", [f"id {index}" for index in range(48)])
    LiminalTrainer(fresh(), args, train_dataset=with_column, eval_dataset=with_column).train()


def test_the_old_keywords_warn_and_work(tmp_path: Path) -> None:
    args = TrainingArguments(**settings(tmp_path))
    with pytest.warns(DeprecationWarning, match=r"ema_decay, head_learning_rate\) is deprecated"):
        old = LiminalTrainer(
            fresh(), args, train_dataset=rows(), ema_decay=0.9, head_learning_rate=0.5, eval_dataset=rows()
        )
    assert any(isinstance(callback, EMACallback) for callback in old.callback_handler.callbacks)
    assert old.parameter_groups()[0]["lr"] == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        new = LiminalTrainingArguments(**settings(tmp_path, ema_decay=0.9, head_learning_rate=0.5))
        assert (
            LiminalTrainer(fresh(), new, train_dataset=rows(), eval_dataset=rows()).parameter_groups()[0]["lr"] == 0.5
        )


def test_the_average_is_calibrated_with_the_stock_trainer_too(tmp_path: Path) -> None:
    model = fresh()
    args = TrainingArguments(**settings(tmp_path, num_train_epochs=1))
    trainer = Trainer(model, args, train_dataset=rows(), eval_dataset=rows(), callbacks=[EMACallback(0.9)])
    trainer.train()
    with torch.no_grad():
        logits = model.eval()(pooled_embeds=torch.tensor(rows()["pooled_embeds"][:])).logits
    ends = torch.stack([logits.min(0).values, logits.max(0).values], 1)
    quantiles = torch.tensor(model.config.prediction_quantiles)[:, [0, -1]]
    torch.testing.assert_close(quantiles, ends, atol=1e-4, rtol=0)


# ---- checkpoints ----


@pytest.mark.parametrize("frozen", ["original", "changed", "trained"])
def test_a_checkpoint_loads_by_from_pretrained(tmp_path: Path, frozen: str) -> None:
    encoder = encoder_with_tokenizer(tmp_path / "encoder")
    model = LiminalForPADRegression.from_encoder_pretrained(encoder, latent_size=16)
    if frozen != "trained":
        model.freeze_encoder()
    if frozen == "changed":
        with torch.no_grad():
            next(model.liminal.encoder.parameters()).add_(0.1)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    args = LiminalTrainingArguments(**settings(tmp_path / "run", save_strategy="epoch", ema_decay=0.9))
    trainer = LiminalTrainer(model, args, train_dataset=tokens(), eval_dataset=tokens(), processing_class=tokenizer)
    trainer.train()
    last = tmp_path / "run" / f"checkpoint-{trainer.state.global_step}"
    assert not list(tmp_path.rglob("training_args.bin"))
    size = (last / "model.safetensors").stat().st_size
    assert (size < 100_000) == (frozen == "original"), "an encoder as it was published is not written again"
    inputs = {"input_ids": torch.tensor(tokens()["input_ids"][:])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        want = model.eval()(**inputs).logits
        for load in (LiminalForPADRegression.from_pretrained, AutoModelForSequenceClassification.from_pretrained):
            assert torch.equal(load(last).eval()(**inputs).logits, want)


@ROUTES
def test_a_resumed_run_keeps_what_was_measured(tmp_path: Path, route: Any) -> None:
    kind = LiminalTrainingArguments if route is LiminalTrainer else TrainingArguments
    args = kind(**settings(tmp_path, save_strategy="epoch"))
    model, data = tiny_model("bert"), tokens()
    model.config.labels_measured = False
    start = copy.deepcopy(model)
    route(model, args, train_dataset=data, eval_dataset=data).train()
    # The encoder has moved on by then: its states would give another scale.
    resumed = copy.deepcopy(start)
    route(resumed, args, train_dataset=data, eval_dataset=data).train(str(next(tmp_path.glob("checkpoint-3"))))
    assert resumed.config.to_dict() == model.config.to_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


# ---- PEFT ----


@ROUTES
def test_a_peft_model_trains_and_its_folder_gives_the_same_bits(tmp_path: Path, route: Any) -> None:
    peft = pytest.importorskip("peft")
    tiny_model("bert").save_pretrained(tmp_path / "base")
    inputs = {"input_ids": torch.tensor(tokens()["input_ids"][:])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])

    def base() -> Any:
        return LiminalForPADRegression.from_pretrained(tmp_path / "base")

    assert not base().config.labels_measured
    wrapped = peft.get_peft_model(base(), lora_config(base(), r=2))
    kind = LiminalTrainingArguments if route is LiminalTrainer else TrainingArguments
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "save_strategy": "epoch"}
    own = {"ema_decay": 0.9, "head_learning_rate": 1e-2} if route is LiminalTrainer else {}
    args = kind(**settings(tmp_path / "run", learning_rate=1e-3, **best, **own))
    trainer = route(wrapped, args, train_dataset=tokens(), eval_dataset=tokens())
    trainer.train()
    assert route is Trainer or "eval_pearson_pleasure" in trainer.evaluate()
    trainer.save_model(tmp_path / "saved")
    for folder in (tmp_path / "saved", Path(trainer.state.best_model_checkpoint)):
        assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in folder.iterdir()}
    assert route is Trainer or not list(tmp_path.rglob("training_args.bin"))
    with torch.no_grad():
        want = wrapped.eval()(**inputs)
        for load in (
            lambda: peft.PeftModel.from_pretrained(base(), tmp_path / "saved"),
            lambda: peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "saved"),
            lambda: AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved"),
        ):
            found = load().eval()(**inputs)
            assert torch.equal(found.logits, want.logits) and torch.equal(found.uncertainty, want.uncertainty)
    again = peft.get_peft_model(base(), lora_config(base(), r=2))
    first = min((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    route(again, args, train_dataset=tokens(), eval_dataset=tokens()).train(str(first))
    with torch.no_grad():
        assert torch.equal(again.eval()(**inputs).logits, want.logits)


def test_adapters_have_the_rate_of_their_layer_and_the_head_its_own(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = tiny_model("bert", pooling="attention")
    wrapped = peft.get_peft_model(model, lora_config(model, r=2))
    args = LiminalTrainingArguments(
        **settings(tmp_path, learning_rate=1e-4, head_learning_rate=1e-3, layer_decay=0.5, eval_strategy="no")
    )
    groups = LiminalTrainer(wrapped, args, train_dataset=tokens()).parameter_groups()
    rates = {id(value): group["lr"] for group in groups for value in group["params"]}
    trained = {name: value for name, value in wrapped.named_parameters() if value.requires_grad}
    assert rates.keys() == {id(value) for value in trained.values()}
    for name, value in trained.items():
        want = 1e-3 if "modules_to_save" in name else 1e-4 if "layer.1." in name else 0.5e-4
        assert rates[id(value)] == pytest.approx(want), name
    assert {"lora_" in name for name in trained} == {True, False}
