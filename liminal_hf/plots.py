"""From a run's folder or a predictions file to a figure: what `liminal plot` reads, and the format of predictions.

Requires numpy, pandas and safetensors; the figures need matplotlib (`pip install 'liminal_hf[plot]'`).

A *predictions file* has a row per text. Its columns, of which only the first three are required:

| column | holds |
|---|---|
| `pleasure`, `arousal`, `dominance` | the prediction, in label units |
| `gold_pleasure`, `gold_arousal`, `gold_dominance` | the label; null, empty or -100 where missing |
| `uncertainty_pleasure`, ... | predicted standard deviation, in label units |
| `pad_trajectory` | the answer after each refinement step, K lists of three |
| `confidences` | K numbers in 0..1 |
| `step_attentions` | K lists of K numbers in 0..1 |
| `id`, `text`, `conversation`, `speaker`, `turn` | what the row is about; turns are whole numbers that rise |

Endings: `.jsonl` (best; an object `"gold": {"pleasure": ...}` reads like `gold_pleasure`), `.parquet`, `.csv`, `.npz`,
`.safetensors` (no strings). A CSV has one number a cell: `confidence_1`.., `pad_1_pleasure`.., `attention_1_1`...
"""

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from safetensors.numpy import load_file, save_file

from . import visualization
from .metrics import MISSING_LABEL, Array, pearson
from .modeling.configuration_liminal import DIMENSIONS

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.figure import Figure

LOG_COLUMNS = ("epoch", "train_loss", "validation_loss", "hope", "faith", "love", "learning_rate")
PREDICTION_FORMATS = (".jsonl", ".parquet", ".csv", ".npz", ".safetensors")
FIGURE_FORMATS = (".png", ".svg", ".pdf", ".jpg", ".webp")
STDIN = "-"
_LABELS = ("id", "text", "conversation", "speaker", "turn")
_STEPS = ("pad_trajectory", "confidences", "step_attentions")
_DOTS_PER_INCH = 200

Source = str | Path
Table = dict[str, list[Any]]


# ---------------------------------------------------------------------------------------------------- predictions


@dataclass
class Predictions:
    """What a predictions file holds; None is what it does not have.

    Args:
        predicted: `(rows, 3)`, float64, in label units.
        gold: `(rows, 3)`, -100 where missing.
        uncertainty: `(rows, 3)`, standard deviations in label units.
        pad_trajectory: `(rows, K, 3)`.
        confidences: `(rows, K)`.
        step_attentions: `(rows, K, K)`.
        labels: `id`, `text`, `conversation`, `speaker`, `turn` -> a value per row.
    """

    predicted: Array
    gold: Array | None
    uncertainty: Array | None
    pad_trajectory: Array | None
    confidences: Array | None
    step_attentions: Array | None
    labels: Table


