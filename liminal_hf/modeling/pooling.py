"""From an encoder's token states to one vector per text.

Requires torch. Token states come with real tokens first (`LiminalModel` sees to that), so "cls" is the first real
token and "last_token" the last, whatever side the tokenizer pads on.
"""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_liminal import LiminalConfig
from .domain import DomainGauge
from .registry import Registry

POOLERS = Registry("pooler")


@POOLERS.register("mean")
class MeanPooler(nn.Module):
    """Mean over the real tokens.

    Args:
        hidden_size: width of the token states.

    Example:
        >>> MeanPooler(1)(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]])).item()
        2.0
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """states: `(batch, length, hidden)`; mask: `(batch, length)`, 1 on real tokens. Returns `(batch, hidden)`."""
        weights = mask.to(states.dtype)[..., None]
        return (states * weights).sum(1) / weights.sum(1).clamp_min(1)


@POOLERS.register("mean_after_first")
class MeanAfterFirstPooler(MeanPooler):
    """Mean over the real tokens without the first, for decoders: its states are the same whatever the text.

    A decoder parks its attention on the first token (an "attention sink", Xiao et al. 2023, arXiv 2309.17453), whose
    states are many times as large as the others'. In running text no sentence but the first has it, so that a head
    trained on means with it does not fit there. A text of one token is read by that token. As in `MeanPooler`.

    Example:
        >>> MeanAfterFirstPooler(1)(torch.tensor([[[900.0], [3.0], [5.0]]]), torch.tensor([[1, 1, 1]])).item()
        4.0
    """

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """As in `MeanPooler`."""
        is_single = mask.sum(1, keepdim=True) < 2
        first = torch.cat([mask[:, :1] * is_single, mask[:, 1:]], dim=1)
        return super().forward(states, first)


@POOLERS.register("cls")
class ClsPooler(MeanPooler):
    """The first real token. Arguments as in `MeanPooler`."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """As in `MeanPooler`."""
        return states[:, 0]


@POOLERS.register("max")
class MaxPooler(MeanPooler):
    """Largest value of each feature over the real tokens. Arguments as in `MeanPooler`."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """As in `MeanPooler`."""
        return states.masked_fill(mask[..., None] == 0, torch.finfo(states.dtype).min).amax(1)


@POOLERS.register("last_token")
class LastTokenPooler(MeanPooler):
    """The last real token, the only one of a causal decoder that has seen the whole text. As in `MeanPooler`."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """As in `MeanPooler`."""
        last = (mask.sum(1) - 1).clamp_min(0)
        return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[-1]))[:, 0]


@POOLERS.register("attention")
class AttentionPooler(nn.Module):
    """A learned weighted mean over the real tokens (Yang et al. 2016, with one linear score). As in `MeanPooler`.

    It starts as the plain mean.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.zeros(hidden_size))

    def reset_own_parameters(self) -> None:
        """Sets the score to zero: all tokens weigh the same."""
        init.zeros_(self.score)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """As in `MeanPooler`."""
        scores = (states @ self.score).masked_fill(mask == 0, torch.finfo(states.dtype).min)
        return (torch.softmax(scores, dim=1)[..., None] * states).sum(1)


class LayerMix(nn.Module):
    """A learned weighted mean of all layers (Peters et al. 2018, section 3.2). It starts as the plain mean.

    Args:
        num_states: number of layers and one for the embeddings.
    """

    def __init__(self, num_states: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_states))

    def reset_own_parameters(self) -> None:
        """Sets the weights to zero: all layers weigh the same."""
        init.zeros_(self.weights)

    def forward(self, hidden_states: tuple[Tensor, ...]) -> Tensor:
        """hidden_states: one `(batch, length, hidden)` per layer. Returns one such tensor."""
        weights = torch.softmax(self.weights, dim=0)
        return sum(weight * state for weight, state in zip(weights, hidden_states, strict=True))  # type: ignore[return-value]


class LayerPooler(nn.Module):
    """The pooler of the config over the layers of the config.

    Args:
        config: `pooling`, `pooled_layers` and `token_attention` are read.

    Raises:
        KeyError: the pooler's name is unknown.

    Example:
        >>> pooler = LayerPooler(LiminalConfig(pooling="mean", pooled_layers="all"))
        >>> pooler.output_size  # 7 states of 384
        2688
    """

    def __init__(self, config: LiminalConfig) -> None:
        super().__init__()
        num_states = config.num_hidden_layers + 1
        self.layers = config.pooled_layers
        self.pool = POOLERS.entry_for(config, config.pooling or "mean")(config.hidden_size)
        self.mix = (
            LayerMix(num_states) if self.layers == "mix" or (self.layers == "all" and config.token_attention) else None
        )
        self.output_size = config.hidden_size * (num_states if self.layers == "all" else 1)
        # It lies here, so that a map of devices over encoder, pooler and head covers it.
        self.domain = DomainGauge(self.output_size) if config.domain_gauge else None

    @property
    def is_learned(self) -> bool:
        """Whether the pooled states change in training although the encoder is frozen (they can't be cached then)."""
        return self.layers == "mix" or any(True for _ in self.pool.parameters())

    def forward(self, last: Tensor, hidden_states: tuple[Tensor, ...] | None, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pools.

        Args:
            last: `(batch, length, hidden)`, the last layer.
            hidden_states: all layers, embeddings first; None is enough for `pooled_layers="last"`.
            mask: `(batch, length)`, 1 on real tokens.

        Returns:
            The pooled vector `(batch, output_size)` and the token states `(batch, length, hidden)` for a head to read.
        """
        tokens = last if self.mix is None else self.mix(hidden_states)
        if self.layers == "all":
            assert hidden_states is not None
            return torch.cat([self.pool(state, mask) for state in hidden_states], dim=-1), tokens
        return self.pool(tokens, mask), tokens
