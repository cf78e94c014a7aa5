"""Texts to numbers, as fast as the machine allows, whatever stands in the texts: torch, ONNX or ONNX in 8 bits.

Requires numpy, pyarrow, torch and transformers; the back ends "onnx" and "int8" need the extra `onnx`. An ONNX model is
exported when it is first needed and kept in the cache folder.
"""

import copy
import hashlib
import importlib.metadata
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from filelock import FileLock
from transformers import AutoTokenizer

from ..export.onnx import OnnxPAD, export_onnx
from ..io import cache_root
from ..modeling.configuration_liminal import DIMENSIONS
from ..modeling.memory import MEMORY_FIELDS, ConversationMemory
from ..modeling.modeling_liminal import LiminalForPADRegression
from ..modeling.pipeline_liminal import checked_text, describe

logger = logging.getLogger(__name__)

BACKENDS = ("torch", "onnx", "int8")
COLUMNS = pa.schema(
    [
        *((name, pa.float32()) for name in DIMENSIONS),
        *((f"uncertainty_{name}", pa.float32()) for name in DIMENSIONS),
        ("confidence", pa.float32()),
        ("octant", pa.string()),
        ("error", pa.string()),
    ]
)
# What a batch may hold, padding included. Small batches stay in a processor's caches: on EmoBank's texts and one core,
# batches of 4,096 tokens took 1.3 (torch) and 1.6 (ONNX) times as long. A GPU wants large ones.
_TOKENS = {"torch": 1024, "onnx": 512, "int8": 512, "cuda": 32_768}
_EXPORT_FORMAT = 1

Arrays = dict[str, np.ndarray]


