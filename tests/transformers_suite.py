"""Fetches the tests that transformers writes for its own models, of the very release that is installed.

Requires pip and, the first time, a package index: the wheel has no tests, but the source distribution of the same
version has. What is fetched stays in a cache folder outside this repository.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib import import_module
from pathlib import Path

import transformers
from filelock import FileLock

PACKAGE = "transformers_own_tests"
TESTS = ("test_modeling_common.py", "test_configuration_common.py")
# The source distribution leaves out the folders that these two files import from.
STUBS = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    # Values for the arguments of a plain config; a config with another one in it, as ours, is not tested with them.
    "utils/test_configuration_utils.py": "config_common_kwargs: dict[str, object] = {}\n",
}


def cache_folder() -> Path:
    """Where the tests of the installed release are kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "liminal_hf" / f"transformers-tests-{transformers.__version__}"


def fetch() -> Path:
    """The cache folder, filled.

    Raises:
        RuntimeError: the source distribution could not be fetched, or lacks a file; the message says why.
    """
    folder = cache_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                package = Path(temporary) / "tree" / PACKAGE
                _unpack(_download(Path(temporary)), package)
                shutil.move(package.parent, folder)
    return folder


def _download(folder: Path) -> Path:
    version = transformers.__version__
    command = [sys.executable, "-m", "pip", "download", f"transformers=={version}", "--dest", str(folder)]
    command += ["--no-binary", ":all:", "--no-deps", "--no-build-isolation", "--retries", "1", "--timeout", "20"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"the source distribution of transformers {version} did not arrive in 4 minutes") from None
    found = list(folder.glob("transformers-*.tar.gz"))
    if done.returncode or not found:
        reason = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise RuntimeError(f"pip could not fetch the source distribution of transformers {version}: {reason}")
    return found[0]


def _unpack(archive: Path, package: Path) -> None:
    for name, text in STUBS.items():
        target = package / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (target.parent / "__init__.py").touch()
        target.write_text(text)
    (package / "__init__.py").touch()
    with tarfile.open(archive) as tar:
        root = tar.getnames()[0].split("/")[0]
        for name in TESTS:
            try:
                source = tar.extractfile(f"{root}/tests/{name}")
            except KeyError:
                source = None
            if source is None:
                raise RuntimeError(f"{archive.name} has no tests/{name}")
            (package / name).write_bytes(source.read())


def load() -> tuple[type, type]:
    """`ModelTesterMixin` and `ConfigTester` of the installed release.

    Raises:
        RuntimeError: they could not be fetched.
    """
    folder = str(fetch())
    if folder not in sys.path:
        sys.path.append(folder)
    return (
        import_module(f"{PACKAGE}.test_modeling_common").ModelTesterMixin,
        import_module(f"{PACKAGE}.test_configuration_common").ConfigTester,
    )
