"""Figures of a table without labels: groups of its texts, and texts over time.

Requires numpy; the figures need matplotlib (`pip install 'liminal_hf[plot]'`). The options of a figure are those of
`style.Options`.
"""

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from ..modeling.errors import LiminalError
from . import style as st

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def group_means(
    names: Sequence[str],
    means: ArrayLike,
    intervals: ArrayLike,
    *,
    width: float = st.WIDTH,
    **options: Unpack[st.Options],
) -> "Figure":
    """The mean of each group with its interval, a panel per target.

    Args:
        names: of the groups.
        means: `(groups, T)`; a NaN is a group without texts.
        intervals: `(groups, T, 2)`, low and high end; a NaN is a group too small to have one.
        width: in inches, 3.5..20.
        options: see `style.Options`.

    Example:
        >>> ends = [[[.1, .3]] * 3, [[-.3, -.1]] * 3]
        >>> figure = group_means(["letters", "diaries"], [[.2] * 3, [-.2] * 3], ends)
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['letters', 'diaries']
    """
    targets, value_range, subject = st.settled(**options)
    values = st.check("means", means, (len(names), len(targets)), gaps="a group without texts")
    ends = st.check("intervals", intervals, (*values.shape, 2), gaps="a group that is too small")
    columns = min(len(targets), 3)
    height = (1.1 + 0.28 * len(names)) * -(-len(targets) // columns) + 0.5
    figure = st.new_figure(height, f"Means of {st.count_of(len(names), 'group')}, 95% intervals", subject, width=width)
    limits = st.limits(values, ends, floor=0.1) if np.isfinite(values).any() else (-0.1, 0.1)
    rows = np.arange(len(names))
    looks = st.line_styles(len(targets))
    for column, axes in enumerate(st.panels(figure, len(targets), sharey=True)):
        colour, marker, _ = looks[column]
        axes.hlines(rows, *ends[:, column].T, color=colour, linewidth=1.8)
        axes.plot(values[:, column], rows, color=colour, marker=marker, linestyle="", markersize=6)
        labels = axes.set_yticks(rows, [st.one_line(name, 20) for name in names])
        for label in axes.get_yticklabels() if labels else ():
            label.set_parse_math(False)
        axes.set(xlim=limits, ylim=(len(names) - 0.5, -0.5))
        axes.locator_params(axis="x", nbins=5)
        st.label_axes(axes, xlabel=st.scale(targets[column], value_range), ylabel="", grid="x")
    return figure


def means_over_time(
    times: Sequence[float] | Sequence[dt.datetime],
    points: ArrayLike,
    at: Sequence[float] | Sequence[dt.datetime],
    means: ArrayLike,
    intervals: ArrayLike,
    *,
    xlabel: str = "time",
    width: float = st.WIDTH,
    **options: Unpack[st.Options],
) -> "Figure":
    """Each text at its time, and the mean of each span of time with its interval; a panel per target.

    Args:
        times: of the texts; numbers or dates.
        points: `(rows, T)`.
        at: where each span stands.
        means: `(spans, T)`.
        intervals: `(spans, T, 2)`, low and high end; a NaN is a span with a single text.
        xlabel: name of the time.
        width: in inches, 3.5..20.
        options: see `style.Options`.

    Raises:
        LiminalError: `times` and `points`, or `at` and `means`, differ in length.

    Example:
        >>> ends = [[[.1, .3]] * 3, [[-.3, -.1]] * 3]
        >>> figure = means_over_time([1, 1, 2], [[.2] * 3, [.3] * 3, [0] * 3], [1, 2], [[.25] * 3, [0] * 3], ends)
        >>> figure.axes[0].get_ylabel()
        'pleasure\\n(−1 to 1)'
    """
    targets, value_range, subject = st.settled(**options)
    dots = st.check("points", points, ("rows", len(targets)))
    values = st.check("means", means, ("spans", len(targets)))
    ends = st.check("intervals", intervals, (*values.shape, 2), gaps="a span with a single text")
    if len(times) != len(dots) or len(at) != len(values):
        raise LiminalError(
            f"There are {len(times)} times for {len(dots)} points, and {len(at)} spans for {len(values)} means."
        )
    title = f"{st.count_of(len(dots), 'text')} over {xlabel}"
    figure = st.new_figure(1.0 + min(1.9, 0.55 * width) * len(targets), title, subject, width=width)
    all_axes = list(np.ravel(figure.subplots(len(targets), 1, sharex=True, squeeze=False)))
    looks = st.line_styles(len(targets))
    x: Any = np.array(at)
    size = 12 if len(dots) <= 400 else 5
    for column, axes in enumerate(all_axes):
        colour, marker, _ = looks[column]
        faint: dict[str, Any] = {"alpha": 0.35 if len(dots) <= 400 else 0.15, "linewidth": 0}
        faint["rasterized"] = len(dots) > 1000  # or a file would be large
        axes.scatter(np.array(times), dots[:, column], s=size, color=st.GREY, label="a text", **faint)
        whiskers = np.abs(ends[:, column].T - values[:, column])
        line: dict[str, Any] = {"color": colour, "marker": marker, "linewidth": 1.4, "markersize": 5}
        axes.errorbar(x, values[:, column], yerr=whiskers, label="mean, 95% interval", **line)
        axes.axhline(sum(value_range) / 2, color=st.GREY, linewidth=0.8, zorder=0)
        st.label_axes(axes, xlabel="", ylabel=st.scale(targets[column], value_range, "\n"))
    axes = all_axes[-1]
    axes.set_xlabel(st.one_line(xlabel, 40), fontsize=10, parse_math=False)
    if isinstance(at[0], dt.datetime):
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(minticks=2, maxticks=5 if width < st.WIDTH else 9)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    figure.align_ylabels(all_axes)
    st.legend_below(axes)
    return figure
