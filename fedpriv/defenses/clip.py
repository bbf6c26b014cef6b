"""L2 clipping: no client can push the model further than a given distance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from fedpriv.defenses.base import Context, Defense, Measurements
from fedpriv.defenses.vectors import cast_like, joint_norm, scaled
from fedpriv.wire import Tensors
from fedpriv.wire.mechanisms import Clipped


def check_clip_norm(clip_norm: float) -> None:
    """Raise a ``ValueError`` unless `clip_norm` is positive and finite."""
    if not (math.isfinite(clip_norm) and clip_norm > 0):
        raise ValueError(
            f"clip_norm must be a positive finite number, got {clip_norm!r}; 1.0 is a usual start"
        )


def clip_factor(update: Tensors, clip_norm: float) -> float:
    """``min(1, clip_norm / norm)``; 1 for the zero update."""
    return factor_to(clip_norm, joint_norm(update), update)


def factor_to(bound: float, norm: float, update: Tensors) -> float:
    """What brings `update`, whose norm of any kind is `norm`, down to `bound`; 1 if it is not above.

    Casting the product to a narrow dtype may round up, so the factor is lowered by one unit of the least
    precise dtype: the result obeys the bound and not only almost.
    """
    if norm <= bound:
        return 1.0
    coarsest = max(torch.finfo(tensor.dtype).eps for tensor in update.values())
    return bound / norm * (1 - coarsest)


@dataclass(frozen=True, kw_only=True)
class Clip(Defense):
    """Scale the update down to an L2 norm of at most `clip_norm`.

    ``u -> u * min(1, clip_norm / ||u||)``, the norm taken over all parameters jointly. Alone it bounds the
    influence of a client but hides nothing: the direction of the update, and with it most attacks, survive.
    It is what makes the sensitivity of noise finite.

    Parameters
    ----------
    clip_norm : float, default 1.0
        Largest L2 norm of the whole update, scalar parameters included; in the units of the update (for
        returned parameters, of after - before). Elsewhere called ``max_grad_norm`` or ``clipping_bound``.

    Notes
    -----
    The report holds ``norm_before``, ``norm_after``, ``clipped`` and ``scale``.

    References
    ----------
    .. [1] M. Abadi et al., "Deep learning with differential privacy", CCS 2016, Algorithm 1 (there for one
       sample, here for one client), https://arxiv.org/abs/1607.00133

    Examples
    --------
    >>> clipped, report = Clip(clip_norm=1.0)({"w": torch.tensor([3.0, 0.0]), "b": torch.tensor(4.0)})
    >>> clipped["w"], report.values["norm_before"], report.values["clipped"]
    (tensor([0.6000, 0.0000]), 5.0, True)
    """

    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        """Check the bound."""
        check_clip_norm(self.clip_norm)

    def knowledge(self, scale: float = 1.0) -> tuple[Clipped, ...]:  # noqa: ARG002 (the interface)
        """The bound. An update below it was not scaled; one on it lost its length and nothing else."""
        return (Clipped(clip_norm=self.clip_norm),)

    def _apply(
        self,
        update: dict[str, torch.Tensor],
        context: Context,  # noqa: ARG002 (the interface)
    ) -> tuple[dict[str, torch.Tensor], Measurements]:
        factor = clip_factor(update, self.clip_norm)
        # A factor of 1 leaves every bit as it is: float64 holds each value of the narrower dtypes.
        return cast_like(scaled(update, factor), update), {"clipped": factor < 1, "scale": factor}
