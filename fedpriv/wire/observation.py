"""One update together with the model that it answers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from fedpriv.wire.implied import implied_gradient
from fedpriv.wire.knowledge import Knowledge
from fedpriv.wire.tensors import FrozenTensors, Tensors, check_same_layout
from fedpriv.wire.update import Kind, Update

if TYPE_CHECKING:
    from os import PathLike

LossFn: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""``loss_fn(outputs, targets)`` for a batch, giving one number."""


def model_state(model: nn.Module) -> FrozenTensors:
    """Copies of all parameters and persistent buffers of `model`."""
    return FrozenTensors(model.state_dict(), what="the model that was sent")


class Observation:
    """What an attack may see: model, loss, update, and declared knowledge. Frozen.

    Parameters
    ----------
    model : nn.Module
        The model that was sent. Copied now, to main memory: later training does not change the evidence.
    update : Update, mapping or sequence of Tensor
        What came back: ``{parameter name: gradient}``, a list in ``model.parameters()`` order, or an
        `Update`.
    loss_fn : callable
        ``loss_fn(outputs, targets)``, as the client used it.
    knowledge : Knowledge, optional
        What the adversary is assumed to know beyond that.
    state : mapping of str to Tensor, optional
        Parameters and buffers as they were sent, if they are not those that `model` holds now. `model`
        then gives the architecture alone and is not copied.

    Raises
    ------
    ValueError
        If the update does not fit the model, or anything is NaN.

    Examples
    --------
    >>> model = nn.Linear(2, 1)
    >>> observation = Observation(model, [torch.ones(1, 2), torch.ones(1)], nn.functional.mse_loss)
    >>> observation.gradient()["bias"]
    tensor([1.])
    """

    __slots__ = ("_parts",)

    def __init__(
        self,
        model: nn.Module,
        update: Update | Tensors | Sequence[torch.Tensor | None],
        loss_fn: LossFn,
        knowledge: Knowledge | None = None,
        *,
        state: Tensors | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if not callable(loss_fn):
            raise ValueError(f"loss_fn must be callable as loss_fn(outputs, targets), got {loss_fn!r}")
        if knowledge is not None and not isinstance(knowledge, Knowledge):
            raise ValueError(f"knowledge must be a Knowledge, got {type(knowledge).__name__}")
        if state is None:
            sent = model_state(model)
            model = copy.deepcopy(model).cpu()
        else:
            sent = FrozenTensors(state, what="the model that was sent")
            check_same_layout(
                model.state_dict(),
                sent,
                what="the state that was sent",
                remedy="it belongs to another model: pass the model of this training run",
            )
            model = model if _is_local(model) else copy.deepcopy(model).cpu()
        fitted = Update.for_model(model, update)
        self._parts = (model, fitted, loss_fn, knowledge or Knowledge(), sent)

    @property
    def model(self) -> nn.Module:
        """The architecture; for the values as sent use `state`."""
        return self._parts[0]

    @property
    def update(self) -> Update:
        """What came back."""
        return self._parts[1]

    @property
    def loss_fn(self) -> LossFn:
        """The client's loss."""
        return self._parts[2]

    @property
    def knowledge(self) -> Knowledge:
        """What the adversary is assumed to know."""
        return self._parts[3]

    @property
    def state(self) -> Tensors:
        """Parameters and buffers as they were sent."""
        return self._parts[4]

    def gradient(self) -> dict[str, torch.Tensor]:
        """The gradient that the update implies, for every parameter that it covers.

        For returned parameters of a single full-batch step this is (sent - returned) / learning rate.

        Raises
        ------
        ValueError
            If parameters were returned and the learning rate is unknown, or several local steps were taken.
        """
        return implied_gradient(self)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write to one safetensors file; see `fedpriv.wire.storage`."""
        from fedpriv.wire.storage import save_observation

        return save_observation(self, path)

    @classmethod
    def load(
        cls, path: str | PathLike[str], *, model: nn.Module | None = None, loss_fn: LossFn | None = None
    ) -> Observation:
        """Read what `save` wrote; `model` and `loss_fn` are needed where the file cannot name them."""
        from fedpriv.wire.storage import load_observation

        return load_observation(path, model=model, loss_fn=loss_fn)

    @classmethod
    def from_state_dicts(
        cls,
        before: Tensors,
        after: Tensors,
        *,
        lr: float,
        model: nn.Module,
        loss_fn: LossFn,
        knowledge: Knowledge | None = None,
    ) -> Observation:
        """The two state dicts around local training of a client.

        Parameters
        ----------
        before, after : mapping of str to Tensor
            What the server sent and what came back.
        lr : float
            The client's learning rate.
        model : nn.Module
            The architecture; its values do not matter.
        loss_fn : callable
            As the client used it.
        knowledge : Knowledge, optional
            What else is known; its learning rate is replaced by `lr`.

        Raises
        ------
        ValueError
            If a name or a shape does not fit the model.

        Examples
        --------
        >>> model = nn.Linear(1, 1)
        >>> after = {name: tensor - 0.1 for name, tensor in model.state_dict().items()}
        >>> seen = Observation.from_state_dicts(
        ...     model.state_dict(), after, lr=0.1, model=model, loss_fn=nn.functional.mse_loss)
        >>> round(float(seen.gradient()["bias"]), 4)
        1.0
        """
        from fedpriv.wire.loaders import from_state_dicts

        return from_state_dicts(before, after, lr=lr, model=model, loss_fn=loss_fn, knowledge=knowledge)

    @classmethod
    def from_npz(
        cls,
        path: str | PathLike[str],
        *,
        model: nn.Module,
        loss_fn: LossFn,
        knowledge: Knowledge | None = None,
    ) -> Observation:
        """A file of ``numpy.savez``, read without unpickling anything.

        Parameters
        ----------
        path : path
            Arrays ``gradient/NAME`` (or just ``NAME``), or ``before/NAME`` and ``after/NAME``. A gradient
            may come with ``before/NAME``, the model at which it was computed; without, `model` is taken.
        model, loss_fn, knowledge
            As in `Observation`; returned models need ``knowledge.learning_rate``.

        Raises
        ------
        ValueError
            If the file is damaged or does not fit the model; such arrays are never read.
        """
        from fedpriv.wire.loaders import from_npz

        return from_npz(path, model=model, loss_fn=loss_fn, knowledge=knowledge)

    @classmethod
    def from_flower(
        cls,
        sent: Any,
        reply: Any,
        *,
        model: nn.Module,
        loss_fn: LossFn,
        knowledge: Knowledge | None = None,
        kind: Kind = "parameters",
        key: str | None = None,
    ) -> Observation:
        """What a Flower server sent to one client and what came back.

        Parameters
        ----------
        sent, reply : flwr.app.Message or flwr.app.ArrayRecord
            With the names of a state dict, or numbered arrays in the order of one.
        model, loss_fn, knowledge
            As in `Observation`; returned models need ``knowledge.learning_rate``.
        kind : {"parameters", "gradient"}
            What the client returned.
        key : str, optional
            Which record of a message, if it holds several.

        Raises
        ------
        ValueError
            If a record is damaged or does not fit the model.
        """
        from fedpriv.wire.loaders import from_flower

        return from_flower(sent, reply, model=model, loss_fn=loss_fn, knowledge=knowledge, kind=kind, key=key)

    def __repr__(self) -> str:
        came = f"{self.update.kind} from {self.update.sender!r}"
        return f"Observation({type(self.model).__name__}, {came}, {self.knowledge})"


def _is_local(model: nn.Module) -> bool:
    return all(t.device.type == "cpu" for t in (*model.parameters(), *model.buffers()))
