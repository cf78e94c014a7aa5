"""What all figures share: colours, a new figure, labelled axes, and checks of the arrays that are drawn.

Requires numpy; matplotlib is imported when a figure is made. Nothing here touches pyplot, so that figures can be drawn
in any thread and without a display. Colours are those of Okabe and Ito (2008), which colour-blind readers can tell
apart; markers and line styles say the same again for print in black and white.
"""

import textwrap
import unicodedata
from collections.abc import Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..modeling.configuration_liminal import DIMENSIONS
from ..modeling.errors import LiminalError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Range = tuple[float, float]

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY, LIGHT = "#6B6B6B", "#E4E4E4"
MINUS = "\N{MINUS SIGN}"
MARKERS = "os^DvPX*<>"
WIDTH = 8.0
RANGE = (-1.0, 1.0)
# A colour, a marker and a line style each; the first three are those of pleasure, arousal and dominance.
_LINES = tuple(
    zip(
        (BLUE, VERMILLION, GREEN, BLACK, PURPLE, ORANGE, SKY) * 3,
        "os^DvPX" * 3,
        ("-", "--", "-.", ":", "-", "--", "-.") + ("--",) * 7 + ("-.",) * 7,
        strict=True,
    )
)


class Options(TypedDict, total=False):
    """What every figure of predictions takes beside its arrays."""

    targets: Sequence[str]  # T names; by default pleasure, arousal and dominance
    value_range: Range  # the lowest and the highest possible label; by default -1 to 1
    subject: str | None  # the second line of the title


def settled(
    targets: Sequence[str] = DIMENSIONS, value_range: Range = RANGE, subject: str | None = None
) -> tuple[Sequence[str], Range, str | None]:
    """The options of a figure, with the defaults."""
    return targets, value_range, subject


def two_sided() -> Any:
    """Colours for values on two sides of a middle: blue below, orange-red above, grey between."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("two_sided", [BLUE, "#A8A8A8", VERMILLION])


def line_styles(count: int) -> list[tuple[str, str, str]]:
    """A colour, a marker and a line style for each of `count` lines."""
    return list(islice(cycle(_LINES), count))


def new_figure(height: float, title: str, subject: str | None, *, width: float = WIDTH) -> "Figure":
    """A figure `width` by `height` inches with a title; `subject` is its second line.

    Raises:
        ImportError: matplotlib is missing.
        LiminalError: `width` is not in 3.5..20.
    """
    if not 3.5 <= width <= 20:
        raise LiminalError(f"`width` must lie in 3.5..20 inches, got {width!r}.")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("Figures need matplotlib, which is not installed: pip install 'liminal_hf[plot]'") from None
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained", facecolor="white")
    lines = [title] if not subject else [title, one_line(subject, 90)]
    if width < WIDTH:
        lines = [part for line in lines for part in textwrap.wrap(line, round(11 * width))]
    figure.suptitle("\n".join(lines), fontsize=12, parse_math=False)
    return figure


def panels(figure: "Figure", count: int, **options: Any) -> "list[Axes]":
    """`count` axes, at most three in a row."""
    columns = min(count, 3)
    axes = list(np.ravel(figure.subplots(-(-count // columns), columns, squeeze=False, **options)))
    for extra in axes[count:]:
        extra.remove()
    return axes[:count]


def label_axes(axes: "Axes", *, xlabel: str, ylabel: str, title: str | None = None, grid: str | None = "both") -> None:
    """Labels, a light grid and no frame at the top and to the right."""
    axes.set_xlabel(xlabel, fontsize=10)
    axes.set_ylabel(ylabel, fontsize=10)
    axes.tick_params(labelsize=9)
    if title is not None:
        axes.set_title(title, fontsize=10.5, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    if grid is not None:
        axes.grid(True, axis=grid, color=LIGHT, linewidth=0.8)  # type: ignore[arg-type]
        axes.set_axisbelow(True)


def cross(axes: "Axes", middle: float, width: float = 0.8) -> None:
    """Lines through the middle of both scales."""
    axes.axhline(middle, color=GREY, linewidth=width, zorder=0)
    axes.axvline(middle, color=GREY, linewidth=width, zorder=0)


def colour_bar(axes: "Axes", image: Any, label: str) -> Any:
    """The scale of the image's colours, to its right."""
    bar = axes.figure.colorbar(image, ax=axes)
    bar.set_label(label, fontsize=10)
    bar.ax.tick_params(labelsize=9)
    return bar


def legend_below(axes: "Axes", *more: Any, columns: int = 3) -> None:
    """The figure's legend below its panels: what is labelled in `axes`, and more handles."""
    handles = [*axes.get_legend_handles_labels()[0], *more]
    if handles:
        options: dict[str, Any] = {"loc": "outside lower center", "ncols": min(columns, len(handles))}
        for text in axes.figure.legend(handles=handles, fontsize=9.5, frameon=False, **options).get_texts():
            text.set_parse_math(False)  # names are shown as they are, a dollar sign included


