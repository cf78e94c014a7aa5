"""The sections of a recipe, each key with its type, its range and what it means.

Requires PyYAML and pydantic.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_serializer, model_validator

from ...modeling.configuration_liminal import DIMENSIONS
from .fields import NOT_FOR_A_RECIPE, Model, ModelChanges, ModelFields, Section, Training, TrainingFields
from .files import RecipeError, read, replace_value, with_base

# Column names that stand for pleasure, arousal and dominance, alone or as a word of a longer name.
_PAD_WORDS = ({"v", "val", "valence", "p", "pleasure"}, {"a", "aro", "arousal"}, {"d", "dom", "dominance"})


class Data(Section):
    """Where the texts and their labels come from."""

    dataset: Literal["emobank"] | None = None
    """emobank, or nothing when `files` is given."""
    files: dict[Literal["train", "validation", "test"], str] | None = None
    """Your own tables by split: `train`, and where you have them `validation` and `test`. Relative paths start at the
    recipe's folder."""
    text: str = "text"
    """Name of the column with the text."""
    audio: str | None = None
    """Instead of `text`, for an encoder of sounds: column with the paths of sound files, from the table's folder on."""
    image: str | None = None
    """Instead of `text`, for an encoder of images: column with the paths of image files, from the table's folder on."""
    labels: list[str] | dict[str, str] = Field(default_factory=lambda: ["V", "A", "D"])
    """Names of the label columns, a list in the order of the targets or a mapping from target to column. Names other
    than those of pleasure (valence), arousal and dominance become the targets' names."""
    scale: tuple[float, float] = (1.0, 5.0)
    """Lowest and highest possible label in the tables; mapped to -1..1."""
    separator: str | None = None
    """Character between the columns of a text table; detected when left out."""
    encoding: str | None = None
    """Encoding of a text table, such as cp1252; detected when left out."""
    decimal: Literal[".", ","] | None = None
    """Decimal mark of the labels; detected when left out."""
    sheet: str | int | None = None
    """Name or position of the sheet in an Excel file; the first when left out."""
    quotes: Literal["yes", "no"] | bool | None = None
    """Whether quotation marks enclose the cells of a text table; decided cell by cell when left out."""
    validation_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of the training texts that is held out when there is no `validation` table; with `person`, of persons."""
    person: str | None = None
    """Column of your tables with who wrote a row and labelled it. How such persons differ from what the finished model
    says is then measured on the validation split, and kept with the model: see `PersonPrior`."""
    time: str | None = None
    """With `person`: column with when, numbers or dates; as the rows stand when left out."""
    date_order: Literal["dmy", "mdy"] | None = None
    """With `time`: how 1/9/2024 is meant; found in the file when left out."""
    max_length: int = Field(default=128, ge=2, le=1_000_000)
    """Tokens per text, or seconds per sound; longer ones are truncated."""

    @property
    def signal(self) -> str | None:
        """Which of `audio` and `image` names the column; None for texts."""
        return "audio" if self.audio else "image" if self.image else None

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: Any) -> dict[str, Any]:
        # A run is known by the hash of its recipe; a key that came later must not change those of earlier runs.
        later = {"separator", "encoding", "decimal", "sheet", "quotes", "validation_fraction"}
        later = (later | {"person", "time", "date_order", "audio", "image"}) - self.model_fields_set
        return {key: value for key, value in handler(self).items() if key not in later}

    @model_validator(mode="after")
    def _check(self) -> "Data":
        if (self.dataset is None) == (self.files is None):
            raise ValueError("give either `dataset: emobank` or `files:` with your own tables.")
        if self.files is not None and "train" not in self.files:
            raise ValueError("files: `train` is missing. For example: files: {train: my.csv, validation: dev.csv}")
        if self.audio and self.image:
            raise ValueError("give one of audio and image: a model reads one of them. `liminal_hf.fuse` joins several.")
        if self.signal and self.dataset:
            raise ValueError(f"{self.signal} is a column of your own tables (`files:`); emobank has texts.")
        if self.person is None and (self.time or self.date_order):
            raise ValueError("time and date_order go with `person`, the column with who wrote a row.")
        if self.person is not None and self.files is None:
            raise ValueError("person is a column of your own tables (`files:`); emobank names no writers.")
        if not self.scale[0] < self.scale[1]:
            raise ValueError(f"scale must be [low, high] with low < high, got {list(self.scale)}.")
        return self


class Phase(Section):
    """One stretch of training; the next phase continues with the same model."""

    name: str
    """Names the phase's folder and its lines in the log."""
    objective: Literal["pad", "goemotions"] = "pad"
    """pad trains the model's own loss. goemotions trains the encoder alone on the 28 labels of GoEmotions, under a
    linear layer that is thrown away."""
    trainable: Literal["head", "all", "lora", "uncertainty", "exit"] = "all"
    """head (the encoder is frozen), all, lora (low-rank adapters on the encoder, and the head), uncertainty (the
    readout of the uncertainty alone, from the labels alone; no prediction changes), or exit (of the head v8, what it
    expects to gain by reading on; no prediction changes)."""
    hold_out: float = Field(default=0.0, ge=0, lt=1)
    """With `trainable: exit`, the share of the training texts that this phase alone sees."""
    cache: bool = False
    """Run the frozen encoder once and keep its pooled states on disk."""
    ema_decay: float | None = Field(default=None, ge=0, lt=1)
    """Decay of the exponential moving average of the weights; nothing trains without one."""
    head_learning_rate: float | None = Field(default=None, ge=0)
    """Learning rate of everything but the encoder; `training.learning_rate` when left out."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor on the learning rate from each encoder layer to the one below it."""
    frozen_layers: int = Field(default=0, ge=0)
    """With `trainable: all`, how many of the encoder's lowest layers stay as they are, and with them its embeddings."""
    seeds: list[int] | None = Field(default=None, min_length=1)
    """Train the phase once per seed from the same start and average the weights."""
    keep: float = Field(default=1.0, gt=0, le=1)
    """Share of the change that is kept: start + keep * (trained - start) (Wortsman et al. 2022)."""
    encoder_rank: int | None = Field(default=None, ge=1)
    """With `trainable: all`, the rank to which the change of each matrix of the encoder is cut after training: a
    head-only checkpoint then holds it in a few MB. What is evaluated is the model with the cut change."""
    model: ModelChanges = Field(default_factory=dict)
    """Fields of the model section that change from this phase on."""
    training: TrainingFields = Field(default_factory=dict)
    """TrainingArguments of transformers, by their own names."""

    @property
    def freezes_encoder(self) -> bool:
        """Whether the encoder is after the phase what it was before."""
        return self.trainable in ("head", "uncertainty", "exit")

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: Any) -> dict[str, Any]:
        later = set() if self.trainable == "exit" else {"hold_out"}
        later |= set() if self.frozen_layers else {"frozen_layers"}
        later |= set() if self.encoder_rank else {"encoder_rank"}
        return {key: value for key, value in handler(self).items() if key not in later}

    @model_validator(mode="after")
    def _check(self) -> "Phase":
        if not re.fullmatch(r"[\w-]+", self.name):
            raise ValueError(f"name is a folder's name: letters, digits, - and _ only, got {self.name!r}.")
        if self.hold_out != Phase.model_fields["hold_out"].default and self.trainable != "exit":
            raise ValueError(f"hold_out goes with `trainable: exit`, not with `trainable: {self.trainable}`.")
        if self.frozen_layers and self.trainable != "all":
            raise ValueError(
                f"frozen_layers goes with `trainable: all`, not with `trainable: {self.trainable}`; which layers have "
                "adapters is said by `layers` under `peft:`."
            )
        if self.keep < 1 and self.trainable != "all":
            raise ValueError(f"keep goes with `trainable: all`, not with `trainable: {self.trainable}`.")
        if self.encoder_rank and (self.trainable != "all" or self.seeds is not None):
            raise ValueError("encoder_rank goes with `trainable: all` and one seed; adapters have `r` under `peft:`.")
        if self.seeds is not None and len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, for example [0, 1, 2]; got {self.seeds}.")
        if self.objective == "goemotions" and self.freezes_encoder:
            raise ValueError("`objective: goemotions` trains the encoder; set `trainable: all` or `lora`.")
        if self.cache and not self.freezes_encoder:
            raise ValueError(
                f"`cache: true` keeps the states of a frozen encoder, but `trainable: {self.trainable}` changes it. "
                "Set `trainable: head`, or `cache: false`."
            )
        if self.cache and self.training.get("train_sampling_strategy") == "group_by_length":
            raise ValueError("`group_by_length` needs tokens, and `cache: true` has none. Leave one of them out.")
        return self


