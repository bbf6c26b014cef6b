"""``fedpriv explore`` before there is a page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedpriv.cli.explore import explore as explore_command
from fedpriv.explorer import serve

ROOT = Path(__file__).parents[2]


def explore(code, *arguments):
    """Run the command in a fresh Python in which `code` was run before."""
    call = f"import sys; {code}; from fedpriv.cli import main; main(['explore', *sys.argv[1:]])"
    return subprocess.run(
        [sys.executable, "-c", call, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )


def test_without_marimo_one_sentence_names_the_install():
    done = explore("sys.modules['marimo'] = None", "--port", "0")
    assert done.returncode == 2
    assert done.stderr == "fedpriv: the explorer needs marimo: pip install 'fedpriv[app]'\n"


def test_the_page_is_bound_to_this_machine_alone():
    with serve.bind(0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


def test_a_port_that_is_taken_is_said_in_one_sentence():
    with (
        serve.bind(0) as taken,
        pytest.raises(ValueError, match=r"port \d+ of this machine cannot be used .*--port 0"),
    ):
        serve.bind(taken.getsockname()[1])


def test_the_help_names_the_options_and_bad_ports_are_refused():
    shown = CliRunner().invoke(explore_command, ["--help"])
    assert shown.exit_code == 0
    assert all(option in shown.output for option in ("--port", "--open", "--no-browser", "127.0.0.1"))
    assert "70000 is not in the range" in CliRunner().invoke(explore_command, ["--port", "70000"]).output
