"""From a checkpoint to a Hub repository that loads without this package, and proof that it does.

Requires torch, transformers and huggingface_hub. What travels: safetensors, config, the flat modeling code, the
tokenizer and the model card. What stays home: pickles, the state of a training run, paths of this machine.
"""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, ModelCard, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import filter_repo_objects, validate_repo_id
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from ..io import file_sha256
from ..modeling.configuration_liminal import LiminalConfig
from ..modeling.encoders import resolve_encoder
from ..modeling.modeling_liminal import LiminalForPADRegression
from . import handler as handler_module
from . import reload
from .model_card import REQUIREMENT, build_card, plugins, run_facts

logger = logging.getLogger(__name__)

# Pickles run code when they are loaded, and the rest says more about the run than anyone else should know.
STAYS_HOME = [
    *("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.npz"),
    *("training_args*", "optimizer*", "scheduler*", "scaler*", "rng_state*", "trainer_state.json", "manifest.json"),
    *("checkpoint-*/*", "runs/*", "*.tfevents.*", "_*", ".*"),
]
SAMPLES = [
    "What a lovely surprise!",
    "They never listened to us.",
    "The report has forty pages.",
    "I was so scared that I could not move, and nobody came, although I had called and called for half an hour.",
]
# The base class of everything that the HTTP client raises (httpx or httpx2, by the version of huggingface_hub).
_HTTPError: type[Exception] = HfHubHTTPError.__mro__[1]
_TOKENIZER = "tokenizer_config.json"
# The cards that transformers writes by itself, for a model and for a run of its Trainer.
_STOCK_CARD = re.compile(r"has been automatically generated|has been generated automatically")
_SHARDS = ["model*.safetensors", "model.safetensors.index.json"]
_TEXT = {".json", ".jinja", ".md", ".py", ".txt", ".yaml", ".yml"}
# A vocabulary may well hold "/home/" as a word.
_VOCABULARIES = {"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json"}
_LOCAL_PATH = re.compile(
    r"(?<![\w.:/~-])/(?:home|Users|root|tmp|var|mnt|media|private|opt|srv|data|workspace|content|kaggle|scratch)/"
    r"[^\s\"'`,)\]]+|(?<!\w)[A-Za-z]:\\{1,2}Users\\[^\s\"'`,)\]]+"
)


class PushError(RuntimeError):
    """The Hub or the network refused; the message says what to do next."""


@dataclass(frozen=True)
class PushResult:
    """What a push left on the Hub.

    Args:
        repo_id: "owner/name".
        url: of the commit.
        commit: its id; `revision=commit` loads exactly this.
        files: the files of the folder that was uploaded.
        verified: True when the reloaded model gave the same logits, bit for bit; None when that was not asked for.
    """

    repo_id: str
    url: str
    commit: str
    files: tuple[str, ...]
    verified: bool | None


def push(
    checkpoint_or_model: str | Path | LiminalForPADRegression,
    repo_id: str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    head_only: bool = False,
    handler: bool = False,
    verify: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> PushResult:
    """Uploads a model with its code, tokenizer and card, then reloads it without this package and compares.

    Args:
        checkpoint_or_model: a run's folder, a checkpoint folder, or the model itself.
        repo_id: "owner/name"; created when it is not there.
        tokenizer: for a model in memory; default the encoder's own.
        private: whether a repository that is created is private; default the account's setting.
        token: default the one of `hf auth login` or `HF_TOKEN`.
        revision: branch to upload to; created when it is not there.
        commit_message: default "Upload <name> with liminal_hf".
        head_only: leaves the encoder out (see `save_head_only`); who loads it fetches the encoder from where it came.
        handler: also writes `handler.py` for Inference Endpoints.
        verify: whether to reload from the Hub, in a process that cannot import this package, and compare the logits of
            sample sentences bit for bit.
        facts: what the card should say beyond what the run recorded, see `build_card`.

    Raises:
        PushError: the token, the permission or the network failed, or the reloaded model differs.
        ValueError: the name is no repository's, the checkpoint holds only pickles or an adapter, or a path of this
            machine is in a file.
        FileNotFoundError: there is no checkpoint.

    Example:
        >>> result = push("runs/minilm", "me/minilm-pad")  # doctest: +SKIP
        >>> result.verified  # doctest: +SKIP
        True
    """
    validate_repo_id(repo_id)
    model, tokenizer, recorded, low_rank = open_checkpoint(checkpoint_or_model, tokenizer)
    api = HfApi(library_name="liminal_hf", token=token)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "repository"
        known = {**recorded, **(facts or {}), "repo_id": repo_id}
        write_repository(
            model, folder, tokenizer=tokenizer, facts=known, head_only=head_only, handler=handler, low_rank=low_rank
        )
        files = tuple(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()))
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                commit_message=commit_message or f"Upload {repo_id.split('/')[-1]} with liminal_hf",
                ignore_patterns=list(STAYS_HOME),
                # Shards of an earlier, larger upload would be loaded beside the new weights.
                delete_patterns=_SHARDS,
            )
        except (_HTTPError, RuntimeError, OSError) as error:
            raise PushError(_advice(error, repo_id)) from error
        if verify:
            _verify(model, tokenizer, repo_id, commit.oid, token, Path(work))
    return PushResult(repo_id, commit.commit_url, commit.oid, files, True if verify else None)


