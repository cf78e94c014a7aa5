"""What the tests of the page share: a conversation, a hostile text, and how a row is compared with the pipeline's."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

# Of Chromium.
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
TALK = [
    ("Ana", "I found your letter today, what a lovely surprise!"),
    ("Ben", "I hoped you would like it."),
    ("Ana", "Then you forgot our date again, and I am furious!"),
]
HOSTILE = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script> & \u202eolleh"


def shown(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def assert_same(row: dict[str, Any], wanted: dict[str, Any]) -> None:
    """The row has the pipeline's values; numbers within rounding."""
    for name, value in wanted.items():
        if isinstance(value, dict):
            assert_same(row[name], value)
        else:
            close = isinstance(value, float | list)
            assert row[name] == (pytest.approx(value, abs=1e-5) if close else value), name


def rows_of(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def kept(folder: Path, content: bytes, name: str = "mine.csv") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def fits(page: Any) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