def write_predictions(
    path: Source,
    predicted: ArrayLike,
    *,
    gold: ArrayLike | None = None,
    uncertainty: ArrayLike | None = None,
    pad_trajectory: ArrayLike | None = None,
    confidences: ArrayLike | None = None,
    step_attentions: ArrayLike | None = None,
    id: Sequence[Any] | None = None,
    text: Sequence[str] | None = None,
    conversation: Sequence[Any] | None = None,
    speaker: Sequence[str] | None = None,
    turn: Sequence[int] | None = None,
) -> Path:
    """Writes a predictions file (see the module) that `read_predictions` and `liminal plot` take.

    Args:
        path: where to; the ending says which format. Numbers are rounded to 7 digits in `.jsonl` and `.csv`.
        predicted, gold, uncertainty, pad_trajectory, confidences, step_attentions: as in `Predictions`.
        id, text, conversation, speaker, turn: a value per row. `.safetensors` keeps whole numbers and drops strings.

    Raises:
        ValueError: an unknown ending, or an array whose shape does not fit `predicted`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "predictions.jsonl"
        >>> _ = write_predictions(path, [[.25, 0, -.5]], confidences=[[.5, .75]], text=["Well."])
        >>> print(path.read_text().strip())
        {"text": "Well.", "pleasure": 0.25, "arousal": 0.0, "dominance": -0.5, "confidences": [0.5, 0.75]}
    """
    path = Path(path)
    kind = _ending(path)
    rows = _fitting("predicted", predicted, (None, 3))
    count = len(rows)
    arrays: dict[str, Array] = dict(zip(DIMENSIONS, rows.T, strict=True))
    for name, values in (("gold", gold), ("uncertainty", uncertainty)):
        if values is not None:
            found = _fitting(name, values, (count, 3))
            found = np.where(found == MISSING_LABEL, np.nan, found) if name == "gold" else found
            arrays |= {f"{name}_{dimension}": column for dimension, column in zip(DIMENSIONS, found.T, strict=True)}
    if pad_trajectory is not None:
        arrays["pad_trajectory"] = _fitting("pad_trajectory", pad_trajectory, (count, None, 3))
    if confidences is not None:
        arrays["confidences"] = _fitting("confidences", confidences, (count, None))
    if step_attentions is not None:
        arrays["step_attentions"] = _fitting("step_attentions", step_attentions, (count, None, None))
    labels: Table = {}
    for name, column in zip(_LABELS, (id, text, conversation, speaker, turn), strict=True):
        if column is not None:
            if len(column) != count:
                raise ValueError(f"`{name}` must have a value per row ({count}), got {len(column)}.")
            labels[name] = list(column)

    path.parent.mkdir(parents=True, exist_ok=True)
    if kind in (".npz", ".safetensors"):
        wide = {name: np.asarray(column) for name, column in labels.items()}
        if kind == ".npz":
            # Strings as numpy's own, never as objects, which would need a pickle.
            texts = {name: column if column.dtype.kind in "iu" else column.astype(str) for name, column in wide.items()}
            everything: dict[str, Any] = {**arrays, **texts}
            np.savez_compressed(path, **everything)
        else:
            numbers = {name: column for name, column in wide.items() if column.dtype.kind in "iu"}
            save_file({name: np.ascontiguousarray(v) for name, v in {**arrays, **numbers}.items()}, path)
    elif kind == ".csv":
        flat = {name: column for name, values in arrays.items() for name, column in _flattened(name, values).items()}
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*labels, *flat])
            for row in range(count):
                numbers_of_row = ["" if np.isnan(v[row]) else f"{v[row]:.7g}" for v in flat.values()]
                writer.writerow([*(column[row] for column in labels.values()), *numbers_of_row])
    else:
        table: Table = {**labels, **{name: _rounded(values) for name, values in arrays.items()}}
        if kind == ".parquet":
            pd.DataFrame(table).to_parquet(path, index=False)
        else:
            with path.open("w", encoding="utf-8") as out:
                for row in range(count):
                    out.write(json.dumps({name: column[row] for name, column in table.items()}, default=_plain) + "\n")
    return path


def read_predictions(source: Source) -> Predictions:
    """Reads a predictions file, the `predictions.*` of a folder, or JSON lines from stdin ("-"); see the module.

    Raises:
        FileNotFoundError: there is no such file, or none in the folder.
        ValueError: a column is missing or holds something else than it should; the message names it.

    Example:
        >>> import tempfile
        >>> path = write_predictions(Path(tempfile.mkdtemp()) / "mine.csv", [[.25, 0, -.5]], confidences=[[.5, .75]])
        >>> read_predictions(path).confidences.tolist()
        [[0.5, 0.75]]
    """
    path = _predictions_path(source)
    table = _read_table(path)
    where = str(path)
    predicted = _triple(table, "", where)
    if predicted is None:
        raise ValueError(f"{where} has no column {DIMENSIONS[0]!r}. It has: {', '.join(table) or 'nothing'}.")
    if np.isnan(predicted).any():
        row, column = np.argwhere(np.isnan(predicted))[0]
        raise ValueError(f"{where}: row {row + 1} has no {DIMENSIONS[column]}. Each row needs a prediction.")
    gold = _triple(table, "gold_", where)
    steps = {name: _nested(table, name, where) for name in _STEPS}
    return Predictions(
        predicted,
        None if gold is None else np.where(np.isnan(gold), MISSING_LABEL, gold),
        _triple(table, "uncertainty_", where),
        steps["pad_trajectory"],
        steps["confidences"],
        steps["step_attentions"],
        {name: table[name] for name in _LABELS if name in table},
    )


