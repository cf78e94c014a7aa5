"""What teachers say: soft targets from other checkpoints, also for texts that nobody has labelled.

Requires accelerate, datasets and transformers. The source is Hinton et al. 2015, "Distilling the Knowledge in a Neural
Network"; for a regression a teacher's prediction is the soft target itself.
"""

import json
import logging
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, concatenate_datasets
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..data import load_goemotions
from ..data.embedding_cache import COLUMN
from ..io import atomic_write, file_sha256
from ..modeling.configuration_liminal import DIMENSIONS, MISSING_LABEL, LiminalConfig
from .recipe import Distill

logger = logging.getLogger(__name__)


def check_teacher(folder: str) -> None:
    """Refuses what is no model, or a model whose outputs are not PAD.

    Args:
        folder: of a checkpoint: one of ours, or of `AutoModelForSequenceClassification`.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is no regression with three outputs in the order of ours.
    """
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(
            f"There is no teacher at {folder}. Train it first (`liminal train RECIPE -o FOLDER` leaves it in "
            "FOLDER/model), or name another folder in distill.teachers."
        )
    config = AutoConfig.from_pretrained(folder)
    if isinstance(config, LiminalConfig):
        return
    names = [str(config.id2label[place]).lower() for place in sorted(config.id2label)]
    unnamed = [f"label_{place}" for place in range(3)]
    if config.problem_type != "regression" or names not in (unnamed, list(DIMENSIONS), ["valence", *DIMENSIONS[1:]]):
        raise ValueError(
            f"distill.teachers: {folder} has problem_type {config.problem_type!r} and the labels {', '.join(names)}. "
            "A teacher is a model of ours, or one of AutoModelForSequenceClassification whose config.json says "
            f'problem_type "regression" and three labels: {", ".join(DIMENSIONS)}, or none by name.'
        )


def weights_sha256(teachers: list[str]) -> list[str]:
    """What tells these teachers from others: sha256 of each file of their weights, in order.

    Example:
        >>> weights_sha256([])
        []
    """
    found = {
        teacher: [file_sha256(path) for path in sorted(Path(teacher).glob("*.safetensors"))]
        for teacher in dict.fromkeys(teachers)
    }
    return [digest for teacher in teachers for digest in found[teacher]]


def add_unlabelled(train: Dataset, distill: Distill, data_dir: str | Path | None = None) -> Dataset:
    """The training split with the texts that the teachers alone label: the same ones whatever the seed.

    Args:
        train: with `text` and `labels`.
        distill: the recipe's; one that asks for no texts gets `train` back.
        data_dir: folder with the corpora, see `load_goemotions`.

    Raises:
        FileNotFoundError, ValueError: a teacher is none (see `check_teacher`), or `train` has a column of states.
    """
    for teacher in distill.teachers:
        check_teacher(teacher)
    if distill.texts is None:
        return train
    if COLUMN in train.column_names:
        raise ValueError(f"distill.texts adds texts whose states data['train'][{COLUMN!r}] does not have: remove it.")
    texts = load_goemotions(data_dir)["train"]["text"][:]
    number = min(distill.num_texts, len(texts))
    drawn = sorted(np.random.default_rng(0).choice(len(texts), number, replace=False))
    rows = {"text": [texts[row] for row in drawn], "labels": [[float(MISSING_LABEL)] * 3] * number}
    train = train.select_columns(list(rows))
    return concatenate_datasets([train, Dataset.from_dict(rows, features=train.features)])


def taught_labels(train: Dataset, distill: Distill, max_length: int, kept: Path) -> list[list[float]]:
    """What a student learns instead of the labels of `train`: see `teach` and `soft_targets`."""
    labels = np.asarray(train["labels"][:], dtype=np.float64)
    taught = teach(distill.teachers, train["text"][:], max_length, kept)
    return soft_targets(labels, taught, distill.weight, distill.stretch).astype(np.float32).tolist()


