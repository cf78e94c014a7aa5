"""CSV, TSV and other delimited text as records, each with its line; encoding and separator are found in the file.

Requires pyarrow (for zstandard). A record that can't be read keeps its position and says why. A quotation mark that is
left open never swallows rows: a quoted cell may span lines only where these lines do not look like rows themselves.
"""

import bz2
import codecs
import csv
import gzip
import io
import itertools
import logging
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa

from ..modeling.errors import LiminalError
from .cells import fold, option, readings

logger = logging.getLogger(__name__)

SEPARATORS = (",", ";", "\t", "|")
COMPRESSIONS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda path, mode: pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"),
}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_ENCODINGS = "cp1251 (Cyrillic), cp1250 (Central Europe), cp850 (DOS), mac_roman, shift_jis or gb18030"
# Bytes that mean something else than cp1252: those it lacks, a run of high bytes, punctuation inside a word.
_NOT_CP1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]|[\x80-\xff]{4,}|[A-Za-z][\x82\x84\x86-\x89\x8b\x94\x9b][a-z]")
_SAMPLE_LINES = 2000
_SAMPLE_CHARACTERS = 1 << 20
HEADER_WITHIN = 20  # records
_LARGEST_CELL = 16 << 20  # characters
# How cells are quoted, and what a line must hold for it: as in RFC 4180, with blanks after the separator, with
# backslashes (Spark, MySQL).
_QUOTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ('"', {}),
    ('{separator} "', {"skipinitialspace": True}),
    ('\\"', {"escapechar": "\\", "doublequote": False}),
)
SURROGATE = re.compile("[\udc80-\udcff]")


class Record(NamedTuple):
    """A row of a table: the line where it begins (from 1 on), its cells, and why it can't be read, or None."""

    line: int
    cells: Sequence[Any]
    error: str | None = None


@dataclass(frozen=True)
class Dialect:
    """How a delimited file is written.

    Args:
        path: the file.
        encoding: Python's name of it; "utf-8-sig" with a byte-order mark.
        separator: between cells.
        header: names in the file's order.
        start: line where the header begins.
        quotes: True: quotation marks enclose cells; False: they are letters; None: decided cell by cell.
        looks: by column, what the cells of the first rows have: only numbers, a blank in front, an empty cell.
        decimal: the decimal mark of the first rows, or what goes with the separator.
    """

    path: Path
    encoding: str
    separator: str
    header: tuple[str, ...]
    start: int
    quotes: bool | None
    looks: tuple[tuple[bool, bool, bool], ...] = ()
    decimal: str = "."


# ---- encoding ----


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file's bytes, unpacked where its ending says that it is compressed; damage is an error for people."""
    packed = path.suffix.lower() in COMPRESSIONS
    try:
        with COMPRESSIONS[path.suffix.lower()](path, "rb") if packed else path.open("rb") as stream:
            yield stream
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and not (packed and error.errno is None):
            raise
        raise LiminalError(f"{path} is damaged or not whole ({error}).") from error


