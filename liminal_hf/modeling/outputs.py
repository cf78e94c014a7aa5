"""What the models give: named tensors.

Requires torch and transformers.
"""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput

from .heads import HeadOutput
from .persons import PersonMemory


@dataclass
class LiminalModelOutput(HeadOutput):
    """Output of `LiminalModel`: the fields of `HeadOutput`, and what the encoder gave.

    Args:
        in_domain (`torch.FloatTensor` of shape `(batch,)`): how likely the text is one like the training texts, 0..1;
            with `domain_gauge` in the config.
        last_hidden_state (`torch.FloatTensor` of shape `(batch, length, hidden)`): the encoder's last layer.
        hidden_states, attentions (`tuple[torch.FloatTensor]`): the encoder's, when asked for.
    """

    in_domain: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class _Prediction(ModelOutput):
    loss: Tensor | None = None
    logits: Tensor | None = None


# Fields of the last base come first: callers of transformers expect the loss and the logits there.
@dataclass
class LiminalPADOutput(LiminalModelOutput, _Prediction):
    """Output of `LiminalForPADRegression`.

    It has the fields of `LiminalModelOutput`, of which `answer`, `latent`, `log_variance` and `last_hidden_state` stay
    None.

    Args:
        loss (`torch.FloatTensor` of shape `()`): when labels were given.
        logits (`torch.FloatTensor` of shape `(batch, T)`): the targets in label units, not clamped.
        uncertainty (`torch.FloatTensor` of shape `(batch, T)`): standard deviation of `logits`, in label units; with
            `in_domain` it grows outside the domain, see `domain.widened`.
        adjusted, adjusted_uncertainty (`torch.FloatTensor` of shape `(batch, T)`): both for the person, with `person`.
        person (`PersonMemory` of `batch` rows): the state after this turn; what the person says of it goes to its
            `rate(logits, rating)`.
    """

    uncertainty: Tensor | None = None
    adjusted: Tensor | None = None
    adjusted_uncertainty: Tensor | None = None
    person: PersonMemory | None = None
