"""Whether a sample of the shape that the user gave fits the model, said in the user's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def demand_shape(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Raise a ``ValueError`` unless `model` takes samples of this shape, numbers or tokens.

    Examples
    --------
    >>> from torch import nn
    >>> demand_shape(nn.Linear(20, 2), (20,))
    >>> demand_shape(nn.Linear(20, 2), (4, 5))
    Traceback (most recent call last):
    ...
    ValueError: --input-shape 4,5 does not fit the model: its first layer, Linear, takes 20 features; leave \
it out, or give --input-shape 20
    """
    import torch

    kinds = {t.dtype for t in model.parameters() if t.is_floating_point()}
    numbers = torch.zeros(2, *shape, dtype=next(iter(kinds), torch.float32))
    complaint = _complaint(model, numbers)
    if complaint is None or _complaint(model, torch.zeros(2, *shape, dtype=torch.long)) is None:
        return
    raise ValueError(f"--input-shape {','.join(map(str, shape))} does not fit the model: {complaint}")


def _complaint(model: nn.Module, inputs: torch.Tensor) -> str | None:
    """Which layer does not take what reaches it, and what it takes; None if all do."""
    import torch
    from torch.func import functional_call

    from attacks.replay import REPLAY_ERRORS, own_randomness

    entered: list[tuple[tuple[str, nn.Module], int]] = []
    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    hooks = [
        leaf[1].register_forward_pre_hook(
            lambda _, args, leaf=leaf: entered.append((leaf, args[0].dim() if args else 0))
        )
        for leaf in leaves
    ]
    first = next((leaf for leaf in leaves if list(leaf[1].parameters())), None)
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    try:
        with torch.no_grad(), own_randomness():
            functional_call(model, state, (inputs,))
    except REPLAY_ERRORS as error:
        if entered:
            return _said(entered[-1][0], first)
        return f"{(str(error).splitlines() or [type(error).__name__])[0]}; {_REMEDY}"
    finally:
        for hook in hooks:
            hook.remove()
    # A linear layer takes a row of one sample for a sequence of one, and then no loss means what it says.
    for leaf, dimensions in entered[:1]:
        if getattr(leaf[1], "in_features", 0) == inputs[0].numel() and dimensions > 2:
            return _said(leaf, first)
    return None


_REMEDY = "give the shape of one sample, such as 20 or 3,32,32"


def _said(failed: tuple[str, nn.Module], first: tuple[str, nn.Module] | None) -> str:
    name, layer = failed
    called = f"{type(layer).__name__} {name!r}" if name else type(layer).__name__
    called = f"its first layer, {called}," if failed == first else called
    if hasattr(layer, "in_features"):
        row = f"leave it out, or give --input-shape {layer.in_features}"
        return f"{called} takes {layer.in_features} features; {row if failed == first else _REMEDY}"
    if hasattr(layer, "in_channels"):
        return f"{called} takes {layer.in_channels} channels and their height and width; {_REMEDY}"
    return f"{called} does not take it; {_REMEDY}"
