"""One thread for small matrices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Run on one thread and restore the number of threads afterwards.

    Exact attacks multiply thousands of small matrices. A second thread gains little there, and where other
    processes use the cores as well, the threads of a product wait for each other: we measured 37 seconds
    instead of 2 for the same batch.

    Examples
    --------
    >>> before = torch.get_num_threads()
    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
