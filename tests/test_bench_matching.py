"""The benchmarks of image search on tiny sizes, without a peer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import fedpriv
from attacks import BlockwiseInversion, InvertingGradients
from fedpriv.cli import measuring, scripts


@pytest.fixture
def bench(monkeypatch):
    """The benchmark with one small task."""
    module = scripts.load(scripts.find("benchmarks")["matching"])
    small = replace(
        module.TASKS["C 8"],
        batch=2,
        model=lambda g: fedpriv.models.mlp([784, 24, 10], generator=g),
        ours={"inverting gradients": InvertingGradients(starts=1, steps=5, smoothness=0.0)},
    )
    monkeypatch.setattr(module, "TASKS", {"tiny": small})
    return module


def run(module, only, record=None):
    return measuring.run(module, quick=False, record=record, only=only, again=False)


def test_a_part_without_a_peer_is_measured_and_drawn(bench, tmp_path):
    result = run(bench, "tiny*inverting*")
    assert list(result["cells"]) == [f"tiny, seed {seed}, inverting gradients" for seed in bench.SEEDS]
    assert all(found["cpu_seconds"] > 0 and found["psnr"] > 0 for found in result["cells"].values())
    assert "inverting gradients" in measuring.report(bench, result)
    (path,) = bench.draw(result, tmp_path)
    assert path.stat().st_size > 5_000


def test_a_peer_that_is_missing_is_a_sentence(bench, monkeypatch):
    def run_peer(*_, **__):
        raise bench.peers.PeerError("no network")

    monkeypatch.setattr(bench.peers, "run_peer", run_peer)
    result = run(bench, "*breaching")
    assert [found["missing"] for found in result["cells"].values()] == ["no network"] * len(bench.PEER_SEEDS)
    assert "missing no network" in measuring.report(bench, result)


def test_the_peer_gets_the_same_gradient_and_its_settings(bench, monkeypatch):
    asked = []

    def run_peer(task, *, attack, overrides):
        asked.append((task, attack, overrides["optim.max_iterations"]))
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
    result = run(bench, "tiny, seed 9001, breaching")
    ((task, attack, iterations),) = asked
    seen, _, _ = bench.TASKS["tiny"].observe(9001)
    assert all(torch.equal(t, seen.update.tensors[n]) for n, t in task.observation.update.tensors.items())
    assert (attack, iterations) == ("invertinggradients", 1000)
    (found,) = result["cells"].values()
    assert found["cpu_seconds"] == 10.0
    assert found["psnr"] > 0


def test_the_same_seed_gives_the_same_task(bench):
    (one, x, _), (two, other, _) = (bench.TASKS["tiny"].observe(3) for _ in range(2))
    assert torch.equal(x, other)
    assert all(torch.equal(one.update.tensors[n], two.update.tensors[n]) for n in one.update.tensors)


class TestBlockwise:
    @pytest.fixture
    def blockwise(self, monkeypatch):
        """The benchmark with next to no search."""
        module = scripts.load(scripts.find("benchmarks")["blockwise"])
        monkeypatch.setattr(module, "OURS", BlockwiseInversion(steps=2, rounds=1, repeats=0))
        monkeypatch.setattr(module, "USUAL", InvertingGradients(starts=1, steps=2))
        return module

    def test_every_method_gives_what_the_table_takes(self, blockwise):
        small = {"one face", "eight photographs, LeNet-5"}
        found = {
            name: {
                key: method(name, blockwise.TASKS[name].seeds[0]) for key, method in blockwise.METHODS.items()
            }
            for name in small
        }
        for name, by_method in found.items():
            batch = blockwise.TASKS[name].batch
            assert by_method["exact parts"]["found"] == batch
            assert all(
                len(by_method[key]["psnr"]) == batch for key in ("block by block", "inverting gradients")
            )
            assert by_method["block by block"]["labels_right"]

    def test_a_batch_has_different_labels_and_the_attacker_is_told_no_number(self, blockwise):
        scene = blockwise.scene_of("four photographs", 7)
        assert len(set(scene.labels.tolist())) == 4
        assert scene.observation.knowledge.num_samples is None
        assert scene.told().knowledge.num_samples == 4
        assert torch.equal(scene.pixels, blockwise.scene_of("four photographs", 7).pixels)

    def test_grades_ignore_the_order(self, blockwise):
        scene = blockwise.scene_of("eight faces", 7)
        turned = torch.arange(8).flip(0)
        claim = blockwise.attacks.Claim(
            inputs=((scene.pixels - 0.5) / 0.25)[turned], targets=scene.labels[turned]
        )
        graded = scene.graded(claim)
        assert graded["labels_right"]
        assert min(graded["psnr"]) == 120.0


class TestFedAvg:
    def test_a_short_attack_on_one_answer(self, monkeypatch):
        module = scripts.load(scripts.find("benchmarks")["fedavg"])
        short = {name: replace(attack, steps=2) for name, attack in module.METHODS.items()}
        monkeypatch.setattr(module, "METHODS", short)
        setting = module.Setting(3, 2, 0.1)
        for method in short:
            found = module.reached(setting, 5, method)
            assert found["psnr"] > 0
            assert found["labels_right"] in (True, False)

    def test_the_server_learns_the_program_and_no_order(self):
        module = scripts.load(scripts.find("benchmarks")["fedavg"])
        _, _, seen = module.answer(module.Setting(5, 2, 0.1), 5)
        known = seen.knowledge
        assert (seen.update.num_samples, known.local_steps, known.batch_size) == (5, 6, 2)
        assert known.input_shape == (1, 25, 25)