def write_repository(
    model: LiminalForPADRegression,
    folder: str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    facts: Mapping[str, Any] | None = None,
    head_only: bool = False,
    handler: bool = False,
    low_rank: dict[str, tuple[Tensor, Tensor]] | None = None,
) -> None:
    """Writes everything that a repository holds into a folder.

    Args:
        model: the model.
        folder: where to write; created when it is not there.
        tokenizer: None for a model with no encoder.
        facts: for the card, see `build_card`; the sha256 of the weights and the encoder's licence are added.
        head_only, low_rank: see `save_head_only`.
        handler: also writes `handler.py`.

    Raises:
        ValueError: a path of this machine is in a file.
    """
    folder = Path(folder)
    config = model.config
    origin = config.encoder_name_or_path, config.encoder_revision
    if origin[0] is not None and Path(origin[0]).exists():
        if head_only:
            raise ValueError(
                f"A head-only upload names its encoder, and {origin[0]} is a folder of this machine. Set "
                "model.config.encoder_name_or_path to its Hub id, or push with head_only=False."
            )
        # The weights are in the folder; where the encoder lay on this machine is nobody's business.
        config.encoder_name_or_path = config.encoder_revision = None
    try:
        if head_only:
            model.save_head_only(folder, low_rank=low_rank)
        else:
            model.save_pretrained(folder)
        weights = {path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))}
        known = {"encoder_license": _encoder_license(config), **(facts or {}), "weights_sha256": weights}
        build_card(config, known).save(folder / "README.md")
    finally:
        config.encoder_name_or_path, config.encoder_revision = origin
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if handler:
        write_handler(folder)
    found = local_paths(folder, [str(Path(text).resolve()) for text in (folder, origin[0] or folder)])
    if found:
        raise ValueError(f"Nothing was uploaded, because paths of this machine are in the files: {'; '.join(found)}")


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
        facts: for the card; default what the run recorded, if the model was loaded from it and has not changed since.

    Raises:
        ValueError: a path of this machine is in a file.
    """
    folder, source = Path(folder), Path(model.name_or_path or "")
    config_file = folder / "config.json"
    content = json.loads(config_file.read_text(encoding="utf-8"))
    origin = content.get("encoder_name_or_path")
    if origin is not None and Path(origin).exists():
        content["encoder_name_or_path"] = content["encoder_revision"] = None
        config_file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    card_file = folder / "README.md"
    card = ModelCard.load(card_file, ignore_metadata_errors=True) if card_file.is_file() else None
    if card is None or _STOCK_CARD.search(card.text) or "weights_sha256" in card.data:
        weights = {path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))}
        unchanged = bool(model.name_or_path) and all(
            (source / name).is_file() and file_sha256(source / name) == digest for name, digest in weights.items()
        )
        known = facts if facts is not None else run_facts(source) if unchanged else {}
        known = {"encoder_license": _encoder_license(model.config), "repo_id": repo_id, **known}
        build_card(model.config, {**known, "weights_sha256": weights}).save(card_file)
    if tokenizer is None and model.config.text_config is not None and not (folder / _TOKENIZER).is_file():
        api = HfApi(library_name="liminal_hf", token=token)
        tokenizer = None if api.file_exists(repo_id, _TOKENIZER) else _own_tokenizer(model)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    found = local_paths(folder, [str(Path(text).resolve()) for text in (folder, origin or folder)])
    if found:
        raise ValueError(f"Nothing was uploaded, because paths of this machine are in the files: {'; '.join(found)}")


def verify_weights(checkpoint: str | Path, *, revision: str | None = None, token: str | None = None) -> dict[str, str]:
    """Compares a checkpoint's weights with the sha256 in its card, which `push` and `export` write there.

    safetensors files have no checksum of their own: a flipped bit loads without a word.

    Args:
        checkpoint: a folder or a Hub id.
        revision: branch, tag or commit on the Hub.
        token: default the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        The sha256 of each file of weights, by its name; all are as the card says.

    Raises:
        FileNotFoundError: there is no such checkpoint, or it lacks a file that its card names.
        ValueError: there is no card with checksums, a file has another sha256, or one is not named in the card.

    Example:
        >>> import liminal_hf
        >>> list(verify_weights(liminal_hf.DEFAULT_CHECKPOINT))
        ['model.safetensors']
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        options: dict[str, Any] = {"revision": revision, "token": token, "allow_patterns": ["README.md", *_SHARDS]}
        try:
            folder = Path(snapshot_download(str(checkpoint), **options))
        except (_HTTPError, OSError, HFValidationError) as error:
            raise FileNotFoundError(f"There is no folder {checkpoint}, and the Hub did not give it: {error}") from error
    card = folder / "README.md"
    told = ModelCard.load(card, ignore_metadata_errors=True).data.get("weights_sha256") if card.is_file() else None
    if not isinstance(told, dict) or not told:
        raise ValueError(
            f"{checkpoint} has no card with the sha256 of its weights. `liminal push` and `liminal export` write one."
        )
    present = {path.name for path in folder.glob("*.safetensors")}
    if present != set(told):
        error_type = FileNotFoundError if set(told) - present else ValueError
        raise error_type(
            f"{checkpoint}: the card names {sorted(told)}, and there is {sorted(present)}. Download it again, or do "
            "not use it."
        )
    found = {name: file_sha256(folder / name) for name in sorted(told)}
    for name, digest in found.items():
        if digest != told[name]:
            raise ValueError(
                f"{checkpoint}: {name} has the sha256 {digest}, and its card says {told[name]}. The file was damaged "
                "or changed: download it again, or do not use it."
            )
    return found


