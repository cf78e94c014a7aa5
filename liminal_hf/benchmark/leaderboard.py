"""A page from the rows of `liminal benchmark`: a table in Markdown, or in HTML that sorts by a click.

Requires nothing beyond the standard library.
"""

import html
import json
from pathlib import Path
from typing import Any

from ..io import write_text
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
    values = [one["r"]["pleasure"] for one in row["corpora"].values() if one.get("r") and one["r"].get("pleasure")]
    return sum(values) / len(values) if values else None


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells. A corpus that a reader was trained on is marked with a star.

    Example:
        >>> table([{"name": "x", "kind": "vader", "corpora": {}, "behaviour": None, "speed": None, "about": {}}])[1]
        [['x', 'vader', '-', '-', '-']]
    """
    corpora = list(dict.fromkeys(name for row in rows for name in row["corpora"]))
    titles = {name: one["title"] for row in rows for name, one in row["corpora"].items()}
    heads = ["reader", "kind"]
    for name in corpora:
        heads += [f"{titles[name]}: r V / A / D", "CCC", "MAE", "in 80% intervals"]
    heads += ["mean r of V", "behaviour", "speed"]
    cells = []
    for row in rows:
        line = [row["name"], row["kind"]]
        for name in corpora:
            line += _cells(row["corpora"].get(name))
        mean, how, speed = _mean_pleasure(row), row["behaviour"], row["speed"]
        line.append(_number(mean))
        line.append("-" if how is None else f"{how['mean']:.0%}")
        line.append("-" if speed is None else f"{speed['times_reference']:.2f}")
        cells.append(line)
    return heads, cells


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".replace("0.", ".", 1)


def _cells(one: dict[str, Any] | None) -> list[str]:
    if not one or not one.get("r"):
        return ["-"] * 4
    names = ("pleasure", "arousal", "dominance")
    r = " / ".join(_number(one["r"].get(name)) for name in names if name in one["r"])
    low, high = one["r_interval"].get("mean") or (None, None)
    r += f" [{_number(low)}, {_number(high)}]" + ("*" if one["trained_on"] else "")
    coverage = (one.get("coverage") or {}).get("80%")
    return [r, _number(one["ccc"]["mean"]), _number(one["mae"]["mean"]), "-" if coverage is None else f"{coverage:.0%}"]


NOTE = (
    f"At most {LIMIT:,} texts of a corpus, always the same. "
    "r with the labels of each corpus (V pleasure, A arousal, D dominance), in brackets 95% of bootstrap resamples for "
    "their mean. * The reader was trained on the training part of this corpus. Behaviour: share of template pairs with "
    "the expected change. Speed: times that of the default checkpoint, in turns with it."
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
    heads, cells = table(rows)
    if path.suffix == ".md":
        lines = ["| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *cells)]
        before, _, rest = (path.read_text(encoding="utf-8") if path.is_file() else "").partition(_BEGIN)
        after = rest.partition(_END)[2] if rest else ""
        write_text(path, "\n".join([before + _BEGIN, *lines, "", NOTE, _END]) + (after or "\n"))
    elif path.suffix == ".html":
        write_text(path, _page(heads, cells))
    else:
        raise LiminalError(f"A leaderboard is a page: PAGE.html or PAGE.md, got {path.name}.")


def _page(heads: list[str], cells: list[list[str]]) -> str:
    head = "".join(f'<th scope="col"><button type="button">{html.escape(one)}</button></th>' for one in heads)
    rows = [
        [f'<th scope="row">{html.escape(line[0])}</th>', *(f"<td>{html.escape(cell)}</td>" for cell in line[1:])]
        for line in cells
    ]
    body = "".join(f"<tr>{''.join(row)}</tr>\n" for row in rows)
    return _HTML.replace("{head}", head).replace("{body}", body).replace("{note}", html.escape(NOTE))


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
<div class="scroll" tabindex="0" role="region" aria-label="Table of readers"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}</tbody>
</table></div>
<p>{note} A click on a column sorts by it.</p>
<script>
const body = document.querySelector("tbody");
document.querySelectorAll("thead th").forEach((head, index) => head.querySelector("button").onclick = () => {
  const value = row => parseFloat(row.cells[index].textContent);
  const text = row => row.cells[index].textContent;
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    return isNaN(x) && isNaN(y) ? text(a).localeCompare(text(b)) : isNaN(x) ? 1 : isNaN(y) ? -1 : y - x;
  });
  body.append(...rows);
  document.querySelectorAll("thead th").forEach(each => each.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", "descending");
});
</script>
</html>
"""
