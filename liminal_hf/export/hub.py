"""Uploads a checkpoint to the Hub, and proves that it loads from there without this package.

Requires torch, transformers and huggingface_hub.
"""

import json
import logging
import os
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
from huggingface_hub.utils import validate_repo_id
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from ..io import folder_sha256
from ..modeling.errors import LiminalError
from ..modeling.modeling_liminal import LiminalForPADRegression
from ..modeling.senses import sense
from . import reload
from .checkpoint import Checkpoint, open_checkpoint
from .model_card import plugins
from .repository import STAYS_HOME, write_repository

logger = logging.getLogger(__name__)

SAMPLES = [
    "What a lovely surprise!",
    "They never listened to us.",
    "The report has forty pages.",
    "I was so scared that I could not move, and nobody came, although I had called and called for half an hour.",
]
# The base class of everything that the HTTP client raises (httpx or httpx2, by the version of huggingface_hub).
_HTTPError: type[Exception] = HfHubHTTPError.__mro__[1]
_SHARDS = ["model*.safetensors", "model.safetensors.index.json"]


class PushError(LiminalError, RuntimeError):
    """The Hub or the network refused; the message says what to do next."""


@dataclass(frozen=True)
class PushResult:
    """What a push left on the Hub."""

    repo_id: str  # "owner/name"
    url: str  # of the commit
    commit: str  # its id; `revision=commit` loads exactly this
    files: tuple[str, ...]  # of the folder that was uploaded
    verified: bool | None  # True when the reloaded model gave the same logits, bit for bit; None when not asked for


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
        checkpoint_or_model: a run's folder, a checkpoint's folder, a Hub id, or the model itself.
        repo_id: "owner/name"; created when it is not there.
        tokenizer: for a model in memory; default that of its checkpoint, else the encoder's own.
        private: whether a repository that is created is private; default the account's setting.
        token: default the one of `hf auth login` or `HF_TOKEN`.
        revision: branch to upload to; created when it is not there.
        commit_message: default "Upload <name> with liminal_hf".
        head_only: leaves the encoder out (see `save_head_only`); who loads it fetches the encoder from where it came.
        handler: also writes `handler.py` for Inference Endpoints.
        verify: whether to reload from the Hub, in a process that cannot import this package, and compare the logits of
            sample sentences bit for bit.
        facts: what the card should say beyond what is known of the checkpoint, see `build_card`.

    Raises:
        PushError: the token, the permission or the network failed, or the reloaded model differs.
        LiminalError: the checkpoint holds only pickles or an adapter, or a path of this machine is in a file.
        HFValidationError: the name is no repository's.
        FileNotFoundError: there is no checkpoint.

    Example:
        >>> result = push("runs/minilm", "me/minilm-pad")  # doctest: +SKIP
        >>> result.verified  # doctest: +SKIP
        True
    """
    validate_repo_id(repo_id)
    source = open_checkpoint(checkpoint_or_model, tokenizer)
    api = HfApi(library_name="liminal_hf", token=token)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "repository"
        known = {**(facts or {}), "repo_id": repo_id}
        write_repository(source, folder, facts=known, head_only=head_only, handler=handler)
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
            _verify(source, repo_id, commit.oid, token, Path(work))
    return PushResult(repo_id, commit.commit_url, commit.oid, files, True if verify else None)


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
        raise LiminalError(
            f"{checkpoint} has no card with the sha256 of its weights. `liminal push` and `liminal export` write one."
        )
    found = folder_sha256(folder, "*.safetensors", "*.onnx*")
    if found.keys() != told.keys():
        error_type = FileNotFoundError if told.keys() - found.keys() else ValueError
        raise error_type(
            f"{checkpoint}: the card names {sorted(told)}, and there is {list(found)}. Download it again, or do not "
            "use it."
        )
    for name, digest in found.items():
        if digest != told[name]:
            raise LiminalError(
                f"{checkpoint}: {name} has the sha256 {digest}, and its card says {told[name]}. The file was damaged "
                "or changed: download it again, or do not use it."
            )
    return found


def _verify(source: Checkpoint, repo_id: str, commit: str, token: str | None, work: Path) -> None:
    model, texts = source.model, None if source.tokenizer is None else SAMPLES
    if (reads := sense(model.config)) != "text":
        logger.warning("A model that reads %s is uploaded and not compared: the samples are texts.", reads)
        return
    was_training = model.training
    expected = reload.predict(model.eval(), source.tokenizer, texts)
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
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 3600}
    done = subprocess.run(command, env=env, cwd=work, **options)
    uploaded = f"{repo_id} is uploaded (commit {commit}), but"
    if done.returncode != 0:
        raise PushError(f"{uploaded} it does not load in a clean process:\n{done.stderr[-4000:]}")
    reloaded = load_file(output)["logits"]
    if not torch.equal(reloaded, expected):
        worst = (reloaded - expected).abs().max().item()
        raise PushError(
            f"{uploaded} what was reloaded from it predicts something else (largest difference {worst:.3g}). Do not "
            "use that commit."
        )


def _advice(error: BaseException, repo_id: str) -> str:
    chain = [error]
    while chain[-1].__cause__ is not None and len(chain) < 10:
        chain.append(chain[-1].__cause__)
    status = next((e.response.status_code for e in chain if isinstance(e, HfHubHTTPError) and e.response), None)
    advice = {
        None: f"The connection to {constants.ENDPOINT} broke during the upload to {repo_id}: {chain[-1]}. Push again: "
        "what has arrived is not sent a second time, and nothing is visible until all of it is there.",
        401: "The Hub does not accept the token. Log in with `hf auth login`, or set HF_TOKEN to a token with write "
        "access (https://huggingface.co/settings/tokens).",
        403: f"This token may not write to {repo_id}. Use a token with write access, and a name under your own account "
        "or an organisation that you may write to.",
        404: f"{repo_id}, or the revision asked for, is not on {constants.ENDPOINT}. Check the name.",
    }
    return advice.get(status, f"The Hub refused the upload to {repo_id} (status {status}): {error}")
