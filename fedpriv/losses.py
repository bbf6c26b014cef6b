"""Losses that have a name, so that a saved file can say which one was used.

`squared_error` is the loss of the PySyft tutorial. `name_of` recognizes any callable that computes one of the
named losses, a lambda too, by comparing values on random inputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Loss", "cross_entropy_sum", "half_squared_error", "name_of", "squared_error"]

Loss = Callable[[Tensor, Tensor], Tensor]


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The tutorial's loss: squared errors, summed over samples and outputs.

    Examples
    --------
    >>> squared_error(torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [0.0]]))
    tensor(5.)
    """
    return ((outputs - targets) ** 2).sum()


def cross_entropy_sum(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy summed over the batch."""
    return F.cross_entropy(outputs, targets, reduction="sum")


def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the summed squared error, the textbook's least squares."""
    return 0.5 * ((outputs - targets) ** 2).sum()


NAMED: dict[str, Loss] = {
    "squared_error": squared_error,
    "half_squared_error": half_squared_error,
    "mse_loss": F.mse_loss,
    "l1_loss": F.l1_loss,
    "smooth_l1_loss": F.smooth_l1_loss,
    "binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits,
    "cross_entropy": F.cross_entropy,
    "cross_entropy_sum": cross_entropy_sum,
}


def _probes() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    return [
        (outputs, torch.rand(4, 3, generator=generator, dtype=torch.float64)),
        (2 * outputs[:, :2], torch.rand(4, 2, generator=generator, dtype=torch.float64)),
        (outputs, torch.tensor([2, 0, 1, 1])),
        (2 * outputs[:3, :2], torch.tensor([1, 0, 0])),
    ]


def _value(loss_fn: Loss, outputs: Tensor, targets: Tensor) -> float | None:
    """The loss, or None if this kind of target is not for it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # squared errors warn when they broadcast class labels
            return float(loss_fn(outputs, targets))
    except Exception:  # a caller's own loss may refuse a target with any exception
        return None


def name_of(loss_fn: Loss) -> str | None:
    """The name under which `loss_fn` is known, or None.

    Parameters
    ----------
    loss_fn : callable
        ``loss_fn(outputs, targets)`` giving one number.

    Returns
    -------
    str or None
        A key of `NAMED` whose values on random probes (real targets and class labels) agree to 1e-9, and
        which refuses the same kinds of targets.

    Examples
    --------
    >>> name_of(lambda outputs, targets: ((outputs - targets) ** 2).sum())
    'squared_error'
    >>> name_of(lambda outputs, targets: outputs.sum()) is None
    True
    """
    got = [_value(loss_fn, *probe) for probe in _probes()]
    for name, reference in NAMED.items():
        expected = [_value(reference, *probe) for probe in _probes()]
        if all(_agree(a, b) for a, b in zip(got, expected, strict=True)):
            return name
    return None


def _agree(a: float | None, b: float | None) -> bool:
    return a is b if a is None or b is None else abs(a - b) <= 1e-9 * (1 + abs(b))
