"""Every head: depth, memory, what it reads and refuses, and hooks that bring its weights one module at a time."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from conftest import padded, tiny_model, tokens

from liminal_hf import HEADS, Head, HeadInput, HeadOutput, LiminalConfig, LiminalForPADRegression
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.modeling.heads import heads_that_read
from liminal_hf.modeling.memory import ConversationMemory

# The package's own; a test of a script may have registered another one.
OURS = sorted(name for name, head in HEADS.items() if head.__module__.startswith("liminal_hf."))
RECURSIVE = [name for name in OURS if name not in ("linear", "mlp")]


def bare(head: str, **fields: Any) -> LiminalForPADRegression:
    """A model with no encoder; nothing in its head is zero."""
    torch.manual_seed(0)
    model = LiminalForPADRegression(LiminalConfig(pooled_size=8, latent_size=16, head=head, **fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("head", OURS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_every_head_at_every_depth(head: str, steps: int, tmp_path: Path) -> None:
    if head == "v8" and steps != 2:
        pytest.skip("v8 has as many steps as it reads layers: tests/test_depth.py")
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
    assert (output.reflection is None) == (head not in ("v4", "v7", "v8"))
    assert (output.memory is None) == (head not in ("v6", "v7"))
    assert (output.uncertainty is None) == (head not in ("v7", "v8"))
    # What only the base model gives does not travel with the prediction.
    assert output.latent is None and (model.liminal(**batch).latent is None) == plain
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
    with pytest.raises(LiminalError, match="num_outer_steps must be at least 1"):
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
    with pytest.raises(LiminalError, match=re.escape("memory.slots must have shape (4, 8, 16)")):
        model(**padded(tokens(), "right", 9, 0), memory=model.initial_memory(3))
    with pytest.raises(LiminalError, match="one boolean per row"):
        model.initial_memory(3).reset(torch.tensor([1, 0, 1]))


def test_memory_can_be_saved_as_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tiny_model("bert")
    with torch.no_grad():
        memory = model(**padded(tokens(), "right", 9, 0), memory=model.initial_memory(4)).memory
    save_file(dict(memory), tmp_path / "memory.safetensors")
    again = ConversationMemory(**load_file(tmp_path / "memory.safetensors"))
    assert all(torch.equal(again[name], memory[name]) for name in memory)


@torch.no_grad()
def test_affect_moves_the_answer_and_is_per_row() -> None:
    model = tiny_model("bert")
    batch = padded(tokens(), "right", 9, 0)
    affect = torch.tensor([[0.9, -0.9, 0.5]]).repeat(4, 1)
    given = model(**batch, affect=affect).logits
    assert (given - model(**batch).logits).abs().amax(1).min() > 1e-6
    affect[0] = 0
    torch.testing.assert_close(model(**batch, affect=affect).logits[1:], given[1:], atol=1e-6, rtol=0)
    with pytest.raises(LiminalError, match=re.escape("affect must have shape (4, 3)")):
        model(**batch, affect=affect[:2])


@pytest.mark.parametrize(
    ("fields", "inputs", "heads"),
    [
        ({"head": "linear"}, {"affect": torch.ones(2, 3)}, "v1, v2, v3, v4, v6, v7"),
        ({"head": "linear"}, {"num_outer_steps": 9}, "v1, v2, v3, v4, v6, v7, v8"),
        ({"head": "mlp"}, {"num_inner_steps": 2}, "v1, v2, v3, v4, v6, v7"),
        ({"head": "mlp"}, {"initial_answer": torch.ones(2, 16)}, "v1, v2, v3, v4, v6, v7"),
        ({"head": "v7", "self_affect": False}, {"affect": torch.ones(2, 3)}, "v1, v2, v3, v4, v6, v7"),
        ({"head": "v4"}, {"memory": ConversationMemory.empty(2, 8, 16)}, "v6, v7"),
        ({"head": "v7", "soul_kernel": False}, {"memory": ConversationMemory.empty(2, 8, 16)}, "v6, v7"),
    ],
)
def test_what_a_head_would_ignore_is_refused(fields: dict[str, Any], inputs: dict[str, Any], heads: str) -> None:
    name = next(iter(inputs))
    model = bare(**fields)
    # Other tests of the same process may have registered heads of their own.
    listed = heads.replace(", ", r", (?:\w+, )*") + r"(?:, \w+)*"
    with pytest.raises(LiminalError, match=rf"does not use {name}\..*take a head that does: (?:\w+, )*{listed}\."):
        model(pooled_embeds=torch.rand(2, 8), **inputs)
    model(pooled_embeds=torch.rand(2, 8), **dict.fromkeys(inputs))


def test_a_head_without_a_memory_carries_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [head for head in heads_that_read("memory") if head in OURS] == ["v6", "v7"]

    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("a memory was made")

    monkeypatch.setattr(ConversationMemory, "empty", refuse)
    for fields in ({"head": "v1"}, {"head": "v4"}, {"head": "linear"}, {"head": "v7", "soul_kernel": False}):
        model = bare(**fields)
        assert not model.base.head.has_memory and model(pooled_embeds=torch.rand(2, 8)).memory is None
        with pytest.raises(LiminalError, match=r"has no memory. Heads with one: .*v6, .*v7"):
            model.initial_memory()


@pytest.mark.parametrize("head", OURS)
@torch.no_grad()
def test_hooks_can_bring_the_weights_of_one_module_at_a_time(head: str) -> None:
    """As `cpu_offload`, FSDP and ZeRO-3 do: a weight that is used beside its module's forward is not there."""
    model = bare(head, linear_skip=True)
    states = torch.rand(2, 8)
    memory = model.initial_memory(2) if model.base.head.has_memory else None
    first = model(pooled_embeds=states, memory=memory)
    expected = model(pooled_embeds=states, memory=first.memory).logits
    cpu_offload(model, torch.device("cpu"))
    assert all(parameter.device.type == "meta" for parameter in model.base.head.parameters())
    memory = model.initial_memory(2) if model.base.head.has_memory else None
    first = model(pooled_embeds=states, memory=memory)
    assert torch.equal(model(pooled_embeds=states, memory=first.memory).logits, expected)


