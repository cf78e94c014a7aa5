"""Pleasure, arousal and dominance from text, on top of any Hugging Face encoder."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .auto import register

if TYPE_CHECKING:
    from .adapters import lora_config as lora_config
    from .data.loaders import create_dataloaders as create_dataloaders
    from .emotion_words import emotion_pad as emotion_pad
    from .encoding import create_embedder as create_embedder
    from .encoding import encode as encode
    from .explaining import explain as explain
    from .export.hub import push as push
    from .fusion import fuse as fuse
    from .modeling.configuration_liminal import DIMENSIONS as DIMENSIONS
    from .modeling.configuration_liminal import LiminalConfig as LiminalConfig
    from .modeling.conversation import ConversationState as ConversationState
    from .modeling.heads import HEADS as HEADS
    from .modeling.heads import Head as Head
    from .modeling.heads import HeadInput as HeadInput
    from .modeling.heads import HeadOutput as HeadOutput
    from .modeling.losses import LOSSES as LOSSES
    from .modeling.memory import ConversationMemory as ConversationMemory
    from .modeling.modeling_liminal import LiminalForPADRegression as LiminalForPADRegression
    from .modeling.modeling_liminal import LiminalModel as LiminalModel
    from .modeling.person_prior import PersonPrior as PersonPrior
    from .modeling.person_prior import fit_person_prior as fit_person_prior
    from .modeling.persons import PersonMemory as PersonMemory
    from .modeling.pipeline_liminal import PADRegressionPipeline as PADRegressionPipeline
    from .modeling.pipeline_liminal import octant as octant
    from .modeling.pooling import POOLERS as POOLERS
    from .reporting import report as report
    from .rewards import PADReward as PADReward
    from .scoring.affect_memory import AffectMemory as AffectMemory
    from .scoring.cascade import Cascade as Cascade
    from .streaming import EmotionStreamer as EmotionStreamer
    from .timelines import timeline as timeline
    from .training.args import LiminalTrainingArguments as LiminalTrainingArguments
    from .training.trainer import LiminalTrainer as LiminalTrainer

# Checkpoints that ship with the package, trained by the recipes in hub_configs/; the encoder comes from the Hub, or for
# the default one from the extra `offline`. `scripts/encoders.py` brings mpnet where there is no Hub.
_PRETRAINED = Path(__file__).parent / "pretrained"
DEFAULT_CHECKPOINT = str(_PRETRAINED / "minilm-emobank")
checkpoints = {"minilm": DEFAULT_CHECKPOINT, "mpnet": str(_PRETRAINED / "mpnet-emobank")}

_PUBLIC = {
    "lora_config": "adapters",
    "AffectMemory": "scoring.affect_memory",
    "Cascade": "scoring.cascade",
    "emotion_pad": "emotion_words",
    "create_dataloaders": "data.loaders",
    "create_embedder": "encoding",
    "encode": "encoding",
    "explain": "explaining",
    "push": "export.hub",
    "fuse": "fusion",
    "DIMENSIONS": "modeling.configuration_liminal",
    "LiminalConfig": "modeling.configuration_liminal",
    "ConversationState": "modeling.conversation",
    "HEADS": "modeling.heads",
    "Head": "modeling.heads",
    "HeadInput": "modeling.heads",
    "HeadOutput": "modeling.heads",
    "LOSSES": "modeling.losses",
    "ConversationMemory": "modeling.memory",
    "LiminalForPADRegression": "modeling.modeling_liminal",
    "LiminalModel": "modeling.modeling_liminal",
    "PersonMemory": "modeling.persons",
    "PersonPrior": "modeling.person_prior",
    "fit_person_prior": "modeling.person_prior",
    "PADReward": "rewards",
    "PADRegressionPipeline": "modeling.pipeline_liminal",
    "octant": "modeling.pipeline_liminal",
    "POOLERS": "modeling.pooling",
    "report": "reporting",
    "EmotionStreamer": "streaming",
    "timeline": "timelines",
    "LiminalTrainer": "training.trainer",
    "LiminalTrainingArguments": "training.args",
}
__all__ = ["DEFAULT_CHECKPOINT", "__version__", "checkpoints", *_PUBLIC]

register()


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'liminal_hf' has no attribute {name!r}")
    return getattr(import_module(f"liminal_hf.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
