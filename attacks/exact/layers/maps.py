"""The linear maps that a network is made of, each with the transposes that its equations need.

A layer without its bias is a linear map ``A`` of its input x. Three more maps follow from it: its
transpose, which carries the backward signal; ``x -> dL/dW`` for a fixed signal at its output, which is
linear as well; and the transpose of that. For a convolution all four are convolutions, so PyTorch's kernels
evaluate them for every stride, padding, dilation and number of groups, and no large matrix is ever formed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
POOLINGS = (
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
)
SHAPES = (nn.Identity, nn.Flatten, nn.Unflatten, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.PixelShuffle)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearMap:
    """A module that is linear in its input, apart from an offset: pooling, reshaping, batch norm (fixed).

    Parameters
    ----------
    name : str
        Where it stands in the model.
    module : nn.Module
    state : mapping of str to Tensor
        Its parameters and buffers as sent, float64.
    in_shape, out_shape : tuple of int
        Of one sample.
    """

    name: str
    module: nn.Module
    state: Mapping[str, Tensor]
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]

    @property
    def kind(self) -> str:
        """The module's class, for reports."""
        return type(self.module).__name__

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"

    @property
    def has_weight(self) -> bool:
        """Whether the gradient of its weight gives equations."""
        return False

    @property
    def offset(self) -> Tensor:
        """What it returns for zero; shape (1, *out_shape)."""
        return self._call(torch.zeros(1, *self.in_shape, dtype=torch.float64))

    def apply(self, x: Tensor) -> Tensor:
        """``A x`` without the offset: (k, *in_shape) to (k, *out_shape)."""
        return self._call(x) - self.offset

    def transpose(self, signal: Tensor) -> Tensor:
        """``A^T signal``: (k, *out_shape) to (k, *in_shape)."""
        with torch.enable_grad():
            x = torch.zeros(len(signal), *self.in_shape, dtype=torch.float64, requires_grad=True)
            return torch.autograd.grad(self._call(x), x, signal)[0]

    def weight_gradient(self, x: Tensor, signal: Tensor) -> Tensor:
        """``dL/dW`` for each of k inputs under one signal (1, *out_shape): shape (k, *weight shape)."""
        del x, signal
        raise self._no_weight()

    def weight_gradient_transpose(self, gradient: Tensor, signal: Tensor) -> Tensor:
        """Transpose of `weight_gradient` in its first argument: (k, *weight shape) to (k, *in_shape)."""
        del gradient, signal
        raise self._no_weight()

    def bias_gradient(self, signal: Tensor) -> Tensor:
        """``dL/db`` under the signal (1, *out_shape): known before the input is, so it checks the signal."""
        del signal
        raise self._no_weight()

    def _no_weight(self) -> TypeError:
        return TypeError(f"{self} has no weight")

    def _call(self, x: Tensor) -> Tensor:
        result: Tensor = functional_call(self.module, dict(self.state), (x,))
        return result


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearLayerMap(LinearMap):
    """A fully connected layer, on the last axis."""

    @property
    def has_weight(self) -> bool:
        """See `LinearMap`."""
        return True

    def apply(self, x: Tensor) -> Tensor:
        """See `LinearMap`."""
        return x @ self.state["weight"].T

    def transpose(self, signal: Tensor) -> Tensor:
        """See `LinearMap`."""
        return signal @ self.state["weight"]

    def weight_gradient(self, x: Tensor, signal: Tensor) -> Tensor:
        """See `LinearMap`."""
        rows = signal.reshape(-1, signal.shape[-1])
        return rows.T @ x.reshape(len(x), -1, x.shape[-1])

    def weight_gradient_transpose(self, gradient: Tensor, signal: Tensor) -> Tensor:
        """See `LinearMap`."""
        rows = signal.reshape(-1, signal.shape[-1])
        return (rows @ gradient).reshape(len(gradient), *self.in_shape)

    def bias_gradient(self, signal: Tensor) -> Tensor:
        """See `LinearMap`."""
        return signal.reshape(-1, signal.shape[-1]).sum(0)


