"""`scripts/figures.py` redraws a figure small, and what it draws is in the repository."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import figures  # noqa: E402

pytestmark = pytest.mark.nightly


def test_a_figure_is_redrawn_small(minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    monkeypatch.setattr(figures, "WORK", tmp_path / "work")
    assert figures.main(["conversation"]) == 0
    with Image.open(tmp_path / "conversation.png") as image:
        assert image.width == 1200 and image.mode == "P"
        pixels = np.asarray(image.convert("RGB")).astype(int)
    # The blue of pleasure is still Okabe and Ito's, whatever the palette.
    assert np.abs(pixels - [0, 114, 178]).max(-1).min() <= 6
    assert (tmp_path / "conversation.png").stat().st_size < 120_000


def test_an_unknown_figure_is_answered_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        figures.main(["nothing"])
    assert "there is no nothing; there are reliability" in capsys.readouterr().err


def test_what_it_draws_is_in_the_repository() -> None:
    names = [*figures.PLOTS, "conversation", "page"]
    assert all((figures.RESULTS / f"{name}.png").stat().st_size < 120_000 for name in names)
