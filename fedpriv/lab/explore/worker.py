"""The other process of a `Desk`: reads choices from standard input, writes what it finds to standard output.

Messages are pickles, which is safe between a process and its own child and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import sys
import threading
from typing import Any, BinaryIO

IDLE = 600.0
"""Seconds without a question after which the process ends: the page was closed. A desk starts another."""


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer one question after the other until the input ends or nobody asks any more."""
    import torch  # the dear imports, before the first question

    from fedpriv.lab.explore.answer import answer
    from fedpriv.lab.explore.choice import Choice
    from fedpriv.lab.explore.cost import cost

    torch.set_num_threads(1)  # the tensors are small, and the page's process needs a core, too
    answer(Choice(batch_size=1))  # what is loaded on first use is loaded before somebody waits for it
    waiting: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_listen, args=(questions, waiting), daemon=True).start()

    def send(kind: str, content: object) -> None:
        pickle.dump((number, kind, content), answers)
        answers.flush()

    while True:
        try:
            number, choice = waiting.get(timeout=IDLE)
        except queue.Empty:
            return
        try:
            send("answer", answer(choice, lambda words: send("stage", words)))
            send("stage", "training with the defense and without, to see what it costs")
            price = cost(choice, go_on=waiting.empty)  # it may wait; the next question may not
            if price is not None:
                send("cost", price)
        except Exception as error:  # whatever it is, the page must say it
            send("fault", f"{type(error).__name__}: {error}")


def _listen(questions: BinaryIO, waiting: queue.Queue[Any]) -> None:
    """Pass questions on; end the process, whatever it is doing, when the page's process is gone."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            waiting.put(pickle.load(questions))
    os._exit(0)


if __name__ == "__main__":
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever prints must not disturb the messages
    serve(sys.stdin.buffer, channel)
