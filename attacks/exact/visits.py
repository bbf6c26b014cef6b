"""From observations to the matrices of `attacks.exact.moments`: models, answers, and how noisy each is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attacks.base import Observations
from attacks.exact.moments import Array, Visits
from attacks.replay import REPLAY_ERRORS, input_layer
from attacks.rounding import per_gradient
from fedpriv.wire import Observation


@dataclass(frozen=True, kw_only=True)
class SquaredLoss:
    """``loss = scale * sum (f - y)^2``, where a mean loss carries 1/n beside it."""

    scale: float
    is_mean: bool
    clients: int = 1


def squared_loss(observation: Observation) -> SquaredLoss | None:
    """Recognize a multiple of the summed or mean squared error by its values; None if it is another loss."""
    found = input_layer(observation)
    if isinstance(found, str):
        return None
    outputs = found[1].out_features
    generator = torch.Generator().manual_seed(0)
    scales = []
    for n in (1, 2, 3):
        a, b = (torch.randn(n, outputs, generator=generator, dtype=torch.float64) for _ in range(2))
        try:
            scales.append(float(observation.loss_fn(a, b)) / float((a - b).square().sum()))
        except REPLAY_ERRORS:
            return None
    clients = len(observation.update.contributors)
    for is_mean, expected in ((False, (1, 1, 1)), (True, (1, 1 / 2, 1 / 3))):
        if np.allclose(scales, scales[0] * np.array(expected), rtol=1e-6) and scales[0] > 0:
            return SquaredLoss(scale=scales[0], is_mean=is_mean, clients=clients)
    return None


def parameter_names(observation: Observation) -> tuple[str, str]:
    """Names of weight and bias of the input layer, whose existence was checked."""
    found = input_layer(observation)
    if isinstance(found, str):
        raise ValueError(found)
    prefix = f"{found[0]}." if found[0] else ""
    return f"{prefix}weight", f"{prefix}bias"


def visits_of(observations: Observations) -> tuple[Visits, SquaredLoss]:
    """The visits as matrices, in the units of `attacks.exact.moments`."""
    loss = squared_loss(observations[0])
    if loss is None:
        raise ValueError("the visits are not those of a linear model with a squared error")
    keys = parameter_names(observations[0])
    thetas, answers, noises = [], [], []
    for observation in observations:
        gradient = observation.gradient()
        theta = _rows(observation.state[keys[0]], observation.state[keys[1]])
        answer = _rows(gradient[keys[0]], gradient[keys[1]])
        thetas.append(theta)
        answers.append(answer / (2 * loss.scale))
        noises.append(_noise(observation, keys, answer) / (2 * loss.scale))
    theta, answer, noise = (np.concatenate(part) for part in (thetas, answers, noises))
    noise = np.hypot(noise, _arithmetic_noise(observations, theta, answer))
    # A visit whose answer is exactly zero has no rounding at all; a floor keeps the weights comparable. It is
    # set by the most precise visit: where training diverges the last ones are worthless, not the measure.
    noise = np.maximum(noise, 1e-2 * noise[noise > 0].min(initial=noise.max()) + 1e-300)
    outputs = len(thetas[0])
    return Visits(
        theta=theta, gradient=answer, noise=noise, output=np.tile(np.arange(outputs), len(thetas))
    ), loss


def _rows(weight: Tensor, bias: Tensor) -> Array:
    rows: Array = torch.cat([weight, bias[:, None]], dim=1).double().numpy()
    return rows


def _noise(observation: Observation, keys: tuple[str, str], answer: Array) -> Array:
    """Standard deviation of one coordinate of a row: rounding of the stored numbers and declared noise."""
    tensors, rate = observation.update.tensors, per_gradient(observation)
    epsilon = torch.finfo(tensors[keys[0]].dtype).eps
    is_gradient = observation.update.kind == "gradient"
    stored = answer if is_gradient else _rows(tensors[keys[0]], tensors[keys[1]])
    # A rounding error is uniform within half a unit in the last place: standard deviation eps / sqrt(12).
    rounding = epsilon * np.sqrt(np.mean(stored**2, axis=1) / 12) / rate
    return np.asarray(np.hypot(rounding, observation.knowledge.noise_std / rate))


def _arithmetic_noise(observations: Observations, theta: Array, answer: Array) -> Array:
    """Rounding inside the client's ``A theta - c``, which does not vanish where the gradient does."""
    epsilon = torch.finfo(next(iter(observations[0].update.tensors.values())).dtype).eps
    size = np.linalg.norm(theta, axis=1)
    moved = np.linalg.norm(theta - theta[0], axis=1)
    changed = np.linalg.norm(answer - answer[0], axis=1)
    # The largest slope seen is a lower estimate of the norm of A.
    slope = float(np.max(changed[moved > 0] / moved[moved > 0], initial=0.0))
    terms = slope * size + np.linalg.norm(answer, axis=1)
    return np.asarray(epsilon * terms / np.sqrt(theta.shape[1]))
