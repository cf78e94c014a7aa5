"""torch.compile without a graph break and torch.export with a free batch and length, memory in and out."""

import pytest
import torch
from conftest import VOCABULARY, tiny_model
from torch import nn

from liminal_hf import ConversationMemory, LiminalForPADRegression
from liminal_hf.modeling.memory import MEMORY_FIELDS

TOLERANCE = {"atol": 1e-5, "rtol": 0}


def batch(rows: int, length: int) -> dict[str, torch.Tensor]:
    """Tokens with padding on the left in one row and on the right in another."""
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    mask[-1, -3:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def some_memory(model: LiminalForPADRegression, rows: int) -> ConversationMemory:
    """The memory after one turn, of another text than the one that is tested."""
    return model(**batch(rows, 5), memory=model.initial_memory(rows)).memory


# The default backend writes and compiles C++, most of a minute for one graph; "aot_eager" takes the same one graph and
# runs it as it is.
@torch.no_grad()
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("head", "backend"),
    [
        ("v7", "aot_eager"),
        *(pytest.param(*case, marks=pytest.mark.nightly) for case in (("v6", "aot_eager"), ("v7", "inductor"))),
    ],
)
def test_compiles_as_one_graph(head: str, backend: str) -> None:
    torch._dynamo.reset()
    model = tiny_model("bert", head=head, num_outer_steps=1, num_inner_steps=1)
    # Every layer, and every step, is the same code, traced or compiled once more; two steps are compiled below.
    del model.liminal.encoder.encoder.layer[1:]
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    for rows, length in [(3, 9), (4, 12)]:
        inputs = batch(rows, length)
        memory = some_memory(model, rows)
        eager, fast = model(**inputs, memory=memory), compiled(**inputs, memory=memory)
        torch.testing.assert_close(fast.logits, eager.logits, **TOLERANCE)
        torch.testing.assert_close(dict(fast.memory), dict(eager.memory), **TOLERANCE)
        assert fast.keys() == eager.keys()
        # What was remembered matters, so that equality above means something.
        assert (eager.logits - model(**inputs).logits).abs().max() > 1e-4


@pytest.mark.nightly
@torch.no_grad()
def test_compiles_without_a_memory_and_with_every_layer() -> None:
    """Without a call before, at which transformers would put its hooks for hidden states on the encoder."""
    torch._dynamo.reset()
    model = tiny_model("bert", pooled_layers="all", token_attention=True, num_outer_steps=1)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows, length in [(3, 9), (4, 12)]:
        inputs = batch(rows, length)
        fast = compiled(**inputs).logits
        torch.testing.assert_close(fast, model(**inputs).logits, **TOLERANCE)


def test_the_training_step_compiles_as_one_graph() -> None:
    torch._dynamo.reset()
    model = tiny_model("bert", num_outer_steps=2)
    inputs = {**batch(3, 9), "labels": torch.linspace(-1, 1, 9).view(3, 3), "num_items_in_batch": torch.tensor(9)}
    model(**inputs).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], **TOLERANCE)


class Exportable(nn.Module):
    """Tensors in, tensors out, as a runtime outside of Python sees the model."""

    def __init__(self, model: LiminalForPADRegression) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        slots: torch.Tensor,
        count: torch.Tensor,
        turn: torch.Tensor,
        pad: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        memory = ConversationMemory(slots=slots, count=count, turn=turn, pad=pad)
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, memory=memory)
        return (output.logits, *output.memory.to_tuple())


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "head"), [("bert", "v7"), ("bert", "v6"), ("gpt2", "v7"), ("t5", "v7"), ("modernbert", "v6")]
)
def test_exports_with_a_free_batch_and_length(family: str, head: str) -> None:
    model = tiny_model(family, head=head, num_outer_steps=2, pooled_layers="mix")
    rows, length = torch.export.Dim("rows", min=2, max=64), torch.export.Dim("length", min=2, max=60)
    free = {name: {0: rows} for name in MEMORY_FIELDS}
    free.update({name: {0: rows, 1: length} for name in ("input_ids", "attention_mask")})
    example = {**batch(3, 9), **some_memory(model, 3)}
    program = torch.export.export(Exportable(model), (), example, dynamic_shapes=free).module()
    for number, size in [(3, 9), (2, 31), (7, 4)]:
        inputs = {**batch(number, size), **some_memory(model, number)}
        torch.testing.assert_close(program(**inputs), Exportable(model)(**inputs), **TOLERANCE)


@torch.no_grad()
def test_a_trace_answers_as_the_model_does() -> None:
    """torch.jit.trace takes tuples of tensors alone; the logits come first."""
    model = tiny_model("bert", num_outer_steps=2)
    ids, mask = batch(2, 7).values()
    traced = torch.jit.trace(model, (ids, mask))
    for rows, length in [(2, 7), (3, 11)]:
        inputs = batch(rows, length)
        torch.testing.assert_close(traced(*inputs.values())[0], model(**inputs).logits, **TOLERANCE)
