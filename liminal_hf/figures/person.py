"""The figure of one person: what their texts say, what they rated, their level, and what is expected next.

Requires numpy; the figure needs matplotlib (`pip install 'liminal_hf[plot]'`).
"""

from typing import TYPE_CHECKING, Unpack

import numpy as np
from numpy.typing import ArrayLike

from . import style as st

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def person_history(
    times: ArrayLike,
    readings: ArrayLike,
    ratings: ArrayLike,
    levels: ArrayLike,
    ahead: ArrayLike,
    expected: ArrayLike,
    *,
    width: float = st.WIDTH,
    **options: Unpack[st.Options],
) -> "Figure":
    """A panel per target: readings and ratings over time, the level and the forecast, both with their 80% intervals.

    Args:
        times: `(turns,)`, ascending.
        readings: `(turns, T)`, what the texts say; a NaN is a text that could not be read.
        ratings: `(turns, T)`, what the person said; a NaN is no rating.
        levels: `(turns, T, 3)`: after each turn the usual value, and the low and the high end of its interval.
        ahead: `(points,)`, times after the last turn.
        expected: `(points, T, 3)`: the forecast, and the ends of its interval.
        width: in inches, 3.5..20.
        options: see `style.Options`.

    Example:
        >>> figure = person_history([0, 1], [[.1], [.2]], [[.4], [float("nan")]], [[[.2, .1, .3]]] * 2, [2, 3],
        ...                         [[[.2, 0, .4]]] * 2, targets=["pleasure"])
        >>> figure.get_suptitle()
        'A person of 2 turns, 1 of them rated'
    """
    targets, value_range, subject = st.settled(**options)
    read = st.check("readings", readings, ("turns", len(targets)), gaps="a text that could not be read")
    x = st.check("times", times, (len(read),))
    rated = st.check("ratings", ratings, read.shape, gaps="no rating")
    usual = st.check("levels", levels, (*read.shape, 3))
    later = st.check("ahead", ahead, ("points",))
    coming = st.check("expected", expected, (len(later), len(targets), 3))
    count = int((~np.isnan(rated)).any(axis=1).sum())
    title = f"A person of {st.count_of(len(x), 'turn')}, {count} of them rated"
    figure = st.new_figure(1.2 + 1.8 * len(targets), title, subject, width=width)
    panels = list(np.ravel(figure.subplots(len(targets), 1, sharex=True, squeeze=False)))
    middle = sum(value_range) / 2
    limits = st.limits(read, rated, np.clip(usual, *value_range), np.clip(coming, *value_range), [middle], floor=0.3)
    colour = st.line_styles(1)[0][0]
    for column, (axes, name) in enumerate(zip(panels, targets, strict=True)):
        axes.axhline(middle, color=st.GREY, linewidth=0.8)
        level, low, high = usual[:, column].T
        axes.fill_between(x, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
        axes.step(x, level, where="post", color=colour, linewidth=1.6, label="level, with its 80% interval")
        axes.plot(x, read[:, column], "o", color=st.GREY, markersize=4, label="reading of the text")
        axes.plot(x, rated[:, column], "D", color=st.BLACK, markersize=6, label="the person's rating")
        mean, low, high = coming[:, column].T
        axes.fill_between(later, low, high, color=st.VERMILLION, alpha=0.15, linewidth=0)
        axes.plot(later, mean, "--", color=st.VERMILLION, linewidth=1.6, label="forecast, with its 80% interval")
        axes.set_ylim(*limits)
        st.label_axes(axes, xlabel="", ylabel=st.scale(name, value_range, "\n"))
    panels[-1].set_xlabel("time (days, where the times are dates)", fontsize=10)
    figure.align_ylabels(panels)
    st.legend_below(panels[-1], columns=2)
    return figure
