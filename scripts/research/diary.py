"""SemEval-2026 Task 2: diaries with their writers' own valence and arousal; its scorer, and a text model with persons.

Requires liminal_hf, numpy and pandas, and the corpus (`LIMINAL_DATA_DIR`), which is for evaluation only: nothing that
is trained on it ships, and no line of it is quoted anywhere.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from numpy.typing import NDArray

from liminal_hf import PersonMemory, PersonPrior
from liminal_hf.data.pooled_cache import pooled_dataset
from liminal_hf.io import require_file
from liminal_hf.modeling.encoders import load_tokenizer
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression, LiminalModel

from .report import Array

SOURCE = "https://github.com/semeval2026task2/EmotionValArouTimeVariation2026"
TARGETS = ["valence", "arousal"]
ENCODERS = {
    "mpnet": "sentence-transformers/all-mpnet-base-v2",
    "minilm": "sentence-transformers/all-MiniLM-L6-v2",
}
# Recipes whose encoder is the frozen one; the checkpoints that ship have trained ones.
HEADS = {"mpnet": "mpnet-emobank"}
FOLDS = 3
Mask = NDArray[np.bool_]
_LONGEST = 256  # tokens; the longest entry has fewer


@dataclass
class Diary:
    """Entries in the order of their persons and turns.

    Args:
        rows: one entry each: user_id, text_id, turn, text, valence, arousal, part, `days` since 1970, and `group` of
            subtask 2B (1, 2; 0 where it has none).
        forecasts: subtasks 2A and 2B: user_id and the true changes.
    """

    rows: pd.DataFrame
    forecasts: pd.DataFrame

    @property
    def labels(self) -> Array:
        """`(entries, 2)`."""
        return self.rows[TARGETS].to_numpy(np.float64)


def load_diary(data_dir: str | Path | None = None) -> Diary:
    """The corpus.

    Raises:
        FileNotFoundError: a file of it is not there.
    """
    names = ("entries", "subtask2_gold", "train_subtask2b")
    paths = [require_file("diary", f"{name}.csv", data_dir, SOURCE) for name in names]
    entries, forecasts, groups = (pd.read_csv(path, keep_default_na=False) for path in paths)
    rows = entries.sort_values(["user_id", "turn"], kind="stable", ignore_index=True)
    rows["days"] = pd.to_datetime(rows["timestamp"]).astype("datetime64[s]").astype(np.int64) / 86400
    rows["group"] = (
        rows["text_id"].map(dict(zip(groups["text_id"], groups["group"], strict=True))).fillna(0).astype(int)
    )
    return Diary(rows, forecasts)


def states_of(texts: list[str], encoder: str) -> NDArray[np.float32]:
    """`(layers, texts, size)`: the mean-pooled states of a frozen encoder, kept in the cache."""
    name = ENCODERS[encoder]
    model = LiminalModel.from_encoder_pretrained(name, head="linear", pooled_layers="all")
    data = pooled_dataset(model, load_tokenizer(name), Dataset.from_dict({"text": texts}), max_length=_LONGEST)
    states = np.array(data.with_format("numpy")["pooled_embeds"][:], dtype=np.float32)
    return states.reshape(len(texts), -1, model.config.hidden_size).transpose(1, 0, 2)


@functools.cache
def frozen_head(encoder: str) -> LiminalForPADRegression:
    """The model of `HEADS`, of which only the head is used.

    Raises:
        FileNotFoundError: it has not been trained.
    """
    recipe = HEADS[encoder]
    run = Path("runs") / f"{recipe}-0"
    if not (run / "model").is_dir():
        raise FileNotFoundError(f"Train it first: liminal train hub_configs/{recipe}.yaml -o {run}")
    return LiminalForPADRegression.from_pretrained(run / "model").eval()


def head_answers(states: NDArray[np.float32], encoder: str) -> NDArray[np.float32] | None:
    """`(1, texts, 3)`: what a head on the frozen encoder says of these states, each target with a spread of 1.

    None where there is no such head. It was trained on EmoBank, never on a diary.
    """
    if encoder not in HEADS:
        return None
    model = frozen_head(encoder)
    with torch.inference_mode():
        pooled = torch.from_numpy(states.transpose(1, 0, 2).reshape(states.shape[1], -1).copy())
        answers = model(pooled_embeds=pooled).logits.numpy()
    return (answers / answers.std(axis=0))[None]


def kernels(
    states: NDArray[np.float32], fitted: NDArray[np.bool_], widths: Sequence[float | None]
) -> dict[float | None, Array]:
    """By width, `(texts, texts)`: the mean over layers of exp(-distance^2 / (2 width)), or of inner products (None).

    A layer's states are centred and scaled to a mean square of 1, both as measured on the rows `fitted`.
    """
    found: dict[float | None, Array] = {}
    for layer in states:
        centred = layer.astype(np.float64) - layer[fitted].mean(axis=0)
        inner = centred @ centred.T
        inner /= np.diag(inner)[fitted].mean()
        square = np.diag(inner)
        apart = np.maximum(square[:, None] + square[None] - 2 * inner, 0)
        for width in widths:
            one = (inner if width is None else np.exp(-apart / (2 * width))) / len(states)
            found[width] = found.get(width, 0.0) + one
    return found


@dataclass
class Mixed:
    """Kernel ridge with a random intercept per person, fitted together (a linear mixed model).

    Its text part is a prediction without persons. What a person's intercept is by this model, is what `PersonMemory`
    makes of the ratings that it was fitted on, with `within` and `between` as its prior: sum(residuals) / (n + k).

    Args:
        text: `(rows, T)`, predictions from the text alone.
        left_out: `(fitted rows, T)`, the same for the fitted rows, without all rows of that person.
        within, between: `(T,)`, variances.
    """

    text: Array
    left_out: Array
    within: Array
    between: Array


def fit_mixed(
    texts: Array, labels: Array, persons: NDArray[np.int64], fitted: NDArray[np.bool_], between: float
) -> Mixed:
    """Fits on some rows and predicts all.

    Args:
        texts: `(rows, rows)`, the kernel between texts, as a share of the noise.
        labels: `(rows, T)`; those of other rows are not read.
        persons: `(rows,)`.
        fitted: `(rows,)`.
        between: variance of the intercepts, as a share of the noise; 0: no intercepts.
    """
    inside = np.flatnonzero(fitted)
    who, known = persons[inside], labels[inside]
    same = (who[:, None] == who[None]).astype(np.float64)
    inverse = np.linalg.inv(texts[np.ix_(inside, inside)] + between * same + np.eye(len(inside)))
    mean = known.mean(axis=0)
    weights = inverse @ (known - mean)
    left_out = np.empty_like(known)
    for person in np.unique(who):
        rows = np.flatnonzero(who == person)
        left_out[rows] = known[rows] - np.linalg.solve(inverse[np.ix_(rows, rows)], weights[rows])
    noise = ((known - mean) * weights).sum(axis=0) / len(inside)
    return Mixed(mean + texts[:, inside] @ weights, left_out, noise, noise * between)


def splits(persons: NDArray[np.int64], turns: NDArray[np.int64], seed: int) -> list[Mask]:
    """Rows to test on, per fold: all of some persons, and the later half of as many others, as in the official one."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(np.unique(persons))
    tests = []
    for fold in range(FOLDS):
        test = np.zeros(len(persons), dtype=bool)
        for place, person in enumerate(draw.permutation(order[fold::FOLDS])):
            rows = np.flatnonzero(persons == person)
            rows = rows[np.argsort(turns[rows], kind="stable")]
            test[rows[(len(rows) + 1) // 2 :] if place % 2 == 0 and len(rows) > 1 else rows] = True
        tests.append(test)
    return tests


def adjusted(predictions: Array, ratings: Array, persons: NDArray[np.int64], days: Array, prior: PersonPrior) -> Array:
    """Each entry as `PersonMemory` adjusts it, before its own rating (NaN: none) is observed; rows in order of time."""
    answers = np.empty_like(predictions)
    for person in np.unique(persons):
        memory = PersonMemory.empty(1, len(TARGETS))
        for row in np.flatnonzero(persons == person):
            prediction = torch.as_tensor(predictions[row : row + 1])
            answers[row] = memory.adjust(prediction, prior)[0].numpy()
            memory = memory.observe(prediction, torch.as_tensor(ratings[row : row + 1]), float(days[row]))
    return answers


def only(ratings: Array, rated: Mask) -> Array:
    """The ratings of some rows, NaN for the others."""
    return np.where(rated[:, None], ratings, np.nan)


def composite(within: Any, between: Any) -> Any:
    """The task's mean of two correlations: that of their Fisher z."""
    return np.tanh((np.arctanh(within) + np.arctanh(between)) / 2)


def person_figures(
    predictions: Array, labels: Array, persons: NDArray[np.int64], weights: Array | None = None
) -> dict[str, Array]:
    """The official figures of subtask 1 for one target, and the plain r over all entries ("flat").

    Within: the mean over persons of r over their entries; a person whose ratings are all the same is left out, one
    whose predictions are all the same counts as 0. Between: r over the persons' means.

    Args:
        predictions, labels, persons: `(entries,)`.
        weights: `(draws, number of persons)`, how often each person, in ascending order, counts; None: once.

    Returns:
        `(draws,)` for each of `composite`, `within`, `between`, `flat`.

    Example:
        >>> found = person_figures(np.array([1.0, 2, 5, 3]), np.array([0.0, 1, 9, 8]), np.array([1, 1, 2, 2]))
        >>> found["within"].tolist()
        [1.0]
    """
    names, index = np.unique(persons, return_inverse=True)
    weights = np.ones((1, len(names))) if weights is None else weights
    columns = [np.ones_like(labels), predictions, labels, predictions**2, labels**2, predictions * labels]
    sums = np.stack([np.bincount(index, column) for column in columns], axis=1)
    means = sums[:, 1:] / sums[:, :1]
    own = _correlation(np.c_[np.ones(len(names)), means])
    varied = (sums[:, 0] > 1) & (means[:, 3] - means[:, 1] ** 2 > 1e-12)
    counted = weights * varied
    within = counted @ np.where(varied, own, 0.0) / counted.sum(axis=1)
    products_ = [np.ones(len(names)), means[:, 0], means[:, 1], means[:, 0] ** 2, means[:, 1] ** 2]
    between = _correlation(weights @ np.stack([*products_, means[:, 0] * means[:, 1]], axis=1))
    flat = _correlation(weights @ sums)
    return {"composite": composite(within, between), "within": within, "between": between, "flat": flat}


def correlation(predictions: Array, labels: Array, weights: Array | None = None) -> Array:
    """`(draws,)`: r where each row counts as often as `weights`, `(draws, rows)`, say."""
    weights = np.ones((1, len(labels))) if weights is None else weights
    columns = [np.ones_like(labels), predictions, labels, predictions**2, labels**2, predictions * labels]
    return _correlation(weights @ np.stack(columns, axis=1))


def _correlation(sums: Array) -> Array:
    """r from count, sums, squares and products, `(..., 6)`; 0 where something does not vary."""
    p, y, pp, yy, py = np.moveaxis(sums[..., 1:] / sums[..., :1], -1, 0)
    spread = np.clip(pp - p * p, 0, None) * np.clip(yy - y * y, 0, None)
    return np.where(spread > 1e-18, (py - p * y) / np.sqrt(np.maximum(spread, 1e-18)), 0.0)
