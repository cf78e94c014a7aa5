"""README and the index of results: every block runs and prints what it shows, every figure stands in a results file."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "scripts" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
INDEX = (RESULTS / "README.md").read_text(encoding="utf-8")
# A block of Python and, where one follows, the block with what it prints.
# A repository that has yet to be pushed can't be loaded here: tests/test_hub.py runs these blocks.
BLOCKS = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", README, re.DOTALL)
EXAMPLES = [(block, shown) for block, shown in BLOCKS if "OWNER/NAME" not in block]
FIGURE = re.compile(r"(?<![\w.])[+-]?(?:\d{1,3}(?:,\d{3})+|\d*\.\d{2,4}|\d{2,3} points?)(?![\w])")


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 220 and len(README.encode()) <= 14_000
    assert len(re.findall(r"^\|[ :-]+\|", README, re.MULTILINE)) <= 2, "at most two tables"
    assert README[: README.index("```python")].count("\n") < 40


@pytest.mark.filterwarnings("ignore")
def test_the_blocks_print_what_is_shown(minilm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {}
    for block, shown in EXAMPLES:
        exec(compile(block, "README.md", "exec"), namespace)
        printed = capsys.readouterr().out
        if shown:
            assert printed == shown


def test_the_recipe_is_a_recipe(tmp_path: Path) -> None:
    from liminal_hf.training.recipe import Recipe

    block = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert block
    path = tmp_path / "my-recipe.yaml"
    path.write_text(block[1].replace("base: hub_configs", f"base: {ROOT / 'hub_configs'}"), encoding="utf-8")
    assert Recipe.from_yaml(path).phases


def test_the_commands_exist() -> None:
    from typer.testing import CliRunner

    from liminal_hf.cli import app

    commands = set(re.findall(r"\bliminal ([a-z]+)", README + INDEX))
    assert {"predict", "score", "train", "evaluate", "push"} <= commands
    for command in commands:
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0, command
    for command, option in re.findall(r"liminal ([a-z]+)[^`\n]*? (--[a-z0-9-]+)", README):
        assert option in CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output, (command, option)


def test_the_files_that_they_name_exist() -> None:
    for text, home in ((README, ROOT), (INDEX, RESULTS)):
        links = {link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")}
        missing = sorted(link for link in links if link and not (home / link).exists())
        assert not missing
    named = set(re.findall(r"\b(?:hub_configs|scripts)/[\w./-]+\.(?:yaml|sh|py|md|ipynb)\b", README + INDEX))
    assert named and not sorted(name for name in named if not (ROOT / name).exists())


def figures_of_the_results() -> set[str]:
    """Every figure that a results file states, and those of its JSON rounded to two, three and four places."""
    stated: set[str] = set()
    for path in [*RESULTS.glob("*.md"), *(ROOT / "liminal_hf" / "pretrained").glob("*/README.md")]:
        if path.name != "README.md" or path.parent != RESULTS:
            stated |= {figure.lstrip("+-").lstrip("0") for figure in FIGURE.findall(path.read_text(encoding="utf-8"))}

    def walk(value: object) -> None:
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                walk(item)
        elif isinstance(value, float):
            stated.update(f"{abs(value):.{places}f}".lstrip("0") for places in (2, 3, 4))

    for path in RESULTS.glob("*.json"):
        walk(json.loads(path.read_text(encoding="utf-8")))
    return stated


def test_each_figure_stands_in_a_results_file() -> None:
    stated = figures_of_the_results()
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    for name, text in (("README.md", prose), ("scripts/results/README.md", INDEX)):
        claimed = {figure.lstrip("+-").lstrip("0") for figure in FIGURE.findall(text)}
        assert len(claimed) > 15
        unknown = sorted(figure for figure in claimed if figure not in stated)
        assert not unknown, f"{name} states {unknown}, which no results file has"
