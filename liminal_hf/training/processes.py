"""Several processes: how a launcher's wish becomes processes that really train together, also without a GPU.

Requires accelerate and torch.
"""

import os
from typing import Any

import torch
from accelerate import PartialState

from ..modeling.errors import LiminalError

_WORLD = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def _launched() -> int:
    """How many processes the launcher (torchrun, accelerate, mpirun) has started."""
    return max(int(os.environ.get(name) or 1) for name in _WORLD)


def cpu_settings() -> dict[str, Any]:
    """What `TrainingArguments` need so that processes without a GPU train together; nothing where one trains alone."""
    alone = _launched() == 1 or torch.accelerator.is_available()
    return {} if alone else {"use_cpu": True, "ddp_backend": "gloo"}


def start_processes() -> PartialState:
    """Joins the processes of the launcher, by gloo where there is no GPU; raises what `check_launch` raises."""
    check_launch()
    # Left to itself, accelerate takes processes without a GPU for as many single ones.
    return PartialState(cpu=True, backend="gloo") if cpu_settings() else PartialState()


def check_launch(world_size: int | None = None) -> None:
    """Refuses a launch that asked for several processes and got processes that train alone.

    Args:
        world_size: how many processes train together, as `TrainingArguments.world_size` says; None if not yet known.

    Raises:
        LiminalError: `accelerate launch --cpu` has started a single process although it was asked for more, or the
            started processes do not know of each other.
    """
    command = "torchrun --standalone --nproc_per_node 2 -m liminal_hf train RECIPE (or your script)"
    started = _launched()
    # `accelerate launch --cpu` sets an address for the processes and starts one.
    if started == 1 and os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and os.environ.get("MASTER_PORT"):
        raise LiminalError(
            "accelerate launch was asked for several processes on the CPU, and it has started one: that is how its "
            f"--cpu works. Type instead: {command}. For one process, leave --num_processes out."
        )
    if world_size == 1 and started > 1:
        raise LiminalError(
            f"The launcher has started {started} processes, and each would train alone on all rows. Give "
            "LiminalTrainingArguments to the trainer, or TrainingArguments(use_cpu=True, ddp_backend='gloo')."
        )
