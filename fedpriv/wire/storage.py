"""Transcripts and observations on disk: one safetensors file, its description as JSON in the header.

Nothing is ever unpickled. The safetensors reader checks that the header's sizes and offsets fit the file
before any tensor is touched; this module checks that the description and the tensors belong together.
"""

from __future__ import annotations

import json
from pathlib import Path
from reprlib import repr as brief  # a hostile value can be long or deep
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from fedpriv.wire.knowledge import Knowledge
from fedpriv.wire.observation import LossFn, Observation
from fedpriv.wire.records import (
    FORMAT,
    PathLike,
    context_of,
    grouped,
    header_of,
    identity,
    in_order,
    messages_from,
    put,
    put_exchange,
    update_from_json,
    update_to_json,
)
from fedpriv.wire.tensors import FrozenTensors
from fedpriv.wire.transcript import Exchange, Transcript


def save_transcript(transcript: Transcript, path: PathLike) -> Path:
    """Write `transcript`; models that were sent to several clients are stored once."""
    if not len(transcript):
        raise ValueError("the transcript is empty; run at least one round with record=True before saving it")
    tensors: dict[str, torch.Tensor] = {}
    states: dict[int, int] = {}
    rows = []
    for index, exchange in enumerate(transcript):
        # The same frozen copy means the same model; FrozenTensors shares its dict, so its identity tells.
        key = id(identity(exchange.sent))
        if key not in states:
            states[key] = len(states)
            put(tensors, f"sent/{states[key]}", exchange.sent)
        row = {"sent": states[key], **put_exchange(tensors, index, exchange)}
        rows.append(row)
    header = header_of("transcript", transcript.model, transcript.loss_fn, transcript.knowledge)
    return _write(path, tensors, {**header, "exchanges": rows})


def load_transcript(
    path: PathLike, *, model: nn.Module | None = None, loss_fn: LossFn | None = None
) -> Transcript:
    """Read a transcript; see `Transcript.load`."""
    header, tensors = _read(path, "transcript")
    rows = header.get("exchanges")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: a transcript needs a list of exchanges, got {brief(rows)}")
    groups = grouped(tensors)
    model, loss_fn = context_of(path, header, groups.get("sent/0", {}), model, loss_fn)
    states = {k: FrozenTensors(in_order(t, model)) for k, t in groups.items() if k.startswith("sent/")}
    exchanges = []
    for index, row in enumerate(rows):
        sent, update = states.get(f"sent/{row.get('sent')}"), groups.get(f"update/{index}")
        if sent is None or update is None:
            raise ValueError(
                f"{path}: exchange {index} has no tensors; the file was cut or put together from two"
            )
        exchanges.append(
            Exchange(
                sent=sent,
                update=update_from_json(row.get("update"), update),
                messages=messages_from(row.get("messages", []), groups.get(f"messages/{index}", {})),
            )
        )
    knowledge = Knowledge.from_json(header.get("knowledge", {}))
    transcript = Transcript(exchanges, model=model, loss_fn=loss_fn, knowledge=knowledge)
    transcript.observations()  # every visit must fit the model: better now than in the middle of an attack
    return transcript


def save_observation(observation: Observation, path: PathLike) -> Path:
    """Write one observation."""
    tensors: dict[str, torch.Tensor] = {}
    put(tensors, "sent/0", observation.state)
    put(tensors, "update/0", observation.update.tensors)
    header = header_of("observation", observation.model, observation.loss_fn, observation.knowledge)
    return _write(path, tensors, {**header, "update": update_to_json(observation.update)})


def load_observation(
    path: PathLike, *, model: nn.Module | None = None, loss_fn: LossFn | None = None
) -> Observation:
    """Read an observation; see `Observation.load`."""
    header, tensors = _read(path, "observation")
    groups = grouped(tensors)
    if set(groups) != {"sent/0", "update/0"}:
        raise ValueError(f"{path}: an observation holds one model and one update, got {sorted(groups)[:5]}")
    update = update_from_json(header.get("update"), groups["update/0"])
    model, loss_fn = context_of(path, header, groups["sent/0"], model, loss_fn)
    knowledge = Knowledge.from_json(header.get("knowledge", {}))
    return Observation(model, update, loss_fn, knowledge, state=in_order(groups["sent/0"], model))


def _write(path: PathLike, tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> Path:
    """Write beside the target and rename, so that an interrupted save never leaves half a file."""
    target = Path(path)
    if not target.parent.is_dir():
        raise ValueError(f"expected a path in an existing folder, but there is no {target.parent}; create it")
    partial = target.with_name(target.name + ".partial")
    try:
        save_file(tensors, str(partial), metadata={"fedpriv": json.dumps(header)})
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _read(path: PathLike, content: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if not Path(path).is_file():
        raise ValueError(f"expected a file saved by fedpriv, but {path} does not exist or is not a file")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            header = json.loads(metadata.get("fedpriv", "null"))
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise ValueError(
                    f"{path} is a safetensors file without a description that this version of fedpriv reads "
                    f"(format {FORMAT}); save it with Transcript.save or Observation.save"
                )
            if header.get("content") != content:
                raise ValueError(
                    f"expected a saved {content}, but {path} holds a saved {brief(header.get('content'))}"
                )
            return header, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, RecursionError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error!s:.200}); was it cut off or changed?"
        ) from error
