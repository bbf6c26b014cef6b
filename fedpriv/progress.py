"""A progress bar that is seen only by someone who waits at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(iterable: Iterable[T], *, description: str, total: int | None = None) -> Iterator[T]:
    """Go through `iterable`, showing a bar on standard error.

    The bar appears only at a terminal, only once a second has passed, and is gone when the loop ends.

    Parameters
    ----------
    iterable : iterable
        What to go through.
    description : str
        What is being done, such as ``"rounds"``.
    total : int, optional
        Number of items, where `iterable` has no length.

    Examples
    --------
    >>> [step * 2 for step in progress(range(3), description="steps")]
    [0, 2, 4]
    """
    from tqdm import tqdm

    bar = tqdm(iterable, desc=description, total=total, file=sys.stderr, disable=None, leave=False, delay=1.0)
    yield from bar
