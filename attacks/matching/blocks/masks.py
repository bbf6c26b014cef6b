"""Batches behind a global average pool: ReLU masks decoded from a rough estimate, exact patches from them.

The last convolution sees n P patches (n images, P positions), and with the signals g_i known the gradient of
channel c is ``sum over i, p of (g_i[c] / P) mask[c, i, p] patch_{i, p}``. Its column space U holds, for every
patch, the column ``g_i mask_ip / P``, whose entries are zero or known. A rough estimate of the image predicts
most of a mask; the 0/1 column of the space that is nearest in the sum of absolute differences (doubtful
entries weigh less) is the mask itself as long as few entries are wrong. That is decoding a linear code over
the real numbers: E. Candes, T. Tao, "Decoding by Linear Programming", IEEE Transactions on Information
Theory 51 (2005), https://arxiv.org/abs/math/0502327; we solve it by reweighted least squares. All masks
together give all patches by linear least squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.base import NotIdentifiable
from attacks.exact.layers.maps import ConvolutionMap, settings
from attacks.exact.layers.pooled import pooled_convolution
from attacks.replay import parameter_name
from fedpriv.wire import Observation

_STEPS = 50
_BINARY = 1e-2
_ROUNDS = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class PooledBatch:
    """The last convolution of a network that ends in global average pooling, for a batch.

    Parameters
    ----------
    depth : int
        How many layers are below it.
    layer : ConvolutionMap
    sums : Tensor of shape (channels, patch size + 1)
        Gradients of weight and bias, side by side.
    shares : Tensor of shape (channels, n * positions)
        The entry of a column where its mask is one.
    space : Tensor of shape (channels, n * positions)
        Orthonormal basis of the columns.
    rows : Tensor of shape (n * positions, patch size + 1)
        Orthonormal basis of the patches, each with a one at its end.
    tolerance : float
    """

    depth: int
    layer: ConvolutionMap
    sums: Tensor
    shares: Tensor
    space: Tensor
    rows: Tensor
    tolerance: float

    @classmethod
    def of(cls, observation: Observation, signals: Tensor) -> PooledBatch:
        """From the gradient of the loss by the pooled features, `signals` (n, channels).

        Raises
        ------
        NotIdentifiable
            If the model ends otherwise, or has too few channels.
        """
        depth, layer = pooled_convolution(observation)
        gradient = observation.gradient()
        names = [parameter_name(layer.name, kind) for kind in ("weight", "bias")]
        missing = [name for name in names if name not in gradient]
        if missing:
            raise NotIdentifiable(f"no gradient of {missing} came back")
        sums = torch.cat([gradient[names[0]].flatten(1), gradient[names[1]][:, None]], dim=1).double()
        positions = int(torch.Size(layer.out_shape[1:]).numel())
        epsilon = max(torch.finfo(t.dtype).eps for t in observation.update.tensors.values())
        left, sizes, right = torch.linalg.svd(sums, full_matrices=False)
        rank, wanted = int((sizes > 10 * epsilon * sizes[0]).sum()), len(signals) * positions
        if rank != wanted or wanted >= len(sums):
            raise NotIdentifiable(
                f"the gradient of {layer} with {len(sums)} channels has rank {rank}, and {len(signals)} "
                f"images at {positions} positions have {wanted} patches"
            )
        return cls(
            depth=depth,
            layer=layer,
            sums=sums,
            shares=signals.double().T.repeat_interleave(positions, dim=1) / positions,
            space=left[:, :rank],
            rows=right[:rank],
            tolerance=epsilon**0.6,
        )

    def patches(self, maps: Tensor) -> Tensor:
        """What the convolution sees of `maps` (n, channels, H, W): (n * positions, patch size + 1)."""
        found = _unfold(self.layer, maps).mT.flatten(0, 1)
        return torch.cat([found, found.new_ones(len(found), 1)], dim=1)

    def maps(self, patches: Tensor) -> Tensor:
        """The maps that have these patches; overlaps are averaged, and what no patch sees is zero."""
        values = patches[:, :-1].reshape(-1, self._positions, patches.shape[1] - 1).mT
        shape, s = self.layer.in_shape, settings(self.layer.module)
        kernel = self.layer.state["weight"].shape[2:]

        def fold(columns: Tensor) -> Tensor:
            return F.fold(columns, shape[1:], tuple(kernel), s.dilation, s.padding, s.stride)

        maps: Tensor = fold(values) / fold(torch.ones_like(values)).clamp_min(1.0)
        return maps

    @property
    def _positions(self) -> int:
        return int(torch.Size(self.layer.out_shape[1:]).numel())

    def leaving(self, maps: Tensor) -> Tensor:
        """Share of the patches' variation that lies outside the row space; differentiable, for estimates."""
        patches = self.patches(maps)
        rows = self.rows.to(patches)
        outside = patches - (patches @ rows.T) @ rows
        return outside.square().sum() / (patches - patches.mean(0)).square().sum().clamp_min(1e-12)

    def decode(self, maps: Tensor) -> Tensor | None:
        """The exact maps, from an estimate of them (n, channels, H, W); None if it is too rough."""
        kernel = torch.cat([self.layer.state["weight"].flatten(1), self._offset[:, None]], dim=1)
        patches = self.patches(maps.double())
        usable = self.shares.abs().amin(1) > 1e-3 * self.shares.abs().max()
        for _ in range(_ROUNDS):
            outputs = kernel @ patches.T
            masks = (outputs > 0).double()
            found = _nearest(self.space[usable], self.shares[usable], masks[usable], outputs[usable].abs())
            masks[usable] = (found > 0.5).double()
            decided = torch.minimum(found.abs(), (found - 1).abs()).amax(0) < _BINARY
            if bool(decided.all()):
                exact = torch.linalg.lstsq(masks[usable] * self.shares[usable], self.sums[usable]).solution
                masks = (kernel @ exact.T > 0).double()
                left = (masks * self.shares) @ exact - self.sums
                if float(left.norm()) < self.tolerance**0.5 * float(self.sums.norm()):
                    return self.maps(exact)
            patches = self._improved(patches, masks * self.shares, decided)
        return None

    def _improved(self, patches: Tensor, columns: Tensor, decided: Tensor) -> Tensor:
        """Move the patches towards what the columns say, doubtful ones less (ridge regression)."""
        scale = torch.where(decided, 1.0, 0.3).to(patches)
        scaled = columns * scale
        left = self.sums - columns @ patches
        noise = 0.5 * left.square().mean() / patches.var()
        inner = scaled @ scaled.T + noise * torch.eye(len(columns), dtype=patches.dtype)
        solved: Tensor = torch.linalg.solve(inner, left)
        return patches + scale[:, None] * (scaled.T @ solved)

    @property
    def _offset(self) -> Tensor:
        return self.layer.offset.flatten(2)[0, :, 0]


