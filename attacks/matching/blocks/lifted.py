"""The exact finish: the input and the choices of max pooling together, by alternation.

A ReLU network's gradient jumps with its input because pooling changes its choice. With the choices as
unknowns of their own nothing jumps: the weight gradient of the last convolution of a block is *linear* in
the choices for a fixed input, and for fixed choices *continuous* in the input, as is the pooled output. So we
alternate between beliefs about the choices (`choices`) and damped Gauss-Newton steps on the input, each kind
of equation weighted by what it leaves unexplained. When most beliefs are firm, each window takes its most
likely entry, and channels that still disagree count less (group-wise least absolute deviations), until all
agree to rounding. Ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from attacks.exact.layers.chain import called
from attacks.matching.blocks.choices import beliefs
from attacks.matching.blocks.newton import gauss_newton
from attacks.matching.blocks.softened import SoftMaxPool2d
from attacks.matching.blocks.top import Top

LARGEST = 2500
"""More window entries than this (batch times positions) make the program for the choices too large."""
_FIRM = 0.93
_PATIENCE = 4
_DOUBT = 3.0
_FEW = 0.04
_DAMPING = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class Lifted:
    """Where the alternation stands.

    Parameters
    ----------
    x : Tensor of shape (n, *input_shape)
    belief : Tensor of shape (channels, windows, entries)
    error : float
        Root mean square of the weight gradient that is not explained, relative.
    interrupted : bool
        By Ctrl-C.
    """

    x: Tensor
    belief: Tensor
    error: float
    interrupted: bool = False


def why_not_lifted(top: Top) -> str | None:
    """Why the alternation is not tried, or None."""
    if top.chooses and top.unknown_choices > LARGEST:
        return f"{top.unknown_choices} pooling entries a channel are more than {LARGEST}"
    below = [called(name, module) for name, module in top.block.layers[: top.depth] if _pools(module)]
    if below:
        return f"{below[0]} below {top.layer} makes choices of its own"
    if not bool((top.known & (top.signals != 0)).any()):
        return f"nothing that {top.layer} computes reaches the loss"
    equations = top.sums.numel() + int(top.known.sum())
    unknowns = len(top.block.cut.values) * int(torch.Size(top.block.input_shape).numel())
    if equations <= unknowns:
        return f"{top.layer} gives {equations} equations for {unknowns} unknowns"
    return None


def _pools(module: nn.Module) -> bool:
    """The softened kind stands for `nn.MaxPool2d`; other kinds are left as they are."""
    return isinstance(module, (SoftMaxPool2d, nn.MaxPool2d, nn.AdaptiveMaxPool2d))


def finish(
    top: Top,
    x: Tensor,
    *,
    rounds: int = 40,
    enough: float = 1e-6,
    deadline: float = float("inf"),
    watch: Callable[[Tensor], None] | None = None,
) -> Lifted:
    """Alternate from the estimate `x` until the weight gradient is explained up to `enough`.

    Returns the best point seen, judged by the unexplained part of the weight gradient. No round begins that
    would not end before the deadline (in terms of ``time.perf_counter()``); Ctrl-C ends it, too. `watch` is
    shown the inputs after every round.
    """
    best = Lifted(x=x, belief=_first_beliefs(top, x), error=float("inf"))
    walk, slowest = _Walk(top, x, best.belief, firm=not top.chooses), 0.0
    with tqdm(total=rounds, desc="exact finish", disable=None, leave=False, delay=1.0) as bar:
        try:
            for _ in range(rounds):
                begun = time.perf_counter()
                if begun + slowest > deadline or best.error <= enough or walk.wasted > 3 * _PATIENCE:
                    break
                best = walk.round(best, deadline)
                if watch is not None:
                    watch(walk.x)
                slowest = max(slowest, time.perf_counter() - begun)
                bar.set_postfix(residual=f"{best.error:.2e}", refresh=False)
                bar.update()
        except KeyboardInterrupt:
            return replace(best, interrupted=True)
    return best


@dataclass(eq=False)
class _Walk:
    """Where the alternation is, and whether its beliefs are firm now."""

    top: Top
    x: Tensor
    belief: Tensor
    firm: bool
    returned: bool = False
    stale: int = 0
    wasted: int = 0

    def round(self, best: Lifted, deadline: float) -> Lifted:
        """Beliefs, a step, and the better of `best` and what was reached."""
        top, state = self.top, _Residuals(self.top, self.x)
        self.belief = state.beliefs(self.belief, self.firm, deadline)
        if self.firm:
            self.belief = F.one_hot(self.belief.argmax(-1), self.belief.shape[-1]).to(self.belief)
            self.x = _firm_step(top, self.x, self.belief, deadline)
        else:
            self.x = _soft_step(top, self.x, self.belief, state, deadline)
        reached = _Residuals(top, self.x).gradient_error(self.belief)
        better = reached < 0.9 * best.error
        self.stale, self.wasted = (0, 0) if better else (self.stale + 1, self.wasted + 1)
        if top.chooses and self.stale > _PATIENCE:
            self.firm, self.stale = not self.firm, 0
            self.returned = self.returned or not self.firm
        elif not (self.firm or self.returned):
            self.firm = float(self.belief.amax(-1)[top.known].mean()) > _FIRM
        return best if best.error <= reached else Lifted(x=self.x, belief=self.belief, error=reached)


def _first_beliefs(top: Top, x: Tensor) -> Tensor:
    with torch.no_grad():
        results = top.results(top.patches(x))
    return torch.softmax(30.0 / top.sizes[1] * results, dim=-1)


class _Residuals:
    """What an estimate leaves unexplained, in units of the observed."""

    def __init__(self, top: Top, x: Tensor) -> None:
        self.top = top
        with torch.no_grad():
            self.patches = top.patches(x)
            self.results = top.results(self.patches)

    def per_channel(self, belief: Tensor) -> Tensor:
        """Root mean square error of each channel's weight gradient."""
        left = self.top.gradient(self.patches, belief) - self.top.sums
        return left.square().mean(1).sqrt() / self.top.sizes[0]

    def gradient_error(self, belief: Tensor) -> float:
        """Over all channels."""
        return float(self.per_channel(belief).square().mean().sqrt())

    def output_error(self) -> float:
        """Root mean square error of the pooled outputs."""
        reached = self.results.amax(-1)
        wanted = torch.where(self.top.known, self.top.outputs, torch.zeros_like(reached))
        reached = torch.where(self.top.known, reached, reached.clamp_min(0.0))
        return float((reached - wanted).square().mean().sqrt()) / self.top.sizes[1]

    def beliefs(self, start: Tensor, firm: bool, deadline: float) -> Tensor:
        """Beliefs from here; firm ones are looked at again first where channels disagree with the rest.

        The noise is then the error of the typical channel, which has all its choices right.
        """
        if not self.top.chooses:
            return start
        errors = self.per_channel(start)
        noise = float(errors.median()) if firm else float(errors.square().mean().sqrt())
        looked = errors > _DOUBT * noise
        if not firm or float(looked.double().mean()) < _FEW:
            looked = torch.ones_like(looked)
        unit = max(self.output_error(), 1e-7) * self.top.sizes[1]
        costs = ((self.results - self.top.outputs[..., None]) / unit).square() / 2
        found = beliefs(
            self.patches,
            self.top.sums[looked],
            (self.top.signals * self.top.known)[looked],
            costs[looked],
            start[looked],
            noise=max(noise, 1e-7) * self.top.sizes[0],
            steps=200 if firm else 60,
            deadline=deadline,
        )
        every = start.clone()
        every[looked] = found
        return every


