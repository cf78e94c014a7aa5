"""Figures show what they were given, say what it is, and refuse what they can't show."""

import math
import subprocess
import sys
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from liminal_hf import visualization as v
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.modeling.pipeline_liminal import OCTANTS, octant

ROWS, STEPS, TURNS, EPOCHS = 300, 5, 9, 6
SD = np.array([0.16, 0.12, 0.10])
RNG = np.random.default_rng(0)
GOLD = np.clip(RNG.normal(0, SD, (ROWS, 3)), -1, 1)
PREDICTED = 0.5 * GOLD + RNG.normal(0, 0.3 * SD, (ROWS, 3))
SPREAD = RNG.uniform(0.05, 0.15, (ROWS, 3))
CONFIDENCES = RNG.uniform(0.3, 0.9, (ROWS, STEPS))
ATTENTION = np.tril(RNG.uniform(0.1, 1, (ROWS, STEPS, STEPS)))
ATTENTION /= ATTENTION.sum(-1, keepdims=True)
EPOCH = np.arange(1, EPOCHS + 1)
TRAIN = 0.3 + 0.6 * np.exp(-EPOCH / 2)
VALIDATION = np.array([0.9, 0.7, 0.6, 0.58, 0.59, 0.61])
HOPE, FAITH, LOVE = np.linspace(0.88, 0.91, EPOCHS), np.linspace(0.7, 0.75, EPOCHS), np.linspace(0.9, 0.95, EPOCHS)
RATE = np.geomspace(1e-3, 1e-5, EPOCHS)
PAD = np.array(
    [
        [0.2, 0.1, 0.1], [0.3, 0.0, -0.1], [-0.5, 0.5, 0.2], [0.0, -0.1, 0.1], [0.4, -0.2, -0.2], [-0.1, 0.3, -0.2],
        [-0.2, -0.2, 0.1], [-0.2, -0.1, -0.1], [0.1, 0.1, 0.0],
    ]
)  # fmt: skip
DOUBT = np.full((TURNS, 3), 0.1)
SPEAKERS = ["Ana", "Ben", "Ana"] * 3
PROBE = np.linspace(0.2, 0.7, 2 * 4 * 3).reshape(2, 4, 3)
PROBE[1, 3] = np.nan
PLACES = np.stack([PAD[:3], PAD[3:6]])

FIGURES: dict[str, Callable[..., Figure]] = {
    "training_curves": lambda **k: v.training_curves(EPOCH, TRAIN, VALIDATION, HOPE, FAITH, LOVE, RATE, **k),
    "heartbeat_plot": lambda **k: v.heartbeat_plot(EPOCH, VALIDATION, **k),
    "aura_map": lambda **k: v.aura_map(EPOCH, HOPE, FAITH, LOVE, TRAIN, VALIDATION, **k),
    "emotional_field": lambda **k: v.emotional_field(PREDICTED, GOLD, **k),
    "pad_distributions": lambda **k: v.pad_distributions(PREDICTED, GOLD, **k),
    "predicted_vs_gold": lambda **k: v.predicted_vs_gold(PREDICTED, GOLD, **k),
    "reliability": lambda **k: v.reliability(PREDICTED, GOLD, SPREAD, **k),
    "step_attention": lambda **k: v.step_attention(ATTENTION, **k),
    "confidence_evolution": lambda **k: v.confidence_evolution(CONFIDENCES, **k),
    "steps_curve": lambda **k: v.steps_curve({"mean": [0.4, 0.5, 0.52]}, trained_steps=2, **k),
    "conversation_trajectory": lambda **k: v.conversation_trajectory(PAD, DOUBT, speakers=SPEAKERS, **k),
    "refinement": lambda **k: v.refinement(PAD[:STEPS], CONFIDENCES[0], ATTENTION[0], uncertainty=DOUBT[0], **k),
    "probe_curves": lambda **k: v.probe_curves(PROBE, PROBE - 0.02, PROBE + 0.02, ["MiniLM", "BERT"], **k),
    "phrase_map": lambda **k: v.phrase_map(PLACES, ["a", "$b$", "c"], ["MiniLM", "BERT"], **k),
    "results_bars": lambda **k: v.results_bars(
        ["a", "b"], [0.4, 0.5], [0.38, 0.47], [0.42, np.nan], references={"human ceiling": 0.75}, **k
    ),
    "architecture": lambda **k: v.architecture("MiniLM", latent_size=128, num_outer_steps=5, num_inner_steps=1, **k),
}


