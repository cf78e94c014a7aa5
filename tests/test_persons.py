"""Persons: the sums of their ratings, what they make of an answer, and the forecast, against one-line formulas."""

import math
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Tensor

from liminal_hf import (
    DEFAULT_CHECKPOINT,
    LiminalConfig,
    LiminalForPADRegression,
    PersonMemory,
    PersonPrior,
    fit_person_prior,
)
from liminal_hf.export.onnx_person import export_person
from liminal_hf.modeling.config_checks import PRIOR_FIELDS
from liminal_hf.modeling.errors import LiminalError

PRIOR = PersonPrior(
    mean=torch.tensor([0.2, -0.1], dtype=torch.float64),
    residual_within=torch.tensor([0.6, 0.5], dtype=torch.float64),
    residual_between=torch.tensor([0.2, 0.05], dtype=torch.float64),
    reading_within=torch.tensor([0.3, 0.2], dtype=torch.float64),
    reading_between=torch.tensor([0.1, 0.05], dtype=torch.float64),
    deviation=torch.tensor([0.9, 0.7], dtype=torch.float64),
    persistence=torch.tensor([0.5, 0.0], dtype=torch.float64),
)
NAN = math.nan


def turns(number: int, seed: int = 0, missing: float = 0.4) -> tuple[Tensor, Tensor]:
    """Predictions and sparse ratings of two targets."""
    generator = torch.Generator().manual_seed(seed)
    predictions = torch.randn(number, 2, generator=generator)
    ratings = torch.randn(number, 2, generator=generator)
    return predictions, ratings.masked_fill(torch.rand(number, 2, generator=generator) < missing, NAN)


def after(predictions: Tensor, ratings: Tensor, times: list[float] | None = None) -> PersonMemory:
    """One person's state after their turns."""
    person = PersonMemory.empty(1, num_targets=2)
    for index in range(len(predictions)):
        time = None if times is None else times[index]
        person = person.observe(predictions[index : index + 1], ratings[index : index + 1], time)
    return person


def test_the_offset_is_the_shrunk_mean_residual() -> None:
    predictions, ratings = turns(12)
    person = after(predictions, ratings)
    for target in range(2):
        residuals = [
            r - p for p, r in zip(*(x[:, target].double().tolist() for x in (predictions, ratings)), strict=True)
        ]
        residuals = [value for value in residuals if not math.isnan(value)]
        k = float(PRIOR.residual_within[target] / PRIOR.residual_between[target])
        assert math.isclose(float(person.offset(PRIOR)[0, target]), sum(residuals) / (len(residuals) + k))
        assert int(person.count[0, target]) == len(residuals)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_without_a_rating_the_answer_is_the_models_own_bit_for_bit(dtype: torch.dtype) -> None:
    predictions, ratings = turns(20)
    person = after(predictions, torch.full_like(ratings, -100))
    answer, doubt = torch.randn(1, 2).to(dtype), torch.rand(1, 2).to(dtype)
    adjusted, uncertainty = person.adjust(answer, PRIOR, doubt)
    assert torch.equal(adjusted, answer) and torch.equal(uncertainty, doubt)
    # One target was rated: the other stays.
    half = person.observe(predictions[:1], torch.tensor([[0.5, NAN]]))
    adjusted, uncertainty = half.adjust(answer, PRIOR, doubt)
    assert adjusted.dtype == dtype and torch.equal(adjusted[:, 1], answer[:, 1]) and adjusted[0, 0] != answer[0, 0]
    assert torch.equal(uncertainty[:, 1], doubt[:, 1]) and uncertainty[0, 0] < doubt[0, 0]


def test_the_real_model_answers_as_before_until_someone_rates(minilm: Path) -> None:
    model = LiminalForPADRegression.from_pretrained(DEFAULT_CHECKPOINT).eval()
    with torch.no_grad():
        answer = model(pooled_embeds=torch.randn(3, model.base.pooled_size)).logits
    prior = PersonPrior.guess(model.config.label_std, [0.1] * 3, model.config.label_mean)
    persons = PersonMemory.empty(3).observe(answer)
    assert torch.equal(persons.adjust(answer, prior)[0], answer)
    rated = persons.rate(answer, torch.tensor([[NAN] * 3, [0.9, NAN, NAN], [NAN] * 3]))
    changed = rated.adjust(answer, prior)[0] != answer
    assert changed.tolist() == [[False] * 3, [True, False, False], [False] * 3]


