"""From a name to something that reads texts: our checkpoints, classifiers of the Hub, functions, VADER, lexicons.

Requires numpy; torch and transformers for models, vaderSentiment for `vader`.
"""

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..io import file_sha256, folder_sha256
from ..metrics import Array
from ..modeling.answers import interval
from ..modeling.configuration_liminal import DIMENSIONS
from ..modeling.errors import LiminalError

LEVELS = (0.8, 0.9)
# What a label is worth as pleasure, where a classifier's labels are polarities; other words are looked up as emotions.
POLARITY = {"negative": -1.0, "neg": -1.0, "neutral": 0.0, "neu": 0.0, "mixed": 0.0, "positive": 1.0, "pos": 1.0}
POLARITY |= {"very negative": -1.0, "very positive": 1.0}
_STARS = re.compile(r"([1-5]) stars?")
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
_OTHER_NAMES = {"valence": "pleasure", "v": "pleasure", "a": "arousal", "d": "dominance"}


@dataclass
class Reading:
    """What a reader says: `(n, 3)`, NaN where it says nothing, and by level the ends of its intervals, `(n, 3, 2)`."""

    pad: Array
    intervals: dict[float, Array] = field(default_factory=dict)
    truncated: int = 0


@dataclass
class Reader:
    """Something that reads texts.

    Args:
        name: as it was asked for.
        kind: `ours`, `classifier`, `function`, `vader`, `lexicon` or `constant`.
        read: from texts to a `Reading`.
        about: what the row says of it: revision, sha256, how labels became PAD.
        trained_on: names of the corpora whose training part it has seen, as far as it says so.
    """

    name: str
    kind: str
    read: Callable[[Sequence[str]], Reading]
    about: dict[str, Any] = field(default_factory=dict)
    trained_on: tuple[str, ...] = ()


def open_reader(name: str) -> Reader:
    """The reader that a name stands for.

    Args:
        name: `vader`, `constant`, `module:function`, the file of a lexicon (.csv, .tsv, .txt), or a folder or Hub id of
            a model: one of ours, or an `AutoModelForSequenceClassification`.

    Raises:
        LiminalError: there is no such thing, or it can't be read as pleasure, arousal and dominance.
        OSError: the model was not found.

    Example:
        >>> open_reader("constant").read(["a", "b"]).pad.tolist()
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    if name == "constant":
        return Reader(name, "constant", lambda texts: Reading(np.zeros((len(texts), 3))), {"says": "the middle"})
    if name == "vader":
        return _vader()
    if Path(name).suffix.lower() in (".csv", ".tsv", ".txt"):
        return _lexicon(Path(name))
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
        return _function(name)
    return _ours(name) if _is_ours(name) else _classifier(name)


def files_of(name: str) -> dict[str, str]:
    """The sha256, by name, of the files that a reader consists of; none where they are not on this machine's disk."""
    from .. import checkpoints

    source = Path(name) if Path(name).exists() else Path(checkpoints.get(name, name))
    source = source / "model" if (source / "model" / "config.json").is_file() else source
    if source.is_file():
        return {source.name: file_sha256(source)}
    return folder_sha256(source, "*.safetensors") if source.is_dir() else {}


def _is_ours(name: str) -> bool:
    from transformers import PreTrainedConfig

    from .. import checkpoints

    if name in checkpoints or (Path(name) / "model" / "config.json").is_file():
        return True
    try:
        return bool(PreTrainedConfig.get_config_dict(name)[0].get("model_type") == "liminal")
    except OSError as error:
        raise FileNotFoundError(
            f"There is no reader {name!r}: no model of that name here or on the Hub. A reader is minilm, mpnet, a "
            "folder or Hub id of a model, module:function, vader, constant, or the file of a lexicon (.csv, .tsv)."
        ) from error