class Peft(Section):
    """The low-rank adapters of a phase with `trainable: lora` (Hu et al. 2021)."""

    r: int = Field(default=16, ge=1, le=4096)
    """Rank."""
    alpha: int = 32
    """The adapter is scaled by alpha / r."""
    dropout: float = Field(default=0.05, ge=0, le=1)
    """Dropout probability before the adapter."""
    layers: list[int] | None = Field(default=None, min_length=1)
    """Numbers of the encoder's layers that get adapters, from 0; all when left out."""

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: Any) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if key != "layers" or value is not None}


class Distill(Section):
    """Soft targets: the mean prediction of other checkpoints, mixed with the labels (Hinton et al. 2015).

    The target of a text without a label is the teachers' prediction alone.
    """

    teachers: list[str] = Field(min_length=1, examples=[["../runs/teacher/model"]])
    """Folders of full checkpoints (relative ones start at the recipe's folder), of ours or of any
    AutoModelForSequenceClassification with one output per target in label units; one named twice counts twice."""
    weight: float = Field(default=0.5, ge=0, le=1)
    """Share of the teachers in the target."""
    texts: Literal["goemotions"] | None = None
    """goemotions adds training texts of GoEmotions to the training split, without its labels."""
    files: list[str] = Field(default_factory=list, examples=[["../my-texts.csv"]])
    """More texts without labels: tables with the column `data.text`. Relative paths start at the recipe's folder; a
    table that is not there is looked for, by its folder and name, in the folder that `LIMINAL_DATA_DIR` names."""
    num_texts: int = Field(default=8000, ge=1, le=10_000_000)
    """How many of them, drawn at random from all together, the same ones whatever the seed."""
    stretch: bool = False
    """Scale each target's predictions to the spread of the labels: a prediction varies less than what it predicts."""

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: Any) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if key != "files" or value}


