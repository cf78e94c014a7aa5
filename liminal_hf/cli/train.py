"""`liminal train` and `liminal evaluate`: a recipe to a checkpoint, a checkpoint against labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from .shared import Checkpoint, figure, load, print_json, progress

if TYPE_CHECKING:
    import numpy as np

    from ..modeling.modeling_liminal import LiminalForPADRegression

_SPLITS = {"dev": "validation", "valid": "validation"}


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file; the ready ones are in hub_configs/.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run.", show_default="runs/<recipe>")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.", show_default=False)] = None,
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted run, or start it anew.")] = True,
) -> None:
    """Train what a recipe says."""
    from ..training.fit import fit

    folder = output or Path("runs") / (recipe.stem if seed is None else f"{recipe.stem}-seed{seed}")
    result = fit(recipe, folder, seed=seed, resume="auto" if resume else "never")
    console = Console()
    for split in ("validation", "test"):
        if split in result.metrics:
            console.print(_metrics_table(split, result.metrics[split]))
    print(f"The checkpoint is in {folder / 'model'}. Next: liminal evaluate {folder}")


def evaluate(
    checkpoint: Checkpoint,
    data: Annotated[str, typer.Option(help='"emobank", or a CSV, TSV, Parquet or JSON-lines file.')] = "emobank",
    split: Annotated[str, typer.Option(help="Which part of EmoBank: train, validation or test.")] = "test",
    text: Annotated[str, typer.Option(help="Column of a file with the text.")] = "text",
    labels: Annotated[str, typer.Option(help="Columns of a file with pleasure, arousal and dominance.")] = "V,A,D",
    scale: Annotated[str, typer.Option(help="Lowest and highest possible label in a file.")] = "1,5",
    train: Annotated[
        Path | None,
        typer.Option(help="The table that the model was trained on: texts in both are told apart.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Also write every text's prediction: .jsonl, .csv or .parquet.", show_default=False),
    ] = None,
) -> None:
    """Compare a checkpoint with labels, beside a constant.

    Texts that also stand in another part of the data are counted, and the figures given without them.
    """
    import numpy as np
    from transformers import EvalPrediction

    from ..figures import write_predictions
    from ..figures.files import check_format
    from ..metrics import make_compute_metrics

    if predictions is not None:
        check_format(predictions)
    split = _SPLITS.get(split, split)
    texts, gold, mean, elsewhere = _labelled(data, split, text, labels, scale, train)
    model, tokenizer = load(checkpoint)
    found = _predict(model, tokenizer, texts)
    outputs = [name for name in ("logits", "confidences", "uncertainty") if name in found]
    given = tuple(found[name] for name in outputs)
    metrics = make_compute_metrics(outputs)(EvalPrediction(predictions=given, label_ids=gold))
    constant = np.broadcast_to(model.config.label_mean if mean is None else mean, gold.shape)
    baseline = make_compute_metrics(["logits"])(EvalPrediction(predictions=constant, label_ids=gold))
    leaked = np.array([one in elsewhere for one in texts])
    leak: dict[str, Any] = {"rows": int(leaked.sum())}
    if 0 < leak["rows"] < len(texts):
        kept = EvalPrediction(predictions=tuple(values[~leaked] for values in given), label_ids=gold[~leaked])
        leak["metrics_without"] = make_compute_metrics(outputs)(kept)
    if predictions is not None:
        write_predictions(predictions, found.pop("logits"), gold=gold, text=texts, **found)
    if as_json:
        print_json(
            {"checkpoint": checkpoint, "data": data, "split": split, "rows": len(texts), "metrics": metrics,
             "constant": baseline, "leak": leak}
        )  # fmt: skip
        return
    title = f"{checkpoint} on {data}" + (f", {split}" if data == "emobank" else "") + f" ({len(texts):,} texts)"
    Console().print(_metrics_table(title, metrics, baseline))
    if leak["rows"]:
        print(f"{leak['rows']} of these texts also stand in another part of the data.", end=" ")
        without = leak.get("metrics_without", {})
        names = {"r": "pearson_mean", "CCC": "ccc_mean", "MAE": "mae_mean"}
        print(f"Without them: {', '.join(f'mean {title} {figure(without.get(n))}' for title, n in names.items())}.")
    if predictions is not None:
        print(f"The predictions are in {predictions}.")


def _labelled(
    data: str, split: str, text: str, labels: str, scale: str, train: Path | None
) -> "tuple[list[str], np.ndarray, np.ndarray | None, set[str]]":
    """Texts, labels, the mean of the training labels where they are known, and the texts of the other parts."""
    import numpy as np

    from ..data import load_emobank, load_table

    if data == "emobank":
        corpus = load_emobank()
        if split not in corpus:
            raise ValueError(f"EmoBank has no split {split!r}. It has: {', '.join(corpus)}.")
        mean = np.asarray(corpus["train"]["labels"], dtype=np.float64).mean(0)
        elsewhere = {one for name in corpus if name != split for one in corpus[name]["text"]}
        return list(corpus[split]["text"]), np.asarray(corpus[split]["labels"], dtype=np.float64), mean, elsewhere
    try:
        low, high = (float(end) for end in scale.split(","))
    except ValueError:
        raise ValueError(f"--scale takes the lowest and the highest label, such as 1,5; got {scale!r}.") from None
    columns = [name.strip() for name in labels.split(",")]
    settings: dict[str, Any] = {"text": text, "labels": columns, "scale": (low, high)}
    rows = load_table({"test": data}, **settings)["test"]
    gold = np.asarray(rows["labels"], dtype=np.float64)
    if train is None:
        return list(rows["text"]), gold, None, set()
    from ..modeling.configuration_liminal import MISSING_LABEL

    known = load_table({"train": train}, **settings, validation_fraction=0)["train"]
    mean = np.ma.masked_equal(np.asarray(known["labels"], dtype=np.float64), MISSING_LABEL).mean(0).filled(0)
    return list(rows["text"]), gold, mean, set(known["text"])


def _metrics_table(title: str, metrics: dict[str, float], constant: dict[str, float] | None = None) -> Table:
    """Rows are dimensions; with a constant, its errors stand beside the model's."""
    from ..metrics import LEGEND
    from ..modeling.configuration_liminal import DIMENSIONS

    known = [name for name in ("hope", "faith", "love") if name in metrics]
    feelings = "   ".join(f"{name.title()} {metrics[name]:.3f}" for name in known) + f"\n{LEGEND}"
    table = Table(title=title, caption=feelings, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.title_justify = table.caption_justify = "left"
    table.add_column("", no_wrap=True)
    figures = [("r", "pearson"), ("CCC", "ccc"), ("MAE", "mae"), ("RMSE", "rmse"), ("SD ratio", "sd_ratio")]
    for heading, name in figures:
        table.add_column(heading, justify="right")
        if constant is not None and name in ("mae", "rmse"):
            table.add_column("const.", justify="right", style="dim")
    for dimension in (*DIMENSIONS, "mean"):
        cells = []
        for _, name in figures:
            cells.append(figure(metrics[f"{name}_{dimension}"]))
            if constant is not None and name in ("mae", "rmse"):
                cells.append(figure(constant[f"{name}_{dimension}"]))
        table.add_row(dimension, *cells, end_section=dimension == DIMENSIONS[-1])
    return table


def _predict(model: "LiminalForPADRegression", tokenizer: Any, texts: list[str]) -> dict[str, Any]:
    """The model's outputs for all texts, by name; what its head does not have is not there."""
    import numpy as np
    import torch

    # Texts of one length together: padding costs time.
    order = np.argsort([len(text) for text in texts], kind="stable")
    names = ("logits", "confidences", "uncertainty", "pad_trajectory", "step_attentions")
    found: dict[str, list[Any]] = {name: [] for name in names}
    batches = [order[start : start + 64] for start in range(0, len(order), 64)]
    for rows in progress(batches, len(batches), "Reading"):
        batch = tokenizer(
            [texts[row] for row in rows],
            padding=True,
            truncation=True,
            max_length=model.config.max_seq_length,
            return_tensors="pt",
        )
        with torch.inference_mode():
            output = model(**batch.to(model.device))
        for name, parts in found.items():
            if output.get(name) is not None:
                parts.append(output[name].float().cpu().numpy())
    back = np.argsort(order)
    return {name: np.concatenate(parts)[back] for name, parts in found.items() if parts}
