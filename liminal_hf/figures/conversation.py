"""Figures of what is read turn by turn: a conversation, and one text refined step by step.

Requires numpy; the figures need matplotlib (`pip install 'liminal_hf[plot]'`). `targets` are the T names,
`value_range` is the lowest and the highest possible label, `subject` the second line of the title.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..modeling.configuration_liminal import DIMENSIONS
from ..modeling.errors import LiminalError
from .style import (
    BLACK,
    GREY,
    MARKERS,
    MINUS,
    RANGE,
    VERMILLION,
    WIDTH,
    Range,
    check,
    check_names,
    count_of,
    legend_below,
    limits,
    line_styles,
    new_figure,
    one_line,
    positions,
    span,
    style,
    whole_ticks,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .files import Predictions

_MOST_ROWS = 100


def one_conversation(rows: "Predictions", name: str, source: str) -> dict[str, Any]:
    """The rows of one conversation in the order of their turns, as arguments of `conversation_trajectory`.

    Args:
        rows: of one or of several conversations.
        name: which one; "" where there is only one.
        source: the file's name, for the messages.

    Raises:
        LiminalError: there are several and none of that name, or the rows don't look like a conversation.
    """
    labels = rows.labels or {}
    ids = [str(value) for value in labels.get("conversation", [""] * len(rows.predicted))]
    names = list(dict.fromkeys(ids))
    if name not in names:
        if name or len(names) > 1:
            some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise LiminalError(f"{source} holds {len(names)} conversations: {some}. Pick one: '{source}#{names[0]}'")
        name = names[0]
    index = np.array([row for row, value in enumerate(ids) if value == name])
    if not {"conversation", "speaker", "turn"} & set(labels) and len(index) > _MOST_ROWS:
        raise LiminalError(
            f"{source} has {len(index)} rows and no column conversation, speaker or turn, so it does not look like a "
            "conversation. All its rows at once: liminal plot pad-distributions, or liminal plot plane."
        )
    if "turn" in labels:
        from .files import numbers

        turns = numbers(labels, ["turn"], source)[:, 0]
        index = index[np.argsort(turns[index], kind="stable")]
    speakers = labels.get("speaker")
    return {
        "pad": rows.predicted[index],
        "uncertainty": None if rows.uncertainty is None else rows.uncertainty[index],
        "speakers": None if speakers is None else [str(speakers[row]) for row in index],
        "targets": rows.targets,
    }


def sharp_turns(
    pad: ArrayLike,
    uncertainty: ArrayLike | None = None,
    speakers: Sequence[str] | None = None,
    *,
    targets: Sequence[str] = DIMENSIONS,
) -> NDArray[np.bool_]:
    """Which turns escalate against the same speaker's last one, by the rule of `liminal chat`.

    Args:
        pad: `(turns, T)`.
        uncertainty: `(turns, T)`, standard deviations in label units, at least 0; without it no turn can be judged.
        speakers: a name per turn; None means one speaker.
        targets: T names; without pleasure (or valence) and arousal no turn can be judged.

    Returns:
        `(turns,)`; a speaker's first turn is never sharp.

    Example:
        >>> doubt = [[.1, .1, .1]] * 3
        >>> sharp_turns([[.2, 0, 0], [.1, 0, 0], [-.3, .2, 0]], doubt).tolist()
        [False, False, True]
    """
    from ..chat import sharp_turn

    points = check("pad", pad, ("turns", len(targets)))
    names = [""] * len(points) if speakers is None else check_names("speakers", speakers, len(points))
    sharp = np.zeros(len(points), dtype=bool)
    found = positions(targets)
    if uncertainty is None or found is None:
        return sharp
    # Never zero: without any doubt every change is beyond it.
    doubt = np.maximum(check("uncertainty", uncertainty, points.shape, low=0), 1e-12)
    doubt, points = doubt[:, list(found)], points[:, list(found)]
    last: dict[str, dict[str, Any]] = {}
    for turn, name in enumerate(names):
        pad_of, doubt_of = (dict(zip(DIMENSIONS, values[turn], strict=True)) for values in (points, doubt))
        row = {**pad_of, "uncertainty": doubt_of}
        sharp[turn] = name in last and sharp_turn(last[name], row)
        last[name] = row
    return sharp


def conversation_trajectory(
    pad: ArrayLike,
    uncertainty: ArrayLike | None = None,
    *,
    speakers: Sequence[str] | None = None,
    sharp: ArrayLike | None = None,
    targets: Sequence[str] = DIMENSIONS,
    value_range: Range = RANGE,
    width: float = WIDTH,
    subject: str | None = None,
) -> "Figure":
    """The targets over the turns of a conversation, with uncertainty, the octant of each turn and the sharp turns.

    A line joins the turns of one speaker. All panels have the same scale.

    Args:
        pad: `(turns, T)`.
        uncertainty: `(turns, T)`, standard deviations in label units; a whisker is one sd to either side.
        speakers: a name per turn; each speaker has its own marker.
        sharp: `(turns,)` of booleans; None marks those of `sharp_turns`.
        targets: T names; octants need pleasure (or valence), arousal and dominance among them.
        value_range: lowest and highest possible label; the octants divide it in the middle (Mehrabian 1996).
        width: in inches, 3.5..20.

    Example:
        >>> figure = conversation_trajectory([[.2, 0, 0], [-.3, .2, -.1]], [[.1, .1, .1]] * 2)
        >>> figure.get_suptitle()
        'Conversation of 2 turns: from exuberant to anxious, 1 sharp turn'
    """
    points = check("pad", pad, ("turns", len(targets)))
    turns = len(points)
    doubt = None if uncertainty is None else check("uncertainty", uncertainty, points.shape, low=0)
    names = [""] * turns if speakers is None else [one_line(s, 18) for s in check_names("speakers", speakers, turns)]
    marked = (
        sharp_turns(points, doubt, speakers, targets=targets)
        if sharp is None
        else check("sharp", sharp, (turns,), low=0, high=1).astype(bool)
    )
    middle = sum(value_range) / 2
    found = positions(targets)
    octants = [] if found is None else _octant_rows(points[:, list(found)], middle)
    title = f"Conversation of {count_of(turns, 'turn')}"
    if octants:
        first, last = (_octant_names()[row][0] for row in (octants[0], octants[-1]))
        title += f": {first}" if turns == 1 else f": from {first} to {last}"
    if turns > 1 and found is not None:
        count = int(marked.sum())
        title += f", {count or 'no'} sharp turn{'s'[: count != 1]}"
    heights = [1.0] * len(targets) + ([1.35] if octants else [])
    figure = new_figure(1.2 + 1.6 * sum(heights), title, subject, width=width)
    panels = list(np.ravel(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)))
    x = np.arange(1, turns + 1)
    people = list(dict.fromkeys(names))
    own = {person: np.array([name == person for name in names]) for person in people}
    spread = 0.0 if doubt is None else doubt
    low, high = limits(points - spread, points + spread, [middle], floor=0.3)
    for column, (axes, name, (colour, _, _)) in enumerate(
        zip(panels, targets, line_styles(len(targets)), strict=False)
    ):
        axes.axhline(middle, color=GREY, linewidth=0.8)
        for index, person in enumerate(people):
            turns_of, values = x[own[person]], points[own[person], column]
            bars = None if doubt is None else doubt[own[person], column]
            line = {"color": colour, "linewidth": 1.4, "markersize": 6, **_look_of(index)}
            axes.errorbar(turns_of, values, yerr=bars, elinewidth=0.9, capsize=2, **line)
        axes.set_ylim(low, high)
        style(axes, xlabel="", ylabel=f"{name}\n({span(value_range)})")
    if octants:
        strip = panels[-1]
        for index, person in enumerate(people):
            rows = np.array(octants)[own[person]]
            strip.scatter(x[own[person]], rows, marker=MARKERS[index % len(MARKERS)], s=48, color=BLACK)
        strip.set_yticks(range(8), [f"{name} ({signs})" for name, signs in _octant_names()])
        strip.set_ylim(7.5, -0.5)
        style(strip, xlabel="", ylabel="octant (signs of P, A, D)")
        strip.tick_params(axis="y", labelsize=8.5)
    for axes in panels:
        for turn in x[marked]:
            axes.axvline(turn, color=VERMILLION, linestyle=":", linewidth=1.6, zorder=0)
    panels[-1].set_xlabel("turn", fontsize=10)
    whole_ticks(panels[-1], turns)
    panels[-1].set_xlim(0.5, turns + 0.5)
    figure.align_ylabels(panels[: len(targets)])

    from matplotlib.lines import Line2D

    handles: list[Any] = [
        Line2D(
            [], [], color=BLACK, marker=MARKERS[i % len(MARKERS)], linestyle=("-", "--", "-.", ":")[i % 4], label=person
        )
        for i, person in enumerate(people[:10])
        if person
    ]
    if doubt is not None:
        handles.append(Line2D([], [], color=GREY, marker="|", markersize=12, linestyle="", label="± 1 predicted sd"))
    if marked.any():
        words = "sharp turn: pleasure falls, arousal rises"
        handles.append(Line2D([], [], color=VERMILLION, linestyle=":", label=words))
    legend_below(figure, handles, columns=max(1, int(width / 2.2)))
    return figure


def _look_of(index: int) -> dict[str, Any]:
    """The marker and the line of a speaker."""
    return {"marker": MARKERS[index % len(MARKERS)], "linestyle": ("-", "--", "-.", ":")[index % 4]}


def _octant_names() -> list[tuple[str, str]]:
    """The octants from the pleasant ones down, each with its signs."""
    from ..modeling.pipeline_liminal import OCTANTS

    return [(name, "".join("+" if high else MINUS for high in signs)) for signs, name in OCTANTS.items()]


def _octant_rows(points: NDArray[np.float64], middle: float) -> list[int]:
    """The row of each turn's octant in `_octant_names`."""
    from ..modeling.pipeline_liminal import octant

    names = [name for name, _ in _octant_names()]
    return [names.index(octant(point.tolist(), middle)) for point in points]


