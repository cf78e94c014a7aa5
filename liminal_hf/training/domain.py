"""Fits what tells a model's training texts from others: its `DomainGauge`, on scrambled copies of the texts themselves.

Requires numpy and torch. Nobody has to bring other texts: words with shuffled letters stand for other languages, random
letters for gibberish, and words between brackets and operators for code. What this reaches on real languages and code
is in scripts/results/domain.md.
"""

import logging
import random
from collections.abc import Sequence
from string import ascii_lowercase
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..inference import encode_batches
from ..modeling.domain import DomainGauge
from ..modeling.encoders import mixes_padding
from ..modeling.texts import checked_max_length
from .calibration import liminal_model, update_config

logger = logging.getLogger(__name__)

MOST_TEXTS = 2000
FEWEST_TEXTS = 200
_PENALTY = 1.0  # on the weights of standardised states
_CODE = (
    *("{a}.{b}({c})", "{a}_{b} = {c}[{n}]", "if {a}{B} == '{c}':", "return {a}({b}, {c}={n})", '<{a} {b}="{c}">'),
    *('{{{a}: "{b}_{c}"}};', "self.{a}.{b} += {c}", "for {a} in {b}_{c}: {a}.append({n})", "import {a}.{b} as {c}"),
    *("SELECT {a} FROM {b} WHERE {c} > {n};", "def {a}_{b}(self, {c}: int) -> None:", "git {a} -m '{b} {c}'"),
)


def scrambled(texts: Sequence[str], seed: int = 0) -> list[str]:
    """Texts that nobody has written, one for each text: shuffled letters, random letters and code in turn.

    Example:
        >>> scrambled(["Good morning, Ada"] * 2)
        ['doGo ,nrgnimo dAa', 'tzir wztejdxc vkp']
    """
    generator = random.Random(seed)

    def shuffled(words: list[str]) -> str:
        return " ".join("".join(generator.sample(word, len(word))) for word in words)

    def invented(words: list[str]) -> str:
        return " ".join("".join(generator.choice(ascii_lowercase) for _ in word) for word in words)

    def code(words: list[str]) -> str:
        names = ["".join(filter(str.isalpha, word)) for word in words]
        names = [name for name in names if name] or ["x"]
        lines = []
        for _ in range(generator.randint(1, 3)):
            a, b, c = (generator.choice(names) for _ in range(3))
            lines.append(generator.choice(_CODE).format(a=a, b=b, c=c, B=b.capitalize(), n=generator.randint(0, 99)))
        return " ".join(lines)

    kinds = (shuffled, invented, code)
    return [kinds[index % 3](text.split()) for index, text in enumerate(texts)]


def fit_domain(model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], seed: int = 0) -> bool:
    """Fits the gauge of a model's domain and puts it into the model; up to 2,000 of the texts are read.

    Args:
        model: a model of ours with an encoder, also in a wrapper.
        tokenizer: of the model.
        texts: its training texts, none empty.
        seed: of the choice of texts and of the scrambling.

    Returns:
        Whether there is a gauge now: fewer than 200 different texts say too little, and take an older one away.
    """
    base = liminal_model(model)
    distinct = sorted(set(texts))
    if base is None or base.encoder is None or len(distinct) < FEWEST_TEXTS:
        drop_domain(model)
        return False
    own = random.Random(seed).sample(distinct, min(MOST_TEXTS, len(distinct)))
    chosen = _read_of_all(base)
    states = [_pooled(base, tokenizer, part)[:, chosen] for part in (own, scrambled(own, seed))]
    weight, bias = _logistic(*states)
    gauge = DomainGauge(base.pooled_size)
    gauge.weight[chosen] = weight.to(gauge.weight)
    gauge.bias.copy_(bias)
    base.pooler.domain = gauge.to(next(base.parameters()).device)
    update_config(model, domain_gauge=True)
    return True


def drop_domain(model: nn.Module) -> None:
    """Takes the gauge away from a model of ours; does nothing to one without."""
    base = liminal_model(model)
    if getattr(getattr(base, "pooler", None), "domain", None) is not None:
        logger.warning("The model's training texts are not known here, so it no longer says `in_domain`.")
        base.pooler.domain = None
        update_config(model, domain_gauge=False)


def _read_of_all(base: Any) -> slice:
    """The pooled states that are known of every text: of a head that may stop early, those of its first layer."""
    if base.config.head != "v8":
        return slice(None)
    start = base.config.depth_layers[0] * base.config.hidden_size
    return slice(start, start + base.config.hidden_size)


@torch.inference_mode()
def _pooled(base: Any, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Tensor:
    """`(len(texts), pooled_size)`, float64 on the CPU, in the order of the texts."""
    was_training, device = base.training, next(base.parameters()).device
    base.eval()
    states = torch.zeros(len(texts), base.pooled_size, dtype=torch.float64)
    length = checked_max_length(None, base.config, tokenizer)
    for batch in encode_batches(tokenizer, texts, max_length=length, one_length=mixes_padding(base.config)):
        states[batch.rows] = base.pool(**batch.inputs.to(device)).double().cpu()
    base.train(was_training)
    return states


def _logistic(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias, on states as they are, of a logistic regression with a penalty on standardised states."""
    centre, spread = inside.mean(0), inside.std(0) + 1e-3
    states = (torch.cat([inside, outside]) - centre) / spread
    is_inside = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))]).double()
    weight = torch.zeros(states.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.binary_cross_entropy_with_logits(states @ weight + bias, is_inside)
        value = value + 0.5 * _PENALTY * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    unscaled = weight.detach() / spread
    return unscaled, bias.detach() - unscaled @ centre
