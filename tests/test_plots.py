"""`liminal plot` finds in runs, predictions and tables what the figures show, and predictions survive their files."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from liminal_hf import plots
from liminal_hf.plots import KINDS, LOG_COLUMNS, PREDICTION_FORMATS, plot, read_log, read_predictions, write_predictions
from liminal_hf.training.callbacks import LOG_COLUMNS as WRITTEN_COLUMNS
from liminal_hf.training.callbacks import EmotionalLogCallback

ROWS, STEPS = 40, 3


@pytest.fixture
def content() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    gold = rng.normal(0, 0.15, (ROWS, 3)).clip(-1, 1)
    gold[3, 1] = -100
    trajectory = 0.5 * gold.clip(-1)[:, None] + rng.normal(0, 0.05, (ROWS, STEPS, 3))
    attention = np.tril(rng.uniform(0.1, 1, (ROWS, STEPS, STEPS)))
    return {
        "predicted": trajectory[:, -1],
        "gold": gold,
        "uncertainty": rng.uniform(0.05, 0.2, (ROWS, 3)),
        "pad_trajectory": trajectory,
        "confidences": rng.uniform(0, 1, (ROWS, STEPS)),
        "step_attentions": attention / attention.sum(-1, keepdims=True),
        "id": [f"id{row}" for row in range(ROWS)],
        "text": ['He said: "no, 1,5!"\nThen ü.', "007", ""] + ["None"] * (ROWS - 3),
        "conversation": [f"talk{row % 2}" for row in range(ROWS)],
        "speaker": ["Ana", "Ben", "Ben", "Ana"] * (ROWS // 4),
        "turn": list(range(ROWS))[::-1],
    }


LOG = """epoch,train_loss,validation_loss,hope,faith,love,learning_rate
1.0,0.9,0.8,0.88,,0.9,0.001
2.0,0.6,0.6,0.9,,0.91,0.0005
3.0,0.5,0.62,0.9,,0.92,0.0001
"""
HISTORY = [
    {"loss": 0.9, "learning_rate": 0.001, "epoch": 1.0, "step": 9},
    {"eval_loss": 0.8, "eval_hope": 0.88, "eval_love": 0.9, "epoch": 1.0, "step": 9},
    {"loss": 0.6, "learning_rate": 0.0005, "epoch": 2.0, "step": 18},
    {"eval_loss": 0.6, "eval_hope": 0.9, "eval_love": 0.91, "epoch": 2.0, "step": 18},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "my-run"
    folder.mkdir()
    (folder / "emotional_log.csv").write_text(LOG, encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", PREDICTION_FORMATS)
def test_predictions_survive_every_format(kind: str, content: dict[str, Any], tmp_path: Path) -> None:
    path = write_predictions(tmp_path / f"new/predictions{kind}", **content)
    found = read_predictions(path)
    for name in ("predicted", "gold", "uncertainty", "pad_trajectory", "confidences", "step_attentions"):
        np.testing.assert_allclose(getattr(found, name), content[name], rtol=1e-6, err_msg=name)
    labels = {name: [str(value) for value in values] for name, values in found.labels.items()}
    kept = ["turn"] if kind == ".safetensors" else ["id", "text", "conversation", "speaker", "turn"]
    assert labels == {name: [str(value) for value in content[name]] for name in kept}
    # A folder is as good as its file.
    np.testing.assert_array_equal(read_predictions(path.parent).predicted, found.predicted)


@pytest.mark.parametrize("kind", PREDICTION_FORMATS)
def test_predictions_alone_are_enough(kind: str, tmp_path: Path) -> None:
    found = read_predictions(write_predictions(tmp_path / f"mine{kind}", [[0.1, 0.2, 0.3]]))
    np.testing.assert_allclose(found.predicted, [[0.1, 0.2, 0.3]])
    assert found.gold is found.uncertainty is found.confidences is found.pad_trajectory is None and not found.labels


def test_rows_of_the_pipeline_are_predictions(tmp_path: Path) -> None:
    """`liminal predict --json` and kin write nested objects."""
    row = {
        "pleasure": 0.1, "arousal": 0.2, "dominance": -0.3, "confidence": 0.4, "octant": "dependent",
        "uncertainty": {"pleasure": 0.11, "arousal": 0.12, "dominance": 0.13}, "percentile": None,
    }  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n\n" + json.dumps({**row, "uncertainty": None}) + "\n", encoding="utf-8")
    found = read_predictions(path)
    np.testing.assert_array_equal(found.predicted, [[0.1, 0.2, -0.3]] * 2)
    assert found.uncertainty is not None
    np.testing.assert_array_equal(found.uncertainty, [[0.11, 0.12, 0.13], [np.nan] * 3])


def test_the_log_of_a_run(run: Path, tmp_path: Path) -> None:
    assert LOG_COLUMNS == WRITTEN_COLUMNS
    log = read_log(run)
    np.testing.assert_array_equal(log["validation_loss"], [0.8, 0.6, 0.62])
    assert np.isnan(log["faith"]).all()
    # Without it, the Trainer's own state gives the same rows, also that of the newest checkpoint.
    (run / "emotional_log.csv").unlink()
    for step in (9, 18, 100):
        (run / f"checkpoint-{step}").mkdir()
    for step, history in ((9, HISTORY[:2]), (18, HISTORY)):
        state = json.dumps({"log_history": history})
        (run / f"checkpoint-{step}" / "trainer_state.json").write_text(state, encoding="utf-8")
    found = read_log(run)
    expected = EmotionalLogCallback(tmp_path / "x.csv").rows(HISTORY)
    rows = np.stack([found[name] for name in LOG_COLUMNS], axis=1)
    np.testing.assert_array_equal(rows, [[np.nan if value == "" else value for value in row] for row in expected])


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def write_tables(folder: Path) -> None:
    probe = [
        {"encoder": name, "layer": layer, "dimension": dimension, "r": 0.3 + 0.1 * layer, "low": 0.2, "high": 0.6}
        for name, layers in (("MiniLM", 3), ("BERT", 2))
        for layer in range(layers)
        for dimension in ("pleasure", "arousal", "dominance")
    ]
    (folder / "probe.jsonl").write_text("\n".join(map(json.dumps, probe)), encoding="utf-8")
    results = "system,value,low,high,reference\nours,0.55,0.53,0.57,\nridge,0.47,,,\nhuman ceiling,0.75,,,yes\n"
    (folder / "results.csv").write_text(results, encoding="utf-8")
    config = {
        "model_type": "liminal", "head": "v7", "latent_size": 128, "num_outer_steps": 5, "num_inner_steps": 1,
        "encoder_name_or_path": "sentence-transformers/all-MiniLM-L6-v2",
    }  # fmt: skip
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn(kind: str, run: Path, content: dict[str, Any], tmp_path: Path) -> None:
    write_tables(run)
    write_predictions(run / "predictions.jsonl", **content)
    sources = {
        "conversation": f"{run / 'predictions.jsonl'}#talk1",
        "probe": run / "probe.jsonl",
        "results": run / "results.csv",
    }
    ending = ".gif" if kind in plots.ANIMATED else ".png"
    path = plot(kind.replace("-", "_"), sources.get(kind, run), tmp_path / "figures" / f"figure{ending}")
    seen = pixels(path)
    assert seen.shape[1] == (800 if ending == ".gif" else 1600)
    assert len(np.unique(seen.astype(int) @ [1, 256, 65536])) > 15, "nothing is drawn"
    if ending == ".gif":
        assert path.stat().st_size < 400_000


def test_what_is_drawn_is_what_was_read(run: Path, content: dict[str, Any]) -> None:
    write_tables(run)
    path = write_predictions(run / "predictions.jsonl", **content)
    curves: Any = KINDS["training-curves"](run)
    np.testing.assert_array_equal(curves.axes[0].lines[1].get_ydata(), [0.8, 0.6, 0.62])
    assert curves.get_suptitle().endswith("\nmy-run")
    talk: Any = KINDS["conversation"](f"{path}#talk1")
    # The odd rows, in the order of their turns, which fall in the file.
    expected = content["predicted"][1::2][::-1]
    np.testing.assert_allclose(talk.axes[0].lines[1].get_ydata(), expected[:, 0], rtol=1e-6)
    steps: Any = KINDS["steps-curve"](path)
    pleasure = [
        np.corrcoef(content["pad_trajectory"][:, step, 0], content["gold"][:, 0])[0, 1] for step in range(STEPS)
    ]
    np.testing.assert_allclose(steps.axes[0].lines[1].get_ydata(), pleasure, atol=1e-5)
    probe: Any = KINDS["probe"](run / "probe.jsonl")
    drawn = [line.get_ydata() for line in probe.axes[1].lines if line.get_label() in ("MiniLM", "BERT")]
    np.testing.assert_allclose(drawn, [[0.3, 0.4, 0.5], [0.3, 0.4, np.nan]])
    bars: Any = KINDS["results"](run / "results.csv")
    assert [label.get_text() for label in bars.axes[0].get_yticklabels()] == ["ours", "ridge"]
    assert any(line.get_label() == "human ceiling: 0.750" for line in bars.axes[0].lines)


@pytest.mark.parametrize("ending", plots.FIGURE_FORMATS)
def test_every_format_is_written(ending: str, run: Path, tmp_path: Path) -> None:
    path = plot("heartbeat", run, tmp_path / f"a{ending}")
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF", ".jpg": b"\xff\xd8", ".webp": b"RIFF"}
    assert path.read_bytes().startswith(start[ending])


def test_stdin_is_a_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [{"pleasure": 0.1 * n, "arousal": 0.0, "dominance": 0.0, "speaker": "Ana", "turn": n} for n in range(4)]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(map(json.dumps, rows))))
    assert plot("conversation", "-", tmp_path / "talk.png").is_file()


def wrong(name: str, run: Path) -> tuple[Any, type[Exception], str]:
    """A call that must fail, with its error."""
    mine = run / "mine.jsonl"
    write_predictions(mine, [[0, 0, 0]] * 2, conversation=["a", "b"])
    (run / "broken.jsonl").write_text('{"pleasure": 1,\n', encoding="utf-8")
    (run / "list.jsonl").write_text("[1]\n", encoding="utf-8")
    (run / "partial.jsonl").write_text('{"pleasure": 1}\n', encoding="utf-8")
    (run / "none.csv").write_text("text\nx\n", encoding="utf-8")
    (run / "word.csv").write_text("pleasure,arousal,dominance\n0,0,0\n0,much,0\n", encoding="utf-8")
    (run / "hole.csv").write_text("pleasure,arousal,dominance\n0,0,0\n0,,0\n", encoding="utf-8")
    (run / "empty.csv").write_text("pleasure,arousal,dominance\n", encoding="utf-8")
    row = '{"pleasure": 0, "arousal": 0, "dominance": 0, "confidences": %s}\n'
    (run / "ragged.jsonl").write_text(row % "[1]" + row % "[1, 1]", encoding="utf-8")
    (run / "steps.csv").write_text("pleasure,arousal,dominance,pad_1_pleasure\n0,0,0,0\n", encoding="utf-8")
    (run / "log.csv").write_text("epoch,train_loss\n1,2\n", encoding="utf-8")
    (run / "config.json").write_text('{"model_type": "liminal", "head": "v3"}', encoding="utf-8")
    (run / "probe.csv").write_text("encoder,layer,dimension,r,low,high\nx,0,valence,.1,.0,.2\n", encoding="utf-8")
    out = run / "out.png"
    empty = run / "empty"
    empty.mkdir()
    calls: dict[str, tuple[Any, type[Exception], str]] = {
        "kind": (lambda: plot("curves", run, out), ValueError, "no figure 'curves'.*training-curves: A run's folder"),
        "ending": (lambda: plot("heartbeat", run, run / "a.bmp"), ValueError, r"\.png.*not 'a.bmp'.*-o a.png"),
        "gif": (lambda: plot("breathing", run, out), ValueError, r"breathing is written as \.gif"),
        "no run": (lambda: plot("aura", run / "nowhere", out), FileNotFoundError, "nowhere"),
        "no log": (lambda: plot("aura", empty, out), FileNotFoundError, "neither emotional_log.csv nor"),
        "log columns": (lambda: plot("aura", run / "log.csv", out), ValueError, "no column 'validation_loss'"),
        "no predictions": (lambda: plot("reliability", empty, out), FileNotFoundError, "liminal evaluate"),
        "no gold": (lambda: plot("predicted-vs-gold", mine, out), ValueError, "has no gold"),
        "no steps": (lambda: plot("steps-curve", mine, out), ValueError, "has no gold"),
        "no confidences": (lambda: plot("confidence-evolution", mine, out), ValueError, "has no confidences"),
        "which talk": (lambda: plot("conversation", mine, out), ValueError, "2 conversations: a, b. Pick one: .*#a"),
        "unknown talk": (lambda: plot("conversation", f"{mine}#c", out), ValueError, "Pick one"),
        "broken": (lambda: read_predictions(run / "broken.jsonl"), ValueError, "line 1 is not JSON"),
        "list": (lambda: read_predictions(run / "list.jsonl"), ValueError, "line 1 is no object but list"),
        "partial": (lambda: read_predictions(run / "partial.jsonl"), ValueError, "but not arousal, dominance"),
        "no columns": (lambda: read_predictions(run / "none.csv"), ValueError, "no column 'pleasure'. It has: text"),
        "word": (lambda: read_predictions(run / "word.csv"), ValueError, "'arousal', row 2 is no number: 'much'"),
        "hole": (lambda: read_predictions(run / "hole.csv"), ValueError, "row 2 has no arousal"),
        "empty": (lambda: read_predictions(run / "empty.csv"), ValueError, "no rows"),
        "ragged": (lambda: read_predictions(run / "ragged.jsonl"), ValueError, "'confidences' must hold"),
        "step columns": (lambda: read_predictions(run / "steps.csv"), ValueError, "no column 'pad_1_arousal'"),
        "format": (lambda: write_predictions(run / "a.xlsx", [[0, 0, 0]]), ValueError, r"a.xlsx.*\.jsonl"),
        "shape": (lambda: write_predictions(mine, [[0, 0]]), ValueError, r"`predicted` must have the shape \(any, 3\)"),
        "labels": (lambda: write_predictions(mine, [[0, 0, 0]], text=["a", "b"]), ValueError, r"`text`.*\(1\), got 2"),
        "head": (lambda: plot("architecture", run, out), ValueError, "'v3'.*head 'v7'"),
        "dimension": (lambda: plot("probe", run / "probe.csv", out), ValueError, "dimension 'valence'"),
        "results": (lambda: plot("results", mine, out), ValueError, "no column 'system'"),
    }
    return calls[name]


WRONG = (
    "kind", "ending", "gif", "no run", "no log", "log columns", "no predictions", "no gold", "no steps",
    "no confidences", "which talk", "unknown talk", "broken", "list", "partial", "no columns", "word", "hole",
    "empty", "ragged", "step columns", "format", "shape", "labels", "head", "dimension", "results",
)  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_errors_say_what_to_do(name: str, run: Path) -> None:
    call, error, message = wrong(name, run)
    with pytest.raises(error, match=f"(?s){message}"):
        call()
    assert not (run / "out.png").exists()