@torch.no_grad()
def test_a_head_from_elsewhere_needs_no_weights_and_no_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(Head):
        """It reads three of the states, and what the caller gives."""

        def forward(self, inputs: HeadInput) -> HeadOutput:
            base = inputs.pooled[:, :3] if inputs.affect is None else inputs.pooled[:, :3] + inputs.affect
            return HeadOutput(base[:, None])

    monkeypatch.setitem(HEADS, "plain", Plain)
    model, states = LiminalForPADRegression(LiminalConfig(pooled_size=8, head="plain")), torch.rand(2, 8)
    assert torch.equal(model(pooled_embeds=states).logits, states[:, :3])
    assert torch.equal(model(pooled_embeds=states, affect=torch.ones(2, 3)).logits, states[:, :3] + 1)
    with_encoder = tiny_model("bert", head="plain")
    assert with_encoder(**padded(tokens(), "left", 9, 0), labels=torch.rand(4, 3)).loss.isfinite()
    two = LiminalForPADRegression(LiminalConfig(pooled_size=8, head="plain", targets=["valence", "arousal"]))
    with pytest.raises(LiminalError, match=r"gives 3 targets and the config names 2 \(valence, arousal\)"):
        two(pooled_embeds=states)


def test_token_attention_needs_tokens() -> None:
    with pytest.raises(LiminalError, match="token_attention=True needs an encoder"):
        bare("v7", token_attention=True)
    with pytest.raises(LiminalError, match="pooled_embeds alone are not enough"):
        tiny_model("bert", token_attention=True)(pooled_embeds=torch.rand(2, 32))
    with pytest.raises(LiminalError, match="project_pooled=False needs latent_size"):
        bare("v1", project_pooled=False)
