"""What single samples and the observed gradient show at every linear layer, for `peel_certificate`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedpriv.wire import Observation

_EPSILON = float(torch.finfo(torch.float64).eps)
_SINGLE = float(torch.finfo(torch.float32).eps)


class Spaces(NamedTuple):
    """Columns (m, r), singular values (r,), rows (r, d) of a gradient; noise of an entry; rounding unit."""

    columns: Tensor
    values: Tensor
    rows: Tensor
    noise: float
    unit: float


@dataclass(frozen=True)
class Passed:
    """What the linear layers of the model see when samples pass it, each on its own.

    Parameters
    ----------
    inputs : dict of str to Tensor of shape (n, d)
    signals : dict of str to Tensor of shape (n, m)
        Gradient of each sample's own loss by the layer's output.
    """

    inputs: dict[str, Tensor]
    signals: dict[str, Tensor]


def pass_alone(observation: Observation, state: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Passed:
    """Inputs and signals of every linear layer that sees one row a sample, for each sample on its own.

    All samples pass at once; if the first one alone does not see the same, the model mixes them, and nothing
    is returned.
    """
    batch, alone = (_pass(observation, state, inputs[:k], targets[:k]) for k in (len(inputs), 1))
    names = [n for n, a in batch.inputs.items() if _close(a[:1], alone.inputs.get(n))]
    names = [n for n in names if _close(batch.signals[n][:1], alone.signals.get(n))]
    return Passed({n: batch.inputs[n] for n in names}, {n: batch.signals[n] for n in names})


def _close(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and a.shape == b.shape and bool((a - b).norm() <= 1e-9 * (1e-9 + b.norm()))


def _pass(observation: Observation, state: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Passed:
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def watch(name: str, layer: nn.Linear) -> torch.utils.hooks.RemovableHandle:
        def after(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            output = output.clone().requires_grad_()  # a copy: what follows may work in place
            seen.setdefault(name, []).append((args[0].detach().clone(), output))
            return output.clone()

        return layer.register_forward_hook(after)

    handles = [watch(n, m) for n, m in observation.model.named_modules() if isinstance(m, nn.Linear)]
    try:
        with torch.enable_grad():
            outputs = functional_call(observation.model, state, (inputs,))
            terms = [observation.loss_fn(outputs[i : i + 1], targets[i : i + 1]) for i in range(len(inputs))]
            total = torch.stack(terms).sum()
    finally:
        for handle in handles:
            handle.remove()
    once = {n: calls[0] for n, calls in seen.items() if len(calls) == 1 and calls[0][0].dim() == 2}
    names = [n for n, (a, _) in once.items() if len(a) == len(inputs)]
    if not names:
        return Passed({}, {})
    gradients = torch.autograd.grad(total, [once[n][1] for n in names], allow_unused=True)
    used = {n: g for n, g in zip(names, gradients, strict=True) if g is not None}
    return Passed({n: once[n][0] for n in used}, used)


def layer_spaces(observation: Observation) -> dict[str, Spaces]:
    """Spaces of every linear layer whose gradient shows a rank below both of its sizes."""
    gradient = observation.gradient()
    modules = [(n, m) for n, m in observation.model.named_modules() if isinstance(m, nn.Linear)]
    weights = [id(p) for _, p in observation.model.named_parameters(remove_duplicate=False)]
    found = {}
    for name, layer in modules:
        weight = gradient.get(f"{name}.weight" if name else "weight")
        if weight is None or not bool(weight.any()) or weights.count(id(layer.weight)) > 1:
            continue
        ceiling = 30 * _SINGLE
        if observation.update.kind == "parameters":
            stored = observation.update.tensors[f"{name}.weight" if name else "weight"]
            rate = observation.knowledge.learning_rate or 1.0
            rounding = float(torch.finfo(stored.dtype).eps * stored.double().norm()) / rate
            ceiling = max(ceiling, 4 * rounding / float(weight.double().norm()))
        spaces = spaces_of(weight, ceiling)
        if spaces is not None and len(spaces.values) < min(weight.shape):
            found[name] = spaces
    return found


def spaces_of(weight: Tensor, ceiling: float = 30 * _SINGLE, least_fall: float = 10.0) -> Spaces | None:
    """Numerical rank and spaces of a gradient (m, d), or None if its singular values never fall clearly.

    The singular values come from a random sketch that is widened until noise fills its second half.
    """
    exact = weight.double()
    generator = torch.Generator().manual_seed(1)
    height, width = exact.shape
    stored = float(torch.finfo(weight.dtype).eps) if weight.dtype != torch.float64 else 0.0
    floor = max(_EPSILON * math.sqrt(max(height, width)), stored / 8)
    ceiling = max(ceiling, min(30 * stored, 0.03))
    size = 32
    while True:
        size = min(2 * size, height, width)
        sketch = exact @ torch.randn(width, size, generator=generator, dtype=torch.float64)
        basis = torch.linalg.qr(exact @ torch.linalg.qr(exact.T @ torch.linalg.qr(sketch)[0])[0])[0]
        values, rows = torch.linalg.svd(basis.T @ exact, full_matrices=False)[1:]
        lifted = values.clamp_min(floor * float(values[0]))
        falls = (lifted[:-1] >= least_fall * lifted[1:]) & (lifted[1:] <= ceiling * lifted[0])
        rank = int(falls.nonzero()[-1]) + 1 if bool(falls.any()) else None
        if size == min(height, width) or (rank is not None and rank <= size // 2):
            break
    if rank is None:
        return None
    columns = torch.linalg.qr(exact @ torch.linalg.qr(rows[:rank].T)[0])[0]
    rows = torch.linalg.qr(exact.T @ columns)[0].T
    left, values, right = torch.linalg.svd(columns.T @ exact @ rows.T)
    columns, rows = columns @ left, right @ rows
    rest = float((exact - (columns * values) @ rows).norm())
    noise = rest / math.sqrt(max((height - rank) * (width - rank), 1))
    noise = max(noise, _EPSILON * float(values[0]) / math.sqrt(max(height, width)))
    # Rounding of what entered the gradient (activations, signals) does not show in its rank.
    unit = 4 * max(_EPSILON * math.sqrt(max(height, width)), stored / 2)
    return Spaces(columns, values, rows, noise, unit)
