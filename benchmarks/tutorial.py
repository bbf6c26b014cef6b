"""The tutorial at scale: share of exact attacks, visits needed, time, overhead of pointers and of recording.

A thousand random two-point data sets for Bob and Alice, in 2 to 20 dimensions, trained in float32 from random
models; every attack sees the returned models alone. Times are medians on the machine that runs this.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

import attacks
import fedpriv
from fedpriv.losses import squared_error

EXACT = 1e-3
VISITS = 6
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


def attack_all(tasks: int) -> dict[str, Any]:
    """Attack every client with 2, 3, ... visits until the certificate, and with all of them."""
    needed: Counter[str] = Counter()
    certified_at: Counter[str] = Counter()
    errors, seconds, wrong_certificates = [], [], 0
    for seed in fedpriv.progress.progress(range(tasks), description="tasks"):
        model, clients, lr, generator = random_task(seed)
        run = fedpriv.FederatedTrainer(model, squared_error, clients, lr=lr, generator=generator).run(VISITS)
        for name, (inputs, targets) in clients.items():
            visits = run.transcript.observations(name)
            exact = proven = None
            for k in range(2, VISITS + 1):
                found, spent = _timed_attack(visits[:k])
                error = float("inf") if found is None else largest_error(found, inputs, targets)
                sure = found is not None and bool(found.certified.all())
                wrong_certificates += sure and error > EXACT
                exact = exact or (k if error < EXACT else None)
                proven = proven or (k if sure else None)
                if proven or k == VISITS:
                    break
            errors.append(error)
            seconds.append(spent)
            needed[str(exact)] += 1
            certified_at[str(proven)] += 1
    return {
        "attacks": len(errors),
        "share_exact": sum(e < EXACT for e in errors) / len(errors),
        "share_certified": 1 - certified_at["None"] / len(errors),
        "wrong_certificates": int(wrong_certificates),
        "max_abs_error": {"median": statistics.median(errors), "largest": max(errors)},
        "visits_until_exact": dict(sorted(needed.items())),
        "visits_until_certified": dict(sorted(certified_at.items())),
        "attack_ms": {"median": 1e3 * statistics.median(seconds), "largest": 1e3 * max(seconds)},
    }


def _timed_attack(visits: list[fedpriv.Observation]) -> tuple[attacks.Reconstruction | None, float]:
    start = time.perf_counter()
    try:
        found: attacks.Reconstruction | None = attacks.reconstruct(visits)
    except attacks.NotIdentifiable:
        found = None
    return found, time.perf_counter() - start


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


def overhead(rounds: int) -> dict[str, float]:
    """Milliseconds a visit: plain loop, pointers, trainer without and with a record; medians of seven."""
    model, clients, lr, _ = random_task(0)

    def trainer(record: bool) -> Callable[[], object]:
        made = fedpriv.FederatedTrainer(model, squared_error, clients, lr=lr)
        return lambda: made.run(rounds, record=record)

    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: plain_loop(fedpriv.models.linear(clients["bob"][0].shape[1]), clients, lr, rounds),
        "pointers": lambda: pointer_loop(
            fedpriv.models.linear(clients["bob"][0].shape[1]), clients, lr, rounds
        ),
        "trainer": trainer(record=False),
        "trainer_recording": trainer(record=True),
    }
    visits = rounds * len(clients)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(7):
        for name, way in ways.items():  # interleaved, so that a busy moment hits all alike
            start = time.perf_counter()
            way()
            times[name].append(1e3 * (time.perf_counter() - start) / visits)
    medians = {f"{name}_ms_per_visit": statistics.median(values) for name, values in times.items()}
    plain, bare = medians["plain_ms_per_visit"], medians["trainer_ms_per_visit"]
    return {
        **medians,
        "pointers_over_plain": medians["pointers_ms_per_visit"] / plain,
        "trainer_over_plain": bare / plain,
        "recording_over_not_recording": medians["trainer_recording_ms_per_visit"] / bare,
    }


def parallel_round(num_clients: int) -> dict[str, float]:
    """One FedAvg round with that many clients of the tutorial's model: time, and memory that it added."""
    generator = torch.Generator().manual_seed(0)
    clients = {
        f"client {k}": (torch.randn(2, 2, generator=generator), torch.randn(2, 1, generator=generator))
        for k in range(num_clients)
    }
    trainer = fedpriv.FederatedTrainer(
        fedpriv.models.linear(2),
        squared_error,
        clients,
        lr=0.05,
        schedule=fedpriv.FedAvg(),
        generator=generator,
    )
    before = _peak_mb()
    start = time.perf_counter()
    trainer.run(1, record=False)
    return {
        "clients": num_clients,
        "seconds": time.perf_counter() - start,
        "memory_added_mb": _peak_mb() - before,
    }


def _peak_mb() -> float:
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main(*, quick: bool = False) -> dict[str, Any]:
    """Run all parts; `quick` takes a twentieth of the tasks."""
    torch.set_num_threads(1)  # tiny matrices: threads only add noise to the times
    parallel = [parallel_round(n) for n in ((100, 1000) if quick else (100, 1000, 10_000))]
    return {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}",
        "tutorial": attack_all(50 if quick else 1000),
        "overhead": overhead(20 if quick else 100),
        "parallel_round": parallel,
    }


def report(result: dict[str, Any]) -> str:
    """The figures as text."""
    t, o = result["tutorial"], result["overhead"]
    errors = t["max_abs_error"]
    lines = [
        f"machine: {result['machine']}",
        f"{t['attacks']} attacks on two-point data sets in 2 to 20 dimensions:",
        f"  exact (largest error below {EXACT:g}): {t['share_exact']:.1%}, "
        f"certified: {t['share_certified']:.1%}, wrong certificates: {t['wrong_certificates']}",
        f"  largest error: median {errors['median']:.1e}, worst {errors['largest']:.1e}",
        f"  visits until exact: {t['visits_until_exact']}, until certified: {t['visits_until_certified']}",
        f"  attack with certificate: median {t['attack_ms']['median']:.1f} ms",
        f"one visit: plain {o['plain_ms_per_visit']:.2f} ms, pointers x {o['pointers_over_plain']:.1f}, "
        f"trainer x {o['trainer_over_plain']:.1f}; recording makes a trainer's visit "
        f"{o['recording_over_not_recording'] - 1:.0%} longer",
    ]
    lines += [
        f"parallel round, {p['clients']} clients: {p['seconds']:.2f} s, {p['memory_added_mb']:.1f} MB added"
        for p in result["parallel_round"]
    ]
    return "\n".join(lines)
