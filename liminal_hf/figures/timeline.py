"""The figure of a text that is read sentence by sentence.

Requires numpy; the figure needs matplotlib (`pip install 'liminal_hf[plot]'`).
"""

from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from . import style as st

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_BARS = 60  # sentences; more of them get a band, and a mean over their neighbours
_WIDEST = 3  # times the median; wider intervals may reach beyond the panel
_NEIGHBOURS = 20  # the mean is over one part in so many of the text


def sentence_timeline(
    points: ArrayLike,
    intervals: ArrayLike | None = None,
    whole: ArrayLike | None = None,
    *,
    width: float = st.WIDTH,
    **options: Unpack[st.Options],
) -> "Figure":
    """The targets over the sentences of a text, with the interval of each. All panels have the same scale.

    Where an interval is far wider than most, it may reach beyond its panel.

    Args:
        points: `(sentences, T)`; a NaN is a sentence that could not be read.
        intervals: `(sentences, T, 2)`, the low and the high end of the 80% interval, in label units.
        whole: `(T,)`, the answer for the whole text.
        width: in inches, 3.5..20.
        options: see `style.Options`.

    Example:
        >>> figure = sentence_timeline([[.2, 0, 0], [-.3, .2, -.1]], [[[-.1, .5]] * 3] * 2, [-.1, .1, 0])
        >>> figure.get_suptitle(), [axes.get_ylabel() for axes in figure.axes][0]
        ('Text of 2 sentences', 'pleasure\\n(−1 to 1)')
    """
    targets, value_range, subject = st.settled(**options)
    unread = "a sentence that could not be read"
    values = st.check("points", points, ("sentences", len(targets)), gaps=unread)
    shape = (*values.shape, 2)
    ends = np.full(shape, np.nan) if intervals is None else st.check("intervals", intervals, shape, gaps=unread)
    mean = None if whole is None else st.check("whole", whole, (len(targets),))
    count, x, middle = len(values), np.arange(1, len(values) + 1), sum(value_range) / 2
    few = count <= _MOST_BARS
    title = f"Text of {st.count_of(count, 'sentence')}"
    figure = st.new_figure(1.2 + 1.7 * len(targets), title, subject, width=width)
    panels = list(np.ravel(figure.subplots(len(targets), 1, sharex=True, squeeze=False)))
    # Sentences unlike the training texts have intervals over most of the scale, and would flatten the rest.
    widths = ends[..., 1] - ends[..., 0]
    known = widths[~np.isnan(widths)]
    shown = ends[widths <= _WIDEST * np.median(known)] if known.size else ends
    limits = st.limits(values, shown, [middle], floor=0.3)
    span = min(count, max(3, count // _NEIGHBOURS))
    for column, (axes, name, (colour, marker, _)) in enumerate(
        zip(panels, targets, st.line_styles(len(targets)), strict=True)
    ):
        line, (low, high) = values[:, column], ends[:, column].T
        axes.axhline(middle, color=st.GREY, linewidth=0.8)
        if few:
            axes.vlines(x, low, high, color=colour, linewidth=1.2, alpha=0.5)
            axes.plot(x, line, color=colour, marker=marker, linewidth=1.4, markersize=5)
        else:
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(x, line, color=colour, linewidth=0.6, alpha=0.6)
            number = np.convolve(~np.isnan(line), np.ones(span), "same")
            near = np.convolve(np.nan_to_num(line), np.ones(span), "same")
            near = np.divide(near, number, out=np.full(count, np.nan), where=number > 0)
            axes.plot(x, near, color=colour, linewidth=2)
        if mean is not None:
            axes.axhline(mean[column], color=st.BLACK, linestyle="--", linewidth=1.1)
        axes.set_ylim(*limits)
        st.label_axes(axes, xlabel="", ylabel=st.scale(name, value_range, "\n"))
    panels[-1].set_xlabel("sentence", fontsize=10)
    if few:
        st.whole_ticks(panels[-1], count)
    panels[-1].set_xlim(0.5, count + 0.5)
    figure.align_ylabels(panels)

    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    if intervals is not None:
        label = "80% interval of a sentence"
        bar = Line2D([], [], color=st.GREY, marker="|", markersize=12, linestyle="", label=label)
        handles.append(bar if few else Patch(color=st.GREY, alpha=0.25, label=label))
    if not few:
        handles.append(Line2D([], [], color=st.GREY, linewidth=2, label=f"mean of {span} sentences"))
    if mean is not None:
        handles.append(Line2D([], [], color=st.BLACK, linestyle="--", linewidth=1.1, label="the whole text"))
    st.legend_below(panels[-1], *handles)
    return figure
