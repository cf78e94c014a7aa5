"""`report` and `liminal report` on the default checkpoint: files, numbers, columns, the page, and what can go wrong."""

import csv
import datetime as dt
import html
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest
from conftest import tiny_model
from scipy import stats
from training_kit import WORDS, encoder_with_tokenizer

import liminal_hf
from liminal_hf import report
from liminal_hf.data import TableSettings
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.reporting import eta_squared, hedges_g, mean_interval, welch_difference
from liminal_hf.reporting.columns import find_text, read_input, sorted_groups, spans
from liminal_hf.reporting.findings import rows_of

RNG = np.random.default_rng(0)
ONE, OTHER, THIRD = RNG.normal(0.1, 0.2, 12), RNG.normal(0, 0.1, 9), RNG.normal(0, 0.3, 5)
# Group, day of May 2024, text.
ROWS: list[tuple[Any, Any, Any]] = [
    ("thanks", 1, "What a lovely surprise, thank you so much!"),
    ("thanks", 1, "The children laughed, and I was happy all day."),
    ("thanks", 2, "Dinner was fine."),
    ("thanks", 3, "I love my garden and the wonderful flowers in it."),
    ("control", 1, "The train leaves at nine."),
    ("control", 2, "I hate this company, and I am furious."),
    ("control", 2, "He said <i>no</i> & we went home together."),
    ("control", 3, "Nobody came to the funeral, and I cried alone."),
    ("control", 3, "Das Wetter war schön, aber die Arbeit hat mich sehr müde gemacht."),
    ("thanks", 3, None),
    (None, None, "=1+1 is what he wrote on the board."),
    ("control", 2, "\U0001f621\U0001f621"),
    ("thanks", 2, "We walked home together and talked. " * 60),
]


class _Page(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def survey(path: Path, rows: list[tuple[Any, Any, Any]]) -> Path:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(["who", "condition", "day", "answer"])
    for number, (group, day, text) in enumerate(rows, start=1):
        sheet.append([number, group, day and dt.datetime(2024, 5, day), None])
        cell = sheet.cell(number + 1, 4, text)
        cell.data_type = "s" if text else cell.data_type
    book.save(path)
    return path


def csv_rows(path: Path, separator: str = ",") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline=""), delimiter=separator))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Path:
    """A report that the command wrote, in a process of its own, from an Excel file."""
    home = tmp_path_factory.mktemp("report")
    survey(home / "survey.xlsx", ROWS)
    command = [sys.executable, "-m", "liminal_hf", "report", "survey.xlsx", "-o", "out", "--threads", "1"]
    done = subprocess.run(
        [*command, "--group", "Condition", "--time", "day"], cwd=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "13 rows, 11 read, 1 empty, 1 not readable" in done.stdout
    assert "1 unlike the training texts, 10 in figures and means" in done.stdout
    assert "the texts are those of column 'answer'; another: --text" in done.stderr
    return home / "out"


# ---- statistics ----


def test_means_and_effects_are_those_of_the_formulas() -> None:
    mean, deviation, low, high = mean_interval(ONE)
    assert (mean, deviation) == (pytest.approx(ONE.mean()), pytest.approx(ONE.std(ddof=1)))
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 11, ONE.mean(), stats.sem(ONE)))
    assert welch_difference(ONE, OTHER)[0] == pytest.approx(ONE.mean() - OTHER.mean())
    va, vb = ONE.var(ddof=1) / 12, OTHER.var(ddof=1) / 9
    freedom = (va + vb) ** 2 / (va**2 / 11 + vb**2 / 8)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(va + vb)
    assert welch_difference(ONE, OTHER)[2] == pytest.approx(ONE.mean() - OTHER.mean() + half)
    pooled = np.sqrt((11 * ONE.var(ddof=1) + 8 * OTHER.var(ddof=1)) / 19)
    g, g_low, g_high = hedges_g(ONE, OTHER)
    assert g == pytest.approx((ONE.mean() - OTHER.mean()) / pooled * (1 - 3 / 75))
    assert g is not None and g_low is not None and g_high is not None
    assert g_high - g_low == pytest.approx(2 * 1.95996 * np.sqrt(21 / 108 + g * g / 42), rel=1e-5)
    assert hedges_g(OTHER, ONE)[0] == pytest.approx(-g)
    # F = (eta² / (k - 1)) / ((1 - eta²) / (n - k))
    eta, f = eta_squared([ONE, OTHER, THIRD]), stats.f_oneway(ONE, OTHER, THIRD).statistic
    assert eta is not None and (eta / 2) / ((1 - eta) / 23) == pytest.approx(f)


