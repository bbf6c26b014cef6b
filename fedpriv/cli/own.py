"""Observations of the user's own: a gradient or two models saved by other software, and a model by name."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedpriv.cli.named import named_loss, named_model

if TYPE_CHECKING:
    from torch import nn

    from fedpriv.wire import Knowledge, Observation, Transcript
    from fedpriv.wire.observation import LossFn

OPTIONS = {
    "num_samples": "--num-samples",
    "input_shape": "--input-shape",
    "learning_rate": "--lr",
    "local_steps": "--local-steps",
}
"""The option for each field of `Knowledge` that has one."""
_PICKLES = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".npy"}


def knowledge_from(
    lr: float | None, local_steps: int | None, input_shape: str | None, num_samples: int | None
) -> dict[str, object]:
    """The options that were given, as fields of `Knowledge`.

    Examples
    --------
    >>> knowledge_from(0.1, None, "1,8,8", None)
    {'learning_rate': 0.1, 'input_shape': (1, 8, 8)}
    """
    shape = None
    if input_shape is not None:
        if re.fullmatch(r"\s*[1-9]\d*\s*(,\s*[1-9]\d*\s*)*", input_shape, re.ASCII) is None:
            raise ValueError(
                f"--input-shape must be whole numbers such as 20 or 3,32,32, got {input_shape!r}; separate "
                "them by commas"
            )
        shape = tuple(int(part) for part in input_shape.split(","))
    given = {
        "learning_rate": lr,
        "local_steps": local_steps,
        "input_shape": shape,
        "num_samples": num_samples,
    }
    return {name: value for name, value in given.items() if value is not None}


def own_observation(
    file: Path, *, before: Path | None, model: str | None, loss: str | None, known: dict[str, object]
) -> Observation:
    """A gradient, or a returned model with ``--before``, from ``.npz`` or plain ``.safetensors``."""
    from fedpriv.wire import Knowledge, Observation
    from fedpriv.wire.loaders import load_arrays

    if file.suffix in _PICKLES:
        raise ValueError(
            f"{file} may hold a pickle, which can run code, and fedpriv reads none; save the state dict with "
            "safetensors.torch.save_file or numpy.savez"
        )
    if model is None or loss is None:
        raise ValueError(
            f"{file} holds arrays without a description, so --model MODULE:FACTORY and --loss NAME are needed"
        )
    net, loss_fn, knowledge = named_model(model), named_loss(loss), Knowledge(**known)  # type: ignore[arg-type]
    groups = load_arrays(file, net)
    if before is not None:
        groups = {
            "before": load_arrays(before, net, group="before")["before"],
            "after": load_arrays(file, net, group="after")["after"],
        }
    if "after" not in groups:
        from fedpriv.wire import Update

        gradient = Update(kind="gradient", tensors=groups["gradient"])
        return Observation(
            net, gradient, loss_fn, knowledge, state=groups.get("before") or dict(net.state_dict())
        )
    if knowledge.learning_rate is None:
        raise ValueError(
            "a returned model becomes a gradient only with the learning rate: give --lr, such as --lr 0.1"
        )
    return Observation.from_state_dicts(
        groups["before"],
        groups["after"],
        lr=knowledge.learning_rate,
        model=net,
        loss_fn=loss_fn,
        knowledge=knowledge,
    )


def with_knowledge(seen: Transcript | Observation, known: dict[str, object]) -> Transcript | Observation:
    """The same evidence with the options that were given written over what the file declares."""
    from fedpriv.wire import Observation, Transcript

    if not known:
        return seen
    knowledge: Knowledge = replace(seen.knowledge, **known)  # type: ignore[arg-type]
    if isinstance(seen, Observation):
        return Observation(seen.model, seen.update, seen.loss_fn, knowledge, state=seen.state)
    return Transcript(seen, model=seen.model, loss_fn=seen.loss_fn, knowledge=knowledge)


def named(model: str | None, loss: str | None) -> tuple[nn.Module | None, LossFn | None]:
    """Model and loss as far as they were named."""
    return (None if model is None else named_model(model)), (None if loss is None else named_loss(loss))


def has_weights_of_model(seen: Observation) -> bool:
    """Whether the weights are those with which the factory made the model, for the file held none."""
    made = seen.model.state_dict()
    return all(bool((made[name] == tensor).all()) for name, tensor in seen.state.items())


def in_options(sentence: str) -> str:
    """The same sentence with options of the command line instead of names of Python.

    Examples
    --------
    >>> in_options("the shape is not known; set Knowledge.input_shape")
    'the shape is not known; give --input-shape'
    >>> in_options("declare Knowledge(num_samples=1) if it is one")
    'declare --num-samples 1 if it is one'
    """
    for field, option in OPTIONS.items():
        sentence = sentence.replace(f"set Knowledge.{field}", f"give {option}")
        sentence = sentence.replace(f"Knowledge.{field}", option)
        sentence = re.sub(rf"Knowledge\({field}=([^()]*)\)", rf"{option} \1", sentence)
    return sentence
