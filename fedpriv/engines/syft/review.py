"""What an owner does with a job that a stranger sends: read it, and approve or refuse it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedpriv.engines.base import Request
from fedpriv.engines.text import request_from_text, request_to_text
from fedpriv.wire import Knowledge
from fedpriv.wire.records import header_of

if TYPE_CHECKING:
    from fedpriv.training.owners import Owners

DATASET = "data"
"""Name of every owner's data set."""
REPLY = "reply.json"
"""Name of the file that an answered job leaves."""
_HEAD = f"""#!/bin/bash
# A job of fedpriv: one operation of the allow-list on the data set "{DATASET}".
# Below stand the program (architecture and loss, as JSON) and the request (operation, settings, model).
exec "${{FEDPRIV_PYTHON:-python3}}" -m fedpriv.engines.syft.job code/outputs/{REPLY} <<'FEDPRIV_REQUEST'
"""
_TAIL = "\nFEDPRIV_REQUEST\n"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an owner decided about a job; the owner's own log, part of which the server is told.

    Parameters
    ----------
    client : str
        Whose decision it is.
    job : str
        Name of the job.
    approved : bool
        Whether it may run.
    reason : str
        Why, in one sentence.
    """

    client: str
    job: str
    approved: bool
    reason: str


class Review(ABC):
    """An owner's policy. A subclass writes `judge`."""

    @abstractmethod
    def judge(self, script: str, owners: Owners) -> Request | None:
        """Read the script of a job before anything runs.

        Returns
        -------
        Request or None
            What the job asks for; None for an approved script that is no request of fedpriv.

        Raises
        ------
        ValueError
            If the job is refused; the sentence is the reason that the server is told.
        """


@dataclass(frozen=True)
class OnlyRequests(Review):
    """Approves the one script that fedpriv writes, if its request is allowed, and nothing else.

    No line of the script is the server's own: only data (a model, an operation, settings) can differ, so
    there is no code to be understood. A gradient that was approved leaks all the same.
    """

    def judge(self, script: str, owners: Owners) -> Request:
        """The request in `script`, checked as `Owners.check` does."""
        program, request = read_script(script)
        if program != program_of(owners):
            raise ValueError(
                "the job's architecture or loss is not the one that was agreed; nothing else runs"
            )
        owners.check(request)
        return request


@dataclass(frozen=True)
class ApproveAnything(Review):
    """The tired owner who approves what comes. For lessons: an approved job can copy the private file out."""

    def judge(self, script: str, owners: Owners) -> Request | None:  # noqa: ARG002 (it does not look)
        """Whatever it is."""
        try:
            return read_script(script)[1]
        except ValueError:
            return None


def program_of(owners: Owners) -> dict[str, Any]:
    """Architecture and loss that the owners agreed to, as JSON."""
    program = header_of("program", owners.training.model, owners.training.loss_fn, Knowledge())
    return dict(json.loads(json.dumps(program)))  # tuples become lists, as on the other side


def write_script(program: dict[str, Any], request: Request) -> str:
    """The script of the job that asks for `request`."""
    return f'{_HEAD}{{"program": {json.dumps(program)}, "request": {request_to_text(request)}}}{_TAIL}'


def read_script(script: str) -> tuple[dict[str, Any], Request]:
    """Program and request of a script; a ``ValueError`` unless every line of code is the known one."""
    body = script[len(_HEAD) : -len(_TAIL)]
    if script != f"{_HEAD}{body}{_TAIL}" or "\n" in body or "\r" in body:
        raise ValueError(
            "the script is not the one that fedpriv writes for a request of the allow-list; code of the "
            "server's own is not run on private data"
        )
    return read_body(body)


def read_body(body: str) -> tuple[dict[str, Any], Request]:
    """Program and request of the line between the code."""
    try:
        values = json.loads(body)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"a job must hold one line of JSON ({error!s:.100})") from error
    if not isinstance(values, dict) or set(values) != {"program", "request"}:
        raise ValueError("a job must hold a program and a request, got something else")
    if not isinstance(values["program"], dict):
        raise ValueError("the program of a job must be an object, got something else")
    return values["program"], request_from_text(json.dumps(values["request"]))
