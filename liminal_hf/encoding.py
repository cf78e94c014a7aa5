"""From texts to vectors, in one line.

Requires torch and transformers.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .inference import encode_batches, mixes_padding
from .modeling.encoders import load_tokenizer
from .modeling.modeling_liminal import LiminalModel
from .modeling.texts import as_list, checked_max_length, checked_text

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


class Embedder:
    """An encoder that is loaded once; called with texts, it gives their vectors. `create_embedder` makes one.

    Args:
        encoder: Hub id or folder.
        revision: branch, tag or commit of the encoder.
        pooling, pooled_layers: as in `LiminalConfig`.
        max_length: tokens per text; longer ones are truncated.
        batch_size: texts per forward pass; no vector depends on it.
        device: where the encoder runs.
    """

    def __init__(
        self,
        encoder: str = DEFAULT_ENCODER,
        *,
        revision: str | None = None,
        pooling: str | None = None,
        pooled_layers: str = "last",
        max_length: int = 128,
        batch_size: int = 32,
        device: str | torch.device = "cpu",
    ) -> None:
        model = LiminalModel.from_encoder_pretrained(
            encoder, revision, head="linear", pooling=pooling, pooled_layers=pooled_layers
        )
        self.model = model.to(device).eval()
        self.tokenizer = load_tokenizer(encoder, revision)
        self.max_length = checked_max_length(max_length, model.config, self.tokenizer)
        self.batch_size, self.device = batch_size, device

    @property
    def size(self) -> int:
        """Numbers in a vector."""
        return self.model.pooled_size

    @torch.inference_mode()
    def __call__(self, texts: str | Iterable[Any]) -> Tensor:
        """As `encode`."""
        texts = [texts] if isinstance(texts, str) else as_list(texts)
        texts = [checked_text(text, f"Text {index}") for index, text in enumerate(texts)]
        vectors = torch.empty(len(texts), self.size)
        batches = encode_batches(
            self.tokenizer,
            texts,
            max_length=self.max_length,
            batch_size=self.batch_size,
            one_length=mixes_padding(self.model.config),
        )
        for batch in batches:
            vectors[batch.rows] = self.model.pool(**batch.inputs.to(self.device)).float().cpu()
        return vectors


def create_embedder(encoder: str = DEFAULT_ENCODER, **options: Any) -> Embedder:
    """A function from texts to vectors, of any encoder: the name that the original has for it.

    Args:
        encoder: Hub id or folder.
        options: as in `Embedder`.

    Returns:
        An `Embedder`: `embed(texts)` gives `(number of texts, embed.size)`, float32, on the CPU.

    Raises:
        LiminalError: more tokens than the encoder takes.
        OSError: the encoder was not found.

    Example:
        >>> embed = create_embedder()
        >>> embed(["Good morning.", "Go away!"]).shape, embed.size
        (torch.Size([2, 384]), 384)
    """
    return Embedder(encoder, **options)


def encode(texts: str | Iterable[Any], encoder: str = DEFAULT_ENCODER, **options: Any) -> Tensor:
    """Vectors of texts from any encoder, ready for `pooled_embeds`.

    Args:
        texts: a text, or any container of texts (list, Series, numpy, Arrow, `datasets.Column`, generator, ...).
        encoder: Hub id or folder.
        options: `revision`, `pooling`, `pooled_layers`, `max_length`, `batch_size` and `device`, as in `Embedder`.

    Returns:
        `(number of texts, pooled size)`, float32, on the CPU.

    Raises:
        LiminalError: a text that can't be read (the message has its index), or more tokens than the encoder takes.
        OSError: the encoder was not found.

    Example:
        >>> encode(["Good morning.", "Go away!"]).shape
        torch.Size([2, 384])
    """
    return create_embedder(encoder, **options)(texts)