def _ending(path: Path) -> str:
    kind = path.suffix.lower()
    if kind not in PREDICTION_FORMATS:
        raise ValueError(f"{path}: predictions can't be {kind or 'without an ending'}; one of {PREDICTION_FORMATS}.")
    return kind


def _fitting(name: str, values: ArrayLike, shape: tuple[int | None, ...]) -> Array:
    array = np.asarray(values, dtype=np.float64)
    wanted = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
    if array.ndim != len(shape) or any(want not in (None, have) for want, have in zip(shape, array.shape, strict=True)):
        raise ValueError(f"`{name}` must have the shape {wanted}, got {array.shape}.")
    return array


def _flat_names(name: str, steps: int) -> list[str]:
    """The columns of a CSV that stand for one nested column with K steps."""
    each = range(1, steps + 1)
    if name == "confidences":
        return [f"confidence_{k}" for k in each]
    if name == "pad_trajectory":
        return [f"pad_{k}_{dimension}" for k in each for dimension in DIMENSIONS]
    return [f"attention_{k}_{j}" for k in each for j in each]


def _flattened(name: str, values: Array) -> dict[str, Array]:
    if name not in _STEPS:
        return {name: values}
    flat = values.reshape(len(values), -1).T
    return dict(zip(_flat_names(name, values.shape[1]), flat, strict=True))


def _rounded(values: Array) -> list[Any]:
    """Nested lists of numbers with 7 digits, None for NaN."""
    if values.ndim > 1:
        return [_rounded(part) for part in values]
    return [None if np.isnan(value) else float(f"{value:.7g}") for value in values]


def _plain(value: Any) -> Any:
    """A numpy scalar as Python's own, for json."""
    return value.item() if isinstance(value, np.generic) else str(value)


def _predictions_path(source: Source) -> Path:
    path = Path(source)
    if str(source) != STDIN and path.is_dir():
        found = [path / f"predictions{kind}" for kind in PREDICTION_FORMATS if (path / f"predictions{kind}").is_file()]
        if not found:
            raise FileNotFoundError(
                f"{path} holds no predictions file (predictions.jsonl, ...). Make one: "
                f"liminal evaluate {path} --predictions {path / 'predictions.jsonl'}"
            )
        return found[0]
    return path


def _read_table(path: Path) -> Table:
    """Columns of any of the formats; an object in a JSON line becomes a column for each of its keys."""
    if str(path) == STDIN:
        return _json_lines(sys.stdin.read().splitlines(), "stdin")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    kind = _ending(path)
    if kind == ".jsonl":
        return _json_lines(path.read_text(encoding="utf-8-sig").split("\n"), str(path))
    if kind == ".csv":
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        return {str(name): frame[name].tolist() for name in frame.columns}
    if kind == ".parquet":
        frame = pd.read_parquet(path)
        return {str(name): frame[name].tolist() for name in frame.columns}
    if kind == ".safetensors":
        return {name: list(values) for name, values in load_file(path).items()}
    with np.load(path, allow_pickle=False) as arrays:
        return {name: list(arrays[name]) for name in arrays.files}


def _json_lines(lines: Sequence[str], where: str) -> Table:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}, line {number} is not JSON: {error}. Each line must be one object.") from None
        if not isinstance(row, dict):
            raise ValueError(f"{where}, line {number} is no object but {type(row).__name__}: {line[:40]!r}.")
        flat: dict[str, Any] = {}
        for key, value in row.items():
            flat |= {f"{key}_{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
        rows.append(flat)
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)}


