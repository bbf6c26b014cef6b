"""Lengths and products of gradients without the weight gradients of linear layers.

Behind a linear layer with inputs A (n, in) and signals D (n, out) the weight gradient is ``D^T A``, hence

    ``|D^T A|^2 = sum (A A^T) * (D D^T)``    and    ``<D^T A, G> = sum (D G) * A``:

two n × n Gram matrices instead of an (out, in) matrix and its second derivatives. With these two numbers for
every parameter, and the observed one's length, squared errors and cosines are the same as from the gradients
themselves, up to rounding: a squared error below about ``1e-6`` in float32 is lost in the cancellation, so
the last digits are left to `attacks.matching.compose.refine`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from attacks.matching.unknown import applied_once
from attacks.replay import REPLAY_ERRORS, own_randomness, parameter_name

if TYPE_CHECKING:
    from attacks.matching.problem import Problem

_WORTH = 4
"""A weight must have this many times the entries of A and D together."""


@dataclass(frozen=True, eq=False, kw_only=True)
class GramProducts:
    """Squares and products of a problem's gradients; make it with `GramProducts.of`.

    Parameters
    ----------
    problem : Problem
    layers : tuple of str
        The linear layers whose weight gradients are never formed.
    """

    problem: Problem
    layers: tuple[str, ...]

    @classmethod
    def of(cls, problem: Problem) -> GramProducts | None:
        """For a problem with linear layers that see each sample once, else None.

        Nothing is taken on trust: the result is compared with the gradients themselves on random inputs.
        """
        observation = problem.observation
        if problem.moving != problem.names or len(observation.update.contributors) > 1:
            return None
        if observation.update.kind != "gradient" and observation.knowledge.local_steps > 1:
            return None
        try:
            once = applied_once(observation, problem.input_shape)
            layers = tuple(n for n in once if _worth(problem, n))
            products = cls(problem=problem, layers=layers)
            return products if layers and products._agrees() else None
        except REPLAY_ERRORS:
            return None

    def __call__(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """``|g_l|^2`` and ``<g_l, g*_l>`` for every parameter l, as two tensors; differentiable.

        Parameters
        ----------
        inputs : Tensor of shape (n, *input_shape)
        targets : Tensor of shape (n, ...)
        """
        problem = self.problem
        weights = {parameter_name(n, "weight"): n for n in self.layers}
        biases = {parameter_name(n, "bias"): n for n in self.layers}
        plain = [n for n in problem.names if n not in weights and n not in biases]
        here = {n: problem.state[n].detach().requires_grad_(n in plain) for n in problem.names}
        seen: dict[str, tuple[Tensor, Tensor]] = {}
        modules = dict(problem.observation.model.named_modules())
        hooks = [modules[n].register_forward_hook(_remember(n, seen)) for n in self.layers]
        try:
            with torch.enable_grad():
                loss = problem.loss(here, inputs, targets)
        finally:
            for hook in hooks:
                hook.remove()
        leaves = [*(seen[n][1] for n in self.layers), *(here[n] for n in plain)]
        found = torch.autograd.grad(
            loss, leaves, create_graph=torch.is_grad_enabled(), allow_unused=True, materialize_grads=True
        )
        signals = dict(zip(self.layers, found[: len(self.layers)], strict=True))
        slopes = dict(zip(plain, found[len(self.layers) :], strict=True))
        squares, products = [], []
        for name, observed in zip(problem.names, problem.observed, strict=True):
            if name in weights:
                a, d = seen[weights[name]][0], signals[weights[name]]
                squares.append(((a @ a.T) * (d @ d.T)).sum())
                products.append(((d @ observed) * a).sum())
            else:
                slope = signals[biases[name]].sum(0) if name in biases else slopes[name]
                squares.append(slope.square().sum())
                products.append((slope * observed).sum())
        return torch.stack(squares), torch.stack(products)

    def _agrees(self) -> bool:
        generator = torch.Generator().manual_seed(0)
        size = (self.problem.num_samples, *self.problem.input_shape)
        probe = torch.randn(size, generator=generator, dtype=torch.float64)
        probe = probe.to(self.problem.device, self.problem.dtype)
        with torch.no_grad(), own_randomness():
            targets = self.problem.some_targets(probe)
            squares, products = self(probe, targets)
            plain = self.problem.gradients(probe, targets)
        lengths = torch.stack([g.square().sum() for g in plain])
        along = torch.stack([(g * o).sum() for g, o in zip(plain, self.problem.observed, strict=True)])
        sizes = torch.stack([o.square().sum() for o in self.problem.observed])
        error = (squares - lengths).abs() / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
        off = (products - along).abs() / (lengths * sizes).sqrt().clamp_min(torch.finfo(sizes.dtype).tiny)
        return bool((error.maximum(off) < 1e-3).all())


def _worth(problem: Problem, layer: str) -> bool:
    name = parameter_name(layer, "weight")
    if name not in problem.names:
        return False
    weight = problem.state[name]
    return weight.numel() >= _WORTH * problem.num_samples * sum(weight.shape)


def _remember(
    name: str, seen: dict[str, tuple[Tensor, Tensor]]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def remember(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        out = out if out.requires_grad else out.requires_grad_()
        seen[name] = (args[0], out)
        return out

    return remember
