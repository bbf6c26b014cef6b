"""Clients: who owns which data, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from fedpriv.defenses.places import location_of
from fedpriv.pointers import VirtualWorker


@dataclass(frozen=True, kw_only=True)
class Client:
    """One owner of data.

    Parameters
    ----------
    name : str
        For example ``"bob"``.
    inputs : Tensor (n, *input_shape)
        One sample a row; a tensor here or a pointer to one on the client's worker.
    targets : Tensor (n, ...)
        One target a row, in the same place.
    """

    name: str
    inputs: torch.Tensor = field(repr=False)
    targets: torch.Tensor = field(repr=False)

    @property
    def worker(self) -> VirtualWorker | None:
        """Where the data are, if they are behind pointers."""
        return location_of([self.inputs])

    @property
    def num_samples(self) -> int:
        """How many samples the client holds."""
        return int(self.inputs.shape[0])


def clients_from(data: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> tuple[Client, ...]:
    """Check ``{"bob": (inputs, targets), ...}`` and make a `Client` of every entry.

    Raises
    ------
    ValueError
        If there is no client, or a client's data are empty, of unequal length, or not finite.
    """
    if not isinstance(data, Mapping) or not data:
        raise ValueError(
            f'clients must be a mapping like {{"bob": (x, y)}} with at least one client, got {data!r:.100}'
        )
    return tuple(_client(name, pair) for name, pair in data.items())


def _client(name: str, pair: tuple[torch.Tensor, torch.Tensor]) -> Client:
    if not isinstance(name, str) or name == "aggregator":
        raise ValueError(f"a client's name must be a string other than 'aggregator', got {name!r}; rename it")
    if not (
        isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(t, torch.Tensor) for t in pair)
    ):
        raise ValueError(
            f"client {name!r} must be given as a pair (inputs, targets) of tensors, got {type(pair).__name__}"
        )
    inputs, targets = pair
    for what, tensor in (("inputs", inputs), ("targets", targets)):
        if tensor.dim() == 0 or tensor.numel() == 0:
            raise ValueError(
                f"the {what} of client {name!r} must hold at least one sample, got shape "
                f"{tuple(tensor.shape)}; leave out clients without data"
            )
    if inputs.shape[0] != targets.shape[0]:
        raise ValueError(
            f"client {name!r} must have one target for each input, got {inputs.shape[0]} inputs and "
            f"{targets.shape[0]} targets; were the data cut differently?"
        )
    _check_place_and_values(name, inputs, targets)
    return Client(name=name, inputs=inputs, targets=targets)


def _check_place_and_values(name: str, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    """Check values that are here, and that pointers lie together (their values are not ours to read)."""
    places = [location_of([tensor]) for tensor in (inputs, targets)]
    if places[0] is not places[1]:
        shown = ["here" if place is None else f"at {place.id!r}" for place in places]
        raise ValueError(
            f"the inputs and targets of client {name!r} must lie at one place, got inputs {shown[0]} and "
            f"targets {shown[1]}; send both to the same worker"
        )
    for what, tensor in (("inputs", inputs), ("targets", targets)):
        if places[0] is None and not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"the {what} of client {name!r} must be finite, got NaN or infinity; clean the data first"
            )


def uniform(clients: Sequence[Client]) -> dict[str, float]:
    """Every client counts alike: ``1 / number of clients``. The server need not be told anybody's number."""
    return {client.name: 1 / len(clients) for client in clients}


def by_samples(clients: Sequence[Client]) -> dict[str, float]:
    """Every *sample* counts alike: ``n_k / n``, as in McMahan et al. 2017. Each client tells its n_k."""
    total = sum(client.num_samples for client in clients)
    return {client.name: client.num_samples / total for client in clients}


WEIGHTINGS: Mapping[str, Callable[[Sequence[Client]], dict[str, float]]] = {
    "uniform": uniform,
    "samples": by_samples,
}
"""The weighted means that `FederatedTrainer` knows by name."""