def _numbers(table: Table, name: str, where: str) -> Array:
    """A column as float64, NaN for what is missing."""
    values = np.empty(len(table[name]))
    for row, value in enumerate(table[name]):
        try:
            values[row] = np.nan if value is None or value == "" else float(value)
        except (TypeError, ValueError):
            raise ValueError(f"{where}: column {name!r}, row {row + 1} is no number: {str(value)[:40]!r}.") from None
    if not len(values):
        raise ValueError(f"{where} has no rows.")
    return values


def _triple(table: Table, prefix: str, where: str) -> Array | None:
    names = [prefix + dimension for dimension in DIMENSIONS]
    there = [name for name in names if name in table]
    empty = all(value is None for name in there for value in table[name])
    if not there or (table[there[0]] and empty):
        return None
    if len(there) < len(names):
        raise ValueError(f"{where} has {', '.join(there)} but not {', '.join(sorted(set(names) - set(there)))}.")
    return np.stack([_numbers(table, name, where) for name in names], axis=1)


def _nested(table: Table, name: str, where: str) -> Array | None:
    if name in table:
        shapes = {"pad_trajectory": (None, None, 3), "confidences": (None, None), "step_attentions": (None, None, None)}
        try:
            # Parquet gives arrays of arrays: to plain lists first.
            rows = [json.loads(json.dumps(row, default=lambda part: part.tolist())) for row in table[name]]
            return _fitting(name, rows, shapes[name])
        except (TypeError, ValueError) as error:
            message = f"{where}: column {name!r} must hold, in each row, the same number of steps K: {error}"
            raise ValueError(message) from None
    first = _flat_names(name, 1)[0]
    steps = 0
    while first.replace("_1", f"_{steps + 1}", 1) in table:
        steps += 1
    if not steps:
        return None
    names = _flat_names(name, steps)
    absent = [flat for flat in names if flat not in table]
    if absent:
        raise ValueError(f"{where} has {first} and {steps} steps, but no column {absent[0]!r}.")
    flat = np.stack([_numbers(table, column, where) for column in names], axis=1)
    return flat if name == "confidences" else flat.reshape(len(flat), steps, -1)


# ------------------------------------------------------------------------------------------------------- the run's log


def read_log(source: Source) -> dict[str, Array]:
    """The emotional log of a training run, a column per name in `LOG_COLUMNS`, NaN where not measured.

    Args:
        source: a run's folder (its `emotional_log.csv`, else the Trainer's `trainer_state.json`, also in the newest
            `checkpoint-*`), or one of these files.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: a column is missing, a value is no number, or there is no evaluation in it.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "emotional_log.csv").write_text(",".join(LOG_COLUMNS) + "\\n1,.5,.4,.9,,.8,.001\\n")
        >>> read_log(folder)["validation_loss"].tolist(), read_log(folder)["faith"].tolist()
        ([0.4], [nan])
    """
    path = Path(source)
    if path.is_dir():
        checkpoints = sorted(path.glob("checkpoint-*"), key=lambda folder: int("0" + folder.name.rpartition("-")[2]))
        folders = [path, *reversed(checkpoints)]
        tried = [path / "emotional_log.csv", *(folder / "trainer_state.json" for folder in folders)]
        found = next((file for file in tried if file.is_file()), None)
        if found is None:
            raise FileNotFoundError(
                f"{path} holds neither emotional_log.csv nor trainer_state.json. Give the folder of a training run "
                "(liminal train RECIPE -o FOLDER)."
            )
        path = found
    if not path.is_file():
        raise FileNotFoundError(f"There is no file or folder {path}. Give the folder of a training run.")
    if path.suffix == ".json":
        table = _log_of_trainer(path)
    else:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        table = {str(name): frame[name].tolist() for name in frame.columns}
    absent = [name for name in LOG_COLUMNS if name not in table]
    if absent:
        raise ValueError(f"{path} has no column {absent[0]!r}. A log has: {', '.join(LOG_COLUMNS)}.")
    if not table["epoch"]:
        raise ValueError(f"{path} holds no evaluation yet.")
    return {name: _numbers(table, name, str(path)) for name in LOG_COLUMNS}


