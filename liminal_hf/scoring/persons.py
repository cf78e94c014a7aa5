"""A scored table, adjusted for persons who rate some of their rows themselves, and a table of these persons.

Requires numpy, pyarrow and torch. The texts are scored first, as `score_table` does it; what follows is a closed form.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ..data.cells import OrderColumn, find_decimal, is_no_value, numbers
from ..data.formats import as_text
from ..data.tables import open_table, write_table
from ..data.writing import EXCEL_ROWS, output_ending
from ..modeling.configuration_liminal import LiminalConfig
from ..modeling.errors import LiminalError
from ..modeling.person_prior import PersonPrior
from ..modeling.persons import PersonMemory
from .job import Progress, Report, make_scorer, score_table
from .shards import ScoreSettings, find_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PersonColumns:
    """Which columns of a table say who wrote a row, when, and how the writer rated it.

    Args:
        person: column with the person; a row without one is nobody's, and stays as it is.
        time: column with numbers or dates; None takes the rows in their order. A row without a time stays as it is.
        ratings: the targets' columns: names in the order of the targets, or a mapping from target to column; as one
            string, "pleasure=V,arousal=A". An empty cell is no rating.
        scale: lowest and highest possible rating; None: those of the model's labels.
        prior: what is known of persons: a `PersonPrior`, or the file that `PersonPrior.save` wrote; None is
            `PersonPrior.of_model`: the model's own, where a recipe fitted one, or a guess.
    """

    person: str
    ratings: Any
    time: str | None = None
    scale: Any = None
    prior: PersonPrior | str | os.PathLike | None = None


@dataclass
class _Side:
    """What the input says beside the texts, row by row."""

    persons: list[str | None]
    times: np.ndarray  # (rows,) float64, NaN for none; days where they are dates
    when: list[Any]  # the cells of the time column
    ratings: np.ndarray  # (rows, T) in label units, NaN for none


@dataclass(frozen=True)
class PersonHistory:
    """One person who has rated something, for `liminal_hf.figures.person_history`, which says what each field is."""

    person: str
    times: np.ndarray
    readings: np.ndarray
    ratings: np.ndarray
    levels: np.ndarray
    ahead: np.ndarray
    expected: np.ndarray


def score_persons(
    path: str | os.PathLike,
    output: str | os.PathLike,
    checkpoint: str,
    columns: PersonColumns,
    settings: ScoreSettings | None = None,
    *,
    progress: Progress | None = None,
    on_person: Callable[[PersonHistory], None] | None = None,
    **options: Any,
) -> Report:
    """Reads every text of a table, and adjusts the answers by what each person has rated *before*.

    The output has a column `adjusted_<target>` per target more; a row's own rating and later ones do not reach it.
    Beside the output lies `<name>.persons.<ending>` with a row per person: turns, and per target the number of ratings,
    the usual level and its doubt, how far the person lies from what their texts say, and the last value; a person none
    of whose texts was read has no level.

    How much a rating counts is the prior's to say: the one given, else the model's own (`data.person` of its recipe).
    Without one it is a fixed guess, and a warning says so: no prior is fitted on this table, since later ratings and
    those of other persons would reach a row by it. Fit one on a study that is finished, and give it to the next:
    `fit_person_prior(predictions, ratings, persons, times, PersonPrior.of_model(config)).save("prior.safetensors")`,
    both in label units, times in days where they are dates.

    Args:
        path, output, checkpoint, settings, progress, options: as in `score_table`; the output is one file. An
            interrupted run goes on.
        columns: who, when, and which ratings.
        on_person: is called with the history of each person who has rated something.

    Returns:
        As `score_table`.

    Raises:
        LiminalError: as in `score_table`; a rating that is no number or outside of the scale; a prior of other targets.
        FileNotFoundError: there is no such table, or no such prior.

    Example:
        >>> import liminal_hf
        >>> rows = ["Ada,I went home.,9", "Ada,I went out.,8", "Ada,I went home.,", "Ben,I went home.,4"]
        >>> _ = Path("diary.csv").write_text("\\n".join(["who,text,mood", *rows]), encoding="utf-8")
        >>> columns = PersonColumns(person="who", ratings="pleasure=mood", scale="1,9")
        >>> _ = score_persons("diary.csv", "out.parquet", liminal_hf.DEFAULT_CHECKPOINT, columns, threads=1)
        >>> table = pq.read_table("out.parquet").to_pydict()
        >>> [mine > text for mine, text in zip(table["adjusted_pleasure"], table["pleasure"])]
        [False, True, True, False]
        >>> pq.read_table("out.persons.parquet")["person"].to_pylist()
        ['Ada', 'Ben']
    """
    settings = ScoreSettings(**options) if settings is None else replace(settings, **options)
    output = Path(output)
    ending = output_ending(output)
    beside = output.with_name(f"{output.stem}.persons{ending}")
    scored = output.with_name(f"{output.stem}.before-persons.parquet")
    for one in (output, beside):
        if one.exists() and not (one == beside and scored.exists()):  # what an interrupted run left is written anew
            raise LiminalError(f"{one} is there already. Give another -o, or delete it.")
    config = make_scorer(checkpoint, settings, device="cpu").config
    prior = prior_of(columns.prior, config)
    side, like = _side(find_files(path), settings, columns, config)
    if ending == ".xlsx" and len(side.persons) > EXCEL_ROWS:
        raise LiminalError(f"{output}: an Excel sheet takes {EXCEL_ROWS:,} rows. Give .csv or .parquet.")
    report = score_table(path, scored, checkpoint, settings, progress=progress)
    table = pq.read_table(scored).replace_schema_metadata(None)
    names = [settings.prefix + name for name in config.targets]
    predictions = torch.tensor(
        np.column_stack([table[name].to_numpy().astype(np.float64) for name in names])  # a missing cell becomes NaN
    )
    answers, memory, people = adjust_rows(side, predictions, prior)
    low, high = config.label_range
    adjusted = answers.clamp(low, high).float().numpy()
    for index, name in enumerate(config.targets):
        cells = pa.array(adjusted[:, index], mask=np.isnan(adjusted[:, index]))
        table = table.append_column(f"{settings.prefix}adjusted_{name}", cells)
    with tempfile.TemporaryDirectory(prefix=".persons-", dir=output.parent) as name:
        staged, persons = Path(name, output.name), Path(name, beside.name)
        write_table(staged, table, like)
        write_table(persons, person_rows(memory, people, prior, config, side), like)
        persons.replace(beside)
        staged.replace(output)  # last: an output that is there is a run that is done
    scored.unlink()
    if on_person is not None:
        for history in histories(side, predictions, prior):
            on_person(history)
    return replace(report, output=output)


def _side(
    files: Sequence[Path], settings: ScoreSettings, columns: PersonColumns, config: LiminalConfig
) -> tuple[_Side, ScoreSettings]:
    """The columns that say who, when and how rated, read before any text; and the dialect of the table."""
    like = replace(settings, labels=columns.ratings)
    wanted = dict(like.labels) if isinstance(like.labels, Mapping) else like.label_columns(config.targets)
    if unknown := [name for name in wanted if name not in config.targets]:
        raise LiminalError(f"There is no target {unknown[0]!r} to rate. The model has {', '.join(config.targets)}.")
    cells: dict[str, list[Any]] = {name: [] for name in (columns.person, columns.time, *wanted.values()) if name}
    lines: list[str] = []
    order = OrderColumn(columns.time, settings.date_order, settings.decimal) if columns.time else None
    added = [f"{settings.prefix}adjusted_{name}" for name in config.targets]
    for path in files:
        file = open_table(path, settings, list(cells))
        kept = file.schema.names if settings.keep is None else list(map(file.column, settings.keep))
        if taken := [name for name in added if name in kept]:
            raise LiminalError(
                f"The input has a column {taken[0]!r} already. Put something before the new names, such as --prefix "
                "pad_, or choose what to keep: --keep COLUMN,COLUMN"
            )
        like = replace(like, separator=file.like.separator, decimal=file.like.decimal)
        for part in file.batches():
            for name, values in cells.items():
                values += part[name]
            lines += map(part.where, range(len(part)))
    where = lines.__getitem__
    persons = [None if is_no_value(one) or one == "" else as_text(one) for one in cells[columns.person]]
    when = cells[columns.time] if columns.time else [None] * len(lines)
    times = np.arange(len(lines), dtype=np.float64)
    if order is not None:
        for line, value in zip(lines, when, strict=True):
            order.add(value, line)
        order.decide()
        times = np.array([order.number(value) for value in when])
    ratings = np.full((len(lines), len(config.targets)), np.nan)
    low, high = config.label_range
    first, last = replace(settings, scale=columns.scale).scale if columns.scale is not None else (low, high)
    for target, name in wanted.items():
        what = f"{files[0]}: column {name!r}"
        decimal = like.decimal or find_decimal(cells[name], None, what)
        given = numbers(cells[name], decimal, what, where)
        if (wrong := np.flatnonzero((given < first) | (given > last))).size:
            raise LiminalError(
                f"{what} holds {given[wrong[0]]:g} in {where(int(wrong[0]))}, outside of {first:g}..{last:g}. Say the "
                f"lowest and highest possible rating: --scale 1,9"
            )
        ratings[:, config.targets.index(target)] = low + (given - first) / (last - first) * (high - low)
    return _Side(persons, times, when, ratings), like


def prior_of(given: PersonPrior | str | os.PathLike | None, config: LiminalConfig) -> PersonPrior:
    """The prior that was given, checked against the model's targets; else the model's own, or a guess and a warning."""
    if given is None:
        if config.person_prior is None:
            logger.warning("No prior of persons (the model's, or --prior FILE): how much a rating counts is a guess.")
        return PersonPrior.of_model(config)
    prior = given if isinstance(given, PersonPrior) else PersonPrior.load(given)
    for name, value in prior.items():
        if tuple(value.shape) != (len(config.targets),) or not bool(torch.isfinite(value).all()):
            raise LiminalError(
                f"The prior's {name} must hold a finite number for each of {', '.join(config.targets)}; it holds "
                f"{value.tolist()}. Fit it with the predictions of this model: fit_person_prior(...).save(FILE)"
            )
        if name not in ("mean", "persistence") and bool((value < 0).any()):
            raise LiminalError(f"The prior's {name} is a variance, and none is below 0; it holds {value.tolist()}.")
    if bool(((prior.persistence < 0) | (prior.persistence > 1)).any()):
        raise LiminalError(f"The prior's persistence lies between 0 and 1; it holds {prior.persistence.tolist()}.")
    return prior


def adjust_rows(side: _Side, predictions: Tensor, prior: PersonPrior) -> tuple[Tensor, PersonMemory, list[str]]:
    """The answers `(rows, T)`, each from the ratings before it; the persons' last states; and who they are."""
    number = {person: index for index, person in enumerate(dict.fromkeys(side.persons)) if person is not None}
    number = {person: index for index, person in enumerate(number)}
    order = sorted(
        (row for row, person in enumerate(side.persons) if person is not None and not np.isnan(side.times[row])),
        key=lambda row: side.times[row],
    )
    turns: list[list[int]] = []  # the rows that are a person's first, second, ...
    begun = [0] * len(number)
    for row in order:
        person = number[side.persons[row] or ""]
        if begun[person] == len(turns):
            turns.append([])
        turns[begun[person]].append(row)
        begun[person] += 1
    memory = PersonMemory.empty(len(number), predictions.shape[1])
    answers, ratings = predictions.clone(), torch.tensor(side.ratings)
    # The rating of a text that was not read says nothing: there is no prediction that it could differ from.
    ratings = ratings.masked_fill(predictions.isnan(), torch.nan)
    for rows in turns:
        people = torch.tensor([number[side.persons[row] or ""] for row in rows])
        answers[rows] = memory.rows(people).adjust(predictions[rows], prior)[0]
        after = memory.rows(people).observe(predictions[rows], ratings[rows], torch.tensor(side.times[rows]))
        for name, value in memory.items():
            value[people] = after[name]
    return answers, memory, list(number)


