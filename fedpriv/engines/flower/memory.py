"""What defenses remember, in the part of a Flower context that survives from message to message.

In a deployment every message may be answered by a fresh process, so nothing can be kept in an object: error
feedback or a learned bound would be lost. Flower keeps ``context.state`` on the client's machine.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedpriv.defenses.base import Memory
from fedpriv.engines.flower.arrays import from_record, to_record

_SETTINGS = "fedpriv.memory"
_ARRAYS = "fedpriv.memory.arrays"


def read_memory(state: RecordDict) -> tuple[int, Memory]:
    """How many updates were defended before, and what the defenses kept."""
    if _SETTINGS not in state.config_records:
        return 0, {}
    settings = state.config_records[_SETTINGS]
    tensors = from_record(state.array_records[_ARRAYS]) if _ARRAYS in state.array_records else {}
    return int(str(settings["count"])), _unpacked(json.loads(str(settings["memory"])), tensors)


def write_memory(state: RecordDict, count: int, memory: Memory) -> None:
    """Keep `memory` and the number of updates defended so far."""
    tensors: dict[str, torch.Tensor] = {}
    packed = json.dumps(_packed(memory, tensors))
    state[_SETTINGS] = ConfigRecord({"count": str(count), "memory": packed})
    state[_ARRAYS] = to_record(tensors) if tensors else ArrayRecord()


def _packed(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """`value` as JSON; its tensors go into `tensors` under numbers."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"pairs": [[key, _packed(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_packed(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        f"a defense can remember tensors, numbers, text, lists and mappings between messages, got "
        f"{type(value).__name__}; keep one of those in context.memory"
    )


def _unpacked(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, tensors) for item in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _unpacked(item, tensors) for key, item in value["pairs"]}
    return value
