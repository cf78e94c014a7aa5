"""The cascade: each row from the right model whatever stands beside it, budgets, refusals, the command line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Run, tiny_model
from evidence_kit import write_emobank
from huggingface_hub import try_to_load_from_cache
from scoring_kit import some_texts, tiny_checkpoint, word_tokenizer
from transformers import pipeline

import liminal_hf
from liminal_hf.io import file_sha256
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.scoring import Cascade, DifferentRunError, Scorer, score_table
from liminal_hf.scoring.cascade import MEASURED, doubts, lengths_of, threshold_for

TEXTS = some_texts(60)
MPNET = "sentence-transformers/all-mpnet-base-v2"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pair")
    return [tiny_checkpoint(folder / name, seed) for seed, name in enumerate(("small", "large"))]


@pytest.fixture(scope="module")
def middle(pair: list[str]) -> float:
    """The doubt of one of the texts, with as many above as below."""
    small = Scorer(pair[0], threads=1)
    return float(np.sort(doubts(small.score(TEXTS), TEXTS, small.config))[30])


@pytest.fixture(scope="module")
def mpnet(minilm: Path) -> None:
    config = json.loads((Path(liminal_hf.checkpoints["mpnet"]) / "config.json").read_text(encoding="utf-8"))
    if not isinstance(try_to_load_from_cache(MPNET, "model.safetensors", revision=config["encoder_revision"]), str):
        pytest.skip("all-mpnet-base-v2 is not in the Hub's cache: python scripts/encoders.py mpnet")


def test_each_row_is_that_of_the_model_which_read_it(pair: list[str], middle: float) -> None:
    cascade = Cascade(pair, middle * 1.01, threads=1)
    texts = [*TEXTS, None, "", "unknown words only"]
    told: list[int] = []
    table = cascade.score(texts, on_rows=told.append)
    assert table.schema.equals(cascade.columns) and sum(told) == len(texts) == len(table)
    found = doubts(cascade.small.score(TEXTS), TEXTS, cascade.config)
    expected = ["large" if doubt > middle * 1.01 else "small" for doubt in found]
    assert table["read_by"].to_pylist() == [*expected, None, None, None] and set(expected) == {"small", "large"}
    pure = Cascade(pair, middle * 1.01, small_share=0, threads=1).score(texts)
    assert pure["read_by"].equals(table["read_by"])
    for name, share in (("small", 1.0), ("large", 0.2)):
        rows = [row for row, reader in enumerate(expected) if reader == name]
        small, large = (scorer.score([TEXTS[row] for row in rows]) for scorer in (cascade.small, cascade.large))
        for column in ("pleasure", "uncertainty_arousal"):
            wanted = share * small[column].to_numpy() + (1 - share) * large[column].to_numpy()
            np.testing.assert_allclose(table.take(rows)[column].to_numpy(), wanted, atol=1e-5)
        alone = small if name == "small" else large
        for column in ("high_dominance", "octant_probability", "in_domain", "emotion_probability"):
            np.testing.assert_allclose(
                pure.take(rows)[column].to_numpy().astype(float), alone[column].to_numpy().astype(float), atol=1e-5
            )
        for column in ("verdict_pleasure", "octant", "windows", "truncated"):
            assert pure.take(rows)[column].equals(alone[column])
    alone = cascade.small.score(texts)
    assert table["error"].to_pylist() == alone["error"].to_pylist() and table["error"].null_count == len(TEXTS)


def test_neighbours_and_order_decide_nothing(pair: list[str], middle: float) -> None:
    # One text lies on the threshold, where rounding in another batch could decide.
    cascade = Cascade(pair, middle, threads=1)
    table = cascade.score(TEXTS)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = cascade.score([TEXTS[row] for row in order]).take(np.argsort(order))
    alone = pa.concat_tables([cascade.score([text]) for text in TEXTS])
    cascade.small.tokens = cascade.large.tokens = 64  # small batches
    for other in (shuffled, alone, cascade.score(TEXTS)):
        assert other["read_by"].to_pylist() == table["read_by"].to_pylist()
        for name in ("pleasure", "uncertainty_dominance"):
            np.testing.assert_allclose(other[name].to_numpy(), table[name].to_numpy(), atol=1e-5)


def test_what_can_not_be_read_keeps_what_is_known(tmp_path: Path, pair: list[str]) -> None:
    model = tiny_model("bert", 1, label_std=[0.3, 0.2, 0.2], max_seq_length=10)
    model.save_pretrained(tmp_path / "short")
    word_tokenizer().save_pretrained(tmp_path / "short")
    cascade = Cascade([pair[0], tmp_path / "short"], 0.0, threads=1, refuse_long=True)
    table = cascade.score(["w3 w4", " ".join(["w5"] * 20), "w7"], problems=[None, None, "line 3: too few cells"])
    assert table["read_by"].to_pylist() == ["short", "small", None], "the large one refuses the second text"
    assert table["error"].to_pylist() == [None, None, "line 3: too few cells"]
    assert table["pleasure"].null_count == 1
    long = " ".join(["w5 w9 w11."] * 40)
    (whole,) = Cascade(pair, 0.0, threads=1).score([long]).to_pylist()
    assert (whole["windows"], whole["truncated"], whole["read_by"]) == (40, False, "large"), "sentence by sentence"
    empty = cascade.score([])
    assert len(empty) == 0 and empty.schema.equals(cascade.columns)
    with pytest.raises(LiminalError, match="2 texts and 1 problems"):
        cascade.score(["w3", "w4"], problems=[None])


def test_a_pair_that_does_not_fit_is_refused(tmp_path: Path, pair: list[str]) -> None:
    for name, options in (("others", {"targets": ["warmth", "trust"]}), ("wide", {"label_range": [0, 1]})):
        tiny_model("bert", 0, max_seq_length=48, **options).save_pretrained(tmp_path / name)
        word_tokenizer().save_pretrained(tmp_path / name)
        with pytest.raises(LiminalError, match=r"of the small model is .* it must be the same"):
            Cascade([pair[0], tmp_path / name], 1.0)
    with pytest.raises(LiminalError, match="takes two checkpoints"):
        Cascade(pair[0], 1.0)  # a path is no list of two letters
    with pytest.raises(LiminalError, match="threshold or a budget"):
        Cascade(pair)
    with pytest.raises(LiminalError, match="threshold or a budget"):
        Cascade(pair, 1.0, budget=1.5)
    with pytest.raises(LiminalError, match=r"measured for the pair minilm, mpnet .* Cascade\.fitted"):
        Cascade(pair, budget=1.5)
    with pytest.raises(LiminalError, match=r"in 0\.\.1, got 2"):
        Cascade(pair, 1.0, small_share=2)
    with pytest.raises(LiminalError, match="no conversations"):
        Cascade(pair, 1.0, conversations=True)
    with pytest.raises(LiminalError, match="no conversations"):
        Cascade(pair, 1.0).score(["w3"], [1])  # type: ignore[arg-type]
    tiny_model("bert", 0, head="linear", max_seq_length=48).save_pretrained(tmp_path / "linear")
    word_tokenizer().save_pretrained(tmp_path / "linear")
    with pytest.raises(LiminalError, match="says no uncertainty"):
        Cascade([tmp_path / "linear", pair[1]], 1.0).score(["w3"])
    (row,) = Cascade([pair[0], tmp_path / "linear"], 0.0).score(["w3"]).to_pylist()
    assert row["read_by"] == "linear" and row["pleasure"] is not None and row["uncertainty_pleasure"] is None


def test_a_budget_becomes_a_share_of_the_reading(pair: list[str]) -> None:
    thresholds = [threshold_for(budget, 5.0, list(range(101))) for budget in (1, 1.5, 3.5, 6, 99)]
    np.testing.assert_allclose(thresholds, [np.inf, 90, 50, -np.inf, -np.inf])
    for budget in (0.5, float("nan")):
        with pytest.raises(LiminalError, match="at least 1"):
            threshold_for(budget, 5.0, [0, 1])
    cascade = Cascade.fitted(pair, TEXTS, 1.5, threads=1)
    again = np.array(cascade.score(TEXTS)["read_by"].to_pylist()) == "large"
    lengths = lengths_of(TEXTS)
    # Both are as fast, up to what else the machine does: half of the reading.
    assert 0.1 < lengths[again].sum() / lengths.sum() < 0.9
    with pytest.raises(LiminalError, match="None of the texts can be read"):
        Cascade.fitted(pair, ["", None], 1.5)


def test_the_command_line_in_a_second_process(tmp_path: Path, pair: list[str], middle: float) -> None:
    pq.write_table(pa.table({"id": range(60), "text": TEXTS}), tmp_path / "in.parquet")
    command = [sys.executable, "-m", "liminal_hf", "score", "in.parquet", "-o", "out.csv", "-m", pair[0]]
    options = ["--then", pair[1], "--threshold", str(middle), "--threads", "1"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    head, *rows = (tmp_path / "out.csv").read_text(encoding="utf-8-sig").splitlines()
    assert head.startswith("id,text,pleasure,") and head.endswith(",error,read_by")
    expected = Cascade(pair, middle, threads=1).score(TEXTS)["read_by"].to_pylist()
    assert [row.rsplit(",", 1)[1] for row in rows] == expected


def test_every_door_gives_the_same_rows(run: Run, tmp_path: Path, pair: list[str], middle: float) -> None:
    cascade = Cascade(pair, middle, threads=1)
    texts = [*TEXTS[:12], None]
    rows, table = cascade(texts), cascade.score(texts)
    assert [row["read_by"] for row in rows] == table["read_by"].to_pylist() and rows == cascade.rows(pd.Series(texts))
    assert {row["read_by"] for row in rows} == {"small", "large", None}
    for name in ("pleasure", "dominance"):
        assert [row[name] for row in rows] == pytest.approx(table[name].to_pylist(), abs=1e-7)
    # One text gives one row, with the keys of the pipeline.
    pad = pipeline("pad-regression", model=pair[0], device="cpu")
    assert cascade(TEXTS[0]).keys() == {*pad(TEXTS[0]), "read_by"}
    with pytest.raises(LiminalError, match="empty"):
        cascade(" ")
    with pytest.raises(LiminalError, match=r"max_length to Cascade"):
        cascade(TEXTS[0], max_length=4)
    (tmp_path / "in.txt").write_text("\n".join(TEXTS[:12]), encoding="utf-8")
    options = ["-m", pair[0], "--then", pair[1], "--threshold", str(middle)]
    status, out, err = run("predict", "--file", tmp_path / "in.txt", "--json", *options)
    typed = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [row["read_by"] for row in typed] == [row["read_by"] for row in rows[:-1]], err
    assert [row["pleasure"] for row in typed] == pytest.approx([row["pleasure"] for row in rows[:-1]], abs=1e-6)
    for options in (["--budget", "2"], ["--then", pair[1]]):
        status, _, err = run("predict", "w3", "-m", pair[0], *options)
        assert status == 2 and "--then mpnet --budget 1.5" in err


def test_options_that_do_not_go_together(refused: Callable[..., str], tmp_path: Path, pair: list[str]) -> None:
    (tmp_path / "in.csv").write_text("text,who\nw3 w4,a\n", encoding="utf-8")
    command = ["score", tmp_path / "in.csv", "-o", tmp_path / "out.csv", "-m", pair[0]]
    assert "--then mpnet --budget 1.5" in refused(*command, "--then", pair[1])
    assert "--then mpnet --budget 1.5" in refused(*command, "--budget", "2")
    assert "Cascade.fitted" in refused(*command, "--then", pair[1], "--budget", "2")
    both = ["--then", pair[1], "--threshold", "1"]
    assert "stand alone" in refused(*command, *both, "--conversation", "who")
    assert "There is no checkpoint" in refused(*command, "--then", tmp_path / "none", "--threshold", "1")
    assert not (tmp_path / "out.csv").exists()


def test_an_interrupted_table_goes_on(tmp_path: Path, pair: list[str], middle: float) -> None:
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "in.parquet")
    settings = {"then": pair[1], "threshold": middle, "shard_rows": 20, "threads": 1}
    score_table(tmp_path / "in.parquet", tmp_path / "whole.parquet", pair[0], **settings)

    def stop(done: int, total: int) -> None:
        if done > 25:
            raise KeyboardInterrupt

    output = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        score_table(tmp_path / "in.parquet", output, pair[0], progress=stop, **settings)
    with pytest.raises(DifferentRunError, match="threshold"):
        score_table(tmp_path / "in.parquet", output, pair[0], **{**settings, "threshold": middle / 2})
    with pytest.raises(DifferentRunError, match="another checkpoint"):
        score_table(tmp_path / "in.parquet", output, pair[0], **{**settings, "then": pair[0]})
    report = score_table(tmp_path / "in.parquet", output, pair[0], **settings)
    assert report.done_before == 20
    assert pq.read_table(output).equals(pq.read_table(tmp_path / "whole.parquet"))


def test_the_budgets_were_measured_on_the_checkpoints_that_ship() -> None:
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    weights = [Path(liminal_hf.checkpoints[name]) / "model.safetensors" for name in measured["pair"]]
    assert [file_sha256(file) for file in weights] == measured["weights"], "type: python scripts/cascade.py --fit"
    assert measured["quantiles"] == sorted(measured["quantiles"]) and set(measured["ratio"]) == {"torch", "onnx"}


def test_the_shipped_pair_keeps_its_names_and_reads(mpnet: None) -> None:
    cascade = Cascade(["minilm", "mpnet"], budget=2.0, threads=1)
    texts = [
        "Oh no!",
        "The committee met on the second floor of the old town hall, and it discussed the budget at length.",
    ]
    table = cascade.score(texts)
    assert table["read_by"].to_pylist() == ["mpnet", "minilm"]
    assert table["pleasure"][0].as_py() < -0.1


def test_the_script_writes_its_page(mpnet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    import cascade

    monkeypatch.setenv("LIMINAL_DATA_DIR", str(write_emobank(tmp_path)))
    folders = ["--work", str(tmp_path / "work"), "--results", str(tmp_path)]
    assert cascade.main([*folders, "--rounds", "1", "--resamples", "50"]) == 0
    report = json.loads((tmp_path / "cascade.json").read_text(encoding="utf-8"))
    for found in report["test"]["budgets"].values():
        assert 0 <= found["characters read again"] <= 1 and -1 <= found["mean r"] <= found["oracle"] + 0.2
    page = (tmp_path / "cascade.md").read_text(encoding="utf-8")
    assert page.count("| budget ") >= 6 and "(chosen)" in page