def _log_of_trainer(path: Path) -> Table:
    """The same columns from the Trainer's own history."""
    history = json.loads(path.read_text(encoding="utf-8")).get("log_history", [])
    table: Table = {name: [] for name in LOG_COLUMNS}
    train: dict[str, Any] = {}
    for entry in history:
        if "loss" in entry:
            train = entry
        elif "eval_loss" in entry:
            row = (entry.get("epoch"), train.get("loss"), entry["eval_loss"])
            virtues = (entry.get(f"eval_{name}") for name in ("hope", "faith", "love"))
            for name, value in zip(LOG_COLUMNS, (*row, *virtues, train.get("learning_rate")), strict=True):
                table[name].append(value)
    return table


# ------------------------------------------------------------------------------------------------------------ the kinds


def _subject(source: Source) -> str | None:
    """The source's own name, for the title's second line."""
    path = Path(source)
    return None if str(source) == STDIN else path.name if path.is_dir() else path.stem


def _need(values: Array | None, column: str, source: Source) -> Array:
    if values is None:
        raise ValueError(
            f"{source} has no {column}, which this figure shows. liminal_hf.plots says what a file may hold."
        )
    return values


def _training_curves(source: Source) -> "Figure":
    """A run's folder or emotional_log.csv."""
    log = read_log(source)
    return visualization.training_curves(*(log[name] for name in LOG_COLUMNS), subject=_subject(source))


def _heartbeat(source: Source) -> "Figure":
    """A run's folder or emotional_log.csv."""
    log = read_log(source)
    return visualization.heartbeat_plot(log["epoch"], log["validation_loss"], subject=_subject(source))


def _breathing(source: Source) -> "FuncAnimation":
    """A run's folder or emotional_log.csv; gives a GIF."""
    log = read_log(source)
    return visualization.breathing_animation(
        log["epoch"], log["train_loss"], log["validation_loss"], subject=_subject(source)
    )


def _aura(source: Source) -> "Figure":
    """A run's folder or emotional_log.csv."""
    log = read_log(source)
    columns = ("epoch", "hope", "faith", "love", "train_loss", "validation_loss")
    return visualization.aura_map(*(log[name] for name in columns), subject=_subject(source))


def _emotional_field(source: Source) -> "Figure":
    """Predictions with gold."""
    rows = read_predictions(source)
    return visualization.emotional_field(rows.predicted, _need(rows.gold, "gold", source), subject=_subject(source))


def _pad_distributions(source: Source) -> "Figure":
    """Predictions with gold."""
    rows = read_predictions(source)
    return visualization.pad_distributions(rows.predicted, _need(rows.gold, "gold", source), subject=_subject(source))


def _predicted_vs_gold(source: Source) -> "Figure":
    """Predictions with gold."""
    rows = read_predictions(source)
    return visualization.predicted_vs_gold(rows.predicted, _need(rows.gold, "gold", source), subject=_subject(source))


def _reliability(source: Source) -> "Figure":
    """Predictions with gold and uncertainty."""
    rows = read_predictions(source)
    gold, uncertainty = _need(rows.gold, "gold", source), _need(rows.uncertainty, "uncertainty", source)
    return visualization.reliability(rows.predicted, gold, uncertainty, subject=_subject(source))


def _step_attention(source: Source) -> "Figure":
    """Predictions with step_attentions; their mean is drawn."""
    attentions = _need(read_predictions(source).step_attentions, "step_attentions", source)
    return visualization.step_attention(attentions, subject=_subject(source))


def _confidence_evolution(source: Source) -> "Figure":
    """Predictions with confidences."""
    confidences = _need(read_predictions(source).confidences, "confidences", source)
    return visualization.confidence_evolution(confidences, subject=_subject(source))


