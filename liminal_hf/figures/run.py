"""Figures of a training run: its log, the curves of its losses, and the run that breathes.

Requires numpy and pandas; the figures need matplotlib, the GIF also pillow (`pip install 'liminal_hf[plot]'`).
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..modeling.errors import LiminalError
from . import style as st
from .style import Array

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.figure import Figure

LOG_COLUMNS = ("epoch", "train_loss", "validation_loss", "hope", "faith", "love", "learning_rate")
_VIRTUES = ("Hope: 1 - MAE", "Faith: √ mean confidence", "Love: e^(-MSE) · (1 - variance)")
_UNMEASURED = "not measured at that epoch"


def read_log(source: str | Path) -> dict[str, Array]:
    """The emotional log of a training run: a column per name in `LOG_COLUMNS`, NaN where not measured.

    Args:
        source: a run's folder (its `emotional_log.csv`, else the Trainer's `trainer_state.json`, also in the newest
            `checkpoint-*`), or one of these files.

    Raises:
        FileNotFoundError: there is neither.
        LiminalError: a column is missing, or a value is not a number.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "emotional_log.csv").write_text(",".join(LOG_COLUMNS) + "\\n1,.5,.4,.9,,.8,.001\\n")
        >>> read_log(folder)["validation_loss"].tolist(), read_log(folder)["faith"].tolist()
        ([0.4], [nan])
    """
    import pandas as pd

    path = _log_file(Path(source))
    try:
        if path.suffix == ".json":
            from ..training.callbacks import LOG_COLUMNS as WRITTEN_COLUMNS
            from ..training.callbacks import EmotionalLogCallback

            history = json.loads(path.read_text(encoding="utf-8"))["log_history"]
            table = pd.DataFrame(EmotionalLogCallback(path).rows(history), columns=WRITTEN_COLUMNS)
        else:
            table = pd.read_csv(path, encoding="utf-8")
        columns = table[[name for name in LOG_COLUMNS if name in table]].replace("", np.nan)
        log = {name: pd.to_numeric(column).to_numpy(np.float64) for name, column in columns.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise LiminalError(f"{path} is not the log of a training run: {error}") from error
    if missing := [name for name in LOG_COLUMNS if name not in log]:
        raise LiminalError(f"{path} has no column {missing[0]!r}. A log has: {', '.join(LOG_COLUMNS)}.")
    if not len(log["epoch"]):
        raise LiminalError(f"{path} holds no evaluation yet.")
    return log


def _log_file(path: Path) -> Path:
    """The file of a run that holds its log."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"There is no file or folder {path}. Give the folder of a training run.")
    checkpoints = sorted(path.glob("checkpoint-*"), key=lambda folder: int("0" + folder.name.rpartition("-")[2]))
    states = [folder / "trainer_state.json" for folder in (path, *reversed(checkpoints))]
    for candidate in (path / "emotional_log.csv", *states):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"{path} holds neither emotional_log.csv nor trainer_state.json. Give the folder of a training run "
        "(liminal train RECIPE -o FOLDER)."
    )