def test_what_cannot_be_computed_is_none() -> None:
    assert mean_interval([0.5]) == (0.5, None, None, None)
    assert mean_interval([0.5, 0.5])[1:] == (0, 0.5, 0.5)
    assert hedges_g([1, 1], [1 + 1e-9, 1]) == (None, None, None) and welch_difference([1], [2, 3]) == (-1.5, None, None)
    assert eta_squared([[1], [2], [3]]) is None and eta_squared([[1, 1], [1, 1], [1]]) is None


# ---- columns ----


def test_times_are_put_together_in_spans() -> None:
    days = [dt.datetime(2024, 1, 1) + dt.timedelta(days=day) for day in range(0, 200)]
    weeks = spans(days)
    assert weeks.unit == "week from" and weeks.names[:2] == ["2024-01-01", "2024-01-08"]
    assert sorted(row for rows in weeks.rows for row in rows) == list(range(200)) and len(weeks.rows[0]) == 7
    assert spans(days * 9).unit == "week from" and spans(days[::40]).unit == "day"
    assert spans([dt.datetime(1900 + year, 7, 1) for year in range(90)]).names[-1] == "1989"
    hours = spans([dt.datetime(2024, 1, 1, 9, 5), dt.datetime(2024, 1, 1, 9, 55), dt.datetime(2024, 1, 1, 11)])
    assert hours == ("hour", ["2024-01-01 09:00", "2024-01-01 11:00"], [[0, 1], [2]])
    # Numbers that differ in their last digit are not one.
    assert spans([1234567.0, 1234568.0]).names == ["1234567", "1234568"]
    parts = spans([float(value) for value in range(100)])
    assert parts.unit == "range" and [len(rows) for rows in parts.rows] == [5] * 20 and parts.names[1] == "4.95 to 9.9"
    assert spans([None, None]).rows == []


def test_groups_are_sorted_and_not_lost() -> None:
    assert sorted_groups(["3", "20", "1", None]) == ["1", "3", "20"]
    assert sorted_groups(["none", "b", "none"]) == ["none", "b"]


def test_the_column_with_the_texts_is_found(tmp_path: Path) -> None:
    def found(content: str) -> str:
        path = tmp_path / "mine.csv"
        path.write_text(content, encoding="utf-8")
        return find_text(path, TableSettings(text=""))

    assert found("id;Text;note\n1;Hi;this is a long remark\n") == "Text"
    assert found("id;answer\n1;this is a long one\n2;\n") == "answer"
    with pytest.raises(LiminalError, match=r"Several columns .*: 'a', 'b'\. Say which one does: --text COLUMN"):
        found("id;a;b\n1;one two three;four five six\n")
    with pytest.raises(LiminalError, match=r"No column .*: 'id', 'a'\. Say which"):
        found("id;a\n1;one\n")


def test_groups_of_spss_have_their_labels(tmp_path: Path) -> None:
    import pandas as pd
    import pyreadstat

    frame = pd.DataFrame({"text": ["a b c", "d e f", "g", "h"], "arm": [1.0, 2.0, 2.0, np.nan]})
    labels = {"arm": {1: "none", 2: "drug"}}
    pyreadstat.write_sav(frame, str(tmp_path / "mine.sav"), variable_value_labels=labels)
    given = read_input(tmp_path / "mine.sav", TableSettings(text="text"), "arm", None)
    assert given.groups == ["none", "drug", "drug", None]


def test_times_of_many_kinds(tmp_path: Path) -> None:
    def times(*cells: str, **options: Any) -> Any:
        (tmp_path / "mine.tsv").write_text("\n".join(["text\twhen", *(f"x\t{cell}" for cell in cells)]) + "\n")
        return read_input(tmp_path / "mine.tsv", TableSettings(text="text", **options), None, "when").times

    assert times("1.5", "", "2") == [1.5, None, 2.0] and times("9:30", "10:00 PM") == [9.5, 22.0]
    assert times("2024-05-01T09:00Z", "2024-05-01T09:00+02:00") == [
        dt.datetime(2024, 5, 1, 9),
        dt.datetime(2024, 5, 1, 7),
    ]
    with pytest.raises(LiminalError, match="--date-order dmy"):
        times("1/9/2024")
    assert times("1/9/2024", date_order="dmy") == [dt.datetime(2024, 9, 1)]
    with pytest.raises(LiminalError, match="'when' is empty"):
        times("", "")


