"""Who is asked when, and what the server makes of the answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedpriv.training.clients import Client
from fedpriv.training.rounds import Round
from fedpriv.training.state import ServerState, from_state_dict
from fedpriv.wire import FrozenTensors, Tensors
from fedpriv.wire.update import Kind


class Schedule(ABC):
    """The server's program for one round. A subclass says what it asks for and writes `run_round`."""

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """What clients return: ``"gradient"`` or ``"parameters"``."""

    @property
    @abstractmethod
    def pools(self) -> bool:
        """Whether all clients answer the same model, so that an aggregator can average the answers."""

    @abstractmethod
    def run_round(self, round: Round, state: ServerState, clients: Sequence[Client]) -> ServerState:
        """Ask `clients` and return the server's new state."""


@dataclass(frozen=True)
class Sequential(Schedule):
    """The tutorial's schedule: the model travels from client to client, each trains it and hands it back.

    ``for each client k: w <- ClientUpdate(k, w)``. Every client's effect on the model is visible to the
    server on its own, so no aggregator can stand in between.
    """

    @property
    def kind(self) -> Kind:
        """Parameters after local training."""
        return "parameters"

    @property
    def pools(self) -> bool:
        """No: each client answers another model."""
        return False

    def run_round(self, round: Round, state: ServerState, clients: Sequence[Client]) -> ServerState:
        """Visit the clients one after the other."""
        for client in clients:
            state = state.updated(round.ask(client, round.pack(state), self.kind))
        return state


@dataclass(frozen=True)
class FedSGD(Schedule):
    """Parallel gradients: ``w <- w - lr * sum_k weight_k * g_k``.

    The special case of one full-batch step in [1]_, section 2. A gradient carries no batch-norm
    statistics, so the server's buffers stay as they are; `FedAvg` with one local step moves them, too.

    References
    ----------
    .. [1] B. McMahan, E. Moore, D. Ramage, S. Hampson, B. Aguera y Arcas, "Communication-efficient learning
       of deep networks from decentralized data", AISTATS 2017, https://arxiv.org/abs/1602.05629
    """

    @property
    def kind(self) -> Kind:
        """The gradient at the server's model."""
        return "gradient"

    @property
    def pools(self) -> bool:
        """Yes."""
        return True

    def run_round(self, round: Round, state: ServerState, clients: Sequence[Client]) -> ServerState:
        """Average the gradients and take one step."""
        w = state.parameters
        g = round.ask_for_mean(clients, round.pack(state), self.kind)
        return state.updated({name: w[name].add(g[name], alpha=-round.training.lr) for name in g})


@dataclass(frozen=True)
class FedAvg(Schedule):
    """Parallel local training: ``w <- sum_k weight_k * ClientUpdate(k, w)``, Algorithm 1 of [1]_.

    We count local gradient *steps* where the paper counts epochs: E epochs with batches of B are
    ``local_steps = E * ceil(n_k / B)``. The paper's weights are ``weights="samples"``.

    References
    ----------
    .. [1] B. McMahan, E. Moore, D. Ramage, S. Hampson, B. Aguera y Arcas, "Communication-efficient learning
       of deep networks from decentralized data", AISTATS 2017, https://arxiv.org/abs/1602.05629
    """

    @property
    def kind(self) -> Kind:
        """Parameters after local training."""
        return "parameters"

    @property
    def pools(self) -> bool:
        """Yes."""
        return True

    def run_round(self, round: Round, state: ServerState, clients: Sequence[Client]) -> ServerState:
        """Average the parameters that come back."""
        return state.updated(round.ask_for_mean(clients, round.pack(state), self.kind))


@dataclass(frozen=True)
class ChosenModels(Schedule):
    """A malicious server: in round r every client gets ``states[r]``, whatever came back before.

    The clients run the honest program of `then` and cannot tell the difference. The server's own model does
    not move meanwhile; when the list is used up, `then` goes on from it.

    Parameters
    ----------
    states : sequence of mapping of str to Tensor
        State dicts of the model, one a round.
    then : Schedule, default Sequential()
        What the clients believe they take part in, and what follows.
    """

    states: Sequence[Tensors] = field(repr=False)
    then: Schedule = field(default_factory=Sequential)

    def __post_init__(self) -> None:
        """Copy the states."""
        if not self.states:
            raise ValueError(
                "ChosenModels needs at least one state dict, got none; pass model.state_dict() values"
            )
        states = tuple(FrozenTensors(state, what="a state dict to send") for state in self.states)
        object.__setattr__(self, "states", states)

    @property
    def kind(self) -> Kind:
        """As in `then`."""
        return self.then.kind

    @property
    def pools(self) -> bool:
        """As in `then`."""
        return self.then.pools

    def run_round(self, round: Round, state: ServerState, clients: Sequence[Client]) -> ServerState:
        """Send the chosen model to everyone and keep the answers only in the record."""
        if state.round >= len(self.states):
            return self.then.run_round(round, state, clients)
        chosen = from_state_dict(
            round.training.model, self.states[state.round], round=state.round, seed=state.seed
        )
        round.ask_for_mean(clients, round.pack(chosen), self.kind)
        return state


SCHEDULES: Mapping[str, Schedule] = {"sequential": Sequential(), "fedsgd": FedSGD(), "fedavg": FedAvg()}
"""The schedules that `FederatedTrainer` knows by name."""


def schedule_from(given: Schedule | str | None, *, aggregated: bool) -> Schedule:
    """`given`, looked up if it is a name; by default one in which an aggregator fits, if there is one."""
    if given is None:
        return FedAvg() if aggregated else Sequential()
    found = SCHEDULES.get(given.lower()) if isinstance(given, str) else given
    if not isinstance(found, Schedule):
        raise ValueError(
            f"schedule must be one of {list(SCHEDULES)} or a Schedule such as FedAvg(), got {given!r}"
        )
    return found
