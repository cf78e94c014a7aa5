"""What is known of a checkpoint beyond its weights: licence, data, results, and the checkpoint it was trained from.

Requires torch and transformers. The facts lie in `provenance.json` beside the weights, and every save carries them on.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import cached_file

from .files import write_text

PROVENANCE_FILE = "provenance.json"
# Values that are compared per weight tensor: training changes nearly all of them.
_SAMPLES = 4096


def read_facts(source: str | Path, **hub_kwargs: Any) -> dict[str, Any]:
    """The facts of a checkpoint.

    Args:
        source: a folder or a Hub id.
        hub_kwargs: `revision`, `token`, `cache_dir` and kin, as in `from_pretrained`.

    Returns:
        The content of `provenance.json`; empty when the checkpoint has none.

    Example:
        >>> read_facts("no-such-folder", local_files_only=True)
        {}
    """
    lenient = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")}
    try:
        file = cached_file(str(source), PROVENANCE_FILE, **lenient, **hub_kwargs)
    except OSError:
        return {}
    return {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))


def remember_facts(model: PreTrainedModel, facts: dict[str, Any]) -> None:
    """Says what is known of a model's weights as they are now.

    Args:
        model: the model; `model.provenance` will hold the facts.
        facts: plain values for JSON: `license`, `language`, `datasets`, `metrics`, `recipe`, ... as in `build_card`.
    """
    model.provenance, model.provenance_checksum = facts, _checksum(model)


def known_facts(model: PreTrainedModel) -> dict[str, Any]:
    """What is known of a model as it is now.

    Args:
        model: the model.

    Returns:
        The facts that were remembered. Where the weights have changed since, they are those of the base: `base` holds
        them, `base_model` names it, and `trained_on` (`model.base_model.trained_on`) says what the training was on.
    """
    facts = getattr(model, "provenance", None)
    if facts is not None and _checksum(model) == model.provenance_checksum:
        return dict(facts)
    changed: dict[str, Any] = {}
    if facts is not None and (name := _base_name(model, facts)):
        changed["base_model"] = name
    if facts:
        changed["base"] = facts
    if trained_on := getattr(model.base_model, "trained_on", None):
        changed["trained_on"] = trained_on
    return changed


def write_facts(folder: str | Path, facts: dict[str, Any]) -> None:
    """Writes facts into the folder of a checkpoint; without any there is no such file."""
    file = Path(folder) / PROVENANCE_FILE
    if facts:
        write_text(file, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    else:
        file.unlink(missing_ok=True)


def _base_name(model: PreTrainedModel, facts: dict[str, Any]) -> str | None:
    """The Hub id of what was loaded, or the name in its facts; a folder of this machine says nothing elsewhere."""
    name = model.name_or_path
    if name and not Path(name).exists():
        return name
    return facts.get("repo_id") or facts.get("name") or (facts.get("recipe") or {}).get("name")


def _checksum(model: PreTrainedModel) -> list[int] | None:
    """Changes when the weights do, and not when they are stored in bfloat16; None for weights that are not all here."""
    sums = []
    for parameter in model.parameters():
        if hasattr(parameter, "full_tensor"):  # a shard of FSDP
            return None
        if parameter.device.type == "meta":
            continue
        values = parameter.detach().reshape(-1)[:: parameter.numel() // _SAMPLES + 1]
        if values.is_floating_point():
            values = values.to(torch.bfloat16).view(torch.int16)
        sums.append(int(values.long().sum()))
    return sums
