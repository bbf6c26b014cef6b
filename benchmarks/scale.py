"""Scale: seconds and memory for each client and round, and what it costs to record everything.

Digits, eight samples a client, one local step, federated averaging: the least work that a client can have, so
the record weighs the most. A small perceptron for 10 to 10 000 clients; a wide one, whose updates are large
and computed fast, and a LeNet, for 100. Every row runs in a process of its own, three ways that take turns:
without a record, with the transcript streamed to disk, and with the transcript in memory. Seconds are CPU
seconds, the smallest of the turns; memory is the growth of the process's peak over what it had before.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fedpriv

SAMPLES = 8
TURNS = 5
ROWS = (
    ("small", 10, 50),
    ("small", 100, 10),
    ("small", 1000, 2),
    ("small", 10_000, 1),
    ("wide", 100, 1),
    ("lenet", 100, 1),
)
"""Model, number of clients, rounds of a turn."""


def victim(name: str) -> nn.Module:
    """One of the three models."""
    generator = torch.Generator().manual_seed(0)
    if name == "lenet":
        return fedpriv.victims.lenet_dlg((1, 8, 8), generator=generator)
    return fedpriv.models.mlp((64, 32, 10) if name == "small" else (64, 512, 512, 10), generator=generator)


def trainer(name: str, num_clients: int) -> fedpriv.FederatedTrainer:
    """Clients that share the digits among them, again and again."""
    images, labels = fedpriv.data.digits()
    chosen = torch.arange(num_clients * SAMPLES).reshape(num_clients, SAMPLES) % len(images)
    clients = {f"client {k}": (images[rows], labels[rows]) for k, rows in enumerate(chosen)}
    generator = torch.Generator().manual_seed(0)
    return fedpriv.FederatedTrainer(
        victim(name), nn.functional.cross_entropy, clients, lr=0.1, schedule="fedavg", generator=generator
    )


def peak() -> float:
    """Largest memory of this process so far, in MB (Linux counts in KB, macOS in bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measure(name: str, num_clients: int, rounds: int, turns: int) -> dict[str, Any]:
    """Train `turns` times in each of the three ways, in this process."""
    torch.set_num_threads(1)
    federation = trainer(name, num_clients)
    federation.run(1, record=False)  # warm up
    before = peak()
    seconds: dict[str, float] = {}
    memory: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(turns):
            # A peak never falls: the ways stand in the order of the memory that they should need.
            for way, record in (("none", False), ("disk", f"{folder}/{turn}"), ("memory", True)):
                start = time.process_time()
                run = federation.run(rounds, record=record)
                spent = time.process_time() - start
                seconds[way] = min(seconds.get(way, spent), spent)
                memory.setdefault(way, peak() - before)
                del run
        on_disk = sum(path.stat().st_size for path in Path(folder, "0").iterdir())
    visits = num_clients * rounds
    return {
        "model": name,
        "parameters": sum(p.numel() for p in federation.training.model.parameters()),
        "clients": num_clients,
        "rounds": rounds,
        "ms_per_visit": {way: 1e3 * value / visits for way, value in seconds.items()},
        "overhead": {way: seconds[way] / seconds["none"] - 1 for way in ("disk", "memory")},
        "peak_mb": memory,
        "disk_kb_per_visit": on_disk / visits / 2**10,
    }


def in_own_process(name: str, num_clients: int, rounds: int, turns: int) -> dict[str, Any]:
    """`measure` in a fresh process, so that its peak of memory is its own."""
    paths = os.pathsep.join([str(Path(fedpriv.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    arguments = [name, *(str(number) for number in (num_clients, rounds, turns))]
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    return dict(json.loads(done.stdout))


def flower_rows(*, quick: bool) -> list[dict[str, Any]]:
    """Flower's simulation, where it is installed: ``rows(quick)`` of the file ``_flower_scale.py`` beside."""
    path = Path(__file__).with_name("_flower_scale.py")
    spec = importlib.util.spec_from_file_location("fedpriv_flower_scale", path)
    if not path.is_file() or spec is None or spec.loader is None:
        return []
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.rows(quick=quick))


def main(*, quick: bool = False) -> dict[str, Any]:
    """Measure every row; `quick` keeps to the first two, with fewer turns."""
    return {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}",
        "local": [in_own_process(*row, 2 if quick else TURNS) for row in (ROWS[:2] if quick else ROWS)],
        "flower": flower_rows(quick=quick),
    }


def report(result: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [
        f"machine: {result['machine']}",
        "local engine, one visit is one client in one round; memory is the peak above the start:",
        "  model   clients  rounds  ms a visit  overhead of the record  peak MB: none  disk  memory    KB a",
        "                            no record    to disk   in memory                                 visit",
    ]
    for row in result["local"]:
        over, mb = row["overhead"], row["peak_mb"]
        lines.append(
            f"  {row['model']:6}  {row['clients']:7}  {row['rounds']:6}  {row['ms_per_visit']['none']:10.3f}"
            f"  {over['disk']:10.1%}  {over['memory']:10.1%}  {mb['none']:14.1f} {mb['disk']:5.1f}  "
            f"{mb['memory']:6.1f}   {row['disk_kb_per_visit']:10.1f}"
        )
    if result["flower"]:
        lines.append("Flower:")
        lines += [
            "  " + ", ".join(f"{key}: {value}" for key, value in row.items()) for row in result["flower"]
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], *(int(argument) for argument in sys.argv[2:]))))
