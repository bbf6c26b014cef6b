"""The backward signal at the last linear layer, and the layer's exact input: where going back begins."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.base import NotIdentifiable
from attacks.exact.layers.chain import Segment
from attacks.replay import parameter_name
from attacks.rounding import stored_rounding
from fedpriv.wire import Observation


def why_no_head(observation: Observation, segment: Segment) -> str | None:
    """Why the last layer does not show one sample, or None if it does."""
    told = observation.knowledge.num_samples or observation.update.num_samples
    if told is not None and told > 1:
        return f"the update mixes {told} samples, and this attack takes networks apart for one"
    if len(observation.update.contributors) > 1:
        return f"the update averages {len(observation.update.contributors)} clients"
    layer = segment.maps[-1]
    gradient = observation.gradient()
    key = parameter_name(layer.name, "weight")
    if key not in gradient:
        return f"the last linear layer {layer.name!r} is frozen: no gradient of its weight came back"
    if len(layer.out_shape) != 1:
        return (
            f"the last linear layer {layer.name!r} is applied at several positions, which its gradient mixes"
        )
    rows = gradient[key].double()
    rounding = 4 * (stored_rounding(observation) + observation.knowledge.noise_std * sum(rows.shape) ** 0.5)
    values = torch.linalg.svdvals(rows)
    if float(values[0]) <= rounding:
        return "the gradient of the last layer is zero up to rounding: nothing of the data crossed the wire"
    if len(values) > 1 and float(values[1]) > max(1e-3 * float(values[0]), rounding):
        rank = int((values > max(1e-3 * float(values[0]), rounding)).sum())
        return f"the gradient of the last layer has rank {rank}, so the update mixes at least {rank} samples"
    return None


def head_signal(observation: Observation, segment: Segment) -> Tensor:
    """The gradient of the loss by the output of the last linear layer, shape (1, out).

    It is the bias gradient. Without a bias, ``dL/dW = delta x^T`` gives both factors up to one number,
    which is the one for which the loss at ``W x`` returns that very delta: see `_scale_by_loss`.

    Raises
    ------
    NotIdentifiable
        If there is no bias and no scale fits.
    """
    layer, gradient = segment.maps[-1], observation.gradient()
    if parameter_name(layer.name, "bias") in gradient:
        signal = gradient[parameter_name(layer.name, "bias")].double()
        if float(signal.abs().max()) > 0:
            return signal[None]
    rows = gradient[parameter_name(layer.name, "weight")].double()
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    return _scale_by_loss(observation, segment, left[:, 0] * values[0], right[0])[None]


def _scale_by_loss(observation: Observation, segment: Segment, signal: Tensor, direction: Tensor) -> Tensor:
    """Find s and a class such that the loss at the outputs of ``s direction`` has gradient ``signal / s``."""
    layer = segment.maps[-1]
    outputs, offset = layer.apply(direction[None]), layer.offset
    sizes = torch.logspace(-3, 4, 561, dtype=torch.float64)
    candidates = torch.cat([sizes, -sizes])
    best: tuple[float, Tensor] | None = None
    for label in range(len(signal)):
        try:
            errors = _mismatch(observation, candidates, label, outputs, offset, signal)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise NotIdentifiable(
                "the last layer has no bias gradient and the loss takes no class labels, so the scale is "
                "unknown"
            ) from error
        center = candidates[int(errors.argmin())]
        width = 0.03
        for _ in range(24):
            local = center * (1 + width * torch.linspace(-1, 1, 21, dtype=torch.float64))
            errors = _mismatch(observation, local, label, outputs, offset, signal)
            center, width = local[int(errors.argmin())], width / 4
        found = float(errors.min())
        if best is None or found < best[0]:
            best = (found, signal / center)
    if best is None or best[0] > 1e-2:
        raise NotIdentifiable(
            "the last layer has no bias gradient, and no scale of its input explains its weight gradient"
        )
    return best[1]


def _mismatch(
    observation: Observation, scales: Tensor, label: int, outputs: Tensor, offset: Tensor, signal: Tensor
) -> Tensor:
    """Relative distance between the loss's gradient and ``signal / s``, for every s."""
    with torch.enable_grad():
        points = (scales[:, None] * outputs + offset).requires_grad_()
        target = torch.tensor([label])
        losses = [observation.loss_fn(points[i : i + 1], target) for i in range(len(scales))]
        slopes = torch.autograd.grad(torch.stack(losses).sum(), points)[0]
    difference = (slopes * scales[:, None] - signal) / signal.norm()
    distances: Tensor = torch.linalg.vector_norm(difference, dim=1)
    return distances
