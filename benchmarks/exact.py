"""Exact batches: CPU seconds and share recovered by batch size, activation and precision.

The victim is a 768-512-512-10 network at its default initialization, or one of width 1024; the data are
16 x 16 color patches of photographs, normalized, with random labels. The attack is told neither the batch
size nor the labels. Seconds are the median over seeds, attack and certificate together; the other values are
those of the worst seed.

Then the same batches of digits go to us, to SPEAR's sampling and to breaching, which is installed for that
into an environment of its own (benchmarks/peers). Where there is a GPU, one large case.
"""

from __future__ import annotations

import importlib
import math
import statistics
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import attacks
import fedpriv
from fedpriv.cli import scripts
from fedpriv.lab.study import Cell, Results, Values

if TYPE_CHECKING:
    from benchmarks.peers import batches
else:  # a folder of benchmarks is no package, and is called differently in a wheel
    _peers = scripts.load(Path(__file__).parent / "peers" / "__init__.py")
    batches = importlib.import_module(".batches", _peers.__name__)

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
CASES = (
    (16, 512, "float64", range(100, 103)),
    (64, 512, "float64", range(100, 103)),
    (64, 512, "float32", range(100, 101)),
    (128, 512, "float64", range(100, 101)),
    (256, 1024, "float64", range(100, 101)),
)
"""Patches, width, precision of the gradient, seeds."""
SLOW = {(256, "ReLU"), (256, "tanh"), (256, "sigmoid")}
"""Not measured: minutes each, for what their neighbors show."""
BUDGET = {"float64": 600.0, "float32": 60.0}
"""Seconds. What is not certified, as from rounded gradients at times, goes on to slower attacks."""
LARGE = (512, 2048)  # batch and width of the case for machines with a GPU
LARGE_BUDGET = 1800.0  # seconds


def task(
    activation: type[nn.Module],
    batch: int,
    dtype: torch.dtype,
    seed: int,
    *,
    width: int = 512,
    device: str = "cpu",
) -> tuple[fedpriv.Observation, torch.Tensor, torch.Tensor]:
    """One gradient in `dtype`, and the batch behind it."""
    generator = torch.Generator().manual_seed(seed)
    patches = fedpriv.data.photographs(4 * batch, size=16, generator=generator)
    patches = patches[patches.std(dim=(1, 2, 3)) > 0.05][:batch]  # flat ones are copies of each other
    x = ((patches - 0.5) / 0.25).to(dtype)
    y = torch.randint(10, (batch,), generator=generator)
    sizes = [x[0].numel(), width, width, 10]
    model = fedpriv.models.mlp(sizes, activation=activation, generator=generator).to(device, dtype)
    loss = cross_entropy(model(x.to(device)), y.to(device))
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    knowledge = fedpriv.Knowledge(input_shape=tuple(x.shape[1:]))
    return fedpriv.Observation(model, gradient, cross_entropy, knowledge), x, y


def measure(activation: str, batch: int, width: int, precision: str, seeds: range) -> dict[str, Any]:
    """Median seconds, and the worst of everything else, over the seeds."""
    rows = []
    for seed in seeds:
        dtype = getattr(torch, precision)
        observation, x, y = task(ACTIVATIONS[activation], batch, dtype, seed, width=width)
        start = time.process_time()
        try:
            found = attacks.reconstruct(observation, time_budget=BUDGET[precision])
        except attacks.NotIdentifiable:
            rows.append((time.process_time() - start, 0.0, 0.0, 0.0, -math.inf))
            continue
        seconds = time.process_time() - start
        # Soft targets instead of classes are a wrong answer here, not an error.
        classes = found.targets is not None and found.targets.shape[1:] == y.shape[1:]
        score = fedpriv.lab.score(found if classes else found.inputs, x, y, data_range=4.0)
        right = 0.0 if score.target_correct is None else float(score.target_correct.double().mean())
        certified = float(found.certified.double().sum()) / batch
        rows.append((seconds, score.recovered(psnr=60.0), right, certified, float(score.psnr.min())))
    seconds_, *others = zip(*rows, strict=True)
    names = ("recovered_share", "labels_share", "certified_share", "worst_psnr")
    worst = dict(zip(names, map(min, others), strict=True))
    return {"seeds": len(rows), "cpu_seconds": statistics.median(seconds_), **worst}


def large_case(batch: int, width: int) -> dict[str, Any]:
    """A GELU batch in float64 whose client computed on a GPU; nothing where there is none.

    What crosses the wire lies in main memory, and the exact attacks compute there, on one core.
    """
    row: dict[str, Any] = {"gpu": None, "recovered_share": None, "refusal": None}
    if not torch.cuda.is_available():
        return row
    observation, x, y = task(nn.GELU, batch, torch.float64, 100, width=width, device="cuda")
    row["gpu"] = torch.cuda.get_device_name()
    try:
        found = attacks.reconstruct(observation, time_budget=LARGE_BUDGET)
    except attacks.NotIdentifiable as refusal:
        return {**row, "recovered_share": 0.0, "refusal": str(refusal)[:300]}
    return {
        **row,
        "recovered_share": fedpriv.lab.score(found.inputs, x, y, data_range=4.0).recovered(psnr=60.0),
    }


