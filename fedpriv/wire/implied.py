"""The gradient that an update implies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from fedpriv.wire.observation import Observation


def implied_gradient(observation: Observation) -> dict[str, torch.Tensor]:
    """See `Observation.gradient`."""
    if observation.update.kind == "gradient":
        return {name: tensor.clone() for name, tensor in observation.update.tensors.items()}
    rate = observation.knowledge.learning_rate
    if rate is None:
        raise ValueError(
            "returned parameters become a gradient only with the learning rate; "
            "pass knowledge=Knowledge(learning_rate=...)"
        )
    if not observation.knowledge.one_step:
        batches = "" if observation.knowledge.batch_size is None else " on mini-batches"
        raise ValueError(
            f"the client took {observation.knowledge.local_steps} local step(s){batches}, so the parameters "
            f"that it returned hold no single gradient; only attacks that replay local training apply"
        )
    names = dict(observation.model.named_parameters())
    return {
        n: _slope(observation.state[n], t, rate) for n, t in observation.update.tensors.items() if n in names
    }


def _slope(before: torch.Tensor, after: torch.Tensor, rate: float) -> torch.Tensor:
    """``(before - after) / rate`` without rounding the difference; half precision could overflow."""
    exact = (before.double() - after.double()) / rate
    return exact.to(torch.promote_types(after.dtype, torch.float32))
