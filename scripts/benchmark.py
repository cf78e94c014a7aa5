"""The benchmark: runs the systems of a grid file, seed by seed, and writes one table of them.

Requires liminal_hf; scikit-learn for `ridge` and `svr`, vaderSentiment for `vader` (`pip install
'liminal_hf[benchmark]'`). Reads EmoBank as the recipe says (`LIMINAL_DATA_DIR`).

One system with one seed is a cell. Its predictions on dev and test are kept under `--work`, in a file that appears by
rename and is named after what they depend on: the recipe with its overrides, the texts and labels, the seed. So the
command can be stopped at any time, also by a kill, and goes on when it is given again; a cell whose teachers have other
weights by now is computed anew. After a change of the code or of an encoder in a folder, which the names do not show,
delete the folder. The table is written anew after
each cell, from the cells that are there; the row of a system that has none, or fewer seeds than the table under
`--results` shows, stays as it stands in that table, if it was measured with the same recipe and data. So one row can be
added without the other ones' hours. What a run of `fit` has logged stays beside the cells, in `runs/`, with the figures
of its predictions on test.

What a grid file may say stands in `research/grid.py`.
"""

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from research.cells import PARTS, Cell, Cells
from research.grid import BEST_PEER, Grid, System
from research.metrics import affine_calibrated_ccc
from research.report import (
    RESAMPLES,
    Array,
    add_folders,
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
from liminal_hf.modeling.configuration_liminal import MISSING_LABEL

HALTED = "each text's best, told its label"


class Benchmark(Cells):
    """The cells of a grid and their table."""

    def table(self, seeds: Sequence[int], command: str, earlier: dict[str, Any] | None = None) -> dict[str, Any]:
        """The rows of all systems that have a cell, as plain values.

        Args:
            seeds: of the cells.
            command: what made them.
            earlier: a table of this grid; its rows stay where they have more seeds than the cells that are there.
        """
        known = earlier or {"systems": {}, "compared_with": None, "readout": None}
        rows: dict[str, dict[str, Any]] = {}
        cells: dict[str, list[Cell]] = {}
        for system in self.grid.systems:
            paths = {path: None for path in (self.path(system, seed) for seed in seeds) if path.is_file()}
            row = known["systems"].get(system.name)
            if row and len(row.get("cells", [])) > len(paths) and self._holds(row, system):
                rows[system.name] = row | {"ours": system.ours}
            elif paths:
                cells[system.name] = [Cell.load(path) for path in paths]
                rows[system.name] = self._row(cells[system.name]) | {"ours": system.ours}
                rows[system.name] |= {"cells": [path.stem for path in paths]}
        reference = self._reference(rows)
        # One draw for all systems: what is compared is compared on the same sentences.
        counts = resample_counts(len(self.labels["test"]), RESAMPLES)
        # A difference that stands in the earlier table is one to the system of that name as it was then.
        before = known["systems"].get(reference, {}).get("cells", []) if known["compared_with"] == reference else []
        same = bool(before) and set(before) <= set(rows[reference]["cells"]) if reference else False
        for name, row in rows.items():
            if name not in cells:
                row["difference"] = row.get("difference") if same else None
            elif reference is not None:
                compared = name != reference and reference in cells
                row["difference"] = self._difference(cells[name], cells[reference], counts) if compared else None
        readout = known["readout"] if self.grid.readout in rows else None
        if self.grid.readout in cells:
            several = cells[self.grid.readout][0].test_steps is not None
            readout = self._read_out(cells[self.grid.readout]) if several else None
        return {
            "grid": self.grid.name,
            "command": command,
            "seeds": sorted({seed for row in rows.values() for seed in row["seeds"]}),
            "rows_dev": len(self.labels["validation"]),
            "rows_test": len(self.labels["test"]),
            "human_ceiling": rounded(self.ceiling),
            "compared_with": reference,
            "missing": [system.name for system in self.grid.systems if system.name not in rows],
            "systems": rounded(rows),
            "readout": rounded(readout),
        }

    def _holds(self, row: dict[str, Any], system: System) -> bool:
        """Whether a row of an earlier table is of this system as the grid has it now, on this data."""
        return row["cells"] == list(dict.fromkeys(self.path(system, seed).stem for seed in row["seeds"] or [0]))

    def _row(self, cells: list[Cell]) -> dict[str, Any]:
        dev, test = self.labels["validation"], self.labels["test"]
        named = {"r": metrics.pearson, "ccc": metrics.ccc, "mae": metrics.mae, "rmse": metrics.rmse}
        named["sd_ratio"] = metrics.sd_ratio
        row: dict[str, Any] = {}
        for name, figure in named.items():
            row[name] = summary([partly(figure, cell.test, test) for cell in cells])
        row["ccc_fitted"] = summary([_fitted_ccc(cell, dev, test) for cell in cells])
        row["dev_r"] = summary([partly(metrics.pearson, cell.dev, dev) for cell in cells])
        row["dev_ccc"] = summary([partly(metrics.ccc, cell.dev, dev) for cell in cells])
        if self.ceiling is not None:
            row["share_of_ceiling"] = None if row["r"]["mean"] is None else row["r"]["mean"] / self.ceiling["mean"]
        row["head_parameters"] = cells[0].about["head_parameters"]
        known = [cell.about["seconds"] for cell in cells if cell.about["seconds"] is not None]
        row["seconds"] = float(np.mean(known)) if known else None
        row["seeds"] = [cell.about["seed"] for cell in cells if cell.about["seed"] is not None]
        row["machines"] = sorted({cell.about["machine"] for cell in cells})
        row["chosen"] = cells[0].about.get("chosen")
        ranks = [cell.about["ranks_errors"] for cell in cells if "ranks_errors" in cell.about]
        if len(ranks) == len(cells):
            row["ranks_errors"] = {part: summary([np.array(one[part]) for one in ranks]) for part, _ in PARTS}
        return row

    def _reference(self, rows: dict[str, dict[str, Any]]) -> str | None:
        if self.grid.compare != BEST_PEER:
            return self.grid.compare if self.grid.compare in rows else None
        told = {system.name for system in self.grid.systems if system.kind == "leak"}
        others = [name for name, row in rows.items() if not row["ours"] and row["dev_r"]["mean"] is not None]
        others = [name for name in others if name not in told]
        return max(others, key=lambda name: rows[name]["dev_r"]["mean"]) if others else None

    def _difference(self, cells: list[Cell], others: list[Cell], counts: Array) -> dict[str, Any] | None:
        """Mean r on test minus the other system's, each the mean over the seeds that both have."""
        if np.isnan(cells[0].test).any():
            return None
        ours, theirs = ({cell.about["seed"] for cell in group} for group in (cells, others))
        common = ours & theirs
        if not common and None not in ours | theirs:
            return None
        if common - {None}:
            cells, others = ([cell for cell in group if cell.about["seed"] in common] for group in (cells, others))
        labels = self.labels["test"]
        whole = np.ones((1, len(labels)))
        point, drawn = (
            np.mean([weighted_figures(cell.test, labels, weights)["r"].mean(axis=1) for cell in cells], axis=0)
            - np.mean([weighted_figures(cell.test, labels, weights)["r"].mean(axis=1) for cell in others], axis=0)
            for weights in (whole, counts)
        )
        low, high = np.percentile(drawn, [2.5, 97.5])
        seeds = sorted(common - {None})
        return {"mean_r": float(point[0]), "low": float(low), "high": float(high)} | ({"seeds": seeds} if seeds else {})

    def _read_out(self, cells: list[Cell]) -> list[dict[str, Any]]:
        """After each step; at last after each text's best, than which no rule that halts has smaller squared errors."""
        parts: dict[int | str, list[tuple[Array, Array]]] = {
            place + 1: [(cell.dev_steps[:, place], cell.test_steps[:, place]) for cell in cells]
            for place in range(cells[0].test_steps.shape[1])
        }
        dev_labels, test_labels = self.labels["validation"], self.labels["test"]
        parts[HALTED] = [
            (best_of_steps(cell.dev_steps, dev_labels), best_of_steps(cell.test_steps, test_labels)) for cell in cells
        ]
        rows = []
        for step, found in parts.items():
            figures = {
                name: summary([measure(test, test_labels) for _, test in found])
                for name, measure in (("r", metrics.pearson), ("ccc", metrics.ccc), ("mae", metrics.mae))
            }
            dev_r = summary([metrics.pearson(dev, dev_labels) for dev, _ in found])
            rows.append({"step": step, "dev_r": dev_r, **figures})
        return rows


def best_of_steps(steps: Array, labels: Array) -> Array:
    """`(rows, 3)` of `(rows, steps, 3)`: each text's step with the smallest squared error, in the labels' variances.

    Example:
        >>> best_of_steps(np.array([[[0.0, 0, 0], [1, 1, 1]]] * 2), np.array([[0.9, 1, 1], [0, 0.1, 0]])).tolist()
        [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """
    gold = np.ma.masked_equal(labels, MISSING_LABEL)
    error = (np.square(steps - gold[:, None]) / gold.var(axis=0)).sum(axis=2).filled(0.0)
    return np.asarray(steps[np.arange(len(steps)), error.argmin(axis=1)])


def _fitted_ccc(cell: Cell, dev: Array, test: Array) -> Array:
    absent = np.isnan(cell.test).all(axis=0)
    filled = [np.where(absent, 0.0, values) for values in (cell.dev, cell.test)]
    return np.where(absent, np.nan, affine_calibrated_ccc(filled[0], dev, filled[1], test))


def markdown(table: dict[str, Any]) -> str:
    """The table for people; every figure in it is in the JSON beside it."""
    reference = table["compared_with"]
    heads = ["system", "r V / A / D", "mean r", "dev r", f"Δr to {reference} [95%]", "CCC (fitted on dev)"]
    by_ccc = any("dev_ccc" in row for row in table["systems"].values())  # tables of before have none
    heads += [
        *(["dev CCC"] if by_ccc else []),
        "MAE",
        "RMSE",
        "SD ratio",
        "of ceiling",
        "head parameters",
        "CPU s",
        "seeds",
    ]
    ranked = any("ranks_errors" in row for row in table["systems"].values())
    if ranked:
        heads.insert(-3, "Spearman of uncertainty and error V / A / D (dev)")
    lines = [line(heads), line(["---"] * len(heads))]
    for name, row in table["systems"].items():
        gap = row.get("difference")
        span = "" if gap is None else f" [{number(gap['low'], 3, True)}, {number(gap['high'], 3, True)}]"
        if gap and gap.get("seeds", row["seeds"]) != row["seeds"]:
            span += f", seeds {', '.join(map(str, gap['seeds']))}"
        share = row.get("share_of_ceiling")
        cells = [
            f"**{name}**" if row["ours"] else name,
            three(row["r"]),
            with_sd(row["r"]),
            with_sd(row["dev_r"]),
            "-" if gap is None else number(gap["mean_r"], 3, True) + span,
            f"{number(row['ccc']['mean'])} ({number(row['ccc_fitted']['mean'])})",
            *([number(row["dev_ccc"]["mean"]) if "dev_ccc" in row else "-"] if by_ccc else []),
            number(row["mae"]["mean"], 4),
            number(row["rmse"]["mean"], 4),
            number(row["sd_ratio"]["mean"], 2),
            "-" if share is None else f"{share:.0%}",
            "-" if row["head_parameters"] is None else f"{row['head_parameters']:,}",
            "-" if row["seconds"] is None else f"{row['seconds']:.0f}",
            ", ".join(map(str, row["seeds"])) or "-",
        ]
        if ranked:
            ranks = row.get("ranks_errors")
            cells.insert(-3, f"{three(ranks['test'])} ({number(ranks['dev']['mean'])})" if ranks else "-")
        lines.append(line(cells))
    ceiling = table["human_ceiling"]
    lines += ["", _note(table)]
    if ceiling is not None:
        lines[-1] += f" Human ceiling: r {three(ceiling)}, mean {number(ceiling['mean'])}."
    if table["missing"]:
        lines[-1] += f" Not run yet: {'; '.join(table['missing'])}."
    if table["readout"]:
        heads = ["read out after step", "dev mean r", "test mean r", "r V / A / D", "CCC", "MAE"]
        lines += ["", line(heads), line(["---"] * len(heads))]
        for step in table["readout"]:
            figures = [with_sd(step["dev_r"]), with_sd(step["r"]), three(step["r"]), number(step["ccc"]["mean"])]
            lines.append(line([str(step["step"]), *figures, number(step["mae"]["mean"], 4)]))
    return "\n".join(lines) + "\n"


def _note(table: dict[str, Any]) -> str:
    seeds = ", ".join(map(str, table["seeds"])) or "none"
    where: dict[str, list[str]] = {}
    for name, row in table["systems"].items():
        where.setdefault(" and ".join(row["machines"]), []).append(name)
    usual, *others = sorted(where, key=lambda machine: -len(where[machine]))
    machines = "; ".join([usual, *(f"{', '.join(where[machine])}: {machine}" for machine in others)])
    return (
        f"`{table['command']}`; {machines}; seeds {seeds}; {table['rows_test']:,} test sentences. "
        f"Δr: difference of the mean r on test, 95% of {RESAMPLES:,} paired bootstrap resamples (no seed variance in "
        f"it), over the seeds that both had. CPU s: processor seconds of training, the encoder's states at hand."
    )


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Run a benchmark grid and write its table.")
    parser.add_argument("grid", type=Path, help="a file of scripts/grids/")
    parser.add_argument("--seeds", default="0,1,2", help="whole numbers with commas (default: %(default)s)")
    add_folders(parser, "runs/benchmark")
    parser.add_argument("--only", action="append", metavar="NAME", help="run this system alone; may be repeated")
    given = parser.parse_args(arguments)
    seeds = read_seeds(parser, given.seeds)
    try:
        grid = Grid.from_yaml(given.grid)
        systems = grid.chosen(given.only)
        benchmark = Benchmark(grid, given.work)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    command = shlex.join(["python", "scripts/benchmark.py", given.grid.as_posix(), "--seeds", given.seeds])
    before = given.results / f"{grid.name}.json"
    earlier = json.loads(before.read_text(encoding="utf-8")) if before.is_file() else None

    def save_table() -> None:
        table = benchmark.table(seeds, command, earlier)
        save(given.results, grid.name, table, markdown(table))

    untaught = benchmark.untaught(systems, seeds)
    benchmark.run([system for system in systems if system not in untaught], seeds, save_table)
    print(markdown(benchmark.table(seeds, command, earlier)))
    if untaught:
        print(
            f"Left out, as models that they learn from are not there: {'; '.join(s.name for s in untaught)}. `python "
            "scripts/build_default_checkpoint.py --teachers-only --recipe RECIPE`, with the recipe that the grid names "
            "for them, trains those models.",
            file=sys.stderr,
        )
    return 1 if untaught else 0


if __name__ == "__main__":
    # Not in main: who calls it keeps their own logging.
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
