"""The house: what importing costs, the public names, and that no guide drifts from what exists."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import attacks
import fedpriv

ROOT = Path(__file__).parents[1]
HEAVY = (
    "syft",
    "flwr",
    "ray",
    "marimo",
    "opacus",
    "sklearn",
    "skimage",
    "matplotlib",
    "scipy.optimize",
    "pandas",
    "dp_accounting",
)

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    tomllib = pytest.importorskip("tomli")


def in_fresh_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light_and_adds_little_to_what_torch_costs():
    code = (
        "import sys, time, torch; start = time.process_time(); import fedpriv; "
        f"print(time.process_time() - start, [name for name in {HEAVY} if name in sys.modules])"
    )
    seconds, modules = in_fresh_python(code).split(maxsplit=1)
    assert modules == "[]\n"
    assert float(seconds) < 1.0  # the whole may take 2.5 s; torch is most of that, and not ours


def test_the_test_of_lightness_can_fail():
    code = f"import sys, matplotlib; print([name for name in {HEAVY} if name in sys.modules])"
    assert "matplotlib" in in_fresh_python(code)


@pytest.mark.parametrize("package", [fedpriv, attacks], ids=lambda package: package.__name__)
def test_public_names_exist_and_are_listed_once(package):  # ruff sorts them
    assert len(package.__all__) == len(set(package.__all__))
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError):
        _ = package.no_such_name


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert fedpriv.__version__ == project["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog or f"## [{project['version']}]" in changelog


def test_every_dependency_has_an_exact_tested_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    pinned = re.findall(r"^([\w.-]+)==\S+$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    named = {re.split(r"[<>=!~ \[]", line)[0].lower() for line in wanted} - {"fedpriv"}  # extras of extras
    assert named <= {name.lower() for name in pinned}


def test_console_script_is_installed_as_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"fedpriv": "fedpriv.cli:main"}
    try:
        entry_points = importlib.metadata.distribution("fedpriv").entry_points
    except importlib.metadata.PackageNotFoundError:
        return  # tests run from a checkout that was never installed
    assert entry_points["fedpriv"].load() is importlib.import_module("fedpriv.cli").main


def make_targets():
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def console_commands(guide):
    blocks = re.findall(r"^```console\n(.*?)^```", (ROOT / guide).read_text(), flags=re.MULTILINE | re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_ci_runs_every_command_of_the_contributing_guide():
    commands = console_commands("CONTRIBUTING.md")
    assert len(commands) >= 3
    assert set(commands) <= set((ROOT / ".ci" / "run").read_text().splitlines())


@pytest.mark.parametrize("guide", ["CONTRIBUTING.md", "README.md"])
def test_every_make_target_that_a_guide_names_exists(guide):
    named = re.findall(r"(?:`|^\$ |^)make ([a-z][a-z-]*)", (ROOT / guide).read_text(), flags=re.MULTILINE)
    assert named
    assert set(named) <= make_targets()


def test_make_help_shows_every_target():
    done = subprocess.run(
        ["make", "--no-print-directory"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    shown = set(re.findall(r"^  make ([a-z-]+) ", done.stdout, flags=re.MULTILINE))
    assert shown == make_targets()


def test_typed_markers_ship():
    for package in (fedpriv, attacks):
        assert (Path(package.__file__).parent / "py.typed").is_file()
