"""What a client returns: a gradient, or parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as brief  # a hostile value can be long or deep
from typing import Literal

import torch
from torch import nn

from fedpriv.wire.tensors import FrozenTensors, Tensors, check_same_layout

Kind = Literal["gradient", "parameters"]
KINDS: tuple[Kind, ...] = ("gradient", "parameters")
_REMEDY = "give one tensor for every trainable parameter of the model that was sent"


@dataclass(frozen=True, kw_only=True)
class Update:
    """One answer of a client (or of an aggregator) to the server.

    Parameters
    ----------
    kind : {"gradient", "parameters"}
        Whether `tensors` is the gradient of the loss or the parameters after local training.
    tensors : mapping of str to Tensor
        Parameter name to value, in ``model.named_parameters()`` order; copied. ``"parameters"`` may also
        carry buffers (batch-norm statistics cross the wire, too).
    sender : str
        Who handed it to the server: a client's name, or ``"aggregator"``.
    contributors : tuple of str
        Whose data it depends on; the sender alone unless an aggregator averaged.
    round : int
        The exchange it belongs to, from 0.
    num_samples : int or None
        Only where the protocol itself tells the server how many samples were used.

    Examples
    --------
    >>> Update(kind="gradient", tensors={"weight": torch.ones(1, 2)}, sender="bob").contributors
    ('bob',)
    """

    kind: Kind
    tensors: Tensors
    sender: str = "client"
    contributors: tuple[str, ...] = ()
    round: int = 0
    num_samples: int | None = None

    def __post_init__(self) -> None:
        """Copy and check."""
        if self.kind not in KINDS:
            raise ValueError(
                f"kind must be one of {KINDS}, got {brief(self.kind)}; a client returns one or the other"
            )
        if not _is_whole(self.round, at_least=0):
            raise ValueError(f"round must be a whole number of 0 or more, got {brief(self.round)}")
        if self.num_samples is not None and not _is_whole(self.num_samples, at_least=1):
            raise ValueError(
                f"num_samples must be a whole number of 1 or more, got {brief(self.num_samples)}; "
                f"leave it out if unknown"
            )
        contributors = (self.sender,) if self.contributors == () else self.contributors
        names = [contributors] if isinstance(contributors, str) else [*contributors]
        if not all(isinstance(name, str) and name for name in (self.sender, *names)):
            raise ValueError(
                f"sender and contributors must be names of clients, "
                f"got {brief(self.sender)} and {brief(contributors)}"
            )
        object.__setattr__(self, "tensors", FrozenTensors(self.tensors, what="the update"))
        object.__setattr__(self, "contributors", tuple(names))

    @property
    def is_aggregate(self) -> bool:
        """Whether several clients' data are mixed in it."""
        return len(self.contributors) > 1

    @classmethod
    def for_model(cls, model: nn.Module, update: Update | Tensors | Sequence[torch.Tensor | None]) -> Update:
        """Bring a gradient in any usual form (dict, list, `Update`) into an `Update` that fits `model`.

        Parameters
        ----------
        model : nn.Module
            The model that was sent.
        update : Update, mapping or sequence
            ``{parameter name: gradient}``, or a sequence in ``model.parameters()`` order; ``None`` entries
            (what autograd gives for a frozen parameter) are dropped. A sequence may also hold the trainable
            parameters alone.

        Returns
        -------
        Update

        Raises
        ------
        ValueError
            If names, shapes or values do not fit the model.
        """
        parameters = dict(model.named_parameters())
        trainable = {name: p for name, p in parameters.items() if p.requires_grad}
        if isinstance(update, Update):
            result = update
        else:
            named = _named(update, parameters, trainable)
            result = cls(kind="gradient", tensors={n: t for n, t in named.items() if t is not None})
        expected = trainable or parameters
        known = dict(model.named_buffers()) if result.kind == "parameters" else {}
        given = {
            n: t
            for n, t in result.tensors.items()
            if n not in known and (n in expected or n not in parameters)
        }
        check_same_layout(expected, given, what="the update", remedy=_REMEDY)
        whole = [name for name in expected if not given[name].is_floating_point()]
        if whole:
            raise ValueError(f"the update must hold real numbers, but {whole} are whole numbers; {_REMEDY}")
        return result


def _named(
    update: Tensors | Sequence[torch.Tensor | None],
    parameters: dict[str, nn.Parameter],
    trainable: dict[str, nn.Parameter],
) -> dict[str, torch.Tensor | None]:
    if isinstance(update, Mapping):
        return dict(update.items())
    if not isinstance(update, Iterable):
        raise ValueError(
            f"the update must be a mapping or a sequence, got {type(update).__name__}; {_REMEDY}"
        )
    tensors = list(update)
    for names in (parameters, trainable):
        if len(tensors) == len(names):
            return dict(zip(names, tensors, strict=True))
    raise ValueError(
        f"the update must have {len(parameters)} tensors (one for each of {list(parameters)}), "
        f"got {len(tensors)}; {_REMEDY}"
    )


def _is_whole(value: object, *, at_least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least
