"""A checkpoint in ONNX, read by onnxruntime.

Requires the extra `onnx`. It needs neither torch's weights nor the encoder: a folder with model.onnx, the tokenizer and
the config is all.
"""

import mmap
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from ..export.onnx_stages import DOUBTS, STAGE_FILE, OnnxStages, open_session
from ..inference import TextBatch, encode_batches, mixes_padding
from ..modeling.configuration_liminal import LiminalConfig
from ..modeling.errors import LiminalError
from ..modeling.memory import MEMORY_FIELDS, ConversationMemory
from ..modeling.processors import is_processor, load_processor
from ..modeling.texts import as_list, checked_max_length, with_padding

MODEL_FILE = "model.onnx"


def is_onnx_folder(folder: str | os.PathLike) -> bool:
    """Whether a folder holds a model in ONNX and no weights of torch."""
    return (Path(folder) / MODEL_FILE).is_file() and not any(Path(folder).glob("*.safetensors*"))


def is_quantized(folder: str | os.PathLike) -> bool:
    """Whether the model in a folder rounds its inputs by the largest number of a batch, as 8 bits do."""
    with (
        (Path(folder) / MODEL_FILE).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as nodes,
    ):
        return nodes.find(b"DynamicQuantizeLinear") >= 0


class OnnxPAD:
    """PAD from a folder that `export_onnx` wrote, on onnxruntime.

    Args:
        folder: the folder.
        threads: cores to use; default all.
        providers: onnxruntime's execution providers in order of preference; default the CPU.

    Raises:
        FileNotFoundError: the folder has no model.onnx.
        ImportError: onnxruntime is not installed.

    Example:
        >>> from transformers import BertConfig
        >>> from liminal_hf import LiminalForPADRegression
        >>> from liminal_hf.export.onnx import export_onnx
        >>> bert = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> model = LiminalForPADRegression(LiminalConfig(text_config=bert, latent_size=8, num_outer_steps=1))
        >>> _ = export_onnx(model, "tiny-onnx")
        >>> tokens = np.ones((3, 5), dtype=np.int64)
        >>> OnnxPAD("tiny-onnx").run({"input_ids": tokens, "attention_mask": tokens})["logits"].shape
        (3, 3)
    """

    def __init__(
        self, folder: str | os.PathLike, *, threads: int | None = None, providers: Sequence[str] | None = None
    ) -> None:
        file = Path(folder) / MODEL_FILE
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder} has no {MODEL_FILE}. Write one: liminal export CHECKPOINT --format onnx, or "
                "liminal_hf.export.onnx.export_onnx(checkpoint, folder)."
            )
        self._open = partial(open_session, file, threads, providers)
        self.folder = Path(folder)
        self.config = LiminalConfig.from_pretrained(folder)
        self.stages: OnnxStages | None = None
        if self.config.exit_threshold is not None and (Path(folder) / STAGE_FILE.format(0)).is_file():
            self.stages = OnnxStages(folder, threads, providers)
        else:
            self.session  # noqa: B018  (a file that can't be read is an error now)
        self.tokenizer: Any = None
        if (Path(folder) / "tokenizer_config.json").is_file():
            self.tokenizer = with_padding(AutoTokenizer.from_pretrained(folder))
        elif (Path(folder) / "preprocessor_config.json").is_file():
            self.tokenizer = load_processor(str(folder))

    @cached_property
    def session(self) -> Any:
        """onnxruntime's session of the whole model."""
        return self._open()

    @cached_property
    def input_names(self) -> list[str]:
        """Of the whole model."""
        return [value.name for value in self.session.get_inputs()]

    @cached_property
    def output_names(self) -> list[str]:
        """Of the whole model."""
        return [value.name for value in self.session.get_outputs()]

    @property
    def has_memory(self) -> bool:
        """Whether the conversation is an input and an output."""
        return self.stages is None and "memory.slots" in self.input_names

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One call of the model on arrays.

        Args:
            inputs: `input_ids` and `attention_mask`, int64 `(batch, length)`, and the memory of a model with one.

        Returns:
            All outputs by name: `logits` `(batch, targets)` in label units, and what else the head has.
        """
        values = self.session.run(None, {name: inputs[name] for name in self.input_names})
        return dict(zip(self.output_names, values, strict=True))

    def read(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As `run`, no deeper than the config's `exit_threshold` asks for, where the folder has stages.

        Args:
            inputs: as in `run`.

        Returns:
            As `run`; from stages `logits`, `uncertainty`, `in_domain` and `depth` alone.
        """
        if self.stages is None or self.config.exit_threshold is None:
            return self.run(inputs)
        return self.stages.run(inputs, self.config.exit_threshold)

    def predict(
        self, texts: Iterable[str], batch_size: int = 32, max_length: int | None = None
    ) -> dict[str, np.ndarray]:
        """What the model says of texts that have nothing to do with each other.

        Args:
            texts: any container of texts; of sounds or images (see `read_signal`), where the model reads them.
            batch_size: texts per call; in float, no result depends on it.
            max_length: tokens per text, longer ones are truncated; default the config's `max_seq_length`.

        Returns:
            `logits` and, where the model has it, `uncertainty`, both `(number of texts, targets)` in label units,
            `in_domain` `(number of texts,)` where the model has it, all float32, and `truncated` `(number of texts,)`
            bool.

        Raises:
            LiminalError: a text that is empty or no text; the message says which.
        """
        texts = list(texts) if is_processor(self.tokenizer) else as_list(texts)
        values = {"truncated": np.zeros(len(texts), dtype=bool)}
        shape = (len(texts), self.config.num_labels)
        known = self.output_names if self.stages is None else self.stages.answers
        values |= {
            name: np.empty(shape[:1] if name == "in_domain" else shape, dtype=np.float32)
            for name in ("logits", *DOUBTS)
            if name in known
        }
        for batch, inputs in self._batches(texts, max_length, batch_size, mixes_padding(self.config)):
            memory = self.initial_memory(len(batch.rows)) if self.has_memory else {}
            output = self.read({**inputs, **memory})
            for name in values.keys() - {"truncated"}:
                values[name][batch.rows] = output[name]
            values["truncated"][batch.rows] = batch.truncated
        return values

    def turn(
        self, texts: Sequence[str], memory: Mapping[str, np.ndarray] | None = None, max_length: int | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The next turn of each of several conversations.

        Args:
            texts: one turn per conversation.
            memory: what the turn before returned; None before the first.
            max_length: as in `predict`.

        Returns:
            All outputs by name, and the memory to pass on.

        Raises:
            LiminalError: the model was exported without memory, or a text is empty.
        """
        texts = as_list(texts)
        memory = self.initial_memory(len(texts)) if memory is None else memory
        ((batch, inputs),) = self._batches(texts, max_length, None, False)
        back = np.argsort(batch.rows)
        output = self.run({**{name: value[back] for name, value in inputs.items()}, **memory})
        return output, {f"memory.{field}": output.pop(f"new_memory.{field}") for field in MEMORY_FIELDS}

    def initial_memory(self, batch_size: int = 1) -> dict[str, np.ndarray]:
        """The memory before the first turn, by input name.

        Raises:
            LiminalError: the model was exported without memory.
        """
        if not self.has_memory:
            raise LiminalError("This model was exported without memory: export it with memory=True.")
        config = self.config
        memory = ConversationMemory.empty(
            batch_size, config.memory_slots, config.latent_size, num_targets=config.num_labels
        )
        return {f"memory.{name}": value.numpy() for name, value in memory.items()}

    def _batches(
        self, texts: list[Any], max_length: int | None, batch_size: int | None, one_length: bool
    ) -> Iterator[tuple[TextBatch, dict[str, np.ndarray]]]:
        if self.tokenizer is None:
            raise LiminalError("This folder has no tokenizer: export it with tokenizer=..., or give tokens to `run`.")
        length = checked_max_length(max_length, self.config, self.tokenizer)
        for batch in encode_batches(
            self.tokenizer, texts, max_length=length, batch_size=batch_size, one_length=one_length
        ):
            # Some feature extractors give masks of 32 bits.
            arrays = {name: value.numpy() for name, value in batch.inputs.items()}
            yield batch, {name: one.astype(np.int64) if one.dtype.kind == "i" else one for name, one in arrays.items()}