# ---- the report ----


def test_rows_in_are_rows_out_and_the_answers_those_of_the_pipeline(folder: Path, pad: Any) -> None:
    rows = csv_rows(folder / "scores.csv")
    assert len(rows) == len(ROWS) and [row["who"] for row in rows] == [str(n) for n in range(1, 14)]
    for row, (group, _, text), answer in zip(rows, ROWS, pad([text for *_, text in ROWS]), strict=True):
        assert row["condition"] == (group or "") and row["answer"].lstrip("'") == (text or "")
        assert row["error"] == (answer["error"] or "") and row["octant"] == (answer["octant"] or "")
        if not answer["error"]:
            assert float(row["pleasure"]) == pytest.approx(answer["pleasure"], abs=1e-5)
            assert float(row["high_arousal"]) == pytest.approx(answer["interval"]["arousal"][1], abs=1e-5)
    sheet = openpyxl.load_workbook(folder / "scores.xlsx").active
    assert sheet is not None
    cells = list(sheet.iter_rows(values_only=True))
    assert len(cells) == len(ROWS) + 1 and cells[1][2] == dt.datetime(2024, 5, 1)
    assert cells[11][3] == ROWS[10][2], "no formula"


def test_groups_and_times_are_those_of_the_scores(folder: Path) -> None:
    rows = csv_rows(folder / "scores.csv")
    used = [row for row in rows if not row["error"] and float(row["in_domain"]) >= 0.5]
    assert len(used) == 10 and len(csv_rows(folder / "tables" / "groups.csv")) == 6
    values = {
        name: [float(row["pleasure"]) for row in used if row["condition"] == name] for name in ("thanks", "control")
    }
    found = {row["group"]: row for row in csv_rows(folder / "tables" / "groups.csv") if row["target"] == "pleasure"}
    for name, some in values.items():
        assert int(found[name]["texts"]) == len(some) and float(found[name]["mean"]) == pytest.approx(np.mean(some))
        ends = stats.t.interval(0.95, len(some) - 1, np.mean(some), stats.sem(some))
        assert [float(found[name][end]) for end in ("low", "high")] == pytest.approx(ends, rel=1e-4)
    effect = csv_rows(folder / "tables" / "effects.csv")[0]
    assert effect["difference"] == "thanks - control" and float(effect["value"]) > 0
    interval = stats.ttest_ind(values["thanks"], values["control"], equal_var=False).confidence_interval()
    assert [float(effect["low"]), float(effect["high"])] == pytest.approx(tuple(interval), rel=1e-4)
    days = [row for row in csv_rows(folder / "tables" / "over_time.csv") if row["target"] == "arousal"]
    assert [row["day"] for row in days] == ["2024-05-01", "2024-05-02", "2024-05-03"]
    second = [float(row["arousal"]) for row in used if row["day"] == "2024-05-02"]
    assert float(days[1]["mean"]) == pytest.approx(np.mean(second), rel=1e-4) and int(days[1]["texts"]) == len(second)


def test_small_tables_agree_with_each_other(folder: Path) -> None:
    counts = {row["what"]: int(row["rows"]) for row in csv_rows(folder / "tables" / "rows.csv")}
    assert counts["rows"] == counts["read"] + counts["empty"] + counts["not readable"] == 13
    assert counts["read in windows"] == 1 and counts["truncated"] == 0
    assert sum(int(row["texts"]) for row in csv_rows(folder / "tables" / "emotions.csv")) == 10
    assert counts["in figures and means"] == counts["read"] - counts["unlike the training texts"] == 10
    verdicts = csv_rows(folder / "tables" / "verdicts.csv")
    for target in liminal_hf.DIMENSIONS:
        assert sum(int(row["texts"]) for row in verdicts if row["target"] == target) == 10
    distribution = csv_rows(folder / "tables" / "distributions.csv")[0]
    extremes = [row for row in csv_rows(folder / "tables" / "extremes.csv") if row["target"] == "pleasure"]
    assert extremes[0]["end"] == "highest" and extremes[5]["end"] == "lowest"
    assert float(extremes[0]["value"]) == pytest.approx(float(distribution["highest"]))
    assert float(extremes[5]["value"]) == pytest.approx(float(distribution["lowest"]))
    assert all(ROWS[int(row["row"]) - 2][2].startswith(row["text"].lstrip("'")[:20]) for row in extremes)
    doubtful = csv_rows(folder / "tables" / "doubtful.csv")
    assert doubtful[0]["text"].startswith("Das Wetter") and float(doubtful[0]["in_domain"]) < 0.5
    assert [(row["row"], row["text"]) for row in csv_rows(folder / "tables" / "not_read.csv")] == [
        ("11", ""),
        ("13", "\U0001f621\U0001f621"),
    ]


