"""A recipe: one YAML file that says which model to train on which data, in which phases, and where it is pushed.

Requires PyYAML and pydantic; the names under `model` and `training` are checked against transformers. A recipe is read
with the safe loader and holds plain values only: it can't run code.
"""

import copy
import dataclasses
import difflib
import enum
import inspect
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_MAX_BYTES = 1_000_000
# Fields of LiminalConfig that are measured in training or follow from the encoder, never chosen.
_DERIVED = {
    "text_config",
    "pooled_size",
    "pooled_scale",
    "label_mean",
    "label_std",
    "labels_measured",
    "trained_targets",
    "label_range",
    "uncertainty_scale",
    "prediction_quantiles",
    "max_seq_length",
    "encoder_name_or_path",
    "encoder_revision",
    "weights_format",
    "config_version",
}
# Arguments of the Trainer that `fit` sets itself, or that would reach out of the run's folder.
_FITS_OWN = {
    "output_dir": "the folder is given to `fit` (`liminal train RECIPE -o FOLDER`)",
    "seed": "write `seed:` at the top of the recipe",
    "data_seed": "write `seed:` at the top of the recipe",
    "label_names": "the labels are always called `labels`",
    "remove_unused_columns": "the columns are chosen by `fit`",
    "resume_from_checkpoint": "an interrupted run resumes by itself",
    "push_to_hub": "write `hub:` at the top of the recipe and run `liminal push`",
    "do_train": "a phase always trains",
    "do_eval": "set eval_strategy",
    "do_predict": "set evaluate_test at the top of the recipe",
    "local_rank": "the launcher sets it",
    "logging_nan_inf_filter": "a loss that is not finite always stops the run",
    "restore_callback_states_from_checkpoint": "an interrupted run resumes by itself",
}


class RecipeError(ValueError):
    """A recipe that can't be followed; the message says where, what is allowed and what to write instead."""


@dataclass(config=_STRICT)
class Data:
    """Where the texts and their labels come from.

    Args:
        dataset: "emobank", or None when `files` is given.
        files: one's own tables (CSV, TSV, Parquet, JSONL) by split: `train`, and where there are any `validation` and
            `test`. Relative paths start at the recipe's folder.
        text: name of the column with the text.
        labels: names of the columns with pleasure (valence), arousal and dominance.
        scale: lowest and highest possible label in the tables; mapped to -1..1.
        max_length: tokens per text; longer texts are truncated.
    """

    dataset: Literal["emobank"] | None = None
    files: dict[Literal["train", "validation", "test"], str] | None = None
    text: str = "text"
    labels: list[str] = field(default_factory=lambda: ["V", "A", "D"])
    scale: tuple[float, float] = (1.0, 5.0)
    max_length: int = 128


@dataclass(config=_STRICT)
class Phase:
    """One stretch of training; the next phase takes the same model on.

    Args:
        name: names the phase's folder and its lines in the log.
        objective: "pad" (the model's own loss), or "goemotions": the encoder alone learns the 28 labels of GoEmotions
            (mean pooling, one linear layer, binary cross-entropy), and that layer is thrown away.
        trainable: "head" (the encoder is frozen), "all", "lora" (low-rank adapters on the encoder, and the head), or
            "uncertainty" (of v7 the readout of the uncertainty alone, from the labels alone: soft targets of teachers
            are smoother than labels, and a head that learned from them takes itself for surer than it is. The
            predictions keep their bits).
        cache: run the frozen encoder once and keep its pooled states on disk.
        ema_decay: decay of the exponential moving average of the weights; None trains without one.
        head_learning_rate: learning rate of everything but the encoder; None takes `training.learning_rate`.
        layer_decay: factor on the learning rate from each encoder layer to the one below it.
        seeds: train the phase once per seed from the same start and average the weights; None trains it once.
        keep: share of what the phase has changed that is kept, 0..1: start + keep * (trained - start). Between the
            encoder as it was and one trained on another task there is often one better than both (Wortsman et al.
            2022, "Robust fine-tuning of zero-shot models").
        model: fields of the model section that change from this phase on.
        training: transformers' `TrainingArguments`, by their own names.
    """

    name: str
    objective: Literal["pad", "goemotions"] = "pad"
    trainable: Literal["head", "all", "lora", "uncertainty"] = "all"
    cache: bool = False
    ema_decay: float | None = None
    head_learning_rate: float | None = None
    layer_decay: float = 1.0
    seeds: list[int] | None = None
    keep: float = 1.0
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def freezes_encoder(self) -> bool:
        """Whether the encoder is after the phase what it was before."""
        return self.trainable in ("head", "uncertainty")


