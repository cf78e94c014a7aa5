"""The command line: what it prints, and what it says when something is wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MINILM, Run
from transformers import AutoTokenizer, pipeline

from liminal_hf import DIMENSIONS, LiminalForPADRegression, __version__, metrics
from liminal_hf.modeling.rows import in_words

TEXTS = ["What a lovely surprise!", "The funeral is on Thursday.", "No.", "He shouted at us" + " all" * 90]


@pytest.fixture(scope="module")
def checkpoint(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head-only checkpoint whose untrained head moves, so that texts differ."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    model = LiminalForPADRegression.from_encoder_pretrained(
        MINILM, label_mean=[0.1, 0.0, -0.1], label_std=[0.2, 0.1, 0.1], max_seq_length=64
    )
    model.config.prediction_quantiles = [np.linspace(-1, 1, 101).tolist()] * 3
    model.save_head_only(folder)
    AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
    return folder


def rows(out: str) -> list[dict]:
    return [json.loads(line) for line in out.split("\n") if line]


# ---- the command itself ----


def test_it_is_installed_as_a_command() -> None:
    command = Path(sys.executable).with_name("liminal")
    if not command.exists():
        pytest.skip("the package is not installed in this environment: pip install -e .")
    done = subprocess.run([command, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, __version__)


def test_help_names_the_commands(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0
    assert all(command in out for command in ("predict", "train", "evaluate", "plot", "push", "export"))


def test_a_traceback_on_demand_and_for_a_fault_of_ours(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from liminal_hf.cli import read

    monkeypatch.setenv("LIMINAL_TRACEBACK", "1")
    status, _, err = run("predict", " ")
    assert status == 1 and "Traceback" in err and "The text is empty" in err and "fault" not in err
    monkeypatch.delenv("LIMINAL_TRACEBACK")
    for error in (IndexError("list index out of range"), ValueError("a number of ours"), KeyError("pleasure")):

        def broken(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(read, "lines_of", broken)
        status, _, err = run("predict", stdin=b"x")
        assert status == 1 and "Traceback" in err and "this is a fault of liminal_hf" in err


@pytest.mark.parametrize("module", ["liminal_hf", "liminal_hf.cli"])
def test_it_runs_as_a_module(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, __version__)


def test_output_is_utf8_whatever_the_console(tmp_path: Path, checkpoint: Path) -> None:
    """A real process, whose output goes to a file or a pipe, as on Windows."""
    texts = ["I am glad", "so sad \U0001f621 now", "Größe “in quotes”\u2028 and on", "漢字"]
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    command = [sys.executable, "-m", "liminal_hf", "predict", "--file", "texts.txt", "-m", str(checkpoint)]

    def on(encoding: str, command: list[str]) -> tuple[int, str, str]:
        environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "COLUMNS": "160"}
        done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment)
        return done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8")

    status, out, err = on("ascii", [*command, "--json"])
    assert status == 0 and [row["text"] for row in rows(out)] == texts, err
    status, out, err = on("cp1252", command)
    assert status == 0 and all(text in out for text in ("\U0001f621", "“in quotes”", "漢字")), err
    status, _, err = on("cp850", [*command[:4], "--file", "größe漢.txt"])
    assert status == 2 and "größe漢.txt" in err


# ---- predict ----


def test_json_holds_what_the_pipeline_gives(run: Run, checkpoint: Path) -> None:
    status, out, _ = run("predict", *TEXTS, "--json", "--model", checkpoint)
    assert status == 0
    found = rows(out)
    assert [row.pop("text") for row in found] == TEXTS
    expected = pipeline("pad-regression", model=str(checkpoint), device="cpu")(TEXTS)
    for row, wanted in zip(found, expected, strict=True):
        about = ["confidence", "octant", "octant_probability", "emotions", "uncertainty", "percentile"]
        about += ["interval", "probability", "verdict", "in_domain", "windows", "truncated", "error"]
        assert list(row) == ["pleasure", "arousal", "dominance", *about]
        assert row.keys() == wanted.keys() and row["octant"] == wanted["octant"]
        for name in DIMENSIONS:
            assert row[name] == pytest.approx(wanted[name], abs=1e-5)
            assert row["uncertainty"][name] == pytest.approx(wanted["uncertainty"][name], abs=1e-5)
            assert row["percentile"][name] == pytest.approx(wanted["percentile"][name], abs=1e-2)
    assert len({row["pleasure"] for row in found}) == len(TEXTS)


def test_cut_and_unread_texts_are_counted_on_stderr(run: Run, checkpoint: Path) -> None:
    status, out, err = run("predict", "fine", "", "so " * 300, "\U0001f600", "--json", "--model", checkpoint)
    assert status == 0 and "2 of 4 texts: not read" in err
    assert "1 of 4 texts: longer than the model reads at once" in err
    assert [row["error"] for row in rows(out)][::2] == [None, None] and len(rows(out)[2]["windows"]) > 1
    _, table, _ = run("predict", "fine", "", "--model", checkpoint)
    assert "empty" in table


def test_texts_come_from_arguments_a_file_or_stdin(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    content = "﻿First line.\n\n  \nZweite Zeile, größer 🙂\r\nthird"
    (tmp_path / "texts.txt").write_text(content, encoding="utf-8", newline="")
    _, from_file, note = run("predict", "--file", tmp_path / "texts.txt", "--json", "-m", checkpoint)
    assert "2 empty lines of 5" in note
    _, from_stdin, _ = run("predict", "--json", "-m", checkpoint, stdin=content.encode())
    assert [row["text"] for row in rows(from_file)] == ["First line.", "Zweite Zeile, größer 🙂", "third"]
    assert from_file == from_stdin


def test_the_table_is_for_people(run: Run, checkpoint: Path) -> None:
    nasty = "[bold]not markup[/bold] \x1b[31mred\nnext"
    status, out, _ = run("predict", nasty, "-m", checkpoint)
    assert status == 0
    assert "[bold]not markup[/bold] [31mred next" in out and "\x1b" not in out
    _, as_json, _ = run("predict", nasty, "-m", checkpoint, "--json")
    (row,) = rows(as_json)
    assert f"{row['pleasure']:+.2f} \u00b1{row['uncertainty']['pleasure']:.2f}" in out
    assert in_words(row).split("; ")[0] in out


@pytest.mark.parametrize("options", [["--json"], ["-m", "CHECKPOINT", "--json"], ["--json", "--"]])
def test_a_text_may_begin_with_a_dash(options: list[str], run: Run, checkpoint: Path) -> None:
    options = [str(checkpoint) if option == "CHECKPOINT" else option for option in options]
    before, after = (options, []) if "--" in options else ([], options)
    chosen = [] if "-m" in options else ["-m", checkpoint]
    texts = ["-5 degrees", "- no", "fine", "-fine with me", "-3"]
    status, out, err = run("predict", *chosen, *before, *texts, *after)
    assert status == 0, err
    assert [row["text"] for row in rows(out)] == texts
    status, _, err = run("predict", "x", "--jsno")
    assert status == 2 and "No such option" in err


TABLES = {
    "a.csv": b"id,text\n1,fine\n2,I hate it\n",
    "b.csv": "id;text;wert\n1;fine;5,5\n2;I hate it;4,0\n".encode("cp1252"),
    "c.tsv": "\ufeffid\ttext\n1\tfine\n2\tI hate it\n".encode("utf-16-le"),
    "d.jsonl": b'{"text": "fine"}\n{"text": "I hate it"}\n',
}


@pytest.mark.parametrize("name", [*TABLES, "e.xlsx", "f.parquet"])
def test_predict_reads_a_table(name: str, run: Run, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    if name in TABLES:
        path.write_bytes(TABLES[name])
    else:
        frame = pd.DataFrame({"id": [1, 2], "text": ["fine", "I hate it"]})
        frame.to_parquet(path) if name.endswith("parquet") else frame.to_excel(path, index=False)
    status, out, err = run("predict", "--file", path, "--json", "-m", checkpoint)
    assert status == 0, err
    assert [row["text"] for row in rows(out)] == ["fine", "I hate it"]


def test_rows_of_a_table_that_cannot_be_read_are_counted(
    run: Run, refused: Callable[..., str], checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("id,words\n1,fine\n2\n3,\n4," + "all " * 90 + "\n", encoding="utf-8")
    status, out, err = run("predict", "--file", path, "--text", "words", "--json", "-m", checkpoint)
    assert status == 0 and [row["error"] is None for row in rows(out)] == [True, False, False, True]
    assert "line 3 has 1 cell" in rows(out)[1]["error"] and rows(out)[1]["pleasure"] is None
    assert "2 of 4 texts: not read (" in err and "1 of 4 texts: longer than the model reads" in err
    status, out, _ = run("predict", "--file", path, "--text", "words", "-m", checkpoint)
    assert status == 0 and " - " in out
    # What is wrong is said with what can be typed.
    line = refused("predict", "--file", path, "-m", checkpoint)
    assert "no column 'text'" in line and "'words'" in line
    assert "goes with a table" in refused("predict", "a text", "--separator", "tab")
    path.write_text("text\tid\nfine\t1\n", encoding="utf-8")
    status, out, err = run("predict", "--file", path, "--separator", "tab", "--json", "-m", checkpoint)
    assert status == 0 and rows(out)[0]["text"] == "fine", err


def test_only_a_line_feed_ends_a_line(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    content = "a\u2028b\x0bc\r\nd\x85e"
    status, out, err = run("predict", "--json", "-m", checkpoint, stdin=content.encode())
    assert status == 0 and [row["text"] for row in rows(out)] == ["a\u2028b\x0bc", "d\x85e"], err
    status, _, err = run("plot", "conversation", "-", "-o", tmp_path / "a.png", stdin=out.encode())
    assert status == 0, err


@pytest.mark.parametrize(
    ("texts", "hint"),
    [
        (["   "], "The text is empty"),
        (["\udce9t\udce9"], "lone surrogate"),
        (["x", "--file", "y"], "not both"),
        (["--file", "nowhere.txt"], "There is no file nowhere.txt"),
    ],
)
def test_texts_that_cannot_be_read(texts: list[str], hint: str, refused: Callable[..., str]) -> None:
    assert hint in refused("predict", *texts)


def test_input_that_cannot_be_read(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "is empty" in refused("predict", stdin=b"\n \n")
    (tmp_path / "latin.txt").write_bytes("fine\nnaïve\n".encode("latin-1"))
    line = refused("predict", "--file", tmp_path / "latin.txt")
    assert "line 2 holds the byte 0xef" in line and "iconv" in line
    assert "no file" in refused("predict", "--file", tmp_path)


def test_what_is_no_checkpoint(refused: Callable[..., str], minilm: Path, tmp_path: Path) -> None:
    assert "no folder of that name here" in refused("predict", "x", "-m", "nobody/nothing")
    assert "no folder of that name here" in refused("predict", "x", "-m", tmp_path / "nothing")
    assert "liminal train" in refused("predict", "x", "-m", tmp_path)
    (tmp_path / "file").write_text("x")
    assert "is a file" in refused("predict", "x", "-m", tmp_path / "file")
    assert "'bert'" in refused("predict", "x", "-m", minilm)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "merge_and_unload" in refused("predict", "x", "-m", tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "liminal: " in refused("predict", "x", "-m", tmp_path)


def test_a_model_with_no_encoder_says_that_it_takes_vectors(refused: Callable[..., str], tmp_path: Path) -> None:
    from liminal_hf import LiminalConfig

    LiminalForPADRegression(LiminalConfig(pooled_size=8, latent_size=16)).save_pretrained(tmp_path)
    assert "pooled_embeds" in refused("predict", "x", "-m", tmp_path)


# ---- evaluate ----


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    lines = ["words,valence,energy,control"]
    lines += [f'"{text}",{5 + number},{9 - number},{3 + number % 2}' for number, text in enumerate(TEXTS)]
    lines[2] = lines[2].replace(",8,", ",,")  # a missing label
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


COLUMNS = ["--text", "words", "--labels", "valence,energy,control", "--scale", "1,9"]


def test_evaluate_on_a_table(run: Run, checkpoint: Path, table: Path, tmp_path: Path) -> None:
    written = tmp_path / "predictions.jsonl"
    status, out, _ = run("evaluate", checkpoint, "--data", table, *COLUMNS, "--json", "--predictions", written)
    assert status == 0
    (result,) = rows(out)
    found = rows(written.read_text(encoding="utf-8"))
    predicted = np.array([[row[name] for name in DIMENSIONS] for row in found])
    gold = np.array([[(5 + n - 5) / 4, -100 if n == 1 else (9 - n - 5) / 4, (3 + n % 2 - 5) / 4] for n in range(4)])
    assert [row["text"] for row in found] == TEXTS
    assert result["rows"] == 4 and found[1]["gold_arousal"] is None
    for name in ("pearson", "ccc", "mae", "rmse"):
        expected = getattr(metrics, name)(predicted, gold)
        assert [result["metrics"][f"{name}_{d}"] for d in DIMENSIONS] == pytest.approx(expected.tolist(), abs=1e-4)
    constant = np.abs(gold[:, 0] - 0.1).mean()  # the mean of the labels that the model was trained on
    assert result["constant"]["mae_pleasure"] == pytest.approx(constant)
    # The order of the texts is the file's, whatever their length. It reads them as training does, long ones cut.
    read = pipeline("pad-regression", model=str(checkpoint), device="cpu")(
        [row["text"] for row in found], truncation=True
    )
    assert [row["pleasure"] for row in read] == pytest.approx(predicted[:, 0].tolist(), abs=1e-5)


def test_evaluate_prints_a_table(run: Run, checkpoint: Path, table: Path) -> None:
    status, out, _ = run("evaluate", checkpoint, "--data", table, *COLUMNS)
    assert status == 0
    words = ["4 texts", "pleasure", "dominance", "mean", "CCC", "MAE", "RMSE", "const.", "Hope", "Faith", "Love"]
    assert all(word in " ".join(out.split()) for word in words), out


def test_evaluate_tells_of_texts_that_the_model_was_trained_on(
    run: Run, checkpoint: Path, table: Path, tmp_path: Path
) -> None:
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "train.csv").write_text("".join(lines[:2]) + '"Another one.",1,9,5\n', encoding="utf-8")
    arguments = ["evaluate", checkpoint, "--data", table, *COLUMNS, "--train", tmp_path / "train.csv"]
    status, out, err = run(*arguments, "--json")
    assert status == 0, err
    (result,) = rows(out)
    assert result["leak"]["rows"] == 1 and result["metrics"] != result["leak"]["metrics_without"]
    (tmp_path / "rest.csv").write_text("".join([lines[0], *lines[2:]]), encoding="utf-8")
    _, out, _ = run("evaluate", checkpoint, "--data", tmp_path / "rest.csv", *COLUMNS, "--json")
    (rest,) = rows(out)
    assert rest["leak"] == {"rows": 0} and rest["metrics"] == pytest.approx(result["leak"]["metrics_without"], abs=1e-5)
    _, out, _ = run(*arguments)
    assert "1 of these texts are also in another part of the data. Without them: mean r " in out


def test_evaluate_on_emobank_stands_beside_the_known_constant(
    run: Run, checkpoint: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMINAL_DATA_DIR", str(data_dir))
    status, out, _ = run("evaluate", checkpoint, "--json")
    assert status == 0
    (result,) = rows(out)
    assert result["rows"] == 1000 and result["split"] == "test"
    assert result["human_ceiling"]["pleasure"] == pytest.approx(0.895, abs=0.005)
    assert result["leak"]["rows"] == 19 and "pearson_mean" in result["leak"]["metrics_without"]
    known = [result["constant"][f"mae_{name}"] for name in DIMENSIONS]
    assert known == pytest.approx([0.1225, 0.0952, 0.0782], abs=5e-5)


def test_evaluate_reads_the_tables_that_people_have(run: Run, checkpoint: Path, table: Path, tmp_path: Path) -> None:
    """The same numbers from a CSV with semicolons, decimal commas and cp1252, and from Excel."""
    frame = pd.read_csv(table)
    frame[["valence", "energy"]] += 0.5
    frame["words"] = frame["words"].str.replace("No.", "Größe?")
    frame.to_csv(tmp_path / "point.csv", index=False)
    frame.to_csv(tmp_path / "comma.csv", index=False, sep=";", decimal=",", encoding="cp1252")
    frame.to_csv(tmp_path / "bar.csv", index=False, sep="|", decimal=",", encoding="cp1252")
    frame.to_excel(tmp_path / "sheet.xlsx", index=False, sheet_name="Ratings")
    options = {
        "comma.csv": [],
        "bar.csv": ["--separator", "|", "--encoding", "cp1252", "--decimal", ","],
        "sheet.xlsx": ["--sheet", "Ratings"],
    }
    _, expected, err = run("evaluate", checkpoint, "--data", tmp_path / "point.csv", *COLUMNS[:5], "1,10", "--json")
    for name, typed in options.items():
        status, out, err = run(
            "evaluate", checkpoint, "--data", tmp_path / name, *COLUMNS[:5], "1,10", *typed, "--json"
        )
        assert status == 0, err
        assert rows(out)[0]["metrics"] == pytest.approx(rows(expected)[0]["metrics"])


def test_any_targets_and_a_target_that_was_never_trained(run: Run, tmp_path: Path, minilm: Path) -> None:
    torch.manual_seed(0)
    names = ["warmth", "urgency", "clarity"]
    model = LiminalForPADRegression.from_encoder_pretrained(MINILM, targets=names, label_std=[0.2] * 3)
    model.config.trained_targets = [True, True, False]
    model.save_head_only(tmp_path / "model")
    AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path / "model")
    (tmp_path / "mine.csv").write_text(
        "text,warmth,urgency,clarity\nI love it,5,2,3\nI hate it,1,4,\nNow!,2,5,1\nSo long,,,\n", encoding="utf-8"
    )
    status, out, _ = run("predict", "I love it", "-m", tmp_path / "model")
    line = next(line for line in out.split("\n") if "I love it" in line)
    assert "warmth" in out and "pleasure" not in out and "octant" not in out and line.split()[7] == "-"
    _, out, _ = run("predict", "I love it", "-m", tmp_path / "model", "--json")
    assert rows(out)[0]["clarity"] is None and rows(out)[0]["warmth"] is not None
    arguments = ["evaluate", tmp_path / "model", "--data", tmp_path / "mine.csv", "--labels", ",".join(names)]
    status, out, err = run(*arguments, "--json", "--predictions", tmp_path / "predictions.csv")
    assert status == 0 and "NaN" not in out, err
    assert "pearson_warmth" in rows(out)[0]["metrics"] and "pearson_clarity" not in rows(out)[0]["metrics"]
    status, out, err = run("plot", "predicted-vs-gold", tmp_path / "predictions.csv", "-o", tmp_path / "a.png")
    assert status == 0, err
    status, out, _ = run(*arguments)
    assert status == 0 and "urgency" in out and "dominance" not in out


def test_evaluate_says_what_is_wrong_with_the_data(refused: Callable[..., str], checkpoint: Path, table: Path) -> None:
    def problem(*options: object) -> str:
        return refused("evaluate", checkpoint, "--data", table, *options)

    assert "'text'" in problem()
    assert "--split is for EmoBank" in problem(*COLUMNS, "--split", "test")
    assert "3 targets (pleasure, arousal, dominance)" in problem(*COLUMNS[:2], "--labels", "valence,energy")
    assert "goes with a table" in refused("evaluate", checkpoint, "--data", "emobank", "--decimal", ",")
    assert "nowhere.csv is not a file" in refused("evaluate", checkpoint, "--data", "nowhere.csv")
    assert "--scale" in problem(*COLUMNS[:4], "--scale", "one to nine")
    assert "--scale" in problem(*COLUMNS[:4], "--scale", "1")
    assert ".jsonl" in problem(*COLUMNS, "--predictions", "predictions.xlsx")


# ---- train, push, export, plot ----


@pytest.fixture(scope="module")
def recipe(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps on twenty-four rows, with the real encoder."""
    folder = tmp_path_factory.mktemp("recipe")
    feelings = {"I love this": (5, 4, 4), "I hate this": (1, 4, 2), "It is there": (3, 2, 3), "Save me": (2, 5, 1)}
    lines = ["text,V,A,D"] + [f"{text} {n},{v},{a},{d}" for n in range(6) for text, (v, a, d) in feelings.items()]
    (folder / "mine.csv").write_text("\n".join(lines), encoding="utf-8")
    path = folder / "mine.yaml"
    path.write_text(
        f"""
model: {{encoder: {MINILM}, head: v7}}
data: {{files: {{train: mine.csv, validation: mine.csv, test: mine.csv}}}}
hub: {{repo_id: tester/mine}}
phases:
  - {{name: head, trainable: head, training: {{max_steps: 2, per_device_train_batch_size: 8, learning_rate: 1e-3}}}}
""",
        encoding="utf-8",
    )
    return path


