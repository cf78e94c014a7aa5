"""From a pooled vector to the targets: what every head takes and gives, the plain heads, and the recursive loop.

Requires torch and transformers. A head is chosen by name in the config. `linear` and `mlp` are the baselines that every
head has to beat. `heads_published.py` has the line of work that came before ours, `heads_v7.py` and `heads_v8.py` have
ours.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_liminal import LiminalConfig
from .errors import LiminalError
from .memory import GIVEN, ConversationMemory, NamedTensors
from .registry import Registry

HEADS = Registry("head", siblings=("heads_published", "heads_v7", "heads_v8"))


@dataclass
class HeadInput:
    """What a head may read; only `pooled` is always there.

    Args:
        pooled: `(batch, pooled_size)`.
        affect: `(batch, T)`, values of the T targets in label units from the caller, such as the last turn's.
        initial_answer: `(batch, latent_size)`, the first answer; default zeros.
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
class HeadOutput(NamedTensors):
    """What a head gives; a field that a head does not have is None.

    Args:
        pad_trajectory (`torch.FloatTensor` of shape `(batch, K, T)`): the T targets after each outer step, in label
            units.
        confidences (`torch.FloatTensor` of shape `(batch, K)`): per step, in 0..1, as trained and not calibrated; a
            pipeline's `confidence` follows `uncertainty` instead.
        step_attentions (`torch.FloatTensor` of shape `(batch, K, K)`): row k is step k's attention over the steps so
            far, zeros after.
        reflection (`torch.FloatTensor` of shape `(batch, latent_size / 4)`): RINSE, in -1..1.
        answer, latent (`torch.FloatTensor` of shape `(batch, latent_size)`): the head's state after the last step.
        log_variance (`torch.FloatTensor` of shape `(batch, K, T)`, or `(batch, T)` of the last answer alone): in the
            head's own units, standard deviations of the labels where `z_scored`, else label units.
        memory (`ConversationMemory`): the conversation after this turn.
        gains (`torch.FloatTensor` of shape `(batch, K)`): what is expected of reading on to the end after each step:
            the square of how far the answer will move, summed over the targets, in the head's own units. It is the
            expected fall of the squared error where deeper answers are right on average.
        depth (`torch.LongTensor` of shape `(batch,)`): after how many steps reading has stopped, with `exit_threshold`
            in the config; what belongs to later steps repeats that step.
    """

    pad_trajectory: Tensor = GIVEN
    confidences: Tensor | None = None
    step_attentions: Tensor | None = None
    reflection: Tensor | None = None
    answer: Tensor | None = None
    latent: Tensor | None = None
    log_variance: Tensor | None = None
    memory: ConversationMemory | None = None
    gains: Tensor | None = None
    depth: Tensor | None = None


class Head(nn.Module):
    """Base of all heads.

    A subclass says by these attributes, of the class or of the instance, what it is:

    - `z_scored`: it predicts z-scores of the labels. `to_label_units` scales them back with the config's `label_mean`
      and `label_std`.
    - `supervises_steps`: the loss also falls on the answers before the last one (`deep_supervision`).
    - `supervises_spread`: so does the likelihood that trains `log_variance` (`uncertainty_weight`).
    - `trains_confidences`: the loss ties its confidences to the size of the error (`confidence_weight`).
    - `has_memory`: it takes a `ConversationMemory` and gives one back.
    - `reads`: names of the optional inputs that it uses; a caller who gives another one gets an error.

    Args:
        config: the model's config.
        pooled_size: width of the pooled vector.
    """

    z_scored = True
    supervises_steps = False
    supervises_spread = False
    trains_confidences = False
    has_memory = False
    reads: tuple[str, ...] = ("affect", "initial_answer", "num_outer_steps", "num_inner_steps")

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

    def check(self, inputs: HeadInput) -> None:
        """Raises a LiminalError for an input of a wrong shape, and for one that this head would ignore."""
        config, batch = self.config, inputs.pooled.shape[0]
        for name in ("affect", "initial_answer", "num_outer_steps", "num_inner_steps", "memory"):
            read = self.has_memory if name == "memory" else name in self.reads
            if getattr(inputs, name) is not None and not read:
                raise LiminalError(
                    f"Head {config.head!r} as configured does not use {name}. Leave it out, or take a head that does: "
                    f"{', '.join(heads_that_read(name))}."
                )
        for name in ("num_outer_steps", "num_inner_steps"):
            value = getattr(inputs, name)
            if value is not None and value < 1:
                raise LiminalError(f"{name} must be at least 1, got {value}.")
        targets = f", a column per target ({', '.join(config.targets)})"
        for name, size, columns in (("affect", config.num_labels, targets), ("initial_answer", config.latent_size, "")):
            value = getattr(inputs, name)
            if value is not None and tuple(value.shape) != (batch, size):
                raise LiminalError(f"{name} must have shape {(batch, size)}{columns}, got {tuple(value.shape)}.")
        if inputs.memory is not None:
            inputs.memory.check(batch, config.memory_slots, config.latent_size, config.num_labels)


