"""A page from the rows of `liminal benchmark`: a table in Markdown, or in HTML that sorts by a click.

Requires nothing beyond the standard library.
"""

import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..io import write_text
from ..modeling.configuration_liminal import DIMENSIONS
from ..modeling.errors import LiminalError
from .measure import LIMIT, SCHEMA


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows in a folder, the best first; those that were cut to another number of texts stay out.

    Raises:
        LiminalError: there is no row, or one of another version of the package.
    """
    rows = []
    for file in sorted(folder.glob("*.json")):
        row = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(row, dict) or "corpora" not in row:
            continue
        if row.get("schema") != SCHEMA:
            raise LiminalError(
                f"{file} has schema {row.get('schema')!r}, this version writes {SCHEMA}: measure it again."
            )
        if row["limit"] == LIMIT:
            rows.append(row)
    if not rows:
        raise LiminalError(f"{folder} has no whole row. Make one: liminal benchmark minilm vader -o {folder}")
    return sorted(rows, key=lambda row: -(_mean_pleasure(row) or -1))


def _mean_pleasure(row: dict[str, Any]) -> float | None:
    """Over the corpora that the reader was not trained on."""
    found = [one["r"] for one in row["corpora"].values() if one["r"] and not one["trained_on"]]
    values = [r["pleasure"] for r in found if r.get("pleasure") is not None]
    return sum(values) / len(values) if values else None


Table = tuple[str, list[str], list[list[str]]]


def tables(rows: list[dict[str, Any]]) -> list[Table]:
    """Title, heads and cells of each table: one of the readers as a whole, then one per figure.

    Example:
        >>> tables([{"name": "x", "kind": "vader", "corpora": {}, "behaviour": None, "speed": None}])[0][2]
        [['x', 'vader', '-', '-', '-']]
    """
    titles = {name: one["title"] for row in rows for name, one in row["corpora"].items()}
    heads = ["reader", "kind", "transfer: mean r of V", "behaviour", "speed"]
    found = [("Readers", heads, [_whole(row) for row in rows])]
    figures = {
        "r of V / A / D, and 95% of their mean": _r,
        "CCC": _one("ccc"),
        "MAE": _one("mae"),
        "Labels in 80% intervals": _in,
    }
    for title, figure in figures.items() if titles else ():
        cells = [[row["name"], *(figure(row["corpora"].get(name) or {"r": None}) for name in titles)] for row in rows]
        found.append((title, ["reader", *titles.values()], cells))
    return found


def _whole(row: dict[str, Any]) -> list[str]:
    how, speed = row["behaviour"], row["speed"]
    behaviour = "-" if how is None else f"{how['mean']:.0%}"
    return [
        row["name"],
        row["kind"],
        _number(_mean_pleasure(row)),
        behaviour,
        "-" if speed is None else f"{speed['times_reference']:.2f}",
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".replace("0.", ".", 1)


def _r(one: dict[str, Any]) -> str:
    values = [one["r"][name] for name in DIMENSIONS if name in one["r"]] if one["r"] else []
    if all(value is None for value in values):
        return "-"
    low, high = one["r_interval"]["mean"] or (None, None)
    star = "*" if one["trained_on"] else ""
    return f"{' / '.join(map(_number, values))}{star} [{_number(low)}, {_number(high)}]"


def _one(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda one: _number(one[name]["mean"]) if one["r"] else "-"


def _in(one: dict[str, Any]) -> str:
    share = (one.get("coverage") or {}).get("80%")
    return "-" if share is None else f"{share:.0%}"


NOTE = (
    f"At most {LIMIT:,} texts of a corpus, always the same. V pleasure, A arousal, D dominance; in brackets 95% of "
    "bootstrap resamples. * The reader was trained on the training part of this corpus; transfer is the mean over the "
    "others. CCC and MAE are means over the dimensions, in -1..1. Behaviour: share of template pairs with the expected "
    "change, of those dimensions that the reader has. Speed: times that of the default checkpoint, in turns with it."
)
_BEGIN, _END = "<!-- table -->", "<!-- end -->"


def write_page(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes the leaderboard.

    Args:
        rows: from `read_rows`.
        path: .html or .md; of a .md that is there, what stands around the table stays as it is.

    Raises:
        LiminalError: another ending.
    """
    if path.suffix == ".md":
        lines = []
        for title, heads, cells in tables(rows):
            each = ["| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *cells)]
            lines += [f"**{title}**", "", *each, ""]
        before, _, rest = (path.read_text(encoding="utf-8") if path.is_file() else "").partition(_BEGIN)
        after = rest.partition(_END)[2] if rest else ""
        write_text(path, "\n".join([before + _BEGIN, *lines, NOTE, _END]) + (after or "\n"))
    elif path.suffix == ".html":
        write_text(path, _page(tables(rows)))
    else:
        raise LiminalError(f"A leaderboard is a page: PAGE.html or PAGE.md, got {path.name}.")


def _page(found: list[Table]) -> str:
    parts = []
    for title, heads, cells in found:
        name = html.escape(title)
        head = "".join(f'<th scope="col"><button type="button">{html.escape(one)}</button></th>' for one in heads)
        rows = [
            [f'<th scope="row">{html.escape(line[0])}</th>', *(f"<td>{html.escape(cell)}</td>" for cell in line[1:])]
            for line in cells
        ]
        body = "".join(f"<tr>{''.join(row)}</tr>\n" for row in rows)
        parts.append(
            f'<h2>{name}</h2>\n<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table>\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
        )
    return _HTML.replace("{tables}", "".join(parts)).replace("{note}", html.escape(NOTE))


_HTML = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Readers of pleasure, arousal and dominance</title>
<style>
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 1.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; white-space: nowrap; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid #8886; text-align: left; }
thead th { vertical-align: bottom; white-space: normal; min-width: 5.5rem; }
tbody th { position: sticky; left: 0; background: Canvas; max-width: 14rem; overflow: hidden; text-overflow: ellipsis; }
button { all: unset; cursor: pointer; font-weight: 600; }
button:focus-visible { outline: 2px solid; }
th[aria-sort] button::after { content: " \\25BC"; }
p { max-width: 60rem; }
</style>
<h1>Readers of pleasure, arousal and dominance</h1>
{tables}<p>{note} A click on a column sorts by it.</p>
<script>
document.querySelectorAll("table").forEach(table => {
  const heads = table.querySelectorAll("thead th");
  heads.forEach((head, index) => head.querySelector("button").onclick = () => {
    const text = row => row.cells[index].textContent;
    const value = row => parseFloat(text(row).replace(/^\\./, "0."));
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      return isNaN(x) && isNaN(y) ? text(a).localeCompare(text(b)) : isNaN(x) ? 1 : isNaN(y) ? -1 : y - x;
    });
    table.tBodies[0].append(...rows);
    heads.forEach(each => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", "descending");
  });
});
</script>
</html>
"""
