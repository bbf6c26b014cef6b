"""Long attacks in another process, so that the page stays awake and can stop them."""

from __future__ import annotations

import contextlib
import pickle
import queue
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import Any

from fedpriv.lab.explore.answer import Answer
from fedpriv.lab.explore.choice import Choice
from fedpriv.lab.explore.cost import Cost

OVERTIME = 60.0
"""Seconds beyond the time budget (for the certificate, the cost, a busy machine) before a job is stopped."""


@dataclass(kw_only=True, eq=False)
class Job:
    """One attack under way. `Desk.look` brings it up to date.

    Parameters
    ----------
    number : int
        Counts the jobs of a desk, from 1.
    choice : Choice
    started : float
        On the clock of ``time.monotonic()``.
    stage : str
        What is being done, in a few words.
    answer : Answer or None
        The result, once there is one.
    cost : Cost or None
        What the defense costs, which comes after the answer.
    fault : str
        Why there will be none; empty if all is well.
    """

    number: int
    choice: Choice
    started: float
    stage: str = "waking up"
    answer: Answer | None = None
    cost: Cost | None = None
    fault: str = ""

    @property
    def over(self) -> bool:
        """Whether the attack has ended, in one way or the other."""
        return self.answer is not None or bool(self.fault)

    @property
    def settled(self) -> bool:
        """Whether nothing more will come."""
        return self.cost is not None or bool(self.fault)

    @property
    def seconds(self) -> float:
        """Since the job was given."""
        return time.monotonic() - self.started

    @property
    def fraction(self) -> float:
        """How much of the time budget is used up, 0 to 1; most attacks end long before."""
        return min(1.0, self.seconds / self.choice.time_budget)


class Desk:
    """Takes choices and has them answered, one at a time, by a process of its own.

    The process starts at once, so that it is awake when the first attack is asked for. It ends with this
    object, with the process of this object, or when nobody asks for a while.
    """

    def __init__(self) -> None:
        self._count = 0
        self._job: Job | None = None
        self._link = _Link()
        self._finalizer = weakref.finalize(self, _Link.close, self._link)

    def ask(self, choice: Choice) -> Job:
        """Have `choice` answered; what is under way is given up."""
        self.cancel()
        self._count += 1
        job = self._job = Job(number=self._count, choice=choice, started=time.monotonic())
        if not self._link.alive():
            self._renew()
        self._link.send((job.number, choice))
        return job

    def look(self) -> Job | None:
        """The job, with all that has come from the process since the last look. Never waits."""
        job = self._job
        if job is None or job.settled:
            return job
        for number, kind, content in self._link.news():
            if number != job.number:
                continue
            if kind == "answer":
                job.answer = content
            elif kind == "cost":
                job.cost = content
            elif kind == "fault":
                job.fault = content
            else:
                job.stage = content
        if not job.settled and not self._link.alive():
            job.fault = "the attack's process ended (out of memory?); try a smaller case"
        if not job.over and job.seconds > job.choice.time_budget + OVERTIME:
            self.cancel("stopped: far over its time")
        return job

    def cancel(self, why: str = "canceled") -> None:
        """Stop an attack at once; a fresh process gets ready for the next question."""
        if self._job is not None and not self._job.over:
            self._job.fault = why
            self._renew()

    def close(self) -> None:
        """End the process."""
        if self._job is not None and not self._job.settled:
            self._job.fault = "canceled"
        self._finalizer()

    def _renew(self) -> None:
        self._finalizer()
        self._link = _Link()
        self._finalizer = weakref.finalize(self, _Link.close, self._link)


@dataclass(eq=False)
class _Link:
    """The process and a thread that reads what it writes."""

    process: subprocess.Popen[bytes] = field(init=False)
    _inbox: queue.Queue[Any] = field(init=False, default_factory=queue.Queue)

    def __post_init__(self) -> None:
        """Start both."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fedpriv.lab.explore.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        threading.Thread(target=_read, args=(self.process, self._inbox), daemon=True).start()

    def alive(self) -> bool:
        return self.process.poll() is None

    def send(self, message: object) -> None:
        assert self.process.stdin is not None  # a pipe was asked for
        with contextlib.suppress(OSError):  # it has just ended: the next look says so
            pickle.dump(message, self.process.stdin)
            self.process.stdin.flush()

    def news(self) -> list[Any]:
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._inbox.get_nowait())
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError, ValueError):
                    pipe.close()


def _read(process: subprocess.Popen[bytes], inbox: queue.Queue[Any]) -> None:
    assert process.stdout is not None  # a pipe was asked for
    with contextlib.suppress(EOFError, OSError, ValueError, pickle.UnpicklingError):
        while True:
            inbox.put(pickle.load(process.stdout))