def teach(teachers: list[str], texts: list[str], max_length: int, kept: Path) -> np.ndarray:
    """The teachers' mean prediction.

    Args:
        teachers: folders that `check_teacher` accepts; one that is named twice counts twice.
        texts: none empty.
        max_length: tokens per text, for a teacher whose config does not say.
        kept: file that keeps the outcome for a run that is cut off. One of other teachers, or half of one, is as good
            as none.

    Returns:
        `(len(texts), 3)` float64 in label units.
    """
    identity = json.dumps(weights_sha256(teachers))
    with suppress(OSError, SafetensorError), safe_open(kept, framework="numpy") as file:
        found = file.get_tensor("pad")
        if (file.metadata() or {}).get("teachers") == identity and found.shape == (len(texts), 3):
            return found
    taught = np.zeros((len(texts), 3))
    shares = {teacher: teachers.count(teacher) / len(teachers) for teacher in teachers}
    for number, (teacher, share) in enumerate(shares.items(), start=1):
        logger.info("Teacher %d of %d reads %d texts", number, len(shares), len(texts))
        model = AutoModelForSequenceClassification.from_pretrained(teacher, use_safetensors=True)
        taught += share * predict_texts(model, AutoTokenizer.from_pretrained(teacher), texts, max_length=max_length)
    processes = PartialState()
    if processes.is_main_process:
        with atomic_write(kept) as temporary:
            save_file({"pad": taught}, temporary, metadata={"teachers": identity})
    processes.wait_for_everyone()
    return taught


def soft_targets(labels: np.ndarray, taught: np.ndarray, weight: float, stretch: bool = False) -> np.ndarray:
    """Labels mixed with what teachers say; where there is no label, the teachers' word.

    Args:
        labels: `(rows, 3)` in label units, -100 where there is none.
        taught: `(rows, 3)` in label units.
        weight: share of the teachers, 0..1.
        stretch: scales what they say around its mean, each dimension by one factor, to the standard deviation that the
            labels have; both are taken over the labels that exist. A dimension where either is constant stays as it is.

    Example:
        >>> soft_targets(np.array([[0.5, -100, 0.0]]), np.array([[0.1, 0.3, 0.2]]), 0.5).round(6).tolist()
        [[0.3, 0.3, 0.1]]
        >>> labels, taught = np.array([[0.4], [-0.4], [-100]]), np.array([[0.2], [-0.2], [0.1]])
        >>> soft_targets(labels, taught, 0.5, stretch=True).round(6).tolist()
        [[0.4], [-0.4], [0.2]]
    """
    missing = labels == MISSING_LABEL
    if stretch:
        gold, said = (np.ma.masked_array(values, missing) for values in (labels, taught))
        factor = (gold.std(axis=0) / said.std(axis=0)).filled(0.0)  # a division by 0 is masked
        centre = said.mean(axis=0).filled(0.0)
        taught = centre + (taught - centre) * np.where(factor > 0, factor, 1.0)
    return np.where(missing, taught, (1 - weight) * labels + weight * taught)


@torch.inference_mode()
def predict_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    batch_size: int = 64,
    max_length: int | None = None,
) -> np.ndarray:
    """PAD of many texts, `(len(texts), 3)` float64 in label units.

    Args:
        model, tokenizer: ours, or one of `AutoModelForSequenceClassification` that has three outputs in label units.
        texts: none empty.
        batch_size: texts per batch.
        max_length: tokens per text for a model whose config has no `max_seq_length`.
    """
    model = model.to(PartialState().device).eval()
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    found = np.empty((len(texts), 3))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer(
            [texts[row] for row in rows],
            padding=True,
            truncation=True,
            max_length=getattr(model.config, "max_seq_length", max_length),
            return_tensors="pt",
        )
        found[rows] = model(**batch.to(model.device)).logits.double().cpu().numpy()
    return found
