"""The page of a report: one file, without scripts and links, in light and dark mode, for a screen and a phone.

Requires nothing but the standard library, beside what drew the figures.
"""

import html
from collections.abc import Iterable, Mapping
from typing import Any

from ..data.writing import EXCEL_CHARACTERS
from ..figures.style import count_of, one_line
from .findings import MOST_DOUBTFUL, MOST_EXTREME, MOST_UNREAD, Columns, Findings, rows_of
from .style import PAGE

_LONGEST_TEXT = 400
_MINUS = "\N{MINUS SIGN}"


def build_page(
    findings: Findings, figures: Mapping[str, list[str]], methods: list[str], references: list[str], files: list[str]
) -> str:
    """The page as HTML.

    Args:
        findings: what it says.
        figures: SVG by part, see `figures_of`.
        methods: paragraphs for a methods section.
        references: what they cite.
        files: names of the files beside the page.
    """
    table = findings.source.table
    title = f"Report on {table.file.path.name}"
    parts = [
        _section("What was read", _what_was_read(findings)),
        _section("How the texts spread", _distributions(findings, figures)),
        _section("Pleasure and arousal", _plane(findings, figures)) if figures.get("plane") else "",
        _section("Over time", _over_time(findings, figures)) if findings.source.times is not None else "",
        _section("Groups", _groups(findings, figures)) if findings.source.groups is not None else "",
        _section("The most extreme texts", _extremes(findings)) if "extremes" in findings.tables else "",
        _section("The most doubtful texts", _doubtful(findings)) if "doubtful" in findings.tables else "",
        _section("Rows that were not read", _not_read(findings)) if "not_read" in findings.tables else "",
        _section("For a methods section", _methods(methods, references)),
        _section("The files", "<ul>" + "".join(f"<li><code>{_text(name)}</code></li>" for name in files) + "</ul>"),
    ]
    return PAGE.format(title=_text(title), body="\n".join(part for part in parts if part))


def _section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n{content}\n</section>"


def _what_was_read(findings: Findings) -> str:
    counts, table = findings.counts, findings.source.table
    cards = "".join(f"<div><b>{count:,}</b> {_text(what)}</div>" for what, count in counts.items())
    settings = table.file.like
    facts = [("Texts", f"column {table.file.text}")]
    if settings.separator is not None:
        mark = "tab" if settings.separator == "\t" else settings.separator
        facts.append(("File", f"separator {mark}, encoding {settings.encoding}, decimal mark {settings.decimal}"))
    if findings.source.group is not None and findings.source.groups is not None:
        facts.append(("Groups", _given(findings.source.group, findings.source.groups)))
    if findings.source.time is not None and findings.source.times is not None:
        facts.append(("Time", _given(findings.source.time, findings.source.times)))
    listed = "".join(f"<dt>{what}</dt><dd>{_text(fact)}</dd>" for what, fact in facts)
    notes = []
    if not findings.used.any():
        notes.append("No text could be read as one like the training texts, so there are no figures and no means.")
    elif counts["unlike the training texts"]:
        where = "in" if findings.include_unlike else "left out of"
        notes.append(
            f"Unlike the training texts (another language, code, or no words): "
            f"{count_of(counts['unlike the training texts'], 'text')}. Such numbers mean little. They are {where} all "
            "figures and means; the files have every row."
        )
    if counts["truncated"]:
        notes.append(f"Longer than the model reads, the end was left out: {count_of(counts['truncated'], 'text')}.")
    if counts["cut in scores.xlsx"]:
        notes.append(
            f"Longer than a cell of Excel ({EXCEL_CHARACTERS:,} characters), so that scores.xlsx lacks its end: "
            f"{count_of(counts['cut in scores.xlsx'], 'row')}. scores.csv has it whole."
        )
    shown = "".join(f'<p class="note">{note}</p>' for note in notes)
    return f'<div class="cards">{cards}</div>\n<dl>{listed}</dl>\n{shown}'


def _given(name: str, cells: list[Any]) -> str:
    missing = sum(cell is None for cell in cells)
    return f"column {name}" + (f"; without one: {count_of(missing, 'row')}" if missing else "")