def histories(side: _Side, predictions: Tensor, prior: PersonPrior) -> Iterator[PersonHistory]:
    """What is known of each person who has rated something, turn by turn, and as long ahead as half of what was."""
    reach = NormalDist().inv_cdf(0.9)  # of 80% intervals
    for person in dict.fromkeys(side.persons):
        own = [row for row, name in enumerate(side.persons) if name == person and not np.isnan(side.times[row])]
        own.sort(key=lambda row: side.times[row])
        if person is None or (np.isnan(side.ratings[own]) | predictions[own].isnan().numpy()).all():
            continue
        memory, levels = PersonMemory.empty(1, predictions.shape[1]), []
        for row in own:
            rating = torch.tensor(side.ratings[[row]]).masked_fill(predictions[[row]].isnan(), torch.nan)
            memory = memory.observe(predictions[[row]], rating, float(side.times[row]))
            level, doubt = memory.level(prior)[0], reach * memory.level_variance(prior)[0].sqrt()
            levels.append(torch.stack([level, level - doubt, level + doubt], dim=-1).numpy())
        times = side.times[own]
        ahead = times[-1] + np.linspace(0, max((times[-1] - times[0]) / 2, 1.0), 30)
        found = [memory.forecast(prior, float(time)) for time in ahead]
        expected = [torch.stack([one.mean[0], one.low[0], one.high[0]], dim=-1).numpy() for one in found]
        yield PersonHistory(
            person, times, predictions[own].numpy(), side.ratings[own], np.array(levels), ahead, np.array(expected)
        )


