"""What could learn from ratings on the diaries: heads as they are and fine-tuned, and a learned gate.

Requires liminal_hf, numpy, pandas and torch, and the corpus; evaluation only. Everything is compared by
cross-validation over persons inside the train part; the encoder stays frozen in all of it.
"""

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from liminal_hf import PersonPrior, fit_person_prior
from liminal_hf.modeling.configuration_liminal import MISSING_LABEL
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression
from liminal_hf.training.calibration import update_config

from .diary import TARGETS, Diary, Mask, Mixed, adjusted, fit_mixed, frozen_head, only, person_figures, splits
from .report import Array

# The checkpoints that ship do not read these states: their encoders are trained.
NAMES = {"mpnet": "frozen mpnet"}
CLOSED = "closed form"
_EPOCHS, _BATCH, _RATE = 4, 64, 5e-4
_STEPS, _HIDDEN, _GATE_RATE, _DECAY = 200, 16, 1e-2, 1e-3
# Ratings are on scales of -2..2 and 0..2; the product's are -1..1.
_MIDDLE, _HALF = np.array([0.0, 1.0]), np.array([2.0, 1.0])
Answers = dict[str, Array]


def pooled(states: NDArray[np.float32]) -> torch.Tensor:
    """`(texts, layers * size)`, as a head reads them, from `(layers, texts, size)`."""
    return torch.from_numpy(np.ascontiguousarray(states.transpose(1, 0, 2)).reshape(states.shape[1], -1))


@torch.inference_mode()
def _answers(model: LiminalForPADRegression, inputs: torch.Tensor) -> Array:
    """`(texts, 2)`: pleasure and arousal."""
    return torch.cat([model(pooled_embeds=part).logits[:, :2] for part in inputs.split(512)]).double().numpy()


def product(states: dict[str, NDArray[np.float32]], data: Diary, train: Mask) -> dict[str, Array]:
    """By system, what `score --person` gives: a head on a frozen encoder, then with a prior and ratings too."""
    persons, days = data.rows["user_id"].to_numpy(), data.rows["days"].to_numpy()
    ratings, found = (data.labels - _MIDDLE) / _HALF, {}
    for encoder, name in NAMES.items():
        if encoder in states:
            own = _answers(frozen_head(encoder), pooled(states[encoder])).clip(-1, 1)
            known = [torch.as_tensor(values[train]) for values in (own, ratings, days)]
            guess = PersonPrior.guess([0.5] * 2, [0.4] * 2)
            prior = fit_person_prior(known[0], known[1], persons[train].tolist(), known[2], otherwise=guess)
            found[f"{name}, text alone"] = own
            found[f"{name}, adjusted: ratings in train"] = adjusted(
                own, only(ratings, train), persons, days, prior
            ).clip(-1, 1)
    return found


# ---- a learned gate against the closed form ----


def person_state(text: Array, rating: Array, days: Array, k: float) -> Array:
    """`(rows, 8)`: what is known of one person before each of their rows, of one target.

    Number of ratings (log), shrunk residual, level against the text, last value against the text, gap in days (log),
    variance of the residuals, the text's prediction, and the mean residual.
    """
    rated = ~np.isnan(rating)
    apart = np.where(rated, rating - text, 0.0)
    count, total, square = (np.cumsum(values) - values for values in (rated.astype(float), apart, apart**2))
    turns = np.arange(len(text))
    shrunk, mean = total / (count + k), total / np.maximum(count, 1)
    level = np.where(turns > 0, (np.cumsum(text) - text) / np.maximum(turns, 1), text) + shrunk
    last = np.r_[text[:1], np.where(rated, rating, text)[:-1]]
    gap = np.log1p(np.r_[0.0, np.maximum(np.diff(days), 0)])
    variance = np.where(count > 1, square / np.maximum(count, 1) - mean**2, 0.0)
    return np.stack([np.log1p(count), shrunk, level - text, last - text, gap, variance, text, mean], axis=1)


