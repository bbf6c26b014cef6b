"""What storage and streams share: exchanges and headers as JSON, and back with checks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from reprlib import repr as brief  # a hostile value can be long or deep
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fedpriv import losses
from fedpriv.wire.architecture import describe, rebuild
from fedpriv.wire.knowledge import Knowledge
from fedpriv.wire.observation import LossFn
from fedpriv.wire.tensors import FrozenTensors, Tensors
from fedpriv.wire.update import Update

if TYPE_CHECKING:
    from fedpriv.wire.transcript import Exchange

FORMAT = 1
PathLike = str | os.PathLike[str]


def identity(tensors: Tensors) -> object:
    """What two mappings share exactly if they hold the same frozen copies."""
    return tensors._tensors if isinstance(tensors, FrozenTensors) else tensors


def put(into: dict[str, torch.Tensor], prefix: str, tensors: Tensors) -> None:
    """Add `tensors` to what will be one file, under ``prefix/name``."""
    # Clones: safetensors refuses tensors that share memory (tied weights do).
    into.update({f"{prefix}/{name}": tensor.clone() for name, tensor in tensors.items()})


def grouped(tensors: Tensors) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of a file by group: ``"sent/0"``, ``"update/0"``, ..."""
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        group, index, name = ([*key.split("/", 2), "", ""])[:3]
        groups.setdefault(f"{group}/{index}", {})[name] = tensor
    return groups


def in_order(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """In the model's order, which the file does not keep."""
    return {name: state[name] for name in dict.fromkeys((*model.state_dict(), *state)) if name in state}


def header_of(content: str, model: nn.Module, loss_fn: LossFn, knowledge: Knowledge) -> dict[str, Any]:
    """What a file says about the training: architecture, loss and knowledge, as far as JSON can."""
    return {
        "format": FORMAT,
        "content": content,
        "architecture": describe(model),
        "training": model.training,
        "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
        "loss": losses.name_of(loss_fn),
        "knowledge": knowledge.to_json(),
    }


def update_to_json(update: Update) -> dict[str, Any]:
    """An update without its tensors."""
    return {
        "kind": update.kind,
        "sender": update.sender,
        "contributors": list(update.contributors),
        "round": update.round,
        "num_samples": update.num_samples,
        "order": list(update.tensors),
    }


def update_from_json(values: Any, tensors: dict[str, torch.Tensor]) -> Update:
    """The update that `update_to_json` described; a ``ValueError`` if it does not fit `tensors`."""
    keys = {"kind", "sender", "contributors", "round", "num_samples", "order"}
    if (
        not isinstance(values, dict)
        or set(values) != keys
        or not _is_list_of_names(values["order"], tensors)
        or not _is_list_of_names(values["contributors"])
    ):
        raise ValueError(
            f"an update must be described by {sorted(keys)} and its tensors, got {brief(values)}"
        )
    given = {key: value for key, value in values.items() if key != "order"}
    return Update(tensors={name: tensors[name] for name in values["order"]}, **given)


def messages_from(lengths: Any, tensors: Tensors) -> tuple[bytes, ...]:
    """The messages that were stored one after the other in one tensor of bytes."""
    joined = tensors.get("bytes", torch.zeros(0, dtype=torch.uint8))
    fits = joined.dtype == torch.uint8 and joined.dim() == 1 and isinstance(lengths, list)
    if not (fits and all(type(n) is int and n >= 1 for n in lengths) and sum(lengths) == len(joined)):
        raise ValueError(
            f"the lengths of an exchange's messages must add up to its {joined.numel()} bytes, "
            f"got {brief(lengths)}; the file was cut or put together from two"
        )
    return tuple(bytes(piece.numpy()) for piece in joined.split(lengths)) if lengths else ()


def put_exchange(into: dict[str, torch.Tensor], index: int, exchange: Exchange) -> dict[str, Any]:
    """Add update and messages of `exchange` to a file; its description, still without the model."""
    put(into, f"update/{index}", exchange.update.tensors)
    row: dict[str, Any] = {"update": update_to_json(exchange.update)}
    if exchange.messages:
        joined = bytearray(b"".join(exchange.messages))
        into[f"messages/{index}/bytes"] = torch.frombuffer(joined, dtype=torch.uint8)
        row["messages"] = [len(message) for message in exchange.messages]
    return row


def _is_list_of_names(value: Any, expected: Iterable[str] | None = None) -> bool:
    """Whether `value` is a non-empty list of strings, each of `expected` once."""
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        return False
    return expected is None or sorted(value) == sorted(expected)


def context_of(
    path: PathLike, header: dict[str, Any], state: Tensors, model: nn.Module | None, loss_fn: LossFn | None
) -> tuple[nn.Module, LossFn]:
    """Model and loss: what the caller passes, or what the file names."""
    if model is None:
        if header.get("architecture") is None:
            raise ValueError(
                f"{path} holds a model that cannot be described without code; "
                f"pass the module, as in load(path, model=net)"
            )
        model = rebuild(header["architecture"], state)
        model.train(header.get("training") is not False)
        frozen = header.get("frozen")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not (isinstance(frozen, list) and name in frozen))
    if loss_fn is None:
        named = header.get("loss")
        if not isinstance(named, str) or named not in losses.NAMED:
            raise ValueError(
                f"{path} holds a loss without a name; pass it, as in load(path, loss_fn=...) "
                f"(named losses: {sorted(losses.NAMED)})"
            )
        loss_fn = losses.NAMED[named]
    return model, loss_fn