def drawn(figure: Figure) -> np.ndarray:
    """The figure's pixels at 800 px."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return np.asarray(Image.open(buffer).convert("RGB"))


def renderer_of(figure: Figure) -> Any:
    """Draws the figure and gives what knows the size of each text."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def rectangles(axes: Any) -> list[Any]:
    return [patch for patch in axes.patches if hasattr(patch, "get_width")]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_labelled_and_fits_800_pixels(name: str) -> None:
    figure = FIGURES[name](subject="EmoBank $ test_1 \ud83d")
    first, second = figure.get_suptitle().split("\n")
    assert len(first) > 20 and second == "EmoBank $ test_1"
    pixels = drawn(figure)
    assert pixels.shape[1] == 800
    assert len(np.unique(pixels.astype(int) @ [1, 256, 65536])) > 20, "nothing is drawn"
    box = figure.get_tightbbox(renderer_of(figure))
    assert box.x0 >= -0.01 and box.x1 <= 8.01 and box.y0 >= -0.01, "something is cut off"
    assert box.y1 <= figure.get_figheight() + 0.01
    for axes in figure.axes:
        if not axes.axison:
            continue
        texts = [axes.xaxis.label, axes.yaxis.label, axes.title, *axes.get_xticklabels(), *axes.get_yticklabels()]
        assert all(text.get_fontsize() >= 8 for text in [*texts, *axes.texts])


@pytest.mark.parametrize("name", FIGURES)
def test_the_labelled_axes_name_a_unit_or_a_range(name: str) -> None:
    """Every axis of numbers says what the numbers are."""
    units = ("unit", "(", "epoch", "turn", "step", "layer", "share", "sd", "time")
    for axes in FIGURES[name]().axes:
        for label in (axes.get_xlabel(), axes.get_ylabel()):
            assert not label or any(word in label for word in units), label


def test_training_curves_draw_what_they_are_given() -> None:
    figure = FIGURES["training_curves"]()
    loss, virtues, rate = figure.axes
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), TRAIN)
    np.testing.assert_array_equal(loss.lines[1].get_ydata(), VALIDATION)
    assert loss.lines[2].get_xdata()[0] == 4 and "0.58, at epoch 4" in figure.get_suptitle()
    for line, values in zip(virtues.lines, (HOPE, FAITH, LOVE), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), values)
    np.testing.assert_array_equal(rate.lines[0].get_ydata(), RATE)
    assert rate.get_yscale() == "log"
    colours = {to_hex(line.get_color()).upper() for axes in figure.axes for line in axes.lines}
    okabe_ito = {v.BLACK, v.ORANGE, v.SKY, v.GREEN, v.YELLOW, v.BLUE, v.VERMILLION, v.PURPLE}
    assert colours <= {colour.upper() for colour in okabe_ito}


def test_training_curves_leave_gaps_where_nothing_was_measured() -> None:
    unknown = np.full(EPOCHS, np.nan)
    figure = v.training_curves(EPOCH, unknown, VALIDATION, HOPE, unknown, LOVE, unknown)
    labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert [label for label in labels if "not measured" in label] == ["Faith: √ mean confidence (not measured)"]
    drawn(figure)
    drawn(v.training_curves([1], [0.1], [0.2], [1], [1], [1], [0]))


