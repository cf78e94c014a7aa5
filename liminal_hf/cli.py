"""The command line: `liminal predict | chat | demo | score | train | evaluate | plot | probe | push | export`.

Requires typer and rich. A command imports the rooms that it needs when it runs. What a user can mend (a missing file,
an empty text, a package that is not installed) ends with one line on stderr that says what to type next, and status 2;
`LIMINAL_TRACEBACK=1` shows where it came from.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, track
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import numpy as np

    from .modeling.modeling_liminal import LiminalForPADRegression

# What people can mend. Anything else is a fault of ours and keeps its traceback.
FOR_PEOPLE = (OSError, ValueError, LookupError, ImportError, RuntimeError)
_SPLITS = {"dev": "validation", "valid": "validation"}
_AT_ONCE = 256
_SAY_EVERY_SECONDS = 30

app = typer.Typer(
    help="Pleasure, arousal and dominance of texts: a recursive head on any Hugging Face encoder.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="A checkpoint's folder, a run's folder, or a Hub id.")
]


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits; `arguments` default to those of the process."""
    try:
        app(args=arguments, prog_name="liminal")
    except FOR_PEOPLE as error:
        if os.environ.get("LIMINAL_TRACEBACK"):
            raise
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        line = " ".join(str(message).split()) or type(error).__name__
        print(f"liminal: {line}".encode("utf-8", "backslashreplace").decode(), file=sys.stderr)
        sys.exit(2)


def _print_version(wanted: bool) -> None:
    if wanted:
        from ._version import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


# ---- what several commands share ----


def find_checkpoint(name: str) -> str:
    """The folder or Hub id to load: a run's folder stands for the checkpoint in it.

    Raises:
        FileNotFoundError: the folder holds no checkpoint, or there is neither a folder nor a Hub repository.
        ValueError: it holds a model of another kind.
    """
    from transformers import PreTrainedConfig

    folder = Path(name)
    if (folder / "model" / "config.json").is_file():
        folder = folder / "model"
    if folder.is_dir():
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            raise ValueError(f"{name} holds only an adapter. Merge it: model.merge_and_unload().save_pretrained(DIR)")
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{name} is a folder without a checkpoint (no config.json). Train one: "
                "liminal train hub_configs/minilm-emobank.yaml"
            )
        name = str(folder)
    elif folder.exists():
        raise ValueError(f"{name} is a file; a checkpoint is a folder with config.json and weights, or a Hub id.")
    try:
        model_type = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    except OSError as error:
        raise FileNotFoundError(
            f"There is no checkpoint {name!r}: no folder of that name here, and the Hub did not give it (a typing "
            "error, no network, or a private repository: hf auth login)."
        ) from error
    if model_type != "liminal":
        raise ValueError(
            f"{name} is a model of type {model_type!r}, not a LIMINAL checkpoint. To put a head on this encoder, name "
            "it in a recipe (model: encoder:) and type: liminal train RECIPE"
        )
    return name


