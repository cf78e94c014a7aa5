"""From a table of texts to a folder with scores, small tables, sentences for a methods section, and a page.

Requires the extra `report` (matplotlib, openpyxl, pyreadstat, scipy), and `onnx` for the other back ends.
"""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .. import DEFAULT_CHECKPOINT
from ..data.answers import columns_of
from ..data.tables import TableSettings
from ..data.writing import EXCEL_ROWS, write_table
from ..io import atomic_folder, write_text
from ..modeling.errors import LiminalError
from .columns import Input, find_text, read_input
from .findings import Columns, Findings

if TYPE_CHECKING:
    from ..scoring import Scorer

_PAGE = "index.html"


@dataclass(frozen=True)
class TableReport:
    """What a report came to.

    Args:
        folder: with the page and the files.
        counts: of rows: all, read, empty, ... as the page has them.
        tables: what the page and the files in `tables/` show, by their names: columns with a value per row.
        text: the column with the texts.
    """

    folder: Path
    counts: dict[str, int]
    tables: dict[str, Columns]
    text: str

    def __str__(self) -> str:
        what = ", ".join(f"{count:,} {what}" for what, count in self.counts.items() if count or what == "read")
        return f"{what}: {self.folder / _PAGE}"


def report(
    path: str | os.PathLike,
    folder: str | os.PathLike,
    model: "str | os.PathLike | Scorer" = DEFAULT_CHECKPOINT,
    *,
    text: str | None = None,
    group: str | None = None,
    time: str | None = None,
    prefix: str = "",
    backend: str = "torch",
    threads: int | None = None,
    include_unlike: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> TableReport:
    """Reads the texts of a table, and writes a folder with all that can be said of them.

    `index.html` shows figures of texts without labels, groups, the most extreme and the most doubtful texts, and the
    rows that were not read. `scores.csv` and `scores.xlsx` have a row per row of the table, with its columns, as
    `liminal score` writes them; `tables/` has the numbers of the page, `methods.md` sentences for a methods section.

    Args:
        path: a CSV, TSV, JSON, Parquet, Excel or SPSS file that fits into memory.
        folder: where to; it must be new, empty, or with `overwrite` a report.
        model: a checkpoint's folder, a run's folder or a Hub id; or a `Scorer`, such as one of a model in memory.
        text: column with the texts; None finds it.
        group: column whose values are compared: means, intervals, effect sizes.
        time: column with numbers or dates.
        prefix: before the names of the new columns.
        backend, threads: as in `Scorer`; a `Scorer` has its own.
        include_unlike: count texts unlike the training texts in figures and means; else they are in the files alone.
        overwrite: replace the report that is in the folder.
        progress: is called with the rows done and the rows there are.
        options: fields of `TableSettings` that say how the table is read, such as `sheet="Answers"`.

    Raises:
        FileNotFoundError: there is no such table or checkpoint.
        LiminalError: the table can't be read, a column is not there or unfit, the folder is not free, or the table is
            no path or the model neither path nor `Scorer`; the message says what to type.
        ImportError: the extra is not installed; the message has the line to type.

    Example:
        >>> from liminal_hf import report
        >>> lines = ["group;answer", "a;What a lovely surprise!", "b;I hate this company.", "b;"]
        >>> _ = Path("mine.csv").write_text("\\n".join(lines), encoding="utf-8")
        >>> result = report("mine.csv", "mine", text="answer", group="group", threads=1)
        >>> result.counts["rows"], result.counts["empty"], result.tables["groups"]["texts"][:2]
        (3, 1, [1, 1])
        >>> sorted(path.name for path in Path("mine").iterdir())
        ['index.html', 'methods.md', 'scores.csv', 'scores.xlsx', 'tables']
    """
    from ..scoring import Scorer

    if not isinstance(path, str | os.PathLike):
        raise LiminalError(
            f"A report needs the path of a table, got a {type(path).__name__}. Write the table into a file first, such "
            "as mine.csv, and give its path."
        )
    if not isinstance(model, str | os.PathLike | Scorer):
        raise LiminalError(
            f"The model must be a path, a Hub id or a Scorer, got a {type(model).__name__}. Give the path of a "
            "checkpoint, or Scorer(model, tokenizer=tokenizer)."
        )
    # Before any work is done, what would stop it at the end.
    for module in ("matplotlib", "openpyxl", "scipy"):
        _import(module)
    target, source = _free(folder, overwrite), Path(path)
    if unknown := set(options) - set(TableSettings.__dataclass_fields__):
        raise LiminalError(f"report does not take {', '.join(sorted(unknown))}.")
    settings = TableSettings(text="", **options)
    settings = replace(settings, text=text or find_text(source, settings))
    given = read_input(source, settings, group, time)

    from ..export.checkpoint import find_checkpoint

    scorer = model
    if not isinstance(scorer, Scorer):
        scorer = Scorer(find_checkpoint(os.fspath(scorer), adapters=True), backend, threads=threads)
    names = given.table.columns.column_names
    if taken := [name for name in columns_of(scorer.config).names if prefix + name in names]:
        raise LiminalError(
            f"The table has a column {prefix + taken[0]!r} already. Put something before the new names, such as "
            "--prefix pad_ (in Python prefix='pad_')."
        )
    answers = _answers(scorer, given, progress)
    findings = Findings(given, scorer.config, answers, include_unlike)

    from .drawing import figures_of
    from .methods import describe_reader, references, sentences
    from .page import build_page

    reader = describe_reader(scorer)
    methods, cited = sentences(findings, reader), references(findings, reader)
    figures = figures_of(findings)
    with atomic_folder(target) as part:
        _write_scores(findings, prefix, part)
        (part / "tables").mkdir()
        for name, columns in findings.tables.items():
            write_table(part / "tables" / f"{name}.csv", columns, given.table.file.like)
        listed = "\n".join(f"- {reference}" for reference in cited)
        write_text(part / "methods.md", "\n\n".join([*methods, listed]) + "\n")
        files = [file.relative_to(part).as_posix() for file in sorted(part.rglob("*")) if file.is_file()]
        write_text(part / _PAGE, build_page(findings, figures, methods, cited, files))
    return TableReport(Path(folder), findings.counts, findings.tables, given.table.file.text)


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"A report needs {module}: pip install 'liminal_hf[report]' ({error})") from error


