"""Averaging: what the pooled update still reveals, and of whom one can no longer tell.

The tutorial's remedy is to average gradients over several people before the server sees them. Here Bob and
Alice hand their updates to a trusted aggregator, which gives the server the mean alone; then the same without
trusting anybody, by additive secret sharing. The server attacks what it gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import attacks
import fedpriv
from fedpriv.defenses import Averaging, SecretSharing

ROUNDS = 12
VALUES = (0.0, 1.0)
"""What the server may assume about the data: answers to yes-or-no questions."""


def truth() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The tutorial's four points, two for each person."""
    data = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1.0]])
    target = torch.tensor([[0], [0], [1], [1.0]])
    return {"bob": (data[:2], target[:2]), "alice": (data[2:], target[2:])}


def train(defenses: Sequence[Any], seed: int) -> fedpriv.Run:
    """FedAvg with the data on two workers; updates move from them to the aggregator, if there is one."""
    generator = torch.Generator().manual_seed(seed)
    clients = {}
    for name, (inputs, targets) in truth().items():
        worker = fedpriv.VirtualWorker(id=name)
        clients[name] = (fedpriv.pointers.send(inputs, worker), fedpriv.pointers.send(targets, worker))
    trainer = fedpriv.FederatedTrainer(
        fedpriv.models.linear(2, generator=generator),
        fedpriv.losses.squared_error,
        clients,
        lr=0.05,
        schedule=fedpriv.FedAvg(),
        defenses=defenses,
        generator=generator,
    )
    return trainer.run(rounds=ROUNDS)


def attempt(evidence: Any, client: str | None = None) -> dict[str, Any]:
    """Attack, and keep the refusal as well as the success."""
    try:
        found = attacks.reconstruct(evidence, client=client)
    except attacks.NotIdentifiable as refusal:
        return {"refusal": str(refusal), "determined": refusal.determined}
    return {"inputs": found.inputs, "targets": found.targets, "certified": bool(found.certified.all())}


def with_prior(observations: list[fedpriv.Observation]) -> list[fedpriv.Observation]:
    """The same evidence for a server that knows which values can occur."""
    return [
        fedpriv.Observation(
            o.model,
            o.update,
            o.loss_fn,
            replace(o.knowledge, input_values=VALUES, target_values=VALUES),
            state=o.state,
        )
        for o in observations
    ]


def main(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Train three ways, attack each, draw."""
    alone = train([], seed)
    result: dict[str, Any] = {"seed": seed, "undefended": {c: attempt(alone.transcript, c) for c in truth()}}
    for name, defense in (("averaging", Averaging()), ("secret_sharing", SecretSharing())):
        pooled = train([defense], seed).transcript
        visits = pooled.observations("aggregator")
        result[name] = {
            "bob": attempt(pooled, "bob"),
            "pooled": attempt(visits),
            "pooled_with_prior": attempt(with_prior(visits)),
        }
    points = {client: inputs for client, (inputs, _) in truth().items()}
    everybody = result["averaging"]["pooled_with_prior"].get("inputs")
    estimate = {} if everybody is None else {"the average": everybody}
    result["files"] = [
        fedpriv.lab.plot_points(
            points,
            estimate,
            out / "averaging.png",
            title="From the average alone: the points, but no longer whose",
        )
    ]
    return result


def report(result: dict[str, Any]) -> str:
    """The table and what it means."""
    lines = []
    for client, row in result["undefended"].items():
        lines.append(f"  no defense      {client}: {_points(row)}")
    for name in ("averaging", "secret_sharing"):
        rows = result[name]
        label = name.replace("_", " ")
        lines += [
            f"  {label:15} bob: refused"
            if "refusal" in rows["bob"]
            else f"  {label:15} bob: {_points(rows['bob'])}",
            f"  {label:15} pooled: {_determined(rows['pooled'])}",
            f"  {label:15} pooled, values 0 or 1 known: {_points(rows['pooled_with_prior'])}",
        ]
    refusal = result["averaging"]["bob"].get("refusal", "")
    return "\n".join(
        [
            *lines,
            "",
            f"Why bob was refused: {refusal}.",
            "",
            "Averaging does not make the data disappear: number, mean and second moments of everybody's\n"
            "points are exact in the pooled update, and a server that knows which values can occur still\n"
            "gets every point and every target. What is gone is the name: no arithmetic tells which two\n"
            "were Bob's. Secret sharing gives the server the same sum without an aggregator that must be\n"
            "trusted, hence the same answers. With only two clients, Alice can subtract her own update and\n"
            "get Bob's: averaging hides you among honest others, and noise is what limits the sum itself\n"
            "(`fedpriv demo noise`).",
        ]
    )


def _points(row: dict[str, Any]) -> str:
    if "refusal" in row:
        return f"refused: {row['refusal']}"
    targets = (
        row["targets"].reshape(-1).tolist()
        if row["targets"] is not None
        else [float("nan")] * len(row["inputs"])
    )
    pairs = zip(row["inputs"].tolist(), targets, strict=True)
    return ", ".join(f"({_short(x[0])}, {_short(x[1])}) -> {_short(y)}" for x, y in pairs)


def _short(value: float) -> str:
    return f"{round(value, 3) + 0.0:g}"


def _determined(row: dict[str, Any]) -> str:
    known = row.get("determined", {})
    if not known:
        return _points(row)
    mean = ", ".join(_short(v) for v in known["mean"].tolist())
    return f"{int(known['num_samples'])} samples with mean ({mean}), the points themselves not determined"


if __name__ == "__main__":
    from fedpriv.cli import run_demo_script

    run_demo_script(__file__)
