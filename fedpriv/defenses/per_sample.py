"""Per-sample gradients: clipping and noise that protect a single sample (DP-SGD)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from fedpriv.defenses.base import Context, Measurements
from fedpriv.defenses.clip import check_clip_norm
from fedpriv.defenses.local import LocalStep, StepDefense
from fedpriv.defenses.noise import check_noise_multiplier
from fedpriv.defenses.randomness import given_or_fresh, standard_normal
from fedpriv.defenses.vectors import cast_like
from fedpriv.wire import Tensors
from fedpriv.wire.mechanisms import Mechanism, Noised, PerSampleClipped

_AT_ONCE = 64
"""Per-sample gradients in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class PerSampleClip(StepDefense):
    """Scale every sample's gradient to an L2 norm of at most `clip_norm` before the samples are added up.

    ``gradient = sum_i g_i * min(1, clip_norm / ||g_i||) / denominator``. No sample stands out by its size any
    more; alone it hides nothing. With noise it is `DPSGD`.

    Parameters
    ----------
    clip_norm : float, default 1.0
        L2 norm over all parameters jointly, of the gradient of ``loss_fn`` on a batch of one.
    denominator : float
        What the sum is divided by: the batch size where the loss is a mean over the batch, 1 where it is a
        sum. A public constant, not the number of samples at hand: dividing by that would let one sample
        change the weight of all others.

    Notes
    -----
    Models that mix the samples of a batch have no per-sample gradients: batch norm in training mode is
    refused. Group, layer and instance norm are fine.

    The report holds ``num_samples``, ``fraction_clipped`` and ``largest_sample_norm``.
    """

    clip_norm: float = 1.0
    denominator: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_clip_norm(self.clip_norm)
        if not (math.isfinite(self.denominator) and self.denominator > 0):
            raise ValueError(
                f"denominator must be a positive finite number, got {self.denominator!r}; it is the batch "
                "size for a mean loss and 1 for a summed one"
            )

    def knowledge(self, scale: float = 1.0) -> tuple[Mechanism, ...]:  # noqa: ARG002 (the interface)
        """The bound and the denominator."""
        return (PerSampleClipped(clip_norm=self.clip_norm, denominator=self.denominator),)

    def _gradient(
        self,
        step: LocalStep,
        context: Context,  # noqa: ARG002 (the interface)
    ) -> tuple[float, dict[str, torch.Tensor], Measurements]:
        total, values = clipped_sum(step, self.clip_norm)
        mean = {name: tensor / self.denominator for name, tensor in total.items()}
        return step.loss(step.parameters), cast_like(mean, step.parameters), values