def find_encoding(path: Path, encoding: str | None = None) -> str:
    """The encoding of a text file: what its byte-order mark says, else `encoding`, else UTF-8, UTF-16 or cp1252.

    What is no UTF-8 is taken for cp1252, which Windows programs of Western Europe write, or is an error.
    """
    if encoding is not None:
        try:
            encoding = codecs.lookup(encoding).name
            "".encode(encoding)
        except LookupError:
            raise LiminalError(
                f"There is no text encoding {encoding!r}. Known ones are utf-8, utf-16, cp1252, latin-1, {_ENCODINGS}."
            ) from None
    with _opened(path) as stream:
        start = stream.read(1 << 16)
    marked = next((name for mark, name in _MARKS if start.startswith(mark)), encoding)
    if marked is not None:
        return marked
    even, odd, pairs = start[::2].count(0), start[1::2].count(0), max(len(start) // 2, 1)
    if min(even, odd) == 0 and max(even, odd) > pairs / 20:
        wide = "utf-16-le" if odd else "utf-16-be"
        if re.search("[\r\n]", start.decode(wide, "replace")):
            return wide
    wrong = right = strange = high = 0
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    with _opened(path) as stream:
        while block := stream.read(1 << 20):
            text = decoder.decode(block)
            if block.isascii() and text.isascii():
                continue
            bad = len(SURROGATE.findall(text))
            wrong += bad
            right += len(re.findall(r"[^\x00-\x7f\udc80-\udcff]", text))
            if bad:
                strange += sum(map(len, _NOT_CP1252.findall(block)))
                high += len(re.findall(rb"[\x80-\xff]", block))
    wrong += len(SURROGATE.findall(decoder.decode(b"", final=True)))
    if not wrong or right > wrong / 2:
        return "utf-8"  # with broken rows, if any, which are marked
    if strange > high / 20:
        raise LiminalError(
            f"{path} is not UTF-8 ({_undecodable(path, 'utf-8')}), and can't be Windows' cp1252. Say what it "
            f"is, for example {option('encoding', 'cp1251')}. Others are {_ENCODINGS}."
        )
    return "cp1252"


def _undecodable(path: Path, encoding: str) -> str:
    """The first line that an encoding can't decode, with the byte."""
    with _opened(path) as stream:
        for index, line in enumerate(stream, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                before = line[: error.start].decode(encoding, "replace")[-20:]
                return f"line {index}, byte 0x{line[error.start]:02x} after {before!r}"
    return "at its end"


def read_lines(path: Path, encoding: str, newline: str = "") -> Iterator[str]:
    """A file's lines with their ends. Bytes that are no UTF-8 become lone surrogates, others an error."""
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    with _opened(path) as raw:
        # A small buffer of its own: those of pyarrow lack what a TextIOWrapper asks for.
        stream = io.TextIOWrapper(io.BufferedReader(cast(Any, raw)), encoding, errors, newline=newline)
        try:
            yield from stream
        except UnicodeError as error:
            where = "" if encoding.startswith("utf-16") else f", {_undecodable(path, encoding)}"
            raise LiminalError(
                f"{path} is not {encoding} ({error}{where}). Say what it is, for example "
                f"{option('encoding', 'cp1252')}."
            ) from error


# ---- dialect ----


def find_dialect(
    path: Path,
    wanted: Sequence[str] = (),
    *,
    encoding: str | None = None,
    separator: str | None = None,
    quotes: bool | None = None,
) -> Dialect:
    """How a file is written, from its first lines; a warning says so where it is taken for cp1252.

    `wanted` are names that the header should have; they tell it from title lines, and the separator.
    """
    if separator is not None:
        separator = {"\\t": "\t", "tab": "\t"}.get(separator.lower(), separator)
        if len(separator) != 1 or separator in '\r\n"':
            raise LiminalError(
                f"A separator is one character, got {separator!r}. Type {option('separator', ';')}; a tab is "
                f"{option('separator', 'tab')}."
            )
    csv.field_size_limit(2**31 - 1)
    name = find_encoding(path, encoding)
    sample, size = [], 0
    for line in itertools.islice(read_lines(path, name), _SAMPLE_LINES):
        sample.append(line)
        size += len(line)
        if size > _SAMPLE_CHARACTERS:
            break
    if name == "cp1252" and encoding is None:
        shown = next((line.strip() for line in read_lines(path, name) if not line.isascii()), "")
        logger.warning(
            "%s is not UTF-8. It is read as cp1252 (Windows), for example %r. If that is wrong, type %s.",
            path, shown[:60], option("encoding", "NAME"),
        )  # fmt: skip
    if sample:
        sample[0] = sample[0].removeprefix("\ufeff")
    first = next((index for index, line in enumerate(sample) if line.strip()), None)
    if first is None:
        raise LiminalError(f"{path} is empty. The first line of a table names its columns.")
    if match := re.fullmatch(r'"?sep=(.)"?\s*', sample[first], re.IGNORECASE):
        separator, first = separator or match[1], first + 1
    folded = {fold(column) for column in wanted}
    preferred = "\t" if {suffix.lower() for suffix in path.suffixes} & {".tsv", ".tab"} else ","
    candidates = [separator] if separator else sorted(SEPARATORS, key=lambda mark: mark != preferred)
    tried = [(*_try_separator(sample, first, mark, folded, quotes), mark) for mark in candidates]
    _, start, separator = max(tried, key=lambda found: found[0])
    if start > first:
        titles = " ".join(line.strip() for line in sample[first:start])
        logger.warning("%s: line %d names the columns; what stands above is left out: %r", path, start + 1, titles[:80])
    lines = _Lines(sample[start:])
    header = [
        SURROGATE.sub("\ufffd", cell).strip() for cell in next(_records(lines, separator, quotes), Record(0, [])).cells
    ]
    while len(header) > 1 and not header[-1]:
        header.pop()
    looks, decimal = _looks(sample[start + 1 :], separator, len(header))
    return Dialect(path, name, separator, tuple(header), start + 1, quotes, looks, decimal)


def _try_separator(
    sample: list[str], first: int, separator: str, wanted: set[str], quotes: bool | None
) -> tuple[tuple[Any, ...], int]:
    """How well a separator fits (larger is better), and the line of the header."""
    rows: list[tuple[int, list[str]]] = []
    quoting: Any = csv.QUOTE_NONE if quotes is False else csv.QUOTE_MINIMAL
    reader = csv.reader(sample[first:], delimiter=separator, quoting=quoting)
    line = first
    with suppress(csv.Error):
        for cells in reader:
            if cells:
                rows.append((line, cells))
            line = first + reader.line_num
    if not rows:
        return (0, False, False, 0.0, 0), first
    hits = [len(wanted & set(map(fold, cells))) for _, cells in rows[:HEADER_WITHIN]]
    index = hits.index(max(hits))
    # Title lines have fewer cells than the header.
    filled = [sum(bool(cell.strip()) for cell in cells) for _, cells in rows[: index + 1]]
    if any(count >= filled[index] for count in filled[:index]):
        index = 0
    width = len(rows[index][1])
    below = [len(cells) for _, cells in rows[index + 1 :]]
    share = sum(count == width for count in below) / len(below) if below else 1.0
    between_quotes = any(f'"{separator}"' in line for line in sample)
    return (hits[index], between_quotes, width > 1 and share >= 0.5, share, width), rows[index][0]


def _looks(lines: list[str], separator: str, width: int) -> tuple[tuple[tuple[bool, bool, bool], ...], str]:
    """What the cells of each column look like in rows that stand on one line, and the decimal mark."""
    rows: list[list[str]] = []
    inside: list[list[str]] = []  # perhaps lines of a quoted cell
    is_open = False
    for line in lines:
        if '"' not in line and len(cells := _literal(line, separator)) == width:
            (inside if is_open else rows).append(cells)
        is_open ^= line.count('"') % 2 == 1
    columns, trusted = (list(zip(*some, strict=True)) or [()] * width for some in (rows or inside, rows))
    found = [[readings(cell) for cell in cells if cell] for cells in columns]
    numeric = [bool(cells) and all(values) for cells, values in zip(columns, found, strict=True)]
    single = [values for is_number, some in zip(numeric, found, strict=True) if is_number for values in some]
    marks = [next(iter(values)) for values in single if len(values) == 1]
    usual = "," if separator == ";" else "."  # what Excel writes
    spaced = (any(cell.startswith(" ") for cell in cells) for cells in trusted)
    gaps = (not all(map(str.strip, cells)) for cells in trusted)
    return tuple(zip(numeric, spaced, gaps, strict=True)), max((".", ","), key=marks.count) if marks else usual


# ---- records ----


class _Lines:
    """Lines that can be put back; `count` is how many have been taken."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines, self._back, self.count = iter(lines), list[str](), 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._back.pop() if self._back else next(self._lines)
        self.count += 1
        return line

    def put_back(self, lines: Sequence[str]) -> None:
        self._back += reversed(lines)
        self.count -= len(lines)


def read_records(dialect: Dialect) -> Iterator[Record]:
    """The rows below the header, a blank line being none; an error where quoted lines may be rows."""
    lines = _Lines(read_lines(dialect.path, dialect.encoding))
    for _ in zip(range(dialect.start - 1), lines, strict=False):
        pass
    next(_records(lines, dialect.separator, dialect.quotes), None)  # the header
    for record in _records(lines, dialect.separator, dialect.quotes, dialect):
        if any(map(SURROGATE.search, record.cells)):
            cells = [SURROGATE.sub("\ufffd", cell) for cell in record.cells]
            record = Record(record.line, cells, record.error or f"line {record.line} is not UTF-8")
        yield record


def _records(lines: _Lines, separator: str, quotes: bool | None, dialect: Dialect | None = None) -> Iterator[Record]:
    """Records of any width, or of the dialect's."""
    width = len(dialect.header) if dialect else None
    for line in lines:
        number, error = lines.count, None
        if not line.strip(" \r\n\x1a"):
            continue
        cells = _literal(line, separator)
        if quotes is not False and '"' in line:
            open_mark = f"line {number} opens a quotation mark that is not closed"
            found = _quoted(line, lines, separator, width)
            if found is None:
                error = None if len(cells) == width and line.count('"') % 2 == 0 else open_mark
            elif quotes is None and dialect and _holds_rows(*found, lines, dialect):
                lines.put_back(found[1][1:])
                error = open_mark
            else:
                cells = found[0]
        if width is not None:
            while len(cells) > width and not cells[-1].strip():
                cells = cells[:-1]  # separators at the end of a line
            if error and separator == "\t" and len(cells) == width:
                error = None  # people write quotation marks as letters between tabs
            elif error is None and len(cells) != width:
                error = f"line {number} has {_count(len(cells))}, the header has {_count(width)}"
        yield Record(number, cells, error)


def _quoted(line: str, lines: _Lines, separator: str, width: int | None) -> tuple[list[str], list[str]] | None:
    """The cells of a record with quotation marks and the lines that it takes; None where they enclose no cells."""
    first: tuple[list[str], list[str]] | None = None
    for sign, quoting in _QUOTINGS:
        if sign.format(separator=separator) not in line:
            continue
        taken = [line]

        def feed(taken: list[str] = taken) -> Iterator[str]:
            size = len(line)
            yield line
            for other in lines:
                taken.append(other)
                size += len(other)
                if size > _LARGEST_CELL:
                    return
                yield other

        cells = None
        with suppress(csv.Error):
            cells = next(csv.reader(feed(), delimiter=separator, strict=True, **quoting))
            if len(cells) == (width or len(cells)):
                return cells, taken
        # Perhaps another way of quoting gives the right number of cells.
        lines.put_back(taken[1:])
        if cells is not None:
            first = first or (cells, taken)
    for _ in first[1][1:] if first else ():
        next(lines)
    return first


def _holds_rows(cells: Sequence[str], taken: Sequence[str], lines: _Lines, dialect: Dialect) -> bool:
    """Whether the lines of one record are rows, of which the first opens a quotation mark; raises where it may be."""
    width, number = len(dialect.header), lines.count - len(taken) + 1
    if len(taken) == 1 or width == 1:
        return False

    def fits(line: str) -> bool:
        found = _literal(line, dialect.separator)
        return len(found) == width and all(
            (gap if not cell.strip() else not numeric or bool(readings(cell.strip(' "'))))
            and (spaced or not cell.startswith(" "))
            for cell, (numeric, spaced, gap) in zip(found, dialect.looks, strict=True)
        )

    share = sum(map(fits, taken[1:])) / (len(taken) - 1) if fits(taken[0]) else 0.0
    if len(cells) != width:
        return share > 0  # one row is enough where the cells are too many or too few
    if share >= 0.5 and dialect.separator != "\t":
        raise LiminalError(
            f"{dialect.path}: a quotation mark in line {number} is closed in line {lines.count} only, and the lines "
            f"between look like rows. If they are rows, quotation marks are letters here: type "
            f"{option('quotes', 'no')}. If they are one text with line breaks, type {option('quotes', 'yes')}."
        )
    return share >= 0.5


def _literal(line: str, separator: str) -> list[str]:
    return line.rstrip("\r\n").split(separator)


def _count(cells: int) -> str:
    return f"{cells} {'cell' if cells == 1 else 'cells'}"
