"""From the last layer back to the image, keeping a record of what each layer gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.exact.layers.activations import Inverse
from attacks.exact.layers.chain import Segment, chain_of
from attacks.exact.layers.head import head_signal
from attacks.exact.layers.system import SMALLEST, SegmentEquations, Solution
from attacks.replay import observed_vector, parameter_name
from attacks.rounding import stored_rounding
from fedpriv.wire import Observation


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """What one segment of the network gave away of its input.

    Parameters
    ----------
    name : str
        Its layer with a weight, for example ``"Conv2d '4'"``.
    in_shape : tuple of int
        Shape of its input.
    equations, unknowns, rank : int
        Of the linear system for its input. Equal rank and unknowns: the input is exact.
    forward_known : int
        How many of its outputs were known, out of `outputs`.
    outputs : int
    residual : float
        What the equations leave unexplained, relative.
    reason : str or None
        Why the way back ends here, if it does.
    """

    name: str
    in_shape: tuple[int, ...]
    equations: int
    unknowns: int
    rank: int
    forward_known: int
    outputs: int
    residual: float
    reason: str | None = None

    @property
    def exact(self) -> bool:
        """Whether the input of this segment was recovered."""
        return self.reason is None

    def __str__(self) -> str:
        system = f"{self.equations} equations, {self.unknowns} unknowns, rank {self.rank}"
        return f"{self.name}: {system}, {'exact' if self.exact else self.reason}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Track:
    """What going back found.

    Parameters
    ----------
    reports : tuple of LayerReport
        From the last segment to the first that was reached.
    inputs : Tensor of shape (1, *input_shape) or None
        The image, if every layer gave up its input.
    determined : dict of str to Tensor
        The exact inputs and backward signals of the layers that did, ``"input of Conv2d '4'"`` and
        ``"signal behind Conv2d '4'"``: knowledge for attacks that optimize the rest.
    """

    reports: tuple[LayerReport, ...]
    inputs: Tensor | None
    determined: dict[str, Tensor] = field(default_factory=dict)

    @property
    def lost(self) -> LayerReport | None:
        """The report of the layer where information is lost, counted from the output."""
        return next((report for report in self.reports if not report.exact), None)

    def __str__(self) -> str:
        return "\n".join(str(report) for report in self.reports)


def first_loss(observation: Observation) -> LayerReport | None:
    """The first layer, seen from the output, whose input the gradient does not determine; None: all do.

    Raises
    ------
    NotIdentifiable
        If the model is not a chain that can be gone back along at all.

    Examples
    --------
    >>> import fedpriv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3, stride=3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)).double()
    >>> loss = nn.functional.cross_entropy
    >>> value = loss(model(torch.rand(1, 1, 6, 6, dtype=torch.float64)), torch.tensor([1]))
    >>> gradient = torch.autograd.grad(value, model.parameters())
    >>> known = fedpriv.Knowledge(input_shape=(1, 6, 6))
    >>> lost = first_loss(fedpriv.Observation(model, gradient, loss, known))
    >>> lost.name, lost.equations, lost.unknowns, lost.rank
    ("Conv2d '0'", 26, 36, 22)
    """
    return go_back(observation).lost


def go_back(observation: Observation) -> Track:
    """Solve segment after segment from the loss to the image, until one does not determine its input."""
    chain = chain_of(observation)
    gradient = observation.gradient()
    tolerance = _tolerance(observation)
    signal: Tensor = head_signal(observation, chain[-1])
    behind: Inverse | None = None
    reports: list[LayerReport] = []
    determined: dict[str, Tensor] = {}
    for index in reversed(range(len(chain))):
        segment = chain[index]
        equations = SegmentEquations(
            segment=segment,
            signal=signal,
            gradient=gradient,
            output=None if behind is None else behind.value,
            weight=None if behind is None else _trust(behind, tolerance),
        )
        solution = equations.solve(precision=_precision(observation))
        reason = _contradiction(equations, gradient, tolerance) or _gap(solution, tolerance)
        reports.append(_report(segment, solution, behind, reason))
        determined[f"signal behind {segment.name}"] = signal
        if reason is not None:
            return Track(reports=tuple(reports), inputs=None, determined=determined)
        determined[f"input of {segment.name}"] = solution.x
        if index == 0:
            return Track(reports=tuple(reports), inputs=solution.x, determined=determined)
        activation = chain[index - 1].activation
        assert activation is not None  # only the last segment has none
        size = float(solution.x.abs().max())
        try:
            behind = activation.invert(solution.x, tolerance * max(size, 1e-300))
        except ValueError as error:
            reports[-1] = _report(segment, solution, behind, f"its input contradicts the model: {error}")
            return Track(reports=tuple(reports), inputs=None, determined=determined)
        signal = segment.transpose(signal) * behind.slope
    raise AssertionError("a chain has at least one segment")


def _precision(observation: Observation) -> float:
    """Relative rounding of the gradient; far larger where it is a difference of rounded parameters."""
    epsilon = max(torch.finfo(t.dtype).eps for t in observation.update.tensors.values())
    size = float(observed_vector(observation).norm())
    return min(max(epsilon, 2 * stored_rounding(observation) / max(size, 1e-300)), 1.0)


def _tolerance(observation: Observation) -> float:
    """Relative error that a recovered value may have: far above rounding, far below anything wrong."""
    epsilon = _precision(observation)
    return min(epsilon**0.6, 0.05) if observation.knowledge.noise_std == 0 else 0.5


def _trust(behind: Inverse, tolerance: float) -> Tensor:
    """Weights of the forward equations: an argument read off a nearly flat piece has a large error."""
    floor = tolerance * behind.slope.max()
    return torch.where(behind.known, behind.slope / (behind.slope + floor), torch.zeros_like(behind.slope))


def _contradiction(
    equations: SegmentEquations, gradient: Mapping[str, Tensor], tolerance: float
) -> str | None:
    """Why the signal is not what was thought: the bias gradients follow from it alone, and do not fit."""
    limit = tolerance**0.5
    for part, signal in zip(equations.segment.maps, equations.signals[1:], strict=True):
        if not part.has_weight or parameter_name(part.name, "bias") not in gradient:
            continue
        observed = gradient[parameter_name(part.name, "bias")].double()
        error = float((part.bias_gradient(signal) - observed).norm() / signal.norm().clamp_min(1e-300))
        if not float(signal.norm()) > SMALLEST and error > limit:
            return "no signal comes back to it, but its bias gradient is not zero: the update was changed"
        if error > limit:
            return (
                f"its bias gradient is off by {error:.1e} of the signal: more than one sample, another "
                f"model, or an update that was changed"
            )
    return None


def _gap(solution: Solution, tolerance: float) -> str | None:
    if not solution.determined:
        return (
            f"information is lost here: {solution.equations} equations of rank "
            f"{'' if solution.counted else 'about '}{solution.rank} for {solution.unknowns} unknowns"
        )
    if solution.residual > tolerance**0.5:
        return (
            f"its equations contradict each other by {solution.residual:.1e}: more than one sample, another "
            f"model, or an update that was changed"
        )
    return None


def _report(segment: Segment, solution: Solution, behind: Inverse | None, reason: str | None) -> LayerReport:
    outputs = int(torch.Size(segment.out_shape).numel())
    return LayerReport(
        name=segment.name,
        in_shape=segment.in_shape,
        equations=solution.equations,
        unknowns=solution.unknowns,
        rank=solution.rank,
        forward_known=0 if behind is None else int(behind.known.sum()),
        outputs=outputs,
        residual=solution.residual,
        reason=reason,
    )