@dataclass(frozen=True, kw_only=True)
class DPSGD(StepDefense):
    """Clip every sample's gradient, add up, add Gaussian noise: differential privacy for one sample.

    ``gradient = (sum_i g_i * min(1, clip_norm / ||g_i||) + N(0, (noise_multiplier * clip_norm)²)) /
    denominator`` in every local step, on every coordinate, scalars included.

    Parameters
    ----------
    clip_norm : float, default 1.0
        L2 norm over all parameters jointly, of the gradient of ``loss_fn`` on a batch of one.
    noise_multiplier : float, default 1.0
        Noise standard deviation divided by `clip_norm`. Must be positive: for clipping alone use
        `PerSampleClip`.
    denominator : float
        The batch size where the loss is a mean over the batch, 1 where it is a sum; a public constant.
    generator : torch.Generator, optional
        Source of the noise; without it the trainer's, or fresh entropy.

    Notes
    -----
    *What it protects.* Unit of privacy: one sample; adjacency: add/remove. Each local step is one release of
    the Gaussian mechanism with `noise_multiplier`. The server sees the steps only through the update, so the
    guarantee composed over all local steps of all rounds holds against it; it needs no trusted party. A
    client with many samples of one person protects that person less.

    *What it does not.* The trainer cuts the data into a shuffled partition. That is not the Poisson sampling
    that makes subsampling amplify privacy, so account with ``sampling_rate=1`` for the passes over the data
    (one release a pass: each sample is in one batch of it). The loss values of a run are computed without
    noise and never cross the wire.

    The report holds ``noise_std`` (on the gradient, so divided by `denominator`), ``num_samples``,
    ``fraction_clipped`` and ``largest_sample_norm``.

    References
    ----------
    .. [1] M. Abadi et al., "Deep learning with differential privacy", CCS 2016, Algorithm 1,
       https://arxiv.org/abs/1607.00133
    """

    clip_norm: float = 1.0
    noise_multiplier: float = 1.0
    denominator: float
    generator: torch.Generator | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the ranges."""
        clip = PerSampleClip(clip_norm=self.clip_norm, denominator=self.denominator)
        check_noise_multiplier(self.noise_multiplier, instead=clip)

    def noise_std(self) -> float:
        """Standard deviation of the noise on one coordinate of the gradient of one step."""
        return self.noise_multiplier * self.clip_norm / self.denominator

    def knowledge(self, scale: float = 1.0) -> tuple[Mechanism, ...]:
        """The bound, the denominator and the noise."""
        clipped = PerSampleClipped(clip_norm=self.clip_norm, denominator=self.denominator)
        return clipped, Noised(std=scale * self.noise_std())

    def _gradient(
        self, step: LocalStep, context: Context
    ) -> tuple[float, dict[str, torch.Tensor], Measurements]:
        total, values = clipped_sum(step, self.clip_norm)
        generator = given_or_fresh(self.generator, context.generator)
        std = self.noise_std()
        noisy = {n: t / self.denominator + std * standard_normal(t, generator) for n, t in total.items()}
        return (
            step.loss(step.parameters),
            cast_like(noisy, step.parameters),
            {"noise_std": std, **values},
        )


def clipped_sum(step: LocalStep, clip_norm: float) -> tuple[dict[str, torch.Tensor], Measurements]:
    """The sum over the samples of their clipped gradients, in float64, and what clipping did."""
    _refuse_mixing(step.model)
    per_sample = _per_sample(step)
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in step.parameters.items()}
    norms = []
    for inputs, targets in zip(step.inputs.split(_AT_ONCE), step.targets.split(_AT_ONCE), strict=True):
        gradients = {name: g.double() for name, g in per_sample(step.parameters, inputs, targets).items()}
        # [:, None]: a scalar parameter has gradients of shape (n,), where flatten(1) would find nothing
        squares = sum(g[:, None].flatten(1).square().sum(1) for g in gradients.values())
        norm = torch.as_tensor(squares).sqrt()
        # one rounding error below the bound rather than above it
        factor = (clip_norm / norm * (1 - 1e-15)).clamp(max=1.0)
        for name, g in gradients.items():
            total[name] += torch.tensordot(factor, g, dims=1)
        norms.append(norm)
    every = torch.cat(norms)
    return total, {
        "num_samples": len(every),
        "fraction_clipped": float((every > clip_norm).double().mean()),
        "largest_sample_norm": float(every.max()),
    }


def _per_sample(step: LocalStep) -> Callable[[Tensors, torch.Tensor, torch.Tensor], Tensors]:
    """``(parameters, inputs, targets) -> gradients`` with one row a sample; dropout differs per sample."""

    def loss_of_one(w: Tensors, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        outputs = functional_call(step.model, {**w, **step.fixed}, (x.unsqueeze(0),))
        return step.loss_fn(outputs, y.unsqueeze(0))

    gradients = vmap(grad(loss_of_one), in_dims=(None, 0, 0), randomness="different")

    def checked(w: Tensors, inputs: torch.Tensor, targets: torch.Tensor) -> Tensors:
        detached = {name: tensor.detach() for name, tensor in w.items()}
        try:
            return gradients(detached, inputs, targets)  # type: ignore[no-any-return]
        except (RuntimeError, IndexError, TypeError) as error:
            first_line = str(error).partition("\n")[0]
            raise ValueError(
                "per-sample gradients need a model and a loss that accept a batch of one and change no "
                f"buffers, got: {first_line}"
            ) from error

    return checked


def _refuse_mixing(model: nn.Module) -> None:
    """Raise a ``ValueError`` that names a layer whose outputs depend on the other samples of the batch."""
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm) and (layer.training or not layer.track_running_stats):
            raise ValueError(
                f"per-sample gradients need samples that do not influence each other, but layer {name!r} is "
                f"{type(layer).__name__}, which averages over the batch; use nn.GroupNorm, or model.eval() "
                "to keep its statistics fixed"
            )
