"""Figures of what a LIMINAL model does: plain arrays in, a matplotlib Figure out.

Requires numpy; each figure needs matplotlib (`pip install 'liminal_hf[plot]'`). Nothing here touches pyplot or its
global state, so that figures can be drawn in any thread and without a display. Colours are Okabe and Ito's (2008),
which colour-blind readers can tell apart; markers and line styles say the same again for print in black and white.
All figures are 800 px wide at their own 100 dots per inch; those that take a `width` (in inches) also fit a phone.

In every function PAD stands in label units, columns pleasure, arousal, dominance; a gold value of -100 is missing, and
its dimension of that row is left out. `subject` says in the title what the data come from. A wrong shape, a NaN or an
empty array is a `ValueError` that names the argument.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Array = NDArray[np.float64]

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY, LIGHT = "#6B6B6B", "#E4E4E4"
MISSING = -100.0
MINUS = "\N{MINUS SIGN}"

_DIMENSIONS = ("pleasure", "arousal", "dominance")
_DIMENSION_STYLES = ((BLUE, "o", "-"), (VERMILLION, "s", "--"), (GREEN, "^", "-."))
# Mehrabian (1996), Pleasure-arousal-dominance, Current Psychology 14(4): signs of P, A, D, pleasant ones first.
_OCTANTS = (
    ("exuberant", "+++"),
    ("dependent", "++-"),
    ("relaxed", "+-+"),
    ("docile", "+--"),
    ("hostile", "-++"),
    ("anxious", "-+-"),
    ("disdainful", "--+"),
    ("bored", "---"),
)
_RANGE = (-1.0, 1.0)
_WIDTH = 8.0


# ---------------------------------------------------------------------------------------------------- what all share


def _new_figure(height: float, title: str, subject: str | None, *, width: float = _WIDTH) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("Figures need matplotlib, which is not installed: pip install 'liminal_hf[plot]'") from None
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained", facecolor="white")
    lines = [title] if not subject else [title, _shown(subject, 90)]
    if width < _WIDTH:
        lines = [part for line in lines for part in textwrap.wrap(line, round(11 * width))]
    figure.suptitle("\n".join(lines), fontsize=12, parse_math=False)
    return figure


def _wide_enough(width: float) -> float:
    if not 3.5 <= width <= 20:
        raise ValueError(f"`width` must lie in 3.5..20 inches, got {width!r}.")
    return width


def _style(axes: Axes, *, xlabel: str, ylabel: str, title: str | None = None, grid: str | None = "both") -> None:
    axes.set_xlabel(xlabel, fontsize=10)
    axes.set_ylabel(ylabel, fontsize=10)
    axes.tick_params(labelsize=9)
    if title is not None:
        axes.set_title(title, fontsize=10.5, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    if grid is not None:
        axes.grid(True, axis=grid, color=LIGHT, linewidth=0.8)  # type: ignore[arg-type]
        axes.set_axisbelow(True)


def _evenly(count: int, most: int = 14) -> range:
    """At most `most` of the indices 0..count - 1, evenly spaced."""
    return range(0, count, -(-count // most))


def _whole_ticks(axes: Axes, count: int) -> None:
    """Ticks at whole numbers 1..count."""
    axes.set_xticks([index + 1 for index in _evenly(count, 15)])


def _shown(text: Any, width: int) -> str:
    """A text on one line of at most `width` characters, with nothing in it that a font can't take."""
    kept = (" " if unicodedata.category(c)[0] in "ZC" else c for c in str(text))
    line = " ".join("".join(kept).split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def _array(
    name: str,
    values: ArrayLike,
    shape: tuple[str | int, ...],
    *,
    low: float = -np.inf,
    high: float = np.inf,
    gaps: str | None = None,
) -> Array:
    """`values` as float64, or a ValueError that says what is wrong with `name`; `gaps` allows NaN and says why."""
    wanted = "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be numbers in the shape {wanted}, got {_shown(repr(values), 60)}.") from None
    fits = array.ndim == len(shape) and all(
        isinstance(want, str) or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"`{name}` must have the shape {wanted}, got {array.shape}.")
    if array.size == 0:
        raise ValueError(f"`{name}` is empty (shape {array.shape}). Give at least one value along each of {wanted}.")
    bad = np.isinf(array) if gaps else ~np.isfinite(array)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        allowed = f"; a NaN is allowed and means {gaps}" if gaps else ""
        raise ValueError(f"`{name}` holds {array[where]} at index {where}. Only finite numbers are allowed{allowed}.")
    outside = (array < low) | (array > high)
    if outside.any():
        where = tuple(int(i) for i in np.argwhere(outside)[0])
        raise ValueError(f"`{name}` must lie in {low:g}..{high:g}, got {array[where]:g} at index {where}.")
    return array


def _axes_of(values: ArrayLike) -> int:
    """How many axes the values have; 0 for what is no array, so that `_array` says so."""
    try:
        return np.ndim(values)
    except ValueError:
        return 0


def _pair(predicted: ArrayLike, gold: ArrayLike, value_range: tuple[float, float]) -> tuple[Array, Array]:
    """Predictions, and gold with NaN where it is missing."""
    guess = _array("predicted", predicted, ("rows", 3))
    truth = _array("gold", gold, (len(guess), 3))
    truth = np.where(truth == MISSING, np.nan, truth)
    low, high = value_range
    outside = (truth < low) | (truth > high)
    if outside.any():
        where = tuple(int(i) for i in np.argwhere(outside)[0])
        raise ValueError(
            f"`gold` must lie in the label range {low:g}..{high:g} (-100 marks a missing one), got {truth[where]:g} at "
            f"index {where}. For labels on another scale pass value_range=(lowest, highest)."
        )
    for column, name in enumerate(_DIMENSIONS):
        if np.isnan(truth[:, column]).all():
            raise ValueError(f"`gold` has no value of {name}: all {len(truth)} rows are missing (-100). One is needed.")
    return guess, truth


def _labels(name: str, values: Sequence[Any], count: int) -> list[str]:
    if isinstance(values, str) or len(values) != count:
        raise ValueError(f"`{name}` must be a sequence of {count} names, got {_shown(repr(values), 60)}.")
    return [str(value) for value in values]


def _epochs(epochs: ArrayLike) -> Array:
    array = _array("epochs", epochs, ("epochs",))
    if (np.diff(array) <= 0).any():
        raise ValueError(f"`epochs` must rise from row to row, got {array.tolist()[:8]}.")
    return array


def _r(predicted: Array, gold: Array) -> float:
    """Pearson's r; NaN where a side is constant."""
    if len(gold) < 2 or np.ptp(predicted) == 0 or np.ptp(gold) == 0:
        return float("nan")
    return float(np.corrcoef(predicted, gold)[0, 1])


def _ccc(predicted: Array, gold: Array) -> float:
    """Lin's (1989) concordance: 2 cov / (var + var + (mean - mean)^2)."""
    spread = predicted.var() + gold.var() + (predicted.mean() - gold.mean()) ** 2
    covariance = ((predicted - predicted.mean()) * (gold - gold.mean())).mean()
    return float(2 * covariance / spread) if spread > 0 else float("nan")


def _octant_of(point: Array, middle: float) -> str:
    signs = "".join("+" if value >= middle else "-" for value in point)
    return next(name for name, known in _OCTANTS if known == signs)


def _number(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.2f}".replace("-", MINUS)


def _span(value_range: tuple[float, float]) -> str:
    return f"{value_range[0]:g} to {value_range[1]:g}".replace("-", MINUS)


def _texts(count: int) -> str:
    return "1 text" if count == 1 else f"{count:,} texts"


def _limits(*arrays: Array, floor: float) -> tuple[float, float]:
    """Limits around all values with a little room, at least `floor` wide."""
    values = np.concatenate([array[np.isfinite(array)].ravel() for array in arrays])
    low, high = float(values.min()), float(values.max())
    room = max(0.05 * (high - low), (floor - (high - low)) / 2)
    return low - room, high + room