def load(checkpoint: str) -> "tuple[LiminalForPADRegression, Any]":
    """The model in evaluation mode, on the GPU if there is one, and its tokenizer.

    Raises:
        OSError: see `find_checkpoint`; also when a head-only checkpoint's encoder is not available.
        ValueError: the model has no encoder, so that it can't read texts.
    """
    import torch
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from .modeling.modeling_liminal import LiminalForPADRegression

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = find_checkpoint(checkpoint)
    model = LiminalForPADRegression.from_pretrained(source).eval()
    if model.config.text_config is None:
        raise ValueError(
            f"{checkpoint} has no encoder: it takes vectors, not texts. In Python: model(pooled_embeds=vectors)"
        )
    tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def _progress(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """Shows a bar on a terminal, when there is more than one item to wait for."""
    console = Console(stderr=True)
    if total < 2 or not console.is_terminal:
        return items
    return track(items, what, total=total, console=console, transient=True)


def _predict(model: "LiminalForPADRegression", tokenizer: Any, texts: list[str]) -> dict[str, Any]:
    """The model's outputs for all texts, by name; what its head does not have is not there."""
    import numpy as np
    import torch

    # Texts of one length together: padding costs time.
    order = np.argsort([len(text) for text in texts], kind="stable")
    names = ("logits", "confidences", "uncertainty", "pad_trajectory", "step_attentions")
    found: dict[str, list[Any]] = {name: [] for name in names}
    batches = [order[start : start + 64] for start in range(0, len(order), 64)]
    for rows in _progress(batches, len(batches), "Reading"):
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


def _print_json(value: dict[str, Any]) -> None:
    def plain(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: plain(inner) for key, inner in item.items()}
        # JSON has no NaN.
        return None if isinstance(item, float) and not math.isfinite(item) else item

    print(json.dumps(plain(value), ensure_ascii=False))


# ---- predict ----


@app.command()
def predict(
    text: Annotated[list[str] | None, typer.Argument(metavar="TEXT...", help="Texts; none reads stdin.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A UTF-8 file with one text per line.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A checkpoint's folder or a Hub id.", show_default="our own")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """Read pleasure, arousal and dominance from texts."""
    from . import DEFAULT_CHECKPOINT
    from .modeling.configuration_liminal import DIMENSIONS

    texts = _texts(text or [], file)
    console = Console()
    columns = ("text", *DIMENSIONS, "octant", "confidence")
    table = Table(*columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for row in _rows(model or DEFAULT_CHECKPOINT, texts):
        if as_json:
            _print_json(row)
        else:
            cells = [_cell(row, name) for name in DIMENSIONS]
            table.add_row(Text(_one_line(row["text"])), *cells, row["octant"], _figure(row["confidence"], 2))
    if not as_json:
        for column in table.columns[1:]:
            column.no_wrap = True
        console.print(table)
        console.print(
            "From -1 to 1; most texts lie close to 0. In per cent: how many of the model's training texts lie below.",
            style="dim",
        )


def _rows(checkpoint: str, texts: list[str]) -> Iterator[dict[str, Any]]:
    from transformers import pipeline

    network, tokenizer = load(checkpoint)
    reader = pipeline("pad-regression", model=network, tokenizer=tokenizer, device=network.device)
    starts = range(0, len(texts), _AT_ONCE)
    for start in _progress(starts, len(starts), "Reading"):
        some = texts[start : start + _AT_ONCE]
        for one, row in zip(some, reader(some, batch_size=32), strict=True):
            yield {"text": one, **row}


def _texts(given: list[str], file: Path | None) -> list[str]:
    from .modeling.pipeline_liminal import checked_text

    if given and file is not None:
        raise ValueError("Give texts or --file, not both.")
    if given:
        return [checked_text(text, f"Text {number}") for number, text in enumerate(given, start=1)]
    if file is not None:
        if not file.is_file():
            raise FileNotFoundError(f"There is no file {file}. A text itself goes without --file: liminal predict TEXT")
        name, content = str(file), file.read_bytes()
    elif sys.stdin.isatty():
        raise ValueError('There is nothing to read. Type for example: liminal predict "What a lovely surprise!"')
    else:
        name, content = "The input", sys.stdin.buffer.read()
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{name} is not UTF-8: line {line} holds the byte 0x{content[error.start]:02x}. Convert it first, for "
            "example: iconv -f WINDOWS-1252 -t UTF-8"
        ) from None
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"{name} is empty. It takes one text per line.")
    if len(texts) < len(lines):
        print(f"liminal: {len(lines) - len(texts)} empty lines of {len(lines)} are left out.", file=sys.stderr)
    return [checked_text(text, f"{name}, text {number}") for number, text in enumerate(texts, start=1)]


def _one_line(text: str, width: int = 200) -> str:
    """Nothing in it that would move a terminal's cursor."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _cell(row: dict[str, Any], name: str) -> str:
    value = f"{row[name]:+.2f}"
    return value if row["percentile"] is None else f"{value} {row['percentile'][name]:3.0f}%"


# ---- chat ----


@app.command()
def chat(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A checkpoint's folder or a Hub id.", show_default="our own")
    ] = None,
    memory: Annotated[
        Path | None,
        typer.Option(help="A file: goes on from it where there is one, keeps the conversation.", show_default=False),
    ] = None,
    speaker: Annotated[str, typer.Option(help="Who speaks first.")] = "you",
) -> None:
    """Type turns and see pleasure, arousal and dominance turn by turn.

    Each speaker is remembered apart. A sharp turn: pleasure falls and arousal rises against the speaker's last turn,
    both together by more than two standard deviations of the model's own uncertainty.
    """
    from transformers import pipeline

    from . import DEFAULT_CHECKPOINT
    from .chat import converse
    from .modeling.conversation import ConversationState

    state = ConversationState.load(memory) if memory is not None and memory.exists() else ConversationState()
    if memory is not None and not memory.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {memory.parent} to keep the conversation in.")
    network, tokenizer = load(model or DEFAULT_CHECKPOINT)
    reader = pipeline("pad-regression", model=network, tokenizer=tokenizer, device=network.device)
    converse(reader, state, memory, speaker)


# ---- demo ----


@app.command()
def demo(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A checkpoint's folder or a Hub id.", show_default="our own")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; 0.0.0.0 lets others in.", show_default="this machine")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port.", show_default="a free one from 7860 on")] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write a Hugging Face Space into this folder instead.", show_default=False)
    ] = None,
) -> None:
    """Show a page: a conversation turn by turn, one text step by step, a CSV in and out."""
    from transformers import pipeline

    from . import DEFAULT_CHECKPOINT
    from .demo import export as write_space
    from .demo import launch

    if export is not None:
        print(write_space(export, None if model is None else find_checkpoint(model)))
        return
    network, tokenizer = load(model or DEFAULT_CHECKPOINT)
    reader = pipeline("pad-regression", model=network, tokenizer=tokenizer, device=network.device)
    launch(reader, host=host, port=port)


# ---- score ----


@app.command()
def score(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A Parquet, CSV, TSV or JSON-lines file, or a folder of them.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder for shards, or one file whose name ends in .parquet.")
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A checkpoint's folder or a Hub id.", show_default="our own")
    ] = None,
    text: Annotated[str, typer.Option(help="Column with the text.")] = "text",
    keep: Annotated[
        str | None, typer.Option(help="Columns to keep, such as id,text.", show_default="all of them")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Before the names of the new columns.", show_default=False)] = "",
    conversation: Annotated[
        str | None,
        typer.Option(help="Column that says whose turn a row is; such rows must stand together.", show_default=False),
    ] = None,
    order: Annotated[
        str | None, typer.Option(help="Column with a turn's place in its conversation.", show_default="as they stand")
    ] = None,
    speaker: Annotated[
        str | None, typer.Option(help="Column with who speaks; each has a memory of their own.", show_default=False)
    ] = None,
    separator: Annotated[
        str | None, typer.Option(help="Between the columns of a CSV.", show_default="by the ending")
    ] = None,
    backend: Annotated[str, typer.Option(help="torch, onnx, or int8.")] = "torch",
    max_length: Annotated[
        int | None, typer.Option(help="Tokens per text.", show_default="the checkpoint's", min=1)
    ] = None,
    refuse_long: Annotated[bool, typer.Option("--refuse-long", help="An error for longer texts, not a cut.")] = False,
    tokens: Annotated[int | None, typer.Option(help="Tokens per batch.", show_default="by the device", min=1)] = None,
    shard_rows: Annotated[int, typer.Option(help="Rows per shard; an interruption costs one.", min=1)] = 16384,
    threads: Annotated[
        int | None, typer.Option(help="Processor cores, with Ray per worker.", show_default="all; with Ray 1", min=1)
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    workers: Annotated[int, typer.Option(help="Ray: how many work at a time.", min=1)] = 1,
    address: Annotated[
        str | None, typer.Option(help="Ray: address of a cluster.", show_default="one on this machine")
    ] = None,
) -> None:
    """Read a table of any size to Parquet; the same command again goes on after an interruption.

    A row that can't be read keeps its place: its numbers are null, and the column `error` says why.
    """
    import logging

    from transformers.utils import logging as library

    from . import DEFAULT_CHECKPOINT
    from .scoring import score_table

    library.set_verbosity_error()
    library.disable_progress_bar()
    logging.basicConfig(format="liminal: %(message)s")
    with _score_progress() as tell:
        report = score_table(
            source,
            output,
            find_checkpoint(model or DEFAULT_CHECKPOINT),
            text=text,
            keep=None if keep is None else [name.strip() for name in keep.split(",")],
            prefix=prefix,
            conversation=conversation,
            order=order,
            speaker=speaker,
            separator=separator,
            backend=backend,
            tokens=tokens,
            max_length=max_length,
            refuse_long=refuse_long,
            shard_rows=shard_rows,
            threads=threads,
            engine=engine,
            workers=workers,
            address=address,
            progress=tell,
        )
    print(report)


@contextmanager
def _score_progress() -> Iterator[Callable[[int, int], None]]:
    """Rows done, rate and time left: a bar on a terminal, else a line every half minute."""
    console = Console(stderr=True)
    start: tuple[float, int] | None = None  # when rows began to come, and how many were done by then
    said = time.monotonic()
    columns = (BarColumn(), "{task.completed:,} of {task.total:,} rows, {task.fields[rate]}")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1, rate="", visible=False)

        def tell(done: int, total: int) -> None:
            nonlocal start, said
            now = time.monotonic()
            start = start or (now, done)
            speed = (done - start[1]) / max(now - start[0], 1e-9)
            left = f", {timedelta(seconds=round((total - done) / speed))} left" if speed > 0 else ""
            rate = f"{speed:,.0f} a second{left}"
            bar.update(task, completed=done, total=total, rate=rate, visible=True)
            if not console.is_terminal and now - said > _SAY_EVERY_SECONDS:
                said = now
                print(f"liminal: {done:,} of {total:,} rows, {rate}", file=sys.stderr, flush=True)

        yield tell


# ---- probe ----


@app.command()
def probe(
    encoders: Annotated[list[str], typer.Argument(metavar="ENCODER...", help="Hub ids or folders of encoders.")],
    random_floor: Annotated[
        bool, typer.Option("--random-floor", help="Also each encoder with random weights, as the honest floor.")
    ] = False,
    phrases: Annotated[
        Path | None, typer.Option(help="A UTF-8 file with phrases to place, one per line.", show_default="our own")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Writes STEM.md, .json, .png and STEM_phrases.png.", show_default=False),
    ] = None,
) -> None:
    """Read pleasure, arousal and dominance from each layer of encoders by a ridge, on EmoBank."""
    from . import probing

    chosen = probing.PHRASES if phrases is None else tuple(_texts([], phrases))
    found = probing.probe(
        encoders,
        random_floor=random_floor,
        phrases=chosen,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    options = [*(["--random-floor"] if random_floor else []), *([f"--phrases {phrases}"] if phrases else [])]
    found.about["command"] = " ".join(["liminal probe", *encoders, *options])
    print(found.markdown())
    if output is not None:
        for path in found.save(output):
            print(path)


# ---- train, evaluate ----


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file; the ready ones are in hub_configs/.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run.", show_default="runs/<recipe>")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.", show_default=False)] = None,
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted run, or start it anew.")] = True,
) -> None:
    """Train what a recipe says."""
    from .training.fit import fit

    folder = output or Path("runs") / (recipe.stem if seed is None else f"{recipe.stem}-seed{seed}")
    result = fit(recipe, folder, seed=seed, resume="auto" if resume else "never")
    console = Console()
    for split in ("validation", "test"):
        if split in result.metrics:
            console.print(_metrics_table(split, result.metrics[split]))
    print(f"The checkpoint is in {folder / 'model'}. Next: liminal evaluate {folder}")


@app.command()
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

    from .metrics import make_compute_metrics
    from .plots import PREDICTION_FORMATS, write_predictions

    if predictions is not None and predictions.suffix.lower() not in PREDICTION_FORMATS:
        raise ValueError(f"--predictions {predictions}: the ending must be one of {', '.join(PREDICTION_FORMATS)}.")
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
        _print_json(
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
        print(f"Without them: {', '.join(f'mean {title} {_figure(without.get(n))}' for title, n in names.items())}.")
    if predictions is not None:
        print(f"The predictions are in {predictions}.")


def _labelled(
    data: str, split: str, text: str, labels: str, scale: str, train: Path | None
) -> "tuple[list[str], np.ndarray, np.ndarray | None, set[str]]":
    """Texts, labels, the mean of the training labels where they are known, and the texts of the other parts."""
    import numpy as np

    from .data import load_emobank, load_table

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
    from .modeling.configuration_liminal import MISSING_LABEL

    known = load_table({"train": train}, **settings, validation_fraction=0)["train"]
    mean = np.ma.masked_equal(np.asarray(known["labels"], dtype=np.float64), MISSING_LABEL).mean(0).filled(0)
    return list(rows["text"]), gold, mean, set(known["text"])


def _metrics_table(title: str, metrics: dict[str, float], constant: dict[str, float] | None = None) -> Table:
    """Rows are dimensions; with a constant, its errors stand beside the model's."""
    from .modeling.configuration_liminal import DIMENSIONS

    known = [name for name in ("hope", "faith", "love") if name in metrics]
    feelings = "   ".join(f"{name.title()} {metrics[name]:.3f}" for name in known)
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
            cells.append(_figure(metrics[f"{name}_{dimension}"]))
            if constant is not None and name in ("mae", "rmse"):
                cells.append(_figure(constant[f"{name}_{dimension}"]))
        table.add_row(dimension, *cells, end_section=dimension == DIMENSIONS[-1])
    return table


def _figure(value: float | None, digits: int = 4) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


# ---- plot, push, export ----


@app.command()
def plot(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Which figure; a wrong name lists them all.")],
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What it is drawn from; - reads stdin.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where it goes; the ending says which format.")],
) -> None:
    """Draw a figure."""
    from .plots import plot as draw

    print(draw(kind, source, output))


@app.command()
def push(
    checkpoint: Checkpoint,
    repo_id: Annotated[
        str | None, typer.Argument(metavar="OWNER/NAME", help="Where to; default what the run's recipe says.")
    ] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Whether a new repository is private.", show_default=False)
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to upload to.", show_default=False)] = None,
    head_only: Annotated[bool, typer.Option("--head-only", help="Leave the encoder out: a few MB.")] = False,
    handler: Annotated[bool, typer.Option("--handler", help="Also write what an Inference Endpoint needs.")] = False,
) -> None:
    """Upload a checkpoint to the Hub, reload it without this package, and compare."""
    from .export.hub import push as upload

    if repo_id is None:
        # A run's folder holds the recipe, and beside it `model/`, which may be given as well.
        found = [path for path in (Path(checkpoint), Path(checkpoint).parent) if (path / "recipe.yaml").is_file()]
        if found:
            from .training.recipe import Recipe

            hub = Recipe.from_yaml(found[0] / "recipe.yaml").hub
            repo_id, private = hub.repo_id, hub.private if private is None else private
        if repo_id is None:
            raise ValueError(f"Where to? Type: liminal push {checkpoint} OWNER/NAME (or set hub.repo_id in the recipe)")
    result = upload(checkpoint, repo_id, private=private, revision=revision, head_only=head_only, handler=handler)
    print(result.url)


@app.command()
def verify(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A checkpoint's folder, or a Hub id.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.", show_default=False)] = None,
) -> None:
    """Check that the weights are those whose sha256 the card names."""
    from .export.hub import verify_weights

    for name, digest in verify_weights(checkpoint, revision=revision).items():
        print(f"{digest}  {name}: as the card says")


@app.command()
def export(
    checkpoint: Checkpoint,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; it must be empty or new.")],
    head_only: Annotated[bool, typer.Option("--head-only", help="Leave the encoder out: a few MB.")] = False,
    handler: Annotated[bool, typer.Option("--handler", help="Also write what an Inference Endpoint needs.")] = False,
    form: Annotated[str, typer.Option("--format", help='"hub", or "onnx".')] = "hub",
    int8: Annotated[bool, typer.Option("--int8", help="ONNX: weights of 8 bits in the encoder.")] = False,
    memory: Annotated[bool, typer.Option("--memory", help="ONNX: a memory goes in and comes back.")] = False,
) -> None:
    """Write the folder that `push` would upload (weights, code, tokenizer, card), or an ONNX model."""
    from .export.hub import open_checkpoint, write_repository

    if form not in ("hub", "onnx"):
        raise ValueError(f"--format is hub or onnx, got {form!r}.")
    if (form == "hub" and (int8 or memory)) or (form == "onnx" and (head_only or handler)):
        raise ValueError("--int8 and --memory go with --format onnx, --head-only and --handler with --format hub.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} is not an empty folder. Give another one: -o FOLDER")
    if form == "onnx":
        from .export.onnx import export_onnx

        print(export_onnx(find_checkpoint(checkpoint), output, memory=memory, quantize="int8" if int8 else None))
        return
    model, tokenizer, facts, low_rank = open_checkpoint(find_checkpoint(checkpoint), None)
    write_repository(
        model, output, tokenizer=tokenizer, facts=facts, head_only=head_only, handler=handler, low_rank=low_rank
    )
    print(output)


if __name__ == "__main__":
    main()
