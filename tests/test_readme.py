"""The README's Python runs when pasted from top to bottom, and the files that it names exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# A repository that has yet to be pushed can't be loaded.
BLOCKS = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "OWNER/NAME" not in block]


@pytest.mark.filterwarnings("ignore")
def test_the_blocks_run_from_top_to_bottom(minilm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "give or take" in printed and "user 2" in printed


def test_the_files_that_it_names_exist() -> None:
    names = {name for name in re.findall(r"\]\(([^)#:]+)\)", README) if not name.startswith("http")}
    names |= set(re.findall(r"\b(?:hub_configs|scripts)/[\w./-]+\.(?:yaml|sh|py|md)\b", README))
    assert names
    missing = sorted(name for name in names if not (ROOT / name).exists())
    assert not missing


def test_the_figures_of_conversations_are_those_of_their_report() -> None:
    table = README.split("| reading a turn of MELD's test split |")[1].split("\n\n")[0]
    figures = [cell for row in table.splitlines() for cell in re.findall(r"[+-]?\.\d{3}(?: ±| \[)[^|]*[\d\]]", row)]
    report = (ROOT / "scripts" / "results" / "conversations.md").read_text(encoding="utf-8")
    assert len(figures) == 15 and not [figure for figure in figures if figure not in report]