def test_the_heartbeat_follows_the_formula() -> None:
    change = np.abs(np.diff(VALIDATION))
    expected = 60 + 80 * change / change.max()
    np.testing.assert_allclose(v.heartbeat(VALIDATION), [60, *expected])
    np.testing.assert_array_equal(v.heartbeat([0.3]), [60])
    np.testing.assert_array_equal(v.heartbeat([0.3, 0.3]), [60, 60])
    loss, beats, pulse = FIGURES["heartbeat_plot"]().axes
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), VALIDATION)
    np.testing.assert_allclose(beats.lines[0].get_ydata(), [60, *expected])
    assert beats.get_ylim()[0] < 60 and beats.get_ylim()[1] > 140
    # The pulse peaks as often as the rates say: two seconds of each epoch.
    heights = pulse.lines[0].get_ydata()
    peaks = (heights[1:-1] > 0.9) & (heights[1:-1] >= heights[:-2]) & (heights[1:-1] > heights[2:])
    assert abs(peaks.sum() - v.heartbeat(VALIDATION).sum() * 2 / 60) <= 1.5


def test_the_aura_has_a_stress_that_moves() -> None:
    values = v.aura(HOPE, FAITH, LOVE, TRAIN, VALIDATION)
    np.testing.assert_array_equal(values[:3], [HOPE, FAITH, LOVE])
    np.testing.assert_allclose(values[3], 1 - FAITH)
    np.testing.assert_allclose(values[4], np.maximum(VALIDATION - TRAIN, 0) / (VALIDATION + TRAIN))
    assert np.ptp(values[4]) > 0.05
    # The same on any scale, in 0..1 for any losses (a likelihood may be negative), 1/3 at twice the loss.
    np.testing.assert_allclose(v.aura(HOPE, FAITH, LOVE, 9 * TRAIN, 9 * VALIDATION)[4], values[4])
    stress = v.aura([1] * 4, [1] * 4, [1] * 4, [0.2, -1, 0, 0.5], [0.4, 2, 0, 0.1])[4]
    np.testing.assert_allclose(stress, [1 / 3, 1, 0, 0])
    image = FIGURES["aura_map"]().axes[0].images[0]
    np.testing.assert_allclose(image.get_array(), values)
    assert image.get_clim() == (0, 1)
    unknown = v.aura_map(EPOCH, HOPE, np.full(EPOCHS, np.nan), LOVE, TRAIN, VALIDATION)
    assert unknown.axes[0].images[0].get_array().mask[[1, 3]].all()
    drawn(unknown)


def test_breathing_gif(tmp_path: Path) -> None:
    animation = v.breathing_animation(EPOCH, TRAIN, VALIDATION, frames=24, subject="a run")
    path = v.save_gif(animation, tmp_path / "run.gif")
    assert path.stat().st_size < 400_000
    with Image.open(path) as image:
        assert image.n_frames == 24 and image.size == (800, 420)
        assert image.info["duration"] == pytest.approx(1000 / 12, abs=4) and image.info["loop"] == 0
        area = []
        red = np.array([0xD5, 0x5E, 0x00])
        for frame in (0, 23):
            image.seek(frame)
            left = np.asarray(image.convert("RGB"))[:, :330].astype(int)
            area.append((np.abs(left - red).sum(-1) < 30).sum())
    assert area[0] > 1.5 * area[1], "the disc shrinks with the loss"


def test_the_disc_beats_at_the_heartbeat() -> None:
    """At a loss that changes evenly every epoch beats at 140; the radius then has 140 maxima a minute."""
    seconds = 6
    animation = v.breathing_animation([1, 2, 3], [0.5] * 3, [1.0, 0.9, 0.8], frames=50 * seconds, frames_per_second=50)
    figure = animation._fig  # type: ignore[attr-defined]
    disc = figure.axes[0].patches[1]
    radii = []
    for frame in range(50 * seconds):
        animation._func(frame)  # type: ignore[attr-defined]
        radii.append(disc.get_radius())
    radii = np.array(radii)
    maxima = ((radii[1:-1] > radii[:-2]) & (radii[1:-1] >= radii[2:])).sum()
    # From 60 to 140 over the first half, 140 over the second: 120 on average.
    assert abs(maxima - 120 / 60 * seconds) <= 1
    line = figure.axes[1].lines[1]
    np.testing.assert_allclose(line.get_ydata()[[0, -1]], [1.0, 0.8])
    animation._draw_was_started = True  # type: ignore[attr-defined]  # it was drawn here, frame by frame


