"""Exact batches: seconds, memory and share recovered by batch size, activation and precision.

The victim is a 768-512-512-10 network at its default initialization; the data are 16 x 16 color patches of
photographs, normalized, with random labels. The attack is told neither the batch size nor the labels. Seconds
are the median over seeds, attack and certificate together, on the machine that runs this; the other columns
show the worst seed.
"""

from __future__ import annotations

import platform
import statistics
import sys
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import attacks
import fedpriv

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
SIZES = (16, 32, 64, 128)
WIDTH = 512


def task(
    activation: type[nn.Module], batch: int, dtype: torch.dtype, seed: int
) -> tuple[fedpriv.Observation, torch.Tensor, torch.Tensor]:
    """One gradient in `dtype`, and the batch behind it."""
    generator = torch.Generator().manual_seed(seed)
    patches = fedpriv.data.photographs(4 * batch, size=16, generator=generator)
    patches = patches[patches.std(dim=(1, 2, 3)) > 0.05][:batch]  # flat ones are copies of each other
    x = ((patches - 0.5) / 0.25).to(dtype)
    y = torch.randint(10, (batch,), generator=generator)
    sizes = [x[0].numel(), WIDTH, WIDTH, 10]
    model = fedpriv.models.mlp(sizes, activation=activation, generator=generator).to(dtype)
    gradient = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()))
    knowledge = fedpriv.Knowledge(input_shape=tuple(x.shape[1:]))
    return fedpriv.Observation(model, gradient, cross_entropy, knowledge), x, y


def measure(activation: str, batch: int, dtype: torch.dtype, seeds: range) -> dict[str, Any]:
    """Median seconds, and the worst of everything else, over the seeds."""
    seconds, recovered, labels, certified, worst = [], [], [], [], []
    for seed in seeds:
        observation, x, y = task(ACTIVATIONS[activation], batch, dtype, seed)
        try:
            found = attacks.reconstruct(observation, time_budget=120.0)
        except attacks.NotIdentifiable:
            recovered.append(0.0)
            continue
        # Soft targets instead of classes are a wrong answer here, not an error.
        classes = found.targets is not None and found.targets.shape[1:] == y.shape[1:]
        score = fedpriv.lab.score(found if classes else found.inputs, x, y, data_range=4.0)
        seconds.append(found.seconds)
        recovered.append(score.recovered(psnr=60.0))
        labels.append(
            float(score.target_correct.double().mean()) if score.target_correct is not None else 0.0
        )
        certified.append(float(found.certified.double().sum()) / batch)
        worst.append(float(score.psnr.min()))
    return {
        "activation": activation,
        "batch": batch,
        "dtype": str(dtype).removeprefix("torch."),
        "seeds": len(seeds),
        "seconds": statistics.median(seconds) if seconds else None,
        "recovered_60db": min(recovered),
        "labels_right": min(labels, default=0.0),
        "certified": min(certified, default=0.0),
        "worst_psnr": min(worst, default=None),
    }


def _peak_mb() -> float:
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main(*, quick: bool = False) -> dict[str, Any]:
    """All sizes, activations and precisions; `quick` takes the two smallest sizes and one seed."""
    torch.set_num_threads(1)  # batched small matrices: a second thread mostly waits
    sizes, seeds = (SIZES[:2], range(100, 101)) if quick else (SIZES, range(100, 103))
    cases = [(a, n, d) for d in (torch.float64, torch.float32) for n in sizes for a in ACTIVATIONS]
    measure("ReLU", 8, torch.float64, range(1))  # the first call pays for imports
    rows = [measure(a, n, d, seeds) for a, n, d in fedpriv.progress.progress(cases, description="batches")]
    return {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}",
        "victim": f"768-{WIDTH}-{WIDTH}-10",
        "rows": rows,
        "peak_memory_mb": _peak_mb(),
    }


def report(result: dict[str, Any]) -> str:
    """The figures as a table."""
    head = f"  {'precision':10}{'n':>5}  {'activation':10}{'seconds':>8}{'recovered':>11}{'labels':>8}"
    lines = [
        f"machine: {result['machine']}",
        f"victim: {result['victim']}",
        head + f"{'certified':>11}{'worst dB':>10}",
    ]
    for row in result["rows"]:
        seconds = "-" if row["seconds"] is None else f"{row['seconds']:.2f}"
        worst = "-" if row["worst_psnr"] is None else f"{row['worst_psnr']:.0f}"
        lines.append(
            f"  {row['dtype']:10}{row['batch']:5d}  {row['activation']:10}{seconds:>8}"
            f"{row['recovered_60db']:11.0%}{row['labels_right']:8.0%}{row['certified']:11.0%}{worst:>10}"
        )
    lines.append(f"peak memory of the process: {result['peak_memory_mb']:.0f} MB")
    return "\n".join(lines)
