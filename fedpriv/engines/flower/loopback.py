"""A real Flower deployment on this machine: a SuperLink and SuperNodes as processes, on loopback alone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedpriv.engines.flower._require import QUIET

HOST = "127.0.0.1"
# Else Flower installs the app's dependencies from the network, although they are here.
_HERE = {"FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1"}
_STARTUP = 60.0
_PATIENCE = 3.0


class Loopback:
    """One SuperLink and some SuperNodes on this machine; use it in a ``with`` block.

    Parameters
    ----------
    num_clients : int, default 2
        SuperNodes; each is told its ``partition-id`` and ``num-partitions``.
    port : int, optional
        The SuperLink's port; by default a free one.
    folder : path, optional
        For logs and Flower's own files; by default a temporary one.
    pythonpath : sequence of path
        Where the apps' processes look for modules, besides this interpreter's own.

    Raises
    ------
    ValueError
        If the port is taken.
    RuntimeError
        If a process does not start; the message ends with its log.

    Notes
    -----
    No encryption and no authentication: everything stays on this machine. docs/flower.md has both.
    """

    def __init__(
        self,
        *,
        num_clients: int = 2,
        port: int | None = None,
        folder: str | Path | None = None,
        pythonpath: Sequence[str | Path] = (),
    ) -> None:
        if isinstance(num_clients, bool) or not isinstance(num_clients, int) or num_clients < 0:
            raise ValueError(f"num_clients must be a whole number of 0 or more, got {num_clients!r}")
        self.num_clients = num_clients
        self.port = free_ports(1)[0] if port is None else port
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="fedpriv-flower-")
        self.folder = Path(folder or self._temporary.name if self._temporary else str(folder))
        self._pythonpath = [str(path) for path in pythonpath]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Loopback:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def run(
        self,
        app: str | Path,
        *,
        run_config: Mapping[str, bool | float | int | str] | None = None,
        timeout: float = 300.0,
    ) -> str:
        """``flwr run APP`` on this deployment; the log when the run is over.

        Raises
        ------
        RuntimeError
            If the run fails or is not over after `timeout` seconds; the message ends with the log.
        """
        self._home().mkdir(parents=True, exist_ok=True)
        (self._home() / "config.toml").write_text(
            f'[superlink]\ndefault = "loopback"\n\n[superlink.loopback]\naddress = "{HOST}:{self.port}"\n'
            "insecure = true\n",
            encoding="utf-8",
        )
        settings = " ".join(f"{key}={_toml(value)}" for key, value in (run_config or {}).items())
        command = [_program("flwr"), "run", str(app), "loopback", "--stream"]
        log = self.folder / "run.log"
        process = self._spawn("run", [*command, *(["--run-config", settings] if settings else [])])
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        self._end("run")
        text = log.read_text(encoding="utf-8", errors="replace")
        if code != 0 or "exited unexpectedly" in text or "Traceback" in text:
            what = f"was not over after {timeout} s" if code is None else f"failed (exit code {code})"
            raise RuntimeError(f"the Flower run {what}:\n{text[-3000:]}")
        return text

    def close(self) -> None:
        """End every process that was started here."""
        self._end(*reversed(list(self.processes)))
        if self._temporary is not None:
            self._temporary.cleanup()

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not port_is_free(self.port):
            raise ValueError(
                f"expected a free port, but {HOST}:{self.port} is in use by another program; choose another, "
                "or leave port out"
            )
        address = f"{HOST}:{self.port}"
        superlink = [_program("flower-superlink"), "--insecure", "--host", HOST, "--port", str(self.port)]
        self._spawn("superlink", superlink)
        self._wait_for("superlink", self.port)
        for k, port in enumerate(free_ports(self.num_clients)):
            node = [_program("flower-supernode"), "--insecure", "--superlink", address, "--host", HOST]
            config = f"partition-id={k} num-partitions={self.num_clients}"
            self._spawn(f"supernode-{k}", [*node, "--port", str(port), "--node-config", config])

    def _spawn(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([*self._pythonpath, *filter(None, [os.environ.get("PYTHONPATH")])])
        programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        environment = {
            **os.environ,
            **QUIET,
            **_HERE,
            "FLWR_HOME": str(self._home()),
            "PYTHONPATH": path,
            "PATH": programs,
        }
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # so that its children can be ended with it
            )
        self.processes[name] = process
        return process

    def _wait_for(self, name: str, port: int) -> None:
        deadline = time.monotonic() + _STARTUP
        while time.monotonic() < deadline and self.processes[name].poll() is None:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=1),
            ):
                return
            time.sleep(0.1)
        log = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(f"the {name} did not start within {_STARTUP:.0f} s:\n{log[-2000:]}")

    def _end(self, *names: str) -> None:
        ending = [self.processes.pop(name) for name in names if name in self.processes]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in ending:
                with contextlib.suppress(ProcessLookupError):  # the group of a process of ours, by its id
                    os.killpg(process.pid, number)
            deadline = time.monotonic() + _PATIENCE
            for process in ending:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))

    def _home(self) -> Path:
        return self.folder / "home"


def free_ports(count: int) -> list[int]:
    """Different ports that are free now on loopback.

    Examples
    --------
    >>> len(set(free_ports(3)))
    3
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]


def port_is_free(port: int) -> bool:
    """Whether nobody listens at `port` on loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _program(name: str) -> str:
    """One of Flower's programs, of the interpreter that runs this."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


def _toml(value: bool | float | int | str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