def heads_that_read(name: str) -> list[str]:
    """Names of the heads that use an optional input, by the input's name.

    Example:
        >>> {"v6", "v7"} <= set(heads_that_read("memory"))
        True
    """
    heads = {head: HEADS[head] for head in sorted(HEADS.own_names())}
    return [head for head, kind in heads.items() if (kind.has_memory if name == "memory" else name in kind.reads)]


@HEADS.register("linear")
class LinearHead(Head):
    """One linear layer on the pooled states; the plainest baseline.

    Example:
        >>> head = LinearHead(LiminalConfig(pooled_size=8, head="linear"), pooled_size=8)
        >>> head(HeadInput(torch.randn(2, 8))).pad_trajectory.shape
        torch.Size([2, 1, 3])
    """

    reads = ()

    def __init__(self, config: LiminalConfig, pooled_size: int) -> None:
        super().__init__(config, pooled_size)
        self.dropout = nn.Dropout(config.head_dropout)
        self.readout = nn.Linear(pooled_size, config.num_labels)

    def forward(self, inputs: HeadInput) -> HeadOutput:
        """As in `Head`; there is one step."""
        return HeadOutput(pad_trajectory=self.to_label_units(self.readout(self.dropout(inputs.pooled)))[:, None])


@HEADS.register("mlp")
class MLPHead(Head):
    """One hidden layer of four times `latent_size`; set `latent_size` to match another head's size.

    Example:
        >>> head = MLPHead(LiminalConfig(pooled_size=8, head="mlp"), pooled_size=8)
        >>> head(HeadInput(torch.randn(2, 8))).pad_trajectory.shape
        torch.Size([2, 1, 3])
    """

    reads = ()

    def __init__(self, config: LiminalConfig, pooled_size: int) -> None:
        super().__init__(config, pooled_size)
        hidden, dropout = 4 * config.latent_size, config.head_dropout
        self.readout = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(pooled_size, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, config.num_labels),
        )

    def forward(self, inputs: HeadInput) -> HeadOutput:
        """As in `Head`; there is one step."""
        return HeadOutput(pad_trajectory=self.to_label_units(self.readout(inputs.pooled))[:, None])


class ZeroLinear(nn.Linear):
    """A linear layer that starts at zero, so that what it adds starts as nothing."""

    def reset_own_parameters(self) -> None:
        """Zero weight and bias."""
        init.zeros_(self.weight)
        init.zeros_(self.bias)


def two_layers(size_in: int, size_hidden: int, size_out: int) -> nn.Sequential:
    """linear(GELU(linear(.)))."""
    return nn.Sequential(nn.Linear(size_in, size_hidden), nn.GELU(), nn.Linear(size_hidden, size_out))


