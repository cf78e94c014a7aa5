"""The one-line way from texts to vectors.

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


@torch.inference_mode()
def encode(
    texts: str | Iterable[Any],
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2",
    *,
    revision: str | None = None,
    pooling: str | None = None,
    pooled_layers: str = "last",
    max_length: int = 128,
    batch_size: int = 32,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Vectors of texts from any encoder, ready for `pooled_embeds`.

    Args:
        texts: a text, or any container of texts (list, Series, numpy, Arrow, `datasets.Column`, generator, ...).
        encoder: Hub id or folder.
        revision: branch, tag or commit of the encoder.
        pooling, pooled_layers: as in `LiminalConfig`.
        max_length: tokens per text; longer ones are truncated.
        batch_size: texts per forward pass; no vector depends on it.
        device: where the encoder runs.

    Returns:
        `(number of texts, pooled size)`, float32, on the CPU.

    Raises:
        LiminalError: a text that can't be read (the message has its index), or more tokens than the encoder takes.
        OSError: the encoder was not found.

    Example:
        >>> encode(["Good morning.", "Go away!"]).shape
        torch.Size([2, 384])
    """
    texts = [texts] if isinstance(texts, str) else as_list(texts)
    texts = [checked_text(text, f"Text {index}") for index, text in enumerate(texts)]
    model = LiminalModel.from_encoder_pretrained(
        encoder, revision, head="linear", pooling=pooling, pooled_layers=pooled_layers
    )
    tokenizer = load_tokenizer(encoder, revision)
    model.to(device).eval()
    vectors = torch.empty(len(texts), model.pooled_size)
    batches = encode_batches(
        tokenizer,
        texts,
        max_length=checked_max_length(max_length, model.config, tokenizer),
        batch_size=batch_size,
        one_length=mixes_padding(model.config),
    )
    for batch in batches:
        vectors[batch.rows] = model.pool(**batch.inputs.to(device)).float().cpu()
    return vectors
