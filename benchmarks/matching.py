"""Inversion by optimization: decibels and seconds on four networks, beside breaching on the same gradients.

A: the LeNet of the DLG paper, one digit of 28 × 28 pixels or one 32 × 32 patch of a photograph. B: four ReLU
convolutions with max pooling and a global average pool, one patch or four. C: a 784-512-512-10 network with
ReLU, batches of digits. E: seconds per iteration of a ResNet-18. Images and weights are drawn by seeds that
no default was tuned on; decibels are the mean over a batch, pixels in [0, 1], every image capped at 120.
Steps are those that were allowed: with an exact finish ours ends before.

breaching is installed into an environment of its own (benchmarks/peers), gets the same weights and gradients,
reads the labels by its own rule, and runs three times: with its usual number of iterations, with as many as
ours, and with as many as fit into our CPU seconds. For a part of it:
``main(tasks=("A digit",), seeds=(1,), peer=False)``.
"""

from __future__ import annotations

import importlib
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

import attacks
import fedpriv
from attacks.matching.blocks import BlockwiseInversion
from attacks.matching.priors import Box
from fedpriv.cli import scripts
from fedpriv.victims import conv_small, lenet_dlg, resnet18

if TYPE_CHECKING:
    from benchmarks import peers
else:  # a folder of benchmarks is no package, and is called differently in a wheel
    peers = importlib.import_module(scripts.load(Path(__file__).parent / "peers" / "__init__.py").__name__)

