"""One optimizer per worker, as in the tutorials of PySyft 0.2."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch

from fedpriv.pointers import VirtualWorker

__all__ = ["Optims"]


class Optims:
    """One optimizer of the same kind and settings for each worker, each with a state of its own.

    Parameters
    ----------
    workers
        Workers, or their ids; at least one, all different.
    optim
        The optimizer to copy; its parameters are shared by the copies, its state is not.

    Examples
    --------
    >>> model = torch.nn.Linear(2, 1)
    >>> optims = Optims(["bob", "alice"], optim=torch.optim.Adam(model.parameters(), lr=0.1))
    >>> optims.get_optim("bob") is optims.get_optim("alice")
    False
    >>> optims.get_optim("bob").param_groups[0]["lr"]
    0.1
    """

    def __init__(self, workers: Iterable[VirtualWorker | str], optim: torch.optim.Optimizer) -> None:
        if not isinstance(optim, torch.optim.Optimizer):
            raise ValueError(
                f"Optims expects a torch optimizer, got {type(optim).__name__}; "
                "write Optims(workers, optim=torch.optim.Adam(model.parameters()))."
            )
        self.optim = optim
        self.workers = [_id(worker) for worker in workers]
        if not self.workers or len(set(self.workers)) < len(self.workers):
            raise ValueError(f"Optims expects one or more different workers, got {self.workers}.")
        self.optimizers = {worker: _fresh_copy(optim) for worker in self.workers}

    def get_optim(self, worker: VirtualWorker | str) -> torch.optim.Optimizer:
        """Return the optimizer of a worker.

        Parameters
        ----------
        worker
            A worker, or its id.

        Returns
        -------
        Optimizer
            Always the same one for the same worker.
        """
        id = _id(worker)
        if id not in self.optimizers:
            raise ValueError(f"No optimizer for worker {id!r}; Optims was made for {self.workers}.")
        return self.optimizers[id]

    def count(self) -> int:
        """Return the number of workers."""
        return len(self.workers)


def _id(worker: VirtualWorker | str) -> str:
    return worker.id if isinstance(worker, VirtualWorker) else worker


def _fresh_copy(optim: torch.optim.Optimizer) -> torch.optim.Optimizer:
    # AdamW and others keep defaults that their own constructor does not take.
    accepted = inspect.signature(type(optim).__init__).parameters
    defaults = {key: value for key, value in optim.defaults.items() if key in accepted}
    groups = [{**group, "params": list(group["params"])} for group in optim.param_groups]
    return type(optim)(groups, **defaults)
