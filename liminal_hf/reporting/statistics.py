"""Means with intervals, and effect sizes: what a report says of groups.

Requires numpy and scipy (the extra `report`). Rows count as independent of each other. What can't be computed is None:
the spread of one value, an effect where nothing varies.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
# Equal texts have equal answers, up to rounding in a batch; spread below this is none.
_NO_SPREAD = 1e-6


def _array(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def mean_interval(values: ArrayLike) -> tuple[float, float | None, float | None, float | None]:
    """Mean, standard deviation (n - 1), and the low and high end of the mean's 95% interval by Student's t.

    Args:
        values: `(n,)`, at least one.

    Returns:
        Standard deviation and interval are None for one value.

    Example:
        >>> [round(number, 3) for number in mean_interval([0.1, 0.2, 0.3])]
        [0.2, 0.1, -0.048, 0.448]
        >>> mean_interval([0.5])
        (0.5, None, None, None)
    """
    array = _array(values)
    mean, count = float(array.mean()), len(array)
    if count < 2:
        return mean, None, None, None
    from scipy.stats import t

    deviation = float(array.std(ddof=1))
    half = float(t.ppf((1 + LEVEL) / 2, count - 1)) * deviation / math.sqrt(count)
    return mean, deviation, mean - half, mean + half


def welch_difference(one: ArrayLike, other: ArrayLike) -> tuple[float, float | None, float | None]:
    """The difference of two means, one minus other, with its 95% interval by Welch's t.

    Args:
        one, other: `(n,)` and `(m,)`, at least one value each.

    Returns:
        The interval is None where a group has one value, or neither varies.

    Example:
        >>> [round(number, 3) for number in welch_difference([0.4, 0.5, 0.6], [0.1, 0.2, 0.3])]
        [0.3, 0.073, 0.527]
    """
    a, b = _array(one), _array(other)
    difference = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2 or max(a.std(), b.std()) < _NO_SPREAD:
        return difference, None, None
    from scipy.stats import ttest_ind

    low, high = ttest_ind(a, b, equal_var=False).confidence_interval(LEVEL)
    return difference, float(low), float(high)


def hedges_g(one: ArrayLike, other: ArrayLike) -> tuple[float, float, float] | tuple[None, None, None]:
    """Hedges' g, one minus other in pooled standard deviations, corrected for small samples, with its 95% interval.

    The interval is that of the normal distribution with the variance of Hedges & Olkin (1985).

    Args:
        one, other: `(n,)` and `(m,)`, at least two values each.

    Returns:
        Three times None where a group has one value, or neither varies.

    Example:
        >>> [round(number, 2) for number in hedges_g([0.4, 0.5, 0.6], [0.1, 0.2, 0.3])]
        [2.4, 0.3, 4.5]
        >>> hedges_g([0.4], [0.1, 0.2])
        (None, None, None)
    """
    a, b = _array(one), _array(other)
    n, m = len(a), len(b)
    if min(n, m) < 2:
        return None, None, None
    freedom = n + m - 2
    pooled = math.sqrt(((n - 1) * a.var(ddof=1) + (m - 1) * b.var(ddof=1)) / freedom)
    if pooled < _NO_SPREAD:
        return None, None, None
    g = float(a.mean() - b.mean()) / pooled * (1 - 3 / (4 * freedom - 1))
    half = 1.959964 * math.sqrt((n + m) / (n * m) + g**2 / (2 * (n + m)))
    return g, g - half, g + half


def eta_squared(groups: Sequence[ArrayLike]) -> float | None:
    """The share of the variance that lies between groups, 0..1.

    Args:
        groups: the values of each, `(n,)`, at least one.

    Returns:
        None where nothing varies, or no group has two values.

    Example:
        >>> round(eta_squared([[0.1, 0.2], [0.4, 0.5], [0.1, 0.2]]), 3)
        0.889
    """
    arrays = [_array(group) for group in groups]
    values = np.concatenate(arrays)
    if values.std() < _NO_SPREAD or max(map(len, arrays)) < 2:
        return None
    total = float(((values - values.mean()) ** 2).sum())
    within = sum(float(((array - array.mean()) ** 2).sum()) for array in arrays)
    return 1 - within / total
