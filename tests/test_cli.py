"""The command line: one JSON object, exit codes, one sentence for bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click.shell_completion
import numpy as np
import pytest
import torch
from torch import nn

from fedpriv.cli import main, output, scripts
from fedpriv.cli.app import app
from fedpriv.wire import Exchange, Knowledge, Observation, Transcript, Update

DEMO = '''"""Counts the seed.

More words.
"""
import torch

TAKES = "5 s"

def main(out, *, seed=0):
    print("noise on the way")
    if seed == 13:
        raise ValueError("expected a lucky seed, got 13;\\n    choose another")
    if seed == 14:
        raise KeyboardInterrupt
    if seed == 15:
        raise PermissionError(13, "Permission denied", "x.png")
    if seed == 16:
        raise RuntimeError("a fault of ours")
    path = out / "seed.txt"
    path.write_text(str(seed))
    return {"seed": torch.tensor(seed), "error": float("nan"), "inputs": torch.eye(2), "files": [path]}

def report(result):
    return f"the seed was {int(result['seed'])}"

if __name__ == "__main__":
    from fedpriv.cli import run_script

    run_script(main, report)
'''
BENCH = '''"""Measures nothing."""

def main(*, quick=False):
    print("noise")
    return {"quick": quick}

def report(result):
    return f"quick was {result['quick']}"
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installation with two demos and one benchmark, in an empty working folder."""
    demos, benchmarks, here = (tmp_path / name for name in ("demos", "benchmarks", "here"))
    for folder in (demos, benchmarks, here):
        folder.mkdir()
    (demos / "seed.py").write_text(DEMO)
    (demos / "other.py").write_text('"""Another demo."""\n')
    (demos / "_shared.py").write_text("raise RuntimeError\n")
    (benchmarks / "nothing.py").write_text(BENCH)
    monkeypatch.setattr(scripts, "_PACKAGE", tmp_path / "fedpriv")
    monkeypatch.chdir(here)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run the command line; return exit code, standard output and standard error."""

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        return exit_.value.code or 0, *capsys.readouterr()

    return call


@pytest.mark.usefixtures("package")
class TestDemo:
    def test_prints_the_report_and_the_files(self, run):
        code, out, err = run("demo", "seed", "--out", "a/b", "--seed", 7)
        assert (code, err) == (0, "")
        assert "the seed was 7\n\nwritten:\n  a/b/seed.txt\n" in out
        assert Path("a/b/seed.txt").read_text() == "7"

    def test_json_is_one_object_and_nothing_else(self, run):
        code, out, err = run("demo", "seed", "--json")
        assert code == 0
        assert json.loads(out) == {
            "seed": 0,
            "error": None,
            "inputs": [[1.0, 0.0], [0.0, 1.0]],
            "files": ["out/seed.txt"],
        }
        assert "noise on the way" in err

    @pytest.mark.parametrize("arguments", [["demo"], ["demo", "--list"], ["demo", "seed", "--list"]])
    def test_list_shows_titles_without_running_anything(self, run, arguments):
        assert run(*arguments) == (0, "other         Another demo.\nseed     5 s  Counts the seed.\n", "")

    def test_list_as_json(self, run):
        demos = json.loads(run("demo", "--list", "--json")[1])["demos"]
        assert demos[1] == {"name": "seed", "title": "Counts the seed.", "takes": "5 s"}

    def test_an_unknown_name_lists_what_exists_and_suggests(self, run):
        code, out, err = run("demo", "sed")
        assert (code, out) == (2, "")
        assert err == "fedpriv: expected the name of a demo (other, seed), got 'sed'; did you mean 'seed'?\n"

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (["--seed", 13], 2, "fedpriv: expected a lucky seed, got 13; choose another\n"),
            (["--seed", 14], 130, "fedpriv: interrupted\n"),
            (["--seed", 15], 2, "fedpriv: cannot use 'x.png': permission denied\n"),
            (["--seed", "x"], 2, "is not a valid integer"),
            (["--sed", 1], 2, "No such option"),
        ],
    )
    def test_bad_input_is_one_sentence_and_no_traceback(self, run, arguments, code, words):
        got, out, err = run("demo", "seed", *arguments, "--json")
        assert (got, out) == (code, "")
        assert words in err
        assert "Traceback" not in err
        own = err.replace("noise on the way\n", "").strip()  # what the demo printed before it failed
        assert own.count("\n") == 0

    def test_an_output_folder_that_is_a_file_is_refused(self, run):
        Path("taken").touch()
        code, _, err = run("demo", "seed", "--out", "taken")
        assert (code, "'taken' is a file" in err) == (2, True)

    def test_faults_of_ours_keep_their_traceback(self):
        with pytest.raises(RuntimeError, match="a fault of ours"):
            main(["demo", "seed", "--seed", "16"])
        with pytest.raises(ValueError, match="lucky seed"):
            main(["--traceback", "demo", "seed", "--seed", "13"])

    def test_a_script_runs_by_itself_with_the_same_options(self, package):
        command = [sys.executable, package / "demos" / "seed.py", "--seed", "3", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=_environment())
        assert json.loads(done.stdout)["seed"] == 3

    def test_no_demos_at_all_is_said(self, run, package):
        for file in (package / "demos").iterdir():
            file.unlink()
        assert run("demo") == (
            2,
            "",
            "fedpriv: this installation has no demos; install fedpriv from a wheel or from a checkout\n",
        )

    def test_the_copy_inside_the_package_comes_first(self, run, package):
        inside = package / "fedpriv" / "_demos"
        inside.mkdir(parents=True)
        (inside / "only.py").write_text('"""From the wheel."""\n')
        assert run("demo")[1] == "only  From the wheel.\n"


@pytest.mark.usefixtures("package")
class TestBench:
    def test_one_and_all(self, run):
        assert json.loads(run("bench", "nothing", "--quick", "--json")[1]) == {"quick": True}
        assert json.loads(run("bench", "--json")[1]) == {"nothing": {"quick": False}}
        assert run("bench")[1] == "noise\nquick was False\n"
        assert run("bench", "--list")[1] == "nothing  Measures nothing.\n"

    def test_one_that_draws_says_where(self, run, package):
        draw = "\ndef draw(result, out):\n    return [out / 'nothing.png']\n"
        (package / "benchmarks" / "nothing.py").write_text(BENCH + draw)
        assert json.loads(run("bench", "nothing", "--json")[1])["files"] == ["out/nothing.png"]
        assert run("bench", "--out", "a")[1] == "noise\nquick was False\n\nwritten:\n  a/nothing.png\n"

    def test_an_unknown_name(self, run):
        assert "expected the name of a benchmark (nothing), got 'x'" in run("bench", "x")[2]


class TestAttack:
    @pytest.fixture
    def truth(self):
        generator = torch.Generator().manual_seed(0)
        return torch.rand(1, 6, generator=generator)

    @pytest.fixture
    def observation(self, truth):
        model = nn.Linear(6, 3)
        nn.functional.cross_entropy(model(truth), torch.tensor([2])).backward()
        tensors = {name: parameter.grad for name, parameter in model.named_parameters()}
        knowledge = Knowledge(num_samples=1, input_shape=(6,))
        return Observation(
            model,
            Update(kind="gradient", tensors=tensors, sender="bob"),
            nn.functional.cross_entropy,
            knowledge,
        )

    @pytest.mark.parametrize("kind", ["observation", "transcript"])
    def test_reconstructs_what_a_file_holds(self, run, tmp_path, observation, truth, kind):
        file, out = tmp_path / "saved.safetensors", tmp_path / "out"
        if kind == "observation":
            observation.save(file)
            stem, options = "saved-reconstruction", []
        else:
            exchange = Exchange(sent=observation.state, update=observation.update)
            parts = {name: getattr(observation, name) for name in ("model", "loss_fn", "knowledge")}
            Transcript([exchange], **parts).save(file)
            stem, options = "saved-bob-reconstruction", ["--client", "bob"]
        code, printed, err = run("attack", file, "--out", out, "--json", *options)
        assert (code, err) == (0, "")
        result = json.loads(printed)
        np.testing.assert_allclose(result["inputs"], truth.numpy(), atol=1e-5)
        assert result["targets"] == [2]
        assert result["files"] == [str(out / f"{stem}.json"), str(out / f"{stem}.npz")]
        assert json.loads((out / f"{stem}.json").read_text()) == result
        with np.load(out / f"{stem}.npz", allow_pickle=False) as arrays:
            np.testing.assert_allclose(arrays["inputs"], truth.numpy(), atol=1e-5)
            assert {"inputs", "targets", "certified"} == set(arrays.files)

    def test_prints_for_a_reader(self, run, tmp_path, observation):
        observation.save(tmp_path / "a.safetensors")
        code, out, _ = run("attack", tmp_path / "a.safetensors", "--out", tmp_path / "out")
        assert code == 0
        for word in ("1 sample", "residual", "certified", "written:", "a-reconstruction.npz"):
            assert word in out

    def test_a_refusal_is_one_sentence(self, run, tmp_path, observation):
        observation.save(tmp_path / "a.safetensors")
        code, out, err = run(
            "attack", tmp_path / "a.safetensors", "--client", "eve", "--out", tmp_path / "out"
        )
        assert (code, out) == (2, "")
        assert "expected --client bob, or none" in err
        assert "got 'eve'" in err
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "content", [b"", b"hello", b"\x08\0\0\0\0\0\0\0{}      ", os.urandom(100)], ids=range(4)
    )
    def test_a_file_of_something_else_is_one_sentence(self, run, tmp_path, content):
        file = tmp_path / "x.safetensors"
        file.write_bytes(content)
        code, out, err = run("attack", file)
        assert (code, out) == (2, "")
        assert err.startswith(f"fedpriv: {file}")
        assert err.count("\n") == 1

    def test_a_missing_argument_is_shown_by_example(self, run):
        code, _, err = run("attack")
        assert code == 2
        assert (
            err
            == "fedpriv: Missing argument 'FILE'; for example: fedpriv attack run.safetensors --client bob\n"
        )

    def test_a_missing_file(self, run):
        code, _, err = run("attack", "nowhere.safetensors")
        assert (code, "'nowhere.safetensors' does not exist" in err) == (2, True)


@pytest.mark.parametrize("command", [[], ["demo"], ["bench"], ["attack"]])
def test_help_teaches_by_example(run, command):
    code, out, _ = run(*command, "--help")
    assert code == 0
    examples = [line for line in out.splitlines() if line.startswith("    fedpriv ")]
    assert len(examples) >= 2  # each on a line of its own
    assert all(line.split()[1] in (command or ["demo", "audit", "COMMAND"]) for line in examples)


@pytest.mark.parametrize(
    ("command", "beginning", "expected"),
    [
        (["demo"], "tut", "tutorial"),
        (["bench"], "exac", "exact"),
        (["exercise", "check"], "one", "one_image"),
    ],
)
def test_the_shell_completes_names(command, beginning, expected):
    completer = click.shell_completion.ShellComplete(app, {}, "fedpriv", "_FEDPRIV_COMPLETE")
    found = [item.value for item in completer.get_completions(command, beginning)]
    assert found == [expected]


def test_alone_it_shows_its_help(run):
    code, out, _ = run()
    assert (code, "Start here:" in out) == (0, True)


def test_python_dash_m_and_interrupt(tmp_path):
    """Ctrl-C in the middle of a run: exit 130 and a short sentence."""
    folder = tmp_path / "demos"
    folder.mkdir()
    body = 'print("now", flush=True)\n    time.sleep(60)'
    script = f'"""Waits."""\nimport time\n\ndef main(out, *, seed=0):\n    {body}\n\nreport = str\n'
    (folder / "wait.py").write_text(script)
    code = (
        "import pathlib, runpy, signal, sys; from fedpriv.cli import scripts; "
        # Ctrl-C is ignored by whatever a shell started in the background.
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"scripts._PACKAGE = pathlib.Path({str(tmp_path / 'fedpriv')!r}); "
        f"sys.argv = ['fedpriv', 'demo', 'wait', '--out', {str(tmp_path)!r}]; "
        "runpy.run_module('fedpriv', run_name='__main__')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
    )
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip() == "fedpriv: interrupted"


def test_what_json_cannot_hold_is_a_fault_of_the_demo():
    with pytest.raises(TypeError, match="got a object"):
        output.to_jsonable({"a": object()})


def test_numpy_and_tensor_scalars_become_numbers():
    values = {
        "a": np.float64("nan"),
        "b": np.int64(3),
        "c": torch.tensor(-torch.inf),
        "d": np.bool_(True),
        "e": {1},
    }
    assert output.to_jsonable(values) == {"a": None, "b": 3, "c": None, "d": True, "e": [1]}


def _environment():
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
