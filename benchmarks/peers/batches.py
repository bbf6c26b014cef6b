"""Whole batches: ours, SPEAR's sampling and breaching on the same weights and gradients.

The victim is a 784-512-512-10 network with ReLU at its default initialization; the data are handwritten
digits, enlarged to 28 × 28 pixels and normalized. Seconds are CPU seconds, attack and, for ours, certificate.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch.nn.functional import cross_entropy, interpolate

import attacks
import fedpriv
from attacks.exact.spear import SpearSampling
from fedpriv.lab.study import Cell, Results

from .environment import PeerError, prepare, run_peer
from .exchange import PeerResult, PeerTask

MEAN, STD = 0.3, 0.38  # of the pixels of all digits, rounded
LIMIT = 60.0  # seconds for SPEAR's sampling
ITERATIONS = 1000
SEEDS = range(100, 103)
SPEAR_SIZES = (4, 8, 20)
BREACHING_SIZES = (8,)
Row: TypeAlias = dict[str, Any]
Found: TypeAlias = attacks.Reconstruction | PeerResult
Method: TypeAlias = Callable[[fedpriv.Observation], attacks.Reconstruction]

ATTACKS: Mapping[str, tuple[Method, torch.dtype]] = {
    "reconstruct": (
        lambda observation: attacks.reconstruct(observation, time_budget=300.0),
        torch.float64,
    ),
    "sparse batch inversion": (
        lambda observation: attacks.SparseBatchInversion()(observation, time_budget=300.0),
        torch.float64,
    ),
    "SPEAR sampling": (
        lambda observation: SpearSampling()(observation, time_budget=LIMIT),
        torch.float64,
    ),
}
FLOAT32: Mapping[str, tuple[Method, torch.dtype]] = {
    "reconstruct, float32": (ATTACKS["reconstruct"][0], torch.float32)
}
# The regularizer of the default expects three channels.
BREACHING: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "breaching analytic": ("analytic", {}),
    "breaching optimization": (
        "invertinggradients",
        {"optim.max_iterations": ITERATIONS, "regularization.total_variation.scale": 0},
    ),
}


def task(batch: int, dtype: torch.dtype, seed: int) -> tuple[fedpriv.Observation, torch.Tensor, torch.Tensor]:
    """One gradient in `dtype`, and the batch behind it."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = fedpriv.data.digits()
    chosen = torch.randperm(len(images), generator=generator)[:batch]
    x = ((interpolate(images[chosen], size=28, mode="bilinear") - MEAN) / STD).to(dtype)
    y = labels[chosen]
    model = fedpriv.models.mlp([784, 512, 512, 10], generator=generator).to(dtype)
    gradient = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()))
    knowledge = fedpriv.Knowledge(input_shape=tuple(x.shape[1:]))
    return fedpriv.Observation(model, gradient, cross_entropy, knowledge), x, y


def ours(name: str, batch: int, seeds: Iterable[int]) -> Row:
    """One of our methods, or SPEAR's sampling, on a batch for each seed; see `medians`."""
    method, dtype = {**ATTACKS, **FLOAT32}[name]
    return medians([by_us(method, *task(batch, dtype, seed)) for seed in seeds])


def breaching(name: str, batch: int, seeds: Iterable[int]) -> Row:
    """One of breaching's attacks from float32 gradients; see `medians`."""
    try:
        prepare()
    except PeerError as error:
        return medians([{**_nothing(str(error)), "cpu_seconds": None}])
    rows = []
    for seed in seeds:
        observation, x, y = task(batch, torch.float32, seed)
        told = PeerTask(observation=observation, num_samples=batch, mean=(MEAN,), std=(STD,), seed=seed)
        rows.append(by_breaching(told, *BREACHING[name], x, y))
    return medians(rows)


def by_us(method: Method, observation: fedpriv.Observation, x: torch.Tensor, y: torch.Tensor) -> Row:
    """What one of our attacks gets, and what it costs."""
    start = time.process_time()
    try:
        found = method(observation)
    except attacks.NotIdentifiable as refusal:
        return {**_nothing(str(refusal)), "cpu_seconds": time.process_time() - start}
    seconds = time.process_time() - start
    return {**graded(found, x, y), "cpu_seconds": seconds}


