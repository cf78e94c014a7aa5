"""What several commands share: the checkpoint to load, progress, JSON without NaN.

Requires typer and rich; torch and transformers are imported when a model is loaded.
"""

import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

if TYPE_CHECKING:
    from ..modeling.modeling_liminal import LiminalForPADRegression

Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="A checkpoint's folder, a run's folder, or a Hub id.")
]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="A checkpoint's folder or a Hub id.", show_default="our own")
]


def find_checkpoint(name: str) -> str:
    """The folder or Hub id to read with, see `liminal_hf.export.checkpoint`."""
    from ..export.checkpoint import find_checkpoint

    return find_checkpoint(name, adapters=True)


def load(checkpoint: str) -> "tuple[LiminalForPADRegression, Any]":
    """The model in evaluation mode, on the GPU if there is one, and its tokenizer.

    Raises:
        OSError: see `find_checkpoint`; also when a head-only checkpoint's encoder is not available.
        ValueError: the model has no encoder, so that it can't read texts.
    """
    import torch
    from transformers.utils import logging

    from ..modeling.encoders import load_tokenizer
    from ..modeling.modeling_liminal import LiminalForPADRegression
    from ..modeling.texts import with_padding

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = find_checkpoint(checkpoint)
    model = LiminalForPADRegression.from_pretrained(source).eval()
    if model.config.text_config is None:
        raise ValueError(
            f"{checkpoint} has no encoder: it takes vectors, not texts. In Python: model(pooled_embeds=vectors)"
        )
    tokenizer = with_padding(load_tokenizer(source))
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def progress(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """Shows a bar on a terminal, when there is more than one item to wait for."""
    console = Console(stderr=True)
    if total < 2 or not console.is_terminal:
        return items
    return track(items, what, total=total, console=console, transient=True)


def print_json(value: dict[str, Any]) -> None:
    """Prints one line of JSON."""

    def plain(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: plain(inner) for key, inner in item.items()}
        # JSON has no NaN.
        return None if isinstance(item, float) and not math.isfinite(item) else item

    print(json.dumps(plain(value), ensure_ascii=False))


def figure(value: float | None, digits: int = 4) -> str:
    """A number for a table; a hyphen where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"
