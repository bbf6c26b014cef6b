"""The default engine: the owners are objects of this process, and a request is a function call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from fedpriv.engines.base import Engine, Fault, Request, Visit

if TYPE_CHECKING:
    from fedpriv.training.owners import Owners


class LocalEngine(Engine):
    """Asks the owners one after the other; nothing is copied, sent or started.

    The two sides are kept apart by what the code imports, not by the machine: it is a simulation.

    Examples
    --------
    >>> LocalEngine()
    LocalEngine()
    """

    name: ClassVar[str] = "local"
    in_process: ClassVar[bool] = True

    def ask(self, requests: Sequence[Request], owners: Owners) -> Iterator[Visit | Fault]:
        """Answer each request in its turn; only one answer exists at a time."""
        for request in requests:
            yield _answer(request, owners)


def _answer(request: Request, owners: Owners) -> Visit | Fault:
    try:
        return owners.answer(request)
    except ValueError as error:
        return Fault(client=request.client, reason=str(error), round=request.round, error=error)