CIFAR = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
MNIST = (0.1307,), (0.3081,)
INK = Box(low=-MNIST[0][0] / MNIST[1][0], high=(1 - MNIST[0][0]) / MNIST[1][0])
"""Valid pixels once normalized; breaching projects onto the same."""
SEEDS = (9001, 9002, 9003)
BUDGET = 300.0
CAP = 120.0
NO_TV: Mapping[str, object] = {"regularization.total_variation.scale": 0}
Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of victim and data, who attacks it, and how breaching does.

    Parameters
    ----------
    model : callable
        From a generator to the network.
    batch : int
    digits : bool
        Handwritten digits, enlarged to 28 × 28 pixels; else 32 × 32 patches of photographs.
    scale : tuple of tuple of float
        Mean and deviation of the channels, by which pixels are normalized.
    ours : mapping of str to Attack
        The first one is what breaching gets the seconds and iterations of.
    peer : str
        What breaching calls its attack.
    changes : mapping of str to object
        Settings of breaching.
    iterations : int
        Its usual number here.
    """

    model: Callable[[torch.Generator], nn.Module]
    batch: int = 1
    digits: bool = False
    scale: tuple[tuple[float, ...], tuple[float, ...]] = ((0.0,), (1.0,))
    ours: Mapping[str, attacks.Attack]
    peer: str = "invertinggradients"
    changes: Mapping[str, object] = field(default_factory=dict)
    iterations: int = 2400

    def observe(self, seed: int, device: str = "cpu") -> tuple[fedpriv.Observation, Tensor, Tensor]:
        """One gradient, and the batch behind it."""
        generator = torch.Generator().manual_seed(seed)
        if self.digits:
            images, labels = fedpriv.data.digits()
            chosen = torch.randperm(len(images), generator=generator)[: self.batch]
            pixels, y = interpolate(images[chosen], size=28, mode="bilinear"), labels[chosen]
        else:
            pixels = fedpriv.data.photographs(8 * self.batch, size=32, generator=generator)
            pixels = pixels[pixels.std(dim=(1, 2, 3)) > 0.05][: self.batch]  # flat ones say nothing
            y = torch.randint(10, (self.batch,), generator=generator)
        x = (pixels - _channels(self.scale[0])) / _channels(self.scale[1])
        model = self.model(generator).to(device)
        loss = cross_entropy(model(x.to(device)), y.to(device))
        known = fedpriv.Knowledge(input_shape=tuple(x.shape[1:]), num_samples=self.batch)
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        return fedpriv.Observation(model, gradient, cross_entropy, known), x, y

    def pixels(self, x: Tensor) -> Tensor:
        """Back from normalized to [0, 1], for measuring."""
        return x.detach().float() * _channels(self.scale[1]) + _channels(self.scale[0])


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).reshape(-1, 1, 1)


def _tasks() -> dict[str, Task]:
    lenet: dict[str, Any] = {"peer": "deepleakage", "iterations": 300}
    lenet["changes"] = {"attack_type": "optimization", "label_strategy": "iDLG"}
    conv: dict[str, Any] = {"model": lambda g: conv_small(generator=g), "scale": CIFAR}
    conv["ours"] = {"blockwise": BlockwiseInversion(), "inverting gradients": attacks.InvertingGradients()}
    mlp: dict[str, Any] = {
        "model": lambda g: fedpriv.models.mlp([784, 512, 512, 10], generator=g),
        "digits": True,
        "scale": MNIST,
        "changes": NO_TV,
        "iterations": 1000,
        "ours": {
            "inverting gradients": attacks.InvertingGradients(
                starts=1, steps=600, rate=0.3, smoothness=0.0, scale=0.1, box=INK
            ),
            "the search alone": attacks.InvertingGradients(
                starts=1, steps=600, rate=0.3, smoothness=0.0, scale=0.1, box=INK, finish=False
            ),
        },
    }
    return {
        "A digit": Task(
            model=lambda g: lenet_dlg((1, 28, 28), generator=g),
            digits=True,
            ours={"iDLG": attacks.IDLG(), "DLG": attacks.DLG()},
            **lenet,
        ),
        "A color": Task(
            model=lambda g: lenet_dlg((3, 32, 32), generator=g),
            scale=((0.0,) * 3, (1.0,) * 3),
            ours={"iDLG": attacks.IDLG()},
            **lenet,
        ),
        "B 1": Task(**conv),
        "B 4": Task(batch=4, **conv),
        **{f"C {n}": Task(batch=n, **mlp) for n in (8, 16, 20)},
    }


TASKS = _tasks()
RESNET = Task(model=lambda g: resnet18(generator=g), scale=CIFAR, ours={})


def measure(name: str, seed: int, *, peer: bool, budget: float = BUDGET) -> list[Row]:
    """All methods on one gradient: ours, then breaching three times."""
    task = TASKS[name]
    observation, x, y = task.observe(seed)
    case = {"task": name, "seed": seed}
    rows = []
    for method, attack in task.ours.items():
        rows.append({**case, "method": method, **by_us(task, attack, observation, x, y, budget)})
    return rows + (beside(task, case, observation, x, y, rows[0]) if peer else [])


def by_us(
    task: Task, attack: attacks.Attack, seen: fedpriv.Observation, x: Tensor, y: Tensor, budget: float
) -> Row:
    """What one of our attacks gets, and what it costs, certificate included."""
    start = time.process_time()
    try:
        found = attack(seen, time_budget=budget)
    except attacks.NotIdentifiable as refusal:
        return {**_nothing(str(refusal)), "cpu_seconds": time.process_time() - start}
    seconds = time.process_time() - start
    steps = getattr(attack, "steps", None) if isinstance(attack, attacks.InvertingGradients) else None
    return {**graded(task, found.inputs, found.targets, x, y), "cpu_seconds": seconds, "iterations": steps}


def beside(task: Task, case: Row, seen: fedpriv.Observation, x: Tensor, y: Tensor, ours: Row) -> list[Row]:
    """Breaching with its usual iterations, with as many as ours has, and with our seconds."""
    told = peers.PeerTask(
        observation=seen, num_samples=task.batch, mean=task.scale[0], std=task.scale[1], seed=case["seed"]
    )

    def run(method: str, iterations: int) -> Row:
        changes = {**task.changes, "optim.max_iterations": iterations, "optim.callback": iterations}
        try:
            found = peers.run_peer(told, attack=task.peer, overrides=changes)
        except peers.PeerError as error:
            return {**case, "method": method, **_nothing(str(error)), "cpu_seconds": None}
        row = graded(task, found.inputs, found.targets, x, y)
        return {**case, "method": method, **row, "cpu_seconds": found.cpu_seconds, "iterations": iterations}

    usual = run("breaching", task.iterations)
    rows = [usual]
    if usual["cpu_seconds"]:
        fitting = max(round(ours["cpu_seconds"] * task.iterations / usual["cpu_seconds"]), 1)
        rows.append(run("breaching, equal time", fitting))
        if ours.get("iterations"):
            rows.append(run("breaching, equal iterations", ours["iterations"]))
    return rows


def graded(task: Task, inputs: Tensor, targets: Tensor | None, x: Tensor, y: Tensor) -> Row:
    """Mean decibels over the batch, the worst image, the share of right labels in any order."""
    found, truth = task.pixels(inputs), task.pixels(x)
    score = fedpriv.lab.score(found, truth, data_range=1.0)
    counts = [torch.bincount(t, minlength=10) for t in (targets, y) if t is not None and t.dim() == 1]
    right = float(torch.minimum(*counts).sum()) / len(y) if len(counts) == 2 else 0.0
    decibels = score.psnr.clamp(max=CAP)
    return {
        "psnr": float(decibels.mean()),
        "worst_psnr": float(decibels.min()),
        "labels_right": right,
        "iterations": None,
        "not_found": None,
    }


def _nothing(reason: str) -> Row:
    empty = dict.fromkeys(("psnr", "worst_psnr", "iterations"))
    return {**empty, "labels_right": 0.0, "not_found": reason}


def seconds_per_iteration(device: str = "cpu", *, steps: int = 8, seed: int = SEEDS[0]) -> float:
    """Of inverting gradients on ResNet-18 and one patch: CPU seconds, or wall seconds on a GPU.

    Two runs of different length are compared, so that preparations do not count.
    """
    observation, _, _ = RESNET.observe(seed, device)
    clock = time.process_time if device == "cpu" else time.perf_counter
    spent = []
    for count in (2, 2, 2 + steps):  # the first one warms up
        attack = attacks.InvertingGradients(starts=1, steps=count)
        begun = clock()
        attack.run(
            (observation,), generator=torch.Generator().manual_seed(0), deadline=time.perf_counter() + BUDGET
        )
        spent.append(clock() - begun)
    return (spent[2] - spent[1]) / steps


def resnet(*, peer: bool, steps: int = 8) -> Row:
    """Task E: seconds per iteration, ours, on a GPU if there is one, and breaching's."""
    row: Row = {"ours": seconds_per_iteration(steps=steps), "gpu": None, "breaching": None}
    if torch.cuda.is_available():
        row["gpu"] = seconds_per_iteration("cuda", steps=10 * steps)
        row["gpu_name"] = torch.cuda.get_device_name()
    if peer:
        row["breaching"] = _breaching_seconds()
    return row


