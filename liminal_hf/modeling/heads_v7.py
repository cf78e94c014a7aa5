"""The recursive head that is ours, v7: the published parts that were measured to help, and what we added.

Requires torch and transformers.
"""

import math

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_liminal import LiminalConfig
from .errors import LiminalError
from .heads import (
    HEADS,
    HeadInput,
    HistoryAttention,
    RecursiveHead,
    Shared,
    State,
    ZeroLinear,
    rinse_layers,
    two_layers,
)
from .memory import SoulKernel


class TokenAttention(nn.Module):
    """Multi-head attention from the head's state to the encoder's tokens, so that each step can read the text again.

    Args:
        size_query: width of the query's source.
        size_tokens: width of the token states.
        size: width of the result, a multiple of `num_heads`.
        num_heads: number of heads.
    """

    def __init__(self, size_query: int, size_tokens: int, size: int, num_heads: int = 4) -> None:
        super().__init__()
        self.num_heads = math.gcd(size, num_heads)
        self.q_proj = nn.Linear(size_query, size)
        self.k_proj = nn.Linear(size_tokens, size)
        self.v_proj = nn.Linear(size_tokens, size)
        self.out_proj = nn.Linear(size, size)

    def _split(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def prepare(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and the mask `(batch, 1, 1, length)`, computed once for all steps."""
        return self._split(self.k_proj(tokens)), self._split(self.v_proj(tokens)), (mask > 0)[:, None, None]

    def forward(self, query: Tensor, prepared: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """query: `(batch, size_query)`. Returns `(batch, size)`."""
        keys, values, mask = prepared
        queries = self._split(self.q_proj(query)[:, None])  # (batch, heads, 1, size / heads)
        read = nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.out_proj(read.transpose(1, 2).flatten(2)[:, 0])


@HEADS.register("v7")
class LiminalV7(RecursiveHead):
    """Ours: the recursion with what was measured to help, each part removable by a config field for an ablation.

    x = LN(W pooled), the view; y = z = 0, answer and latent; pad = base, the targets; s = 0, the reflection.
    base = 0, or W pooled with `linear_skip`. For each of K steps:

    1. n times z <- LN(z + 0.3 latent(LN [x; y; z; s; e])), e the tokens read by attention (`token_attention`);
    2. self-estimated affect: al = tanh(W pad), the last estimate without its gradient, or the caller's `affect`;
       c = sigmoid(W [z; al]); z <- z + 0.3 c al;
    3. z <- LN(z + attention over the history of z);
    4. r = tanh(z + y); z <- z (1 + w sqrt(mean c)); SoulKernel recalls the turns before (`SoulKernel`);
    5. y <- y + 0.4 answer(LN [y; z]);  6. pad = base + MLP(LN [y; z]);  7. s = RINSE([z; pad; c]).

    The confidences are trained to fall with the error (see `LiminalForPADRegression`). A second small readout gives
    `log_variance`; it reads y, z and pad without their gradient, so that it can't disturb the prediction.

    Example:
        >>> config = LiminalConfig(pooled_size=8, latent_size=16)
        >>> output = LiminalV7(config, 8)(HeadInput(torch.randn(2, 8)))
        >>> output.confidences.shape, output.reflection.shape, output.memory.slots.shape
        (torch.Size([2, 1]), torch.Size([2, 4]), torch.Size([2, 8, 16]))
    """

    supervises_steps = True
    trains_confidences = True
    has_memory = True
    # At the start, full confidence makes the latent 5% larger: the weight that v6 has fixed.
    faith_at_start = 0.05
    # log_variance stays in -4.6..4.6, a standard deviation of 0.1 to 10 (ln 10 = 2.3): one outlier can't make the
    # likelihood run away.
    largest_log_variance = 4.6

    def __init__(self, config: LiminalConfig, pooled_size: int) -> None:
        super().__init__(config, pooled_size)
        size, count = config.latent_size, config.num_labels
        self.has_memory = config.soul_kernel
        if not config.self_affect:
            self.reads = tuple(name for name in self.reads if name != "affect")
        width = 3 * size  # of what the latent reads
        self.dropout = nn.Dropout(config.head_dropout)
        if config.linear_skip:
            self.skip = nn.Linear(pooled_size, count)
        self.projection = nn.Linear(pooled_size, size)
        self.ln_x = nn.LayerNorm(size)
        if config.token_attention:
            if config.text_config is None:
                raise LiminalError(
                    "token_attention=True needs an encoder: give a text_config, or token_attention=False."
                )
            self.token_attention = TokenAttention(2 * size, config.hidden_size, size)
            width += size
        if config.rinse:
            self.rinse = rinse_layers(config)
            width += size // 4
        self.ln_latent = nn.LayerNorm(width)
        self.latent = two_layers(width, 2 * size, size)
        self.ln_z = nn.LayerNorm(size)
        if config.self_affect:
            self.affect_proj = nn.Sequential(nn.Linear(count, size), nn.Tanh())
        self.affect_gate = nn.Sequential(nn.Linear((2 if config.self_affect else 1) * size, 1), nn.Sigmoid())
        if config.history_attention:
            self.attn_core = HistoryAttention(size)
            self.ln_history = nn.LayerNorm(size)
        if config.soul_kernel:
            self.soul_kernel = SoulKernel(size)
            self.faith_weight = nn.Parameter(torch.full((), self.faith_at_start))
        self.ln_answer = nn.LayerNorm(2 * size)
        self.answer = two_layers(2 * size, 2 * size, size)
        self.ln_pad = nn.LayerNorm(2 * size)
        self.pad_head = two_layers(2 * size, size, count)
        self.spread_head = nn.Sequential(
            nn.Linear(2 * size + count, size // 2), nn.GELU(), ZeroLinear(size // 2, count)
        )

    def reset_own_parameters(self) -> None:
        """Sets the weight of the confidence in step 4."""
        if self.config.soul_kernel:
            init.constant_(self.faith_weight, self.faith_at_start)

    def prepare(self, inputs: HeadInput) -> Shared:
        """As in `RecursiveHead`, with the tokens."""
        shared = super().prepare(inputs)
        if self.config.token_attention:
            if inputs.tokens is None or inputs.token_mask is None:
                raise LiminalError(
                    "This head reads the encoder's tokens (token_attention=True), so pooled_embeds alone are not "
                    "enough. Give input_ids, or train a head with token_attention=False."
                )
            shared.tokens = self.token_attention.prepare(inputs.tokens, inputs.token_mask)
        return shared

    def drop_out(self, pooled: Tensor) -> Tensor:
        """Once per call, so that all steps and the linear skip see the same."""
        return self.dropout(pooled)

    def base(self, pooled: Tensor) -> Tensor:
        """The linear regression, or zeros."""
        if self.config.linear_skip:
            return self.skip(pooled)
        return pooled.new_zeros(pooled.shape[0], self.config.num_labels)

    def views(self, pooled: Tensor, count: int) -> list[Tensor]:
        """All steps see the same."""
        return [self.ln_x(self.projection(pooled))] * count

    def start(self, inputs: HeadInput, shared: Shared) -> State:
        """As in `RecursiveHead`, with a reflection of zeros for the first step to read."""
        state = super().start(inputs, shared)
        if self.config.rinse:
            state.reflection = state.latent.new_zeros(state.latent.shape[0], self.config.latent_size // 4)
        return state

    def latent_inputs(self, state: State, shared: Shared) -> list[Tensor]:
        """The reflection and the tokens, too."""
        read = super().latent_inputs(state, shared)
        if state.reflection is not None:
            read.append(state.reflection)
        if shared.tokens is not None:
            query = torch.cat([state.view + state.answer, state.latent], dim=-1)
            read.append(self.token_attention(query, shared.tokens))
        return read

    def apply_affect(self, state: State, shared: Shared) -> None:
        """The affect is the caller's, or the head's own last estimate."""
        if self.config.self_affect:
            self.add_affect(state, state.targets.detach() if shared.affect is None else shared.affect)
        else:
            state.confidences.append(self.affect_gate(state.latent))

    def attend_history(self, state: State) -> None:
        """Every step reads the history, which holds at least itself."""
        if self.config.history_attention:
            state.latent = self.ln_history(state.latent + self.attn_core(state.latent, state.history))

    def recall_memory(self, state: State, shared: Shared) -> None:
        """Every step reads the turns before; the last step's resonance is what this turn leaves."""
        if self.config.soul_kernel:
            resonance = torch.tanh(state.latent + state.answer)
            faith = state.mean_confidence.clamp_min(1e-6).sqrt()  # the slope of a root at 0 is infinite
            latent = state.latent * (1 + self.faith_weight * faith)
            state.latent, resonance = self.soul_kernel(
                state.view, state.answer, latent, resonance, shared.memory, shared.recalled
            )
            state.resonances = [resonance]

    def read_targets(self, state: State, shared: Shared) -> None:
        """The targets, and what the logarithm of their variance is read from."""
        read = self.ln_pad(torch.cat([state.answer, state.latent], dim=-1))
        state.targets = shared.base + self.pad_head(read)
        state.log_variances.append(torch.cat([read, state.targets], dim=-1))

    def log_variance(self, values: Tensor) -> Tensor:
        """No step reads it, so that all of them are done at once."""
        limit = self.largest_log_variance
        return limit * torch.tanh(self.spread_head(values.detach()) / limit)

    def reflect(self, state: State) -> None:
        """The next step reads it."""
        if self.config.rinse:
            read = torch.cat([state.latent, state.targets.detach(), state.confidences[-1]], dim=-1)
            state.reflection = self.rinse(read)