def _free(folder: str | os.PathLike, overwrite: bool) -> Path:
    """The folder, as far as it may be written."""
    from .style import GENERATOR

    target = Path(folder).absolute()
    if target.is_file():
        raise LiminalError(f"{folder} is a file. A report is a folder: give another -o.")
    if target.is_dir() and any(target.iterdir()):
        page = target / _PAGE
        if not (page.is_file() and GENERATOR in page.read_text(encoding="utf-8", errors="replace")[:1000]):
            raise LiminalError(f"{folder} is not empty, and holds no report. Give another -o, or a new folder.")
        if not overwrite:
            raise LiminalError(f"{folder} holds a report. Give another -o, or replace it: --overwrite")
    return target


def _answers(scorer: "Scorer", given: Input, progress: Callable[[int, int], None] | None) -> pa.Table:
    total, done = len(given.table), 0

    def on_rows(rows: int) -> None:
        nonlocal done
        done += rows
        if progress:
            progress(done, total)

    return scorer.score(given.table.texts, problems=given.table.errors, on_rows=on_rows)


def _write_scores(findings: Findings, prefix: str, folder: Path) -> None:
    table, like = findings.source.table.columns, findings.source.table.file.like
    for name, column in zip(findings.answers.column_names, findings.answers.columns, strict=True):
        table = table.append_column(f"{prefix}{name}", column)
    write_table(folder / "scores.csv", table, like)
    if len(table) <= EXCEL_ROWS:
        write_table(folder / "scores.xlsx", table, like)
