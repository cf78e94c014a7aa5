"""A table of finished runs: what `liminal train` measured on the development and the test split.

    liminal train hub_configs/mpnet6-emobank.yaml -o runs/mpnet6-emobank-0
    python scripts/runs.py mpnet runs/mpnet6-emobank-0 runs/mpnet6-emobank-lora-0

Runs of one recipe are one row: means over their seeds. Rows of other recipes that the page has already stay. Requires
liminal_hf.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from research.report import RESULTS, line, number, rounded, save

from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.training.run_folder import RunFolder

FIGURES = ("pearson_mean", "ccc_mean", "mae_mean")
_BY_SEED = ("pearson_mean", *(f"pearson_{name}" for name in DIMENSIONS))


def collect(runs: list[Path]) -> dict[str, Any]:
    """The figures of runs by recipe.

    Args:
        runs: folders of `liminal train`.

    Raises:
        FileNotFoundError: a run is not finished.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        metrics = json.loads(RunFolder(run).metrics.read_text(encoding="utf-8"))
        rows.setdefault(metrics["recipe"], []).append(metrics)
    table = {}
    for name, found in rows.items():
        means = {
            split: {key: float(np.mean([one[split][key] for one in found])) for key in found[0][split]}
            for split in ("validation", "test")
        }
        table[name] = {
            **{split: {key: means[split][key] for key in FIGURES} for split in means},
            "r": [means["test"][f"pearson_{name}"] for name in DIMENSIONS],
            "interval": found[0]["intervals"]["test"]["pearson_mean"],
            "parameters": found[0]["parameters"],
            "trained": [phase["trainable_parameters"] for phase in found[0]["phases"]],
            "seeds": [one["seed"] for one in found],
            "by_seed": [
                {split: {key: one[split][key] for key in _BY_SEED} for split in ("validation", "test")} for one in found
            ],
            "minutes": float(np.mean([one["seconds"] for one in found])) / 60,
            "machine": found[0]["hardware"],
        }
    return table


def markdown(report: dict[str, Any]) -> str:
    """The table for people."""
    heads = ["recipe", "parameters", "dev r", "test r V / A / D", "test r", "95% (first seed)", "CCC", "MAE", "seeds"]
    lines = [line(heads), line(["---"] * len(heads))]
    for name, row in report["runs"].items():
        low, high = (number(end) for end in row["interval"])
        test = row["test"]
        cells = [name, f"{row['parameters'] / 1e6:.0f}M", number(row["validation"]["pearson_mean"])]
        cells += [" / ".join(number(value) for value in row["r"]), number(test["pearson_mean"]), f"{low} to {high}"]
        cells += [number(test["ccc_mean"]), number(test["mae_mean"], 4), ", ".join(map(str, row["seeds"]))]
        lines.append(line(cells))
    return "\n".join([*lines, "", *(f"`{command}`\n" for command in report["commands"])])


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Make a table of finished runs.")
    parser.add_argument("name", help="of the page")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of `liminal train`")
    parser.add_argument("--results", type=Path, default=RESULTS, help="gets the table (%(default)s)")
    given = parser.parse_args(arguments)
    command = " ".join(["python scripts/runs.py", given.name, *(f"runs/{run.name}" for run in given.runs)])
    page = given.results / f"{given.name}.json"
    earlier = json.loads(page.read_text(encoding="utf-8")) if page.is_file() else {"runs": {}, "commands": []}
    found = collect(given.runs)
    commands = [one for one in earlier.get("commands", [earlier.get("command")]) if one and one != command]
    report = rounded({"commands": [*commands, command], "runs": {**earlier["runs"], **found}})
    save(given.results, given.name, report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
