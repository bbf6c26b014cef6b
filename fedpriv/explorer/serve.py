"""Serve the page to this machine."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

HOST = "127.0.0.1"
PORT = 2718
_APP = Path(__file__).with_name("app.py")


def bind(port: int) -> socket.socket:
    """A socket on the loopback address that listens on `port`; 0 takes a free one.

    Raises
    ------
    ValueError
        If the port is taken.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":  # a port that was just left is free; elsewhere the option means something else
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise ValueError(
            f"port {port} of this machine cannot be used ({(error.strerror or str(error)).lower()}); choose "
            "another with --port, or --port 0 for any that is free"
        ) from None
    return listening


def serve(port: int, ready: Callable[[str], None]) -> None:
    """Serve until interrupted; `ready` is told the address, which holds a secret token.

    Raises
    ------
    ImportError
        If marimo is missing.
    ValueError
        If the port is taken.
    """
    os.environ["MARIMO_SKIP_UPDATE_CHECK"] = "1"  # nothing leaves the machine
    try:
        import marimo
        import uvicorn
    except ImportError:
        raise ImportError("the explorer needs marimo: pip install 'fedpriv[app]'") from None
    with bind(port) as listening:
        import torch

        import fedpriv.lab.explore  # noqa: F401 (now, so that the first page need not wait for it)

        torch.set_num_threads(1)  # the tensors are small, and attacks have a process of their own

        # Other people of this machine reach its loopback address, too, and so do pages of other sites in
        # the browser: only who knows the token gets in.
        token = secrets.token_urlsafe(16)
        pages = marimo.create_asgi_app(quiet=True, include_code=False, token=token, session_ttl=20)
        application = pages.with_app(path="/", root=str(_APP)).build()
        server = uvicorn.Server(uvicorn.Config(application, log_level="warning"))
        ready(f"http://{HOST}:{listening.getsockname()[1]}/?access_token={token}")
        server.run(sockets=[listening])
