"""A model's architecture as plain JSON, so that a saved file needs no pickle to be attacked.

Only an allow-list of `torch.nn` layers and `nn.Sequential` of them can be described. Everything else is
saved without a description, and whoever loads the file passes the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as brief  # a hostile value can be long or deep
from typing import Any

import torch
from torch import nn

_CHANNELS = ("in_channels", "out_channels")
_WINDOW = ("kernel_size", "stride", "padding")
_CONVOLUTION = (*_CHANNELS, *_WINDOW, "dilation", "groups", "bias", "padding_mode")
LAYERS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("in_features", "out_features", "bias"),
    nn.Conv1d: _CONVOLUTION,
    nn.Conv2d: _CONVOLUTION,
    nn.BatchNorm1d: ("num_features", "eps", "momentum", "affine", "track_running_stats"),
    nn.BatchNorm2d: ("num_features", "eps", "momentum", "affine", "track_running_stats"),
    nn.AvgPool2d: (*_WINDOW, "ceil_mode", "count_include_pad", "divisor_override"),
    nn.MaxPool2d: (*_WINDOW, "dilation", "return_indices", "ceil_mode"),
    nn.AdaptiveAvgPool2d: ("output_size",),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.Dropout: ("p",),
    nn.ReLU: (),
    nn.LeakyReLU: ("negative_slope",),
    nn.ELU: ("alpha",),
    nn.GELU: ("approximate",),
    nn.SiLU: (),
    nn.Tanh: (),
    nn.Sigmoid: (),
    nn.Softplus: ("beta", "threshold"),
    nn.Identity: (),
}
_BY_NAME = {layer.__name__: layer for layer in LAYERS}
_LARGEST = 2**31
_DEEPEST = 50


def describe(module: nn.Module) -> dict[str, Any] | None:
    """The JSON description of `module`, or None if it is not made of the allowed layers alone.

    Layers that share a parameter, carry one more than their kind has, or run hooks have no description.

    Examples
    --------
    >>> describe(nn.Linear(2, 1))
    {'layer': 'Linear', 'in_features': 2, 'out_features': 1, 'bias': True}
    """
    description = _describe(module)
    if description is None:
        return None
    try:
        rebuilt = rebuild(description, module.state_dict())
    except ValueError:
        return None
    same = [n for n, _ in rebuilt.named_parameters()] == [n for n, _ in module.named_parameters()]
    return description if same else None


def _describe(module: nn.Module) -> dict[str, Any] | None:
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return None
    if type(module) is nn.Sequential:
        # Not named_children: it leaves out the second use of a layer.
        children = {n: None if child is None else _describe(child) for n, child in module._modules.items()}
        return None if None in children.values() else {"layer": "Sequential", "children": children}
    fields = LAYERS.get(type(module))
    if fields is None:
        return None
    values = {name: getattr(module, name) for name in fields}
    if "bias" in values:
        values["bias"] = values["bias"] is not None
    return {"layer": type(module).__name__, **values}


def rebuild(description: Any, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Build the described module with the values of `state`.

    It is first built on the ``meta`` device, which allocates nothing, and only given memory once its names
    and shapes agree with `state`, which was read already: a hostile description cannot ask for more.

    Raises
    ------
    ValueError
        If the description is not of the allowed form or does not fit `state`.
    """
    try:
        with torch.device("meta"):
            module = _build(description, depth=0, budget=[len(state) * 20 + 1000])
    except (TypeError, RuntimeError, ArithmeticError, LookupError, AssertionError) as error:
        raise ValueError(
            f"the description of the model cannot be built ({error!s:.200}); the file is damaged"
        ) from error
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if expected != got:
        raise ValueError(
            f"the description of the model asks for the tensors {expected!s:.300}, the file holds "
            f"{got!s:.300}; the file is damaged or was put together from two"
        )
    integral = [name for name, _ in module.named_parameters() if not state[name].is_floating_point()]
    if integral:
        raise ValueError(f"the parameters {integral!s:.200} are not real numbers; the file is damaged")
    module.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
    return module


def _build(description: Any, *, depth: int, budget: list[int]) -> nn.Module:
    budget[0] -= 1
    if not isinstance(description, dict) or depth > _DEEPEST or budget[0] < 0:
        raise ValueError(
            f"a layer must be described by an object with the key 'layer', got {brief(description)}"
        )
    values = dict(description)
    name = values.pop("layer", None)
    if name == "Sequential" and isinstance(values.get("children"), dict):
        sequence = nn.Sequential()
        for child_name, child in values["children"].items():
            sequence.add_module(child_name, _build(child, depth=depth + 1, budget=budget))
        return sequence
    layer = _BY_NAME.get(name) if isinstance(name, str) else None
    if layer is None or set(values) != set(LAYERS[layer]):
        raise ValueError(
            f"a layer must be 'Sequential' or one of {sorted(_BY_NAME)} with its own settings, "
            f"got {brief(description)}"
        )
    return layer(**{key: _checked(key, value) for key, value in values.items()})


def _checked(key: str, value: Any) -> Any:
    """A setting of a layer: a small number, a short string, null, or a list of whole numbers."""
    if isinstance(value, list | tuple) and len(value) <= 3 and all(isinstance(v, int) for v in value):
        return tuple(_checked(key, v) for v in value)
    if value is None or isinstance(value, bool) or (isinstance(value, str) and len(value) < 20):
        return value
    if isinstance(value, int | float) and abs(value) < _LARGEST:
        return value
    raise ValueError(f"the setting {brief(key)} of a layer must be a number below 2^31, got {brief(value)}")
