"""The sections of a recipe that hold settings of others: chosen fields of `LiminalConfig`, and `TrainingArguments`.

Requires pydantic and transformers.
"""

import dataclasses
import enum
import inspect
import re
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
    *("trained_targets", "uncertainty_scale", "prediction_quantiles", "person_prior"),
    *("max_seq_length", "encoder_name_or_path"),
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


def _config_docs() -> dict[str, str]:
    """What the docstring of `LiminalConfig` says on each field."""
    arguments = (inspect.getdoc(LiminalConfig) or "").partition("Args:\n")[2].partition("\n\n")[0]
    docs: dict[str, str] = {}
    for entry in re.split(r"\n    (?=\S)", f"\n{arguments}"):
        names, _, text = entry.partition(":")
        docs |= dict.fromkeys((name.strip() for name in names.split(",")), text)
    return docs


def _model_fields() -> dict[str, Any]:
    hints, docs = typing.get_type_hints(LiminalConfig.__init__), _config_docs()
    hints |= {
        "targets": Annotated[list[str], Field(min_length=1)] | None,
        "head": Annotated[str, _registered(HEADS)],
        "loss": Annotated[str, _registered(LOSSES)],
        "pooling": Annotated[str, _registered(POOLERS)] | None,
    }
    parameters = inspect.signature(LiminalConfig.__init__).parameters
    chosen = [name for name in parameters if name not in {"self", "kwargs", *_DERIVED}]
    return {name: (hints[name], Field(parameters[name].default, description=docs.get(name))) for name in chosen}


def _training_fields() -> dict[str, Any]:
    fields: dict[str, Any] = {}
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
        fields[item.name] = (hint, None)
    # A live object, which no YAML holds.
    fields.pop("parallelism_config", None)
    return fields


_MODEL = _model_fields()
_ENCODER: dict[str, Any] = {
    "encoder": (Annotated[str, Field(min_length=1)], Field(description="Hub id or folder of the encoder.")),
    "revision": (str | None, Field(None, description="Branch, tag or commit of the encoder.")),
}
Model = create_model("Model", __base__=Section, **_ENCODER, **_MODEL)
ModelChange = create_model("ModelChange", __base__=Section, **_MODEL)
Training = create_model("Training", __base__=Section, **_training_fields())


# A section as a dict of what the recipe gives; the defaults are the library's own.
_AS_DICT = (AfterValidator(lambda section: section.model_dump(exclude_unset=True)), PlainSerializer(dict))
if TYPE_CHECKING:
    ModelFields = dict[str, Any]
    ModelChanges = dict[str, Any]
    TrainingFields = dict[str, Any]
else:
    ModelFields = Annotated[Model, *_AS_DICT]
    ModelChanges = Annotated[ModelChange, *_AS_DICT]
    TrainingFields = Annotated[Training, *_AS_DICT]
