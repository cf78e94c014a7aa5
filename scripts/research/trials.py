"""What `benchmark.py` tries: other labels, weights, targets and regularisation, and a head that looks elsewhere.

Requires liminal_hf and EmoBank with its extras (`LIMINAL_DATA_DIR`), for `labels: italian` EmoITA, too. A trial is the
frozen recipe with one thing changed that no recipe can say, because it was measured and not kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Sampler, WeightedRandomSampler

from liminal_hf.data import load_emobank
from liminal_hf.modeling.heads import HEADS
from liminal_hf.modeling.heads_v7 import LiminalV7
from liminal_hf.training.trainer import ROW, LiminalTrainer
from research.emobank import load_emoita

LABELS = ("published", "readers", "writers", "italian")
ITALIAN_SHARE = 0.2
_RATERS = ("reader", "writer")


@dataclass
class Trial:
    """One change, or several.

    Args:
        labels: what is learned: the published mean of all ratings, that of the readers or of the writers alone, or the
            published one with a fifth of EmoITA's rating of the translation (on the scale of the published labels).
        agreement: sentences are drawn in proportion to 1 / (t + variance of their mean rating), t the median variance.
        drop_copies: training sentences whose text stands in development or test, too, are left out.
        auxiliary: weight of a further loss: the answer and the latent must also tell the readers' mean, the writers'
            mean and the raters' standard deviation.
        spread: weight of a further loss on the uncertainty: the logarithm of its square is to follow that of the
            raters' variance, up to a constant for each dimension that is learned with it.
        r_drop: weight of the squared difference between two passes with different dropout (Wu et al. 2021).
        mixup: pairs of sentences are blended by Beta(mixup, mixup), states and labels alike (Zhang et al. 2018).

    Raises:
        ValueError: labels of an unknown kind, or two losses at once.
    """

    labels: str = "published"
    agreement: bool = False
    drop_copies: bool = False
    auxiliary: float = 0.0
    spread: float = 0.0
    r_drop: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        if self.auxiliary and self.spread:
            raise ValueError("trial: auxiliary and spread are two trials; give one of them.")
        if self.labels not in LABELS:
            raise ValueError(f"trial: labels must be one of {LABELS}, got {self.labels!r}.")

    def prepare(self, corpus: DatasetDict) -> tuple[DatasetDict, Callable[..., LiminalTrainer]]:
        """The corpus to learn from, and what builds its trainer; development and test stay as they are.

        Args:
            corpus: EmoBank, as `load_emobank` gives it.
        """
        extras = load_emobank(extras=True)["train"]
        train = corpus["train"]
        if self.labels != "published":
            labels = self._labels(corpus, extras).astype(np.float32).tolist()
            train = train.remove_columns("labels").add_column("labels", labels)
        rows = np.arange(len(train))
        if self.drop_copies:
            elsewhere = {text for split in ("validation", "test") for text in corpus[split]["text"][:]}
            rows = np.flatnonzero([text not in elsewhere for text in train["text"][:]])
            train = train.select(rows)
        weights = _agreement(extras)[rows] if self.agreement else None
        targets = None
        if self.auxiliary or self.spread:
            targets = (_raters(extras) if self.auxiliary else _log_variance(extras))[rows]
        return (
            DatasetDict({**corpus, "train": train}),
            partial(TrialTrainer, trial=self, weights=weights, targets=targets),
        )

    def _labels(self, corpus: DatasetDict, extras: Any) -> NDArray[np.float64]:
        if self.labels != "italian":
            return np.asarray(extras[self.labels.removesuffix("s")][:], dtype=np.float64)
        own = np.asarray(corpus["train"]["labels"][:], dtype=np.float64)
        italian = load_emoita()["train"]
        rated = dict(zip(italian["id"][:], italian["labels"][:], strict=True))
        other = np.array([rated[name] for name in corpus["train"]["id"][:]], dtype=np.float64)
        other = (other - other.mean(axis=0)) / other.std(axis=0) * own.std(axis=0) + own.mean(axis=0)
        return (1 - ITALIAN_SHARE) * own + ITALIAN_SHARE * other


def _agreement(extras: Any) -> NDArray[np.float64]:
    """`(rows,)`: how much a row's label can be relied on, mean of the three dimensions."""
    number = np.sum([extras[f"num_{kind}_ratings"][:] for kind in _RATERS], axis=0)
    variance = np.asarray(extras["label_std"][:], dtype=np.float64) ** 2 / (number[:, None] - 1)
    return (1 / (np.median(variance, axis=0) + variance)).mean(axis=1)


def _raters(extras: Any) -> NDArray[np.float64]:
    """`(rows, 9)`: the readers' mean, the writers' mean, the standard deviation; each column standardised."""
    columns = np.concatenate([np.asarray(extras[name][:]) for name in (*_RATERS, "label_std")], axis=1)
    return (columns - columns.mean(axis=0)) / columns.std(axis=0)