def _ours(name: str) -> Reader:
    from ..export.checkpoint import facts_of, find_checkpoint, open_checkpoint
    from ..inference import read

    source = find_checkpoint(name)
    opened = open_checkpoint(source)
    model, config = opened.model, opened.model.config
    columns = [_dimension(target) for target in config.targets]
    if not any(columns):
        raise LiminalError(f"{name} reads {', '.join(config.targets)}: none of {', '.join(DIMENSIONS)}.")
    low, high = config.label_range

    def run(texts: Sequence[str]) -> Reading:
        found = read(model, opened.tokenizer, texts, outputs=("logits", "uncertainty"))
        reading = Reading(np.full((len(texts), 3), np.nan), truncated=int(found["truncated"].sum()))
        spread = found.get("uncertainty")
        ends = {level: np.full((len(texts), 3, 2), np.nan) for level in LEVELS}
        for index, dimension in enumerate(columns):
            if dimension is None or not config.trained_targets[index]:
                continue
            column = DIMENSIONS.index(dimension)
            values = np.where(found["unreadable"], np.nan, found["logits"][:, index])
            reading.pad[:, column] = 2 * (np.clip(values, low, high) - low) / (high - low) - 1
            if spread is None:
                continue
            quantiles = None if config.residual_quantiles is None else config.residual_quantiles[index]
            for level, into in ends.items():
                base = np.array(interval(0.0, 1.0, level, quantiles))
                both = values[:, None] + spread[:, index, None] * base
                into[:, column] = 2 * (both - low) / (high - low) - 1
        if spread is not None:
            reading.intervals = ends
        return reading

    about: dict[str, Any] = {"parameters": sum(value.numel() for value in model.parameters())}
    about |= {"head": config.head, "encoder": config.encoder_name_or_path, "revision": config.encoder_revision}
    about["sha256"] = files_of(name)
    dataset = ((facts_of(model).get("recipe") or {}).get("data") or {}).get("dataset")
    return Reader(name, "ours", run, about, (dataset,) if dataset else ())


def _dimension(label: str) -> str | None:
    name = " ".join(re.split(r"[\s_-]+", label.strip().lower()))
    name = _OTHER_NAMES.get(name, name)
    return name if name in DIMENSIONS else None


def _classifier(name: str) -> Reader:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from ..inference import read

    model: Any = AutoModelForSequenceClassification.from_pretrained(name)
    tokenizer = AutoTokenizer.from_pretrained(name)
    labels = [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
    weights, how = _weights(labels, model.config.problem_type, name)

    def run(texts: Sequence[str]) -> Reading:
        length = min(512, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512) or 512)
        # RoBERTa and its kin count two more positions than they read.
        length -= 2 if model.config.model_type in ("roberta", "xlm-roberta", "camembert") and length > 500 else 0
        found = read(model, tokenizer, texts, outputs=("logits",), max_length=length)
        scores = torch.from_numpy(found["logits"])
        if weights is not None:
            several = model.config.problem_type == "multi_label_classification"
            shares = scores.sigmoid() if several else scores.softmax(-1)
            shares = shares / shares.sum(-1, keepdim=True).clamp_min(1e-9)
            pad = shares.double().numpy() @ weights
        else:
            pad = np.full((len(texts), 3), np.nan)
            for index, label in enumerate(labels if len(labels) > 1 else ["pleasure"]):
                pad[:, DIMENSIONS.index(_dimension(label) or DIMENSIONS[index])] = scores[:, index]
        return Reading(pad, truncated=int(found["truncated"].sum()))

    parameters = sum(value.numel() for value in model.parameters())
    commit = getattr(model.config, "_commit_hash", None)
    about = {"parameters": parameters, "revision": commit, "labels": how, "sha256": files_of(name)}
    return Reader(name, "classifier", run, about)


