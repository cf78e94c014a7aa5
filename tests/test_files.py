"""What figures are drawn from: predictions survive their files, and a source without what is shown is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from figures_kit import TWO, content, pixels, row_of_the_pipeline
from figures_kit import run as run

from liminal_hf import figures as f
from liminal_hf.figures import (
    KINDS,
    LOG_COLUMNS,
    PREDICTION_FORMATS,
    plot,
    read_log,
    read_predictions,
    write_predictions,
)
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.training.callbacks import LOG_COLUMNS as WRITTEN_COLUMNS
from liminal_hf.training.callbacks import EmotionalLogCallback

HISTORY = [
    {"loss": 0.9, "learning_rate": 0.001, "epoch": 1.0, "step": 9},
    {"eval_loss": 0.8, "eval_hope": 0.88, "eval_love": 0.9, "epoch": 1.0, "step": 9},
    {"loss": 0.6, "learning_rate": 0.0005, "epoch": 2.0, "step": 18},
    {"eval_loss": 0.6, "eval_hope": 0.9, "eval_love": 0.91, "epoch": 2.0, "step": 18},
]


def test_the_log_of_a_run(run: Path, tmp_path: Path) -> None:
    assert WRITTEN_COLUMNS[: len(LOG_COLUMNS)] == LOG_COLUMNS
    log = read_log(run)
    np.testing.assert_array_equal(log["validation_loss"], [0.8, 0.6, 0.62])
    assert np.isnan(log["faith"]).all()
    # Without it, the Trainer's own state gives the same rows, also that of the newest checkpoint.
    (run / "emotional_log.csv").unlink()
    for step, history in ((9, HISTORY[:2]), (18, HISTORY), (100, None)):
        (run / f"checkpoint-{step}").mkdir()
        if history:
            state = json.dumps({"log_history": history})
            (run / f"checkpoint-{step}" / "trainer_state.json").write_text(state, encoding="utf-8")
    rows = np.stack(list(read_log(run).values()), axis=1)
    expected = [row[: len(LOG_COLUMNS)] for row in EmotionalLogCallback(tmp_path / "x.csv").rows(HISTORY)]
    np.testing.assert_array_equal(rows, [[np.nan if value == "" else value for value in row] for row in expected])


@pytest.mark.parametrize("kind", PREDICTION_FORMATS)
def test_predictions_survive_every_format(kind: str, tmp_path: Path) -> None:
    written = content()
    path = write_predictions(tmp_path / f"new/predictions{kind}", **written)
    rows = read_predictions(path)
    for name in ("predicted", "gold", "uncertainty", "pad_trajectory", "step_attentions"):
        np.testing.assert_allclose(getattr(rows, name), written[name], rtol=1e-6, err_msg=name)
    for name in ("id", "text", "conversation", "speaker", "turn"):
        assert [str(value) for value in rows.labels[name]] == [str(value) for value in written[name]]
    # A folder is as good as its file.
    np.testing.assert_array_equal(read_predictions(path.parent).predicted, rows.predicted)
    path = write_predictions(tmp_path / f"mine{kind}", [[0.1, np.nan], [0.2, np.nan]], **TWO)
    path = write_predictions(tmp_path / f"mine{kind}", [[0.1, 0.2]], gold=[[0, -100]], **TWO)
    assert read_predictions(path).targets == ("warmth", "urgency")
    np.testing.assert_array_equal(read_predictions(path).gold, [[0, -100]])
    assert not list(path.parent.glob("*tmp*"))


def test_rows_without_a_prediction_are_left_out_and_counted(tmp_path: Path) -> None:
    """What `liminal predict --json` and `liminal score` write of texts that could not be read."""
    bad = row_of_the_pipeline(pleasure=None, arousal=None, dominance=None, uncertainty=None, error="empty")
    path = tmp_path / "rows.jsonl"
    path.write_text(row_of_the_pipeline() + bad + "\n" + row_of_the_pipeline(pleasure=0.4), encoding="utf-8")
    rows = read_predictions(path)
    np.testing.assert_array_equal(rows.predicted, [[0.1, 0.2, -0.3], [0.4, 0.2, -0.3]])
    np.testing.assert_array_equal(rows.uncertainty, [[0.11, 0.12, 0.13]] * 2)
    assert rows.left_out == 1
    assert f.figure_of("plane", path).get_suptitle().endswith("rows, 1 row without a prediction left out")
    # A target that was never trained is None in every row.
    path.write_text(row_of_the_pipeline(dominance=None) * 2, encoding="utf-8")
    assert read_predictions(path).targets == ("pleasure", "arousal") and read_predictions(path).left_out == 0
    path.write_text(bad, encoding="utf-8")
    with pytest.raises(LiminalError, match=r"not one of its 1 rows has a prediction\. The first error: empty"):
        read_predictions(path)


# ---- from a source to a figure ----


def write_probe(path: Path) -> None:
    rows = [
        {"encoder": name, "layer": layer, "dimension": dimension, "r": 0.3 + 0.1 * layer, "low": 0.2, "high": 0.6}
        for name, layers in (("MiniLM", 3), ("BERT", 2))
        for layer in range(layers)
        for dimension in DIMENSIONS
    ]
    path.write_text(json.dumps({"layers": rows}), encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn(kind: str, run: Path, tmp_path: Path) -> None:
    write_probe(run / "probe.json")
    predictions = write_predictions(run / "predictions.jsonl", **content())
    source = {"conversation": f"{predictions}#talk1", "probe": run / "probe.json"}.get(kind, run)
    ending = ".gif" if kind == "breathing" else ".png"
    path = plot(kind.replace("-", "_"), source, tmp_path / "figures" / f"figure{ending}")
    image = pixels(path)
    assert image.shape[1] == (800 if ending == ".gif" else 1600)
    assert len(np.unique(image @ [1, 256, 65536])) > 15, "nothing is drawn"
    assert ending == ".png" or path.stat().st_size < 400_000


def test_what_is_drawn_is_what_was_read(run: Path) -> None:
    write_probe(run / "probe.json")
    written = content()
    path = write_predictions(run / "predictions.jsonl", **written)
    curves = f.figure_of("training-curves", run)
    np.testing.assert_array_equal(curves.axes[0].lines[1].get_ydata(), [0.8, 0.6, 0.62])
    assert curves.get_suptitle().endswith("\nmy-run")
    # The odd rows, in the order of their turns, which fall in the file; turns 2, 4, ... of them are Ana's.
    talk = f.figure_of("conversation", f"{path}#talk1")
    expected = written["predicted"][1::2][::-1]
    np.testing.assert_allclose(talk.axes[0].containers[0].lines[0].get_ydata(), expected[::2, 0], rtol=1e-6)
    probe = f.figure_of("probe", run / "probe.json")
    lines = [line.get_ydata() for line in probe.axes[1].lines if line.get_label() in ("MiniLM", "BERT")]
    np.testing.assert_allclose(lines, [[0.3, 0.4, 0.5], [0.3, 0.4, np.nan]])


@pytest.mark.parametrize("ending", f.FIGURE_FORMATS)
def test_every_format_is_written(ending: str, run: Path, tmp_path: Path) -> None:
    path = plot("training-curves", run, tmp_path / f"a{ending}")
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF", ".jpg": b"\xff\xd8", ".webp": b"RIFF"}
    assert path.read_bytes().startswith(start[ending])


SOURCES: dict[str, tuple[str, str, str]] = {
    "broken.jsonl": ("conversation", '{"pleasure": 1,\n', "line 1 is not JSON"),
    "list.jsonl": ("conversation", "[1]\n", "line 1 is no object but list"),
    "none.csv": ("plane", "text\nx\n", "no column 'pleasure'. It has: text.*liminal score"),
    "word.csv": ("plane", "pleasure,arousal,dominance\n0,0,0\n0,much,0\n", "'arousal' holds 'much' in row 2"),
    "empty.csv": ("plane", "pleasure,arousal,dominance\n", "no rows"),
    "mine.csv": ("reliability", "pleasure,arousal,dominance\n0,0,0\n", "has no labels.*--labels V,A,D --scale"),
    "same.csv": ("step-attention", "pleasure,arousal,dominance\n0,0,0\n", "has no step_attentions"),
    "ragged.jsonl": ("step-attention", row_of_the_pipeline(step_attentions=[[1]])
                     + row_of_the_pipeline(step_attentions=[[1, 0], [0, 1]]), "'step_attentions' must hold"),
    "talks.csv": ("conversation", "pleasure,arousal,dominance,conversation\n0,0,0,a\n0,0,0,b\n",
                  "2 conversations: a, b. Pick one: .*#a"),
    "answers.csv": ("conversation", "pleasure,arousal,dominance\n" + "0,0,0\n" * 296,
                    "296 rows and no column.*plot plane"),
    "log.csv": ("training-curves", "epoch,train_loss\n1,2\n", "no column 'validation_loss'"),
    "other.csv": ("training-curves", 'a,b\n"1\n', "is not the log of a training run"),
    "probe.csv": ("probe", "encoder,layer,dimension,r,low,high\nx,0,valence,.1,.0,.2\n", "dimension 'valence'"),
    "results.csv": ("probe", "system,value\nours,1\n", "no column 'encoder'"),
    "not.json": ("probe", "[]", "is not what liminal probe writes"),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_without_what_the_figure_shows(name: str, tmp_path: Path) -> None:
    kind, text, message = SOURCES[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(LiminalError, match=f"(?s){message}"):
        plot(kind, tmp_path / name, tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_what_is_not_there_is_named(run: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for kind, source, message in (
        ("training-curves", run / "nowhere", "nowhere"),
        ("training-curves", empty, "neither emotional_log.csv nor"),
        ("plane", empty, "liminal evaluate"),
        ("plane", empty / "x.csv", "no file"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            plot(kind, source, tmp_path / "out.png")
    for kind, output, message in (
        ("aura", "a.png", r"no figure 'aura'.*\n  training-curves    a run's folder.*\n  plane "),
        ("plane", "a.bmp", r"\.png.*not 'a.bmp'.*-o a.png"),
        ("breathing", "a.png", r"breathing is written as \.gif"),
    ):
        with pytest.raises(LiminalError, match=f"(?s){message}"):
            plot(kind, run, tmp_path / output)
    with pytest.raises(LiminalError, match=r"a.xlsx.*\.jsonl"):
        write_predictions(tmp_path / "a.xlsx", [[0, 0, 0]])
    with pytest.raises(LiminalError, match=r"`predicted` must have the shape \(1, 3\)"):
        write_predictions(tmp_path / "a.csv", [[0, 0]])
    with pytest.raises(LiminalError, match=r"`text`.*\(1\), got 2"):
        write_predictions(tmp_path / "a.csv", [[0, 0, 0]], text=["a", "b"])