def test_from_a_recipe_to_predictions(
    run: Run, refused: Callable[..., str], recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = run("train", recipe, "--seed", 1)
    assert status == 0 and "liminal evaluate runs/mine-seed1" in out and "pleasure" in out
    folder = tmp_path / "runs" / "mine-seed1"
    assert json.loads((folder / "metrics.json").read_text())["seed"] == 1
    # The run's own table: no EmoBank, and no option to type.
    status, out, err = run("evaluate", folder)
    assert status == 0 and "on its own data, test (24 texts)" in out and "24 of these texts are also" in out, err
    assert "Hope = 1 - MAE" in out
    assert "has no split 'tset'" in refused("evaluate", folder, "--split", "tset")
    # A run's folder stands for the checkpoint in it.
    status, out, _ = run("predict", "I love this", "-m", folder, "--json")
    assert status == 0 and rows(out)[0]["percentile"] is not None
    status, out, _ = run("export", folder, "-o", tmp_path / "repository")
    assert status == 0
    assert {"README.md", "config.json", "modeling_liminal.py", "tokenizer.json", "model.safetensors"} <= {
        path.name for path in (tmp_path / "repository").iterdir()
    }
    assert "not an empty folder" in refused("export", folder, "-o", tmp_path / "repository")


def test_an_example_recipe_can_be_trained(run: Run, refused: Callable[..., str], tmp_path: Path) -> None:
    from liminal_hf.training.recipe import Recipe

    status, out, _ = run("train", "--example")
    (tmp_path / "my.yaml").write_text(out, encoding="utf-8")
    assert status == 0 and Recipe.from_yaml(tmp_path / "my.yaml").phases
    assert "liminal train --example > my.yaml" in refused("train")


def test_recipes_that_cannot_be_followed(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "hub_configs/" in refused("train", tmp_path / "nothing.yaml")
    (tmp_path / "wrong.yaml").write_text("modle: {}\n")
    assert "modle" in refused("train", tmp_path / "wrong.yaml", "-o", tmp_path / "run")


def test_push_asks_where_to(refused: Callable[..., str], checkpoint: Path) -> None:
    assert "OWNER/NAME" in refused("push", checkpoint)


def test_push_takes_the_repository_from_the_recipe(
    refused: Callable[..., str], tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe.read_text().replace("tester/mine", "no/such/name"))
    (tmp_path / "mine.csv").write_text((recipe.parent / "mine.csv").read_text())
    assert "no/such/name" in refused("push", tmp_path)


def test_predictions_become_a_figure(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    _, predicted, _ = run("predict", *TEXTS, "--json", "-m", checkpoint)
    status, out, _ = run("plot", "conversation", "-", "-o", tmp_path / "figure.png", stdin=predicted.encode())
    assert status == 0 and out.strip() == str(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_scored_table_becomes_a_figure_with_its_own_labels(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("text;V;A;D\nI love it;4,5;3;3\n;3;3;3\nI hate it;1,5;4;2\nSo be it;3;2,5;3\n", encoding="utf-8")
    scored = tmp_path / "scored.parquet"
    assert run("score", table, "-o", scored, "-m", checkpoint, "--separator", ";", "--threads", 1)[0] == 0
    for kind, options in {"pad-distributions": [], "plane": [], "predicted-vs-gold": ["--labels", "V,A,D"]}.items():
        status, _, err = run("plot", kind, scored, "-o", tmp_path / f"{kind}.png", *options)
        assert status == 0, err
    assert run("score", table, "-o", tmp_path / "p.parquet", "--prefix", "x_", "-m", checkpoint, "--threads", 1)[0] == 0
    status, _, err = run("plot", "plane", tmp_path / "p.parquet", "--prefix", "x_", "-o", tmp_path / "p.png")
    assert status == 0, err


def test_figures_that_cannot_be_drawn(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "figure.png"
    listed = refused("plot", "nonsense", "x", "-o", output).split("\n")
    assert any(line.startswith("  training-curves ") for line in listed) and len(listed) > 10
    assert "nowhere" in refused("plot", "reliability", "nowhere.jsonl", "-o", output)
    # As if matplotlib were not installed.
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    line = refused("plot", "conversation", "-", "-o", output, stdin=b'{"pleasure": 0, "arousal": 0, "dominance": 0}\n')
    assert "pip install 'liminal_hf[plot]'" in line
    assert not output.exists()