def test_the_uncertainty_falls_to_what_ratings_can_not_explain() -> None:
    prediction, doubt = torch.zeros(1, 2), torch.ones(1, 2)
    person = PersonMemory.empty(1, num_targets=2)
    seen = []
    for _ in range(2000):
        person = person.observe(prediction, torch.ones(1, 2))
        seen.append(float(person.adjust(prediction, PRIOR, doubt)[1][0, 0]))
    assert seen == sorted(seen, reverse=True)
    assert math.isclose(seen[0], math.sqrt((0.6 + 0.6 / (1 + 3)) / 0.8), rel_tol=1e-6)
    assert math.isclose(seen[-1], math.sqrt(0.6 / 0.8), rel_tol=1e-3)


def test_the_order_of_ratings_does_not_matter_for_the_offset_and_the_level() -> None:
    predictions, ratings = turns(30)
    order = torch.randperm(30)
    one, other = after(predictions, ratings), after(predictions[order], ratings[order])
    torch.testing.assert_close(one.offset(PRIOR), other.offset(PRIOR), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one.level(PRIOR), other.level(PRIOR), rtol=1e-12, atol=1e-12)


def test_many_persons_at_once_are_each_as_if_alone() -> None:
    data = [turns(9, seed) for seed in range(5)]
    times = [0.0, 1.0, 1.0, 4.5, 5.0, 6.0, 7.0, 9.0, 30.0]
    alone = [after(*one, times) for one in data]
    together = PersonMemory.empty(5, num_targets=2)
    for index, time in enumerate(times):
        predictions, ratings = (torch.stack([one[part][index] for one in data]) for part in (0, 1))
        together = together.observe(predictions, ratings, time)
    forecast, answer = together.forecast(PRIOR, 33.0), torch.randn(5, 2)
    for index, person in enumerate(alone):
        row = together.rows(torch.tensor([index]))
        assert all(torch.equal(row[name], person[name]) for name in row)
        assert torch.equal(person.forecast(PRIOR, 33.0).mean[0], forecast.mean[index])
        adjusted = together.adjust(answer, PRIOR)[0][index]
        assert torch.equal(person.adjust(answer[index : index + 1], PRIOR)[0][0], adjusted)


def test_a_row_that_was_not_read_stays_as_it_was() -> None:
    persons = PersonMemory.empty(2, num_targets=2).observe(torch.tensor([[0.1, 0.2], [NAN, NAN]]), time=5.0)
    assert persons.turn.tolist() == [1, 0]
    # The second has no turn yet, so an earlier time is none that goes backwards.
    persons = persons.observe(torch.tensor([[NAN, NAN], [0.3, 0.4]]), time=torch.tensor([1.0, 2.0]))
    assert persons.turn.tolist() == [1, 1] and persons.time.tolist() == [5.0, 2.0]


def test_a_late_rating_counts_as_one_in_time() -> None:
    predictions, ratings = turns(6, missing=0.0)
    in_time = after(predictions, ratings)
    late = after(predictions, torch.full_like(ratings, NAN))
    for index in (3, 0, 5, 1, 4, 2):
        late = late.rate(predictions[index : index + 1], ratings[index : index + 1], time=float(index))
    for name, value in in_time.items():
        torch.testing.assert_close(late[name], value, rtol=1e-12, atol=1e-12)


def test_a_rating_of_the_last_turn_takes_the_place_of_its_first() -> None:
    prediction, rating = torch.full((1, 2), 0.25), torch.tensor([[1.0, NAN]])
    before = PersonMemory.empty(1, num_targets=2).observe(prediction, rating)
    again = before.rate(prediction, torch.tensor([[-0.5, 0.5]]))
    at_once = PersonMemory.empty(1, num_targets=2).observe(prediction, torch.tensor([[-0.5, 0.5]]))
    assert all(torch.equal(again[name], at_once[name]) for name in again)
    # A newer turn has a rating of its own.
    newer = before.observe(prediction).rate(prediction, torch.tensor([[-0.5, 0.5]]))
    assert newer.count.tolist() == [[2, 1]] and math.isclose(float(newer.residual_sum[0, 0]), 0.0)


