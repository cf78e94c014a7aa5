"""`liminal train`: a recipe to a checkpoint; and the table of metrics."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ..modeling.errors import LiminalError
from .shared import shown

FEELINGS = (
    "Hope = 1 - MAE; Faith = root of the mean confidence; Love = exp(-MSE) x (1 - variance of the predictions). "
    "Faith+ = rank correlation of confidence and minus the error, 0 is chance; Love+ = skill over a constant, 1 is "
    "perfect."
)
_COLUMNS = {"r": "pearson", "CCC": "ccc", "MAE": "mae", "RMSE": "rmse", "SD ratio": "sd_ratio"}


def train(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="A YAML file; the ready ones are in hub_configs/.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run.", show_default="runs/<recipe>")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.", show_default=False)] = None,
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted run, or start it anew.")] = True,
    example: Annotated[bool, typer.Option("--example", help="Print a recipe with every key, and stop.")] = False,
) -> None:
    """Train what a recipe says. To begin: liminal train --example > my.yaml"""
    if example:
        from ..training.recipe import example_recipe

        print(example_recipe(), end="")
        return
    if recipe is None:
        raise LiminalError("Name a recipe: liminal train my.yaml. To get one: liminal train --example > my.yaml")
    from ..training.fit import fit

    folder = output or Path("runs") / (recipe.stem if seed is None else f"{recipe.stem}-seed{seed}")
    result = fit(recipe, folder, seed=seed, resume="auto" if resume else "never")
    console = Console()
    for split in ("validation", "test"):
        if split in result.metrics:
            console.print(metrics_table(split, result.metrics[split]))
            console.print(FEELINGS, style="dim")
    print(f"The checkpoint is in {folder / 'model'}. Next: liminal evaluate {folder}")


def metrics_table(
    title: str,
    metrics: dict[str, float],
    constant: dict[str, float] | None = None,
    ceiling: dict[str, float] | None = None,
) -> Table:
    """A row per target; with a constant its errors beside the model's, with a ceiling r's share of it."""
    feelings = "   ".join(
        f"{name.title()}{sign} {shown(metrics[key], 3)}"
        for sign, end in (("", ""), ("+", "_plus"))
        for name in ("hope", "faith", "love")
        if (key := name + end) in metrics
    )
    table = Table(title=title, caption=feelings, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.title_justify = table.caption_justify = "left"
    table.add_column("", no_wrap=True)
    targets = [key.removeprefix("pearson_") for key in metrics if key.startswith("pearson_") and key != "pearson_mean"]
    for heading, name in _COLUMNS.items():
        table.add_column(heading, justify="right")
        if ceiling is not None and name == "pearson":
            table.add_column("ceiling", justify="right", style="dim")
        if constant is not None and name in ("mae", "rmse"):
            table.add_column("const.", justify="right", style="dim")
    for target in (*targets, "mean"):
        cells = []
        for name in _COLUMNS.values():
            value = metrics.get(f"{name}_{target}")
            cells.append(shown(value))
            if ceiling is not None and name == "pearson":
                top = ceiling.get(target)
                cells.append("-" if top is None or value is None else f"{top:.2f} {100 * value / top:3.0f}%")
            if constant is not None and name in ("mae", "rmse"):
                cells.append(shown(constant.get(f"{name}_{target}")))
        table.add_row(target, *cells, end_section=bool(targets) and target == targets[-1])
    return table
