"""`liminal evaluate`: a checkpoint against labels, beside a constant and beside people."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..modeling.errors import LiminalError
from .expect import expect
from .shared import (
    Checkpoint,
    Decimal,
    Encoding,
    Labels,
    Quotes,
    Scale,
    Separator,
    Sheet,
    TextColumn,
    load,
    print_json,
    progress,
    recipe_of,
    report,
    shown,
    table_settings,
)
from .train import FEELINGS, metrics_table

if TYPE_CHECKING:
    import numpy as np
    from datasets import DatasetDict

_SPLITS = {"dev": "validation", "valid": "validation", "val": "validation"}
_OUTPUTS = ("logits", "confidences", "uncertainty", "pad_trajectory", "step_attentions")


def evaluate(
    checkpoint: Checkpoint,
    data: Annotated[
        str | None,
        typer.Option(help='"emobank", or a table (.csv, .xlsx, ...).', show_default="the run's own data, or emobank"),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Of the run's data or of EmoBank: train, validation or test.", show_default="test"),
    ] = None,
    text: TextColumn = None,
    labels: Labels = None,
    scale: Scale = None,
    separator: Separator = None,
    encoding: Encoding = None,
    decimal: Decimal = None,
    sheet: Sheet = None,
    quotes: Quotes = None,
    train: Annotated[
        Path | None,
        typer.Option(help="The table that the model was trained on: texts in both are told apart.", show_default=False),
    ] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="The table has no labels: what r to expect, from the uncertainties.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Also write every text's prediction: .jsonl, .csv or .parquet.", show_default=False),
    ] = None,
) -> None:
    """Compare a checkpoint with labels, beside a constant, and on EmoBank beside what people reach.

    Texts that are also in another part of the data are counted, and the figures given without them. With --unlabelled
    no labels are needed: the model's uncertainties say what correlation to expect.
    """
    import numpy as np

    from ..figures import write_predictions
    from ..figures.files import check_format
    from ..inference import read

    options = {"text": text, "labels": labels, "scale": scale, "separator": separator, "encoding": encoding}
    options |= {"decimal": decimal, "sheet": sheet, "quotes": quotes}
    if unlabelled:
        unused = {"labels": labels, "scale": scale, "split": split, "train": train, "predictions": predictions}
        if clash := [name for name, value in unused.items() if value is not None]:
            raise LiminalError(f"--unlabelled uses no labels, so --{clash[0]} does not go with it.")
        expect(checkpoint, data, options, as_json)
        return
    if predictions is not None:
        check_format(predictions)
    model, tokenizer = load(checkpoint)
    targets = model.config.targets
    rows = _labelled(checkpoint, data, split and _SPLITS.get(split, split), options, train, targets)
    outputs = read(
        model, tokenizer, rows.texts, batch_size=64, outputs=_OUTPUTS,
        progress=lambda batches: progress(batches, len(batches), "Reading"),
    )  # fmt: skip
    truncated, _ = int(outputs.pop("truncated").sum()), outputs.pop("unreadable")
    trained = np.array(model.config.trained_targets)
    metrics = _metrics(outputs, rows.gold, targets, trained)
    mean = model.config.label_mean if rows.mean is None else rows.mean
    constant = _metrics({"logits": np.broadcast_to(mean, rows.gold.shape)}, rows.gold, targets, trained)
    leaked = np.array([one in rows.elsewhere for one in rows.texts])
    leak: dict[str, Any] = {"rows": int(leaked.sum())}
    if 0 < leak["rows"] < len(rows.texts):
        others = {name: values[~leaked] for name, values in outputs.items()}
        leak["metrics_without"] = _metrics(others, rows.gold[~leaked], targets, trained)
    if predictions is not None:
        logits = np.where(trained, outputs.pop("logits"), np.nan)
        columns: dict[str, Any] = dict(outputs)
        write_predictions(predictions, logits, targets=targets, gold=rows.gold, text=rows.texts, **columns)
    report(truncated, len(rows.texts), "longer than the model reads, the end was left out")
    if as_json:
        print_json(
            {"checkpoint": checkpoint, "data": rows.data, "split": rows.split, "rows": len(rows.texts),
             "truncated": truncated, "metrics": metrics, "constant": constant, "leak": leak,
             "human_ceiling": rows.ceiling}
        )  # fmt: skip
        return
    title = f"{checkpoint} on {rows.data}" + (f", {rows.split}" if rows.split else "") + f" ({len(rows.texts):,} texts)"
    console = Console()
    console.print(metrics_table(title, metrics, constant, rows.ceiling))
    console.print(FEELINGS, style="dim")
    if rows.ceiling:
        console.print("Ceiling: the highest r that people's own disagreement allows; in per cent: r's share of it.")
    if leak["rows"]:
        without = leak.get("metrics_without", {})
        names = {"r": "pearson_mean", "CCC": "ccc_mean", "MAE": "mae_mean"}
        figures = ", ".join(f"mean {name} {shown(without.get(key))}" for name, key in names.items())
        print(f"{leak['rows']} of these texts are also in another part of the data. Without them: {figures}.")
    if predictions is not None:
        print(f"The predictions are in {predictions}.")


@dataclass
class _Labelled:
    """Texts with labels `(rows, T)`, the mean training label, the texts of the other parts, and people's ceiling."""

    data: str
    split: str | None
    texts: list[str]
    gold: "np.ndarray"
    mean: "np.ndarray | None" = None
    elsewhere: set[str] = field(default_factory=set)
    ceiling: dict[str, float] | None = None