def _distributions(findings: Findings, figures: Mapping[str, list[str]]) -> str:
    if "distributions" not in findings.tables:
        return "<p>There is no text to show.</p>"
    low, high = findings.config.label_range
    scale = f"{_number(low, 0)} to {_number(high, 0)}"
    about = (
        f"<p>The scale is {scale}; most texts lie close to its middle. Grey holds 80% of the texts, the line is the "
        "median. Texts between the dotted lines are neutral for most raters.</p>"
    )
    said = ""
    for target in findings.targets if "verdicts" in findings.tables else ():
        words = [row for row in rows_of(findings.tables["verdicts"]) if row["target"] == target]
        said += _shares(target, {row["verdict"]: row for row in words})
    for name, title in (("octant", "octant"), ("emotion", "likeliest emotion word")):
        if f"{name}s" in findings.tables:
            said += _shares(title, {row[name]: row for row in rows_of(findings.tables[f"{name}s"])})
    if said:
        said = (
            "<h3>In words</h3><p>A text is <em>unclear</em> where no word is more likely than not. An octant is "
            "Mehrabian's name for high or low pleasure, arousal and dominance; most short texts have none. Three "
            "numbers hardly tell anger from disgust: emotion words are good for a picture, not for a decision.</p>"
            + said
        )
    numbers = _details("The numbers", findings.tables["distributions"], "distributions")
    return f"{about}{_grid(figures.get('distributions', []))}{numbers}{said}"