def _plain(legend: Any) -> None:
    """Takes names as they are, a dollar sign included."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def _gif_writer(frames_per_second: int) -> Any:
    """A matplotlib movie writer whose frames share one small palette, which keeps the file small."""
    from matplotlib.animation import AbstractMovieWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgb
    from PIL import Image

    shades = [
        round(255 * (1 - share + share * part))
        for colour in (BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE)
        for share in np.linspace(0, 1, 16)
        for part in to_rgb(colour)
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette(shades)

    class GifWriter(AbstractMovieWriter):
        def setup(self, fig: Any, outfile: Any, dpi: float | None = None) -> None:
            super().setup(fig, outfile, dpi)
            self.frames: list[Image.Image] = []

        def grab_frame(self, **savefig_kwargs: Any) -> None:
            canvas = FigureCanvasAgg(self.fig)
            canvas.draw()
            image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
            self.frames.append(image.quantize(palette=palette, dither=Image.Dither.NONE))

        def finish(self) -> None:
            first, *rest = self.frames
            pause = round(1000 / self.fps)
            first.save(self.outfile, format="GIF", save_all=True, append_images=rest, duration=pause, loop=0)

    return GifWriter(fps=frames_per_second)


# ---------------------------------------------------------------------------------------------------- a training run


def training_curves(
    epochs: ArrayLike,
    train_loss: ArrayLike,
    validation_loss: ArrayLike,
    hope: ArrayLike,
    faith: ArrayLike,
    love: ArrayLike,
    learning_rate: ArrayLike,
    *,
    subject: str | None = None,
) -> Figure:
    """Losses, Hope, Faith and Love, and the learning rate of a training run over its epochs.

    Args:
        epochs: `(epochs,)`, rising.
        train_loss, validation_loss, hope, faith, love, learning_rate: `(epochs,)`; NaN where not measured. Hope,
            Faith and Love lie in 0..1 (Hope = 1 - MAE, Faith = sqrt(mean confidence), Love = exp(-MSE) (1 - variance
            of the predictions)); the learning rate is not negative.
        subject: what was trained; second line of the title.

    Raises:
        ValueError: see the module.

    Example:
        >>> figure = training_curves([1, 2], [.9, .5], [.8, .6], [.8, .9], [.7, .7], [.5, .6], [1e-3, 1e-4])
        >>> len(figure.axes)
        3
    """
    x = _epochs(epochs)
    unmeasured = "not measured at that epoch"
    train = _array("train_loss", train_loss, (len(x),), gaps=unmeasured)
    validation = _array("validation_loss", validation_loss, (len(x),), gaps=unmeasured)
    virtues = [
        _array(name, values, (len(x),), low=0, high=1, gaps=unmeasured)
        for name, values in (("hope", hope), ("faith", faith), ("love", love))
    ]
    rate = _array("learning_rate", learning_rate, (len(x),), low=0, gaps=unmeasured)

    title = f"Training over {x[-1]:g} epochs"
    measured = np.isfinite(validation)
    if measured.any():
        best = int(np.nanargmin(validation))
        title += f": validation loss lowest, {validation[best]:.3g}, at epoch {x[best]:g}"
    figure = _new_figure(7.5, title, subject)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.6])

    top.plot(x, train, color=BLUE, linestyle="--", marker="o", markersize=4, label="train")
    top.plot(x, validation, color=VERMILLION, marker="s", markersize=4, label="validation")
    if measured.any():
        top.plot(
            x[best], validation[best], "o", markersize=13, fillstyle="none", color=BLACK, label="lowest validation"
        )
    _style(top, xlabel="", ylabel="loss (no unit)")
    top.legend(fontsize=9, frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)

    for values, name, (colour, marker, line) in zip(
        virtues,
        (f"Hope: 1 {MINUS} MAE", "Faith: √ mean confidence", f"Love: e^({MINUS}MSE) · (1 {MINUS} variance)"),
        _DIMENSION_STYLES,
        strict=True,
    ):
        label = name if np.isfinite(values).any() else f"{name} (not measured)"
        middle.plot(x, values, color=colour, marker=marker, linestyle=line, markersize=4, label=label)
    _style(middle, xlabel="", ylabel="Hope, Faith, Love\n(no unit, in 0 to 1)")
    lowest = min((float(np.nanmin(values)) for values in virtues if np.isfinite(values).any()), default=0.0)
    middle.set_ylim(max(0.0, np.floor(10 * lowest - 0.5) / 10), 1.01)
    middle.legend(fontsize=9, frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)

    bottom.plot(x, rate, color=PURPLE, marker="D", markersize=4)
    if (rate > 0).any() and not (rate == 0).any():
        bottom.set_yscale("log")
    _style(bottom, xlabel="epoch", ylabel="learning rate\n(per step)")
    bottom.margins(x=0.02)
    figure.align_ylabels()
    return figure


def heartbeat(validation_loss: ArrayLike) -> Array:
    """Beats per minute of a training run: 60 + 80 |change of the validation loss| / its maximum. (LIMINAL Heartbeat)

    Args:
        validation_loss: `(epochs,)`, finite.

    Returns:
        `(epochs,)` in 60..140; the first epoch has no change yet and rests at 60, as does a run that never changes.

    Example:
        >>> heartbeat([1.0, 0.5, 0.25, 0.25]).tolist()
        [60.0, 140.0, 100.0, 60.0]
    """
    change = np.abs(np.diff(_array("validation_loss", validation_loss, ("epochs",)), prepend=np.nan))
    change[0] = 0.0
    largest = change.max()
    return 60.0 + 80.0 * change / largest if largest > 0 else np.full(len(change), 60.0)


def _pulse(phase: Array) -> Array:
    """One heartbeat (P wave, QRS complex, T wave) as a function of its phase 0..1; about -0.2..1."""
    waves = ((0.20, 0.030, 0.12), (0.37, 0.012, -0.15), (0.40, 0.014, 1.0), (0.43, 0.012, -0.22), (0.65, 0.050, 0.25))
    return sum((height * np.exp(-(((phase - at) / width) ** 2)) for at, width, height in waves), np.zeros_like(phase))


def heartbeat_plot(epochs: ArrayLike, validation_loss: ArrayLike, *, subject: str | None = None) -> Figure:
    """The heartbeat of a training run: beats per minute by epoch, and a pulse that beats at this rate.

    bpm = 60 + 80 |change of the validation loss| / its maximum (LIMINAL Heartbeat). The pulse gives each epoch the
    same two seconds; its shape is that of a drawn electrocardiogram and carries no data.

    Args:
        epochs: `(epochs,)`, rising.
        validation_loss: `(epochs,)`, finite.

    Example:
        >>> figure = heartbeat_plot([1, 2, 3], [.9, .5, .4])
        >>> [axes.get_ylabel() for axes in figure.axes][1]
        'heartbeat\\n(beats per minute)'
    """
    x = _epochs(epochs)
    loss = _array("validation_loss", validation_loss, (len(x),))
    bpm = heartbeat(loss)
    beat = int(bpm.argmax())
    title = f"Heartbeat of training: fastest, {bpm[beat]:.0f} beats a minute, at epoch {x[beat]:g}"
    if bpm[beat] == 60:
        title = "Heartbeat of training: at rest, the validation loss never changes"
    figure = _new_figure(6.5, title, subject)
    top, middle, bottom = figure.subplots(3, 1, height_ratios=[2, 2, 1.5])
    top.plot(x, loss, color=VERMILLION, marker="s", markersize=4)
    _style(top, xlabel="", ylabel="validation loss\n(no unit)")
    middle.sharex(top)
    top.tick_params(labelbottom=False)
    middle.vlines(x, 60, bpm, color=SKY, linewidth=2)
    middle.plot(x, bpm, color=BLUE, marker="o", markersize=5)
    _style(middle, xlabel="epoch", ylabel="heartbeat\n(beats per minute)")
    middle.set_ylim(55, 145)
    middle.set_yticks(range(60, 141, 20))

    seconds = 2.0
    time = np.linspace(0, seconds * len(x), min(1500 * len(x), 60_000), endpoint=False)
    rate = bpm[np.minimum((time / seconds).astype(int), len(x) - 1)]
    phase = np.cumsum(rate / 60) * (time[1] - time[0])
    bottom.plot(time, _pulse(phase % 1), color=BLACK, linewidth=1)
    _style(bottom, xlabel=f"time (seconds; {seconds:g} for each epoch)", ylabel="pulse\n(no unit)", grid="x")
    bottom.set_xlim(0, time[-1])
    bottom.set_ylim(-0.4, 1.15)
    figure.align_ylabels()
    return figure


def aura(
    hope: ArrayLike, faith: ArrayLike, love: ArrayLike, train_loss: ArrayLike, validation_loss: ArrayLike
) -> Array:
    """The five rows of the aura map: Hope, Faith, Love, clarity, stress, each in 0..1.

    clarity = 1 - |Faith|, as published. Stress was published as clip(|train - validation loss| - 1.5, 0, 1), which is
    always 0 on a [-1, 1] scale. Here it is max(0, validation - train loss) / (|train| + |validation loss|): which part
    of the loss appears only on unseen texts. It needs no scale, is 0 as long as unseen texts fare no worse than the
    trained ones, 1/3 when their loss is twice as high, and nears 1 as the training loss vanishes.

    Args:
        hope, faith, love: `(epochs,)` in 0..1; NaN where not measured.
        train_loss, validation_loss: `(epochs,)`; NaN where not measured.

    Returns:
        `(5, epochs)`; NaN where a part was not measured.

    Example:
        >>> aura([.9], [.8], [.7], [.2], [.6]).round(2)[:, 0].tolist()
        [0.9, 0.8, 0.7, 0.2, 0.5]
    """
    unmeasured = "not measured at that epoch"
    first = _array("hope", hope, ("epochs",), low=0, high=1, gaps=unmeasured)
    size = (len(first),)
    faith = _array("faith", faith, size, low=0, high=1, gaps=unmeasured)
    love = _array("love", love, size, low=0, high=1, gaps=unmeasured)
    train = _array("train_loss", train_loss, size, gaps=unmeasured)
    validation = _array("validation_loss", validation_loss, size, gaps=unmeasured)
    total = np.abs(train) + np.abs(validation)
    stress = np.maximum(validation - train, 0) / np.where(total == 0, 1, total)
    return np.stack([first, faith, love, 1 - np.abs(faith), stress])


def aura_map(
    epochs: ArrayLike,
    hope: ArrayLike,
    faith: ArrayLike,
    love: ArrayLike,
    train_loss: ArrayLike,
    validation_loss: ArrayLike,
    *,
    subject: str | None = None,
) -> Figure:
    """Hope, Faith, Love, clarity and stress of a training run as a heat map over its epochs; see `aura`.

    Args:
        epochs: `(epochs,)`, rising.
        hope, faith, love, train_loss, validation_loss: as in `aura`.

    Example:
        >>> figure = aura_map([1, 2], [.8, .9], [.7, .7], [.6, .7], [.5, .2], [.6, .5])
        >>> figure.axes[0].images[0].get_array().shape
        (5, 2)
    """
    x = _epochs(epochs)
    values = aura(_array("hope", hope, (len(x),), gaps="not measured"), faith, love, train_loss, validation_loss)
    end = "not measured" if np.isnan(values[4, -1]) else f"{values[4, -1]:.2f} at the end"
    figure = _new_figure(3.9, f"Aura of training over {len(x)} evaluations: stress {end}", subject)
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(values), aspect="auto", cmap="cividis", vmin=0, vmax=1)
    axes.set_facecolor("white")
    for row, column in zip(*np.nonzero(np.isnan(values)), strict=True):
        axes.text(column, row, "·", ha="center", va="center", color=GREY)
    if len(x) <= 14:
        _cell_numbers(axes, values)
    shown = _evenly(len(x))
    axes.set_xticks(shown, [f"{x[i]:g}" for i in shown])
    axes.set_yticks(
        range(5),
        [
            f"Hope\n1 {MINUS} MAE",
            "Faith\n√ mean confidence",
            "Love",
            f"clarity\n1 {MINUS} Faith",
            "stress\nshare of overfit",
        ],
    )
    _style(axes, xlabel="epoch (a dot: not measured)", ylabel="", grid=None)
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("value (no unit, 0 to 1)", fontsize=10)
    bar.ax.tick_params(labelsize=9)
    return figure


def _cell_numbers(axes: Axes, values: Array, *, size: float = 9) -> None:
    """Writes each value of a 0..1 heat map in cividis into its cell, in a colour that stands out."""
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "black" if value > 0.55 else "white"
            text = f"{value:.2f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)


def breathing_animation(
    epochs: ArrayLike,
    train_loss: ArrayLike,
    validation_loss: ArrayLike,
    *,
    frames: int = 72,
    frames_per_second: int = 12,
    subject: str | None = None,
) -> FuncAnimation:
    """A training run that breathes: a disc beats at the run's heartbeat while the losses are drawn.

    The disc's area follows the validation loss and beats at `heartbeat`'s rate in real time; the epochs pass evenly
    over the frames. Save it with `save_gif`, or show it in a notebook with `HTML(animation.to_jshtml())`.

    Args:
        epochs: `(epochs,)`, rising.
        train_loss: `(epochs,)`; NaN where not measured.
        validation_loss: `(epochs,)`, finite.
        frames: 2..600.
        frames_per_second: 8..50 (slower could not show 140 beats a minute).

    Example:
        >>> import tempfile, pathlib
        >>> animation = breathing_animation([1, 2, 3], [.9, .6, .5], [.8, .6, .55], frames=4)
        >>> path = save_gif(animation, pathlib.Path(tempfile.mkdtemp()) / "run.gif")
        >>> path.stat().st_size < 400_000
        True
    """
    x = _epochs(epochs)
    train = _array("train_loss", train_loss, (len(x),), gaps="not measured at that epoch")
    validation = _array("validation_loss", validation_loss, (len(x),))
    for name, value, least, most in (("frames", frames, 2, 600), ("frames_per_second", frames_per_second, 8, 50)):
        if not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"`{name}` must be a whole number in {least}..{most}, got {value!r}.")
    bpm = heartbeat(validation)

    figure = _new_figure(4.2, "A training run breathes: its heartbeat follows the change of validation loss", subject)
    from matplotlib.animation import FuncAnimation
    from matplotlib.patches import Circle

    # A fixed layout: recomputed per frame it could make the picture tremble.
    figure.set_layout_engine("none")
    disc_axes = figure.add_axes((0.03, 0.06, 0.36, 0.72))
    loss_axes = figure.add_axes((0.49, 0.5, 0.49, 0.32))
    beat_axes = figure.add_axes((0.49, 0.14, 0.49, 0.24))
    disc_axes.set(xlim=(-1.1, 1.1), ylim=(-1.2, 1), aspect="equal")
    disc_axes.set_axis_off()
    disc_axes.add_patch(Circle((0, 0), 0.92, fill=False, linestyle=":", color=GREY))
    disc = Circle((0, 0), 0.5, facecolor=VERMILLION, edgecolor=BLACK)
    disc_axes.add_patch(disc)
    label = disc_axes.text(0, -1.2, "", ha="center", va="bottom", fontsize=11)
    (train_line,) = loss_axes.plot([], [], color=BLUE, linestyle="--", label="train")
    (validation_line,) = loss_axes.plot([], [], color=VERMILLION, label="validation")
    (beat_line,) = beat_axes.plot([], [], color=BLACK)
    (beat_dot,) = beat_axes.plot([], [], "o", color=VERMILLION)
    _style(loss_axes, xlabel="", ylabel="loss (no unit)")
    _style(beat_axes, xlabel="epoch", ylabel="beats per minute\n(60 to 140)")
    loss_axes.legend(fontsize=9, frameon=False, loc="upper right", ncols=2)
    ends = (x[0], x[-1]) if len(x) > 1 else (x[0] - 0.5, x[0] + 0.5)
    low, high = _limits(train, validation, floor=1e-3)
    loss_axes.set(xlim=ends, ylim=(low, high + 0.15 * (high - low)))
    beat_axes.set(xlim=ends, ylim=(52, 148), yticks=[60, 100, 140])

    at = np.linspace(x[0], x[-1], frames)
    loss_at, bpm_at = np.interp(at, x, validation), np.interp(at, x, bpm)
    phase = np.concatenate([[0.0], np.cumsum(bpm_at[:-1] / 60 / frames_per_second)])
    smallest, largest = validation.min(), validation.max()
    share = (loss_at - smallest) / (largest - smallest) if largest > smallest else np.full(frames, 0.5)
    radius = np.sqrt(0.12 + 0.5 * share) * (1 + 0.08 * np.cos(2 * np.pi * phase))

    def draw(frame: int) -> list[Any]:
        seen = x <= at[frame]
        path = np.append(x[seen], at[frame])
        disc.set_radius(float(radius[frame]))
        label.set_text(f"epoch {at[frame]:.1f}   {bpm_at[frame]:.0f} bpm   loss {loss_at[frame]:.3f}")
        train_line.set_data(x[seen], train[seen])
        validation_line.set_data(path, np.append(validation[seen], loss_at[frame]))
        beat_line.set_data(path, np.append(bpm[seen], bpm_at[frame]))
        beat_dot.set_data([at[frame]], [bpm_at[frame]])
        return [disc, label, train_line, validation_line, beat_line, beat_dot]

    return FuncAnimation(figure, draw, frames=frames, interval=1000 / frames_per_second, cache_frame_data=False)


def save_gif(animation: FuncAnimation, path: str | Path, *, frames_per_second: int = 12) -> Path:
    """Writes an animation as a GIF of shades of this module's colours that repeats for ever, and returns its path.

    Example: see `breathing_animation`.
    """
    path = Path(path)
    animation.save(path, writer=_gif_writer(frames_per_second), dpi=100)
    return path


# ---------------------------------------------------------------------------------------------- predictions and gold


def emotional_field(
    predicted: ArrayLike,
    gold: ArrayLike,
    *,
    max_points: int = 150,
    value_range: tuple[float, float] = _RANGE,
    seed: int = 0,
    subject: str | None = None,
) -> Figure:
    """PAD in three dimensions, predicted against gold, with its three projections.

    Thin lines in the three-dimensional view join each prediction to its gold point.

    Args:
        predicted, gold: `(rows, 3)`.
        max_points: at most so many texts are drawn, chosen at random with `seed`; the title says how many of how many.
        value_range: lowest and highest possible label.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> gold = rng.normal(0, .15, (500, 3))
        >>> emotional_field(gold * .5, gold).get_suptitle().splitlines()[0]
        'Emotional field: predicted and gold PAD, 150 of 500 texts drawn'
    """
    guess, truth = _pair(predicted, gold, value_range)
    whole = np.isfinite(truth).all(axis=1)
    if not whole.any():
        raise ValueError("`gold` has no row with all three dimensions; emotional_field needs at least one.")
    if not isinstance(max_points, int) or max_points < 1:
        raise ValueError(f"`max_points` must be a whole number of at least 1, got {max_points!r}.")
    total = int(whole.sum())
    rows = np.flatnonzero(whole)
    drawn = np.sort(np.random.default_rng(seed).choice(rows, min(max_points, total), replace=False))
    how_many = f"all {_texts(total)} drawn" if len(drawn) == total else f"{len(drawn):,} of {_texts(total)} drawn"
    guess, truth = guess[drawn], truth[drawn]

    figure = _new_figure(6.2, f"Emotional field: predicted and gold PAD, {how_many}", subject)
    grid = figure.add_gridspec(3, 2, width_ratios=[2.7, 1])
    space: Any = figure.add_subplot(grid[:, 0], projection="3d")
    middle = sum(value_range) / 2
    # Each axis has the data's own reach, the same to both sides of the middle.
    reaches = [
        1.05 * max(np.abs(guess[:, i] - middle).max(), np.abs(truth[:, i] - middle).max(), 0.05) for i in range(3)
    ]
    limits = [(middle - reach, middle + reach) for reach in reaches]
    for p, g in zip(guess, truth, strict=True):
        space.plot(*np.stack([p, g]).T, color=GREY, linewidth=0.5, alpha=0.5)
    space.scatter(
        *truth.T, s=22, marker="^", color=ORANGE, edgecolor=BLACK, linewidth=0.3, label="gold", depthshade=False
    )
    space.scatter(*guess.T, s=18, marker="o", color=BLUE, label="predicted", depthshade=False)
    space.set(xlim=limits[0], ylim=limits[1], zlim=limits[2])
    span = _span(value_range)
    space.set_xlabel(f"pleasure (in {span})", fontsize=10)
    space.set_ylabel(f"arousal (in {span})", fontsize=10)
    space.set_zlabel(f"dominance (in {span})", fontsize=10)
    space.tick_params(labelsize=8.5)
    space.locator_params(nbins=5)
    space.set_box_aspect((1, 1, 1), zoom=0.92)
    space.view_init(elev=20, azim=-58)
    space.set_title("a line joins each prediction to its gold point", fontsize=9.5)
    space.legend(fontsize=10, frameon=False, loc="upper left")
    for row, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        axes = figure.add_subplot(grid[row, 1])
        axes.scatter(truth[:, i], truth[:, j], s=10, marker="^", color=ORANGE, linewidth=0)
        axes.scatter(guess[:, i], guess[:, j], s=8, color=BLUE, linewidth=0, alpha=0.8)
        axes.axhline(middle, color=GREY, linewidth=0.6)
        axes.axvline(middle, color=GREY, linewidth=0.6)
        axes.set(xlim=limits[i], ylim=limits[j])
        _style(axes, xlabel=f"{_DIMENSIONS[i]} (in {span})", ylabel=f"{_DIMENSIONS[j]}\n(in {span})")
        axes.tick_params(labelsize=8.5)
        axes.locator_params(nbins=5)
    return figure


def pad_distributions(
    predicted: ArrayLike,
    gold: ArrayLike,
    *,
    bins: int = 30,
    value_range: tuple[float, float] = _RANGE,
    subject: str | None = None,
) -> Figure:
    """Histograms of predicted and gold PAD, with the ratio of their standard deviations.

    A ratio far below 1 shows predictions that shrink to the mean, which a low MAE hides.

    Args:
        predicted, gold: `(rows, 3)`.
        bins: at least 2.
        value_range: lowest and highest possible label.

    Example:
        >>> gold = np.random.default_rng(0).normal(0, .15, (500, 3))
        >>> pad_distributions(gold * .5, gold).axes[0].get_title()
        'SD ratio 0.50'
    """
    guess, truth = _pair(predicted, gold, value_range)
    if not isinstance(bins, int) or bins < 2:
        raise ValueError(f"`bins` must be a whole number of at least 2, got {bins!r}.")
    ratios = []
    for p, g in zip(guess.T, truth.T, strict=True):
        known = np.isfinite(g)
        spread = g[known].std()
        ratios.append(p[known].std() / spread if spread > 0 else float("nan"))
    title = (
        f"Spread of predicted and gold PAD, {_texts(len(truth))}: SD ratio {_number(float(np.mean(ratios)))} on average"
    )
    figure = _new_figure(4.2, title, subject)
    panels = figure.subplots(1, 3, sharey=True)
    low, high = _limits(guess, truth, floor=0.2)
    edges = np.linspace(low, high, bins + 1)
    for axes, name, p, g, ratio in zip(panels, _DIMENSIONS, guess.T, truth.T, ratios, strict=True):
        known = np.isfinite(g)
        for values, colour, line, label in ((g[known], ORANGE, "-", "gold"), (p[known], BLUE, "--", "predicted")):
            weights = np.full(len(values), 100 / len(values))
            axes.hist(values, bins=edges, weights=weights, color=colour, alpha=0.35)
            axes.hist(
                values,
                bins=edges,
                weights=weights,
                histtype="step",
                color=colour,
                linestyle=line,
                linewidth=1.6,
                label=f"{label}: SD {values.std():.3f}",
            )
        _style(axes, xlabel=f"{name} ({_span(value_range)})", ylabel="", title=f"SD ratio {_number(ratio)}")
        axes.set_xlim(low, high)
        axes.legend(fontsize=8.5, frameon=False, loc="upper left", handlelength=1.2)
    panels[0].set_ylabel("share of the texts (%)", fontsize=10)
    panels[0].set_ylim(top=panels[0].get_ylim()[1] * 1.2)
    return figure


def predicted_vs_gold(
    predicted: ArrayLike,
    gold: ArrayLike,
    *,
    value_range: tuple[float, float] = _RANGE,
    subject: str | None = None,
) -> Figure:
    """Predicted against gold per dimension, with r, CCC, the identity and the regression line.

    The regression line is least squares of the prediction on gold: its slope below 1 is the shrinkage to the mean.

    Args:
        predicted, gold: `(rows, 3)`.
        value_range: lowest and highest possible label.

    Example:
        >>> gold = np.random.default_rng(0).normal(0, .15, (500, 3))
        >>> predicted_vs_gold(gold * .5, gold).axes[0].get_title()
        'r 1.00, CCC 0.80'
    """
    guess, truth = _pair(predicted, gold, value_range)
    known = np.isfinite(truth)
    scores = [_r(p[k], g[k]) for p, g, k in zip(guess.T, truth.T, known.T, strict=True)]
    title = f"Predicted against gold PAD, {_texts(len(truth))}: mean r {_number(float(np.mean(scores)))}"
    figure = _new_figure(3.65, title, subject)
    low, high = _limits(guess, truth, floor=0.2)
    for axes, name, p, g, k, r, (colour, marker, _) in zip(
        figure.subplots(1, 3, sharey=True),
        _DIMENSIONS,
        guess.T,
        truth.T,
        known.T,
        scores,
        _DIMENSION_STYLES,
        strict=True,
    ):
        p, g = p[k], g[k]
        size, alpha = (12, 0.5) if len(g) <= 400 else (6, 0.3)
        axes.scatter(g, p, s=size, marker=marker, color=colour, alpha=alpha, linewidth=0, rasterized=True)
        axes.plot([low, high], [low, high], color=GREY, linestyle=":", linewidth=1.5, label="identity")
        if np.ptp(g) > 0:
            slope, start = np.polyfit(g, p, 1)
            ends = np.array([g.min(), g.max()])
            axes.plot(ends, start + slope * ends, color=BLACK, linewidth=2, label=f"regression, slope {_number(slope)}")
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        _style(
            axes,
            xlabel=f"gold {name} ({_span(value_range)})",
            ylabel="",
            title=f"r {_number(r)}, CCC {_number(_ccc(p, g))}",
        )
        axes.legend(fontsize=8.5, frameon=False, loc="upper left", handlelength=1.4)
    figure.axes[0].set_ylabel(f"predicted ({_span(value_range)})", fontsize=10)
    return figure


def reliability(
    predicted: ArrayLike,
    gold: ArrayLike,
    uncertainty: ArrayLike,
    *,
    bins: int = 8,
    value_range: tuple[float, float] = _RANGE,
    subject: str | None = None,
) -> Figure:
    """Reliability of the uncertainty: predicted standard deviation against the error seen, per dimension.

    The texts are sorted by predicted sd into bins of equal size. Each point is a bin's root mean square sd against its
    root mean squared error (RMSE), with a 95% interval (a percentile bootstrap of 500 draws). On the identity line the
    uncertainty is right; a flat line can't rank the errors. Coverage is the share of gold values within 1.96 sd (95%
    when errors are Gaussian). (Levi et al. 2022, Evaluating and calibrating uncertainty prediction in regression)

    Args:
        predicted, gold: `(rows, 3)`.
        uncertainty: `(rows, 3)`, standard deviations in label units, at least 0.
        bins: at least 2; fewer are drawn when there are fewer than 10 texts for each.
        value_range: lowest and highest possible label.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> sd = rng.uniform(.05, .2, (2000, 3))
        >>> gold = np.clip(rng.normal(0, sd), -1, 1)
        >>> reliability(np.zeros_like(gold), gold, sd).axes[0].get_title()
        '94.3% within 1.96 sd'
    """
    guess, truth = _pair(predicted, gold, value_range)
    spread = _array("uncertainty", uncertainty, (len(truth), 3), low=0)
    if not isinstance(bins, int) or bins < 2:
        raise ValueError(f"`bins` must be a whole number of at least 2, got {bins!r}.")
    rng = np.random.default_rng(0)
    panels, coverages = [], []
    for column in range(3):
        known = np.flatnonzero(np.isfinite(truth[:, column]))
        order = known[np.argsort(spread[known, column], kind="stable")]
        error, sd = np.abs(guess - truth)[order, column], spread[order, column]
        coverages.append(100 * float((error <= 1.96 * sd).mean()))
        rows = []
        for part in np.array_split(np.arange(len(order)), max(1, min(bins, len(order) // 10))):
            draws = np.sqrt((rng.choice(error[part], (500, len(part))) ** 2).mean(axis=1))
            seen = np.sqrt((error[part] ** 2).mean())
            rows.append((np.sqrt((sd[part] ** 2).mean()), seen, *np.quantile(draws, [0.025, 0.975])))
        panels.append(np.array(rows).T)
    title = f"Reliability of the uncertainty, {_texts(len(truth))}: {np.mean(coverages):.1f}% within 1.96 sd"
    figure = _new_figure(3.75, title, subject)
    high = 1.08 * max(panel[[0, 3]].max() for panel in panels) or 1.0
    for axes, name, (sd, seen, lower, upper), coverage, (colour, marker, _) in zip(
        figure.subplots(1, 3, sharey=True), _DIMENSIONS, panels, coverages, _DIMENSION_STYLES, strict=True
    ):
        axes.plot([0, high], [0, high], color=GREY, linestyle=":", linewidth=1.5, label="identity: right")
        axes.errorbar(
            sd,
            seen,
            yerr=np.maximum([seen - lower, upper - seen], 0),
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.2,
            capsize=2,
            label="a bin, 95% interval",
        )
        axes.set(xlim=(0, high), ylim=(0, high), aspect="equal")
        _style(axes, xlabel=f"predicted sd, {name}\n(label units)", ylabel="", title=f"{coverage:.1f}% within 1.96 sd")
        axes.legend(fontsize=8.5, frameon=False, loc="upper left", handlelength=1.4)
    figure.axes[0].set_ylabel("observed RMSE (label units)", fontsize=10)
    return figure


# ---------------------------------------------------------------------------------------------- the refinement steps


def step_attention(attention: ArrayLike, *, subject: str | None = None) -> Figure:
    """Attention over the refinement steps as a heat map: which earlier answers a step looks back to.

    Args:
        attention: `(K, K)`, or `(rows, K, K)` of which the mean is drawn (`step_attentions` of the model); row k is
            step k's own query over the steps so far, in 0..1, and 0 for the steps to come.

    Example:
        >>> step_attention([[1, 0], [.4, .6]]).axes[0].get_ylabel()
        'step that asks'
    """
    averaged = _axes_of(attention) == 3
    weights = _array("attention", attention, ("rows", "K", "K") if averaged else ("K", "K"), low=0, high=1 + 1e-4)
    if weights.shape[-1] != weights.shape[-2]:
        raise ValueError(f"`attention` must be square in its last two axes (K, K), got {weights.shape}.")
    whose = f", mean of {_texts(len(weights))}" if averaged else ""
    matrix = weights.mean(axis=0) if averaged else weights
    steps = len(matrix)
    figure = _new_figure(5.6, f"Attention over the {steps} refinement steps{whose}", subject)
    axes = figure.subplots()
    image = _draw_attention(axes, matrix)
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("attention weight (no unit, 0 to 1)", fontsize=10)
    bar.ax.tick_params(labelsize=9)
    return figure


def _draw_attention(axes: Axes, matrix: Array) -> AxesImage:
    """A heat map of step over step; steps to come are grey."""
    steps = len(matrix)
    to_come = np.triu(np.ones((steps, steps), dtype=bool), 1) & (matrix == 0)
    axes.set_facecolor("#F4F4F4")
    image = axes.imshow(np.ma.masked_array(matrix, to_come), cmap="cividis", vmin=0, vmax=1)
    if steps <= 12:
        _cell_numbers(axes, np.where(to_come, np.nan, matrix), size=11 if steps <= 6 else 9)
    ticks = _evenly(steps)
    axes.set_xticks(ticks, [str(i + 1) for i in ticks])
    axes.set_yticks(ticks, [str(i + 1) for i in ticks])
    _style(axes, xlabel="step looked at (grey: not there yet)", ylabel="step that asks", grid=None)
    return image


def refinement(
    trajectory: ArrayLike,
    confidences: ArrayLike | None = None,
    attention: ArrayLike | None = None,
    *,
    uncertainty: ArrayLike | None = None,
    value_range: tuple[float, float] = _RANGE,
    width: float = _WIDTH,
    subject: str | None = None,
) -> Figure:
    """How one text is read: PAD and confidence after each refinement step, and which earlier step each looks back to.

    Args:
        trajectory: `(K, 3)`, the answer after each step (`pad_trajectory` of the model).
        confidences: `(K,)` in 0..1.
        attention: `(K, K)` in 0..1, as in `step_attention`.
        uncertainty: `(3,)`, standard deviations of the last answer, drawn as whiskers there.
        value_range: lowest and highest possible label.
        width: in inches, at least 3.5; a narrow figure has its panels one below the other.

    Example:
        >>> figure = refinement([[.1, 0, 0], [.2, .1, 0]], [.4, .6], [[1, 0], [.3, .7]])
        >>> figure.get_suptitle()
        'One text in 2 refinement steps: exuberant at the end'
    """
    points = _array("trajectory", trajectory, ("K", 3))
    steps = len(points)
    sure = None if confidences is None else _array("confidences", confidences, (steps,), low=0, high=1 + 1e-6)
    weights = None if attention is None else _array("attention", attention, (steps, steps), low=0, high=1 + 1e-4)
    doubt = None if uncertainty is None else _array("uncertainty", uncertainty, (3,), low=0)
    middle = sum(value_range) / 2
    narrow = _wide_enough(width) < 6
    title = f"One text in {steps} refinement step{'s'[: steps != 1]}: {_octant_of(points[-1], middle)} at the end"
    lower = sure is not None
    if narrow:
        heights = [3.0, *([1.9] if lower else []), *([3.4] if weights is not None else [])]
        figure = _new_figure(0.7 + sum(heights), title, subject, width=width)
        panels = list(np.atleast_1d(figure.subplots(len(heights), 1, height_ratios=heights)))
        top, rest = panels[0], panels[1:]
        below, looks = rest.pop(0) if lower else None, rest.pop() if rest else None
    else:
        figure = _new_figure(4.9, title, subject, width=width)
        grid = figure.add_gridspec(2 if lower else 1, 1 if weights is None else 2, height_ratios=[1.7, 1][: 1 + lower])
        top = figure.add_subplot(grid[0, 0])
        below = figure.add_subplot(grid[1, 0]) if lower else None
        looks = None if weights is None else figure.add_subplot(grid[:, 1])

    x = np.arange(1, steps + 1)
    for column, (name, (colour, marker, dashes)) in enumerate(zip(_DIMENSIONS, _DIMENSION_STYLES, strict=True)):
        top.plot(x, points[:, column], color=colour, marker=marker, linestyle=dashes, linewidth=1.8, label=name)
        if doubt is not None:
            # Side by side, so that one does not hide another.
            at = steps + 0.25 + 0.17 * column
            top.errorbar(at, points[-1, column], yerr=doubt[column], color=colour, marker=marker, capsize=3)
    top.axhline(middle, color=GREY, linewidth=0.8)
    beside = "" if doubt is None else "\n(whisker at the end: ± 1 predicted sd)"
    _style(top, xlabel=f"refinement step k{beside}", ylabel=f"PAD ({_span(value_range)})")
    _whole_ticks(top, steps)
    top.set_xlim(0.6, steps + (0.4 if doubt is None else 0.8))
    place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
    top.legend(fontsize=9, frameon=False, ncols=3, handlelength=1.6, columnspacing=0.9, handletextpad=0.4, **place)
    if below is not None:
        below.plot(x, sure, color=BLACK, marker="D", markersize=4)
        _style(below, xlabel="refinement step k", ylabel="confidence\n(no unit, 0 to 1)")
        _whole_ticks(below, steps)
        below.set(xlim=top.get_xlim(), ylim=(0, 1.04))
        figure.align_ylabels([top, below])
    if looks is not None:
        _draw_attention(looks, weights)
        looks.set_title("attention (no unit, 0 to 1)", fontsize=10.5)
    return figure


def confidence_evolution(confidences: ArrayLike, *, subject: str | None = None) -> Figure:
    """How the confidence moves over the refinement steps: the median and bands of quantiles over the texts.

    Args:
        confidences: `(rows, K)` in 0..1 (`confidences` of the model); a single text draws one line.

    Example:
        >>> figure = confidence_evolution([[.2, .5, .6], [.3, .6, .9]])
        >>> figure.axes[0].lines[0].get_ydata().round(2).tolist()
        [0.25, 0.55, 0.75]
    """
    values = _array("confidences", confidences, ("rows", "K"), low=0, high=1 + 1e-6)
    rows, steps = values.shape
    low, quarter, middle, three_quarters, high = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    move = (
        f"median {middle[0]:.2f} at step 1, {middle[-1]:.2f} at step {steps}"
        if steps > 1
        else f"median {middle[0]:.2f}"
    )
    figure = _new_figure(4.4, f"Confidence over the refinement steps, {_texts(rows)}: {move}", subject)
    axes = figure.subplots()
    x = np.arange(1, steps + 1)
    if rows > 1 and steps > 1:
        axes.fill_between(x, low, high, color=SKY, alpha=0.35, linewidth=0, label="5% to 95% of the texts")
        axes.fill_between(
            x, quarter, three_quarters, color=SKY, alpha=0.7, linewidth=0, label="25% to 75% of the texts"
        )
    elif rows > 1:
        axes.errorbar(
            x, middle, yerr=[middle - low, high - middle], color=SKY, capsize=5, label="5% to 95% of the texts"
        )
    axes.plot(x, middle, color=BLUE, marker="o", linewidth=2, label="median" if rows > 1 else "this text")
    _style(axes, xlabel="refinement step k", ylabel="confidence (no unit, 0 to 1)")
    _whole_ticks(axes, steps)
    axes.set_ylim(0, 1.02)
    figure.legend(fontsize=9.5, frameon=False, loc="outside lower center", ncols=3)
    return figure


def steps_curve(
    scores: Mapping[str, ArrayLike],
    *,
    metric: str = "Pearson r",
    trained_steps: int | None = None,
    subject: str | None = None,
) -> Figure:
    """A metric against the refinement step k: how the answer sharpens, and whether it stays when steps are added.

    Args:
        scores: name of a line to `(K,)`, or to `(seeds, K)`, whose mean and range (lowest to highest seed) are drawn.
            At most 7 lines; all with the same K.
        metric: what is measured, for the axis.
        trained_steps: K of training, marked when given.

    Example:
        >>> figure = steps_curve({"mean r": [.49, .503, .506]})
        >>> figure.axes[0].lines[0].get_ydata().tolist()
        [0.49, 0.503, 0.506]
    """
    if not isinstance(scores, Mapping) or not 1 <= len(scores) <= 7:
        raise ValueError(f"`scores` must map 1 to 7 names to scores by step, got {_shown(repr(scores), 60)}.")
    lines: dict[str, Array] = {}
    for name, values in scores.items():
        one = _axes_of(values) == 1
        line = _array(f"scores[{name!r}]", values, ("K",) if one else ("seeds", "K"))
        lines[name] = line[None] if one else line
    sizes = {name: line.shape[1] for name, line in lines.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"`scores` must have the same number of steps for each name, got {sizes}.")
    steps = next(iter(sizes.values()))
    first = next(iter(lines))
    mean = lines[first].mean(axis=0)
    title = f"{_shown(metric, 30)} by refinement step: {_shown(first, 24)} {_number(mean[0])} at step 1"
    if steps > 1:
        title += f", {_number(mean[-1])} at step {steps}"
    figure = _new_figure(4.6, title, subject)
    axes = figure.subplots()
    x = np.arange(1, steps + 1)
    own = dict(zip(_DIMENSIONS, _DIMENSION_STYLES, strict=True))
    others = [(BLACK, "D", ":"), (PURPLE, "v", "-"), (ORANGE, "P", "--"), (SKY, "X", "-.")]
    free = iter([*others, *(style for name, style in own.items() if name not in lines)])
    for name, line in lines.items():
        colour, marker, dashes = own[name] if name in own else next(free)
        label = _shown(name, 40) + (f" (range of {len(line)} seeds)" if len(line) > 1 else "")
        axes.plot(x, line.mean(axis=0), color=colour, marker=marker, linestyle=dashes, linewidth=1.8, label=label)
        if len(line) > 1:
            axes.fill_between(x, line.min(axis=0), line.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    if trained_steps is not None:
        axes.axvline(trained_steps, color=GREY, linestyle=":", label=f"trained with K = {trained_steps}")
    _style(axes, xlabel="refinement step k", ylabel=f"{_shown(metric, 40)} (no unit)")
    _whole_ticks(axes, steps)
    columns = 4 if sum(map(len, lines)) <= 60 else 3
    _plain(figure.legend(fontsize=9.5, frameon=False, loc="outside lower center", ncols=columns))
    return figure


# ------------------------------------------------------------------------------------------------------ conversations


def sharp_turns(
    pad: ArrayLike, uncertainty: ArrayLike | None = None, speakers: Sequence[str] | None = None
) -> NDArray[np.bool_]:
    """Which turns escalate against the same speaker's last one: less pleasure and more arousal, beyond the doubt.

    The rule of `liminal chat`: both changes are measured in standard deviations of a difference,
    sqrt(u_before^2 + u_now^2), and (fall of pleasure + rise of arousal) / sqrt(2) must exceed 2, which two independent
    normal errors alone do in at most 2.3% of the turns. Without an uncertainty no turn can be judged.

    Args:
        pad: `(turns, 3)`.
        uncertainty: `(turns, 3)`, standard deviations in label units, at least 0.
        speakers: a name per turn; None means one speaker.

    Returns:
        `(turns,)`; a speaker's first turn is never sharp.

    Example:
        >>> doubt = [[.1, .1, .1]] * 3
        >>> sharp_turns([[.2, 0, 0], [.1, 0, 0], [-.3, .2, 0]], doubt).tolist()
        [False, False, True]
    """
    points = _array("pad", pad, ("turns", 3))
    names = [""] * len(points) if speakers is None else _labels("speakers", speakers, len(points))
    sharp = np.zeros(len(points), dtype=bool)
    if uncertainty is None:
        return sharp
    doubt = _array("uncertainty", uncertainty, (len(points), 3), low=0)
    last: dict[str, int] = {}
    for turn, name in enumerate(names):
        if name in last:
            before = last[name]
            change = (points[turn, :2] - points[before, :2]) * (-1, 1)
            if (change > 0).all():
                # A tiny floor: without any doubt, every change is beyond it.
                deviations = change / np.maximum(np.hypot(doubt[turn, :2], doubt[before, :2]), 1e-12)
                sharp[turn] = deviations.sum() / np.sqrt(2) > 2
        last[name] = turn
    return sharp


def conversation_trajectory(
    pad: ArrayLike,
    uncertainty: ArrayLike | None = None,
    *,
    speakers: Sequence[str] | None = None,
    sharp: ArrayLike | None = None,
    value_range: tuple[float, float] = _RANGE,
    width: float = _WIDTH,
    subject: str | None = None,
) -> Figure:
    """PAD over the turns of a conversation, with uncertainty bands, the octant of each turn and the sharp turns.

    Args:
        pad: `(turns, 3)`.
        uncertainty: `(turns, 3)`, standard deviations in label units; the band is one sd to either side.
        speakers: a name per turn; each speaker has its own marker.
        sharp: `(turns,)` of booleans; None marks those of `sharp_turns`.
        value_range: lowest and highest possible label; the octants divide it in the middle (Mehrabian 1996).
        width: in inches, at least 3.5.

    Example:
        >>> figure = conversation_trajectory([[.2, 0, 0], [-.3, .2, -.1]], [[.1, .1, .1]] * 2)
        >>> figure.get_suptitle()
        'Conversation of 2 turns: from exuberant to anxious, 1 sharp turn'
    """
    points = _array("pad", pad, ("turns", 3))
    turns = len(points)
    bands = None if uncertainty is None else _array("uncertainty", uncertainty, (turns, 3), low=0)
    names = [""] * turns if speakers is None else [_shown(s, 18) for s in _labels("speakers", speakers, turns)]
    marked = (
        sharp_turns(points, bands, speakers)
        if sharp is None
        else _array("sharp", sharp, (turns,), low=0, high=1).astype(bool)
    )
    middle = sum(value_range) / 2
    names_of_octants = [name for name, _ in _OCTANTS]
    octant_rows = [names_of_octants.index(_octant_of(point, middle)) for point in points]
    first, last = (names_of_octants[octant_rows[i]] for i in (0, -1))
    count = int(marked.sum())
    title = f"Conversation of {turns} turns: from {first} to {last}, {count or 'no'} sharp turn{'s'[: count != 1]}"
    if turns == 1:
        title = f"Conversation of one turn: {first}"
    figure = _new_figure(8.2, title, subject, width=_wide_enough(width))
    panels = figure.subplots(4, 1, sharex=True, height_ratios=[1, 1, 1, 1.35])
    x = np.arange(1, turns + 1)
    people = list(dict.fromkeys(names))
    shapes = "os^DvPX*<>"
    for axes, name, column, (colour, _, _) in zip(panels, _DIMENSIONS, range(3), _DIMENSION_STYLES, strict=False):
        values = points[:, column]
        lows, highs = values, values
        if bands is not None:
            lows, highs = values - bands[:, column], values + bands[:, column]
            axes.fill_between(x, lows, highs, color=colour, alpha=0.18, linewidth=0)
        axes.axhline(middle, color=GREY, linewidth=0.8)
        axes.plot(x, values, color=colour, linewidth=1.6)
        for number, person in enumerate(people):
            own = np.array([n == person for n in names])
            axes.plot(x[own], values[own], shapes[number % len(shapes)], color=colour, markersize=6)
        low, high = _limits(lows, highs, np.array([middle]), floor=0.3)
        axes.set_ylim(low, high)
        _style(axes, xlabel="", ylabel=f"{name}\n({_span(value_range)})")
    strip = panels[3]
    strip.plot(x, octant_rows, color=GREY, linewidth=0.8, zorder=1)
    for number, person in enumerate(people):
        own = np.array([n == person for n in names])
        strip.scatter(
            x[own], np.array(octant_rows)[own], marker=shapes[number % len(shapes)], s=48, color=BLACK, zorder=2
        )
    strip.set_yticks(range(8), [f"{name} ({signs.replace('-', MINUS)})" for name, signs in _OCTANTS])
    strip.set_ylim(7.5, -0.5)
    _style(strip, xlabel="turn", ylabel="octant (signs of P, A, D)")
    strip.tick_params(axis="y", labelsize=8.5)
    for axes in panels:
        for turn in x[marked]:
            axes.axvline(turn, color=VERMILLION, linestyle=":", linewidth=1.6, zorder=0)
    _whole_ticks(strip, turns)
    strip.set_xlim(0.5, turns + 0.5)
    figure.align_ylabels(list(panels[:3]))

    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Line2D([], [], color=BLACK, marker=shapes[number % len(shapes)], linestyle="", label=person)
        for number, person in enumerate(people[:10])
        if person
    ]
    if bands is not None:
        handles.append(Patch(color=GREY, alpha=0.25, label="± 1 predicted sd"))
    if count:
        handles.append(Line2D([], [], color=VERMILLION, linestyle=":", label="sharp turn"))
    if handles:
        columns = min(int(width / 1.6), len(handles))
        _plain(figure.legend(handles=handles, fontsize=9.5, frameon=False, loc="outside lower center", ncols=columns))
    return figure


# -------------------------------------------------------------------------------------------------- comparing systems


_LINES = tuple(
    (colour, marker, dashes)
    for dashes in ("-", "--", "-.")
    for colour, marker in zip((BLUE, VERMILLION, GREEN, BLACK, PURPLE, ORANGE, SKY), "os^DvPX", strict=True)
)


def probe_curves(
    r: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    encoders: Sequence[str],
    *,
    subject: str | None = None,
) -> Figure:
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
    values = _array("r", r, ("encoders", "layers", 3), low=-1, high=1, gaps=beyond)
    lows = _array("low", low, values.shape, low=-1, high=1, gaps=beyond)
    highs = _array("high", high, values.shape, low=-1, high=1, gaps=beyond)
    names = _labels("encoders", encoders, len(values))
    if len(names) > len(_LINES):
        raise ValueError(f"`encoders` may have at most {len(_LINES)} names in one figure, got {len(names)}.")
    absent = np.any(np.all(np.isnan(values), axis=1), axis=1)
    if absent.any():
        raise ValueError(f"`r` has no layer at all for {names[int(absent.argmax())]!r}.")
    mean = values.mean(axis=2)
    top = np.unravel_index(np.nanargmax(mean), mean.shape)
    where = f"{_shown(names[top[0]].rpartition('/')[2], 28)}, layer {top[1]}"
    title = f"PAD read from each layer by a ridge: mean r at most {_number(mean[top])} ({where})"
    figure = _new_figure(4.2 + 0.2 * -(-len(names) // 2), title, subject)
    panels = figure.subplots(1, 3, sharey=True)
    layers = np.arange(values.shape[1])
    for column, (axes, dimension) in enumerate(zip(panels, _DIMENSIONS, strict=True)):
        for row, (name, (colour, marker, dashes)) in enumerate(zip(names, _LINES, strict=False)):
            own = values[row, :, column]
            ends = lows[row, :, column], highs[row, :, column]
            axes.fill_between(layers, *ends, color=colour, alpha=0.18, linewidth=0)
            line = {"color": colour, "linestyle": dashes, "marker": marker, "markersize": 4.5, "linewidth": 1.6}
            axes.plot(layers, own, label=_shown(name, 44), **line)
            best = int(np.nanargmax(own))
            axes.plot(best, own[best], "o", markersize=11, fillstyle="none", color=colour)
        axes.set_xticks(_evenly(len(layers), 8))
        _style(axes, xlabel="layer (0: embedding)", ylabel="", title=dimension)
    panels[0].set_ylabel("cross-validated Pearson r (no unit)", fontsize=10)
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        *panels[0].get_legend_handles_labels()[0],
        Patch(color=GREY, alpha=0.25, label="95% interval"),
        Line2D([], [], color=GREY, marker="o", markersize=11, fillstyle="none", linestyle="", label="best layer"),
    ]
    _plain(figure.legend(handles=handles, fontsize=9.5, frameon=False, loc="outside lower center", ncols=2))
    return figure


def phrase_map(
    points: ArrayLike,
    phrases: Sequence[str],
    encoders: Sequence[str],
    *,
    value_range: tuple[float, float] = _RANGE,
    subject: str | None = None,
) -> Figure:
    """Where several encoders place the same phrases in the plane of pleasure and arousal.

    Each encoder has its own marker, with the phrase's number in it; a thin line joins what is the same phrase.

    Args:
        points: `(encoders, phrases, 3)`, PAD in label units.
        phrases: a text per phrase, at most 24.
        encoders: a name per encoder, at most 7.
        value_range: lowest and highest possible label.

    Example:
        >>> figure = phrase_map([[[.3, .2, .1], [-.4, .1, 0]]], ["Hooray!", "Oh no."], ["MiniLM"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['1', '2']
    """
    places = _array("points", points, ("encoders", "phrases", 3))
    names = _labels("encoders", encoders, len(places))
    texts = _labels("phrases", phrases, places.shape[1])
    for argument, given, most in (("encoders", names, 7), ("phrases", texts, 24)):
        if len(given) > most:
            raise ValueError(f"`{argument}` may have at most {most} in one figure, got {len(given)}.")
    title = f"Where {'one encoder places' if len(names) == 1 else f'{len(names)} encoders place'} the same phrases"
    figure = _new_figure(max(5.2, 1.9 + 0.28 * len(texts) + 0.25 * len(names)), title, subject)
    left, right = figure.subplots(1, 2, width_ratios=[1.55, 1])
    middle = sum(value_range) / 2
    left.axhline(middle, color=GREY, linewidth=0.8, zorder=0)
    left.axvline(middle, color=GREY, linewidth=0.8, zorder=0)
    for phrase in range(len(texts)):
        left.plot(places[:, phrase, 0], places[:, phrase, 1], color=GREY, linewidth=0.8, alpha=0.6, zorder=1)
    for own, name, (colour, marker, _) in zip(places, names, _LINES, strict=False):
        left.scatter(own[:, 0], own[:, 1], s=200, marker=marker, color=colour, linewidth=0, label=name, zorder=2)
        dark = colour not in (ORANGE, SKY, PURPLE)
        for number, (pleasure, arousal, _) in enumerate(own, start=1):
            text = {"fontsize": 8, "color": "white" if dark else "black", "zorder": 3}
            left.text(pleasure, arousal, str(number), ha="center", va="center_baseline", **text)
    for setter, column in ((left.set_xlim, 0), (left.set_ylim, 1)):
        low, high = _limits(places[:, :, column], np.array([middle]), floor=0.2)
        setter(low - 0.04 * (high - low), high + 0.04 * (high - low))
    _style(left, xlabel=f"pleasure ({_span(value_range)})", ylabel=f"arousal ({_span(value_range)})")
    right.set_axis_off()
    style: dict[str, Any] = {"va": "top", "fontsize": 9.5, "linespacing": 1.7, "parse_math": False}
    numbers = "\n".join(str(number + 1) for number in range(len(texts)))
    right.text(0.06, 1, numbers, ha="right", transform=right.transAxes, **style)
    right.text(0.1, 1, "\n".join(_shown(text, 34) for text in texts), transform=right.transAxes, **style)
    handles, _ = left.get_legend_handles_labels()
    shown = [_shown(name, 44) for name in names]
    legend = figure.legend(handles, shown, fontsize=9.5, frameon=False, loc="outside lower center", ncols=2)
    for handle in legend.legend_handles:
        handle.set_sizes([70])  # type: ignore[attr-defined]
    _plain(legend)
    return figure


def results_bars(
    names: Sequence[str],
    values: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    *,
    references: Mapping[str, float] | None = None,
    metric: str = "mean Pearson r",
    subject: str | None = None,
) -> Figure:
    """Systems side by side: a bar with its interval each, and lines for what to compare them with.

    Args:
        names: a name per system, drawn from top to bottom.
        values, low, high: `(systems,)`, the metric and its interval (`low <= value <= high`); NaN for both ends of an
            unknown interval.
        references: name to value, such as {"constant": 0, "ridge": .469, "human ceiling": .75}.
        metric: what is measured, for the axis.

    Example:
        >>> figure = results_bars(["ours"], [.55], [.53], [.57], references={"human ceiling": .75})
        >>> float(figure.axes[0].patches[0].get_width())
        0.55
    """
    value = _array("values", values, ("systems",))
    labels = _labels("names", names, len(value))
    lower = _array("low", low, (len(value),), gaps="an unknown interval")
    upper = _array("high", high, (len(value),), gaps="an unknown interval")
    crossed = (lower > value) | (upper < value)
    if crossed.any():
        i = int(crossed.argmax())
        raise ValueError(f"low <= value <= high must hold; {labels[i]!r} has {lower[i]:g}, {value[i]:g}, {upper[i]:g}.")
    lines = {name: float(v) for name, v in (references or {}).items()}
    if not np.isfinite(list(lines.values())).all():
        raise ValueError(f"`references` must be finite numbers, got {lines}.")
    best = int(value.argmax())
    name = _shown(metric, 30)
    title = f"{name[:1].upper()}{name[1:]} of {len(value)} systems: highest, {_number(value[best])}, "
    title += _shown(labels[best], 36)
    figure = _new_figure(1.9 + 0.36 * len(value) + 0.2 * len(lines), title, subject)
    axes = figure.subplots()
    y = np.arange(len(value))
    colours = [BLUE if i == best else SKY for i in y]
    axes.barh(y, value, color=colours, height=0.66)
    room = np.nan_to_num(np.maximum([value - lower, upper - value], 0))
    known = np.isfinite(lower) & np.isfinite(upper)
    if known.any():
        axes.errorbar(value[known], y[known], xerr=room[:, known], fmt="none", ecolor=BLACK, capsize=3, linewidth=1.2)
    everything = np.concatenate([value, np.nan_to_num(lower), np.nan_to_num(upper), list(lines.values()), [0.0]])
    ends = (everything.min(), everything.max())
    width = (ends[1] - ends[0]) or 1.0
    backing = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}
    for i, v in enumerate(value):
        beside = (upper[i] if known[i] else v) if v >= 0 else 0.0
        axes.text(
            max(beside, 0) + 0.012 * width, i, f"{v:.3f}".replace("-", MINUS), va="center", fontsize=9, bbox=backing
        )
    styles = ((GREY, ":"), (VERMILLION, "--"), (GREEN, "-."), (PURPLE, "-"), (ORANGE, ":"), (BLACK, "--"))
    for number, (name, at) in enumerate(lines.items()):
        colour, dashes = styles[number % len(styles)]
        label = f"{_shown(name, 40)}: {at:.3f}".replace("-", MINUS)
        axes.axvline(at, color=colour, linestyle=dashes, linewidth=1.8, label=label)
    axes.set_yticks(y, [_shown(name, 44) for name in labels], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(ends[0] - (0.03 * width if ends[0] < 0 else 0), ends[1] + 0.1 * width)
    interval = "; whisker: 95% interval" if known.any() else ""
    _style(axes, xlabel=f"{_shown(metric, 40)} (no unit{interval})", ylabel="", grid="x")
    if lines:
        _plain(figure.legend(fontsize=9.5, frameon=False, loc="outside lower center", ncols=min(3, len(lines))))
    return figure


# -------------------------------------------------------------------------------------------------- the architecture


def architecture(
    encoder: str = "any Hugging Face encoder",
    *,
    latent_size: int | str = "d",
    num_outer_steps: int | str = "K",
    num_inner_steps: int | str = "n",
    subject: str | None = None,
) -> Figure:
    """The data flow of the model (head v7): from a text to PAD through K refinements of the answer.

    Args:
        encoder: name of the encoder.
        latent_size, num_outer_steps, num_inner_steps: numbers, or letters for the general picture.

    Example:
        >>> figure = architecture("MiniLM", latent_size=128, num_outer_steps=5, num_inner_steps=1)
        >>> any("5 times" in text.get_text() for text in figure.axes[0].texts)
        True
    """
    if not str(encoder).strip():
        raise ValueError("`encoder` is empty. Give its name, such as 'all-MiniLM-L6-v2'.")
    d, outer, inner = (_shown(v, 8) for v in (latent_size, num_outer_steps, num_inner_steps))
    repeats = "once" if inner == "1" else f"{inner} times"
    figure = _new_figure(
        6.6, "How a text becomes pleasure, arousal and dominance: a recursive head on an encoder", subject
    )
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    axes = figure.subplots()
    axes.set(xlim=(0, 160), ylim=(0, 118), aspect="equal")
    axes.set_axis_off()

    def box(x: float, y: float, width: float, height: float, text: str, colour: str, *, size: float = 9) -> None:
        patch = FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=1.6",
            facecolor=colour,
            edgecolor=BLACK,
            linewidth=1,
        )
        axes.add_patch(patch)
        axes.text(
            x + width / 2,
            y + height / 2,
            text,
            ha="center",
            va="center",
            fontsize=size,
            linespacing=1.25,
            parse_math=False,
        )

    def arrow(*points: tuple[float, float], colour: str = BLACK, line: str = "-") -> None:
        for start, end in pairwise(points[:-1]):
            axes.plot(
                *zip(start, end, strict=True), color=colour, linestyle=line, linewidth=1.3, solid_capstyle="round"
            )
        axes.add_patch(
            FancyArrowPatch(
                points[-2],
                points[-1],
                arrowstyle="-|>",
                mutation_scale=11,
                color=colour,
                linestyle=line,
                linewidth=1.3,
                shrinkA=0,
                shrinkB=0,
            )
        )

    def note(x: float, y: float, text: str, *, colour: str = BLACK, align: str = "center") -> None:
        axes.text(x, y, text, fontsize=8.5, color=colour, ha=align, va="center", parse_math=False)

    pale_blue, pale_orange, pale_green, pale_purple, pale_yellow = "#D6E9F5", "#FBE7C2", "#CDEBE1", "#F3DFEA", "#FBF7CF"
    # The way in.
    entrance = (
        (0, 17, "text"),
        (23, 25, "tokenizer"),
        (54, 38, f"encoder\n{_shown(encoder, 24)}"),
        (98, 26, "pooler\nlast / mix / all layers"),
        (130, 30, f"projection\nx: (batch, {d})"),
    )
    for x, width, text in entrance:
        box(x, 103, width, 13, text, "white" if text == "text" else pale_blue, size=8.6)
    for (x, width, _), (following, _, _) in pairwise(entrance):
        arrow((x + width, 109.5), (following, 109.5))
    # The loop.
    axes.add_patch(
        FancyBboxPatch(
            (20, 27),
            120,
            66,
            boxstyle="round,pad=0,rounding_size=3",
            facecolor="#F8F8F8",
            edgecolor=GREY,
            linestyle="--",
        )
    )
    note(80, 90, f"outer loop, {outer} times: latent z and answer y start at 0", colour=BLACK)
    top, bottom, height = 63, 34, 19
    box(24, top, 33, height, f"inner loop, {repeats}\nrefine z from\nx, y, z, s, tokens", pale_orange)
    box(65, top, 30, height, "self-affect\nlast PAD moves z;\nconfidence c", pale_orange)
    box(103, top, 33, height, "history attention\nz looks back at the\nz of earlier steps", pale_orange)
    box(103, bottom, 33, height, "SoulKernel\nbonds z with the\nturns before", pale_purple)
    box(65, bottom, 30, height, "answer\ny ← y + 0.4·f(y, z)\nPAD = g(y, z)", pale_green)
    box(24, bottom, 33, height, "RINSE\ns, a reflection on\nz, PAD and c", pale_orange)
    middle_top, middle_bottom = top + height / 2, bottom + height / 2
    arrow((57, middle_top), (65, middle_top))
    arrow((95, middle_top), (103, middle_top))
    arrow((119.5, top), (119.5, bottom + height))
    arrow((103, middle_bottom), (95, middle_bottom))
    arrow((65, middle_bottom), (57, middle_bottom))
    arrow((40.5, bottom + height), (40.5, top))
    note(39, 58, "next step: s", align="right")
    arrow((80, bottom + height), (80, top), colour=VERMILLION, line="--")
    note(81.5, 58, "PAD, no gradient", colour=VERMILLION, align="left")
    # x into every step, the memory.
    arrow((145, 103), (145, 98), (40.5, 98), (40.5, top + height))
    note(90, 95.6, "x, into every step")
    box(144, bottom + 1, 16, height - 2, "memory\nof earlier\nturns", pale_purple, size=8.6)
    arrow((144, middle_bottom + 3), (136, middle_bottom + 3), colour=PURPLE)
    arrow((136, middle_bottom - 4), (144, middle_bottom - 4), colour=PURPLE)
    # The way out.
    quarter = str(latent_size // 4) if isinstance(latent_size, int) else f"{d}/4"
    exits = (
        (0, 30, "logits (batch, 3)\npleasure, arousal,\ndominance"),
        (32, 25, "uncertainty\n(batch, 3), an sd\nin label units"),
        (59, 25, f"pad_trajectory\n(batch, {outer}, 3)\nPAD by step"),
        (86, 21, f"confidences\n(batch, {outer})\nin 0 to 1"),
        (109, 27, f"step_attentions\n(batch, {outer}, {outer})\nfrom history"),
        (138, 22, f"reflection\n(batch, {quarter})\nfrom RINSE"),
    )
    for x, width, text in exits:
        box(x, 1, width, 16, text, pale_yellow, size=8.6)
        arrow((80, 27), (80, 22), (x + width / 2, 22), (x + width / 2, 17))
    return figure
