"""One reader over all corpora: a row of figures, plain values for JSON.

Requires numpy and what the reader needs.
"""

import datetime
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .._version import __version__
from ..metrics import Array, bootstrap_intervals, ccc, mae, pearson
from ..modeling.configuration_liminal import DIMENSIONS, MISSING_LABEL
from ..modeling.errors import LiminalError
from . import behaviour
from .corpora import Corpus
from .readers import Reader, Reading

SCHEMA = 1
LIMIT = 2000  # texts of a corpus, so that a row takes minutes; rows of a leaderboard have the same
_SPEED_TEXTS, _SPEED_ROUNDS = 128, 3


def row(
    reader: Reader,
    corpora: Sequence[Corpus],
    reference: Reader | None = None,
    limit: int | None = None,
    progress: Callable[[Iterable[Any], int, str], Iterable[Any]] = lambda items, total, what: items,
) -> dict[str, Any]:
    """Measures a reader.

    Args:
        reader: what to measure.
        corpora: what to read.
        reference: whose speed is 1; without it no speed is measured.
        limit: the number of texts that each corpus was cut to.
        progress: wraps the corpora, for example in a bar.

    Returns:
        `schema`, who was measured and with what, and `corpora`, `behaviour`, `speed`.

    Raises:
        LiminalError: the reader gave fewer rows than texts, or none that is a number.

    Example:
        >>> from liminal_hf.benchmark.corpora import Corpus, Description
        >>> from liminal_hf.benchmark.readers import open_reader
        >>> labels = np.array([[0.5, 0.0, 0.0], [-0.5, 0.0, 0.1], [0.1, 0.2, 0.0]])
        >>> corpus = Corpus("mine", Description(title="Mine"), ["Lovely!", "Awful.", "Well."], labels)
        >>> row(open_reader("constant"), [corpus])["corpora"]["mine"]["mae"]["pleasure"]
        0.3667
    """
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "name": reader.name,
        "kind": reader.kind,
        "about": reader.about,
        "version": __version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "limit": limit,
        "corpora": {},
    }
    for corpus in progress(corpora, len(corpora), reader.name):
        found["corpora"][corpus.name] = _figures(reader, corpus)
    every = behaviour.cases()
    texts = list(dict.fromkeys(text for case in every for text in (case.base, case.changed)))
    said = _read(reader, texts).pad
    rates = behaviour.pass_rates(every, behaviour.judge(every, dict(zip(texts, said, strict=True))))
    known = [rate for rate in rates.values() if rate is not None]
    found["behaviour"] = {"mean": round(float(np.mean(known)), 4), "kinds": _rounded(rates)} if known else None
    is_free = reference is None or reader.kind == "constant" or not corpora
    found["speed"] = None if is_free or reference is None else _speed(reader, reference, corpora[0].texts)
    return found


def _read(reader: Reader, texts: Sequence[str]) -> Reading:
    reading = reader.read(texts)
    if reading.pad.shape != (len(texts), 3):
        raise LiminalError(f"{reader.name} gave {reading.pad.shape} for {len(texts)} texts; it must be (texts, 3).")
    if np.isnan(reading.pad).all():
        raise LiminalError(f"{reader.name} gave no number for any of {len(texts)} texts.")
    return reading


def _figures(reader: Reader, corpus: Corpus) -> dict[str, Any]:
    reading = _read(reader, corpus.texts)
    has_answer = ~np.isnan(reading.pad).all(axis=1)
    known = [~np.isnan(part[has_answer]) for part in (reading.pad, corpus.labels)]
    chosen = [index for index in range(len(DIMENSIONS)) if all(part[:, index].any() for part in known)]
    names = [DIMENSIONS[index] for index in chosen]
    result: dict[str, Any] = {
        "title": corpus.about.title,
        "rows": len(corpus.texts),
        "left_out": corpus.left_out,
        "unread": int((~has_answer).sum()),
        "truncated": reading.truncated,
        "trained_on": corpus.name in reader.trained_on,
        "sha256": hashlib.sha256("\0".join(corpus.texts).encode()).hexdigest()[:16],
    }
    if not names:
        return result | {"r": None}
    said, gold = reading.pad[has_answer][:, chosen], corpus.labels[has_answer][:, chosen]
    # What has no prediction is compared with nothing, as what has no label.
    labels = np.where(np.isnan(said) | np.isnan(gold), MISSING_LABEL, gold)
    predictions = np.nan_to_num(said)
    intervals = bootstrap_intervals(predictions, labels, targets=names)
    for title, figure in (("r", pearson), ("ccc", ccc), ("mae", mae)):
        values = dict(zip(names, map(float, figure(predictions, labels)), strict=True))
        result[title] = _rounded(values | {"mean": float(np.mean(list(values.values())))})
    result["r_interval"] = _rounded({name: intervals.get(f"pearson_{name}") for name in (*names, "mean")})
    if reading.intervals:
        result["coverage"] = {
            f"{level:.0%}": _coverage(ends[has_answer][:, chosen], corpus.labels[has_answer][:, chosen])
            for level, ends in reading.intervals.items()
        }
    if corpus.ceiling:
        result["ceiling"] = {name: corpus.ceiling[name] for name in names}
        top = float(np.mean(list(result["ceiling"].values())))
        result["share_of_ceiling"] = None if result["r"]["mean"] is None else round(result["r"]["mean"] / top, 4)
    return result


def _coverage(ends: Array, labels: Array) -> float | None:
    """The share of labels that lie in their intervals."""
    known = ~np.isnan(labels) & ~np.isnan(ends).any(axis=2)
    inside = (ends[..., 0] <= labels) & (labels <= ends[..., 1])
    return round(float(inside[known].mean()), 4) if known.any() else None


def _speed(reader: Reader, reference: Reader, texts: Sequence[str]) -> dict[str, float]:
    """Texts per second, and how many times the reference's, the median over rounds in which both take turns."""
    some = list(texts[:_SPEED_TEXTS])
    ratios, rates = [], []
    for number in range(_SPEED_ROUNDS + 1):
        seconds = []
        for each in (reader, reference):
            start = time.perf_counter()
            each.read(some)
            seconds.append(time.perf_counter() - start)
        if number:  # the first round warms up
            ratios.append(seconds[1] / seconds[0])
            rates.append(len(some) / seconds[0])
    of_one = 1.0 if reader.name == reference.name else float(np.median(ratios))
    return {"texts_per_second": round(float(np.median(rates)), 1), "times_reference": round(of_one, 3)}


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(one) for one in value]
        return None if value is None or np.isnan(value) else round(float(value), 4)

    return {name: plain(value) for name, value in values.items()}