@dataclass(frozen=True, kw_only=True, eq=False)
class ConvolutionMap(LinearMap):
    """A convolution in one, two or three dimensions, zero padding.

    ``<dL/dW(x), V> = <signal, V * x>`` for every V, so the weight gradient's transpose in x is the input
    gradient of a convolution whose weight is V.
    """

    @property
    def has_weight(self) -> bool:
        """See `LinearMap`."""
        return True

    def apply(self, x: Tensor) -> Tensor:
        """See `LinearMap`."""
        s = settings(self.module)
        zeros = [0] * len(s.stride)
        return torch.convolution(
            x, self.state["weight"], None, s.stride, s.padding, s.dilation, False, zeros, s.groups
        )

    def transpose(self, signal: Tensor) -> Tensor:
        """See `LinearMap`."""
        return self._backward(signal, None, self.state["weight"])

    def weight_gradient(self, x: Tensor, signal: Tensor) -> Tensor:
        """See `LinearMap`."""
        return torch.stack([self._backward(signal, one[None], self.state["weight"]) for one in x])

    def weight_gradient_transpose(self, gradient: Tensor, signal: Tensor) -> Tensor:
        """See `LinearMap`."""
        return torch.cat([self._backward(signal, None, one) for one in gradient])

    def bias_gradient(self, signal: Tensor) -> Tensor:
        """See `LinearMap`."""
        return signal.sum(dim=[0, *range(2, signal.dim())])

    def _backward(self, signal: Tensor, x: Tensor | None, weight: Tensor) -> Tensor:
        """Gradient by the weight if `x` is given, else by the input."""
        s = settings(self.module)
        wanted = [x is None, x is not None, False]
        if x is None:  # only its shape is read
            x = signal.new_empty(()).expand(len(signal), *self.in_shape)
        found = torch.ops.aten.convolution_backward(
            signal,
            x,
            weight,
            None,
            s.stride,
            s.padding,
            s.dilation,
            False,
            [0] * len(s.stride),
            s.groups,
            wanted,
        )
        result: Tensor = found[wanted.index(True)]
        return result


@dataclass(frozen=True)
class Settings:
    """How a convolution moves over its input, one number per dimension."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def settings(module: nn.Module) -> Settings:
    """The settings of a convolution, padding as numbers."""
    m: Any = module
    padding = m.padding
    if padding == "valid":
        padding = (0,) * len(m.stride)
    elif padding == "same":
        padding = tuple(d * (k - 1) // 2 for d, k in zip(m.dilation, m.kernel_size, strict=True))
    return Settings(m.stride, padding, m.dilation, m.groups)


def why_not_linear(module: nn.Module) -> str | None:
    """Why `module` gives no linear map, or None if it does; the sentence goes on after the module's name."""
    if isinstance(module, DROPOUTS):
        return "drops values at random (training mode)" if module.training and module.p > 0 else None
    if isinstance(module, NORMS):
        batch_statistics = module.training or module.running_mean is None
        return "normalizes by the statistics of the batch (training mode)" if batch_statistics else None
    if isinstance(module, CONVOLUTIONS):
        if module.padding_mode != "zeros":
            return f"pads with {module.padding_mode!r} values, and only zero padding is supported"
        spans = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        if module.padding == "same" and any(span % 2 for span in spans):
            return "pads one side more than the other"
        return None
    if isinstance(module, (nn.Linear, *POOLINGS, *SHAPES)):
        return None
    return "is not linear"


def linear_map(
    name: str, module: nn.Module, state: Mapping[str, Tensor], in_shape: tuple[int, ...]
) -> LinearMap:
    """The map of a module that `why_not_linear` has let pass."""
    probe = torch.zeros(1, *in_shape, dtype=torch.float64)
    with torch.no_grad():
        out_shape = tuple(functional_call(module, dict(state), (probe,)).shape[1:])
    kind = (
        ConvolutionMap
        if isinstance(module, CONVOLUTIONS)
        else LinearLayerMap
        if isinstance(module, nn.Linear)
        else LinearMap
    )
    return kind(name=name, module=module, state=state, in_shape=in_shape, out_shape=out_shape)
