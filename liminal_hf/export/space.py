"""A Hugging Face Space with the page of `liminal demo`, and the wheel of this package that it carries.

Requires the extra `demo` (gradio) for the Space; the wheel needs only the standard library.
"""

import base64
import hashlib
import shutil
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path

import yaml
from packaging.requirements import Requirement

from ..modeling.errors import LiminalError
from ..modeling.provenance import read_facts
from .model_card import inherited_fact
from .repository import STAYS_HOME

_PACKAGE = Path(__file__).parents[1]
_APP = '''"""Pleasure, arousal and dominance of texts: a Gradio app for a Space, written by `liminal demo --export`."""

import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

from transformers import pipeline

here = Path(__file__).parent
if find_spec("liminal_hf") is None:
    # requirements.txt has what liminal_hf needs; the package itself is not on an index, so it lies here as a wheel.
    with zipfile.ZipFile(next(here.glob("liminal_hf-*.whl"))) as wheel:
        wheel.extractall(here / "packages")
    sys.path.insert(0, str(here / "packages"))

import liminal_hf
from liminal_hf.demo import launch

launch(pipeline("pad-regression", model={model}))
'''
_PAGE = """
# How a text feels

Type a text, follow a conversation turn by turn, or upload a CSV: the page reads pleasure, arousal and dominance, and
says how sure it is. Made by `liminal demo --export`; `python app.py` shows it on your own machine after
`pip install -r requirements.txt`. What visitors type is kept in their own session alone. The code is MIT; the licence
above is that of the weights.
"""


def write_space(folder: str | Path, checkpoint: str | None = None) -> Path:
    """Writes a Space: `app.py`, `requirements.txt`, the wheel of this package, and `README.md` with its front matter.

    Args:
        folder: new or empty.
        checkpoint: a Hub id, or a folder, which is copied into `model/`; None is the checkpoint of the package.

    Raises:
        LiminalError: the folder is not empty.
        ImportError: gradio is not installed.

    Example:
        >>> import tempfile
        >>> folder = write_space(tempfile.mkdtemp())
        >>> sorted(path.name for path in folder.iterdir() if path.suffix != ".whl")
        ['README.md', 'app.py', 'requirements.txt']
    """
    from .. import DEFAULT_CHECKPOINT

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LiminalError(f"{folder} is not an empty folder. Give another one: liminal demo --export FOLDER")
    try:
        gradio = version("gradio")
    except PackageNotFoundError as error:
        raise ImportError("The page needs gradio: pip install 'liminal_hf[demo]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    model, extras = "liminal_hf.DEFAULT_CHECKPOINT", {"demo", "offline"}
    if checkpoint is not None:
        model, extras = repr(checkpoint), {"demo"}
        if Path(checkpoint).is_dir():
            shutil.copytree(checkpoint, folder / "model", ignore=shutil.ignore_patterns(*STAYS_HOME))
            model = 'str(here / "model")'
    front = {
        "title": "How a text feels",
        "emoji": "💓",
        "colorFrom": "blue",
        "colorTo": "red",
        "sdk": "gradio",
        "sdk_version": gradio,
        "app_file": "app.py",
        "pinned": False,
        "license": inherited_fact(read_facts(checkpoint or DEFAULT_CHECKPOINT), "license"),
        "short_description": "Pleasure, arousal and dominance of texts",
        "models": [checkpoint] if checkpoint and not Path(checkpoint).exists() else None,
    }
    front = {key: value for key, value in front.items() if value is not None}
    text = f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n{_PAGE}"
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / "app.py").write_text(_APP.format(model=model), encoding="utf-8")
    needed = "".join(f"{line}\n" for line in requirements(extras))
    (folder / "requirements.txt").write_text(needed, encoding="utf-8")
    build_wheel(folder)
    return folder


def requirements(extras: set[str]) -> list[str]:
    """The lines of a requirements.txt with what this package and some of its extras need, without the package."""
    lines = set()
    for needed in map(Requirement, _distribution().requires or []):
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            lines.add(str(needed).partition(";")[0].strip())
    return sorted(line for line in lines if not line.startswith("liminal_hf"))


def build_wheel(folder: str | Path) -> Path:
    """Packs the installed package as a wheel in `folder`, without network and without the sources' build tools.

    Equal sources give an equal file.

    Raises:
        LiminalError: the package runs from a folder that was not installed.
    """
    package = _distribution()
    about = f"liminal_hf-{package.version}.dist-info"
    files = {
        f"liminal_hf/{path.relative_to(_PACKAGE).as_posix()}": path.read_bytes()
        for path in sorted(_PACKAGE.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    for name in ("METADATA", "entry_points.txt", "licenses/LICENSE"):
        if (text := package.read_text(name)) is not None:
            files[f"{about}/{name}"] = text.encode("utf-8")
    files[f"{about}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: liminal_hf\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record, lines = f"{about}/RECORD", []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}")
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    target = Path(folder) / f"liminal_hf-{package.version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in files.items():
            # A ZipInfo of its own: its date is the same on every day.
            wheel.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return target


def _distribution() -> Distribution:
    try:
        return distribution("liminal_hf")
    except PackageNotFoundError as error:
        raise LiminalError("liminal_hf is not installed here, so its wheel can't be made: pip install .") from error
