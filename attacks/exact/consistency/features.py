"""Exact features: what every sample of a batch looks like at a linear layer somewhere in the model.

The head of a convolutional net sees the maps of its images, and the two-layer perceptron of a transformer
sees its tokens: with two consecutive linear layers each of them is recovered on its own. The batch falls into
single samples, whose backward signals are known too, so that attacks on single samples can go on from there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import NotIdentifiable, check_time_budget
from attacks.exact.consistency.approach import approach
from attacks.exact.consistency.peel import peel
from fedpriv.wire import Observation


@dataclass(frozen=True, kw_only=True)
class Features:
    """The different inputs of a linear layer, one row each.

    Parameters
    ----------
    layer : str
        Name of the linear layer.
    values : Tensor of shape (n, width)
        Its inputs, float64.
    labels : int64 Tensor of shape (n,) or None
        Classes, -1 where a target is no class; None where the rest of the model mixes the rows.
    weights : Tensor of shape (n,) or None
        Multiplicity / number of samples for a mean loss. None where labels are.
    signals : Tensor of shape (n, width)
        Gradient of the batch's loss by `values`: what one goes on with, into the layers before.
    residuals : Tensor of shape (n,)
        How far the activations leave their space, in units of the gradient's noise; about one for true
        samples.
    complete : bool
        Whether these are all.
    remainder : float
        What they leave of the layer's gradient, relative to it.
    """

    layer: str
    values: Tensor
    labels: Tensor | None
    weights: Tensor | None
    signals: Tensor
    residuals: Tensor
    complete: bool
    remainder: float

    def __len__(self) -> int:
        return len(self.values)


def features(
    observation: Observation,
    *,
    layer: str | None = None,
    generator: torch.Generator | None = None,
    time_budget: float = 60.0,
) -> Features:
    """Recover every input of a linear layer that is followed by an activation and another linear layer.

    Parameters
    ----------
    observation : Observation
    layer : str, optional
        Name of the linear layer; the first that can be solved if not given.
    generator : torch.Generator, optional
        Source of all random choices; seed 0 if not given.
    time_budget : float, default 60.0
        Seconds.

    Raises
    ------
    NotIdentifiable
        With the reason.

    Examples
    --------
    >>> import fedpriv
    >>> from torch import nn
    >>> draw = torch.Generator().manual_seed(0)
    >>> head = [nn.Flatten(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 16)]
    >>> model = fedpriv.models.initialize(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), *head), draw).double()
    >>> images = torch.rand(3, 1, 6, 6, generator=draw).double()
    >>> loss = nn.functional.cross_entropy
    >>> gradient = torch.autograd.grad(loss(model(images), torch.tensor([3, 1, 2])), model.parameters())
    >>> known = fedpriv.Knowledge(input_shape=(1, 6, 6))
    >>> found = features(fedpriv.Observation(model, gradient, loss, known))
    >>> found.layer, sorted(found.labels.tolist()), found.complete
    ('3', [1, 2, 3], True)
    >>> bool(torch.cdist(found.values, model[:3](images)).amin(0).max() < 1e-9)
    True
    """
    start = time.perf_counter()
    check_time_budget(time_budget)
    way = approach(observation, raw=False, layer=layer)
    if isinstance(way, str):
        raise NotIdentifiable(way)
    pair, evidence = way
    result = peel(
        evidence,
        generator=generator or torch.Generator().manual_seed(0),
        deadline=start + time_budget,
    )
    samples, separate = result.samples, evidence.layers.tail is not None
    return Features(
        layer=pair.first,
        values=samples.coordinates @ evidence.one.rows,
        labels=samples.label if separate else None,
        weights=samples.weight if separate else None,
        signals=samples.own @ evidence.layers.weight_1,
        residuals=samples.residual,
        complete=result.complete,
        remainder=result.remainder,
    )
