"""From a pooled vector to PAD: the recursive heads and the plain ones beside them.

Requires torch. A head is chosen by name in the config. `v1 v2 v3 v4 v6` are the line published as LIMINAL Heartbeat
(Neurolab, MIT), each class saying only what it adds; the published trainer fed them the labels as affect, ours never
does. `v7` is ours. `linear` and `mlp` are the baselines that every head has to beat.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_liminal import LiminalConfig
from .memory import ConversationMemory, PublishedSoulKernel, SoulKernel
from .registry import Registry

HEADS = Registry("head")


@dataclass
class HeadInput:
    """What a head may read; only `pooled` is always there.

    Args:
        pooled: `(batch, pooled_size)`.
        affect: `(batch, T)`, the targets in label units that the caller gives (for example the previous turn's).
        initial_answer: `(batch, latent_size)`, the first answer y; zeros by default.
        memory: the conversation so far.
        tokens: `(batch, length, hidden)`, the encoder's states, real tokens first.
        token_mask: `(batch, length)`, 1 on real tokens.
        num_outer_steps, num_inner_steps: K and n of this call; None takes the config's.
    """

    pooled: Tensor
    affect: Tensor | None = None
    initial_answer: Tensor | None = None
    memory: ConversationMemory | None = None
    tokens: Tensor | None = None
    token_mask: Tensor | None = None
    num_outer_steps: int | None = None
    num_inner_steps: int | None = None


@dataclass
class HeadOutput:
    """What a head gives; a field that a head does not have is None.

    Args:
        pad_trajectory: `(batch, K, T)`, the T targets read out after each outer step, in label units.
        log_variance: `(batch, T)`, of the last answer, in units of the labels' standard deviation.
        confidences: `(batch, K)` in 0..1.
        step_attentions: `(batch, K, K)`; row k is step k's query over the steps so far, zeros after.
        attention_last: `(batch, K, K)`, every step's query over all steps (what the original returned).
        reflection: `(batch, latent_size / 4)`.
        answer, latent: `(batch, latent_size)`, y and z after the last step.
        memory: the conversation after this turn.
    """

    pad_trajectory: Tensor
    log_variance: Tensor | None = None
    confidences: Tensor | None = None
    step_attentions: Tensor | None = None
    attention_last: Tensor | None = None
    reflection: Tensor | None = None
    answer: Tensor | None = None
    latent: Tensor | None = None
    memory: ConversationMemory | None = None


class Head(nn.Module):
    """Base of all heads.

    A head says through `z_scored` whether it predicts z-scores of the labels (then `to_label_units` scales them back
    with the config's `label_mean` and `label_std`), and through `has_memory` whether it takes a `ConversationMemory`.

    Args:
        config: the model's config.
        pooled_size: width of the pooled vector.
    """

    z_scored = True
    supervises_steps = False
    has_memory = False

    def __init__(self, config: LiminalConfig, pooled_size: int) -> None:
        super().__init__()
        self.config = config
        self.pooled_size = pooled_size

    def forward(self, inputs: HeadInput) -> HeadOutput:
        """One call for the whole batch; every row is computed from that row alone."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(inputs: HeadInput) -> HeadOutput.")

    def to_label_units(self, values: Tensor) -> Tensor:
        """Scales z-scores `(..., T)` back to label units; does nothing for a head that predicts labels."""
        if not self.z_scored:
            return values
        return values * values.new_tensor(self.config.label_std) + values.new_tensor(self.config.label_mean)

    def from_label_units(self, labels: Tensor) -> Tensor:
        """The inverse of `to_label_units`."""
        if not self.z_scored:
            return labels
        return (labels - labels.new_tensor(self.config.label_mean)) / labels.new_tensor(self.config.label_std)


class ZeroLinear(nn.Linear):
    """A linear layer that starts at zero, so that what it adds starts as nothing."""

    def reset_own_parameters(self) -> None:
        """Zero weight and bias."""
        init.zeros_(self.weight)
        init.zeros_(self.bias)


@HEADS.register("linear")
class LinearHead(Head):
    """One linear layer on the pooled states; the plainest baseline.

    Example:
        >>> head = LinearHead(LiminalConfig(pooled_size=8, head="linear"), pooled_size=8)
        >>> head(HeadInput(torch.randn(2, 8))).pad_trajectory.shape
        torch.Size([2, 1, 3])
    """

    def __init__(self, config: LiminalConfig, pooled_size: int) -> None:
        super().__init__(config, pooled_size)
        self.dropout = nn.Dropout(config.head_dropout)
        self.readout = nn.Linear(pooled_size, config.num_labels)

    def forward(self, inputs: HeadInput) -> HeadOutput:
        """As in `Head`."""
        return HeadOutput(self.to_label_units(self.readout(self.dropout(inputs.pooled)))[:, None])


@HEADS.register("mlp")
class MLPHead(Head):
    """One hidden layer of four times `latent_size`; set `latent_size` to match another head's size.

    Example:
        >>> head = MLPHead(LiminalConfig(pooled_size=8, head="mlp"), pooled_size=8)
        >>> head(HeadInput(torch.randn(2, 8))).pad_trajectory.shape
        torch.Size([2, 1, 3])
    """

    def __init__(self, config: LiminalConfig, pooled_size: int) -> None:
        super().__init__(config, pooled_size)
        hidden = 4 * config.latent_size
        dropout = config.head_dropout
        self.readout = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(pooled_size, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, config.num_labels),
        )

    def forward(self, inputs: HeadInput) -> HeadOutput:
        """As in `Head`."""
        return HeadOutput(self.to_label_units(self.readout(inputs.pooled))[:, None])


