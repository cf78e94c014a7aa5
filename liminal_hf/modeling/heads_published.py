"""The recursive heads published as LIMINAL Heartbeat (Neurolab, MIT): v1, v2, v3, v4 and v6.

Requires torch. Each class says only what it adds to the one before. The published trainer fed the labels to the heads
as affect; ours never does. x is the view of the text, y the answer, z the latent.
"""

import torch
from torch import Tensor, nn

from .configuration_liminal import LiminalConfig
from .errors import LiminalError
from .heads import HEADS, HistoryAttention, RecursiveHead, Shared, State, rinse_layers, two_layers
from .memory import PublishedSoulKernel


@HEADS.register("v1")
class LiminalV1(RecursiveHead):
    """The recursion: n refinements of the latent z, an affect gate, one refinement of the answer y, K times.

    z <- LN(z + 0.3 latent(LN [x; y; z])); with affect a: z <- z + 0.3 g tanh(W a), g = sigmoid(W [z; tanh(W a)]);
    y <- y + 0.4 answer(LN [y; z]). It was published without a readout: the linear one of y is ours. (v1)

    Example:
        >>> from liminal_hf import HeadInput
        >>> config = LiminalConfig(pooled_size=8, head="v1", latent_size=16)
        >>> output = LiminalV1(config, 8)(HeadInput(torch.randn(2, 8)))
        >>> output.answer.shape, output.pad_trajectory.shape
        (torch.Size([2, 16]), torch.Size([2, 5, 3]))
    """

    z_scored = False

    def __init__(self, config: LiminalConfig, pooled_size: int) -> None:
        super().__init__(config, pooled_size)
        size = config.latent_size
        if not config.project_pooled and pooled_size != size:
            raise LiminalError(
                f"project_pooled=False needs latent_size to equal the pooled size {pooled_size}, got {size}. Set "
                f"latent_size={pooled_size}, or project_pooled=True."
            )
        self.projection = nn.Linear(pooled_size, size) if config.project_pooled else nn.Identity()
        self.ln_latent = nn.LayerNorm(3 * size)
        self.latent = two_layers(3 * size, 2 * size, size)
        self.ln_z = nn.LayerNorm(size)
        self.affect_proj = nn.Sequential(nn.Linear(config.num_labels, size), nn.Tanh())
        self.affect_gate = nn.Sequential(nn.Linear(2 * size, 1), nn.Sigmoid())
        self.ln_answer = nn.LayerNorm(2 * size)
        self.answer = two_layers(2 * size, 2 * size, size)
        self.add_readout(config)

    def add_readout(self, config: LiminalConfig) -> None:
        """Creates the layers that `read_targets` uses."""
        self.readout = nn.Linear(config.latent_size, config.num_labels)

    def views(self, pooled: Tensor, count: int) -> list[Tensor]:
        """All steps see the same."""
        return [self.projection(pooled)] * count

    def read_targets(self, state: State, shared: Shared) -> None:
        """A linear readout of the answer."""
        state.targets = self.readout(state.answer)


@HEADS.register("v2")
class LiminalV2(LiminalV1):
    """v1 and attention of the latent over its own history: z <- LN(z + out), from the second step on. (v2)"""

    def __init__(self, config: LiminalConfig, pooled_size: int) -> None:
        super().__init__(config, pooled_size)
        self.attn_core = HistoryAttention(config.latent_size)

    def attend_history(self, state: State) -> None:
        """The first step can only read itself, so it enters the history and changes nothing, as published."""
        read = self.attn_core(state.latent, state.history)
        if len(state.history.weights) > 1:
            state.latent = self.ln_z(state.latent + read)


@HEADS.register("v3")
class LiminalV3(LiminalV2):
    """v2 and a readout from the latent: targets = tanh(W GELU(W z)), in -1..1. (v3)"""

    def add_readout(self, config: LiminalConfig) -> None:
        """As in `LiminalV1`."""
        size = config.latent_size
        self.pad_head = nn.Sequential(*two_layers(size, size // 2, config.num_labels), nn.Tanh())

    def read_targets(self, state: State, shared: Shared) -> None:
        """The readout of the latent."""
        state.targets = self.pad_head(state.latent)


@HEADS.register("v4")
class LiminalV4(LiminalV3):
    """v3 and RINSE, a reflection that nothing reads: tanh(W GELU(W [z; targets; mean confidence])). (v4)

    As published it has no effect on the targets; v7 feeds it back.
    """

    def __init__(self, config: LiminalConfig, pooled_size: int) -> None:
        super().__init__(config, pooled_size)
        self.rinse = rinse_layers(config)

    def reflect(self, state: State) -> None:
        """The reflection on the steps so far; the last one is the published one."""
        state.reflection = self.rinse(torch.cat([state.latent, state.targets, state.mean_confidence], dim=-1))


@HEADS.register("v6")
class LiminalV6(LiminalV3):
    """v3 and SoulKernel, a memory of r = tanh(z + y) that is written once per outer step. (v6)

    Without a memory given, a call still reads its own earlier steps, as published.
    """

    has_memory = True

    def __init__(self, config: LiminalConfig, pooled_size: int) -> None:
        super().__init__(config, pooled_size)
        self.soul_kernel = PublishedSoulKernel()

    def recall_memory(self, state: State, shared: Shared) -> None:
        """Reads the memory and this call's earlier steps, then adds this step's r to the latter."""
        assert shared.memory is not None
        remembered, count = shared.memory.slots, shared.memory.count
        if state.resonances:
            remembered = torch.cat([remembered, torch.stack(state.resonances, dim=1)], dim=1)
            count = count + len(state.resonances)
        resonance, faith = torch.tanh(state.latent + state.answer), state.mean_confidence.sqrt()
        state.latent, resonance = self.soul_kernel(
            state.view, state.answer, state.latent, resonance, faith, remembered, count
        )
        state.resonances.append(resonance)