@dataclass(config=_STRICT)
class Peft:
    """The low-rank adapters of a phase with `trainable: lora` (Hu et al. 2021).

    Args:
        r: rank.
        alpha: the adapter is scaled by alpha / r.
        dropout: dropout probability before the adapter.
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.05


@dataclass(config=_STRICT)
class Distill:
    """Soft targets: the mean prediction of other checkpoints, mixed with the labels (Hinton et al. 2015).

    Where a text has no label, the teachers' is the whole target: a row of one's own table may leave its labels empty.

    Args:
        teachers: folders of full checkpoints (relative ones start at the recipe's folder), of ours or of any
            `AutoModelForSequenceClassification` with three outputs in label units; one named twice counts twice.
        weight: share of the teachers in the target, 0..1.
        texts: "goemotions" adds training texts of GoEmotions to the training split, without its labels.
        num_texts: how many of them, drawn at random, the same ones whatever the seed.
        stretch: spreads each dimension of the teachers' word as far as the labels are spread. A prediction varies less
            than what it predicts, and a student that learns it as it is learns that, too.
    """

    teachers: list[str]
    weight: float = 0.5
    texts: Literal["goemotions"] | None = None
    num_texts: int = 8000
    stretch: bool = False


@dataclass(config=_STRICT)
class Hub:
    """Where `liminal push` uploads the finished model.

    Args:
        repo_id: "owner/name".
        private: whether a repository that is created is private.
        license: the licence in the model card.
        tags: further tags in the model card.
    """

    repo_id: str | None = None
    private: bool = True
    license: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass(config=_STRICT)
class Recipe:
    """Everything that `fit` needs to know.

    Args:
        model: `encoder` (Hub id or folder), `revision`, and any field of `LiminalConfig` that is chosen, not measured.
        data: see `Data`.
        phases: see `Phase`; at least one, each with a name of its own.
        seed: seeds the head's weights, the order of the data and dropout.
        evaluate_test: whether the test split is evaluated, once, at the very end.
        peft, distill, hub: see `Peft`, `Distill`, `Hub`.
        name: what the run is called in logs and cards; the file's name by default.

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

    model: dict[str, Any]
    data: Data
    phases: list[Phase]
    seed: int = 0
    evaluate_test: bool = True
    peft: Peft = field(default_factory=Peft)
    distill: Distill | None = None
    hub: Hub = field(default_factory=Hub)
    name: str = ""

    @classmethod
    def from_yaml(cls, path: str | Path) -> "Recipe":
        """Reads a recipe; relative paths in it start at its own folder.

        Raises:
            RecipeError: see the class; also when the file is missing or is no YAML.
        """
        path = Path(path)
        if not path.is_file():
            raise RecipeError(f"There is no recipe at {path}. The ready ones are in hub_configs/, one YAML file each.")
        if path.stat().st_size > _MAX_BYTES:
            raise RecipeError(f"{path} has {path.stat().st_size} bytes; a recipe has at most {_MAX_BYTES}.")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path} is not plain YAML: {error}") from error
        if not isinstance(content, dict):
            raise RecipeError(f"{path} must hold a mapping with the keys {', '.join(_names(cls))}.")
        content.setdefault("name", path.stem)
        return cls.from_dict(content, folder=path.parent)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], folder: str | Path | None = None) -> "Recipe":
        """The recipe in a mapping; `folder` is where relative paths start (the working directory by default)."""
        content = copy.deepcopy(dict(content))
        try:
            recipe = TypeAdapter(cls).validate_python(content)
        except ValidationError as error:
            raise RecipeError(_explain(error, content)) from error
        _resolve_paths(recipe, Path(folder) if folder is not None else Path())
        _check(recipe)
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """Plain values, such that `Recipe.from_dict(recipe.to_dict())` equals the recipe."""
        return _plain(dataclasses.asdict(self))  # type: ignore[call-overload]

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
            _set(content, key.split("."), value, key)
        return Recipe.from_dict(content)


def _set(node: Any, path: list[str], value: Any, whole: str) -> None:
    key, rest = path[0], path[1:]
    if isinstance(node, list):
        chosen = [
            position
            for position, item in enumerate(node)
            if key in ("*", str(position)) or (isinstance(item, dict) and item.get("name") == key)
        ]
        if not chosen:
            known = [item.get("name") if isinstance(item, dict) else position for position, item in enumerate(node)]
            raise RecipeError(f"Override {whole!r}: there is no {key!r} in {known}.")
        for position in chosen:
            if rest:
                _set(node[position], rest, value, whole)
            else:
                node[position] = value
        return
    if not isinstance(node, dict):
        raise RecipeError(f"Override {whole!r}: {key!r} is inside a plain value, which has no keys.")
    if rest:
        if node.get(key) is None:
            node[key] = {}
        _set(node[key], rest, value, whole)
    else:
        node[key] = value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, enum.Enum) else value


