"""SemEval-2026 Task 2 with persons: diary entries with their writers' own valence and arousal, and forecasts of them.

Requires liminal_hf with its extra benchmark, the corpus (`LIMINAL_DATA_DIR`; evaluation only), and the two encoders.

    liminal train hub_configs/mpnet-emobank.yaml -o runs/mpnet-emobank-0
    python scripts/diary.py -o FOLDER

Trains on the train part alone and writes `subtask1.csv`, `subtask2a.csv` and `subtask2b.csv` in the task's format. The
text model is a kernel ridge on frozen states with an intercept per person; the intercepts, levels and forecasts are
those of `liminal_hf.PersonMemory`. Everything is chosen inside train: held-out persons of whom half have earlier rated
entries and half have none, as in the test part. Nothing that is trained here ships.
"""

import argparse
import itertools
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from research import diary as task
from research import diary_learned as learned
from research.diary import ENCODERS, FOLDS, TARGETS, Diary, Mask, adjusted, only, splits
from research.report import RESAMPLES, Array, add_folders, interval, line, number, resample_counts, rounded, save

from liminal_hf import PersonMemory, PersonPrior, fit_person_prior
from liminal_hf.io import atomic_write

# As published by the task: subtask 1 composite r, 2A and 2B r, V and A.
PUBLISHED: dict[str, dict[str, list[float]]] = {
    "subtask1": {
        "winner of 25 teams (GPT-5 with the person's history)": [0.667, 0.554],
        "second": [0.677, 0.528],
        "third": [0.647, 0.527],
        "organisers' baseline (linear on BERT)": [0.557, 0.299],
    },
    "subtask2a": {"winner": [0.675, 0.683], "organisers' baseline (last value alone)": [0.615, 0.670]},
}
TARGET = {"subtask1": 0.63, "subtask2a": 0.68, "subtask2b": 0.51}
# Width of the kernel (None: linear), its share against the noise, that of the frozen head's answers, the persons'
# share (k = 1 / share).
SETTINGS: tuple[tuple[float | None, float, float, float], ...] = (
    (None, 0.4, 0.0, 0.1),
    *itertools.product((1.0,), (0.8, 1.6), (0.0, 0.2), (0.07, 0.1, 0.15)),
)
WIDTHS = tuple(dict.fromkeys(setting[0] for setting in SETTINGS))
SHRINKAGE = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
HEAD = "the frozen head"
BOTH = "**text and person: ratings in train**"
OURS = {
    "subtask2a": "**2A, next change: the person's shrunk level minus the last value**",
    "subtask2b": "**2B, change of disposition: the person's shrunk level minus the mean so far**",
}
BASELINE = {
    "subtask2a": "2A, next change: minus the last value",
    "subtask2b": "2B, change of disposition: minus the mean so far",
}
FIGURES = ("composite", "within", "between", "flat")


def prior_of(mixed: task.Mixed) -> PersonPrior:
    """The prior of the intercepts that a text model was fitted with; of levels and forecasts it says nothing."""
    zero = torch.zeros(len(mixed.within), dtype=torch.float64)
    return PersonPrior(
        mean=zero,
        residual_within=torch.as_tensor(mixed.within),
        residual_between=torch.as_tensor(mixed.between),
        reading_within=zero,
        reading_between=zero,
        deviation=zero,
        persistence=zero,
    )


Kernels = dict[str, dict[float | None, Array]]


def text_kernel(kernels: Kernels, settings: dict[str, Any]) -> Array:
    """The kernel between texts: the mean over encoders, and the answers of the head on frozen mpnet."""
    texts = np.mean([kernels[name][settings["width"]] for name in settings["encoders"]], axis=0)
    return settings["scale"] * texts + (settings["head"] * kernels[HEAD][None] if settings["head"] else 0.0)


