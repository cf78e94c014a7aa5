"""`liminal score --person`: each row from the ratings before it, a table of persons, errors before any work."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Run
from scoring_kit import tiny_checkpoint

from liminal_hf.data.table_settings import TableSettings
from liminal_hf.data.tables import read_table
from liminal_hf.modeling.configuration_liminal import LiminalConfig
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.modeling.person_prior import PersonPrior, fit_person_prior
from liminal_hf.scoring import PersonColumns, score_persons, score_table
from liminal_hf.scoring.persons import PersonHistory

HEAD = ["who", "day", "text", "V", "A"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def write(path: Path, rows: list[list[Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEAD, *rows])
    return path


def some_rows(persons: int = 6, each: int = 7) -> list[list[Any]]:
    """Rows of several persons, mixed, in no order of time, some without ratings."""
    draw = np.random.default_rng(0)
    rows = []
    for person in range(persons):
        for turn in range(each):
            value = int(draw.integers(1, 10))
            rows.append(
                [f"p{person}", f"2024-03-{turn + 1:02d}", f"w{turn + 3} w{person + 3}", value, 5 if turn % 2 else ""]
            )
            if turn % 3 == 2:
                rows[-1][3] = ""
    return [rows[index] for index in draw.permutation(len(rows))]


def command(source: Path, output: Path, checkpoint: str, *options: Any) -> list[str]:
    """The arguments of one run."""
    fixed = ["--person", "who", "--ratings", "pleasure=V,arousal=A", "--scale", "1,9", "--threads", "1"]
    return ["score", str(source), "-o", str(output), "-m", checkpoint, *fixed, *map(str, options)]


def test_each_row_follows_the_ratings_before_it(tmp_path: Path, checkpoint: str, run: Run) -> None:
    rows = some_rows()
    source = write(tmp_path / "mine.csv", rows)
    assert run(*command(source, tmp_path / "out.csv", checkpoint, "--time", "day"))[0] == 0
    table = read_table(tmp_path / "out.csv", TableSettings(text="text"))
    assert table["who"] == [row[0] for row in rows], "all rows, in their order"
    assert not list(tmp_path.glob("*before-persons*"))
    columns = ["pleasure", "arousal", "dominance"]
    predictions, adjusted = table.numbers(columns), table.numbers([f"adjusted_{name}" for name in columns])
    ratings = np.full_like(predictions, np.nan)
    for target, column in ((0, 3), (1, 4)):
        ratings[:, target] = [np.nan if row[column] == "" else (row[column] - 5) / 4 for row in rows]
    days = np.array([int(str(row[1])[-2:]) for row in rows])
    prior = PersonPrior.of_model(LiminalConfig.from_pretrained(checkpoint))
    for index, row in enumerate(rows):
        for target in range(3):
            before = [i for i, one in enumerate(rows) if one[0] == row[0] and days[i] < days[index]]
            apart = [ratings[i, target] - predictions[i, target] for i in before if not np.isnan(ratings[i, target])]
            expected = predictions[index, target]
            if apart:
                expected = np.clip(expected + sum(apart) / (len(apart) + float(prior.shrinkage[target])), -1, 1)
            assert adjusted[index, target] == pytest.approx(expected, abs=1e-5)
            assert apart or adjusted[index, target] == predictions[index, target]
    persons = read_table(tmp_path / "out.persons.csv", TableSettings(text=""))
    assert persons["person"] == [f"p{n}" for n in dict.fromkeys(int(row[0][1]) for row in rows)]
    assert {"turns", "last_time", "ratings_pleasure", "level_arousal", "offset_pleasure"} <= set(
        persons.columns.column_names
    )
    assert persons.numbers(["turns"]).tolist() == [[7]] * 6 and set(persons["last_time"]) == {"2024-03-07"}


def test_a_rating_reaches_no_row_of_its_own_time_or_before_and_no_other_person(
    tmp_path: Path, checkpoint: str, run: Run
) -> None:
    rows = [["a", day, f"w{day + 3}", "", ""] for day in range(1, 6)] + [
        ["b", day, f"w{day + 3}", "", ""] for day in range(1, 6)
    ]
    rows[2][3] = 9
    assert (
        run(*command(write(tmp_path / "one.csv", rows), tmp_path / "out.parquet", checkpoint, "--time", "day"))[0] == 0
    )
    table = pq.read_table(tmp_path / "out.parquet").to_pydict()
    moved = [mine != text for mine, text in zip(table["adjusted_pleasure"], table["pleasure"], strict=True)]
    assert moved == [False, False, False, True, True, False, False, False, False, False]
    assert table["adjusted_arousal"] == table["arousal"]


def test_a_later_rating_and_a_stranger_leave_every_earlier_row_as_it_was(tmp_path: Path, checkpoint: str) -> None:
    columns = PersonColumns(person="who", time="day", ratings="pleasure=V,arousal=A", scale="1,9")
    rows = sorted(some_rows(persons=12), key=lambda row: row[1])
    last = max(index for index, row in enumerate(rows) if row[3] != "")

    def adjusted(name: str, rows: list[list[Any]]) -> list[tuple[float, ...]]:
        score_persons(write(tmp_path / f"{name}.csv", rows), tmp_path / f"{name}.parquet", checkpoint, columns)
        table = pq.read_table(tmp_path / f"{name}.parquet")
        return list(zip(*(table[f"adjusted_{target}"].to_pylist() for target in ("pleasure", "arousal")), strict=True))

    before = adjusted("before", rows)
    other = [list(row) for row in rows]
    other[last][3] = 1 if rows[last][3] != 1 else 9
    assert adjusted("other", other) == before
    strangers = [["z", f"2024-03-{day:02d}", "w9", 1 + 8 * (day % 2), 9] for day in range(1, 8)]
    assert adjusted("strangers", rows + strangers)[: len(rows)] == before
    other[0][3] = 9 if rows[0][3] != 9 else 1
    assert adjusted("earlier", other) != before


def test_a_prior_of_an_earlier_study_says_how_much_a_rating_counts(tmp_path: Path, checkpoint: str, run: Run) -> None:
    rows = sorted(some_rows(persons=12), key=lambda row: row[1])
    source = write(tmp_path / "mine.csv", rows)
    assert run(*command(source, tmp_path / "first.parquet", checkpoint, "--time", "day"))[0] == 0
    first = pq.read_table(tmp_path / "first.parquet")
    predictions = np.column_stack([first[name].to_numpy() for name in ("pleasure", "arousal", "dominance")])
    ratings = np.array([[np.nan if row[3] == "" else (row[3] - 5) / 4] * 3 for row in rows])
    days = [int(row[1][-2:]) for row in rows]
    prior = fit_person_prior(predictions, ratings, [row[0] for row in rows], days)
    prior.residual_between = torch.full((3,), 0.3, dtype=torch.float64)  # these persons do not differ
    prior.save(tmp_path / "prior.safetensors")
    options = ["--time", "day", "--prior", tmp_path / "prior.safetensors"]
    code, _, said = run(*command(source, tmp_path / "next.parquet", checkpoint, *options))
    assert code == 0 and "guess" not in said
    index = max(index for index, row in enumerate(rows) if row[0] == "p0")
    own = [one for one, row in enumerate(rows) if row[0] == "p0" and one < index and row[3] != ""]
    apart = ratings[own, 0] - predictions[own, 0]
    expected = predictions[index, 0] + apart.sum() / (len(own) + float(prior.shrinkage[0]))
    found = pq.read_table(tmp_path / "next.parquet")["adjusted_pleasure"][index].as_py()
    assert found == pytest.approx(np.clip(expected, -1, 1), abs=1e-5)


def test_a_prior_that_is_none_is_refused_before_any_text_is_read(
    tmp_path: Path, checkpoint: str, refused: Callable[..., str]
) -> None:
    source, prior = write(tmp_path / "mine.csv", some_rows()), tmp_path / "prior.safetensors"
    options = command(source, tmp_path / "out.csv", checkpoint, "--prior", prior)
    assert "There is no PersonPrior at" in refused(*options)
    PersonPrior.guess([0.3], [0.2]).save(prior)
    assert "must hold a finite number for each of pleasure, arousal, dominance" in refused(*options)
    wrong = PersonPrior.guess([0.3] * 3, [0.2] * 3)
    wrong.residual_between = -wrong.residual_between
    wrong.save(prior)
    assert "residual_between is a variance, and none is below 0" in refused(*options)
    assert not (tmp_path / "out.csv").exists()


def test_an_adjusted_column_that_is_there_already_is_refused(
    tmp_path: Path, checkpoint: str, refused: Callable[..., str], run: Run
) -> None:
    source = tmp_path / "mine.csv"
    source.write_text("who,text,V,A,adjusted_pleasure\na,w3,9,,1\na,w4,,,2\n", encoding="utf-8")
    said = refused(*command(source, tmp_path / "out.csv", checkpoint))
    assert "has a column 'adjusted_pleasure' already" in said and "--prefix pad_" in said
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"]
    assert run(*command(source, tmp_path / "out.csv", checkpoint, "--prefix", "pad_"))[0] == 0
    assert run(*command(source, tmp_path / "kept.csv", checkpoint, "--keep", "who"))[0] == 0


def test_too_many_rows_for_a_sheet_are_refused_before_any_text_is_read(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("liminal_hf.scoring.persons.EXCEL_ROWS", 41)
    source = write(tmp_path / "mine.csv", some_rows())
    columns = PersonColumns(person="who", time="day", ratings="pleasure=V", scale="1,9")
    with pytest.raises(LiminalError, match="an Excel sheet takes 41 rows"):
        score_persons(source, tmp_path / "out.xlsx", checkpoint, columns)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"]


def test_a_table_that_can_not_be_put_in_place_leaves_no_half_and_a_rerun_goes_on(
    tmp_path: Path, checkpoint: str
) -> None:
    source, beside = write(tmp_path / "mine.csv", some_rows()), tmp_path / "out.persons.csv"
    columns = PersonColumns(person="who", time="day", ratings="pleasure=V", scale="1,9")
    with pytest.raises(OSError, match="directory"):
        score_persons(
            source, tmp_path / "out.csv", checkpoint, columns, progress=lambda *_: beside.mkdir(exist_ok=True)
        )
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"mine.csv", "out.persons.csv", "out.before-persons.parquet"}
    beside.rmdir()
    assert score_persons(source, tmp_path / "out.csv", checkpoint, columns).done_before == 42
    assert {path.name for path in tmp_path.iterdir()} == {"mine.csv", "out.csv", "out.persons.csv"}


def test_a_person_of_whom_nothing_was_read_has_no_level(tmp_path: Path, checkpoint: str) -> None:
    source = write(tmp_path / "mine.csv", [["a", 1, "w4", 9, ""], ["b", 2, "", 9, ""], ["b", 3, "", 9, ""]])
    columns, seen = PersonColumns(person="who", ratings="pleasure=V", scale="1,9"), list[PersonHistory]()
    score_persons(source, tmp_path / "out.parquet", checkpoint, columns, on_person=seen.append)
    one, other = pq.read_table(tmp_path / "out.persons.parquet").to_pylist()
    assert other["turns"] == other["ratings_pleasure"] == 0 and [history.person for history in seen] == ["a"]
    for what in ("level", "level_doubt", "offset", "last"):
        assert other[f"{what}_pleasure"] is None and one[f"{what}_pleasure"] is not None


def test_rows_that_are_nobodys_or_unread_stay_as_they_are(tmp_path: Path, checkpoint: str, run: Run) -> None:
    rows = [
        ["a", 1, "w4", 9, ""],
        ["", 2, "w5", 9, ""],
        ["a", "", "w6", 9, ""],
        ["a", 3, "", 9, ""],
        ["a", 4, "w7", "", ""],
    ]
    assert (
        run(*command(write(tmp_path / "some.csv", rows), tmp_path / "out.parquet", checkpoint, "--time", "day"))[0] == 0
    )
    table = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert table["error"] == [None, None, None, "empty", None]
    assert table["adjusted_pleasure"][:3] == table["pleasure"][:3] and table["adjusted_pleasure"][3] is None
    assert table["adjusted_pleasure"][4] > table["pleasure"][4]
    assert pq.read_table(tmp_path / "out.persons.parquet").to_pydict()["ratings_pleasure"] == [1]


def test_an_interrupted_run_goes_on_to_the_same_table(tmp_path: Path, checkpoint: str) -> None:
    source = write(tmp_path / "mine.csv", some_rows())
    columns = PersonColumns(person="who", time="day", ratings="pleasure=V", scale="1,9")
    score_persons(source, tmp_path / "whole.csv", checkpoint, columns, threads=1)
    # As if it had ended after the texts and the table of persons.
    (tmp_path / "again.persons.csv").write_bytes((tmp_path / "whole.persons.csv").read_bytes())
    score_table(source, tmp_path / "again.before-persons.parquet", checkpoint, threads=1)
    report = score_persons(source, tmp_path / "again.csv", checkpoint, columns, threads=1)
    assert report.done_before == report.rows == 42
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ((0, 3, 12), [], "column 'V' holds 12 in line 2, outside of 1..9"),
        ((1, 3, "good"), [], "'good' in line 3, which is no number"),
        ((0, 1, "soon"), ["--time", "day"], "holds 'soon' (line 2), which is neither a number nor a date"),
        (None, ["--ratings", "joy=V"], "There is no target 'joy' to rate. The model has pleasure, arousal, dominance"),
        (None, ["--person", "whose"], "'whose'"),
    ],
)
def test_what_is_wrong_is_said_before_any_text_is_read(
    tmp_path: Path, checkpoint: str, change: Any, options: list[str], message: str, refused: Callable[..., str]
) -> None:
    rows = some_rows()
    if change:
        rows[change[0]][change[1]] = change[2]
    assert message in refused(*command(write(tmp_path / "mine.csv", rows), tmp_path / "out.csv", checkpoint, *options))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"]


def test_the_options_go_together(tmp_path: Path, checkpoint: str, refused: Callable[..., str]) -> None:
    source = write(tmp_path / "mine.csv", some_rows())
    for options in (["--person", "who"], ["--ratings", "pleasure=V"], ["--time", "day"]):
        said = refused("score", source, "-o", tmp_path / "o.csv", "-m", checkpoint, *options)
        assert "--person COLUMN --ratings COLUMNS" in said
    assert "is there already" in refused(*command(source, source, checkpoint))


def test_json_lines_hold_the_same(tmp_path: Path, checkpoint: str, run: Run) -> None:
    assert run(*command(write(tmp_path / "mine.csv", some_rows()), tmp_path / "out.jsonl", checkpoint))[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 42 and all("adjusted_dominance" in row for row in rows)


def test_a_figure_of_each_person_who_rates(tmp_path: Path, checkpoint: str, run: Run) -> None:
    rows = [*some_rows(persons=2), ["silent", "2024-03-01", "w3", "", ""], ["../a b", "2024-03-02", "w4", 9, ""]]
    source, seen = write(tmp_path / "mine.csv", rows), list[PersonHistory]()
    columns = PersonColumns(person="who", time="day", ratings="pleasure=V,arousal=A", scale="1,9")
    score_persons(source, tmp_path / "out.parquet", checkpoint, columns, threads=1, on_person=seen.append)
    assert sorted(one.person for one in seen) == ["../a b", "p0", "p1"]
    persons = pq.read_table(tmp_path / "out.persons.parquet").to_pylist()
    for one in seen:
        (known,) = (row for row in persons if row["person"] == one.person)
        assert len(one.times) == known["turns"] and (np.diff(one.times) >= 0).all()
        level, low, high = one.levels[-1, 0]
        assert level == pytest.approx(known["level_pleasure"], abs=1e-6)
        assert (high - low) / 2 == pytest.approx(1.2816 * known["level_doubt_pleasure"], rel=1e-3)
        # A forecast begins at the last value, where that was a rating, and ends near the level.
        if not np.isnan(one.ratings[-1, 0]):
            assert one.expected[0, 0, 0] == pytest.approx(one.ratings[-1, 0])
        assert abs(one.expected[-1, 0, 0] - level) <= abs(one.expected[0, 0, 0] - level) + 1e-9
    drawn = command(source, tmp_path / "out.csv", checkpoint, "--time", "day", "--figures", tmp_path / "all")
    assert run(*drawn)[0] == 0
    names = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert {name.partition("-")[2] for name in names} == {"p0.png", "p1.png", "_a_b.png"}
    assert all((tmp_path / "all" / name).stat().st_size > 5000 for name in names)
