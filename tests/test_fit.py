"""`fit` from recipe to folder: phases, adapters, averages, distillation, calibration, faults."""

import json
import platform
import re
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from datasets import DatasetDict
from safetensors.torch import load_file
from training_kit import WORDS, phase, predict_texts, same_weights, small_recipe, tables, texts_and_labels
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, set_seed

from liminal_hf.data import load_table, pooled_dataset
from liminal_hf.export.model_card import build_card, run_facts
from liminal_hf.metrics import mean_pearson
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression
from liminal_hf.modeling.provenance import read_facts
from liminal_hf.training.fit import FitResult, fit, training_arguments
from liminal_hf.training.recipe import Phase, Recipe
from liminal_hf.training.run_folder import RunInProgressError, RunMismatchError

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_run_leaves_a_finished_folder(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, phases__0__training__num_train_epochs=8)
    result = fit(recipe, tmp_path / "run")
    folder = result.output_dir
    assert {path.name for path in folder.iterdir()} == {
        ".lock", "model", "metrics.json", "recipe.yaml", "run.json", "emotional_log.csv", "phases",
    }  # fmt: skip
    assert not [path for path in folder.rglob("*") if path.suffix in {".bin", ".pt", ".pth", ".pkl", ".part"}]
    assert Recipe.from_yaml(folder / "recipe.yaml") == recipe
    assert json.loads((folder / "metrics.json").read_text()) == result.metrics
    assert len((folder / "emotional_log.csv").read_text().splitlines()) == 9
    assert result.metrics["test"]["pearson_mean"] > 0.5, "the words say what the labels are"
    assert result.metrics["rows"] == {"train": 48, "validation": 24, "test": 24}
    assert re.search(r", \d+ cores$", result.metrics["hardware"]) or "GPU" in result.metrics["hardware"]
    for split in ("validation", "test"):
        intervals = result.metrics["intervals"][split]
        assert set(intervals) == {n for n in result.metrics[split] if re.match("pearson|ccc|mae|rmse", n)}
        for name, (low, high) in intervals.items():
            assert low < result.metrics[split][name] < high
    assert read_facts(folder / "model") == run_facts(folder), "what the run recorded travels with the checkpoint"
    card = build_card(result.model.config, read_facts(folder / "model"))
    assert card.data.eval_results[0].metric_args["confidence_interval_95"]
    assert result.metrics["hardware"] in card.content and platform.node() not in result.metrics["hardware"]

    loaded = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    assert same_weights(loaded, result.model)
    config = loaded.config
    assert config.max_seq_length == 32
    train = np.array([labels for _, labels in texts_and_labels(48, 0)])
    np.testing.assert_allclose(config.label_mean, (train.mean(0) - 3) / 2, atol=1e-4)
    np.testing.assert_allclose(config.label_std, train.std(0) / 2, atol=1e-4)

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    texts = [text for text, _ in texts_and_labels(48, 0)]
    states = loaded.liminal.pool(**tokenizer(texts, padding=True, return_tensors="pt")) * config.pooled_scale
    assert float(states.detach().square().mean()) == pytest.approx(1, abs=1e-3)
    # The quantiles are those of the predictions on the training texts.
    predictions = predict_texts(loaded, tokenizer, texts)
    for dimension, quantiles in enumerate(config.prediction_quantiles):
        assert len(quantiles) == 101 and quantiles == sorted(quantiles)
        np.testing.assert_allclose(quantiles, np.quantile(predictions[:, dimension], np.linspace(0, 1, 101)), atol=1e-4)