def test_the_emotional_field_says_how_many_it_draws() -> None:
    figure = v.emotional_field(PREDICTED, GOLD, max_points=50, seed=3)
    assert "50 of 300 texts drawn" in figure.get_suptitle()
    space = figure.axes[0]
    gold, predicted = (np.array(points._offsets3d).T for points in space.collections)  # type: ignore[attr-defined]
    assert gold.shape == predicted.shape == (50, 3)
    rows = [int(np.flatnonzero((point == GOLD).all(1))[0]) for point in gold]
    assert len(set(rows)) == 50
    np.testing.assert_array_equal(predicted, PREDICTED[rows])
    assert len(space.lines) == 50
    for axes in figure.axes[1:]:
        assert len(axes.collections[0].get_offsets()) == 50
    whole = v.emotional_field(PREDICTED[:9], GOLD[:9])
    assert "all 9 texts drawn" in whole.get_suptitle()
    # All three axes reach as far to both sides of the middle.
    for low, high in (space.get_xlim(), space.get_ylim(), space.get_zlim()):  # type: ignore[attr-defined]
        assert low == pytest.approx(-high)


def test_distributions_count_every_text() -> None:
    figure = FIGURES["pad_distributions"]()
    for column, axes in enumerate(figure.axes):
        ratio = PREDICTED[:, column].std() / GOLD[:, column].std()
        assert axes.get_title() == f"SD ratio {ratio:.2f}"
        filled = [patch.get_height() for patch in rectangles(axes)]
        assert sum(filled) == pytest.approx(200), "gold and predicted, 100% each"
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert f"gold: SD {GOLD[:, column].std():.3f}" in labels


def test_predicted_vs_gold_shows_r_ccc_and_both_lines() -> None:
    figure = FIGURES["predicted_vs_gold"]()
    for column, axes in enumerate(figure.axes):
        p, g = PREDICTED[:, column], GOLD[:, column]
        r = np.corrcoef(p, g)[0, 1]
        ccc = 2 * np.cov(p, g, ddof=0)[0, 1] / (p.var() + g.var() + (p.mean() - g.mean()) ** 2)
        assert axes.get_title() == f"r {r:.2f}, CCC {ccc:.2f}"
        np.testing.assert_array_equal(axes.collections[0].get_offsets(), np.stack([g, p], axis=1))
        identity, regression = axes.lines
        np.testing.assert_array_equal(identity.get_xdata(), identity.get_ydata())
        (x0, x1), (y0, y1) = regression.get_xdata(), regression.get_ydata()
        assert (y1 - y0) / (x1 - x0) == pytest.approx(r * p.std() / g.std())
        assert axes.get_xlim() == axes.get_ylim()
    assert f"gold {DIMENSIONS[2]} (−1 to 1)" == figure.axes[2].get_xlabel()  # noqa: RUF001