def test_the_level_has_each_part_shrunk_by_its_own() -> None:
    predictions, ratings = turns(7)
    person = after(predictions, ratings)
    apart = float((predictions[:, 0].double() - 0.2).sum())
    assert math.isclose(float(person.level(PRIOR)[0, 0]), 0.2 + apart / (7 + 3) + float(person.offset(PRIOR)[0, 0]))
    assert torch.equal(PersonMemory.empty(1, num_targets=2).level(PRIOR)[0], PRIOR.mean)


def test_the_forecast_goes_from_the_last_value_back_to_the_level() -> None:
    person = after(*turns(8, missing=0.0), times=[0, 1, 2, 3, 5, 8, 9, 10])
    level, last = float(person.level(PRIOR)[0, 0]), float(person.last[0, 0])
    for gap in (0.0, 1.0, 2.5, 1000.0):
        forecast = person.forecast(PRIOR, 10 + gap, share=0.9)
        left = 0.5**gap
        assert math.isclose(float(forecast.mean[0, 0]), level + left * (last - level), abs_tol=1e-12)
        unknown = float(person.level_variance(PRIOR)[0, 0])
        deviation = math.sqrt((1 - left**2) * 0.9 + (1 - left) ** 2 * unknown)
        assert math.isclose(float(forecast.deviation[0, 0]), deviation, abs_tol=1e-12)
        reach = NormalDist().inv_cdf(0.95) * deviation
        assert math.isclose(float(forecast.high[0, 0] - forecast.mean[0, 0]), reach, abs_tol=1e-12)
    # Without persistence the last value says nothing.
    assert math.isclose(float(person.forecast(PRIOR, 11).mean[0, 1]), float(person.level(PRIOR)[0, 1]))
    nobody = PersonMemory.empty(1, num_targets=2).forecast(PRIOR, 3.0)
    assert torch.equal(nobody.mean[0], PRIOR.mean) and bool((nobody.deviation[0] ** 2 > PRIOR.deviation).all())


def simulated(persons: int, seed: int = 0, persistence: float = 0.8) -> tuple[list[int], Tensor, Tensor, Tensor]:
    """Persons with levels of variance .25 whose deviations of variance 1 are AR(1); readings see a part of both."""
    draw = np.random.default_rng(seed)
    who, times, truth = [], [], []
    for person in range(persons):
        level, now, state = draw.normal(0, 0.5), 0.0, draw.normal()
        for _ in range(int(draw.integers(5, 40))):
            who.append(person), times.append(now), truth.append(level + state)
            gap = float(draw.choice([0.5, 1.0, 3.0]))
            left = persistence**gap
            now, state = now + gap, left * state + math.sqrt(1 - left**2) * draw.normal()
    rating = torch.tensor(truth)[:, None]
    prediction = torch.tensor(draw.normal(0, 0.5, len(truth)))[:, None]
    return who, torch.tensor(times), prediction, rating


def test_the_prior_finds_the_variances_it_was_made_with() -> None:
    who, times, prediction, rating = simulated(1500, persistence=0.5)
    prior = fit_person_prior(prediction, rating, who, times)
    # Neighbours resemble each other, which takes from the variance within a short series.
    assert math.isclose(float(prior.deviation), 1.0, abs_tol=0.08)
    assert math.isclose(float(prior.residual_between), 0.25, abs_tol=0.08)
    assert math.isclose(float(prior.residual_within), 1.25, abs_tol=0.08)
    assert math.isclose(float(prior.persistence), 0.5, abs_tol=0.08)
    assert float(prior.reading_between) < 0.01


def test_forecasts_hold_what_they_say_and_beat_the_last_value_and_the_level() -> None:
    who, times, prediction, rating = simulated(300, seed=1)
    prior = fit_person_prior(prediction, rating, who, times)
    errors: dict[str, list[float]] = {"forecast": [], "last": [], "level": []}
    held = []
    person, before = PersonMemory.empty(1, num_targets=1), None
    for index, one in enumerate(who):
        if one != before:
            person, before = PersonMemory.empty(1, num_targets=1), one
        elif int(person.turn) >= 3:
            forecast, truth = person.forecast(prior, float(times[index])), float(rating[index])
            errors["forecast"].append((float(forecast.mean) - truth) ** 2)
            errors["last"].append((float(person.last) - truth) ** 2)
            errors["level"].append((float(person.level(prior)) - truth) ** 2)
            held.append(float(forecast.low) <= truth <= float(forecast.high))
        person = person.observe(prediction[index : index + 1], rating[index : index + 1], float(times[index]))
    squared = {name: float(np.mean(values)) for name, values in errors.items()}
    assert squared["forecast"] < 0.95 * min(squared["last"], squared["level"]), squared
    assert abs(np.mean(held) - 0.8) < 0.05


