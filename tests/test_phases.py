"""Phases: what one keeps of its change, and which scale its states have."""

from pathlib import Path
from typing import Any

import pytest
import torch
from training_kit import phase, small_recipe, texts_and_labels

from liminal_hf import LiminalForPADRegression
from liminal_hf.export.checkpoint import open_checkpoint
from liminal_hf.modeling.encoders import load_encoder
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.training.fit import fit
from liminal_hf.training.recipe import RecipeError
from liminal_hf.training.trainer import LiminalTrainer

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_tied_weight_keeps_the_same_share_as_any_other(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, "t5", phases=[phase("one", trainable="all", epochs=1, ema_decay=None)])
    start = load_encoder(recipe.model["encoder"]).state_dict()
    whole, half = (
        fit(recipe.override({"phases.0.keep": keep}), tmp_path / f"keep-{keep}").model.liminal.encoder.state_dict()
        for keep in (1.0, 0.5)
    )
    tied = [name for name in start if start[name].data_ptr() == start["shared.weight"].data_ptr()]
    assert len(tied) == 2
    for name, value in start.items():
        torch.testing.assert_close(half[name] - value, 0.5 * (whole[name] - value), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("change", [{"pooling": "max"}, {"pooled_layers": "last"}])
def test_states_that_are_pooled_otherwise_are_scaled_anew(tmp_path: Path, cache: bool, change: dict[str, str]) -> None:
    settings = {"trainable": "head", "cache": cache, "epochs": 1}
    recipe = small_recipe(tmp_path, phases=[phase("a", **settings), phase("b", **settings, model=change)])
    result = fit(recipe, tmp_path / "run")
    texts = [text for text, _ in texts_and_labels(48, 0)]
    batch = result.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = result.model.liminal.pool(**batch) * result.model.config.pooled_scale
    assert float(states.square().mean().sqrt()) == pytest.approx(1, abs=1e-3)


def test_exits_are_learned_from_texts_too_that_the_encoder_has_not_seen(tmp_path: Path) -> None:
    rows: dict[str, set[str]] = {}

    class Watching(LiminalTrainer):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            name = Path(str(self.args.output_dir)).parent.name
            ids = "input_ids" if "input_ids" in self.train_dataset.column_names else "pooled_embeds"
            rows[name] = {str(row) for row in self.train_dataset.with_format(None)[ids][:]}
            return super().train(*args, **kwargs)

    phases = [
        phase("encoder", trainable="all", epochs=1),
        phase("exit", trainable="exit", hold_out=0.3, epochs=4, model={"exit_threshold": 0.01}),
    ]
    recipe = small_recipe(tmp_path, model__head="v8", model__num_outer_steps=None, phases=phases)
    assert "hold_out" not in recipe.to_dict()["phases"][0] and recipe.to_dict()["phases"][1]["hold_out"] == 0.3
    one = fit(recipe.override({"phases.1.training.learning_rate": 0.0}), tmp_path / "one", trainer=Watching)
    seen, all_texts = rows["01-encoder"], rows["02-exit"]
    assert seen < all_texts and len(all_texts) == 48 and 5 < len(all_texts - seen) < 25
    other = fit(recipe, tmp_path / "other", trainer=Watching)
    assert other.model.config.exit_threshold == 0.01 and other.model.config.num_outer_steps == 2
    batch = one.tokenizer([text for text, _ in texts_and_labels(8, 3)], padding=True, return_tensors="pt")
    with torch.no_grad():
        for result in (one, other):
            result.model.config.exit_threshold = None
        before, after = one.model(**batch), other.model(**batch)
    assert torch.equal(before.pad_trajectory, after.pad_trajectory)
    assert not torch.equal(before.gains, after.gains)


def test_exits_need_a_head_that_has_them(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, phases=[phase("exit", trainable="exit")])
    with pytest.raises(LiminalError, match=r"this head is 'v7'. Take `head: v8`"):
        fit(recipe, tmp_path / "run")
    with pytest.raises(RecipeError, match="hold_out goes with `trainable: exit`"):
        small_recipe(tmp_path, phases=[phase("a", trainable="head", hold_out=0.2)])


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_frozen_layers_stay_and_those_above_learn(tmp_path: Path, family: str) -> None:
    recipe = small_recipe(tmp_path, family, phases=[phase("one", trainable="all", epochs=1, frozen_layers=1)])
    assert recipe.to_dict()["phases"][0]["frozen_layers"] == 1
    start = load_encoder(recipe.model["encoder"]).state_dict()
    trained = fit(recipe, tmp_path / "run").model.liminal.encoder.state_dict()
    changed = {name for name, value in start.items() if not torch.equal(trained[name], value)}
    assert changed and not any("embed" in name or ".0." in name or "wte" in name for name in changed)
    assert any(".1." in name for name in changed)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_change_of_low_rank_fits_into_a_head_only_checkpoint(tmp_path: Path, family: str) -> None:
    cut = phase("one", trainable="all", epochs=1, frozen_layers=1, encoder_rank=2)
    recipe = small_recipe(tmp_path, family, phases=[cut])
    assert recipe.to_dict()["phases"][0]["encoder_rank"] == 2
    start = load_encoder(recipe.model["encoder"]).state_dict()
    result = fit(recipe, tmp_path / "run")
    changes = {name: result.model.liminal.encoder.state_dict()[name] - value for name, value in start.items()}
    ranks = {int(torch.linalg.matrix_rank(change, atol=1e-6)) for change in changes.values() if change.dim() == 2}
    assert ranks == {0, 2}, "frozen, and cut"
    assert any(change.any() for change in changes.values() if change.dim() == 1), "norms and biases learn, too"
    source = open_checkpoint(tmp_path / "run")
    source.model.save_head_only(tmp_path / "small", low_rank=source.low_rank)
    again = LiminalForPADRegression.from_pretrained(tmp_path / "small")
    for name, value in source.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    # Without the pairs it is not said what has changed.
    with pytest.raises(LiminalError, match="would lose its training"):
        source.model.save_head_only(tmp_path / "lost")
    with pytest.raises(RecipeError, match="encoder_rank goes with `trainable: all` and one seed"):
        small_recipe(tmp_path, family, phases=[phase("one", trainable="head", encoder_rank=2)])


def test_frozen_layers_are_fewer_than_all(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, phases=[phase("one", trainable="all", frozen_layers=2)])
    with pytest.raises(LiminalError, match="this encoder has 2 layers; give at most 1"):
        fit(recipe, tmp_path / "run")
    with pytest.raises(RecipeError, match="frozen_layers goes with `trainable: all`"):
        small_recipe(tmp_path, phases=[phase("a", trainable="head", frozen_layers=1)])
