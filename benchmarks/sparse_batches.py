"""Batches out of one linear layer and ReLU, by size; and with a second linear layer.

Handwritten digits, enlarged to 28 × 28 pixels and normalized, with a little noise so that more than 61 of
them are independent; fresh networks of width 512, float64. The attack is told neither the size of the batch
nor the labels. Seconds are CPU seconds, with the certificate.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy, interpolate

import attacks
import fedpriv
from fedpriv.lab.study import Cell, Results

WIDTH = 512
MEAN, STD, NOISE = 0.3, 0.38, 0.01
LIMIT = 60.0  # seconds by the clock that an attack may take
SEEDS = (520, 521, 522)  # chosen before looking
DEPTHS = {"one linear layer": 1, "two linear layers": 2}
SIZES = {
    "one linear layer": (16, 24, 32, 40, 48),
    "two linear layers": (16, 32, 64, 96, 128),
}
QUICK = {("one linear layer", 16), ("two linear layers", 32), ("two linear layers", 64)}


def observe(depth: int, batch: int, seed: int) -> tuple[fedpriv.Observation, torch.Tensor, torch.Tensor]:
    """One gradient of a network with `depth` hidden layers, and the batch behind it."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = fedpriv.data.digits()
    chosen = torch.randperm(len(images), generator=generator)[:batch]
    large = interpolate(images[chosen].double(), size=28, mode="bilinear")
    noise = torch.randn(large.shape, generator=generator, dtype=large.dtype)
    x, y = (large + NOISE * noise - MEAN) / STD, labels[chosen]
    model = fedpriv.models.mlp([784, *[WIDTH] * depth, 10], generator=generator).double()
    gradient = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()))
    known = fedpriv.Knowledge(input_shape=tuple(x.shape[1:]))
    return fedpriv.Observation(model, gradient, cross_entropy, known), x, y


def attack(way: str, batch: int, seed: int) -> dict[str, Any]:
    """How many samples of a batch come back above 100 dB and with their label, and what that takes."""
    observation, x, y = observe(DEPTHS[way], batch, seed)
    start = time.process_time()
    try:
        found = attacks.SparseBatchInversion()(observation, time_budget=LIMIT)
    except attacks.NotIdentifiable:
        return {"exact": 0, "certified": 0, "cpu_seconds": time.process_time() - start}
    seconds = time.process_time() - start
    score = fedpriv.lab.score(found, x, y, data_range=1 / STD)
    right = score.psnr >= 100.0
    if score.target_correct is not None:
        right &= score.target_correct
    return {"exact": int(right.sum()), "certified": int(found.certified.sum()), "cpu_seconds": seconds}


def cells() -> list[Cell]:
    """Every way, size and seed."""
    return [
        Cell(
            _key(way, batch, seed),
            partial(attack, way, batch, seed),
            quick=(way, batch) in QUICK and seed == SEEDS[0],
        )
        for seed in SEEDS
        for way, sizes in SIZES.items()
        for batch in sizes
    ]


def tables(results: Results) -> dict[str, str]:
    """By size and way: whole batches and the median of their seconds."""
    sizes = sorted({size for sizes in SIZES.values() for size in sizes})
    lines = ["| batch | " + " | ".join(SIZES) + " |", "|---" * (1 + len(SIZES)) + "|"]
    for batch in sizes:
        row = [_outcome(results, way, batch) if batch in SIZES[way] else "" for way in SIZES]
        lines.append("| " + " | ".join([str(batch), *row]) + " |")
    return {"sizes": "\n".join(lines)}


def sentences(results: Results) -> dict[str, list[str]]:
    """Words of the pages that carry these numbers."""
    one, two = DEPTHS
    many = len(SEEDS)
    found = {(w, n): len(_whole(results, w, n)) for w, sizes in SIZES.items() for n in sizes}
    proved = sum(run["certified"] == 24 for run in _runs(results, one, 24))
    seconds = statistics.median(run["cpu_seconds"] for run in _runs(results, one, 48))
    return {
        "README.md": [
            f"48 at width 512 in {found[one, 48]} of {many}, {seconds:.0f} s",
            f"128 through two layers: {found[two, 128]} of {many}",
        ],
        "docs/attacks/sparse_batches.md": [
            f"48 samples come back in {found[one, 48]} of {many} batches",
            f"96 in {found[two, 96]} of {many} and 128 in {found[two, 128]} of {many}",
        ],
        "docs/sparse_batches.md": [f"{proved} of {many} batches of 24"],
    }


def _key(way: str, batch: int, seed: int) -> str:
    return f"{way}, {batch} samples, seed {seed}"


def _runs(results: Results, way: str, batch: int) -> list[dict[str, Any]]:
    return [dict(results[_key(way, batch, seed)]) for seed in SEEDS]


def _whole(results: Results, way: str, batch: int) -> list[float]:
    """Seconds of the batches that came back as a whole."""
    return [run["cpu_seconds"] for run in _runs(results, way, batch) if run["exact"] == batch]


def _outcome(results: Results, way: str, batch: int) -> str:
    """Such as "3 of 3 (2 certified), 1.2 s"; if none is whole, how many samples came back in each."""
    whole, runs = _whole(results, way, batch), _runs(results, way, batch)
    if whole:
        certified = sum(run["certified"] == batch for run in runs)
        return f"{len(whole)} of {len(SEEDS)} ({certified} certified), {statistics.median(whole):.1f} s"
    parts, seconds = ([run[name] for run in runs] for name in ("exact", "cpu_seconds"))
    samples = f" ({', '.join(map(str, parts))} samples)" if any(parts) else ""
    return f"none of {len(SEEDS)}{samples}, {statistics.median(seconds):.0f} s"
