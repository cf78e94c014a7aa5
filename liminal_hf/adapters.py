"""Low-rank adapters (LoRA) on the encoder, with our head trained beside them, and what quantization must skip.

Requires peft for the adapters. The head is never adapted or quantized: it is small, and all of it is trained and saved.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .modeling.configuration_liminal import LiminalConfig
from .modeling.errors import LiminalError
from .modeling.modeling_liminal import LiminalForPADRegression, LiminalPreTrainedModel

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

logger = logging.getLogger(__name__)

_ENCODER = "liminal.encoder."


def lora_config(
    model: LiminalForPADRegression,
    r: int = 16,
    alpha: int | None = None,
    dropout: float = 0.05,
    target_modules: str | list[str] | None = None,
    modules_to_save: list[str] | None = None,
    layers: list[int] | None = None,
) -> LoraConfig:
    """The `LoraConfig` that adapts the encoder and trains our head (and a learned pooler) whole.

    PEFT by itself would train and save only a head called `classifier` or `score`. Low-rank adaptation: Hu et al. 2021.
    The Trainer measures the labels' scale by itself. In a loop of your own, set `label_mean` and `label_std` before
    `get_peft_model`: the head takes a copy of the config when PEFT wraps it.

    Args:
        model: the model to adapt. Load it from a checkpoint (`save_pretrained` first, if its head is fresh): the
            adapter's folder names that checkpoint, and is loaded on top of it.
        r: rank of the change of each weight.
        alpha: the change is scaled by alpha / r; default r, a scale of 1.
        dropout: probability on the adapter's input.
        target_modules: linear layers of the encoder to adapt, by the end of their names, such as
            `["query", "attention.output.dense"]`; default "all-linear", all of them.
        modules_to_save: more modules to train and save whole, by their names in the model, such as
            `["liminal.encoder.embeddings"]`; the head and a learned pooler always are.
        layers: numbers of the encoder's layers to adapt, from 0; default all. Nothing below the lowest one is
            differentiated, which saves time.

    Raises:
        LiminalError: the model has no encoder, r is below 1, a name is not that of a linear layer of the encoder or of
            a module, or the encoder has no layer of that number.

    Example:
        >>> from peft import get_peft_model
        >>> model = LiminalForPADRegression(LiminalConfig(latent_size=16))
        >>> adapted = get_peft_model(model, lora_config(model, r=4, target_modules=["query"]))
        >>> sorted(lora_config(model).modules_to_save)
        ['liminal.head']
        >>> adapted.base_model.model.liminal.encoder.encoder.layer[0].attention.self.query.r["default"]
        4
    """
    from peft import LoraConfig, TaskType

    if not isinstance(model, LiminalPreTrainedModel) or not hasattr(model, "liminal"):
        raise LiminalError(
            f"lora_config takes a LiminalForPADRegression, got {type(model).__name__}. Call it before get_peft_model."
        )
    if model.liminal.encoder is None:
        raise LiminalError(
            "This model has no encoder (text_config=None), so there is nothing to adapt: train it as it is."
        )
    if r < 1:
        raise LiminalError(f"r, the rank of the adapter, must be at least 1, got {r}.")
    linear = {
        name: module for name, module in model.liminal.encoder.named_modules() if isinstance(module, nn.Linear | Conv1D)
    }
    wanted = [target_modules] if isinstance(target_modules, str) else target_modules
    if wanted is None or wanted == ["all-linear"]:
        wanted = sorted({name.rpartition(".")[2] for name in linear})
    adapted = {name for name in linear for ending in wanted if f".{name}".endswith(f".{ending}")}
    if unknown := [ending for ending in wanted if not any(f".{name}".endswith(f".{ending}") for name in adapted)]:
        names = sorted({name.rpartition(".")[2] for name in linear})
        raise LiminalError(
            f"target_modules: {unknown} are not linear layers of this encoder. Its linear layers: {names}."
        )
    ends = rf"(.*\.)?({'|'.join(map(re.escape, wanted))})"
    if layers is not None:
        adapted = _in_layers(adapted, layers)
        ends = f"({'|'.join(map(re.escape, sorted(adapted)))})"
    if not (model.name_or_path or model.config._name_or_path):
        logger.warning(
            "This model was not loaded from a checkpoint, so a saved adapter will not know what it belongs on, and "
            "AutoPeftModelForSequenceClassification will look for it on the Hub in vain. To load the adapter alone "
            "later, first save the model and load it from there: model.save_pretrained('base'); "
            "model = LiminalForPADRegression.from_pretrained('base'). Merging needs nothing."
        )
    saved = ["liminal.head"]
    if any(True for _ in model.liminal.pooler.parameters()):
        saved.append("liminal.pooler")
    modules = dict(model.named_modules())
    for name in modules_to_save or []:
        if name not in modules:
            raise LiminalError(f"modules_to_save: the model has no module {name!r}. Its parts: liminal.encoder. ...")
    saved += [name for name in modules_to_save or [] if name not in saved]
    return LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=r,
        lora_alpha=r if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=re.escape(_ENCODER) + ends,
        modules_to_save=saved,
        fan_in_fan_out=all(isinstance(linear[name], Conv1D) for name in adapted),
    )


def _in_layers(names: set[str], layers: list[int]) -> set[str]:
    """The modules of the encoder's layers with these numbers."""
    is_list = isinstance(layers, list | tuple | range) and all(type(number) is int for number in layers)
    if not is_list or not layers:
        raise LiminalError(f"layers must be a list of layers' numbers, such as [6, 7, 8], got {layers!r}.")
    numbers = {name: int(match[1]) for name in names if (match := re.search(r"(?:^|\.)(\d+)\.", name))}
    known = sorted(set(numbers.values()))
    if missing := sorted(set(layers) - set(known)):
        raise LiminalError(f"layers: this encoder has no layer {missing}. Its layers: {known}.")
    return {name for name in names if numbers.get(name) in layers}


