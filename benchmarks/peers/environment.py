"""The environment of the peers: made on demand, in the user's cache, and used through processes only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import fedpriv

from .exchange import PeerResult, PeerTask

VARIABLE = "FEDPRIV_PEERS"
# Exactly what was tested. breaching 0.1.2 stops at the import with omegaconf 2.4.
PINS = (
    "torch==2.13.0",
    "hydra-core==1.3.2",
    "omegaconf==2.3.1",
    "numpy",
    "scipy",
    "safetensors",
    "cryptography",
)
# By itself: it asks for torchvision and lpips, which its attacks do not use (see breaching_attack.py).
ALONE = ("breaching==0.1.2",)
_MARKER = "fedpriv-peers.json"
_START = (
    "import runpy, sys; sys.path += sys.argv.pop(1).split({!r}); runpy.run_module({!r}, run_name='__main__')"
)


class PeerError(RuntimeError):
    """A peer cannot be measured; the message says why, in one sentence."""


def home() -> Path:
    """The folder of the environment, one for each Python, in ``$FEDPRIV_PEERS`` or in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fedpriv" / "peers"
    chosen = Path(os.environ.get(VARIABLE) or cache).expanduser()
    return chosen / "breaching-python{}.{}".format(*sys.version_info[:2])


def is_prepared() -> bool:
    """Whether the environment is whole: the marker is written last and names what was installed."""
    try:
        marker = json.loads((home() / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(marker == _wanted() and _python().is_file())


def prepare() -> Path:
    """Make the environment if it is not there yet; a second call, or one after an interruption, goes on.

    pip is called with whatever configuration the user has.

    Returns
    -------
    Path
        Its Python.

    Raises
    ------
    PeerError
        If it cannot be made, for example without a network.
    """
    if is_prepared():
        return _python()
    print(
        f"making the environment of the peers, once, in {home()} (elsewhere: set {VARIABLE})", file=sys.stderr
    )
    pip = [str(_python()), "-m", "pip", "install"]
    steps: dict[str, Sequence[str]] = {
        "virtual environment": [sys.executable, "-m", "venv", str(home())],
        ", ".join(PINS): [*pip, *PINS],
        ", ".join(ALONE): [*pip, "--no-deps", *ALONE],
    }
    try:
        for number, (what, command) in enumerate(steps.items(), 1):
            print(f"  {number} of {len(steps)}: {what}", file=sys.stderr)
            _install(command, what)
        (home() / _MARKER).write_text(json.dumps(_wanted()), encoding="utf-8")
    except OSError as error:
        raise PeerError(f"its environment cannot be written: {error}") from error
    return _python()


def run_peer(
    task: PeerTask, *, attack: str, overrides: Mapping[str, object] | None = None, time_limit: float = 3600.0
) -> PeerResult:
    """Run an attack of breaching on `task`, in its own process, on one thread of the CPU.

    Parameters
    ----------
    task : PeerTask
    attack : str
        What breaching calls its configuration: ``"analytic"``, ``"invertinggradients"``, ``"deepleakage"``.
    overrides : mapping of str to object, optional
        Settings to change there, such as ``{"optim.max_iterations": 1000}``.
    time_limit : float, default 3600.0
        Wall seconds, starting and importing included.

    Raises
    ------
    PeerError
        If the environment cannot be made, or the attack fails or does not end in time.
    """
    python = prepare()
    changes = [f"{name}={value}" for name, value in (overrides or {}).items()]
    # Appended: of this installation only fedpriv and this folder are used, everything else is the peer's own.
    folders = os.pathsep.join(str(Path(file).resolve().parents[1]) for file in (__file__, fedpriv.__file__))
    start = _START.format(os.pathsep, f"{Path(__file__).parent.name}.breaching_attack")
    with tempfile.TemporaryDirectory() as folder:
        task.save(Path(folder))
        command = [str(python), "-I", "-c", start, folders, folder, attack, json.dumps(changes)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=time_limit,
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            )
        except subprocess.TimeoutExpired:
            raise PeerError(f"not finished within {time_limit:g} s") from None
        if done.returncode != 0:
            raise PeerError(f"{attack} failed: {_last_line(done.stderr)}")
        try:
            return PeerResult.load(Path(folder))
        except ValueError as error:
            raise PeerError(str(error)) from error


def _install(command: Sequence[str], what: str) -> None:
    # Somebody who waits at a terminal sees pip's own progress; standard output belongs to results.
    shown = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL
    done = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = _last_line("\n".join(errors) or done.stderr).removeprefix("ERROR: ")
        raise PeerError(f"its environment could not be made ({what}): {reason}; it needs a network once")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no message"


def _wanted() -> dict[str, object]:
    return {"pins": [*PINS, *ALONE]}


def _python() -> Path:
    return home() / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
