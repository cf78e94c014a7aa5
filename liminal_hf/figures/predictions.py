"""Figures of predictions: how they are spread, how well they agree with labels, and how the refinement steps go.

Requires numpy; the figures need matplotlib (`pip install 'liminal_hf[plot]'`). Arrays are `(rows, T)` in label units,
one column per target; a gold value of -100 (or NaN) is missing and left out. The options of a figure are those of
`style.Options`. A wrong shape or an empty array is a `LiminalError`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from ..metrics import ccc, pearson
from ..modeling.configuration_liminal import MISSING_LABEL
from ..modeling.errors import LiminalError
from . import style as st
from .style import Array, Range

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _pair(
    predicted: ArrayLike, gold: ArrayLike, targets: Sequence[str], value_range: Range
) -> tuple[Array, Array, Array]:
    """Predictions, gold with -100 where it is missing, and where it is not."""
    guess = st.check("predicted", predicted, ("rows", len(targets)))
    truth = st.check("gold", gold, (len(guess), len(targets)), gaps="a missing label")
    truth = np.where(np.isnan(truth), MISSING_LABEL, truth)
    known = truth != MISSING_LABEL
    low, high = value_range
    outside = truth[known & ((truth < low) | (truth > high))]
    if len(outside):
        raise LiminalError(
            f"The labels must lie in {low:g}..{high:g} (-100 marks a missing one), got {outside[0]:g}. Say on which "
            "scale they are: --scale LOW,HIGH (in Python value_range=(low, high))."
        )
    for name, column in zip(targets, known.T, strict=True):
        if not column.any():
            raise LiminalError(f"`gold` has no value of {name}: all {len(truth)} rows are missing. One is needed.")
    return guess, truth, known


def pad_distributions(
    predicted: ArrayLike,
    gold: ArrayLike | None = None,
    *,
    bins: int = 30,
    neutral_zone: Sequence[Range] | None = None,
    width: float = st.WIDTH,
    **options: Unpack[st.Options],
) -> "Figure":
    """Histograms of the predictions, with the range that holds 80% of them; beside those of the labels, if given.

    The ratio of their standard deviations far below 1 shows predictions that shrink to the mean, which a low MAE hides.

    Args:
        predicted: `(rows, T)`.
        gold: `(rows, T)`, or None for texts without labels.
        bins: at least 2.
        neutral_zone: per target its lowest and highest value (`neutral_zone` of the config), as dotted lines.
        width: in inches, 3.5..20.

    Example:
        >>> gold = np.random.default_rng(0).normal(0, .15, (500, 3))
        >>> pad_distributions(gold * .5, gold).axes[0].get_title()
        'pleasure: SD ratio 0.50'
    """
    targets, value_range, subject = st.settled(**options)
    guess = st.check("predicted", predicted, ("rows", len(targets)))
    st.check_count("bins", bins, 2)
    series = [("predicted", st.BLUE, "--", guess, np.ones(guess.shape, dtype=bool))]
    if gold is not None:
        guess, truth, known = _pair(guess, gold, targets, value_range)
        series = [("gold", st.ORANGE, "-", truth, known), ("predicted", st.BLUE, "--", guess, known)]
    title = f"How {st.count_of(len(guess), 'text')} spread" + ("" if gold is None else ", predicted and gold")
    height = min(3.4, 0.75 * width)
    figure = st.new_figure(0.6 + height * -(-len(targets) // 3), title, subject, width=width)
    low, high = st.limits(*(values[shown] for *_, values, shown in series), floor=0.2)
    edges: Any = np.linspace(low, high, bins + 1)
    all_axes = st.panels(figure, len(targets), sharey=True)
    for index, (axes, name) in enumerate(zip(all_axes, targets, strict=True)):
        columns = [values[shown[:, index], index] for *_, values, shown in series]
        for (label, colour, line, *_), values in zip(series, columns, strict=True):
            shares: dict[str, Any] = {
                "bins": edges,
                "weights": np.full(len(values), 100 / len(values)),
                "color": colour,
            }
            axes.hist(values, alpha=0.35, **shares)
            legend = f"{label}: SD {values.std():.3f}"
            axes.hist(values, histtype="step", linestyle=line, linewidth=1.6, label=legend, **shares)
        if gold is None:
            lower, middle, upper = np.quantile(columns[0], [0.1, 0.5, 0.9])
            axes.axvspan(lower, upper, color=st.GREY, alpha=0.12, linewidth=0)
            axes.axvline(middle, color=st.BLACK, linewidth=1.2)
            heading = f"{name}: median {st.number(middle)},\n80% in {st.number(lower)} to {st.number(upper)}"
        else:
            spread = columns[0].std()
            heading = f"{name}: SD ratio {st.number(columns[1].std() / spread if spread > 0 else np.nan)}"
            axes.legend(fontsize=8.5, frameon=False, loc="upper left", handlelength=1.2)
        for edge in () if neutral_zone is None else neutral_zone[index]:
            axes.axvline(edge, color=st.VERMILLION, linestyle=":", linewidth=1.5)
        st.label_axes(axes, xlabel=st.scale(name, value_range), ylabel="", title=heading)
        axes.set_xlim(low, high)
    all_axes[0].set_ylabel("share of the texts (%)", fontsize=10)
    all_axes[0].set_ylim(top=all_axes[0].get_ylim()[1] * (1.05 if gold is None else 1.25))
    if neutral_zone is not None:
        from matplotlib.lines import Line2D

        ends = Line2D([], [], color=st.VERMILLION, linestyle=":", linewidth=1.5, label="ends of the neutral zone")
        figure.legend(handles=[ends], loc="outside lower center", fontsize=9.5, frameon=False)
    return figure


def pleasure_arousal_plane(
    predicted: ArrayLike,
    uncertainty: ArrayLike | None = None,
    *,
    neutral_zone: Sequence[Range] | None = None,
    width: float = st.WIDTH,
    **options: Unpack[st.Options],
) -> "Figure":
    """Texts in the plane of pleasure and arousal; the colour is dominance, the cross the usual uncertainty.

    Each quarter has the names of its two octants: the upper one for high dominance, the lower one for low dominance.

    Args:
        predicted: `(rows, T)`.
        uncertainty: `(rows, T)`, standard deviations; the cross has their median.
        neutral_zone: per target its lowest and highest value (`neutral_zone` of the config); a shaded box.
        width: in inches, 3.5..20.
        targets: T names, with pleasure (or valence), arousal and dominance among them.

    Example:
        >>> pleasure_arousal_plane([[.4, .2, .1], [-.3, .1, 0]]).axes[0].get_xlabel()
        'pleasure (−1 to 1)'
    """
    targets, value_range, subject = st.settled(**options)
    points = st.check("predicted", predicted, ("rows", len(targets)))
    found = st.positions(targets)
    if found is None:
        raise LiminalError(
            "The plane needs the targets pleasure (or valence), arousal and dominance; there are "
            f"{', '.join(targets)}. pad-distributions shows any targets."
        )
    pleasure, arousal, dominance = (points[:, column] for column in found)
    middle = sum(value_range) / 2
    reach = 1.15 * max(np.abs(pleasure - middle).max(), np.abs(arousal - middle).max(), 0.1)
    title = f"{st.count_of(len(points), 'text')} in the plane of pleasure and arousal"
    figure = st.new_figure(0.825 * width, title, subject, width=width)
    axes = figure.subplots()
    st.cross(axes, middle)
    if neutral_zone is not None:
        (left, right), (low, high) = (neutral_zone[column] for column in found[:2])
        box: dict[str, Any] = {"facecolor": st.LIGHT, "edgecolor": st.GREY, "linestyle": ":", "zorder": 0.6}
        axes.fill_between([left, right], low, high, label="neutral zone", **box)
    dots: dict[str, Any] = {"s": 30 if len(points) <= 400 else 10, "alpha": 0.75 if len(points) <= 400 else 0.4}
    image = axes.scatter(pleasure, arousal, c=dominance, cmap=st.two_sided(), linewidth=0, rasterized=True, **dots)
    half = max(np.abs(dominance - middle).max(), 0.1)
    image.set_clim(middle - half, middle + half)
    st.colour_bar(axes, image, st.scale(targets[found[2]], value_range)).solids.set_alpha(1)
    if uncertainty is not None:
        doubt = np.median(st.check("uncertainty", uncertainty, points.shape, low=0), axis=0)[list(found[:2])]
        # Where no corner has a name.
        corner = (middle + reach - min(1.1 * doubt[0], reach), middle - 0.45 * reach)
        axes.errorbar(
            *corner, xerr=doubt[0], yerr=doubt[1], color=st.BLACK, capsize=3, label="± 1 predicted sd (median)"
        )
    axes.set(xlim=(middle - reach, middle + reach), ylim=(middle - reach, middle + reach), aspect="equal")
    axes.locator_params(nbins=6)
    _name_octants(axes)
    xlabel, ylabel = (st.scale(targets[column], value_range) for column in found[:2])
    st.label_axes(axes, xlabel=xlabel, ylabel=ylabel)
    st.legend_below(axes)
    return figure


def _name_octants(axes: "Axes") -> None:
    """The two octants of each quarter, in its corner and in the colours of high and low dominance."""
    from ..modeling.answers import OCTANTS

    for (pleasant, aroused, strong), word in OCTANTS.items():
        x, y = (0.99 if pleasant else 0.01), (0.99 if aroused else 0.12) - (0 if strong else 0.06)
        where: dict[str, Any] = {"ha": "right" if pleasant else "left", "va": "top", "transform": axes.transAxes}
        axes.text(x, y, word, color=st.VERMILLION if strong else st.BLUE, fontsize=9, **where)


def emotional_field(
    predicted: ArrayLike, gold: ArrayLike, *, max_points: int = 150, seed: int = 0, **options: Unpack[st.Options]
) -> "Figure":
    """PAD in three dimensions, predicted against gold, with its three projections.

    Thin lines in the three-dimensional view join each prediction to its gold point.

    Args:
        predicted, gold: `(rows, 3)`.
        targets: three names.
        max_points: at most so many texts are drawn, chosen at random with `seed`; the title says how many of how many.
        seed: of that choice.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> gold = rng.normal(0, .15, (500, 3))
        >>> emotional_field(gold * .5, gold).get_suptitle().splitlines()[0]
        'Emotional field: predicted and gold PAD, 150 of 500 texts drawn'
    """
    targets, value_range, subject = st.settled(**options)
    if len(targets) != 3:
        raise LiminalError(
            f"The emotional field has three axes; there are {len(targets)} targets: {', '.join(targets)}."
        )
    guess, truth, known = _pair(predicted, gold, targets, value_range)
    st.check_count("max_points", max_points, 1)
    whole = np.flatnonzero(known.all(axis=1))
    if not len(whole):
        raise LiminalError("`gold` has no row with all three targets; the emotional field needs at least one.")
    drawn = np.sort(np.random.default_rng(seed).choice(whole, min(max_points, len(whole)), replace=False))
    total = st.count_of(len(whole), "text")
    how_many = f"all {total} drawn" if len(drawn) == len(whole) else f"{len(drawn):,} of {total} drawn"
    guess, truth = guess[drawn], truth[drawn]

    figure = st.new_figure(6.2, f"Emotional field: predicted and gold PAD, {how_many}", subject)
    grid = figure.add_gridspec(3, 2, width_ratios=[2.7, 1])
    space: Any = figure.add_subplot(grid[:, 0], projection="3d")
    middle = sum(value_range) / 2
    # Each axis has the data's own reach, the same to both sides of the middle.
    reach = 1.05 * np.maximum(np.abs(np.concatenate([guess, truth]) - middle).max(axis=0), 0.05)
    ends = [(middle - half, middle + half) for half in reach]
    for pair in zip(guess, truth, strict=True):
        space.plot(*np.stack(pair).T, color=st.GREY, linewidth=0.5, alpha=0.5)
    edge = {"edgecolor": st.BLACK, "linewidth": 0.3}
    space.scatter(*truth.T, s=22, marker="^", color=st.ORANGE, label="gold", depthshade=False, **edge)
    space.scatter(*guess.T, s=18, marker="o", color=st.BLUE, label="predicted", depthshade=False)
    space.set(xlim=ends[0], ylim=ends[1], zlim=ends[2])
    for set_label, name in zip((space.set_xlabel, space.set_ylabel, space.set_zlabel), targets, strict=True):
        set_label(st.scale(name, value_range), fontsize=10)
    space.tick_params(labelsize=8.5)
    space.locator_params(nbins=5)
    space.set_box_aspect((1, 1, 1), zoom=0.92)
    space.view_init(elev=20, azim=-58)
    space.set_title("a line joins each prediction to its gold point", fontsize=9.5)
    space.legend(fontsize=10, frameon=False, loc="upper left")
    for row, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        axes = figure.add_subplot(grid[row, 1])
        axes.scatter(truth[:, i], truth[:, j], s=10, marker="^", color=st.ORANGE, linewidth=0)
        axes.scatter(guess[:, i], guess[:, j], s=8, color=st.BLUE, linewidth=0, alpha=0.8)
        st.cross(axes, middle, 0.6)
        axes.set(xlim=ends[i], ylim=ends[j])
        st.label_axes(axes, xlabel=st.scale(targets[i], value_range), ylabel=st.scale(targets[j], value_range, "\n"))
        axes.tick_params(labelsize=8.5)
        axes.locator_params(nbins=5)
    return figure


def predicted_vs_gold(predicted: ArrayLike, gold: ArrayLike, **options: Unpack[st.Options]) -> "Figure":
    """Predicted against gold per target, with r, CCC, the identity and the regression line.

    The regression line is least squares of the prediction on gold: its slope below 1 is the shrinkage to the mean.

    Args:
        predicted, gold: `(rows, T)`.

    Example:
        >>> gold = np.random.default_rng(0).normal(0, .15, (500, 3))
        >>> predicted_vs_gold(gold * .5, gold).axes[0].get_title()
        'pleasure: r 1.00, CCC 0.80'
    """
    targets, value_range, subject = st.settled(**options)
    guess, truth, known = _pair(predicted, gold, targets, value_range)
    r, agreement = pearson(guess, truth), ccc(guess, truth)
    title = f"Predicted against gold, {st.count_of(len(truth), 'text')}: mean r {st.number(float(np.mean(r)))}"
    figure = st.new_figure(1.2 + 2.9 * -(-len(targets) // 3), title, subject)
    low, high = st.limits(guess, truth[known], floor=0.2)
    all_axes = st.panels(figure, len(targets), sharey=True)
    for index, (axes, name) in enumerate(zip(all_axes, targets, strict=True)):
        colour, marker, _ = st.line_styles(len(targets))[index]
        p, g = guess[known[:, index], index], truth[known[:, index], index]
        dots: dict[str, Any] = {"s": 12, "alpha": 0.5} if len(g) <= 400 else {"s": 6, "alpha": 0.3}
        axes.scatter(g, p, marker=marker, color=colour, linewidth=0, rasterized=True, **dots)
        axes.plot([low, high], [low, high], color=st.GREY, linestyle=":", linewidth=1.5, label="identity")
        heading = f"{name}: r {st.number(r[index])}, CCC {st.number(agreement[index])}"
        xlabel = st.scale(f"gold {name}", value_range)
        if np.ptp(g) > 0:
            slope, start = np.polyfit(g, p, 1)
            ends = np.array([g.min(), g.max()])
            axes.plot(ends, start + slope * ends, color=st.BLACK, linewidth=2, label="regression")
            xlabel += f"\nslope of the regression {st.number(slope)}"
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        st.label_axes(axes, xlabel=xlabel, ylabel="", title=heading)
    all_axes[0].set_ylabel(st.scale("predicted", value_range), fontsize=10)
    st.legend_below(all_axes[0])
    return figure


def reliability(
    predicted: ArrayLike, gold: ArrayLike, uncertainty: ArrayLike, *, bins: int = 8, **options: Unpack[st.Options]
) -> "Figure":
    """Reliability of the uncertainty: predicted standard deviation against the error observed, per target.

    The texts are sorted by predicted sd into bins of equal size. Each point is a bin's root mean square sd against its
    root mean squared error (RMSE), with a 95% interval (a percentile bootstrap of 500 draws). On the identity line the
    uncertainty is right; a flat line can't rank the errors. Coverage is the share of gold values within 1.96 sd (95%
    when errors are Gaussian). (Levi et al. 2022, Evaluating and calibrating uncertainty prediction in regression)

    Args:
        predicted, gold: `(rows, T)`.
        uncertainty: `(rows, T)`, standard deviations in label units, at least 0.
        bins: at least 2; fewer are drawn when there are fewer than 10 texts for each.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> sd = rng.uniform(.05, .2, (2000, 3))
        >>> gold = np.clip(rng.normal(0, sd), -1, 1)
        >>> reliability(np.zeros_like(gold), gold, sd).axes[0].get_title()
        'pleasure: 94.3% covered'
    """
    targets, value_range, subject = st.settled(**options)
    guess, truth, known = _pair(predicted, gold, targets, value_range)
    spread = st.check("uncertainty", uncertainty, truth.shape, low=0)
    st.check_count("bins", bins, 2)
    rng = np.random.default_rng(0)
    curves, coverages = [], []
    for column in range(len(targets)):
        rows = np.flatnonzero(known[:, column])
        order = rows[np.argsort(spread[rows, column], kind="stable")]
        error, sd = np.abs(guess - truth)[order, column], spread[order, column]
        coverages.append(100 * float((error <= 1.96 * sd).mean()))
        points = []
        for part in np.array_split(np.arange(len(order)), max(1, min(bins, len(order) // 10))):
            draws = np.sqrt((rng.choice(error[part], (500, len(part))) ** 2).mean(axis=1))
            observed = np.sqrt((error[part] ** 2).mean())
            points.append((np.sqrt((sd[part] ** 2).mean()), observed, *np.quantile(draws, [0.025, 0.975])))
        curves.append(np.array(points).T)
    title = (
        f"Reliability of the uncertainty, {st.count_of(len(truth), 'text')}: {np.mean(coverages):.1f}% within 1.96 sd"
    )
    figure = st.new_figure(1.0 + 2.95 * -(-len(targets) // 3), title, subject)
    high = 1.08 * max(curve[[0, 3]].max() for curve in curves) or 1.0
    all_axes = st.panels(figure, len(targets), sharey=True)
    looks = st.line_styles(len(targets))
    for axes, name, curve, coverage, (colour, marker, _) in zip(
        all_axes, targets, curves, coverages, looks, strict=True
    ):
        sd, observed, lower, upper = curve
        axes.plot([0, high], [0, high], color=st.GREY, linestyle=":", linewidth=1.5, label="a perfect uncertainty")
        whiskers = np.maximum([observed - lower, upper - observed], 0)
        look: dict[str, Any] = {"marker": marker, "markersize": 5, "linewidth": 1.2, "capsize": 2}
        axes.errorbar(sd, observed, yerr=whiskers, color=colour, label="a bin of texts, 95% interval", **look)
        axes.set(xlim=(0, high), ylim=(0, high), aspect="equal")
        heading = f"{name}: {coverage:.1f}% covered"
        st.label_axes(axes, xlabel="predicted sd (label units)", ylabel="", title=heading)
    all_axes[0].set_ylabel("observed RMSE (label units)", fontsize=10)
    st.legend_below(all_axes[0])
    return figure


def step_attention(attention: ArrayLike, *, subject: str | None = None) -> "Figure":
    """Attention over the refinement steps as a heat map: which earlier answers a step looks back to.

    Args:
        attention: `(K, K)`, or `(rows, K, K)` of which the mean is drawn (`step_attentions` of the model); row k is
            step k's own query over the steps so far, in 0..1, and 0 for the steps to come.

    Example:
        >>> step_attention([[1, 0], [.4, .6]]).get_suptitle()
        'Attention over the 2 refinement steps: the last looks most at step 2 (0.60)'
    """
    averaged = isinstance(attention, np.ndarray) and attention.ndim == 3
    weights = st.check("attention", attention, ("rows", "K", "K") if averaged else ("K", "K"), low=0, high=1 + 1e-4)
    if weights.shape[-1] != weights.shape[-2]:
        raise LiminalError(f"`attention` must be square in its last two axes (K, K), got {weights.shape}.")
    matrix = weights.mean(axis=0) if averaged else weights
    steps, most = len(matrix), int(matrix[-1].argmax())
    whose = f", mean of {st.count_of(len(weights), 'text')}" if averaged else ""
    title = f"Attention over the {steps} refinement steps{whose}: "
    figure = st.new_figure(5.6, f"{title}the last looks most at step {most + 1} ({matrix[-1, most]:.2f})", subject)
    axes: Axes = figure.subplots()
    to_come = np.triu(np.ones((steps, steps), dtype=bool), 1) & (matrix == 0)
    axes.set_facecolor("#F4F4F4")
    image = axes.imshow(np.ma.masked_array(matrix, to_come), cmap="cividis", vmin=0, vmax=1)
    for row, column in np.argwhere(~to_come) if steps <= 12 else ():
        words: dict[str, Any] = {"fontsize": 11 if steps <= 6 else 9, "ha": "center", "va": "center"}
        value = matrix[row, column]
        axes.text(column, row, f"{value:.2f}", color="black" if value > 0.55 else "white", **words)
    ticks = st.evenly(steps)
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks(ticks, [str(i + 1) for i in ticks])
    st.label_axes(axes, xlabel="step looked at (grey: not there yet)", ylabel="step that asks", grid=None)
    st.colour_bar(axes, image, "attention weight (no unit, 0 to 1)")
    return figure


def steps_curve(trajectory: ArrayLike, gold: ArrayLike, **options: Unpack[st.Options]) -> "Figure":
    """Pearson's r against the refinement step: whether the answer gets better from step to step.

    Args:
        trajectory: `(rows, K, T)`, the answer after each step (`pad_trajectory` of the model).
        gold: `(rows, T)`.

    Example:
        >>> gold = np.random.default_rng(0).normal(0, .15, (500, 3))
        >>> float(steps_curve(np.stack([0 * gold + gold[::-1], gold], axis=1), gold).axes[0].lines[0].get_ydata()[1])
        1.0
    """
    targets, value_range, subject = st.settled(**options)
    points = st.check("trajectory", trajectory, ("rows", "K", len(targets)))
    steps = points.shape[1]
    r = np.stack([pearson(*_pair(points[:, step], gold, targets, value_range)[:2]) for step in range(steps)])
    mean = r.mean(axis=1)
    first, last = st.number(mean[0], 3), st.number(mean[-1], 3)
    title = f"Pearson r by refinement step: mean {first} at step 1, {last} at step {steps}"
    figure = st.new_figure(4.6, title, subject)
    axes = figure.subplots()
    st.step_lines(axes, r, targets)
    if len(targets) > 1:
        axes.plot(np.arange(1, steps + 1), mean, color=st.BLACK, marker="D", linestyle=":", linewidth=1.8, label="mean")
    st.label_axes(axes, xlabel="refinement step k", ylabel="Pearson r (no unit)")
    st.legend_below(axes, columns=4)
    return figure
