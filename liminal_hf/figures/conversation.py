"""Figures of what is read turn by turn: a conversation, and one text refined step by step.

Requires numpy; the figures need matplotlib (`pip install 'liminal_hf[plot]'`). The options of a figure are
those of `style.Options`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..modeling.configuration_liminal import DIMENSIONS
from ..modeling.errors import LiminalError
from . import style as st

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .files import Predictions

_MOST_ROWS = 100


def one_conversation(rows: "Predictions", name: str, source: str) -> dict[str, Any]:
    """The rows of one conversation in the order of their turns, as arguments of `conversation_trajectory`.

    `name` says which one, "" where there is only one; `source` is the file, for the messages.
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
    from ..modeling.answers import NEUTRAL, OCTANTS

    speakers = labels.get("speaker")
    octants = [labels["octant"][row] for row in index] if "octant" in labels else []
    return {
        "pad": rows.predicted[index],
        "uncertainty": None if rows.uncertainty is None else rows.uncertainty[index],
        "speakers": None if speakers is None else [str(speakers[row]) for row in index],
        "octants": octants if octants and set(octants) <= {*OCTANTS.values(), NEUTRAL} else None,
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

    points = st.check("pad", pad, ("turns", len(targets)))
    names = [""] * len(points) if speakers is None else st.check_names("speakers", speakers, len(points))
    sharp = np.zeros(len(points), dtype=bool)
    found = st.positions(targets)
    if uncertainty is None or found is None:
        return sharp
    # Never zero: without any doubt every change is beyond it.
    doubt = np.maximum(st.check("uncertainty", uncertainty, points.shape, low=0), 1e-12)
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
    octants: Sequence[str] | None = None,
    width: float = st.WIDTH,
    **options: Unpack[st.Options],
) -> "Figure":
    """The targets over the turns of a conversation, with uncertainty, the octant of each turn and the sharp turns.

    A line joins the turns of one speaker. All panels have the same scale.

    Args:
        pad: `(turns, T)`.
        uncertainty: `(turns, T)`, standard deviations in label units; a whisker is one sd to either side.
        speakers: a name per turn; each speaker has its own marker.
        sharp: `(turns,)` of booleans; None marks those of `sharp_turns`.
        octants: a name per turn, as a row of `pipeline("pad-regression")` has it, "neutral" included; None goes by the
            signs of the values.
        width: in inches, 3.5..20.
        options: see `style.Options`. Octants need pleasure (or valence), arousal and dominance among the targets, and
            divide the value range in the middle (Mehrabian 1996).

    Example:
        >>> figure = conversation_trajectory([[.2, 0, 0], [-.3, .2, -.1]], [[.1, .1, .1]] * 2)
        >>> figure.get_suptitle()
        'Conversation of 2 turns: from exuberant to anxious, 1 sharp turn'
    """
    targets, value_range, subject = st.settled(**options)
    from ..modeling.pipeline_liminal import octant

    points = st.check("pad", pad, ("turns", len(targets)))
    turns = len(points)
    doubt = None if uncertainty is None else st.check("uncertainty", uncertainty, points.shape, low=0)
    speakers = [""] * turns if speakers is None else st.check_names("speakers", speakers, turns)
    names = [st.one_line(speaker, 18) for speaker in speakers]
    if sharp is None:
        marked = sharp_turns(points, doubt, speakers, targets=targets)
    else:
        marked = st.check("sharp", sharp, (turns,), low=0, high=1).astype(bool)
    middle = sum(value_range) / 2
    found = st.positions(targets)
    if found is None:
        octants = []
    else:
        signs = [octant(point.tolist(), middle) for point in points[:, list(found)]]
        octants = signs if octants is None else st.check_names("octants", octants, turns)
    title = f"Conversation of {st.count_of(turns, 'turn')}"
    if octants:
        title += f": {octants[0]}" if turns == 1 else f": from {octants[0]} to {octants[-1]}"
    if turns > 1 and found is not None:
        count = int(marked.sum())
        title += f", {count or 'no'} sharp turn{'s'[: count != 1]}"
    heights = [1.0] * len(targets) + ([1.35] if octants else [])
    figure = st.new_figure(1.2 + 1.6 * sum(heights), title, subject, width=width)
    panels = list(np.ravel(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)))
    x = np.arange(1, turns + 1)
    people = list(dict.fromkeys(names))
    own = {person: np.array([name == person for name in names]) for person in people}
    looks: dict[str, dict[str, Any]] = {
        person: {"marker": st.MARKERS[index % len(st.MARKERS)], "linestyle": ("-", "--", "-.", ":")[index % 4]}
        for index, person in enumerate(people)
    }
    spread = 0.0 if doubt is None else doubt
    low, high = st.limits(points - spread, points + spread, [middle], floor=0.3)
    colours = [colour for colour, *_ in st.line_styles(len(targets))]
    for column, (axes, name, colour) in enumerate(zip(panels, targets, colours, strict=False)):
        axes.axhline(middle, color=st.GREY, linewidth=0.8)
        for person, rows in own.items():
            bars = None if doubt is None else doubt[rows, column]
            line = {"color": colour, "linewidth": 1.4, "markersize": 6, **looks[person]}
            axes.errorbar(x[rows], points[rows, column], yerr=bars, elinewidth=0.9, capsize=2, **line)
        axes.set_ylim(low, high)
        st.label_axes(axes, xlabel="", ylabel=st.scale(name, value_range, "\n"))
    if octants:
        _octant_strip(panels[-1], x, octants, own, looks)
    for axes in panels:
        for turn in x[marked]:
            axes.axvline(turn, color=st.VERMILLION, linestyle=":", linewidth=1.6, zorder=0)
    panels[-1].set_xlabel("turn", fontsize=10)
    st.whole_ticks(panels[-1], turns)
    panels[-1].set_xlim(0.5, turns + 0.5)
    figure.align_ylabels(panels[: len(targets)])

    from matplotlib.lines import Line2D

    named = [person for person in people[:10] if person]
    handles = [Line2D([], [], color=st.BLACK, label=person, **looks[person]) for person in named]
    if doubt is not None:
        handles.append(Line2D([], [], color=st.GREY, marker="|", markersize=12, linestyle="", label="± 1 predicted sd"))
    if marked.any():
        words = "sharp turn: pleasure falls, arousal rises"
        handles.append(Line2D([], [], color=st.VERMILLION, linestyle=":", label=words))
    st.legend_below(panels[-1], *handles, columns=max(1, int(width / 2.2)))
    return figure


def _octant_strip(axes: Any, x: Any, octants: Sequence[str], own: dict[str, Any], looks: dict[str, Any]) -> None:
    """The octant of each turn; a name that is no octant (neutral) has its own row, in the middle."""
    from ..modeling.pipeline_liminal import OCTANTS

    order = list(OCTANTS.values())
    signs = ("".join("+" if high else st.MINUS for high in highs) for highs in OCTANTS)
    ticks = [f"{name} ({sign})" for name, sign in zip(order, signs, strict=True)]
    if others := sorted(set(octants) - set(order)):
        order, ticks = order[:4] + others + order[4:], ticks[:4] + others + ticks[4:]
    heights = np.array([order.index(name) for name in octants])
    for person, rows in own.items():
        axes.scatter(x[rows], heights[rows], marker=looks[person]["marker"], s=48, color=st.BLACK)
    axes.set_yticks(range(len(order)), ticks)
    axes.set_ylim(len(order) - 0.5, -0.5)
    st.label_axes(axes, xlabel="", ylabel="octant (signs of P, A, D)")
    axes.tick_params(axis="y", labelsize=8.5)
