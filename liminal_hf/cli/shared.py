"""What several commands share: options, the checkpoint to load, progress, JSON without NaN.

Requires typer and rich; torch and transformers are imported when a model is loaded.
"""

import json
import math
import re
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from typer.core import TyperCommand

from ..modeling.errors import LiminalError

if TYPE_CHECKING:
    from ..data import TableSettings
    from ..modeling.modeling_liminal import LiminalForPADRegression
    from ..training.recipe import Recipe

Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="A checkpoint's folder, a run's folder, a Hub id, minilm or mpnet.")
]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A checkpoint's folder, a Hub id, minilm or mpnet.", show_default="minilm"),
]
# A second model, see `liminal_hf.scoring.Cascade`.
Then = Annotated[
    str | None,
    typer.Option(help="A second model, for what the first is unsure of, such as mpnet.", show_default=False),
]
Budget = Annotated[
    float | None,
    typer.Option(help="With --then: time it may take, in times of the first model's.", show_default=False),
]
Threshold = Annotated[
    float | None, typer.Option(help="With --then, not --budget: doubt to read again from.", show_default=False)
]
# How a table is read: the same options in every command that reads one, with the names of `TableSettings`.
TextColumn = Annotated[str | None, typer.Option("--text", help="Column of a table with the text.", show_default="text")]
Labels = Annotated[
    str | None,
    typer.Option(help="Columns with the labels: V,A,D in the targets' order, or pleasure=V,...", show_default="V,A,D"),
]
Scale = Annotated[str | None, typer.Option(help="Lowest and highest possible label.", show_default="1,5")]
Separator = Annotated[
    str | None,
    typer.Option(help="Between the cells of a CSV: tab, or ;", show_default="found in the file"),
]
Encoding = Annotated[str | None, typer.Option(help="Of a text file: cp1252, ...", show_default="found in the file")]
Decimal = Annotated[str | None, typer.Option(help="Decimal mark, . or ,", show_default="found in the file")]
Sheet = Annotated[
    str | None, typer.Option(help="Of an Excel file, by name or number.", show_default="the one that fits")
]
Quotes = Annotated[
    str | None,
    typer.Option(help="yes: quotation marks enclose cells; no: they are letters.", show_default="cell by cell"),
]


def table_settings(**options: Any) -> "TableSettings | None":
    """`TableSettings` of the options that were typed; None if there are none."""
    from ..data import TableSettings

    typed = {name: value for name, value in options.items() if value is not None}
    try:
        return TableSettings(**typed) if typed else None
    except LiminalError as error:
        raise LiminalError(re.sub(rf"^({'|'.join(typed)})\b", r"--\1", str(error))) from None


class TextCommand(TyperCommand):
    """A command whose arguments are texts: "-5 degrees" and "- no" are texts, and "--jsno" is a misspelt option."""

    _DASHED_TEXT = re.compile(r"-+(\d|$)|-[^=\s]*\s")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts all texts behind "--", where a dash is a letter."""
        with_value = {name for option in self.params if not getattr(option, "is_flag", True) for name in option.opts}
        options: list[str] = []
        texts: list[str] = []
        rest = iter(args)
        for argument in rest:
            if argument == "--":
                texts += rest
            elif argument.startswith("-") and not self._DASHED_TEXT.match(argument):
                options.append(argument)
                if argument in with_value:
                    options += islice(rest, 1)
            else:
                texts.append(argument)
        return super().parse_args(ctx, [*options, "--", *texts])


def find_checkpoint(name: str) -> str:
    """The folder or Hub id to read with, see `liminal_hf.export.checkpoint`."""
    from ..export.checkpoint import find_checkpoint

    return find_checkpoint(name, adapters=True)


def load(checkpoint: str) -> "tuple[LiminalForPADRegression, Any]":
    """The model in evaluation mode, on the GPU if there is one, and its tokenizer.

    Raises:
        OSError: see `find_checkpoint`; also when a head-only checkpoint's encoder is not available.
        LiminalError: the model has no encoder, so that it can't read texts, or there is no tokenizer.
    """
    import torch
    from transformers.utils import logging

    from ..modeling.encoders import load_tokenizer
    from ..modeling.modeling_liminal import LiminalForPADRegression
    from ..modeling.senses import sense
    from ..modeling.texts import with_padding

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = find_checkpoint(checkpoint)
    model = LiminalForPADRegression.from_pretrained(source).eval()
    if model.config.text_config is None:
        raise LiminalError(
            f"{checkpoint} has no encoder: it takes vectors, not texts. In Python: model(pooled_embeds=vectors)"
        )
    if (reads := sense(model.config)) != "text":
        raise LiminalError(
            f"{checkpoint} reads {reads}, not text. In Python: pipeline('pad-regression', model={checkpoint!r})(paths)"
        )
    tokenizer = with_padding(load_tokenizer(source))
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def load_pipeline(checkpoint: str | None) -> Any:
    """A `pipeline("pad-regression")` of a checkpoint; None is the package's own."""
    from transformers import pipeline

    from .. import DEFAULT_CHECKPOINT

    model, tokenizer = load(checkpoint or DEFAULT_CHECKPOINT)
    return pipeline("pad-regression", model=model, tokenizer=tokenizer, device=model.device)


def load_cascade(model: str | None, then: str, budget: float | None, threshold: float | None) -> Any:
    """A `Cascade` of two checkpoints; None is the package's own."""
    from transformers.utils import logging

    from .. import DEFAULT_CHECKPOINT
    from ..scoring import Cascade

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pair = [find_checkpoint(model or DEFAULT_CHECKPOINT), find_checkpoint(then)]
    return Cascade(pair, threshold, budget=budget)


def recipe_of(checkpoint: str) -> "Recipe | None":
    """The recipe of a run's folder, or of the `model/` in it."""
    folders = [path for path in (Path(checkpoint), Path(checkpoint).parent) if (path / "recipe.yaml").is_file()]
    if not folders:
        return None
    from ..training.recipe import Recipe

    return Recipe.from_yaml(folders[0] / "recipe.yaml")


def progress(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """Shows a bar on a terminal, when there is more than one item to wait for."""
    console = Console(stderr=True)
    if total < 2 or not console.is_terminal:
        return items
    return track(items, what, total=total, console=console, transient=True)


def print_json(value: dict[str, Any]) -> None:
    """One line of JSON, which has no NaN: a number that is not finite is null."""

    def plain(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: plain(inner) for key, inner in item.items()}
        if isinstance(item, list | tuple):
            return [plain(inner) for inner in item]
        return None if isinstance(item, float) and not math.isfinite(item) else item

    print(json.dumps(plain(value), ensure_ascii=False, allow_nan=False))


def shown(value: float | None, digits: int = 4) -> str:
    """A number for a table; "-" where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def report(count: int, total: int, what: str, of: str = "texts") -> None:
    """Says on stderr what became of some of the texts, where there are such."""
    if count:
        print(f"liminal: {count} of {total} {of}: {what}.", file=sys.stderr)