def _breaching_seconds(iterations: int = 12) -> float | str:
    """CPU seconds per iteration of breaching on the ResNet, or why there are none."""
    seen, _, _ = RESNET.observe(SEEDS[0])
    told = peers.PeerTask(observation=seen, num_samples=1, mean=CIFAR[0], std=CIFAR[1])
    changes = {"optim.max_iterations": iterations, "optim.callback": iterations}
    try:
        found = peers.run_peer(told, attack=RESNET.peer, overrides=changes)
    except peers.PeerError as error:
        return str(error)
    return float(found.cpu_seconds / iterations)


def main(
    *,
    quick: bool = False,
    tasks: Iterable[str] | None = None,
    seeds: Iterable[int] = SEEDS,
    peer: bool = True,
    budget: float = BUDGET,
) -> dict[str, Any]:
    """All tasks on all seeds beside breaching; `quick` takes three tasks, one seed, and no breaching.

    Raises
    ------
    ValueError
        For a task that is not in `TASKS`, except ``"E"``, the ResNet.
    """
    if quick:
        tasks, seeds, peer = ("A digit", "C 8", "E") if tasks is None else tasks, tuple(seeds)[:1], False
    chosen = tuple((*TASKS, "E") if tasks is None else tasks)
    for name in chosen:
        if name not in (*TASKS, "E"):
            raise ValueError(f"expected tasks among {', '.join((*TASKS, 'E'))}, got {name!r}")
    missing = None
    if peer:
        try:
            peers.prepare()
        except peers.PeerError as error:
            peer, missing = False, str(error)
    torch.set_num_threads(1)
    cases = [(name, seed) for name in chosen if name != "E" for seed in seeds]
    rows: list[Row] = []
    for name, seed in fedpriv.progress.progress(cases, description="matching"):
        rows += measure(name, seed, peer=peer, budget=budget)
    return {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}",
        "rows": rows,
        "resnet": resnet(peer=peer) if "E" in chosen else None,
        "no_breaching": missing,
    }


