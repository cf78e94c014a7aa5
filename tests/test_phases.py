"""Phases: what one keeps of its change, and which scale its states have."""

from pathlib import Path

import pytest
import torch
from training_kit import phase, small_recipe, texts_and_labels

from liminal_hf.modeling.encoders import load_encoder
from liminal_hf.training.fit import fit

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
