"""Features and labels of a batch from its last linear layer alone, through the loss.

The gradient of the last linear layer is a sum of n products, ``G = sum of delta_i f_i^T``. Its thin SVD
``G = U S V`` gives the span of all features and the span of all signals, and with the bias gradient ``b``
every feature ``f = c V`` obeys ``c . e = 1`` with ``e = S^-1 U^T b`` (as in `attacks.exact.consistency`). The
signal of a sample is what the loss says of its own outputs, so for the right label y

    (I - U U^T) dL/dz (W f + bias, y) = 0,          f = c V,

which are K - n equations in n - 1 unknowns: with more classes than about twice the samples each sample is
found on its own, with its label. Ours; needs no second linear layer, a loss with class labels, and samples
that are few beside the classes. Several samples of one class are found where the loss is curved enough to
tell them apart.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, jacfwd, vmap

from attacks.base import NotIdentifiable
from attacks.labels import last_linear
from attacks.replay import REPLAY_ERRORS, parameter_name
from attacks.rounding import stored_rounding
from fedpriv.wire import Observation

_STARTS = 6
_STEPS = 40
_LARGEST = 64  # samples
_NUMBERS = 2_000_000


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadFeatures:
    """What every sample looks like to the last linear layer.

    Parameters
    ----------
    layer : str
        Its name.
    values : Tensor of shape (n, width)
        The inputs, float64.
    labels : int64 Tensor of shape (n,)
    residual : float
        What they leave of the layer's gradient, relative to it.
    """

    layer: str
    values: Tensor
    labels: Tensor
    residual: float


def head_features(
    observation: Observation, *, generator: torch.Generator | None = None, deadline: float = float("inf")
) -> HeadFeatures:
    """Recover features and labels of all samples.

    Parameters
    ----------
    observation : Observation
        Of a model whose last parameters are a linear layer's, with bias, and whose loss takes class labels.
    generator : torch.Generator, optional
        Draws the starts; seed 0 if not given.
    deadline : float
        In terms of ``time.perf_counter()``; refused behind it.

    Raises
    ------
    NotIdentifiable
        With the reason.

    Examples
    --------
    >>> import fedpriv
    >>> from torch import nn
    >>> model = fedpriv.models.mlp([6, 20, 10], generator=torch.Generator().manual_seed(1)).double()
    >>> x = torch.randn(3, 6, generator=torch.Generator().manual_seed(2)).double()
    >>> loss = nn.functional.cross_entropy
    >>> gradient = torch.autograd.grad(loss(model(x), torch.tensor([4, 0, 7])), model.parameters())
    >>> found = head_features(fedpriv.Observation(model, gradient, loss))
    >>> sorted(found.labels.tolist()), found.residual < 1e-9
    ([0, 4, 7], True)
    """
    head = _Head.of(observation)
    points, labels = _solutions(head, generator or torch.Generator().manual_seed(0), deadline)
    values = (head.center + points @ head.directions) @ head.rows
    if len(values) != head.rank:
        raise NotIdentifiable(
            f"the last layer's gradient has rank {head.rank}, but {len(values)} samples were found that "
            f"agree with the loss: too many samples for {len(head.bias)} classes, or several of one class"
        )
    residual = _unexplained(head, values, labels)
    if residual > head.tolerance**0.5:
        raise NotIdentifiable(
            f"the {len(values)} samples found do not add up to the last layer's gradient (residual "
            f"{residual:.1e})"
        )
    return HeadFeatures(layer=head.name, values=values, labels=labels, residual=residual)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Head:
    observation: Observation
    name: str
    weight: Tensor
    bias: Tensor
    gradient: Tensor
    rows: Tensor
    span: Tensor
    center: Tensor
    directions: Tensor
    tolerance: float

    @property
    def rank(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, observation: Observation) -> _Head:
        """Spans and hyperplane from the gradient."""
        found = last_linear(observation)
        gradient = observation.gradient()
        names = [parameter_name(found[0], kind) for kind in ("weight", "bias")] if found else []
        if found is None or not all(n in gradient for n in names):
            raise NotIdentifiable("the model has no last linear layer with gradients of weight and bias")
        both = [gradient[n].double() for n in names]
        left, sizes, right = torch.linalg.svd(both[0], full_matrices=False)
        epsilon = max(torch.finfo(t.dtype).eps for t in observation.update.tensors.values())
        limit = max(30 * epsilon * float(sizes[0]), 4 * stored_rounding(observation))
        rank = int((sizes > limit).sum())
        if not 1 <= rank <= min(len(sizes) - 2, _LARGEST):
            raise NotIdentifiable(
                f"the last layer's gradient has rank {rank}; its {len(both[0])} rows tell the samples apart "
                f"only where they are at least two more than the samples"
            )
        span = left[:, :rank]
        normal = (span.T @ both[1]) / sizes[:rank]
        return cls(
            observation=observation,
            name=found[0],
            weight=observation.state[names[0]].double(),
            bias=observation.state[names[1]].double(),
            gradient=both[0],
            rows=right[:rank],
            span=span,
            center=normal / normal.square().sum(),
            directions=torch.linalg.svd(normal[None])[2][1:],
            tolerance=max(1e3 * epsilon, 30 * limit / float(sizes[0])),
        )

    def signal(self, outputs: Tensor, label: Tensor) -> Tensor:
        """The gradient of the loss of one sample by its outputs."""

        def loss(z: Tensor) -> Tensor:
            return self.observation.loss_fn(z[None], label[None])

        found: Tensor = grad(loss)(outputs)
        return found

    def outputs(self, point: Tensor) -> Tensor:
        """From coordinates on the hyperplane to the outputs of the model."""
        return (self.center + point @ self.directions) @ self.rows @ self.weight.T + self.bias


def _solutions(head: _Head, generator: torch.Generator, deadline: float) -> tuple[Tensor, Tensor]:
    """All points where the signal lies in its span, with the labels; Gauss-Newton for every label at once."""
    classes, unknowns = len(head.bias), head.rank - 1
    labels = torch.arange(classes).repeat_interleave(_STARTS)
    size = float(head.center.norm())
    points = size * torch.randn(len(labels), unknowns, generator=generator, dtype=torch.float64)

    def leaves(point: Tensor, label: Tensor) -> Tensor:
        signal = head.signal(head.outputs(point), label)
        return signal - head.span @ (head.span.T @ signal)

    def equations(point: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        jacobian = jacfwd(leaves)(point, label)
        return jacobian.T @ jacobian, jacobian.T @ leaves(point, label)

    # A Jacobian is classes x unknowns, and its computation holds a few of them for every start.
    together = vmap(equations, chunk_size=max(1, _NUMBERS // (classes * head.rank)))
    try:
        for _ in range(_STEPS if unknowns else 0):
            if time.perf_counter() > deadline:
                raise NotIdentifiable("the time for the last linear layer's features is up")
            normal, slope = together(points, labels)
            damping = 1e-9 * normal.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-300)
            normal = normal + damping[:, None, None] * torch.eye(unknowns, dtype=points.dtype)
            step = torch.linalg.solve(normal, slope[..., None])[..., 0]
            step = step * (3 * size / step.norm(dim=1, keepdim=True).clamp_min(1e-300)).clamp(max=1.0)
            points = points - step
            if float(step.norm(dim=1).median()) < 1e-12 * size:
                break
        left = vmap(leaves)(points, labels)
    except REPLAY_ERRORS as error:
        raise NotIdentifiable("the loss does not take class labels one sample at a time") from error
    strength = vmap(lambda p, y: head.signal(head.outputs(p), y))(points, labels).norm(dim=1)
    fits = left.norm(dim=1) < head.tolerance * strength.clamp_min(1e-300)
    return _different(points[fits], labels[fits], 1e-3 * size)


def _different(points: Tensor, labels: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Each solution once."""
    kept: list[int] = []
    for index in range(len(points)):
        near = [k for k in kept if labels[k] == labels[index]]
        if all(float((points[index] - points[k]).norm()) > limit for k in near):
            kept.append(index)
    return points[kept], labels[kept]


def _unexplained(head: _Head, values: Tensor, labels: Tensor) -> float:
    """Relative distance between the layer's gradient and the one of these samples."""
    outputs = (values @ head.weight.T + head.bias).requires_grad_()
    with torch.enable_grad():
        (signals,) = torch.autograd.grad(head.observation.loss_fn(outputs, labels), outputs)
    return float((signals.T @ values - head.gradient).norm() / head.gradient.norm())