def test_uncertainty_fits_the_errors_on_the_development_split(tmp_path: Path) -> None:
    result = fit(small_recipe(tmp_path), tmp_path / "run")
    texts, labels = zip(*texts_and_labels(24, 1), strict=True)
    batch = result.tokenizer(list(texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        output = result.model(**batch)
    gold = (torch.tensor(labels) - 3) / 2
    rmse = (output.logits - gold).square().mean(0).sqrt()
    torch.testing.assert_close(output.uncertainty.square().mean(0).sqrt(), rmse, rtol=1e-3, atol=0)


def test_one_seed_gives_the_same_bits_and_another_does_not(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    first, second = fit(recipe, tmp_path / "a"), fit(recipe, tmp_path / "b")
    assert same_weights(first.model, second.model)
    assert first.model.config.prediction_quantiles == second.model.config.prediction_quantiles
    assert not same_weights(first.model, fit(recipe, tmp_path / "c", seed=1).model)


def test_a_part_of_what_was_learned_is_kept(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path).override(
        {"phases": [{"name": "one", "trainable": "all", "training": {"num_train_epochs": 1}}]}
    )
    ends = {keep: fit(recipe.override({"phases.0.keep": keep}), tmp_path / str(keep)) for keep in (1.0, 0.25)}
    set_seed(recipe.seed)
    fields = {name: value for name, value in recipe.model.items() if name not in ("encoder", "revision")}
    start = LiminalForPADRegression.from_encoder_pretrained(recipe.model["encoder"], **fields).state_dict()
    whole, part = (ends[keep].model.state_dict() for keep in (1.0, 0.25))
    assert not same_weights(ends[1.0].model, ends[0.25].model)
    for name, value in part.items():
        torch.testing.assert_close(value, start[name] + 0.25 * (whole[name] - start[name]), rtol=0, atol=1e-6)


def test_a_finished_run_is_loaded_and_not_trained(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    first = fit(recipe, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.name != ".lock"}
    second = fit(recipe.override({"hub.repo_id": "me/it"}), tmp_path / "run")
    assert same_weights(first.model, second.model) and second.metrics == first.metrics
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    (tmp_path / "run").mkdir()
    with (
        filelock.FileLock(tmp_path / "run" / ".lock"),
        pytest.raises(RunInProgressError, match=r"Another process trains in .*run"),
    ):
        fit(recipe, tmp_path / "run")


def test_the_folder_of_another_run_is_refused_or_cleared(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    fit(recipe, tmp_path / "run")
    other = recipe.override({"model.latent_size": 8})
    with pytest.raises(RunMismatchError, match=r"another recipe \(different: model\)"):
        fit(other, tmp_path / "run")
    with pytest.raises(RunMismatchError, match=r"different: seed"):
        fit(recipe, tmp_path / "run", seed=5)
    assert fit(other, tmp_path / "run", resume="never").model.config.latent_size == 8
    with Path(recipe.data.files["train"]).open("a") as file:
        file.write("w1 w2,1,2,3\n")
    with pytest.raises(RunMismatchError, match="another data set"):
        fit(other, tmp_path / "run")


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "run" / "model" / "mine.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("keep")
    for resume in ("auto", "never"):
        with pytest.raises(RunMismatchError, match=r"already holds model, but no run\.json"):
            fit(small_recipe(tmp_path), tmp_path / "run", resume=resume)
    assert precious.read_text() == "keep"


def encoder_change(result: FitResult, recipe: Recipe) -> dict[str, torch.Tensor]:
    original = load_file(Path(recipe.model["encoder"]) / "model.safetensors")
    trained = result.model.liminal.encoder.state_dict()
    return {name: trained[name] - value for name, value in original.items() if name in trained}


def test_phases_hand_the_model_on(tmp_path: Path) -> None:
    recipe = small_recipe(
        tmp_path,
        phases=[
            phase("head", trainable="head", cache=True),
            phase(
                "all",
                epochs=2,
                trainable="all",
                head_learning_rate=1e-3,
                layer_decay=0.5,
                model={"token_attention": True, "head_dropout": 0.1},
                training={"learning_rate": 1e-4, "train_sampling_strategy": "group_by_length"},
            ),
        ],
    )
    result = fit(recipe, tmp_path / "run")
    assert [report["name"] for report in result.metrics["phases"]] == ["head", "all"]
    config = result.model.config
    assert (config.token_attention, config.head_dropout, config.latent_size) == (True, 0.1, 16)
    first = load_file(tmp_path / "run" / "phases" / "01-head" / "result" / "weights.safetensors")
    assert not any(".encoder." in name for name in first)
    # The second phase moved the head gently from where the first had left it, instead of starting anew.
    final = result.model.state_dict()
    name = "liminal.head.projection.weight"
    assert 0 < (final[name] - first[name]).norm() < 0.2 * first[name].norm()
    change = encoder_change(result, recipe)
    assert any(value.abs().max() > 0 for value in change.values())
    rows = (tmp_path / "run" / "emotional_log.csv").read_text().splitlines()[1:]
    assert [float(row.split(",")[0]) for row in rows] == [1, 2, 3, 4, 5]
    assert not list((tmp_path / "run").rglob("checkpoint-*")), "checkpoints go when their phase is done"


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_adapters_are_folded_in_and_kept_apart(tmp_path: Path, family: str) -> None:
    recipe = small_recipe(
        tmp_path, family, peft={"r": 2, "alpha": 4}, phases=[phase("adapt", trainable="lora", epochs=2)]
    )
    result = fit(recipe, tmp_path / "run")
    change = encoder_change(result, recipe)
    pairs = result.low_rank()
    assert pairs and {name for name, value in change.items() if value.abs().max() > 0} == set(pairs)
    for name, (a, b) in pairs.items():
        assert a.shape[0] == b.shape[1] == 2
        torch.testing.assert_close(change[name], b @ a, atol=1e-5, rtol=1e-4)
    result.model.save_head_only(tmp_path / "small", low_rank=pairs)
    again = LiminalForPADRegression.from_pretrained(tmp_path / "small").eval()
    batch = result.tokenizer(["w1 w2 w3", "w4"], padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, result.model(**batch).logits, atol=1e-6, rtol=0)


def test_adapters_of_an_encoder_in_half_precision_learn_in_full(tmp_path: Path) -> None:
    settings = {"bf16": True, "gradient_checkpointing": True}
    recipe = small_recipe(
        tmp_path, "qwen3", phases=[phase("adapt", trainable="lora", epochs=1, ema_decay=None, training=settings)]
    )
    AutoModel.from_pretrained(recipe.model["encoder"], dtype=torch.bfloat16).save_pretrained(recipe.model["encoder"])
    result = fit(recipe, tmp_path / "run")
    assert result.model.liminal.encoder.dtype == torch.bfloat16
    for a, b in result.low_rank().values():
        assert all(not torch.equal(value, value.bfloat16().float()) for value in (a, b))


def test_an_encoder_in_half_precision_is_trained_in_full(tmp_path: Path) -> None:
    tune = phase("tune", trainable="all", epochs=1, ema_decay=0.995, training={"learning_rate": 1e-5})
    recipe = small_recipe(tmp_path, phases=[tune])
    half = AutoModel.from_pretrained(recipe.model["encoder"], dtype=torch.bfloat16)
    half.save_pretrained(recipe.model["encoder"])
    encoder = fit(recipe, tmp_path / "run").model.liminal.encoder
    start = dict(half.float().named_parameters())
    for name, value in encoder.named_parameters():
        if "layer." in name and name.endswith("weight"):
            assert value.dtype == torch.float32 and not torch.equal(value, start[name]), name


def test_states_are_pooled_anew_when_a_phase_pools_otherwise(tmp_path: Path) -> None:
    phases = [
        phase("first", trainable="head", cache=True),
        phase("then", trainable="head", cache=True, model={"pooling": "max"}),
    ]
    result = fit(small_recipe(tmp_path, phases=phases), tmp_path / "run")
    assert result.model.config.pooling == "max"
    texts, labels = zip(*texts_and_labels(24, 2), strict=True)
    found = predict_texts(result.model, result.tokenizer, list(texts))
    expected = mean_pearson(found, (np.array(labels) - 3) / 2)
    assert result.metrics["test"]["pearson_mean"] == pytest.approx(expected, abs=1e-4)


def test_another_head_takes_its_own_defaults(tmp_path: Path) -> None:
    second = phase("second", trainable="head", cache=True, epochs=1, model={"head": "v6"})
    recipe = small_recipe(tmp_path, model__head="linear", phases=[phase("first", trainable="head", cache=True), second])
    config = fit(recipe, tmp_path / "run").model.config
    assert (config.num_inner_steps, config.memory_slots) == (4, 100)


@pytest.mark.parametrize(("metric", "greater"), [("mae_mean", False), ("eval_rmse_mean", False), ("ccc_mean", True)])
def test_an_error_is_the_better_the_smaller_it_is(metric: str, greater: bool) -> None:
    chosen = Phase(name="head", training={"metric_for_best_model": metric})
    assert training_arguments(chosen, "runs/x", seed=0).greater_is_better is greater


def test_low_rank_pairs_are_not_given_when_something_else_changed_the_encoder(tmp_path: Path) -> None:
    phases = [phase("all", epochs=1, training={"learning_rate": 1e-4}), phase("adapt", trainable="lora", epochs=1)]
    assert fit(small_recipe(tmp_path, phases=phases), tmp_path / "run").low_rank() is None


def test_seeds_of_a_phase_are_averaged_from_one_start(tmp_path: Path) -> None:
    first = phase("head", trainable="head", cache=True)
    second = phase("all", epochs=1, training={"learning_rate": 1e-3})
    averaged = fit(small_recipe(tmp_path, phases=[first, {**second, "seeds": [0, 7]}]), tmp_path / "mean")
    singles = [
        fit(small_recipe(tmp_path, phases=[first, {**second, "seeds": [seed]}]), tmp_path / f"seed-{seed}")
        for seed in (0, 7)
    ]
    states = [one.model.state_dict() for one in singles]
    assert not same_weights(singles[0].model, singles[1].model)
    for name, value in averaged.model.state_dict().items():
        expected = ((states[0][name].double() + states[1][name].double()) / 2).to(value.dtype)
        assert torch.equal(value, expected), name
    assert [one["seed"] for one in averaged.metrics["phases"][1]["seeds"]] == [0, 7]
    assert same_weights(singles[0].model, fit(small_recipe(tmp_path, phases=[first, second]), tmp_path / "plain").model)


def test_goemotions_trains_the_encoder_alone(tmp_path: Path) -> None:
    corpus = tmp_path / "corpora" / "goemotions"
    corpus.mkdir(parents=True)
    for split in ("train", "dev", "test"):
        lines = [f"{text}\t{place % 28},27\tid{place}" for place, (text, _) in enumerate(texts_and_labels(32, 5))]
        (corpus / f"{split}.tsv").write_text("\n".join(lines), encoding="utf-8")
    recipe = small_recipe(
        tmp_path,
        phases=[
            phase("emotions", objective="goemotions", epochs=2, training={"learning_rate": 1e-3}),
            phase("head", trainable="head", cache=True),
        ],
    )
    result = fit(recipe, tmp_path / "run", data_dir=tmp_path / "corpora")
    weights = load_file(tmp_path / "run" / "phases" / "01-emotions" / "result" / "weights.safetensors")
    assert weights and all(name.startswith("liminal.encoder.") for name in weights)
    assert any(value.abs().max() > 0 for value in encoder_change(result, recipe).values())
    assert "eval_macro_f1" in result.metrics["phases"][0]["history"][0]
    plain = fit(small_recipe(tmp_path), tmp_path / "plain")
    assert plain.model.config.pooled_scale != result.model.config.pooled_scale, "the cache follows the trained encoder"


@pytest.mark.nightly
def test_the_uncertainty_is_learned_from_the_labels_and_moves_no_prediction(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, phases__0__training__num_train_epochs=12)
    files = tables(tmp_path / "many", train=300)
    teacher = fit(recipe.override({"data.files": files}), tmp_path / "teacher").output_dir / "model"
    # The raters disagree about the texts in the upper half, and the teacher's smooth word for it hides that.
    chance = np.random.default_rng(0)
    for seed, (split, number) in enumerate((("train", 300), ("validation", 100))):
        rows = ["text,V,A,D"]
        for text, labels in texts_and_labels(number, seed):
            disputed = np.clip(np.array(labels) + (chance.choice([-1, 1], 3) if labels[0] > 3 else 0), 1, 5)
            rows.append(",".join([text, *(f"{label:.4f}" for label in disputed)]))
        files[split] = str(tmp_path / f"{split}.csv")
        Path(files[split]).write_text("\n".join(rows) + "\n")
    student = recipe.override({"data.files": files, "distill": {"teachers": [str(teacher)], "weight": 1.0}})
    more = phase("surer", epochs=12, trainable="uncertainty", cache=True)
    without = fit(student, tmp_path / "without")
    having = fit(student.override({"phases": [student.to_dict()["phases"][0], more]}), tmp_path / "with")
    old, new = without.model.state_dict(), having.model.state_dict()
    changed = {name for name in new if not torch.equal(old[name], new[name])}
    assert changed and all("spread_head" in name for name in changed)

    probe = texts_and_labels(100, 9)
    upper = torch.tensor([labels[0] > 3 for _, labels in probe])
    batch = having.tokenizer([text for text, _ in probe], padding=True, return_tensors="pt")
    with torch.no_grad():
        before, after = without.model(**batch), having.model(**batch)
    assert torch.equal(before.logits, after.logits)
    ratios = [float(one.uncertainty[upper, 0].mean() / one.uncertainty[~upper, 0].mean()) for one in (before, after)]
    assert ratios[0] < 1.4 < 1.8 < ratios[1], ratios


@pytest.mark.parametrize(
    ("fields", "message"), [({"head": "v6"}, "'v6' does not have"), ({"uncertainty_weight": 0.0}, "nothing to learn")]
)
def test_an_uncertainty_that_cannot_be_learned_is_refused_at_once(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    phases = [phase("head", trainable="head"), phase("surer", trainable="uncertainty")]
    recipe = small_recipe(tmp_path, phases=phases)
    with pytest.raises(ValueError, match=message):
        fit(recipe.override({"model": {**recipe.model, **fields}}), tmp_path / "run")
    assert not (tmp_path / "run" / "phases").exists()


def test_labels_missing_in_part_and_constant_labels_train(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    files = tables(tmp_path / "holes", missing=True)
    result = fit(recipe.override({"data.files": files}), tmp_path / "holes-run")
    train = np.array([labels for _, labels in texts_and_labels(48, 0)])
    train[np.arange(48), np.arange(48) % 3] = np.nan
    np.testing.assert_allclose(result.model.config.label_mean, (np.nanmean(train, axis=0) - 3) / 2, atol=1e-4)
    assert all(np.isfinite(value) for value in result.metrics["test"].values())

    constant = tmp_path / "constant.csv"
    constant.write_text(
        "text,V,A,D\n" + "".join(f"{word} w1,4,{place % 5 + 1},2\n" for place, word in enumerate(WORDS))
    )
    result = fit(recipe.override({"data.files": {"train": str(constant)}}), tmp_path / "constant-run")
    assert result.model.config.label_std[0] == 1.0 and result.model.config.label_mean[0] == pytest.approx(0.5)
    assert "test" not in result.metrics


def test_a_single_row_says_what_is_missing(tmp_path: Path) -> None:
    table = tmp_path / "one.csv"
    table.write_text("text,V,A,D\nw1 w2,4,2,3\n")
    with pytest.raises(ValueError, match="validation"):
        fit(small_recipe(tmp_path).override({"data.files": {"train": str(table)}}), tmp_path / "run")


def test_test_is_left_alone_when_it_is_not_asked_for(tmp_path: Path) -> None:
    assert "test" not in fit(small_recipe(tmp_path, evaluate_test=False), tmp_path / "run").metrics


@pytest.mark.parametrize("name", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_a_launch_that_splits_the_model_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "true")
    with pytest.raises(ValueError, match=r"ddp\.yaml"):
        fit(small_recipe(tmp_path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_resume_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'auto' or 'never'"):
        fit(small_recipe(tmp_path), tmp_path / "run", resume="yes")  # type: ignore[arg-type]


def test_splits_and_their_states_can_be_given(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    usual = fit(recipe, tmp_path / "usual")
    splits = load_table(recipe.data.files)
    states = pooled_dataset(usual.model, usual.tokenizer, splits, max_length=32)
    given = fit(recipe, tmp_path / "given", data=states)
    assert same_weights(given.model, usual.model)
    assert given.metrics["test"]["pearson_mean"] == pytest.approx(usual.metrics["test"]["pearson_mean"], abs=1e-6)

    fast = fit(recipe, tmp_path / "fast", data=states.with_format("torch"))
    assert same_weights(fast.model, usual.model)

    # Those of another pooling are refused, also where they are as many.
    narrow = states.map(lambda row: {"pooled_embeds": row["pooled_embeds"][:5]})
    for name, change in (("narrow", {}), ("other", {"model.pooling": "max"})):
        with pytest.raises(ValueError, match="5 numbers a text" if name == "narrow" else "encoder and pooling give"):
            fit(recipe.override(change), tmp_path / name, data=narrow if name == "narrow" else states)
    # A recipe that trains the encoder reads the texts.
    whole = recipe.override({"phases.*.trainable": "all", "phases.*.cache": False})
    fit(whole, tmp_path / "whole", data=narrow)
    with pytest.raises(ValueError, match="'validation'"):
        fit(recipe, tmp_path / "half", data=DatasetDict(train=splits["train"]))
