"""The tutorial at scale: share of exact attacks, visits needed, time, overhead of pointers and of recording.

A thousand random two-point data sets for Bob and Alice, in 2 to 20 dimensions, trained in float32 from random
models; every attack sees the returned models alone. Seconds are CPU seconds, attack and certificate together.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import attacks
import fedpriv
from fedpriv.lab.study import Cell, Results
from fedpriv.losses import squared_error

TASKS = 1000
BLOCK = 50
"""Tasks in a cell."""
EXACT = 1e-3
VISITS = 6
ROUNDS = 50
TURNS = 7
Data = dict[str, tuple[torch.Tensor, torch.Tensor]]


def random_task(seed: int) -> tuple[torch.nn.Linear, Data, float, torch.Generator]:
    """A random model, two points for each client, and a learning rate at which training converges."""
    generator = torch.Generator().manual_seed(seed)
    d = int(torch.randint(2, 21, (), generator=generator))
    clients = {
        name: (torch.randn(2, d, generator=generator), torch.randn(2, 1, generator=generator))
        for name in ("bob", "alice")
    }
    return fedpriv.models.linear(d, generator=generator), clients, 0.25 / (d + 1), generator


def largest_error(found: attacks.Reconstruction, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Of any coordinate or target, after the better of both matchings; infinite if the count is wrong."""
    if found.inputs.shape != inputs.shape or found.targets is None:
        return float("inf")
    claimed, truth = torch.cat([found.inputs, found.targets], 1), torch.cat([inputs, targets], 1).double()
    return min(float((claimed - truth).abs().max()), float((claimed.flip(0) - truth).abs().max()))


def first_visits(
    visits: list[fedpriv.Observation], inputs: torch.Tensor, targets: torch.Tensor
) -> dict[str, Any]:
    """Attack with 2, 3, ... visits until the certificate: after how many it is exact, and certified."""
    result: dict[str, Any] = {"exact": None, "certified": None, "wrong_certificates": 0}
    for k in range(2, len(visits) + 1):
        start = time.process_time()
        try:
            found: attacks.Reconstruction | None = attacks.reconstruct(visits[:k])
        except attacks.NotIdentifiable:
            found = None
        result["seconds"] = time.process_time() - start
        result["error"] = float("inf") if found is None else largest_error(found, inputs, targets)
        sure = found is not None and bool(found.certified.all())
        result["wrong_certificates"] += sure and result["error"] > EXACT
        result["exact"] = result["exact"] or (k if result["error"] < EXACT else None)
        if sure:
            result["certified"] = k
            break
    return result


def attack_block(first: int) -> dict[str, Any]:
    """Attack both clients of `BLOCK` tasks."""
    rows = []
    for seed in range(first, first + BLOCK):
        model, clients, lr, generator = random_task(seed)
        run = fedpriv.FederatedTrainer(model, squared_error, clients, lr=lr, generator=generator).run(VISITS)
        rows += [first_visits(run.transcript.observations(name), *data) for name, data in clients.items()]
    return {
        "attacks": len(rows),
        "exact": sum(row["error"] < EXACT for row in rows),
        "exact_after_two": sum(row["exact"] == 2 for row in rows),
        "exact_after_three": sum(row["exact"] in (2, 3) for row in rows),
        "certified": sum(row["certified"] is not None for row in rows),
        "wrong_certificates": sum(row["wrong_certificates"] for row in rows),
        "largest_error": max(row["error"] for row in rows),
        "median_seconds": statistics.median(row["seconds"] for row in rows),
    }


