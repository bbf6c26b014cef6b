"""The last convolution of a block and the pooling behind it: equations continuous in the input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.exact.layers.activations import Activation
from attacks.exact.layers.maps import ConvolutionMap, linear_map, settings, why_not_linear
from attacks.matching.blocks.block import Block
from attacks.matching.blocks.softened import SoftMaxPool2d, SoftReLU, why_not_soft, windows_of
from attacks.replay import parameter_name


@dataclass(frozen=True, kw_only=True, eq=False)
class Top:
    """Convolution, activation and perhaps max pooling at the end of a block whose output is known.

    With Q windows of K positions each (without pooling every position is a window of its own):

    Parameters
    ----------
    block : Block
    depth : int
        How many layers are below the convolution.
    layer : ConvolutionMap
    windows : Tensor of shape (Q, K)
        Output positions of the convolution in each window, -1 in the padding.
    outputs : Tensor of shape (channels, n * Q)
        The largest output of the convolution in each window, as far as it is `known`.
    known : bool Tensor of shape (channels, n * Q)
        Elsewhere ReLU has cut it off, and it is negative.
    signals : Tensor of shape (channels, n * Q)
        The gradient of the loss by that largest output.
    sums : Tensor of shape (channels, patch size)
        The weight gradient.
    """

    block: Block
    depth: int
    layer: ConvolutionMap
    windows: Tensor
    outputs: Tensor
    known: Tensor
    signals: Tensor
    sums: Tensor

    @classmethod
    def of(cls, block: Block, shapes: list[tuple[int, ...]], tolerance: float) -> Top | None:
        """Read the end of `block`; None if it does not end this way, or the weight came back frozen."""
        end = _ending(block)
        if end is None:
            return None
        depth, activation, pool = end
        name, module = block.layers[depth]
        key = parameter_name(name, "weight")
        if key not in block.observed:
            return None
        prefix = f"{name}." if name else ""
        state = {n.removeprefix(prefix): t for n, t in block.state.items() if n.startswith(prefix)}
        layer = linear_map(name, module, state, shapes[depth])
        assert isinstance(layer, ConvolutionMap)
        try:
            outputs, known, slope = _before(activation, block, tolerance)
        except ValueError:
            return None
        return cls(
            block=block,
            depth=depth,
            layer=layer,
            windows=_windows(layer, pool),
            outputs=_by_channel(outputs),
            known=_by_channel(known),
            signals=_by_channel(block.cut.signals * slope),
            sums=block.observed[key].flatten(1),
        )

    def to(self, dtype: torch.dtype) -> Top:
        """The same numbers in another precision."""
        state = {n: t.to(dtype) for n, t in self.layer.state.items()}
        return replace(
            self,
            block=self.block.to(dtype),
            layer=replace(self.layer, state=state),
            outputs=self.outputs.to(dtype),
            signals=self.signals.to(dtype),
            sums=self.sums.to(dtype),
        )

    @property
    def chooses(self) -> bool:
        """Whether there is a pooling whose choices are unknown."""
        return self.windows.shape[1] > 1

    @property
    def unknown_choices(self) -> int:
        """Entries of all windows of one channel."""
        return self.windows.numel() * len(self.block.cut.values)

    @cached_property
    def sizes(self) -> tuple[float, float]:
        """Root mean squares of `sums` and of the known `outputs`: the units of the two kinds of equations."""
        known = self.outputs[self.known]
        return float(self.sums.square().mean().sqrt()), float(known.square().mean().sqrt())

    def patches(self, x: Tensor) -> Tensor:
        """What the convolution sees of the input x, per window: (n * Q, K, patch size); zero in padding."""
        s = settings(self.layer.module)
        kernel = tuple(self.layer.state["weight"].shape[2:])
        maps = self.block.forward(x, self.depth)
        found = F.unfold(maps, kernel, s.dilation, s.padding, s.stride).mT  # (n, positions, size)
        inside = (self.windows >= 0)[..., None].to(found)
        return (found[:, self.windows.clamp_min(0)] * inside).flatten(0, 1)

    def results(self, patches: Tensor) -> Tensor:
        """The convolution's outputs at those patches: (channels, n * Q, K); far below zero in padding."""
        weight = self.layer.state["weight"].flatten(1)
        bias = self.layer.state.get("bias", weight.new_zeros(len(weight)))
        found = (patches @ weight.T + bias).permute(2, 0, 1)
        outside = (self.windows < 0).repeat(len(self.block.cut.values), 1)
        return found.masked_fill(outside, -1e3 * self.sizes[1])

    def gradient(self, patches: Tensor, belief: Tensor) -> Tensor:
        """The weight gradient, if the signals come from the positions in `belief` (channels, n * Q, K)."""
        return (belief * self.signals[..., None]).flatten(1) @ patches.flatten(0, 1)


def _ending(block: Block) -> tuple[int, tuple[str, nn.Module] | None, nn.MaxPool2d | None] | None:
    """Depth of the convolution, the activation behind it, the pooling."""
    activation: tuple[str, nn.Module] | None = None
    pool: nn.MaxPool2d | None = None
    for depth in reversed(range(len(block.layers))):
        name, module = block.layers[depth]
        if isinstance(module, nn.Conv2d):
            plain = module.groups == 1 and why_not_linear(module) is None
            return (depth, activation, pool) if plain else None
        if isinstance(module, SoftMaxPool2d) and pool is None and why_not_soft(module.pool) is None:
            pool = module.pool
        elif isinstance(module, nn.Identity) or (isinstance(module, nn.Dropout) and not module.training):
            continue
        elif activation is None:
            activation = (name, module)
        else:
            return None
    return None


def _before(
    activation: tuple[str, nn.Module] | None, block: Block, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Values before the activation, where they are known, and its slope there (pooling commutes with it)."""
    values = block.cut.values
    if activation is None:
        return values, torch.ones_like(values, dtype=torch.bool), torch.ones_like(values)
    name, module = activation
    limit = tolerance * float(values.abs().max())
    if isinstance(module, SoftReLU):
        known = values > limit
        return values.clamp_min(0.0), known, known.to(values)
    prefix = f"{name}." if name else ""
    state = {n.removeprefix(prefix): t for n, t in block.state.items() if n.startswith(prefix)}
    found = Activation(name, module, state)
    if found.why_not() is not None:
        raise ValueError(found.why_not())
    value, known, slope = found.invert(values, limit)
    return value, known, slope


def _windows(layer: ConvolutionMap, pool: nn.MaxPool2d | None) -> Tensor:
    count = int(torch.Size(layer.out_shape[1:]).numel())
    places = torch.arange(count, dtype=torch.float64)
    if pool is None:
        return places.long()[:, None]
    grid = places.reshape(1, 1, *layer.out_shape[1:])
    return windows_of(grid, pool, fill=-1.0).flatten(0, 3).long()


def _by_channel(values: Tensor) -> Tensor:
    return values.flatten(2).transpose(0, 1).flatten(1)
