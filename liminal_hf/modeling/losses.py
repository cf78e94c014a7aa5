"""Losses over `(batch, T)` predictions, chosen by name in the config.

Requires torch. Each takes predictions, labels, a mask of the labels that exist, and the number of labels in the
whole (accumulated) batch, and returns a scalar. Item-wise losses divide by that number, so that gradient accumulation
gives the same gradient as one large batch; `ccc` is a statistic of the batch and can't.
"""

import torch
from torch import Tensor
from torch.nn import functional

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

    Raises:
        ValueError: the head gives no `log_variance`.

    Example:
        >>> ones = torch.ones(2, 3)
        >>> gaussian_nll(ones, ones, ones, log_variance=torch.zeros(2, 3)).item()
        0.0
    """
    if log_variance is None:
        raise ValueError(
            "loss='gaussian_nll' needs a head with an uncertainty: head='v7', or another loss, e.g. 'mse'."
        )
    nll = 0.5 * (log_variance + (predictions - labels).square() * torch.exp(-log_variance))
    return _mean(nll, mask, num_items)
