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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
_HEADER_WITHIN = 20  # records
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
        encoding: Python's name of it; "utf-8-sig" with a byte-order mark.
        separator: between cells.
        header: names in the file's order.
        start: line where the header begins.
        quotes: True: quotation marks enclose cells; False: they are letters; None: decided cell by cell.
        numeric: by column, whether all cells of the first rows are numbers.
        spaced: by column, whether a cell of the first rows begins with a blank.
        gaps: by column, whether a cell of the first rows is empty.
        decimal: the decimal mark of the first rows, or what goes with the separator.
    """

    encoding: str
    separator: str
    header: tuple[str, ...]
    start: int
    quotes: bool | None
    numeric: tuple[bool, ...] = ()
    spaced: tuple[bool, ...] = ()
    gaps: tuple[bool, ...] = ()
    decimal: str = "."


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turns what a damaged compressed file raises into an error for people."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise LiminalError(f"{path} is damaged or not whole ({error}).") from error
    except OSError as error:
        if path.suffix.lower() in COMPRESSIONS and error.errno is None:
            raise LiminalError(f"{path} is damaged or not whole ({error}).") from error
        raise


def open_binary(path: Path) -> BinaryIO:
    """A file's bytes, unpacked where its ending says that it is compressed."""
    opener = COMPRESSIONS.get(path.suffix.lower())
    return path.open("rb") if opener is None else opener(path, "rb")


# ---- encoding ----


def find_encoding(path: Path, encoding: str | None = None) -> str:
    """The encoding of a text file: what its byte-order mark says, else `encoding`, else UTF-8, UTF-16 or cp1252.

    A file that is no UTF-8 is taken for cp1252, what Windows programs of Western Europe write, and a warning says so.

    Raises:
        LiminalError: the encoding is unknown, or the file can't be cp1252 either.
    """
    if encoding is not None:
        try:
            name = codecs.lookup(encoding).name
            "".encode(name)
        except LookupError:
            raise LiminalError(
                f"There is no text encoding {encoding!r}. Known ones are utf-8, utf-16, cp1252, latin-1, {_ENCODINGS}."
            ) from None
    with damage_named(path), open_binary(path) as stream:
        start = stream.read(1 << 16)
    for mark, marked in _MARKS:
        if start.startswith(mark):
            return marked
    if encoding is not None:
        return name
    even, odd, pairs = start[::2].count(0), start[1::2].count(0), max(len(start) // 2, 1)
    if min(even, odd) == 0 and max(even, odd) > pairs / 20:
        wide = "utf-16-le" if odd else "utf-16-be"
        if re.search("[\r\n]", start.decode(wide, "replace")):
            return wide
    return _by_content(path)


def _by_content(path: Path) -> str:
    wrong = right = strange = high = 0
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    with damage_named(path), open_binary(path) as stream:
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
            f"{path} is not UTF-8 ({where_undecodable(path, 'utf-8')}), and can't be Windows' cp1252. Say what it "
            f"is, for example {option('encoding', 'cp1251')}. Others are {_ENCODINGS}."
        )
    return "cp1252"


