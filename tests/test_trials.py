"""`scripts/research/trials.py`: each trial changes what it says, in training alone, and nothing without being asked.

Needs EmoBank and EmoITA (`LIMINAL_DATA_DIR`).
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from research import trials  # noqa: E402
from research.emobank import load_emoita  # noqa: E402
from research.grid import Grid  # noqa: E402

from liminal_hf import metrics  # noqa: E402
from liminal_hf.data import load_emobank  # noqa: E402
from liminal_hf.data.pooled_cache import COLUMN  # noqa: E402
from liminal_hf.modeling.configuration_liminal import LiminalConfig  # noqa: E402
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression  # noqa: E402
from liminal_hf.training import inputs  # noqa: E402
from liminal_hf.training.fit import FitResult, fit  # noqa: E402
from liminal_hf.training.recipe import Recipe  # noqa: E402

pytestmark = pytest.mark.nightly

ROWS = {"train": 192, "validation": 64, "test": 64}


@pytest.fixture(scope="module")
def corpus(data_dir: Path) -> DatasetDict:
    """EmoBank's first sentences, with states of eight numbers that tell the labels, noisily."""
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(3, 8))
    found = DatasetDict({split: load_emobank()[split].select(range(number)) for split, number in ROWS.items()})
    for split, rows in found.items():
        labels = np.asarray(rows["labels"][:])
        states = (labels / labels.std(axis=0)) @ mixing + generator.normal(size=(len(rows), 8)) / 2
        found[split] = rows.add_column(COLUMN, states.astype(np.float32).tolist())
    return found


@pytest.fixture
def recipe(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    # These states are made up, so that a trial takes a second; `fit` is not to compare them with MiniLM's.
    monkeypatch.setattr(inputs, "_check_states", lambda *arguments: None)
    return Recipe.from_dict(
        {
            # Eight numbers are what these states have; MiniLM is only named.
            "model": {"encoder": str(minilm), "head": "v7", "latent_size": 16, "pooling": "mean"},
            "data": {"dataset": "emobank"},
            "phases": [
                {
                    "name": "head",
                    "trainable": "head",
                    "cache": True,
                    "training": {"num_train_epochs": 12, "learning_rate": 3e-3, "per_device_train_batch_size": 32},
                }
            ],
            "evaluate_test": False,
        }
    )


def widened(corpus: DatasetDict, width: int) -> DatasetDict:
    """The same states with zeros behind them, as wide as the encoder's."""
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {
                    **{name: rows[name][:] for name in ("id", "text", "labels")},
                    COLUMN: np.pad(np.asarray(rows[COLUMN][:]), ((0, 0), (0, width - 8))).astype(np.float32),
                }
            )
            for split, rows in corpus.items()
        }
    )


def trained(recipe: Recipe, corpus: DatasetDict, folder: Path, **trial: Any) -> FitResult:
    made, trainer = trials.Trial(**trial).prepare(corpus)
    quiet = {"phases.*.training.disable_tqdm": True}
    return fit(recipe, folder, data=made, trainer=trainer, overrides=quiet)


def predicted(result: FitResult, corpus: DatasetDict) -> np.ndarray:
    states = torch.tensor(np.asarray(corpus["test"][COLUMN][:]))
    with torch.inference_mode():
        return result.model(pooled_embeds=states).logits.double().numpy()


def test_no_change_is_the_recipe_and_every_change_is_one(recipe: Recipe, corpus: DatasetDict, tmp_path: Path) -> None:
    corpus = widened(corpus, 384)
    plain = predicted(fit(recipe, tmp_path / "plain", data=corpus), corpus)
    assert metrics.mean_pearson(plain, np.asarray(corpus["test"]["labels"][:])) > 0.3
    assert np.array_equal(plain, predicted(trained(recipe, corpus, tmp_path / "same"), corpus))
    short = recipe.override({"phases.0.training.num_train_epochs": 2})
    changes: dict[str, dict[str, Any]] = {
        "none": {}, "agreement": {"agreement": True}, "r_drop": {"r_drop": 1.0}, "mixup": {"mixup": 0.4},
    }  # fmt: skip
    found = [predicted(trained(short, corpus, tmp_path / name, **trial), corpus) for name, trial in changes.items()]
    assert all(not np.array_equal(found[0], other) for other in found[1:])


