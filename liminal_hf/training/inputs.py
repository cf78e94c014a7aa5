"""What a training reads: the splits that a recipe names, their tokens or pooled states, and the targets of a phase.

Requires accelerate, datasets, torch and transformers.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict, Features, List, Value
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase, default_data_collator

from ..data import load_emobank, load_table, pooled_dataset
from ..data.pooled_cache import COLUMN, encode
from ..modeling import encoders
from ..modeling.configuration_liminal import DIMENSIONS, MISSING_LABEL, LiminalConfig
from ..modeling.errors import LiminalError
from ..modeling.modeling_liminal import LiminalForPADRegression
from ..modeling.processors import SignalCollator, is_processor
from ..modeling.texts import checked_text, prepared, with_padding
from .calibration import SCALE_TEXTS, check_label_range, measure_pooled_scale, read_labels
from .distillation import add_unlabelled, soft_labels
from .persons import COLUMNS, ValidationPersons, persons_of
from .recipe import Phase, Recipe, RecipeError
from .trainer import ROW

logger = logging.getLogger(__name__)

_BATCH = 32


# ---- splits ----


def load_splits(
    recipe: Recipe,
    data: Mapping[str, Any] | None = None,
    data_dir: str | Path | None = None,
) -> DatasetDict:
    """The splits of a recipe, or the ones that are given, checked.

    Args:
        recipe: names the data, the targets and the columns.
        data: the splits themselves, as in `fit`.
        data_dir: folder with the corpora.

    Returns:
        `train`, `validation` and where there is one `test`, each with `text` (the path of a sound or an image, where
        the recipe names such a column) and `labels` `(targets,)` in -1..1, -100 where one is missing.

    Raises:
        LiminalError: a split, a column, a text or a label can't be used; the message says which.
        FileNotFoundError: a table or a corpus is missing.
    """
    targets = recipe.targets
    if data is not None:
        splits = _checked_splits(data, len(targets), recipe.data.signal or "text")
    elif recipe.data.files is None:
        splits = _emobank(recipe, data_dir)
    else:
        files = {str(split): path for split, path in recipe.data.files.items()}
        given = recipe.data.model_dump(exclude={"dataset", "files", "max_length", "audio", "image"}, exclude_none=True)
        if recipe.data.signal:
            given["text"] = getattr(recipe.data, recipe.data.signal)
        splits = load_table(files, targets=targets, **given)
        if recipe.data.signal:
            splits = _with_paths(splits, files)
    if "validation" not in splits or not len(splits["validation"]):
        raise LiminalError(
            "There is nothing to choose the best model by: give data.files a `validation` table, or set "
            "data.validation_fraction above 0 and give `train` more than one text."
        )
    return _without_untrained_targets(splits)


def _emobank(recipe: Recipe, data_dir: str | Path | None) -> DatasetDict:
    splits = load_emobank(data_dir)
    if recipe.targets == list(DIMENSIONS):
        return splits
    names = ["pleasure" if target == "valence" else target for target in recipe.targets]
    if unknown := [name for name in names if name not in DIMENSIONS]:
        raise RecipeError(
            f"model.targets: EmoBank has labels for {', '.join(DIMENSIONS)} (or valence), not for {unknown[0]!r}."
        )
    columns = [DIMENSIONS.index(name) for name in names]
    chosen = {split: np.asarray(rows["labels"][:])[:, columns] for split, rows in splits.items()}
    return DatasetDict({split: _with_labels(rows, chosen[split]) for split, rows in splits.items()})


def _with_paths(splits: DatasetDict, files: Mapping[str, str]) -> DatasetDict:
    """The paths of sounds or images, which may start at their table's folder, as whole paths."""

    def resolved(split: str) -> Dataset:
        # What is held out of the training rows is listed in their table.
        folder = Path(files.get(split, files["train"])).parent
        paths = [str((folder / path).resolve()) for path in splits[split]["text"][:]]
        if missing := [path for path in paths if not Path(path).is_file()]:
            raise LiminalError(
                f"{len(missing)} of {len(paths)} files that the {split} table names are not there, the first: "
                f"{missing[0]}. Relative paths start at the table's folder."
            )
        return splits[split].remove_columns("text").add_column("text", paths)

    return DatasetDict({split: resolved(split) for split in splits})


