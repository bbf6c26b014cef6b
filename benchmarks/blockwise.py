"""Block by block: photographs and faces through five convolutional networks, beside the usual search.

Every measurement is one batch of one seed. The attack is told neither labels nor how many images there are;
inverting gradients, beside it, is told how many. Steps limit the searches here, not seconds, so a slow
machine gets the same pictures. Seeds were chosen before looking; each draws images, labels and weights.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

import attacks
import fedpriv
from attacks.matching.blocks.known import deepest_cut
from fedpriv.cli import scripts
from fedpriv.lab.study import Cell, Results
from fedpriv.victims import conv_small, vgg_small

if TYPE_CHECKING:
    from benchmarks import _pictures as pictures
else:  # a folder of benchmarks is no package, and is called differently in a wheel
    pictures = scripts.load(Path(__file__).parent / "_pictures.py")

LONG = 1e6
"""Seconds: more than any search here takes."""
OURS = attacks.BlockwiseInversion(repeats=0)
USUAL = attacks.InvertingGradients()
FACES = (0.5,), (0.25,)
EXACT, BLOCKS, SEARCH = "exact parts", "block by block", "inverting gradients"


class Task(NamedTuple):
    """A network, a batch, the seeds; whether images are sought at all, and by the usual search, too."""

    model: Callable[[torch.Generator], nn.Module]
    batch: int
    seeds: tuple[int, ...]
    beside: bool = False
    faces: bool = False
    sought: bool = True

    def methods(self) -> list[str]:
        """What is measured."""
        return [EXACT, *([BLOCKS] if self.sought else []), *([SEARCH] if self.beside else [])]


def _small(generator: torch.Generator) -> nn.Module:
    return conv_small(generator=generator)


ONE, FOUR, STRIDES = "one photograph", "four photographs", "one photograph, strides"
EIGHT, FACE = "eight faces", "one face"
VGG, LENET = "eight photographs, small VGG", "eight photographs, LeNet-5"
TASKS = {
    ONE: Task(_small, 1, (401, 402, 403, 404, 405, 406), beside=True),
    FOUR: Task(_small, 4, (411, 412, 413)),
    STRIDES: Task(pictures.strided, 1, (421, 422, 423)),
    FACE: Task(lambda g: conv_small((1, 25, 25), width=16, generator=g), 1, (0, 1, 2), faces=True),
    EIGHT: Task(pictures.two_convolutions, 8, (0, 1), faces=True),
    VGG: Task(lambda g: vgg_small(generator=g), 8, (441, 442), sought=False),
    LENET: Task(pictures.lenet5, 8, (431, 432), beside=True),
}


def scene_of(name: str, seed: int) -> pictures.Scene:
    """One gradient; the labels of a batch are all different."""
    task = TASKS[name]
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randperm(10, generator=torch.Generator().manual_seed(seed + 1))[: task.batch]
    model = task.model(torch.Generator().manual_seed(seed))
    if not task.faces:
        return pictures.scene(model, pictures.small_patches(task.batch, seed), labels, pictures.CIFAR)
    faces = fedpriv.data.faces()
    chosen = torch.randperm(len(faces), generator=draw)[: task.batch]
    return pictures.scene(model, faces[chosen], labels, FACES)


def by_blocks(name: str, seed: int) -> dict[str, Any]:
    """Decibels, labels and certificates of block by block."""
    scene = scene_of(name, seed)
    found = OURS(scene.observation, time_budget=LONG)
    decoded = not any("not decoded" in note for note in found.notes)
    return {**scene.graded(found), "certified": int(found.certified.sum()), "masks_decoded": decoded}


def by_search(name: str, seed: int) -> dict[str, Any]:
    """Decibels and labels of inverting gradients."""
    scene = scene_of(name, seed)
    return scene.graded(USUAL(scene.told(), time_budget=LONG))


def exact_parts(name: str, seed: int) -> dict[str, Any]:
    """What is exact before any search: for how many images, at which layer, with which labels."""
    scene = scene_of(name, seed)
    generator = torch.Generator().manual_seed(0)
    cut, _ = deepest_cut(scene.observation, generator=generator, time_budget=LONG)
    if cut is None:
        return {"found": 0}
    layers = list(scene.observation.model.named_children())
    mean, deviation = map(pictures.channels, scene.scale)
    below = nn.Sequential(*(module for _, module in layers[: cut.depth]))
    with torch.no_grad():
        truth = below((scene.pixels - mean) / deviation)
    distance = torch.cdist(cut.values.flatten(1), truth.double().flatten(1), p=float("inf")).amin(0).max()
    right = torch.equal(cut.targets.sort().values, scene.labels.sort().values)
    return {
        "found": len(cut.values),
        "exact": bool(distance < 1e-3 * truth.abs().max()),
        "labels_right": right,
        "input of": f"{type(layers[cut.depth][1]).__name__} {layers[cut.depth][0]!r}",
    }


METHODS: dict[str, Callable[[str, int], dict[str, Any]]] = {
    EXACT: exact_parts,
    BLOCKS: by_blocks,
    SEARCH: by_search,
}


def cells() -> list[Cell]:
    """Every task, seed and method; quick is what is exact and needs no search."""
    return [
        Cell(
            f"{name}, seed {seed}, {method}",
            partial(METHODS[method], name, seed),
            quick=method == EXACT and seed == task.seeds[0] and name != VGG,
        )
        for name, task in TASKS.items()
        for seed in task.seeds
        for method in task.methods()
    ]


def by_seed(results: Results, name: str, method: str, value: str = "psnr") -> list[Any]:
    """A value for every seed; of decibels the mean over the batch."""
    found = [results[f"{name}, seed {seed}, {method}"][value] for seed in TASKS[name].seeds]
    return [statistics.mean(batch) for batch in found] if value == "psnr" else found


TITLES = {
    ONE: "ConvNetSmall of width 32, one patch",
    FOUR: "the same, four patches",
    STRIDES: "the same with a stride in place of the pooling, one patch",
    FACE: "ConvNetSmall of width 16, one gray face",
    EIGHT: "two convolutions, max pooling, three linear layers, eight gray faces",
    VGG: "small VGG (three poolings, three linear layers), eight patches",
    LENET: "LeNet-5, eight patches",
}


def whole(results: Results, name: str) -> int:
    """In how many batches all features and labels were exact before any search."""
    parts = [results[f"{name}, seed {seed}, {EXACT}"] for seed in TASKS[name].seeds]
    return sum(p["found"] == TASKS[name].batch and p["exact"] and p["labels_right"] for p in parts)


def tables(results: Results) -> dict[str, str]:
    """A line for every task."""
    heads = ("network and images", "seeds", "exact parts", "dB by seed", "certified", "CPU s")
    lines = [f"| {' | '.join(heads)} | inverting gradients, dB | CPU s |", "|---" * 8 + "|"]
    for name, task in TASKS.items():
        row = [
            TITLES[name],
            f"{task.seeds[0]} to {task.seeds[-1]}",
            f"{whole(results, name)} of {len(task.seeds)}",
        ]
        for method in (BLOCKS, SEARCH):
            shown = method in task.methods()
            row.append(_each(by_seed(results, name, method)) if shown else "–")
            if method == BLOCKS:
                row.append(_certified(results, name) if shown else "–")
            row.append(_span(by_seed(results, name, method, "cpu_seconds")) if shown else "–")
        lines.append(f"| {' | '.join(row)} |")
    return {"reaches": "\n".join(lines)}


def sentences(results: Results) -> dict[str, list[str]]:
    """Words of the pages that carry these numbers."""

    def span(name: str, method: str = BLOCKS) -> str:
        return _span(by_seed(results, name, method), " to ") + " dB"

    single = by_seed(results, ONE, BLOCKS)
    above = sum(decibels > 60 for decibels in single)
    faces, people = sum(by_seed(results, EIGHT, BLOCKS, "certified")), 8 * len(TASKS[EIGHT].seeds)
    lenet = f"the images end at {span(LENET)}, inverting gradients, told the number, at {span(LENET, SEARCH)}"
    return {
        "README.md": [
            "eight gray faces, exactly" if faces == people else f"{faces} of {people} gray faces, exactly",
            f"one photograph {span(ONE)} ({above} of {len(single)} above 60)",
            f"four at once {span(FOUR)}",
            f"few channels (LeNet-5: {span(LENET)})",
            f"rough images (the photographs above: {span(ONE, SEARCH)})",
            f"exact at times only ({above} of {len(single)} photographs above 60 dB)",
        ],
        "docs/matching.md": [
            lenet,
        ],
        "docs/attacks/blockwise.md": [lenet],
    }


def _certified(results: Results, name: str) -> str:
    proofs = by_seed(results, name, BLOCKS, "certified")
    return f"{sum(proofs)} of {TASKS[name].batch * len(proofs)}"


def _each(numbers: list[float]) -> str:
    return ", ".join(f"{number:.1f}" for number in numbers)


def _span(numbers: list[float], word: str = "–") -> str:
    low, high = (f"{pick(numbers):.0f}" for pick in (min, max))
    return low if low == high else f"{low}{word}{high}"
