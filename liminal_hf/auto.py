"""Tells transformers the names of our classes, so that its Auto classes and `pipeline` find them.

Requires transformers. Importing `liminal_hf` runs it.
"""

from importlib import import_module
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
from transformers.pipelines import PIPELINE_REGISTRY

from .modeling.configuration_liminal import LiminalConfig
from .modeling.modeling_liminal import LiminalForPADRegression, LiminalModel, LiminalPreTrainedModel
from .modeling.pipeline_liminal import PADRegressionPipeline


def register() -> None:
    """Registers config, models and the task, and completes `push_to_hub`; a second call changes nothing."""
    AutoConfig.register("liminal", LiminalConfig, exist_ok=True)
    AutoModel.register(LiminalConfig, LiminalModel, exist_ok=True)
    AutoModelForSequenceClassification.register(LiminalConfig, LiminalForPADRegression, exist_ok=True)
    if "pad-regression" not in PIPELINE_REGISTRY.supported_tasks:
        # A class of ours as pt_model would end up in a saved pipeline and break a stranger's reload.
        PIPELINE_REGISTRY.register_pipeline(
            "pad-regression",
            pipeline_class=PADRegressionPipeline,
            pt_model=AutoModelForSequenceClassification,
            type="text",
        )
    LiminalPreTrainedModel.finish_upload = staticmethod(_finish_upload)


def _finish_upload(*args: Any) -> None:
    # Loaded by the first upload: the card and the client of the Hub cost every other program time.
    import_module("liminal_hf.export.hub").finish_upload(*args)
