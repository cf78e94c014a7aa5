"""How much a text is like the texts that a model was trained on, and what that does to its uncertainty.

Requires torch and transformers. A logistic regression on the pooled states tells the training texts from scrambled
copies of them; `training.domain` fits it. Its weights travel with the model as a row of numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import initialization as init


class DomainGauge(nn.Module):
    """The probability that a text is like the training texts, 0..1; a fresh one says 0.5 of any text.

    Args:
        pooled_size: width of the pooled states.

    Example:
        >>> DomainGauge(8)(torch.randn(2, 8)).tolist()
        [0.5, 0.5]
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, pooled_size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(pooled_size))
        self.register_buffer("bias", torch.zeros(1))

    def forward(self, pooled: Tensor) -> Tensor:
        """From pooled states `(batch, pooled_size)`, not scaled, to `(batch,)`."""
        return torch.sigmoid(pooled.to(self.weight.dtype) @ self.weight + self.bias)

    @torch.no_grad()
    def reset_own_parameters(self) -> None:
        """Back to 0.5 of any text."""
        init.zeros_(self.weight)  # leaves what was loaded, where `zero_` would not
        init.zeros_(self.bias)


def widened(uncertainty: Tensor, in_domain: Tensor, label_range: Sequence[float]) -> Tensor:
    """The uncertainty of texts that may lie outside the domain, where a label may be anything on its scale.

    Args:
        uncertainty: `(batch, T)`, standard deviations inside the domain, in label units.
        in_domain: `(batch,)`, 0..1.
        label_range: lowest and highest possible label.

    Returns:
        `(batch, T)`. Where `in_domain` is 0.5 or more it is the same; from there to 0 its square goes up to that of a
        uniform distribution over the scale.

    Example:
        >>> widened(torch.tensor([[0.1], [0.1]]), torch.tensor([0.5, 0.0]), [-1.0, 1.0]).round(decimals=4)
        tensor([[0.1000],
                [0.5774]])
    """
    outside = (1 - 2 * in_domain).clamp(min=0)[:, None]
    anything = (label_range[1] - label_range[0]) ** 2 / 12
    # A text that the model finds hard is no easier for lying outside.
    return torch.sqrt((1 - outside) * uncertainty**2 + outside * uncertainty.square().clamp(min=anything))
