"""Whole runs: killed and resumed, refused when they do not fit, the same on Ray, flat in memory."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from scoring_kit import some_texts, tiny_checkpoint
from transformers import pipeline

from liminal_hf.cli import main
from liminal_hf.data.tables import read_table
from liminal_hf.modeling.configuration_liminal import LiminalConfig
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.scoring import DifferentRunError, score_table
from liminal_hf.scoring.scorer import columns_of

COLUMNS = columns_of(LiminalConfig(pooled_size=8))

# Scores a table and kills itself, with no chance to clean up, after as many rows.
CHILD = """
import os, signal, sys
from liminal_hf.scoring import job
path, output, checkpoint, rows, moment = sys.argv[1:]
def deadly(done, total):
    if moment == "anywhere" and done >= int(rows):
        os.kill(os.getpid(), signal.SIGKILL)
def half_written(table, file, **kwargs):
    write(table, file, **kwargs)
    if moment == "writing" and str(file).count("part-00002"):
        os.truncate(file, os.path.getsize(file) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
write, job.pq.write_table = job.pq.write_table, half_written
job.score_table(path, output, checkpoint, shard_rows=40, threads=1, progress=deadly)
"""
GROWTH = """
import resource, sys
from liminal_hf.scoring import score_table
small, large, checkpoint, folder = sys.argv[1:]
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
for name, path in (("small", small), ("large", large)):
    score_table(path, f"{folder}/{name}-out.parquet", checkpoint, shard_rows=500, threads=1, keep=["id", "text"])
    print(peak())
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 rows, some of them bad."""
    texts: list[str | None] = list(some_texts(300))
    texts[5], texts[77], texts[299] = None, "", " "
    path = tmp_path_factory.mktemp("in") / "table.parquet"
    pq.write_table(pa.table({"id": list(range(300)), "text": texts}), path, row_group_size=64)
    return path


@pytest.fixture(scope="module")
def whole(table: Path, checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The undisturbed run."""
    output = tmp_path_factory.mktemp("out") / "whole.parquet"
    report = score_table(table, output, checkpoint, shard_rows=40, threads=1)
    assert (report.rows, report.done_before, report.failed) == (300, 0, 3)
    assert report.errors == {"empty": 2, "no text (missing value)": 1}
    assert "300 rows" in str(report) and "3 without numbers (2 empty; 1 no text (missing value))" in str(report)
    assert not list(output.parent.glob("*.parts"))
    return pq.read_table(output)


def test_rows_keep_their_order_and_their_columns(whole: pa.Table, table: Path, checkpoint: str) -> None:
    assert whole.column_names == ["id", "text", *COLUMNS.names]
    assert whole.select(["id", "text"]).equals(pq.read_table(table))
    texts = [text for text in whole["text"].to_pylist()[:60] if text]
    expected = [row["pleasure"] for row in pipeline("pad-regression", model=checkpoint, device="cpu")(texts)]
    np.testing.assert_allclose(whole["pleasure"].drop_null().to_pylist()[: len(texts)], expected, atol=1e-5)
    nulls = [row for row, error in enumerate(whole["error"].to_pylist()) if error]
    assert nulls == [5, 77, 299] and all(whole[name].null_count == 3 for name in COLUMNS.names[:-4])


@pytest.mark.parametrize("moment", ["anywhere", "writing"])
def test_a_killed_run_goes_on_to_the_identical_table(
    moment: str, whole: pa.Table, table: Path, checkpoint: str, tmp_path: Path
) -> None:
    output = tmp_path / "out.parquet"
    child = subprocess.run([sys.executable, "-c", CHILD, table, output, checkpoint, "130", moment], capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    parts = tmp_path / "out.parquet.parts"
    finished = {path: path.stat().st_mtime_ns for path in parts.glob("part-*.parquet")}
    assert len(finished) == (3 if moment == "anywhere" else 2) and not output.exists()
    assert bool(list(parts.glob(".*.part"))) == (moment == "writing")
    with pytest.raises(DifferentRunError, match="prefix '' and not 'pad_'"):
        score_table(table, output, checkpoint, shard_rows=40, prefix="pad_")
    told: list[tuple[int, int]] = []
    stamps = {}

    def progress(done: int, total: int) -> None:
        told.append((done, total))
        stamps.update({path: path.stat().st_mtime_ns for path in finished})

    report = score_table(table, output, checkpoint, shard_rows=40, threads=1, progress=progress)
    assert stamps == finished, "what was done is not done again"
    assert report.done_before == 40 * len(finished) and told[-1] == (300, 300) and told[0][0] > report.done_before
    assert pq.read_table(output).equals(whole), "to the last bit"
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    again = score_table(table, output, checkpoint, shard_rows=40)
    assert again.done_before == again.rows == 300 and again.failed == 3
    with pytest.raises(DifferentRunError, match="shard_rows 40 and not 50"):
        score_table(table, output, checkpoint, shard_rows=50)


def test_a_folder_of_shards_is_the_same_table(whole: pa.Table, table: Path, checkpoint: str, tmp_path: Path) -> None:
    score_table(table, f"{tmp_path}/out/", checkpoint, shard_rows=40, threads=1)
    assert sorted(path.name for path in (tmp_path / "out").glob("part*"))[-1] == "part-00007.parquet"
    # What others read, a folder of Parquet: neither the manifest nor the lock are in their way.
    assert pq.read_table(tmp_path / "out").equals(whole)
    (tmp_path / "out" / "part-00003.parquet").write_bytes(b"damaged")
    report = score_table(table, f"{tmp_path}/out/", checkpoint, shard_rows=40, threads=1)
    assert report.done_before == 260 and pq.read_table(tmp_path / "out").equals(whole)


def test_a_run_of_something_else_is_refused(table: Path, checkpoint: str, tmp_path: Path) -> None:
    output = f"{tmp_path}/out/"
    score_table(table, output, checkpoint, keep=["id"])
    with pytest.raises(DifferentRunError, match=r"keep \['id'\] and not None"):
        score_table(table, output, checkpoint)
    other = tmp_path / "other.parquet"
    pq.write_table(pq.read_table(table).slice(1), other)
    with pytest.raises(DifferentRunError, match="another input"):
        score_table(other, output, checkpoint, keep=["id"])
    with pytest.raises(DifferentRunError, match="another checkpoint"):
        score_table(table, output, tiny_checkpoint(tmp_path / "model", seed=1), keep=["id"])
    with pytest.raises(ValueError, match=r"out is not empty \(mine.txt\)|not empty"):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "mine.txt").write_text("dear")
        score_table(table, tmp_path / "mine", checkpoint)
    with pytest.raises(ValueError, match="is there already"):
        score_table(table, other, checkpoint)
    with pytest.raises(ValueError, match=r"'.txt' is none of .csv, .tsv, .parquet, .xlsx, .jsonl. A folder .* slash"):
        score_table(table, tmp_path / "mine" / "mine.txt", checkpoint)
    with pytest.raises(ValueError, match=r"ends with a slash: .*new/"):
        score_table(table, tmp_path / "new", checkpoint)
    with FileLock(tmp_path / "out" / "_lock"), pytest.raises(ValueError, match="Another process is writing"):
        score_table(table, output, checkpoint, keep=["id"])
    with pytest.raises(ValueError, match="local, ray"):
        score_table(table, output, checkpoint, engine="dask")


def test_new_columns_never_take_the_name_of_an_old_one(checkpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,arousal\nw3,5\n")
    with pytest.raises(LiminalError, match="column 'arousal' already"):
        score_table(path, tmp_path / "out.csv", checkpoint)
    with pytest.raises(LiminalError, match="no column 'x'"):
        score_table(path, tmp_path / "out.csv", checkpoint, keep=["x"])
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"], "no .parts"
    score_table(path, tmp_path / "pad.parquet", checkpoint, prefix="pad_")
    found = pq.read_table(tmp_path / "pad.parquet")
    assert found["arousal"].to_pylist() == ["5"] and found["pad_arousal"].null_count == 0
    assert found.column_names[-1] == "pad_error"


def test_conversations_keep_their_memory_whatever_the_shards(checkpoint: str, tmp_path: Path) -> None:
    texts = some_texts(40, seed=2)
    chats = [f"chat{i // 10}" for i in range(40)]
    speakers = [("ann", "bob")[i % 3 == 0] for i in range(40)]
    # As text, 10 comes before 9; as a number it does not.
    places = [str(9 - i % 10 + 1) for i in range(40)]
    texts[3], places[17] = "", ""
    rows = [dict(zip("txspn", row, strict=True)) for row in zip(texts, chats, speakers, places, range(40), strict=True)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = []
    for shard_rows in (1, 100):
        output = tmp_path / f"{shard_rows}.parquet"
        options = {"conversation": "x", "order": "p", "speaker": "s", "shard_rows": shard_rows}
        report = score_table(path, output, checkpoint, text="t", threads=1, **options)
        found.append(pq.read_table(output))
        assert report.errors == {
            "empty": 1, "no order: the row does not say its position in the conversation": 1
        }  # fmt: skip
    assert (
        found[0]["n"].to_pylist() == list(range(40))
        and found[0].drop("pleasure").schema == found[1].drop("pleasure").schema
    )
    reader = pipeline("pad-regression", model=checkpoint, device="cpu")
    for chat in sorted(set(chats)):
        order = sorted(
            (i for i in range(40) if chats[i] == chat and texts[i] and places[i]), key=lambda i: int(places[i])
        )
        expected = reader([{"role": "user", "speaker": speakers[i], "content": texts[i]} for i in order])
        for i, wanted in zip(order, expected, strict=True):
            for one in found:
                assert one["arousal"][i].as_py() == pytest.approx(wanted["arousal"], abs=1e-4)
    path.write_text("".join(json.dumps(row) + "\n" for row in sorted(rows, key=lambda row: row["t"])))
    with pytest.raises(ValueError, match="are not together"):
        score_table(path, f"{tmp_path}/out/", checkpoint, text="t", conversation="x")


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".xlsx", ".parquet"])
def test_the_ending_is_the_format_and_no_row_is_lost(ending: str, checkpoint: str, tmp_path: Path) -> None:
    rows = ['1;"w3; w4";5,5', "2;w5", '3;"w6', "4;w7;4,5", "5;=w8;3", f"6;{'w9 ' * 60};1", ";;"]
    (tmp_path / "a.csv").write_text("id;Text;score\n" + "\n".join(rows) + "\n")
    report = score_table(tmp_path / "a.csv", tmp_path / f"out{ending}", checkpoint, shard_rows=3, threads=1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.csv", f"out{ending}"]
    assert (report.rows, report.failed, report.truncated, report.long) == (7, 4, 0, 1)
    assert report.errors["a line opens a quotation mark that is not closed"] == 1
    assert "1 longer than the model reads at once: read sentence by sentence" in str(report)
    table = read_table(tmp_path / f"out{ending}")
    assert [str(cell) for cell in table["id"][:6]] == list("123456") and len(table) == 7
    assert [error or None for error in table["error"]] == [
        None, "line 3 has 2 cells, the header has 3 cells", "line 4 opens a quotation mark that is not closed", None,
        "no token of this text is known to the model", None, "empty",
    ]  # fmt: skip
    numbers = table.numbers(["pleasure", "score"])
    assert np.isnan(numbers[:, 0]).tolist() == [False, True, True, False, True, False, True] and numbers[3, 1] == 4.5
    if ending == ".xlsx":
        assert table["score"][0] == 5.5 and table["id"][:2] == [1, 2], "numbers of the CSV are numbers"
    if ending == ".csv":
        content = (tmp_path / "out.csv").read_text("utf-8-sig")
        assert (
            content.startswith("id;Text;score;pleasure;")
            and "\n5;'=w8;3;" in content
            and '\n1;"w3; w4";5,5;' in content
        )
    if ending != ".parquet":
        with pytest.raises(LiminalError, match="is there already"):
            score_table(tmp_path / "a.csv", tmp_path / f"out{ending}", checkpoint)


def test_days_order_as_days_and_what_is_unclear_is_a_question(checkpoint: str, tmp_path: Path) -> None:
    head = "conv,when,text\n"
    table = tmp_path / "w.csv"

    def arousal(rows: str, **options) -> list[float]:
        table.write_text(head + rows)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        score_table(table, f"{tmp_path}/out/", checkpoint, conversation="conv", threads=1, **options)
        return pq.read_table(tmp_path / "out")["arousal"].to_pylist()

    numbered = arousal("c,1,w3 w4\nc,2,w9 w8 w7\n", order="when")
    swapped = arousal("c,2,w3 w4\nc,1,w9 w8 w7\n", order="when")
    assert numbered != swapped
    september = "c,1/9/2024 9:05,w3 w4\nc,1/10/2024 8:00,w9 w8 w7\n"
    with pytest.raises(LiminalError, match=r"01 September 2024 .* 09 January 2024 .*--date-order dmy"):
        arousal(september, order="when")
    for order in ("dmy", "mdy"):
        assert arousal(september, order="when", date_order=order) == numbered
    assert arousal("c,30/9/2024,w3 w4\nc,1/10/2024,w9 w8 w7\n", order="when") == numbered
    assert arousal("c,2024-10-01,w3 w4\nc,2024-09-30,w9 w8 w7\n", order="when") == swapped
    with pytest.raises(LiminalError, match=r"'second' .line 3., which is neither a number nor a date"):
        arousal("c,1,w3 w4\nc,second,w9 w8 w7\n", order="when")
    frame = pa.table({"text": ["w3 w4", "w9 w8 w7"], "conv": ["c", "c"], "when": [Decimal("1.9"), Decimal("1.1")]})
    pq.write_table(frame, tmp_path / "d.parquet")
    score_table(tmp_path / "d.parquet", tmp_path / "d_out.parquet", checkpoint, conversation="conv", order="when")
    assert pq.read_table(tmp_path / "d_out.parquet")["arousal"].to_pylist() == pytest.approx(swapped, abs=1e-6)


@pytest.mark.nightly
def test_memory_does_not_grow_with_the_rows(checkpoint: str, tmp_path: Path) -> None:
    """The large table's texts alone are 60 MB."""
    for name, rows in (("small", 500), ("large", 15_000)):
        texts = [f"w{3 + i % 50} w4 w5 {'x' * 4000}{i}" for i in range(rows)]
        pq.write_table(pa.table({"id": list(range(rows)), "text": texts}), tmp_path / f"{name}.parquet")
    paths = [tmp_path / "small.parquet", tmp_path / "large.parquet"]
    done = subprocess.run([sys.executable, "-c", GROWTH, *paths, checkpoint, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    small, large = map(int, done.stdout.split())
    assert large - small < 40, f"{small} MB and {large} MB"


def test_the_command_line(checkpoint: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["score", str(table), "-o", f"{tmp_path}/out/", "--model", checkpoint, "--threads", "1"]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--keep", "id", "--shard-rows", "100"])
    out, err = capsys.readouterr()
    assert not end.value.code and out.startswith("300 rows (300 of them now") and "3 without numbers" in out and not err
    assert pq.read_table(tmp_path / "out").column_names == ["id", *COLUMNS.names]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--keep", "id"])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and err.startswith("liminal: ") and "shard_rows 100 and not 16384" in err


@pytest.mark.timeout(600)
@pytest.mark.nightly
def test_ray_gives_the_same_table_although_a_worker_is_killed(
    whole: pa.Table, table: Path, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'liminal_hf[ray]'")
    # Otherwise each worker would look for its own copy of this folder.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    killed = []

    def progress(done: int, total: int) -> None:
        if not killed and done >= 80:
            actors = [
                process
                for process in psutil.Process().children(recursive=True)
                if "MapBatches(ShardWorker)" in " ".join(process.cmdline())
            ]
            assert len(actors) == 2, "two workers"
            actors[0].send_signal(signal.SIGKILL)
            killed.append((done, time.monotonic()))

    report = score_table(
        table, f"{tmp_path}/out/", checkpoint, shard_rows=20, threads=1, engine="ray", workers=2, progress=progress
    )
    assert killed and report.rows == 300 and report.failed == 3
    found = pq.read_table(tmp_path / "out")
    assert found.select(["id", "text", "octant", "error"]).equals(whole.select(["id", "text", "octant", "error"]))
    for name in COLUMNS.names[:7]:
        np.testing.assert_allclose(found[name].drop_null(), whole[name].drop_null(), atol=1e-5)
