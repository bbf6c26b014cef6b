"""One image through a deep network, layer by layer, as a row of linear systems.

J. Zhu, M. Blaschko, "R-GAP: Recursive Gradient Attack on Privacy", ICLR 2021,
https://arxiv.org/abs/2010.07733. From the last layer to the first: the input of a layer satisfies linear
equations by the layer's weights (equation 7 of the paper) and by its weight gradient (equation 8).

We depart from it in five points. The backward signal at the end is read from the last bias gradient, so that
neither label nor loss is needed (R-GAP solves a scalar equation of one particular loss; we need that only
where there is no bias). Equations are solved by conjugate gradients on PyTorch's own kernels, so stride,
padding, dilation and groups are all allowed and images of any size fit. Any monotonic activation is inverted
numerically; where it is flat the entry drops out, and the equations that remain may still be enough. Every
system tells its rank, and the attack stops, by name, at the first layer where information is lost. At the end
a few Gauss-Newton steps on the whole gradient bring the image to the precision of the numbers sent.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import Attack, Claim, NotIdentifiable, Observations
from attacks.exact.first_layer import MIXTURE, two_samples_fit
from attacks.exact.layers.backwards import go_back
from attacks.exact.layers.chain import chain_of
from attacks.exact.layers.head import why_no_head
from attacks.exact.layers.polish import polish
from attacks.labels import idlg, recover_targets
from attacks.replay import REPLAY_ERRORS, observed_vector, own_randomness, replay
from fedpriv.wire import Observation


@dataclass(frozen=True, kw_only=True)
class LayerByLayerInversion(Attack):
    """Recover one image through convolutions, linear layers, average pooling and monotonic activations.

    Parameters
    ----------
    polish_steps : int, default 5
        At most this many Gauss-Newton steps on the whole gradient at the end.

    Examples
    --------
    >>> import fedpriv
    >>> from torch import nn
    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch._C.Generator object at ...>
    >>> model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(96, 3)).double()
    >>> x, loss = torch.rand(1, 1, 6, 6, dtype=torch.float64), nn.functional.cross_entropy
    >>> gradient = torch.autograd.grad(loss(model(x), torch.tensor([2])), model.parameters())
    >>> known = fedpriv.Knowledge(input_shape=(1, 6, 6))
    >>> found = LayerByLayerInversion()(fedpriv.Observation(model, gradient, loss, known))
    >>> bool(torch.allclose(found.inputs, x, atol=1e-9)), found.targets
    (True, tensor([2]))
    """

    polish_steps: int = 5
    name: ClassVar[str] = "layer-by-layer inversion"
    citation: ClassVar[str] = "Zhu and Blaschko, R-GAP: Recursive Gradient Attack on Privacy, ICLR 2021"

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`."""
        try:
            chain = chain_of(observations[-1])
            if len(chain) == 1 and len(chain[0].maps) == 1:
                return "the model is one linear layer, and there are no layers to go back through"
            return why_no_head(observations[-1], chain[-1])
        except ValueError as refusal:
            return str(refusal)

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; of several visits the last one is taken."""
        del generator  # nothing is drawn but the fixed probes that measure ranks
        observation = observations[-1]
        track = go_back(observation)
        if track.inputs is None:
            raise NotIdentifiable(f"{self.name}: {track.lost}", track.determined)
        claim = self._with_label(observation, track.inputs, deadline)
        if claim is not None:
            return claim
        inputs = track.inputs
        targets, notes = recover_targets(observation, inputs)
        if targets is not None:
            inputs = self._polished(observation, inputs, targets, deadline)
        assumed = MIXTURE if two_samples_fit(observation, inputs, targets) else None
        return Claim(inputs=inputs, targets=targets, notes=notes, assumed=assumed)

    def _with_label(self, observation: Observation, inputs: Tensor, deadline: float) -> Claim | None:
        """The class by iDLG, if with it the polished image explains the update; None for other losses.

        Tried first, because beside an image that is not yet polished a soft label always fits better.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # squared errors broadcast a class with a warning
                label = idlg(observation)
                inputs = self._polished(observation, inputs, label, deadline)
                with own_randomness():
                    left = replay(observation, inputs, label) - observed_vector(observation)
        except (*REPLAY_ERRORS, UserWarning):
            return None
        epsilon = max(torch.finfo(t.dtype).eps for t in observation.update.tensors.values())
        # Far below any soft label that is worth the name, and above what a badly conditioned image leaves.
        limit = max(100 * epsilon, 1e-10)
        explained = float(left.norm()) <= limit * float(observed_vector(observation).norm())
        return Claim(inputs=inputs, targets=label) if explained else None

    def _polished(self, observation: Observation, inputs: Tensor, targets: Tensor, deadline: float) -> Tensor:
        return polish(observation, inputs, targets, steps=self.polish_steps, deadline=deadline)