class Gate(nn.Module):
    """A correction from a person's state. It starts as the closed form.

    Args:
        free: whether it adds something of its own to the shrunk residual; otherwise it chooses the shrinkage by the
            state, in 0..2 times that of the closed form.
        mean, deviation: `(8,)`, of the states that it learns from.
    """

    def __init__(self, free: bool, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        super().__init__()
        self.free, self.mean, self.deviation = free, mean, deviation
        self.hidden, self.readout = nn.Linear(len(mean), _HIDDEN), nn.Linear(_HIDDEN, 1)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`(rows,)`, from `(rows, 8)`."""
        said = self.readout(torch.tanh(self.hidden((states - self.mean) / self.deviation)))[:, 0]
        return states[:, 1] + said if self.free else 2 * torch.sigmoid(said) * states[:, 1]


def train_gate(states: Array, residuals: Array, free: bool, seed: int) -> Gate:
    """Learns the residuals, by mean squares."""
    torch.manual_seed(seed)
    inputs, wanted = (torch.as_tensor(values, dtype=torch.float32) for values in (states, residuals))
    gate = Gate(free, inputs.mean(dim=0), inputs.std(dim=0).clamp_min(1e-6))
    optimizer = torch.optim.AdamW(gate.parameters(), lr=_GATE_RATE, weight_decay=_DECAY)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        (gate(inputs) - wanted).square().mean().backward()
        optimizer.step()
    return gate


def gated(mixed: Mixed, labels: Array, persons: NDArray[np.int64], days: Array, fitted: Mask, seed: int) -> Answers:
    """Answers for all rows by the closed form and by both gates, of one target.

    The gates learn from the fitted persons as strangers to the text model: from the rows that follow a point where the
    ratings end, as they do for the rows that are asked for.
    """
    draw = np.random.default_rng(seed)
    text, k = mixed.text[:, 0], float(mixed.within[0] / max(mixed.between[0], 1e-9))
    stranger = np.full(len(text), np.nan)
    stranger[fitted] = mixed.left_out[:, 0]
    states, residuals, asked = [], [], np.zeros((len(text), 8))
    for person in np.unique(persons):
        rows = np.flatnonzero(persons == person)
        asked[rows] = person_state(text[rows], np.where(fitted[rows], labels[rows], np.nan), days[rows], k)
        own = rows[fitted[rows]]
        for end in {0, len(own) // 2, *draw.integers(0, max(len(own), 1), 2).tolist()} if len(own) else ():
            before = np.where(np.arange(len(own)) < end, labels[own], np.nan)
            states.append(person_state(stranger[own], before, days[own], k)[end:])
            residuals.append((labels[own] - stranger[own])[end:])
    answers = {CLOSED: text + asked[:, 1]}
    for name, free in (("learned gate", False), ("learned correction", True)):
        gate = train_gate(np.concatenate(states), np.concatenate(residuals), free, seed)
        with torch.inference_mode():
            answers[name] = text + gate(torch.as_tensor(asked, dtype=torch.float32)).double().numpy()
    return answers


# ---- the heads, fine-tuned on frozen states ----


def fine_tune(
    encoder: str, inputs: torch.Tensor, labels: Array, persons: NDArray[np.int64], fitted: Mask, seed: int
) -> list[Array]:
    """`(rows, 2)` after each epoch, in the ratings' own units: two heads, each fitted on half of the persons.

    A fitted row has the answer of the head that has not seen its person, any other row the mean of both.
    """
    draw = np.random.default_rng(seed)
    people = draw.permutation(np.unique(persons[fitted]))
    target = (labels - _MIDDLE) / _HALF
    halves, found = [], []
    for half in range(2):
        torch.manual_seed(seed)
        model = copy.deepcopy(frozen_head(encoder))
        model.freeze_encoder()
        rows = np.flatnonzero(fitted & np.isin(persons, people[half::2]))
        mean, deviation = target[rows].mean(axis=0).tolist(), target[rows].std(axis=0).tolist()
        update_config(model, label_mean=[*mean, 0.0], label_std=[*deviation, model.config.label_std[2]])
        optimizer = torch.optim.AdamW(model.liminal.head.parameters(), lr=_RATE)
        wanted = torch.as_tensor(np.c_[target, np.full(len(target), MISSING_LABEL)], dtype=torch.float32)
        epochs = []
        for _ in range(_EPOCHS):
            model.train()
            for part in np.array_split(draw.permutation(rows), max(len(rows) // _BATCH, 1)):
                optimizer.zero_grad()
                model(pooled_embeds=inputs[part], labels=wanted[part]).loss.backward()
                optimizer.step()
            epochs.append(_answers(model.eval(), inputs))
        halves.append((np.isin(persons, people[half::2]) & fitted, epochs))
    for one, other in zip(halves[0][1], halves[1][1], strict=True):
        answers = (one + other) / 2
        answers[halves[0][0]], answers[halves[1][0]] = other[halves[0][0]], one[halves[1][0]]
        found.append(answers * _HALF + _MIDDLE)
    return found


def with_persons(answers: Array, labels: Array, persons: NDArray[np.int64], fitted: Mask) -> Array:
    """The answers and each person's shrunk mean residual over the fitted rows, by a prior that was fitted on them."""
    guess = PersonPrior.guess([1.0] * 2, [0.8] * 2)
    prior = fit_person_prior(answers[fitted], labels[fitted], persons[fitted].tolist(), otherwise=guess)
    own = (persons[:, None] == persons[None, fitted]).astype(np.float64)
    return answers + own @ (labels - answers)[fitted] / (own.sum(axis=1, keepdims=True) + prior.shrinkage.numpy())


# ---- cross-validation, and the test of what it chooses ----


def candidates(
    texts: list[Array], shares: list[float], inputs: dict[str, torch.Tensor], data: Diary, fitted: Mask, seed: int
) -> Answers:
    """By name, `(rows, 2)`: everything that competes, fitted on some rows.

    Args:
        texts: by target, the kernel between the texts, as a share of the noise.
        shares: by target, the variance of the persons' intercepts, as a share of the noise.
        inputs: by encoder, the pooled states of all rows.
        data: all of these rows.
        fitted: whose labels are read.
        seed: of everything that is drawn.
    """
    persons, days = data.rows["user_id"].to_numpy(), data.rows["days"].to_numpy()
    columns: list[Answers] = []
    for target, (text, share) in enumerate(zip(texts, shares, strict=True)):
        mixed = fit_mixed(text, data.labels[:, target : target + 1], persons, fitted, share)
        columns.append(gated(mixed, data.labels[:, target], persons, days, fitted, seed))
    found = {name: np.stack([column[name] for column in columns], axis=1) for name in columns[0]}
    for encoder, states in inputs.items():
        for epoch, answers in enumerate(fine_tune(encoder, states, data.labels, persons, fitted, seed), start=1):
            name = f"{NAMES[encoder]} head, fine-tuned, epoch {epoch}"
            found[name] = with_persons(answers, data.labels, persons, fitted)
    return found


def compete(
    texts: list[Array],
    shares: list[float],
    states: dict[str, NDArray[np.float32]],
    data: Diary,
    train: Mask,
    seeds: int,
) -> dict[str, Any]:
    """Cross-validated composite r inside train by candidate and seed; and the test answers of the one that is chosen.

    Each seed draws a partition of the persons of its own, and everything that is random in the fits on it.
    """
    inside = np.flatnonzero(train)
    known = Diary(data.rows[train].reset_index(drop=True), data.forecasts)
    persons, turns = known.rows["user_id"].to_numpy(), known.rows["turn"].to_numpy()
    own = [text[np.ix_(inside, inside)] for text in texts]
    inputs = {encoder: pooled(one) for encoder, one in states.items() if encoder in NAMES}
    parts = {encoder: one[torch.as_tensor(inside)] for encoder, one in inputs.items()}
    scores: dict[str, list[list[float]]] = {}
    for seed in range(seeds):
        tests = splits(persons, turns, seed)
        answers: Answers = {}
        for test in tests:
            for name, values in candidates(own, shares, parts, known, ~test, seed).items():
                answers.setdefault(name, np.zeros_like(values))[test] = values[test]
        tested = np.any(tests, axis=0)
        for name, values in answers.items():
            figures = [person_figures(values[tested, t], known.labels[tested, t], persons[tested]) for t in (0, 1)]
            scores.setdefault(name, []).append([float(one["composite"][0]) for one in figures])
    base = np.mean(scores[CLOSED], axis=1)
    table = {
        name: {
            "composite": np.mean(values, axis=0).tolist(),
            "mean": float(np.mean(values)),
            "seeds": np.mean(values, axis=1).tolist(),
            "against closed": [
                float(np.mean(np.mean(values, axis=1) - base)),
                float(np.std(np.mean(values, axis=1) - base)),
            ],
        }
        for name, values in scores.items()
    }
    best = max(table, key=lambda name: table[name]["mean"])
    chosen = {"name": best, "cv": table}
    if best != CLOSED:
        drawn = [candidates(texts, shares, inputs, data, train, seed)[best] for seed in range(seeds)]
        chosen["answers"] = np.mean(drawn, axis=0)
    return chosen


assert TARGETS == ["valence", "arousal"]