def test_missing_gold_is_left_out() -> None:
    gold = GOLD.copy()
    gold[::2, 1] = -100
    axes = v.predicted_vs_gold(PREDICTED, gold).axes
    assert [len(panel.collections[0].get_offsets()) for panel in axes] == [ROWS, ROWS // 2, ROWS]
    assert "50 of 150 texts" in v.emotional_field(PREDICTED, gold, max_points=50).get_suptitle()
    drawn(v.reliability(PREDICTED, gold, SPREAD))
    drawn(v.pad_distributions(PREDICTED, gold))
    gold[:, 1] = -100
    with pytest.raises(ValueError, match="`gold` has no value of arousal"):
        v.predicted_vs_gold(PREDICTED, gold)


def test_a_constant_has_no_r() -> None:
    figure = v.predicted_vs_gold(np.zeros((5, 3)), GOLD[:5])
    assert "r undefined" in figure.axes[0].get_title()
    drawn(figure)
    drawn(v.predicted_vs_gold([[0, 0, 0]], [[0, 0, 0]]))
    drawn(v.pad_distributions([[0, 0, 0]], [[0, 0, 0]]))


def test_reliability_of_a_right_and_of_a_wrong_uncertainty() -> None:
    rng = np.random.default_rng(1)
    sd = rng.uniform(0.05, 0.2, (8000, 3))
    gold = np.clip(rng.normal(0, sd), -1, 1)
    for factor in (1, 2):
        figure = v.reliability(np.zeros_like(gold), gold, factor * sd, bins=5)
        for axes in figure.axes:
            x, y = axes.containers[0].lines[0].get_data()
            assert len(x) == 5 and (np.diff(x) > 0).all()
            np.testing.assert_allclose(y, x / factor, rtol=0.08)
    coverage = [float(axes.get_title().split("%")[0]) for axes in v.reliability(0 * gold, gold, sd).axes]
    np.testing.assert_allclose(coverage, 95, atol=1)
    # Too few texts for eight bins of ten: fewer bins.
    few = v.reliability(PREDICTED[:25], GOLD[:25], SPREAD[:25]).axes[0]
    assert len(few.containers[0].lines[0].get_xdata()) == 2
    drawn(v.reliability([[0, 0, 0]], [[0, 0, 0]], [[0, 0, 0]]))


def test_attention_of_one_text_and_of_many() -> None:
    one = v.step_attention(ATTENTION[0]).axes[0].images[0].get_array()
    np.testing.assert_allclose(np.ma.filled(one, 0), ATTENTION[0])
    assert one.mask.sum() == STEPS * (STEPS - 1) / 2
    many = v.step_attention(ATTENTION)
    np.testing.assert_allclose(np.ma.filled(many.axes[0].images[0].get_array(), 0), ATTENTION.mean(0))
    assert "mean of 300 texts" in many.get_suptitle()
    assert many.axes[0].texts[0].get_text() == "1.00"
    drawn(v.step_attention([[1.0]]))
    drawn(v.step_attention(np.eye(40)))


def test_confidence_bands_are_the_quantiles() -> None:
    axes = FIGURES["confidence_evolution"]().axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.median(CONFIDENCES, axis=0))
    for band, (low, high) in zip(axes.collections, ((0.05, 0.95), (0.25, 0.75)), strict=True):
        points = band.get_paths()[0].vertices
        for step in range(1, STEPS + 1):
            heights = points[points[:, 0] == step][:, 1]
            np.testing.assert_allclose(heights.min(), np.quantile(CONFIDENCES[:, step - 1], low))
            np.testing.assert_allclose(heights.max(), np.quantile(CONFIDENCES[:, step - 1], high))
    assert not v.confidence_evolution(CONFIDENCES[:1]).axes[0].collections
    drawn(v.confidence_evolution(CONFIDENCES[:, :1]))


def test_steps_curve_draws_seeds_as_a_band() -> None:
    seeds = np.array([[0.40, 0.50], [0.44, 0.52]])
    axes = v.steps_curve({"mean": seeds, "arousal": [0.3, 0.35]}, trained_steps=2).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), seeds.mean(0))
    np.testing.assert_allclose(axes.lines[1].get_ydata(), [0.3, 0.35])
    assert to_hex(axes.lines[1].get_color()).upper() == v.VERMILLION
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.min() == 0.40 and heights.max() == 0.52
    assert axes.lines[2].get_xdata()[0] == 2
    assert list(axes.get_xticks()) == [1, 2]


def test_conversation_shows_bands_octants_and_sharp_turns() -> None:
    figure = FIGURES["conversation_trajectory"]()
    for column, axes in enumerate(figure.axes[:3]):
        line = next(line for line in axes.lines if len(line.get_xdata()) == TURNS)
        np.testing.assert_array_equal(line.get_ydata(), PAD[:, column])
        band = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert band.max() == pytest.approx(PAD[:, column].max() + 0.1)
        assert axes.get_ylim()[1] > band.max() and axes.get_ylim()[0] < band.min()
    strip = figure.axes[3]
    names = [label.get_text().split(" ")[0] for label in strip.get_yticklabels()]
    assert set(names) == set(OCTANTS.values())
    rows = strip.lines[0].get_ydata()
    assert [names[int(row)] for row in rows] == [octant(list(point)) for point in PAD]
    sharp = v.sharp_turns(PAD, DOUBT, SPEAKERS)
    marked = [line.get_xdata()[0] for line in strip.lines if line.get_linestyle() == ":"]
    assert marked == [3, 6, 8] == [int(turn) + 1 for turn in np.flatnonzero(sharp)]
    assert "from exuberant to exuberant, 3 sharp turns" in figure.get_suptitle()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["Ana", "Ben", "± 1 predicted sd", "sharp turn"]


