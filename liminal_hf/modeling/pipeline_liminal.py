"""The task "pad-regression": text in, pleasure, arousal and dominance out, in words that people can use.

Requires torch and transformers.
"""

import bisect
import math
from typing import Any

import torch
from transformers import Pipeline

from .configuration_liminal import DIMENSIONS, LiminalConfig

# Mehrabian (1996), Pleasure-arousal-dominance: A general framework, Current Psychology 14(4), table of octants.
OCTANTS = {
    (True, True, True): "exuberant",
    (True, True, False): "dependent",
    (True, False, True): "relaxed",
    (True, False, False): "docile",
    (False, True, True): "hostile",
    (False, True, False): "anxious",
    (False, False, True): "disdainful",
    (False, False, False): "bored",
}


def octant(pad: tuple[float, float, float] | list[float], midpoint: float = 0.0) -> str:
    """Mehrabian's name for the octant of PAD space that a point lies in; the midpoint counts as high.

    Example:
        >>> octant((-0.4, 0.3, -0.2))
        'anxious'
    """
    return OCTANTS[(pad[0] >= midpoint, pad[1] >= midpoint, pad[2] >= midpoint)]


def percentile(value: float, quantiles: list[float]) -> float:
    """Where a value lies among evenly spaced quantiles, 0..100, linear in between.

    Example:
        >>> percentile(0.25, [0.0, 0.5, 1.0])
        25.0
    """
    last = len(quantiles) - 1
    right = bisect.bisect_left(quantiles, value)
    if right == 0:
        return 0.0
    if right > last:
        return 100.0
    low, high = quantiles[right - 1], quantiles[right]
    return 100.0 * (right - 1 + (value - low) / (high - low)) / last


def overall_confidence(uncertainty: list[float], config: LiminalConfig) -> float:
    """One number in 0..1 that falls as the expected error grows: exp(-mean of uncertainty / spread of the labels).

    A model that knows no more than the mean of its labels has 0.37.

    Example:
        >>> round(overall_confidence([0.0, 0.0, 0.0], LiminalConfig(pooled_size=8)), 3)
        1.0
    """
    relative = [u / s for u, s in zip(uncertainty, config.label_std, strict=True)]
    return math.exp(-sum(relative) / len(relative))


def checked_text(text: Any, where: str = "The text") -> str:
    """The text itself if it can be read.

    Raises:
        ValueError: not a string, nothing but white space, or a lone surrogate (half of a character); `where` names
            the culprit.

    Example:
        >>> checked_text("Good morning")
        'Good morning'
    """
    if not isinstance(text, str):
        raise ValueError(f"{where} must be a string, got {type(text).__name__}: {str(text)[:40]!r}.")
    if not text.strip():
        raise ValueError(f"{where} is empty. Give at least one word.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} holds half of a character (a lone surrogate) at position {error.start}. Decode the source as "
            "UTF-8, or clean it: text.encode('utf-8', 'replace').decode()"
        ) from None
    return text


def describe(logits: list[float], uncertainty: list[float] | None, config: LiminalConfig) -> dict[str, Any]:
    """One row of the task's result from one row of the model's.

    Args:
        logits: PAD in label units; clamped to the config's `label_range`.
        uncertainty: standard deviation per dimension, or None.
        config: the model's config.

    Example:
        >>> row = describe([0.2, 2.0, -0.1], None, LiminalConfig(pooled_size=8))
        >>> row["arousal"], row["octant"]
        (1.0, 'dependent')
    """
    low, high = config.label_range
    pad = [min(max(value, low), high) for value in logits]
    row: dict[str, Any] = dict(zip(DIMENSIONS, pad, strict=True))
    row["confidence"] = None if uncertainty is None else overall_confidence(uncertainty, config)
    row["octant"] = octant(pad, (low + high) / 2)
    row["uncertainty"] = None if uncertainty is None else dict(zip(DIMENSIONS, uncertainty, strict=True))
    row["percentile"] = (
        None
        if config.prediction_quantiles is None
        else {
            name: percentile(value, quantiles)
            for name, value, quantiles in zip(DIMENSIONS, pad, config.prediction_quantiles, strict=True)
        }
    )
    return row


class PADRegressionPipeline(Pipeline):
    """`pipeline("pad-regression")`: a row of PAD for each text.

    Each row is a dict with `pleasure`, `arousal`, `dominance` (clamped to the label range), `confidence` (0..1),
    `octant` (Mehrabian 1996), `uncertainty` (a standard deviation per dimension, in label units) and `percentile`
    (per dimension, among this model's own predictions on its training texts). What the model does not have is None.

    Args of a call:
        inputs: a text or a list of texts.
        max_length: tokens per text, longer ones are truncated; default the config's `max_seq_length`.
        num_outer_steps: K of this call.

    Raises:
        ValueError: an input that is no text, is empty, or holds a lone surrogate; the message names it.

    Example:
        >>> from transformers import pipeline
        >>> import liminal_hf
        >>> pad = pipeline("pad-regression", model=liminal_hf.DEFAULT_CHECKPOINT)
        >>> pad("What a lovely surprise!")["octant"]
        'exuberant'
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.tokenizer is not None and self.tokenizer.pad_token_id is None:
            # GPT-2 has none; the mask hides the padding, so that any token will do.
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def _sanitize_parameters(
        self, max_length: int | None = None, num_outer_steps: int | None = None, **unknown: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            raise ValueError(
                f"pad-regression does not take {', '.join(map(repr, unknown))}. It takes max_length, num_outer_steps "
                "and batch_size."
            )
        preprocess = {} if max_length is None else {"max_length": max_length}
        forward = {} if num_outer_steps is None else {"num_outer_steps": num_outer_steps}
        return preprocess, forward, {}

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """See the class."""
        if isinstance(inputs, list | tuple):
            inputs = [checked_text(text, f"Text {index}") for index, text in enumerate(inputs)]
            if not inputs:
                return []
        elif isinstance(inputs, str) or not hasattr(inputs, "__iter__"):
            checked_text(inputs)
        return super().__call__(inputs, **kwargs)

    def preprocess(self, inputs: Any, max_length: int | None = None) -> dict[str, torch.Tensor]:
        """Tokens of one text, truncated."""
        return self.tokenizer(
            checked_text(inputs),
            truncation=True,
            max_length=max_length or self.model.config.max_seq_length,
            return_tensors="pt",
        )

    def _forward(self, model_inputs: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        output = self.model(**model_inputs, **kwargs)
        kept = {"logits": output.logits}
        if output.uncertainty is not None:
            kept["uncertainty"] = output.uncertainty
        return kept

    def postprocess(self, model_outputs: Any) -> dict[str, Any]:
        """One row from one row."""
        uncertainty = model_outputs.get("uncertainty")
        return describe(
            model_outputs["logits"][0].double().tolist(),
            None if uncertainty is None else uncertainty[0].double().tolist(),
            self.model.config,
        )
