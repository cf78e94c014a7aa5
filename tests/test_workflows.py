"""The repository's habits: workflows, hooks, citation and changelog can be read, and agree with the package."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from liminal_hf import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
JOBS = {
    "ci.yml": ["suite", "transformers", "windows"],
    "nightly.yml": ["everything", "faults"],
    "release.yml": ["build", "publish"],
}


def workflow(name: str) -> dict[Any, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))


def commands(name: str) -> list[str]:
    return [step["run"] for job in workflow(name)["jobs"].values() for step in job["steps"] if "run" in step]


def test_there_are_these_workflows() -> None:
    assert sorted(path.name for path in (ROOT / ".github" / "workflows").iterdir()) == sorted(JOBS)


@pytest.mark.parametrize("name", JOBS)
def test_a_workflow_has_its_jobs(name: str) -> None:
    content = workflow(name)
    assert list(content["jobs"]) == JOBS[name]
    # YAML 1.1 reads the key `on` as True.
    assert content[True] and content["permissions"] == {"contents": "read"}
    for job in content["jobs"].values():
        assert job["runs-on"].endswith("-latest") and job["timeout-minutes"] > 0
        for step in job["steps"]:
            # Either a command, or an action whose version is named.
            assert ("run" in step) != ("uses" in step) and "@" in step.get("uses", "@")


@pytest.mark.parametrize("name", JOBS)
def test_what_a_workflow_runs_is_there(name: str) -> None:
    for command in commands(name):
        for file in re.findall(r"(?:scripts|tests)/[\w/]+\.(?:sh|py|txt)", command):
            assert (ROOT / file).is_file(), f"{name}: {file}"


def test_the_versions_of_python_are_those_that_are_tested() -> None:
    tested = workflow("ci.yml")["jobs"]["suite"]["strategy"]["matrix"]["python"]
    classifiers = [line.rpartition(" ")[2] for line in PROJECT["project"]["classifiers"] if "Python :: 3." in line]
    assert tested == classifiers and PROJECT["project"]["requires-python"] == f">={tested[0]}"
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + tested[0].replace(".", "")


def test_a_release_stores_no_token() -> None:
    publish = workflow("release.yml")["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"} and publish["needs"] == "build"
    assert "secrets." not in (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")


def test_pre_commit_runs_what_the_suite_runs() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = {hook["id"]: hook["entry"] for repo in config["repos"] for hook in repo["hooks"]}
    assert list(hooks) == ["ruff-check", "ruff-format", "structure"]
    script = (ROOT / "scripts" / "test.sh").read_text(encoding="utf-8")
    assert "ruff check" in script and "ruff format --check" in script and "--cov=liminal_hf" in script


def test_citation_and_changelog_know_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__ and citation["license"] == PROJECT["project"]["license"]
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.+)\]( - Unreleased| - \d{4}-\d\d-\d\d)$", log, re.MULTILINE)
    assert newest is not None and __version__.partition(".dev")[0] == newest[1]
    kinds = re.findall(r"^### (\w+)$", log.split("\n## [")[1], re.MULTILINE)
    assert kinds == ["Added", "Changed", "Deprecated", "Removed", "Fixed"]
