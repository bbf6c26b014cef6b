"""Pointers: one step of training on data that never leave Bob, message by message
=================================================================================

A pointer is a tensor whose values are elsewhere. Operations travel to the values, results stay where they
were computed, and only what is asked for with ``.get()`` comes back. Here is one step of the PySyft
tutorial's training, with what goes to Bob and what comes from him counted after every line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import fedpriv

TAKES = "4 s"

# %%
# Counting
# --------
# A worker counts its messages and the bytes of values that reach and leave it. Addresses and names of
# operations are not counted: they say nothing about the data.


class Ledger:
    """What happened at a worker since the last line."""

    def __init__(self, worker: fedpriv.VirtualWorker) -> None:
        self.worker = worker
        self.rows: list[dict[str, Any]] = []
        self._before = self._counters()

    def _counters(self) -> tuple[int, int, int]:
        return self.worker.messages, self.worker.bytes_received, self.worker.bytes_sent

    def note(self, line: str) -> None:
        """Write down what `line` caused."""
        now = self._counters()
        messages, to_bob, from_bob = (a - b for a, b in zip(now, self._before, strict=True))
        self.rows.append({"line": line, "messages": messages, "to_bob": to_bob, "from_bob": from_bob})
        self._before = now


# %%
# One step of training
# --------------------
# Bob's points are private: they and all that is computed from them stay. The last line is the one that
# matters. Without Bob's permission it is refused; training is only possible because he gives it.
def step(seed: int) -> dict[str, Any]:
    """Send, predict, differentiate, step, and ask for the model."""
    x, y = torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0], [0.0]])
    with fedpriv.TorchHook(torch) as hook:
        bob = fedpriv.VirtualWorker(hook, id="bob")
        ledger = Ledger(bob)
        data, target = (fedpriv.pointers.send(tensor, bob, private=True) for tensor in (x, y))
        ledger.note("data, target = x.send(bob, private=True), ...")
        model = fedpriv.models.linear(2, generator=torch.Generator().manual_seed(seed))
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        fedpriv.pointers.send(model, bob)
        ledger.note("model.send(bob)")
        loss = fedpriv.losses.squared_error(model(data), target)
        ledger.note("loss = ((model(data) - target) ** 2).sum()")
        loss.backward()
        ledger.note("loss.backward()")
        optimizer.step()
        ledger.note("optimizer.step()")
        refusal = refused(model)
        ledger.note("model.get()   (refused)")
        bob.release(model, through=lambda tensor: tensor, reason="training")
        returned = fedpriv.pointers.get(model)
        ledger.note("bob.release(model, ...); model.get()")
    after = {name: value.detach() for name, value in returned.named_parameters()}
    change = {name: (before[name] - after[name]).tolist() for name in before}
    return {"seed": seed, "rows": ledger.rows, "refusal": refusal, "change": change, "files": []}


def refused(model: torch.nn.Module) -> str:
    """The sentence with which Bob refuses to hand out his model."""
    try:
        fedpriv.pointers.get(model)
    except fedpriv.pointers.PrivateValueError as error:
        return str(error)
    raise RuntimeError("a model trained on private data left without permission")


def main(out: Path, *, seed: int = 0) -> dict[str, Any]:  # noqa: ARG001 (nothing to draw)
    """Do the step."""
    return step(seed)


def report(result: dict[str, Any]) -> str:
    """The ledger and what it means."""
    width = max(len(row["line"]) for row in result["rows"])
    lines = [f"  {'line':{width}}  messages   bytes to Bob   bytes from Bob"]
    lines += [
        f"  {row['line']:{width}}{row['messages']:10d}{row['to_bob']:15d}{row['from_bob']:17d}"
        for row in result["rows"]
    ]
    return "\n".join(
        [
            *lines,
            "",
            f"refused: {result['refusal']}",
            "",
            "Prediction, gradient and step happened at Bob: no value left him before the last line. What\n"
            "leaves then is three numbers, two weights and a bias. Pointers keep the data in place; they do\n"
            "not say what those three numbers tell about the data. `fedpriv demo tutorial` computes it.",
        ]
    )


# %%
# What it prints
# --------------
if __name__ == "__main__":
    from fedpriv.cli import run_script

    run_script(main, report)
