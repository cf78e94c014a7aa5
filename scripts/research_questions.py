"""Do Hope, Faith and Love tell anything about generalisation beyond loss and MAE? Over many finished runs.

Requires liminal_hf and the folders of finished runs, with `metrics.json` (of which `test` is needed), `recipe.yaml` and
`emotional_log.csv`: those of `liminal train`, and what `scripts/benchmark.py` keeps under `runs/benchmark/runs`.

    python scripts/research_questions.py runs/benchmark/runs

Hope, Faith, Love, loss and MAE are those of the development split, as the emotional log has them, at the epoch with the
best development r and at the last one. What they should tell is the mean r on test, and test r - development r. For
each, Pearson's correlation over the runs, and the partial correlation given loss and MAE. Hope is 1 - MAE, so there is
nothing of it beyond MAE, by definition: it is given the loss alone. Losses of different objectives can't be compared,
nor confidences of different heads, so all of it is done three times: over all runs as they are, with the mean of the
runs of one head and objective taken off, and with the mean of each recipe taken off, which leaves the seeds. Intervals
are bootstraps over recipes. The other questions are answered by `grids/ablations.yaml`, `conversations.py` and
`transfer.py`.
"""

import argparse
import csv
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from research.report import RESULTS, Array, content_hash, interval, line, number, rounded, save

MEASURES = ("hope", "faith", "love")
EPOCHS = ("best", "last")
OUTCOMES = {"test_r": "test r", "gap": "test r - dev r"}
LEVELS = {
    "all runs": None,
    "within one head and objective": "objective",
    "within one recipe, seeds alone": "recipe",
}
OBJECTIVE = ("head", "loss", "deep_supervision", "uncertainty_weight", "confidence_weight")
FEWEST = 8
RESAMPLES = 1000


@dataclass
class Run:
    """A finished run.

    Args:
        recipe: names the recipe without its seed.
        objective: names its head and what is minimised.
        test_r, dev_r: mean Pearson r.
        values: by epoch ("best", "last"): `loss`, `mae`, `hope`, `faith`, `love`; NaN for what the head does not have.
    """

    recipe: str
    objective: str
    test_r: float
    dev_r: float
    values: dict[str, dict[str, float]]

    @property
    def gap(self) -> float:
        """How much is lost from the development split to test."""
        return self.test_r - self.dev_r