def test_nothing_between_persons_leaves_every_answer_as_it_is() -> None:
    predictions, who = torch.zeros(40, 1), (torch.arange(40) // 4).tolist()
    prior = fit_person_prior(predictions, torch.tensor([[1.0], [-1.0]]).repeat(20, 1), who)
    person = PersonMemory.empty(1, num_targets=1).observe(predictions[:1], torch.ones(1, 1))
    assert float(prior.residual_between) == 0 and float(person.offset(prior)) == 0
    assert torch.equal(person.adjust(torch.ones(1, 1), prior)[0], torch.ones(1, 1))
    same = fit_person_prior(predictions, predictions, who)  # everyone as predicted
    assert math.isfinite(float(person.offset(same))) and math.isfinite(float(person.forecast(same, 9).deviation))


def test_a_person_is_a_file_and_a_deleted_file_is_nobody(tmp_path: Path) -> None:
    person = after(*turns(5))
    path = tmp_path / "person.safetensors"
    person.save(path)
    size = path.stat().st_size
    loaded = PersonMemory.load(path)
    assert all(torch.equal(loaded[name], person[name]) and loaded[name].dtype == person[name].dtype for name in person)
    longer = loaded
    for _ in range(100):
        longer = longer.observe(torch.zeros(1, 2), torch.zeros(1, 2))
    longer.save(path)
    assert path.stat().st_size == size < 2000, "the size does not grow with the turns"
    PRIOR.save(tmp_path / "prior.safetensors")
    assert torch.equal(PersonPrior.load(tmp_path / "prior.safetensors").persistence, PRIOR.persistence)
    with pytest.raises(LiminalError, match=r"prior.safetensors does not hold a PersonMemory"):
        PersonMemory.load(tmp_path / "prior.safetensors")
    path.write_bytes(b"no tensors")
    with pytest.raises(LiminalError, match=r"does not hold a PersonMemory \(PersonMemory.save writes one\)"):
        PersonMemory.load(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="There is no PersonMemory at"):
        PersonMemory.load(path)


def test_reset_forgets_the_rows_that_are_marked() -> None:
    predictions, ratings = turns(3, missing=0.0)
    persons = PersonMemory.empty(3, num_targets=2).observe(predictions, ratings, 4.0)
    persons = persons.reset(torch.tensor([False, True, False]))
    nobody = PersonMemory.empty(1, num_targets=2)
    assert all(torch.equal(persons.rows(torch.tensor([1]))[name], nobody[name]) for name in nobody)
    assert persons.turn.tolist() == [1, 0, 1]


def test_a_turn_is_a_graph_for_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    LiminalConfig(pooled_size=8, targets=["valence", "arousal"], person_prior=PRIOR.to_lists()).save_pretrained(
        tmp_path
    )
    path = export_person(tmp_path)
    assert str(Path.cwd()).encode() not in path.read_bytes(), "nothing of this machine"
    session = onnxruntime.InferenceSession(path)
    person = state = PersonMemory.empty(3, num_targets=2)
    for time in (1.0, 1.0, 2.5):  # an answer and its state go on, as those of torch do
        predictions, ratings = turns(3, seed=int(10 * time))
        person, before = person.observe(predictions, ratings, time), person
        inputs = {f"person.{name}": value.numpy() for name, value in state.items()}
        inputs |= {"logits": predictions.numpy(), "uncertainty": np.full((3, 2), 0.5, np.float32)}
        inputs |= {"rating": ratings.numpy(), "time": np.full(3, time)}
        adjusted, doubt, *fields = session.run(None, inputs)
        expected = before.adjust(predictions, PRIOR, torch.full((3, 2), 0.5))
        np.testing.assert_allclose(adjusted, expected[0].numpy(), rtol=1e-6)
        np.testing.assert_allclose(doubt, expected[1].numpy(), rtol=1e-6)
        state = PersonMemory(*map(torch.from_numpy, fields))
        assert all(torch.allclose(state[name].double(), person[name].double(), rtol=1e-6) for name in person)
    # A graph raises no error: what torch refuses is no answer, and leaves the person as they were.
    inputs |= {f"person.{name}": value.numpy() for name, value in state.items()}
    adjusted, _, *fields = session.run(None, inputs | {"time": np.array([2.4, 3.0, 2.5])})
    assert np.isnan(adjusted).all(axis=1).tolist() == [True, False, False]
    assert all(np.array_equal(new[0], old[0].numpy()) for new, old in zip(fields, state.to_tuple(), strict=True))


@torch.no_grad()
def test_persons_go_into_forward_and_come_back() -> None:
    model = LiminalForPADRegression.from_pretrained(DEFAULT_CHECKPOINT).eval()
    tokens = {
        "input_ids": torch.tensor([[101, 2204, 102], [101, 2919, 102]]),
        "attention_mask": torch.ones(2, 3).long(),
    }
    alone = model(**tokens)
    assert alone.adjusted is None and alone.person is None
    persons = PersonMemory.empty(2)
    first = model(**tokens, person=persons, person_time=torch.tensor([1.0, 5.0]), labels=torch.ones(2, 3))
    for one in (first.logits, first.adjusted):
        assert torch.equal(one, alone.logits), "without a rating nothing changes, whatever the labels"
    assert torch.equal(first.adjusted_uncertainty, alone.uncertainty)
    assert first.person.time.tolist() == [1, 5] and not bool(first.person.count.any())
    rated = first.person.rate(first.logits, torch.tensor([[0.9, NAN, NAN], [NAN, NAN, NAN]]))
    second = model(**tokens, person=rated, person_time=6.0)
    assert torch.equal(second.logits, alone.logits) and torch.equal(second.adjusted[1], alone.logits[1])
    share = float(1 / (1 + PersonPrior.of_model(model.config).shrinkage[0]))
    assert float(second.adjusted[0, 0]) == pytest.approx(float(alone.logits[0, 0]) * (1 - share) + 0.9 * share)
    assert second.adjusted_uncertainty[0, 0] < alone.uncertainty[0, 0]
    model.config.person_prior = PersonPrior.guess([0.2] * 3, [0.2] * 3).to_lists() | {"residual_between": [0.0] * 3}
    assert torch.equal(model(**tokens, person=rated).adjusted, alone.logits), "the model's own prior counts"
    with pytest.raises(LiminalError, match="a turn at time 0 after one at"):
        model(**tokens, person=rated, person_time=0.0)
    with pytest.raises(LiminalError, match="Give the person, too"):
        model(**tokens, person_time=0.0)
    with pytest.raises(LiminalError, match="prediction must have the shape"):
        model(**tokens, person=PersonMemory.empty(1))


@pytest.mark.parametrize(
    "wrong", [{"mean": [0.0]}, {"persistence": [0.5, 1.5]}, {"deviation": [-0.1, 1]}, {"means": [0, 0]}, {"mean": None}]
)
def test_a_config_takes_a_whole_prior_of_its_targets_alone(wrong: dict[str, list[float]]) -> None:
    assert tuple(PRIOR) == PRIOR_FIELDS
    config = LiminalConfig(pooled_size=8, targets=["a", "b"], person_prior=PRIOR.to_lists())
    own = PersonPrior.of_model(config)
    assert all(torch.equal(own[name], PRIOR[name]) for name in PRIOR)
    with pytest.raises(LiminalError, match="person_prior must be"):
        LiminalConfig(pooled_size=8, targets=["a", "b"], person_prior=PRIOR.to_lists() | wrong)


ONE = torch.zeros(1, 2)


def some_ratings(persons: int = 10, each: int = 3, **wrong: float) -> tuple[Tensor, Tensor, list[int], Tensor]:
    """What `fit_person_prior` takes, with a wrong prediction, rating or time in row 4."""
    rows = persons * each
    values = {"prediction": torch.zeros(rows, 1), "rating": torch.randn(rows, 1), "time": torch.arange(rows).double()}
    for name, value in wrong.items():
        values[name][4] = value
    return values["prediction"], values["rating"], (torch.arange(rows) // each).tolist(), values["time"]


def test_without_times_a_person_s_own_turns_are_counted() -> None:
    draw = torch.Generator().manual_seed(0)
    persons, turns = 40, 60
    values = torch.zeros(persons, turns, 1, dtype=torch.float64)
    for turn in range(1, turns):
        values[:, turn] = 0.6 * values[:, turn - 1] + torch.randn(persons, 1, generator=draw, dtype=torch.float64)
    # Turn by turn, all persons in between, as a log of a chat has them; and person by person.
    mixed = values.transpose(0, 1).reshape(-1, 1)
    found = fit_person_prior(torch.zeros_like(mixed), mixed, list(range(persons)) * turns)
    apart = values.reshape(-1, 1)
    expected = fit_person_prior(torch.zeros_like(apart), apart, [row // turns for row in range(persons * turns)])
    torch.testing.assert_close(found.persistence, expected.persistence)
    assert 0.5 < found.persistence.item() < 0.65


def test_as_few_persons_as_a_prior_takes() -> None:
    prior = fit_person_prior(*some_ratings())
    assert all(bool(torch.isfinite(value).all()) for value in prior.values())
    prediction, rating, who, times = some_ratings()
    both = torch.cat([rating, torch.full_like(rating, NAN)], dim=1)
    mixed = fit_person_prior(prediction.expand(-1, 2), both, who, times, otherwise=PRIOR)
    for name, value in mixed.items():
        assert value[1] == PRIOR[name][1] and math.isfinite(value[0])
    assert mixed.mean[0] == pytest.approx(float(rating.mean()))
    with pytest.raises(LiminalError, match="otherwise is of 2 targets, the predictions of 1"):
        fit_person_prior(prediction, rating, who, times, otherwise=PRIOR)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda person: person.observe(ONE, time=4.0), r"Row 0: a turn at time 4 after one at 5\. Give turns in the"),
        (lambda person: person.observe(ONE, time=NAN), "a turn at time nan"),
        (lambda person: person.observe(torch.zeros(1, 3)), r"prediction must have the shape \(1, 2\), persons by"),
        (lambda person: person.observe(ONE, torch.zeros(2, 2)), r"rating must have the shape"),
        (lambda person: person.observe(ONE, torch.full((1, 2), math.inf)), "rating holds an infinite number"),
        (lambda person: person.observe(torch.full((1, 2), NAN), ONE), "a rating without a prediction"),
        (lambda person: person.observe(ONE, time=torch.zeros(3)), r"time must be one number, or one per person \(1\)"),
        (lambda person: person.rate(ONE, ONE, time=6.0), r"not observed yet\. Give it to observe\(\)"),
        (lambda person: person.forecast(PRIOR, at=4.0), "A forecast is for a time after"),
        (lambda person: person.forecast(PRIOR, at=9.0, share=80), "between 0 and 1, got 80. Use 0.8 for 80%"),
        (lambda person: person.adjust(torch.zeros(1, 3), PRIOR), r"prediction must have the shape \(1, 2\)"),
        (lambda person: person.adjust(ONE, PersonPrior.guess([0.3], [0.2])), "The prior is of 1 targets, and what"),
        (lambda person: person.level(PersonPrior.guess([0.3] * 3, [0.2] * 3)), "The prior is of 3 targets"),
        (lambda person: person.reset(torch.zeros(1)), "PersonMemory.reset takes one boolean per row"),
        (
            lambda person: fit_person_prior(ONE, ONE, ["a"]),
            "3 ratings or more of 10 persons or more; of target 0 0 per",
        ),
        (lambda person: fit_person_prior(*some_ratings(persons=9)), "of target 0 9 persons have so many"),
        (lambda person: fit_person_prior(*some_ratings(each=2)), "of target 0 0 persons have so many"),
        (
            lambda person: fit_person_prior(*some_ratings(rating=math.inf)),
            r"ratings holds inf in row 4\. Mark a missing",
        ),
        (lambda person: fit_person_prior(*some_ratings(prediction=-math.inf)), "predictions holds -inf in row 4"),
        (lambda person: fit_person_prior(*some_ratings(time=NAN)), "times holds nan in row 4.*a turn without a time"),
        (lambda person: fit_person_prior(ONE, ONE, ["a", "b"]), "takes predictions and ratings of shape"),
    ],
)
def test_errors_say_what_to_do(call, message: str) -> None:
    person = PersonMemory.empty(1, num_targets=2).observe(ONE, time=5.0)
    with pytest.raises(LiminalError, match=message):
        call(person)
