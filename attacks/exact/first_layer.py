"""One sample through any model whose first layer is linear with a bias: divide two gradients.

Phong, Aono, Hayashi, Wang, Moriai, "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption",
IEEE TIFS 2018, section 3; Geiping et al., "Inverting Gradients", NeurIPS 2020, Proposition 3.1:
``dL/dW_i = dL/db_i x``, so ``x = dL/dW_i / dL/db_i`` for every neuron i with a bias gradient.

We depart from it in one point: all rows are used, weighted by their bias gradient (least squares), which
averages their rounding; the largest row alone is the oracle of the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import Attack, Claim, NotIdentifiable, Observations
from attacks.certificate import stored_rounding
from attacks.labels import recover_targets
from attacks.replay import input_layer
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
    citation: ClassVar[str] = "Phong et al., Privacy-Preserving Deep Learning via Additively HE, IEEE TIFS 2018"

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`."""
        return why_no_single_sample(observations[-1], self.rank_tolerance)

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; the visit with the strongest bias gradient is the best conditioned one."""
        layers = [(o, *first_layer_gradient(o)) for o in observations if why_no_single_sample(o, self.rank_tolerance) is None]
        best, weight, bias, shape = max(layers, key=lambda entry: float(entry[2].norm()))
        inputs = (bias @ weight / (bias @ bias)).reshape(1, *shape)
        targets, notes = recover_targets(best, inputs)
        return Claim(inputs=inputs, targets=targets, notes=notes)


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
        raise NotIdentifiable("the first linear layer has no bias, and only the bias gradient fixes the scale of x")
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
    told = observation.knowledge.num_samples or observation.update.num_samples
    if told is not None and told > 1:
        return f"the update mixes {told} samples"
    if len(bias) == 1 and told is None:
        return "the first layer has one neuron, whose gradient mixes any number of samples without a trace"
    both = torch.cat([weight, bias[:, None]], dim=1)
    rounding = stored_rounding(observation) + observation.knowledge.noise_std * sum(both.shape) ** 0.5
    if float(both.norm()) <= 4 * rounding:
        return "the update is zero up to rounding: nothing of the data crossed the wire"
    if float(bias.norm()) <= 4 * rounding:
        return "the bias gradient of the first layer vanishes (all of its neurons are dead or their signals cancel)"
    threshold = max(tolerance * float(both.norm()), 4 * rounding)
    remainder = both - torch.outer(bias, bias @ both) / (bias @ bias)
    if float(remainder.norm()) > threshold:
        values = torch.linalg.svdvals(both)
        rank = max(2, int((values > threshold).sum()))
        return f"the gradient of the first layer has rank {rank}, so the update mixes at least {rank} samples"
    return None
