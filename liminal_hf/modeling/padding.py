"""Padding: is the mask right, and where do the real tokens go.

Requires torch and transformers. Before the encoder reads a batch, the model moves the real tokens of every row to the
front ("justifies" them). So absolute positions, causal attention and poolers never see which side a tokenizer pads on.
What the encoder returns is moved back to where its tokens stood.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput, logging

from .configuration_liminal import LiminalConfig
from .encoders import mixes_padding
from .errors import LiminalError

logger = logging.get_logger(__name__)


def is_tracing() -> bool:
    """Whether the values of tensors can't be looked at: under torch.compile, torch.export and torch.jit.trace."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def checked_mask(
    config: LiminalConfig,
    limit: int | None,
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """The attention mask `(batch, length)` of a batch, 1 on real tokens; all ones where none was given.

    Args:
        config: of the model.
        limit: how many tokens the encoder takes at most; None is no limit.
        input_ids, inputs_embeds, mask: as given to the model.

    Raises:
        LiminalError: no tokens or two kinds of them, too many, ids outside of the vocabulary, padding without a mask, a
            mask of another shape, a row with no token.
    """
    tokens = input_ids if input_ids is not None else inputs_embeds
    if tokens is None or (input_ids is not None and inputs_embeds is not None):
        raise LiminalError("Give exactly one of input_ids, inputs_embeds and pooled_embeds.")
    dimensions = 2 if input_ids is not None else 3
    if not isinstance(tokens, Tensor) or tokens.dim() != dimensions:
        kind = f"a tensor of shape {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise LiminalError(
            f"The model takes tokens (batch, length), or embeddings (batch, length, hidden), as a tensor; got {kind}. "
            "For texts: model(**tokenizer(texts, padding=True, return_tensors='pt')), or pipeline('pad-regression')."
        )
    if limit is not None and tokens.shape[1] > limit:
        raise LiminalError(
            f"The text has {tokens.shape[1]} tokens and this encoder takes at most {limit}. Truncate it: "
            f"tokenizer(text, truncation=True, max_length={limit}); pipeline('pad-regression') does so by itself."
        )
    if input_ids is not None and not is_tracing():
        _check_ids(config, input_ids, has_mask=mask is not None)
    if mask is None:
        return torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)
    if mask.shape != tokens.shape[:2]:
        raise LiminalError(
            f"attention_mask must have the shape (batch, length) of the tokens, {tuple(tokens.shape[:2])}; got "
            f"{tuple(mask.shape)}."
        )
    if not is_tracing():
        empty = mask.sum(1) == 0
        if bool(empty.any()):
            row = int(empty.nonzero()[0])
            raise LiminalError(f"Row {row} has no token at all (empty text?). Every text needs at least one token.")
        if mixes_padding(config) and bool((mask == 0).any()):
            logger.warning_once(
                f"A {config.text_config.model_type!r} encoder reads padding as if it were text: the answer for a text "
                "changes with the texts beside it. Give texts of one length at a time; `pad-regression` does so."
            )
    return mask.to(torch.long)


def _check_ids(config: LiminalConfig, input_ids: Tensor, has_mask: bool) -> None:
    vocabulary, padding = config.vocab_size, config.pad_token_id
    if bool(((input_ids < 0) | (input_ids >= vocabulary)).any()):
        raise LiminalError(
            f"input_ids hold {int(input_ids.min())}..{int(input_ids.max())} and this encoder's vocabulary has "
            f"{vocabulary} tokens: the tokenizer is that of another model. Load it from where the model came from."
        )
    if not has_mask and padding is not None and bool((input_ids == padding).any()):
        raise LiminalError(
            "input_ids hold padding but there is no attention_mask. Pass on everything that the tokenizer "
            "returns: model(**tokenizer(texts, padding=True, return_tensors='pt'))."
        )


def justified_index(mask: Tensor) -> Tensor | None:
    """Where each token goes when the real tokens move to the front in order, `(batch, length)`.

    None means that all tokens are where they belong (no padding, or padding on the right).

    Example:
        >>> justified_index(torch.tensor([[0, 0, 1, 1]]))
        tensor([[2, 3, 0, 1]])
        >>> justified_index(torch.tensor([[1, 1, 0, 0]])) is None
        True
    """
    if not is_tracing() and bool(mask.all()):
        return None
    real = mask.ne(0).long()
    front = real.cumsum(1) - 1
    back = real.sum(1, keepdim=True) + (1 - real).cumsum(1) - 1
    index = torch.where(real.bool(), front, back)
    if not is_tracing() and torch.equal(index, torch.arange(index.shape[1], device=index.device).expand_as(index)):
        return None
    return index


def justify(inputs: dict[str, Any], index: Tensor | None) -> dict[str, Any]:
    """The inputs with every tensor that has a value per token, `(batch, length, ...)`, moved to the index.

    A tensor `(1, length)`, such as positions that all rows share, is taken for each row.
    """
    if index is None:
        return inputs
    return {name: _justified(value, index) for name, value in inputs.items()}


def _justified(value: Any, index: Tensor) -> Any:
    if not isinstance(value, Tensor) or value.dim() < 2 or value.shape[1] != index.shape[1]:
        return value
    if value.shape[0] not in (1, index.shape[0]):
        return value
    value = value.expand(index.shape[0], *value.shape[1:])
    return torch.zeros_like(value).scatter(1, _spread(index, value), value)


def restore_outputs(
    encoded: ModelOutput, index: Tensor | None, hidden_states: bool | list[int] | tuple[int, ...], attentions: bool
) -> dict[str, Any]:
    """The encoder's own outputs with every token where it stood; its very tensors where nothing was moved.

    Args:
        encoded: what the encoder returned.
        index: from `justified_index`.
        hidden_states: whether to return all layers; a list names some, and the others are None.
        attentions: whether to return the attention weights.
    """
    layers = encoded.hidden_states if hidden_states else None
    if layers is not None and isinstance(hidden_states, list | tuple):
        wanted = {layer % len(layers) for layer in hidden_states}
        layers = tuple(state if layer in wanted else None for layer, state in enumerate(layers))
    weights = encoded.get("attentions") if attentions else None
    return {
        "last_hidden_state": _restore(encoded.last_hidden_state, index),
        "hidden_states": None if layers is None else tuple(_restore(state, index) for state in layers),
        "attentions": None if weights is None else tuple(_restore_both_sides(weight, index) for weight in weights),
    }


def _restore(states: Tensor | None, index: Tensor | None) -> Tensor | None:
    """`(batch, length, size)`."""
    return states if states is None or index is None else states.gather(1, _spread(index, states))


def _restore_both_sides(weights: Tensor | None, index: Tensor | None) -> Tensor | None:
    """`(batch, heads, length, length)`."""
    if weights is None or index is None:
        return weights
    rows = index[:, None, :, None].expand_as(weights)
    columns = index[:, None, None, :].expand_as(weights)
    return weights.gather(2, rows).gather(3, columns)


def _spread(index: Tensor, values: Tensor) -> Tensor:
    return index.view(*index.shape, *[1] * (values.dim() - 2)).expand_as(values)