def choose(kernels: Kernels, data: Diary, train: Mask, seeds: int) -> tuple[list[dict[str, Any]], list[Any]]:
    """By target, the settings with the best composite r over held-out persons; and all that was tried."""
    rows = data.rows[train]
    persons, turns, labels = (rows[name].to_numpy() for name in ("user_id", "turn", TARGETS))
    inside = np.flatnonzero(train)
    names = [name for name in kernels if name != HEAD]
    sets = [names[: count + 1] for count in range(len(names))]
    known = {name: {width: one[np.ix_(inside, inside)] for width, one in by.items()} for name, by in kernels.items()}
    folds = [splits(persons, turns, seed) for seed in range(seeds)]
    tried = []
    for encoders, (width, scale, head, between) in itertools.product(sets, SETTINGS):
        if head and HEAD not in kernels:
            continue
        settings = {"encoders": encoders, "width": width, "scale": scale, "head": head, "between": between}
        texts, scores = text_kernel(known, settings), []
        for tests in folds:
            answers, tested = np.zeros_like(labels), np.any(tests, axis=0)
            for test in tests:
                mixed = task.fit_mixed(texts, labels, persons, ~test, between)
                # What `adjusted` gives, at once: the intercepts do not change while nobody rates.
                own = persons[:, None] == persons[None, ~test]
                offset = own @ (labels - mixed.text)[~test] / (own.sum(axis=1, keepdims=True) + 1 / between)
                answers[test] = (mixed.text + offset)[test]
            found = [task.person_figures(answers[tested, t], labels[tested, t], persons[tested]) for t in (0, 1)]
            scores.append([float(one["composite"][0]) for one in found])
        tried.append({**settings, "composite": np.mean(scores, axis=0).tolist()})
    best = [max(tried, key=lambda one: one["composite"][target]) for target in range(len(TARGETS))]
    return best, tried


def fitted(kernels: Kernels, data: Diary, train: Mask, chosen: list[dict[str, Any]]) -> task.Mixed:
    """The text model of each target by its own settings, fitted on train."""
    persons, parts = data.rows["user_id"].to_numpy(), []
    for target, settings in enumerate(chosen):
        texts, labels = text_kernel(kernels, settings), data.labels[:, target : target + 1]
        parts.append(task.fit_mixed(texts, labels, persons, train, settings["between"]))
    names = ("text", "left_out", "within", "between")
    return task.Mixed(*(np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in names))


def systems_of(mixed: task.Mixed, data: Diary, train: Mask) -> dict[str, Array]:
    """Answers for all entries by what may be known: text, person, both, more ratings, the unrated past."""
    rows, labels = data.rows, data.labels
    persons, days = rows["user_id"].to_numpy(), rows["days"].to_numpy()
    prior = prior_of(mixed)
    constant = np.tile(labels[train].mean(axis=0), (len(labels), 1))

    def with_ratings(predictions: Array, rated: Mask) -> Array:
        return adjusted(predictions, only(labels, rated), persons, days, prior)

    later = rows.groupby("user_id").cumcount().to_numpy()
    systems = {
        "text alone": mixed.text,
        "person alone: ratings in train, no text": with_ratings(constant, train),
        BOTH: with_ratings(mixed.text, train),
    }
    for every, name in ((1, "every text"), (3, "every third"), (5, "every fifth")):
        of_test = ~train & (later % every == every - 1)
        systems[f"the same, and a rating after {name} in test"] = with_ratings(mixed.text, train | of_test)
    # The unrated past: how much of the mean of the earlier predictions helps is chosen inside train, above 0.
    own = mixed.text.copy()
    own[train] = mixed.left_out
    sums = rows.assign(**dict(zip(TARGETS, own.T, strict=True))).groupby("user_id")[TARGETS].cumsum().to_numpy()
    before = np.where(later[:, None] > 0, (sums - own) / np.maximum(later, 1)[:, None], own)
    best = []
    for target in range(len(TARGETS)):
        at = own[train, target], before[train, target], labels[train, target], persons[train]
        scores = {
            share: task.person_figures(at[0] + share * (at[1] - at[0]), at[2], at[3])["composite"][0]
            for share in (0.1, 0.2, 0.3)
        }
        best.append(max(scores, key=lambda share: scores[share]))
    systems["text and the unrated past"] = own + np.array(best) * (before - own)
    return systems