def test_the_page_is_one_file_that_shows_the_numbers(folder: Path) -> None:
    content = (folder / "index.html").read_text(encoding="utf-8")
    page = _Page(content)
    names = [tag for tag, _ in page.tags]
    assert "script" not in names and "link" not in names and "img" not in names
    assert not [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "onload")]
    links = [attrs.get("xlink:href") or attrs.get("href") or "#" for _, attrs in page.tags]
    assert all(link.startswith(("#", "data:image/png")) for link in links)
    # 3 distributions, the plane, 3 over time, 3 of groups, none with a colour that dark mode would lose.
    assert names.count("svg") == 10 and "#000000" not in content and "prefers" not in content
    assert "He said <i>no</i> & we went home together." in page.words
    for row in csv_rows(folder / "tables" / "groups.csv"):
        assert f"{float(row['mean']):.3f}".replace("-", "\N{MINUS SIGN}") in page.words
    for heading in ("Over time", "Groups", "The most extreme texts", "The most doubtful texts", "Rows that were not"):
        assert heading in page.words
    methods = (folder / "methods.md").read_text(encoding="utf-8")
    weights = Path(liminal_hf.DEFAULT_CHECKPOINT) / "model.safetensors"
    from liminal_hf.io import file_sha256

    assert file_sha256(weights) in methods and liminal_hf.__version__ in methods and "Buechel" in methods
    assert "Of 13 rows the model read 11; 1 had no text, and 1 could not be read." in methods
    assert all(html.escape(line) in html.escape(page.words) for line in methods.split("\n\n")[0].split("\n"))
    ids = re.findall(r' id="([^"]+)"', content)
    assert len(ids) == len(set(ids)), "an id stands once in a page"


