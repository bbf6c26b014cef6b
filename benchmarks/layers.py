"""One picture, layer by layer, through the LeNet of the first paper: decibels of faces and photographs.

Three convolutions with sigmoids and a linear layer; the gradient is sent in float32. Gray faces of 25 × 25
pixels, and patches of photographs, 32 × 32 in color. Seconds are CPU seconds, with the certificate.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import attacks
import fedpriv
from fedpriv.lab.study import Cell, Results
from fedpriv.victims import lenet_dlg

SEEDS = range(600, 610)  # chosen before looking
KINDS = ("face", "photograph")
QUICK = {("face", 600), ("face", 605), ("photograph", 602), ("photograph", 606)}


def picture(kind: str, generator: torch.Generator) -> torch.Tensor:
    """One picture (1, channels, height, width)."""
    if kind == "photograph":
        return fedpriv.data.photographs(1, generator=generator)
    faces = fedpriv.data.faces()
    return faces[int(torch.randint(len(faces), (), generator=generator)), None]


def attack(kind: str, seed: int) -> dict[str, Any]:
    """Decibels, label and certificate of one picture."""
    generator = torch.Generator().manual_seed(seed)
    image = picture(kind, generator)
    label = torch.randint(10, (1,), generator=generator)
    channels, height, width = image.shape[1:]
    model = lenet_dlg((channels, height, width), generator=generator)
    gradient = torch.autograd.grad(cross_entropy(model(image), label), list(model.parameters()))
    known = fedpriv.Knowledge(input_shape=(channels, height, width))
    observation = fedpriv.Observation(model, gradient, cross_entropy, known)
    start = time.process_time()
    found = attacks.LayerByLayerInversion()(observation)
    seconds = time.process_time() - start
    score = fedpriv.lab.score(found, image, label, data_range=1.0)
    return {
        "psnr": float(score.psnr[0]),
        "label": found.targets is not None and torch.equal(found.targets, label),
        "certified": bool(found.certified.all()),
        "cpu_seconds": seconds,
    }


def cells() -> list[Cell]:
    """Every kind of picture and seed."""
    return [
        Cell(f"{kind}, seed {seed}", partial(attack, kind, seed), quick=(kind, seed) in QUICK)
        for kind in KINDS
        for seed in SEEDS
    ]


def tables(results: Results) -> dict[str, str]:
    """For each kind the decibels of all pictures, certificates, labels and seconds."""
    lines = [
        "| ten pictures each | decibels, least and median | labels | certified | seconds |",
        "|---" * 5 + "|",
    ]
    for kind in KINDS:
        runs = _runs(results, kind)
        psnr = [run["psnr"] for run in runs]
        right, certified = (sum(run[name] for run in runs) for name in ("label", "certified"))
        seconds = statistics.median(run["cpu_seconds"] for run in runs)
        decibels = f"{min(psnr):.0f}, {statistics.median(psnr):.0f}"
        lines.append(f"| {kind}s | {decibels} | {right} | {certified} | {seconds:.1f} |")
    return {"pictures": "\n".join(lines)}


def _runs(results: Results, kind: str) -> list[dict[str, Any]]:
    return [dict(results[f"{kind}, seed {seed}"]) for seed in SEEDS]


def sentences(results: Results) -> dict[str, list[str]]:
    """Words of the pages that carry these numbers."""
    psnr = {kind: [run["psnr"] for run in _runs(results, kind)] for kind in KINDS}
    low, high = ({kind: f"{end(values):.0f}" for kind, values in psnr.items()} for end in (min, max))
    proved = sum(run["certified"] for run in _runs(results, "photograph"))
    return {
        "README.md": [
            f"one image, exactly: faces {low['face']} to {high['face']} dB, photographs "
            f"{low['photograph']} to {high['photograph']} dB ({proved} of {len(SEEDS)} certified)"
        ]
    }