def rinse_layers(config: LiminalConfig) -> nn.Sequential:
    """RINSE's layers: a reflection `(batch, d / 4)` in -1..1 on [latent; targets; confidence]."""
    size = config.latent_size
    return nn.Sequential(*two_layers(size + config.num_labels + 1, size // 2, size // 4), nn.Tanh())


@dataclass
class History:
    """Keys, values and attention weights of the outer steps so far; Python lists that unroll when exported."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)

    def step_attentions(self) -> Tensor | None:
        """`(batch, K, K)`, zeros above the diagonal; None for a head that does not attend."""
        if not self.weights:
            return None
        steps = len(self.weights)
        return torch.stack([nn.functional.pad(row, (0, steps - row.shape[-1])) for row in self.weights], dim=1)


class HistoryAttention(nn.Module):
    """Single-head attention of the newest latent over all latents of this call, scale d^-1/2."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.out_proj = nn.Linear(size, size)

    def forward(self, latent: Tensor, history: History) -> Tensor:
        """Adds the latent `(batch, d)` to the history and returns what its query reads there, `(batch, d)`."""
        query = self.q_proj(latent)
        history.keys.append(self.k_proj(latent))
        history.values.append(self.v_proj(latent))
        keys, values = torch.stack(history.keys, dim=1), torch.stack(history.values, dim=1)  # (batch, steps, d)
        # `@` does the same, after four operations of its own.
        scores = torch.bmm(keys, query[..., None])[..., 0] * latent.shape[-1] ** -0.5  # (batch, steps)
        history.weights.append(torch.softmax(scores, dim=-1))
        return self.out_proj(torch.bmm(history.weights[-1][:, None], values)[:, 0])


@dataclass
class Shared:
    """What all steps of one call read and none changes.

    Args:
        views: what each of the K outer steps sees of the text, K times `(batch, d)`.
        num_inner_steps: n, refinements of the latent within one outer step.
        affect: `(batch, T)`, what the caller gave, in the head's own units.
        memory: the conversation so far; None for a head without a memory.
        base: `(batch, T)`, what every answer is added to.
        tokens: what `TokenAttention` reads.
        recalled: what the memory gives to every step, once a step has asked for it.
    """

    views: list[Tensor]
    num_inner_steps: int
    affect: Tensor | None = None
    memory: ConversationMemory | None = None
    base: Tensor | None = None
    tokens: tuple[Tensor, Tensor, Tensor] | None = None
    recalled: list[Tensor] = field(default_factory=list)


@dataclass
class State:
    """What goes from step to step, and below it what every step leaves behind.

    Args:
        view: `(batch, d)`, what the present step sees of the text.
        answer, latent: `(batch, d)`, what is refined.
        targets: `(batch, T)`, the newest readout, in the head's own units.
        reflection: `(batch, d / 4)`.
        history: what the latents' attention reads.
        trajectory: `(batch, T)` per step.
        log_variances: `(batch, T)` per step; or what it is read from afterwards, for all steps at once.
        confidences: `(batch, 1)` per step.
        resonances: `(batch, d)`, what the memory will hold of this call.
        base: `(batch, T)`, what the answer is added to where that grows with the steps.
    """

    view: Tensor
    answer: Tensor
    latent: Tensor
    targets: Tensor
    reflection: Tensor | None
    history: History
    trajectory: list[Tensor] = field(default_factory=list)
    log_variances: list[Tensor] = field(default_factory=list)
    confidences: list[Tensor] = field(default_factory=list)
    resonances: list[Tensor] = field(default_factory=list)
    base: Tensor | None = None

    @property
    def mean_confidence(self) -> Tensor:
        """`(batch, 1)`, over the steps so far."""
        return torch.stack(self.confidences, dim=1).mean(1)

    def rows(self, index: Tensor) -> "State":
        """The state of some rows."""
        return _rows(self, index)


def _rows(value: Any, index: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[index]
    if isinstance(value, list):
        return [_rows(part, index) for part in value]
    if isinstance(value, History | State):
        return type(value)(**{name: _rows(part, index) for name, part in vars(value).items()})
    return value


class RecursiveHead(Head):
    """Refines a latent and an answer K times. `step` says what one outer step does; a subclass says how.

    The methods below change the state in place. A subclass creates the layers that they use: `ln_latent`, `latent` and
    `ln_z` for `refine_latent`, `affect_proj` and `affect_gate` for `apply_affect`, `ln_answer` and `answer` for
    `update_answer`. d is `latent_size`, T is the number of targets.
    """

    # Step sizes of the published line (LIMINAL Heartbeat); v7 keeps them. They are below 1, so that a step corrects the
    # state and does not replace it.
    latent_rate = 0.3
    affect_weight = 0.3
    answer_rate = 0.4
    ln_latent: nn.Module
    latent: nn.Module
    ln_z: nn.Module
    affect_proj: nn.Module
    affect_gate: nn.Module
    ln_answer: nn.Module
    answer: nn.Module

    def forward(self, inputs: HeadInput) -> HeadOutput:
        """As in `Head`."""
        shared = self.prepare(inputs)
        state = self.start(inputs, shared)
        for view in shared.views:  # K outer steps
            self.step(state, shared, view)
        return self.collect(state, shared)

    def step(self, state: State, shared: Shared, view: Tensor) -> None:
        """One outer step, which sees the view `(batch, d)`."""
        state.view = view
        for _ in range(shared.num_inner_steps):
            self.refine_latent(state, shared)  # latent (batch, d)
        self.apply_affect(state, shared)  # latent (batch, d), one more confidence (batch, 1)
        self.attend_history(state)  # latent (batch, d)
        self.recall_memory(state, shared)  # latent (batch, d)
        self.update_answer(state)  # answer (batch, d)
        self.read_targets(state, shared)  # targets (batch, T)
        state.trajectory.append(state.targets)
        self.reflect(state)  # reflection (batch, d / 4)

    def prepare(self, inputs: HeadInput) -> Shared:
        """What all steps share."""
        pooled = self.drop_out(inputs.pooled)
        views = self.views(pooled, inputs.num_outer_steps or self.config.num_outer_steps)
        memory = inputs.memory
        if memory is None and self.has_memory:
            batch, size = views[0].shape
            memory = ConversationMemory.empty(
                batch, self.config.memory_slots, size, views[0].device, views[0].dtype, self.config.num_labels
            )
        return Shared(
            views=views,
            num_inner_steps=inputs.num_inner_steps or self.config.num_inner_steps,
            affect=None if inputs.affect is None else self.from_label_units(inputs.affect),
            memory=memory,
            base=self.base(pooled),
        )

    def drop_out(self, pooled: Tensor) -> Tensor:
        """The pooled states as they are; a subclass may drop some in training."""
        return pooled

    def base(self, pooled: Tensor) -> Tensor | None:
        """Nothing here; a subclass may start from an estimate `(batch, T)` that every readout is added to."""
        return None

    def views(self, pooled: Tensor, count: int) -> list[Tensor]:
        """What each of `count` outer steps sees of the text, each `(batch, d)`."""
        raise NotImplementedError(f"{type(self).__name__} must define views(pooled, count) -> list of tensors.")

    def start(self, inputs: HeadInput, shared: Shared) -> State:
        """The state before the first step: zeros, or the answer that the caller gave."""
        zeros = torch.zeros_like(shared.views[0])
        answer = zeros if inputs.initial_answer is None else inputs.initial_answer
        # torch.compile can follow this call of History, but not the same one as a default_factory.
        base: Any = shared.base  # None before the first readout of a published head
        return State(shared.views[0], answer, zeros, targets=base, reflection=None, history=History())

    def refine_latent(self, state: State, shared: Shared) -> None:
        """latent <- LN(latent + 0.3 layers(LN [what the latent reads]))."""
        read = torch.cat(self.latent_inputs(state, shared), dim=-1)
        state.latent = self.ln_z(state.latent + self.latent_rate * self.latent(self.ln_latent(read)))

    def latent_inputs(self, state: State, shared: Shared) -> list[Tensor]:
        """What the latent reads: the view, the answer and itself."""
        return [state.view, state.answer, state.latent]

    def apply_affect(self, state: State, shared: Shared) -> None:
        """Adds the caller's affect through a gate; the gate's value is the step's confidence, 0 without affect."""
        if shared.affect is None:
            state.confidences.append(state.latent.new_zeros(state.latent.shape[0], 1))
        else:
            self.add_affect(state, shared.affect)

    def add_affect(self, state: State, affect: Tensor) -> None:
        """a = tanh(W affect); c = sigmoid(W [latent; a]); latent <- latent + 0.3 c a."""
        projected = self.affect_proj(affect)
        confidence = self.affect_gate(torch.cat([state.latent, projected], dim=-1))
        state.latent = state.latent + self.affect_weight * confidence * projected
        state.confidences.append(confidence)

    def attend_history(self, state: State) -> None:
        """Nothing here; a subclass lets the latent read its own earlier values."""

    def recall_memory(self, state: State, shared: Shared) -> None:
        """Nothing here; a subclass lets the latent read the conversation."""

    def update_answer(self, state: State) -> None:
        """answer <- answer + 0.4 layers(LN [answer; latent])."""
        read = self.ln_answer(torch.cat([state.answer, state.latent], dim=-1))
        state.answer = state.answer + self.answer_rate * self.answer(read)

    def read_targets(self, state: State, shared: Shared) -> None:
        """Sets `state.targets`, `(batch, T)`, from the answer or the latent."""
        raise NotImplementedError(f"{type(self).__name__} must define read_targets(state, shared).")

    def reflect(self, state: State) -> None:
        """Nothing here; a subclass sums the step up in `state.reflection`."""

    def collect(self, state: State, shared: Shared) -> HeadOutput:
        """The output after the last step."""
        trajectory = self.to_label_units(torch.stack(state.trajectory, dim=1))  # (batch, K, T)
        memory = None
        if self.has_memory and shared.memory is not None:
            memory = shared.memory.remember(torch.stack(state.resonances, dim=1), trajectory[:, -1])
        return HeadOutput(
            pad_trajectory=trajectory,
            confidences=torch.cat(state.confidences, dim=1),
            step_attentions=state.history.step_attentions(),
            reflection=state.reflection,
            answer=state.answer,
            latent=state.latent,
            log_variance=self.log_variance(torch.stack(state.log_variances, dim=1)) if state.log_variances else None,
            memory=memory,
        )

    def log_variance(self, values: Tensor) -> Tensor:
        """From what the steps have left in `log_variances`, `(batch, K, ...)`, to `(batch, K, T)`."""
        return values
