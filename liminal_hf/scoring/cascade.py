"""Two models for a table of texts: a small one reads all, a large one reads again what the small one is unsure of.

Requires numpy, pyarrow, torch and transformers; the back ends "onnx" and "int8" need the extra `onnx`.
`scripts/cascade.py` measures the shipped pair and writes `cascade.json`.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..data.answers import answers_table
from ..io import file_sha256
from ..modeling.configuration_liminal import LiminalConfig
from ..modeling.errors import LiminalError
from ..modeling.rows import describe
from ..modeling.texts import as_list, bare, checked_text, is_container
from .scorer import Scorer

# What `scripts/cascade.py` measured on EmoBank's development split.
MEASURED = Path(__file__).with_name("cascade.json")
# So close to the threshold (as a share of it), what a batch rounds could decide; such a text is decided on alone.
_CLOSE = 1e-3
# Rows that both models are done with before the next ones are begun, so that progress is seen.
_AT_ONCE = 4096


class Cascade:
    """Predictions for many texts by two models, with the interface of `Scorer`.

    The small model reads every text. Where its doubt (see `doubts`) is above a threshold, the large one reads the text
    again, and the row is a mean of both, in which the large one counts most. No row depends on the others. A row that
    the small model can't read keeps its error, and one that only the large model can't read keeps what the small one
    said.

    Args:
        checkpoints: the small and the large one: folders, Hub ids, or names in `liminal_hf.checkpoints`.
        threshold: of the doubt from which a text is read again.
        budget: instead of a threshold, the time that it may take, in times of the small model's own: 1 never reads
            again, 1.5 takes half as long again. It was measured for the pair "minilm", "mpnet" on a processor and with
            texts like EmoBank's sentences; for other pairs see `fitted`.
        small_share: how much the small model counts in a row that both read, 0..1; with 0 the row is the large one's.
            The default was chosen on EmoBank's development split, for the shipped pair.
        backend, options: as in `Scorer`, for both.

    Raises:
        LiminalError: not two checkpoints, other targets or another label range in one than in the other, neither or
            both of threshold and budget, a budget below 1, a budget for a pair that was not measured, or conversations.
        OSError, ImportError: as `Scorer`.

    Example:
        >>> import liminal_hf
        >>> pair = [liminal_hf.checkpoints["minilm"]] * 2  # a pair that needs no other encoder
        >>> cascade = Cascade(pair, threshold=4.0, threads=1)
        >>> table = cascade.score(["The train leaves at nine.", "I hate you, and I love you!", None])
        >>> table["read_by"].to_pylist()
        ['minilm-1', 'minilm-2', None]
    """

    def __init__(
        self,
        checkpoints: Sequence[str | os.PathLike],
        threshold: float | None = None,
        *,
        budget: float | None = None,
        small_share: float = 0.2,
        backend: str = "torch",
        **options: Any,
    ) -> None:
        if isinstance(checkpoints, str | os.PathLike) or len(checkpoints) != 2:
            raise LiminalError('A cascade takes two checkpoints, the small one first: ["minilm", "mpnet"]')
        if options.get("conversations"):
            raise LiminalError("A cascade reads texts that have nothing to do with each other, no conversations.")
        if (threshold is None) == (budget is None):
            raise LiminalError("A cascade takes a threshold or a budget, such as budget=1.5, and not both.")
        if not 0 <= small_share <= 1:
            raise LiminalError(f"The small model's share must be in 0..1, got {small_share:g}.")
        self.small_share = small_share
        folders = [_folder(name) for name in checkpoints]
        self.threshold = _threshold(folders, budget, backend) if threshold is None else float(threshold)
        self.names = _names(folders)
        self.small, self.large = (Scorer(folder, backend, **options) for folder in folders)
        _check_alike(self.small.config, self.large.config)
        self.config, self.conversations = self.small.config, False
        self.columns = self.small.columns.append(pa.field("read_by", pa.string()))

    @property
    def identity(self) -> str:
        """A hash of what the answers depend on, of both models."""
        choices = [repr(self.threshold), self.small_share, self.names]
        both = json.dumps([self.small.identity, self.large.identity, *choices])
        return hashlib.sha256(both.encode()).hexdigest()

    @classmethod
    def fitted(
        cls,
        checkpoints: Sequence[str | os.PathLike],
        texts: Iterable[Any],
        budget: float,
        backend: str = "torch",
        **options: Any,
    ) -> "Cascade":
        """A cascade whose threshold keeps to a budget on texts like these; both models read them all.

        Args:
            checkpoints, budget, backend, options: as in the class.
            texts: a few hundred or more.

        Raises:
            LiminalError: as in the class, or none of the texts can be read.

        Example:
            >>> import liminal_hf
            >>> pair = [liminal_hf.checkpoints["minilm"]] * 2
            >>> cascade = Cascade.fitted(pair, ["Hello!", "I hate it.", "It rains.", "What a day!"], 1.5, threads=1)
            >>> cascade.threshold > 0
            True
        """
        rows = as_list(texts)
        cascade = cls(checkpoints, 0.0, backend=backend, **options)
        for scorer in (cascade.small, cascade.large):
            scorer.score(rows[:8])  # what happens once is not counted
        started = time.perf_counter()
        table = cascade.small.score(rows)
        between = time.perf_counter()
        cascade.large.score(rows)
        ratio = (time.perf_counter() - between) / (between - started)
        found, lengths = doubts(table, rows, cascade.config), lengths_of(rows)
        known = ~np.isnan(found)
        if not known.any():
            raise LiminalError("None of the texts can be read. Give some that are like those you want to score.")
        cascade.threshold = threshold_for(budget, ratio, doubt_quantiles(found[known], lengths[known]))
        return cascade

    def score(
        self,
        texts: Iterable[Any],
        conversations: None = None,
        problems: Iterable[str | None] | None = None,
        on_rows: Callable[[int], None] | None = None,
        *,
        speakers: None = None,
    ) -> pa.Table:
        """One row per text, in their order.

        Args:
            texts, problems, on_rows: as in `Scorer.score`.
            conversations, speakers: None.

        Returns:
            The columns of `Scorer.score`, and `read_by`: the name of the checkpoint that was the last to read the row,
            null where there is an error.

        Raises:
            LiminalError: as `Scorer.score`; or conversations, or the small model does not say how unsure it is.
        """
        rows = self.rows(texts, conversations, problems, on_rows, speakers=speakers)
        return answers_table(rows, self.config).append_column(
            "read_by", pa.array([row["read_by"] for row in rows], pa.string())
        )

    def rows(
        self,
        texts: Iterable[Any],
        conversations: None = None,
        problems: Iterable[str | None] | None = None,
        on_rows: Callable[[int], None] | None = None,
        *,
        speakers: None = None,
    ) -> list[dict[str, Any]]:
        """As `score`, with the rows of `pipeline("pad-regression")`, and `read_by` in each.

        Example:
            >>> import liminal_hf
            >>> cascade = Cascade([liminal_hf.checkpoints["minilm"]] * 2, threshold=4.0, threads=1)
            >>> [(row["read_by"], row["octant"]) for row in cascade.rows(["I hate you, and I love you!"])]
            [('minilm-2', 'neutral')]
        """
        if conversations is not None or speakers is not None:
            raise LiminalError("A cascade reads texts that have nothing to do with each other, no conversations.")
        items = as_list(texts)
        known: list[str | None] = [None] * len(items) if problems is None else list(problems)
        if len(known) != len(items):
            raise LiminalError(f"There are {len(items):,} texts and {len(known):,} problems. Give one for each text.")
        found: list[dict[str, Any]] = []
        for start in range(0, len(items), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            found += self._rows(items[part], known[part], on_rows)
        return found

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Rows in the shape of the input, as `pipeline("pad-regression")` gives them.

        Args:
            inputs: a text, or several in any container.
            options: `batch_size`, which changes nothing here.

        Raises:
            LiminalError: a single text that can't be read; another option.
        """
        if options.keys() - {"batch_size"}:
            raise LiminalError(f"A cascade takes no {', '.join(options)} in a call. Give max_length to Cascade(...).")
        if is_container(inputs):
            return self.rows(inputs)
        return self.rows([checked_text(bare(inputs))])[0]

    def _rows(
        self, texts: list[Any], problems: list[str | None], on_rows: Callable[[int], None] | None
    ) -> list[dict[str, Any]]:
        rows = self.small.rows(texts, problems=problems)
        again = self._unsure(answers_table(rows, self.config), texts)
        if on_rows and len(again) < len(texts):
            on_rows(len(texts) - len(again))
        for row in rows:
            row["read_by"] = None if row["error"] else self.names[0]
        second = self.large.rows([texts[row] for row in again], on_rows=on_rows)
        for row, other in zip(again, second, strict=True):
            if other["error"] is None:
                rows[row] = {**self._both(rows[row], other), "read_by": self.names[1]}
        return rows

    def _both(self, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
        """The mean of what both say of the same text; without an uncertainty, if the large one does not say its own.

        Errors of two models on one text go together, so the mean's uncertainty is the mean of theirs.
        """
        config, share = self.large.config, self.small_share
        # A target that was not trained has no number, and `describe` gives it none.
        answer = [
            share * first[name] + (1 - share) * second[name] if is_trained else 0.0
            for name, is_trained in zip(config.targets, config.trained_targets, strict=True)
        ]
        spread = None
        if second["uncertainty"] is not None:
            pairs = ((first["uncertainty"][name], second["uncertainty"][name]) for name in config.targets)
            spread = [1.0 if None in pair else share * pair[0] + (1 - share) * pair[1] for pair in pairs]
        about = {name: second[name] for name in ("in_domain", "windows", "truncated")}
        return describe(answer, spread, config, **about)

    def _unsure(self, table: pa.Table, rows: list[Any]) -> NDArray[np.int64]:
        """The rows that are read again."""
        found = doubts(table, rows, self.config)
        for row in np.flatnonzero(np.abs(found - self.threshold) < _CLOSE * self.threshold):
            text = [rows[row]]
            found[row] = doubts(self.small.score(text), text, self.config)[0]
        return np.flatnonzero(found > self.threshold)


def doubts(table: pa.Table, texts: Sequence[Any], config: LiminalConfig) -> NDArray[np.float64]:
    """How unsure a model is of each row for what it costs to read it again.

    Args:
        table: what `Scorer.score` returned.
        texts: which it was given.
        config: of its model.

    Returns:
        `(rows,)`, from 0 up: the mean over the targets of `uncertainty` in the labels' standard deviations, for each
        100 characters. NaN for a row with an error.

    Raises:
        LiminalError: the model does not say how unsure it is.

    Example:
        >>> config = LiminalConfig(pooled_size=8, targets=["warmth"], label_std=[0.2])
        >>> table = pa.table({"uncertainty_warmth": [0.1, None], "error": [None, "empty"]})
        >>> doubts(table, ["It is warm.", ""], config).round(3).tolist()
        [4.545, nan]
    """
    relative = _numbers(table, config, "uncertainty_") / np.array(config.label_std)
    found: NDArray[np.float64] = 100 * relative[:, config.trained_targets].mean(axis=1) / lengths_of(texts)
    if np.any(np.isnan(found) & np.array([error is None for error in table["error"].to_pylist()], dtype=bool)):
        raise LiminalError("The small model says no uncertainty, by which a cascade decides. Take one with head v7.")
    return found


def _numbers(table: pa.Table, config: LiminalConfig, prefix: str) -> NDArray[np.float64]:
    """`(rows, T)`, what the columns of the targets hold; NaN for what is null."""
    return np.column_stack([table[prefix + name].to_numpy().astype(np.float64) for name in config.targets])


def lengths_of(texts: Sequence[Any]) -> NDArray[np.int64]:
    """Characters of each text, several blanks counting as one.

    Example:
        >>> lengths_of(["It  is warm. "]).tolist()
        [11]
    """
    return np.array([max(len(" ".join(str(text).split())), 1) for text in texts], dtype=np.int64)


def doubt_quantiles(found: NDArray[np.float64], lengths: NDArray[np.int64]) -> list[float]:
    """The doubts below which 0%, 1%, ... 100% of the reading lies, a longer text being more of it.

    Example:
        >>> doubt_quantiles(np.array([0.5, 1.0]), np.array([99, 1]))[98:]
        [0.5, 0.5, 1.0]
    """
    order = np.argsort(found)
    shares = np.cumsum(lengths[order]) / lengths.sum()
    places = np.searchsorted(shares, np.linspace(0, 1, 101) - 1e-9)
    return [float(found[order[place]]) for place in places]


def threshold_for(budget: float, ratio: float, quantiles: Sequence[float]) -> float:
    """The threshold with which a budget is kept.

    Args:
        budget: in times of what the small model takes, 1 or more.
        ratio: time that the large model takes, in the same measure.
        quantiles: see `doubt_quantiles`.

    Example:
        >>> threshold_for(1.0, 5.0, [0, 1, 2]), threshold_for(3.5, 5.0, [0, 1, 2]), threshold_for(6.0, 5.0, [0, 1, 2])
        (inf, 1.0, -inf)
    """
    if not budget >= 1:
        raise LiminalError(f"The budget must be at least 1, the time of the small model alone; got {budget:g}.")
    share = (budget - 1) / ratio
    if share in (0, 1) or share > 1:
        return float("-inf") if share else float("inf")
    return float(np.interp(1 - share, np.linspace(0, 1, len(quantiles)), quantiles))


def _threshold(folders: Sequence[str], budget: float | None, backend: str) -> float:
    """Of a budget, for a pair that was measured."""
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    weights = [Path(folder) / "model.safetensors" for folder in folders]
    known = all(file.is_file() for file in weights) and [file_sha256(file) for file in weights] == measured["weights"]
    if not known or backend not in measured["ratio"]:
        raise LiminalError(
            "What a budget comes to was measured for the pair minilm, mpnet of this package, with the back ends "
            f"{', '.join(measured['ratio'])}. Otherwise give a threshold, or let it be measured: "
            "Cascade.fitted(checkpoints, texts, budget)"
        )
    return threshold_for(float(budget or 0), measured["ratio"][backend], measured["quantiles"])


def _folder(name: str | os.PathLike) -> str:
    """What is meant: a folder or Hub id, or a name of the package's own."""
    from .. import checkpoints

    return os.fspath(name) if Path(name).exists() else checkpoints.get(os.fspath(name), os.fspath(name))


def _names(folders: Sequence[str]) -> list[str]:
    """What the rows of each are called: the package's own name, the Hub id, or the folder's name."""
    from .. import checkpoints

    own = {str(Path(folder).resolve()): name for name, folder in checkpoints.items()}
    names = []
    for folder in folders:
        path = Path(folder).resolve()
        plain = (path.parent if path.name == "model" else path).name
        names.append(own.get(str(path)) or (plain if path.exists() else folder))
    return names if names[0] != names[1] else [f"{names[0]}-{number}" for number in (1, 2)]


def _check_alike(small: LiminalConfig, large: LiminalConfig) -> None:
    for what in ("targets", "trained_targets", "label_range"):
        mine, others = getattr(small, what), getattr(large, what)
        if list(mine) != list(others):
            raise LiminalError(
                f"The {what.replace('_', ' ')} of the small model is {mine} and that of the large one {others}. A "
                "column holds rows of both, so it must be the same."
            )