def test_sharp_turns_agree_with_the_chat() -> None:
    from liminal_hf.chat import sharp_turn

    rng = np.random.default_rng(5)
    pad, doubt = rng.normal(0, 0.3, (200, 3)), rng.uniform(0.05, 0.15, (200, 3))
    speakers = [str(name) for name in rng.choice(["a", "b", "c"], 200)]
    rows = [
        {**dict(zip(DIMENSIONS, p, strict=True)), "uncertainty": dict(zip(DIMENSIONS, u, strict=True))}
        for p, u in zip(pad, doubt, strict=True)
    ]
    last: dict[str, dict[str, Any]] = {}
    expected = []
    for name, row in zip(speakers, rows, strict=True):
        expected.append(name in last and sharp_turn(last[name], row))
        last[name] = row
    assert v.sharp_turns(pad, doubt, speakers).tolist() == expected
    assert 5 < sum(expected) < 195
    assert not v.sharp_turns(pad).any()


def test_conversations_of_any_length_and_any_names() -> None:
    one = v.conversation_trajectory(PAD[:1])
    assert one.get_suptitle() == "Conversation of one turn: exuberant"
    drawn(one)
    names = [f"$x^{{{number}}}$ \n{'n' * 60}" for number in range(14)]
    drawn(v.conversation_trajectory(np.tile(PAD, (20, 1))[:140], speakers=names * 10, sharp=[True] * 140))


def test_probe_draws_each_layer_with_its_interval_and_marks_the_best() -> None:
    figure = FIGURES["probe_curves"]()
    assert "mean r at most 0.61 (BERT, layer 2)" in figure.get_suptitle()
    for column, axes in enumerate(figure.axes):
        lines = {line.get_label(): line for line in axes.lines if line.get_label() in ("MiniLM", "BERT")}
        np.testing.assert_array_equal(lines["MiniLM"].get_ydata(), PROBE[0, :, column])
        np.testing.assert_array_equal(lines["BERT"].get_ydata(), PROBE[1, :, column])
        rings = [line for line in axes.lines if line.get_markersize() == 11]
        assert [ring.get_xdata()[0] for ring in rings] == [3, 2]
        heights = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert heights.min() == PROBE[0, 0, column] - 0.02 and heights.max() == PROBE[0, 3, column] + 0.02
    deep = np.full((1, 49, 3), 0.5)
    drawn(v.probe_curves(deep, deep, deep, ["a model with a very long name indeed, longer than the figure"]))


def test_the_phrases_lie_where_each_encoder_puts_them() -> None:
    figure = FIGURES["phrase_map"]()
    plane = figure.axes[0]
    for encoder, collection in enumerate(plane.collections):
        np.testing.assert_array_equal(collection.get_offsets(), PLACES[encoder, :, :2])
    numbered = [(text.get_text(), text.get_position()) for text in plane.texts]
    assert numbered[3] == ("1", tuple(PLACES[1, 0, :2]))
    assert [text.get_text() for text in figure.axes[1].texts] == ["1\n2\n3", "a\n$b$\nc"]
    names = [f"encoder {number}" for number in range(7)]
    drawn(v.phrase_map(np.tile(PLACES, (4, 8, 1))[:7], ["a phrase of some length, which is cut"] * 24, names))