def plain_loop(model: torch.nn.Linear, clients: Data, lr: float, rounds: int) -> None:
    """The tutorial's training without workers: the yardstick."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(rounds):
        for inputs, targets in clients.values():
            optimizer.zero_grad()
            loss = squared_error(model(inputs), targets)
            loss.backward()
            optimizer.step()


def pointer_loop(model: torch.nn.Linear, clients: Data, lr: float, rounds: int) -> None:
    """The same loop as the tutorial writes it: the model travels to workers that hold the data."""
    workers = {name: fedpriv.VirtualWorker(id=name) for name in clients}
    remote = [tuple(fedpriv.pointers.send(t, workers[name]) for t in data) for name, data in clients.items()]
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(rounds):
        for (inputs, targets), worker in zip(remote, workers.values(), strict=True):
            fedpriv.pointers.send(model, worker)
            optimizer.zero_grad()
            loss = squared_error(model(inputs), targets)
            loss.backward()
            optimizer.step()
            fedpriv.pointers.get(model)


def overhead() -> dict[str, float]:
    """Seconds of a visit: plain loop, pointers, trainer without and with a record; medians of the turns."""
    model, clients, lr, _ = random_task(0)

    def trainer(record: bool) -> Callable[[], object]:
        made = fedpriv.FederatedTrainer(model, squared_error, clients, lr=lr)
        return lambda: made.run(ROUNDS, record=record)

    def loop(of: Callable[..., None]) -> Callable[[], object]:
        return lambda: of(fedpriv.models.linear(clients["bob"][0].shape[1]), clients, lr, ROUNDS)

    ways = {
        "plain": loop(plain_loop),
        "pointers": loop(pointer_loop),
        "trainer": trainer(record=False),
        "recording": trainer(record=True),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, way in ways.items():  # interleaved, so that a busy moment hits all alike
            start = time.process_time()
            way()
            times[name].append((time.process_time() - start) / (ROUNDS * len(clients)))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "plain_seconds": medians["plain"],
        "pointers_over_plain": medians["pointers"] / medians["plain"],
        "trainer_over_plain": medians["trainer"] / medians["plain"],
        "recording_over_trainer": medians["recording"] / medians["trainer"],
    }


def blocks() -> list[str]:
    """Names of the cells of attacks."""
    return [f"attacks, tasks {first} to {first + BLOCK - 1}" for first in range(0, TASKS, BLOCK)]


def cells() -> list[Cell]:
    """Blocks of attacks, and the cost of pointers and of recording."""
    return [
        *(
            # The last digits of float32 models depend on the machine, and the largest error hangs on them.
            Cell(key, partial(attack_block, k * BLOCK), quick=k == 0, bands={"largest_error": EXACT})
            for k, key in enumerate(blocks())
        ),
        Cell(
            "overhead",
            overhead,
            quick=True,
            # Ratios of short times, on a machine that does other things as well.
            bands={"pointers_over_plain": 3.0, "trainer_over_plain": 2.0, "recording_over_trainer": 0.5},
        ),
    ]


def sentences(results: Results) -> dict[str, list[str]]:
    """Words of the pages that carry these numbers."""
    rows = [results[key] for key in blocks()]
    counts = ("attacks", "exact", "exact_after_two", "exact_after_three", "certified", "wrong_certificates")
    sums = {name: sum(row[name] for row in rows) for name in counts}
    attacked = sums["attacks"]
    exact, certified = (
        "all" if sums[name] == attacked else f"{sums[name]} of them" for name in ("exact", "certified")
    )
    two, three = (f"{sums[f'exact_after_{n}'] / attacked:.1%}".replace(".0%", "%") for n in ("two", "three"))
    worst = f"{max(row['largest_error'] for row in rows):.0e}".replace("e-0", "e-")
    outcome = (
        f"{exact} exact (worst error {worst}), {certified} certified,"
        f" {sums['wrong_certificates'] or 'no'} wrong certificates;"
    )
    ms = f"{1e3 * statistics.median(row['median_seconds'] for row in rows):.0f} ms in the median"
    slower = ("two", "three", "four", "five", "six")[round(results["overhead"]["pointers_over_plain"]) - 2]
    return {
        "README.md": [
            f"{sums['exact']} of {attacked} random data sets",
            f"{attacked} attacks on random two-point data sets in 2 to 20 dimensions: {outcome} {ms}",
            f"Pointers make a visit of the tutorial about {slower} times slower than plain PyTorch",
        ],
        "docs/measured.md": [
            f"{attacked} attacks on random two-point data sets in 2 to 20 dimensions",
            f"{outcome} two visits sufficed for {two}, three for {three}; {ms}".replace("%", " %"),
            f"about {slower} times slower",
        ],
    }
