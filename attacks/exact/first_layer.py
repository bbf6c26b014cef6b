"""One sample through any model whose first layer is linear with a bias: divide two gradients.

Phong, Aono, Hayashi, Wang, Moriai, "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption",
IEEE TIFS 2018, section 3; Geiping et al., "Inverting Gradients", NeurIPS 2020, Proposition 3.1:
``dL/dW_i = dL/db_i x``, so ``x = dL/dW_i / dL/db_i`` for every neuron i with a bias gradient.

We depart from it in one point: all rows are used, weighted by their bias gradient (least squares), which
averages their rounding; the largest row alone is the oracle of the tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import Attack, Claim, NotIdentifiable, Observations
from attacks.certificate import SAFETY
from attacks.exact.count import told_count
from attacks.labels import recover_targets
from attacks.moved import RESOLUTION
from attacks.replay import REPLAY_ERRORS, input_layer, observed_vector, own_randomness, replay
from attacks.rounding import per_gradient, rounding_of, stored_rounding
from fedpriv.wire import Observation


@dataclass(frozen=True, kw_only=True)
class FirstLayerInversion(Attack):
    """Read one sample out of the gradient of the first linear layer.

    Parameters
    ----------
    rank_tolerance : float, default 1e-3
        A second singular value above this share of the first (and above rounding) means more than one sample.

    Examples
    --------
    >>> import fedpriv
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> x, y = torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([1])
    >>> loss = torch.nn.functional.cross_entropy
    >>> gradient = torch.autograd.grad(loss(model(x), y), model.parameters())
    >>> found = FirstLayerInversion()(fedpriv.Observation(model, gradient, loss))
    >>> bool(torch.allclose(found.inputs.float(), x, atol=1e-5)), found.targets
    (True, tensor([1]))
    """

    rank_tolerance: float = 1e-3
    name: ClassVar[str] = "first-layer inversion"
    citation: ClassVar[str] = (
        "Phong et al., Privacy-Preserving Deep Learning via Additively HE, IEEE TIFS 2018"
    )

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`; one visit that shows a single sample is enough."""
        reasons = [why_no_single_sample(o, self.rank_tolerance) for o in observations]
        return None if None in reasons else reasons[0]

    def run(
        self,
        observations: Observations,
        *,
        generator: torch.Generator,  # noqa: ARG002 (part of the interface; nothing here is random)
        deadline: float,  # noqa: ARG002 (part of the interface; takes milliseconds)
    ) -> Claim:
        """See `Attack.run`; the visit with the strongest bias gradient is the best conditioned one."""
        layers = [
            (o, *first_layer_gradient(o))
            for o in observations
            if why_no_single_sample(o, self.rank_tolerance) is None
        ]
        best, weight, bias, shape = max(layers, key=lambda entry: float(entry[2].norm()))
        inputs = (bias @ weight / (bias @ bias)).reshape(1, *shape)
        targets, notes = recover_targets(best, inputs)
        alone = told_count((best,)) == 1 or not two_samples_fit(best, inputs, targets)
        return Claim(inputs=inputs, targets=targets, notes=notes, assumed=None if alone else MIXTURE)


MIXTURE = (
    "two samples whose mean this is explain the update as well, for the model is linear around them and has "
    "one output; declare Knowledge(num_samples=1) if it is one"
)


def first_layer_gradient(observation: Observation) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Gradient of the input layer's weight (m, d) and bias (m,), float64, and the input shape.

    Raises
    ------
    NotIdentifiable
        If there is no such layer, or its gradients did not come back.
    """
    found = input_layer(observation)
    if isinstance(found, str):
        raise NotIdentifiable(found)
    name, layer, shape = found
    prefix = f"{name}." if name else ""
    if layer.bias is None:
        raise NotIdentifiable(
            "the first linear layer has no bias, and only the bias gradient fixes the scale of x"
        )
    gradient = observation.gradient()
    missing = [k for k in (f"{prefix}weight", f"{prefix}bias") if k not in gradient]
    if missing:
        raise NotIdentifiable(f"the first linear layer is frozen: no gradient of {missing} came back")
    return gradient[f"{prefix}weight"].double(), gradient[f"{prefix}bias"].double(), shape


def why_no_single_sample(observation: Observation, tolerance: float) -> str | None:
    """Why the first layer does not hold exactly one sample, or None if it does."""
    try:
        weight, bias, _ = first_layer_gradient(observation)
    except ValueError as error:
        return str(error)
    if observation.update.is_aggregate:
        return f"the update mixes the data of {len(observation.update.contributors)} clients"
    told = told_count((observation,))
    if told is not None and told > 1:
        return f"the update mixes {told} samples"
    if len(bias) == 1 and told is None:
        return "the first layer has one neuron, whose gradient mixes any number of samples without a trace"
    both = torch.cat([weight, bias[:, None]], dim=1)
    rounding = spectral_noise(observation, both)
    if float(both.norm()) <= 4 * rounding:
        return "the update is zero up to rounding: nothing of the data crossed the wire"
    if float(bias.norm()) <= 4 * rounding:
        return "the bias gradient of the first layer vanishes (its neurons are dead or their signals cancel)"
    threshold = max(tolerance * float(both.norm()), 4 * rounding)
    remainder = both - torch.outer(bias, bias @ both) / (bias @ bias)
    if float(remainder.norm()) > threshold:
        rank = int((torch.linalg.svdvals(both) > threshold).sum())
        if rank > 1:
            return f"the gradient of the first layer has rank {rank}: it mixes at least {rank} samples"
    return None


def spectral_noise(observation: Observation, layer: Tensor) -> float:
    """Largest singular value that rounding and declared noise put into the gradient of a `layer`."""
    noise = observation.knowledge.noise_std / per_gradient(observation)
    return stored_rounding(observation) + noise * sum(math.sqrt(size) for size in layer.shape)


def two_samples_fit(observation: Observation, inputs: Tensor, targets: Tensor | None) -> bool:
    """Whether two samples on both sides of the one found, with targets of their own, give the same update.

    With one output and an activation that is linear around the sample (ReLU), the errors of all samples of
    that region multiply the same vector, and one sample in their weighted mean looks like all of them.
    With more outputs, or with class labels, mixtures that go unnoticed need errors that agree by chance.
    """
    if targets is None or not targets.is_floating_point() or targets.numel() > 1:
        return False
    shift = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0), dtype=inputs.dtype)
    shift *= RESOLUTION * float(inputs.square().mean().sqrt().clamp_min(1e-6))
    pair = torch.cat([inputs + shift, inputs - shift])
    found, _ = recover_targets(observation, pair)
    if found is None:
        return False
    try:
        with own_randomness():
            exact = replay(observation, pair, found)
            rounding = rounding_of((observation,), pair, found, exact[None])
    except REPLAY_ERRORS:
        return False
    return float((exact - observed_vector(observation)).norm()) <= SAFETY * float(rounding)