def by_breaching(
    told: PeerTask, name: str, overrides: Mapping[str, object], x: torch.Tensor, y: torch.Tensor
) -> Row:
    """What an attack of breaching gets, and what it costs."""
    try:
        found = run_peer(told, attack=name, overrides=overrides)
    except PeerError as error:
        return {**_nothing(str(error)), "cpu_seconds": None}
    return {**graded(found, x, y), "cpu_seconds": found.cpu_seconds}


def graded(found: Found, x: torch.Tensor, y: torch.Tensor) -> Row:
    """Shares of the batch, and the mean PSNR with each sample capped at 120 dB."""
    # Soft targets instead of classes are a wrong answer here, not an error.
    classes = found.targets is not None and found.targets.shape[1:] == y.shape[1:]
    score = fedpriv.lab.score(found if classes else found.inputs, x, y, data_range=1 / STD)
    right = score.target_correct
    return {
        "recovered_40db": score.recovered(psnr=40.0),
        "recovered_60db": score.recovered(psnr=60.0),
        "mean_psnr": float(score.psnr.mean()),
        "labels_right": 0.0 if right is None else float(right.double().mean()),
        "not_found": None,
    }


def _nothing(reason: str) -> Row:
    return {
        "recovered_40db": 0.0,
        "recovered_60db": 0.0,
        "mean_psnr": None,
        "labels_right": 0.0,
        "not_found": reason,
    }


def medians(rows: Sequence[Row]) -> Row:
    """Medians over the seeds, and in how many every sample came back exactly.

    Seconds and decibels are those of the attacks that ended with a result; None if no one did.
    """
    done = [row for row in rows if row["not_found"] is None]
    result: Row = {
        "seeds": len(rows),
        "found": len(done),
        "exact": sum(row["recovered_60db"] == 1.0 for row in rows),
        "not_found": None if done else rows[0]["not_found"],
    }
    for key in ("recovered_40db", "recovered_60db", "labels_right"):
        result[key] = statistics.median(row[key] for row in rows)
    for key in ("cpu_seconds", "mean_psnr"):
        result[key] = statistics.median(row[key] for row in done) if done else None
    return result


def key(batch: int, method: str) -> str:
    """Name of a cell."""
    return f"{batch} digit{'s' * (batch > 1)}, {method}"


def cases() -> list[tuple[int, str]]:
    """Size and method of every cell."""
    spear = [(n, name) for n in SPEAR_SIZES for name in ATTACKS]
    return spear + [(n, name) for n in BREACHING_SIZES for name in (*FLOAT32, *BREACHING)]


def cells() -> list[Cell]:
    """Digits beside SPEAR and beside breaching."""
    return [
        Cell(
            key(n, name),
            partial(breaching if name in BREACHING else ours, name, n, SEEDS),
            quick=n == 4 and name in ATTACKS,
        )
        for n, name in cases()
    ]


def tables(results: Results) -> dict[str, str]:
    """Batches found whole, and the seconds; beside breaching, shares above 40 dB, and the seconds."""
    chosen = {
        "spear": (SPEAR_SIZES, [*ATTACKS], exact_words),
        "breaching": (BREACHING_SIZES, [*FLOAT32, *BREACHING], share_words),
    }
    return {
        table_name: table(
            [
                ["digits", *names],
                ["---"] * (1 + len(names)),
                *([str(n), *(words(results[key(n, name)]) for name in names)] for n in sizes),
            ]
        )
        for table_name, (sizes, names, words) in chosen.items()
    }


def table(rows: Iterable[Iterable[str]]) -> str:
    """Rows as a table of a page."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def exact_words(row: Mapping[str, Any]) -> str:
    """Of how many batches every sample came back exactly, and the seconds that took."""
    if not row["found"]:
        return f"none within {LIMIT:.0f} s"
    return f"{row['exact']} of {row['seeds']}, {row['cpu_seconds']:.2g} s"


def share_words(row: Mapping[str, Any]) -> str:
    """The share above 40 dB, and the seconds that took; or why there is none."""
    if not row["found"]:
        return f"not measured ({row['not_found']})"
    return f"{row['recovered_40db']:.0%}, {row['cpu_seconds']:.2g} s".replace("%", " %")