class HistoryAttention(nn.Module):
    """Single-head attention of the newest latent over all latents of this call, scale d^-1/2."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.out_proj = nn.Linear(size, size)


@dataclass
class History:
    """Queries, keys and values of the outer steps so far; a Python list of K tensors that unrolls when exported."""

    queries: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)

    def attend(self, attention: HistoryAttention, z: Tensor) -> Tensor:
        """Adds z `(batch, d)` to the history and returns what its query finds there."""
        self.queries.append(attention.q_proj(z))
        self.keys.append(attention.k_proj(z))
        self.values.append(attention.v_proj(z))
        keys, values = torch.stack(self.keys, dim=1), torch.stack(self.values, dim=1)
        scores = (keys @ self.queries[-1][..., None])[..., 0] * z.shape[-1] ** -0.5
        self.weights.append(torch.softmax(scores, dim=-1))
        return attention.out_proj((self.weights[-1][:, None] @ values)[:, 0])

    def step_attentions(self) -> Tensor:
        """`(batch, K, K)`, zeros above the diagonal."""
        steps = len(self.weights)
        rows = [nn.functional.pad(row, (0, steps - row.shape[-1])) for row in self.weights]
        return torch.stack(rows, dim=1)

    def full_attention(self) -> Tensor:
        """`(batch, K, K)`, every query over all keys, as the original's last call gave it."""
        queries, keys = torch.stack(self.queries, dim=1), torch.stack(self.keys, dim=1)
        return torch.softmax(queries @ keys.transpose(1, 2) * queries.shape[-1] ** -0.5, dim=-1)


@dataclass
class LoopState:
    """What the published loop carries from step to step."""

    x: Tensor
    y: Tensor
    z: Tensor
    affect: Tensor | None
    memory: ConversationMemory
    history: History
    confidences: list[Tensor] = field(default_factory=list)
    resonances: list[Tensor] = field(default_factory=list)

    @property
    def mean_confidence(self) -> Tensor:
        """`(batch, 1)`, over the steps so far."""
        return torch.stack(self.confidences, dim=1).mean(1)


def _mlp(size_in: int, size_hidden: int, size_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size_in, size_hidden), nn.GELU(), nn.Linear(size_hidden, size_out))


