"""The tutorial's leak: exact samples out of the visits of a linear model with a squared error.

The algebra is in `attacks.exact.moments`, the translation of observations in `attacks.exact.visits`, the
number of samples in `attacks.exact.count`; here the samples are found, and what is not determined is refused
in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from attacks.base import Attack, Claim, NotIdentifiable, Observations
from attacks.exact.count import Count, count_samples, measure
from attacks.exact.moments import Array, Moments, Span, samples_of_two, solve_moments
from attacks.exact.polish import polish
from attacks.exact.values import solve_with_values
from attacks.exact.visits import squared_loss
from attacks.replay import input_layer, own_randomness, sent_state
from fedpriv.wire import Knowledge

MAX_UNKNOWNS = 4_000
"""Beyond, the samples are not polished: the normal equations would not fit into memory."""
MAX_CLAIM = 10_000_000
"""Most numbers in a claim: a count that was told may be absurd."""


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
    citation: ClassVar[str] = "fedpriv's own method: second moments from the visits of a linear regression"

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`."""
        return why_not_linear_regression(observations)

    def run(
        self,
        observations: Observations,
        *,
        generator: torch.Generator,
        deadline: float,  # noqa: ARG002 (part of the interface; takes milliseconds)
    ) -> Claim:
        """See `Attack.run`."""
        visits, loss, span = measure(observations, self.safety)
        knowledge = observations[0].knowledge
        if span is None:
            raise NotIdentifiable("the update is zero up to rounding: nothing of the data crossed the wire")
        count = count_samples(observations, visits, span, loss)
        if count.num_samples * visits.theta.shape[1] > MAX_CLAIM:
            raise NotIdentifiable(f"{count.reason}: too many samples to list, mean and moments aside")
        moments = solve_moments(visits, span, num_samples=count.corner)
        if moments is None:
            raise NotIdentifiable(
                f"{len(observations)} visit(s) do not determine the moments of the data yet; "
                f"{span.rank} visits with different models would"
            )
        inputs, targets = _samples(knowledge, moments, span, count, generator)
        by_values = not (span.rank == 1 or span.rank == count.num_samples == 2)
        # Values from the declared set are exact already.
        if targets is not None and not by_values and inputs.size + targets.size <= MAX_UNKNOWNS:
            inputs, targets = polish(visits, inputs, targets, weight=count.corner / count.num_samples)
        shape = knowledge.input_shape or (inputs.shape[1],)
        return Claim(
            inputs=torch.from_numpy(inputs).reshape(-1, *shape),
            targets=None if targets is None else torch.from_numpy(targets),
            notes=(count.reason, *([_BY_VALUES] if by_values else [])),
            assumed=None if count.certain else count.reason,
        )


_BY_VALUES = "the only data set with these moments among those with the declared values"


def why_not_linear_regression(observations: Observations) -> str | None:
    """Why the visits are not those of one linear layer with bias under a squared error; None if they are."""
    first = observations[0]
    found = input_layer(first)
    if isinstance(found, str):
        return found
    name, layer, shape = found
    prefix = f"{name}." if name else ""
    names = set(dict(first.model.named_parameters()))
    if names - {f"{prefix}weight", f"{prefix}bias"}:
        return (
            "the model has more layers than one linear one, and only for a linear model are the moments all"
        )
    if layer.bias is None:
        return "the model has no bias, so that even one sample is determined only up to its sign"
    state = sent_state(first, torch.float64)
    probe = torch.randn(8, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    probe *= 10.0 ** torch.arange(-4, 4).reshape(-1, *[1] * len(shape))  # both sides of any kink
    with torch.no_grad(), own_randomness():
        linear = torch.addmm(state[f"{prefix}bias"], probe.reshape(8, -1), state[f"{prefix}weight"].T)
        outputs = functional_call(first.model, state, (probe,))
    if outputs.shape != linear.shape or not torch.allclose(outputs, linear, rtol=1e-9, atol=1e-12):
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


def _samples(
    knowledge: Knowledge, moments: Moments, span: Span, count: Count, generator: torch.Generator
) -> tuple[Array, Array | None]:
    """Inputs (n, d) and targets (n, outputs), or a refusal that says what is determined."""
    number = count.num_samples
    if span.rank == 1:
        # One point on the hyperplane: all inputs are equal, and of their targets only the mean is determined.
        target = moments.mixed.T / moments.second[0, 0]
        return np.repeat(span.origin[None, :-1], number, axis=0), np.repeat(target, number, axis=0)
    if number == 2 and span.rank == 2:
        pair = samples_of_two(moments)
        if pair is not None:
            return (span.origin + pair[0] @ span.directions)[:, :-1], pair[1]
        raise NotIdentifiable(
            "no two real samples have these moments: noise or another defense changed the updates by more "
            "than the distance between the samples"
        )
    determined = _determined(moments, span, count)
    if knowledge.input_values is None:
        raise NotIdentifiable(_refusal(count, span), determined)
    found = solve_with_values(
        moments, span, number, knowledge.input_values, knowledge.target_values, generator=generator
    )
    if isinstance(found, str):
        raise NotIdentifiable(found, determined)
    return found


def _refusal(count: Count, span: Span) -> str:
    number, remedy = count.num_samples, "Knowledge(input_values=(0.0, 1.0))"
    if not count.certain:
        return (
            f"there are at least {span.rank} samples, and nobody told how many ({count.reason}); their mean, "
            f"second moments (of one sample on average) and span are determined, but even {span.rank} "
            f"samples only up to a rotation. Declare their number with Knowledge(num_samples=...) and the "
            f"values that can occur with {remedy}"
        )
    if span.rank < number:
        return (
            f"{number} samples lie in a space of only {span.rank} dimensions, so their moments do not tell "
            f"them apart; declare the values that can occur with {remedy}"
        )
    return (
        f"{number} samples are determined only up to a rotation of the {number}-dimensional sample space "
        f"that fixes the vector of ones; their number, mean, second moments and span are exact. Declare the "
        f"values that can occur with {remedy} to single them out"
    )


def _determined(moments: Moments, span: Span, count: Count) -> dict[str, Tensor]:
    """What the moments tell of any number of samples; sums, but of one sample where the count is unknown."""
    number = count.num_samples if count.certain else 1
    basis = np.vstack([span.origin, span.directions])
    full = basis.T @ moments.second @ basis / moments.second[0, 0] * number
    mixed = moments.mixed @ basis / moments.second[0, 0] * number
    known = {
        "mean": full[-1, :-1] / number,
        "second_moments": full[:-1, :-1],
        "span": basis,
        "mixed_moments": mixed[:, :-1],
        "target_sums": mixed[:, -1],
    }
    counted = {"num_samples": torch.tensor(number)} if count.certain else {}
    return {**counted, **{name: torch.from_numpy(value) for name, value in known.items()}}
