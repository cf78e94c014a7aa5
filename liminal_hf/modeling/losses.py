"""Losses over `(batch, T)` predictions, chosen by name in the config, and what a model is trained with.

Requires torch. Each takes predictions, labels, a mask of the labels that exist, and the number of labels in the
whole (accumulated) batch, and returns a scalar. Item-wise losses divide by that number, so that gradient accumulation
gives the same gradient as one large batch; `ccc` is a statistic of the batch and can't.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .configuration_liminal import MISSING_LABEL, LiminalConfig
from .errors import LiminalError
from .registry import Registry

LOSSES = Registry("loss")


def _mean(values: Tensor, mask: Tensor, num_items: Tensor | int | None) -> Tensor:
    total = (values * mask).sum()
    return total / (mask.sum().clamp_min(1) if num_items is None else num_items)


@LOSSES.register("mse")
def mse(
    predictions: Tensor,
    labels: Tensor,
    mask: Tensor,
    num_items: Tensor | int | None = None,
    log_variance: Tensor | None = None,
) -> Tensor:
    """Mean squared error; minimised by the conditional mean.

    Args:
        predictions, labels: `(batch, T)`, floating.
        mask: `(batch, T)`, 1 where the label exists, 0 where it is missing.
        num_items: how many labels exist in all micro-batches of this update; None counts those of `mask`.
        log_variance: `(batch, T)`; only the likelihood uses it.

    Example:
        >>> ones = torch.ones(2, 3)
        >>> mse(ones, ones * 3, ones).item()
        4.0
    """
    return _mean((predictions - labels).square(), mask, num_items)


@LOSSES.register("huber")
def huber(
    predictions: Tensor,
    labels: Tensor,
    mask: Tensor,
    num_items: Tensor | int | None = None,
    log_variance: Tensor | None = None,
) -> Tensor:
    """Huber loss with threshold 1 (Huber 1964): squared near zero, linear far away. Arguments as in `mse`.

    Example:
        >>> ones = torch.ones(2, 3)
        >>> huber(ones, ones * 3, ones).item()
        1.5
    """
    return _mean(functional.huber_loss(predictions, labels, reduction="none"), mask, num_items)


@LOSSES.register("ccc")
def ccc(
    predictions: Tensor,
    labels: Tensor,
    mask: Tensor,
    num_items: Tensor | int | None = None,
    log_variance: Tensor | None = None,
) -> Tensor:
    """1 - concordance correlation (Lin 1989) over the batch, mean of the targets. Arguments as in `mse`.

    Needs batches of a few dozen rows to mean much. A target with fewer than two labels counts 0.

    Example:
        >>> labels = torch.randn(8, 3)
        >>> ccc(labels, labels, torch.ones(8, 3)).abs().item() < 1e-6
        True
    """
    count = mask.sum(0)
    divisor = count.clamp_min(1)
    mean_p = (predictions * mask).sum(0) / divisor
    mean_l = (labels * mask).sum(0) / divisor
    centred_p, centred_l = (predictions - mean_p) * mask, (labels - mean_l) * mask
    covariance = (centred_p * centred_l).sum(0) / divisor
    spread = (centred_p.square().sum(0) + centred_l.square().sum(0)) / divisor + (mean_p - mean_l).square()
    per_target = 1 - 2 * covariance / spread.clamp_min(1e-8)
    loss = (per_target * (count > 1)).mean()
    # A share of the accumulated batch, so that the sum over micro-batches stays a mean.
    return loss if num_items is None else loss * (mask.sum() / num_items)


@LOSSES.register("mse_ccc")
def mse_ccc(
    predictions: Tensor,
    labels: Tensor,
    mask: Tensor,
    num_items: Tensor | int | None = None,
    log_variance: Tensor | None = None,
) -> Tensor:
    """`mse` + `ccc`: the first for the error, the second against compression to the mean. Arguments as in `mse`.

    Example:
        >>> labels = torch.randn(8, 3)
        >>> mse_ccc(labels, labels, torch.ones(8, 3)).abs().item() < 1e-6
        True
    """
    return mse(predictions, labels, mask, num_items) + ccc(predictions, labels, mask, num_items)


@LOSSES.register("gaussian_nll")
def gaussian_nll(
    predictions: Tensor,
    labels: Tensor,
    mask: Tensor,
    num_items: Tensor | int | None = None,
    log_variance: Tensor | None = None,
) -> Tensor:
    """Negative log-likelihood of a normal distribution, up to a constant (Nix & Weigend 1994). Arguments as in `mse`.

    As the loss of a config it counts once, whatever `uncertainty_weight` is; each step's answer is measured with that
    step's own variance.

    Raises:
        LiminalError: the head gives no `log_variance`.

    Example:
        >>> ones = torch.ones(2, 3)
        >>> gaussian_nll(ones, ones, ones, log_variance=torch.zeros(2, 3)).item()
        0.0
    """
    if log_variance is None:
        raise LiminalError(
            "loss='gaussian_nll' needs a head with an uncertainty: head='v7', or another loss, e.g. 'mse'."
        )
    nll = 0.5 * (log_variance + (predictions - labels).square() * torch.exp(-log_variance))
    return _mean(nll, mask, num_items)


def training_loss(
    config: LiminalConfig, head: Any, output: Any, labels: Tensor, num_items: Tensor | int | None = None
) -> Tensor:
    """What a model is trained with: the loss of its config, and what the head adds to it.

    1. The config's loss on the last answer. For a head that `supervises_steps` it is mixed by `deep_supervision` with
       the same on all answers, whose weights grow with the step.
    2. For a head with `log_variance`: the likelihood of its last answer, times `uncertainty_weight`; for a head that
       `supervises_spread`, the mean of that of all its answers.
    3. For a head that `trains_confidences`: the squared difference of each step's confidence from exp(-|error|) of that
       step (mean of the targets, in the head's own units), times `confidence_weight`.
    4. For a head with `gains`: the squared difference of each from the square of how far reading on to the last step
       moves the answer, summed over the targets, times `exit_weight`. Where deeper answers are right on average, that
       is the expected fall of the squared error; the fall on single labels is mostly their noise.

    With `loss="gaussian_nll"` the likelihood counts once, in 1, and 2 adds nothing. Each step's answer is measured with
    its own variance; a head that gives the variance of its last answer alone is trained on the last answer alone.

    Args:
        config: the model's config.
        head: a `Head`.
        output: a `HeadOutput`.
        labels: `(batch, T)` in label units, -100 where one is missing.
        num_items: number of labels in all micro-batches of one update; None counts those of `labels`.

    Raises:
        LiminalError: labels of a wrong shape or with a NaN.
    """
    trajectory = output.pad_trajectory
    shape = tuple(trajectory[:, -1].shape)
    if tuple(labels.shape) != shape:
        names = ", ".join(config.targets)
        raise LiminalError(f"labels must have shape {shape}, a column per target ({names}), got {tuple(labels.shape)}.")
    if not torch.compiler.is_compiling() and bool(torch.isnan(labels).any()):
        raise LiminalError(f"labels hold a NaN. Mark a missing label with {MISSING_LABEL}.")
    if isinstance(num_items, Tensor):
        num_items = num_items.to(trajectory.device)
    mask = labels.ne(MISSING_LABEL).to(trajectory.dtype)  # (batch, T)
    targets = head.from_label_units(labels.to(trajectory.dtype))  # (batch, T)
    steps = head.from_label_units(trajectory)  # (batch, K, T)
    count = steps.shape[1]
    supervises_steps = head.supervises_steps and count > 1 and config.deep_supervision > 0
    log_variance, is_likelihood = output.log_variance, config.loss == "gaussian_nll"
    if log_variance is not None and log_variance.dim() == 2:
        log_variance = log_variance[:, None].expand(-1, count, -1)
        supervises_steps = supervises_steps and not is_likelihood

    def measure(name: str, predictions: Tensor, step: int) -> Tensor:
        variance = None if log_variance is None else log_variance[:, step]
        return LOSSES[name](predictions, targets, mask, num_items, variance)

    loss = measure(config.loss, steps[:, -1], -1)
    if supervises_steps:
        total = count * (count + 1) / 2
        path = sum((k + 1) / total * measure(config.loss, steps[:, k], k) for k in range(count))
        loss = (1 - config.deep_supervision) * loss + config.deep_supervision * path
    if log_variance is not None and not is_likelihood and config.uncertainty_weight > 0:
        chosen = range(count) if head.supervises_spread else (-1,)
        spread = sum(measure("gaussian_nll", steps[:, k].detach(), k) for k in chosen)
        loss = loss + config.uncertainty_weight / len(chosen) * spread
    if head.trains_confidences and output.confidences is not None and config.confidence_weight > 0:
        closeness = torch.exp(-(steps.detach() - targets[:, None]).abs())
        misfit = (output.confidences[..., None] - closeness).square().mean(1)
        loss = loss + config.confidence_weight * _mean(misfit, mask, num_items)
    if output.gains is not None and count > 1 and config.exit_weight > 0:
        moved = (((steps[:, :-1] - steps[:, -1:]).detach().square()) * mask[:, None]).sum(-1)  # (batch, K - 1)
        misfit = (output.gains[:, :-1] - moved).square().mean(1, keepdim=True)
        loss = loss + config.exit_weight * _mean(misfit.expand_as(mask), mask, num_items)
    return loss
