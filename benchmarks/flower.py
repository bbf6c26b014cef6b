"""What a curious Flower server gets from the demo's clients: seven settings, four seeds; and a run's cost.

Every setting of `fedpriv demo flower_leak` (`pip install "fedpriv[flower]"`), all in this process. An attack
may take eight CPU seconds. Flower draws noise and the order of clients from global generators that no seed
reaches, so the rows with noise differ a little each time.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch

import fedpriv
from fedpriv.cli import scripts
from fedpriv.lab.study import Cell, Results

if TYPE_CHECKING:
    from benchmarks import _flower_scale as scale
    from demos import flower_leak as demo
else:  # neither folder is a package, and in a wheel they are called differently
    scale = scripts.load(Path(__file__).with_name("_flower_scale.py"))
    demo = scripts.load(scripts.find("demos")["flower_leak"])

SEEDS = range(4)
SETTINGS = {
    "nothing (the quickstart)": "nothing (the quickstart)",
    "Flower: central DP": "Flower: central DP with client-side clipping",
    "Flower: local DP, ε = 8": "Flower: local DP, ε = 8, δ = 1e-5",
    "Flower: SecAgg+": "Flower: SecAgg+",
    "fedpriv: Clip": "fedpriv: `Clip`",
    "fedpriv: TopK, a tenth": "fedpriv: `TopK`, a tenth",
    "fedpriv: GaussianNoise": "fedpriv: `GaussianNoise`, multiplier 0.1",
}
"""The demo's names, and those of the page."""
EXACT = ("nothing (the quickstart)", "Flower: central DP", "fedpriv: Clip")
INSTALLED = importlib.util.find_spec("flwr") is not None


@contextmanager
def own_clock() -> Iterator[None]:
    """Time budgets count what this process computes: other work on the machine does not matter."""
    with mock.patch.object(time, "perf_counter", time.process_time):
        yield


def attacked(setting: str, seed: int) -> dict[str, Any]:
    """What the server makes of one setting."""
    with (
        tempfile.TemporaryDirectory() as folder,
        demo.flower_app() as app,
        torch.random.fork_rng(),
    ):
        torch.manual_seed(seed)  # the app, like any quickstart, draws its weights and batches from there
        seen = next(seen for name, seen in demo.cases(app, Path(folder), seed) if name == setting)
        with own_clock():
            row, _ = demo.attack(seen, app)
    return {
        "saw": row["saw"],
        "samples": row["samples"],
        "recovered": round(row["recovered"] * row["samples"]),
        "certified": row.get("certified", 0),
        "median_psnr": row["psnr"],
    }


def gray() -> dict[str, Any]:
    """What a gray picture of the right brightness scores against the first client's."""
    place = scripts.find("demos")["flower_leak"].parent / "flower_app" / "leak_app" / "task.py"
    pictures, _ = scripts.load(place).load_data(0, demo.CLIENTS, demo.SAMPLES)[0].dataset.tensors
    guess = pictures.mean(0).mean().expand_as(pictures)
    return {"psnr": float(fedpriv.lab.psnr(guess, pictures, data_range=1.0).median())}


def warm_run() -> dict[str, Any]:
    """Seconds of two rounds with two clients that answer at once, after one such run."""
    import fedpriv.engines.flower as flower

    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        flower.run_in_process(*scale.apps(None), num_clients=2)
        start = time.process_time()
        flower.run_in_process(*scale.apps(None), num_clients=2)
        return {"warm_seconds": time.process_time() - start}
    finally:
        logger.setLevel(level)


def cells() -> list[Cell]:
    """Every setting and seed; the gray picture; one warm run."""
    attacks = [
        Cell(
            f"{setting}, seed {seed}",
            partial(attacked, setting, seed),
            quick=INSTALLED and setting in EXACT and seed == 0,
        )
        for setting in SETTINGS
        for seed in SEEDS
    ]
    return [Cell("gray picture", gray, quick=True), Cell("warm run", warm_run, quick=INSTALLED), *attacks]


def span(values: list[float]) -> str:
    """The smallest and the largest, without decimals."""
    low, high = (f"{round(value)}".replace("-", "−") for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def tables(results: Results) -> dict[str, str]:
    """What came back under each setting, over all seeds."""
    lines = [
        "| switched on | the server sees | recovered above 30 dB | certified | median PSNR, dB |",
        "|---|---|---|---|---|",
    ]
    for setting, shown in SETTINGS.items():
        rows = [results[f"{setting}, seed {seed}"] for seed in SEEDS]
        (samples,) = {row["samples"] for row in rows}
        found, proved = (span([row[name] for row in rows]) for name in ("recovered", "certified"))
        scores = [row["median_psnr"] for row in rows if row["median_psnr"] is not None]
        saw = f"the mean of {samples}" if rows[0]["saw"] == "the mean" else "each model"
        psnr = span(scores) if scores else "refused"
        lines.append(f"| {shown} | {saw} | {found} of {samples} | {proved} | {psnr} |")
    return {"settings": "\n".join(lines)}


def sentences(results: Results) -> dict[str, list[str]]:
    """Words of the pages that carry these numbers."""
    return {"docs/flower.md": [f"A gray picture scores {results['gray picture']['psnr']:.1f} dB."]}
