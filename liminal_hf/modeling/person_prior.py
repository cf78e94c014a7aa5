"""What is known of persons before one of them has rated anything: how much they differ, and how long a mood lasts.

Requires torch, safetensors and transformers. `fit_person_prior` has closed forms, and one search by halving.
"""

import os
from collections import defaultdict
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize
from torch import Tensor
from transformers.utils import ModelOutput

from .errors import LiminalError
from .files import atomic_write
from .memory import GIVEN
from .targets import MISSING_LABEL

# Fewer say next to nothing of how persons differ.
FEWEST_PERSONS, FEWEST_RATINGS = 10, 3


class SavedTensors:
    """A dataclass of tensors as one safetensors file."""

    def to_bytes(self) -> bytes:
        """All fields as one safetensors file in memory."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.items()}  # type: ignore[attr-defined]
        return serialize(tensors, metadata={"format": "pt"})

    @classmethod
    def from_bytes(cls, content: bytes, name: str = "The content") -> Self:
        """Reads what `to_bytes` gave.

        Args:
            content: the bytes.
            name: what an error calls them.

        Raises:
            LiminalError: these bytes are no safetensors, or hold something else.
        """
        try:
            tensors = deserialize(content)
            if set(tensors) != set(cls.__dataclass_fields__):  # type: ignore[attr-defined]
                raise LiminalError(f"it holds {', '.join(sorted(tensors)) or 'nothing'}")
        except (SafetensorError, LiminalError) as error:
            raise LiminalError(
                f"{name} does not hold a {cls.__name__} ({cls.__name__}.save writes one): {error}"
            ) from None
        return cls(**tensors)

    def save(self, path: str | os.PathLike) -> None:
        """Writes one safetensors file, whole or not at all. To forget all of it, delete the file.

        Raises:
            OSError: the file could not be written.
        """
        with atomic_write(Path(path)) as temporary:
            temporary.write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            LiminalError: the file is no safetensors, or holds something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no {cls.__name__} at {os.fspath(path)}.")
        return cls.from_bytes(Path(path).read_bytes(), os.fspath(path))


@dataclass
class PersonPrior(SavedTensors, ModelOutput):
    """What is known of persons before one of them has rated anything. `fit_person_prior` fits it.

    All fields are `(T,)`, float64, in label units; variances are squares of them.

    Args:
        mean: mean rating.
        residual_within: variance of (rating - prediction) of a person around their own mean.
        residual_between: mean square of persons' mean (rating - prediction).
        reading_within, reading_between: the same two of the predictions around `mean`.
        deviation: variance of a person's ratings around their own mean.
        persistence: 0..1, the share of a deviation from the level that is left after one unit of time.

    Example:
        >>> prior = PersonPrior.guess([0.2, 0.2], residual=[0.3, 0.3])
        >>> prior.shrinkage.tolist()
        [4.0, 4.0]
    """

    mean: Tensor = GIVEN
    residual_within: Tensor = GIVEN
    residual_between: Tensor = GIVEN
    reading_within: Tensor = GIVEN
    reading_between: Tensor = GIVEN
    deviation: Tensor = GIVEN
    persistence: Tensor = GIVEN

    @property
    def shrinkage(self) -> Tensor:
        """k: with as many ratings, half of a person's mean residual counts; infinite where persons do not differ."""
        return self.residual_within / self.residual_between

    @classmethod
    def guess(cls, spread: Any, residual: Any, mean: Any = 0.0, persistence: float = 0.5) -> "PersonPrior":
        """A prior for when there is nothing to fit one on: a fifth of each variance lies between persons.

        It is a round guess, no finding: an offset counts half after four ratings.

        Args:
            spread: standard deviation of the ratings, per target.
            residual: standard deviation of (rating - prediction), per target.
            mean: mean rating, per target or one for all.
            persistence: the share of a deviation that is left after one unit of time.
        """
        spread, residual = (torch.as_tensor(value, dtype=torch.float64) for value in (spread, residual))
        total, rest = spread**2, residual**2
        read = (total - rest).clamp_min(0)
        return cls(
            mean=torch.as_tensor(mean, dtype=torch.float64).expand_as(total).clone(),
            residual_within=0.8 * rest,
            residual_between=0.2 * rest,
            reading_within=0.8 * read,
            reading_between=0.2 * read,
            deviation=0.8 * total,
            persistence=torch.full_like(total, persistence),
        )

    @classmethod
    def of_model(cls, config: Any, device: torch.device | str | None = None) -> "PersonPrior":
        """The model's own prior, where it was trained with one (`data.person` of a recipe); else a guess, see `guess`.

        For the guess the spread and the mean are those of the labels that it was trained on, and its error is taken to
        be four fifths of that spread, which is an r of .6. Half of a deviation is taken to be left after a day; time is
        in days. It is no finding: in diaries next to nothing was left after a day (scripts/results/diary.md). Fit your
        own.

        Args:
            config: a `LiminalConfig`.
            device: where its tensors are.

        Example:
            >>> from types import SimpleNamespace
            >>> PersonPrior.of_model(SimpleNamespace(label_std=[0.2], label_mean=[0.1])).mean.tolist()
            [0.1]
        """
        if (own := getattr(config, "person_prior", None)) is not None:
            prior = cls(**{name: torch.tensor(own[name], dtype=torch.float64) for name in cls.__dataclass_fields__})
        else:
            prior = cls.guess(config.label_std, [0.8 * spread for spread in config.label_std], config.label_mean)
        return prior if device is None else cls(**{name: value.to(device) for name, value in prior.items()})

    def to_lists(self) -> dict[str, list[float]]:
        """The fields as plain lists, as `LiminalConfig(person_prior=...)` takes them; no bit is lost in JSON.

        Example:
            >>> PersonPrior.guess([0.5], residual=[0.5]).to_lists()["residual_within"]
            [0.2]
        """
        return {name: value.tolist() for name, value in self.items()}


