"""Files: where corpora and caches lie, how a missing file is fetched and checked, how one is written whole.

Requires nothing but the standard library and huggingface_hub (for its offline switch).
"""

import hashlib
import logging
import os
import shutil
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.constants import HF_HUB_OFFLINE

from .modeling.errors import LiminalError
from .modeling.files import atomic_write, file_sha256, write_text

logger = logging.getLogger(__name__)

DATA_DIR_VARIABLE = "LIMINAL_DATA_DIR"
CACHE_DIR_VARIABLE = "LIMINAL_CACHE_DIR"
_TIMEOUT_SECONDS = 60


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside `target` that takes its place, whole, when the block ends well.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "result"
        >>> with atomic_folder(target) as part:
        ...     write_text(part / "a.txt", "hello")
        >>> [path.name for path in target.iterdir()]
        ['a.txt']
    """
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def folder_sha256(folder: Path, *patterns: str) -> dict[str, str]:
    """The sha256, by name, of the files in a folder, or of those among them that fit one of the patterns."""
    paths = {path for pattern in patterns or ("*",) for path in folder.glob(pattern) if path.is_file()}
    return {path.name: file_sha256(path) for path in sorted(paths)}


def changed_files(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """The names among `digests` whose file has another sha256 or is missing."""
    return [
        name
        for name, digest in digests.items()
        if not (folder / name).is_file() or file_sha256(folder / name) != digest
    ]


def cache_root() -> Path:
    """The folder for what can be made or fetched again: `LIMINAL_CACHE_DIR`, else `~/.cache/liminal_hf`.

    Example:
        >>> cache_root().is_absolute()
        True
    """
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "liminal_hf"
    return Path(os.environ.get(CACHE_DIR_VARIABLE) or default).expanduser().absolute()


def find_file(corpus: str, name: str, data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """A file of a corpus in `data_dir`, or without that in the folder that `LIMINAL_DATA_DIR` names.

    Args:
        corpus: subfolder, such as "emobank"; the file may also lie in the folder itself.
        name: file name.
        data_dir: folder; looked at alone when given.

    Returns:
        The path, or None when no folder was given and none that is known has the file.

    Raises:
        FileNotFoundError: `data_dir` was given and does not have the file.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.csv").write_text("x")
        >>> find_file("emobank", "a.csv", folder) == folder / "a.csv"
        True
    """
    given = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE)
    if not given:
        return None
    folder = Path(given).expanduser()
    tried = [folder / corpus / name, folder / name]
    found = next((path for path in tried if path.is_file()), None)
    if found is None and data_dir is not None:
        raise FileNotFoundError(
            f"Neither {tried[0]} nor {tried[1]} exists. Give as data_dir the folder that holds {corpus}/{name}."
        )
    return found


def require_file(corpus: str, name: str, data_dir: str | os.PathLike[str] | None, source: str) -> Path:
    """As `find_file`, for a corpus that is not fetched by itself.

    Args:
        corpus, name, data_dir: as in `find_file`.
        source: where the corpus can be had.

    Raises:
        FileNotFoundError: the file is nowhere; the message says where to get it and where to put it.

    Example:
        >>> require_file("meld", "dev_sent_emo.csv", "no/such/folder", "https://github.com/declare-lab/MELD")
        Traceback (most recent call last):
        FileNotFoundError: Neither no/such/folder/meld/dev_sent_emo.csv nor ... The corpus is at https://...
    """
    try:
        found = find_file(corpus, name, data_dir)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} The corpus is at {source}.") from None
    if found is None:
        raise FileNotFoundError(
            f"{corpus}/{name} was not found. Get it from {source}, put it into a folder {corpus}/ and name the folder "
            f"above it: data_dir=..., or the environment variable {DATA_DIR_VARIABLE}."
        )
    return found


def fetch(url: str, target: Path, sha256: str) -> Path:
    """A file from the network, kept at `target`; what is there already is used if its sha256 is right.

    Args:
        url: where it is.
        target: where it is kept.
        sha256: of the right content, as hex.

    Returns:
        `target`.

    Raises:
        ConnectionError: it is not there, and the network (or offline mode) does not give it.
        ValueError: what came is not the right content.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> _ = target.write_text("hello")
        >>> fetch("https://example.org/a.txt", target, hashlib.sha256(b"hello").hexdigest()) == target  # it is there
        True
    """
    if target.is_file():
        if hashlib.sha256(target.read_bytes()).hexdigest() == sha256:
            return target
        logger.warning("%s is damaged (its sha256 differs); fetching it again.", target)
    advice = (
        f"Fetch it on a machine with network, put it into a folder and name that folder: data_dir=..., or the "
        f"environment variable {DATA_DIR_VARIABLE}."
    )
    if HF_HUB_OFFLINE:
        raise ConnectionError(f"{url} is needed and HF_HUB_OFFLINE is set. {advice}")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
            content = response.read()
    except OSError as error:
        raise ConnectionError(f"{url} could not be fetched ({error}). {advice}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise LiminalError(f"{url} gave {len(content)} bytes with sha256 {found}, expected {sha256}. {advice}")
    with atomic_write(target) as temporary:
        temporary.write_bytes(content)
    return target


__all__ = [
    "CACHE_DIR_VARIABLE",
    "DATA_DIR_VARIABLE",
    "atomic_folder",
    "atomic_write",
    "cache_root",
    "changed_files",
    "fetch",
    "file_sha256",
    "find_file",
    "folder_sha256",
    "require_file",
    "write_text",
]
