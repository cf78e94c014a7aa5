"""The figures of a report, each narrow enough for a phone, as SVG in the colours of the page.

Requires matplotlib (the extra `report`).
"""

import re
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from ..figures import group_means, means_over_time, pad_distributions, pleasure_arousal_plane
from ..figures.style import BLUE, GREY, LIGHT, VERMILLION, one_line, positions
from .findings import Findings, rows_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _PLANE_WIDTH = 3.7, 4.8  # inches
# Colours of the figures with those of the page, which has them in a light and a dark mode.
_COLOURS = {
    "#000000": "var(--ink)", "#ffffff": "var(--ground)", GREY: "var(--grey)", LIGHT: "var(--line)",
    BLUE: "var(--blue)", VERMILLION: "var(--red)",
}  # fmt: skip
_MOST_POINTS = 5000


def figures_of(findings: Findings) -> dict[str, list[str]]:
    """The figures as SVG, by the part of the page that they stand in; a part without texts has none."""
    if not findings.used.any():
        return {}
    found = {
        "distributions": [_distribution(findings, target) for target in findings.targets],
        "plane": [_plane(findings)] if positions(findings.targets) else [],
    }
    if "over_time" in findings.tables:
        found["over_time"] = [_over_time(findings, target) for target in findings.targets]
    if "groups" in findings.tables:
        found["groups"] = [_groups(findings, target) for target in findings.targets]
    for name, some in found.items():
        _same_scale(some, "ylim" if name == "over_time" else "xlim")
    return {
        name: [svg(figure, f"{name}{number}") for number, figure in enumerate(some)] for name, some in found.items()
    }


def _same_scale(figures: "list[Figure]", axis: str) -> None:
    """The same limits for all targets, so that what looks large is large."""
    ends = [getattr(figure.axes[0], f"get_{axis}")() for figure in figures]
    for figure in figures:
        figure.axes[0].set(**{axis: (min(low for low, _ in ends), max(high for _, high in ends))})


def _options(findings: Findings, target: str | None = None) -> dict[str, Any]:
    low, high = findings.config.label_range
    return {"targets": findings.targets if target is None else [target], "value_range": (low, high)}


def _distribution(findings: Findings, target: str) -> "Figure":
    zone = [findings.zones()[findings.targets.index(target)]] if findings.has_doubt else None
    values = findings.column(target)[:, None]
    return pad_distributions(values, neutral_zone=zone, width=_WIDTH, **_options(findings, target))


def _plane(findings: Findings) -> "Figure":
    points, doubt, zones = findings.values[findings.used], None, None
    if findings.has_doubt:
        columns = [findings.answers[f"uncertainty_{name}"].to_numpy() for name in findings.targets]
        doubt, zones = np.column_stack(columns)[findings.used], findings.zones()
    return pleasure_arousal_plane(points, doubt, neutral_zone=zones, width=_PLANE_WIDTH, **_options(findings))


def _over_time(findings: Findings, target: str) -> "Figure":
    times, found = findings.source.times, findings.spans
    assert times is not None and found is not None
    rows = [row for some in found.rows for row in some]
    at = [_mean([times[row] for row in some]) for some in found.rows]
    numbers = [row for row in rows_of(findings.tables["over_time"]) if row["target"] == target]
    # All of a span's texts are in its mean; the points are some of them, where they are many, chosen at random.
    drawn = np.random.default_rng(0).permutation(rows)[:_MOST_POINTS].tolist()
    return means_over_time(
        [times[row] for row in drawn],
        findings.column(target, drawn)[:, None],
        at,
        [[row["mean"]] for row in numbers],
        [[_ends(row)] for row in numbers],
        xlabel=findings.source.time or "time",
        width=_WIDTH,
        **_options(findings, target),
    )


def _groups(findings: Findings, target: str) -> "Figure":
    numbers = [row for row in rows_of(findings.tables["groups"]) if row["target"] == target]
    names = [f"{one_line(row['group'], 14)} ({row['texts']})" for row in numbers]
    means = [[np.nan if row["mean"] is None else row["mean"]] for row in numbers]
    return group_means(names, means, [[_ends(row)] for row in numbers], width=_WIDTH, **_options(findings, target))


def _ends(row: dict[str, Any]) -> tuple[float, float]:
    return (np.nan, np.nan) if row["low"] is None else (row["low"], row["high"])


def _mean(times: list[Any]) -> Any:
    return times[0] + sum((time - times[0] for time in times[1:]), times[0] - times[0]) / len(times)


def svg(figure: "Figure", name: str) -> str:
    """A figure as an SVG element that stands in a page: its text is text, its colours are the page's.

    The page says what a figure is about, so that its own title goes.
    """
    import matplotlib

    title = figure.get_suptitle()
    figure.suptitle("")
    buffer = StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=nothing, dpi=200)
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)  # nothing refers to these, and ids may stand once in a page
    drawing = re.sub("<[^<>]*>", lambda tag: _in_colours_of_page(tag[0]), drawing)  # in no label
    return drawing.replace("<svg", f'<svg role="img" aria-label="{_attribute(title)}"', 1)


def _in_colours_of_page(tag: str) -> str:
    for colour, of_page in _COLOURS.items():
        tag = re.sub(colour, of_page, tag, flags=re.IGNORECASE)
    return tag


def _attribute(text: str) -> str:
    import html

    return html.escape(" ".join(text.split()))
