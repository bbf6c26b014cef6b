"""Values that a training run takes and returns: state in, state out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from fedpriv.defenses import Report
from fedpriv.defenses.base import Memory
from fedpriv.engines.base import Fault
from fedpriv.wire import Exchange, FrozenTensors, Tensors, Transcript
from fedpriv.wire.tensors import check_same_layout


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """All that survives a round. Frozen: a round returns a new one.

    Parameters
    ----------
    round : int
        Number of the next round, from 0.
    parameters : mapping of str to Tensor
        Every parameter, in ``model.named_parameters()`` order; copied.
    buffers : mapping of str to Tensor
        Every persistent buffer (batch-norm statistics); copied.
    seed : int
        Where the randomness of the next round starts, so that a round is a function of its state.
    memory : dict
        What the defenses keep, for example the residual of each client. It is carried here so that a round
        is a function of its state; it belongs to the clients and never crosses the wire.
    """

    round: int
    parameters: Tensors
    buffers: Tensors
    seed: int
    memory: Memory = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Freeze the tensors."""
        object.__setattr__(self, "parameters", FrozenTensors(self.parameters, what="the server's parameters"))
        object.__setattr__(self, "buffers", FrozenTensors(self.buffers, what="the server's buffers"))

    def updated(self, tensors: Tensors) -> ServerState:
        """The same state with the parameters and buffers named in `tensors` replaced."""
        return replace(
            self,
            parameters={name: tensors.get(name, value) for name, value in self.parameters.items()},
            buffers={name: tensors.get(name, value) for name, value in self.buffers.items()},
        )

    def next_round(self, *, seed: int, memory: Memory) -> ServerState:
        """The same values, one round later."""
        return replace(self, round=self.round + 1, seed=seed, memory=memory)


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """What one round left behind besides the new state.

    Parameters
    ----------
    exchanges : tuple of Exchange
        What crossed the wire, in order; empty with ``record=False``.
    losses : tuple of float
        One loss a client visit, in order; see `Run`.
    reports : tuple of Report
        What every defense did; empty with ``record=False``.
    faults : tuple of Fault
        Clients that gave no usable answer and were left out.
    """

    exchanges: tuple[Exchange, ...]
    losses: tuple[float, ...]
    reports: tuple[Report, ...]
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, kw_only=True, repr=False)
class Run:
    """The outcome of a training run.

    Parameters
    ----------
    model : nn.Module
        A trained copy of the model that was passed.
    losses : list of float
        One loss for each client visit in the order of the visits, whatever the schedule: the client's loss
        at the model that it received, on the data of its first local step. For the tutorial these are the
        numbers that it prints. They stay on this side: no loss crosses the wire.
    round_losses : list of float
        Mean of `losses` over the visits of each round.
    transcript : Transcript
        All that the server saw; empty with ``record=False``.
    reports : list of Report
        What every defense did, in order; empty with ``record=False``.
    state : ServerState
        Where the run ended; ``trainer.run(state=run.state)`` goes on from there.
    faults : list of Fault
        Who was left out of which round and why; always empty without ``min_answers``.

    Examples
    --------
    >>> import fedpriv
    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(model.weight)
    >>> bob = {"bob": (torch.ones(1, 1), torch.ones(1, 1))}
    >>> fedpriv.FederatedTrainer(model, fedpriv.losses.squared_error, bob, lr=0.25).run(rounds=2)
    Run(Linear, rounds=2, visits=2, mean loss 1 to 0.25, recorded=2)
    """

    model: nn.Module
    losses: list[float]
    round_losses: list[float]
    transcript: Transcript
    reports: list[Report]
    state: ServerState
    faults: list[Fault] = field(default_factory=list)

    def __repr__(self) -> str:
        """One line: all losses and the seed of the state would fill a page."""
        rounds = len(self.round_losses)
        went = f", mean loss {self.round_losses[0]:.4g} to {self.round_losses[-1]:.4g}" if rounds else ""
        out = f", {len(self.faults)} visits left out" if self.faults else ""
        return (
            f"Run({type(self.model).__name__}, rounds={rounds}, visits={len(self.losses)}{went}{out}, "
            f"recorded={len(self.transcript)})"
        )


def state_of(model: nn.Module, *, round: int, seed: int) -> ServerState:
    """The parameters and persistent buffers of `model` as a state."""
    persistent = model.state_dict()
    return ServerState(
        round=round,
        parameters=dict(model.named_parameters()),
        buffers={name: buffer for name, buffer in model.named_buffers() if name in persistent},
        seed=seed,
    )


def as_sent(model: nn.Module, state: ServerState) -> FrozenTensors:
    """What the server sends: every entry of ``model.state_dict()``, tied parameters under each name."""
    values = {**state.parameters, **state.buffers}
    names = canonical_names(model)
    return FrozenTensors({name: values[names[name]] for name in model.state_dict()})


def from_state_dict(model: nn.Module, tensors: Tensors, *, round: int, seed: int) -> ServerState:
    """The state that a state dict of `model` describes; a ``ValueError`` says what does not fit."""
    check_same_layout(
        model.state_dict(),
        tensors,
        what="a state dict to send",
        remedy="take it from a model of the same architecture",
    )
    blank = state_of(model, round=round, seed=seed)
    return blank.updated({name: tensors[name] for name in (*blank.parameters, *blank.buffers)})


def fitting(state: ServerState, own: ServerState) -> ServerState:
    """`state`; a ``ValueError`` unless it has the names and shapes of `own`."""
    for expected, got in ((own.parameters, state.parameters), (own.buffers, state.buffers)):
        check_same_layout(expected, got, what="the state", remedy="pass the state of a run of the same model")
    return state


def load(model: nn.Module, state: ServerState) -> None:
    """Write `state` into `model`, a copy that belongs to the trainer."""
    with torch.no_grad():
        model.load_state_dict(dict(as_sent(model, state)))


def canonical_names(model: nn.Module) -> Mapping[str, str]:
    """For each name in the state dict the one under which ``named_parameters`` lists the same tensor."""
    first = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    return {name: first[id(tensor)] for name, tensor in model.state_dict(keep_vars=True).items()}
