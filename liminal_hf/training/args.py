"""The settings of a training: those of transformers, and three that a LIMINAL model wants beside them.

Requires transformers and accelerate.
"""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from ..modeling.errors import LiminalError
from .processes import cpu_settings


@dataclass
class LiminalTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with `ema_decay`, `head_learning_rate` and `layer_decay`.

    `HfArgumentParser` reads it from the command line, a dict, JSON or YAML. Several processes on a machine without a
    GPU (torchrun) train together without further settings.

    Args:
        ema_decay: decay of the averaged weights, 0 <= decay < 1 (0.99 to 0.9999); None for none.
        head_learning_rate: learning rate of everything but the encoder; None takes `learning_rate`.
        layer_decay: factor on the learning rate from each encoder layer to the one below it, above 0 and at most 1.

    Raises:
        LiminalError: one of the three is out of its range.

    Example:
        >>> from transformers import HfArgumentParser
        >>> line = ["--output_dir", "run", "--ema_decay", "0.99", "--layer_decay", "0.9"]
        >>> (args,) = HfArgumentParser(LiminalTrainingArguments).parse_args_into_dataclasses(line)
        >>> args.ema_decay, args.head_learning_rate, args.layer_decay
        (0.99, None, 0.9)
    """

    ema_decay: float | None = field(
        default=None, metadata={"help": "Decay of the averaged weights (0.99 to 0.9999); without it none are kept."}
    )
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of everything but the encoder (default: --learning_rate)."}
    )
    layer_decay: float = field(
        default=1.0,
        metadata={"help": "Factor on the learning rate from each encoder layer to the one below it, at most 1."},
    )

    def __post_init__(self) -> None:
        """Checks the three fields, and lets processes without a GPU find each other."""
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise LiminalError(
                f"ema_decay must be in 0..1 (below 1), got {self.ema_decay}. Usual: 0.99 to 0.9999; None: no average."
            )
        if self.head_learning_rate is not None and not 0 <= self.head_learning_rate < float("inf"):
            raise LiminalError(f"head_learning_rate must be a number from 0, got {self.head_learning_rate}.")
        if not 0 < self.layer_decay <= 1:
            raise LiminalError(f"layer_decay must be above 0 and at most 1, got {self.layer_decay}.")
        for name, value in cpu_settings().items():
            if not getattr(self, name):
                setattr(self, name, value)
        super().__post_init__()
