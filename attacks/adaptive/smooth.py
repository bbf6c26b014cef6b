"""Likelihood across the kinks of ReLU: solve smoothed models first, each a little sharper than the last.

The update jumps where a neuron goes on or off. A descent from a noisy start stops in front of such a jump,
with some neurons on the wrong side, even if noise is tiny (about one draw in eight behind 32 neurons). With
softplus in the place of ReLU there are no jumps to stop at (graduated optimization: A. Blake, A. Zisserman,
"Visual Reconstruction", MIT Press 1987).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attacks.adaptive.likelihood import Rounds, most_likely
from fedpriv.wire import Observation

_WIDTHS = (0.1, 0.03, 0.01, 0.003)
"""Widths of the smoothed kinks, in units of what goes into an activation."""


def without_kinks(observation: Observation, width: float) -> Observation | None:
    """The same evidence, had every ``nn.ReLU`` been a softplus of this width; None if there is none.

    Examples
    --------
    >>> model, update = nn.Sequential(nn.Linear(1, 1), nn.ReLU()), [torch.ones(1, 1), torch.ones(1)]
    >>> without_kinks(Observation(model, update, nn.functional.mse_loss), 0.1).model[1]
    Softplus(beta=10.0, threshold=20.0)
    """
    if not any(type(m) is nn.ReLU for m in observation.model.modules()):
        return None
    model = copy.deepcopy(observation.model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.ReLU:
                setattr(parent, name, nn.Softplus(beta=1 / width))
    return Observation(
        model, observation.update, observation.loss_fn, observation.knowledge, state=observation.state
    )


def least_squares(
    observations: Sequence[Observation],
    start: Tensor,
    targets: Tensor,
    shape: tuple[int, ...],
    *,
    deadline: float,
) -> Tensor:
    """The inputs (d,) near `start` whose updates are nearest to the observed ones, kinks or not.

    Parameters
    ----------
    observations : sequence of Observation
        Rounds on one sample.
    start : Tensor of shape (d,)
    targets : Tensor
        Of the one sample.
    shape : tuple of int
        Of one input.
    deadline : float
        In terms of ``time.perf_counter()``.
    """
    rounds, point, reached = Rounds.of(observations, shape), start, []
    reached.append(_squares(rounds, start, targets, deadline))
    for width in _WIDTHS:
        smoothed = [s for o in observations if (s := without_kinks(o, width)) is not None]
        if not smoothed:
            return reached[0]
        point = _squares(Rounds.of(smoothed, shape), point, targets, deadline)
    reached.append(_squares(rounds, point, targets, deadline))
    return min(reached, key=lambda x: float((rounds.sent(x, targets) - rounds.observed).norm()))


def _squares(rounds: Rounds, start: Tensor, targets: Tensor, deadline: float) -> Tensor:
    return most_likely(rounds, start, targets, equal, repeats=1, deadline=deadline)


def equal(predicted: Tensor, observed: Tensor) -> Tensor:  # noqa: ARG001 (the interface)
    """Weights of Gaussian noise."""
    return torch.ones_like(predicted)
