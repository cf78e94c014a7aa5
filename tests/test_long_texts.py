"""The script that compares rules for whole texts, on a small EmoBank."""

import json
from pathlib import Path
from typing import Any

import pytest
from evidence_kit import write_emobank


def test_the_script_compares_rules_and_keeps_the_words_of_its_page(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    import long_texts

    monkeypatch.setenv("LIMINAL_DATA_DIR", str(write_emobank(tmp_path)))
    (tmp_path / "long_texts.md").write_text("# Words\n\n<!-- table -->\n<!-- end -->\n", encoding="utf-8")
    assert long_texts.main(["--results", str(tmp_path)]) == 0
    report: dict[str, Any] = json.loads((tmp_path / "long_texts.json").read_text(encoding="utf-8"))
    assert report["test"]["texts"] >= 2 and len(report["test"]["rules"]) == 6
    page = (tmp_path / "long_texts.md").read_text(encoding="utf-8")
    assert page.startswith("# Words") and "| 0.2 (chosen) |" in page
