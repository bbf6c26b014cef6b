"""A preconditioner for the equations of a convolution: each channel's own normal matrix, averaged.

The weight gradient treats every input channel alike: one matrix, made of shifted copies of the backward
signal, maps each channel to its part of the gradient. The forward equations mix the channels; of their
normal matrix the average diagonal block is kept. For one channel nothing is dropped, and one step solves
the system.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from attacks.exact.layers.maps import ConvolutionMap, settings

LARGEST_MAP = 2500
"""Positions of one channel up to which the preconditioner's dense matrix pays."""
_SHIFT = 1e-10
_LARGEST_SINGLE = 1e4

Preconditioner = Callable[[Tensor], Tensor]


def convolution_preconditioner(
    layer: ConvolutionMap, signal: Tensor | None, weight: Tensor | None, scales: tuple[float, float]
) -> Preconditioner | None:
    """Approximate inverse of the normal matrix of a convolution's equations, or None if it is too large.

    Parameters
    ----------
    layer : ConvolutionMap
    signal : Tensor of shape (1, *out_shape) or None
        The backward signal, if the weight gradient gives equations.
    weight : Tensor of shape (1, *out_shape) or None
        Weights of the forward equations, if the output is known.
    scales : tuple of float
        Factors of the forward equations and of those of the weight gradient.
    """
    places = math.prod(layer.in_shape[1:])
    if places > LARGEST_MAP:
        return None
    spots, inside = taps_read(layer)
    groups = settings(layer.module).groups
    kernel = layer.state["weight"].flatten(2).unflatten(0, (groups, -1))  # (groups, out, in, taps)
    matrices = torch.zeros(groups, places, places, dtype=torch.float64)
    for group in range(groups):
        if weight is not None:
            rows = weight.flatten(2)[0].unflatten(0, (groups, -1))[group]
            matrices[group] += scales[0] ** 2 * _forward_block(kernel[group], rows, spots, inside, places)
        if signal is not None:
            rows = signal.flatten(2)[0].unflatten(0, (groups, -1))[group]
            matrices[group] += scales[1] ** 2 * _backward_block(rows, spots, inside, places)
    matrices = matrices / matrices.diagonal(dim1=1, dim2=2).mean().clamp_min(1e-300)
    matrices.diagonal(dim1=1, dim2=2).add_(_SHIFT)
    factors, failed = torch.linalg.cholesky_ex(matrices)
    if bool(failed.any()):
        return None
    inverse = torch.cholesky_inverse(factors)
    # Half the memory to read in every step, where single precision keeps the matrix positive definite.
    if float(inverse.diagonal(dim1=1, dim2=2).max()) < _LARGEST_SINGLE:
        inverse = inverse.float()

    def solve(x: Tensor) -> Tensor:
        """Channels of each group, and all columns, are multiplied by one inverse."""
        columns = x.flatten(2).unflatten(1, (groups, -1)).transpose(0, 1)  # (groups, k, in, places)
        solved = (columns.flatten(1, 2).to(inverse.dtype) @ inverse).to(x.dtype)
        result: Tensor = solved.unflatten(1, columns.shape[1:3]).transpose(0, 1).reshape(x.shape)
        return result

    return solve


def taps_read(layer: ConvolutionMap) -> tuple[Tensor, Tensor]:
    """Which input place each tap of the kernel reads at each output place.

    Returns
    -------
    spots : int64 Tensor of shape (output places, taps)
        Index into the places of one channel; meaningless where the tap reads padding.
    inside : bool Tensor of shape (output places, taps)
        Whether it does not.
    """
    s = settings(layer.module)
    taps = layer.state["weight"].shape[2:]
    spot, inside = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool)
    for size, out, width, stride, padding, dilation in zip(
        layer.in_shape[1:], layer.out_shape[1:], taps, s.stride, s.padding, s.dilation, strict=True
    ):
        place = torch.arange(out)[:, None] * stride - padding + torch.arange(width) * dilation
        valid = (place >= 0) & (place < size)
        spot = _outer(spot * size, place, torch.add)
        inside = _outer(inside, valid, torch.logical_and)
    return spot.clamp_min(0), inside


def _outer(left: Tensor, right: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Every row with every row and every column with every column."""
    both = combine(left[:, None, :, None], right[None, :, None, :])
    return both.reshape(len(left) * len(right), -1)


def _forward_block(kernel: Tensor, weight: Tensor, spots: Tensor, inside: Tensor, places: int) -> Tensor:
    """Average over input channels of the diagonal blocks of ``A^T diag(weight^2) A``."""
    pairs = torch.einsum("oia,oib->oab", kernel, kernel) / kernel.shape[1]
    values = torch.einsum("op,oab->pab", weight.square(), pairs)
    both = inside[:, :, None] & inside[:, None, :]
    index = spots[:, :, None] * places + spots[:, None, :]
    block = torch.zeros(places * places, dtype=torch.float64)
    block.index_add_(0, index[both], values[both])
    return block.reshape(places, places)


def _backward_block(signal: Tensor, spots: Tensor, inside: Tensor, places: int) -> Tensor:
    """``B^T B`` for the matrix B that maps one input channel to its part of the weight gradient."""
    matrix = torch.zeros(len(signal) * spots.shape[1], places, dtype=torch.float64)
    for tap in range(spots.shape[1]):
        valid = inside[:, tap]  # at most one output place reads an input place through one tap
        matrix[tap :: spots.shape[1], spots[valid, tap]] = signal[:, valid]
    return matrix.T @ matrix