def fit_person_prior(
    predictions: Any, ratings: Any, persons: Any, times: Any = None, otherwise: PersonPrior | None = None
) -> PersonPrior:
    """The prior from turns of several persons, by the method of moments.

    With n_i ratings of person i and N of all: within = sum of squares around the persons' means / (N - persons);
    between = (sum of n_i * squared means - persons * within) / N, not below 0. The persistence is the one at which the
    mean of persistence^gap over neighbouring ratings is their correlation around the person's mean, freed of what that
    mean itself takes away. Where neighbours resemble each other and persons have few ratings, `deviation` and the
    persistence come out somewhat too low.

    Args:
        predictions: `(turns, T)`, out of fold where the model was trained on these persons.
        ratings: `(turns, T)`; NaN or -100 where there is none.
        persons: `(turns,)`, anything that says whose turn it is.
        times: `(turns,)` numbers; None: the turns of a person are one unit apart, in their order here.
        otherwise: what stands in for a target with too few ratings, such as `PersonPrior.of_model(config)`; None: such
            a target is an error.

    Raises:
        LiminalError: lengths that differ; an infinite number, or a time that is none; a target for which fewer than 10
            persons gave 3 ratings or more.

    Example:
        >>> predictions, persons = torch.zeros(30, 1), torch.arange(30) // 3
        >>> ratings = (persons % 2 * 2.0 - 1)[:, None] + torch.tensor([-0.1, 0.0, 0.1]).repeat(10)[:, None]
        >>> prior = fit_person_prior(predictions, ratings, persons.tolist())
        >>> round(prior.residual_within.item(), 3), round(prior.residual_between.item(), 3)
        (0.01, 0.997)
    """
    predictions, ratings = (torch.as_tensor(value, dtype=torch.float64) for value in (predictions, ratings))
    ratings = ratings.masked_fill(ratings == MISSING_LABEL, torch.nan)
    persons = list(persons)
    if times is None:  # a person's own turns, whatever rows lie between them
        turn: defaultdict[Any, count[int]] = defaultdict(count)
        times = [next(turn[person]) for person in persons]
    times = torch.as_tensor(times, dtype=torch.float64)
    if predictions.shape != ratings.shape or predictions.dim() != 2 or not len(persons) == len(times) == len(ratings):
        raise LiminalError(
            "fit_person_prior takes predictions and ratings of shape (turns, targets), and a person and a time per "
            f"turn; got {tuple(predictions.shape)}, {tuple(ratings.shape)}, {len(persons)} persons, {len(times)} times."
        )
    for name, value in (("predictions", predictions), ("ratings", ratings), ("times", times)):
        if wrong := torch.nonzero(value.isinf() | value.isnan() & (name == "times")).tolist():
            raise LiminalError(
                f"{name} holds {value[tuple(wrong[0])]:g} in row {wrong[0][0]}. Mark a missing rating with NaN, and "
                "leave out a turn without a time."
            )
    if otherwise is not None and len(otherwise.mean) != predictions.shape[1]:
        raise LiminalError(f"otherwise is of {len(otherwise.mean)} targets, the predictions of {predictions.shape[1]}.")
    number = {person: index for index, person in enumerate(dict.fromkeys(persons))}
    groups = torch.tensor([number[person] for person in persons])
    columns = []
    for index, (prediction, rating) in enumerate(zip(predictions.T, ratings.T, strict=True)):
        rated = ~torch.isnan(rating) & ~torch.isnan(prediction)
        enough = int((torch.bincount(groups[rated]) >= FEWEST_RATINGS).sum())
        if enough >= FEWEST_PERSONS:
            columns.append(_moments(prediction[rated], rating[rated], groups[rated], times[rated]))
        elif otherwise is not None:
            columns.append({name: value[index] for name, value in otherwise.items()})
        else:
            raise LiminalError(
                f"A prior takes {FEWEST_RATINGS} ratings or more of {FEWEST_PERSONS} persons or more; of target "
                f"{index} {enough} persons have so many. Leave that target out, or say what stands in for it: "
                "otherwise=PersonPrior.of_model(config), a guess."
            )
    return PersonPrior(**{name: torch.stack([column[name] for column in columns]) for name in columns[0]})


