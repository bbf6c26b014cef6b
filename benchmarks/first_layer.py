"""One sample by a division: exactly without noise, and what Gaussian noise leaves of it.

Handwritten digits, a 64-128-10 network with ReLU, and `FirstLayerInversion`, which ignores the noise. The
update is clipped to norm 1 and the noise is a multiple of that.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import attacks
import fedpriv
from fedpriv.defenses import GaussianNoise
from fedpriv.lab.study import Cell, Results

SEEDS = range(200, 210)  # chosen before looking
MULTIPLIERS = (0.0, 0.001, 0.01)


def observe(multiplier: float, seed: int) -> tuple[torch.Tensor, torch.Tensor, fedpriv.Observation]:
    """A digit, its label, and what the server sees of a round."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = fedpriv.data.digits()
    chosen = torch.randperm(len(images), generator=generator)[:1]
    trainer = fedpriv.FederatedTrainer(
        fedpriv.models.mlp([64, 128, 10], generator=generator),
        cross_entropy,
        {"bob": (images[chosen], labels[chosen])},
        lr=0.1,
        schedule=fedpriv.FedSGD(),
        defenses=[GaussianNoise(clip_norm=1.0, noise_multiplier=multiplier)] if multiplier else [],
        generator=generator,
    )
    return images[chosen], labels[chosen], trainer.run(rounds=1).transcript.observations("bob")[0]


def attack(multiplier: float) -> dict[str, Any]:
    """Decibels where the attack answers, and how often it refuses."""
    found, classes, certified = [], 0, 0
    for seed in SEEDS:
        x, y, seen = observe(multiplier, seed)
        try:
            answer = attacks.FirstLayerInversion()(seen)
        except attacks.NotIdentifiable:
            continue
        found.append(float(fedpriv.lab.score(answer.inputs, x, data_range=1.0).psnr))
        classes += bool(answer.targets is not None and torch.equal(answer.targets, y))
        certified += int(answer.certified.sum())
    return {
        "digits": len(SEEDS),
        "refused": len(SEEDS) - len(found),
        "median_psnr": statistics.median(found) if found else None,
        "worst_psnr": min(found) if found else None,
        "classes_right": classes,
        "certified": certified,
    }


def key(multiplier: float) -> str:
    """Name of a cell."""
    return f"noise multiplier {multiplier:g}"


def cells() -> list[Cell]:
    """Every multiplier."""
    return [Cell(key(m), partial(attack, m), quick=True) for m in MULTIPLIERS]


def sentences(results: Results) -> dict[str, list[str]]:
    """Words of the pages that carry these numbers."""
    exact, small, large = (results[key(m)] for m in MULTIPLIERS)
    refuses = "refuses" if large["refused"] == large["digits"] else "answers at times"
    some = f"{small['median_psnr']:.0f} dB"
    return {
        "README.md": [
            f"one sample, exactly, whatever lies behind: {exact['worst_psnr']:.0f} dB",
            f"noise ({some} at multiplier {MULTIPLIERS[1]}, {refuses} at {MULTIPLIERS[2]})",
        ],
        "docs/attacks/first_layer.md": [
            f"With a multiplier of {MULTIPLIERS[1]} digits come back at {some} in the median of ten (the"
            f" worst at {small['worst_psnr']:.0f} dB), with {MULTIPLIERS[2]} the attack {refuses}",
        ],
    }
