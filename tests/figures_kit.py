"""What the tests of figures share: predictions, a run and a conversation to draw, and reading pixels."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from liminal_hf.figures import LOG_COLUMNS

ROWS, STEPS, TURNS, EPOCHS = 300, 5, 9, 6
RNG = np.random.default_rng(0)
GOLD = np.clip(RNG.normal(0, (0.16, 0.12, 0.10), (ROWS, 3)), -1, 1)
PREDICTED = 0.5 * GOLD + RNG.normal(0, 0.04, (ROWS, 3))
SPREAD = RNG.uniform(0.05, 0.15, (ROWS, 3))
TRAJECTORY = np.stack([PREDICTED * share for share in (0.2, 0.5, 0.8, 0.9, 1)], axis=1)
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
PLACED = np.stack([PAD[:3], PAD[3:6]])
TWO = {"targets": ("warmth", "urgency")}


def drawn(figure: Figure) -> np.ndarray:
    """The figure's pixels at 800 px."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return pixels(buffer)


def pixels(source: Any) -> np.ndarray:
    with Image.open(source) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "my-run"
    folder.mkdir()
    rows = ["1.0,0.9,0.8,0.88,,0.9,0.001", "2.0,0.6,0.6,0.9,,0.91,0.0005", "3.0,0.5,0.62,0.9,,0.92,0.0001"]
    (folder / "emotional_log.csv").write_text("\n".join([",".join(LOG_COLUMNS), *rows, ""]), encoding="utf-8")
    return folder


def content(count: int = 40) -> dict[str, Any]:
    gold = GOLD[:count].copy()
    gold[3, 1] = -100
    return {
        "predicted": PREDICTED[:count],
        "gold": gold,
        "uncertainty": SPREAD[:count],
        "pad_trajectory": TRAJECTORY[:count],
        "step_attentions": ATTENTION[:count],
        "id": [f"id{row}" for row in range(count)],
        "text": ['He said: "no, 1,5!"\nThen ü.', "007", "a\u2028b"] + ["None"] * (count - 3),
        "conversation": [f"talk{row % 2}" for row in range(count)],
        "speaker": ["Ana", "Ben", "Ben", "Ana"] * (count // 4),
        "turn": list(range(count))[::-1],
    }


def row_of_the_pipeline(**changes: Any) -> str:
    row = {
        "pleasure": 0.1, "arousal": 0.2, "dominance": -0.3, "confidence": 0.4, "octant": "dependent",
        "uncertainty": {"pleasure": 0.11, "arousal": 0.12, "dominance": 0.13}, "percentile": None, "error": None,
    }  # fmt: skip
    return json.dumps({**row, **changes}) + "\n"
