"""Texts to numbers, as fast as the machine allows, whatever the texts hold: torch, ONNX or ONNX in 8 bits.

Requires numpy, pyarrow, torch and transformers; the back ends "onnx" and "int8" need the extra `onnx`. An ONNX model is
exported when it is first needed and kept in the cache folder.
"""

import hashlib
import importlib.metadata
import json
import logging
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from filelock import FileLock

from .._version import __version__
from ..data.answers import answers_table, columns_of
from ..data.pooled_cache import hash_tensors
from ..inference import batches_by_length, mixes_padding
from ..io import cache_root, file_sha256
from ..modeling.encoders import load_tokenizer
from ..modeling.errors import LiminalError
from ..modeling.memory import MEMORY_FIELDS, ConversationMemory
from ..modeling.modeling_liminal import LiminalForPADRegression
from ..modeling.pipeline_liminal import describe
from ..modeling.senses import sense
from ..modeling.texts import (
    UNREADABLE,
    Tokens,
    as_list,
    checked_max_length,
    is_missing,
    text_error,
    tokenize,
    with_padding,
)
from ..modeling.windows import ANSWERS, put_together, split
from .onnx_runtime import DOUBTS, OnnxPAD, is_onnx_folder, is_quantized

logger = logging.getLogger(__name__)

BACKENDS = ("torch", "onnx", "int8")
# What a batch may hold, padding included. Small batches stay in a processor's caches: on EmoBank's texts and one core,
# batches of 4,096 tokens took 1.3 (torch) and 1.6 (ONNX) times as long. A GPU wants large ones.
_TOKENS = {"torch": 1024, "onnx": 512, "int8": 512, "cuda": 32_768}

Arrays = dict[str, np.ndarray]