@HEADS.register("v1")
class LiminalV1(Head):
    """The recursion: n refinements of the latent z, an affect gate, one refinement of the answer y, K times.

    z <- LN(z + 0.3 latent(LN [x; y; z])); with affect a: z <- z + 0.3 g tanh(W a), g = sigmoid(W [z; tanh(W a)]);
    y <- y + 0.4 answer(LN [y; z]). Published with no readout of PAD: the linear one of y is ours. (v1)

    Example:
        >>> config = LiminalConfig(pooled_size=8, head="v1", latent_size=16)
        >>> output = LiminalV1(config, 8)(HeadInput(torch.randn(2, 8)))
        >>> output.answer.shape, output.pad_trajectory.shape
        (torch.Size([2, 16]), torch.Size([2, 5, 3]))
    """

    z_scored = False
    inner_weight = 0.3
    affect_weight = 0.3
    answer_weight = 0.4

    def __init__(self, config: LiminalConfig, pooled_size: int) -> None:
        super().__init__(config, pooled_size)
        size = config.latent_size
        if not config.project_pooled and pooled_size != size:
            raise ValueError(
                f"project_pooled=False needs latent_size to equal the pooled size {pooled_size}, got {size}. Set "
                f"latent_size={pooled_size}, or project_pooled=True."
            )
        self.projection = nn.Linear(pooled_size, size) if config.project_pooled else nn.Identity()
        self.ln_latent = nn.LayerNorm(3 * size)
        self.latent = _mlp(3 * size, 2 * size, size)
        self.ln_z = nn.LayerNorm(size)
        self.affect_proj = nn.Sequential(nn.Linear(config.num_labels, size), nn.Tanh())
        self.affect_gate = nn.Sequential(nn.Linear(2 * size, 1), nn.Sigmoid())
        self.ln_answer = nn.LayerNorm(2 * size)
        self.answer = _mlp(2 * size, 2 * size, size)
        self.add_readout(size)

    def add_readout(self, size: int) -> None:
        """Creates the layers that `read_pad` uses."""
        self.readout = nn.Linear(size, self.config.num_labels)

    def read_pad(self, y: Tensor, z: Tensor) -> Tensor:
        """PAD `(batch, T)` from the answer or the latent."""
        return self.readout(y)

    def attend_history(self, state: LoopState) -> None:
        """Nothing yet; v2 adds attention over the latents so far."""

    def recall(self, state: LoopState) -> None:
        """Nothing yet; v6 adds SoulKernel."""

    def reflect(self, state: LoopState, pad: Tensor) -> Tensor | None:
        """Nothing yet; v4 adds RINSE."""

    def feel(self, state: LoopState) -> None:
        """Lets the affect in through a gate, whose value is the step's confidence (0 without affect)."""
        if state.affect is None:
            state.confidences.append(state.z.new_zeros(state.z.shape[0], 1))
            return
        affect = self.affect_proj(state.affect)
        gate = self.affect_gate(torch.cat([state.z, affect], dim=-1))
        state.z = state.z + self.affect_weight * gate * affect
        state.confidences.append(gate)

    def forward(self, inputs: HeadInput) -> HeadOutput:
        """As in `Head`."""
        x = self.projection(inputs.pooled)
        zeros = torch.zeros_like(x)
        memory = inputs.memory
        if memory is None:
            memory = ConversationMemory.empty(
                x.shape[0],
                self.config.memory_slots,
                x.shape[1],
                num_targets=self.config.num_labels,
                device=x.device,
                dtype=x.dtype,
            )
        first = zeros if inputs.initial_answer is None else inputs.initial_answer
        # torch.compile can follow this call, but not the same one as a default_factory.
        history = History()
        state = LoopState(x=x, y=first, z=zeros, affect=inputs.affect, memory=memory, history=history)
        trajectory = []
        for _ in range(inputs.num_outer_steps or self.config.num_outer_steps):
            for _ in range(inputs.num_inner_steps or self.config.num_inner_steps):
                together = self.ln_latent(torch.cat([x, state.y, state.z], dim=-1))
                state.z = self.ln_z(state.z + self.inner_weight * self.latent(together))
            self.feel(state)
            self.attend_history(state)
            self.recall(state)
            state.y = state.y + self.answer_weight * self.answer(self.ln_answer(torch.cat([state.y, state.z], dim=-1)))
            trajectory.append(self.read_pad(state.y, state.z))
        attended = bool(state.history.weights)
        return HeadOutput(
            pad_trajectory=torch.stack(trajectory, dim=1),
            confidences=torch.cat(state.confidences, dim=1),
            step_attentions=state.history.step_attentions() if attended else None,
            attention_last=state.history.full_attention() if attended else None,
            reflection=self.reflect(state, trajectory[-1]),
            answer=state.y,
            latent=state.z,
            memory=(memory.remember(torch.stack(state.resonances, dim=1), trajectory[-1]) if self.has_memory else None),
        )


