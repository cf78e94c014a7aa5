"""`liminal evaluate --unlabelled`: how well a model may do on texts that nobody has labelled."""

import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..modeling.errors import LiminalError
from .shared import load, print_json, progress, report, shown, table_settings


def expect(checkpoint: str, data: str | None, options: dict[str, Any], as_json: bool) -> None:
    """Prints what r to expect on the texts of a table.

    Args:
        checkpoint: as the command takes it.
        data: the table.
        options: how the table is read, fields of `TableSettings`; None where not typed.
        as_json: one JSON object instead of a table.

    Raises:
        LiminalError: no table was given, fewer than two of its texts can be read, or the model has no uncertainty.
    """
    from ..data import read_table
    from ..expectation import expected_interval, expected_pearson
    from ..inference import read
    from ..modeling.texts import text_error

    if data in (None, "emobank"):
        raise LiminalError("--unlabelled reads the texts of a table: --data TABLE (.csv, .xlsx, ...).")
    table = read_table(data, table_settings(**options))
    texts = [
        text
        for text, error in zip(table.texts, table.errors, strict=True)
        if error is None and text_error(text) is None
    ]
    _check_number(len(texts), data)
    model, tokenizer = load(checkpoint)
    answer = read(
        model, tokenizer, texts, batch_size=64, outputs=("logits", "uncertainty", "in_domain"),
        progress=lambda batches: progress(batches, len(batches), "Reading"),
    )  # fmt: skip
    if "uncertainty" not in answer:
        raise LiminalError(
            f"{checkpoint} has a head without uncertainty, so nothing can be said without labels. Give labels, or "
            "train a head v7."
        )
    kept = ~answer["unreadable"]
    _check_number(int(kept.sum()), data)
    inside = float(answer["in_domain"][kept].mean()) if "in_domain" in answer else None
    promised = expected_pearson(answer["logits"][kept], answer["uncertainty"][kept])
    found: dict[str, dict[str, float]] = {}
    for name, value, trained in zip(model.config.targets, promised, model.config.trained_targets, strict=True):
        if trained:
            middle, low, high = expected_interval(float(value), int(kept.sum()), inside is None or inside >= 0.5)
            found[name] = {"r": middle, "low": low, "high": high}
    counts = {"rows": len(table), "read": int(kept.sum()), "truncated": int(answer["truncated"].sum())}
    report(counts["truncated"], counts["rows"], "longer than the model reads, the end was left out")
    report(counts["rows"] - counts["read"], counts["rows"], "empty or not readable, and left out")
    if as_json:
        print_json({"checkpoint": checkpoint, "data": data, **counts, "in_domain": inside, "expected": found})
        return
    view = Table(title=f"{checkpoint} on {data} ({counts['read']:,} texts)", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("", "r to expect", "80% interval"):
        view.add_column(heading, justify="right" if heading else "left")
    for name, value in found.items():
        view.add_row(name, shown(value["r"], 2), f"{shown(value['low'], 2)} to {shown(value['high'], 2)}")
    Console().print(view)
    if inside is not None and inside < 0.5:
        print(
            f"Most of these texts are unlike the training texts (mean in_domain {shown(inside, 2)}).", file=sys.stderr
        )
    print(
        "Estimated without labels, from the model's uncertainties. The interval is from corpora of other texts and "
        "raters. For labels that texts hardly show, such as a writer's own arousal, r lies below it. 200 labelled "
        "texts say more."
    )


def _check_number(texts: int, data: str | None) -> None:
    if texts < 2:
        what = "one text" if texts else "no text"
        raise LiminalError(f"{data} has {what} that can be read; --unlabelled needs two or more.")
