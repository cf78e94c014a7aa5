"""The folder that becomes a Hub repository: weights, code, tokenizer, card and what else travels.

Requires torch, transformers and huggingface_hub. What travels: safetensors, config, the flat modeling code, the
tokenizer, the model card and its facts. What stays home: pickles, the state of a training run, paths of this machine.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.utils import filter_repo_objects
from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from ..io import folder_sha256, write_text
from ..modeling.configuration_liminal import LiminalConfig
from ..modeling.encoders import resolve_encoder
from ..modeling.errors import LiminalError
from ..modeling.modeling_liminal import LiminalForPADRegression
from ..modeling.provenance import write_facts
from . import handler as handler_module
from .checkpoint import Checkpoint, facts_of, own_tokenizer
from .model_card import REQUIREMENT, build_card, portable_facts

logger = logging.getLogger(__name__)

# Pickles run code when they are loaded, and the rest says more about the run than anyone else should know.
STAYS_HOME = [
    *("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.npz"),
    *("training_args*", "optimizer*", "scheduler*", "scaler*", "rng_state*", "trainer_state.json", "manifest.json"),
    *("checkpoint-*/*", "runs/*", "*.tfevents.*", "_*", ".*"),
]
_TOKENIZER = "tokenizer_config.json"
# The cards that transformers writes by itself, for a model and for a run of its Trainer.
_STOCK_CARD = re.compile(r"has been automatically generated|has been generated automatically")
_TEXT = {".json", ".jinja", ".md", ".py", ".txt", ".yaml", ".yml"}
# A vocabulary may well hold "/home/" as a word.
_VOCABULARIES = {"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json"}
_LOCAL_PATH = re.compile(
    r"(?<![\w.:/~-])/(?:home|Users|root|tmp|var|mnt|media|private|opt|srv|data|workspace|content|kaggle|scratch)/"
    r"[^\s\"'`,)\]]+|(?<!\w)[A-Za-z]:\\{1,2}Users\\[^\s\"'`,)\]]+"
)


def write_repository(
    checkpoint: Checkpoint,
    folder: str | Path,
    *,
    facts: Mapping[str, Any] | None = None,
    head_only: bool = False,
    handler: bool = False,
) -> None:
    """Writes everything that a repository holds into a folder.

    Args:
        checkpoint: the model, its tokenizer and the change of its encoder; see `open_checkpoint`.
        folder: where to write; created when it is not there.
        facts: for the card, beyond what is known of the model; see `build_card`. The sha256 of the weights and the
            encoder's licence are added.
        head_only: see `save_head_only`.
        handler: also writes `handler.py`.

    Raises:
        LiminalError: a path of this machine is in a file.
    """
    model, folder = checkpoint.model, Path(folder)
    origin = model.config.encoder_name_or_path
    if head_only and origin is not None and Path(origin).exists():
        raise LiminalError(
            f"A head-only upload names its encoder, and {origin} is a folder of this machine. Set "
            "model.config.encoder_name_or_path to its Hub id, or push with head_only=False."
        )
    if head_only:
        model.save_head_only(folder, low_rank=checkpoint.low_rank)
    else:
        model.save_pretrained(folder)
    _write_card(model, folder, _all_facts(model, facts))
    if handler:
        write_handler(folder)
    _finish_folder(folder, checkpoint.tokenizer)


def finish_upload(
    model: LiminalForPADRegression,
    folder: str | Path,
    repo_id: str,
    token: bool | str | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Completes a folder that transformers is about to upload: our card instead of its own, the tokenizer, no paths.

    `model.push_to_hub` and `LiminalTrainer` call it. A card that somebody wrote by hand stays as it is, and so does a
    tokenizer that is in the repository already.

    Args:
        model: what was saved in the folder.
        folder: where `save_pretrained` has written.
        repo_id: where it is going.
        token: as in transformers.
        tokenizer: default the one of the checkpoint that the model was loaded from, else the encoder's own.
        facts: for the card, beyond what is known of the model.

    Raises:
        LiminalError: a path of this machine is in a file.
    """
    folder, all_facts = Path(folder), _all_facts(model, {**(facts or {}), "repo_id": repo_id})
    card_file = folder / "README.md"
    card = ModelCard.load(card_file, ignore_metadata_errors=True) if card_file.is_file() else None
    if card is None or _STOCK_CARD.search(card.text) or "weights_sha256" in card.data:
        _write_card(model, folder, all_facts)
    else:
        write_facts(folder, all_facts)
    if tokenizer is None and model.config.text_config is not None and not (folder / _TOKENIZER).is_file():
        api = HfApi(library_name="liminal_hf", token=token)
        tokenizer = None if api.file_exists(repo_id, _TOKENIZER) else own_tokenizer(model)
    _finish_folder(folder, tokenizer)