def _names(cls: Any) -> list[str]:
    return [item.name for item in dataclasses.fields(cls)]


def _unknown(where: str, key: str, allowed: Iterable[str]) -> str:
    allowed = sorted(allowed)
    close = difflib.get_close_matches(str(key), allowed, n=1)
    # A list of a hundred names hides the answer; a close one is the answer.
    hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(allowed)}."
    return f"{where} has no {key!r}. {hint}"


def _explain(error: ValidationError, content: Any) -> str:
    """pydantic's findings in our words, one per line."""
    lines = []
    for finding in error.errors():
        location = [part for part in finding["loc"] if isinstance(part, str | int)]
        where = ".".join(str(part) for part in location)
        if finding["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            section = ".".join(str(part) for part in location[:-1]) or "The recipe"
            lines.append(_unknown(section, str(location[-1]), _names(_section(location[:-1]))))
        elif finding["type"] in ("missing", "missing_argument"):
            lines.append(f"{where} is missing.")
        else:
            lines.append(f"{where}: {finding['msg']}, got {finding['input']!r}.")
    return "\n".join(lines)


def _section(location: list[str | int]) -> Any:
    if not location:
        return Recipe
    return {"data": Data, "phases": Phase, "peft": Peft, "distill": Distill, "hub": Hub}[str(location[0])]


def _resolve_paths(recipe: Recipe, folder: Path) -> None:
    if recipe.data.files:
        recipe.data.files = {split: str((folder / path).resolve()) for split, path in recipe.data.files.items()}
    if recipe.distill:
        recipe.distill.teachers = [str((folder / path).resolve()) for path in recipe.distill.teachers]


def _check(recipe: Recipe) -> None:
    _check_model(recipe)
    if (recipe.data.dataset is None) == (recipe.data.files is None):
        raise RecipeError("data: give either `dataset: emobank` or `files:` with your own tables.")
    if recipe.data.files is not None and "train" not in recipe.data.files:
        raise RecipeError("data.files: `train` is missing. For example: files: {train: my.csv, validation: dev.csv}")
    if len(recipe.data.labels) != 3:
        raise RecipeError(
            "data.labels: name the three columns of pleasure (valence), arousal and dominance, got "
            f"{recipe.data.labels}."
        )
    if not recipe.data.scale[0] < recipe.data.scale[1]:
        raise RecipeError(f"data.scale must be [low, high] with low < high, got {list(recipe.data.scale)}.")
    _in_range("data.max_length", recipe.data.max_length, 2, 1_000_000)
    _in_range("peft.r", recipe.peft.r, 1, 4096)
    _in_range("peft.dropout", recipe.peft.dropout, 0, 1)
    if recipe.distill is not None:
        _in_range("distill.weight", recipe.distill.weight, 0, 1)
        _in_range("distill.num_texts", recipe.distill.num_texts, 1, 43_410)
        if not recipe.distill.teachers:
            raise RecipeError("distill.teachers: name at least one folder with a checkpoint.")
    if not recipe.phases:
        raise RecipeError("phases: at least one phase is needed. For example: phases: [{name: head, trainable: head}]")
    names = [phase.name for phase in recipe.phases]
    if len(set(names)) < len(names):
        raise RecipeError(f"phases: each needs a name of its own, got {names}.")
    learned: dict[str, Any] = dict(recipe.model)
    for position, phase in enumerate(recipe.phases):
        where = f"phases.{position}"
        phase.model = _check_fields(f"{where}.model", phase.model, _model_fields())
        learned |= phase.model
        phase.training = _check_fields(f"{where}.training", phase.training, _training_fields())
        _check_phase(where, phase, learned)
    if recipe.phases[-1].objective != "pad":
        raise RecipeError("phases: the last one must have `objective: pad`, or there is no head to keep.")


def _check_phase(where: str, phase: Phase, model: dict[str, Any]) -> None:
    if not phase.name or not all(letter.isalnum() or letter in "-_" for letter in phase.name):
        raise RecipeError(f"{where}.name names a folder: letters, digits, - and _ only, got {phase.name!r}.")
    if phase.ema_decay is not None and not 0 <= phase.ema_decay < 1:
        raise RecipeError(f"{where}.ema_decay must be a number in 0..1 (below 1), got {phase.ema_decay}.")
    if not 0 < phase.layer_decay <= 1:
        raise RecipeError(f"{where}.layer_decay must be a number in 0..1 (above 0), got {phase.layer_decay}.")
    if not 0 < phase.keep <= 1:
        raise RecipeError(f"{where}.keep must be a number in 0..1 (above 0), got {phase.keep}.")
    if phase.keep < 1 and phase.trainable != "all":
        raise RecipeError(f"{where}.keep goes with `trainable: all`, not with `trainable: {phase.trainable}`.")
    if phase.head_learning_rate is not None and phase.head_learning_rate < 0:
        raise RecipeError(f"{where}.head_learning_rate must not be negative, got {phase.head_learning_rate}.")
    if phase.seeds is not None and (not phase.seeds or len(set(phase.seeds)) < len(phase.seeds)):
        raise RecipeError(f"{where}.seeds: give different whole numbers, for example [0, 1, 2]; got {phase.seeds}.")
    if phase.objective == "goemotions" and phase.freezes_encoder:
        raise RecipeError(f"{where}: `objective: goemotions` trains the encoder; set `trainable: all` or `lora`.")
    if phase.cache:
        if not phase.freezes_encoder:
            raise RecipeError(
                f"{where}: `cache: true` keeps the states of a frozen encoder, but `trainable: {phase.trainable}` "
                "changes it. Set `trainable: head`, or `cache: false`."
            )
        if phase.training.get("train_sampling_strategy") == "group_by_length":
            raise RecipeError(
                f"{where}: `group_by_length` needs tokens, and `cache: true` has none. Leave one of them out."
            )
        if model.get("pooled_layers") == "mix" or model.get("pooling") == "attention":
            raise RecipeError(
                f"{where}: `cache: true` keeps pooled states, but `pooled_layers: mix` and `pooling: attention` are "
                "learned in training. Set `cache: false`, or for example `pooled_layers: all`, `pooling: mean`."
            )
        if model.get("token_attention"):
            raise RecipeError(
                f"{where}: `cache: true` keeps pooled states, but `token_attention: true` reads the tokens. Set "
                "`cache: false`, or switch token_attention on in a later phase (`model: {token_attention: true}`)."
            )


def _check_model(recipe: Recipe) -> None:
    if not isinstance(recipe.model.get("encoder"), str) or not recipe.model["encoder"]:
        raise RecipeError(
            "model.encoder is missing: a Hub id or a folder. For example: "
            "encoder: sentence-transformers/all-MiniLM-L6-v2"
        )
    fields = {"encoder": str, "revision": str | None, **_model_fields()}
    recipe.model = _check_fields("model", recipe.model, fields)


def _check_fields(where: str, values: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Coerces each value to its field's type, so that `1e-3`, a string in YAML, becomes a float."""
    result = {}
    for key, value in values.items():
        if where.endswith("training") and key in _FITS_OWN:
            raise RecipeError(f"{where}.{key} is not for a recipe: {_FITS_OWN[key]}.")
        if key not in fields:
            raise RecipeError(_unknown(where, key, fields))
        try:
            result[key] = TypeAdapter(fields[key]).validate_python(value)
        except ValidationError as error:
            raise RecipeError(f"{where}.{key}: {error.errors()[0]['msg']}, got {value!r}.") from error
        if isinstance(result[key], float) and not math.isfinite(result[key]):
            raise RecipeError(f"{where}.{key} must be finite, got {value!r}.")
        if key in ("head", "pooling", "loss") and result[key] is not None and "training" not in where:
            _check_name(f"{where}.{key}", key, result[key])
    return result


def _check_name(where: str, key: str, name: str) -> None:
    from ..modeling.heads import HEADS
    from ..modeling.losses import LOSSES
    from ..modeling.pooling import POOLERS

    try:
        {"head": HEADS, "pooling": POOLERS, "loss": LOSSES}[key][name]
    except KeyError as error:
        raise RecipeError(f"{where}: {error.args[0]}") from error


def _model_fields() -> dict[str, Any]:
    from ..modeling.configuration_liminal import LiminalConfig

    hints = typing.get_type_hints(LiminalConfig.__init__)
    parameters = inspect.signature(LiminalConfig.__init__).parameters
    return {name: hints[name] for name in parameters if name not in {"self", "kwargs", *_DERIVED}}


def _training_fields() -> dict[str, Any]:
    from transformers import TrainingArguments

    fields = {}
    for item in dataclasses.fields(TrainingArguments):
        if not item.init or item.name in _FITS_OWN or item.name.startswith(("hub_", "trackio_")):
            continue
        hint = item.type
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
            members = typing.get_args(hint)
            enums = [member for member in members if isinstance(member, type) and issubclass(member, enum.Enum)]
            if enums:
                # `SchedulerType | str` would let any string pass.
                hint = Literal[tuple(choice.value for choice in enums[0])]  # type: ignore[valid-type]
            elif dict in members or any(typing.get_origin(member) is dict for member in members):
                # transformers reads a string here as the path of a JSON file; a recipe stays in its own file.
                hint = dict[str, Any] | None
        fields[item.name] = hint
    # A live object, which no YAML holds.
    fields.pop("parallelism_config", None)
    return fields


def _in_range(where: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise RecipeError(f"{where} must be in {low}..{high}, got {value}.")
