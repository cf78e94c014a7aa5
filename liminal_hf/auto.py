"""Tells transformers the names of our classes, so that its Auto classes, `pipeline` and `Trainer` find them.

Requires transformers. Importing `liminal_hf` runs it. Loading what a model needs takes seconds, so transformers keeps
its own models as names until one is asked for, and ours are kept the same way.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_PACKAGE = __name__.rpartition(".")[0]


def register() -> None:
    """Registers config, models, task and callback, and completes `push_to_hub`; a second call changes nothing.

    Where transformers has not loaded the table in question yet, that happens as soon as it does.
    """
    for name, tell in _TABLES.items():
        if name in sys.modules:
            tell()
        elif not any(isinstance(finder, _AfterImport) and finder.name == name for finder in sys.meta_path):
            sys.meta_path.insert(0, _AfterImport(name, tell))


class _AfterImport(MetaPathFinder):
    """Calls a function when a module has been imported, once."""

    def __init__(self, name: str, tell: Callable[[], None]) -> None:
        self.name = name
        self.tell = tell

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_tell(module: ModuleType) -> None:
                execute(module)
                self.tell()

            spec.loader.exec_module = execute_and_tell  # type: ignore[method-assign]
        return spec


def _tell_config() -> None:
    from transformers import AutoConfig

    from .modeling.configuration_liminal import LiminalConfig

    AutoConfig.register("liminal", LiminalConfig, exist_ok=True)


def _tell_models() -> None:
    from transformers import AutoModel, AutoModelForSequenceClassification

    for auto, name in ((AutoModel, "LiminalModel"), (AutoModelForSequenceClassification, "LiminalForPADRegression")):
        table = auto._model_mapping
        # `auto.register` takes the class itself; this is how transformers keeps the names of its own.
        table._reverse_config_mapping["LiminalConfig"] = "liminal"
        # A copy: transformers hands its own lists of names on, and ours is no classifier of `num_labels` classes.
        table._model_mapping = {**table._model_mapping, "liminal": name}
        table._modules["liminal"] = sys.modules[_PACKAGE]


def _tell_pipelines() -> None:
    from transformers import AutoModelForSequenceClassification
    from transformers.pipelines import PIPELINE_REGISTRY

    from .modeling.pipeline_liminal import PADRegressionPipeline, TargetClassificationPipeline

    if "pad-regression" not in PIPELINE_REGISTRY.supported_tasks:
        # A class of ours as pt_model would end up in a saved pipeline and break a stranger's reload.
        PIPELINE_REGISTRY.register_pipeline(
            "pad-regression",
            pipeline_class=PADRegressionPipeline,
            pt_model=AutoModelForSequenceClassification,
            type="text",
        )
        tasks = PIPELINE_REGISTRY.supported_tasks
        # It hands every model that is not ours on to transformers' own class.
        tasks["text-classification"] = {**tasks["text-classification"], "impl": TargetClassificationPipeline}


def _tell_uploads() -> None:
    from .modeling.modeling_liminal import LiminalPreTrainedModel

    def finish(*args: Any) -> None:
        # Loaded by the first upload: the card and the client of the Hub cost every other program time.
        importlib.import_module(f"{_PACKAGE}.export.repository").finish_upload(*args)

    LiminalPreTrainedModel.finish_upload = staticmethod(finish)


def _tell_adapters() -> None:
    from peft.peft_model import PeftModel

    write_stock_card = PeftModel.create_or_update_model_card
    if write_stock_card.__module__ == __name__:
        return

    def write_card(model: Any, output_dir: str) -> None:
        # PEFT's own card names neither licence nor data, and the base by a folder of this machine.
        if hasattr(model.get_base_model(), "save_head_only"):
            importlib.import_module(f"{_PACKAGE}.export.repository").write_adapter_card(model, output_dir)
        else:
            write_stock_card(model, output_dir)

    patched: Any = PeftModel
    patched.create_or_update_model_card = write_card


def _tell_trainer() -> None:
    from transformers.trainer import DEFAULT_CALLBACKS

    callback = importlib.import_module(f"{_PACKAGE}.training.callbacks").FitCallback
    if callback not in DEFAULT_CALLBACKS:
        DEFAULT_CALLBACKS.append(callback)


def _load(module: str) -> Callable[[], None]:
    """Loads a module of ours; one that is being loaded, and is why transformers loads its own, is left to go on."""

    def load() -> None:
        importlib.import_module(module)

    return load


_CONFIG, _PIPELINE = f"{_PACKAGE}.modeling.configuration_liminal", f"{_PACKAGE}.modeling.pipeline_liminal"
# Ours first: when transformers has loaded a table, the name is told after the module that has it.
_TABLES: dict[str, Callable[[], None]] = {
    _CONFIG: _tell_config,
    _PIPELINE: _tell_pipelines,
    f"{_PACKAGE}.modeling.modeling_liminal": _tell_uploads,
    "transformers.models.auto.configuration_auto": _load(_CONFIG),
    "transformers.models.auto.modeling_auto": _tell_models,
    "transformers.pipelines": _load(_PIPELINE),
    "peft.peft_model": _tell_adapters,
    "transformers.trainer": _tell_trainer,
}
