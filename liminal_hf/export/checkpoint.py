"""A checkpoint to export: where it is, the model, its tokenizer, and what is known of it.

Requires transformers; torch is loaded with the model.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..modeling.errors import LiminalError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from ..modeling.modeling_liminal import LiminalForPADRegression


@dataclass(frozen=True)
class Checkpoint:
    """Everything that an export writes."""

    model: "LiminalForPADRegression"
    tokenizer: "PreTrainedTokenizerBase | None" = None  # None for a model with no encoder
    # The change of an encoder that was trained by adapters, see `save_head_only`.
    low_rank: "dict[str, tuple[Tensor, Tensor]] | None" = None


def find_checkpoint(name: str | Path, adapters: bool = False) -> str:
    """The folder or Hub id to load: a run's folder stands for the checkpoint in it.

    Args:
        name: a run's folder, a checkpoint's folder, a Hub id, or a name in `liminal_hf.checkpoints`.
        adapters: whether the folder of a PEFT adapter will do; it can be read with, and not exported.

    Raises:
        FileNotFoundError: the folder holds no checkpoint, or there is neither a folder nor a Hub repository.
        LiminalError: it holds a model of another kind, an adapter, or pickled weights.

    Example:
        >>> import liminal_hf
        >>> find_checkpoint(liminal_hf.DEFAULT_CHECKPOINT) == liminal_hf.DEFAULT_CHECKPOINT
        True
    """
    from transformers import PreTrainedConfig

    from .. import checkpoints

    folder = Path(name)
    if not folder.exists() and str(name) in checkpoints:
        return checkpoints[str(name)]
    if (folder / "model" / "config.json").is_file():
        folder = folder / "model"
    if folder.is_dir():
        adapter = folder / "adapter_config.json"
        if adapter.is_file() and not (folder / "config.json").is_file():
            if adapters and _names_its_base(adapter):
                return str(folder)
            raise LiminalError(f"{name} holds only an adapter. Merge it: model.merge_and_unload().save_pretrained(DIR)")
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"There is no checkpoint in {name}: config.json is missing. Train one: "
                "liminal train hub_configs/minilm-emobank.yaml"
            )
        if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
            raise LiminalError(
                f"{folder} holds no safetensors. Pickled weights (*.bin) are neither loaded nor uploaded; convert them "
                "first with model.save_pretrained."
            )
        name = str(folder)
    elif folder.exists():
        raise LiminalError(f"{name} is a file; a checkpoint is a folder with config.json and weights, or a Hub id.")
    try:
        model_type = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    except OSError as error:
        raise FileNotFoundError(
            f"There is no checkpoint {str(name)!r}: no folder of that name here, and the Hub did not give it (a typing "
            "error, no network, or a private repository: hf auth login)."
        ) from error
    if model_type != "liminal":
        raise LiminalError(
            f"{name} is a model of type {model_type!r}, not a LIMINAL checkpoint. To put a head on this encoder, name "
            "it in a recipe (model: encoder:) and type: liminal train RECIPE"
        )
    return str(name)


def open_checkpoint(
    checkpoint_or_model: "str | Path | LiminalForPADRegression", tokenizer: "PreTrainedTokenizerBase | None" = None
) -> Checkpoint:
    """Loads a checkpoint with everything that an export needs.

    Args:
        checkpoint_or_model: as for `find_checkpoint`, or the model itself.
        tokenizer: default the checkpoint's; for a model in memory that of the checkpoint it came from, else the
            encoder's.

    Raises:
        FileNotFoundError: see `find_checkpoint`.
        LiminalError: see `find_checkpoint`; or the model is of another kind, or its tokenizer is not at hand.

    Example:
        >>> import liminal_hf
        >>> facts_of(open_checkpoint(liminal_hf.DEFAULT_CHECKPOINT).model)["license"]
        'cc-by-sa-4.0'
    """
    from transformers import PreTrainedModel

    from ..modeling.encoders import load_tokenizer
    from ..modeling.modeling_liminal import LiminalForPADRegression

    if isinstance(checkpoint_or_model, str | Path):
        source = find_checkpoint(checkpoint_or_model)
        model = LiminalForPADRegression.from_pretrained(source)
        if tokenizer is None and model.config.text_config is not None:
            tokenizer = load_tokenizer(source)
        return Checkpoint(model, tokenizer, _low_rank(source))
    # A class from a repository's own code is not our class, and an adapter passes our methods on.
    if not isinstance(checkpoint_or_model, PreTrainedModel) or not hasattr(checkpoint_or_model, "save_head_only"):
        raise LiminalError(
            f"This takes a checkpoint or a LiminalForPADRegression, got {type(checkpoint_or_model).__name__}. Merge an "
            "adapter first: model = model.merge_and_unload()"
        )
    model = checkpoint_or_model
    tokenizer = tokenizer or own_tokenizer(model)
    if tokenizer is None and model.config.text_config is not None:
        raise LiminalError("A model needs its tokenizer on the Hub: push(model, repo_id, tokenizer=tokenizer)")
    return Checkpoint(model, tokenizer)


def facts_of(model: "LiminalForPADRegression") -> dict[str, Any]:
    """What is known of a model as it is now, see `known_facts`."""
    from ..modeling.provenance import known_facts
    from .model_card import run_facts

    if getattr(model, "provenance", None) == {} and model.name_or_path:
        # The run of an older version: its facts lie beside the checkpoint.
        model.provenance = run_facts(model.name_or_path)
    return known_facts(model)


def own_tokenizer(model: "LiminalForPADRegression") -> "PreTrainedTokenizerBase | None":
    """The tokenizer of the checkpoint that the model came from, or the encoder's; None where neither is at hand."""
    from ..modeling.encoders import load_tokenizer

    try:
        return None if model.config.text_config is None else load_tokenizer(model)
    except LiminalError:
        return None


def _low_rank(source: str) -> "dict[str, tuple[Tensor, Tensor]] | None":
    """Low-rank pairs of a head-only checkpoint, or those that `fit` left beside its model."""
    from transformers.utils import cached_file

    beside = Path(source).resolve().parent / "low_rank.safetensors"
    if beside.is_file() and (beside.parent / "metrics.json").is_file():
        return low_rank_pairs(beside)
    file = cached_file(source, "model.safetensors", _raise_exceptions_for_missing_entries=False)
    return low_rank_pairs(file, "low_rank.") if file is not None else None


def low_rank_pairs(file: "str | Path", prefix: str = "") -> "dict[str, tuple[Tensor, Tensor]] | None":
    """The low-rank pairs (A, B) in a file of weights, by the name of the weight after `prefix`; None without any."""
    from safetensors import safe_open

    with safe_open(file, "pt") as weights:
        names = [name[:-2] for name in weights.keys() if name.startswith(prefix) and name.endswith(".A")]  # noqa: SIM118
        pairs = {name: (weights.get_tensor(f"{name}.A"), weights.get_tensor(f"{name}.B")) for name in names}
    return {name.removeprefix(prefix): pair for name, pair in pairs.items()} or None


def _names_its_base(path: Path) -> bool:
    """Whether an adapter's config is whole enough to load the model that it was trained on."""
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError):
        return False
