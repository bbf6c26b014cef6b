"""Multiplicities and targets of the found samples, in the caller's terms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from attacks.exact.consistency.backward import class_signals, pass_through
from attacks.exact.consistency.problem import Evidence, Samples
from attacks.exact.consistency.refine import whole_multiples
from attacks.replay import REPLAY_ERRORS, sums_over_samples
from fedpriv.wire.observation import LossFn

_MOST_COPIES = 8  # of one input with several labels
_WHOLE = 0.05  # a count may differ from a whole number by this


class Answers(NamedTuple):
    """Which rows of the samples to return, how often, and with which targets."""

    rows: Tensor  # (n,) indices, repeated for samples that came several times
    targets: Tensor | None
    notes: tuple[str, ...]
    assumed: str | None


def answers(evidence: Evidence, found: Samples, *, told: int | None, one_client: bool) -> Answers:
    """Repeat samples by their multiplicity and give everyone its target.

    Parameters
    ----------
    evidence : Evidence
    found : Samples
        At least one.
    told : int or None
        The number of samples, if known.
    one_client : bool
        With several clients different weights may be due to their sizes, and nothing is repeated.
    """
    single = torch.arange(len(found))
    if evidence.layers.tail is None:
        return Answers(single, None, ("no targets: the rest of the model mixes the samples",), None)
    outputs = pass_through(evidence, found.coordinates).outputs
    hard = found.label >= 0
    if not bool(hard.any()):
        return _without_classes(evidence, found, outputs, told)
    unit = float(found.weight[hard].min())
    copies = whole_multiples(found.weight[hard]) if one_client else None
    notes: tuple[str, ...] = ()
    if copies is None:
        copies = torch.ones(int(hard.sum()), dtype=torch.int64)
        if float(found.weight[hard].max()) > 1.05 * unit:
            notes = ("the samples have different weights: they come from clients or steps of different size",)
    parts = [(single[hard].repeat_interleave(copies), found.label[hard].repeat_interleave(copies))]
    soft: dict[int, Tensor] = {}
    for row in single[~hard].tolist():
        labels = _several_labels(evidence.layers.loss_fn, outputs[row], found.signal[row] / unit)
        if labels is None:
            target = solve_target(evidence.layers.loss_fn, outputs[row], found.signal[row] / unit)
            soft[row] = torch.full_like(outputs[row], torch.nan) if target is None else target
        else:
            parts.append((torch.full_like(labels, row), labels))
    if soft:
        return _mixed(found, outputs, soft, notes)
    rows, targets = (torch.cat([p[i] for p in parts]) for i in range(2))
    if told is not None and told > len(rows) and told % len(rows) == 0 and one_client:
        again = told // len(rows)
        rows, targets = rows.repeat_interleave(again), targets.repeat_interleave(again)
    return Answers(rows, targets, (*notes, *_duplicates(rows)), None)


def _duplicates(rows: Tensor) -> tuple[str, ...]:
    extra = len(rows) - len(rows.unique())
    return (
        (f"{extra} of {len(rows)} samples are copies of others, by their weight in the update",)
        if extra
        else ()
    )


def _mixed(found: Samples, outputs: Tensor, soft: dict[int, Tensor], notes: tuple[str, ...]) -> Answers:
    """Some targets are classes and some are not: all as probabilities."""
    targets = torch.nn.functional.one_hot(found.label.clamp_min(0), outputs.shape[1]).double()
    for row, target in soft.items():
        targets[row] = target
    rows = torch.arange(len(found))
    if not bool(torch.isfinite(targets).all()):
        return Answers(rows, None, (*notes, "some targets could not be solved for"), None)
    return Answers(rows, targets, notes, None)


def _several_labels(loss_fn: LossFn, outputs: Tensor, signal: Tensor) -> Tensor | None:
    """The labels with which one input came several times, from the sum of their signals; None if none fit."""
    classes = class_signals(outputs[None], loss_fn)[0]  # (class, K)
    system = torch.cat([classes.T, torch.ones_like(classes[:1])])
    for copies in range(1, _MOST_COPIES + 1):
        values = torch.cat([signal, signal.new_tensor([float(copies)])])
        counts = torch.linalg.lstsq(system, values[:, None], driver="gelsd").solution[:, 0]
        whole = counts.round()
        fits = float((counts - whole).abs().max()) < _WHOLE and float(whole.min()) >= 0
        if fits and float((system @ whole - values).abs().max()) < _WHOLE:
            return torch.arange(len(counts)).repeat_interleave(whole.long())
    return None


def _without_classes(evidence: Evidence, found: Samples, outputs: Tensor, told: int | None) -> Answers:
    """Real or soft targets: signals tell them only together with the weights, which are taken as equal."""
    loss_fn = evidence.layers.loss_fn
    rows = torch.arange(len(found))
    number = told or evidence.two.rank
    unit = 1.0 if sums_over_samples(loss_fn, outputs[:1], outputs[:1] + 1) else 1.0 / number
    solved = [solve_target(loss_fn, o, s / unit) for o, s in zip(outputs, found.signal, strict=True)]
    targets = [t for t in solved if t is not None]
    if len(targets) < len(solved):
        return Answers(rows, None, ("the loss does not determine targets from its gradient",), None)
    known = told == evidence.two.rank or unit == 1.0
    assumed = (
        None
        if known
        else (f"targets hold if all {number} different samples came once; declare Knowledge(num_samples=...)")
    )
    return Answers(rows, torch.stack(targets), (), assumed)


def solve_target(loss_fn: LossFn, outputs: Tensor, signal: Tensor, *, steps: int = 20) -> Tensor | None:
    """The target for which one sample's loss has the gradient `signal` by its outputs, by Newton's method.

    Cross-entropy and squared errors are affine in the target: one step ends it. Cross-entropy leaves one
    direction open; the probabilities that sum to one are taken.

    Parameters
    ----------
    loss_fn : callable
    outputs, signal : Tensor of shape (K,)
    steps : int, default 20

    Returns
    -------
    Tensor of shape (K,) or None

    Examples
    --------
    >>> outputs, signal = torch.tensor([1.0, 2.0]).double(), torch.tensor([0.5, -0.5]).double()
    >>> solve_target(torch.nn.functional.mse_loss, outputs, signal)
    tensor([0.5000, 2.5000], dtype=torch.float64)
    """

    def gradient(target: Tensor) -> Tensor:
        with torch.enable_grad():
            o = outputs.detach()[None].requires_grad_()
            (g,) = torch.autograd.grad(loss_fn(o, target[None]), o, create_graph=True)
        return g[0]

    enough = 1e-9 * (1e-3 + float(signal.abs().max()))
    try:
        for start in (outputs.softmax(0) - signal, outputs - signal):
            target = start.detach()
            for _ in range(steps):
                miss = (gradient(target) - signal).detach()
                if float(miss.abs().max()) <= enough:
                    return target
                jacobian = torch.autograd.functional.jacobian(gradient, target)
                target = target - torch.linalg.lstsq(jacobian, miss[:, None], driver="gelsd").solution[:, 0]
    except REPLAY_ERRORS:
        return (
            None  # the loss takes no targets shaped as the outputs, or its gradient cannot be differentiated
        )
    return None
