"""How two gradients are compared: each object maps K candidates and the observed one to K numbers.

Candidates are lists with one tensor of shape (K, *parameter shape) for each parameter, the observed gradient
is a list with one tensor of the parameter's own shape. Zero is perfect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

Gradients = Sequence[Tensor]


class Objective(Protocol):
    """A distance between gradients."""

    def __call__(self, candidate: Gradients, observed: Gradients) -> Tensor:
        """One number for each of the K candidates."""
        ...


@runtime_checkable
class OfProducts(Protocol):
    """An objective that needs no more of the gradients than lengths and products, parameter by parameter."""

    def of_products(self, squares: Tensor, products: Tensor, observed: Tensor) -> Tensor:
        """The value from ``|g_l|^2``, ``<g_l, g*_l>`` and ``|g*_l|^2``, each of shape (parameters,)."""
        ...


def per_start(tensor: Tensor) -> Tensor:
    """Sum over all dimensions but the first."""
    return tensor.flatten(1).sum(1) if tensor.dim() > 1 else tensor


@dataclass(frozen=True)
class SquaredError:
    """``sum_l |g_l - g*_l|^2``, divided by ``|g*|^2`` so that its size has a meaning.

    L. Zhu, Z. Liu, S. Han, "Deep Leakage from Gradients", NeurIPS 2019, equation 4, up to that factor.

    Examples
    --------
    >>> SquaredError()([torch.tensor([[3.0, 0.0], [1.0, 0.0]])], [torch.tensor([1.0, 0.0])])
    tensor([4., 0.])
    """

    def __call__(self, candidate: Gradients, observed: Gradients) -> Tensor:
        """See `Objective`."""
        parts = [per_start((c - o).square()) for c, o in zip(candidate, observed, strict=True)]
        size = torch.stack([o.square().sum() for o in observed]).sum()
        return torch.stack(parts).sum(0) / size.clamp_min(torch.finfo(size.dtype).tiny)

    def of_products(self, squares: Tensor, products: Tensor, observed: Tensor) -> Tensor:
        """See `OfProducts`."""
        size = observed.sum().clamp_min(torch.finfo(observed.dtype).tiny)
        return (squares - 2 * products + observed).sum() / size


@dataclass(frozen=True)
class LayerSquaredError:
    """The mean over parameters of ``|g_l - g*_l|^2 / |g*_l|^2``: small layers count as much as large ones.

    A parameter whose observed gradient is zero is left out: nothing says in which units to measure it.
    """

    def __call__(self, candidate: Gradients, observed: Gradients) -> Tensor:
        """See `Objective`."""
        sizes = [o.square().sum() for o in observed]
        parts = [
            per_start((c - o).square()) / size
            for c, o, size in zip(candidate, observed, sizes, strict=True)
            if float(size) > 0
        ]
        return torch.stack(parts).mean(0)

    def of_products(self, squares: Tensor, products: Tensor, observed: Tensor) -> Tensor:
        """See `OfProducts`."""
        there = observed > 0
        return ((squares - 2 * products + observed)[there] / observed[there]).mean()


@dataclass(frozen=True)
class Cosine:
    """``1 - <g, g*> / (|g| |g*|)``, all parameters as one vector.

    J. Geiping, H. Bauermeister, H. Dröge, M. Moeller, "Inverting Gradients", NeurIPS 2020, equation 4.

    Examples
    --------
    >>> Cosine()([torch.tensor([[2.0, 0.0], [0.0, 1.0]])], [torch.tensor([1.0, 0.0])])
    tensor([0., 1.])
    """

    def __call__(self, candidate: Gradients, observed: Gradients) -> Tensor:
        """See `Objective`."""
        pairs = list(zip(candidate, observed, strict=True))
        # Products without intermediate copies: large networks spend a sixth of an iteration here otherwise.
        product = torch.stack([c.reshape(len(c), -1) @ o.reshape(-1) for c, o in pairs]).sum(0)
        norms = [torch.linalg.vector_norm(c.reshape(len(c), -1), dim=1) for c, _ in pairs]
        size = torch.stack(norms).square().sum(0)
        length = torch.stack([o.square().sum() for _, o in pairs]).sum().sqrt()
        tiny = torch.finfo(product.dtype).tiny
        return 1 - product / (size.clamp_min(tiny).sqrt() * length.clamp_min(tiny))

    def of_products(self, squares: Tensor, products: Tensor, observed: Tensor) -> Tensor:
        """See `OfProducts`."""
        tiny = torch.finfo(squares.dtype).tiny
        return 1 - products.sum() / (squares.sum() * observed.sum()).clamp_min(tiny).sqrt()


@dataclass(frozen=True, kw_only=True)
class TagDistance:
    """``sum_l |g_l - g*_l|_2 + alpha_l |g_l - g*_l|_1``, with alpha larger in front than at the end.

    J. Deng et al., "TAG: Gradient Attack on Transformer-based Language Models", Findings of EMNLP 2021,
    https://arxiv.org/abs/2103.06819, equation 5. The paper leaves the course of alpha open ("larger on the
    front layers"); here it falls linearly from `alpha` at the first parameter to 0 behind the last.

    Parameters
    ----------
    alpha : float, default 0.01
    """

    alpha: float = 0.01

    def __call__(self, candidate: Gradients, observed: Gradients) -> Tensor:
        """See `Objective`."""
        total: Tensor | None = None
        for index, (c, o) in enumerate(zip(candidate, observed, strict=True)):
            difference = (c - o).reshape(len(c), -1)
            weight = self.alpha * (1 - index / len(candidate))
            # The root's slope is infinite at zero.
            part = (difference.square().sum(1) + torch.finfo(c.dtype).tiny).sqrt()
            part = part + weight * difference.abs().sum(1)
            total = part if total is None else total + part
        assert total is not None, "at least one parameter is compared"
        return total
