"""Figures of encoders: what each layer carries, and where encoders place the same phrases (`liminal probe`).

Requires numpy; the figures need matplotlib (`pip install 'liminal_hf[plot]'`). `subject` is the second line of the
title.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..modeling.configuration_liminal import DIMENSIONS
from ..modeling.errors import LiminalError
from . import style as st
from .files import numbers, read_columns
from .style import Array, Range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = ("encoder", "layer", "dimension", "r", "low", "high")
_MOST_ENCODERS, _MOST_PHRASES = 21, 24


def read_probe(source: str | Path) -> tuple[Array, Array, Array, list[str]]:
    """The arguments of `probe_curves` from the JSON of `liminal probe`, or a table with its columns.

    Raises:
        FileNotFoundError: there is no such file.
        LiminalError: a column is missing, or holds something else than it should.
    """
    path = Path(source)
    if path.suffix == ".json" and path.is_file():
        try:
            layers = json.loads(path.read_text(encoding="utf-8"))["layers"]
        except (ValueError, KeyError, TypeError):
            raise LiminalError(
                f"{path} is not what liminal probe writes. Make it: liminal probe ENCODER -o STEM"
            ) from None
        table, where = {name: [row.get(name) for row in layers] for name in _COLUMNS}, str(path)
    else:
        table, where = read_columns(path)
    missing = [name for name in _COLUMNS if name not in table]
    if missing:
        raise LiminalError(f"{where} has no column {missing[0]!r}; the probe's figure needs {', '.join(_COLUMNS)}.")
    encoders = list(dict.fromkeys(map(str, table["encoder"])))
    values = numbers(table, ["layer", "r", "low", "high"], where)
    if not len(values) or not (values[:, 0] >= 0).all():
        raise LiminalError(f"{where}: layers count from 0 (the embedding).")
    arrays = np.full((3, len(encoders), int(values[:, 0].max()) + 1, 3), np.nan)
    for row, (layer, *figures) in enumerate(values):
        if table["dimension"][row] not in DIMENSIONS:
            name = table["dimension"][row]
            raise LiminalError(f"{where}: row {row + 1} is of dimension {name!r}; allowed are {', '.join(DIMENSIONS)}.")
        index = encoders.index(str(table["encoder"][row])), int(layer), DIMENSIONS.index(table["dimension"][row])
        arrays[(slice(None), *index)] = figures
    return *arrays, encoders


def probe_curves(
    r: ArrayLike, low: ArrayLike, high: ArrayLike, encoders: Sequence[str], *, subject: str | None = None
) -> "Figure":
    """How much PAD each layer of each encoder carries: cross-validated r by layer and dimension, with its interval.

    Args:
        r, low, high: `(encoders, layers, 3)`, r in -1..1 and its 95% interval; layer 0 is the embedding. An encoder
            with fewer layers than another has NaN beyond its last.
        encoders: a name per encoder, at most 21.

    Example:
        >>> r = np.full((1, 3, 3), .5)
        >>> figure = probe_curves(r, r - .02, r + .02, ["MiniLM"])
        >>> figure.axes[0].lines[0].get_ydata().tolist()
        [0.5, 0.5, 0.5]
    """
    beyond = "a layer that the encoder does not have"
    values = st.check("r", r, ("encoders", "layers", 3), low=-1, high=1, gaps=beyond)
    lows, highs = (st.check(n, v, values.shape, low=-1, high=1, gaps=beyond) for n, v in (("low", low), ("high", high)))
    names = st.check_names("encoders", encoders, len(values))
    if len(names) > _MOST_ENCODERS:
        raise LiminalError(f"`encoders` may have at most {_MOST_ENCODERS} in one figure, got {len(names)}.")
    empty = np.asarray(np.isnan(values).all(axis=1)).any(axis=1)
    if empty.any():
        raise LiminalError(f"`r` has no layer at all for {names[int(empty.argmax())]!r}.")
    mean = values.mean(axis=2)
    best, layer = np.unravel_index(np.nanargmax(mean), mean.shape)
    last = int(np.flatnonzero(~np.isnan(mean[best])).max())
    title = f"PAD in each layer, read by a ridge: most in layer {layer} of {last} ("
    title += f"{st.one_line(names[best].rpartition('/')[2], 28)}, mean r {st.number(mean[best, layer])})"
    figure = st.new_figure(4.2 + 0.2 * -(-len(names) // 2), title, subject)
    all_axes = figure.subplots(1, 3, sharey=True)
    layers = np.arange(values.shape[1])
    for column, (axes, dimension) in enumerate(zip(all_axes, DIMENSIONS, strict=True)):
        for row, (name, (colour, marker, dashes)) in enumerate(zip(names, st.line_styles(len(names)), strict=True)):
            line = values[row, :, column]
            axes.fill_between(
                layers, lows[row, :, column], highs[row, :, column], color=colour, alpha=0.18, linewidth=0
            )
            looks = {"color": colour, "linestyle": dashes, "marker": marker, "markersize": 4.5, "linewidth": 1.6}
            axes.plot(layers, line, label=st.one_line(name, 44), **looks)
            top = int(np.nanargmax(line))
            axes.plot(top, line[top], "o", markersize=11, fillstyle="none", color=colour)
        axes.set_xticks(st.evenly(len(layers), 8))
        st.label_axes(axes, xlabel="layer (0: embedding)", ylabel="", title=dimension)
    all_axes[0].set_ylabel("cross-validated Pearson r (no unit)", fontsize=10)
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    ring = Line2D([], [], color=st.GREY, marker="o", markersize=11, fillstyle="none", linestyle="", label="best layer")
    band = Patch(color=st.GREY, alpha=0.25, label="95% interval")
    st.legend_below(all_axes[0], band, ring, columns=2)
    return figure


def phrase_map(
    points: ArrayLike,
    phrases: Sequence[str],
    encoders: Sequence[str],
    *,
    value_range: Range = st.RANGE,
    subject: str | None = None,
) -> "Figure":
    """Where several encoders place the same phrases in the plane of pleasure and arousal.

    Each encoder has its own marker, with the phrase's number in it; a thin line joins what is the same phrase.

    Args:
        points: `(encoders, phrases, 3)`, PAD in label units.
        phrases: a text per phrase, at most 24.
        encoders: a name per encoder, at most 21.

    Example:
        >>> figure = phrase_map([[[.3, .2, .1], [-.4, .1, 0]]], ["Hooray!", "Oh no."], ["MiniLM"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['1', '2']
    """
    placed = st.check("points", points, ("encoders", "phrases", 3))
    names = st.check_names("encoders", encoders, len(placed))
    texts = st.check_names("phrases", phrases, placed.shape[1])
    for argument, values, most in (("encoders", names, _MOST_ENCODERS), ("phrases", texts, _MOST_PHRASES)):
        if len(values) > most:
            raise LiminalError(f"`{argument}` may have at most {most} in one figure, got {len(values)}.")
    title = f"Where {'one encoder places' if len(names) == 1 else f'{len(names)} encoders place'} the same phrases"
    figure = st.new_figure(max(5.2, 1.9 + 0.28 * len(texts) + 0.25 * len(names)), title, subject)
    left, right = figure.subplots(1, 2, width_ratios=[1.55, 1])
    middle = sum(value_range) / 2
    st.cross(left, middle)
    for phrase in range(len(texts)):
        left.plot(placed[:, phrase, 0], placed[:, phrase, 1], color=st.GREY, linewidth=0.8, alpha=0.6, zorder=1)
    for own, name, (colour, marker, _) in zip(placed, names, st.line_styles(len(names)), strict=True):
        label = st.one_line(name, 44)
        left.scatter(
            own[:, 0], own[:, 1], s=150, marker=marker, color=colour, linewidth=0, label=label, zorder=2, alpha=0.85
        )
        words: dict[str, Any] = {
            "fontsize": 8,
            "color": "black" if colour in (st.ORANGE, st.SKY, st.PURPLE) else "white",
        }
        for index, (pleasure, arousal, _) in enumerate(own, start=1):
            left.text(pleasure, arousal, str(index), ha="center", va="center_baseline", zorder=3, **words)
    for setter, column in ((left.set_xlim, 0), (left.set_ylim, 1)):
        setter(*st.limits(placed[:, :, column], [middle], floor=0.22))
    st.label_axes(left, xlabel=st.scale("pleasure", value_range), ylabel=st.scale("arousal", value_range))
    right.set_axis_off()
    words = {"va": "top", "fontsize": 9.5, "linespacing": 1.7, "parse_math": False, "transform": right.transAxes}
    right.text(0.06, 1, "\n".join(str(index + 1) for index in range(len(texts))), ha="right", **words)
    right.text(0.1, 1, "\n".join(st.one_line(text, 34) for text in texts), **words)
    st.legend_below(left, columns=2)
    return figure
