"""What several commands share: the checkpoint to load, progress, JSON without NaN.

Requires typer and rich; torch and transformers are imported when a model is loaded.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
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
    """The folder or Hub id to load: a run's folder stands for the checkpoint in it.

    Raises:
        FileNotFoundError: the folder holds no checkpoint, or there is neither a folder nor a Hub repository.
        ValueError: it holds a model of another kind.
    """
    from transformers import PreTrainedConfig

    folder = Path(name)
    if (folder / "model" / "config.json").is_file():
        folder = folder / "model"
    if folder.is_dir():
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            raise ValueError(f"{name} holds only an adapter. Merge it: model.merge_and_unload().save_pretrained(DIR)")
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{name} is a folder without a checkpoint (no config.json). Train one: "
                "liminal train hub_configs/minilm-emobank.yaml"
            )
        name = str(folder)
    elif folder.exists():
        raise ValueError(f"{name} is a file; a checkpoint is a folder with config.json and weights, or a Hub id.")
    try:
        model_type = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    except OSError as error:
        raise FileNotFoundError(
            f"There is no checkpoint {name!r}: no folder of that name here, and the Hub did not give it (a typing "
            "error, no network, or a private repository: hf auth login)."
        ) from error
    if model_type != "liminal":
        raise ValueError(
            f"{name} is a model of type {model_type!r}, not a LIMINAL checkpoint. To put a head on this encoder, name "
            "it in a recipe (model: encoder:) and type: liminal train RECIPE"
        )
    return name


def load(checkpoint: str) -> "tuple[LiminalForPADRegression, Any]":
    """The model in evaluation mode, on the GPU if there is one, and its tokenizer.

    Raises:
        OSError: see `find_checkpoint`; also when a head-only checkpoint's encoder is not available.
        ValueError: the model has no encoder, so that it can't read texts.
    """
    import torch
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from ..modeling.modeling_liminal import LiminalForPADRegression

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = find_checkpoint(checkpoint)
    model = LiminalForPADRegression.from_pretrained(source).eval()
    if model.config.text_config is None:
        raise ValueError(
            f"{checkpoint} has no encoder: it takes vectors, not texts. In Python: model(pooled_embeds=vectors)"
        )
    tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def progress(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """Shows a bar on a terminal, when there is more than one item to wait for."""
    console = Console(stderr=True)
    if total < 2 or not console.is_terminal:
        return items
    return track(items, what, total=total, console=console, transient=True)


def print_json(value: dict[str, Any]) -> None:
    def plain(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: plain(inner) for key, inner in item.items()}
        # JSON has no NaN.
        return None if isinstance(item, float) and not math.isfinite(item) else item

    print(json.dumps(plain(value), ensure_ascii=False))


def figure(value: float | None, digits: int = 4) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"
