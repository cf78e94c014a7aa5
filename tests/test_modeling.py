"""Every encoder family with our model on it: padding, batches, saving, labels, memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, MINILM, padded, tiny_config, tiny_model, tokens
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from liminal_hf import LiminalConfig, LiminalForPADRegression, LiminalModel


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_do_not_move_the_prediction(family: str) -> None:
    model = tiny_model(family)
    batch = padded(tokens(), "right", 9, 0)
    plain = model(**batch)
    assert plain.loss is None
    with_labels = model(**batch, labels=torch.rand(4, 3))
    torch.testing.assert_close(with_labels.logits, plain.logits, atol=0, rtol=0)
    assert with_labels.loss.isfinite()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_save_and_reload_is_bit_equal(family: str, tmp_path: Path) -> None:
    model = tiny_model(family, pooled_layers="mix")
    batch = padded(tokens(), "right", 9, 0)
    expected = model(**batch).logits
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 and not list(tmp_path.glob("*.bin"))
    for auto, read in [
        (AutoModelForSequenceClassification, lambda output: output.logits),
        (AutoModel, lambda output: output.pad_trajectory[:, -1]),
    ]:
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is {"AutoModel": LiminalModel}.get(auto.__name__, LiminalForPADRegression)
        assert torch.equal(read(loaded(**batch)), expected)
        # Elsewhere than where torch allocates, some processors sum in another order, and few tests would see it.
        assert not any(value.data_ptr() % 64 for value in loaded.parameters())
    assert str(tmp_path) not in (tmp_path / "config.json").read_text()


@torch.no_grad()
def test_pooled_states_can_be_given_instead_of_tokens(tmp_path: Path) -> None:
    model = tiny_model("bert", pooled_layers="all")
    batch = padded(tokens(), "left", 9, 0)
    pooled = model.liminal.pool(**batch)
    assert pooled.shape == (4, 96)
    torch.testing.assert_close(model(pooled_embeds=pooled).logits, model(**batch).logits, atol=1e-6, rtol=0)
    bare = LiminalForPADRegression(LiminalConfig(pooled_size=96, latent_size=16)).eval()
    bare.liminal.head.load_state_dict(model.liminal.head.state_dict())
    torch.testing.assert_close(bare(pooled_embeds=pooled).logits, model(**batch).logits, atol=1e-6, rtol=0)
    bare.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.text_config is None
    assert torch.equal(again(pooled_embeds=pooled).logits, bare(pooled_embeds=pooled).logits)
    with pytest.raises(ValueError, match="no encoder"):
        bare(**batch)


def test_a_frozen_encoder_stays_in_evaluation_mode() -> None:
    model = tiny_model("bert")
    model.freeze_encoder()
    model.train()
    assert model.liminal.head.training and not model.liminal.encoder.training
    assert not any(p.requires_grad for p in model.liminal.encoder.parameters())


@torch.no_grad()
def test_half_precision_encoder_under_a_full_precision_head(tmp_path: Path) -> None:
    tiny_model("bert").save_pretrained(tmp_path)
    model = LiminalForPADRegression.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.liminal.encoder.dtype == torch.bfloat16
    assert {p.dtype for p in model.liminal.head.parameters()} == {torch.float32}
    assert model(**padded(tokens(), "right", 9, 0)).logits.dtype == torch.float32


@torch.no_grad()
def test_head_only_checkpoint_on_the_real_encoder(minilm: Path, tmp_path: Path) -> None:
    model = LiminalForPADRegression.from_encoder_pretrained(MINILM, pooled_layers="all").eval()
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    batch = tokenizer(["Go away!", "What a lovely day it is."], padding=True, return_tensors="pt")
    expected = model(**batch).logits
    model.save_head_only(tmp_path / "head")
    assert (tmp_path / "head" / "model.safetensors").stat().st_size < 4e6
    for auto in (AutoModelForSequenceClassification, LiminalForPADRegression):
        assert torch.equal(auto.from_pretrained(tmp_path / "head")(**batch).logits, expected)
    loaded = AutoModel.from_pretrained(tmp_path / "head")
    assert torch.equal(loaded(**batch).pad_trajectory[:, -1], expected)
    # Saving it in the usual way writes all weights.
    loaded = LiminalForPADRegression.from_pretrained(tmp_path / "head")
    loaded.save_pretrained(tmp_path / "full")
    assert (tmp_path / "full" / "model.safetensors").stat().st_size > 80e6
    assert torch.equal(AutoModelForSequenceClassification.from_pretrained(tmp_path / "full")(**batch).logits, expected)


@torch.no_grad()
def test_low_rank_changes_travel_in_a_head_only_checkpoint(minilm: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LiminalForPADRegression.from_encoder_pretrained(MINILM).eval()
    name = "encoder.layer.3.attention.self.query.weight"
    a, b = torch.randn(4, 384) * 0.05, torch.randn(384, 4) * 0.05
    model.liminal.encoder.get_parameter(name).add_(b @ a)
    with pytest.raises(ValueError, match="would lose its training"):
        model.save_head_only(tmp_path)
    model.save_head_only(tmp_path, low_rank={name: (a, b)})
    batch = AutoTokenizer.from_pretrained(minilm)("Go away!", return_tensors="pt")
    assert torch.equal(LiminalForPADRegression.from_pretrained(tmp_path)(**batch).logits, model(**batch).logits)


def test_head_only_checkpoint_without_its_encoder_says_what_is_missing(minilm: Path, tmp_path: Path) -> None:
    model = LiminalForPADRegression.from_encoder_pretrained(MINILM)
    model.save_head_only(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace(MINILM, "nobody/nothing"))
    with pytest.raises(OSError, match=r"head-only checkpoint.*nobody/nothing.*not found"):
        LiminalForPADRegression.from_pretrained(tmp_path)


@torch.no_grad()
def test_the_encoder_keeps_its_pretrained_weights(minilm: Path) -> None:
    model = LiminalForPADRegression.from_encoder_pretrained(MINILM)
    original = AutoModel.from_pretrained(minilm, add_pooling_layer=False).state_dict()
    ours = model.liminal.encoder.state_dict()
    assert original.keys() == ours.keys() and all(torch.equal(ours[k], original[k]) for k in ours)


STRANGER = """
import sys
sys.modules["liminal_hf"] = None  # importing it would fail, as where it is not installed
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline
folder, expected = sys.argv[1], load_file(sys.argv[2])
batch = {"input_ids": expected["input_ids"], "attention_mask": expected["attention_mask"]}
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules"), type(model)
assert torch.equal(model(**batch).logits, expected["logits"])
base = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert torch.equal(base(**batch).pad_trajectory[:, -1], expected["logits"])
row = pipeline("pad-regression", model=folder, trust_remote_code=True)("a b")
assert set(row) >= {"pleasure", "octant", "uncertainty"}, row
rows = pipeline("text-classification", model=folder, trust_remote_code=True)("a b", labels="emotions", top_k=None)
assert all(abs(r["score"] - row["emotions"][r["label"]]) < 1e-6 for r in rows) and len(rows) == len(row["emotions"])
model.save_pretrained(folder + "-again")
again = AutoModelForSequenceClassification.from_pretrained(folder + "-again", trust_remote_code=True)
assert torch.equal(again(**batch).logits, expected["logits"])
print("a stranger sees the same")
"""


def test_the_folder_loads_without_the_package(minilm: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = tmp_path / "pushed"
    torch.manual_seed(0)
    model = LiminalForPADRegression.from_encoder_pretrained(MINILM, pooled_layers="all").eval()
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    batch = tokenizer(["Go away!", "What a lovely day it is."], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    wanted = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "logits": logits}
    save_file(wanted, tmp_path / "expected.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder), str(tmp_path / "expected.safetensors")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert "a stranger sees the same" in done.stdout, done.stderr[-3000:]


def test_both_pipelines_with_the_package(minilm: Path, tmp_path: Path) -> None:
    model = LiminalForPADRegression.from_encoder_pretrained(MINILM).eval()
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path)
    row = pipeline("pad-regression", model=str(tmp_path))("Go away!")
    words = pipeline("text-classification", model=str(tmp_path))("Go away!", labels="emotions", top_k=None)
    assert {r["label"]: r["score"] for r in words} == pytest.approx(row["emotions"], abs=1e-6)


def test_a_plain_encoder_is_not_taken_for_a_checkpoint(minilm: Path) -> None:
    with pytest.raises(ValueError, match=r"no LIMINAL checkpoint but a 'bert' model.*from_encoder_pretrained"):
        LiminalForPADRegression.from_pretrained(minilm)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"Unknown head 'v0'.*Known: .*linear, mlp, v1"):
        LiminalForPADRegression(LiminalConfig(pooled_size=8, head="v0"))
    with pytest.raises(KeyError, match="Did you mean 'mean'"):
        LiminalForPADRegression(LiminalConfig(text_config=tiny_config("bert"), pooling="meen"))
    with pytest.raises(KeyError, match=r"Unknown loss 'mae'"):
        LiminalForPADRegression(LiminalConfig(pooled_size=8, loss="mae"))
