"""A frozen encoder runs once over a data set: its pooled states, kept on disk and checked before they are used again.

Requires datasets, filelock, numpy, pyarrow, safetensors, torch and transformers.

One safetensors file holds one split: `pooled_embeds` (different texts, pooled size) in float32. Its name is a hash of
everything that the states depend on: the weights and the code of encoder and pooler, what the pooler does, the
versions, and the token ids of the texts (hence the tokenizer, the maximal length and the texts). So a changed encoder,
pooler or text finds another name, never an old state.
"""

import hashlib
import inspect
import json
import logging
import os
import zlib
from collections.abc import Iterable
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
from transformers import PreTrainedTokenizerBase

from .._version import __version__
from ..inference import batches_by_length, mixes_padding
from ..io import atomic_write, cache_root
from ..modeling.errors import LiminalError
from ..modeling.processors import Signals, is_processor
from ..modeling.senses import INPUTS
from ..modeling.texts import Tokens, checked_text, prepared

logger = logging.getLogger(__name__)

COLUMN = "pooled_embeds"
_INPUTS = (*INPUTS, "attention_mask", "token_type_ids")

Data = TypeVar("Data", Dataset, DatasetDict)


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
        tokenizer: of that encoder; its processor, where it reads sounds or images.
        dataset: `Dataset` or `DatasetDict`; each split is cached apart.
        max_length: tokens per text, or seconds per sound; longer ones are truncated.
        cache_dir: folder for the files; None means `pooled/` in the folder that `LIMINAL_CACHE_DIR` names, else in
            `~/.cache/liminal_hf`. It may be deleted at any time.
        batch_size: texts per forward pass; the states do not depend on it (beyond rounding).
        text: column with the text, or with the path of the sound or image.

    Returns:
        A new `Dataset` or `DatasetDict` in the order of the old one; `pooled_embeds` is a list of float32 of a fixed
        length. `.with_format("torch")` makes reading rows fast.

    Raises:
        LiminalError: the model has no encoder or reads tokens at every step, the column is missing or there already, a
            row has no text, or the encoder gives NaN; the message says which.

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
    if base.encoder is None:
        raise LiminalError("This model has no encoder (text_config=None): nothing is to be cached, give pooled_embeds.")
    if base.config.token_attention:
        raise LiminalError(
            "This model reads the encoder's tokens at every step (token_attention=True); pooled states are not enough "
            "for it. Build it with token_attention=False, or train without the cache."
        )
    folder = Path(cache_dir).expanduser() if cache_dir is not None else cache_root() / "pooled"
    identity = _identity(base)

    def pooled(rows: Dataset, where: str) -> Dataset:
        texts = _texts(rows, text, where)
        different = list(dict.fromkeys(texts))
        tokens = prepared(tokenizer, different, max_length)
        if is_processor(tokenizer):
            inputs: list[Any] = tokens.identity()  # type: ignore[union-attr]
        else:
            inputs = [tokens.inputs.get(name) for name in ("input_ids", "token_type_ids")]
        content = json.dumps([identity, inputs])
        path = folder / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.safetensors"
        states = _kept_or_encoded(path, (len(different), base.pooled_size), base, tokenizer, tokens, batch_size)
        index = {value: position for position, value in enumerate(different)}
        return _with_column(rows, states[np.array([index[value] for value in texts], dtype=np.int64)])

    if isinstance(dataset, DatasetDict):
        return DatasetDict({name: pooled(rows, f"split {name!r}, ") for name, rows in dataset.items()})
    return pooled(dataset, "")


def _kept_or_encoded(path: Path, shape: tuple[int, int], *source: Any) -> np.ndarray:
    """The states in the file, or else those that `encode(*source)` gives, which are then kept there."""
    was_there = path.is_file()
    states = _read(path, shape)
    if states is not None:
        return states
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whoever comes second waits, and finds the file. The lock ends with its process.
        with FileLock(f"{path}.lock"):
            states = None if was_there else _read(path, shape)
            if states is None:
                states = encode(*source)
                with atomic_write(path) as temporary:
                    # One entry, because safetensors writes several in any order: the same states, the same file.
                    save_file({COLUMN: states}, temporary, metadata={"liminal_hf": _seal(path, states)})
    except (OSError, SafetensorError) as error:  # a SafetensorError is what a full disk becomes there
        logger.warning("The states can't be kept in %s (%s): they will be computed anew next time.", path.parent, error)
    return encode(*source) if states is None else states


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            seal, states = (file.metadata() or {}).get("liminal_hf"), file.get_tensor(COLUMN)
        if states.shape != shape or seal != _seal(path, states):
            raise LiminalError("it does not hold what its name and its checksum say")
    except (SafetensorError, ValueError, TypeError) as error:
        logger.warning("The cached states in %s are damaged (%s); computing them again.", path, error)
        return None
    return np.asarray(states, dtype=np.float32)


