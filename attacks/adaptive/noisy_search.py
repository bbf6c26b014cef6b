"""Noise or quantization behind convolutions: maximum likelihood from random starts.

Without a linear layer in front no formula gives a start. Gauss-Newton on the likelihood finds the sample from
a random one in about one of three tries behind a small network, and the likelihood says which answer is best:
a wrong one leaves more than the noise explains. One class, or the few that the noise leaves, comes from the
bias gradient of the last layer.

M. Balunović et al., ICLR 2022: the best attack maximizes the likelihood of the defense; here without a prior.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.adaptive.evidence import beside
from attacks.adaptive.grade import assumptions
from attacks.adaptive.likelihood import Rounds
from attacks.adaptive.noise import least_absolute
from attacks.adaptive.quantization import step_of, variance
from attacks.adaptive.smooth import least_squares
from attacks.base import Attack, Claim, Observations
from attacks.exact.count import told_count
from attacks.labels import last_linear
from attacks.matching.unknown import input_shape_of
from attacks.replay import input_layer, parameter_name
from attacks.rounding import per_gradient
from fedpriv.wire import Observation
from fedpriv.wire.mechanisms import Clipped, Noised, PerSampleClipped, Quantized

_MORE = 3
"""Times that the best answer is refined further."""
_DOUBT = 4.0
"""Standard deviations of the noise within which two classes cannot be told apart."""


@dataclass(frozen=True, kw_only=True)
class NoisySearch(Attack):
    """Maximum likelihood for one sample behind convolutions, from random starts, over all rounds on it.

    Parameters
    ----------
    starts : int, default 8
        At most; one that leaves no more than the noise ends the search.
    low, high : float, default 0 and 1
        Where starts are drawn from; answers may lie outside.

    Examples
    --------
    >>> import fedpriv
    >>> from torch import nn
    >>> draw = torch.Generator().manual_seed(0)
    >>> body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(54, 3))
    >>> model = fedpriv.models.initialize(body, draw)
    >>> x, y = torch.rand(1, 1, 5, 5, generator=draw), torch.tensor([1])
    >>> noise = fedpriv.defenses.GaussianNoise(clip_norm=10.0, noise_multiplier=1e-5)
    >>> run = fedpriv.FederatedTrainer(
    ...     model, nn.functional.cross_entropy, {"bob": (x, y)}, lr=0.1, schedule="fedsgd", defenses=[noise],
    ...     generator=draw,
    ... ).run(rounds=1)
    >>> found = NoisySearch()(run.transcript.observations("bob"))
    >>> bool(torch.allclose(found.inputs.float(), x, atol=0.05)), found.targets
    (True, tensor([1]))
    """

    starts: int = 8
    low: float = 0.0
    high: float = 1.0
    name: ClassVar[str] = "maximum likelihood from random starts"
    citation: ClassVar[str] = "Balunović et al., Bayesian Framework for Gradient Leakage, ICLR 2022"

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`."""
        first = observations[0]
        if not any(isinstance(m, Noised | Quantized) for m in first.knowledge.mechanisms):
            return "no noise is declared: Knowledge.mechanisms holds neither Noised nor Quantized"
        if (more := beside(first.knowledge, Clipped, PerSampleClipped, Noised, Quantized)) is not None:
            return more
        if any(c.per_layer for c in first.knowledge.applied(Clipped)):
            return "every layer was clipped on its own before the noise, and this attack knows joint clipping"
        if not isinstance(input_layer(first), str):
            return "a linear layer in front gives a start, and attacks that use it apply instead"
        if first.update.is_aggregate:
            return f"the update mixes the data of {len(first.update.contributors)} clients"
        told = told_count(observations)
        if told is not None and told > 1:
            return f"the update mixes {told} samples"
        try:
            input_shape_of(first)
        except ValueError as error:
            return str(error)
        return None if _signal(first) is not None else "no bias gradient of a last linear layer shows classes"

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; all rounds are taken to be on the same sample."""
        shape = tuple(input_shape_of(observations[0]))
        rounds, labels = Rounds.of(observations, shape), _labels(observations)
        best, inputs, targets = math.inf, torch.zeros(math.prod(shape), dtype=torch.float64), labels[0]
        for _ in range(self.starts):
            draw = torch.rand(math.prod(shape), generator=generator, dtype=torch.float64)
            for label in labels:
                start = self.low + (self.high - self.low) * draw
                point = least_squares(observations, start, label, shape, deadline=deadline)
                left = float((rounds.sent(point, label) - rounds.observed).norm())
                if left < best:
                    best, inputs, targets = left, point, label
            if best <= _of_noise(observations, rounds, inputs, targets) or time.perf_counter() > deadline:
                break
        for _ in range(_MORE):
            inputs = least_squares(observations, inputs, targets, shape, deadline=deadline)
        known = observations[0].knowledge
        if any(n.distribution == "laplace" for n in known.applied(Noised)):
            std = known.noise_std / per_gradient(observations[0])
            inputs = least_absolute(rounds, (inputs,), targets, std, deadline=deadline)
        return Claim(inputs=inputs.reshape(1, *shape), targets=targets, notes=assumptions(len(observations)))


def _signal(observation: Observation) -> Tensor | None:
    """The bias gradient of the last linear layer: one number a class."""
    found = last_linear(observation)
    signal = None if found is None else observation.gradient().get(parameter_name(found[0], "bias"))
    return signal if signal is not None and len(signal) > 1 else None


def _labels(observations: Observations) -> list[Tensor]:
    """The class of the most negative signal, and those that the noise does not set apart from it."""
    signals = [s for o in observations if (s := _signal(o)) is not None]
    mean = torch.stack(signals).double().mean(0)
    noise = _noise(observations[0]) / len(signals) ** 0.5
    close = mean <= mean.min() + _DOUBT * noise
    return [torch.tensor([c]) for c in mean.argsort().tolist() if bool(close[c])]


def _noise(observation: Observation) -> float:
    """Standard deviation at most, of one number of the gradient."""
    known = observation.knowledge
    step = step_of(observation) / 2 if known.applied(Quantized) else 0.0
    return math.hypot(known.noise_std / per_gradient(observation), step)


def _of_noise(observations: Observations, rounds: Rounds, inputs: Tensor, targets: Tensor) -> float:
    """How long the noise is, one standard deviation of that included."""
    total, numbers, predicted = 0.0, len(rounds.observed), rounds.sent(inputs, targets).detach()
    pieces = predicted.split([sum(o.numel() for o in p.observed) for p in rounds.problems])
    for o, piece in zip(observations, pieces, strict=True):
        total += len(piece) * (o.knowledge.noise_std / per_gradient(o)) ** 2
        if o.knowledge.applied(Quantized):
            total += float(variance(piece, step_of(o)).sum())
    laplace = any(n.distribution == "laplace" for n in observations[0].knowledge.applied(Noised))
    return math.sqrt(total) * (1 + math.sqrt((5 if laplace else 2) / numbers) / 2)