def test_one_text_is_shown_step_by_step() -> None:
    for width, panels in ((8.0, 3), (3.7, 3)):
        figure = v.refinement(PAD[:STEPS], CONFIDENCES[0], ATTENTION[0], uncertainty=DOUBT[0], width=width)
        assert len(figure.axes) == panels and drawn(figure).shape[1] == round(100 * width)
        top, below, looks = figure.axes
        np.testing.assert_array_equal(top.lines[0].get_ydata(), PAD[:STEPS, 0])
        np.testing.assert_array_equal(below.lines[0].get_ydata(), CONFIDENCES[0])
        np.testing.assert_array_equal(np.ma.filled(looks.images[0].get_array(), 0), ATTENTION[0])
        renderer = renderer_of(figure)
        boxes = [axes.get_window_extent(renderer) for axes in figure.axes]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
        assert figure.get_tightbbox(renderer).x1 <= width + 0.01, "something is cut off"
    assert len(v.refinement(PAD[:1]).axes) == 1
    drawn(v.refinement(PAD[:1], [0.5], width=3.7))


def test_a_conversation_fits_a_phone() -> None:
    figure = v.conversation_trajectory(PAD, DOUBT, speakers=SPEAKERS, width=3.7)
    assert drawn(figure).shape[1] == 370
    box = figure.get_tightbbox(renderer_of(figure))
    assert box.x0 >= -0.01 and box.x1 <= 3.71