def step_lines(axes: "Axes", values: Array, targets: Sequence[str]) -> None:
    """A line per target, `values` `(K, T)`, over the refinement steps."""
    x = np.arange(1, len(values) + 1)
    for name, column, (colour, marker, dashes) in zip(targets, values.T, line_styles(len(targets)), strict=True):
        axes.plot(x, column, color=colour, marker=marker, linestyle=dashes, linewidth=1.8, label=name)
    whole_ticks(axes, len(values))


def evenly(count: int, most: int = 14) -> range:
    """At most `most` of the indices 0..count - 1, evenly spaced."""
    return range(0, count, -(-count // most))


def whole_ticks(axes: "Axes", count: int) -> None:
    """Ticks at whole numbers 1..count."""
    axes.set_xticks([index + 1 for index in evenly(count, 15)])


def one_line(text: Any, width: int) -> str:
    """A text on one line of at most `width` characters, without characters that a font can't draw."""
    line = " ".join("".join(" " if unicodedata.category(c)[0] in "ZC" else c for c in str(text)).split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def number(value: float, digits: int = 2) -> str:
    """A number with a true minus sign, or "undefined" for NaN."""
    # Adding 0 takes the sign off a zero.
    return "undefined" if np.isnan(value) else f"{round(float(value), digits) + 0.0:.{digits}f}".replace("-", MINUS)


def scale(name: str, value_range: Range, gap: str = " ") -> str:
    """A name with its range of labels: "pleasure (−1 to 1)"."""
    return name + gap + f"({value_range[0]:g} to {value_range[1]:g})".replace("-", MINUS)


def count_of(count: int, noun: str) -> str:
    """A count with its noun: "1 text", "1,200 texts"."""
    return f"{count:,} {noun}{'s'[: count != 1]}"


def limits(*arrays: ArrayLike, floor: float) -> Range:
    """Limits around all finite values with a little room, at least `floor` wide."""
    values = np.concatenate([np.ravel(np.asarray(array, dtype=np.float64)) for array in arrays])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    room = max(0.05 * (high - low), (floor - (high - low)) / 2)
    return low - room, high + room


def check(
    name: str,
    values: ArrayLike,
    shape: tuple[str | int, ...],
    *,
    low: float = -np.inf,
    high: float = np.inf,
    gaps: str | None = None,
) -> Array:
    """`values` as float64.

    Args:
        name: of the argument, for the message.
        values: numbers.
        shape: a size, or a word for any size, along each axis.
        low, high: smallest and largest value allowed.
        gaps: what a NaN means; None allows none.

    Raises:
        LiminalError: not numbers, another shape, empty, not finite or out of range; the message says where.
    """
    wanted = "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        what = one_line(repr(values), 60)
        raise LiminalError(f"`{name}` must be numbers in the shape {wanted}, got {what}.") from None
    fits = array.ndim == len(shape)
    if not fits or any(isinstance(n, int) and n != have for n, have in zip(shape, array.shape, strict=True)):
        raise LiminalError(f"`{name}` must have the shape {wanted}, got {array.shape}.")
    if array.size == 0:
        raise LiminalError(f"`{name}` is empty (shape {array.shape}). Give at least one value along each of {wanted}.")
    infinite = np.isinf(array) if gaps else ~np.isfinite(array)
    for wrong, allowed in ((infinite, ""), ((array < low) | (array > high), f" in {low:g}..{high:g}")):
        if wrong.any():
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            also = f"; a NaN is allowed and means {gaps}" if gaps else ""
            raise LiminalError(
                f"`{name}` holds {array[index]:g} at index {index}. Only finite numbers{allowed} are allowed{also}."
            )
    return array


def check_count(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raises a LiminalError for what is no whole number of at least `least` and at most `most`."""
    if not isinstance(value, int) or value < least or (most is not None and value > most):
        allowed = f"of at least {least}" if most is None else f"in {least}..{most}"
        raise LiminalError(f"`{name}` must be a whole number {allowed}, got {value!r}.")


def check_names(name: str, values: Sequence[Any], count: int) -> list[str]:
    """`values` as `count` strings, or a LiminalError."""
    if isinstance(values, str) or len(values) != count:
        raise LiminalError(f"`{name}` must be a sequence of {count} names, got {one_line(repr(values), 60)}.")
    return [str(value) for value in values]


def positions(targets: Sequence[str]) -> tuple[int, int, int] | None:
    """Where pleasure (or valence), arousal and dominance stand among the targets; None if one is missing."""
    names = ["pleasure" if name == "valence" else name for name in targets]
    if not set(DIMENSIONS) <= set(names):
        return None
    return names.index(DIMENSIONS[0]), names.index(DIMENSIONS[1]), names.index(DIMENSIONS[2])