def measured(answers: dict[str, Array], data: Diary, test: Mask) -> dict[str, Any]:
    """All figures of subtask 1 by system, with intervals over persons, and the difference from the text alone."""
    persons, labels = data.rows["user_id"].to_numpy()[test], data.labels[test]
    counts = resample_counts(len(np.unique(persons)), RESAMPLES)
    found: dict[str, Any] = {}
    draws: dict[str, Array] = {}
    for name, values in answers.items():
        per_target = [task.person_figures(values[test, t], labels[:, t], persons) for t in range(len(TARGETS))]
        drawn = [task.person_figures(values[test, t], labels[:, t], persons, counts) for t in range(len(TARGETS))]
        draws[name] = np.mean([one["composite"] for one in drawn], axis=0)
        entry = {figure: [float(one[figure][0]) for one in per_target] for figure in FIGURES}
        base = draws[next(iter(answers))]
        mean = float(np.mean(entry["composite"]))
        found[name] = {**entry, "mean": spread(mean, draws[name])}
        first = found[next(iter(found))]["mean"]["mean"]
        found[name]["against text"] = spread(mean - first, draws[name] - base)
    return found


def spread(mean: float, draws: Array) -> dict[str, float]:
    """A figure with the middle 95% of its resamples."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"mean": float(mean), "low": float(low), "high": float(high)}


def rating_prior(mean: Array, shrinkage: list[float]) -> PersonPrior:
    """The prior of a person's mean rating where there is no text: within / between is the shrinkage."""
    one = torch.ones(len(TARGETS), dtype=torch.float64)
    return PersonPrior(
        mean=torch.as_tensor(mean),
        residual_within=torch.tensor(shrinkage, dtype=torch.float64),
        residual_between=one,
        reading_within=one,
        reading_between=one,
        deviation=one,
        persistence=0 * one,
    )


def states_after(ratings: Array, mean: Array) -> list[PersonMemory]:
    """The person's state after each of these ratings, without any text."""
    memory, states = PersonMemory.empty(1, len(TARGETS)), []
    for rating in ratings:
        memory = memory.observe(torch.as_tensor(mean)[None], torch.as_tensor(rating)[None])
        states.append(memory)
    return states


def inside_train(data: Diary, train: Mask, mean: Array) -> dict[str, Array]:
    """`(shrinkages, 2)` for 2A and 2B: r of (shrunk level - last value), of (shrunk level - mean so far), in train.

    2A over every entry but a person's first, each person with the same weight in all; 2B from the first half to the
    second.
    """
    rows = data.rows[train]
    found: dict[str, list[Any]] = {"subtask2a": [], "subtask2b": []}
    priors = [rating_prior(mean, [shrinkage] * len(TARGETS)) for shrinkage in SHRINKAGE]
    for _, one in rows.groupby("user_id"):
        values, group = one[TARGETS].to_numpy(np.float64), one["group"].to_numpy()
        for end, state in enumerate(states_after(values[:-1], mean), start=1):
            levels = np.array([state.level(prior)[0].numpy() for prior in priors])
            change = values[end] - values[end - 1]
            found["subtask2a"].append((levels - values[end - 1], change, 1 / (len(values) - 1)))
        first, second = values[group == 1], values[group == 2]
        if len(first) and len(second):
            state = states_after(first, mean)[-1]
            levels = np.array([state.level(prior)[0].numpy() for prior in priors])
            found["subtask2b"].append((levels - first.mean(axis=0), second.mean(axis=0) - first.mean(axis=0), 1.0))
    scores = {}
    for name, pairs in found.items():
        expected, true, weight = (np.array(part) for part in zip(*pairs, strict=True))
        scores[name] = np.array(
            [
                [task.correlation(expected[:, k, t], true[:, t], weight[None])[0] for t in range(len(TARGETS))]
                for k in range(len(SHRINKAGE))
            ]
        )
    return scores