def _epochs(epochs: ArrayLike) -> Array:
    array = st.check("epochs", epochs, ("epochs",))
    if (np.diff(array) <= 0).any():
        raise LiminalError(f"`epochs` must rise from row to row, got {array.tolist()[:8]}.")
    return array


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
) -> "Figure":
    """Losses, Hope, Faith and Love, and the learning rate of a training run over its epochs.

    Args:
        epochs: `(epochs,)`, rising.
        train_loss, validation_loss, hope, faith, love, learning_rate: `(epochs,)`; NaN where not measured. Hope,
            Faith and Love lie in 0..1 (Hope = 1 - MAE, Faith = sqrt(mean confidence), Love = exp(-MSE) (1 - variance
            of the predictions)); the learning rate is not negative.
        subject: what was trained; the second line of the title.

    Raises:
        LiminalError: a wrong shape, an infinite value or one out of its range.

    Example:
        >>> figure = training_curves([1, 2], [.9, .5], [.8, .6], [.8, .9], [.7, .7], [.5, .6], [1e-3, 1e-4])
        >>> len(figure.axes)
        3
    """
    x = _epochs(epochs)
    train = st.check("train_loss", train_loss, (len(x),), gaps=_UNMEASURED)
    validation = st.check("validation_loss", validation_loss, (len(x),), gaps=_UNMEASURED)
    virtues = [
        st.check(name, values, (len(x),), low=0, high=1, gaps=_UNMEASURED)
        for name, values in (("hope", hope), ("faith", faith), ("love", love))
    ]
    rate = st.check("learning_rate", learning_rate, (len(x),), low=0, gaps=_UNMEASURED)

    title = f"Training over {x[-1]:g} epochs"
    best = None if np.isnan(validation).all() else int(np.nanargmin(validation))
    if best is not None:
        title += f": validation loss lowest, {validation[best]:.3g}, at epoch {x[best]:g}"
    figure = st.new_figure(7.5, title, subject)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.6])
    above: dict[str, Any] = {"fontsize": 9, "frameon": False, "ncols": 3, "loc": "lower right", "borderaxespad": 0}
    above["bbox_to_anchor"] = (1, 1)

    top.plot(x, train, color=st.BLUE, linestyle="--", marker="o", markersize=4, label="train")
    top.plot(x, validation, color=st.VERMILLION, marker="s", markersize=4, label="validation")
    if best is not None:
        ring = {"markersize": 13, "fillstyle": "none", "color": st.BLACK}
        top.plot(x[best], validation[best], "o", label="lowest validation", **ring)
    st.label_axes(top, xlabel="", ylabel="loss (no unit)")
    top.legend(**above)

    names = (
        f"Hope: 1 {st.MINUS} MAE",
        "Faith: √ mean confidence",
        f"Love: e^({st.MINUS}MSE) · (1 {st.MINUS} variance)",
    )
    for values, name, (colour, marker, line) in zip(virtues, names, st.line_styles(3), strict=True):
        label = f"{name} (not measured)" if np.isnan(values).all() else name
        middle.plot(x, values, color=colour, marker=marker, linestyle=line, markersize=4, label=label)
    st.label_axes(middle, xlabel="", ylabel="Hope, Faith, Love\n(no unit, in 0 to 1)")
    lowest = min((float(np.nanmin(values)) for values in virtues if not np.isnan(values).all()), default=0.0)
    middle.set_ylim(max(0.0, np.floor(10 * lowest - 0.5) / 10), 1.01)
    middle.legend(**above)

    bottom.plot(x, rate, color=st.PURPLE, marker="D", markersize=4)
    bottom.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    st.label_axes(bottom, xlabel="epoch", ylabel="learning rate\n(per step)")
    bottom.margins(x=0.02)
    figure.align_ylabels()
    return figure


def heartbeat(validation_loss: ArrayLike) -> Array:
    """Beats per minute of a training run: 60 + 80 |change of the validation loss| / its maximum. (LIMINAL Heartbeat)

    `(epochs,)` to `(epochs,)` in 60..140; the first epoch rests at 60, as does a run that never changes.

    Example:
        >>> heartbeat([1.0, 0.5, 0.25, 0.25]).tolist()
        [60.0, 140.0, 100.0, 60.0]
    """
    loss = st.check("validation_loss", validation_loss, ("epochs",))
    change = np.abs(np.diff(loss, prepend=loss[0]))
    return 60.0 + 80.0 * change / (change.max() or 1.0)


