"""Sign compression: one bit a number, and every ReLU neuron is a halfspace that holds the data.

signSGD (J. Bernstein et al., ICML 2018) sends ``sign(g)``. For one sample through a first linear layer
``sign(dL/dW_ij) = sign(delta_i) sign(x_j)`` and ``sign(dL/db_i) = sign(delta_i)``: the sign of every
coordinate, and which ones are zero. A zero row is a neuron that ReLU switched off. The signs of the *second*
layer's gradient, ``sign(delta_k) sign(a_i)``, show in the same way which neurons were on: each neuron says
on which side of the plane ``w_i x + b_i = 0`` the sample lies. That is one-bit compressed sensing (P.
Boufounos, R. Baraniuk, CISS 2008) with the offsets b_i, so that lengths are seen as well. Every round on the
same data adds planes at other places. The estimate is the analytic center of what is left. It needs several
planes for every coordinate; with fewer it is no better than a guess.

For activations that are never zero (sigmoid, GELU) the planes are missing, and one round shows signs only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from attacks.adaptive.activations import relu_pair
from attacks.adaptive.center import center, smallest_range
from attacks.adaptive.directions import ranked_labels
from attacks.adaptive.evidence import beside
from attacks.base import Attack, Claim, Observations
from attacks.exact.count import told_count
from attacks.exact.first_layer import first_layer_gradient
from attacks.replay import parameter_name
from fedpriv.wire import Observation
from fedpriv.wire.mechanisms import Clipped, SignOnly

_MARGIN = 2**0.5
"""An unknown range is the smallest possible one times this: the center of that one hugs its border."""


@dataclass(frozen=True, kw_only=True)
class SignInversion(Attack):
    """One sample behind ReLU from the signs of its gradient, as the center of a polytope.

    Parameters
    ----------
    low, high : float, optional
        The range of valid inputs; give the true one where it is public, such as 0 and 1 for pixels. If not
        given, that of ``Knowledge.input_values``, and without those sqrt(2) times the smallest range around
        zero that holds a point on the right side of every plane.

    Examples
    --------
    >>> import fedpriv
    >>> draw = torch.Generator().manual_seed(0)
    >>> model = fedpriv.models.mlp([4, 256, 3], generator=draw)
    >>> x, y, loss = torch.rand(1, 4, generator=draw), torch.tensor([1]), torch.nn.functional.cross_entropy
    >>> run = fedpriv.FederatedTrainer(
    ...     model, loss, {"bob": (x, y)}, lr=0.1, schedule="fedsgd", defenses=[fedpriv.defenses.SignSGD()]
    ... ).run(rounds=1)
    >>> found = SignInversion(low=0.0, high=1.0)(run.transcript.observations("bob"))
    >>> bool(torch.allclose(found.inputs.float(), x, atol=0.1)), found.targets
    (True, tensor([1]))
    """

    low: float | None = None
    high: float | None = None
    name: ClassVar[str] = "center of the sign constraints"
    citation: ClassVar[str] = "fedpriv's own: one-bit compressed sensing with the neurons of a ReLU layer"

    def __post_init__(self) -> None:
        """Check the range."""
        if self.low is None and self.high is None:
            return
        if self.low is None or self.high is None or not -1e6 < self.low < self.high < 1e6:
            raise ValueError(
                f"low must be below high, both finite, or both left out, got {self.low} and {self.high}"
            )

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`."""
        sign_only = observations[0].knowledge.applied(SignOnly)
        if not sign_only:
            return "no sign compression is declared: Knowledge.mechanisms holds no SignOnly"
        if (more := beside(observations[0].knowledge, SignOnly, Clipped)) is not None:
            return more
        if sign_only[0].error_feedback and len(observations) > 1:
            return "with error feedback only the first round shows signs of a gradient; give that one alone"
        told = told_count(observations)
        if told is not None and told > 1:
            return f"the update mixes {told} samples"
        try:
            first_layer_gradient(observations[0])
            relu_pair(observations[0])
        except ValueError as error:
            return str(error)
        return None

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; all rounds are taken to be on the same sample."""
        del generator, deadline
        weight, bias, shape = first_layer_gradient(observations[0])
        signs = torch.sign(bias @ weight)
        planes = [planes_of(o) for o in observations]
        normals, offsets = (torch.cat(parts) for parts in zip(*planes, strict=True))
        low, high = self._range(observations[0], normals, offsets, signs)
        x = center(normals, offsets, signs, low=low, high=high)
        inputs = x.reshape(1, *shape)
        ranked = _ranked(observations, inputs)
        note = (
            f"{len(normals)} halfspaces from {len(observations)} round(s) and the signs of "
            f"{len(signs)} coordinates, {int((signs == 0).sum())} of them zero, in the range {low:.3g} to "
            f"{high:.3g}: an estimate, not a solution"
        )
        return Claim(inputs=inputs, targets=ranked, notes=(note,))

    def _range(
        self, observation: Observation, normals: Tensor, offsets: Tensor, signs: Tensor
    ) -> tuple[float, float]:
        if self.low is not None and self.high is not None:
            return self.low, self.high
        if (values := observation.knowledge.input_values) is not None:
            return min(values), max(values)
        high = _MARGIN * smallest_range(normals, offsets, signs)
        return -high, high


def planes_of(observation: Observation) -> tuple[Tensor, Tensor]:
    """Normals (k, d) and offsets (k,) with ``normals @ x + offsets > 0`` for the sample.

    A neuron was on if its output has a gradient in the next layer, or if a signal came back to it.
    """
    name, nxt = relu_pair(observation)
    gradient = observation.gradient()
    layer = dict(observation.model.named_modules())[name]
    assert isinstance(layer, nn.Linear)
    on = gradient[parameter_name(name, "bias")] != 0
    weight = gradient.get(parameter_name(nxt, "weight")) if nxt else None
    if weight is not None and weight.shape[1] == len(on) and bool(weight.any()):
        on = on | (weight != 0).any(0)
    side = torch.where(on, 1.0, -1.0).double()
    w = observation.state[parameter_name(name, "weight")].double()
    b = observation.state[parameter_name(name, "bias")].double()
    return side[:, None] * w, side * b


def _ranked(observations: Observations, inputs: Tensor) -> Tensor | None:
    """The class whose bias gradient is negative in the last layer, else the one that replays best."""
    labels = ranked_labels(observations, inputs)
    if not labels:
        return None
    last = [n for n in observations[0].gradient() if n.endswith("bias")][-1]
    signal = sum(torch.sign(o.gradient()[last]) for o in observations)
    assert isinstance(signal, Tensor)
    negative = (signal < 0).nonzero().reshape(-1)
    return negative if len(negative) == 1 and len(signal) == len(labels) else labels[0]