def _labelled(
    checkpoint: str,
    data: str | None,
    split: str | None,
    options: dict[str, Any],
    train: Path | None,
    targets: list[str],
) -> _Labelled:
    from ..data import load_table

    recipe = recipe_of(checkpoint)
    own = recipe.data if recipe is not None and recipe.data.files is not None else None
    names = [*options, "validation_fraction"]
    typed = {name: value for name, value in options.items() if value is not None}
    # What the run's recipe says of its tables holds for another table, too.
    described = {name: getattr(own, name, None) for name in names} if own is not None else {}
    fraction: Any = described.pop("validation_fraction", 0)
    settings = table_settings(**{**described, **typed})
    if data is None and own is not None and own.files is not None:
        files = {str(name): path for name, path in own.files.items()}
        corpus = load_table(files, settings=settings, targets=targets, validation_fraction=fraction)
        return _of_splits("its own data", corpus, split, targets)
    if data in (None, "emobank"):
        if typed:
            raise LiminalError(f"--{next(iter(typed))} goes with a table: --data TABLE.")
        return _emobank(split, targets)
    if split is not None:
        raise LiminalError("--split is for EmoBank and for a run's own data. A table is read whole: leave --split out.")
    rows = load_table({"test": data}, settings=settings, targets=targets)["test"]
    found = _Labelled(data, None, list(rows["text"]), _array(rows["labels"]))
    if train is not None:
        known = load_table({"train": train}, settings=settings, targets=targets, validation_fraction=0)["train"]
        found.mean, found.elsewhere = _mean(known["labels"]), set(known["text"])
    return found


def _of_splits(data: str, corpus: "DatasetDict", split: str | None, targets: list[str]) -> _Labelled:
    split = split or ("test" if "test" in corpus else "validation")
    if split not in corpus:
        raise LiminalError(f"{data[0].upper()}{data[1:]} has no split {split!r}. It has: {', '.join(corpus)}.")
    elsewhere = {one for name in corpus if name != split for one in corpus[name]["text"]}
    gold = _array(corpus[split]["labels"])
    return _Labelled(data, split, list(corpus[split]["text"]), gold, _mean(corpus["train"]["labels"]), elsewhere)


def _emobank(split: str | None, targets: list[str]) -> _Labelled:
    import numpy as np

    from ..data import load_emobank
    from ..data.emobank import HUMAN_CEILING
    from ..modeling.configuration_liminal import DIMENSIONS, MISSING_LABEL

    columns = [DIMENSIONS.index(name) if name in DIMENSIONS else None for name in map(_as_pleasure, targets)]
    if columns == [None] * len(columns):
        raise LiminalError(
            f"EmoBank has labels of {', '.join(DIMENSIONS)}; this model's targets are {', '.join(targets)}. Give your "
            "own table: --data TABLE --labels ..."
        )
    rows = _of_splits("emobank", load_emobank(), split, targets)
    empty = np.full(len(rows.texts), MISSING_LABEL, dtype=np.float64)
    rows.gold = np.stack([empty if column is None else rows.gold[:, column] for column in columns], axis=1)
    if rows.mean is not None:
        rows.mean = np.array([0.0 if column is None else rows.mean[column] for column in columns])
    rows.ceiling = {name: HUMAN_CEILING[known] for name in targets if (known := _as_pleasure(name)) in HUMAN_CEILING}
    rows.ceiling["mean"] = sum(rows.ceiling.values()) / len(rows.ceiling)
    return rows


def _as_pleasure(name: str) -> str:
    return "pleasure" if name == "valence" else name


def _array(labels: Any) -> "np.ndarray":
    import numpy as np

    return np.asarray(labels[:], dtype=np.float64)


def _mean(labels: Any) -> "np.ndarray":
    import numpy as np

    from ..modeling.configuration_liminal import MISSING_LABEL

    return np.ma.masked_equal(_array(labels), MISSING_LABEL).mean(0).filled(0)


def _metrics(
    outputs: "dict[str, np.ndarray]", gold: "np.ndarray", targets: list[str], trained: "np.ndarray"
) -> dict[str, float]:
    """The metrics of the targets that were trained and have labels."""
    from transformers import EvalPrediction

    from ..metrics import make_compute_metrics
    from ..modeling.configuration_liminal import MISSING_LABEL

    measured = trained & (gold != MISSING_LABEL).any(axis=0)
    if not measured.any():
        raise LiminalError("There is no label of a target that the model was trained on.")
    names = [name for name in ("logits", "confidences", "uncertainty") if name in outputs]
    values = tuple(outputs[name] if name == "confidences" else outputs[name][:, measured] for name in names)
    chosen = [name for name, one in zip(targets, measured, strict=True) if one]
    return make_compute_metrics(names, chosen)(EvalPrediction(predictions=values, label_ids=gold[:, measured]))