def person_rows(
    memory: PersonMemory, people: list[str], prior: PersonPrior, config: LiminalConfig, side: _Side
) -> dict[str, list[Any]]:
    """The table of persons, by column."""
    low, high = config.label_range
    level, offset = memory.level(prior).clamp(low, high), memory.offset(prior)
    doubt = memory.level_variance(prior).sqrt()
    columns: dict[str, list[Any]] = {"person": list(people), "turns": memory.turn.tolist()}
    if any(value is not None for value in side.when):
        last: dict[str, tuple[float, Any]] = {}
        for person, time, cell in zip(side.persons, side.times, side.when, strict=True):
            if person is not None and not np.isnan(time) and time >= last.get(person, (-np.inf, None))[0]:
                last[person] = (float(time), cell)
        columns["last_time"] = [last[person][1] if person in last else None for person in people]
    for index, (name, is_trained) in enumerate(zip(config.targets, config.trained_targets, strict=True)):
        if not is_trained:
            continue
        columns[f"ratings_{name}"] = memory.count[:, index].tolist()
        found = {"level": level, "level_doubt": doubt, "offset": offset, "last": memory.last}
        for what, values in found.items():
            # Of a person none of whose texts was read, nothing is known.
            one = zip(values[:, index].tolist(), memory.turn.tolist(), strict=True)
            columns[f"{what}_{name}"] = [value if turns else None for value, turns in one]
    return columns
