"""The target of a found sample: only with the true one do its backward signals lie in both column spaces."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.exact.consistency.backward import Pass, class_signals, duals, pass_through, takes_classes
from attacks.exact.consistency.problem import Evidence, Samples

# In units of the noise. The first layer's signal also carries the error of the sample itself.
_FITS_LAYER_2, _FITS_LAYER_1 = 1e2, 1e4
_CLEAR = 20.0  # the second best target must fit so many times worse
_SAME_WEIGHT = 5e-2  # both layers must give the same weight up to this
_CHUNK_ENTRIES = 20_000_000


class _Judged(NamedTuple):
    samples: Samples
    clear: Tensor  # (k,) by how much the second best candidate is worse
    fits: Tensor  # (k,) bool


def with_targets(evidence: Evidence, coordinates: Tensor, residual: Tensor) -> Samples:
    """Find the targets of samples, and keep those that have one.

    Every class is tried. A sample that no class fits gets the one output signal that does, and the label -1:
    it has a soft or a real target, or came several times with different labels.

    Parameters
    ----------
    evidence : Evidence
    coordinates : Tensor of shape (k, r1)
    residual : Tensor of shape (k,)
        Passed on.

    Returns
    -------
    Samples
        At most k of them.
    """
    chunk = max(1, _CHUNK_ENTRIES // (evidence.num_signals * len(evidence.layers.bias_1)))
    parts = [
        _of_chunk(evidence, c, far)
        for c, far in zip(coordinates.split(chunk), residual.split(chunk), strict=True)
    ]
    return Samples.join(parts) if parts else Samples.none(evidence)


def _of_chunk(evidence: Evidence, coordinates: Tensor, residual: Tensor) -> Samples:
    forward = pass_through(evidence, coordinates)
    layers = evidence.layers
    hard = layers.tail is not None and takes_classes(layers.loss_fn, forward.outputs.shape[1])
    if hard:
        judged = _judge(
            evidence, forward, coordinates, residual, class_signals(forward.outputs, layers.loss_fn)
        )
        ok = judged.fits & (judged.clear > _CLEAR) & (judged.samples.weight > 0)
        if bool(ok.all()):
            return judged.samples
    signal, only = free_signals(evidence, forward)
    free = _judge(evidence, forward, coordinates, residual, signal[:, None])
    fits = free.fits & (only > _CLEAR)
    unknown = torch.full_like(free.samples.label, -1)
    as_free = Samples(**{**vars(free.samples), "label": unknown})
    if not hard:
        return as_free.pick(fits)
    return Samples.join([judged.samples.pick(ok), as_free.pick(fits & ~ok)])


def _judge(
    evidence: Evidence, forward: Pass, coordinates: Tensor, residual: Tensor, candidates: Tensor
) -> _Judged:
    """The samples that the best of the candidate signals (k, j, K) make."""
    count, choices = candidates.shape[:2]
    one, two = forward.signals(evidence, candidates)  # (k, j, m1), (k, j, m2)
    doubts = [evidence.two.outside_columns(two.flatten(0, 1)).view(count, choices)]
    if evidence.paired:  # else backward signals need not lie in the columns of the first layer
        doubts.append(evidence.one.outside_columns(one.flatten(0, 1)).view(count, choices))
    doubt = torch.stack(doubts)  # (1 or 2, k, j)
    best = doubt.amax(0).argmin(1)
    rows = torch.arange(count)
    worst = doubt[:, rows, best]
    others = doubt.amax(0)
    others[rows, best] = math.inf
    one, two = one[rows, best], two[rows, best]
    fits = worst[0] < _FITS_LAYER_2
    inner = forward.activation @ evidence.two.rows.T
    duals_2, weight = duals(two, inner, evidence.two)
    duals_1 = torch.zeros_like(coordinates)
    if evidence.paired:
        duals_1, weight_1 = duals(one, coordinates, evidence.one)
        fits = fits & (worst[1] < _FITS_LAYER_1) & ((weight_1 / weight - 1).abs() < _SAME_WEIGHT)
        weight = weight_1
    samples = Samples(
        coordinates=coordinates,
        duals_1=duals_1,
        duals_2=duals_2,
        own=one * weight[:, None],
        label=best,
        signal=candidates[rows, best] * weight[:, None],
        weight=weight,
        residual=residual,
        doubt=worst.amax(0),
    )
    return _Judged(samples, others.amin(1) / worst.amax(0).clamp_min(1), fits)


def free_signals(evidence: Evidence, forward: Pass) -> tuple[Tensor, Tensor]:
    """The output signal, up to its length, whose backward signals lie in both column spaces.

    It is the singular vector to the smallest singular value of the linear map from output signals to the
    parts of their backward signals outside the spaces.

    Returns
    -------
    signal : Tensor of shape (k, K)
    only : Tensor of shape (k,)
        Ratio of the two smallest singular values: how clearly it is the only one.
    """
    two = evidence.two.columns
    jacobian = forward.jacobian
    parts = (jacobian - (jacobian @ two) @ two.T) / jacobian.norm(dim=(1, 2), keepdim=True)
    if evidence.paired:
        one = evidence.one.columns
        back = (jacobian @ evidence.layers.weight_2) * forward.derivative[:, None]
        parts = torch.cat([parts, (back - (back @ one) @ one.T) / back.norm(dim=(1, 2), keepdim=True)], 2)
    values, vectors = torch.linalg.eigh(parts @ parts.mT)
    if values.shape[1] == 1:
        return vectors[:, :, 0], torch.full_like(values[:, 0], math.inf)
    return vectors[:, :, 0], (values[:, 1].clamp_min(0) / values[:, 0].clamp_min(1e-32)).sqrt()
