"""Batches out of parameters after several local steps: by steps, learning rate, size and activation.

Handwritten digits and their labels through fresh 64-256-256-10 networks, trained by gradient descent on the
whole batch. The server knows the learning rate and the number of steps, neither the labels nor the size of
the batch. Parameters are float64, and float32 for some. Seconds are CPU seconds, with the certificate.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import attacks
import fedpriv
from fedpriv.lab.study import Cell, Results, Values

ACTIVATIONS: dict[str, type[nn.Module]] = {"GELU": nn.GELU, "ReLU": nn.ReLU}
DTYPES = {"float64": torch.float64, "float32": torch.float32}
SEED = 12  # chosen before looking
RATES, SIZES, STEPS = (0.01, 0.1, 1.0), (16, 32), (5, 10, 20)
LIMIT = 60.0  # seconds by the clock that an attack may take


class Case(NamedTuple):
    """A client's training."""

    activation: str
    rate: float
    batch: int
    steps: int
    dtype: str = "float64"
    width: int = 256

    @property
    def key(self) -> str:
        """Its name."""
        return (
            f"{self.activation}, width {self.width}, {self.dtype}, rate {self.rate:g}, {self.batch} samples, "
            f"{self.steps} steps, seed {SEED}"
        )


TABLE = [Case(a, r, n, e) for a, r, n, e in product(ACTIVATIONS, RATES, SIZES, STEPS)]
ROUNDED = [Case(a, r, n, 10, "float32") for a, r, n in product(ACTIVATIONS, RATES[:2], SIZES)]
WIDE = Case("GELU", 0.1, 32, 10, "float32", 512)
QUICK = {Case("GELU", 0.1, 16, 5), Case("ReLU", 0.01, 16, 5), Case("GELU", 0.1, 16, 10, "float32")}


def attack(case: Case) -> dict[str, Any]:
    """The share above 40 dB (an error of 1 % of the range), the certificate, and the worst sample."""
    images, labels = fedpriv.data.digits()
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))[: case.batch]
    x, y = images[chosen].to(DTYPES[case.dtype]), labels[chosen]
    model = fedpriv.models.mlp(
        [64, case.width, case.width, 10],
        activation=ACTIVATIONS[case.activation],
        generator=torch.Generator().manual_seed(SEED + 1000),
    )
    trainer = fedpriv.FederatedTrainer(
        model.to(x.dtype),
        cross_entropy,
        {"bob": (x, y)},
        lr=case.rate,
        local_steps=case.steps,
        schedule=fedpriv.FedAvg(),
    )
    observations = trainer.run(rounds=1).transcript.observations("bob")
    start = time.process_time()
    try:
        found = attacks.LocalStepsInversion()(observations, time_budget=LIMIT)
    except attacks.NotIdentifiable:
        seconds = time.process_time() - start
        return {"share": 0.0, "certified": False, "worst_psnr": None, "cpu_seconds": seconds}
    seconds = time.process_time() - start
    score = fedpriv.lab.score(found.inputs, x, data_range=1.0)
    return {
        "share": score.recovered(40.0),
        "certified": bool(found.certified.all()),
        "worst_psnr": float(score.psnr.min()),
        "cpu_seconds": seconds,
    }


def cells() -> list[Cell]:
    """Every case."""
    return [
        Cell(
            case.key,
            partial(attack, case),
            quick=case in QUICK,
            bands={"worst_psnr": 6.0} if case.dtype == "float32" else {},  # sums round otherwise elsewhere
        )
        for case in [*TABLE, *ROUNDED, WIDE]
    ]


def tables(results: Results) -> dict[str, str]:
    """The cases in float64: share of the samples, whether certified, seconds."""
    lines = ["| | n | " + " | ".join(f"E = {e}" for e in STEPS) + " |", "|---" * (2 + len(STEPS)) + "|"]
    for activation, rate, batch in product(ACTIVATIONS, RATES, SIZES):
        row = [_outcome(results[Case(activation, rate, batch, steps).key]) for steps in STEPS]
        lines.append(f"| {activation}, η = {rate:g} | {batch} | " + " | ".join(row) + " |")
    return {"steps": "\n".join(lines)}


def sentences(results: Results) -> dict[str, list[str]]:
    """Words of the pages that carry these numbers."""
    longest = STEPS[-1]
    rough = {(a, n): results[Case(a, 1.0, n, longest).key]["share"] for a, n in product(ACTIVATIONS, SIZES)}
    good, wide = results[Case("GELU", 0.1, 32, longest).key], results[WIDE.key]
    found = []
    for rate in RATES[:2]:
        runs = [results[case.key] for case in ROUNDED if case.rate == rate]
        psnr = [run["worst_psnr"] for run in runs]
        share, certified = statistics.fmean(run["share"] for run in runs), sum(r["certified"] for r in runs)
        found.append(
            f"at η = {rate:g} {_percent(share)} of the samples, the worst of a batch at {min(psnr):.0f} to "
            f"{max(psnr):.0f} dB, {certified} of {len(runs)} batches certified"
        )
    proof = "certified" if wide["certified"] else "not certified"
    found.append(f"{_percent(wide['share'])}, {proof}, in {wide['cpu_seconds']:.0f} s")
    return {
        "README.md": [
            f"{_percent(good['share'])} of 32 digits after {longest} steps (GELU, η = 0.1, width 256)",
            f"{longest} steps at η = 1: at most {_percent(max(rough.values()))} of 16 or 32",
        ],
        "docs/attacks/local_steps.md": [
            f"{_percent(rough['GELU', 16])} (GELU) or {_percent(rough['ReLU', 16])} (ReLU) of them after "
            f"{longest}"
        ],
        "docs/local_steps.md": found,
    }


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %"


def _outcome(run: Values) -> str:
    """Such as "100 %, certified, 1.2 s"."""
    proof = ", certified" if run["certified"] else ""
    return f"{_percent(run['share'])}{proof}, {run['cpu_seconds']:.1f} s"