def _steps_curve(source: Source) -> "Figure":
    """Predictions with gold and pad_trajectory: Pearson r by step."""
    rows = read_predictions(source)
    gold, trajectory = _need(rows.gold, "gold", source), _need(rows.pad_trajectory, "pad_trajectory", source)
    r = np.stack([pearson(trajectory[:, step], gold) for step in range(trajectory.shape[1])], axis=1)
    lines = {"mean of the three": r.mean(axis=0), **dict(zip(DIMENSIONS, r, strict=True))}
    return visualization.steps_curve(lines, subject=_subject(source))


def _conversation(source: Source) -> "Figure":
    """Predictions of one conversation in turns; FILE#NAME picks one of several."""
    path, _, chosen = str(source).partition("#")
    rows = read_predictions(path)
    ids = [str(name) for name in rows.labels.get("conversation", [""] * len(rows.predicted))]
    names = list(dict.fromkeys(ids))
    if chosen not in names:
        if chosen or len(names) > 1:
            some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise ValueError(f"{path} holds {len(names)} conversations: {some}. Pick one: {path}#{names[0]}")
        chosen = names[0]
    index = np.array([row for row, name in enumerate(ids) if name == chosen])
    if "turn" in rows.labels:
        turns = _numbers(rows.labels, "turn", path)
        index = index[np.argsort(turns[index], kind="stable")]
    speakers = rows.labels.get("speaker")
    subject = " ".join(filter(None, [_subject(path), chosen]))
    return visualization.conversation_trajectory(
        rows.predicted[index],
        None if rows.uncertainty is None else rows.uncertainty[index],
        speakers=None if speakers is None else [str(speakers[row]) for row in index],
        subject=subject or None,
    )


def _probe(source: Source) -> "Figure":
    """The JSON of `liminal probe`, or a table with the columns encoder, layer, dimension, r, low, high."""
    path = Path(source)
    if path.suffix == ".json" and path.is_file():
        layers = json.loads(path.read_text(encoding="utf-8"))["layers"]
        table = {name: [row[name] for row in layers] for name in layers[0]}
    else:
        table = _read_table(path)
    _need_columns(table, ("encoder", "layer", "dimension", "r", "low", "high"), path)
    encoders = list(dict.fromkeys(str(name) for name in table["encoder"]))
    layers = _numbers(table, "layer", str(path)).astype(int)
    if layers.min() < 0:
        raise ValueError(f"{path}: layers count from 0 (the embedding), got {layers.min()}.")
    figures = [np.full((len(encoders), layers.max() + 1, 3), np.nan) for _ in range(3)]
    for array, name in zip(figures, ("r", "low", "high"), strict=True):
        for row, value in enumerate(_numbers(table, name, str(path))):
            if table["dimension"][row] not in DIMENSIONS:
                got = table["dimension"][row]
                raise ValueError(f"{path}: row {row + 1} is of dimension {got!r}; allowed are {DIMENSIONS}.")
            place = encoders.index(str(table["encoder"][row])), layers[row], DIMENSIONS.index(table["dimension"][row])
            array[place] = value
    r, low, high = figures
    return visualization.probe_curves(r, low, high, encoders, subject=_subject(source))


def _results(source: Source) -> "Figure":
    """A table with the columns system, value, low, high; a row with the column reference not empty is a line."""
    path = Path(source)
    table = _read_table(path)
    _need_columns(table, ("system", "value", "low", "high"), path)
    columns = {name: _numbers(table, name, str(path)) for name in ("value", "low", "high")}
    flags = table.get("reference", [None] * len(table["system"]))
    is_line = np.array([str(flag).lower() not in ("", "none", "nan", "false", "0") for flag in flags])
    names = [str(name) for name in table["system"]]
    lines = {name: float(columns["value"][row]) for row, name in enumerate(names) if is_line[row]}
    bars = np.flatnonzero(~is_line)
    return visualization.results_bars(
        [names[row] for row in bars],
        *(columns[name][bars] for name in columns),
        references=lines,
        subject=_subject(source),
    )


