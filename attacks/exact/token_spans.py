"""Which vectors entered a linear layer? The rows of its gradient tell: they are combinations of those.

For a linear layer ``z = a Wᵀ + b`` the gradient is ``dL/dW = Σ δᵢᵀ aᵢ`` over all tokens i of the batch. While
there are fewer tokens than numbers in a vector, its row space is the span of the aᵢ and has room around it: a
vector that was not there lies outside with probability one (Petrov et al. 2024, theorems 3.1, 5.1 and 5.2).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from attacks.exact.token_model import SAFETY, Group, TokenModel, precision


class Span(NamedTuple):
    """Row space of a gradient, as far as it stands out of the noise."""

    basis: Tensor  # (rank, width), orthonormal rows
    values: Tensor  # (rank,) singular values
    noise: float  # spectral norm of the error of the gradient
    rounding: float  # error of a vector by the client's own forward pass, relative to the vector's norm

    @property
    def rank(self) -> int:
        """Number of different vectors seen, if that is below the width."""
        return len(self.values)

    @property
    def strength(self) -> float:
        """Smallest singular value over the noise."""
        return float(self.values[-1]) / self.noise

    def excess(self, vectors: Tensor) -> Tensor:
        """Distance of `vectors` (..., width) from the span, in units of the largest that rounding explains.

        A true vector is a combination of rows, ``a = wᵀG``, with ``w = U S⁻¹V a`` at best, so an error E of
        the gradient moves it out of the span by at most ``|w||E|``. A weak signal (a small singular value)
        makes the w of those vectors large that need it, and only those.
        """
        inside = vectors @ self.basis.T
        distance = torch.linalg.vector_norm(vectors - inside @ self.basis, dim=-1)
        weights = torch.linalg.vector_norm(inside / self.values, dim=-1)
        allowed = self.noise * weights + self.rounding * torch.linalg.vector_norm(vectors, dim=-1)
        excess: Tensor = distance / (SAFETY * allowed)
        return excess


def span_of(group: Group) -> Span:
    """The part of the row space of a gradient that noise cannot have made."""
    if group.gradient is None:
        raise ValueError(f"expected a layer with a gradient, but {list(group.names)} are frozen")
    _, values, rows = torch.linalg.svd(group.gradient, full_matrices=False)
    rank = int((values > SAFETY * group.noise).sum())
    return Span(rows[:rank], values[:rank], group.noise, torch.finfo(torch.float64).eps)


def vectors_with_rounding(model: TokenModel, group: Group, ids: Tensor) -> tuple[Tensor, float]:
    """What `group` sees of `ids`, and the relative error of the client's own vectors.

    The error is measured in float32 and scaled to the precision of the update.
    """
    exact = model.vectors(group, ids)
    coarse = model.vectors(group, ids, torch.float32).double()
    error = torch.linalg.vector_norm(coarse - exact, dim=-1) / torch.linalg.vector_norm(exact, dim=-1)
    share = min(1.0, precision(model.observation) / torch.finfo(torch.float32).eps)
    return exact, float(error.max()) * share + torch.finfo(torch.float64).eps
