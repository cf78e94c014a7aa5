"""Intermediate training of an encoder on emotion categories (GoEmotions), under a layer that is thrown away.

Requires torch and transformers.
"""

import math

import numpy as np
from torch import Tensor, nn
from transformers import EvalPrediction, PreTrainedModel


class EmotionClassifier(nn.Module):
    """An encoder under a throw-away layer for several emotions at once: mean pooling, linear, binary cross-entropy.

    Args:
        encoder: any text encoder; it is trained in place.
        num_labels: number of emotions.
    """

    accepts_loss_kwargs = True

    def __init__(self, encoder: PreTrainedModel, num_labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(encoder.config.hidden_size, num_labels)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """input_ids, attention_mask: `(batch, length)`, padded on the right; labels: `(batch, num_labels)`, 0 or 1."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True).last_hidden_state
        mask = attention_mask.to(states.dtype)[..., None]
        pooled = (states * mask).sum(1) / mask.sum(1)
        logits = self.classifier(pooled.to(self.classifier.weight.dtype))  # the encoder may be in half precision
        if labels is None:
            return {"logits": logits}
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="sum")
        return {"loss": loss / (labels.numel() if num_items_in_batch is None else num_items_in_batch), "logits": logits}


def macro_f1(prediction: EvalPrediction, threshold: float = 0.3) -> dict[str, float]:
    """Macro F1 of multi-label logits at a probability of `threshold` (as in Demszky et al. 2020).

    Example:
        >>> macro_f1(EvalPrediction(np.array([[9.0, -9.0]]), np.array([[1.0, 0.0]])))
        {'macro_f1': 0.5}
    """
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    guessed = logits > math.log(threshold / (1 - threshold))
    truth = np.asarray(prediction.label_ids) > 0.5
    hits = (guessed & truth).sum(0)
    return {"macro_f1": float((2 * hits / np.maximum(guessed.sum(0) + truth.sum(0), 1)).mean())}
