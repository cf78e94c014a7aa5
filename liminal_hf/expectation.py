"""What correlation to expect on texts that nobody has labelled, from a model's own uncertainties.

Requires numpy.
"""

import numpy as np
from numpy.typing import ArrayLike

from .metrics import Array, checked, checked_uncertainty
from .modeling.errors import LiminalError


def expected_pearson(predictions: ArrayLike, uncertainty: ArrayLike) -> Array:
    """The r that a model promises by its own uncertainties, without labels, per target.

    Where a prediction is the mean of the labels that such a text can have, and the uncertainty their standard
    deviation, the labels' variance is Var(prediction) + mean(uncertainty^2), and r the root of the predictions' share.
    Models promise too much on other people's texts: `expected_interval` says by how much.

    Args:
        predictions: `(N, T)`, N at least 2, finite.
        uncertainty: `(N, T)`, standard deviations; missing rows must be left out before.

    Returns:
        `(T,)`, float64, in 0..1; NaN where predictions do not vary and have no uncertainty.

    Raises:
        LiminalError: shapes that differ, values that are not finite, or fewer than two rows.

    Example:
        >>> expected_pearson([[-0.3], [0.3]], [[0.4], [0.4]]).round(6).tolist()
        [0.6]
    """
    predictions, _, _ = checked(predictions, np.zeros(np.shape(predictions)))
    spread = checked_uncertainty(uncertainty, predictions.shape)
    if len(predictions) < 2:
        raise LiminalError("What r to expect can be said of two texts or more; got one.")
    explained, rest = predictions.var(axis=0), np.square(spread).mean(axis=0)
    with np.errstate(invalid="ignore"):
        return np.sqrt(explained / (explained + rest))


# The 10%, 50% and 90% points of found minus expected r, over corpora with labels, of texts like the training texts
# (True) and of others: scripts/unlabelled.py.
LABEL_FREE_DIFFERENCES = {True: (-0.17, -0.09, -0.02), False: (-0.08, 0.04, 0.15)}


def expected_interval(expected: float, rows: int, in_domain: bool) -> tuple[float, float, float]:
    """What r to expect of labels, with an 80% interval, from the r that a model promises.

    Args:
        expected: from `expected_pearson`.
        rows: number of texts; few texts give a wider interval.
        in_domain: whether the mean of `in_domain` over the texts is .5 or more.

    Returns:
        The middle and both ends, each in 0..1.

    Source:
        scripts/results/unlabelled.md.

    Example:
        >>> middle, low, high = expected_interval(0.7, 1000, in_domain=True)
        >>> 0 < low < middle < high < 1
        True
    """
    chance = 1.28 * (1 - expected**2) / np.sqrt(rows)
    low, middle, high = LABEL_FREE_DIFFERENCES[in_domain]
    ends = np.clip([expected + middle, expected + low - chance, expected + high + chance], 0, 1)
    return float(ends[0]), float(ends[1]), float(ends[2])
