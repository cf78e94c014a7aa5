"""The one-line way from texts to vectors.

Requires torch and transformers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoTokenizer

from .modeling.encoders import resolve_encoder
from .modeling.modeling_liminal import LiminalModel
from .modeling.pipeline_liminal import checked_text


@torch.inference_mode()
def encode(
    texts: str | Sequence[str],
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
        texts: a text or several.
        encoder: Hub id or folder.
        revision: branch, tag or commit of the encoder.
        pooling, pooled_layers: as in `LiminalConfig`.
        max_length: tokens per text; longer ones are truncated.
        batch_size: texts per forward pass; no vector depends on it.
        device: where the encoder runs.

    Returns:
        `(number of texts, pooled size)`, float32, on the CPU.

    Raises:
        ValueError: an empty text, or something that is no text; the message says which.
        OSError: the encoder was not found.

    Example:
        >>> encode(["Good morning.", "Go away!"]).shape
        torch.Size([2, 384])
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    texts = [checked_text(text, f"Text {index}") for index, text in enumerate(texts)]
    model = LiminalModel.from_encoder_pretrained(
        encoder, revision, head="linear", pooling=pooling, pooled_layers=pooled_layers
    )
    source, source_revision = resolve_encoder(encoder, revision)
    tokenizer = AutoTokenizer.from_pretrained(source, revision=source_revision)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.to(device).eval()
    # Texts of one length together: padding costs time.
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    vectors = torch.empty(len(texts), model.pooled_size)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True, max_length=max_length, return_tensors="pt"
        ).to(device)
        vectors[rows] = model.pool(**batch).float().cpu()
    return vectors