def where_undecodable(path: Path, encoding: str) -> str:
    """The first line that an encoding can't decode, with the byte."""
    with open_binary(path) as stream:
        for index, line in enumerate(stream, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                before = line[: error.start].decode(encoding, "replace")[-20:]
                return f"line {index}, byte 0x{line[error.start]:02x} after {before!r}"
    return "at its end"


def read_lines(path: Path, encoding: str, newline: str = "") -> Iterator[str]:
    """A file's lines with their ends. Bytes that are no UTF-8 become lone surrogates.

    Raises:
        LiminalError: another encoding can't decode them.
    """
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    with damage_named(path), open_binary(path) as raw:
        # A small buffer of its own: those of pyarrow lack what a TextIOWrapper asks for.
        stream = io.TextIOWrapper(io.BufferedReader(cast(Any, raw)), encoding, errors, newline=newline)
        try:
            yield from stream
        except UnicodeError as error:
            where = "" if encoding.startswith("utf-16") else f", {where_undecodable(path, encoding)}"
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
    """How a file is written, from its first lines.

    Args:
        path: the file.
        wanted: names of columns that the header should have; they tell the header from title lines, and the separator.
        encoding, separator, quotes: what is known already.

    Raises:
        LiminalError: the file is empty or can't be decoded, or the separator is not one character.
    """
    if separator is not None:
        separator = {"\\t": "\t", "tab": "\t"}.get(separator.lower(), separator)
        if len(separator) != 1 or separator in '\r\n"':
            raise LiminalError(
                f"A separator is one character, got {separator!r}. Type {option('separator', ';')}; a tab is "
                f"{option('separator', 'tab')}."
            )
    name = find_encoding(path, encoding)
    sample, size = [], 0
    for line in read_lines(path, name):
        sample.append(line)
        size += len(line)
        if len(sample) == _SAMPLE_LINES or size > _SAMPLE_CHARACTERS:
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
    best: tuple[Any, ...] = ()
    for mark in candidates:
        found = _try_separator(sample, first, mark, folded, quotes)
        if not best or found[0] > best[0]:
            best = (*found, mark)
    _, start, separator = best
    header, _ = _header(sample, start, separator, quotes)
    if start > first:
        titles = " ".join(line.strip() for line in sample[first:start])
        logger.warning("%s: line %d names the columns; what stands above is left out: %r", path, start + 1, titles[:80])
    dialect = Dialect(name, separator, tuple(header), start + 1, quotes)
    return _with_profile(dialect, sample)


def _header(sample: list[str], start: int, separator: str, quotes: bool | None) -> tuple[list[str], int]:
    """The names that begin in a line, without empty ones at the end, and how many lines they take."""
    lines = Lines(sample[start:])
    _, names, _ = next(_records(lines, separator, None, quotes), Record(0, []))
    names = [name.strip() for name in names]
    while len(names) > 1 and not names[-1]:
        names.pop()
    return names, lines.count


def _try_separator(
    sample: list[str], first: int, separator: str, wanted: set[str], quotes: bool | None
) -> tuple[tuple[Any, ...], int]:
    """How well a separator fits (larger is better), and the line of the header."""
    rows: list[tuple[int, list[str]]] = []
    reader = csv.reader(
        sample[first:], delimiter=separator, quoting=csv.QUOTE_NONE if quotes is False else csv.QUOTE_MINIMAL
    )
    line = first
    try:
        for cells in itertools.islice(reader, _SAMPLE_LINES):
            if cells:
                rows.append((line, cells))
            line = first + reader.line_num
    except csv.Error:
        pass
    if not rows:
        return (0, False, False, 0.0, 0), first
    hits = [len(wanted & set(map(fold, cells))) for _, cells in rows[:_HEADER_WITHIN]]
    index = hits.index(max(hits))
    # Title lines have fewer cells than the header.
    widths = [sum(bool(cell.strip()) for cell in cells) for _, cells in rows[: index + 1]]
    if index and not all(width < widths[index] for width in widths[:index]):
        index = 0
    width = len(rows[index][1])
    below = [len(cells) for _, cells in rows[index + 1 :]]
    share = sum(count == width for count in below) / len(below) if below else 1.0
    between_quotes = any(f'"{separator}"' in line for line in sample)
    return (hits[index], between_quotes, width > 1 and share >= 0.5, share, width), rows[index][0]


def _with_profile(dialect: Dialect, sample: list[str]) -> Dialect:
    """With what the cells of the rows look like that stand on one line."""
    width = len(dialect.header)
    rows: list[list[str]] = []
    inside: list[list[str]] = []  # perhaps lines of a quoted cell
    is_open = False
    for line in sample[dialect.start :]:
        if '"' not in line and len(cells := _literal(line, dialect.separator)) == width:
            (inside if is_open else rows).append(cells)
        is_open ^= line.count('"') % 2 == 1
    columns, trusted = (list(zip(*some, strict=True)) or [()] * width for some in (rows or inside, rows))
    numeric = tuple(bool(cells) and all(readings(cell) or not cell for cell in cells) for cells in columns)
    found = [readings(cell) for cells, is_number in zip(columns, numeric, strict=True) if is_number for cell in cells]
    marks = [next(iter(values)) for values in found if len(values) == 1]
    usual = "," if dialect.separator == ";" else "."  # what Excel writes
    decimal = max((".", ","), key=marks.count) if marks else usual
    spaced = tuple(any(cell.startswith(" ") for cell in cells) for cells in trusted)
    gaps = tuple(not all(map(str.strip, cells)) for cells in trusted)
    return replace(dialect, numeric=numeric, spaced=spaced, gaps=gaps, decimal=decimal)


# ---- records ----


class Lines:
    """Lines that can be put back; `count` is how many have been taken."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._back: deque[str] = deque()
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._lines)
        self.count += 1
        return line

    def put_back(self, lines: Sequence[str]) -> None:
        """Puts lines in front of those that are left."""
        self._back.extendleft(reversed(lines))
        self.count -= len(lines)


def read_records(path: Path, dialect: Dialect) -> Iterator[Record]:
    """The rows below the header. A blank line is no row.

    Raises:
        LiminalError: a quoted cell spans lines that look like rows, or a byte can't be decoded.
    """
    lines = Lines(read_lines(path, dialect.encoding))
    for _ in range(dialect.start - 1):
        next(lines)
    next(_records(lines, dialect.separator, None, dialect.quotes), None)  # the header
    for record in _records(lines, dialect.separator, len(dialect.header), dialect.quotes, dialect, path):
        if any(map(SURROGATE.search, record.cells)):
            cells = [SURROGATE.sub("\ufffd", cell) for cell in record.cells]
            error = record.error or f"line {record.line} is not UTF-8"
            record = Record(record.line, cells, error)
        yield record


def _records(
    lines: Lines,
    separator: str,
    width: int | None,
    quotes: bool | None,
    dialect: Dialect | None = None,
    path: Path | None = None,
) -> Iterator[Record]:
    csv.field_size_limit(2**31 - 1)
    for line in lines:
        number = lines.count
        if not line.strip(" \r\n\x1a"):
            continue
        error = None
        if quotes is False or '"' not in line:
            cells = _literal(line, separator)
        else:
            cells, taken, error = _quoted(line, lines, separator, width)
            if len(taken) > 1 and quotes is None and dialect is not None:
                # One row among the lines is enough where the cells are too many or too few.
                whole = len(cells) == width
                if _like_rows(taken, dialect) >= (0.5 if whole else 1e-9):
                    if whole and separator != "\t":
                        raise LiminalError(
                            f"{path}: a quotation mark in line {number} is closed in line {lines.count} only, and the "
                            f"lines between look like rows. If they are rows, quotation marks are letters here: type "
                            f"{option('quotes', 'no')}. If they are one text with line breaks, type "
                            f"{option('quotes', 'yes')}."
                        )
                    lines.put_back(taken[1:])
                    cells, error = _literal(line, separator), _open_mark(number)
        if width is not None:
            while len(cells) > width and not cells[-1].strip():
                cells = cells[:-1]  # separators at the end of a line
            if error and separator == "\t" and len(cells) == width:
                error = None  # people write quotation marks as letters between tabs
            elif error is None and len(cells) != width:
                error = f"line {number} has {_count(len(cells))}, the header has {_count(width)}"
        yield Record(number, cells, error)


def _quoted(line: str, lines: Lines, separator: str, width: int | None) -> tuple[list[str], list[str], str | None]:
    """A record with quotation marks, the lines that it takes, and why its quotation marks can't be read.

    What can't be read as quoted takes its first line alone, with the marks as letters.
    """
    number = lines.count
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

        try:
            cells = next(csv.reader(feed(), delimiter=separator, strict=True, **quoting))
        except csv.Error:
            lines.put_back(taken[1:])
            continue
        if width is None or len(cells) == width:
            return cells, taken, None
        # Perhaps another way of quoting gives the right number of cells.
        first = first or (cells, taken)
        lines.put_back(taken[1:])
    if first is not None:
        for _ in first[1][1:]:
            next(lines)
        return *first, None
    cells = _literal(line, separator)
    if len(cells) == width and line.count('"') % 2 == 0:
        return cells, [line], None
    return cells, [line], _open_mark(number)


def _open_mark(line: int) -> str:
    return f"line {line} opens a quotation mark that is not closed"


def _like_rows(taken: Sequence[str], dialect: Dialect) -> float:
    """The share of a record's lines, from the second on, that look like rows; 0 where the first does not."""
    if len(dialect.header) == 1:
        return 0.0

    def fits(line: str) -> bool:
        cells = _literal(line, dialect.separator)
        return len(cells) == len(dialect.header) and all(
            (gap if not cell.strip() else not numeric or bool(readings(cell.strip(' "'))))
            and (spaced or not cell.startswith(" "))
            for cell, numeric, spaced, gap in zip(cells, dialect.numeric, dialect.spaced, dialect.gaps, strict=True)
        )

    return sum(map(fits, taken[1:])) / (len(taken) - 1) if fits(taken[0]) else 0.0


def _literal(line: str, separator: str) -> list[str]:
    return line.rstrip("\r\n").split(separator)


def _count(cells: int) -> str:
    return f"{cells} {'cell' if cells == 1 else 'cells'}"