def read_run(folder: Path) -> Run | None:
    """A run's folder; None where its test split was not measured or its weights are means over several trainings."""
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    phases = found["phases"]
    if "test" not in found or "seeds" in phases[-1]:
        return None
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    recipe = {name: value for name, value in recipe.items() if name not in ("seed", "name", "hub")}
    with (folder / "emotional_log.csv").open(newline="", encoding="utf-8") as file:
        log = [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]
    history = phases[-1]["history"]
    best = max(range(len(history)), key=lambda place: history[place]["eval_pearson_mean"])
    values = {}
    for epoch, place in (("best", best), ("last", len(history) - 1)):
        row, entry = log[len(log) - len(history) + place], history[place]
        values[epoch] = {"loss": row["validation_loss"], "mae": entry["eval_mae_mean"]}
        values[epoch] |= {name: row[name] for name in MEASURES}
    objective = {name: recipe["model"].get(name) for name in OBJECTIVE}
    return Run(
        content_hash(recipe),
        content_hash(objective),
        found["test"]["pearson_mean"],
        history[best]["eval_pearson_mean"],
        values,
    )


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Every run in or under the folders.

    Raises:
        ValueError: fewer than eight that can be used.
    """
    homes = sorted({path.parent for folder in folders for path in folder.rglob("metrics.json")})
    homes = [home for home in homes if (home / "emotional_log.csv").is_file() and (home / "recipe.yaml").is_file()]
    runs = [run for run in map(read_run, homes) if run is not None]
    if len(runs) < FEWEST:
        raise ValueError(
            f"{len(runs)} of the {len(homes)} runs found have figures on test; at least {FEWEST} are needed. Give more "
            "folders, such as runs/benchmark/runs after scripts/benchmark.py has run scripts/grids/ablations.yaml."
        )
    return runs


def partial_correlation(one: Array, other: Array, given: Array) -> float:
    """Pearson's correlation of what is left of two columns after a linear regression on others; NaN where nothing is.

    Args:
        one, other: `(rows,)`.
        given: `(rows, columns)`, none or more.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> a, b, c = generator.normal(size=(3, 1000))
        >>> round(partial_correlation(a + c, b + c, np.empty((1000, 0))), 1)
        0.5
        >>> round(partial_correlation(a, a + c, c[:, None]), 6)
        1.0
    """
    columns = np.column_stack([one, other])
    design = np.column_stack([np.ones(len(one)), given])
    # Columns of very different size would look alike to a solver.
    design = design / np.maximum(np.abs(design).max(axis=0), 1e-300)
    rest = columns - design @ np.linalg.lstsq(design, columns, rcond=None)[0]
    lengths = np.sqrt((rest**2).sum(axis=0))
    # What is left of a column that the others determine is rounding.
    if (lengths <= 1e-9 * np.sqrt(((columns - columns.mean(axis=0)) ** 2).sum(axis=0))).any():
        return float("nan")
    return float(rest[:, 0] @ rest[:, 1] / lengths.prod())


def correlations(runs: Sequence[Run], measure: str, epoch: str, level: str | None) -> dict[str, Any] | None:
    """The correlations of a measure with each outcome; None with fewer than eight runs that have the measure.

    Args:
        runs: all runs.
        measure, epoch: which value of theirs.
        level: "objective" or "recipe": what the means are taken off of; a run that is alone there says nothing.
    """
    used = [run for run in runs if np.isfinite([run.values[epoch][name] for name in (measure, "loss", "mae")]).all()]
    if level is not None:
        names = [getattr(run, level) for run in used]
        used = [run for run, name in zip(used, names, strict=True) if names.count(name) > 1]
    if len(used) < FEWEST:
        return None
    controls = ["loss"] if measure == "hope" else ["loss", "mae"]
    columns = {name: np.array([run.values[epoch][name] for run in used]) for name in (measure, *controls)}
    columns |= {name: np.array([getattr(run, name) for run in used]) for name in OUTCOMES}
    if level is not None:
        place = np.unique([getattr(run, level) for run in used], return_inverse=True)[1]
        sizes = np.bincount(place)
        columns = {name: values - (np.bincount(place, values) / sizes)[place] for name, values in columns.items()}
    groups = np.unique([run.recipe for run in used], return_inverse=True)[1]
    members = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
    generator = np.random.default_rng(0)
    draws = [generator.integers(len(members), size=len(members)) for _ in range(RESAMPLES)]
    samples = [np.concatenate([members[group] for group in draw]) for draw in draws]
    found: dict[str, Any] = {"runs": len(used), "recipes": len(members), "given": controls}
    given = np.column_stack([columns[name] for name in controls])
    for outcome in OUTCOMES:
        found[outcome] = {}
        for kind, others in (("plain", given[:, :0]), ("partial", given)):
            value = partial_correlation(columns[measure], columns[outcome], others)
            drawn = [
                partial_correlation(columns[measure][rows], columns[outcome][rows], others[rows]) for rows in samples
            ]
            low, high = np.nanpercentile(drawn, [2.5, 97.5]) if np.isfinite(drawn).any() else (np.nan, np.nan)
            figure = {"mean": value, "low": float(low), "high": float(high)}
            found[outcome][kind] = figure if np.isfinite(list(figure.values())).all() else None
    return found


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    heads = ["over", "measure", "epoch", "runs (recipes)"]
    for title in OUTCOMES.values():
        heads += [f"with {title}", "given loss and MAE"]
    lines = [line(heads), line(["---"] * len(heads))]
    for row in report["rows"]:
        cells = [row["level"], row["measure"].title(), row["epoch"]]
        found = row["found"]
        if found is None:
            lines.append(line([*cells, "too few", "-", "-", "-", "-"]))
            continue
        cells.append(f"{found['runs']} ({found['recipes']})")
        for outcome in OUTCOMES:
            plain, partial = found[outcome]["plain"], found[outcome]["partial"]
            cells.append("-" if plain is None else number(plain["mean"], 2, True))
            cells.append(
                "-" if partial is None else interval(partial, 2) + (" *" if found["given"] == ["loss"] else "")
            )
        lines.append(line(cells))
    lines += [
        "",
        f"`{report['command']}`; {report['runs']} runs of {report['recipes']} recipes; Pearson's correlation, and "
        f"partial correlation with 95% of {RESAMPLES:,} bootstrap resamples of the recipes. Hope, Faith, Love, loss "
        "and MAE are of the development split. \\* given the loss alone: Hope is 1 - MAE.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="What Hope, Faith and Love tell beyond loss and MAE.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a run, or a folder of runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="gets the table (%(default)s)")
    given = parser.parse_args(arguments)
    try:
        runs = find_runs(given.folders)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    folders = [path.name if path.is_absolute() else path.as_posix() for path in given.folders]
    rows = [
        {"level": title, "measure": measure, "epoch": epoch, "found": correlations(runs, measure, epoch, level)}
        for title, level in LEVELS.items()
        for measure in MEASURES
        for epoch in EPOCHS
    ]
    report = {
        "command": shlex.join(["python", "scripts/research_questions.py", *folders]),
        "runs": len(runs),
        "recipes": len({run.recipe for run in runs}),
        "rows": rows,
    }
    report = rounded(report)
    save(given.results, "hope_faith_love", report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
