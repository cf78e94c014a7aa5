"""Figures show what they are given, say what it is and refuse what they can't show; predictions survive their files."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figures_kit import (
    ATTENTION,
    DOUBT,
    EPOCH,
    EPOCHS,
    FAITH,
    GOLD,
    HOPE,
    LOVE,
    PAD,
    PLACED,
    PREDICTED,
    PROBE,
    RATE,
    ROWS,
    SPEAKERS,
    SPREAD,
    STEPS,
    TRAIN,
    TRAJECTORY,
    TURNS,
    TWO,
    VALIDATION,
    drawn,
    pixels,
)
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from liminal_hf import figures as f
from liminal_hf.chat import sharp_turn
from liminal_hf.figures import write_predictions
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.modeling.pipeline_liminal import OCTANTS, octant

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import figures as script  # noqa: E402

FIGURES: dict[str, Callable[..., Figure]] = {
    "training_curves": lambda **k: f.training_curves(EPOCH, TRAIN, VALIDATION, HOPE, FAITH, LOVE, RATE, **k),
    "emotional_field": lambda **k: f.emotional_field(PREDICTED, GOLD, **k),
    "pad_distributions": lambda **k: f.pad_distributions(PREDICTED, GOLD, **k),
    "unlabelled": lambda **k: f.pad_distributions(PREDICTED, **k),
    "plane": lambda **k: f.pleasure_arousal_plane(PREDICTED, SPREAD, **k),
    "predicted_vs_gold": lambda **k: f.predicted_vs_gold(PREDICTED, GOLD, **k),
    "five targets": lambda **k: f.predicted_vs_gold(
        np.tile(PREDICTED, 2)[:, :5], np.tile(GOLD, 2)[:, :5], targets=list("abcde"), **k
    ),
    "reliability": lambda **k: f.reliability(PREDICTED, GOLD, SPREAD, **k),
    "two targets": lambda **k: f.reliability(PREDICTED[:, :2], GOLD[:, :2], SPREAD[:, :2], **TWO, **k),
    "step_attention": lambda **k: f.step_attention(ATTENTION, **k),
    "steps_curve": lambda **k: f.steps_curve(TRAJECTORY, GOLD, **k),
    "conversation": lambda **k: f.conversation_trajectory(PAD, DOUBT, speakers=SPEAKERS, **k),
    "person": lambda **k: f.person_history(
        range(5),
        PAD[:5],
        np.where(PAD[:5] > 0, PAD[:5], np.nan),
        np.repeat(PAD[:5, :, None], 3, 2),
        [5, 6],
        np.repeat(PAD[:2, :, None], 3, 2),
        **k,
    ),
    "conversation of two": lambda **k: f.conversation_trajectory(PAD[:, :2], DOUBT[:, :2], **TWO, **k),
    "probe_curves": lambda **k: f.probe_curves(PROBE, PROBE - 0.02, PROBE + 0.02, ["MiniLM", "BERT"], **k),
    "phrase_map": lambda **k: f.phrase_map(PLACED, ["a", "$b$", "c"], ["MiniLM", "BERT"], **k),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_labelled_and_fits_800_pixels(name: str) -> None:
    figure = FIGURES[name](subject="EmoBank $ test_1 \ud83d")
    first, second = figure.get_suptitle().split("\n")
    assert len(first) > 18 and second == "EmoBank $ test_1"
    image = drawn(figure)
    assert image.shape[1] == 800
    assert len(np.unique(image @ [1, 256, 65536])) > 20, "nothing is drawn"
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.get_tightbbox(canvas.get_renderer())
    assert box.x0 >= -0.01 and box.x1 <= 8.01 and box.y0 >= -0.01, "something is cut off"
    assert box.y1 <= figure.get_figheight() + 0.01
    units = ("unit", "(", "epoch", "turn", "step", "layer", "share", "sd")
    for axes in figure.axes:
        if axes.axison:
            texts = [axes.xaxis.label, axes.yaxis.label, axes.title, *axes.get_xticklabels(), *axes.get_yticklabels()]
            assert all(text.get_fontsize() >= 8 for text in [*texts, *axes.texts])
            for label in (axes.get_xlabel(), axes.get_ylabel()):
                assert not label or any(word in label for word in units), label


# ---- a run ----


def test_training_curves_draw_what_they_are_given() -> None:
    figure = FIGURES["training_curves"]()
    loss, virtues, rate = figure.axes
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), TRAIN)
    np.testing.assert_array_equal(loss.lines[1].get_ydata(), VALIDATION)
    assert loss.lines[2].get_xdata()[0] == 4 and "0.58, at epoch 4" in figure.get_suptitle()
    for line, values in zip(virtues.lines, (HOPE, FAITH, LOVE), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), values)
    np.testing.assert_array_equal(rate.lines[0].get_ydata(), RATE)
    unknown = np.full(EPOCHS, np.nan)
    figure = f.training_curves(EPOCH, unknown, VALIDATION, HOPE, unknown, LOVE, unknown)
    labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert [label for label in labels if "not measured" in label] == ["Faith: √ mean confidence (not measured)"]
    drawn(figure)
    drawn(f.training_curves([1], [0.1], [0.2], [1], [1], [1], [0]))


def test_the_heartbeat_follows_the_formula() -> None:
    change = np.abs(np.diff(VALIDATION))
    np.testing.assert_allclose(f.heartbeat(VALIDATION), [60, *(60 + 80 * change / change.max())])
    np.testing.assert_array_equal(f.heartbeat([0.3]), [60])
    np.testing.assert_array_equal(f.heartbeat([0.3, 0.3]), [60, 60])


def test_the_disc_beats_and_shrinks_with_the_loss(tmp_path: Path) -> None:
    path = f.save_gif(f.breathing_animation(EPOCH, TRAIN, VALIDATION, frames=24), tmp_path / "run.gif")
    with Image.open(path) as image:
        assert image.n_frames == 24 and image.size == (800, 420) and image.info["loop"] == 0
        area = []
        for frame in (0, 23):
            image.seek(frame)
            left = np.asarray(image.convert("RGB"))[:, :330].astype(int)
            area.append((np.abs(left - [0xD5, 0x5E, 0x00]).sum(-1) < 30).sum())
    assert area[0] > 1.5 * area[1]
    # At a loss that changes evenly every epoch beats at 140: 120 on average with the first half's 60 to 140.
    seconds = 6
    animation: Any = f.breathing_animation([1, 2, 3], [0.5] * 3, [1.0, 0.9, 0.8], frames=300, frames_per_second=50)
    radii = []
    for frame in range(50 * seconds):
        animation._func(frame)
        radii.append(animation._fig.axes[0].patches[1].get_radius())
    animation._draw_was_started = True  # it was drawn here, frame by frame
    maxima = ((np.array(radii)[1:-1] > radii[:-2]) & (np.array(radii)[1:-1] >= radii[2:])).sum()
    assert abs(maxima - 120 / 60 * seconds) <= 1


# ---- predictions ----


def test_the_emotional_field_says_how_many_it_draws() -> None:
    figure = f.emotional_field(PREDICTED, GOLD, max_points=50, seed=3)
    assert "50 of 300 texts drawn" in figure.get_suptitle()
    space: Any = figure.axes[0]
    gold, predicted = (np.array(points._offsets3d).T for points in space.collections)
    rows = [int(np.flatnonzero((point == GOLD).all(1))[0]) for point in gold]
    assert len(set(rows)) == len(space.lines) == 50
    np.testing.assert_array_equal(predicted, PREDICTED[rows])
    assert "all 9 texts drawn" in f.emotional_field(PREDICTED[:9], GOLD[:9]).get_suptitle()
    for low, high in (space.get_xlim(), space.get_ylim(), space.get_zlim()):
        assert low == pytest.approx(-high)


def test_distributions_count_every_text() -> None:
    for column, axes in enumerate(FIGURES["pad_distributions"]().axes):
        ratio = PREDICTED[:, column].std() / GOLD[:, column].std()
        assert axes.get_title() == f"{DIMENSIONS[column]}: SD ratio {ratio:.2f}"
        bars = [patch.get_height() for patch in axes.patches if hasattr(patch, "get_width")]
        assert sum(bars) == pytest.approx(200), "gold and predicted, 100% each"
    low, high = np.quantile(PREDICTED[:, 0], [0.1, 0.9])
    title = FIGURES["unlabelled"]().axes[0].get_title().replace("\N{MINUS SIGN}", "-")
    assert title.endswith(f"80% in {low:.2f} to {high:.2f}")


def test_the_plane_shows_each_text_and_the_usual_doubt() -> None:
    axes = FIGURES["plane"]().axes[0]
    points = axes.collections[0]
    np.testing.assert_array_equal(points.get_offsets(), PREDICTED[:, :2])
    np.testing.assert_array_equal(points.get_array(), PREDICTED[:, 2])
    assert axes.get_xlim() == axes.get_ylim() and axes.get_xlim()[0] == -axes.get_xlim()[1]
    # Columns in any order, and valence for pleasure.
    turned = f.pleasure_arousal_plane(PREDICTED, targets=["dominance", "valence", "arousal"]).axes[0]
    np.testing.assert_array_equal(turned.collections[0].get_offsets(), PREDICTED[:, 1:])
    assert turned.get_xlabel().startswith("valence")


def test_predicted_vs_gold_shows_r_ccc_and_both_lines() -> None:
    for column, axes in enumerate(FIGURES["predicted_vs_gold"]().axes):
        p, g = PREDICTED[:, column], GOLD[:, column]
        r = np.corrcoef(p, g)[0, 1]
        ccc = 2 * np.cov(p, g, ddof=0)[0, 1] / (p.var() + g.var() + (p.mean() - g.mean()) ** 2)
        assert axes.get_title() == f"{DIMENSIONS[column]}: r {r:.2f}, CCC {ccc:.2f}"
        np.testing.assert_array_equal(axes.collections[0].get_offsets(), np.stack([g, p], axis=1))
        identity, regression = axes.lines
        np.testing.assert_array_equal(identity.get_xdata(), identity.get_ydata())
        (x0, x1), (y0, y1) = regression.get_xdata(), regression.get_ydata()
        assert (y1 - y0) / (x1 - x0) == pytest.approx(r * p.std() / g.std())
        assert axes.get_xlim() == axes.get_ylim()
    drawn(f.predicted_vs_gold(np.zeros((5, 3)), GOLD[:5]))
    drawn(f.predicted_vs_gold([[0, 0, 0]], [[0, 0, 0]]))


@pytest.mark.parametrize("missing", [-100, np.nan])
def test_missing_gold_is_left_out(missing: float) -> None:
    gold = GOLD.copy()
    gold[::2, 1] = missing
    axes = f.predicted_vs_gold(PREDICTED, gold).axes
    assert [len(panel.collections[0].get_offsets()) for panel in axes] == [ROWS, ROWS // 2, ROWS]
    assert "50 of 150 texts" in f.emotional_field(PREDICTED, gold, max_points=50).get_suptitle()
    drawn(f.reliability(PREDICTED, gold, SPREAD))
    drawn(f.pad_distributions(PREDICTED, gold))


def test_reliability_of_a_right_and_of_a_wrong_uncertainty() -> None:
    rng = np.random.default_rng(1)
    sd = rng.uniform(0.05, 0.2, (8000, 3))
    gold = np.clip(rng.normal(0, sd), -1, 1)
    for factor in (1, 2):
        figure = f.reliability(np.zeros_like(gold), gold, factor * sd, bins=5)
        for axes in figure.axes:
            x, y = axes.containers[0].lines[0].get_data()
            assert len(x) == 5 and (np.diff(x) > 0).all()
            np.testing.assert_allclose(y, x / factor, rtol=0.08)
            coverage = float(re.findall(r"([\d.]+)%", axes.get_title())[0])
            assert coverage == pytest.approx(95 if factor == 1 else 99.99, abs=1)
    # Too few texts for eight bins of ten: fewer bins.
    few = f.reliability(PREDICTED[:25], GOLD[:25], SPREAD[:25]).axes[0]
    assert len(few.containers[0].lines[0].get_xdata()) == 2


def test_attention_and_r_by_step() -> None:
    one = f.step_attention(ATTENTION[0]).axes[0].images[0].get_array()
    np.testing.assert_allclose(np.ma.filled(one, 0), ATTENTION[0])
    assert one.mask.sum() == STEPS * (STEPS - 1) / 2
    many = f.step_attention(ATTENTION)
    np.testing.assert_allclose(np.ma.filled(many.axes[0].images[0].get_array(), 0), ATTENTION.mean(0))
    assert "mean of 300 texts" in many.get_suptitle()
    drawn(f.step_attention(np.eye(40)))
    lines = FIGURES["steps_curve"]().axes[0].lines
    r = [[np.corrcoef(TRAJECTORY[:, k, i], GOLD[:, i])[0, 1] for k in range(STEPS)] for i in range(3)]
    np.testing.assert_allclose([line.get_ydata() for line in lines], [*r, np.mean(r, axis=0)])


# ---- a conversation, one text ----


def test_a_conversation_joins_the_turns_of_one_speaker_on_one_scale() -> None:
    figure = FIGURES["conversation"]()
    turns = np.arange(1, TURNS + 1)
    for column, axes in enumerate(figure.axes[:3]):
        lines = [container.lines[0] for container in axes.containers]
        for line, name in zip(lines, ("Ana", "Ben"), strict=True):
            own = np.array(SPEAKERS) == name
            np.testing.assert_array_equal(line.get_xdata(), turns[own])
            np.testing.assert_array_equal(line.get_ydata(), PAD[own, column])
        assert axes.get_ylim() == figure.axes[0].get_ylim() and axes.get_ylim()[1] > PAD.max() + 0.1
    strip = figure.axes[3]
    names = [label.get_text().split(" ")[0] for label in strip.get_yticklabels()]
    assert set(names) == set(OCTANTS.values())
    shown = {int(x): names[int(y)] for points in strip.collections for x, y in points.get_offsets()}
    assert [shown[turn] for turn in turns] == [octant(list(point)) for point in PAD]
    marked = [line.get_xdata()[0] for line in strip.lines]
    assert marked == [3, 6, 8], "octants are names: no line joins them"
    assert "from exuberant to exuberant, 3 sharp turns" in figure.get_suptitle()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["Ana", "Ben", "± 1 predicted sd", "sharp turn: pleasure falls, arousal rises"]


def test_octants_of_the_rows_are_shown_neutral_included(tmp_path: Path) -> None:
    lines = []
    for turn, name in enumerate(("exuberant", "neutral", "anxious")):
        values = dict(zip(DIMENSIONS, (0.1, 0.1, 0.1), strict=True))
        lines.append(json.dumps({**values, "turn": turn, "speaker": "a", "octant": name}))
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    figure = f.figure_of("conversation", tmp_path / "a.jsonl")
    strip = figure.axes[3]
    names = [label.get_text().split(" ")[0] for label in strip.get_yticklabels()]
    (points,) = strip.collections
    assert [names[int(y)] for _, y in points.get_offsets()] == ["exuberant", "neutral", "anxious"]
    assert figure.get_suptitle().startswith("Conversation of 3 turns: from exuberant to anxious")


def test_sharp_turns_agree_with_the_chat() -> None:
    rng = np.random.default_rng(5)
    pad, doubt = rng.normal(0, 0.3, (200, 3)), rng.uniform(0.05, 0.15, (200, 3))
    speakers = [str(name) for name in rng.choice(["a", "b", "c"], 200)]
    last: dict[str, dict[str, Any]] = {}
    expected = []
    for name, p, u in zip(speakers, pad, doubt, strict=True):
        row = {**dict(zip(DIMENSIONS, p, strict=True)), "uncertainty": dict(zip(DIMENSIONS, u, strict=True))}
        expected.append(name in last and sharp_turn(last[name], row))
        last[name] = row
    assert f.sharp_turns(pad, doubt, speakers).tolist() == expected and 5 < sum(expected) < 195
    targets = ["dominance", "valence", "arousal"]
    assert f.sharp_turns(pad[:, [2, 0, 1]], doubt[:, [2, 0, 1]], speakers, targets=targets).tolist() == expected
    assert not f.sharp_turns(pad).any() and not f.sharp_turns(pad[:, :2], doubt[:, :2], **TWO).any()


def test_conversations_of_any_length_width_and_any_names() -> None:
    one = f.conversation_trajectory(PAD[:1])
    assert one.get_suptitle() == "Conversation of 1 turn: exuberant"
    drawn(one)
    names = [f"$x^{{{index}}}$ \n{'n' * 60}" for index in range(14)]
    drawn(f.conversation_trajectory(np.tile(PAD, (20, 1))[:140], speakers=names * 10, sharp=[True] * 140))
    figure = FIGURES["conversation"](width=3.7)
    assert drawn(figure).shape[1] == round(100 * figure.get_figwidth())
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.get_tightbbox(canvas.get_renderer())
    assert box.x0 >= -0.01 and box.x1 <= figure.get_figwidth() + 0.01, "something is cut off"


# ---- encoders ----


def test_the_probe_draws_each_layer_with_its_interval_and_marks_the_best() -> None:
    figure = FIGURES["probe_curves"]()
    assert "layer 2 of 2 (BERT, mean r 0.61)" in figure.get_suptitle()
    for column, axes in enumerate(figure.axes):
        lines = {line.get_label(): line for line in axes.lines if line.get_label() in ("MiniLM", "BERT")}
        np.testing.assert_array_equal(lines["MiniLM"].get_ydata(), PROBE[0, :, column])
        np.testing.assert_array_equal(lines["BERT"].get_ydata(), PROBE[1, :, column])
        assert [line.get_xdata()[0] for line in axes.lines if line.get_markersize() == 11] == [3, 2]
        heights = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert heights.min() == PROBE[0, 0, column] - 0.02 and heights.max() == PROBE[0, 3, column] + 0.02
    phrases = FIGURES["phrase_map"]()
    for encoder, collection in enumerate(phrases.axes[0].collections):
        np.testing.assert_array_equal(collection.get_offsets(), PLACED[encoder, :, :2])
    assert [text.get_text() for text in phrases.axes[1].texts] == ["1\n2\n3", "a\n$b$\nc"]
    names = [f"encoder {index}" for index in range(7)]
    drawn(f.phrase_map(np.tile(PLACED, (4, 8, 1))[:7], ["a phrase of some length, which is cut"] * 24, names))


NAN = float("nan")
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "shape": (lambda: f.reliability(PREDICTED[:, :2], GOLD, SPREAD), r"`predicted` must have .* got \(300, 2\)"),
    "rows": (lambda: f.predicted_vs_gold(PREDICTED, GOLD[:9]), r"`gold` must have the shape \(300, 3\), got \(9, 3\)"),
    "nan": (lambda: f.pad_distributions([[0, NAN, 0]]), r"`predicted` holds nan at index \(0, 1\)"),
    "empty": (lambda: f.emotional_field(np.zeros((0, 3)), np.zeros((0, 3))), "`predicted` is empty"),
    "no numbers": (lambda: f.conversation_trajectory([["a", "b", "c"]]), "`pad` must be numbers in the shape"),
    "ragged": (lambda: f.step_attention([[1], [0.5, 0.5]]), "`attention` must be numbers"),
    "not square": (lambda: f.step_attention(np.zeros((2, 3))), "square"),
    "gold scale": (lambda: f.predicted_vs_gold(PREDICTED, 3 + GOLD), r"must lie in -1\.\.1 .*--scale LOW,HIGH"),
    "no gold": (lambda: f.predicted_vs_gold(PREDICTED, GOLD * [1, NAN, 1]), "`gold` has no value of arousal"),
    "negative sd": (lambda: f.reliability(PREDICTED, GOLD, -SPREAD), "`uncertainty` holds -.* in 0..inf"),
    "bins": (lambda: f.reliability(PREDICTED, GOLD, SPREAD, bins=1), "`bins`"),
    "epochs fall": (lambda: f.breathing_animation([2, 1], [0, 0], [0.1, 0.2]), "`epochs` must rise"),
    "infinite": (
        lambda: f.training_curves([1], [np.inf], [1], [1], [1], [1], [1]), "a NaN is allowed and means not measured"
    ),
    "frames": (lambda: f.breathing_animation([1], [1], [1], frames=1), "`frames` must be a whole number in 2..600"),
    "speakers": (lambda: f.conversation_trajectory(PAD, speakers=["Ana"]), "`speakers` must be a sequence of 9 names"),
    "points": (lambda: f.emotional_field(PREDICTED, GOLD, max_points=0), "`max_points`"),
    "axes": (lambda: f.emotional_field(PREDICTED[:, :2], GOLD[:, :2], **TWO), "three axes.*2 targets: warmth, urgency"),
    "plane": (lambda: f.pleasure_arousal_plane(PREDICTED[:, :2], **TWO), "there are warmth, urgency"),
    "too narrow": (lambda: f.conversation_trajectory(PAD, width=2), r"`width` must lie in 3.5..20 inches, got 2"),
    "phrases": (lambda: f.phrase_map(np.zeros((1, 25, 3)), ["a"] * 25, ["b"]), "at most 24 in one figure, got 25"),
    "probe": (lambda: f.probe_curves(PROBE * NAN, PROBE, PROBE, ["a", "b"]), "`r` has no layer at all for 'a'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_errors_name_the_argument(case: str) -> None:
    draw, message = REFUSED[case]
    with pytest.raises(LiminalError, match=f"(?s){message}"):
        draw()


# ---- the module ----


def test_threads_do_not_disturb_each_other() -> None:
    """The same figures from four threads at once as from one."""
    alone = {name: drawn(FIGURES[name]()) for name in ("predicted_vs_gold", "conversation")}
    images: list[tuple[str, np.ndarray]] = []
    threads = [
        threading.Thread(target=lambda name=name: images.append((name, drawn(FIGURES[name]()))))
        for name in [*alone] * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(images) == 4
    for name, image in images:
        np.testing.assert_array_equal(image, alone[name])


def test_it_needs_no_pyplot_and_says_what_to_install() -> None:
    code = (
        "import sys; from liminal_hf import figures as f\n"
        "assert 'matplotlib' not in sys.modules\n"
        "f.step_attention([[1.0]]).savefig(sys.stderr.buffer, format='png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "sys.modules['matplotlib.figure'] = None\n"
        "try: f.step_attention([[1.0]])\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert b"pip install 'liminal_hf[plot]'" in done.stdout


def test_the_old_modules_are_known_for_one_more_version() -> None:
    from liminal_hf import plots, visualization

    with pytest.warns(DeprecationWarning, match="is now liminal_hf.figures"):
        assert visualization.conversation_trajectory is f.conversation_trajectory
    with pytest.warns(DeprecationWarning, match="is now liminal_hf.figures"):
        assert plots.write_predictions is write_predictions
    with pytest.raises(AttributeError):
        _ = visualization.aura_map


def test_the_repository_s_figures_are_redrawn_small(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert all(
        (script.RESULTS / f"{name}.png").stat().st_size < 120_000 for name in [*script.PLOTS, "conversation", "page"]
    )
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    monkeypatch.setattr(script, "WORK", tmp_path / "work")
    assert script.main(["conversation"]) == 0
    with Image.open(tmp_path / "conversation.png") as image:
        assert image.width == 1200 and image.mode == "P"
    # The blue of pleasure is still Okabe and Ito's, whatever the palette.
    assert np.abs(pixels(tmp_path / "conversation.png") - [0, 114, 178]).max(-1).min() <= 6
    with pytest.raises(SystemExit):
        script.main(["nothing"])
    assert "there is no nothing; there are reliability" in capsys.readouterr().err