def _unfold(layer: ConvolutionMap, maps: Tensor) -> Tensor:
    s = settings(layer.module)
    kernel = tuple(layer.state["weight"].shape[2:])
    return F.unfold(maps, kernel, s.dilation, s.padding, s.stride)


def _nearest(space: Tensor, shares: Tensor, masks: Tensor, trust: Tensor) -> Tensor:
    """Columns of `space`, divided by `shares`, nearest to `masks` in weighted absolute differences.

    All of shape (channels, patches), `space` (channels, rank); entry by entry weighted with `trust`.
    """
    weights = (trust / trust.mean(0) + 1e-3).T
    basis = space / shares.T[..., None]  # (patches, channels, rank)
    wanted, reweighted, width = masks.T, torch.ones_like(masks.T), 1.0
    found = wanted
    identity = torch.eye(space.shape[1], dtype=space.dtype)
    for _ in range(_STEPS):
        scaled = basis * (weights * reweighted)[..., None]
        normal = scaled.mT @ basis
        normal = normal + 1e-9 * normal.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * identity
        point = torch.linalg.solve(normal, scaled.mT @ wanted[..., None])
        found = (basis @ point)[..., 0]
        width = max(0.85 * width, 1e-4)
        reweighted = 1 / ((found - wanted).abs() + width)
    return found.T