class Hub(Section):
    """Where `liminal push` uploads the finished model."""

    repo_id: str | None = None
    """owner/name."""
    private: bool = True
    """Whether a repository that is created is private."""
    license: str | None = None
    """The licence in the model card."""
    tags: list[str] = Field(default_factory=list)
    """Further tags in the model card."""


class Recipe(Section):
    """Everything that `fit` needs to know.

    `base: other.yaml` (relative to the file) takes another recipe's values; keys that stand here win. `phases` as a
    mapping changes the base's phases by name and appends new ones; as a list it replaces them, and a name in the list
    stands for the base's phase of that name. Other data drop the base's `hub`.

    Raises:
        RecipeError: a key is unknown, a value is of the wrong type or out of range, or two settings contradict.

    Example:
        >>> recipe = Recipe.from_dict({
        ...     "model": {"encoder": "gpt2", "head": "v7"},
        ...     "data": {"dataset": "emobank"},
        ...     "phases": [{"name": "head", "trainable": "head", "training": {"learning_rate": "1e-3"}}],
        ... })
        >>> recipe.phases[0].training["learning_rate"]
        0.001
    """

    model: ModelFields
    """The encoder (a Hub id or a folder), its revision, and any field of LiminalConfig that is chosen."""
    data: Data
    """Where the texts and their labels come from."""
    phases: list[Phase]
    """The stretches of training, each with a name of its own."""
    seed: int = 0
    """Seeds the head's weights, the order of the data and dropout."""
    evaluate_test: bool = True
    """Whether the test split is evaluated, once, at the very end."""
    peft: Peft = Field(default_factory=lambda: Peft())
    """The low-rank adapters of a phase with `trainable: lora`."""
    distill: Distill | None = None
    """Soft targets from other checkpoints."""
    hub: Hub = Field(default_factory=Hub)
    """Where `liminal push` uploads the finished model."""
    name: str = ""
    """What the run is called in logs and cards; the file's name when left out."""

    @classmethod
    def from_yaml(cls, path: str | Path) -> "Recipe":
        """Reads a recipe; relative paths in it start at its own folder.

        Raises:
            RecipeError: see the class; also when the file is missing or is no YAML.
        """
        path = Path(path)
        return cls.from_dict({"name": path.stem, **read(path)}, folder=path.parent)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], folder: str | Path | None = None) -> "Recipe":
        """The recipe in a mapping; `folder` is where relative paths start (the working directory by default)."""
        content = with_base(content, Path(folder) if folder is not None else Path())
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise RecipeError(_explain(error)) from error

    def to_dict(self) -> dict[str, Any]:
        """Plain values, such that `Recipe.from_dict(recipe.to_dict())` equals the recipe."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The recipe as YAML text, with every default written out."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def override(self, changes: Mapping[str, Any]) -> "Recipe":
        """A copy with some values replaced.

        Args:
            changes: value by dotted key; a phase is named by its name or its position, `*` stands for all phases.

        Example:
            >>> base = {"model": {"encoder": "gpt2"}, "data": {"dataset": "emobank"}, "phases": [{"name": "one"}]}
            >>> Recipe.from_dict(base).override({"phases.*.training.max_steps": 1}).phases[0].training["max_steps"]
            1
        """
        content = self.to_dict()
        for key, value in changes.items():
            replace_value(content, key.split("."), value, key)
        return Recipe.from_dict(content)

    @property
    def targets(self) -> list[str]:
        """Names of the targets, in the order of the labels."""
        return self.model.get("targets") or list(DIMENSIONS)

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        self._name_targets()
        if self.model.get("revision", "") is None:
            del self.model["revision"]  # how a recipe says that it does not want its base's
        if not self.phases:
            raise ValueError("phases: at least one phase is needed. For example: [{name: head, trainable: head}]")
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ValueError(f"phases: each needs a name of its own, got {names}.")
        if self.phases[-1].objective != "pad":
            raise ValueError("phases: the last one must have `objective: pad`, or there is no head to keep.")
        model: dict[str, Any] = dict(self.model)
        for position, phase in enumerate(self.phases):
            if fixed := {"targets", "encoder_layers"} & set(phase.model):
                raise ValueError(f"phases.{position}.model: `{min(fixed)}` stays the same; write it under `model:`.")
            model |= phase.model
            keeps = f"phases.{position}: `cache: true` keeps pooled states, but"
            if phase.cache and (model.get("pooled_layers") == "mix" or model.get("pooling") == "attention"):
                raise ValueError(
                    f"{keeps} `pooled_layers: mix` and `pooling: attention` are learned in training. Set "
                    "`cache: false`, or for example `pooled_layers: all`, `pooling: mean`."
                )
            if phase.cache and model.get("token_attention"):
                raise ValueError(
                    f"{keeps} `token_attention: true` reads the tokens. Set `cache: false`, or switch token_attention "
                    "on in a later phase (`model: {token_attention: true}`)."
                )
        return self

    def _name_targets(self) -> None:
        """Brings `data.labels` into the order of the targets, and takes the targets' names from it."""
        labels, targets = self.data.labels, self.model.get("targets")
        if "labels" not in self.data.model_fields_set and targets and self.data.files:
            labels = list(targets)
        elif isinstance(labels, dict):
            if targets is not None and set(labels) != set(targets):
                raise ValueError(f"data.labels names the targets {list(labels)}, but model.targets is {targets}.")
            targets = targets or (list(DIMENSIONS) if set(labels) == set(DIMENSIONS) else list(labels))
            labels = [labels[target] for target in targets]
        elif targets is None and not _names_pad(labels):
            letters = {"v": "pleasure", "p": "pleasure", "a": "arousal", "d": "dominance"}
            targets = [letters.get(label.casefold(), label) for label in labels]
        named = targets or list(DIMENSIONS)
        if self.data.files is not None and len(labels) != len(named):
            raise ValueError(
                f"data.labels names {len(labels)} columns ({', '.join(labels)}), but there are {len(named)} targets "
                f"({', '.join(named)}). Name one column per target."
            )
        self.data.labels = labels
        if targets and targets != list(DIMENSIONS):
            self.model["targets"] = targets