class Scorer:
    """Predictions for many texts at a time.

    No row depends on the others: batches hold texts of one length, and what rounding leaves is below 1e-5. In 8 bits,
    where onnxruntime rounds by the largest number of a whole batch, every text is therefore a batch of its own.

    Args:
        checkpoint: folder or Hub id of a checkpoint; a folder that `liminal export --format onnx` wrote; or a model
            with its tokenizer.
        backend: "torch" (on the GPU where there is one), "onnx", or "int8", which is ONNX with the encoder's weights in
            8 bits.
        tokenizer: of a model that is given as an object.
        threads: processor cores to use; None means all.
        tokens: how many a batch may hold, padding included.
        max_length: tokens that are read at once; None takes the config's `max_seq_length`. A longer text is read
            sentence by sentence, as in `liminal_hf.timeline`; the turn of a conversation is truncated.
        truncate: longer texts are truncated instead, and say so.
        refuse_long: longer texts get no numbers, and an error instead.
        conversations: whether `score` is given conversations.
        device: of torch; None is where a model object is, and for a checkpoint the GPU, if there is one.

    Raises:
        LiminalError: the back end is unknown, the model has no encoder, or no memory for `conversations`, or
            `max_length` is more than the encoder takes.
        OSError: the checkpoint was not found.
        ImportError: the extra is not installed; the message has the line to type.

    Example:
        >>> import liminal_hf
        >>> scorer = Scorer(liminal_hf.DEFAULT_CHECKPOINT, threads=1)
        >>> table = scorer.score(["What a lovely surprise!", None, " "])
        >>> table["octant"].to_pylist()
        ['exuberant', None, None]
        >>> table["error"].to_pylist()
        [None, 'no text (missing value)', 'empty']
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
        truncate: bool = False,
        refuse_long: bool = False,
        conversations: bool = False,
        device: str | None = None,
    ) -> None:
        if backend not in BACKENDS:
            raise LiminalError(f"The back end must be one of {', '.join(BACKENDS)}, got {backend!r}.")
        self.checkpoint, self.refuse_long, self.conversations = checkpoint, refuse_long, conversations
        # A turn is one step of the memory, so it is read in one piece.
        self.in_windows = not (truncate or conversations)
        cores = threads or os.cpu_count() or 1
        model: Any = None
        if isinstance(checkpoint, str | os.PathLike) and is_onnx_folder(checkpoint):
            # One batch per core rather than several cores on one batch: small matrices gain little from company.
            runtime = OnnxPAD(checkpoint, threads=1)
            config, self.tokenizer = runtime.config, tokenizer or runtime.tokenizer
            if self.tokenizer is None:
                raise LiminalError(f"{checkpoint} has no tokenizer. Export it again: liminal export --format onnx")
            self.identity = _folder_identity(Path(checkpoint))
            backend = "int8" if is_quantized(checkpoint) else "onnx"
            if conversations != runtime.has_memory:
                has, lacks = ("with", "without") if runtime.has_memory else ("without", "with")
                reads = "conversations" if runtime.has_memory else "texts that have nothing to do with each other"
                raise LiminalError(
                    f"{checkpoint} was exported {has} memory: it reads {reads}. Export it {lacks} --memory."
                )
        else:
            model, self.tokenizer = load(checkpoint, tokenizer)
            config = model.config
            if conversations and not model.liminal.head.has_memory:
                raise LiminalError(
                    f"Head {config.head!r} has no memory, so that a conversation is worth no more to it than its "
                    "turns. Leave the conversation out, or take a checkpoint with head v6 or v7."
                )
        self.max_length = checked_max_length(max_length, config, self.tokenizer)
        self.config = config
        self.columns = columns_of(config)
        device_type = "cpu"
        if model is not None:
            self.identity = checkpoint_identity(model, self.tokenizer)
        if backend == "torch":
            if threads is not None:
                torch.set_num_threads(threads)
            if device is None and not isinstance(checkpoint, LiminalForPADRegression):
                device = "cuda" if torch.cuda.is_available() else "cpu"
            model = model if device is None else model.to(device)
            device_type = model.device.type
            self._run: Callable[[Arrays], Arrays] = partial(_run_torch, model)
        else:
            if model is not None:
                folder = onnx_folder(model, self.identity, conversations, backend == "int8")
                runtime = OnnxPAD(folder, threads=1)
            self._run = runtime.read
        self.backend = backend
        self.tokens = tokens or _TOKENS[backend if device_type == "cpu" else "cuda"]
        self._pool = ThreadPoolExecutor(cores) if backend != "torch" and cores > 1 else None
        self._largest_batch = 1 if backend == "int8" else None

    def score(
        self,
        texts: Iterable[Any],
        conversations: Iterable[Hashable] | None = None,
        problems: Iterable[str | None] | None = None,
        on_rows: Callable[[int], None] | None = None,
        *,
        speakers: Iterable[Hashable] | None = None,
    ) -> pa.Table:
        """A table with one row per text, in their order.

        Args:
            texts: any container of texts (list, Series, Arrow column, generator, ...), read by position; what can't be
                read gets an error and null numbers.
            conversations: what each row shares its memory with; the rows of one are its turns, in the order given.
                None: every text is alone.
            problems: why a row can't be read, as far as it is known already.
            on_rows: is told how many rows have been dealt with since it was last called.
            speakers: who speaks in each row; each speaker of a conversation has a memory of their own.

        Returns:
            A column for each target (clamped to the label range) and `uncertainty_<target>` for each (standard
            deviations, in label units), `low_<target>` and `high_<target>` (the 80% interval), `verdict_<target>`,
            `confidence` (0..1, deprecated), `octant` and `octant_probability`, `emotion` and `emotion_probability` (the
            likeliest word), `in_domain` (0..1), `windows` (in how many the text was read), `truncated` (whether its end
            was left out), and `error`, null where all is well. What the model does not have is null.

        Raises:
            LiminalError: one text instead of several, columns of different lengths, or conversations where the scorer
                is not for them.
        """
        rows = self.rows(texts, conversations, problems, on_rows, speakers=speakers)
        return answers_table(rows, self.config)

    def rows(
        self,
        texts: Iterable[Any],
        conversations: Iterable[Hashable] | None = None,
        problems: Iterable[str | None] | None = None,
        on_rows: Callable[[int], None] | None = None,
        *,
        speakers: Iterable[Hashable] | None = None,
    ) -> list[dict[str, Any]]:
        """As `score`, with the rows that `pipeline("pad-regression")` has.

        Example:
            >>> import liminal_hf
            >>> scorer = Scorer(liminal_hf.DEFAULT_CHECKPOINT, threads=1)
            >>> [row["verdict"]["pleasure"] for row in scorer.rows(["What a lovely surprise!"])]
            ['positive']
        """
        if self.conversations != (conversations is not None):
            raise LiminalError(
                "A scorer is for conversations or for texts that are alone: Scorer(..., conversations=True)"
            )
        rows = as_list(texts)
        known = [None] * len(rows) if problems is None else list(problems)
        _check_length("problems", known, rows)
        keys = None if conversations is None else _keys(rows, as_list(conversations), speakers)
        errors = [error or text_error(text) for text, error in zip(rows, known, strict=True)]
        for row, key in enumerate(keys or ()):
            if key[0] is None and errors[row] is None:
                errors[row] = "no conversation: the row names none"
        readable = [row for row, error in enumerate(errors) if error is None]
        tokens = tokenize(self.tokenizer, [str(rows[row]) for row in readable], self.max_length)
        truncated = [False] * len(rows)
        wholes: dict[int, dict[str, Any]] = {}
        for position, row in enumerate(readable):
            is_long = tokens.truncated[position]
            truncated[row] = is_long and not self.in_windows
            if is_long and self.refuse_long:
                errors[row] = f"longer than {self.max_length} tokens"
            elif is_long and self.in_windows:
                wholes[row] = self._in_windows(str(rows[row]))
                errors[row] = wholes[row]["error"]
            elif tokens.unreadable[position]:
                errors[row] = UNREADABLE
        positions = {
            row: position for position, row in enumerate(readable) if errors[row] is None and row not in wholes
        }
        if on_rows and len(positions) < len(rows):
            on_rows(len(rows) - len(positions))
        found: Arrays = {}
        for batch, output in self._outputs(positions, tokens, keys):
            for name in {"logits", *DOUBTS} & output.keys():
                shape = (len(rows), *output[name].shape[1:])
                found.setdefault(name, np.full(shape, np.nan, np.float32))[batch] = output[name]
            if on_rows:
                on_rows(len(batch))
        return self._rows(found, wholes, truncated, errors)

    def _in_windows(self, text: str) -> dict[str, Any]:
        """The answer for a text that is longer than the model reads, see `put_together`."""
        parts = split(text, self.tokenizer, self.max_length)
        known = {index: index for index, unknown in enumerate(parts["tokens"].unreadable) if not unknown}
        read: dict[int, dict[str, Any]] = {}
        for batch, output in self._outputs(known, parts["tokens"], None):
            answers = {name: output[name].tolist() for name in ANSWERS if name in output}
            for position, index in enumerate(batch):
                read[index] = {name: answers[name][position] if name in answers else None for name in ANSWERS}
        return put_together(parts["spans"], read, self.config)

    def _outputs(
        self, positions: dict[int, int], tokens: Tokens, keys: Sequence[Hashable] | None
    ) -> Iterator[tuple[list[int], Arrays]]:
        """The rows of each batch, and what the model says; `positions` is that of a row among the tokens."""
        lengths, memories = tokens.lengths, dict[Hashable, Arrays]()
        left = Counter(keys[row] for row in positions) if keys is not None else {}
        config = self.config
        empty = ConversationMemory.empty(1, config.memory_slots, config.latent_size, num_targets=config.num_labels)
        unknown = {name: value.numpy() for name, value in empty.items()}

        def run(batch: list[int]) -> Arrays:
            inputs = tokens.batch(self.tokenizer, [positions[row] for row in batch])
            arrays: Arrays = {name: value.numpy() for name, value in inputs.items()}
            if keys is not None:
                before = [memories.get(keys[row]) or unknown for row in batch]
                arrays |= {f"memory.{name}": np.concatenate([one[name] for one in before]) for name in MEMORY_FIELDS}
            return self._run(arrays)

        # The first turn of every conversation, the second of every one that has it, and so on.
        steps, turns = defaultdict[int, list[int]](list), Counter[Hashable]()
        for row in positions:
            steps[turns[keys[row]] if keys else 0].append(row)
            turns[keys[row] if keys else None] += 1
        for step in steps.values():
            found = batches_by_length(
                [lengths[positions[row]] for row in step],
                self._largest_batch,
                tokens=self.tokens,
                one_length=mixes_padding(config),
            )
            batches = [[step[index] for index in batch] for batch in found]
            outputs = map(run, batches) if self._pool is None else self._pool.map(run, batches)
            for batch, output in zip(batches, outputs, strict=True):
                for index, key in enumerate([] if keys is None else [keys[row] for row in batch]):
                    left[key] -= 1
                    memories.pop(key, None)
                    # What no turn is going to read is not kept, nor the batch that it was a part of.
                    if left[key]:
                        memories[key] = {
                            name: output[f"new_memory.{name}"][index : index + 1].copy() for name in MEMORY_FIELDS
                        }
                yield batch, output

    def _rows(
        self, values: Arrays, wholes: dict[int, dict[str, Any]], truncated: list[bool], errors: list[str | None]
    ) -> list[dict[str, Any]]:
        nothing = [None] * len(errors)
        logits, spreads, domains = (
            values[name].tolist() if name in values else nothing for name in ("logits", *DOUBTS)
        )
        rows: list[dict[str, Any]] = [
            describe(None, None, self.config, truncated=cut, error=error)
            if error
            else describe(numbers, spread, self.config, in_domain=domain, truncated=cut)
            for numbers, spread, domain, cut, error in zip(logits, spreads, domains, truncated, errors, strict=True)
        ]
        for row, parts in wholes.items():
            if errors[row] is None:
                numbers, spread, domain = (parts["whole"][name] for name in ANSWERS)
                rows[row] = describe(numbers, spread, self.config, in_domain=domain, windows=parts["windows"])
        return rows


@torch.inference_mode()
def _run_torch(model: LiminalForPADRegression, inputs: Arrays) -> Arrays:
    """A model on arrays, with the names that its ONNX has."""
    tensors: dict[str, Any] = {name: torch.from_numpy(value).to(model.device) for name, value in inputs.items()}
    memory = {name: tensors.pop(f"memory.{name}") for name in MEMORY_FIELDS if f"memory.{name}" in tensors}
    memory = {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in memory.items()}
    output = model(**tensors, memory=ConversationMemory(**memory) if memory else None)
    values = {"logits": output.logits, **{name: output.get(name) for name in DOUBTS}}
    if memory:
        values |= {f"new_memory.{name}": output.memory[name] for name in MEMORY_FIELDS}
    # numpy has no bfloat16.
    return {
        name: (value.float() if value.is_floating_point() else value).cpu().numpy()
        for name, value in values.items()
        if value is not None
    }


def _keys(
    texts: list[Any], conversations: list[Any], speakers: Iterable[Any] | None
) -> list[tuple[Hashable, Hashable]]:
    """What each row shares its memory with: conversation and speaker; None for a row without a conversation."""
    names = {"conversations": conversations, "speakers": [None] * len(texts) if speakers is None else as_list(speakers)}
    for what, values in names.items():
        _check_length(what, values, texts)
        names[what] = [None if is_missing(name) else name for name in values]
    return list(zip(*names.values(), strict=True))


def _check_length(what: str, values: list[Any], texts: list[Any]) -> None:
    if len(values) != len(texts):
        raise LiminalError(f"There are {len(texts):,} texts and {len(values):,} {what}. Give one for each text.")


def load(checkpoint: str | os.PathLike | LiminalForPADRegression, tokenizer: Any = None) -> tuple[Any, Any]:
    """A checkpoint's model, in evaluation mode, and its tokenizer.

    Raises:
        LiminalError: the model has no encoder, or an object came without its tokenizer.
        OSError: there is no such checkpoint.
    """
    if isinstance(checkpoint, str | os.PathLike):
        model = LiminalForPADRegression.from_pretrained(checkpoint)
        tokenizer = load_tokenizer(checkpoint) if tokenizer is None else tokenizer
    else:
        model = checkpoint
        if tokenizer is None:
            raise LiminalError("A model that is given as an object needs its tokenizer: tokenizer=...")
    if model.liminal.encoder is None:
        raise LiminalError("This model has no encoder: it takes vectors, not texts.")
    if (reads := sense(model.config)) != "text":
        raise LiminalError(
            f'This model reads {reads}, not text: pipeline("pad-regression", model=...) takes its files.'
        )
    return model.eval(), with_padding(tokenizer)


# ---- identity ----


def checkpoint_identity(model: LiminalForPADRegression, tokenizer: Any) -> str:
    """A hash of what the answers depend on: weights, config, tokenizer, and the code of plugins."""
    digest = hashlib.sha256()
    hash_tensors(digest, sorted(model.state_dict().items()))
    config = model.config.to_dict()
    for part in (config, config.get("text_config") or {}):
        for name in ("_name_or_path", "transformers_version", "_commit_hash", "auto_map", "custom_pipelines"):
            part.pop(name, None)
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for part in (model.liminal.head, model.liminal.pooler):
        code = getattr(sys.modules.get(type(part).__module__), "__file__", None)
        if code and not type(part).__module__.startswith("liminal_hf."):
            digest.update(file_sha256(Path(code)).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # Padding and truncation are how it was last called.
    described = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    digest.update(json.dumps({**described, "padding": None, "truncation": None}, sort_keys=True).encode())
    return digest.hexdigest()


def _folder_identity(folder: Path) -> str:
    """A hash of an exported folder's files."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    content = json.dumps({file.name: file_sha256(file) for file in files})
    return hashlib.sha256(content.encode()).hexdigest()


def onnx_folder(model: LiminalForPADRegression, identity: str, memory: bool, int8: bool) -> Path:
    """The cached ONNX of a model, written if it is not there yet."""
    from ..export.onnx import export_onnx

    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    key = json.dumps({"model": identity, "memory": memory, "int8": int8, "liminal_hf": __version__, **versions})
    folder = cache_root() / "onnx" / hashlib.sha256(key.encode()).hexdigest()[:32]
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Whoever comes second waits, and finds it. model.onnx is put in place whole, and config.json comes last.
    with FileLock(f"{folder}.lock"):
        if not (folder / "config.json").is_file():
            logger.warning("Exporting the model to ONNX, once; it is kept in %s", folder)
            export_onnx(model, folder, memory=memory, quantize="int8" if int8 else None)
    return folder