def _log_variance(extras: Any) -> NDArray[np.float64]:
    """`(rows, 3)`: logarithm of the raters' variance, in units of the labels' own."""
    # A twentieth of the scale's half, so that full agreement is not infinitely sure.
    deviation = np.hypot(np.asarray(extras["label_std"][:], dtype=np.float64), 0.05)
    return 2 * np.log(deviation / np.asarray(extras["labels"][:]).std(axis=0))


@HEADS.register("v7_layer_per_step")
class LayerPerStep(LiminalV7):
    """v7 with as many steps as layers, of which step k sees the k-th alone, from the embeddings to the last.

    It has v7's parameters: the part of the projection that reads a layer projects it. Steps beyond the trained ones
    see the last layer again.
    """

    def views(self, pooled: Tensor, count: int) -> list[Tensor]:
        """As in `LiminalV7`."""
        layers = self.config.num_outer_steps
        if pooled.shape[-1] % layers:
            raise ValueError(f"{pooled.shape[-1]} states are not those of {layers} layers: set num_outer_steps.")
        parts = zip(pooled.chunk(layers, dim=-1), self.projection.weight.chunk(layers, dim=1), strict=True)
        seen = [self.ln_x(functional.linear(part, weight, self.projection.bias)) for part, weight in parts]
        return (seen + [seen[-1]] * count)[:count]


class TrialTrainer(LiminalTrainer):
    """`LiminalTrainer` with the change of a trial; evaluation is left alone.

    Args:
        model, args, kwargs: as in `LiminalTrainer`.
        trial: the change.
        weights: `(rows,)`, how often each training row is drawn, relative to the others.
        targets: `(rows, 9)` or, for `spread`, `(rows, 3)`: what the further loss asks for.
    """

    def __init__(
        self,
        model: Any,
        args: Any,
        *,
        trial: Trial,
        weights: NDArray[np.float64] | None,
        targets: NDArray[np.float64] | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, args, **kwargs)
        self.trial, self.weights = trial, weights
        self.targets = None if targets is None else torch.as_tensor(targets, dtype=torch.float32)
        # Beside the model, not in it: what is saved must stay a model without it.
        self.auxiliary: nn.Module | None = None
        if trial.auxiliary:
            self.auxiliary = nn.Linear(2 * model.config.latent_size, 9)
            model.liminal.head.register_forward_hook(self._keep)
        elif trial.spread:
            self.auxiliary = _Constant()

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._last = torch.cat([output.answer, output.latent], dim=-1)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        if self.weights is None:
            return super()._get_train_sampler(train_dataset)
        generator = torch.Generator().manual_seed(self.args.seed)
        return WeightedRandomSampler(self.weights.tolist(), len(self.weights), generator=generator)

    def parameter_groups(self, model: nn.Module | None = None) -> list[dict[str, Any]]:
        """As in `LiminalTrainer`, and the auxiliary layer."""
        groups = super().parameter_groups(model)
        if self.auxiliary is not None:
            settings = {"lr": self.args.learning_rate, "weight_decay": self.args.weight_decay}
            groups.append({"params": list(self.auxiliary.parameters()), **settings})
        return groups

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """As in `LiminalTrainer`; remembers which rows they are."""
        self._rows = inputs[ROW]
        return super().training_step(model, inputs, *args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The recipe's loss with the trial's change while it trains, the recipe's alone while it evaluates."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        trial, inputs = self.trial, dict(inputs)
        if trial.mixup:
            share = float(np.random.beta(trial.mixup, trial.mixup))  # noqa: NPY002  (what `set_seed` seeds)
            order = torch.randperm(len(inputs["labels"]))
            inputs = {name: torch.lerp(value[order], value, share) for name, value in inputs.items()}
        if trial.r_drop:
            inputs = {name: torch.cat([value, value]) for name, value in inputs.items()}
            num_items_in_batch = None if num_items_in_batch is None else 2 * num_items_in_batch
        loss, output = super().compute_loss(model, inputs, True, num_items_in_batch)
        deviation = output.logits.new_tensor(self.model.config.label_std)
        if trial.r_drop:
            first, second = (output.logits / deviation).chunk(2)
            loss = loss + trial.r_drop * (first - second).square().mean()
        if self.auxiliary is not None and self.targets is not None:
            if trial.spread:
                found, weight = 2 * torch.log(output.uncertainty / deviation), trial.spread
            else:
                found, weight = self._last, trial.auxiliary
            loss = loss + weight * (self.auxiliary(found) - self.targets[self._rows]).square().mean()
        return (loss, output) if return_outputs else loss


class _Constant(nn.Module):
    """Adds a constant for each dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(3))

    def forward(self, values: Tensor) -> Tensor:
        return values + self.value