def forecast(data: Diary, train: Mask) -> dict[str, Any]:
    """Subtasks 2A and 2B: the shrinkage by target, chosen inside train, and the expected changes of the 46 people."""
    rows, mean = data.rows[train], data.labels[train].mean(axis=0)
    people = data.forecasts["user_id"].tolist()
    ratings = [rows[rows["user_id"] == person][TARGETS].to_numpy(np.float64) for person in people]
    counts = resample_counts(len(people), RESAMPLES)
    result: dict[str, Any] = {}
    for name, scores in inside_train(data, train, mean).items():
        best = [SHRINKAGE[int(index)] for index in scores.argmax(axis=0)]
        prior = rating_prior(mean, best)
        now = np.array([one[-1] if name == "subtask2a" else one.mean(axis=0) for one in ratings])
        level = np.array([states_after(one, mean)[-1].level(prior)[0].numpy() for one in ratings])
        columns = {"subtask2a": "state_change", "subtask2b": "disp_change"}[name]
        gold = data.forecasts[[f"{columns}_{target}" for target in TARGETS]].to_numpy(np.float64)
        result[name] = {
            "shrinkage": best,
            "in train": dict(zip(map(str, SHRINKAGE), scores.tolist(), strict=True)),
            "predictions": level - now,
            "systems": {},
        }
        for system, expected in {OURS[name]: level - now, BASELINE[name]: -now}.items():
            figures = [float(task.correlation(expected[:, t], gold[:, t])[0]) for t in range(len(TARGETS))]
            draws = np.mean([task.correlation(expected[:, t], gold[:, t], counts) for t in range(len(TARGETS))], axis=0)
            result[name]["systems"][system] = {"r": figures, "mean": spread(float(np.mean(figures)), draws)}
    return result


def intervals(data: Diary, train: Mask) -> dict[str, Any]:
    """Forecasts of each test entry from the person's ratings before it, without any text, by the prior of train.

    Returns:
        By target: the share of the ratings inside of the 80% intervals, the mean squared errors of the forecast, of the
        level and of the last value (of entries with a rating before), and the persistence per day.
    """
    persons, days, labels = data.rows["user_id"].to_numpy(), data.rows["days"].to_numpy(), torch.tensor(data.labels)
    rated = labels[torch.tensor(train)]
    constant = rated.mean(dim=0, keepdim=True)
    when = torch.tensor(days[train])
    prior = fit_person_prior(constant.expand(len(rated), -1), rated, persons[train].tolist(), when)
    held: list[torch.Tensor] = []
    errors: dict[str, list[torch.Tensor]] = {"forecast": [], "level": [], "last value": []}
    for person in np.unique(persons[~train]):
        memory = PersonMemory.empty(1, len(TARGETS))
        for row in np.flatnonzero(persons == person):
            if not train[row]:
                expected = memory.forecast(prior, float(days[row]), share=0.8)
                held.append((expected.low <= labels[row]) & (labels[row] <= expected.high))
                if int(memory.turn[0]):
                    pairs = zip(errors, (expected.mean, memory.level(prior), memory.last), strict=True)
                    for name, value in pairs:
                        errors[name].append((value - labels[row]) ** 2)
            memory = memory.observe(constant, labels[row : row + 1], float(days[row]))
    return {
        "coverage": torch.cat(held).double().mean(dim=0).tolist(),
        "squared error": {name: torch.cat(values).mean(dim=0).tolist() for name, values in errors.items()},
        "persistence": prior.persistence.tolist(),
    }