def _own_tokenizer(model: LiminalForPADRegression) -> PreTrainedTokenizerBase | None:
    """The tokenizer of the checkpoint that the model came from, or the encoder's; None where it is not at hand."""
    if model.name_or_path:
        try:
            return AutoTokenizer.from_pretrained(model.name_or_path)
        except (OSError, ValueError):
            pass  # a checkpoint without one: the encoder's then
    try:
        return _encoder_tokenizer(model.config)
    except ValueError:
        logger.warning("The tokenizer is not at hand, so the repository goes without: tokenizer.push_to_hub(repo_id)")
        return None


def write_handler(folder: str | Path) -> None:
    """Writes `handler.py` and `requirements.txt`, what an Inference Endpoint looks for, into a repository's folder.

    Args:
        folder: a folder with a checkpoint.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_handler(folder)
        ...     sorted(os.listdir(folder))
        ['handler.py', 'requirements.txt']
    """
    shutil.copyfile(str(handler_module.__file__), Path(folder) / "handler.py")
    (Path(folder) / "requirements.txt").write_text(f"{REQUIREMENT}\n", encoding="utf-8")


def local_paths(folder: str | Path, known: list[str] | None = None) -> list[str]:
    """Paths of this machine in a folder's text files, as "file: path"; what is never uploaded is not looked at.

    Args:
        folder: the folder.
        known: paths that are looked for literally, also in vocabularies, beside everything that looks like a home or a
            temporary folder.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.json").write_text('{"model": "/home/me/model"}')
        ...     local_paths(folder)
        ['a.json: /home/me/model']
    """
    found = []
    names = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.suffix in _TEXT)
    for path in (Path(folder, name) for name in filter_repo_objects(names, ignore_patterns=STAYS_HOME)):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        hits = [place for place in known or [] if place in text]
        if path.name not in _VOCABULARIES:
            hits += _LOCAL_PATH.findall(text)
        found += [f"{path.relative_to(folder).as_posix()}: {hit}" for hit in dict.fromkeys(hits)]
    return found


