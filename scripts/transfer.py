"""Transfer: to a genre of EmoBank that was left out of training, and to texts unlike EmoBank.

Requires liminal_hf with its benchmark extra, the encoder, EmoBank with `meta.tsv`, MELD and GoEmotions
(`LIMINAL_DATA_DIR`).

    python scripts/transfer.py [CHECKPOINT]
    python scripts/transfer.py --part genres
    python scripts/transfer.py --part emotions CHECKPOINT

`genres`: the systems of `grids/transfer.yaml` are trained on six genres and measured on all sentences of the seventh; a
tenth of the training sentences, whole documents, chooses the epoch or ridge's alpha. Sentences of the genre's texts
that also stand elsewhere are left out of training.

`emotions`: a finished CHECKPOINT beside ridge on the frozen encoder's states and VADER, which are fitted on EmoBank's
training split; the texts are MELD's test turns and those of GoEmotions' test comments that have a single label, one for
which `research.meld.EMOTION_PAD` has a position. r is that of predicted PAD with the positions of the emotions
(Russell & Mehrabian 1977): all texts with one emotion share one position, so it can't come near 1. A checkpoint whose
encoder was trained on GoEmotions has seen such comments, though none of these. Nothing is trained or chosen on either
corpus. EmoITA, EmoBank in Italian, needs a multilingual encoder; none is at hand here, so it is not measured.

Cells and readings are kept under `--work`; a stopped command goes on when it is given again.
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cross_validation import Sentences, held_out
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray
from research import checkpoint as checkpoints
from research.cells import Cell, Cells
from research.grid import Grid, System
from research.meld import EMOTION_PAD, load_meld
from research.report import (
    RESAMPLES,
    Array,
    add_folders,
    interval,
    line,
    number,
    read_seeds,
    resample_counts,
    rounded,
    save,
    weighted_figures,
)

from liminal_hf.data import GOEMOTIONS_LABELS, load_emobank, load_goemotions
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.training.run_folder import hardware

GRID = Path(__file__).parent / "grids" / "transfer.yaml"
FIGURES = ("r", "ccc")
COLUMNS = (*DIMENSIONS, "mean")
Drawn = dict[str, tuple[Array, Array]]


def drawn(predictions: Sequence[Array], labels: Array, counts: Array, groups: NDArray[np.int64] | None = None) -> Drawn:
    """Each figure, the mean over the runs, of the three dimensions and their mean: `(1, 4)`, `(draws, 4)` resampled.

    Args:
        predictions: `(rows, 3)` for each run.
        labels, groups: as in `report.weighted_figures`.
        counts: its weights for the resamples.
    """
    found = {}
    for name in FIGURES:
        both = []
        for weights in (np.ones((1, counts.shape[1])), counts):
            values = [weighted_figures(run, labels, weights, groups)[name] for run in predictions]
            mean = np.mean(values, axis=0)
            both.append(np.column_stack([mean, mean.mean(axis=1)]))
        found[name] = (both[0], both[1])
    return found


def entry(point: Array, draws: Array) -> dict[str, dict[str, float] | None]:
    """Figures with their intervals by column; None for what is not predicted."""
    found: dict[str, dict[str, float] | None] = {}
    for place, name in enumerate(COLUMNS):
        if np.isnan(point[0, place]):
            found[name] = None
            continue
        low, high = np.percentile(draws[:, place], [2.5, 97.5])
        found[name] = {"mean": float(point[0, place]), "low": float(low), "high": float(high)}
    return found


def entries(systems: dict[str, Drawn], ours: str) -> dict[str, Any]:
    """The figures of several systems on the same texts, and how far ours is ahead of each in r."""
    found: dict[str, Any] = {}
    for name, figures in systems.items():
        found[name] = {figure: entry(*figures[figure]) for figure in FIGURES}
        if name != ours and ours in systems:
            found[name]["ahead"] = entry(*(systems[ours]["r"][i] - figures["r"][i] for i in (0, 1)))
    return found


def average(parts: list[Drawn]) -> Drawn:
    """The mean of the figures of several sets of texts that were resampled independently."""
    return {
        name: (
            np.mean([part[name][0] for part in parts], axis=0),
            np.mean([part[name][1] for part in parts], axis=0),
        )
        for name in FIGURES
    }


# ---- genres ----


def genre_corpora(sentences: Sentences) -> dict[str, DatasetDict]:
    """For each genre its sentences as `test`, the others' as `train` and `validation`."""
    groups, genres = sentences.groups(), np.array(sentences.genres)
    texts = np.array(sentences.texts, dtype=object)
    found = {}
    for genre in sorted(set(sentences.genres)):
        inside = genres == genre
        rest = np.flatnonzero(~inside & ~np.isin(texts, list(set(texts[inside]))))
        train, validation = held_out(groups, rest)
        found[genre] = sentences.corpus(train=train, validation=validation, test=np.flatnonzero(inside))
    return found