def write_adapter_card(model: Any, folder: str | Path) -> None:
    """Writes our card and the facts of the base into the folder of a PEFT adapter (`model` is the PeftModel)."""
    base, folder = model.get_base_model(), Path(folder)
    # PEFT puts its weights into the model, so what is known of it are the facts of its base.
    facts = {**facts_of(base), "repo_id": f"OWNER/{folder.resolve().name}"}
    write_facts(folder, facts)
    build_card(base.config, {**facts, "form": "adapter"}).save(folder / "README.md")


def _all_facts(model: LiminalForPADRegression, facts: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is known of a model and what the caller adds; figures that belong to these very weights stay."""
    known = facts_of(model)
    merged = {**known, **(facts or {}), **({"metrics": known["metrics"]} if "metrics" in known else {})}
    if "encoder_license" not in merged and (license_id := _encoder_license(model.config)):
        merged["encoder_license"] = license_id
    return portable_facts(merged)


def _write_card(model: LiminalForPADRegression, folder: Path, facts: dict[str, Any]) -> None:
    """Writes the facts and the card."""
    write_facts(folder, facts)
    weights = folder_sha256(folder, "*.safetensors")
    build_card(model.config, {**facts, "weights_sha256": weights}).save(folder / "README.md")


def _finish_folder(folder: Path, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Adds the tokenizer, takes the folder that the encoder came from out of the config, and looks for other paths."""
    config_file = folder / "config.json"
    content = json.loads(config_file.read_text(encoding="utf-8"))
    origin = content.get("encoder_name_or_path")
    if origin is not None and Path(origin).exists():
        # The weights are in the folder; where the encoder lay on this machine is nobody's business.
        content["encoder_name_or_path"] = content["encoder_revision"] = None
        write_text(config_file, json.dumps(content, indent=2, sort_keys=True) + "\n")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if hits := local_paths(folder, [str(Path(text).resolve()) for text in (folder, origin or folder)]):
        raise LiminalError(f"Nothing was uploaded, because paths of this machine are in the files: {'; '.join(hits)}")


def write_handler(folder: str | Path) -> None:
    """Writes `handler.py` and `requirements.txt`, what an Inference Endpoint looks for, into a repository's folder."""
    shutil.copyfile(str(handler_module.__file__), Path(folder) / "handler.py")
    (Path(folder) / "requirements.txt").write_text(f"{REQUIREMENT}\n", encoding="utf-8")


def local_paths(folder: str | Path, known: list[str] | None = None) -> list[str]:
    """Paths of this machine in a folder's text files, as "file: path"; what is never uploaded is not looked at.

    Args:
        folder: the folder.
        known: paths that are looked for literally, also in vocabularies, beside everything that looks like a home or a
            temporary folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.json").write_text('{"model": "/home/me/model"}')
        ...     local_paths(folder)
        ['a.json: /home/me/model']
    """
    found = []
    paths = (path for path in Path(folder).rglob("*") if path.suffix in _TEXT and path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    for name in filter_repo_objects(names, ignore_patterns=STAYS_HOME):
        text = Path(folder, name).read_text(encoding="utf-8")
        hits = [place for place in known or [] if place in text]
        if Path(name).name not in _VOCABULARIES:
            hits += _LOCAL_PATH.findall(text)
        found += [f"{name}: {hit}" for hit in dict.fromkeys(hits)]
    return found


def _encoder_license(config: LiminalConfig) -> str | None:
    """The licence in the encoder's own card, where that is at hand."""
    if not config.encoder_name_or_path:
        return None
    source, revision = resolve_encoder(config.encoder_name_or_path, config.encoder_revision)
    try:
        card = cached_file(source, "README.md", revision=revision, _raise_exceptions_for_missing_entries=False)
    except OSError:
        return None
    return None if card is None else ModelCard.load(card, ignore_metadata_errors=True).data.get("license")
