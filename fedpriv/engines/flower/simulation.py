"""Flower's own simulation, with ray: many clients, several at a time."""

from __future__ import annotations

from flwr.app.typing import ConfigRecordValues
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedpriv.engines.flower._require import require_ray


def simulate(
    server_app: ServerApp, client_app: ClientApp, *, num_clients: int, cores_per_client: float = 1.0
) -> None:
    """Run two apps with ray. What the server recorded is in the strategy that its app wrapped.

    Parameters
    ----------
    server_app, client_app : flwr.serverapp.ServerApp, flwr.clientapp.ClientApp
        They get an empty ``context.run_config``: use ``flwr run`` for an app with settings.
    num_clients : int
    cores_per_client : float, default 1.0
        As many clients run at a time as the machine has cores for.

    Raises
    ------
    ImportError
        If ray is not installed.
    ValueError
        If there is no client.
    """
    if isinstance(num_clients, bool) or not isinstance(num_clients, int) or num_clients < 1:
        raise ValueError(f"num_clients must be a whole number of 1 or more, got {num_clients!r}")
    require_ray()
    from flwr.simulation import run_simulation

    resources: dict[str, ConfigRecordValues] = {"num_cpus": cores_per_client, "num_gpus": 0.0}
    run_simulation(server_app, client_app, num_clients, backend_config={"client_resources": resources})
