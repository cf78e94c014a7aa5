"""`liminal benchmark`: any reader of texts over the corpora that are at hand, and a page from many rows."""

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ..modeling.errors import LiminalError
from .shared import print_json, progress, shown


def benchmark(
    readers: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="minilm, mpnet, a folder or Hub id of a model of ours or of an AutoModelForSequenceClassification, "
            "module:function, vader, constant, or a lexicon (.csv, .tsv).",
            show_default=False,
        ),
    ] = None,
    corpora: Annotated[
        str | None, typer.Option(help="Names with commas: emobank,hutto-tweets.", show_default="all at hand")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", help="Your own corpora, NAME.yaml each: title, file, text, labels.", show_default=False
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(min=20, help="At most so many texts of a corpus, always the same; a page takes no other rows."),
    ] = 2000,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder that keeps a JSON row of each.", show_default=False)
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure also what the folder has a row of.")] = False,
    leaderboard: Annotated[
        Path | None, typer.Option(help="Also write a page (.html or .md) from the folder's rows.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per reader.")] = False,
) -> None:
    """Compare readers of texts: correlation, errors, calibration, behaviour, transfer and speed.

    Corpora are looked for in the folder that LIMINAL_DATA_DIR names; EmoBank is fetched where it is not there.
    """
    from ..benchmark.leaderboard import read_rows, write_page

    if leaderboard is not None and output is None:
        raise LiminalError("--leaderboard is made from the rows in a folder: -o FOLDER.")
    if not readers and leaderboard is None:
        raise LiminalError("What is to be measured? For example: liminal benchmark minilm vader")
    if leaderboard is not None and leaderboard.suffix not in (".html", ".md"):
        raise LiminalError(f"--leaderboard takes PAGE.html or PAGE.md, got {leaderboard}.")
    if readers:
        _measure(list(dict.fromkeys(readers)), corpora, folder, limit, output, again, as_json)
    if leaderboard is not None and output is not None:
        write_page(read_rows(output), leaderboard)
        print(f"The leaderboard is in {leaderboard}.", file=sys.stderr)


def _measure(
    names: list[str],
    wanted: str | None,
    folder: Path | None,
    limit: int,
    output: Path | None,
    again: bool,
    as_json: bool,
) -> None:
    from .. import DEFAULT_CHECKPOINT
    from ..benchmark.measure import row
    from ..benchmark.readers import Reader, open_reader

    sys.path.insert(0, str(Path.cwd()))  # for module:function
    opened = {name: open_reader(name) for name in names if again or output is None or not _has_row(output, name)}
    found = _corpora(wanted, folder, limit) if opened else []
    reference: Reader | None = None
    for name in names:
        if name not in opened:
            assert output is not None
            measured = json.loads(_file(output, name).read_text(encoding="utf-8"))
            print(f"liminal: {name} has a row in {output}; --again measures it anew.", file=sys.stderr)
        else:
            reference = reference or open_reader(DEFAULT_CHECKPOINT)
            reference.name = "minilm"
            measured = row(opened[name], found, reference, limit, progress)
            if output is not None:
                from ..io import write_text

                output.mkdir(parents=True, exist_ok=True)
                write_text(_file(output, name), json.dumps(measured, indent=1, ensure_ascii=False) + "\n")
        if as_json:
            print_json(measured)
        else:
            Console().print(_table(measured))
            _say(measured)


def _has_row(folder: Path, name: str) -> bool:
    """Whether a reader has been measured as it is now: not, where its files have changed since."""
    from ..benchmark.readers import files_of

    file = _file(folder, name)
    if not file.is_file():
        return False
    measured = json.loads(file.read_text(encoding="utf-8"))["about"].get("sha256")
    present = files_of(name) if measured else None
    return not present or present == measured


def _file(folder: Path, name: str) -> Path:
    """The row of a reader: its name as a file's, and a hash where that says less than the name."""
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    return folder / (plain + ("" if plain == name else "-" + hashlib.sha256(name.encode()).hexdigest()[:6]) + ".json")


def _corpora(wanted: str | None, folder: Path | None, limit: int | None) -> list[Any]:
    from ..benchmark import corpora

    known = corpora.names(folder)
    chosen = [name.strip() for name in wanted.split(",")] if wanted else list(known)
    if unknown := [name for name in chosen if name not in known]:
        raise LiminalError(f"There is no corpus {unknown[0]!r}. There are: {', '.join(known)}.")
    found = {name: corpora.load(known[name], limit) for name in chosen}
    absent = [name for name, corpus in found.items() if corpus is None]
    if absent:
        print(f"liminal: not at hand (see LIMINAL_DATA_DIR): {', '.join(absent)}.", file=sys.stderr)
    if len(absent) == len(found):
        raise LiminalError("None of these corpora is at hand. LIMINAL_DATA_DIR names the folder that has them.")
    return [corpus for corpus in found.values() if corpus is not None]


def _table(measured: dict[str, Any]) -> Table:
    from ..modeling.configuration_liminal import DIMENSIONS

    table = Table(
        title=f"{measured['name']} ({measured['kind']})", box=box.SIMPLE, title_justify="left", padding=(0, 1)
    )
    table.add_column("corpus", overflow="fold")
    for head in ("texts", "r V / A / D", "mean r", "CCC", "MAE", "in 80%"):
        table.add_column(head, justify="right", no_wrap=True)
    for one in measured["corpora"].values():
        title = one["title"] + (" *" if one["trained_on"] else "")
        if one["r"] is None:
            table.add_row(title, f"{one['rows']:,}", *["-"] * 5)
            continue
        coverage = (one.get("coverage") or {}).get("80%")
        table.add_row(
            title,
            f"{one['rows']:,}",
            " / ".join(shown(one["r"].get(name), 2) for name in DIMENSIONS),
            *(shown(one[figure]["mean"], 3) for figure in ("r", "ccc", "mae")),
            "-" if coverage is None else f"{coverage:.0%}",
        )
    return table


def _say(measured: dict[str, Any]) -> None:
    """What the table does not hold."""
    from ..benchmark.measure import LIMIT

    how, speed = measured["behaviour"], measured["speed"]
    if how:
        print(f"Behaviour: {how['mean']:.0%} of the kinds of changed sentences as expected, on average.")
    if speed:
        rate, times = speed["texts_per_second"], speed["times_reference"]
        print(f"Speed: {rate:,.0f} texts per second here, {times:.2f} times that of minilm.")
    if any(one["trained_on"] for one in measured["corpora"].values()):
        print("* It was trained on the training part of this corpus; the others are transfer.")
    for one in measured["corpora"].values():
        if one.get("share_of_ceiling") is not None:
            print(f"{one['title']}: {one['share_of_ceiling']:.0%} of the r that people's own disagreement allows.")
        for key, what in (
            ("unread", "were not read"),
            ("truncated", "were read in part"),
            ("left_out", "have no label"),
        ):
            if one[key]:
                print(f"{one['title']}: {one[key]} texts {what}.", file=sys.stderr)
    if measured["limit"] != LIMIT:
        print(f"At most {measured['limit']} texts of a corpus: a leaderboard takes rows of {LIMIT:,}.")