def test_labels_are_those_that_were_asked_for(data_dir: Path) -> None:
    corpus, extras = load_emobank(), load_emobank(extras=True)
    readers, _ = trials.Trial(labels="readers").prepare(corpus)
    np.testing.assert_allclose(readers["train"]["labels"][:], extras["train"]["reader"][:], atol=1e-6)
    assert readers["test"]["labels"][:] == corpus["test"]["labels"][:]
    italian, _ = trials.Trial(labels="italian").prepare(corpus)
    own, mixed = (np.asarray(rows["train"]["labels"][:]) for rows in (corpus, italian))
    other = dict(zip(load_emoita()["train"]["id"][:], load_emoita()["train"]["labels"][:], strict=True))
    rest = (mixed - 0.8 * own) / 0.2
    for place in range(3):
        theirs = np.array([other[name][place] for name in corpus["train"]["id"][:]])
        assert np.corrcoef(rest[:, place], theirs)[0, 1] > 0.999
        np.testing.assert_allclose(rest[:, place].std(), own[:, place].std(), rtol=1e-3)
    with pytest.raises(ValueError, match="one of"):
        trials.Trial(labels="mine")


def test_copies_go_and_the_rest_stays_in_order(data_dir: Path) -> None:
    corpus = load_emobank()
    made, _ = trials.Trial(drop_copies=True).prepare(corpus)
    elsewhere = set(corpus["validation"]["text"][:]) | set(corpus["test"]["text"][:])
    kept = [text for text in corpus["train"]["text"][:] if text not in elsewhere]
    assert made["train"]["text"][:] == kept and 0 < len(corpus["train"]) - len(kept) < 200


def test_weights_and_further_targets_come_from_the_raters(recipe: Recipe, corpus: DatasetDict, tmp_path: Path) -> None:
    extras = load_emobank(extras=True)["train"]
    weights = trials._agreement(extras)
    spread = np.asarray(extras["label_std"][:]).mean(axis=1)
    assert (weights > 0).all() and np.corrcoef(weights, spread)[0, 1] < -0.5
    targets = trials._raters(extras)
    np.testing.assert_allclose(targets.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(targets.std(axis=0), 1, atol=1e-6)

    made, trainer = trials.Trial(auxiliary=1.0).prepare(widened(corpus, 384))
    kept = {}

    def watched(*args: Any, **kwargs: Any) -> trials.TrialTrainer:
        kept["trainer"] = trainer(*args, **kwargs)
        kept["before"] = kept["trainer"].auxiliary.weight.clone()
        return kept["trainer"]

    result = fit(recipe, tmp_path / "run", data=made, trainer=watched)
    assert not torch.equal(kept["before"], kept["trainer"].auxiliary.weight), "the further layer learns"
    assert not [name for name in result.model.state_dict() if "auxiliary" in name], "and stays out of the model"
    with pytest.raises(ValueError, match="two trials"):
        trials.Trial(auxiliary=1.0, spread=1.0)


def test_the_uncertainty_follows_the_raters_spread_when_told_to(
    recipe: Recipe, corpus: DatasetDict, tmp_path: Path
) -> None:
    """Here the raters' spread can be read off the state, so that a model that is told of it must know it."""
    made = widened(corpus, 384)
    extras = load_emobank(extras=True)["train"].select(range(ROWS["train"]))
    target = trials._log_variance(extras)
    assert np.isfinite(target).all()
    states = np.asarray(made["train"][COLUMN][:])
    states[:, 8] = target.mean(axis=1) * 2
    made["train"] = made["train"].remove_columns(COLUMN).add_column(COLUMN, states.tolist())
    found = {}
    for weight in (0.0, 5.0):
        model = trained(recipe, made, tmp_path / f"{weight}", spread=weight).model
        with torch.inference_mode():
            uncertainty = model(pooled_embeds=torch.tensor(states)).uncertainty
        found[weight] = np.corrcoef(uncertainty.log().mean(1), states[:, 8])[0, 1]
    assert found[5.0] > 0.5 and found[5.0] > found[0.0] + 0.1, found


def test_the_grid_of_the_trials_can_be_read() -> None:
    grid = Grid.from_yaml(ROOT / "scripts" / "grids" / "trials.yaml")
    for system in grid.systems:
        assert system.kind != "trial" or (trials.Trial(**system.trial) == trials.Trial()) == (system.name == "v7")


def test_each_step_sees_the_next_layer() -> None:
    sizes = {"pooled_size": 12, "latent_size": 16, "num_outer_steps": 3}
    head, plain = (
        LiminalForPADRegression(LiminalConfig(head=name, **sizes)).eval() for name in ("v7_layer_per_step", "v7")
    )
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (head, plain)]
    assert shapes[0] == shapes[1]
    states = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = head(pooled_embeds=states, num_outer_steps=5).pad_trajectory
        for layer in range(3):
            other = states.clone()
            other[:, 4 * layer : 4 * layer + 4] += 1
            moved = (head(pooled_embeds=other, num_outer_steps=5).pad_trajectory - before).abs().amax(dim=(0, 2))
            assert not moved[:layer].any() and (moved[layer:] > 0).all(), (layer, moved)
    with pytest.raises(ValueError, match="set num_outer_steps"):
        LiminalForPADRegression(LiminalConfig(head="v7_layer_per_step", pooled_size=13))(
            pooled_embeds=torch.ones(1, 13)
        )