def medians(rows: Iterable[Row]) -> list[Row]:
    """One row for each task and method: medians over the seeds, and the smallest and largest decibels."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["method"]), []).append(row)
    result = []
    for (task, method), group in groups.items():
        done = [row for row in group if row["not_found"] is None]
        line: Row = {"task": task, "method": method, "seeds": len(group), "found": len(done)}
        line["labels_right"] = min(row["labels_right"] for row in group)
        line["not_found"] = None if done else group[0]["not_found"]
        if done:
            decibels = [row["psnr"] for row in done]
            line.update(low=min(decibels), psnr=statistics.median(decibels), high=max(decibels))
            line["cpu_seconds"] = statistics.median(row["cpu_seconds"] for row in done)
            line["iterations"] = done[0]["iterations"]
        result.append(line)
    return result


def report(result: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [f"machine: {result['machine']}"]
    head = f"  {'task':8}{'method':30}{'seeds':>6}{'median dB':>10}{'lowest':>8}{'highest':>8}"
    lines.append(head + f"{'labels':>8}{'CPU s':>8}{'most steps':>11}")
    for row in medians(result["rows"]):
        start = f"  {row['task']:8}{row['method']:30}{row['seeds']:6d}"
        if not row["found"]:
            lines.append(f"{start}  not measured ({row['not_found'][:160]})")
            continue
        lines.append(
            f"{start}{row['psnr']:10.1f}{row['low']:8.1f}{row['high']:8.1f}{row['labels_right']:8.0%}"
            f"{row['cpu_seconds']:8.1f}{row['iterations'] or '-':>11}"
        )
    if result["resnet"]:
        lines += _resnet_lines(result["resnet"])
    if result["no_breaching"]:
        lines.append(f"breaching: not measured ({result['no_breaching']})")
    return "\n".join(lines)


def _resnet_lines(row: Row) -> list[str]:
    lines = [f"E, ResNet-18, one patch: {row['ours']:.3f} CPU s an iteration"]
    if isinstance(row["breaching"], float):
        lines.append(f"  breaching: {row['breaching']:.3f} CPU s an iteration, preparations included")
    elif row["breaching"]:
        lines.append(f"  breaching: not measured ({row['breaching']})")
    if row["gpu"] is not None:
        lines.append(f"  on {row['gpu_name']}: {row['gpu']:.3f} s an iteration")
    return lines


def draw(result: dict[str, Any], out: Path) -> list[Path]:
    """Decibels against CPU seconds, one panel a task, as one picture in the folder `out`."""
    from fedpriv.lab.plots._style import headline, label_axes, new_figure, style_of, write

    names = list(dict.fromkeys(row["task"] for row in result["rows"]))
    if not names:
        return []
    methods = list(dict.fromkeys(row["method"] for row in result["rows"]))
    columns = min(3, len(names))
    figure = new_figure(4 * columns, 3.4 * -(-len(names) // columns) + 0.6)
    headline(figure, "Inversion by optimization: every point is one batch")
    panels = figure.subplots(-(-len(names) // columns), columns, squeeze=False).flatten()
    for axes, name in zip(panels, names, strict=False):
        label_axes(axes, "CPU seconds", "mean PSNR (dB)")
        axes.set_title(name, fontsize=10)
        axes.set_xscale("log")
        for index, method in enumerate(methods):
            here = [r for r in result["rows"] if (r["task"], r["method"]) == (name, method) and r["psnr"]]
            look = style_of(index)
            axes.scatter(
                [r["cpu_seconds"] for r in here],
                [r["psnr"] for r in here],
                color=look.color,
                marker=look.marker,
                label=method if here else None,
            )
        axes.legend(fontsize=7)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    return [write(figure, out / "matching.png")]
