"""What a report says of the texts of a table, as small tables of numbers: all that its page and its files show.

Requires numpy and pyarrow, and scipy for groups and times (the extra `report`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..data.writing import rows_cut_by_excel
from ..modeling.answers import NEUTRAL, OCTANTS, UNCLEAR, outside, verdict_names
from ..modeling.configuration_liminal import LiminalConfig
from .columns import Input, Spans, sorted_groups, spans
from .statistics import eta_squared, hedges_g, mean_interval, welch_difference

# Columns by name, with a value per row.
Columns = dict[str, list[Any]]
EMPTY = ("empty", "no text (missing value)")
MOST_EXTREME = 5  # texts at each end of a target
MOST_DOUBTFUL = 10
MOST_UNREAD = 50  # rows that the page lists; the file has all
_QUANTILES = {"lowest": 0.0, "10%": 0.1, "25%": 0.25, "median": 0.5, "75%": 0.75, "90%": 0.9, "highest": 1.0}


@dataclass
class Findings:
    """What a report says.

    Args:
        source: the table, with its group and time columns.
        config: of the model.
        answers: a row per row of the table, without a prefix.
        include_unlike: whether texts unlike the training texts count in figures and means.
    """

    source: Input
    config: LiminalConfig
    answers: pa.Table
    include_unlike: bool = False
    targets: list[str] = field(init=False)  # that were trained
    values: NDArray[np.float64] = field(init=False)  # (rows, targets), NaN where there is none
    used: NDArray[np.bool_] = field(init=False)  # the rows that figures and means are about
    counts: dict[str, int] = field(init=False)
    spans: Spans | None = field(init=False, default=None)
    tables: dict[str, Columns] = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        pairs = zip(config.targets, config.trained_targets, strict=True)
        self.targets = [name for name, is_trained in pairs if is_trained]
        count = len(self.answers)
        self.values = self._numbers(self.targets)
        self.errors = self.answers["error"].to_pylist()
        read = np.array([error is None for error in self.errors], dtype=bool)
        self.unlike = np.array([outside(value) for value in self.answers["in_domain"].to_pylist()], dtype=bool)
        has_numbers = ~np.isnan(self.values).any(axis=1) if self.targets else np.zeros(count, dtype=bool)
        self.used = read & has_numbers & (self.include_unlike | ~self.unlike)
        empty = sum(error in EMPTY for error in self.errors)
        self.counts = {
            "rows": count,
            "read": int(read.sum()),
            "empty": empty,
            "not readable": count - int(read.sum()) - empty,
            "read in windows": sum(number is not None and number > 1 for number in self.answers["windows"].to_pylist()),
            "truncated": sum(map(bool, self.answers["truncated"].to_pylist())),
            "unlike the training texts": int(self.unlike.sum()),
            "in figures and means": int(self.used.sum()),
            "cut in scores.xlsx": rows_cut_by_excel(self.source.table.columns),
        }
        self.has_doubt = bool(self.targets) and self.answers[f"uncertainty_{self.targets[0]}"].null_count < count
        found: dict[str, Columns] = {
            "rows": {"what": list(self.counts), "rows": list(self.counts.values())},
            "distributions": self._distributions(),
            "verdicts": self._verdicts(),
            "octants": self._words("octant", [*OCTANTS.values(), NEUTRAL]),
            "emotions": self._words("emotion"),
            "over_time": self._over_time(),
            "groups": self._groups(),
            "effects": self._effects(),
            "extremes": self._extremes(),
            "doubtful": self._doubtful(),
            "not_read": self._not_read(),
        }
        self.tables = {name: columns for name, columns in found.items() if any(columns.values())}

    def _numbers(self, names: list[str]) -> NDArray[np.float64]:
        columns = [self.answers[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in names]
        return np.column_stack(columns) if columns else np.empty((len(self.answers), 0))

    def column(self, target: str, rows: Any = None) -> NDArray[np.float64]:
        """The values of a target in the rows that figures and means are about, or in those of them among `rows`."""
        values = self.values[:, self.targets.index(target)]
        if rows is None:
            return values[self.used]
        chosen = np.asarray(rows, dtype=int)
        return values[chosen[self.used[chosen]]]

    def zones(self) -> list[tuple[float, float]]:
        """The neutral zone of each trained target."""
        zones = dict(zip(self.config.targets, self.config.neutral_zone, strict=True))
        return [zones[name] for name in self.targets]

    def group_rows(self) -> dict[str, list[int]]:
        """The rows of each group."""
        groups = self.source.groups or []
        return {name: [row for row, own in enumerate(groups) if own == name] for name in sorted_groups(groups)}

    # ---- tables ----

    def _distributions(self) -> Columns:
        columns: Columns = {name: [] for name in ("target", "texts", "mean", "sd", *_QUANTILES)}
        for target in self.targets if self.used.any() else ():
            values = self.column(target)
            deviation = float(values.std(ddof=1)) if len(values) > 1 else None
            row = (target, len(values), float(values.mean()), deviation)
            _append(columns, *row, *np.quantile(values, list(_QUANTILES.values())).tolist())
        return columns

    def _verdicts(self) -> Columns:
        columns: Columns = {"target": [], "verdict": [], "texts": [], "share": []}
        for target in self.targets if self.has_doubt and self.used.any() else ():
            said = Counter(np.array(self.answers[f"verdict_{target}"].to_pylist(), dtype=object)[self.used].tolist())
            for word in (*verdict_names(target), UNCLEAR):
                _append(columns, target, word, said[word], said[word] / said.total())
        return columns

    def _words(self, name: str, words: list[str] | None = None) -> Columns:
        """Of how many texts each word of a column is said; without a list the words by their number, neutral last."""
        columns: Columns = {name: [], "texts": [], "share": []}
        named = np.array(self.answers[name].to_pylist(), dtype=object)[self.used]
        said = Counter(word for word in named.tolist() if word is not None)
        by_number = [word for word, _ in said.most_common() if word != NEUTRAL]
        for word in (words or [*by_number, NEUTRAL]) if said else ():
            _append(columns, word, said[word], said[word] / said.total())
        return columns

    def _over_time(self) -> Columns:
        if self.source.times is None or not self.used.any():
            return {}
        self.spans = spans([time if used else None for time, used in zip(self.source.times, self.used, strict=True)])
        columns = _means("span", self.spans.unit)
        for target in self.targets:
            for name, rows in zip(self.spans.names, self.spans.rows, strict=True):
                _append(columns, target, name, len(rows), *mean_interval(self.column(target, rows)))
        return columns

    def _groups(self) -> Columns:
        columns = _means("group", "group")
        for target in self.targets:
            for name, rows in self.group_rows().items():
                values = self.column(target, rows)
                numbers = mean_interval(values) if len(values) else (None,) * 4
                _append(columns, target, name, len(values), *numbers)
        return columns

    def _effects(self) -> Columns:
        filled = {name: rows for name, rows in self.group_rows().items() if self.used[rows].any()}
        if len(filled) < 2:
            return {}
        if len(filled) > 2:
            columns: Columns = {"target": [], "groups": [], "eta squared": []}
            for target in self.targets:
                found = eta_squared([self.column(target, rows) for rows in filled.values()])
                _append(columns, target, len(filled), found)
            return columns
        names = ("target", "difference", "value", "low", "high", "Hedges' g", "g low", "g high")
        columns = {name: [] for name in names}
        (one, its), (other, theirs) = filled.items()
        for target in self.targets:
            a, b = self.column(target, its), self.column(target, theirs)
            _append(columns, target, f"{one} - {other}", *welch_difference(a, b), *hedges_g(a, b))
        return columns

    def _extremes(self) -> Columns:
        columns: Columns = {"target": [], "end": [], **self._empty_texts()}
        columns |= {"value": [], "low": [], "high": [], "verdict": [], "text": columns.pop("text")}
        rows = np.flatnonzero(self.used)
        most = min(MOST_EXTREME, len(rows))
        for target in self.targets:
            values = self.column(target)
            order = np.argsort(values, kind="stable")
            for end, chosen in (("highest", order[::-1][:most]), ("lowest", order[:most])):
                for row in rows[chosen].tolist():
                    said = [self.answers[f"{name}_{target}"][row].as_py() for name in ("low", "high", "verdict")]
                    value = self.answers[target][row].as_py()
                    _append(columns, target, end, self.source.table.lines[row], value, *said, self.text(row))
        return columns

    def _doubtful(self) -> Columns:
        """The largest uncertainty for what a target's labels vary; of all rows that were read."""
        if not self.has_doubt:
            return {}
        columns: Columns = {**self._empty_texts(), "in_domain": []}
        columns |= {f"uncertainty {name}": [] for name in self.targets}
        columns["text"] = columns.pop("text")
        scale = dict(zip(self.config.targets, self.config.label_std, strict=True))
        doubts = self._numbers([f"uncertainty_{name}" for name in self.targets])
        relative = (doubts / [scale[name] for name in self.targets]).mean(axis=1)
        read = [row for row in np.argsort(-relative, kind="stable").tolist() if not np.isnan(relative[row])]
        for row in read[:MOST_DOUBTFUL]:
            domain = self.answers["in_domain"][row].as_py()
            _append(columns, self.source.table.lines[row], domain, *doubts[row].tolist(), self.text(row))
        return columns

    def _not_read(self) -> Columns:
        columns: Columns = {**self._empty_texts(), "reason": []}
        columns["text"] = columns.pop("text")
        for row, error in enumerate(self.errors):
            if error is not None:
                _append(columns, self.source.table.lines[row], error, self.text(row))
        return columns

    def _empty_texts(self) -> Columns:
        return {self.source.table.file.unit: [], "text": []}

    def text(self, row: int) -> str:
        """What stands in the text column, as a text."""
        value = self.source.table.texts[row]
        return "" if value is None else str(value)


def _means(kind: str, name: str) -> Columns:
    return {
        column: [] for column in ("target", kind if kind == "group" else name, "texts", "mean", "sd", "low", "high")
    }


def _append(columns: Columns, *values: Any) -> None:
    for column, value in zip(columns.values(), values, strict=True):
        column.append(float(f"{value:.6g}") if isinstance(value, float) else value)


def rows_of(columns: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """The rows of a small table.

    Example:
        >>> list(rows_of({"what": ["read", "empty"], "rows": [2, 1]}))
        [{'what': 'read', 'rows': 2}, {'what': 'empty', 'rows': 1}]
    """
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))
