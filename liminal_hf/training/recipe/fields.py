"""The sections of a recipe that hold settings of others: chosen fields of `LiminalConfig`, and `TrainingArguments`.

Requires pydantic and transformers.
"""

import dataclasses
import enum
import types
import typing
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, create_model
from transformers import TrainingArguments

from ...modeling.configuration_liminal import LiminalConfig
from ...modeling.heads import HEADS
from ...modeling.losses import LOSSES
from ...modeling.pooling import POOLERS

# Fields of LiminalConfig that training measures or that follow from the encoder.
_DERIVED = {
    *("text_config", "pooled_size", "pooled_scale", "label_mean", "label_std", "label_range", "labels_measured"),
    *("trained_targets", "uncertainty_scale", "prediction_quantiles", "max_seq_length", "encoder_name_or_path"),
    *("encoder_revision", "weights_format", "config_version"),
}
# Arguments of the Trainer that `fit` sets itself, or that would reach out of the run's folder.
NOT_FOR_A_RECIPE = {
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


class Section(BaseModel):
    """A part of a recipe: no unknown key, no infinite number."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def _registered(registry: Any) -> Any:
    def check(name: str) -> str:
        try:
            registry[name]
        except KeyError as error:
            raise ValueError(error.args[0]) from error
        return name

    return AfterValidator(check)


def _model_fields() -> dict[str, Any]:
    hints = typing.get_type_hints(LiminalConfig.__init__)
    fields = {name: hints[name] for name in hints if name not in {"self", "kwargs", "return", *_DERIVED}}
    fields["targets"] = Annotated[list[str], Field(min_length=1)] | None
    fields["head"] = Annotated[str, _registered(HEADS)]
    fields["loss"] = Annotated[str, _registered(LOSSES)]
    fields["pooling"] = Annotated[str, _registered(POOLERS)] | None
    return fields


def _training_fields() -> dict[str, Any]:
    fields = {}
    for item in dataclasses.fields(TrainingArguments):
        if not item.init or item.name in NOT_FOR_A_RECIPE or item.name.startswith(("hub_", "trackio_")):
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


def _section(name: str, fields: dict[str, Any]) -> Any:
    definitions: dict[str, Any] = {key: (hint, ... if key == "encoder" else None) for key, hint in fields.items()}
    return create_model(name, __base__=Section, **definitions)


ModelChange = _section("ModelChange", _model_fields())
_ENCODER = {"encoder": Annotated[str, Field(min_length=1)], "revision": str | None}
Model = _section("Model", {**_ENCODER, **_model_fields()})
Training = _section("Training", _training_fields())


def _given(section: BaseModel) -> dict[str, Any]:
    return section.model_dump(exclude_unset=True)


def _same(value: dict[str, Any]) -> dict[str, Any]:
    return value


# A section as a dict of what the recipe gives; the defaults are the library's own.
if TYPE_CHECKING:
    ModelFields = dict[str, Any]
    ModelChanges = dict[str, Any]
    TrainingFields = dict[str, Any]
else:
    ModelFields = Annotated[Model, AfterValidator(_given), PlainSerializer(_same)]
    ModelChanges = Annotated[ModelChange, AfterValidator(_given), PlainSerializer(_same)]
    TrainingFields = Annotated[Training, AfterValidator(_given), PlainSerializer(_same)]
