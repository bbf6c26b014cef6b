"""Averaging: what the pooled update still reveals, and of whom one can no longer tell
===================================================================================

The tutorial's remedy is to average gradients over several people before the server sees them. Three ways to
do it, each trusting less: an aggregator whom Bob and Alice trust with their updates; additive secret sharing,
where they trust each other to stay to the end; secure aggregation, which survives that Carol's battery is
empty. The server attacks what it gets. Last, it asks twice, and Carol is away once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import attacks
import fedpriv
from attacks.adaptive import difference
from fedpriv.defenses import Averaging, SecretSharing, SecureAggregation, ServerView
from fedpriv.defenses.pipeline import AnyDefense

TAKES = "5 s"
ROUNDS = 12
PAIRS = 4
"""Models that the server of the last part sends twice."""
VALUES = (0.0, 1.0)
"""What the server may assume about the data: answers to yes-or-no questions."""


# %%
# Who has what
# ------------
# Bob and Alice as in the tutorial; Carol is the third.
def truth() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The tutorial's four points, two for each person."""
    data = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1.0]])
    target = torch.tensor([[0], [0], [1], [1.0]])
    return {"bob": (data[:2], target[:2]), "alice": (data[2:], target[2:])}


def carol() -> tuple[torch.Tensor, torch.Tensor]:
    """Two points that are no answers to yes-or-no questions."""
    return torch.tensor([[0.2, 0.9], [0.7, 0.1]]), torch.tensor([[1.0], [0.0]])


# %%
# Three ways to add up
# --------------------
# A trusted aggregator, secret sharing, secure aggregation with somebody lost on the way.
def train(defenses: Sequence[AnyDefense], seed: int) -> fedpriv.Run:
    """FedAvg with the data on two workers; updates move from them to the aggregator, if there is one."""
    return _federation(truth(), defenses, seed, fedpriv.FedAvg()).run(rounds=ROUNDS)


def train_securely(seed: int) -> fedpriv.Run:
    """Three people and masked updates; the server sends each model twice, and Carol is lost every other time.

    Her vector is due when she is lost: the others must help to remove the masks that no longer cancel.
    """
    generator = torch.Generator().manual_seed(seed)
    models = [fedpriv.models.linear(2, generator=generator).state_dict() for _ in range(PAIRS)]
    twice = fedpriv.ChosenModels([model for model in models for _ in range(2)], then=fedpriv.FedAvg())
    secure = SecureAggregation(
        threshold=2, dropouts=lambda round, _: {"mask": ["carol"]} if round % 2 else {}
    )
    return _federation({**truth(), "carol": carol()}, [secure], seed, twice).run(rounds=2 * PAIRS)


def _federation(
    people: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    defenses: Sequence[AnyDefense],
    seed: int,
    schedule: fedpriv.Schedule,
) -> fedpriv.FederatedTrainer:
    generator = torch.Generator().manual_seed(seed)
    clients = {}
    for name, (inputs, targets) in people.items():
        worker = fedpriv.VirtualWorker(id=name)
        clients[name] = (fedpriv.pointers.send(inputs, worker), fedpriv.pointers.send(targets, worker))
    return fedpriv.FederatedTrainer(
        fedpriv.models.linear(2, generator=generator),
        fedpriv.losses.squared_error,
        clients,
        lr=0.05,
        schedule=schedule,
        defenses=defenses,
        generator=generator,
    )


# %%
# What the server does with it
# ----------------------------
# It attacks the sum, and it attacks Bob. With prior knowledge it attacks the sum again.
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


# %%
# All of it
# ---------
# At the end it asks twice, and Carol is away once.
def main(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Train without defense and in three ways with one, attack each, draw."""
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
    result["secure_aggregation"] = _secure(seed)
    points = {client: inputs for client, (inputs, _) in truth().items()}
    everybody = result["averaging"]["pooled_with_prior"].get("inputs")
    estimate = {} if everybody is None else {"the average": everybody}
    result["files"] = [
        fedpriv.lab.plot_points(
            points,
            estimate,
            out / "averaging.png",
            title="From the average alone: the points, but no longer whose",
        ),
        _draw_carol(result["secure_aggregation"]["carol"], out),
    ]
    return result


def _secure(seed: int) -> dict[str, Any]:
    """The protocol, its sum, and the difference of the sums with Carol and without her."""
    transcript = train_securely(seed).transcript
    sums = transcript.observations("aggregator")
    with_her, without_her = sums[::2], sums[1::2]
    view = ServerView.of(list(transcript)[1].messages)
    alone = [difference(more, fewer) for more, fewer in zip(with_her, without_her, strict=True)]
    return {
        "messages": view.describe(),
        "survivors": view.survivors,
        "bob": attempt(transcript, "bob"),
        "pooled": attempt(without_her),
        "pooled_with_prior": attempt(with_prior(without_her)),
        "carol": attempt(alone),
    }


def _draw_carol(found: dict[str, Any], out: Path) -> Path:
    return fedpriv.lab.plot_points(
        {"carol": carol()[0]},
        {"the difference of two sums": found["inputs"]} if "inputs" in found else {},
        out / "averaging_difference.png",
        title="One sum with Carol, one without, on the same model: the difference is Carol",
    )


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
    secure = result["secure_aggregation"]
    lines += [
        f"  {'secure sum':15} bob: {'refused' if 'refusal' in secure['bob'] else _points(secure['bob'])}",
        f"  {'secure sum':15} of {' and '.join(secure['survivors'])}: {_determined(secure['pooled'])}",
        f"  {'secure sum':15} pooled, values 0 or 1 known: {_points(secure['pooled_with_prior'])}",
        f"  {'two secure sums':15} carol: {_points(secure['carol'])}",
    ]
    refusal = result["averaging"]["bob"].get("refusal", "")
    return "\n".join(
        [*lines, "", f"Why bob was refused: {refusal}.", "", _AVERAGED, "", _protocol(secure), "", _SUMS]
    )


_AVERAGED = (
    "Averaging does not make the data disappear: number, mean and second moments of everybody's\n"
    "points are exact in the pooled update, and a server that knows which values can occur still\n"
    "gets every point and every target. What is gone is the name: no arithmetic tells which two\n"
    "were Bob's. Secret sharing gives the server the same sum without an aggregator that must be\n"
    "trusted, hence the same answers; but everybody must stay until the end. With only two clients,\n"
    "Alice can subtract her own update and get Bob's: averaging hides you among honest others, and\n"
    "noise is what limits the sum itself (`fedpriv demo noise`)."
)
_SUMS = (
    "Every number that the server has in the place of an update is uniformly random, and the sum of\n"
    "those who stayed is right although Carol's masks were in it. The sum itself leaks as before. And\n"
    "sums can be compared: this server sent each model twice, once with Carol and once after she was\n"
    "lost. The difference of the two is her update alone, and from a few of them come her points. No\n"
    "cryptography prevents that, for it needs nothing but the sums. What helps: never answer the same\n"
    "model twice, or noise from each client (`fedpriv demo matrix` has all of it beside each other)."
)


def _protocol(secure: dict[str, Any]) -> str:
    head = "Secure aggregation, a round in which Carol is lost with her vector due; what reached the server:"
    return "\n".join([head, *(f"  {line}" for line in secure["messages"].splitlines())])


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


# %%
# What it prints
# --------------
if __name__ == "__main__":
    from fedpriv.cli import run_script

    run_script(main, report)