def _checked_splits(data: Mapping[str, Any], targets: int, column: str) -> DatasetDict:
    if missing := [split for split in ("train", "validation") if split not in data]:
        raise LiminalError(f"data needs the split {missing[0]!r}; it has {', '.join(data) or 'none'}.")
    splits = {split: _as_dataset(rows, split, column) for split, rows in data.items()}
    for split, rows in splits.items():
        labels = read_labels(rows, targets)
        check_label_range(labels, LiminalConfig(pooled_size=1), f"The labels of data[{split!r}]", own_model=False)
        given = rows["labels"][:]
        # A run is known by the numbers of its data: those that need no change stay as they are.
        if any(None in row for row in given) or not np.array_equal(np.asarray(given, np.float64), labels):
            splits[split] = _with_labels(rows, labels)
    return DatasetDict(splits)


def _as_dataset(rows: Any, split: str, column: str) -> Dataset:
    if not isinstance(rows, Dataset):
        if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # a DataFrame
            rows = rows.to_dict("list")
        elif not isinstance(rows, Mapping):
            rows = list(rows)
            rows = {name: [row.get(name) for row in rows] for name in (rows[0] if rows else ())}
    columns = rows.column_names if isinstance(rows, Dataset) else list(rows)
    if not {column, "labels"} <= set(columns):
        raise LiminalError(f"data[{split!r}] needs the columns {column} and labels; its columns are {sorted(columns)}.")
    if column != "text":
        rows = rows.rename_column(column, "text") if isinstance(rows, Dataset) else {**rows, "text": rows[column]}
    texts = rows.with_format(None)["text"][:] if isinstance(rows, Dataset) else list(rows["text"])
    for row, text in enumerate(texts):
        checked_text(text, f"data[{split!r}], row {row}")
    return rows.with_format(None) if isinstance(rows, Dataset) else Dataset.from_dict(dict(rows))


def _with_labels(rows: Dataset, labels: np.ndarray) -> Dataset:
    features = Features({"labels": List(Value("float32"))})
    column = Dataset.from_dict({"labels": labels.tolist()}, features=features)["labels"]
    return rows.remove_columns("labels").add_column("labels", column[:], feature=features["labels"])


def _without_untrained_targets(splits: DatasetDict) -> DatasetDict:
    """Drops the labels of targets that have none in training: there is no answer to compare them with."""
    labels = {split: np.asarray(rows["labels"][:], dtype=np.float64) for split, rows in splits.items()}
    untrained = (labels["train"] == MISSING_LABEL).all(axis=0)
    if untrained.all():
        raise LiminalError("No row of the training split has a label. Check the columns in data.labels.")
    for split, values in labels.items():
        if (values[:, untrained] != MISSING_LABEL).any():
            values[:, untrained] = MISSING_LABEL
            splits[split] = _with_labels(splits[split], values)
    return splits


# ---- tokens and states ----


def load_tokenizer(encoder: str, revision: str | None = None) -> Any:
    """The encoder's tokenizer, padding on the right; one without a padding token pads with its end token.

    Of an encoder of sounds or images its processor.
    """
    return with_padding(encoders.load_tokenizer(encoder, revision, padding_side="right"))


