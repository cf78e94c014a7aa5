"""An explanation as a page: one file, without scripts and links, in light and dark mode.

Requires nothing but the standard library.
"""

import html
from typing import TYPE_CHECKING

from .words import NOT_READ

if TYPE_CHECKING:
    from .effects import Explanation

# Blue and orange of Okabe & Ito, mixed into the background; the words keep the text's own colour.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Which words moved the answer</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin: 1.5rem 0 0; }}
.text {{ line-height: 2; white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; }}
.note {{ border-left: .3rem solid #D55E00; padding-left: .6rem; }}
.up, .down {{ color: inherit; background: color-mix(in srgb, var(--hue) var(--strength), transparent); }}
.up {{ --hue: light-dark(#0072B2, #56B4E9); }} .down {{ --hue: #E69F00; }}
mark {{ border-radius: .25rem; padding: .1rem .2rem; border-bottom: .15rem solid var(--hue); }}
mark.down {{ border-bottom-style: dashed; }}
sub {{ font-size: .75em; margin-left: .2em; vertical-align: baseline; white-space: nowrap; }}
table {{ border-collapse: collapse; margin-top: 1.5rem; }}
th, td {{ padding: .15rem .6rem; text-align: right; font-variant-numeric: tabular-nums; }}
th {{ border-bottom: 1px solid; }}
:is(th, td):first-child {{ text-align: left; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<h1>Which words moved the answer</h1>
<p>An effect is the answer of the whole text minus the answer without the word. Blue, +: the word raises the answer.
Orange, dashed, -: it lowers it. The largest effects alone are marked. A negation is also left out together with what
it negates; these pairs stand at the end of the table.</p>
{notes}{paragraphs}
<table>
{table}
</table>
</body>
</html>
"""


def signed(value: float | None) -> str:
    """An effect or an answer for people; "-" where there is none.

    Example:
        >>> signed(0.314), signed(-0.001), signed(None)
        ('+0.31', '0.00', '-')
    """
    return "-" if value is None else "0.00" if abs(value) < 0.005 else f"{value:+.2f}"


def page(explanation: "Explanation") -> str:
    """The text once per target with its strongest words marked, and a table of all effects."""

    def marked(piece: str, effect: float | None, tag: str = "mark") -> str:
        strength, shown = explanation.strength(effect), html.escape(piece)
        if not strength or effect is None:
            return shown if tag == "mark" else f"<{tag}>{shown}</{tag}>"
        direction = "up" if effect > 0 else "down"
        effect_shown = f"<sub>{signed(effect)}</sub>" if tag == "mark" else ""
        return f'<{tag} class="{direction}" style="--strength:{strength * 55:.0f}%">{shown}{effect_shown}</{tag}>'

    paragraphs = [
        f'<h2>{html.escape(target)} {signed(value)}</h2>\n<p class="text" dir="auto">'
        f"{''.join(marked(*piece) for piece in explanation.pieces(target))}</p>"
        for target, value in explanation.answer.items()
    ]
    lines = ["".join(f"<th>{html.escape(name)}</th>" for name in ("left out", *explanation.answer))]
    for entry in (*(one for one in explanation.words if one.error != NOT_READ), *explanation.negations):
        cells = (marked(signed(effect), effect, "td") for effect in entry.effects.values())
        lines.append(f"<td>{html.escape(entry.word)}</td>{''.join(cells)}")
    return _PAGE.format(
        notes="".join(f'<p class="note">{html.escape(note)}</p>\n' for note in explanation.notes()),
        paragraphs="\n".join(paragraphs),
        table="\n".join(f"<tr>{line}</tr>" for line in lines),
    )