def test_results_have_intervals_and_reference_lines() -> None:
    figure = FIGURES["results_bars"]()
    axes = figure.axes[0]
    assert [bar.get_width() for bar in rectangles(axes)] == [0.4, 0.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first system is at the top"
    whiskers = axes.containers[1].lines[2][0].get_segments()
    assert len(whiskers) == 1, "an unknown interval has no whisker"
    np.testing.assert_allclose(whiskers[0][:, 0], [0.38, 0.42])
    reference = [line for line in axes.lines if line.get_label() == "human ceiling: 0.750"]
    assert reference[0].get_xdata()[0] == 0.75 and axes.get_xlim()[1] > 0.75
    drawn(v.results_bars(["worse than nothing", "$a_b$"], [-0.2, 0.0], [-0.3, -0.1], [-0.1, 0.1]))


def test_architecture_names_every_part_and_keeps_texts_in_their_boxes() -> None:
    figure = v.architecture("all-MiniLM-L6-v2", latent_size=128, num_outer_steps=5, num_inner_steps=1)
    axes = figure.axes[0]
    text = "\n".join(text.get_text() for text in axes.texts)
    for part in (
        "tokenizer", "encoder", "all-MiniLM-L6-v2", "pooler", "projection", "(batch, 128)", "5 times", "once",
        "self-affect",
        "history attention", "SoulKernel", "memory", "RINSE", "logits", "uncertainty", "pad_trajectory",
        "(batch, 5, 3)", "confidences", "step_attentions", "(batch, 5, 5)", "reflection", "(batch, 32)",
    ):  # fmt: skip
        assert part in text
    renderer = renderer_of(figure)
    boxes = [patch.get_window_extent(renderer) for patch in axes.patches if type(patch).__name__ == "FancyBboxPatch"]
    for label in axes.texts:
        extent = label.get_window_extent(renderer)
        cut = [b for b in boxes if b.width < 400 and b.overlaps(extent)]
        for box in cut:
            inside = extent.x0 >= box.x0 and extent.x1 <= box.x1 and extent.y0 >= box.y0 and extent.y1 <= box.y1
            assert inside, f"{label.get_text()!r} leaves its box"
    assert "K times" in "\n".join(text.get_text() for text in v.architecture().axes[0].texts)


NAN = float("nan")
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "shape": (
        lambda: v.emotional_field(PREDICTED[:, :2], GOLD),
        r"`predicted` must have the shape \(rows, 3\), got \(300, 2\)",
    ),
    "rows differ": (
        lambda: v.predicted_vs_gold(PREDICTED, GOLD[:9]),
        r"`gold` must have the shape \(300, 3\), got \(9, 3\)",
    ),
    "nan": (lambda: v.pad_distributions([[0, NAN, 0]], [[0, 0, 0]]), r"`predicted` holds nan at index \(0, 1\)"),
    "infinite": (lambda: v.heartbeat([1, math.inf]), r"`validation_loss` holds inf at index \(1,\)"),
    "empty": (lambda: v.emotional_field(np.zeros((0, 3)), np.zeros((0, 3))), "`predicted` is empty"),
    "no numbers": (
        lambda: v.confidence_evolution([["a", "b"]]),
        r"`confidences` must be numbers in the shape \(rows, K\)",
    ),
    "ragged": (lambda: v.step_attention([[1], [0.5, 0.5]]), "`attention` must be numbers"),
    "not square": (lambda: v.step_attention(np.zeros((2, 3))), "square"),
    "above 1": (
        lambda: v.confidence_evolution([[0.5, 1.5]]),
        r"`confidences` must lie in 0\.\.1.*1.5 at index \(0, 1\)",
    ),
    "gold scale": (
        lambda: v.predicted_vs_gold(PREDICTED, 3 + GOLD),
        r"label range -1\.\.1 .*value_range=\(lowest, highest\)",
    ),
    "negative sd": (lambda: v.reliability(PREDICTED, GOLD, -SPREAD), "`uncertainty` must lie in 0"),
    "bins": (lambda: v.reliability(PREDICTED, GOLD, SPREAD, bins=1), "`bins`"),
    "epochs fall": (lambda: v.heartbeat_plot([2, 1], [0.1, 0.2]), "`epochs` must rise"),
    "hope": (lambda: v.aura([2], [1], [1], [1], [1]), "`hope` must lie in 0..1"),
    "infinite loss": (
        lambda: v.training_curves([1], [math.inf], [1], [1], [1], [1], [1]),
        "a NaN is allowed and means not measured",
    ),
    "steps": (lambda: v.steps_curve({"a": [1, 2], "b": [1]}), "same number of steps"),
    "ragged steps": (lambda: v.steps_curve({"a": [[1, 2], [1]]}), r"`scores\['a'\]` must be numbers"),
    "no steps": (lambda: v.steps_curve({}), "1 to 7 names"),
    "speakers": (lambda: v.conversation_trajectory(PAD, speakers=["Ana"]), "`speakers` must be a sequence of 9 names"),
    "frames": (lambda: v.breathing_animation([1], [1], [1], frames=1), "`frames` must be a whole number in 2..600"),
    "points": (lambda: v.emotional_field(PREDICTED, GOLD, max_points=0), "`max_points`"),
    "too narrow": (lambda: v.conversation_trajectory(PAD, width=2), r"`width` must lie in 3.5..20 inches, got 2"),
    "many phrases": (lambda: v.phrase_map(np.zeros((1, 25, 3)), ["a"] * 25, ["b"]), "at most 24 in one figure, got 25"),
    "probe": (lambda: v.probe_curves(PROBE * NAN, PROBE, PROBE, ["a", "b"]), "`r` has no layer at all for 'a'"),
    "interval": (lambda: v.results_bars(["a"], [0.5], [0.6], [0.7]), "low <= value <= high must hold; 'a'"),
    "reference": (lambda: v.results_bars(["a"], [0.5], [0.4], [0.6], references={"x": NAN}), "`references`"),
    "encoder": (lambda: v.architecture(" "), "`encoder` is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_errors_name_the_argument(case: str) -> None:
    draw, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        draw()


def test_threads_do_not_disturb_each_other() -> None:
    """The same figures from four threads at once as from one."""
    alone = {name: drawn(FIGURES[name]()) for name in ("predicted_vs_gold", "conversation_trajectory")}
    found: list[tuple[str, np.ndarray]] = []
    threads = [
        threading.Thread(target=lambda name=name: found.append((name, drawn(FIGURES[name]())))) for name in [*alone] * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for name, pixels in found:
        np.testing.assert_array_equal(pixels, alone[name])


def test_it_needs_neither_pyplot_nor_the_package_nor_matplotlib_to_be_imported() -> None:
    path = Path(v.__file__)
    code = (
        f"import sys; sys.path.insert(0, {str(path.parent)!r}); import visualization as v\n"
        "assert not {'matplotlib', 'torch', 'liminal_hf'} & set(sys.modules)\n"
        "v.step_attention([[1.0]]).savefig('/dev/null', format='png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "sys.modules['matplotlib.figure'] = None\n"
        "try: v.step_attention([[1.0]])\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'liminal_hf[plot]'" in done.stdout