def _soft_step(top: Top, x: Tensor, belief: Tensor, state: _Residuals, deadline: float) -> Tensor:
    """Gauss-Newton on weight gradient, expected outputs, and outputs that are too large."""
    ratio = state.gradient_error(belief) / max(state.output_error(), 1e-7)

    def equations(x: Tensor) -> Tensor:
        patches = top.patches(x)
        left = (top.gradient(patches, belief) - top.sums) / top.sizes[0]
        off = (top.results(patches) - top.outputs[..., None]) / top.sizes[1]
        expected = belief.sqrt() * off * top.known[..., None]
        above = (1 - belief).clamp_min(0.0).sqrt() * off.clamp_min(0.0)
        return torch.cat([left.flatten(), ratio * expected.flatten(), ratio * above.flatten()])

    return gauss_newton(equations, x, steps=12, damping=_DAMPING, deadline=deadline)


def _firm_step(top: Top, x: Tensor, belief: Tensor, deadline: float) -> Tensor:
    """Gauss-Newton with the choices taken for granted; channels that disagree count less."""
    errors = _Residuals(top, x).per_channel(belief)
    typical = errors.median()
    weights = (typical / errors.clamp_min(float(typical)).clamp_min(1e-30)).sqrt()
    if not top.chooses:
        weights = torch.ones_like(weights)

    def equations(x: Tensor) -> Tensor:
        patches = top.patches(x)
        left = weights[:, None] * (top.gradient(patches, belief) - top.sums) / top.sizes[0]
        off = (belief * top.results(patches)).sum(-1) - top.outputs
        off = 0.1 * weights[:, None] * off / top.sizes[1] * top.known
        return torch.cat([left.flatten(), off.flatten()])

    return gauss_newton(equations, x, steps=25, damping=1e-6, deadline=deadline)