def test_score_goes_into_plot(folder: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    for kind in ("plane", "distributions", "pad-distributions"):
        status, out, err = run("plot", kind, folder / "scores.csv", "-o", tmp_path / f"{kind}.png")
        assert status == 0 and out.strip() == str(tmp_path / f"{kind}.png"), err


def test_the_dialect_of_a_csv_is_kept(tmp_path: Path, minilm: Path) -> None:
    lines = ["note;age;text", "x;31,5;I love it here, thank you!", "x;40,25;I hate it here.", "x;22,0;So be it."]
    (tmp_path / "mine.csv").write_text("\r\n".join(lines) + "\r\n", encoding="cp1252")
    result = report(tmp_path / "mine.csv", tmp_path / "out", time="age", threads=1)
    rows = csv_rows(tmp_path / "out" / "scores.csv", ";")
    assert rows[0]["age"] == "31,5" and float(rows[0]["pleasure"].replace(",", ".")) > 0.2
    spread = csv_rows(tmp_path / "out" / "tables" / "distributions.csv", ";")[0]
    assert re.fullmatch(r"-?0,\d+", spread["mean"]) and result.text == "text"
    assert result.tables["over_time"]["value"][:3] == ["22", "31.5", "40.25"] or "age" in result.tables["over_time"]


def test_few_rows_and_no_spread(tmp_path: Path, minilm: Path) -> None:
    """One row; groups of one; equal texts; a group whose rows can't be read; nothing that can be read."""

    def made(name: str, *rows: tuple[str, str], **options: Any) -> Any:
        content = "\n".join(json.dumps({"g": group, "text": text}) for group, text in rows)
        (tmp_path / f"{name}.jsonl").write_text(content, encoding="utf-8")
        result = report(tmp_path / f"{name}.jsonl", tmp_path / name, group="g", threads=1, **options)
        words = _Page((tmp_path / name / "index.html").read_text(encoding="utf-8")).words
        assert "nan" not in re.findall(r"[a-z]+", words) and len(csv_rows(tmp_path / name / "scores.csv")) == len(rows)
        return result

    one = made("one", ("a", "I love it here."))
    assert one.tables["groups"]["low"] == [None] * 3 and "effects" not in one.tables
    assert one.tables["distributions"]["sd"] == [None] * 3
    single = made("single", ("a", "I love it here."), ("b", "I hate it here."))
    assert single.tables["effects"]["Hedges' g"] == [None] * 3 and single.tables["effects"]["value"][0] > 0.3
    same = made("same", *[("a", "I love it here.")] * 3, *[("b", "I love it here.")] * 2, ("c", "I love it here."))
    assert same.tables["effects"]["eta squared"] == [None] * 3
    gone = made("gone", ("a", "I love it here."), ("a", "I am glad."), ("b", ""), ("c", "I am sad."), ("c", "Bad day."))
    assert gone.tables["groups"]["texts"][:3] == [2, 0, 2] and gone.tables["groups"]["mean"][1] is None
    assert gone.tables["effects"]["difference"][0] == "a - c"
    nothing = made("nothing", ("a", ""), ("b", "\U0001f600"))
    assert nothing.counts["read"] == 0 and "distributions" not in nothing.tables
    assert nothing.tables["groups"]["texts"] == [0] * 6
    foreign = [("a", "Das Wetter war schön, aber die Arbeit hat mich sehr müde gemacht.")]
    assert "distributions" not in made("foreign", *foreign).tables
    assert made("foreign_too", *foreign, include_unlike=True).tables["distributions"]["texts"] == [1] * 3


def test_times_and_groups_of_rows_that_do_not_count(tmp_path: Path, minilm: Path) -> None:
    """Neither a text that can't be read nor one unlike the training texts is in any mean."""
    foreign = "Das Wetter war schön, aber die Arbeit hat mich sehr müde gemacht."
    lines = ["text,g,when", "I went home.,,", ",b,2024-01-01", "\U0001f600,b,2024-01-02", f'"{foreign}",c,2024-01-03']
    (tmp_path / "mine.csv").write_text("\n".join(lines), encoding="utf-8")
    result = report(tmp_path / "mine.csv", tmp_path / "out", group="g", time="when", threads=1)
    assert "over_time" not in result.tables and result.tables["groups"]["texts"] == [0] * 6
    page = _Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert "There is no text to show." in page.words and "nan" not in re.findall(r"[a-z]+", page.words)
    assert len(csv_rows(tmp_path / "out" / "scores.csv")) == 4


def test_a_group_named_like_a_colour_keeps_its_name(tmp_path: Path, minilm: Path) -> None:
    (tmp_path / "mine.csv").write_text("text,g\nI love it.,#ffffff\nI hate it.,#000000\n", encoding="utf-8")
    report(tmp_path / "mine.csv", tmp_path / "out", group="g", threads=1)
    content = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", content)
    assert "#ffffff (1)" in labels and "#000000 (1)" in labels and not any("var(" in label for label in labels)
    assert not re.search(r"<[^<>]*#(000000|ffffff)[^<>]*>", content)


def test_a_text_that_excel_cuts_is_counted(tmp_path: Path, minilm: Path) -> None:
    long = "It rained all day. " * 1800
    rows = [{"text": "I love it."}, {"text": "So be it.", "note": long}, {"text": None}]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    result = report(tmp_path / "mine.jsonl", tmp_path / "out", threads=1)
    assert result.counts["cut in scores.xlsx"] == 1
    page = _Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert "32,767 characters), so that scores.xlsx lacks its end: 1 row." in page.words
    assert csv_rows(tmp_path / "out" / "scores.csv")[1]["note"] == long


def test_a_model_in_memory(tmp_path: Path, minilm: Path) -> None:
    """A `Scorer` serves in place of a path; what has changed is not called by the name of what it was."""
    import torch
    from transformers import AutoTokenizer

    from liminal_hf.scoring import Scorer

    (tmp_path / "mine.csv").write_text("text\nI love it.\n", encoding="utf-8")
    model = liminal_hf.LiminalForPADRegression.from_pretrained(liminal_hf.DEFAULT_CHECKPOINT)
    tokenizer = AutoTokenizer.from_pretrained(liminal_hf.DEFAULT_CHECKPOINT)
    scorer = Scorer(model, tokenizer=tokenizer, threads=1)
    report(tmp_path / "mine.csv", tmp_path / "out", scorer)
    methods = (tmp_path / "out" / "methods.md").read_text(encoding="utf-8")
    assert "and the checkpoint minilm-emobank (sha256 of weights, config and tokenizer: " in methods
    assert scorer.identity in methods and "Buechel" in methods
    with torch.no_grad():
        next(model.liminal.head.parameters()).add_(0.01)
    model.config._name_or_path = ""
    report(tmp_path / "mine.csv", tmp_path / "changed", Scorer(model, tokenizer=tokenizer, threads=1))
    methods = (tmp_path / "changed" / "methods.md").read_text(encoding="utf-8")
    assert "and a model in memory (sha256 of weights" in methods and "minilm-emobank" not in methods
    with pytest.raises(LiminalError, match=r"got a LiminalForPADRegression\. Give the path of a checkpoint, or Scorer"):
        report(tmp_path / "mine.csv", tmp_path / "new", model)  # type: ignore[arg-type]
    with pytest.raises(LiminalError, match="needs the path of a table, got a dict"):
        report({"text": ["I love it."]}, tmp_path / "new")  # type: ignore[arg-type]


def test_other_targets_and_a_head_without_uncertainty(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model = tiny_model("bert", head="linear", targets=["warmth", "joy"], trained_targets=[True, False])
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(encoder_with_tokenizer(tmp_path / "encoder")).save_pretrained(tmp_path / "model")
    texts = [" ".join(WORDS[index : index + 3]) for index in range(8)]
    (tmp_path / "mine.csv").write_text("\n".join(["text,g", *(f"{text},{i % 3}" for i, text in enumerate(texts))]))
    result = report(tmp_path / "mine.csv", tmp_path / "out", tmp_path / "model", group="g", time="g", threads=1)
    assert set(result.tables["groups"]["target"]) == {"warmth"} and "verdicts" not in result.tables
    page = _Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.tags].count("svg") == 3 and "EmoBank" not in page.words and "NaN" not in page.words
    assert 0 <= result.tables["effects"]["eta squared"][0] <= 1


def test_what_is_refused(folder: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    table = folder.parent / "survey.xlsx"
    new = tmp_path / "new"
    assert "'who', 'condition', 'day', 'answer'" in refused("report", table, "-o", new, "--group", "gruop")
    assert "no column 'month'" in refused("report", table, "-o", new, "--time", "month")
    assert "neither a number nor a date" in refused("report", table, "-o", new, "--time", "condition")
    assert "no column 'text2'" in refused("report", table, "-o", new, "--text", "text2")
    assert "holds a report" in refused("report", table, "-o", folder)
    assert "is not empty, and holds no report" in refused("report", table, "-o", folder.parent, "--overwrite")
    assert "is a file" in refused("report", table, "-o", table)
    assert "not a file" in refused("report", tmp_path / "lost.csv", "-o", new)
    assert "--prefix pad_" in refused("report", folder / "scores.csv", "-o", new, "--text", "answer")
    many = tmp_path / "many.csv"
    many.write_text("\n".join(["id,text", *(f"{i},Hello there my friend" for i in range(60))]), encoding="utf-8")
    assert "60 different values in 60 rows" in refused("report", many, "-o", new, "--group", "id")
    many.write_text("id,text\n", encoding="utf-8")
    assert "no rows below it" in refused("report", many, "-o", new)
    with pytest.raises(LiminalError, match="report does not take colour"):
        report(table, new, colour="red")
    assert not new.exists() and (folder / "index.html").is_file()


def test_a_report_is_replaced_whole(tmp_path: Path, minilm: Path) -> None:
    (tmp_path / "mine.csv").write_text("text,g\nI love it.,a\n", encoding="utf-8")
    report(tmp_path / "mine.csv", tmp_path / "out", group="g", threads=1)
    report(tmp_path / "mine.csv", tmp_path / "out", overwrite=True, prefix="pad_", threads=1)
    assert not (tmp_path / "out" / "tables" / "groups.csv").exists()
    assert "pad_pleasure" in csv_rows(tmp_path / "out" / "scores.csv")[0]


def test_rows_of_a_small_table() -> None:
    assert list(rows_of({"a": [1, 2], "b": [3, 4]})) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]


def test_the_page_fits_a_screen_and_a_phone(folder: Path) -> None:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    modes: tuple[Any, ...] = ("light", "dark")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--headless", "--no-sandbox", "--disable-gpu"])
        for width, mode in product((1280, 390), modes):
            page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=mode)
            page.goto((folder / "index.html").as_uri())
            page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth") == width
            lightness = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", lightness)[:3])) > 600) == (mode == "light")
            letters = page.evaluate(
                "[...document.querySelectorAll('svg text')].map(one => one.getBoundingClientRect().height)"
            )
            assert len(letters) > 50 and min(letters) >= 9, "letters that nobody can read"
        browser.close()
