"""A frozen encoder runs once over a data set: its pooled states, kept on disk and checked before they are used again.

Requires datasets, filelock, numpy, pyarrow, safetensors, torch and transformers.

One file holds one split: safetensors, `pooled_embeds` (different texts, pooled size) in float32, with its identity and
its checksum in the header, put in place by rename. The file's name is a hash of everything that the states depend on:
the weights of encoder and pooler themselves (not their name), the settings, and the token ids of the texts (hence the
tokenizer, the maximal length and the texts). So a changed encoder or text finds another name, never an old state.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
import transformers
from datasets import Dataset, DatasetDict, Features, List, Value, concatenate_datasets
from datasets.table import InMemoryTable
from filelock import FileLock
from huggingface_hub.utils import tqdm
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from ..io import atomic_write, cache_root

logger = logging.getLogger(__name__)

COLUMN = "pooled_embeds"
# Raise it when the meaning of the stored numbers changes.
_FORMAT = 1
_INPUTS = ("input_ids", "token_type_ids")

Data = TypeVar("Data", Dataset, DatasetDict)


class DamagedCache(Exception):
    """A cache file that is not what was written there; the message says what is wrong with it."""


def pooled_dataset(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Data,
    *,
    max_length: int,
    cache_dir: str | os.PathLike[str] | None = None,
    batch_size: int = 64,
    text: str = "text",
) -> Data:
    """The data set with a column `pooled_embeds`: what `model.pool` gives for each text, from the cache if it is there.

    The encoder runs in evaluation mode, without gradients, over the different texts sorted by length. States are what
    `pooled_embeds` of the model's `forward` takes. They are those of the present weights: a pooler that is learned
    (`pooling="attention"`, `pooled_layers="mix"`) is frozen in them, too. The whole split is held in memory
    (4 bytes * rows * pooled size: 87 MB for EmoBank's training split on all layers of MiniLM).

    A file that was cut short or altered is noticed, warned about and made again. If the disk is full or the folder
    can't be written to, a warning says so and the states are returned all the same.

    Args:
        model: `LiminalModel`, or `LiminalForPADRegression`, with an encoder, on any device.
        tokenizer: of that encoder.
        dataset: `Dataset` or `DatasetDict`; each split is cached apart.
        max_length: tokens per text; longer ones are truncated.
        cache_dir: folder for the files; None means `pooled/` in the folder that `LIMINAL_CACHE_DIR` names, else in
            `~/.cache/liminal_hf`. It may be deleted at any time.
        batch_size: texts per forward pass; the states do not depend on it (beyond rounding).
        text: column with the text.

    Returns:
        A new `Dataset` or `DatasetDict` in the order of the old one; `pooled_embeds` is a list of float32 of a fixed
        length. `.with_format("torch")` makes reading rows fast.

    Raises:
        ValueError: the model has no encoder or reads tokens at every step, the column is missing or there already, or a
            row has no text or no token; the message says which.

    Example:
        >>> import tempfile
        >>> from transformers import AutoTokenizer
        >>> from liminal_hf.modeling.encoders import resolve_encoder
        >>> from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression
        >>> encoder = "sentence-transformers/all-MiniLM-L6-v2"
        >>> model = LiminalForPADRegression.from_encoder_pretrained(encoder, head="linear")
        >>> tokenizer = AutoTokenizer.from_pretrained(resolve_encoder(encoder)[0])
        >>> rows = Dataset.from_dict({"text": ["Good morning.", "Go away!", "Good morning."]})
        >>> pooled = pooled_dataset(model, tokenizer, rows, max_length=32, cache_dir=tempfile.mkdtemp())
        >>> states = torch.tensor(pooled["pooled_embeds"][:])
        >>> states.shape, torch.equal(states[0], states[2]), model(pooled_embeds=states).logits.shape
        (torch.Size([3, 384]), True, torch.Size([3, 3]))
    """
    base: Any = getattr(model, "base", model)
    config = base.config
    if base.encoder is None:
        raise ValueError("This model has no encoder (text_config=None): there is nothing to cache, give pooled_embeds.")
    if config.token_attention:
        raise ValueError(
            "This model reads the encoder's tokens at every step (token_attention=True); pooled states are not enough "
            "for it. Build it with token_attention=False, or train without the cache."
        )
    folder = Path(cache_dir).expanduser() if cache_dir is not None else cache_root() / "pooled"
    identity = _identity(base)

    def pooled(rows: Dataset, where: str) -> Dataset:
        return _pooled_split(base, tokenizer, rows, max_length, folder, batch_size, text, identity, where)

    if isinstance(dataset, DatasetDict):
        return DatasetDict({name: pooled(rows, f"split {name!r}, ") for name, rows in dataset.items()})
    return pooled(dataset, "")


def _pooled_split(
    base: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    max_length: int,
    folder: Path,
    batch_size: int,
    text: str,
    identity: dict[str, Any],
    where: str,
) -> Dataset:
    texts = _texts(rows, text, where)
    places: dict[str, int] = {}
    which = np.array([places.setdefault(value, len(places)) for value in texts], dtype=np.int64)
    different = list(places)
    inputs = _tokenize(tokenizer, different, max_length)
    for place, ids in enumerate(inputs["input_ids"]):
        if not ids:
            value = different[place]
            raise ValueError(f"{where}row {texts.index(value)}: {value!r} has no token. Remove it.")
    identity = {**identity, "texts": _hash_inputs(inputs), "rows": len(different), "size": base.pooled_size}
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    states = _cached(base, inputs, batch_size, folder / f"{name}.safetensors", identity)
    return _with_column(rows, states[which])


def _cached(base: Any, inputs: dict[str, list], batch_size: int, path: Path, identity: dict[str, Any]) -> np.ndarray:
    # No lock is needed to read: a file is put in place whole. One that is missing or damaged is dealt with below.
    with suppress(FileNotFoundError, DamagedCache):
        return _read(path, identity)
    states = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whoever comes second waits, and finds the file. The lock ends with its process.
        with FileLock(f"{path}.lock"):
            states = _found(path, identity)
            if states is None:
                states = _compute(base, inputs, batch_size)
                _write(path, states, identity)
    except OSError as error:
        logger.warning("The states can't be kept in %s (%s): they will be computed anew next time.", path.parent, error)
    return _compute(base, inputs, batch_size) if states is None else states


def _found(path: Path, identity: dict[str, Any]) -> np.ndarray | None:
    try:
        return _read(path, identity)
    except FileNotFoundError:
        return None
    except DamagedCache as error:
        logger.warning("The cached states in %s are damaged (%s); computing them again.", path, error)
        return None


def _read(path: Path, identity: dict[str, Any]) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        with safe_open(path, framework="numpy") as file:
            # One entry, because safetensors writes several in any order: the same states make the same file.
            header = json.loads((file.metadata() or {}).get("liminal_hf", "{}"))
            states = file.get_tensor(COLUMN)
    except (SafetensorError, ValueError) as error:
        raise DamagedCache(f"not a whole safetensors file: {error}") from error
    if not isinstance(header, dict) or header.get("identity") != identity:
        raise DamagedCache("its header belongs to other states")
    if states.dtype != np.float32 or states.shape != (identity["rows"], identity["size"]):
        raise DamagedCache(f"it holds {states.dtype} of shape {states.shape}")
    if header.get("sha256") != _hash_array(states):
        raise DamagedCache("its checksum differs")
    return states


def _write(path: Path, states: np.ndarray, identity: dict[str, Any]) -> None:
    header = json.dumps({"identity": identity, "sha256": _hash_array(states)}, sort_keys=True)
    with atomic_write(path) as temporary:
        try:
            save_file({COLUMN: states}, temporary, metadata={"liminal_hf": header})
        except SafetensorError as error:  # what a full disk becomes there
            raise OSError(str(error)) from error


@torch.inference_mode()
def _compute(base: Any, inputs: dict[str, list], batch_size: int) -> np.ndarray:
    ids = inputs["input_ids"]
    states = np.empty((len(ids), base.pooled_size), dtype=np.float32)
    # The longest first: if memory does not suffice, it fails at once.
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    device = next(base.parameters()).device
    training = [module for module in base.modules() if module.training]
    base.eval()
    try:
        with tqdm(total=len(order), desc="Encoding texts", unit="text", disable=len(order) <= batch_size) as bar:
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                tensors = {
                    name: pad_sequence([torch.tensor(rows[row]) for row in batch], batch_first=True).to(device)
                    for name, rows in inputs.items()
                }
                lengths = torch.tensor([len(ids[row]) for row in batch], device=device)
                mask = torch.arange(int(lengths.max()), device=device)[None] < lengths[:, None]
                states[batch] = base.pool(**tensors, attention_mask=mask.long()).float().cpu().numpy()
                bar.update(len(batch))
    finally:
        for module in training:
            module.training = True
    if not np.isfinite(states).all():
        row = int(np.flatnonzero(~np.isfinite(states).all(axis=1))[0])
        raise ValueError(
            f"The encoder gave NaN or infinite states (first for the text with token ids {ids[row][:10]}...). In half "
            "precision, load it in float32 or bfloat16: from_encoder_pretrained(..., dtype='float32')."
        )
    return states


def _texts(rows: Dataset, text: str, where: str) -> list[str]:
    if text not in rows.column_names:
        raise ValueError(f"{where}column {text!r} is missing; the columns are {rows.column_names}. Give text='...'.")
    if COLUMN in rows.column_names:
        raise ValueError(f"{where}there is a column {COLUMN!r} already. Remove it: dataset.remove_columns({COLUMN!r}).")
    texts = rows.with_format(None)[text][:]
    for row, value in enumerate(texts):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{where}row {row}: {value!r} is no text. Remove it.")
    return texts


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int) -> dict[str, list]:
    if not texts:
        return {"input_ids": []}
    found: Mapping[str, list] = tokenizer(texts, truncation=True, max_length=max_length, padding=False)
    return {name: found[name] for name in _INPUTS if name in found}


def _with_column(rows: Dataset, states: np.ndarray) -> Dataset:
    features = Features({COLUMN: List(Value("float32"), length=states.shape[1])})
    # Arrow takes the numbers as they lie; `from_dict` would look at each of them, for seconds.
    values = pa.FixedSizeListArray.from_arrays(pa.array(states.reshape(-1)), states.shape[1])
    column = Dataset(InMemoryTable.from_arrays([values], schema=features.arrow_schema))
    return concatenate_datasets([rows, column], axis=1)


def _identity(base: Any) -> dict[str, Any]:
    config = base.config
    # Where the files came from and how they were saved says nothing about what is computed; the weights bring a dtype.
    beside = ("_name_or_path", "architectures", "dtype", "transformers_version")
    settings = {name: value for name, value in config.text_config.to_dict().items() if name not in beside}
    return {
        "format": _FORMAT,
        "transformers": transformers.__version__,
        "encoder_class": type(base.encoder).__name__,
        "encoder_config": hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest(),
        "pooling": type(base.pooler.pool).__name__,
        "pooled_layers": config.pooled_layers,
        "weights": _hash_weights(base),
    }


def _hash_weights(base: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in chain(base.encoder.state_dict().items(), base.pooler.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _hash_inputs(inputs: dict[str, list]) -> str:
    digest = hashlib.sha256()
    for name, rows in sorted(inputs.items()):
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        values = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum()))
        for part in (name.encode(), lengths.tobytes(), values.tobytes()):
            digest.update(part)
    return digest.hexdigest()


def _hash_array(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
