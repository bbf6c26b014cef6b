"""What ties the passes of local training together: every pass sees the same set of images, in any order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import conv1d, conv2d, conv3d

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {2: conv1d, 3: conv2d, 4: conv3d}


@dataclass(frozen=True, eq=False, kw_only=True)
class SetConsistency:
    """Distance of the sets of images of all pairs of passes: a prior on inputs (K, passes * n, *input_shape).

    D. Dimitrov et al., "Data Leakage in Federated Averaging", TMLR 2022, the epoch order-invariant prior
    ``1/E² sum_{a,b} D(g(X_a), g(X_b))``, with D the mean squared difference and ``g(X) = max_i h(X_i)``,
    where h is a random convolution: 96 features of 3 × 3 pixels. Inputs without space, such as rows of a
    table, are multiplied by a random matrix instead.

    Parameters
    ----------
    passes : int
        E.
    weights : Tensor of shape (features, channels, 3, ...) or (features, width)
        h; see `draw`.
    """

    passes: int
    weights: Tensor

    @classmethod
    def draw(
        cls,
        passes: int,
        input_shape: tuple[int, ...],
        generator: torch.Generator,
        *,
        features: int = 96,
        like: Tensor | None = None,
    ) -> SetConsistency:
        """Draw h, so that features have the size of the inputs; in the precision and place of `like`."""
        channels, *space = input_shape
        shape = (features, channels, *[3 for _ in space]) if len(space) in (1, 2, 3) else (features, channels)
        weights = (
            torch.randn(shape, generator=generator, dtype=torch.float64) / (shape[1] * 3 ** len(space)) ** 0.5
        )
        return cls(passes=passes, weights=weights.to(like) if like is not None else weights.float())

    def __call__(self, inputs: Tensor) -> Tensor:
        """See `attacks.matching.priors.Prior`."""
        return torch.stack([self._distance(candidate) for candidate in inputs])

    def _distance(self, inputs: Tensor) -> Tensor:
        described = self._described(inputs).unflatten(0, (self.passes, -1)).amax(1).flatten(1)
        # The mean over all pairs is twice the variance over passes.
        distance: Tensor = 2 * (described - described.mean(0)).square().mean()
        return distance

    def _described(self, inputs: Tensor) -> Tensor:
        if self.weights.dim() == 2:
            return inputs @ self.weights.T
        return _CONVOLUTIONS[self.weights.dim() - 1](inputs, self.weights, padding=1)


def match_and_average(inputs: Tensor, labels: Tensor) -> Tensor:
    """One image a sample: those of all passes, brought into the order of the first, on average.

    Only images with the same label are matched, by the least total squared distance.

    Parameters
    ----------
    inputs : Tensor of shape (passes, n, *input_shape)
    labels : Tensor of shape (n,)

    Returns
    -------
    Tensor of shape (n, *input_shape)

    Examples
    --------
    >>> one = torch.eye(3)
    >>> bool(torch.equal(match_and_average(torch.stack([one, one[[2, 0, 1]]]), torch.zeros(3)), one))
    True
    """
    first, foreign = inputs[0].flatten(1), labels[:, None] != labels[None]
    ordered = [inputs[0]]
    for others in inputs[1:]:
        distance = torch.cdist(first.double(), others.flatten(1).double()).square()
        distance = distance.masked_fill(foreign, 1 + float(distance.sum()))
        _, columns = linear_sum_assignment(distance.cpu().numpy())
        ordered.append(others[torch.from_numpy(columns).to(inputs.device)])
    return torch.stack(ordered).mean(0)
