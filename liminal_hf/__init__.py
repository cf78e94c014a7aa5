"""Pleasure, arousal and dominance from text, on top of any Hugging Face encoder."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .auto import register

if TYPE_CHECKING:
    from .encoding import encode
    from .export.hub import push
    from .modeling.configuration_liminal import DIMENSIONS, LiminalConfig
    from .modeling.heads import HEADS, Head, HeadInput, HeadOutput
    from .modeling.losses import LOSSES
    from .modeling.memory import ConversationMemory
    from .modeling.modeling_liminal import LiminalForPADRegression, LiminalModel
    from .modeling.pipeline_liminal import PADRegressionPipeline, octant
    from .modeling.pooling import POOLERS

__version__ = "0.1.0"

# A checkpoint trained by the recipes in hub_configs/; it ships with the package.
DEFAULT_CHECKPOINT = str(Path(__file__).parent / "pretrained" / "minilm-emobank")

_PUBLIC = {
    "encode": "encoding",
    "push": "export.hub",
    "DIMENSIONS": "modeling.configuration_liminal",
    "LiminalConfig": "modeling.configuration_liminal",
    "HEADS": "modeling.heads",
    "Head": "modeling.heads",
    "HeadInput": "modeling.heads",
    "HeadOutput": "modeling.heads",
    "LOSSES": "modeling.losses",
    "ConversationMemory": "modeling.memory",
    "LiminalForPADRegression": "modeling.modeling_liminal",
    "LiminalModel": "modeling.modeling_liminal",
    "PADRegressionPipeline": "modeling.pipeline_liminal",
    "octant": "modeling.pipeline_liminal",
    "POOLERS": "modeling.pooling",
}
__all__ = ["DEFAULT_CHECKPOINT", "__version__", *_PUBLIC]

register()


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'liminal_hf' has no attribute {name!r}")
    return getattr(import_module(f"liminal_hf.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