def open_checkpoint(
    checkpoint_or_model: Any, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[Any, PreTrainedTokenizerBase | None, dict[str, Any], dict[str, tuple[Tensor, Tensor]] | None]:
    """The model, its tokenizer, what its run recorded and, for a low-rank checkpoint, the change of the encoder."""
    if not isinstance(checkpoint_or_model, str | Path):
        # A class from a repository's own code is not our class, and an adapter passes our methods on.
        if not isinstance(checkpoint_or_model, PreTrainedModel) or not hasattr(checkpoint_or_model, "save_head_only"):
            raise ValueError(
                f"push takes a folder or a LiminalForPADRegression, got {type(checkpoint_or_model).__name__}. Merge an "
                "adapter first: model = model.merge_and_unload()"
            )
        model = checkpoint_or_model
        return model, tokenizer or _encoder_tokenizer(model.config), {}, None
    folder = Path(checkpoint_or_model)
    if (folder / "model" / "config.json").is_file():
        folder = folder / "model"
    if not (folder / "config.json").is_file():
        hint = "It holds an adapter: merge it first." if (folder / "adapter_config.json").is_file() else ""
        raise FileNotFoundError(f"There is no checkpoint in {folder}: config.json is missing. {hint}".strip())
    if not any(folder.glob("model*.safetensors")):
        raise ValueError(
            f"{folder} holds no safetensors. Pickled weights (*.bin, *.pt) are not loaded and not uploaded; convert "
            "them first with model.save_pretrained."
        )
    model = LiminalForPADRegression.from_pretrained(folder)
    if tokenizer is None and model.config.text_config is not None:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    return model, tokenizer, run_facts(folder), _low_rank(folder)


def _encoder_tokenizer(config: LiminalConfig) -> PreTrainedTokenizerBase | None:
    if config.text_config is None:
        return None
    if config.encoder_name_or_path:
        source, revision = resolve_encoder(config.encoder_name_or_path, config.encoder_revision)
        try:
            return AutoTokenizer.from_pretrained(source, revision=revision)
        except (OSError, ValueError):
            pass  # an encoder without a tokenizer, for example one from scratch: the caller has to give it
    raise ValueError("A model needs its tokenizer on the Hub: push(model, repo_id, tokenizer=tokenizer)")


def _low_rank(folder: Path) -> dict[str, tuple[Tensor, Tensor]] | None:
    """Low-rank pairs of a head-only checkpoint, or those that `fit` left beside its model."""
    prefix = "low_rank."
    beside = folder.resolve().parent / "low_rank.safetensors"
    if beside.is_file() and (beside.parent / "metrics.json").is_file():
        source, prefix = beside, ""
    elif (folder / "model.safetensors").is_file():
        source = folder / "model.safetensors"
    else:
        return None
    tensors = load_file(source)
    names = [name for name in tensors if name.startswith(prefix) and name.endswith(".A")]
    return {name[len(prefix) : -2]: (tensors[name], tensors[name[:-1] + "B"]) for name in names} or None


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


def _verify(model: Any, tokenizer: Any, repo_id: str, commit: str, token: str | None, work: Path) -> None:
    texts = None if tokenizer is None else SAMPLES
    was_training = model.training
    expected = reload.predict(model.eval(), tokenizer, texts)
    model.train(was_training)
    attention = getattr(model.config.text_config, "_attn_implementation", None)
    output = work / "logits.safetensors"
    request = {
        "repo_id": repo_id,
        "revision": commit,
        # Another package's head may import ours.
        "without_package": not plugins(model.config),
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "attention": attention if isinstance(attention, str) else None,
        "texts": texts,
        "output": str(output),
    }
    # Empty caches, so that it really comes from the Hub.
    env = {**os.environ, "HF_ENDPOINT": constants.ENDPOINT, "HF_HUB_CACHE": str(work / "hub")}
    env |= {"HF_MODULES_CACHE": str(work / "modules")} | ({"HF_TOKEN": token} if token else {})
    command = [sys.executable, "-I", str(reload.__file__), json.dumps(request)]
    done = subprocess.run(
        command, env=env, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=3600
    )
    if done.returncode != 0:
        raise PushError(
            f"{repo_id} is uploaded (commit {commit}), but it does not load in a clean process:\n{done.stderr[-4000:]}"
        )
    reloaded = load_file(output)["logits"]
    if not torch.equal(reloaded, expected):
        worst = (reloaded - expected).abs().max().item()
        raise PushError(
            f"{repo_id} is uploaded (commit {commit}), but what was reloaded from it predicts something else (largest "
            f"difference {worst:.3g}). Do not use that commit."
        )


def _advice(error: BaseException, repo_id: str) -> str:
    chain = [error]
    while chain[-1].__cause__ is not None and len(chain) < 10:
        chain.append(chain[-1].__cause__)
    status = next((e.response.status_code for e in chain if isinstance(e, HfHubHTTPError) and e.response), None)
    if status == 401:
        return (
            "The Hub does not accept the token. Log in with `hf auth login`, or set HF_TOKEN to a token with write "
            "access (https://huggingface.co/settings/tokens)."
        )
    if status == 403:
        return (
            f"This token may not write to {repo_id}. Use a token with write access, and a name under your own account "
            "or an organisation that you may write to."
        )
    if status == 404:
        return f"{repo_id}, or the revision asked for, is not on {constants.ENDPOINT}. Check the name."
    if status is not None:
        return f"The Hub refused the upload to {repo_id} (status {status}): {error}"
    return (
        f"The connection to {constants.ENDPOINT} broke during the upload to {repo_id}: {chain[-1]}. Push again: what "
        "has arrived is not sent a second time, and nothing is visible until all of it is there."
    )
