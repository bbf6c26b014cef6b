"""Inversion by optimization: decibels and CPU seconds on three networks, beside breaching on the same data.

A: the LeNet of the DLG paper, one digit of 28 × 28 pixels or one 32 × 32 patch of a photograph. C: a
784-512-512-10 network with ReLU, batches of digits. E: what a step costs on a ResNet-18. Images and
weights are drawn by seeds that no default was tuned on; decibels are the mean over a batch, pixels in [0, 1],
every image capped at 120. Steps limit the searches, not seconds. (B stands in `fedpriv bench blockwise`.)

breaching is installed into an environment of its own (benchmarks/peers), gets the same weights and gradients,
and reads the labels by its own rule. Where it cannot be had its measurements say so.
"""

from __future__ import annotations

import importlib
import statistics
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import attacks
from fedpriv.cli import scripts
from fedpriv.lab.study import Cell, Results

if TYPE_CHECKING:
    from benchmarks import _matching_tasks as scenes
    from benchmarks import peers
else:  # a folder of benchmarks is no package, and is called differently in a wheel
    peers = importlib.import_module(scripts.load(Path(__file__).parent / "peers" / "__init__.py").__name__)
    scenes = scripts.load(Path(__file__).parent / "_matching_tasks.py")

TASKS = scenes.TASKS
SEEDS = (9001, 9002, 9003)
PEER_SEEDS = SEEDS[:1]
"""Where breaching is measured: it takes longer than all of ours."""
LONG = 1e6
"""Seconds: more than any search here takes."""
PEER = "breaching"
STEP = "E, seconds of a step"
QUICK = (
    "A digit, seed 9001, iDLG",
    "C 8, seed 9001, inverting gradients",
    "C 16, seed 9001, inverting gradients",
)


def by_us(name: str, seed: int, method: str) -> dict[str, Any]:
    """What one of our attacks gets, certificate included."""
    task = TASKS[name]
    observation, x, y = task.observe(seed)
    start = time.process_time()
    found = task.ours[method](observation, time_budget=LONG)
    seconds = time.process_time() - start
    return {
        **task.graded(found.inputs, found.targets, x, y),
        "certified": int(found.certified.sum()),
        "cpu_seconds": seconds,
    }


def by_peer(name: str, seed: int, peer: str) -> dict[str, Any]:
    """What breaching gets, or why it could not be measured."""
    task = TASKS[name]
    observation, x, y = task.observe(seed)
    told = peers.PeerTask(
        observation=observation, num_samples=task.batch, mean=task.scale[0], std=task.scale[1], seed=seed
    )
    try:
        found = peers.run_peer(told, attack=peer, overrides=task.changes)
    except peers.PeerError as error:
        return {"psnr": None, "labels_share": None, "missing": str(error)}
    return {**task.graded(found.inputs, found.targets, x, y), "cpu_seconds": found.cpu_seconds}


def seconds_of_a_step(steps: int = 8) -> dict[str, Any]:
    """CPU seconds of a step of inverting gradients on ResNet-18, from runs of two lengths."""
    observation, _, _ = scenes.RESNET.observe(SEEDS[0])
    spent = []
    for count in (2, 2, 2 + steps):  # the first one warms up; preparations do not count
        attack = attacks.InvertingGradients(starts=1, steps=count)
        begun = time.process_time()
        attack.run((observation,), generator=torch.Generator().manual_seed(0), deadline=float("inf"))
        spent.append(time.process_time() - begun)
    return {"step_seconds": (spent[2] - spent[1]) / steps}


def cells() -> list[Cell]:
    """Every task, seed and method; breaching comes last."""
    keys = [
        (f"{name}, seed {seed}, {method}", partial(by_us, name, seed, method))
        for name, task in TASKS.items()
        for method in task.ours
        for seed in SEEDS
    ]
    theirs = [
        Cell(f"{name}, seed {seed}, {PEER}", partial(by_peer, name, seed, task.peer))
        for name, task in TASKS.items()
        if task.peer
        for seed in PEER_SEEDS
    ]
    return [
        *(Cell(key, run, quick=key in QUICK) for key, run in keys),
        Cell(STEP, seconds_of_a_step),
        *theirs,
    ]