def by_genre(grid: Grid, sentences: Sentences, work: Path, seeds: Sequence[int], command: str) -> dict[str, Any]:
    """Runs what is missing; the report."""
    genres: dict[str, Any] = {}
    whole: dict[str, list[Drawn]] = {system.name: [] for system in grid.systems}
    machines = set()
    for place, (genre, corpus) in enumerate(genre_corpora(sentences).items()):
        print(f"without {genre}, {len(corpus['test']):,} sentences", flush=True)
        bench = Cells(grid, work, corpus)
        bench.run(grid.systems, seeds, lambda: None)
        counts = resample_counts(len(corpus["test"]), RESAMPLES, seed=place)
        systems: dict[str, Drawn] = {}
        for system in grid.systems:
            cells = [Cell.load(path) for path in dict.fromkeys(bench.path(system, seed) for seed in seeds)]
            machines |= {cell.about["machine"] for cell in cells}
            systems[system.name] = drawn([cell.test for cell in cells], bench.labels["test"], counts)
            whole[system.name].append(systems[system.name])
        genres[genre] = {"rows": len(corpus["test"]), "systems": entries(systems, grid.compare)}
    means = {name: average(parts) for name, parts in whole.items()}
    genres["mean of the genres"] = {"rows": len(sentences.texts), "systems": entries(means, grid.compare)}
    report = {"command": command, "machines": sorted(machines), "seeds": list(seeds), "compared": grid.compare}
    return rounded(report | {"sets": genres})


# ---- emotions ----


def meld_turns() -> tuple[list[str], list[str], NDArray[np.int64]]:
    """The test turns of MELD with their emotions and dialogues."""
    rows = load_meld()["test"]
    return rows["text"][:], rows["emotion"][:], np.unique(rows["dialogue_id"][:], return_inverse=True)[1]


def goemotions_comments() -> tuple[list[str], list[str], NDArray[np.int64]]:
    """The test comments of GoEmotions that have one label, and that one a position, with a group of its own each."""
    rows = load_goemotions()["test"]
    labels = np.asarray(rows["labels"][:])
    names = [GOEMOTIONS_LABELS[place] for place in labels.argmax(axis=1)]
    kept = [row for row, name in enumerate(names) if labels[row].sum() == 1 and name in EMOTION_PAD]
    texts = rows["text"][:]
    return [texts[row] for row in kept], [names[row] for row in kept], np.arange(len(kept))


CORPORA = {"MELD": meld_turns, "GoEmotions": goemotions_comments}


def by_emotion(grid: Grid, checkpoint: str, work: Path, command: str) -> dict[str, Any]:
    """Reads the texts with the checkpoint and its peers; the report."""
    ours = checkpoints.named(checkpoint)
    peers = [system for system in grid.systems if system.kind in ("ridge", "vader")]
    emobank = load_emobank().select_columns(["text", "labels"])
    report: dict[str, Any] = {"command": command, "machines": [hardware()], "compared": ours, "sets": {}, "means": {}}
    at_home = checkpoints.read(checkpoint, emobank["test"]["text"][:], work)
    spreads = {"EmoBank's test split": at_home.uncertainty}
    for corpus, load in CORPORA.items():
        texts, emotions, groups = load()
        positions = np.array([EMOTION_PAD[emotion] for emotion in emotions])
        reading = checkpoints.read(checkpoint, texts, work)
        spreads[corpus] = reading.uncertainty
        found = {ours: reading.pad}
        found |= _peers(grid, peers, emobank, texts, positions, work)
        names = np.array(emotions)
        everything, emotional = np.ones(len(names), dtype=bool), names != "neutral"
        for title, rows in ((corpus, everything), (f"{corpus} without neutral", emotional)):
            own = np.unique(groups[rows], return_inverse=True)[1]
            counts = resample_counts(int(own.max()) + 1, RESAMPLES)
            figures = {name: drawn([values[rows]], positions[rows], counts, own) for name, values in found.items()}
            report["sets"][title] = {"rows": int(rows.sum()), "systems": entries(figures, ours)}
        report["means"][corpus] = {
            emotion: {
                "rows": int((names == emotion).sum()),
                "position": list(EMOTION_PAD[emotion]),
                "systems": {
                    name: [None if np.isnan(value) else float(value) for value in values[names == emotion].mean(axis=0)]
                    for name, values in found.items()
                },
            }
            for emotion in EMOTION_PAD
            if (names == emotion).any()
        }
    report["uncertainty"] = {
        name: spread.mean(axis=0).tolist() for name, spread in spreads.items() if spread is not None
    }
    return rounded(report)


