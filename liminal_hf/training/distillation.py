"""Soft targets: the predictions of other checkpoints, also for texts without labels.

Requires accelerate, datasets and transformers. The source is Hinton et al. 2015, "Distilling the Knowledge in a Neural
Network"; for a regression a teacher's prediction is the soft target itself.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset, concatenate_datasets
from huggingface_hub.utils import tqdm
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from ..data import TableSettings, load_goemotions, read_table
from ..data.pooled_cache import COLUMN
from ..inference import TextBatch, read
from ..io import atomic_write, find_file, folder_sha256
from ..modeling.configuration_liminal import DIMENSIONS, MISSING_LABEL, LiminalConfig
from ..modeling.encoders import load_tokenizer, max_tokens
from ..modeling.errors import LiminalError
from ..modeling.texts import text_error
from .recipe import Distill

logger = logging.getLogger(__name__)


_SHARD = 2048
_LOG_SECONDS = 30


def check_teacher(folder: str, targets: Sequence[str] = DIMENSIONS) -> None:
    """Refuses a folder without a checkpoint, and one whose model is no regression with these targets in this order."""
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(
            f"There is no teacher at {folder}. Train it first (`liminal train RECIPE -o FOLDER` leaves it in "
            "FOLDER/model), or name another folder in distill.teachers."
        )
    config = AutoConfig.from_pretrained(folder)
    names = [str(config.id2label[index]).lower() for index in sorted(config.id2label)]
    wanted = [target.lower() for target in targets]
    allowed = [wanted, ["valence" if name == "pleasure" else name for name in wanted]]
    if isinstance(config, LiminalConfig):
        if names not in allowed:
            raise LiminalError(
                f"distill.teachers: {folder} predicts {', '.join(names)}, and the student learns {', '.join(targets)}. "
                "A teacher needs the same targets in the same order."
            )
        return
    unnamed = [f"label_{index}" for index in range(len(wanted))]
    if config.problem_type != "regression" or names not in (unnamed, *allowed):
        raise LiminalError(
            f"distill.teachers: {folder} has problem_type {config.problem_type!r} and the labels {', '.join(names)}. "
            "A teacher is a model of ours, or one of AutoModelForSequenceClassification whose config.json says "
            f'problem_type "regression" and {len(wanted)} labels: {", ".join(targets)}, or none by name.'
        )


def weights_sha256(teachers: list[str]) -> list[str]:
    """The sha256 of each file of the teachers' weights, in order."""
    return _file_hashes(teachers, "*.safetensors")


def settings_sha256(teachers: list[str]) -> list[str]:
    """The sha256 of each other file that the teachers' predictions depend on: config, tokenizer, code."""
    return [digest for pattern in ("*.json", "*.txt", "*.model", "*.py") for digest in _file_hashes(teachers, pattern)]


def _file_hashes(teachers: list[str], pattern: str) -> list[str]:
    beside = {"provenance.json", "metrics.json"}  # no prediction depends on them
    hashes = {teacher: folder_sha256(Path(teacher), pattern) for teacher in set(teachers)}
    return [digest for teacher in teachers for name, digest in hashes[teacher].items() if name not in beside]


def add_unlabelled(
    train: Dataset,
    distill: Distill,
    data_dir: str | Path | None = None,
    targets: Sequence[str] = DIMENSIONS,
    text: str = "text",
) -> Dataset:
    """The training split with the texts that the teachers, who are checked, alone label: the same ones for any seed."""
    for teacher in distill.teachers:
        check_teacher(teacher, targets)
    if distill.texts is None and not distill.files:
        return train
    if COLUMN in train.column_names:
        raise LiminalError(f"distill adds texts whose states data['train'][{COLUMN!r}] does not have: remove it.")
    texts = load_goemotions(data_dir)["train"]["text"][:] if distill.texts else []
    for name in distill.files:
        texts += _texts_of(Path(name), text, data_dir)
    count = min(distill.num_texts, len(texts))
    drawn = sorted(np.random.default_rng(0).choice(len(texts), count, replace=False))
    rows = {"text": [texts[row] for row in drawn], "labels": [[float(MISSING_LABEL)] * len(targets)] * count}
    train = train.select_columns(list(rows))
    return concatenate_datasets([train, Dataset.from_dict(rows, features=train.features)])


def _texts_of(wanted: Path, column: str, data_dir: str | Path | None) -> list[str]:
    """The texts that can be read of a table, which is at its path or in the folder of the corpora."""
    path = wanted if wanted.is_file() else find_file(wanted.parent.name, wanted.name, data_dir)
    if path is None:
        raise FileNotFoundError(
            f"distill.files: there is no {wanted}, nor {wanted.parent.name}/{wanted.name} in a folder that "
            "LIMINAL_DATA_DIR names. Give the path of a table with a column of texts."
        )
    table = read_table(path, TableSettings(text=column))
    errors = [error or text_error(text) for text, error in zip(table.texts, table.errors, strict=True)]
    if left_out := sum(error is not None for error in errors):
        logger.warning("%s: %d of %d rows have no text to read; they are left out.", path, left_out, len(table))
    return [text for text, error in zip(table.texts, errors, strict=True) if error is None]


def soft_labels(train: Dataset, distill: Distill, max_length: int, path: Path) -> list[list[float]]:
    """What a student learns instead of the labels of `train`: see `teach` and `soft_targets`."""
    labels = np.asarray(train["labels"][:], dtype=np.float64)
    predictions = teach(distill.teachers, train["text"][:], max_length, path)
    return soft_targets(labels, predictions, distill.weight, distill.stretch).astype(np.float32).tolist()


