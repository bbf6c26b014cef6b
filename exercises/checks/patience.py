"""A limit on the time that a student's function may take, on every system and for every endless loop."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class _TooLong(BaseException):
    """Not an Exception, so that ``except Exception`` in the loop does not go on with it."""


@contextmanager
def limit(seconds: float, sentence: str) -> Iterator[None]:
    """Fail with `sentence` and the limit after so many seconds; Ctrl-C works as before.

    Only the main thread can be interrupted; elsewhere there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    over, done = threading.Event(), threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def interrupted(number: int, frame: FrameType | None) -> None:
        if over.is_set() and not done.is_set():
            raise _TooLong
        if not over.is_set() and callable(before):
            before(number, frame)

    watch = threading.Thread(target=_watch, args=(seconds, over, done), daemon=True)
    signal.signal(signal.SIGINT, interrupted)
    watch.start()
    try:
        yield
    except _TooLong:
        raise AssertionError(f"{sentence} {seconds:g} s: an endless loop?") from None
    finally:
        done.set()
        watch.join()
        signal.signal(signal.SIGINT, before)


def _watch(seconds: float, over: threading.Event, done: threading.Event) -> None:
    """Interrupt the main thread once the time is over, and again while a bare ``except:`` catches that."""
    if done.wait(seconds):
        return
    over.set()
    while True:
        if hasattr(signal, "pthread_kill"):  # wakes a sleeping function, too
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        else:
            _thread.interrupt_main()
        if done.wait(0.5):
            return