class Scorer:
    """Pleasure, arousal and dominance of many texts at a time.

    No row depends on the others: batches hold texts of one length, and what rounding leaves is below 1e-5. In 8 bits,
    where onnxruntime rounds by the largest number of a whole batch, every text is therefore a batch of its own.

    Args:
        checkpoint: folder or Hub id of a checkpoint, or a model with its tokenizer.
        backend: "torch" (on the GPU where there is one), "onnx", or "int8", which is ONNX with the encoder's weights in
            8 bits.
        tokenizer: of a model that is given as an object.
        threads: processor cores to use; None means all.
        tokens: how many a batch may hold, padding included.
        max_length: tokens per text; None takes the config's `max_seq_length`. Longer texts are cut off there.
        refuse_long: longer texts get no numbers, and an error instead.
        conversations: whether `score` is given conversations.
        device: of torch; None is the GPU, if there is one.

    Raises:
        ValueError: the back end is not known, or the model has no encoder, or no memory for `conversations`.
        OSError: the checkpoint was not found.
        ImportError: the extra is not installed; the message has the line to type.

    Example:
        >>> import liminal_hf
        >>> scorer = Scorer(liminal_hf.DEFAULT_CHECKPOINT, threads=1)
        >>> table = scorer.score(["What a lovely surprise!", None, " "])
        >>> table["octant"].to_pylist()
        ['exuberant', None, None]
        >>> table["error"].to_pylist()
        [None, 'There is no text.', 'The text is empty.']
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike | LiminalForPADRegression,
        backend: str = "torch",
        *,
        tokenizer: Any = None,
        threads: int | None = None,
        tokens: int | None = None,
        max_length: int | None = None,
        refuse_long: bool = False,
        conversations: bool = False,
        device: str | None = None,
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"The back end must be one of {', '.join(BACKENDS)}, got {backend!r}.")
        model, self.tokenizer = load(checkpoint, tokenizer)
        self.identity = checkpoint_identity(model, self.tokenizer)
        has_memory = model.liminal.head.has_memory
        if conversations and not has_memory:
            raise ValueError(
                f"Head {model.config.head!r} has no memory, so that a conversation is worth no more to it than its "
                "turns. Leave the conversation out, or take a checkpoint with head v6 or v7."
            )
        # Percentiles are not part of the table.
        self.config = copy.copy(model.config)
        self.config.prediction_quantiles = None
        self.max_length = max_length or model.config.max_seq_length
        self.refuse_long = refuse_long
        self.conversations = conversations
        self._threads = threads or os.cpu_count() or 1
        self._pool: ThreadPoolExecutor | None = None
        if backend == "torch":
            if threads is not None:
                torch.set_num_threads(threads)
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
            self._run: Callable[[Arrays], Arrays] = _Torch(model, device)
            self.tokens = tokens or _TOKENS["torch" if device == "cpu" else "cuda"]
        else:
            folder = onnx_folder(model, self.identity, conversations, backend == "int8")
            # One batch per core rather than several cores on one batch: small matrices gain little from company.
            self._run = OnnxPAD(folder, threads=1).run
            self.tokens = tokens or _TOKENS[backend]
            if self._threads > 1:
                self._pool = ThreadPoolExecutor(self._threads)
        self._largest_batch = 1 if backend == "int8" else None
        self._padding = self.tokenizer.pad_token_id or 0

    def score(
        self,
        texts: Sequence[Any],
        conversations: Sequence[Hashable] | None = None,
        problems: Sequence[str | None] | None = None,
        on_rows: Callable[[int], None] | None = None,
    ) -> pa.Table:
        """One row per text, in their order.

        Args:
            texts: the texts; anything that can't be read gets an error and null numbers.
            conversations: what each row shares its memory with (a conversation, or one speaker in it); the rows of one
                are its turns, in the order given. None: every text stands alone.
            problems: why a row can't be read, as far as it is known already.
            on_rows: is told how many rows have been dealt with since it was last called.

        Returns:
            `pleasure`, `arousal`, `dominance` (clamped to the label range), `uncertainty_pleasure` and so on (standard
            deviations, in label units), `confidence` (0..1), all float32, `octant`, and `error`, null where all is
            well. What the head does not have is null.
        """
        if self.conversations != (conversations is not None):
            raise ValueError("A scorer is for conversations or for texts that stand alone: Scorer(conversations=True)")
        errors = [known or problem(text) for text, known in zip(texts, problems or [None] * len(texts), strict=True)]
        readable = [row for row, error in enumerate(errors) if error is None]
        tokens = self._tokenize([texts[row] for row in readable])
        found: dict[int, list[int]] = {}
        for row, ids in zip(readable, tokens, strict=True):
            if not ids:
                errors[row] = "The text has no token."
            elif self.refuse_long and len(ids) > self.max_length:
                errors[row] = f"The text is longer than {self.max_length} tokens."
            else:
                found[row] = ids
        if on_rows and len(found) < len(texts):
            on_rows(len(texts) - len(found))
        logits = np.full((len(texts), 3), np.nan, dtype=np.float32)
        uncertainty = np.full((len(texts), 3), np.nan, dtype=np.float32)
        steps = [list(found)] if conversations is None else _steps(found, conversations)
        left = Counter(conversations[row] for row in found) if conversations is not None else {}
        memories: dict[Hashable, Arrays] = {}
        for rows in steps:
            batches = list(self._batches(rows, found))
            for batch, output in zip(batches, self._outputs(batches, found, conversations, memories), strict=True):
                logits[batch] = output["logits"]
                if "uncertainty" in output:
                    uncertainty[batch] = output["uncertainty"]
                for place, row in enumerate(batch if conversations is not None else ()):
                    key = conversations[row]
                    left[key] -= 1
                    memories.pop(key, None)
                    # What no turn is going to read is not kept, nor the batch that it was a part of.
                    if left[key]:
                        memories[key] = {
                            name: output[f"new_memory.{name}"][place : place + 1].copy() for name in MEMORY_FIELDS
                        }
                if on_rows:
                    on_rows(len(batch))
        return self._table(logits, uncertainty, errors)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        return self.tokenizer(
            texts,
            truncation=not self.refuse_long,
            max_length=None if self.refuse_long else self.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]

    def _batches(self, rows: list[int], tokens: dict[int, list[int]]) -> Iterator[list[int]]:
        """Rows of about one length, the longest first, so that a lack of memory shows at once."""
        ordered = sorted(rows, key=lambda row: -len(tokens[row]))
        start = 0
        while start < len(ordered):
            fitting = max(1, self.tokens // len(tokens[ordered[start]]))
            end = start + (self._largest_batch or fitting)
            yield ordered[start:end]
            start = end

    def _outputs(
        self,
        batches: list[list[int]],
        tokens: dict[int, list[int]],
        conversations: Sequence[Hashable] | None,
        memories: dict[Hashable, Arrays],
    ) -> Iterable[Arrays]:
        def run(batch: list[int]) -> Arrays:
            inputs = self._inputs([tokens[row] for row in batch])
            if conversations is not None:
                before = [memories.get(conversations[row]) or self._unknown for row in batch]
                inputs |= {f"memory.{name}": np.concatenate([one[name] for one in before]) for name in MEMORY_FIELDS}
            return self._run(inputs)

        return map(run, batches) if self._pool is None else self._pool.map(run, batches)

    @property
    def _unknown(self) -> Arrays:
        memory = ConversationMemory.empty(1, self.config.memory_slots, self.config.latent_size)
        return {name: value.numpy() for name, value in memory.items()}

    def _inputs(self, rows: list[list[int]]) -> Arrays:
        lengths = np.array([len(ids) for ids in rows])
        ids = np.full((len(rows), lengths.max()), self._padding, dtype=np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        return {"input_ids": ids, "attention_mask": mask}

    def _table(self, logits: np.ndarray, uncertainty: np.ndarray, errors: list[str | None]) -> pa.Table:
        columns: dict[str, list[Any]] = {name: [] for name in COLUMNS.names}
        has_uncertainty = not np.isnan(uncertainty).all()
        for pad, spread, error in zip(logits.tolist(), uncertainty.tolist(), errors, strict=True):
            row: dict[str, Any] = {}
            if error is None and not all(map(math.isfinite, pad)):
                error = "The model gave no number."
            if error is None:
                row = describe(pad, spread if has_uncertainty else None, self.config)
                row |= {f"uncertainty_{name}": value for name, value in (row["uncertainty"] or {}).items()}
            row["error"] = error
            for name, values in columns.items():
                values.append(row.get(name))
        return pa.table(columns, schema=COLUMNS)


class _Torch:
    """A model as a function of arrays, with the names that its ONNX has."""

    def __init__(self, model: LiminalForPADRegression, device: str) -> None:
        self.model = model.to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, inputs: Arrays) -> Arrays:
        given: dict[str, Any] = {name: torch.from_numpy(value).to(self.device) for name, value in inputs.items()}
        memory = {name: given.pop(f"memory.{name}") for name in MEMORY_FIELDS if f"memory.{name}" in given}
        output = self.model(**given, memory=ConversationMemory(**memory) if memory else None)
        found = {"logits": output.logits, "uncertainty": output.uncertainty}
        if memory:
            found |= {f"new_memory.{name}": output.memory[name] for name in MEMORY_FIELDS}
        return {name: value.cpu().numpy() for name, value in found.items() if value is not None}


def problem(text: Any) -> str | None:
    """Why a text can't be read, or None.

    Example:
        >>> problem(17), problem("fine")
        ('The text is no string.', None)
    """
    if text is None or text != text:
        return "There is no text."
    if not isinstance(text, str):
        return "The text is no string."
    try:
        checked_text(text)
    except ValueError:
        return "The text holds half of a character." if text.strip() else "The text is empty."
    return None


def load(checkpoint: str | os.PathLike | LiminalForPADRegression, tokenizer: Any = None) -> tuple[Any, Any]:
    """A checkpoint's model, in evaluation mode, and its tokenizer.

    Raises:
        ValueError: the model has no encoder, or an object came without its tokenizer.
        OSError: there is no such checkpoint.
    """
    if isinstance(checkpoint, LiminalForPADRegression):
        model = checkpoint
        if tokenizer is None:
            raise ValueError("A model that is given as an object needs its tokenizer: tokenizer=...")
    else:
        model = LiminalForPADRegression.from_pretrained(checkpoint)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint) if tokenizer is None else tokenizer
    if model.liminal.encoder is None:
        raise ValueError("This model has no encoder: it takes vectors, not texts.")
    if tokenizer.pad_token_id is None:
        # GPT-2 has none; the mask hides the padding, so that any token will do.
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), tokenizer


def checkpoint_identity(model: LiminalForPADRegression, tokenizer: Any) -> str:
    """A hash of what the answers depend on: the weights themselves, the config and the tokenizer."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    config = model.config.to_dict()
    for part in (config, config.get("text_config") or {}):
        for name in ("_name_or_path", "transformers_version", "_commit_hash", "auto_map", "custom_pipelines"):
            part.pop(name, None)
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # Padding and truncation are how it was last called.
    described = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    digest.update(json.dumps({**described, "padding": None, "truncation": None}, sort_keys=True).encode())
    return digest.hexdigest()


def onnx_folder(model: LiminalForPADRegression, identity: str, memory: bool, int8: bool) -> Path:
    """The cached ONNX of a model, written if it is not there yet.

    Raises:
        ImportError: the extra is not installed.
    """
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    key = json.dumps({"model": identity, "memory": memory, "int8": int8, "format": _EXPORT_FORMAT, **versions})
    folder = cache_root() / "onnx" / hashlib.sha256(key.encode()).hexdigest()[:32]
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Whoever comes second waits, and finds it. model.onnx is put in place whole, and config.json comes last.
    with FileLock(f"{folder}.lock"):
        if not (folder / "config.json").is_file():
            logger.warning("Exporting the model to ONNX, once; it is kept in %s", folder)
            export_onnx(model, folder, memory=memory, quantize="int8" if int8 else None)
    return folder


def _steps(rows: Iterable[int], conversations: Sequence[Hashable]) -> list[list[int]]:
    """The first turn of every conversation, the second of every one that has it, and so on."""
    steps: list[list[int]] = []
    turns: dict[Hashable, int] = {}
    for row in rows:
        turn = turns.get(conversations[row], 0)
        turns[conversations[row]] = turn + 1
        if turn == len(steps):
            steps.append([])
        steps[turn].append(row)
    return steps