def _seal(path: Path, states: np.ndarray) -> str:
    return f"{path.stem} {zlib.crc32(np.ascontiguousarray(states).data):08x}"


@torch.inference_mode()
def encode(base: Any, tokenizer: PreTrainedTokenizerBase, tokens: Tokens | Signals, batch_size: int) -> np.ndarray:
    """The pooled states of texts, `(texts, pooled_size)` float32, in their order; an error where one is not finite."""
    states = np.empty((len(tokens.lengths), base.pooled_size), dtype=np.float32)
    device = next(base.parameters()).device
    training = [module for module in base.modules() if module.training]
    base.eval()
    try:
        with tqdm(total=len(states), desc="Encoding texts", unit="text", disable=len(states) <= batch_size) as bar:
            for rows in batches_by_length(tokens.lengths, batch_size, one_length=mixes_padding(base.config)):
                inputs = tokens.batch(tokenizer, rows)
                known = {name: inputs[name].to(device) for name in _INPUTS if name in inputs}
                states[rows] = base.pool(**known).float().cpu().numpy()
                bar.update(len(rows))
    finally:
        for module in training:
            module.training = True
    finite = np.isfinite(states).all(axis=1)
    if not finite.all():
        first = int(np.flatnonzero(~finite)[0])
        shown = f"token ids {tokens.inputs['input_ids'][first][:10]}" if tokens.inputs else f"number {first}"
        raise LiminalError(
            f"The encoder gave NaN or infinite states (first for the text with {shown}). In half "
            "precision, load it in float32 or bfloat16: from_encoder_pretrained(..., dtype='float32')."
        )
    return states


def _texts(rows: Dataset, text: str, where: str) -> list[str]:
    if text not in rows.column_names:
        raise LiminalError(f"{where}column {text!r} is missing; the columns are {rows.column_names}. Give text='...'.")
    if COLUMN in rows.column_names:
        raise LiminalError(
            f"{where}there is a column {COLUMN!r} already. Remove it: dataset.remove_columns({COLUMN!r})."
        )
    return [checked_text(value, f"{where}row {row}") for row, value in enumerate(rows.with_format(None)[text][:])]


def _with_column(rows: Dataset, states: np.ndarray) -> Dataset:
    features = Features({COLUMN: List(Value("float32"), length=states.shape[1])})
    # Arrow takes the numbers as they lie; `from_dict` would look at each of them, for seconds.
    values = pa.FixedSizeListArray.from_arrays(pa.array(states.reshape(-1)), states.shape[1])
    column = Dataset(InMemoryTable.from_arrays([values], schema=features.arrow_schema))
    return concatenate_datasets([rows, column], axis=1)


def _identity(base: Any) -> dict[str, Any]:
    """What the states depend on beside the tokens, as plain values."""
    config, pool = base.config, base.pooler.pool
    # Where the files came from and how they were saved says nothing about what is computed; the weights bring a dtype.
    beside = ("_name_or_path", "architectures", "dtype", "transformers_version")
    settings = {name: value for name, value in config.text_config.to_dict().items() if name not in beside}
    weights = hashlib.sha256()
    # The gauge of the domain reads the states and does not change them.
    pooler = ((name, value) for name, value in base.pooler.state_dict().items() if not name.startswith("domain."))
    hash_tensors(weights, chain(base.encoder.state_dict().items(), pooler))
    return {
        "versions": [__version__, transformers.__version__, torch.__version__],
        "encoder_config": json.dumps(settings, sort_keys=True, default=str),
        "pooled_layers": config.pooled_layers,
        "plugins": config.plugins,
        "code": [_code(type(base.encoder)), _code(type(base.pooler)), _code(type(pool))],
        "pooled": _behaviour(pool, config.hidden_size),
        "weights": weights.hexdigest(),
    }


def hash_tensors(digest: Any, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Updates a hash with the name, type, shape and content of each tensor."""
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _code(kind: type) -> list[str]:
    """A class by its name and the source of the file that it is written in."""
    try:
        source = inspect.getsource(inspect.getmodule(kind) or kind)
    except (OSError, TypeError):  # typed into a console
        source = ""
    return [kind.__module__, kind.__qualname__, hashlib.sha256(source.encode()).hexdigest()]


@torch.inference_mode()
def _behaviour(pool: nn.Module, width: int) -> list[float]:
    """What a pooler makes of made-up states: its source does not say everything (a global, a setting, a closure)."""
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    states = torch.sin(torch.arange(8.0 * width)).reshape(2, 4, width)
    training, first = pool.training, next(pool.parameters(), states)
    pooled = pool.eval()(states.to(first), mask.to(first.device)).float().cpu()
    pool.train(training)
    return [round(float(value), 3) for value in pooled[:, :8].reshape(-1)]