def _moments(prediction: Tensor, rating: Tensor, groups: Tensor, times: Tensor) -> dict[str, Tensor]:
    """The prior of one target, of turns that are rated."""
    counts = torch.bincount(groups)

    def parts(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Variance within, mean square between, and each value's distance from its person's mean."""
        means = torch.zeros(len(counts), dtype=torch.float64).index_add(0, groups, values) / counts.clamp_min(1)
        apart = values - means[groups]
        within = apart.square().sum() / (len(values) - (counts > 0).sum())
        between = (counts * means.square()).sum() - (counts > 0).sum() * within
        return within, (between / len(values)).clamp_min(0), apart

    mean = rating.mean()
    within, between, _ = parts(rating - prediction)
    reading_within, reading_between, _ = parts(prediction - mean)
    deviation, _, apart = parts(rating - mean)
    order = torch.argsort(times, stable=True)
    order = order[torch.argsort(groups[order], stable=True)]
    first, second = order[:-1], order[1:]
    same = groups[first] == groups[second]
    first, second = first[same], second[same]
    taken = deviation / counts[groups[first]]
    correlation = (apart[first] * apart[second] + taken).mean() / deviation
    gaps, share = times[second] - times[first], torch.nan_to_num(correlation, 0.0)
    low, high = torch.zeros_like(share), torch.ones_like(share)
    for _ in range(50):  # halving: the mean of persistence^gap grows with the persistence
        middle = (low + high) / 2
        below = (middle**gaps).mean() < share
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return {
        "mean": mean,
        "residual_within": within,
        "residual_between": between,
        "reading_within": reading_within,
        "reading_between": reading_between,
        "deviation": deviation,
        "persistence": low,
    }
