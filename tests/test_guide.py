"""GUIDE.md: its blocks run, the commands, options, tools and paths that it names exist."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from liminal_hf import serving
from liminal_hf.cli import app

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "GUIDE.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore")
def test_the_blocks_run(minilm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {}
    for block, shown in re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", GUIDE, re.DOTALL):
        exec(compile(block, "GUIDE.md", "exec"), namespace)
        printed = capsys.readouterr().out
        if shown:
            assert printed == shown
    for block in re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL):
        json.loads(block)


def test_commands_options_and_files_exist() -> None:
    for command in set(re.findall(r"\bliminal ([a-z]+)", GUIDE)):
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0, command
    shown = {one: CliRunner().invoke(app, [one, "--help"], env={"COLUMNS": "200"}).output for one in ("mcp", "serve")}
    for option in {"--at-once", "--wait", "--room", "--host", "--port", "--backend"} & set(
        re.findall(r"--[a-z-]+", GUIDE)
    ):
        assert option in shown["serve"]
    for link in re.findall(r"\]\(([^)\s]+)\)", GUIDE):
        assert link.startswith("http") or (ROOT / link.split("#")[0]).exists(), link


def test_limits_are_those_of_the_server() -> None:
    text = " ".join(GUIDE.split())
    assert f"at most {serving.MAX_TEXTS} texts, {serving.MAX_CHARACTERS:,} characters a text" in text
    assert f"{serving.MAX_BYTES:,} bytes" in text


def test_the_dockerfile_runs_what_exists() -> None:
    """There is no daemon where the tests run: what the file copies and calls is checked, and nothing is built."""
    content = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    extras = re.search(r"liminal_hf-\*\.whl\)\[([a-z,]+)\]", content)
    assert extras and set(extras[1].split(",")) == {"serve", "offline"}
    assert (ROOT / "scripts" / "constraints.txt").is_file() and "COPY scripts/constraints.txt" in content
    (call,) = re.findall(r'RUN python -c "(.*)"', content)
    compile(call, "Dockerfile", "exec")
    assert '"liminal", "serve"' in content and "USER liminal" in content
