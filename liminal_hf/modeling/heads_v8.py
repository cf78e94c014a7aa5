"""The head whose steps read the encoder layer by layer, v8: K is how deep it reads, and RINSE says when that is enough.

Requires torch and transformers. `depth.py` ends the encoder where this head stops reading.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from .configuration_liminal import LiminalConfig
from .errors import LiminalError
from .heads import (
    HEADS,
    HeadInput,
    HeadOutput,
    History,
    HistoryAttention,
    RecursiveHead,
    Shared,
    State,
    ZeroLinear,
    two_layers,
)

# What a step leaves behind, by the name that it has in a `HeadOutput`.
Step = dict[str, Tensor]
# Mean size of a normally distributed error with a standard deviation of 1.
_MEAN_ERROR = math.sqrt(2 / math.pi)


@HEADS.register("v8")
class LiminalV8(RecursiveHead):
    """Ours: step k reads the pooled state after layer k * `depth_every` of the encoder, the last step the last layer.

    One cell does all steps. y = z = 0, answer and latent. Step k, of the state h_k:

    1. x = LN(W_k h_k); z <- LN(z + latent(LN [x; y; z]));
    2. z <- LN(z + attention over the history of z);
    3. y <- y + 0.4 answer(LN [y; z]);  4. pad = MLP(LN [y; z]), plus W_k h_k summed over the steps with `linear_skip`.

    `pad_trajectory[:, k]` is the answer after that many layers, and `log_variance` and `confidences` (which follow from
    it) are of that answer. RINSE reads z, pad, its last change, the variance and the attention, without their gradient,
    and says in `gains` what reading on to the end would gain (see `HeadOutput`). Where that is below the config's
    `exit_threshold`, a text is not read any further. A model without an encoder has no layers, so each step sees the
    same.

    Example:
        >>> config = LiminalConfig(pooled_size=8, latent_size=16, head="v8", num_outer_steps=2)
        >>> output = LiminalV8(config, 8)(HeadInput(torch.randn(4, 8)))
        >>> output.pad_trajectory.shape, output.gains.shape
        (torch.Size([4, 2, 3]), torch.Size([4, 2]))
    """

    supervises_steps = True
    supervises_spread = True
    reads = ("num_outer_steps",)
    latent_rate = 1.0
    # As in v7.
    largest_log_variance = 4.6

    def __init__(self, config: LiminalConfig, pooled_size: int) -> None:
        super().__init__(config, pooled_size)
        size, count, steps = config.latent_size, config.num_labels, config.num_outer_steps
        self.layers = config.depth_layers
        self.width = config.hidden_size
        self.dropout = nn.Dropout(config.head_dropout)
        self.projections = nn.ModuleList(nn.Linear(self.width, size) for _ in range(steps))
        self.ln_x = nn.ModuleList(nn.LayerNorm(size) for _ in range(steps))
        if config.linear_skip:
            self.skips = nn.ModuleList(nn.Linear(self.width, count) for _ in range(steps))
        self.ln_latent = nn.LayerNorm(3 * size)
        self.latent = two_layers(3 * size, 2 * size, size)
        self.ln_z = nn.LayerNorm(size)
        self.attn_core = HistoryAttention(size)
        self.ln_history = nn.LayerNorm(size)
        self.ln_answer = nn.LayerNorm(2 * size)
        self.answer = two_layers(2 * size, 2 * size, size)
        self.ln_pad = nn.LayerNorm(2 * size)
        self.pad_head = two_layers(2 * size, size, count)
        self.spread_head = nn.Sequential(
            nn.Linear(2 * size + count, size // 2), nn.GELU(), ZeroLinear(size // 2, count)
        )
        self.rinse = nn.Sequential(*two_layers(size + 3 * count + steps, size // 2, max(size // 4, 1)), nn.Tanh())
        self.exit_head = ZeroLinear(max(size // 4, 1), steps)

    def check(self, inputs: HeadInput) -> None:
        """As in `Head`; there are no more steps than layers to read."""
        super().check(inputs)
        steps = self.config.num_outer_steps
        if inputs.num_outer_steps is not None and inputs.num_outer_steps > steps:
            raise LiminalError(f"This model reads its encoder in {steps} steps: num_outer_steps must be in 1..{steps}.")

    def forward(self, inputs: HeadInput) -> HeadOutput:
        """As in `Head`; all layers are there, and what belongs to steps after a text's last one is not given."""
        count = inputs.num_outer_steps or self.config.num_outer_steps
        layers = inputs.pooled.unflatten(-1, (-1, self.width))  # (batch, layers, width)
        state = self.begin(inputs.pooled)
        steps = [self.read(state, step, layers[:, self.layers[step]]) for step in range(count)]
        threshold = self.exit_threshold
        if threshold is None:
            return self.output(steps)
        is_last = torch.arange(count, device=inputs.pooled.device) == count - 1
        enough = (torch.stack([step["gains"] for step in steps], dim=1) < threshold) | is_last  # (batch, K)
        return self.output(steps, enough.long().argmax(1) + 1)

    @property
    def exit_threshold(self) -> float | None:
        """Of `gains`; None in training, which reads all layers."""
        return None if self.training else self.config.exit_threshold

    def begin(self, like: Tensor) -> State:
        """The state before the first step; `like` has the batch, the device and the precision."""
        zeros = like.new_zeros(like.shape[0], self.config.latent_size)
        targets = like.new_zeros(like.shape[0], self.config.num_labels)
        return State(zeros, zeros, zeros, targets, reflection=None, history=History(), base=targets)

    def read(self, state: State, step: int, pooled: Tensor) -> Step:
        """One step, in place, that reads the pooled state `(batch, width)` of its layer; what it leaves behind."""
        pooled = self.dropout(pooled)
        before = state.targets
        if self.config.linear_skip:
            state.base = state.base + self.skips[step](pooled)
        shared = Shared(views=[], num_inner_steps=self.config.num_inner_steps)
        self.step(state, shared, self.ln_x[step](self.projections[step](pooled)))
        log_variance = state.log_variances[-1]
        attention = nn.functional.pad(state.history.weights[-1], (0, self.config.num_outer_steps - step - 1))
        known = [state.latent, state.targets, state.targets - before, log_variance, attention]
        state.reflection = self.rinse(torch.cat(known, dim=-1).detach())
        gain = self.exit_head(state.reflection)[:, step]
        return {
            "pad_trajectory": self.to_label_units(state.targets),
            "confidences": torch.exp(-_MEAN_ERROR * torch.exp(0.5 * log_variance)).mean(-1),
            "step_attentions": attention,
            "reflection": state.reflection,
            "answer": state.answer,
            "latent": state.latent,
            "log_variance": log_variance,
            # After the last layer there is nothing left to gain.
            "gains": torch.zeros_like(gain) if step + 1 == self.config.num_outer_steps else gain,
        }

    def output(self, steps: list[Step], depth: Tensor | None = None) -> HeadOutput:
        """The output of all steps.

        Args:
            steps: what each step has left behind.
            depth: `(batch,)`, after how many steps each text was done; None is after all.
        """
        values: dict[str, Any] = {name: torch.stack([step[name] for step in steps], dim=1) for name in steps[0]}
        if depth is not None:
            order = torch.arange(len(steps), device=depth.device)
            index = torch.minimum(order[None], depth[:, None] - 1)  # (batch, K)
            for name, value in values.items():
                # `take_along_dim` would export to ONNX for one batch size alone.
                where = index if value.dim() == 2 else index[..., None].expand(-1, -1, value.shape[2])
                values[name] = value.gather(1, where)
        for name in ("reflection", "answer", "latent"):
            values[name] = values[name][:, -1]
        values["step_attentions"] = values["step_attentions"][..., : len(steps)]
        return HeadOutput(**values, depth=depth)

    def apply_affect(self, state: State, shared: Shared) -> None:
        """Nothing: a confidence is read off the variance."""

    def attend_history(self, state: State) -> None:
        """Every step reads the history, which holds at least itself."""
        state.latent = self.ln_history(state.latent + self.attn_core(state.latent, state.history))

    def read_targets(self, state: State, shared: Shared) -> None:
        """The targets, and the logarithm of their variance."""
        read = self.ln_pad(torch.cat([state.answer, state.latent], dim=-1))
        state.targets = state.base + self.pad_head(read)
        spread = self.spread_head(torch.cat([read, state.targets], dim=-1).detach())
        limit = self.largest_log_variance
        state.log_variances.append(limit * torch.tanh(spread / limit))
