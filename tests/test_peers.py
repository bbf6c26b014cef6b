"""Peers: the files that pass, what is said when one cannot be measured, and what is made of the results.

No test makes the environment of the peers or needs a network; breaching itself is played by a stand-in.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import fedpriv
from benchmarks.peers import PeerError, PeerResult, PeerTask, batches, breaching_attack, environment
from fedpriv.cli import scripts
from fedpriv.wire import Knowledge, Observation

PIP_WITHOUT_NETWORK = """\
WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError'
ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: none)
ERROR: No matching distribution found for torch==2.13.0
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty place for the environment."""
    monkeypatch.setenv(environment.VARIABLE, str(tmp_path / "peers"))
    return environment.home()


@pytest.fixture
def task():
    """One image behind a small network with a convolution, and what it looked like."""
    generator = torch.Generator().manual_seed(5)
    model = fedpriv.models.mlp([12, 7, 4], generator=generator)
    x = torch.rand(1, 3, 2, 2, generator=generator)
    loss = torch.nn.functional.cross_entropy
    gradient = torch.autograd.grad(loss(model(x), torch.tensor([2])), list(model.parameters()))
    observation = Observation(model, gradient, loss, Knowledge(input_shape=(3, 2, 2)))
    return PeerTask(observation=observation, num_samples=1, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), seed=9)


def result(inputs, targets=None):
    return PeerResult(
        inputs=inputs,
        targets=targets,
        cpu_seconds=1.5,
        wall_seconds=2.5,
        iterations=3,
        peak_memory_mb=100.0,
        versions={"breaching": "0.1.2"},
    )


class TestFiles:
    @pytest.mark.parametrize("labels", [None, (2,)])
    def test_a_task_comes_back_bit_by_bit(self, task, labels, tmp_path):
        told = {name: value for name, value in vars(task).items() if name != "labels"}
        PeerTask(**told, labels=labels).save(tmp_path)
        loaded = PeerTask.load(tmp_path)
        assert loaded.labels == labels
        assert [getattr(loaded, n) for n in ("num_samples", "mean", "std", "seed")] == [
            *(1, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), 9)
        ]
        before, after = task.observation, loaded.observation
        for one, other in ((before.gradient(), after.gradient()), (before.state, after.state)):
            assert list(one) == list(other)
            assert all(torch.equal(one[name], other[name]) for name in one)
        assert (after.loss_fn, after.knowledge) == (before.loss_fn, before.knowledge)
        x = torch.rand(2, 3, 2, 2)
        assert torch.equal(before.model(x), after.model(x))
        assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}

    @pytest.mark.parametrize("targets", [None, torch.tensor([1, 2])])
    def test_a_result_comes_back(self, targets, tmp_path):
        inputs = torch.rand(3, 2, 2).transpose(0, 1)  # as an attack may leave it: not contiguous
        result(inputs, targets).save(tmp_path)
        loaded = PeerResult.load(tmp_path)
        assert torch.equal(loaded.inputs, inputs)
        assert loaded.targets is None if targets is None else torch.equal(loaded.targets, targets)
        assert (loaded.cpu_seconds, loaded.iterations) == (1.5, 3)
        assert loaded.versions == {"breaching": "0.1.2"}

    @pytest.mark.parametrize("file", ["result.json", "result.safetensors"])
    @pytest.mark.parametrize("content", [None, b"", b"{}", b'{"cpu_seconds": 1'])
    def test_half_a_result_is_a_sentence(self, file, content, tmp_path):
        result(torch.rand(1, 2)).save(tmp_path)
        (tmp_path / file).unlink()
        if content is not None:
            (tmp_path / file).write_bytes(content)
        with pytest.raises(ValueError, match="the peer left no whole result"):
            PeerResult.load(tmp_path)

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"mean": (0.5,)}, "one value for each of 3 channel"),
            ({"num_samples": 0}, "one sample or more"),
            ({"labels": (1, 2)}, "a label for each"),
        ],
    )
    def test_a_task_that_makes_no_sense_is_refused(self, task, changed, words):
        with pytest.raises(ValueError, match=words):
            PeerTask(**{**vars(task), **changed})

    def test_a_task_needs_the_shape_of_an_image(self, task):
        seen = task.observation
        bare = Observation(seen.model, seen.update, seen.loss_fn)
        with pytest.raises(ValueError, match=r"input_shape as \(channels, height, width\), got None"):
            PeerTask(observation=bare, num_samples=1)


class TestEnvironment:
    @pytest.fixture
    def commands(self, monkeypatch):
        """Every command that would have been run; `answers` says how each ends."""
        ran, answers = [], {}

        def run(command, **_):
            ran.append(command)
            step = "venv" if "venv" in command else command[-1]
            code, err = answers.get(step, (0, ""))
            if step == "venv" and code == 0:
                environment._python().parent.mkdir(parents=True, exist_ok=True)
                environment._python().touch()
            return SimpleNamespace(returncode=code, stderr=err)

        monkeypatch.setattr(environment, "subprocess", SimpleNamespace(**{**vars(subprocess), "run": run}))
        return SimpleNamespace(ran=ran, answers=answers)

    def test_it_is_made_once_outside_the_repository(self, commands, home, tmp_path, capsys):
        assert home.is_relative_to(tmp_path)
        assert not environment.is_prepared()
        assert environment.prepare() == environment.prepare() == environment._python()
        assert len(commands.ran) == 3
        assert commands.ran[0][:3] == [sys.executable, "-m", "venv"]
        assert [c[-1] for c in commands.ran[1:]] == ["cryptography", "breaching==0.1.2"]
        assert "--no-deps" in commands.ran[2]
        out, err = capsys.readouterr()
        assert (out, "3 of 3: breaching==0.1.2" in err, str(home) in err) == ("", True, True)

    def test_other_pins_are_installed_over_it(self, commands, monkeypatch):
        environment.prepare()
        monkeypatch.setattr(environment, "ALONE", ("breaching==0.1.3",))
        assert not environment.is_prepared()
        environment.prepare()
        assert commands.ran[-1][-1] == "breaching==0.1.3"

    def test_no_network_is_a_sentence_and_the_next_call_goes_on(self, commands):
        commands.answers["breaching==0.1.2"] = (1, PIP_WITHOUT_NETWORK)
        with pytest.raises(PeerError, match=r"No matching distribution found for torch==2\.13\.0; it needs"):
            environment.prepare()
        assert not environment.is_prepared()
        commands.answers.clear()
        environment.prepare()
        assert environment.is_prepared()

    def test_the_benchmark_says_why_and_goes_on(self, commands):
        commands.answers["venv"] = (1, "Error: ensurepip is not available\n")
        row = batches.breaching("breaching analytic", 1, (0, 1))
        why = (
            "its environment could not be made (virtual environment): Error: ensurepip is not available; "
            "it needs a network once"
        )
        assert (row["found"], row["not_found"], row["cpu_seconds"]) == (0, why, None)
        assert batches.share_words(row) == f"not measured ({why})"

    def test_a_folder_that_cannot_be_written_is_a_sentence(self, commands, home):
        home.parent.write_text("a file")
        with pytest.raises(PeerError, match="cannot be written"):
            environment.prepare()
        assert [command[1:3] for command in commands.ran] == [["-m", "venv"]]

    def test_by_default_it_stands_in_the_cache(self, monkeypatch):
        monkeypatch.delenv(environment.VARIABLE)
        monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
        assert environment.home().as_posix().startswith("/somewhere/fedpriv/peers/breaching-python3.")
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert ".cache/fedpriv/peers" in environment.home().as_posix()


class TestRun:
    @pytest.fixture(autouse=True)
    def _this_python(self, monkeypatch):
        monkeypatch.setattr(environment, "prepare", lambda: sys.executable)

    def test_a_peer_that_fails_is_a_sentence(self, task):
        """Here breaching is missing, or has no such attack; that far the process comes."""
        with pytest.raises(PeerError, match=r"nonsense failed: .*(named 'breaching'|nonsense)"):
            environment.run_peer(task, attack="nonsense")

    def test_a_peer_that_takes_too_long_is_a_sentence(self, task):
        with pytest.raises(PeerError, match=r"not finished within 0\.01 s"):
            environment.run_peer(task, attack="analytic", time_limit=0.01)

    def test_a_peer_that_leaves_nothing_is_a_sentence(self, task, monkeypatch):
        monkeypatch.setattr(environment, "_START", "")
        with pytest.raises(PeerError, match="no whole result"):
            environment.run_peer(task, attack="analytic")

    def test_the_commands_words(self, task, monkeypatch):
        def run(command, *, cwd, env, **_):
            assert command[-2:] == ["tag", '["optim.max_iterations=7", "init=zeros"]']
            assert env["OMP_NUM_THREADS"] == "1"
            result(torch.ones(1, 3, 2, 2)).save(environment.Path(cwd))
            return SimpleNamespace(returncode=0)

        monkeypatch.setattr(environment.subprocess, "run", run)
        overrides = {"optim.max_iterations": 7, "init": "zeros"}
        found = environment.run_peer(task, attack="tag", overrides=overrides)
        assert torch.equal(found.inputs, torch.ones(1, 3, 2, 2))


class TestBreaching:
    @pytest.fixture
    def seen(self, monkeypatch):
        """A stand-in for breaching: inverts the first layer with what it is given, and keeps that."""
        kept = SimpleNamespace()

        def reconstruct(sent, shared, _):
            (kept.sent,), (kept.shared,) = sent, shared
            weight, bias = shared[0]["gradients"][:2]
            row = int(bias.abs().argmax())
            data = (weight[row] / bias[row]).reshape(1, *sent[0]["metadata"].shape)
            return {"data": data, "labels": torch.tensor([0])}, {"Trial_0_Val": [0.5, 0.25]}

        def prepare_attack(*given):
            kept.config = given[2]
            return SimpleNamespace(reconstruct=reconstruct)

        attacks = SimpleNamespace(prepare_attack=prepare_attack)
        fake = SimpleNamespace(attacks=attacks, get_attack_config=lambda *given: given)
        monkeypatch.setitem(sys.modules, "breaching", fake)
        monkeypatch.setattr(breaching_attack, "stand_in_for_torchvision", lambda: None)
        monkeypatch.setattr(breaching_attack, "version", lambda _: "0.1.2")
        return kept

    def test_it_gets_these_weights_and_this_gradient(self, task, seen):
        with torch.random.fork_rng():
            found = breaching_attack.attack(task, "analytic", ["a=1"])
        assert seen.config == ("analytic", ["a=1"])
        for given, ours in (
            (seen.sent["parameters"], task.observation.state),
            (seen.shared["gradients"], task.observation.gradient()),
        ):
            assert all(torch.equal(a, b) for a, b in zip(given, ours.values(), strict=True))
        assert seen.shared["metadata"]["num_data_points"] == 1
        assert seen.shared["metadata"]["labels"] is None
        assert (seen.sent["metadata"].std, seen.sent["metadata"].classes) == ((1.0, 2.0, 3.0), 4)
        assert found.iterations == 2
        truth = torch.rand(1, 3, 2, 2, generator=_past_the_weights())
        torch.testing.assert_close(found.inputs, truth)

    def test_the_stand_in_for_torchvision_has_no_function_to_offer(self, monkeypatch):
        for name in ("", ".models", ".models.densenet", ".transforms"):
            monkeypatch.setitem(sys.modules, f"torchvision{name}", None)  # taken back after the test
        breaching_attack.stand_in_for_torchvision()
        vision = importlib.import_module("torchvision")
        assert issubclass(vision.models.densenet._DenseLayer, torch.nn.Module)
        with pytest.raises(AttributeError):
            _ = vision.transforms.ToTensor


def _past_the_weights():
    """A generator in the state in which the fixture `task` draws the image."""
    generator = torch.Generator().manual_seed(5)
    fedpriv.models.mlp([12, 7, 4], generator=generator)
    return generator


ROW = {
    "recovered_40db": 1.0,
    "recovered_60db": 1.0,
    "mean_psnr": 90.0,
    "labels_right": 1.0,
    "not_found": None,
    "cpu_seconds": 2.0,
}
LOST = {**ROW, "recovered_40db": 0.0, "recovered_60db": 0.0, "not_found": "why", "mean_psnr": None}


class TestReport:
    def test_medians_are_over_those_that_ended(self):
        slow = {**ROW, "cpu_seconds": 60.0}
        quick = {**ROW, "cpu_seconds": 1.0}
        row = batches.medians([ROW, LOST, quick])
        assert (row["found"], row["exact"], row["seeds"], row["cpu_seconds"]) == (2, 2, 3, 1.5)
        assert batches.medians([slow, quick, quick])["cpu_seconds"] == 1.0

    def test_what_was_not_found_is_printed_as_such(self):
        lost = batches.medians([LOST, LOST])
        assert batches.exact_words(lost) == "none within 60 s"
        assert batches.share_words(lost) == "not measured (why)"
        some = batches.medians([ROW, LOST, ROW])
        assert batches.exact_words(some) == "2 of 3, 2 s"
        assert batches.share_words(some) == "100 %, 2 s"

    def test_a_wrong_count_of_targets_is_no_error(self):
        x, y = torch.rand(2, 1, 3, 3), torch.tensor([1, 2])
        soft = batches.graded(result(x, torch.rand(2, 10)), x, y)
        assert (soft["recovered_60db"], soft["labels_right"]) == (1.0, 0.0)
        swapped = batches.graded(result(x.flip(0), y.flip(0)), x, y)
        assert (swapped["recovered_60db"], swapped["labels_right"]) == (1.0, 1.0)

    def test_our_own_side_on_a_small_batch(self):
        _, x, _ = batches.task(2, torch.float64, 100)
        assert x.shape == (2, 1, 28, 28)
        for name in ("reconstruct", "SPEAR sampling"):
            row = batches.ours(name, 2, range(100, 101))
            assert (row["exact"], row["labels_right"], row["not_found"]) == (1, 1.0, None)
            assert row["cpu_seconds"] > 0

    def test_tables_and_picture(self, tmp_path):
        assert "peers" not in scripts.find("benchmarks")
        exact = scripts.load(scripts.find("benchmarks")["exact"])
        patches = {"cpu_seconds": 0.5, "recovered_share": 1.0, "labels_share": 1.0, "certified_share": 0.25}
        lost = batches.key(batches.SPEAR_SIZES[-1], "SPEAR sampling")
        results = {
            cell.key: patches
            if "patches" in cell.key
            else batches.medians([LOST if cell.key == lost else ROW])
            for cell in exact.cells()
        }
        tables = exact.tables(results)
        assert "| 16 | 512 | float64 | 0.5 s, 25 % certified |" in tables["patches"]
        assert tables["patches"].splitlines()[-1].count("certified") == 1  # what is measured
        assert tables["spear"].splitlines()[-1].endswith("| none within 60 s |")
        assert tables["breaching"].splitlines()[2] == "| 8 | 100 %, 2 s | 100 %, 2 s | 100 %, 2 s |"
        (path,) = exact.draw({"machine": "m", "cells": results}, tmp_path / "new")
        assert path.stat().st_size > 20_000
        some = {key: values for key, values in results.items() if "16" in key}  # what --quick gives
        assert exact.draw({"machine": "m", "cells": some}, tmp_path / "new") == [path]

    def test_a_case_for_machines_with_a_gpu(self, monkeypatch):
        exact = scripts.load(scripts.find("benchmarks")["exact"])
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert exact.large_case(4, 64) == {"gpu": None, "recovered_share": None, "refusal": None}
        on_cpu = exact.task

        def task(*given, device, **options):
            assert device == "cuda"
            return on_cpu(*given, **options)

        monkeypatch.setattr(exact, "task", task)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "G")
        row = exact.large_case(4, 64)
        assert row == {"gpu": "G", "recovered_share": 1.0, "refusal": None}
        monkeypatch.setattr(exact, "LARGE_BUDGET", 1e-9)
        assert exact.large_case(4, 64)["recovered_share"] < 1.0