def _need_columns(table: Table, names: Sequence[str], path: Path) -> None:
    absent = [name for name in names if name not in table]
    if absent:
        raise ValueError(f"{path} has no column {absent[0]!r}; this figure needs {', '.join(names)}.")


def _architecture(source: Source) -> "Figure":
    """A checkpoint's folder, a run's folder or a config.json, with head v7."""
    path = Path(source)
    tried = [path] if path.is_file() else [path / "config.json", path / "model" / "config.json"]
    found = next((file for file in tried if file.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"There is no {tried[0]}. Give the folder of a checkpoint.")
    config = json.loads(found.read_text(encoding="utf-8"))
    if config.get("model_type") != "liminal" or config.get("head") != "v7":
        head = config.get("head", config.get("model_type"))
        raise ValueError(f"{found} describes {head!r}; the picture is that of a LIMINAL model with head 'v7'.")
    encoder = str(config.get("encoder_name_or_path") or "none: pooled embeddings").rpartition("/")[2]
    return visualization.architecture(
        encoder,
        latent_size=config["latent_size"],
        num_outer_steps=config["num_outer_steps"],
        num_inner_steps=config["num_inner_steps"],
    )


KINDS: Mapping[str, "Callable[[Source], Figure | FuncAnimation]"] = {
    "training-curves": _training_curves,
    "heartbeat": _heartbeat,
    "breathing": _breathing,
    "aura": _aura,
    "emotional-field": _emotional_field,
    "pad-distributions": _pad_distributions,
    "predicted-vs-gold": _predicted_vs_gold,
    "reliability": _reliability,
    "step-attention": _step_attention,
    "confidence-evolution": _confidence_evolution,
    "steps-curve": _steps_curve,
    "conversation": _conversation,
    "probe": _probe,
    "results": _results,
    "architecture": _architecture,
}
ANIMATED = frozenset({"breathing"})


def plot(kind: str, source: Source, output: Source) -> Path:
    """Draws a figure of what `source` holds and writes it to `output`; `liminal plot` calls it.

    Args:
        kind: a name in `KINDS`; its function's docstring says what it is drawn from.
        source: a run's folder, a predictions file or a table; "-" reads JSON lines from stdin.
        output: where to. The ending says which format: .png (1600 px wide), .svg, .pdf, .jpg or .webp; .gif for
            "breathing".

    Returns:
        The path of the file.

    Raises:
        ValueError: an unknown kind or ending, or a source without what the figure shows.
        FileNotFoundError: no such source.
        ImportError: matplotlib is missing.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> source = write_predictions(folder / "mine.jsonl", [[.2, 0, 0], [-.3, .2, -.1]])
        >>> plot("conversation", source, folder / "mine.png").stat().st_size > 10_000
        True
    """
    name = kind.replace("_", "-")
    if name not in KINDS:
        listed = "\n".join(f"  {known}: {(draw.__doc__ or '').strip()}" for known, draw in KINDS.items())
        raise ValueError(f"There is no figure {kind!r}. There are, with what they are drawn from:\n{listed}")
    path = Path(output)
    allowed = (".gif",) if name in ANIMATED else FIGURE_FORMATS
    if path.suffix.lower() not in allowed:
        example = path.with_suffix(allowed[0]).name if path.name else f"{name}{allowed[0]}"
        raise ValueError(f"{name} is written as {', '.join(allowed)}, not {path.name!r}. For example: -o {example}")
    picture = KINDS[name](source)
    path.parent.mkdir(parents=True, exist_ok=True)
    if name in ANIMATED:
        return visualization.save_gif(picture, path)  # type: ignore[arg-type]
    # To memory first: a figure that can't be drawn leaves no half-written file.
    buffer = BytesIO()
    figure: Figure = picture  # type: ignore[assignment]
    figure.savefig(buffer, format=path.suffix.lower()[1:], dpi=_DOTS_PER_INCH)
    path.write_bytes(buffer.getvalue())
    return path
