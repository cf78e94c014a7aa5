"""Cross-validation over all of EmoBank: whether one head beats another, by predictions for sentences not trained on.

Requires liminal_hf with its benchmark extra, EmoBank with `meta.tsv` (`LIMINAL_DATA_DIR`), and the encoder.

    python scripts/cross_validation.py [--grid scripts/grids/cross_validation_finetuned.yaml]

The sentences are dealt into folds document by document, so that no text is predicted by a model that has read another
part of it; copies of a text ("Sincerely,") stay in one fold. Inside each fold a tenth of the other sentences, again
whole documents, is held out of training: the epoch, or ridge's alpha, is chosen on it and never on the fold. The
out-of-fold predictions of a seed are put together and measured as one; intervals resample documents.

A cell is one system on one fold with one seed, kept under `--work` as `scripts/benchmark.py` does: the command can be
stopped at any time and goes on when it is given again; after a change of the code, delete the folder. The tables hold
the seeds whose folds are all there. The encoder's states are pooled once.
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, List, Value
from numpy.typing import NDArray
from research.cells import Cell, Cells, pooled_corpus
from research.grid import WITH_RECIPE, Grid, System
from research.report import (
    RESAMPLES,
    Array,
    add_folders,
    interval,
    line,
    number,
    partly,
    read_seeds,
    resample_counts,
    rounded,
    save,
    summary,
    three,
    weighted_figures,
    with_sd,
)

from liminal_hf import metrics
from liminal_hf.data import load_emobank
from liminal_hf.data.pooled_cache import COLUMN
from liminal_hf.training.recipe import Recipe

GRID = Path(__file__).parent / "grids" / "cross_validation.yaml"
HELD_OUT = 0.1
FIGURES = {"r": metrics.pearson, "ccc": metrics.ccc, "mae": metrics.mae}
Rows = NDArray[np.int64]


@dataclass
class Sentences:
    """All sentences of EmoBank, the official splits one after the other.

    Args:
        texts, documents, genres: a string per sentence.
        labels: `(rows, 3)` float32, -1..1.
        states: `(rows, layers * hidden)` float32, the frozen encoder's.
    """

    texts: list[str]
    documents: list[str]
    genres: list[str]
    labels: NDArray[np.float32]
    states: NDArray[np.float32]

    @classmethod
    def load(cls, recipe: Recipe) -> "Sentences":
        """Reads EmoBank and pools the states of the recipe's encoder, or finds them in the cache."""
        corpus = load_emobank(extras=True)
        parts = list(pooled_corpus(recipe, corpus).with_format("numpy").values())
        texts, documents, genres = (
            [value for rows in corpus.values() for value in rows[name][:]] for name in ("text", "document", "genre")
        )
        labels, states = (np.concatenate([np.asarray(rows[name][:]) for rows in parts]) for name in ("labels", COLUMN))
        return cls(texts, documents, genres, labels.astype(np.float32), states)

    def corpus(self, **rows: Rows) -> DatasetDict:
        """Splits with the column of states, by the rows that they have."""
        features = Features(
            {
                "text": Value("string"),
                "labels": List(Value("float32")),
                COLUMN: List(Value("float32"), length=self.states.shape[1]),
            }
        )
        return DatasetDict(
            {
                split: Dataset.from_dict(
                    {
                        "text": [self.texts[row] for row in chosen],
                        "labels": self.labels[chosen],
                        COLUMN: self.states[chosen],
                    },
                    features=features,
                )
                for split, chosen in rows.items()
            }
        )

    def groups(self) -> Rows:
        """A number per sentence, equal for those of one document.

        A text that stands in several documents is counted with the first of them. To join the documents instead would
        make one group of a quarter of the corpus, because most letters end alike.
        """
        first: dict[str, str] = {}
        names = [first.setdefault(text, document) for text, document in zip(self.texts, self.documents, strict=True)]
        return np.unique(names, return_inverse=True)[1].astype(np.int64)


