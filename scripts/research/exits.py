"""When to stop reading: what decides it, and what each rule's answers are worth.

Requires liminal_hf. `scripts/exits.py` reports what is found here.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from liminal_hf.inference import batches_by_length
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression
from liminal_hf.modeling.texts import checked_max_length, tokenize
from research.report import Array, mean_r

Depths = NDArray[np.int64]
RINSE = "RINSE: expected gain"
DRAWS = 20
_GRID = 400  # thresholds that are tried for a mean depth


@dataclass
class Reading:
    """What a model says of each text after each step.

    Args:
        answers: `(rows, K, T)` in label units.
        gains: `(rows, K)`, what RINSE expects of reading on.
        spreads: `(rows, K, T)`, standard deviations in units of the labels'.
        labels: `(rows, T)`.
        label_std: `(T,)`.
        layers: `(K,)`, how many layers have been run after each step.
    """

    answers: Array
    gains: Array
    spreads: Array
    labels: Array
    label_std: Array
    layers: Array

    @property
    def errors(self) -> Array:
        """`(rows, K)`: squared errors in units of the labels' deviation, summed over the targets."""
        found: Array = (((self.answers - self.labels[:, None]) / self.label_std) ** 2).sum(-1)
        return found

    @property
    def changes(self) -> Array:
        """`(rows, K)`: how far each step has moved the answer, in units of the labels' deviation."""
        before = np.concatenate([np.full_like(self.answers[:, :1], np.inf), self.answers[:, :-1]], axis=1)
        with np.errstate(invalid="ignore"):
            found: Array = np.linalg.norm((self.answers - before) / self.label_std, axis=-1)
        return found

    @property
    def movements(self) -> Array:
        """`(rows, K)`: the square of how far reading on to the end moves the answer, as `gains` are meant to say."""
        found: Array = (((self.answers - self.answers[:, -1:]) / self.label_std) ** 2).sum(-1)
        return found

    def at(self, depths: Depths) -> Array:
        """The answers of texts that are read so many steps, `(rows, T)`."""
        return self.answers[np.arange(len(depths)), depths - 1]

    def cost(self, depths: Depths) -> float:
        """Mean number of layers."""
        return float(self.layers[depths - 1].mean())

    def scores(self) -> dict[str, Array]:
        """By rule, `(rows, K)`: reading stops at the first step whose score is below a threshold."""
        changes = self.changes
        calm = np.maximum(changes, np.concatenate([np.full_like(changes[:, :1], np.inf), changes[:, :-1]], axis=1))
        return {
            RINSE: self.gains,
            "change from the step before": changes,
            "patience: two small changes in a row": calm,
            "uncertainty": self.spreads.mean(-1),
            "oracle: how far the answer will move": self.movements,
            "oracle: fall of the error": self.errors - self.errors[:, -1:],
        }


def read(model: LiminalForPADRegression, tokenizer: Any, texts: list[str], labels: Array) -> Reading:
    """Reads all layers of all texts."""
    config = model.config
    length = checked_max_length(None, config, tokenizer)
    tokens = tokenize(tokenizer, texts, length)
    names = ("pad_trajectory", "gains", "log_variance")
    found: dict[str, Array] = {}
    before, config.exit_threshold = config.exit_threshold, None
    try:
        for batch in batches_by_length(tokens.lengths, 32):
            with torch.inference_mode():
                output = model.liminal(**tokens.batch(tokenizer, batch))
            for name in names:
                value = output[name].double().numpy()
                found.setdefault(name, np.zeros((len(texts), *value.shape[1:])))[batch] = value
    finally:
        config.exit_threshold = before
    spreads = np.exp(0.5 * found["log_variance"])
    layers = np.array(config.depth_layers, dtype=np.float64)
    return Reading(found["pad_trajectory"], found["gains"], spreads, labels, np.array(config.label_std), layers)


def stops(scores: Array, threshold: float) -> Depths:
    """After how many steps each text is done, `(rows,)`: at the first score below the threshold, or at the end.

    Example:
        >>> stops(np.array([[3.0, 1.0, 0.0], [0.5, 2.0, 0.0], [9.0, 9.0, 9.0]]), 1.5).tolist()
        [2, 1, 3]
    """
    enough = scores < threshold
    enough[:, -1] = True
    depths: Depths = enough.argmax(1).astype(np.int64) + 1
    return depths


def threshold_at(reading: Reading, scores: Array, layers: float) -> float:
    """The threshold at which so many layers are read on average, as nearly as there is one."""
    finite = scores[:, :-1][np.isfinite(scores[:, :-1])]
    candidates = np.unique(np.quantile(finite, np.linspace(0, 1, _GRID)))
    candidates = np.concatenate([candidates, [candidates[-1] + 1.0]])
    costs = [reading.cost(stops(scores, threshold)) for threshold in candidates]
    return float(candidates[int(np.argmin(np.abs(np.array(costs) - layers)))])


def fixed(reading: Reading, layers: float, generator: np.random.Generator) -> Depths:
    """All texts as deep as each other, or a random part of them one step deeper, so that the mean is kept to."""
    upper = int(np.searchsorted(reading.layers, layers - 1e-9))
    if upper == 0 or reading.layers[upper] == layers:
        return np.full(len(reading.labels), upper + 1)
    share = (layers - reading.layers[upper - 1]) / (reading.layers[upper] - reading.layers[upper - 1])
    return np.where(generator.random(len(reading.labels)) < share, upper + 1, upper)


def compare(reading: Reading, layers: float) -> dict[str, float]:
    """Mean r of each rule where it reads so many layers on average."""
    found, depths = {}, {}
    for name, scores in reading.scores().items():
        depths[name] = stops(scores, threshold_at(reading, scores, layers))
        found[name] = mean_r(reading.at(depths[name]), reading.labels)
    generator = np.random.default_rng(0)
    draws = [mean_r(reading.at(generator.permutation(depths[RINSE])), reading.labels) for _ in range(DRAWS)]
    found["RINSE's depths, given to texts at random"] = float(np.mean(draws))
    draws = [mean_r(reading.at(fixed(reading, layers, generator)), reading.labels) for _ in range(DRAWS)]
    found["fixed depth"] = float(np.mean(draws))
    return found