def values(results: Results, name: str, method: str, value: str = "psnr") -> list[Any]:
    """Seed by seed, where it was measured."""
    keys = [f"{name}, seed {seed}, {method}" for seed in (PEER_SEEDS if method == PEER else SEEDS)]
    return [results[key][value] for key in keys if results[key]["psnr"] is not None]


def _each(numbers: list[float]) -> str:
    return ", ".join(f"{number:.1f}" for number in numbers)


def _range(numbers: list[float]) -> str:
    """The median, smallest and largest in brackets."""
    if not numbers:
        return "not measured"
    low, middle, high = (f"{pick(numbers):.1f}" for pick in (min, statistics.median, max))
    return middle if low == high else f"{middle} ({low}–{high})"


def tables(results: Results) -> dict[str, str]:
    """One image through the LeNet, and batches of digits."""
    lines = ["| image | method | dB, by seed | certified | CPU s, by seed |", "|---|---|---|---|---|"]
    for name, image in (("A digit", "digit 28 × 28"), ("A color", "color 32 × 32")):
        for method in TASKS[name].ours:
            found, proofs, seconds = (
                values(results, name, method, value) for value in ("psnr", "certified", "cpu_seconds")
            )
            proved = f"{sum(proofs)} of {len(proofs)}"
            lines.append(f"| {image} | {method} | {_each(found)} | {proved} | {_each(seconds)} |")
    batches = [name for name in TASKS if name.startswith("C ")]
    rows = {
        "inverting gradients": "with the exact finish",
        "the search alone": "",
        PEER: f"breaching, seed {PEER_SEEDS[0]}",
    }
    digits = ["| digits | " + " | ".join(name.removeprefix("C ") for name in batches) + " |"]
    digits.append("|---" * (1 + len(batches)) + "|")
    for method, title in rows.items():
        shown = [
            f"{_range(values(results, name, method))} dB, "
            f"{_range(values(results, name, method, 'cpu_seconds'))} s"
            for name in batches
        ]
        digits.append(f"| {title or method} | " + " | ".join(shown) + " |")
    return {"lenet": "\n".join(lines), "digits": "\n".join(digits)}


def sentences(results: Results) -> dict[str, list[str]]:
    """Words of the pages that carry these numbers."""
    digit = [db for method in TASKS["A digit"].ours for db in values(results, "A digit", method)]
    labels = [
        share
        for name in TASKS
        if name.startswith("C ")
        for method in TASKS[name].ours
        for share in values(results, name, method, "labels_share")
    ]
    return {
        "README.md": [
            f"a digit through the sigmoid LeNet of the paper: {min(digit):.0f} to {max(digit):.0f} dB"
        ],
        "docs/matching.md": [
            f"all labels are right in {labels.count(1.0)} of the {len(labels)} runs of ours",
            f"A step of `InvertingGradients` takes {results[STEP]['step_seconds']:.2f} CPU s",
        ],
    }


def draw(result: dict[str, Any], out: Path) -> list[Path]:
    """Decibels against CPU seconds, one panel a task, as one picture in the folder `out`."""
    from fedpriv.lab.plots._style import headline, label_axes, new_figure, style_of, write

    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for key, found in result["cells"].items():
        if found.get("psnr") is not None:
            task, _, method = key.split(", ", 2)
            points.setdefault(task, {}).setdefault(method, []).append((found["cpu_seconds"], found["psnr"]))
    if not points:
        return []
    figure = new_figure(4 * len(points), 4.0)
    headline(figure, "Inversion by optimization: every point is one batch")
    panels = figure.subplots(1, len(points), squeeze=False)[0]
    for axes, (task, methods) in zip(panels, points.items(), strict=True):
        label_axes(axes, "CPU seconds", "mean PSNR (dB)")
        axes.set_title(task, fontsize=10)
        axes.set_xscale("log")
        for index, (method, here) in enumerate(methods.items()):
            look = style_of(index)
            axes.scatter(*zip(*here, strict=True), color=look.color, marker=look.marker, label=method)
        axes.legend(fontsize=7)
    return [write(figure, out / "matching.png")]