def _peers(
    grid: Grid, systems: Sequence[System], emobank: DatasetDict, texts: list[str], positions: Array, work: Path
) -> dict[str, Array]:
    """Predictions of systems that are fitted on EmoBank's training split."""
    other = Dataset.from_dict({"text": texts, "labels": positions.tolist()}, features=emobank["train"].features)
    splits = DatasetDict(train=emobank["train"], validation=emobank["validation"], test=other)
    bench = Cells(grid, work, splits)
    bench.run(systems, [0], lambda: None)
    return {system.name: Cell.load(bench.path(system, 0)).test for system in systems}


# ---- the tables ----


def markdown(report: dict[str, Any]) -> str:
    """A report for people."""
    ours = report["compared"]
    heads = ["texts", "system", "r V", "r A", "r D", "mean r", "mean CCC", f"ΔrV of {ours} over it", "Δ mean r"]
    lines = [line(heads), line(["---"] * len(heads))]
    for title, part in report["sets"].items():
        for name, row in part["systems"].items():
            shown = f"{title} ({part['rows']:,})" if name == next(iter(part["systems"])) else ""
            cells = [shown, f"**{name}**" if name == ours else name, _maybe(row["r"]["pleasure"])]
            cells += [number(row["r"][dimension] and row["r"][dimension]["mean"]) for dimension in DIMENSIONS[1:]]
            cells += [_maybe(row["r"]["mean"]), number(row["ccc"]["mean"] and row["ccc"]["mean"]["mean"])]
            ahead = row.get("ahead", {})
            lines.append(line([*cells, *(_maybe(ahead.get(column), True) for column in ("pleasure", "mean"))]))
    note = f"`{report['command']}`; {' and '.join(report['machines'])}; 95% of {RESAMPLES:,} paired bootstrap "
    if "means" not in report:
        seeds = ", ".join(map(str, report["seeds"]))
        return "\n".join([*lines, "", note + f"resamples of the sentences; seeds {seeds}, their mean."]) + "\n"
    note += (
        "resamples, of MELD's dialogues and of GoEmotions' comments. EmoITA needs a multilingual encoder: not measured."
    )
    if report["uncertainty"]:
        told = (f"{name} {' / '.join(map(number, values))}" for name, values in report["uncertainty"].items())
        note += f" Mean uncertainty of {ours} (V / A / D): {', '.join(told)}."
    lines += ["", note]
    for corpus, emotions in report["means"].items():
        names = list(next(iter(emotions.values()))["systems"])
        heads = [f"{corpus}: emotion", "texts", "position V / A / D", *(f"mean of {name}" for name in names)]
        lines += ["", line(heads), line(["---"] * len(heads))]
        for emotion, row in emotions.items():
            means = [" / ".join(number(value, 2, True) for value in row["systems"][name]) for name in names]
            position = " / ".join(number(value, 2, True) for value in row["position"])
            lines.append(line([emotion, f"{row['rows']:,}", position, *means]))
    return "\n".join(lines) + "\n"


def _maybe(figure: dict[str, float] | None, sign: bool = False) -> str:
    return "-" if figure is None else interval(figure, sign=sign)


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure transfer between genres and to other corpora.")
    checkpoints.add_checkpoint(parser)
    parser.add_argument("--part", choices=("genres", "emotions"), help="this part alone; otherwise both")
    parser.add_argument("--grid", type=Path, default=GRID, help="a file of scripts/grids/ (%(default)s)")
    parser.add_argument("--seeds", default="0,1,2", help="of the genres' runs (%(default)s)")
    add_folders(parser, "runs/evidence")
    given = parser.parse_args(arguments)
    seeds = read_seeds(parser, given.seeds)
    try:
        grid = Grid.from_yaml(given.grid)
        for part in (given.part,) if given.part else ("emotions", "genres"):
            command = checkpoints.command("transfer", given.checkpoint if part == "emotions" else checkpoints.DEFAULT)
            command += f" --part {part}"
            if part == "emotions":
                report = by_emotion(grid, given.checkpoint, given.work, command)
            else:
                command += f" --seeds {shlex.quote(given.seeds)}"
                report = by_genre(grid, Sentences.load(grid.recipe), given.work, seeds, command)
            save(given.results, f"transfer_{part}", report, markdown(report))
            print(markdown(report))
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
