"""The Trainer: groups, averages, gradients under accumulation, missing labels, loss that is not finite, determinism."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import VOCABULARY, tiny_config
from datasets import Dataset
from safetensors.torch import load_file
from torch import Tensor
from transformers import TrainerCallback, set_seed

from liminal_hf.modeling.configuration_liminal import LiminalConfig
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression
from liminal_hf.training.args import LiminalTrainingArguments
from liminal_hf.training.callbacks import RAW_WEIGHTS
from liminal_hf.training.trainer import (
    ROW,
    EpochLengthGroupedSampler,
    LiminalTrainer,
    NonFiniteLossError,
    encoder_depths,
)

SIZE = 12


def pooled_rows(number: int = 24, missing: bool = False, seed: int = 0) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(number, SIZE, generator=generator)
    labels = (pooled[:, :3] * 0.2).clamp(-1, 1)
    if missing:
        labels[torch.rand(number, 3, generator=generator) < 0.4] = -100
        labels[0] = -100  # a row with none at all
    content = {"pooled_embeds": pooled.tolist(), "labels": labels.tolist(), ROW: list(range(number))}
    return Dataset.from_dict(content).with_format("torch")


def pooled_model(seed: int = 0, **fields: Any) -> LiminalForPADRegression:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"pooled_size": SIZE, "latent_size": 16, "num_outer_steps": 3, "head_dropout": 0.0}
    settings["label_std"] = [0.2] * 3
    return LiminalForPADRegression(LiminalConfig(**{**settings, **fields}))


def token_model(family: str = "bert", **fields: Any) -> LiminalForPADRegression:
    torch.manual_seed(0)
    config = tiny_config(family)
    return LiminalForPADRegression(LiminalConfig(text_config=config, latent_size=16, num_outer_steps=2, **fields))


def arguments(folder: Path, **settings: Any) -> LiminalTrainingArguments:
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "use_cpu": True,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "data_seed": 0,
        "seed": 0,
    }
    return LiminalTrainingArguments(**{**defaults, **settings})


class KeepGradients(TrainerCallback):
    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        self.steps.append({name: value.clone() for name, value in gradients.items()})


@pytest.mark.parametrize("loss", ["mse", "huber", "gaussian_nll"])
def test_accumulation_gives_the_gradient_of_the_large_batch(tmp_path: Path, loss: str) -> None:
    """Item-wise losses, no dropout, missing labels spread unevenly over the micro-batches, in float64."""
    found = []
    for batch, accumulation in ((12, 1), (4, 3), (1, 12)):
        gradients = KeepGradients()
        LiminalTrainer(
            pooled_model(loss=loss).double(),
            arguments(
                tmp_path,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
                max_steps=2,
                max_grad_norm=0.0,
                train_sampling_strategy="sequential",
                optim="sgd",
            ),
            train_dataset=pooled_rows(missing=True),
            callbacks=[gradients],
        ).train()
        found.append(gradients.steps)
    large = found[0]
    assert len(large) == 2 and max(value.abs().max() for value in large[0].values()) > 1e-3
    for small in found[1:]:
        for one, other in zip(large, small, strict=True):
            assert one.keys() == other.keys()
            for name in one:
                torch.testing.assert_close(one[name], other[name], atol=1e-6, rtol=0, msg=name)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    def run(seed: int) -> dict[str, Tensor]:
        set_seed(seed)
        model = pooled_model(seed, head_dropout=0.5)
        LiminalTrainer(
            model, arguments(tmp_path, seed=seed, data_seed=seed, ema_decay=0.9), train_dataset=pooled_rows()
        ).train()
        return model.state_dict()

    first, second, third = run(0), run(0), run(1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_partly_missing_labels_train_to_the_labels_that_exist(tmp_path: Path) -> None:
    rows = pooled_rows(64, missing=True)
    model = pooled_model()
    trainer = LiminalTrainer(
        model, arguments(tmp_path, num_train_epochs=60, per_device_train_batch_size=16), train_dataset=rows
    )
    before = trainer.evaluate(rows)["eval_mae_mean"]
    trainer.train()
    after = trainer.evaluate(rows)
    assert after["eval_mae_mean"] < before / 2 and after["eval_pearson_mean"] > 0.9


def test_a_missing_label_gives_no_gradient(tmp_path: Path) -> None:
    gradients = []
    for value in (-0.9, 0.9):
        content = pooled_rows(8, missing=True).with_format(None).to_dict()
        # What the text says about a dimension whose label is missing must not matter; nor does a row without labels.
        content["pooled_embeds"][0] = [value] * SIZE
        keep = KeepGradients()
        trainer = LiminalTrainer(
            pooled_model(), arguments(tmp_path, max_steps=1), train_dataset=Dataset.from_dict(content), callbacks=[keep]
        )
        trainer.train()
        gradients.append(keep.steps[0])
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], atol=1e-7, rtol=1e-5)


def test_groups_have_the_rates_that_were_asked_for(tmp_path: Path) -> None:
    model = token_model()
    trainer = LiminalTrainer(
        model,
        arguments(tmp_path, learning_rate=1e-4, weight_decay=0.1, head_learning_rate=1e-3, layer_decay=0.5),
        train_dataset=pooled_rows(),
    )
    names = {id(value): name for name, value in model.named_parameters()}
    rates = {names[id(value)]: group for group in trainer.parameter_groups() for value in group["params"]}
    assert rates.keys() == set(names.values()), "every parameter is in one group"
    for name, group in rates.items():
        if "encoder.layer.1." in name:
            expected = 1e-4
        elif "encoder.layer.0." in name:
            expected = 0.5e-4
        elif "embeddings" in name:
            expected = 0.25e-4
        else:
            expected = 1e-3
        assert group["lr"] == pytest.approx(expected), name
        vector = dict(model.named_parameters())[name].dim() < 2
        assert group["weight_decay"] == (0.0 if vector else 0.1), name


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert", "gpt2", "bloom", "t5", "llama"])
def test_depths_are_found_in_every_family(family: str) -> None:
    model = token_model(family)
    depths = encoder_depths([name for name, _ in model.named_parameters() if name.startswith("liminal.encoder.")])
    assert set(depths.values()) == {0, 1, 2}
    embeddings = [id(value) for value in model.get_input_embeddings().parameters()]
    for name, value in model.named_parameters():
        if id(value) in embeddings:
            assert depths[name] == 2, name
        if "final" in name or "ln_f" in name:
            assert depths[name] == 0, name


def text_rows(number: int = 16) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 12, (number,), generator=generator).tolist()
    ids = [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    labels = [[sum(row) / len(row) / VOCABULARY, 0.1, -0.1] for row in ids]
    masks = [[1] * len(row) for row in ids]
    return Dataset.from_dict(
        {"input_ids": ids, "attention_mask": masks, "labels": labels, "length": lengths, ROW: list(range(number))}
    )


def pad(features: list[dict[str, Any]]) -> dict[str, Tensor]:
    width = max(len(row["input_ids"]) for row in features)
    return {
        "input_ids": torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in features]),
        "attention_mask": torch.tensor(
            [row["attention_mask"] + [0] * (width - len(row["attention_mask"])) for row in features]
        ),
        "labels": torch.tensor([row["labels"] for row in features]),
        ROW: torch.tensor([row[ROW] for row in features]),
    }


def test_a_frozen_encoder_does_not_move_and_has_no_dropout(tmp_path: Path) -> None:
    model = token_model()
    model.freeze_encoder()
    before = copy.deepcopy(model.state_dict())
    modes = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            modes.append((model.liminal.encoder.training, model.liminal.head.training))

    LiminalTrainer(
        model,
        arguments(tmp_path, save_strategy="epoch", ema_decay=0.9),
        train_dataset=text_rows(),
        data_collator=pad,
        callbacks=[Watch()],
    ).train()
    assert set(modes) == {(False, True)}
    after = model.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved and all(name.startswith("liminal.head.") for name in moved)
    assert not list(tmp_path.rglob("training_args.bin"))


def test_the_average_is_evaluated_saved_and_kept(tmp_path: Path) -> None:
    rows = pooled_rows()
    seen: dict[int, dict[str, Tensor]] = {}

    class Watch(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            seen[state.global_step] = copy.deepcopy(model.state_dict())

    model = pooled_model()
    trainer = LiminalTrainer(
        model,
        arguments(
            tmp_path,
            num_train_epochs=4,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="pearson_mean",
            greater_is_better=True,
            ema_decay=0.9,
        ),
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[Watch()],
    )
    trainer.train()
    for step, evaluated in seen.items():
        folder = tmp_path / f"checkpoint-{step}"
        saved = load_file(folder / "model.safetensors")
        raw = load_file(folder / RAW_WEIGHTS)
        assert all(torch.equal(saved[name], evaluated[name]) for name in saved)
        assert any(not torch.equal(saved[name], raw[name]) for name in raw)
    best = seen[trainer.state.best_global_step]
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())
    assert trainer.evaluate(rows)["eval_pearson_mean"] == pytest.approx(trainer.state.best_metric)


def test_without_a_best_checkpoint_the_model_ends_as_the_average(tmp_path: Path) -> None:
    def run(decay: float | None) -> LiminalForPADRegression:
        model = pooled_model()
        LiminalTrainer(model, arguments(tmp_path, ema_decay=decay), train_dataset=pooled_rows()).train()
        return model

    plain, averaged, no_memory = run(None).state_dict(), run(0.9).state_dict(), run(0.0).state_dict()
    assert any(not torch.equal(plain[name], averaged[name]) for name in plain)
    for name in plain:
        torch.testing.assert_close(plain[name], no_memory[name])


@pytest.mark.parametrize("stop_at", [2, 3])  # within the first epoch and at its end
@pytest.mark.parametrize("data", ["pooled", "grouped by length"])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, stop_at: int, data: str) -> None:
    class Stop(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step >= stop_at

    def trainer(folder: Path, callbacks: list[TrainerCallback]) -> LiminalTrainer:
        set_seed(0)
        settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 3}
        if data == "pooled":
            model, rows, extra = pooled_model(head_dropout=0.5), pooled_rows(), {}
        else:
            model, rows, extra = token_model(head_dropout=0.5), text_rows(24), {"data_collator": pad}
            settings["train_sampling_strategy"] = "group_by_length"
        return LiminalTrainer(
            model, arguments(folder, ema_decay=0.9, **settings), train_dataset=rows, callbacks=callbacks, **extra
        )

    whole = trainer(tmp_path / "whole", [])
    whole.train()
    trainer(tmp_path / "cut", [Stop()]).train()
    resumed = trainer(tmp_path / "cut", [])
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / f"checkpoint-{stop_at}"))
    assert whole.state.global_step == resumed.state.global_step == 9
    expected = whole.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_loss_that_is_not_finite_names_its_rows(tmp_path: Path) -> None:
    content = pooled_rows().with_format(None).to_dict()
    content["pooled_embeds"][13][0] = float("nan")
    model = pooled_model()
    trainer = LiminalTrainer(model, arguments(tmp_path), train_dataset=Dataset.from_dict(content))
    with pytest.raises(NonFiniteLossError, match=r"The loss is nan at step \d+ .*by themselves: \[13\]"):
        trainer.train()
    assert all(bool(value.isfinite().all()) for value in model.parameters()), "the weights did not move into NaN"


def test_a_learning_rate_that_explodes_is_named_as_such(tmp_path: Path) -> None:
    trainer = LiminalTrainer(
        pooled_model(head="linear"),
        arguments(tmp_path, learning_rate=1e30, optim="sgd", max_grad_norm=0.0, num_train_epochs=20),
        train_dataset=pooled_rows(),
    )
    with pytest.raises(NonFiniteLossError, match="Rows of this batch in the training split"):
        trainer.train()


def test_a_gradient_that_is_not_finite_stops_before_the_step(tmp_path: Path) -> None:
    class Spoil(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 2:
                next(model.parameters()).register_hook(lambda gradient: gradient * float("inf"))

    model = pooled_model()
    trainer = LiminalTrainer(model, arguments(tmp_path), train_dataset=pooled_rows(), callbacks=[Spoil()])
    with pytest.raises(NonFiniteLossError, match=r"The gradient is (nan|inf) at step 3"):
        trainer.train()
    assert all(bool(value.isfinite().all()) for value in model.parameters())


def test_predictions_come_in_the_order_of_the_rows(tmp_path: Path) -> None:
    model, rows = token_model(), text_rows()
    grouped = arguments(tmp_path, train_sampling_strategy="group_by_length", per_device_eval_batch_size=4)
    output = LiminalTrainer(model, grouped, train_dataset=rows, data_collator=pad).predict(rows)
    torch.testing.assert_close(torch.tensor(output.label_ids), torch.tensor(rows["labels"]))
    model.eval()
    for place in (0, 7, 15):
        batch = pad([rows[place]])
        batch.pop(ROW)
        with torch.no_grad():
            alone = model(**batch).logits[0]
        torch.testing.assert_close(torch.tensor(output.predictions[place]), alone, atol=1e-5, rtol=0)


def test_length_groups_depend_on_seed_and_epoch_alone() -> None:
    lengths = torch.randint(1, 40, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    sampler = EpochLengthGroupedSampler(10, lengths, seed=3)
    first = list(sampler)
    torch.rand(5)
    assert list(sampler) == first and sorted(first) == list(range(200))
    sampler.set_epoch(1)
    assert list(sampler) != first
    spread = [
        max(lengths[row] for row in first[start : start + 10]) - min(lengths[row] for row in first[start : start + 10])
        for start in range(0, 200, 10)
    ]
    assert sum(spread) / len(spread) < 10, "rows of one batch are of similar length"


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    LiminalTrainer(pooled_model(), arguments(tmp_path, **settings), train_dataset=pooled_rows()).train()
    # The second model has a layer that the first lacks.
    other = LiminalTrainer(pooled_model(head="mlp"), arguments(tmp_path), train_dataset=pooled_rows())
    with pytest.raises(ValueError, match="does not fit this model"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_a_wholly_frozen_model_is_named(tmp_path: Path) -> None:
    model = pooled_model().requires_grad_(False)
    with pytest.raises(ValueError, match="Nothing is trainable"):
        LiminalTrainer(model, arguments(tmp_path), train_dataset=pooled_rows()).train()
