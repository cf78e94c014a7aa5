"""Writing a file whole and naming it by its content.

Requires nothing but the standard library.
"""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that becomes `target`, whole, when the block ends well, and vanishes otherwise.

    Safe with several writers: each has its own temporary file, and the last one to finish wins.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "deep" / "a.txt"
        >>> with atomic_write(target) as temporary:
        ...     _ = temporary.write_text("hello")
        >>> target.read_text()
        'hello'
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(target: str | os.PathLike, text: str) -> None:
    """Writes a text as UTF-8 with `atomic_write`, its line ends as they are.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> write_text(target, "hello"); target.read_text()
        'hello'
    """
    with atomic_write(Path(target)) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def file_sha256(path: Path) -> str:
    """The file's sha256 in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