def fold_rows(groups: Rows, folds: int) -> list[Rows]:
    """The rows of each fold: the largest group goes to the smallest fold, again and again (as GroupKFold does).

    Raises:
        ValueError: fewer groups than folds.

    Example:
        >>> [rows.tolist() for rows in fold_rows(np.array([0, 0, 0, 1, 1, 2]), 2)]
        [[0, 1, 2], [3, 4, 5]]
    """
    sizes = np.bincount(groups)
    if not 2 <= folds <= len(sizes):
        raise ValueError(f"--folds must be 2 to {len(sizes)}, the number of documents; got {folds}.")
    fold_of, filled = np.empty(len(sizes), dtype=np.int64), np.zeros(folds, dtype=np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = filled.argmin()
        filled[filled.argmin()] += sizes[group]
    return [np.flatnonzero(fold_of[groups] == fold) for fold in range(folds)]


def held_out(groups: Rows, rows: Rows, share: float = HELD_OUT, seed: int = 0) -> tuple[Rows, Rows]:
    """Splits rows into those to train on and about `share` of them, in whole groups, to choose by.

    The groups come in random order; one that would go beyond the share is passed over, unless nothing else is left.

    Example:
        >>> train, chosen_by = held_out(np.repeat(np.arange(10), 5), np.arange(40), share=0.25)
        >>> len(train), len(chosen_by)
        (30, 10)
    """
    names, sizes = np.unique(groups[rows], return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    chosen: list[int] = []
    for place in order:
        if sizes[chosen].sum() + sizes[place] <= share * len(rows):
            chosen.append(int(place))
    chosen = chosen or [int(sizes.argmin())]
    inside = np.isin(groups[rows], names[chosen])
    return rows[~inside], rows[inside]


class CrossValidation:
    """The grid on each fold.

    Args:
        grid: what to run; its recipe must read EmoBank.
        sentences: the corpus.
        folds: their number.
        work: folder for the cells.
    """

    def __init__(self, grid: Grid, sentences: Sentences, folds: int, work: Path) -> None:
        self.grid, self.sentences, self.work = grid, sentences, work
        self.groups = sentences.groups()
        self.folds = fold_rows(self.groups, folds)
        self._paths: dict[tuple[str, int, int], Path] = {}

    def of_fold(self, fold: int) -> Cells:
        """The benchmark whose test split is this fold."""
        others = np.concatenate([rows for place, rows in enumerate(self.folds) if place != fold])
        train, validation = held_out(self.groups, np.sort(others), seed=fold)
        corpus = self.sentences.corpus(train=train, validation=validation, test=self.folds[fold])
        return Cells(self.grid, self.work, corpus)

    def run(self, seeds: Sequence[int], systems: Sequence[System]) -> None:
        """Computes the cells that are missing, fold by fold."""
        for fold in range(len(self.folds)):
            print(f"fold {fold + 1} of {len(self.folds)}, {len(self.folds[fold]):,} sentences", flush=True)
            bench = self.of_fold(fold)
            bench.run(systems, seeds, lambda: None)
            for system in self.grid.systems:
                for seed in seeds:
                    self._paths[system.name, fold, seed] = bench.path(system, seed)

    def cells(self, system: System, seeds: Sequence[int]) -> dict[int | None, list[Cell]]:
        """The cells of all folds by seed (None for a system without chance), as far as all of them are there."""
        found: dict[int | None, list[Cell]] = {}
        for seed in seeds:
            paths = [self._paths[system.name, fold, seed] for fold in range(len(self.folds))]
            if all(path.is_file() for path in paths):
                cells = [Cell.load(path) for path in paths]
                found[cells[0].about["seed"]] = cells
        return found

    def table(self, seeds: Sequence[int], command: str) -> dict[str, Any]:
        """Figures of the out-of-fold predictions, as plain values."""
        labels = self.sentences.labels.astype(np.float64)
        predicted: dict[str, dict[int | None, Array]] = {}
        machines = set()
        for system in self.grid.systems:
            for seed, cells in self.cells(system, seeds).items():
                whole = np.empty_like(labels)
                for rows, cell in zip(self.folds, cells, strict=True):
                    whole[rows] = cell.test
                    machines.add(cell.about["machine"])
                predicted.setdefault(system.name, {})[seed] = whole
        counts = resample_counts(int(self.groups.max()) + 1, RESAMPLES)
        systems: dict[str, dict[str, Any]] = {}
        for system in self.grid.systems:
            if system.name not in predicted:
                continue
            runs, ours = predicted[system.name], predicted.get(self.grid.compare)
            entry: dict[str, Any] = {"ours": system.ours, "seeds": [seed for seed in runs if seed is not None]}
            for name, figure in FIGURES.items():
                entry[name] = summary([partly(figure, values, labels) for values in runs.values()])
            every = not any(np.isnan(values).any() for values in runs.values())
            if system.name != self.grid.compare and ours is not None and every:
                entry["ahead"] = self._ahead(ours, runs, labels, counts)
            systems[system.name] = entry
        return rounded(
            {
                "command": command,
                "machines": sorted(machines),
                "folds": [len(rows) for rows in self.folds],
                "documents": int(self.groups.max()) + 1,
                "compared": self.grid.compare,
                "systems": systems,
            }
        )

    def _ahead(
        self, ours: dict[int | None, Array], theirs: dict[int | None, Array], labels: Array, counts: Array
    ) -> dict[str, Any]:
        """Ours minus theirs, seed by seed where theirs has seeds: the mean with its interval, and how often above 0."""
        pairs = [
            (values, theirs.get(seed, theirs.get(None)))
            for seed, values in ours.items()
            if seed in theirs or None in theirs
        ]
        whole = np.ones((1, counts.shape[1]))
        gaps: dict[str, Any] = {}
        for name in FIGURES:
            point, drawn = (
                np.stack(
                    [
                        weighted_figures(one, labels, weights, self.groups)[name].mean(axis=1)
                        - weighted_figures(other, labels, weights, self.groups)[name].mean(axis=1)
                        for one, other in pairs
                    ]
                )
                for weights in (whole, counts)
            )
            low, high = np.percentile(drawn.mean(axis=0), [2.5, 97.5])
            gaps[name] = {"mean": float(point.mean()), "low": float(low), "high": float(high)}
            if len(pairs) > 1:
                gaps[name]["sd"] = float(point[:, 0].std(ddof=1))
        by_fold = [
            metrics.mean_pearson(one[rows], labels[rows]) - metrics.mean_pearson(other[rows], labels[rows])
            for one, other in pairs
            for rows in self.folds
        ]
        return gaps | {"runs": len(by_fold), "runs_above": int(np.sum(np.array(by_fold) > 0))}


def markdown(table: dict[str, Any]) -> str:
    """The table for people."""
    ours = table["compared"]
    heads = ["system", "r V / A / D", "mean r", "CCC", "MAE", f"Δr of {ours} over it [95%]", "ΔCCC", "ΔMAE"]
    heads += ["folds and seeds with Δr > 0", "seeds"]
    lines = [line(heads), line(["---"] * len(heads))]
    for name, row in table["systems"].items():
        gap = row.get("ahead")
        cells = [f"**{name}**" if row["ours"] else name, three(row["r"]), with_sd(row["r"]), with_sd(row["ccc"])]
        cells.append(number(row["mae"]["mean"], 4))
        if gap:
            cells += [interval(gap["r"]), interval(gap["ccc"]), interval(gap["mae"], 4)]
            cells.append(f"{gap['runs_above']} of {gap['runs']}")
        else:
            cells += ["-"] * 4
        lines.append(line([*cells, ", ".join(map(str, row["seeds"])) or "-"]))
    lines += [
        "",
        f"`{table['command']}`; {' and '.join(table['machines'])}; EmoBank, {sum(table['folds']):,} sentences in "
        f"{len(table['folds'])} folds of whole documents; the out-of-fold predictions of each seed measured as one, "
        f"mean ± sd over the seeds. Δ: {ours} minus it, the mean over the seeds, 95% of {RESAMPLES:,} paired "
        f"bootstrap resamples of the {table['documents']} documents.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Cross-validate the heads of a grid over all of EmoBank.")
    parser.add_argument("--grid", type=Path, default=GRID, help="a file of scripts/grids/ (%(default)s)")
    parser.add_argument("--folds", type=int, default=5, help="number of folds (%(default)s)")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="whole numbers with commas (%(default)s)")
    parser.add_argument("--only", action="append", metavar="NAME", help="run this system alone; may be repeated")
    add_folders(parser, "runs/cross_validation")
    given = parser.parse_args(arguments)
    seeds = read_seeds(parser, given.seeds)
    try:
        grid = Grid.from_yaml(given.grid)
        systems = grid.chosen(given.only)
        if grid.recipe.data.dataset != "emobank":
            raise ValueError(f"{given.grid}: the folds are made of EmoBank's documents; its recipe reads other data.")
        for system in systems:
            if system.kind == "trial" or (system.kind in WITH_RECIPE and (system.recipe or grid.recipe).distill):
                raise ValueError(
                    f"{given.grid}: {system.name!r} learns from teachers or from rows of the official training split, "
                    "and these hold sentences of every fold. It can't be cross-validated."
                )
        study = CrossValidation(grid, Sentences.load(grid.recipe), given.folds, given.work)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    command = ["python", "scripts/cross_validation.py"]
    for option, standard in (("grid", GRID), ("folds", 5), ("seeds", "0,1,2,3,4")):
        if getattr(given, option) != standard:
            command += [f"--{option}", str(getattr(given, option))]

    # Seed by seed, so that a command that is stopped leaves whole seeds.
    for place in range(len(seeds)):
        study.run(seeds[: place + 1], systems)
        table = study.table(seeds[: place + 1], shlex.join(command))
        save(given.results, grid.name, table, markdown(table))
    print(markdown(table))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