def teach(teachers: list[str], texts: list[str], max_length: int, path: Path) -> np.ndarray:
    """The teachers' mean prediction, read in shards: an interrupted run goes on after the last whole one.

    Args:
        teachers: folders that `check_teacher` accepts; one that is named twice counts twice.
        texts: none empty.
        max_length: tokens per text, for a teacher whose config does not say.
        path: file that keeps the outcome `(len(texts), targets)`, float64 in label units. One of other teachers or
            texts, or a damaged one, is written anew.
    """
    content = [weights_sha256(teachers), settings_sha256(teachers), texts, max_length]
    identity = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    processes = PartialState()
    predictions = _read_file(path, identity)
    if predictions is None:
        # Texts of one length together: padding costs time.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        folder = path.with_name(f".{path.stem}.shards")
        total: np.ndarray | float = 0.0
        for number, teacher in enumerate(dict.fromkeys(teachers)):
            starts = range(0, len(order), _SHARD)
            shards = {
                folder / str(number) / f"{start:06d}.safetensors": order[start : start + _SHARD] for start in starts
            }
            _read_shards(teacher, texts, shards, max_length, identity)
            processes.wait_for_everyone()
            parts = np.concatenate([_read_file(shard, identity) for shard in shards])
            total = total + teachers.count(teacher) / len(teachers) * parts[np.argsort(order)]
        predictions = np.asarray(total)
        processes.wait_for_everyone()
        if processes.is_main_process:
            _write_file(path, predictions, identity)
            shutil.rmtree(folder, ignore_errors=True)
    # Every process comes here, whether the file was there or not.
    processes.wait_for_everyone()
    return predictions


def _read_shards(teacher: str, texts: list[str], shards: dict[Path, list[int]], max_length: int, identity: str) -> None:
    """Writes this process's share of the shards that are not there yet."""
    processes = PartialState()
    mine = list(shards)[processes.process_index :: processes.num_processes]
    missing = [path for path in mine if _read_file(path, identity) is None]
    if not missing:
        return
    model = AutoModelForSequenceClassification.from_pretrained(teacher, use_safetensors=True).to(processes.device)
    tokenizer = load_tokenizer(teacher)
    limit = max_tokens(model.config)
    length = None if hasattr(model.config, "max_seq_length") else min(max_length, limit or max_length)
    count = sum(len(shards[path]) for path in missing)
    name = f"{Path(teacher).parent.name}/{Path(teacher).name}"
    with tqdm(total=count, desc=f"Soft targets of {name}", unit="text", disable=count <= 64) as bar:
        logged = time.monotonic()

        def progress(batches: Sequence[TextBatch]) -> Iterator[TextBatch]:
            nonlocal logged
            for batch in batches:
                yield batch
                bar.update(len(batch.rows))
                if time.monotonic() - logged >= _LOG_SECONDS:
                    logger.info("Soft targets of %s: %d of %d texts", name, bar.n, bar.total)
                    logged = time.monotonic()

        for path in missing:
            rows = [texts[row] for row in shards[path]]
            options: dict[str, Any] = {
                "max_length": length,
                "batch_size": 64,
                "outputs": ("logits",),
                "progress": progress,
            }
            _write_file(path, read(model, tokenizer, rows, **options)["logits"].astype(np.float64), identity)


def _read_file(path: Path, identity: str) -> np.ndarray | None:
    try:
        with safe_open(path, framework="numpy") as file:
            about, values = file.metadata() or {}, file.get_tensor("pad")
    except (OSError, SafetensorError):
        return None
    is_whole = about.get("identity") == identity and about.get("sha256") == hashlib.sha256(values.tobytes()).hexdigest()
    return values if is_whole else None


def _write_file(path: Path, values: np.ndarray, identity: str) -> None:
    about = {"identity": identity, "sha256": hashlib.sha256(values.tobytes()).hexdigest()}
    with atomic_write(path) as temporary:
        save_file({"pad": values}, temporary, metadata=about)


def soft_targets(labels: np.ndarray, predictions: np.ndarray, weight: float, stretch: bool = False) -> np.ndarray:
    """Labels mixed with the teachers' predictions; where there is no label, the prediction alone.

    Args:
        labels: `(rows, targets)` in label units, -100 where there is none.
        predictions: `(rows, targets)` in label units.
        weight: share of the teachers, 0..1.
        stretch: scales the predictions around their mean, each target by one factor, to the standard deviation that the
            labels have; both are taken over the labels that exist. A target where either is constant stays as it is.

    Example:
        >>> soft_targets(np.array([[0.5, -100, 0.0]]), np.array([[0.1, 0.3, 0.2]]), 0.5).round(6).tolist()
        [[0.3, 0.3, 0.1]]
        >>> labels, predictions = np.array([[0.4], [-0.4], [-100]]), np.array([[0.2], [-0.2], [0.1]])
        >>> soft_targets(labels, predictions, 0.5, stretch=True).round(6).tolist()
        [[0.4], [-0.4], [0.2]]
    """
    missing = labels == MISSING_LABEL
    if stretch:
        gold, said = (np.ma.masked_array(values, missing) for values in (labels, predictions))
        factor = (gold.std(axis=0) / said.std(axis=0)).filled(0.0)  # a division by 0 is masked
        centre = said.mean(axis=0).filled(0.0)
        predictions = centre + (predictions - centre) * np.where(factor > 0, factor, 1.0)
    return np.where(missing, predictions, (1 - weight) * labels + weight * predictions)
