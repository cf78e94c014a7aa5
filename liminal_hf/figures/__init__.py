"""Figures of runs, predictions, conversations and encoders: what `liminal plot` draws.

Requires numpy and pandas; the figures need matplotlib (`pip install 'liminal_hf[plot]'`). Each file holds the figures
of one subject and the reader of what they are drawn from.
"""

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..modeling.errors import LiminalError
from .conversation import conversation_trajectory, one_conversation, sharp_turns
from .encoders import phrase_map, probe_curves, read_probe
from .files import PREDICTION_FORMATS, Predictions, read_predictions, write_predictions
from .person import person_history
from .predictions import (
    emotional_field,
    pad_distributions,
    pleasure_arousal_plane,
    predicted_vs_gold,
    reliability,
    step_attention,
    steps_curve,
)
from .run import LOG_COLUMNS, breathing_animation, heartbeat, read_log, save_gif, training_curves
from .style import count_of
from .tables import group_means, means_over_time
from .timeline import sentence_timeline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..data.tables import TableSettings

__all__ = [
    "FIGURE_FORMATS", "KINDS", "LOG_COLUMNS", "PREDICTION_FORMATS", "Predictions", "breathing_animation",
    "conversation_trajectory", "emotional_field", "group_means", "heartbeat", "means_over_time", "pad_distributions",
    "person_history", "phrase_map", "pleasure_arousal_plane", "plot", "predicted_vs_gold", "probe_curves", "read_log",
    "read_predictions", "read_probe", "reliability", "save_figure", "save_gif", "sentence_timeline", "sharp_turns",
    "step_attention", "steps_curve", "training_curves", "write_predictions",
]  # fmt: skip

FIGURE_FORMATS = (".png", ".svg", ".pdf", ".jpg", ".webp")
_DOTS_PER_INCH = 200


class Kind(NamedTuple):
    """One kind of figure."""

    source: str  # what it is drawn from, in words
    draw: Callable[..., Any]
    parts: tuple[str, ...] = ()  # what of `Predictions` it takes; one with a question mark may be missing


_RUN = "a run's folder or its emotional_log.csv"
KINDS: Mapping[str, Kind] = {
    "training-curves": Kind(_RUN, training_curves),
    "breathing": Kind(f"{_RUN}; gives a GIF", breathing_animation),
    "emotional-field": Kind("predictions with labels", emotional_field, ("predicted", "gold")),
    "pad-distributions": Kind("predictions, with or without labels", pad_distributions, ("predicted", "gold?")),
    "plane": Kind("predictions of pleasure and arousal", pleasure_arousal_plane, ("predicted", "uncertainty?")),
    "predicted-vs-gold": Kind("predictions with labels", predicted_vs_gold, ("predicted", "gold")),
    "reliability": Kind("predictions with labels and uncertainty", reliability, ("predicted", "gold", "uncertainty")),
    "step-attention": Kind("predictions with step_attentions", step_attention, ("step_attentions",)),
    "steps-curve": Kind("predictions with labels and pad_trajectory", steps_curve, ("pad_trajectory", "gold")),
    "conversation": Kind("predictions of a conversation; FILE#NAME picks one of several", conversation_trajectory),
    "probe": Kind("the JSON that liminal probe -o writes", probe_curves),
}


def plot(
    kind: str,
    source: str | Path,
    output: str | Path,
    *,
    settings: "TableSettings | None" = None,
    labelled: bool = False,
    prefix: str = "",
) -> Path:
    """Draws a figure of what `source` holds and writes it to `output`; `liminal plot` calls it.

    Args:
        kind: a name in `KINDS`.
        source: a run's folder, a table of predictions, or "-", which reads JSON lines from stdin.
        output: where to. The ending says which format: .png (1600 px wide), .svg, .pdf, .jpg or .webp; .gif for
            "breathing".
        settings: how a table is written.
        labelled: the labels are the table's columns `settings.labels`, on the scale `settings.scale`.
        prefix: before the names of a table's columns with predictions.

    Returns:
        The path of the file.

    Raises:
        LiminalError: an unknown kind or ending, or a source without what the figure shows.
        FileNotFoundError: no such source.
        ImportError: matplotlib is missing.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> source = write_predictions(folder / "mine.jsonl", [[.2, 0, 0], [-.3, .2, -.1]])
        >>> plot("conversation", source, folder / "mine.png").stat().st_size > 10_000
        True
    """
    name = kind.replace("_", "-")
    name = f"pad-{name}" if f"pad-{name}" in KINDS else name
    if name not in KINDS:
        lines = "\n".join(f"  {known:<18} {entry.source}" for known, entry in KINDS.items())
        raise LiminalError(f"There is no figure {kind!r}. There are, with what they are drawn from:\n{lines}")
    path = checked_ending(output, name)
    picture = figure_of(name, source, settings=settings, labelled=labelled, prefix=prefix)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_gif(picture, path) if name == "breathing" else save_figure(picture, path)


def checked_ending(output: str | Path, name: str, option: str = "-o") -> Path:
    """The path of a figure, or an error where its ending is none that this kind of figure is written as."""
    path = Path(output)
    allowed = (".gif",) if name == "breathing" else FIGURE_FORMATS
    if path.suffix.lower() not in allowed:
        example = path.with_suffix(allowed[0]).name if path.name else f"{name}{allowed[0]}"
        raise LiminalError(
            f"{name} is written as {', '.join(allowed)}, not {path.name!r}. For example: {option} {example}"
        )
    return path


def save_figure(figure: "Figure", path: Path) -> Path:
    """Writes a figure in the format that the ending says; gives the path."""
    # To memory first: a figure that can't be drawn leaves no half-written file.
    buffer = BytesIO()
    figure.savefig(buffer, format=path.suffix.lower()[1:], dpi=_DOTS_PER_INCH)
    path.write_bytes(buffer.getvalue())
    return path


def figure_of(name: str, source: str | Path, **reading: Any) -> Any:
    """The figure, or for "breathing" the animation, of what `source` holds; `reading` is as in `read_predictions`."""
    draw, parts = KINDS[name].draw, KINDS[name].parts
    path, _, chosen = str(source).partition("#") if name == "conversation" else (str(source), "", "")
    subject = None if path == "-" else Path(path).name if Path(path).is_dir() else Path(path).stem
    if name in ("training-curves", "breathing"):
        columns = LOG_COLUMNS if name == "training-curves" else LOG_COLUMNS[:3]
        log = read_log(path)
        return draw(*(log[column] for column in columns), subject=subject)
    if name == "probe":
        return draw(*read_probe(path), subject=subject)
    rows = read_predictions(path, **reading)
    if rows.left_out:
        left_out = f"{count_of(rows.left_out, 'row')} without a prediction left out"
        subject = f"{subject}, {left_out}" if subject else left_out
    if name == "conversation":
        subject = " ".join(part for part in (subject, chosen) if part) or None
        return draw(**one_conversation(rows, chosen, path), subject=subject)
    for part in parts:
        if not part.endswith("?") and getattr(rows, part) is None:
            hint = " Name the columns that hold them: --labels V,A,D --scale LOW,HIGH" if part == "gold" else ""
            raise LiminalError(f"{path} has no {'labels' if part == 'gold' else part}, which {name} shows.{hint}")
    options = {} if name == "step-attention" else {"targets": rows.targets}
    return draw(*(getattr(rows, part.rstrip("?")) for part in parts), subject=subject, **options)
