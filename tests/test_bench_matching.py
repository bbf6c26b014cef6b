"""The benchmark of inversion by optimization on tiny sizes, without a peer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import fedpriv
from attacks import InvertingGradients
from fedpriv.cli import scripts


@pytest.fixture
def bench(monkeypatch):
    """The benchmark with one small task, and a ResNet of width 2."""
    module = scripts.load(scripts.find("benchmarks")["matching"])
    small = replace(
        module.TASKS["C 8"],
        batch=2,
        model=lambda g: fedpriv.models.mlp([784, 24, 10], generator=g),
        ours={"inverting gradients": InvertingGradients(starts=1, steps=5, smoothness=0.0)},
    )
    monkeypatch.setattr(module, "TASKS", {"tiny": small})
    tiny = fedpriv.victims.resnet18
    monkeypatch.setattr(module, "RESNET", replace(module.RESNET, model=lambda g: tiny(width=2, generator=g)))
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    return module


def test_a_part_without_a_peer_is_measured_and_drawn(bench, tmp_path):
    result = bench.main(tasks=("tiny", "E"), seeds=(1, 2), peer=False)
    assert [row["seed"] for row in result["rows"]] == [1, 2]
    assert all(row["cpu_seconds"] > 0 and row["psnr"] > 0 for row in result["rows"])
    assert result["resnet"]["breaching"] is None
    text = bench.report(result)
    assert "inverting gradients" in text
    assert "CPU s an iteration" in text
    (path,) = bench.draw(result, tmp_path)
    assert path.stat().st_size > 5_000


def test_a_peer_that_is_missing_is_a_sentence(bench, monkeypatch):
    def prepare():
        raise bench.peers.PeerError("no network")

    monkeypatch.setattr(bench.peers, "prepare", prepare)
    result = bench.main(tasks=("tiny",), seeds=(1,))
    assert bench.report(result).endswith("breaching: not measured (no network)")


def test_the_peer_gets_our_seconds_and_our_iterations(bench, monkeypatch):
    asked = []

    def run_peer(task, *, attack, overrides):
        asked.append((attack, overrides["optim.max_iterations"]))
        return bench.peers.PeerResult(
            inputs=torch.zeros(task.num_samples, 1, 28, 28),
            targets=None,
            cpu_seconds=10.0,
            wall_seconds=10.0,
            iterations=1,
            peak_memory_mb=1.0,
            versions={},
        )

    monkeypatch.setattr(bench.peers, "run_peer", run_peer)
    monkeypatch.setattr(bench.peers, "prepare", lambda: None)
    result = bench.main(tasks=("tiny",), seeds=(1,))
    (ours, *theirs) = result["rows"]
    fitting = max(round(ours["cpu_seconds"] * 1000 / 10.0), 1)
    assert asked == [("invertinggradients", n) for n in (1000, fitting, 5)]
    assert [r["method"] for r in theirs] == [
        "breaching",
        "breaching, equal time",
        "breaching, equal iterations",
    ]


def test_an_unknown_task_is_a_sentence(bench):
    with pytest.raises(ValueError, match="expected tasks among tiny, E, got 'F'"):
        bench.main(tasks=("F",), peer=False)


def test_the_same_seed_gives_the_same_task(bench):
    (one, x, _), (two, other, _) = (bench.TASKS["tiny"].observe(3) for _ in range(2))
    assert torch.equal(x, other)
    assert all(torch.equal(one.update.tensors[n], two.update.tensors[n]) for n in one.update.tensors)