def write_submission(path: Path, keys: dict[str, Any], prefix: str, values: Array) -> None:
    """A file in the task's format."""
    import pandas as pd

    columns = {f"pred_{prefix}{target}": values[:, index] for index, target in enumerate(TARGETS)}
    with atomic_write(path) as temporary:
        pd.DataFrame({**keys, **columns}).to_csv(temporary, index=False)


def both(values: list[float]) -> str:
    """Figures of the two targets."""
    return " / ".join(number(value) for value in values)


def competition(report: dict[str, Any]) -> list[str]:
    """The candidates by cross-validation inside train, and the test of the chosen one where it is another."""
    heads = ["inside train, by cross-validation", "composite r V / A", "mean", "against the closed form (seeds)"]
    lines = ["", line(heads), line(["---"] * len(heads))]
    for name, entry in report["cv"].items():
        mean, deviation = entry["against closed"]
        gap = "" if name == learned.CLOSED else f"{number(mean, sign=True)} (SD {number(deviation)})"
        shown = f"**{name}**" if name == report["name"] else name
        lines.append(line([shown, both(entry["composite"]), number(entry["mean"]), gap]))
    if "test" in report:
        entry = report["test"]
        lines += ["", f"On test, the chosen one: {both(entry['composite'])}, {interval(entry['mean'], sign=False)}."]
    return lines


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    heads = ["subtask 1", *(f"{name} r V / A" for name in FIGURES), "mean composite, 95% over persons", "against text"]
    lines = [line(heads), line(["---"] * len(heads))]
    for name, entry in report["subtask1"].items():
        gap = "" if name == "text alone" else interval(entry["against text"])
        lines.append(
            line([name, *(both(entry[figure]) for figure in FIGURES), interval(entry["mean"], sign=False), gap])
        )
    for name, entry in report["product"].items():
        gap = interval(entry["against text"])
        lines.append(
            line([name, *(both(entry[figure]) for figure in FIGURES), interval(entry["mean"], sign=False), gap])
        )
    for name, values in PUBLISHED["subtask1"].items():
        lines.append(line([f"published: {name}", both(values), "", "", "", number(float(np.mean(values))), ""]))
    lines += competition(report["learned"])
    heads = ["forecasts", "r V / A", "mean, 95% over persons"]
    lines += ["", line(heads), line(["---"] * len(heads))]
    for name in OURS:
        for system, entry in report[name]["systems"].items():
            lines.append(line([system, both(entry["r"]), interval(entry["mean"], sign=False)]))
        for system, values in PUBLISHED.get(name, {}).items():
            lines.append(line([f"2A, published: {system}", both(values), number(float(np.mean(values)))]))
    lines.append(line(["2B, published: best, an organisers' baseline", "", number(0.509)]))
    it = report["intervals"]
    heads = ["each test entry, forecast from the ratings before it", "V / A"]
    lines += ["", line(heads), line(["---"] * len(heads))]
    lines.append(line(["80% intervals hold", " / ".join(f"{share:.1%}" for share in it["coverage"])]))
    lines += [line([f"squared error: {name}", both(values)]) for name, values in it["squared error"].items()]
    lines += ["", line(["target", "wanted", "reached"]), line(["---"] * 3)]
    for name, wanted in TARGET.items():
        reached = report["reached"][name]
        verdict = "yes" if reached >= wanted else "no"
        lines.append(line([name, number(wanted, 2), f"{number(reached)}: {verdict}"]))
    chosen = "; ".join(
        f"{target}: {' and '.join(one['encoders'])}, "
        + ("linear kernel" if one["width"] is None else f"Gaussian kernel of width {one['width']:g}")
        + f", scale {one['scale']:g}, {HEAD}'s answers {one['head']:g}, k = {1 / one['between']:.3g} (composite "
        f"{number(one['composite'][index])} inside train)"
        for index, (target, one) in enumerate(zip(TARGETS, report["chosen"], strict=True))
    )
    shrunk = "; ".join(
        f"{name} k = {' / '.join(f'{k:g}' for k in report[name]['shrinkage'])}" for name in ("subtask2a", "subtask2b")
    )
    lines += [
        "",
        f"`{report['command']}`; {report['train']} entries of train, {report['test']} of test. Chosen inside train "
        f"over {report['seeds']} times {FOLDS} folds of persons: {chosen}; forecasts: {shrunk}.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="SemEval-2026 Task 2 with persons.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the three submissions")
    parser.add_argument("--data-dir", type=Path, help="the folder above diary/")
    parser.add_argument("--encoders", default="mpnet,minilm", help="the first, and the first two together")
    parser.add_argument("--seeds", type=int, default=5, help="partitions of the persons (%(default)s)")
    parser.add_argument("--chosen", type=Path, help="diary.json of an earlier run, whose choice is taken over")
    parser.add_argument("--fine-tune", action="store_true", help="the heads compete, too: many minutes")
    add_folders(parser, "runs/evidence")
    given = parser.parse_args(arguments)
    data = task.load_diary(given.data_dir)
    train = (data.rows["part"] == "train").to_numpy()
    names = given.encoders.split(",")
    if unknown := [name for name in names if name not in ENCODERS]:
        parser.error(f"--encoders takes {', '.join(ENCODERS)}; got {unknown[0]!r}")
    texts = data.rows["text"].tolist()
    kernels: Kernels = {}
    states = {name: task.states_of(texts, name) for name in names}
    earlier = json.loads(given.chosen.read_text(encoding="utf-8")) if given.chosen else {}
    for name in names:
        if earlier and not any(name in one["encoders"] for one in earlier["chosen"]):
            continue
        kernels[name] = task.kernels(states[name], train, WIDTHS)
        if name == names[0] and (answers := task.head_answers(states[name], name)) is not None:
            kernels[HEAD] = task.kernels(answers, train, [None])
    chosen, tried = (earlier["chosen"], earlier["tried"]) if earlier else choose(kernels, data, train, given.seeds)
    mixed = fitted(kernels, data, train, chosen)
    systems, forecasts = systems_of(mixed, data, train), forecast(data, train)
    ours = systems[BOTH]
    given.output.mkdir(parents=True, exist_ok=True)
    keys = {name: data.rows[name][~train] for name in ("user_id", "text_id")}
    write_submission(given.output / "subtask1.csv", keys, "", ours[~train])
    people = {"user_id": data.forecasts["user_id"]}
    for name, prefix in {"subtask2a": "state_change_", "subtask2b": "dispo_change_"}.items():
        write_submission(given.output / f"{name}.csv", people, prefix, forecasts[name].pop("predictions"))
    product = measured({"text alone": mixed.text, **learned.product(states, data, train)}, data, ~train)
    del product["text alone"]
    compared = learned.compete(
        [text_kernel(kernels, one) for one in chosen],
        [one["between"] for one in chosen],
        states if given.fine_tune else {},
        data,
        train,
        given.seeds,
    )
    if "answers" in compared:
        best = {"text alone": mixed.text, "chosen": compared.pop("answers")}
        compared["test"] = measured(best, data, ~train)["chosen"]
    found = measured(systems, data, ~train)
    reached = {name: forecasts[name]["systems"][OURS[name]]["mean"]["mean"] for name in forecasts}
    report = rounded(
        {
            "command": "python scripts/diary.py -o FOLDER",
            "train": int(train.sum()),
            "test": int((~train).sum()),
            "seeds": given.seeds,
            "chosen": chosen,
            "tried": tried,
            "subtask1": found,
            "product": product,
            "learned": compared,
            **forecasts,
            "intervals": intervals(data, train),
            "reached": {"subtask1": found[BOTH]["mean"]["mean"], **reached},
        }
    )
    save(given.results, "diary", report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
