"""Observations from what other software left behind: state dicts, NumPy files, Flower's messages.

Nothing is unpickled. The model says which names and shapes to expect, and every header is compared with it
before its array is read.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from fedpriv.wire.knowledge import Knowledge
from fedpriv.wire.npy import read_npy
from fedpriv.wire.observation import LossFn, Observation
from fedpriv.wire.tensors import Tensors, check_same_layout
from fedpriv.wire.update import Kind, Update

Value = TypeVar("Value")
_GROUPS = ("gradient", "before", "after")
_REMEDY = "it belongs to another model, or was saved from another version of it"
_MOST_ENTRIES = 100_000


def from_state_dicts(
    before: Tensors,
    after: Tensors,
    *,
    lr: float,
    model: nn.Module,
    loss_fn: LossFn,
    knowledge: Knowledge | None,
) -> Observation:
    """See `Observation.from_state_dicts`."""
    knowledge = replace(knowledge or Knowledge(), learning_rate=lr)
    layout = model.state_dict()
    _same(layout, before, "the state before training")
    parameters = dict(model.named_parameters())
    given = {name: after[name] for name in (*parameters, *layout) if name in after}
    surplus = [name for name in after if name not in layout]
    if surplus:
        raise ValueError(
            f"the state after training must be one of this model, but it has {surplus[:5]}; {_REMEDY}"
        )
    update = Update(kind="parameters", tensors=given)
    return Observation(model, update, loss_fn, knowledge, state={name: before[name] for name in layout})


def from_flower(
    sent: Any,
    reply: Any,
    *,
    model: nn.Module,
    loss_fn: LossFn,
    knowledge: Knowledge | None,
    kind: Kind,
    key: str | None,
) -> Observation:
    """See `Observation.from_flower`."""
    state = from_array_record(_record(sent, key), model.state_dict(), what="the record that was sent")
    answer = _record(reply, key)
    layout: Tensors = model.state_dict() if kind == "parameters" else dict(model.named_parameters())
    tensors = from_array_record(answer, layout, what="the record that came back")
    return Observation(model, Update(kind=kind, tensors=tensors), loss_fn, knowledge, state=state)


def from_npz(
    path: str | os.PathLike[str], *, model: nn.Module, loss_fn: LossFn, knowledge: Knowledge | None
) -> Observation:
    """See `Observation.from_npz`."""
    groups = load_arrays(path, model)
    state = groups.get("before") or dict(model.state_dict())
    if "gradient" in groups:
        gradient = Update(kind="gradient", tensors=groups["gradient"])
        return Observation(model, gradient, loss_fn, knowledge, state=state)
    update = Update(kind="parameters", tensors=groups["after"])
    return Observation(model, update, loss_fn, knowledge, state=state)


def load_arrays(
    path: str | os.PathLike[str], model: nn.Module, *, group: str | None = None
) -> dict[str, dict[str, torch.Tensor]]:
    """The arrays of a file in their groups: ``{"gradient": {...}}`` or ``{"before": ..., "after": ...}``.

    Parameters
    ----------
    path : path
        From ``numpy.savez`` or ``safetensors``. Arrays called ``gradient/NAME``, or ``before/NAME`` and
        ``after/NAME``; without a prefix they are the gradient. ``arr_0``, ``arr_1``, ... (from
        ``numpy.savez(path, *arrays)``) stand in the model's order.
    model : nn.Module
        Says which names and shapes there may be.
    group : {"gradient", "before", "after"}, optional
        What arrays without a prefix are, in a file that holds nothing else.

    Raises
    ------
    ValueError
        If the file is damaged, or does not fit the model; arrays that do not fit are never read.
    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(2)
        if not start:
            raise ValueError(f"{path} is empty; was it cut off while it was saved?")
        if start == b"PK":
            with zipfile.ZipFile(path) as archive:
                return _read_groups(_grouped(archive.infolist(), group), archive, model)
        with safe_open(str(path), framework="pt") as opened:
            names = [(name, name) for name in opened.keys()]  # noqa: SIM118 (not a mapping)
            return _read_groups(_sorted(names, group), opened, model)
    except FileNotFoundError:
        raise ValueError(f"expected a file of numpy.savez or safetensors, but there is no {path}") from None
    except (
        zipfile.BadZipFile,
        zlib.error,
        SafetensorError,
        NotImplementedError,
        RuntimeError,
        OSError,
        EOFError,
    ) as error:
        raise ValueError(
            f"{path} is not a whole file of numpy.savez or safetensors; was it cut off or changed?"
        ) from error


def _grouped(entries: list[zipfile.ZipInfo], group: str | None) -> dict[str, dict[str, Any]]:
    return _sorted([(entry.filename.removesuffix(".npy"), entry) for entry in entries], group)