def tokenized(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """The rows as tokens (longer texts are truncated), with `labels`, `length` and the row's index.

    Sounds and images stay paths, in a column of that name: `SignalCollator` reads a batch when it is needed.
    """
    rows = rows.select_columns(["text", "labels"])
    if is_processor(tokenizer):
        column = "audio" if hasattr(tokenizer, "sampling_rate") else "image"
        return rows.rename_column("text", column).add_column(ROW, list(range(len(rows))))
    # Hashing the tokenizer costs more than using it; these rows are never looked for in a cache.
    name = hashlib.sha256(f"{rows._fingerprint} {max_length}".encode()).hexdigest()[:16]
    with PartialState().main_process_first():
        tokens = rows.map(
            _tokens,
            batched=True,
            remove_columns=["text"],
            fn_kwargs={"tokenizer": tokenizer, "max_length": max_length},
            new_fingerprint=name,
            load_from_cache_file=False,
        )
    tokens = tokens.add_column("length", [len(ids) for ids in tokens["input_ids"][:]])
    return tokens.add_column(ROW, list(range(len(tokens))))


def _tokens(batch: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Any:
    return tokenizer(batch["text"], truncation=True, max_length=max_length)


def readable_length(model: LiminalForPADRegression, wanted: int) -> int:
    """How many tokens of a text the encoder can read, at most `wanted`; a smaller number is warned of."""
    limit = model.liminal.max_tokens
    if limit is None or limit >= wanted:
        return wanted
    logger.warning("data.max_length is %d, and the encoder reads at most %d tokens: it is %d.", wanted, limit, limit)
    return limit


@dataclass
class Inputs:
    """The splits in the forms that phases read; what was computed is kept while it is true."""

    recipe: Recipe
    splits: DatasetDict
    tokenizer: PreTrainedTokenizerBase
    soft_targets: Path  # the file that keeps the teachers' predictions
    data_dir: str | Path | None = None
    held_out: np.ndarray | None = None  # (rows of train,), whether only a phase with `trainable: exit` sees it
    persons: ValidationPersons | None = None  # of the validation split; no phase reads them
    unlabelled: int = 0  # rows of train that only teachers label
    _prepared: dict[str, DatasetDict] = field(default_factory=dict)

    def for_phase(self, model: LiminalForPADRegression, phase: Phase) -> DatasetDict:
        """The splits as the phase reads them: pooled states, or tokens."""
        kind = "pooled" if phase.cache else "tokens"
        if kind not in self._prepared:
            if phase.cache:
                self._prepared[kind] = _pooled(model, self.tokenizer, self.splits)
            else:
                options = {"tokenizer": self.tokenizer, "max_length": model.config.max_seq_length}
                splits = {name: tokenized(rows, **options) for name, rows in self.splits.items()}
                self._prepared[kind] = DatasetDict(splits)
        return self._prepared[kind]

    def row_counts(self) -> dict[str, int]:
        """Rows by split; those that `distill` has added to `train` again as `unlabelled`."""
        counts = {split: len(rows) for split, rows in self.splits.items()}
        return {**counts, **({"unlabelled": self.unlabelled} if self.recipe.distill else {})}

    def forget_states(self) -> None:
        """Drops pooled states, after a change of the encoder or the pooling."""
        self._prepared.pop("pooled", None)

    def training_rows(self, model: LiminalForPADRegression, phase: Phase) -> Dataset:
        """The training split as the phase learns it: with soft targets where the recipe names teachers."""
        rows, distill = self.for_phase(model, phase)["train"], self.recipe.distill
        is_exit = phase.trainable == "exit"
        chosen = np.ones(len(rows), dtype=bool) if self.held_out is None or is_exit else ~self.held_out
        if distill is not None and (is_exit or phase.trainable == "uncertainty"):
            chosen &= (np.asarray(self.splits["train"]["labels"][:]) != MISSING_LABEL).any(axis=1)
            return rows.select(np.flatnonzero(chosen))
        if distill is None:
            return rows if chosen.all() else rows.select(np.flatnonzero(chosen))
        labels = soft_labels(self.splits["train"], distill, self.recipe.data.max_length, self.soft_targets)
        rows = rows.remove_columns("labels").add_column("labels", labels)
        return rows if chosen.all() else rows.select(np.flatnonzero(chosen))

    def collator(self, phase: Phase) -> Any:
        """Makes batches of the rows that the phase reads."""
        if is_processor(self.tokenizer) and not phase.cache:
            return SignalCollator(self.tokenizer, self.recipe.data.max_length)
        # Given the tokenizer itself, the Trainer would write its special tokens into the encoder's config.
        return default_data_collator if phase.cache else DataCollatorWithPadding(self.tokenizer)

    def measure_scale(self, model: LiminalForPADRegression, phase: Phase) -> None:
        """Puts the scale of the pooled states of (up to 512) training texts into the model's config."""
        rows = self.for_phase(model, phase)["train"]
        first = rows.select(range(min(SCALE_TEXTS, len(rows))))
        batches = DataLoader(first, _BATCH, collate_fn=self.collator(phase), generator=torch.Generator())
        measure_pooled_scale(model.to(PartialState().device), batches)
        model.to("cpu")


def run_inputs(
    recipe: Recipe, splits: DatasetDict, tokenizer: PreTrainedTokenizerBase, soft_targets: Path, data_dir: Any
) -> Inputs:
    """`Inputs` with the unlabelled texts of the recipe, and without states that its phases would make old."""
    _check_sense(recipe, tokenizer)
    persons = persons_of(splits, recipe)
    splits = DatasetDict(
        {
            split: rows.remove_columns([name for name in COLUMNS if name in rows.column_names])
            for split, rows in splits.items()
        }
    )
    if not all(phase.freezes_encoder for phase in recipe.phases):
        splits = splits.select_columns(["text", "labels"])
    labelled = len(splits["train"])
    if recipe.distill is not None:
        splits["train"] = add_unlabelled(splits["train"], recipe.distill, data_dir, recipe.targets, recipe.data.text)
    share = max(phase.hold_out for phase in recipe.phases)
    held_out = held_out_texts(splits["train"]["text"][:], share) if share else None
    unlabelled = len(splits["train"]) - labelled
    return Inputs(recipe, splits, tokenizer, soft_targets, data_dir, held_out, persons, unlabelled)


def _check_sense(recipe: Recipe, tokenizer: Any) -> None:
    """Raises a RecipeError where the data are not what the encoder reads."""
    reads = "text" if not is_processor(tokenizer) else "audio" if hasattr(tokenizer, "sampling_rate") else "image"
    given = recipe.data.signal or "text"
    if reads != given:
        raise RecipeError(
            f"The encoder {recipe.model['encoder']} reads {reads}, and the data are {given}: name the column of your "
            f"tables that holds it, data.{reads}: COLUMN, or take another encoder."
        )
    if reads != "text" and (recipe.distill or any(phase.objective != "pad" for phase in recipe.phases)):
        raise RecipeError(
            f"`distill:` and `objective: goemotions` have texts. Leave them out for an encoder of {reads}."
        )


def held_out_texts(texts: Sequence[str], share: float) -> np.ndarray:
    """Which texts are held out, `(len(texts),)` bool: the same ones in any run, equal texts together.

    Raises:
        LiminalError: all of them are held out, or none.

    Example:
        >>> held_out_texts([f"Text {number}." for number in range(8)], 0.25).tolist()
        [True, False, True, False, False, False, True, False]
    """
    found = np.array([int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) < share * 16**8 for text in texts])
    if found.all() or not found.any():
        raise LiminalError(
            f"hold_out is a share of {share:g} of the training texts, and of these {len(found)} texts that is "
            f"{'all' if found.all() else 'none'}. Give more texts, or leave hold_out out."
        )
    return found


def _pooled(model: LiminalForPADRegression, tokenizer: PreTrainedTokenizerBase, splits: DatasetDict) -> DatasetDict:
    model.to(PartialState().device)
    if model.liminal.pooler.is_learned:
        raise RecipeError(
            "`cache: true` keeps pooled states, but this pooling is learned in training. Set `cache: false`."
        )
    if all(COLUMN in rows.column_names for rows in splits.values()):
        _check_states(model, tokenizer, splits["train"].select(range(min(8, len(splits["train"])))))
    else:
        with PartialState().main_process_first():
            splits = pooled_dataset(model, tokenizer, splits, max_length=model.config.max_seq_length)
    pooled = DatasetDict({split: rows.select_columns([COLUMN, "labels"]) for split, rows in splits.items()})
    for split, rows in pooled.items():
        pooled[split] = rows.add_column(ROW, list(range(len(rows))))
    return pooled.with_format("torch")


def _check_states(model: LiminalForPADRegression, tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> None:
    """Refuses given states that are not those of the recipe's encoder and pooling, by the first few texts."""
    states = np.asarray(rows[COLUMN][:], dtype=np.float64)
    tokens = prepared(tokenizer, rows["text"][:], model.config.max_seq_length)
    own = encode(model.liminal, tokenizer, tokens, 1 if is_processor(tokenizer) else len(rows))
    if states.shape != own.shape or np.linalg.norm(states - own) > 0.05 * np.linalg.norm(own):
        raise LiminalError(
            f"The states in data[...][{COLUMN!r}], {states.shape[1]} numbers a text, are not what this recipe's "
            f"encoder and pooling give ({own.shape[1]} numbers). Pool the texts with them, or remove the column."
        )
