"""What the loss says to each prediction, dL/dlogits, solved from one layer's gradient and all prefixes.

Either from the head itself, or, where the head is frozen or shares its weight with the embedding, from the
last linear layer before it: what reaches that layer from a token is a combination of few rows of
``dlogits/dz``.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks.exact.token_model import SAFETY, Group, TokenModel, gradient_noise, run_until
from attacks.replay import own_randomness, sent_state

Words = tuple[int, ...]
_LARGEST_SUPPORT = 6  # different labels of one prefix that are looked for behind a head that is shared

_CLASSES = 256  # differentiated together


class Signals(NamedTuple):
    """For every prefix dL/dlogits and the predicted probabilities, both (prefixes, classes)."""

    signals: Tensor
    expected: Tensor
    noise: Tensor  # (prefixes,) norm of a signal that rounding can make


def solve_signals(model: TokenModel, words: list[Words]) -> Signals | str:
    """From the gradient of the head, or else of the last layer before it; or why from neither.

    `words` must be sorted by length.
    """
    if model.head is None:
        return "the model's output is not that of a linear layer"
    if model.token_targets and not model.causal:
        return "targets of single tokens are solved for in decoders only"
    batches = by_length(words)
    key = f"{model.head}.weight" if model.head else "weight"
    gradient = model.observation.gradient()
    if key not in gradient or _is_shared(model, model.head):
        return _from_layer_before(model, batches)
    seen = _seen(model, model.head, batches)
    inverse = _inverse(seen)
    if inverse is None:
        return f"{len(words)} prefixes are more than the head's {seen.shape[1]} numbers can tell apart"
    weight = gradient[key].double()
    noise = (
        SAFETY * gradient_noise(model.observation, weight, [key]) * torch.linalg.vector_norm(inverse, dim=0)
    )
    return Signals((weight @ inverse).T, _logits(model, batches).softmax(1), noise)


def by_length(words: list[Words]) -> list[Tensor]:
    """Prefixes of equal length in one tensor each, so that nothing needs padding."""
    groups: dict[int, list[Words]] = defaultdict(list)
    for prefix in words:
        groups[len(prefix)].append(prefix)
    return [torch.tensor(groups[length]) for length in sorted(groups)]


def _is_shared(model: TokenModel, head: str) -> bool:
    modules = dict(model.observation.model.named_modules())
    weight = modules[head].weight
    return sum(getattr(m, "weight", None) is weight for n, m in modules.items()) > 1


def _seen(model: TokenModel, layer: str, batches: list[Tensor]) -> Tensor:
    """What a layer sees of the last token of every prefix (or of the prefix as a whole)."""
    state = sent_state(model.observation, torch.float64)
    found = [run_until(model.observation, state, layer, ids) for ids in batches]
    return torch.cat([part[:, -1] if part.dim() == 3 else part for part in found])


def _inverse(seen: Tensor) -> Tensor | None:
    """Pseudo-inverse of (prefixes, width), or None if the rows are not independent."""
    values = torch.linalg.svdvals(seen)
    if len(seen) > seen.shape[1] or float(values[-1]) <= 1e-12 * float(values[0]):
        return None
    inverse: Tensor = torch.linalg.pinv(seen)
    return inverse


def _logits(model: TokenModel, batches: list[Tensor]) -> Tensor:
    """Logits of every prefix, (prefixes, classes)."""
    state = sent_state(model.observation, torch.float64)
    with torch.no_grad(), own_randomness():
        outputs = [functional_call(model.observation.model, state, (ids,)) for ids in batches]
    return torch.cat([_at_end(model, out) for out in outputs])


def _at_end(model: TokenModel, outputs: Tensor) -> Tensor:
    """Logits at the last token, whatever stands first, classes or positions."""
    if outputs.dim() == 2:
        return outputs
    return outputs[:, :, -1] if model.classes_first else outputs[:, -1]


def _from_layer_before(model: TokenModel, batches: list[Tensor]) -> Signals | str:
    """Solve the layer before the head for what reached it, and explain that by as few labels as possible."""
    layers: list[Group] = [g for g in model.groups if g.contextual and model.head not in g.names]
    if not model.token_targets or not layers or layers[-1].gradient is None:
        return f"the gradients of the head {model.head!r} alone and of the layer before it did not come back"
    layer = layers[-1]
    inverse = _inverse(_seen(model, layer.names[0], batches))
    if inverse is None or len(layer.names) > 1:
        return f"the layer before the head {model.head!r} cannot be solved for every token"
    arrived = (layer.gradient @ inverse).T  # type: ignore[operator]  # checked above; (prefixes, outputs)
    noise = SAFETY * layer.noise * torch.linalg.vector_norm(inverse, dim=0)
    logits, slopes = _slopes(model, layer.names[0], batches)
    expected = logits.softmax(1)
    signals = [
        _explain(a, p, slope, float(n))
        for a, p, slope, n in zip(arrived, expected, slopes, noise, strict=True)
    ]
    return Signals(torch.stack(signals), expected, noise)


def _slopes(model: TokenModel, layer: str, batches: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Logits of every prefix, and their derivatives by the layer's output at its last token.

    Shapes (prefixes, classes) and (prefixes, classes, width).
    """
    state = sent_state(model.observation, torch.float64)
    logits, slopes = [], []
    for ids in batches:
        shifts: list[Tensor] = []

        def shift(_: nn.Module, __: object, output: Tensor, shifts: list[Tensor] = shifts) -> Tensor:
            shifts.append(torch.zeros_like(output[:, -1]).requires_grad_())
            return torch.cat([output[:, :-1], output[:, -1:] + shifts[0][:, None]], dim=1)

        handle = model.observation.model.get_submodule(layer).register_forward_hook(shift)
        try:
            with own_randomness():
                out = _at_end(model, functional_call(model.observation.model, state, (ids,)))
        finally:
            handle.remove()
        classes = torch.eye(out.shape[1], dtype=out.dtype)[:, None].expand(-1, len(out), -1)
        rows = [
            torch.autograd.grad(out, shifts[0], part, is_grads_batched=True, retain_graph=True)[0]
            for part in classes.split(_CLASSES)
        ]
        logits.append(out.detach())
        slopes.append(torch.cat(rows).transpose(0, 1))
    return torch.cat(logits), torch.cat(slopes)


def _explain(arrived: Tensor, expected: Tensor, slopes: Tensor, noise: float) -> Tensor:
    """The signal ``s (m p - c)`` with fewest labels c that `slopes` (classes, width) map to `arrived`."""
    atoms = (expected @ slopes)[None]
    chosen: list[int] = []
    limit = max(noise, 1e-9 * float(arrived.norm()))
    signal = torch.zeros_like(expected)
    if float(arrived.norm()) <= limit:
        return signal
    for _ in range(_LARGEST_SUPPORT):
        basis = torch.linalg.qr(atoms.T).Q
        rest = arrived - basis @ (basis.T @ arrived)
        free = slopes - (slopes @ basis) @ basis.T
        norms = free.norm(dim=1)
        match = (free @ rest).abs() / norms.clamp_min(1e-9 * float(slopes.norm(dim=1).max()))
        match[chosen] = 0
        chosen.append(int(match.argmax()))
        atoms = torch.cat([(expected @ slopes)[None], slopes[chosen]])
        weights = torch.linalg.lstsq(atoms.T, arrived[:, None]).solution[:, 0]
        if float((weights @ atoms - arrived).norm()) <= limit:
            break
    signal += weights[0] * expected
    signal[torch.tensor(chosen)] += weights[1:]
    return signal
