"""Requests and replies as text: one line of JSON, tensors as safetensors in base64. Nothing is unpickled.

Tensors that come back are exactly those that were sent, bit for bit.
"""

from __future__ import annotations

import base64
import binascii
import json
from reprlib import repr as brief  # a hostile value can be long or deep
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from fedpriv.engines.base import Reply, Request
from fedpriv.wire import Tensors

_REQUEST = {"id", "client", "operation", "round", "parameters", "tell_samples", "state"}
_REPLY = {"request", "client", "num_samples", "tensors"}


def request_to_text(request: Request) -> str:
    """`request` as one line of text.

    Examples
    --------
    >>> sent = Request(id="0/bob", client="bob", operation="gradient", state={"w": torch.tensor([0.1])})
    >>> request_from_text(request_to_text(sent)).state["w"]
    tensor([0.1000])
    """
    return json.dumps({**settings_of(request), "state": _tensors_to_json(request.state)})


def settings_of(request: Request) -> dict[str, Any]:
    """All of `request` but the model, as JSON knows it."""
    return {
        "id": request.id,
        "client": request.client,
        "operation": request.operation,
        "round": request.round,
        "parameters": dict(request.parameters),
        "tell_samples": request.tell_samples,
    }


def request_from_text(text: str) -> Request:
    """Read a request; a ``ValueError`` says what is not one."""
    values = _object(text, _REQUEST, "a request")
    parameters = values["parameters"]
    if not (
        all(isinstance(values[key], str) for key in ("id", "client", "operation"))
        and type(values["round"]) is int
        and type(values["tell_samples"]) is bool
        and isinstance(parameters, dict)
        and all(value is None or type(value) in (int, float) for value in parameters.values())
    ):
        raise ValueError(f"a request must hold names, a round and settings, got {brief(values)}")
    return Request(**{**values, "state": _tensors_from_json(values["state"], "the model in a request")})


def reply_to_text(reply: Reply) -> str:
    """`reply` as one line of text."""
    return json.dumps(
        {
            "request": reply.request,
            "client": reply.client,
            "num_samples": reply.num_samples,
            "tensors": _tensors_to_json(reply.tensors),
        }
    )


def reply_from_text(text: str, *, limit: int | None = None) -> Reply:
    """Read a reply; a ``ValueError`` says what is not one, or that it is longer than `limit` characters."""
    if limit is not None and len(text) > limit:
        raise ValueError(f"an answer may have at most {limit} characters, got {len(text)}; it was not read")
    values = _object(text, _REPLY, "an answer")
    told = values["num_samples"]
    if not (
        isinstance(values["request"], str)
        and isinstance(values["client"], str)
        and (told is None or type(told) is int)
    ):
        raise ValueError(f"an answer must name its request and client, got {brief(values)}")
    return Reply(**{**values, "tensors": _tensors_from_json(values["tensors"], "the update")})


def most_characters(state: Tensors) -> int:
    """How long an honest answer about a model with this state can be, generously."""
    return 100_000 + 3 * sum(tensor.nbytes + 2 * len(name) for name, tensor in state.items())


def _object(text: str, keys: set[str], what: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{what} must be one line of JSON, got {brief(text)} ({error!s:.100})") from error
    if not isinstance(values, dict) or set(values) != keys:
        raise ValueError(f"{what} must be an object with the keys {sorted(keys)}, got {brief(values)}")
    return values


def _tensors_to_json(tensors: Tensors) -> dict[str, Any]:
    # Clones: safetensors refuses tensors that share memory (tied weights do).
    data = save({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()})
    return {"order": list(tensors), "safetensors": base64.b64encode(data).decode("ascii")}


def _tensors_from_json(values: Any, what: str) -> dict[str, torch.Tensor]:
    if not isinstance(values, dict) or set(values) != {"order", "safetensors"}:
        raise ValueError(f"{what} must be given as an order and safetensors, got {brief(values)}")
    order, data = values["order"], values["safetensors"]
    try:
        tensors = load(base64.b64decode(data, validate=True)) if isinstance(data, str) else {}
    except (SafetensorError, binascii.Error, ValueError) as error:
        raise ValueError(f"{what} must be whole safetensors in base64 ({error!s:.200})") from error
    named = isinstance(order, list) and all(isinstance(name, str) for name in order)
    if not named or sorted(order) != sorted(tensors):
        raise ValueError(f"{what} must list its {len(tensors)} tensors in order, got {brief(order)}")
    return {name: tensors[name] for name in order}