@HEADS.register("v2")
class LiminalV2(LiminalV1):
    """v1 and attention of the latent over its own history: z <- LN(z + out), from the second step on. (v2)"""

    def __init__(self, config: LiminalConfig, pooled_size: int) -> None:
        super().__init__(config, pooled_size)
        self.attn_core = HistoryAttention(config.latent_size)

    def attend_history(self, state: LoopState) -> None:
        """Attends; the first step has only itself to look at and is kept without an update, as published."""
        found = state.history.attend(self.attn_core, state.z)
        if len(state.history.weights) > 1:
            state.z = self.ln_z(state.z + found)


@HEADS.register("v3")
class LiminalV3(LiminalV2):
    """v2 and a readout of PAD from the latent: pad = tanh(W GELU(W z)). (v3)"""

    def add_readout(self, size: int) -> None:
        """As in `LiminalV1`."""
        self.pad_head = nn.Sequential(
            nn.Linear(size, size // 2), nn.GELU(), nn.Linear(size // 2, self.config.num_labels), nn.Tanh()
        )

    def read_pad(self, y: Tensor, z: Tensor) -> Tensor:
        """As in `LiminalV1`; in -1..1."""
        return self.pad_head(z)


@HEADS.register("v4")
class LiminalV4(LiminalV3):
    """v3 and RINSE, a reflection on the result that nothing reads: tanh(W GELU(W [z; pad; mean confidence])). (v4)

    As published it has no effect on PAD; v7 feeds it back.
    """

    def __init__(self, config: LiminalConfig, pooled_size: int) -> None:
        super().__init__(config, pooled_size)
        size = config.latent_size
        self.rinse = nn.Sequential(
            nn.Linear(size + config.num_labels + 1, size // 2), nn.GELU(), nn.Linear(size // 2, size // 4), nn.Tanh()
        )

    def reflect(self, state: LoopState, pad: Tensor) -> Tensor:
        """`(batch, d / 4)` in -1..1."""
        return self.rinse(torch.cat([state.z, pad, state.mean_confidence], dim=-1))


@HEADS.register("v6")
class LiminalV6(LiminalV3):
    """v3 and SoulKernel, a memory of r = tanh(z + y) that is written once per outer step. (v6)

    Without a memory given, a call still reads its own earlier steps, as published.
    """

    has_memory = True

    def __init__(self, config: LiminalConfig, pooled_size: int) -> None:
        super().__init__(config, pooled_size)
        self.soul_kernel = PublishedSoulKernel()

    def recall(self, state: LoopState) -> None:
        """Reads the memory and this call's earlier steps, then adds this step's r to the latter."""
        remembered, count = state.memory.slots, state.memory.count
        if state.resonances:
            remembered = torch.cat([remembered, torch.stack(state.resonances, dim=1)], dim=1)
            count = count + len(state.resonances)
        state.z, resonance = self.soul_kernel(
            state.x, state.y, state.z, torch.tanh(state.z + state.y), state.mean_confidence.sqrt(), remembered, count
        )
        state.resonances.append(resonance)


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
        found = nn.functional.scaled_dot_product_attention(
            self._split(self.q_proj(query)[:, None]), keys, values, attn_mask=mask
        )
        return self.out_proj(found.transpose(1, 2).flatten(2)[:, 0])


@HEADS.register("v7")
class LiminalV7(Head):
    """Ours: the recursion with what was measured to help, each part removable by a config field for an ablation.

    x = LN(W x0); y = z = 0; pad = base; s = 0. base = 0, or W x0 with `linear_skip`. For each of K steps:
    1. n times z <- LN(z + 0.3 latent(LN [x; y; z; s; e])), e the tokens read by attention (`token_attention`);
    2. self-estimated affect: al = tanh(W pad), the last estimate without its gradient, or the caller's `affect`;
       c = sigmoid(W [z; al]); z <- z + 0.3 c al;
    3. z <- LN(z + attention over the history of z);
    4. r = tanh(z + y); z <- z (1 + w sqrt(mean c)); SoulKernel recalls the turns before (`SoulKernel`);
    5. y <- y + 0.4 answer(LN [y; z]);  6. pad = base + MLP(LN [y; z]);  7. s = RINSE([z; pad; c]).

    The confidences are trained to fall with the error (see `LiminalForPADRegression`), and a second small readout
    gives `log_variance`; it reads y and z without their gradient, so that it can't disturb the prediction.

    Example:
        >>> config = LiminalConfig(pooled_size=8, latent_size=16)
        >>> output = LiminalV7(config, 8)(HeadInput(torch.randn(2, 8)))
        >>> output.confidences.shape, output.reflection.shape, output.memory.slots.shape
        (torch.Size([2, 5]), torch.Size([2, 4]), torch.Size([2, 8, 16]))
    """

    supervises_steps = True
    has_memory = True
    inner_weight = 0.3
    affect_weight = 0.3
    answer_weight = 0.4

    def __init__(self, config: LiminalConfig, pooled_size: int) -> None:
        super().__init__(config, pooled_size)
        size, targets = config.latent_size, config.num_labels
        width = 3 * size
        self.dropout = nn.Dropout(config.head_dropout)
        if config.linear_skip:
            self.skip = nn.Linear(pooled_size, config.num_labels)
        self.projection = nn.Linear(pooled_size, size)
        self.ln_x = nn.LayerNorm(size)
        if config.token_attention:
            if config.text_config is None:
                raise ValueError("token_attention=True needs an encoder: give a text_config, or token_attention=False.")
            self.token_attention = TokenAttention(2 * size, config.hidden_size, size)
            width += size
        if config.rinse:
            self.rinse = nn.Sequential(
                nn.Linear(size + config.num_labels + 1, size // 2),
                nn.GELU(),
                nn.Linear(size // 2, size // 4),
                nn.Tanh(),
            )
            width += size // 4
        self.ln_latent = nn.LayerNorm(width)
        self.latent = _mlp(width, 2 * size, size)
        self.ln_z = nn.LayerNorm(size)
        if config.self_affect:
            self.affect_proj = nn.Sequential(nn.Linear(config.num_labels, size), nn.Tanh())
        self.affect_gate = nn.Sequential(nn.Linear((2 if config.self_affect else 1) * size, 1), nn.Sigmoid())
        if config.history_attention:
            self.attn_core = HistoryAttention(size)
            self.ln_history = nn.LayerNorm(size)
        if config.soul_kernel:
            self.soul_kernel = SoulKernel(size)
            self.faith_weight = nn.Parameter(torch.full((), 0.05))
        self.ln_answer = nn.LayerNorm(2 * size)
        self.answer = _mlp(2 * size, 2 * size, size)
        self.ln_pad = nn.LayerNorm(2 * size)
        self.pad_head = nn.Sequential(nn.Linear(2 * size, size), nn.GELU(), nn.Linear(size, targets))
        self.spread_head = nn.Sequential(
            nn.Linear(2 * size + targets, size // 2), nn.GELU(), ZeroLinear(size // 2, targets)
        )

    def looks(self, pooled: Tensor, number: int) -> list[Tensor]:
        """What each of `number` steps sees of the text, each `(batch, latent_size)`: here all see the same."""
        return [self.ln_x(self.projection(pooled))] * number

    def reset_own_parameters(self) -> None:
        """The weight of faith as in v6."""
        if self.config.soul_kernel:
            init.constant_(self.faith_weight, 0.05)

    def forward(self, inputs: HeadInput) -> HeadOutput:
        """As in `Head`."""
        config = self.config
        pooled = self.dropout(inputs.pooled)
        base = self.skip(pooled) if config.linear_skip else pooled.new_zeros(pooled.shape[0], config.num_labels)
        looks = self.looks(pooled, inputs.num_outer_steps or config.num_outer_steps)
        x = looks[0]
        y = torch.zeros_like(x) if inputs.initial_answer is None else inputs.initial_answer
        z = torch.zeros_like(x)
        pad = base
        given = None if inputs.affect is None else self.from_label_units(inputs.affect)
        memory = inputs.memory
        if memory is None:
            memory = ConversationMemory.empty(
                x.shape[0],
                config.memory_slots,
                config.latent_size,
                num_targets=config.num_labels,
                device=x.device,
                dtype=x.dtype,
            )
        future = self.soul_kernel.future(memory) if config.soul_kernel else None
        reflection = x.new_zeros(x.shape[0], config.latent_size // 4) if config.rinse else None
        prepared = None
        if config.token_attention:
            if inputs.tokens is None:
                raise ValueError(
                    "This head reads the encoder's tokens (token_attention=True), so pooled_embeds alone are not "
                    "enough. Give input_ids, or train a head with token_attention=False."
                )
            prepared = self.token_attention.prepare(inputs.tokens, inputs.token_mask)
        history = History()
        trajectory, confidences = [], []
        resonance = z
        for x in looks:
            for _ in range(inputs.num_inner_steps or config.num_inner_steps):
                parts = [x, y, z]
                if reflection is not None:
                    parts.append(reflection)
                if prepared is not None:
                    parts.append(self.token_attention(torch.cat([x + y, z], dim=-1), prepared))
                z = self.ln_z(z + self.inner_weight * self.latent(self.ln_latent(torch.cat(parts, dim=-1))))
            if config.self_affect:
                affect = self.affect_proj(pad.detach() if given is None else given)
                confidence = self.affect_gate(torch.cat([z, affect], dim=-1))
                z = z + self.affect_weight * confidence * affect
            else:
                confidence = self.affect_gate(z)
            confidences.append(confidence)
            if config.history_attention:
                z = self.ln_history(z + history.attend(self.attn_core, z))
            resonance = torch.tanh(z + y)
            if future is not None:
                faith = torch.stack(confidences, dim=1).mean(1).clamp_min(1e-6).sqrt()
                z = z * (1 + self.faith_weight * faith)
                z, resonance = self.soul_kernel(x, y, z, resonance, future)
            y = y + self.answer_weight * self.answer(self.ln_answer(torch.cat([y, z], dim=-1)))
            pad = base + self.pad_head(self.ln_pad(torch.cat([y, z], dim=-1)))
            if reflection is not None:
                reflection = self.rinse(torch.cat([z, pad.detach(), confidence], dim=-1))
            trajectory.append(pad)
        evidence = torch.cat([self.ln_pad(torch.cat([y, z], dim=-1)), pad], dim=-1).detach()
        pads = self.to_label_units(torch.stack(trajectory, dim=1))
        return HeadOutput(
            pad_trajectory=pads,
            # Bounded, so that one outlier can't make the likelihood run away: a standard deviation of 0.1 to 10.
            log_variance=4.6 * torch.tanh(self.spread_head(evidence) / 4.6),
            confidences=torch.cat(confidences, dim=1),
            step_attentions=history.step_attentions() if config.history_attention else None,
            reflection=reflection,
            answer=y,
            latent=z,
            memory=memory.remember(resonance[:, None], pads[:, -1]),
        )