def _names_pad(columns: list[str]) -> bool:
    """Whether three columns are called after pleasure (valence), arousal and dominance, in that order."""
    words = [set(re.split(r"[^a-z]+", column.casefold())) for column in columns]
    return len(words) == 3 and all(own & names for own, names in zip(words, _PAD_WORDS, strict=True))


def _unknown(where: str, key: str, allowed: Iterable[str]) -> str:
    if where.endswith("training") and key in NOT_FOR_A_RECIPE:
        return f"{where}.{key} is not for a recipe: {NOT_FOR_A_RECIPE[key]}."
    # A list of a hundred names hides the answer; a close one is the answer.
    close = difflib.get_close_matches(key, sorted(allowed), n=1)
    hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(sorted(allowed))}."
    return f"{where} has no {key!r}. {hint}"


def _explain(error: ValidationError) -> str:
    """What pydantic found, one line each."""
    lines = []
    for finding in error.errors():
        location = [str(part) for part in finding["loc"]]
        where = ".".join(location)
        if finding["type"] == "extra_forbidden":
            named = [SECTIONS[part] for part in location[:-1] if part in SECTIONS]
            allowed = (named or [Recipe])[-1].model_fields
            lines.append(_unknown(".".join(location[:-1]) or "The recipe", location[-1], allowed))
        elif finding["type"] == "missing" or where == "model.encoder":
            example = " For example: sentence-transformers/all-MiniLM-L6-v2" if where == "model.encoder" else ""
            lines.append(f"{where} is missing.{example}")
        else:
            ours = finding["type"] == "value_error"
            message = finding["ctx"]["error"] if ours else f"{finding['msg']}, got {finding['input']!r}."
            lines.append(f"{where}: {message}".removeprefix(": "))
    return "\n".join(lines)


SECTIONS: dict[str, Any] = {
    "model": Model, "data": Data, "phases": Phase, "training": Training, "peft": Peft, "distill": Distill, "hub": Hub,
}  # fmt: skip