def breathing_animation(
    epochs: ArrayLike,
    train_loss: ArrayLike,
    validation_loss: ArrayLike,
    *,
    frames: int = 72,
    frames_per_second: int = 12,
    subject: str | None = None,
) -> "FuncAnimation":
    """A training run that breathes: a disc beats at the run's heartbeat while the losses are drawn.

    The disc's area follows the validation loss and beats at `heartbeat`'s rate in real time; the epochs pass evenly
    over the frames. Save it with `save_gif`, or show it in a notebook with `HTML(animation.to_jshtml())`.

    Args:
        epochs: `(epochs,)`, rising.
        train_loss: `(epochs,)`; NaN where not measured.
        validation_loss: `(epochs,)`, finite.
        frames: 2..600.
        frames_per_second: 8..50 (slower could not show 140 beats a minute).
        subject: what was trained.

    Example:
        >>> import tempfile, pathlib
        >>> animation = breathing_animation([1, 2, 3], [.9, .6, .5], [.8, .6, .55], frames=4)
        >>> path = save_gif(animation, pathlib.Path(tempfile.mkdtemp()) / "run.gif")
        >>> path.stat().st_size < 400_000
        True
    """
    x = _epochs(epochs)
    train = st.check("train_loss", train_loss, (len(x),), gaps=_UNMEASURED)
    validation = st.check("validation_loss", validation_loss, (len(x),))
    st.check_count("frames", frames, 2, 600)
    st.check_count("frames_per_second", frames_per_second, 8, 50)
    bpm = heartbeat(validation)

    figure = st.new_figure(4.2, "A training run breathes: its heartbeat follows the change of validation loss", subject)
    from matplotlib.animation import FuncAnimation
    from matplotlib.patches import Circle

    # A fixed layout: recomputed per frame it could make the picture tremble.
    figure.set_layout_engine("none")
    disc_axes = figure.add_axes((0.03, 0.06, 0.36, 0.72))
    loss_axes = figure.add_axes((0.49, 0.5, 0.49, 0.32))
    beat_axes = figure.add_axes((0.49, 0.14, 0.49, 0.24))
    disc_axes.set(xlim=(-1.1, 1.1), ylim=(-1.2, 1), aspect="equal")
    disc_axes.set_axis_off()
    disc_axes.add_patch(Circle((0, 0), 0.92, fill=False, linestyle=":", color=st.GREY))
    disc = Circle((0, 0), 0.5, facecolor=st.VERMILLION, edgecolor=st.BLACK)
    disc_axes.add_patch(disc)
    label = disc_axes.text(0, -1.2, "", ha="center", va="bottom", fontsize=11)
    (train_line,) = loss_axes.plot([], [], color=st.BLUE, linestyle="--", label="train")
    (validation_line,) = loss_axes.plot([], [], color=st.VERMILLION, label="validation")
    (beat_line,) = beat_axes.plot([], [], color=st.BLACK)
    (beat_dot,) = beat_axes.plot([], [], "o", color=st.VERMILLION)
    st.label_axes(loss_axes, xlabel="", ylabel="loss (no unit)")
    st.label_axes(beat_axes, xlabel="epoch", ylabel="beats per minute\n(60 to 140)")
    loss_axes.legend(fontsize=9, frameon=False, loc="upper right", ncols=2)
    ends = (x[0], x[-1]) if len(x) > 1 else (x[0] - 0.5, x[0] + 0.5)
    low, high = st.limits(train, validation, floor=1e-3)
    loss_axes.set(xlim=ends, ylim=(low, high + 0.15 * (high - low)))
    beat_axes.set(xlim=ends, ylim=(52, 148), yticks=[60, 100, 140])

    at = np.linspace(x[0], x[-1], frames)
    loss_at, bpm_at = np.interp(at, x, validation), np.interp(at, x, bpm)
    phase = np.concatenate([[0.0], np.cumsum(bpm_at[:-1] / 60 / frames_per_second)])
    smallest, largest = validation.min(), validation.max()
    share = (loss_at - smallest) / (largest - smallest) if largest > smallest else np.full(frames, 0.5)
    radius = np.sqrt(0.12 + 0.5 * share) * (1 + 0.08 * np.cos(2 * np.pi * phase))

    def draw(frame: int) -> list[Any]:
        past = x <= at[frame]
        path = np.append(x[past], at[frame])
        disc.set_radius(float(radius[frame]))
        label.set_text(f"epoch {at[frame]:.1f}   {bpm_at[frame]:.0f} bpm   loss {loss_at[frame]:.3f}")
        train_line.set_data(x[past], train[past])
        validation_line.set_data(path, np.append(validation[past], loss_at[frame]))
        beat_line.set_data(path, np.append(bpm[past], bpm_at[frame]))
        beat_dot.set_data([at[frame]], [bpm_at[frame]])
        return [disc, label, train_line, validation_line, beat_line, beat_dot]

    return FuncAnimation(figure, draw, frames=frames, interval=1000 / frames_per_second, cache_frame_data=False)


def save_gif(animation: "FuncAnimation", path: str | Path, *, frames_per_second: int = 12) -> Path:
    """Writes an animation as a GIF that repeats for ever, and returns its path.

    Example: see `breathing_animation`.
    """
    from PIL import Image, ImageSequence

    path = Path(path)
    animation.save(path, writer="pillow", fps=frames_per_second, dpi=100)
    with Image.open(path) as gif:
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(gif)]
    # One small palette for all frames makes the file less than half as large.
    palette = frames[-1].quantize(64)
    first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / frames_per_second), loop=0)
    return path