def _shares(title: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """How many texts each word is said of: a stacked bar, and the counts below it."""
    bar = legend = ""
    for index, (word, row) in enumerate(rows.items()):
        kind = word if word in ("neutral", "unclear") else f"word{index % 11}"
        if row["texts"]:
            share = "under 1%" if row["share"] < 0.005 else f"{row['share']:.0%}"
            bar += f'<span class="{kind}" style="width:{100 * row["share"]:.3f}%"></span>'
            legend += f'<li><i class="{kind}"></i>{_text(word)} {share} ({row["texts"]:,})</li>'
    return f'<div class="shares"><h4>{_text(title)}</h4><div class="stack">{bar}</div><ul>{legend}</ul></div>'


def _plane(findings: Findings, figures: Mapping[str, list[str]]) -> str:
    return (
        "<p>A point is a text, its colour the dominance. Each corner has the names of two octants: the upper one for "
        "high dominance, the lower one for low. The cross is the usual uncertainty of one text.</p>"
        f'<div class="plane">{"".join(figures["plane"])}</div><p class="where">The points are in scores.csv.</p>'
    )


def _over_time(findings: Findings, figures: Mapping[str, list[str]]) -> str:
    if "over_time" not in findings.tables or findings.spans is None:
        return "<p>There is no text to show.</p>"
    unit = {"value": "value", "range": "part"}.get(findings.spans.unit, findings.spans.unit.split()[0])
    about = f"<p>Means by {unit} of {_text(findings.source.time or '')}, with 95% intervals (Student's t).</p>"
    return (
        about + _grid(figures.get("over_time", [])) + _details("The numbers", findings.tables["over_time"], "over_time")
    )


def _groups(findings: Findings, figures: Mapping[str, list[str]]) -> str:
    about = (
        f"<p>Means by {_text(findings.source.group or '')}, with 95% intervals (Student's t); in brackets the number "
        "of texts. The intervals hold where rows are independent of each other, which several texts of one person are "
        "not.</p>"
    )
    content = about + _grid(figures.get("groups", []))
    if effects := findings.tables.get("effects"):
        content += "<h3>How large the differences are</h3>" + _table(effects)
        if "eta squared" in effects:
            content += "<p>Eta squared is the share of the variance that lies between the groups.</p>"
        else:
            content += (
                "<p>The difference of the means with Welch's 95% interval, and Hedges' g: the difference in standard "
                "deviations of the predictions. Where nothing varies, or a group has one text, there is none.</p>"
            )
    return content + _details("The means", findings.tables["groups"], "groups")


def _extremes(findings: Findings) -> str:
    blocks = []
    for target in findings.targets:
        for end in ("highest", "lowest"):
            rows = [row for row in rows_of(findings.tables["extremes"]) if (row["target"], row["end"]) == (target, end)]
            listed = "".join(_one_text(findings, row) for row in rows)
            blocks.append(f"<div><h3>{end.capitalize()} {_text(target)}</h3>{listed}</div>")
    about = f"<p>At most {MOST_EXTREME} at each end. The bar is the 80% interval, on the whole scale.</p>"
    return about + f'<div class="pairs">{"".join(blocks)}</div>'


def _one_text(findings: Findings, row: Mapping[str, Any]) -> str:
    unit = findings.source.table.file.unit
    bar = said = ""
    if row["low"] is not None:
        low, high = findings.config.label_range
        left, middle, right = (
            min(max(100 * (row[name] - low) / (high - low), 0), 100) for name in ("low", "value", "high")
        )
        ends = f"{_number(row['low'])} to {_number(row['high'])}"
        bar = (
            f'<span class="bar" title="{ends}"><span style="left:{left:.2f}%;width:{right - left:.2f}%"></span>'
            f'<i style="left:{middle:.2f}%"></i></span>'
        )
        said = f"{ends}, {_text(row['verdict'] or '')}, "
    return (
        f'<div class="text"><p dir="auto">{_quote(row["text"])}</p><b>{_number(row["value"])}</b>{bar}'
        f"<small>{said}{unit} {row[unit]}</small></div>"
    )


def _doubtful(findings: Findings) -> str:
    unit, blocks = findings.source.table.file.unit, []
    for row in rows_of(findings.tables["doubtful"]):
        doubts = ", ".join(f"{_text(name)} ±{row[f'uncertainty {name}']:.2f}" for name in findings.targets)
        domain = "" if row["in_domain"] is None else f"in_domain {row['in_domain']:.2f}, "
        blocks.append(
            f'<div class="text"><p dir="auto">{_quote(row["text"])}</p><small>{domain}{doubts}, {unit} {row[unit]}'
            "</small></div>"
        )
    about = (
        f"<p>At most {MOST_DOUBTFUL} of all that were read, the largest standard deviation first. Below .5, "
        "<code>in_domain</code> says that a text is more likely unlike the training texts than like them.</p>"
    )
    return about + "".join(blocks)


def _not_read(findings: Findings) -> str:
    columns = findings.tables["not_read"]
    total = len(columns["reason"])
    some = {name: values[:MOST_UNREAD] for name, values in columns.items()}
    left = total - MOST_UNREAD
    more = f"<p>{left:,} more are in tables/not_read.csv.</p>" if left > 0 else ""
    return "<p>They are in the files, with empty numbers and the reason.</p>" + _table(some) + more


def _methods(methods: list[str], references: list[str]) -> str:
    paragraphs = "".join(f"<p>{_text(paragraph)}</p>" for paragraph in methods)
    listed = "".join(f"<li>{_text(reference)}</li>" for reference in references)
    return (
        f'<p>To be copied, and shortened where need be. The same is in methods.md.</p><div class="methods">{paragraphs}'
        f"<ul>{listed}</ul></div>"
    )


# ---- pieces ----


def _grid(figures: Iterable[str]) -> str:
    return f'<div class="grid">{"".join(f"<div>{figure}</div>" for figure in figures)}</div>'


def _details(summary: str, columns: Columns, name: str) -> str:
    return (
        f"<details><summary>{summary}</summary>{_table(columns)}"
        f'<p class="where">Also in tables/{name}.csv.</p></details>'
    )


def _table(columns: Columns) -> str:
    words = [any(isinstance(value, str) for value in values) for values in columns.values()]
    kinds = [' class="words"' if one else "" for one in words]
    head = "".join(f"<th{kind}>{_text(name)}</th>" for name, kind in zip(columns, kinds, strict=True))
    body = "".join(f"<tr>{''.join(map(_cell, row.values()))}</tr>" for row in rows_of(columns))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    if value is None:
        return "<td>-</td>"
    if isinstance(value, str):
        return f'<td class="words" dir="auto">{_quote(value, 120)}</td>'
    return f"<td>{f'{value:,}' if isinstance(value, int) else f'{value:.3f}'.replace('-', _MINUS)}</td>"


def _number(value: float, digits: int = 2) -> str:
    # Adding 0 takes the sign off a zero.
    rounded = round(value, digits) + 0.0
    return ("0" if rounded == 0 and not digits else f"{rounded:+.{digits}f}").replace("-", _MINUS)


def _quote(text: str, longest: int = _LONGEST_TEXT) -> str:
    return _text(one_line(text, longest))


def _text(text: str) -> str:
    return html.escape(str(text))
