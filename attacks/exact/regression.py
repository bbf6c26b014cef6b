"""The tutorial's leak: exact samples out of the visits of a linear model with a squared error.

The algebra is in `attacks.exact.moments`; here observations become visits, the number of samples is deduced,
and what is not determined is refused in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from attacks.base import Attack, Claim, NotIdentifiable, Observations
from attacks.exact.moments import Array, Moments, Span, Visits, find_span, polish, samples_of_two, solve_moments
from attacks.exact.values import solve_with_values
from attacks.replay import input_layer
from fedpriv.wire import Observation


@dataclass(frozen=True, kw_only=True)
class MomentInversion(Attack):
    """Exact samples of a linear regression from two or more visits.

    For one or two samples no prior is needed, whatever the number of features. For more, the samples are
    determined only up to a rotation, unless ``Knowledge(input_values=...)`` declares which values can occur.

    Parameters
    ----------
    safety : float, default 6.0
        How far above the noise a singular value must be to count as a dimension of the data.

    Examples
    --------
    >>> import fedpriv
    >>> x, y = torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0], [1.0]])
    >>> trainer = fedpriv.FederatedTrainer(torch.nn.Linear(2, 1), fedpriv.losses.squared_error,
    ...                                    clients={"bob": (x, y)}, lr=0.1)
    >>> found = MomentInversion()(trainer.run(rounds=3).transcript.observations("bob"))
    >>> found.num_samples, bool(found.certified.all())
    (2, True)
    """

    safety: float = 6.0
    name: ClassVar[str] = "moment inversion"
    citation: ClassVar[str] = "fedpriv, DESIGN T1: second moments from the visits of a linear regression"

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`."""
        return why_not_linear_regression(observations)

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`."""
        visits, loss = visits_of(observations)
        knowledge = observations[0].knowledge
        told = knowledge.num_samples or observations[0].update.num_samples
        rank = min(told, *visits.theta.shape) if told is not None and knowledge.noise_std > 0 else None
        span = find_span(visits, safety=self.safety, rank=rank)
        if span is None:
            raise NotIdentifiable("the update is zero up to rounding: nothing of the data crossed the wire")
        count = count_samples(visits, span, loss, told, noisy=knowledge.noise_std > 0)
        moments = solve_moments(visits, span, num_samples=count.corner)
        if moments is None:
            raise NotIdentifiable(
                f"{len(observations)} visit(s) do not determine the moments of the data yet; "
                f"{span.rank} visits with different models would"
            )
        inputs, targets = _samples(observations[0], moments, span, count.num_samples, generator)
        weight = count.corner / count.num_samples
        if targets is not None:
            inputs, targets = polish(visits, inputs, targets, weight=weight)
        shape = knowledge.input_shape or (inputs.shape[1],)
        return Claim(
            inputs=torch.from_numpy(inputs).reshape(-1, *shape),
            targets=None if targets is None else torch.from_numpy(targets),
            notes=(count.reason,),
            assumed=None if count.certain else count.reason,
        )


@dataclass(frozen=True, kw_only=True)
class SquaredLoss:
    """``loss = scale * sum (f - y)^2``, where a mean loss carries 1/n beside it."""

    scale: float
    is_mean: bool
    clients: int = 1


@dataclass(frozen=True, kw_only=True)
class Count:
    """The number of samples, the corner of A that belongs to it, and how it is known."""

    num_samples: int
    corner: float
    certain: bool
    reason: str


def squared_loss(observation: Observation) -> SquaredLoss | None:
    """Recognize a multiple of the summed or mean squared error by evaluating it; None if it is another loss."""
    outputs = observation.model.get_submodule(_layer_name(observation)).out_features
    generator = torch.Generator().manual_seed(0)
    scales = []
    for n in (1, 2, 3):
        a, b = (torch.randn(n, outputs, generator=generator, dtype=torch.float64) for _ in range(2))
        try:
            scales.append(float(observation.loss_fn(a, b)) / float((a - b).square().sum()))
        except (RuntimeError, ValueError, TypeError, IndexError):
            return None
    clients = len(observation.update.contributors)
    for is_mean, expected in ((False, (1, 1, 1)), (True, (1, 1 / 2, 1 / 3))):
        if np.allclose(scales, scales[0] * np.array(expected), rtol=1e-6) and scales[0] > 0:
            return SquaredLoss(scale=scales[0], is_mean=is_mean, clients=clients)
    return None


def _layer_name(observation: Observation) -> str:
    found = input_layer(observation)
    return found if isinstance(found, str) else found[0]


def why_not_linear_regression(observations: Observations) -> str | None:
    """Why the visits are not those of one linear layer with bias under a squared error, or None if they are."""
    first = observations[0]
    found = input_layer(first)
    if isinstance(found, str):
        return found
    name, layer, shape = found
    prefix = f"{name}." if name else ""
    names = set(dict(first.model.named_parameters()))
    if names - {f"{prefix}weight", f"{prefix}bias"}:
        return "the model has more layers than one linear one, and only for a linear model are the moments all"
    if layer.bias is None:
        return "the model has no bias, so that even one sample is determined only up to its sign"
    if not first.model.training and any(True for _ in first.model.buffers()):
        return "the model has buffers"
    probe = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1)).to(layer.weight.dtype)
    with torch.no_grad():
        same = torch.equal(first.model(probe), layer(probe.reshape(3, -1)))
    if not same:
        return "the model computes more than its linear layer"
    if squared_loss(first) is None:
        return "the loss is not a multiple of the squared error"
    for observation in observations:
        try:
            gradient = observation.gradient()
        except ValueError as error:
            return str(error)
        if names - set(gradient):
            return f"frozen parameters: no gradient of {sorted(names - set(gradient))} came back"
    return None


def visits_of(observations: Observations) -> tuple[Visits, SquaredLoss]:
    """The visits as matrices, in the units of `attacks.exact.moments`."""
    loss = squared_loss(observations[0])
    assert loss is not None  # why_not asked  # noqa: S101
    name = _layer_name(observations[0])
    prefix = f"{name}." if name else ""
    keys = (f"{prefix}weight", f"{prefix}bias")
    thetas, answers, noises = [], [], []
    for observation in observations:
        gradient = observation.gradient()
        theta = _rows(observation.state[keys[0]], observation.state[keys[1]])
        answer = _rows(gradient[keys[0]], gradient[keys[1]])
        thetas.append(theta)
        answers.append(answer / (2 * loss.scale))
        noises.append(_noise(observation, keys, theta, answer) / (2 * loss.scale))
    theta, answer, noise = (np.concatenate(part) for part in (thetas, answers, noises))
    noise = np.hypot(noise, _arithmetic_noise(observations, theta, answer))
    # A visit whose answer is exactly zero has no rounding at all; a floor keeps the weights comparable.
    noise = np.maximum(noise, max(1e-2 * noise.max(), 1e-300))
    outputs = len(thetas[0])
    return Visits(theta=theta, gradient=answer, noise=noise, output=np.tile(np.arange(outputs), len(thetas))), loss


def _rows(weight: Tensor, bias: Tensor) -> Array:
    rows: Array = torch.cat([weight, bias[:, None]], dim=1).double().numpy()
    return rows


def _noise(observation: Observation, keys: tuple[str, str], theta: Array, answer: Array) -> Array:
    """Standard deviation of one coordinate of a row: rounding of the stored numbers and declared noise."""
    knowledge, tensors = observation.knowledge, observation.update.tensors
    epsilon = torch.finfo(tensors[keys[0]].dtype).eps
    if observation.update.kind == "gradient":
        stored, rate = np.abs(answer), 1.0
    else:
        stored, rate = np.abs(_rows(tensors[keys[0]], tensors[keys[1]])), knowledge.learning_rate or 1.0
    # A rounding error is uniform within half a unit in the last place: standard deviation eps / sqrt(12).
    rounding = epsilon * np.sqrt(np.mean(stored**2, axis=1) / 12) / rate
    return np.asarray(np.hypot(rounding, knowledge.noise_std / rate))


def _arithmetic_noise(observations: Observations, theta: Array, answer: Array) -> Array:
    """Rounding inside the client's computation of ``A theta - c``: it does not vanish where the gradient does."""
    epsilon = torch.finfo(next(iter(observations[0].update.tensors.values())).dtype).eps
    size = np.linalg.norm(theta, axis=1)
    moved = np.linalg.norm(theta - theta[0], axis=1)
    changed = np.linalg.norm(answer - answer[0], axis=1)
    # The largest slope seen is a lower estimate of the norm of A.
    slope = float(np.max(changed[moved > 0] / moved[moved > 0], initial=0.0))
    terms = slope * size + np.linalg.norm(answer, axis=1)
    return np.asarray(epsilon * terms / np.sqrt(theta.shape[1]))


def count_samples(
    visits: Visits, span: Span, loss: SquaredLoss, told: int | None, *, noisy: bool = False
) -> Count:
    """The number of samples: the corner of A if the visits determine it, else what was told, else the rank.

    Under noise what was told comes first.
    """
    pooled = 1 / loss.clients
    if noisy and told is not None:
        return _count_from_rank(span, 1.0 if loss.is_mean else None, pooled, told, "noise")
    if loss.is_mean:
        return _count_from_rank(span, 1.0, None, told, "a mean loss hides the count")
    free = solve_moments(visits, span)
    if free is not None and 6 * free.corner_error < 0.3 * pooled:
        corner = free.second[0, 0] / pooled
        number = round(corner)
        if number < 1 or abs(corner - number) > max(0.02 * number, 6 * free.corner_error / pooled):
            raise NotIdentifiable(
                f"the visits do not fit one data set (they ask for {corner:.3f} samples): a defense changed the "
                f"updates, or the data changed between the visits"
            )
        reason = f"{number} sample{'s' * (number != 1)}, deduced from the visits"
        return Count(num_samples=number, corner=number * pooled, certain=True, reason=reason)
    return _count_from_rank(span, None, pooled, told, "too few visits to deduce the count")


def _count_from_rank(span: Span, corner: float | None, pooled: float | None, told: int | None, why: str) -> Count:
    number = told or span.rank
    reason = f"{number} samples, as declared" if told else f"{number} sample(s) assumed from the rank: {why}"
    value = corner if corner is not None else number * (pooled or 1.0)
    return Count(num_samples=number, corner=value, certain=told is not None, reason=reason)


def _samples(
    observation: Observation, moments: Moments, span: Span, number: int, generator: torch.Generator
) -> tuple[Array, Array | None]:
    """Inputs (n, d) and targets (n, outputs) behind the moments, or a refusal that says what is determined."""
    if span.rank == 1:
        # One point on the hyperplane: all inputs are equal, and of their targets only the mean is determined.
        target = moments.mixed.T / moments.second[0, 0]
        return np.repeat(span.origin[None, :-1], number, axis=0), np.repeat(target, number, axis=0)
    if number == 2 and span.rank == 2:
        pair = samples_of_two(moments)
        if pair is not None:
            return (span.origin + pair[0] @ span.directions)[:, :-1], pair[1]
        raise NotIdentifiable(
            "no two real samples have these moments: noise or another defense changed the updates by more than "
            "the distance between the samples"
        )
    knowledge = observation.knowledge
    determined = _determined(moments, span, number)
    if knowledge.input_values is None:
        raise NotIdentifiable(_refusal(number, span), determined)
    found = solve_with_values(
        moments, span, number, knowledge.input_values, knowledge.target_values, generator=generator
    )
    if isinstance(found, str):
        raise NotIdentifiable(found, determined)
    return found


def _refusal(number: int, span: Span) -> str:
    if span.rank < number:
        return (
            f"{number} samples lie in a space of only {span.rank} dimensions, so their moments do not tell them apart; "
            f"declare the values that can occur with Knowledge(input_values=(0.0, 1.0))"
        )
    return (
        f"{number} samples are determined only up to a rotation of the {number}-dimensional sample space that fixes "
        f"the vector of ones; their number, mean, second moments and span are exact. Declare the values that can "
        f"occur with Knowledge(input_values=(0.0, 1.0)) to single them out"
    )


def _determined(moments: Moments, span: Span, number: int) -> dict[str, Tensor]:
    basis = np.vstack([span.origin, span.directions])
    full = basis.T @ moments.second @ basis / moments.second[0, 0] * number
    return {
        "num_samples": torch.tensor(number),
        "mean": torch.from_numpy(full[-1, :-1] / number),
        "second_moments": torch.from_numpy(full[:-1, :-1]),
        "span": torch.from_numpy(basis),
    }