def patches_key(activation: str, batch: int, width: int, precision: str) -> str:
    """Name of a cell."""
    return f"{batch} patches, width {width}, {precision}, {activation}"


def cells() -> list[Cell]:
    """Patches by size, width, precision and activation; digits beside SPEAR and breaching; a large case."""
    ours = [
        Cell(
            patches_key(activation, batch, width, precision),
            partial(measure, activation, batch, width, precision, seeds),
            quick=batch == 16,
        )
        for batch, width, precision, seeds in CASES
        for activation in ACTIVATIONS
        if (batch, activation) not in SLOW
    ]
    large = Cell("{} patches, width {}, GPU".format(*LARGE), partial(large_case, *LARGE))
    return [*ours, *batches.cells(), large]


def tables(results: Results) -> dict[str, str]:
    """Patches by activation; digits beside SPEAR; digits beside breaching."""
    lines = [["patches", "width", "gradient", *ACTIVATIONS], ["---"] * (3 + len(ACTIVATIONS))]
    for batch, width, precision, _ in CASES:
        rows = (results.get(patches_key(a, batch, width, precision)) for a in ACTIVATIONS)
        lines.append([str(batch), str(width), precision, *map(_outcome, rows)])
    return {"patches": batches.table(lines), **batches.tables(results)}


def _outcome(row: Values | None) -> str:
    """Seconds, and what is missing."""
    if row is None:
        return ""
    missing = [
        f"{row[f'{name}_share']:.0%} {name}".replace("%", " %")
        for name in ("recovered", "labels", "certified")
        if row[f"{name}_share"] < 1
    ]
    return ", ".join([f"{row['cpu_seconds']:.2g} s", *missing])


def sentences(results: Results) -> dict[str, list[str]]:
    """Words of the pages that carry these numbers."""
    batch, width, precision, _ = CASES[-1]
    big = {a: results.get(patches_key(a, batch, width, precision)) for a in ACTIVATIONS}
    whole = all(row["recovered_share"] == row["certified_share"] == 1 for row in big.values() if row)
    times = " and ".join(f"{row['cpu_seconds']:.0f} s ({a})" for a, row in big.items() if row)
    eight = results[batches.key(8, "reconstruct, float32")]
    theirs = results[batches.key(8, "breaching optimization")]
    return {
        "README.md": [
            f"{batch} patches of photographs at width {width}",
            f"eight digits through 784-512-512-10 with ReLU come back exactly in {eight['cpu_seconds']:.1f}"
            f" s, where breaching's optimization takes {theirs['cpu_seconds']:.0f} s and brings"
            f" {theirs['recovered_40db']:.0%} of them above 40 dB".replace("%", " %"),
            f"{batch} patches of photographs through 768-{width}-{width}-10,"
            f" {'all' if whole else 'not all'} of them certified with their labels: {times} of CPU time",
        ],
    }


def draw(result: dict[str, Any], out: Path) -> list[Path]:
    """Seconds and share recovered against the size of the batch, as one picture in the folder `out`."""
    from fedpriv.lab.plots._style import headline, label_axes, new_figure, style_of, write

    figure = new_figure(10, 7.5)
    headline(figure, "Whole batches out of one gradient")
    for row, (title, series) in zip(figure.subplots(2, 2), _series(result["cells"]).items(), strict=True):
        for axes, words in zip(row, ("CPU seconds", "share of samples recovered"), strict=True):
            label_axes(axes, "samples in the batch", words)
            axes.set_title(title, fontsize=10)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
        row[0].set_yscale("log")
        row[0].set_ylim(0.005, 500)
        row[1].set_ylim(-0.05, 1.05)
        for index, (name, points) in enumerate(series.items()):
            look = style_of(index)
            sizes, *columns = zip(*points, strict=True)
            for axes, values in zip(row, columns, strict=True):
                axes.plot(
                    sizes, values, color=look.color, marker=look.marker, linestyle=look.line, label=name
                )
        if series:
            row[0].legend(fontsize=8)
    return [write(figure, out / "exact.png")]


def _series(results: Results) -> dict[str, dict[str, list[tuple[int, float, float]]]]:
    """For each row of panels, each line as (batch, seconds, share); NaN where nothing ended leaves a gap."""
    ours: dict[str, list[tuple[int, float, float]]] = {}
    for batch, width, precision, _ in CASES:
        for activation in ACTIVATIONS:
            row = results.get(patches_key(activation, batch, width, precision))
            if row and (width, precision) == (512, "float64"):
                point = (batch, row["cpu_seconds"], row["recovered_share"])
                ours.setdefault(activation, []).append(point)
    beside: dict[str, list[tuple[int, float, float]]] = {}
    for n, name in batches.cases():
        if row := results.get(batches.key(n, name)):
            point = (n, row["cpu_seconds"] or math.nan, row["recovered_40db"])
            beside.setdefault(name, []).append(point)
    return {
        "ours, 768-512-512-10, float64 (recovered: above 60 dB)": ours,
        "beside others, 784-512-512-10, ReLU (recovered: above 40 dB)": beside,
    }