def _weights(labels: list[str], problem: str | None, name: str) -> tuple[Array | None, str]:
    """PAD of each label, `(labels, 3)`; None where the outputs are numbers already."""
    from ..modeling.emotions import POSITIONS

    names = [" ".join(re.split(r"[\s_-]+", label.strip().lower())) for label in labels]
    if len(names) == 1:
        return None, "its one output is taken as pleasure"
    if all(_dimension(label) for label in names) or (problem == "regression" and len(names) == 3):
        return None, f"outputs {', '.join(labels)} are taken as they are"
    weights = np.full((len(names), 3), np.nan)
    for row, label in enumerate(names):
        stars = _STARS.fullmatch(label)
        if label in POLARITY or stars:
            weights[row, 0] = (int(stars[1]) - 3) / 2 if stars else POLARITY[label]
        elif label in POSITIONS:
            weights[row] = POSITIONS[label]
        else:
            raise LiminalError(
                f"{name} answers with {', '.join(labels[:8])}: {labels[row]!r} is neither a polarity (negative, "
                "neutral, positive, 1 star .. 5 stars) nor an emotion word with a published position. Write a function "
                "from texts to PAD and give it as module:function."
            )
    emotional = ~np.isnan(weights[:, 1:]).any(1)
    if 0 < emotional.sum() < len(names):  # "neutral" among emotions lies in the middle of all scales
        weights = np.nan_to_num(weights)
    return weights, f"expected position of {', '.join(labels)}"


def _function(name: str) -> Reader:
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise LiminalError(f"{name}: {error}. Give module:function, importable from this folder.") from None

    def run(texts: Sequence[str]) -> Reading:
        found = function(list(texts))
        if hasattr(found, "columns"):
            known = [column for column in found.columns if _dimension(str(column))]
            pad = np.full((len(found), 3), np.nan)
            for column in known:
                pad[:, DIMENSIONS.index(_dimension(str(column)) or "")] = found[column]
        else:
            pad = np.asarray(found, dtype=np.float64)
            if pad.ndim == 1:
                pad = np.column_stack([pad, np.full((len(pad), 2), np.nan)])
        if pad.shape != (len(texts), 3):
            raise LiminalError(
                f"{name} gave {len(pad)} rows and {pad.shape[1:]} columns for {len(texts)} texts. It takes a list of "
                "texts and gives (n, 3) pleasure, arousal, dominance, (n,) pleasure, or a DataFrame with these columns."
            )
        return Reading(pad)

    return Reader(name, "function", run)


def _vader() -> Reader:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise ImportError("vader needs vaderSentiment: pip install 'liminal_hf[benchmark]'") from None
    analyzer = SentimentIntensityAnalyzer()

    def run(texts: Sequence[str]) -> Reading:
        pad = np.full((len(texts), 3), np.nan)
        pad[:, 0] = [analyzer.polarity_scores(text)["compound"] for text in texts]
        return Reading(pad)

    return Reader("vader", "vader", run, {"labels": "compound score as pleasure"})


def _lexicon(path: Path) -> Reader:
    from ..data.tables import TableSettings, column_names, read_table

    if not path.is_file():
        raise LiminalError(f"There is no lexicon {path}.")
    names = column_names(path)
    columns = {name: known for name in names if (known := _dimension(name))}
    if not columns or len(names) == len(columns):
        raise LiminalError(
            f"{path} is no lexicon: it needs a column of words and any of valence (pleasure), arousal, dominance. It "
            f"has: {', '.join(names)}."
        )
    table = read_table(path, TableSettings(text=next(name for name in names if name not in columns)))
    values = np.full((len(table), 3), np.nan)
    for dimension, numbers in zip(columns.values(), table.numbers(list(columns)).T, strict=True):
        # Lexicons have scales of their own; the middle of all words is the middle here, three deviations the end.
        values[:, DIMENSIONS.index(dimension)] = (numbers - np.nanmean(numbers)) / (3 * np.nanstd(numbers))
    pairs = zip(table.texts, values, strict=True)
    positions = {str(word).lower(): position for word, position in pairs if word is not None}

    def run(texts: Sequence[str]) -> Reading:
        pad = np.zeros((len(texts), 3))
        pad[:, np.isnan(values).all(0)] = np.nan
        for row, text in enumerate(texts):
            found = [positions[word] for word in map(str.lower, _WORD.findall(text)) if word in positions]
            if found:
                pad[row] = np.mean(found, axis=0)
        return Reading(np.clip(pad, -1, 1))

    how = "mean of the words found, z-scored over the lexicon and divided by 3; 0 where none is found"
    about = {"words": len(positions), "labels": how, "sha256": files_of(str(path))}
    return Reader(str(path), "lexicon", run, about, (path.stem,))
