"""What the page shows: turns, numbers and figures as HTML, with every text of a visitor escaped."""

import base64
import html
import io
from typing import TYPE_CHECKING, Any

from .. import figures
from ..modeling.rows import in_words
from ._reader import Conversation, count_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 144
_WIDE, _NARROW, _PHONE = 6.4, 3.7, 640
_ARROWS = {"rising": "\u25b2", "falling": "\u25bc"}

STYLE = """
.gradio-container { max-width: min(1200px, 100vw) !important; margin: 0 auto !important; }
.gradio-container :is(.app, .app > .wrap, .contain, .tabs, .tabitem, .column, .row) { min-width: 0; max-width: 100%; }
footer .divider { display: none; }
.liminal { line-height: 1.45; overflow-wrap: anywhere; }
.liminal h1 { font-size: 1.5rem; margin: 0 0 .2rem; }
.liminal p { margin: .15rem 0; }
.liminal img { display: block; width: 100%; height: auto; background: white; border-radius: 6px; }
.liminal ol { list-style: none; margin: 0; padding: 0; }
.liminal li { margin: 0; padding: .5rem 0 .5rem .7rem; border-left: 4px solid transparent; }
.liminal li + li { border-top: 1px solid var(--border-color-primary); }
.liminal li.sharp { border-left-color: #D55E00; }
.liminal .value { display: inline-block; margin-right: 1rem; font-variant-numeric: tabular-nums; }
.liminal .mark { color: #A63F00; font-weight: 700; }
.dark .liminal .mark { color: #FF9A57; }
.liminal .faint { opacity: .78; }
.liminal .wrong { border-left: 4px solid #D55E00; padding: .3rem .6rem; }
.liminal[role=log] { max-height: 460px; overflow-y: auto; }
"""

INTRODUCTION = """<div class="liminal"><h1>How a text feels</h1>
<p>Pleasure, arousal and dominance as readers perceive them, from &minus;1 to 1. Most texts lie close to 0. It is an
estimate of how a text reads, no diagnosis of who wrote it.</p></div>"""
EMPTY = '<p class="faint">No turn yet. Type one below and press Enter.</p>'


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def _shown(text: str, most: int = 600) -> str:
    """A stranger's text as HTML: escaped, of bounded length, and unable to turn the direction of what follows."""
    return f"<bdi>{html.escape(_short(text, most))}</bdi>"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def numbers_table(row: dict[str, Any], targets: list[str]) -> dict[str, Any]:
    """The targets of one row for `gr.Dataframe`, a line each, with what the model has of uncertainty and percentile."""
    doubts, percentiles = row["uncertainty"], row["percentile"]
    names = [name for name in targets if row[name] is not None]
    columns = {"": names, "value": [_signed(row[name]) for name in names]}
    if doubts:
        columns["\u00b1"] = [f"{doubts[name]:.2f}" for name in names]
    if percentiles:
        columns["higher than"] = [f"{percentiles[name]:.0f}% of texts" for name in names]
    return {"headers": list(columns), "data": [list(cells) for cells in zip(*columns.values(), strict=True)]}


def _line(row: dict[str, Any]) -> str:
    """The targets of one turn in a line that wraps."""
    parts = []
    for name, direction in row["trend"].items():
        if row[name] is None:
            continue
        doubt = f" \u00b1 {row['uncertainty'][name]:.2f}" if row["uncertainty"] else ""
        moved = "" if direction == "steady" else f' <span aria-hidden="true">{_ARROWS[direction]}</span> {direction}'
        parts.append(f'{html.escape(name)} <b data-name="{html.escape(name)}">{_signed(row[name])}</b>{doubt}{moved}')
    return "".join(f'<span class="value">{part}</span> ' for part in parts)


def verdict_html(row: dict[str, Any]) -> str:
    parts = [
        f"<b>{in_words(row)}</b>" if in_words(row) else "",
        "its end was left out" if row["truncated"] else "",
        f"the mean of {count_of(len(row['windows']), 'sentence')}" if row["windows"] else "",
    ]
    return ", ".join(part for part in parts if part)


def turns_html(conversation: Conversation) -> str:
    """The turns as HTML, the newest last."""
    turns = []
    for row, text in zip(conversation.rows, conversation.texts, strict=True):
        mark = '<div class="mark">SHARP TURN: less pleasure, more arousal</div>' if row["sharp"] else ""
        said = f"<div><b>{row['turn'] + 1}. {_shown(row['speaker'])}</b> {_shown(text)}</div>"
        look = ' class="sharp"' if row["sharp"] else ""
        turns.append(f"<li{look}>{said}<div>{_line(row)}</div><div>{verdict_html(row)}</div>{mark}</li>")
    listed = f"<ol>{''.join(turns)}</ol>" if turns else EMPTY
    return f'<div class="liminal" role="log" tabindex="0" aria-label="The turns so far">{listed}</div>'


def note_html(text: str, wrong: bool = False) -> str:
    look = ' class="wrong" role="alert"' if wrong else ' class="faint" role="status"'
    return f'<div class="liminal"><p{look}>{html.escape(text)}</p></div>' if text else ""


def _picture(figure: "Figure", says: str) -> str:
    """A figure as an image in HTML, with words for those who can't see it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<div class="liminal"><img src="data:image/png;base64,{data}" alt="{html.escape(says)}"></div>'


def _inches(pixels: Any) -> float:
    """The width of a figure for a window of so many pixels."""
    return _NARROW if isinstance(pixels, int | float) and 0 < pixels < _PHONE else _WIDE


def trajectory_html(conversation: Conversation, targets: list[str], pixels: Any) -> str:
    rows = conversation.rows
    shown = [name for name in targets if rows and rows[0][name] is not None]
    if not shown:
        return ""
    doubts = [[row["uncertainty"][name] for name in shown] for row in rows if row["uncertainty"]]
    figure = figures.conversation_trajectory(
        [[row[name] for name in shown] for row in rows],
        doubts or None,
        speakers=[row["speaker"] for row in rows],
        sharp=[row["sharp"] for row in rows],
        octants=[row["octant"] for row in rows] if rows[0]["octant"] else None,
        targets=shown,
        width=_inches(pixels),
    )
    return _picture(figure, f"{', '.join(shown)} over {count_of(len(rows), 'turn')}, as in the list of turns.")


def steps_html(row: dict[str, Any], targets: list[str], pixels: Any) -> str:
    if row["pad_trajectory"] is None or None in [row[name] for name in targets]:
        return ""
    doubt = list(row["uncertainty"].values()) if row["uncertainty"] else None
    figure = figures.refinement(row["pad_trajectory"], uncertainty=doubt, targets=targets, width=_inches(pixels))
    count = len(row["pad_trajectory"])
    first, last = (", ".join(_signed(value) for value in row["pad_trajectory"][i]) for i in (0, -1))
    return _picture(figure, f"The answer after each of {count} steps: {first} after the first, {last} after the last.")


def cell_text(value: Any) -> str:
    """A cell of the preview, as text."""
    return "" if value is None else _signed(value) if isinstance(value, float) else _short(str(value), 200)
