"""What the page shows: turns, numbers and figures as HTML, with every text of a visitor escaped."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..explaining import Explanation
from ..modeling.rows import in_words
from ._reader import Conversation, count_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_ARROWS = {"rising": "\u25b2", "falling": "\u25bc"}
# Okabe & Ito's colours that are clear on white and on black.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_GREY, _FAINT = "#7a7a7a", "rgba(128,128,128,.25)"

STYLE = """
.gradio-container { max-width: min(1200px, 100vw) !important; margin: 0 auto !important; }
.gradio-container :is(.app, .app > .wrap, .contain, .tabs, .tabitem, .column, .row) { min-width: 0; max-width: 100%; }
iframe.words { width: 100%; height: 60vh; border: 0; border-radius: 6px; }
footer .divider { display: none; }
.liminal { line-height: 1.45; overflow-wrap: anywhere; }
.liminal h1 { font-size: 1.5rem; margin: 0 0 .2rem; }
.liminal p { margin: .15rem 0; }
.liminal ol { list-style: none; margin: 0; padding: 0; }
.liminal li { margin: 0; padding: .5rem 0 .5rem .7rem; border-left: 4px solid transparent; }
.liminal li + li { border-top: 1px solid var(--border-color-primary); }
.liminal li.sharp { border-left-color: #D55E00; }
.liminal .value { display: inline-block; margin-right: 1rem; font-variant-numeric: tabular-nums; }
.liminal .mark { color: #A63F00; font-weight: 700; }
.dark .liminal .mark { color: #FF9A57; }
.liminal .faint { opacity: .78; }
.liminal .wrong { border-left: 4px solid #D55E00; padding: .3rem .6rem; }
.liminal[role=log] { max-height: min(460px, 34vh); overflow-y: auto; }
.bars .target { padding-bottom: .6rem; }
.bars .target span { margin-left: .8rem; }
.bars .bar { position: relative; height: 1.1rem; border-bottom: 1px solid #808080; }
.bars .scale { display: flex; justify-content: space-between; margin-top: -.6rem; opacity: .78; }
.bars i { position: absolute; }
.bars .zone { top: 0; bottom: 0; background: rgba(128, 128, 128, .25); }
.bars .span { top: .4rem; height: .3rem; background: #0072B2; }
.bars .dot { top: .15rem; height: .8rem; margin-left: -.2rem; min-width: .4rem; background: #D55E00; }
@media (max-width: 640px) { .liminal[role=log] { max-height: 24vh; } }
"""

INTRODUCTION = """<div class="liminal"><h1>How a text feels</h1>
<p>Pleasure, arousal and dominance as readers perceive them, from &minus;1 to 1. Most texts lie close to 0. It is an
estimate of how a text reads, no diagnosis of who wrote it.</p></div>"""
_SHARP = "Sharp turn: less pleasure, more arousal than before"
EMPTY = '<p class="faint">No turn yet. Type one below and press Enter.</p>'


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def _shown(text: str, most: int = 600) -> str:
    """A stranger's text as HTML: escaped, of bounded length, and unable to turn the direction of what follows."""
    return f"<bdi>{html.escape(_short(text, most))}</bdi>"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def bars_html(row: dict[str, Any], config: Any) -> str:
    """The targets of one row as bars on their scale (answer, 80% interval, neutral zone), and in words."""
    low, high = config.label_range

    def part(start: float, end: float, look: str) -> str:
        left, right = (100 * (min(max(value, low), high) - low) / (high - low) for value in (start, end))
        return f'<i class="{look}" style="left:{left:.1f}%;width:{right - left:.1f}%"></i>'

    lines = []
    for name, zone in zip(config.targets, config.neutral_zone, strict=True):
        value = row[name]
        if value is None:
            continue
        ends = row["interval"][name] if row["interval"] else None
        spread = "" if ends is None else f"80% {_signed(ends[0])} to {_signed(ends[1])}"
        bar = (
            part(zone[0], zone[1], "zone")
            + ("" if ends is None else part(ends[0], ends[1], "span"))
            + part(value, value, "dot")
        )
        said = row["verdict"][name] if row["verdict"] else ""
        lines.append(
            f'<div class="target"><p>{html.escape(name)} <b>{_signed(value)}</b> <span>{said}</span> '
            f'<span class="faint">{spread}</span></p><div class="bar" aria-hidden="true">{bar}</div></div>'
        )
    scale = f"<span>{low:g}</span><span>{(low + high) / 2:g}</span><span>{high:g}</span>"
    words = list((row["emotions"] or {}).items())[:3]
    likely = ", ".join(f"{word} {share:.0%}" for word, share in words)
    return (
        f'<div class="liminal bars"><p>{verdict_html(row)}</p>{"".join(lines)}<div class="scale">{scale}</div>'
        '<p class="faint">Orange: the answer. Blue: its 80% interval. Shaded: neutral.</p>'
        f"{f'<p>Emotion words: {likely}</p>' if words else ''}</div>"
    )


def reading_html(row: dict[str, Any], config: Any) -> str:
    """One row as bars; one that can't be read has none, and says why."""
    if row["error"]:
        return note_html(f"The text can't be read: {row['error']}.", wrong=True)
    return bars_html(row, config)


def words_html(explanation: Explanation) -> str:
    """Which words moved an answer: a page in a frame, which runs nothing."""
    part = "These are the effects on the first part of the text, which is all that is read at once."
    content = html.escape(explanation.to_html(), quote=True)
    frame = f'<iframe class="words" title="Which words moved the answer" sandbox srcdoc="{content}"></iframe>'
    return note_html(part if explanation.truncated else "") + frame


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


def _adjusted(row: dict[str, Any]) -> str:
    """What a turn is for its speaker, by their own ratings."""
    values = (row.get("adjusted") or {}).items()
    shown = ", ".join(f"{html.escape(name)} {_signed(value)}" for name, value in values if value is not None)
    return f"<div>by this speaker's ratings: {shown}</div>" if shown else ""


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
        mark = f'<div class="mark">{_SHARP}</div>' if row["sharp"] else ""
        said = f"<div><b>{row['turn'] + 1}. {_shown(row['speaker'])}</b> {_shown(text)}</div>"
        look = ' class="sharp"' if row["sharp"] else ""
        turns.append(
            f"<li{look}>{said}<div>{_line(row)}</div><div>{verdict_html(row)}</div>{_adjusted(row)}{mark}</li>"
        )
    listed = f"<ol>{''.join(turns)}</ol>" if turns else EMPTY
    return f'<div class="liminal" role="log" tabindex="0" aria-label="The turns so far">{listed}</div>'


def note_html(text: str, wrong: bool = False) -> str:
    look = ' class="wrong" role="alert"' if wrong else ' class="faint" role="status"'
    return f'<div class="liminal"><p{look}>{html.escape(text)}</p></div>' if text else ""


def trajectory_plot(conversation: Conversation, targets: list[str], value_range: Sequence[float]) -> "Figure | None":
    """The targets over the turns as an interactive figure: a panel per target, a line per speaker, 80% intervals."""
    from plotly.graph_objects import Figure, Scatter
    from plotly.subplots import make_subplots

    rows = conversation.rows
    shown = [name for name in targets if rows and rows[0][name] is not None]
    if not shown:
        return None
    figure: Figure = make_subplots(rows=len(shown), shared_xaxes=True, vertical_spacing=0.06)
    for number, speaker in enumerate(dict.fromkeys(row["speaker"] for row in rows)):
        own = [index for index, row in enumerate(rows) if row["speaker"] == speaker]
        for panel, name in enumerate(shown, 1):
            values = [rows[index][name] for index in own]
            ends = [(rows[index]["interval"] or {name: (value, value)})[name]
                    for index, value in zip(own, values, strict=True)]  # fmt: skip
            figure.add_trace(
                Scatter(
                    x=[index + 1 for index in own],
                    y=values,
                    error_y={
                        "type": "data",
                        "symmetric": False,
                        "array": [high - value for (_, high), value in zip(ends, values, strict=True)],
                        "arrayminus": [value - low for (low, _), value in zip(ends, values, strict=True)],
                        "thickness": 1,
                    },
                    mode="lines+markers",
                    name=html.escape(_short(speaker, 20)),
                    legendgroup=str(number),
                    showlegend=panel == 1,
                    line={"color": _COLOURS[number % len(_COLOURS)]},
                    marker={"symbol": number % 30, "size": 9},
                    hovertext=[html.escape(_short(conversation.texts[index], 80)) for index in own],
                    hovertemplate="%{y:+.2f}<br>%{hovertext}",
                ),
                row=panel,
                col=1,
            )
    points = [end for row in rows for name in shown for end in (row["interval"] or {name: (row[name],)})[name]]
    middle = sum(value_range) / 2
    reach = 1.1 * max(*(abs(point - middle) for point in points), 0.1 * (value_range[1] - value_range[0]))
    for panel, name in enumerate(shown, 1):
        axis = {"title": name, "range": [middle - reach, middle + reach], "zeroline": False, "gridcolor": _FAINT}
        figure.update_yaxes(axis, row=panel, col=1)
        figure.add_hline(middle, line={"color": _GREY, "width": 1}, row=panel, col=1)
    for index, row in enumerate(rows):
        if row["sharp"]:
            figure.add_vline(index + 1, line={"color": "#D55E00", "dash": "dot"})
    figure.update_xaxes(gridcolor=_FAINT, dtick=max(1, len(rows) // 12), range=[0.5, len(rows) + 0.5])
    figure.update_xaxes(title="turn", row=len(shown), col=1)
    # Colours that can be read on white and on black, as the page is light or dark.
    clear = "rgba(0,0,0,0)"
    figure.update_layout(
        height=70 + 85 * len(shown),
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        font={"color": _GREY, "size": 12},
        paper_bgcolor=clear,
        plot_bgcolor=clear,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        modebar={"remove": ["zoom", "pan", "select", "lasso", "zoomIn", "zoomOut", "autoScale", "resetScale"]},
    )
    return figure


def cell_text(value: Any) -> str:
    """A cell of the preview, as text."""
    return "" if value is None else _signed(value) if isinstance(value, float) else _short(str(value), 200)