@torch.no_grad()
def low_rank_deltas(
    peft_model: PeftModel | LiminalForPADRegression,
) -> dict[str, tuple[Tensor, Tensor]]:
    """The change that each adapted encoder weight gets, for `LiminalForPADRegression.save_head_only(low_rank=...)`.

    Take it before `merge_and_unload`, which throws the factors away.

    Args:
        peft_model: a model adapted with `lora_config`, wrapped by PEFT or with the adapters put into it in place.

    Returns:
        By the weight's name within the encoder: A `(r, in)` and B `(out, r)`, float32, with `merged = original + B @ A`
        in the orientation in which the encoder keeps the weight (GPT-2's is transposed); PEFT's scale is folded into B.

    Raises:
        LiminalError: nothing is adapted, or an adapter's change is not the product of two factors (DoRA and kin).

    Example:
        >>> from peft import get_peft_model
        >>> model = LiminalForPADRegression(LiminalConfig(latent_size=16))
        >>> adapted = get_peft_model(model, lora_config(model, r=4, target_modules=["query"]))
        >>> a, b = low_rank_deltas(adapted)["encoder.layer.0.attention.self.query.weight"]
        >>> a.shape, b.shape
        (torch.Size([4, 384]), torch.Size([384, 4]))
        >>> merged = adapted.merge_and_unload()
    """
    from peft.tuners.lora import LoraLayer

    deltas = {}
    base = peft_model if isinstance(peft_model, LiminalForPADRegression) else peft_model.get_base_model()
    for name, module in base.named_modules():
        if not name.startswith(_ENCODER) or not isinstance(module, LoraLayer):
            continue
        (adapter, *more) = module.active_adapters
        if more or adapter not in module.lora_A or adapter in module.lora_variant or module.lora_bias.get(adapter):
            raise LiminalError(
                f"The adapter on {name!r} is not one plain pair of factors (several adapters, DoRA, or a bias), so a "
                "head-only checkpoint can't hold it: merge it and use save_pretrained."
            )
        a = module.lora_A[adapter].get_parameter("weight").float().cpu()
        b = module.lora_B[adapter].get_parameter("weight").float().cpu() * module.scaling[adapter]
        if getattr(module, "fan_in_fan_out", False):
            a, b = b.T, a.T
        deltas[f"{name.removeprefix(_ENCODER)}.weight"] = (a.contiguous(), b.contiguous())
    if not deltas:
        raise LiminalError(
            "No weight of this encoder is adapted. Take the deltas from get_peft_model(model, lora_config(model)) "
            "before merge_and_unload."
        )
    return deltas


def quantization_skip_modules(model: LiminalPreTrainedModel | LiminalConfig) -> list[str]:
    """Names of the modules that must stay out of a quantization: ours, which lose what they know in 8 or 4 bits.

    Args:
        model: a model, or the config of one.

    Returns:
        Full module names, for `BitsAndBytesConfig(llm_int8_skip_modules=...)` (it holds for 4 bits too).

    Example:
        >>> quantization_skip_modules(LiminalConfig())
        ['liminal.pooler', 'liminal.head']
        >>> from transformers import BitsAndBytesConfig
        >>> _ = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=quantization_skip_modules(LiminalConfig()))
    """
    config = model if isinstance(model, LiminalConfig) else model.config
    has_encoder = config.text_config is not None
    return ["liminal.pooler", "liminal.head"] if has_encoder else ["liminal.head"]


@torch.no_grad()
def cut_rank(
    model: LiminalForPADRegression, start: Mapping[str, Tensor], rank: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Replaces what training changed in each matrix of the encoder by the nearest change of a low rank.

    A few MB then hold what an encoder has learned: give the result to `save_head_only(low_rank=...)`. Changed vectors
    (biases, norms) stay as they are; `save_head_only` keeps them whole.

    Args:
        model: whose encoder is changed in place.
        start: the weights before the training, by their names in `model.state_dict()`.
        rank: of the change, at least 1 (Eckart and Young 1936).

    Returns:
        As `low_rank_deltas`, A and B in half precision; nothing for a matrix that has not changed.

    Raises:
        LiminalError: a changed weight has more than two dimensions.

    Example:
        >>> model = LiminalForPADRegression(LiminalConfig(latent_size=16))
        >>> start = {name: value.clone() for name, value in model.state_dict().items()}
        >>> name = "encoder.layer.0.attention.self.query.weight"
        >>> weight = model.liminal.encoder.get_parameter(name)
        >>> with torch.no_grad():
        ...     _ = weight.add_(torch.randn_like(weight))
        >>> {name: (a.shape, b.shape) for name, (a, b) in cut_rank(model, start, rank=4).items()}
        {'encoder.layer.0.attention.self.query.weight': (torch.Size([4, 384]), torch.Size([384, 4]))}
    """
    pairs = {}
    for name, weight in model.liminal.encoder.named_parameters():
        before = start[f"{_ENCODER}{name}"].to(weight)
        if weight.dim() < 2 or torch.equal(weight, before):
            continue
        if weight.dim() > 2:
            raise LiminalError(
                f"The encoder weight {name!r} has {weight.dim()} dimensions: a rank is that of a matrix."
            )
        left, sizes, right = torch.linalg.svd((weight - before).float(), full_matrices=False)
        root = sizes[:rank].sqrt()
        a, b = (root[:, None] * right[:rank]).half(), (left[:, :rank] * root).half()
        weight.copy_(before + (b.float() @ a.float()).to(weight))
        pairs[name] = a.contiguous(), b.contiguous()
    return pairs
