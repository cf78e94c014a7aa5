"""A person's own level: what ratings now and then say of how someone differs from what the texts alone say.

Requires torch, safetensors and transformers. Everything is a closed form on sums of fixed size; nothing is trained.

A rating y of a turn with the prediction p leaves a residual e = y - p. The mean residual of a person with n ratings is
shrunk towards zero (best linear unbiased prediction; Henderson 1975): offset = sum(e) / (n + k), k = variance of the
residuals within persons / between persons. The level of a person after N turns is m + sum(p - m) / (N + k') + offset,
m the mean rating of all persons, k' the same ratio of the predictions. From turn to turn affect returns to that level:
a time t after the last value it is expected at level + persistence^t (last - level).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from .errors import LiminalError
from .memory import GIVEN, StateRows
from .person_prior import PersonPrior, SavedTensors
from .targets import MISSING_LABEL

_TINY = 1e-300  # float64


@dataclass
class PersonForecast(ModelOutput):
    """Where a person is expected at a later time.

    Args:
        mean (`torch.DoubleTensor` of shape `(batch, T)`): expected value.
        deviation (`torch.DoubleTensor` of shape `(batch, T)`): standard deviation of the value around it.
        low, high (`torch.DoubleTensor` of shape `(batch, T)`): ends of the interval.
    """

    mean: Tensor = GIVEN
    deviation: Tensor = GIVEN
    low: Tensor = GIVEN
    high: Tensor = GIVEN


@dataclass
class PersonMemory(SavedTensors, StateRows, ModelOutput):
    """What is remembered of persons: one row per person, sums of fixed size, whatever the number of turns.

    Sums and time are float64. No text and no single rating but the last is in it. A state never changes: `observe` and
    `rate` give a new one.

    Args:
        turn (`torch.LongTensor` of shape `(batch,)`): turns read.
        time (`torch.DoubleTensor` of shape `(batch,)`): when the last one was, in any unit; `persistence` is per unit.
        count (`torch.LongTensor` of shape `(batch, T)`): ratings.
        residual_sum (`torch.DoubleTensor` of shape `(batch, T)`): sum of (rating - prediction).
        reading_sum (`torch.DoubleTensor` of shape `(batch, T)`): sum of the predictions.
        last (`torch.DoubleTensor` of shape `(batch, T)`): the last turn's rating, else its prediction.
        last_rated (`torch.BoolTensor` of shape `(batch, T)`): whether `last` is a rating.

    Example:
        >>> prior = PersonPrior.guess(spread=[0.3], residual=[0.2])
        >>> person = PersonMemory.empty(1, num_targets=1)
        >>> reading = torch.tensor([[0.1]])
        >>> torch.equal(person.adjust(reading, prior)[0], reading)
        True
        >>> for day in range(4):
        ...     person = person.observe(reading, rating=torch.tensor([[0.5]]), time=day)
        >>> round(person.adjust(reading, prior)[0].item(), 2)  # four ratings of .4 more, and k = 4
        0.3
    """

    turn: Tensor = GIVEN
    time: Tensor = GIVEN
    count: Tensor = GIVEN
    residual_sum: Tensor = GIVEN
    reading_sum: Tensor = GIVEN
    last: Tensor = GIVEN
    last_rated: Tensor = GIVEN

    @classmethod
    def empty(
        cls, batch_size: int = 1, num_targets: int = 3, device: torch.device | str | None = None
    ) -> "PersonMemory":
        """Persons of whom nothing is known."""
        of_row, of_target = (batch_size,), (batch_size, num_targets)
        sums = {
            name: torch.zeros(of_target, dtype=torch.float64, device=device)
            for name in ("residual_sum", "reading_sum", "last")
        }
        return cls(
            turn=torch.zeros(of_row, dtype=torch.long, device=device),
            time=torch.zeros(of_row, dtype=torch.float64, device=device),
            count=torch.zeros(of_target, dtype=torch.long, device=device),
            last_rated=torch.zeros(of_target, dtype=torch.bool, device=device),
            **sums,
        )

    @classmethod
    def of_lists(cls, values: Mapping[str, Any]) -> "PersonMemory":
        """The state from plain lists, as JSON has them.

        Example:
            >>> lists = {name: value.tolist() for name, value in PersonMemory.empty(1, 2).items()}
            >>> PersonMemory.of_lists(lists).count.dtype
            torch.int64
        """
        like = cls.empty()
        return cls(**{name: torch.tensor(values[name], dtype=like[name].dtype) for name in PERSON_FIELDS})

    def observe(self, prediction: Tensor, rating: Tensor | None = None, time: Any = None) -> "PersonMemory":
        """The state after one more turn of each person.

        Args:
            prediction: `(batch, T)`, the model's own answer, not an adjusted one. A row of NaN was not read: that
                person stays as they were. A target that is not predicted is NaN in all rows.
            rating: `(batch, T)`, what the person says; NaN or -100 where they say nothing. None: nobody says anything.
            time: `(batch,)` or one number for all, the turn's time; the same as before or later. None: one later.

        Raises:
            LiminalError: a shape that does not fit, a time that goes backwards, a rating of a turn that was not read.
        """
        prediction, rating = self._checked(prediction, rating)
        read = ~torch.isnan(prediction).all(-1)
        now = self.time + (self.turn > 0) if time is None else self._times(time)
        backwards = read & ((now < self.time) & (self.turn > 0) | ~torch.isfinite(now))
        if _any(backwards):
            row = int(torch.nonzero(backwards)[0])
            raise LiminalError(
                f"Row {row}: a turn at time {float(now[row]):.15g} after one at {float(self.time[row]):.15g}. Give "
                "turns in the order of their times, and a rating that comes late to rate(), with the time of its turn."
            )
        rated = ~torch.isnan(rating)
        changed = read[:, None] & ~torch.isnan(prediction)
        value = torch.where(rated, rating, prediction)
        return PersonMemory(
            turn=self.turn + read,
            time=torch.where(read, now, self.time),
            count=self.count + rated,
            residual_sum=self.residual_sum + torch.where(rated, rating - prediction, 0.0),
            reading_sum=self.reading_sum + torch.where(changed, prediction, 0.0),
            last=torch.where(changed, value, self.last),
            last_rated=rated | ~changed & self.last_rated,
        )

    def rate(self, prediction: Tensor, rating: Tensor, time: Any = None) -> "PersonMemory":
        """The state after ratings of turns that were observed before.

        One of the last turn becomes the last value; where that turn has a rating already, it takes its place, if no
        time is given. Any other rating counts.

        Args:
            prediction: `(batch, T)`, what `observe` was given for that turn.
            rating: `(batch, T)`; NaN or -100 where the person says nothing.
            time: `(batch,)` or one number for all, that turn's time. None: of the last turn.

        Raises:
            LiminalError: a shape that does not fit, a turn that was not observed yet, or one that was not read.
        """
        prediction, rating = self._checked(prediction, rating)
        rated = ~torch.isnan(rating)
        then = self.time if time is None else self._times(time)
        if _any(rated.any(-1) & ~((then <= self.time) & (self.turn > 0))):
            raise LiminalError("A rating of a turn that was not observed yet. Give it to observe(), with its turn.")
        is_last = rated & (then == self.time)[:, None]
        again = rated & self.last_rated if time is None else torch.zeros_like(rated)
        return PersonMemory(
            turn=self.turn,
            time=self.time,
            count=self.count + (rated & ~again),
            residual_sum=self.residual_sum
            + torch.where(rated, rating - torch.where(again, self.last, prediction), 0.0),
            reading_sum=self.reading_sum,
            last=torch.where(is_last, rating, self.last),
            last_rated=self.last_rated | is_last,
        )

    def offset(self, prior: PersonPrior) -> Tensor:
        """`(batch, T)`: how far a person lies from what their texts say, shrunk; 0 without a rating."""
        self._check_prior(prior)
        return _shrunk(self.residual_sum, self.count, prior.residual_within, prior.residual_between)

    def offset_variance(self, prior: PersonPrior) -> Tensor:
        """`(batch, T)`: what is not known of the offset; the prior's `residual_between` without a rating."""
        self._check_prior(prior)
        return _unknown(self.count, prior.residual_within, prior.residual_between)

    def adjust(
        self, prediction: Tensor, prior: PersonPrior, uncertainty: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The model's answer for the person. Without a rating it is the model's own, bit for bit.

        Args:
            prediction: `(batch, T)`.
            prior: what is known of persons.
            uncertainty: `(batch, T)`, standard deviations; they fall by the share of the variance that the ratings
                explain. None where there is none.

        Returns:
            Both adjusted, in their own dtypes.

        Raises:
            LiminalError: the prediction or the prior has other targets than the state.
        """
        if prediction.shape[-1] != self.count.shape[-1]:
            raise LiminalError(
                f"prediction must have the shape {tuple(self.count.shape)}, persons by targets; got "
                f"{tuple(prediction.shape)}."
            )
        rated = self.count > 0
        adjusted = torch.where(rated, (prediction + self.offset(prior)).to(prediction.dtype), prediction)
        if uncertainty is None:
            return adjusted, None
        share = (prior.residual_within + self.offset_variance(prior)) / (prior.residual_within + prior.residual_between)
        return adjusted, torch.where(rated, (uncertainty * share.sqrt()).to(uncertainty.dtype), uncertainty)

    def level(self, prior: PersonPrior) -> Tensor:
        """`(batch, T)`: the person's usual value; the mean rating of all where there was no turn."""
        self._check_prior(prior)
        turns = self.turn[:, None]
        apart = self.reading_sum - turns * prior.mean
        read = _shrunk(apart, turns, prior.reading_within, prior.reading_between)
        return prior.mean + read + self.offset(prior)

    def level_variance(self, prior: PersonPrior) -> Tensor:
        """`(batch, T)`: what is not known of the level."""
        of_reading = _unknown(self.turn[:, None], prior.reading_within, prior.reading_between)
        return of_reading + self.offset_variance(prior)

    def forecast(self, prior: PersonPrior, at: Any, share: float = 0.8) -> PersonForecast:
        """Where each person is expected at a later time: the last value returns to the level.

        Args:
            prior: what is known of persons.
            at: `(batch,)` or one number for all, the time; not before the last turn.
            share: of the values that the interval holds, where they are normal.

        Raises:
            LiminalError: a time before the last turn, or a share outside of 0..1.
        """
        at = self._times(at)
        known = self.turn > 0
        if _any(known & ~(at >= self.time)):
            raise LiminalError("A forecast is for a time after a person's last turn; this one is before it.")
        if not 0 < share < 1:
            raise LiminalError(f"The share of an interval lies between 0 and 1, got {share!r}. Use 0.8 for 80%.")
        gap = torch.where(known, at - self.time, torch.inf)[:, None]
        left = torch.where(known[:, None], prior.persistence**gap, 0.0)
        level, unknown = self.level(prior), self.offset_variance(prior)
        last = torch.where(self.last_rated, self.last, self.last + self.offset(prior))
        doubt = torch.where(self.last_rated, 0.0, prior.residual_within + unknown)
        mean = torch.lerp(level, last, left)  # exact at both ends
        variance = (1 - left**2) * prior.deviation + left**2 * doubt + (1 - left) ** 2 * self.level_variance(prior)
        deviation = variance.sqrt()
        reach = NormalDist().inv_cdf(0.5 + share / 2) * deviation
        return PersonForecast(mean=mean, deviation=deviation, low=mean - reach, high=mean + reach)

    def _checked(self, prediction: Tensor, rating: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both in float64, a missing rating as NaN."""
        shape = tuple(self.count.shape)
        prediction = torch.as_tensor(prediction, dtype=torch.float64, device=self.time.device)
        rating = torch.full_like(prediction, torch.nan) if rating is None else torch.as_tensor(rating).to(prediction)
        for name, value in (("prediction", prediction), ("rating", rating)):
            if tuple(value.shape) != shape:
                raise LiminalError(f"{name} must have the shape {shape}, persons by targets; got {tuple(value.shape)}.")
            if _any(torch.isinf(value)):
                raise LiminalError(f"{name} holds an infinite number. Mark a missing rating with NaN.")
        rating = rating.masked_fill(rating == MISSING_LABEL, torch.nan)
        if _any(~torch.isnan(rating) & torch.isnan(prediction)):
            raise LiminalError("There is a rating without a prediction: it can't be said how far the person differs.")
        return prediction, rating

    def _check_prior(self, prior: PersonPrior) -> None:
        """Raises where state and prior are of different targets."""
        if len(prior.mean) != self.count.shape[-1]:
            raise LiminalError(
                f"The prior is of {len(prior.mean)} targets, and what is kept of the persons of "
                f"{self.count.shape[-1]}. Give a prior that was fitted with predictions of the same model."
            )

    def _times(self, time: Any) -> Tensor:
        times = torch.as_tensor(time, dtype=torch.float64, device=self.time.device)
        if times.dim() > 1 or (times.dim() and times.shape != self.time.shape):
            raise LiminalError(f"time must be one number, or one per person ({len(self.time)}); got {times.shape}.")
        return times.expand_as(self.time)


PERSON_FIELDS = tuple(field.name for field in fields(PersonMemory))


def person_turn(
    person: PersonMemory | None, logits: Tensor, uncertainty: Tensor | None, config: Any, time: Any = None
) -> dict[str, Any]:
    """What a model's output says of persons: `adjusted`, `adjusted_uncertainty`, and `person` after the turn.

    Args:
        person: a row per row of the batch; None: nothing is said.
        logits, uncertainty: `(batch, T)`, the model's.
        config: the model's; see `PersonPrior.of_model`.
        time: the turn's, as in `PersonMemory.observe`.

    Raises:
        LiminalError: a shape that does not fit, a time that goes backwards, or a time and no person.

    Example:
        >>> from types import SimpleNamespace
        >>> config = SimpleNamespace(label_std=[0.2], label_mean=[0.0])
        >>> person = PersonMemory.empty(1, 1).observe(torch.zeros(1, 1), torch.ones(1, 1))
        >>> found = person_turn(person, torch.zeros(1, 1), None, config)
        >>> round(found["adjusted"].item(), 2), found["person"].turn.tolist()
        (0.2, [2])
    """
    if person is None:
        if time is not None:
            raise LiminalError("person_time is the time of a person's turn. Give the person, too: person=PersonMemory")
        return {}
    adjusted, doubt = person.adjust(logits, PersonPrior.of_model(config, logits.device), uncertainty)
    return {"adjusted": adjusted, "adjusted_uncertainty": doubt, "person": person.observe(logits.detach(), time=time)}


def _any(wrong: Tensor) -> bool:
    """Whether something is wrong; not asked while the code is traced, for an export."""
    return not torch.compiler.is_compiling() and bool(wrong.any())


def _shrunk(total: Tensor, count: Tensor, within: Tensor, between: Tensor) -> Tensor:
    """total / (count + within / between), and 0 where nothing varies."""
    return total * between / (count * between + within).clamp_min(_TINY)


def _unknown(count: Tensor, within: Tensor, between: Tensor) -> Tensor:
    """The variance of that shrunk mean around the person's true one."""
    return within * between / (count * between + within).clamp_min(_TINY)


def rating_row(rating: Mapping[str, float] | None, targets: Sequence[str], span: Sequence[float]) -> Tensor:
    """A rating by target as `(1, T)`, NaN where there is none.

    Args:
        rating: by target, in label units, or None.
        targets: the model's.
        span: lowest and highest possible label.

    Raises:
        LiminalError: no mapping, an unknown target, or a value that is no number within the span.

    Example:
        >>> rating_row({"arousal": 0.5}, ["pleasure", "arousal"], (-1, 1)).tolist()
        [[nan, 0.5]]
    """
    row = [torch.nan] * len(targets)
    if not isinstance(rating, Mapping | None):
        raise LiminalError(f"A rating is given by target, such as {{{targets[0]!r}: 0.5}}; got {rating!r:.100}.")
    for name, value in (rating or {}).items():
        if name not in targets:
            raise LiminalError(f"There is no target {name!r} to rate. The model has {', '.join(targets)}.")
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number or not span[0] <= value <= span[1]:
            got = f"{value:g}" if is_number else f"{value!r:.100}"
            raise LiminalError(f"A rating of {name} lies between {span[0]:g} and {span[1]:g}, got {got}.")
        row[list(targets).index(name)] = float(value)
    return torch.tensor([row], dtype=torch.float64)
