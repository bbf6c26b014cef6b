"""The one interface of all engines: coarse requests to data owners, tensors back.

A federation asks little of its transport: the server sends a model and names an operation, the owner's side
runs it on its own data, applies its own defenses, and hands tensors back. An `Engine` is that transport.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeAlias, TypeVar

from fedpriv.defenses.base import Report
from fedpriv.wire import FrozenTensors, Tensors
from fedpriv.wire.update import Kind

if TYPE_CHECKING:
    from fedpriv.training.owners import Owners

OPERATIONS: Mapping[str, Kind] = {"gradient": "gradient", "local_update": "parameters"}
"""All that a server may ever ask for, and the kind of update that each operation gives."""

Parameter: TypeAlias = float | int | None
Self = TypeVar("Self", bound="Engine")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the server sends to one client.

    Parameters
    ----------
    id : str
        Names the request; the reply has to repeat it.
    client : str
        Whom it is for.
    operation : str
        One of `OPERATIONS`. Anything may be written here, as on a real wire; the *owner* checks it.
    state : mapping of str to Tensor
        Parameters and persistent buffers of the model; frozen.
    round : int
        The round, from 0.
    parameters : mapping of str to float, int or None
        Settings of the local training that the server chose: ``lr``, ``local_steps``, ``batch_size``.
    tell_samples : bool
        Whether the protocol wants the number of samples with the answer (weights in a mean).

    Examples
    --------
    >>> import torch
    >>> Request(id="0/bob", client="bob", operation="gradient", state={"weight": torch.ones(1)}).kind
    'gradient'
    """

    id: str
    client: str
    operation: str
    state: Tensors
    round: int = 0
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    tell_samples: bool = False

    def __post_init__(self) -> None:
        """Freeze the model."""
        object.__setattr__(self, "state", FrozenTensors(self.state, what="the model in a request"))
        object.__setattr__(self, "parameters", dict(self.parameters))

    @property
    def kind(self) -> Kind:
        """The kind of update that answers it; a ``ValueError`` for an operation that does not exist."""
        if self.operation not in OPERATIONS:
            raise ValueError(
                f"the operation must be one of {list(OPERATIONS)}, got {self.operation!r}; "
                "nothing else is ever computed for a server"
            )
        return OPERATIONS[self.operation]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a client sends back: all of this crosses the wire, and nothing else does.

    Parameters
    ----------
    request : str
        The id of the request that it answers.
    client : str
        Who answers.
    tensors : mapping of str to Tensor
        A gradient by parameter name, or parameters and buffers after local training. Not yet checked: that
        is the server's job, see `fedpriv.engines.checks.check_reply`.
    num_samples : int or None
        How many samples the client holds, where the request asked for it.
    """

    request: str
    client: str
    tensors: Tensors
    num_samples: int | None = None


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A reply, and beside it what stays with the owner and is shown only to whoever plays both sides.

    Parameters
    ----------
    reply : Reply
        What the server gets.
    loss : float
        The client's loss at the model that it received; NaN where the engine's owners keep it to themselves.
    reports : tuple of Report
        What each of the owner's defenses did.
    """

    reply: Reply
    loss: float = float("nan")
    reports: tuple[Report, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What a server notes when a client gives no usable answer.

    Parameters
    ----------
    client : str
        Whose answer is missing or unusable.
    reason : str
        One sentence: what was expected, what came.
    round : int
        The round, from 0.
    error : Exception or None
        Where the sentence comes from, if an exception was the reason.
    """

    client: str
    reason: str
    round: int = 0
    error: Exception | None = field(default=None, repr=False, compare=False)


class Engine(ABC):
    """Brings requests to the owners' side and replies back.

    A subclass writes `ask`; `prepare` and `close` if it has something to set up. Use it as
    ``FederatedTrainer(..., engine=SyftEngine())``, or in a ``with`` block to be sure that it is closed.

    Notes
    -----
    An engine does not check answers and knows nothing about training: the trainer does both, alike for all.
    """

    name: ClassVar[str]
    """What error messages and tables call it."""
    in_process: ClassVar[bool] = False
    """Whether owners are objects beside the server: their data may then lie behind pointers, and an
    aggregator such as `Averaging` may stand between them and the server."""

    def prepare(self, owners: Owners) -> None:  # noqa: B027 (nothing to do by default)
        """Look at the clients once, before the first round; raise a ``ValueError`` if they do not suit."""

    @abstractmethod
    def ask(self, requests: Sequence[Request], owners: Owners) -> Iterator[Visit | Fault]:
        """Deliver `requests` and yield what comes back, in any order, as soon as it is there.

        Parameters
        ----------
        requests : sequence of Request
            One for each client that is asked, all in the same round.
        owners : Owners
            The owners' side in this process: ``owners.answer(request)`` runs the operation on the data of
            ``request.client``, defenses included. An engine whose clients live elsewhere ignores it.

        Yields
        ------
        Visit or Fault
            A client that cannot be reached or refuses gives a `Fault`; an engine raises only when it cannot
            go on at all.
        """

    def close(self) -> None:  # noqa: B027 (nothing to do by default)
        """Let go of connections, files and processes; asking again opens them again."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