def refinement(
    trajectory: ArrayLike,
    *,
    uncertainty: ArrayLike | None = None,
    targets: Sequence[str] = DIMENSIONS,
    value_range: Range = RANGE,
    width: float = WIDTH,
    subject: str | None = None,
) -> "Figure":
    """How one text is read: the answer after each refinement step, and the uncertainty of the last.

    Args:
        trajectory: `(K, T)`, the answer after each step (`pad_trajectory` of the model).
        uncertainty: `(T,)`, standard deviations of the last answer, drawn as whiskers there.
        width: in inches, 3.5..20.

    Example:
        >>> refinement([[.1, 0, 0], [.2, .1, 0]]).get_suptitle()
        'One text in 2 refinement steps'
    """
    points = check("trajectory", trajectory, ("K", len(targets)))
    doubt = None if uncertainty is None else check("uncertainty", uncertainty, (len(targets),), low=0)
    steps = len(points)
    figure = new_figure(3.9, f"One text in {count_of(steps, 'refinement step')}", subject, width=width)
    axes = figure.subplots()
    x = np.arange(1, steps + 1)
    for column, (name, (colour, marker, dashes)) in enumerate(zip(targets, line_styles(len(targets)), strict=True)):
        axes.plot(x, points[:, column], color=colour, marker=marker, linestyle=dashes, linewidth=1.8, label=name)
        if doubt is not None:
            # Side by side, so that one does not hide another.
            at = steps + 0.25 + 0.17 * column
            axes.errorbar(at, points[-1, column], yerr=doubt[column], color=colour, marker=marker, capsize=3)
    middle = sum(value_range) / 2
    axes.axhline(middle, color=GREY, linewidth=0.8)
    ends = points if doubt is None else np.concatenate([points, points[-1:] - doubt, points[-1:] + doubt])
    axes.set_ylim(*limits(ends, [middle], floor=0.4))
    beside = "" if doubt is None else "\n(whiskers at the end: ± 1 predicted sd)"
    style(axes, xlabel=f"refinement step k{beside}", ylabel=f"prediction ({span(value_range)})")
    whole_ticks(axes, steps)
    axes.set_xlim(0.6, steps + 0.4 + (0 if doubt is None else 0.17 * len(targets)))
    legend_below(figure, axes.get_legend_handles_labels()[0])
    return figure
