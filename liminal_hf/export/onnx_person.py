"""A turn of `PersonMemory` as an ONNX graph beside a model's: its answer for the person, and the person's state after.

Requires the extra `onnx` (onnxruntime, onnxscript) and torch >= 2.11. Nothing in it is learned but the model's prior.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..io import atomic_write
from ..modeling.configuration_liminal import LiminalConfig
from ..modeling.errors import LiminalError
from ..modeling.person_prior import PersonPrior
from ..modeling.persons import PERSON_FIELDS, PersonMemory
from .onnx import _quiet, _strip_traces
from .onnx_stages import INSTALL

PERSON_FILE = "person.onnx"


class PersonTurn(nn.Module):
    """One turn of each person: the state goes in and comes back, the answer is adjusted by the ratings before.

    A turn that can't be, of a time before the last one or of an answer that is NaN, gets the answer NaN and leaves the
    person as they were: a graph raises no error.

    Args:
        prior: what is known of persons.

    Example:
        >>> turn = PersonTurn(PersonPrior.guess(spread=[0.3], residual=[0.2]))
        >>> state = list(PersonMemory.empty(1, num_targets=1).to_tuple())
        >>> answer, rating = torch.tensor([[0.1]]), torch.tensor([[0.5]])
        >>> adjusted, doubt, *state = turn(answer, answer, rating, torch.ones(1).double(), state)
        >>> adjusted, doubt, *state = turn(answer, answer, rating, torch.ones(1).double() * 2, state)
        >>> round(adjusted.item(), 2)  # after one rating of .4 more, and k = 4
        0.18
    """

    def __init__(self, prior: PersonPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(
        self, logits: Tensor, uncertainty: Tensor, rating: Tensor, time: Tensor, person: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """The adjusted answer and uncertainty, `(batch, T)`, and the fields of the state after the turn.

        Args:
            logits, uncertainty: `(batch, T)`, the model's.
            rating: `(batch, T)`, what the person says of this turn; NaN where they say nothing.
            time: `(batch,)`, float64.
            person: the fields of a `PersonMemory`, in their order.
        """
        before = PersonMemory(*person)
        wrong = (before.turn > 0) & (time < before.time) | ~torch.isfinite(time)
        logits = torch.where(wrong[:, None] | torch.isinf(logits), torch.nan, logits)
        rating = torch.where(torch.isnan(logits) | torch.isinf(rating), torch.nan, rating)
        adjusted, doubt = before.adjust(logits, self.prior, uncertainty)
        return (adjusted, doubt, *before.observe(logits, rating, time).to_tuple())  # type: ignore[return-value]


def export_person(folder: str | os.PathLike) -> Path:
    """Writes person.onnx into a model's folder, such as one of `export_onnx`.

    Inputs are `logits`, `uncertainty`, `rating`, `time` and the fields of a `PersonMemory` (`person.turn`, ...), see
    `PersonTurn`; a head without uncertainty gives none to put in, and zeros do. Outputs are `adjusted`,
    `adjusted_uncertainty` and the fields of the state after the turn (`new_person.turn`, ...). It is compared with
    torch before it is written.

    Args:
        folder: holds the config; the prior in it, else the guess, becomes part of the graph.

    Returns:
        The file's path.

    Raises:
        LiminalError: the graph does not give what torch gives; nothing is written.
        ImportError: the extra is not installed; the message has the line to type.

    Example:
        >>> from liminal_hf import DEFAULT_CHECKPOINT, LiminalConfig
        >>> LiminalConfig.from_pretrained(DEFAULT_CHECKPOINT).save_pretrained("mine")
        >>> export_person("mine").name
        'person.onnx'
    """
    try:
        import onnxruntime  # noqa: F401  (the comparison needs it)
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{INSTALL} ({error})") from error
    config = LiminalConfig.from_pretrained(folder)
    turn = PersonTurn(PersonPrior.of_model(config)).eval()
    batch = torch.export.Dim("batch")
    names = [*("logits", "uncertainty", "rating", "time"), *(f"person.{name}" for name in PERSON_FIELDS)]
    with _quiet():
        program: Any = torch.onnx.export(
            turn,
            _inputs(2, config.num_labels),
            dynamo=True,
            verbose=False,
            input_names=names,
            output_names=["adjusted", "adjusted_uncertainty", *(f"new_person.{name}" for name in PERSON_FIELDS)],
            dynamic_shapes=[*[{0: batch}] * 4, [{0: batch}] * len(PERSON_FIELDS)],
        )
    _strip_traces(program.model)
    content = program.model_proto.SerializeToString()
    _compare(turn, content, names, config.num_labels)
    path = Path(folder) / PERSON_FILE
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return path


def _inputs(rows: int, targets: int) -> tuple[Any, ...]:
    """Inputs of persons with a turn behind them: some rated, one row without a rating now."""
    generator = torch.Generator().manual_seed(rows)
    first, second, rating = (torch.rand(rows, targets, generator=generator) for _ in range(3))
    rating[0] = torch.nan
    state = PersonMemory.empty(rows, targets).observe(first, rating.flip(0), 1.0)
    time = torch.arange(rows, dtype=torch.float64)  # the first one goes backwards
    return second, first, rating, time, list(state.to_tuple())


def _compare(turn: PersonTurn, content: bytes, names: list[str], targets: int) -> None:
    """Runs both on another number of persons."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    *tensors, state = _inputs(5, targets)
    arrays = {name: value.numpy() for name, value in zip(names, [*tensors, *state], strict=True)}
    expected = turn(*tensors, state)
    for output, value, reference in zip(session.get_outputs(), session.run(None, arrays), expected, strict=True):
        if not np.allclose(value, reference.numpy(), rtol=1e-5, atol=1e-6, equal_nan=True):
            raise LiminalError(
                f"{PERSON_FILE} was not written: its {output.name} differs from torch. Another version of torch or "
                "onnxscript may do."
            )