def _sorted(entries: list[tuple[str, Any]], group: str | None) -> dict[str, dict[str, Any]]:
    """Group to array name to its place in the file, of which no array is read yet."""
    if not entries or len(entries) > _MOST_ENTRIES:
        raise ValueError(
            f"expected 1 to {_MOST_ENTRIES} arrays, got {len(entries)}; save the whole state dict"
        )
    groups: dict[str, dict[str, Any]] = {}
    for full, entry in entries:
        prefix, slash, name = full.partition("/")
        found = (prefix, name) if slash and prefix in _GROUPS else (group or "gradient", full)
        if found[1] in groups.setdefault(found[0], {}):
            raise ValueError(f"expected every array once, got {full!r} twice; the file was changed")
        groups[found[0]][found[1]] = entry
    if group is not None and set(groups) != {group}:
        raise ValueError(f"expected one state dict, got the groups {sorted(groups)}; leave out --before")
    if group is None and {"gradient"} != set(groups) - {"before"} and set(groups) != {"before", "after"}:
        raise ValueError(
            f"expected 'gradient/NAME', or 'before/NAME' with 'after/NAME', got {sorted(groups)}; a returned "
            "model says nothing without the one that was sent"
        )
    return groups


def _read_groups(
    groups: dict[str, dict[str, Any]], file: Any, model: nn.Module
) -> dict[str, dict[str, torch.Tensor]]:
    state = model.state_dict()
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad} or dict(
        model.named_parameters()
    )
    layouts: dict[str, Tensors] = {"gradient": trainable, "before": state, "after": state}
    read: dict[str, dict[str, torch.Tensor]] = {}
    for group, members in groups.items():
        named = _by_name(members, layouts[group], "arr_")
        _same_names(layouts[group], named, f"the group {group!r}")
        read[group] = {
            name: _one(file, named[name], tuple(expected.shape), f"{group}/{name}")
            for name, expected in layouts[group].items()
        }
    return read


def _one(file: Any, entry: Any, shape: tuple[int, ...], what: str) -> torch.Tensor:
    """One array, if its header announces the shape that the model has."""
    if isinstance(file, zipfile.ZipFile):
        with file.open(entry) as stream:
            return read_npy(stream, entry.file_size, what=what, shape=shape)
    found = tuple(file.get_slice(entry).get_shape())
    if found != shape:
        raise ValueError(f"{what} must have shape {shape}, got {found}; it belongs to another model")
    tensor: torch.Tensor = file.get_tensor(entry)
    return tensor


def from_array_record(record: Any, layout: Tensors | None, *, what: str) -> dict[str, torch.Tensor]:
    """See `fedpriv.engines.flower.from_record`; needs no Flower, a record is a mapping of named bytes."""
    arrays = dict(record)
    if layout is not None:
        arrays = _by_name(arrays, layout, "")
        _same_names(layout, arrays, what)
        arrays = {name: arrays[name] for name in layout}
    tensors = {}
    for name, array in arrays.items():
        if array.stype != "numpy.ndarray":
            raise ValueError(
                f"{what} must hold NumPy arrays, got {array.stype!r} for {name!r}; send "
                "ArrayRecord(state_dict)"
            )
        shape = None if layout is None else tuple(layout[name].shape)
        tensor = read_npy(io.BytesIO(array.data), len(array.data), what=f"{what}, {name!r},", shape=shape)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{what} must be finite, but {name!r} contains NaN or infinity")
        tensors[name] = tensor
    return tensors


def _record(message: Any, key: str | None) -> Any:
    """The array record of a message, or the record itself."""
    content = getattr(message, "content", message)
    records = getattr(content, "array_records", None)
    if records is None:
        return content
    records = dict(records)
    if key is not None and key in records:
        return records[key]
    if len(records) != 1:
        raise ValueError(
            f"a message must hold one record of arrays, got {sorted(records)}; name it with key=..."
        )
    return next(iter(records.values()))


def _by_name(arrays: Mapping[str, Value], layout: Tensors, prefix: str) -> dict[str, Value]:
    """Arrays that carry numbers instead of names, in the model's order; others as they are."""
    numbers = [f"{prefix}{k}" for k in range(len(arrays))]
    if set(arrays) == set(numbers) and not set(arrays) & set(layout) and len(arrays) == len(layout):
        return {name: arrays[number] for name, number in zip(layout, numbers, strict=True)}
    return dict(arrays)


def _same_names(layout: Tensors, got: Mapping[str, object], what: str) -> None:
    missing = [name for name in layout if name not in got]
    surplus = [name for name in got if name not in layout]
    wrong = [
        f"{_listed(names)} {'is' if len(names) == 1 else 'are'} {what_of}"
        for names, what_of in ((missing, "missing"), (surplus, "not in the model"))
        if names
    ]
    if wrong:
        raise ValueError(
            f"{what} must have the {len(layout)} names of the model, but {' and '.join(wrong)}; {_REMEDY}"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more


def _same(layout: Tensors, got: Tensors, what: str) -> None:
    _same_names(layout, got, what)
    check_same_layout(layout, got, what=what, remedy=_REMEDY)
