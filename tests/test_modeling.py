"""Every encoder family with our model on it: padding, batches, saving, labels, memory."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, MINILM, VOCABULARY, tiny_config, tiny_model
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from liminal_hf import HEADS, LiminalConfig, LiminalForPADRegression, LiminalModel
from liminal_hf.modeling.memory import ConversationMemory

LENGTHS = (3, 9, 1, 6)


def tokens(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in LENGTHS]


def padded(rows: list[torch.Tensor], side: str, length: int, filler: int) -> dict[str, torch.Tensor]:
    ids = torch.full((len(rows), length), filler)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
        ids[index, place], mask[index, place] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", ["last", "mix", "all"])
@torch.no_grad()
def test_a_row_does_not_depend_on_its_neighbours(family: str, layers: str) -> None:
    model = tiny_model(family, pooled_layers=layers, token_attention=layers == "mix")
    rows = tokens()
    alone = torch.cat([model(input_ids=row[None], attention_mask=torch.ones_like(row[None])).logits for row in rows])
    assert alone.std(0).min() > 1e-4  # rows differ, so that equality below means something
    for side, length, filler in [("right", 9, 0), ("left", 9, 0), ("left", 14, 5), ("right", 20, 7)]:
        batch = padded(rows, side, length, filler)
        torch.testing.assert_close(model(**batch).logits, alone, atol=1e-5, rtol=0)
        order = torch.tensor([2, 0, 3, 1])
        shuffled = model(**{name: value[order] for name, value in batch.items()}).logits
        torch.testing.assert_close(shuffled, alone[order], atol=1e-5, rtol=0)
    torch.testing.assert_close(model(**batch).logits, model(**batch).logits, atol=0, rtol=0)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "last_token", "attention"])
@torch.no_grad()
def test_every_pooler_ignores_padding(family: str, pooling: str) -> None:
    model = tiny_model(family, pooling=pooling, pooled_layers="all")
    rows = tokens()
    left, right = (model(**padded(rows, side, 12, 0)).logits for side in ("left", "right"))
    torch.testing.assert_close(left, right, atol=1e-5, rtol=0)


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


# The package's own; the tests of a script may have registered another one.
@pytest.mark.parametrize(
    "head", sorted(name for name, head in HEADS.items() if head.__module__.startswith("liminal_hf."))
)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_every_head_at_every_depth(head: str, steps: int, tmp_path: Path) -> None:
    model = tiny_model("bert", head=head, num_outer_steps=steps)
    batch = padded(tokens(), "right", 9, 0)
    output = model(**batch, labels=torch.rand(4, 3))
    plain = head in ("linear", "mlp")
    assert output.logits.shape == (4, 3)
    assert output.pad_trajectory.shape == (4, 1 if plain else steps, 3)
    assert torch.equal(output.pad_trajectory[:, -1], output.logits)
    assert (output.confidences is None) == plain
    assert (output.step_attentions is None) == (plain or head == "v1")
    if output.step_attentions is not None:
        torch.testing.assert_close(output.step_attentions.sum(-1), torch.ones(4, steps))
        assert torch.equal(output.step_attentions, output.step_attentions.tril())
    assert (output.reflection is None) == (head not in ("v4", "v7"))
    assert (output.memory is None) == (head not in ("v6", "v7"))
    assert (output.uncertainty is None) == (head != "v7")
    output.loss.backward()
    model.save_pretrained(tmp_path)
    assert torch.equal(LiminalForPADRegression.from_pretrained(tmp_path)(**batch).logits, output.logits)


@torch.no_grad()
def test_steps_can_be_overridden_per_call() -> None:
    model = tiny_model("bert", num_outer_steps=5)
    batch = padded(tokens(), "right", 9, 0)
    full = model(**batch).pad_trajectory
    short = model(**batch, num_outer_steps=2).pad_trajectory
    torch.testing.assert_close(short, full[:, :2], atol=1e-6, rtol=0)
    assert not torch.allclose(model(**batch, num_inner_steps=3).logits, full[:, -1])
    with pytest.raises(ValueError, match="num_outer_steps must be at least 1"):
        model(**batch, num_outer_steps=0)


# (parameters of the published heads at d = 128, and what we add to them: the projection and, in v1 and v2, a readout)
PUBLISHED = {"v1": 232_449, "v2": 298_497, "v3": 306_948, "v4": 317_540, "v6": 306_948}


@pytest.mark.parametrize("head", sorted(PUBLISHED))
def test_parameter_counts_are_the_published_ones(head: str) -> None:
    built = HEADS[head](LiminalConfig(pooled_size=384, head=head, latent_size=128), 384)
    sizes = {name: parameter.numel() for name, parameter in built.named_parameters()}
    ours = sum(size for name, size in sizes.items() if name.startswith(("projection.", "readout.")))
    assert sum(sizes.values()) - ours == PUBLISHED[head]
    assert sum(size for name, size in sizes.items() if name.startswith("projection.")) == 49_280


@torch.no_grad()
@pytest.mark.parametrize("head", ["v6", "v7"])
def test_memory_goes_in_and_comes_back(head: str) -> None:
    model = tiny_model("bert", head=head)
    batch = padded(tokens(), "right", 9, 0)
    before = copy.deepcopy(model.state_dict())
    first = model(**batch, memory=model.initial_memory(4))
    stateless = model(**batch)
    torch.testing.assert_close(first.logits, stateless.logits, atol=0, rtol=0)
    second = model(**batch, memory=first.memory)
    assert (second.logits - first.logits).abs().amax(1).min() > 1e-6
    assert torch.equal(model(**batch).logits, stateless.logits)
    assert second.memory.turn.tolist() == [2] * 4
    assert torch.equal(second.memory.pad, second.logits)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # A row alone with its own memory, and a row whose memory was reset.
    row = {name: value[1:2] for name, value in batch.items()}
    alone = model(**row, memory=first.memory.rows(torch.tensor([1])))
    torch.testing.assert_close(alone.logits, second.logits[1:2], atol=1e-6, rtol=0)
    fresh = model(**batch, memory=first.memory.reset(torch.tensor([False, True, False, False])))
    torch.testing.assert_close(fresh.logits[1], first.logits[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(fresh.logits[0], second.logits[0], atol=1e-6, rtol=0)


@torch.no_grad()
def test_memory_keeps_its_size() -> None:
    model = tiny_model("bert", head="v6", memory_slots=7)
    memory = model.initial_memory(1)
    row = {"input_ids": torch.tensor([[4, 5]]), "attention_mask": torch.ones(1, 2, dtype=torch.long)}
    for turn in range(1, 4):
        memory = model(**row, memory=memory).memory
        assert memory.slots.shape == (1, 7, 16) and memory.count.item() == min(7, 5 * turn)


def test_memory_of_a_wrong_shape_is_named() -> None:
    model = tiny_model("bert")
    with pytest.raises(ValueError, match=re.escape("memory.slots must have shape (4, 8, 16)")):
        model(**padded(tokens(), "right", 9, 0), memory=model.initial_memory(3))
    with pytest.raises(ValueError, match="one boolean per row"):
        model.initial_memory(3).reset(torch.tensor([1, 0, 1]))
    with pytest.raises(ValueError, match="has no memory"):
        tiny_model("bert", head="v4").initial_memory()


@torch.no_grad()
def test_affect_moves_the_answer_and_is_per_row() -> None:
    model = tiny_model("bert")
    batch = padded(tokens(), "right", 9, 0)
    affect = torch.tensor([[0.9, -0.9, 0.5]]).repeat(4, 1)
    given = model(**batch, affect=affect).logits
    assert (given - model(**batch).logits).abs().amax(1).min() > 1e-6
    affect[0] = 0
    torch.testing.assert_close(model(**batch, affect=affect).logits[1:], given[1:], atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=re.escape("affect must have shape (4, 3)")):
        model(**batch, affect=affect[:2])


def test_item_wise_loss_is_the_same_in_parts() -> None:
    for name in ("mse", "huber", "gaussian_nll"):
        model = tiny_model("bert", loss=name, head_dropout=0.0)
        model.liminal.encoder.eval()
        batch = padded(tokens(), "right", 9, 0)
        labels = torch.rand(4, 3)
        labels[0, 1] = labels[2, 0] = -100
        number = labels.ne(-100).sum()
        model(**batch, labels=labels, num_items_in_batch=number).loss.backward()
        whole = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        for part in (slice(0, 1), slice(1, 4)):
            some = {n: value[part] for n, value in batch.items()}
            model(**some, labels=labels[part], num_items_in_batch=number).loss.backward()
        for n, parameter in model.named_parameters():
            if n in whole:
                torch.testing.assert_close(parameter.grad, whole[n], atol=1e-6, rtol=1e-5)


def test_a_missing_label_has_no_influence() -> None:
    model = tiny_model("bert", head_dropout=0.0)
    batch = padded(tokens(), "right", 9, 0)
    labels = torch.rand(4, 3)
    labels[1] = -100
    rest = torch.tensor([0, 2, 3])
    whole = model(**batch, labels=labels).loss
    part = model(**{n: v[rest] for n, v in batch.items()}, labels=labels[rest]).loss
    torch.testing.assert_close(whole, part)
    labels[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        model(**batch, labels=labels)


def test_bad_input_is_named() -> None:
    model = tiny_model("bert")
    ids = torch.full((2, 4), 5)
    with pytest.raises(ValueError, match="Row 1 has no token"):
        model(input_ids=ids, attention_mask=torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]))
    with pytest.raises(ValueError, match="exactly one of"):
        model()
    with pytest.raises(ValueError, match="exactly one of"):
        model(input_ids=ids, pooled_embeds=torch.rand(2, 32))
    with pytest.raises(ValueError, match="attention_mask must have the shape"):
        model(input_ids=ids, attention_mask=torch.ones(2, 5))
    with pytest.raises(ValueError, match="there is no attention_mask"):
        model(input_ids=torch.tensor([[5, 6, 0, 0]]))
    with pytest.raises(ValueError, match="takes at most 64"):
        model(input_ids=torch.full((1, 65), 5))
    with pytest.raises(ValueError, match=re.escape("pooled_embeds must have shape (batch, 32)")):
        model(pooled_embeds=torch.rand(2, 31))
    with pytest.raises(ValueError, match=re.escape("labels must have shape (2, 3)")):
        model(input_ids=ids, labels=torch.rand(2, 2))


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
rows = pipeline("text-classification", model=folder, trust_remote_code=True, top_k=None)("a b")
rows = rows[0] if isinstance(rows[0], list) else rows
assert abs({r["label"]: r["score"] for r in rows}["pleasure"] - row["pleasure"]) < 1e-6
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
    stock = pipeline("text-classification", model=str(tmp_path), top_k=None)("Go away!")
    stock = stock[0] if isinstance(stock[0], list) else stock
    assert {r["label"]: r["score"] for r in stock}["arousal"] == pytest.approx(row["arousal"], abs=1e-6)


def test_a_plain_encoder_is_not_taken_for_a_checkpoint(minilm: Path) -> None:
    with pytest.raises(ValueError, match=r"no LIMINAL checkpoint but a 'bert' model.*from_encoder_pretrained"):
        LiminalForPADRegression.from_pretrained(minilm)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"Unknown head 'v8'.*Known: linear, mlp, v1"):
        LiminalForPADRegression(LiminalConfig(pooled_size=8, head="v8"))
    with pytest.raises(KeyError, match="Did you mean 'mean'"):
        LiminalForPADRegression(LiminalConfig(text_config=tiny_config("bert"), pooling="meen"))
    with pytest.raises(KeyError, match=r"Unknown loss 'mae'"):
        LiminalForPADRegression(LiminalConfig(pooled_size=8, loss="mae"))


def test_memory_can_be_saved_as_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tiny_model("bert")
    with torch.no_grad():
        memory = model(**padded(tokens(), "right", 9, 0), memory=model.initial_memory(4)).memory
    save_file(dict(memory), tmp_path / "memory.safetensors")
    again = ConversationMemory(**load_file(tmp_path / "memory.safetensors"))
    assert all(torch.equal(again[name], memory[name]) for name in memory)
