"""The update that a client would send for given data, as a differentiable function of these data."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from fedpriv.wire import Observation, Tensors

SentUpdate = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""``(inputs, targets) -> vector`` of all coordinates of the update as sent, in float64."""

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def sent_update(observation: Observation, num_samples: int, clip_norm: float | None) -> SentUpdate:
    """The client's program before the noise: local steps, then clipping if `clip_norm` is given.

    Parameters
    ----------
    observation : Observation
        Model, state, loss and settings; the values of its update are not used.
    num_samples : int
        Size of the client's data.
    clip_norm : float or None
        Where a defense clips the vector (gradient, or after - before).

    Returns
    -------
    callable
        ``(inputs, targets) -> vector``; for ``"parameters"`` the vector after - before, which differs
        from the parameters as sent by a public constant.
    """
    check_replayable(observation, num_samples)
    knowledge, kind = observation.knowledge, observation.update.kind
    model = _in_float64(observation.model)
    names = [name for name in observation.update.tensors if name in dict(model.named_parameters())]
    state = {n: t.double() if t.is_floating_point() else t for n, t in observation.state.items()}

    def gradient(w: Tensors, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        def loss(v: dict[str, torch.Tensor]) -> torch.Tensor:
            tensors = {name: tensor for name, tensor in {**state, **v}.items() if name in known}
            return observation.loss_fn(torch.func.functional_call(model, tensors, (inputs,)), targets)

        known = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
        return torch.func.grad(loss)(dict(w))  # type: ignore[no-any-return]

    def vector(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        before = {name: state[name] for name in names}
        if kind == "gradient":
            pieces = gradient(before, inputs, targets)
        else:
            w = before
            for _ in range(knowledge.local_steps):
                g = gradient(w, inputs, targets)
                w = {name: w[name] - float(knowledge.learning_rate or 0.0) * g[name] for name in w}
            pieces = {name: w[name] - before[name] for name in w}
        flat = torch.cat([pieces[name].reshape(-1) for name in names])
        return flat if clip_norm is None else flat * torch.clamp(clip_norm / flat.norm(), max=1.0)

    return vector


def check_replayable(observation: Observation, num_samples: int) -> None:
    """Raise a ``ValueError`` where the update is not a known smooth function of one client's data."""
    update, knowledge = observation.update, observation.knowledge
    if update.is_aggregate:
        raise ValueError(
            f"the bound is for the update of one client, got one averaged over {list(update.contributors)}; "
            "pass an observation of a single client"
        )
    if knowledge.batch_size is not None and knowledge.batch_size < num_samples:
        raise ValueError(
            f"the bound needs full batches, got batch_size={knowledge.batch_size} for {num_samples} samples; "
            "which samples were in a mini-batch is random and not in the observation"
        )
    if update.kind == "parameters" and knowledge.learning_rate is None:
        raise ValueError(
            "returned parameters depend on the data through the learning rate, which is unknown here; pass "
            "knowledge=Knowledge(learning_rate=...)"
        )
    parameters = dict(observation.model.named_parameters())
    extra = [n for n, t in update.tensors.items() if n not in parameters and t.is_floating_point()]
    if extra:
        raise ValueError(
            f"the bound covers parameters, but the update also carries the buffers {extra}, which tell more "
            "about the data; use a model without running statistics or eval mode"
        )
    random_layers = [
        m for m in observation.model.modules() if isinstance(m, _DROPOUT) and m.training and m.p > 0
    ]
    if random_layers:
        raise ValueError(
            "the bound needs an update without randomness of its own, got dropout; use model.eval()"
        )


def _in_float64(model: nn.Module) -> nn.Module:
    """A float64 copy; in train mode batch norm uses the batch's statistics, so the running ones may go."""
    twin = copy.deepcopy(model).double()
    return torch.func.replace_all_batch_norm_modules_(twin) if model.training else twin
