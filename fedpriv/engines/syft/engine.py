"""`SyftEngine`: every request is a job that the owner reads, approves or refuses, and answers as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from fedpriv.engines.base import Engine, Fault, Request, Visit
from fedpriv.engines.extras import require
from fedpriv.engines.syft.review import REPLY, OnlyRequests, Review, Verdict, program_of, write_script
from fedpriv.engines.text import most_characters, reply_from_text, reply_to_text

if TYPE_CHECKING:
    from fedpriv.engines.syft.peer import Outcome, Peer
    from fedpriv.training.owners import Owners

_NO_ANSWER = "no answer: "  # what stands in place of an answer, followed by the reason
PACKAGES = {"syft": "0.10.0", "syft-rds": "0.6.1"}


class SyftEngine(Engine):
    """Asks through PySyft's job queue, with a review by each owner before anything runs.

    Parameters
    ----------
    run_jobs : bool, default False
        False is *deposit* mode: the owner reads the approved request and computes the answer in its own
        process (about half a second a visit). True is *job* mode: PySyft runs the job as a subprocess on
        the private file (five seconds and more); the owner's defenses then act on its output, before it is
        shared.
    review : Review, optional
        The owners' policy; by default `OnlyRequests`.
    mock : mapping of str to (Tensor, Tensor), optional
        Client name to the stand-in data that everybody may see; by default one sample of zeros.
    jobs_per_connection : int, default 8
        After so many jobs a pair is connected anew.
    timeout : int, default 300
        Seconds until a job in *job* mode is stopped.

    Raises
    ------
    ImportError
        If PySyft is missing or of another version.

    Notes
    -----
    *What this is.* PySyft's real queue, permissions and job runner over its own mock of a shared drive: the
    workflow, in one process, not isolation. *What approval is worth.* `OnlyRequests` keeps the private file
    at home. The gradient that it approves leaks the data all the same; only a defense changes that.

    Attributes
    ----------
    log : list of Verdict
        Every decision of every owner, in order.
    """

    name: ClassVar[str] = "syft"

    def __init__(
        self,
        *,
        run_jobs: bool = False,
        review: Review | None = None,
        mock: Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None = None,
        jobs_per_connection: int = 8,
        timeout: int = 300,
    ) -> None:
        require("syft", PACKAGES)
        self.run_jobs = run_jobs
        self.review = OnlyRequests() if review is None else review
        self.log: list[Verdict] = []
        self._mock = dict(mock or {})
        self._jobs_per_connection = jobs_per_connection
        self._timeout = timeout
        self._peers: dict[str, Peer] = {}
        self._owners: Owners | None = None

    def prepare(self, owners: Owners) -> None:
        """Raise a ``ValueError`` if a job could not carry the model, or nothing could defend its result."""
        self.close()
        self._owners = owners
        for client in owners.clients.values():
            if torch.bfloat16 in (client.inputs.dtype, client.targets.dtype):
                raise ValueError(
                    f"the data of {client.name!r} are stored as NumPy arrays, without bfloat16; use float32"
                )
        if not self.run_jobs:
            return
        program = program_of(owners)
        if program["architecture"] is None or program["loss"] is None:
            raise ValueError(
                "a job carries model and loss as JSON, so the model must be made of plain layers in "
                "nn.Sequential and the loss one of fedpriv.losses.NAMED; use run_jobs=False for others"
            )
        inside = [*owners.pipeline.on_data, *filter(None, [owners.pipeline.on_step])]
        if inside:
            raise ValueError(
                f"a job computes by itself and only its result can be defended, got {inside}, which act "
                "inside the training; use run_jobs=False"
            )

    def ask(self, requests: Sequence[Request], owners: Owners) -> Iterator[Visit | Fault]:
        """Submit each request, let its owner review and answer it, and fetch the answer."""
        for request in requests:
            yield self._visit(request, owners)

    def submit(self, client: str, script: str) -> Outcome:
        """What a curious server can try: send any script to `client`, and see what comes of it.

        The owner reviews it like every job. A script that is approved runs as a subprocess, whatever it is.
        """
        if self._owners is None:
            raise ValueError("there is nobody to submit to; give the engine to a FederatedTrainer first")
        peer = self._peer(client, self._owners)
        name = peer.submit(script)
        job = peer.received(name)
        try:
            self.review.judge(job.run_script, self._owners)
        except ValueError as error:
            self._decide(peer, job, name, refused=str(error))
        else:
            self._decide(peer, job, name)
            peer.execute(job, timeout=self._timeout)
            peer.share(peer.received(name))
        return peer.outcome(name)

    def close(self) -> None:
        """Remove the connections and all files behind them."""
        for peer in self._peers.values():
            peer.close()
        self._peers = {}

    def _visit(self, request: Request, owners: Owners) -> Visit | Fault:
        try:
            return self._round_trip(request, owners)
        except ConnectionError:
            self._peer(request.client, owners).close()
        except ValueError as error:
            return _fault(request, str(error), error)
        try:  # once more, over a new connection
            return self._round_trip(request, owners)
        except ConnectionError as error:
            self._peer(request.client, owners).close()
            return _fault(request, f"could not be reached, also after connecting anew; {error}", error)
        except ValueError as error:
            return _fault(request, str(error), error)

    def _round_trip(self, request: Request, owners: Owners) -> Visit | Fault:
        peer = self._peer(request.client, owners)
        name = peer.submit(write_script(program_of(owners), request))
        visit = self._owners_side(peer, name, owners)
        seen = peer.outcome(name)
        if seen.status == "rejected":
            return _fault(request, f"refused the job: {seen.reason}")
        if seen.status not in ("done", "failed"):
            return _fault(request, f"gave no answer: its job is {seen.status}")
        if set(seen.files) != {REPLY}:
            raise ValueError(f"the answer must be one file {REPLY!r}, got {sorted(seen.files)[:5]}")
        text = seen.files[REPLY].decode("utf-8", errors="replace")
        if text.startswith(_NO_ANSWER):
            return _fault(request, text[len(_NO_ANSWER) :][:500])
        reply = reply_from_text(text, limit=most_characters(request.state))
        return Visit(reply=reply, loss=visit.loss, reports=visit.reports) if visit else Visit(reply=reply)

    def _owners_side(self, peer: Peer, name: str, owners: Owners) -> Visit | None:
        """Review, compute, defend, hand out. Only what is deposited or shared here reaches the server."""
        job = peer.received(name)
        try:
            request = self.review.judge(job.run_script, owners)
        except ValueError as error:
            self._decide(peer, job, name, refused=str(error))
            return None
        self._decide(peer, job, name)
        if request is None:  # approved by somebody who did not look
            peer.execute(job, timeout=self._timeout)
            peer.share(job)
            return None
        try:
            visit = self._computed(peer, name, request, owners) if self.run_jobs else owners.answer(request)
            text = self.answer_text(visit)
        except ValueError as error:
            visit, text = None, f"{_NO_ANSWER}{error}"
        if self.run_jobs:
            job = peer.received(name)  # its state has changed
            peer.replace_outputs(job, REPLY, text)
            peer.share(job)
        else:
            peer.deposit(job, REPLY, text)
        return visit

    def answer_text(self, visit: Visit) -> str:
        """What an owner writes into its answer; the place where a subclass can play a faulty client."""
        return reply_to_text(visit.reply)

    def _computed(self, peer: Peer, name: str, request: Request, owners: Owners) -> Visit:
        """Run the job, take its raw result, and apply the owner's defenses to it."""
        outputs = peer.execute(peer.received(name), timeout=self._timeout)
        raw = outputs / REPLY
        if not raw.is_file():
            # What a job prints can speak of the data: it goes into the owners' log and nowhere else.
            said = (outputs.parent / "stderr.txt").read_text(encoding="utf-8", errors="replace").strip()
            reason = f"ran and failed: {said.splitlines()[-1] if said else 'without a word'}"
            self.log.append(Verdict(client=request.client, job=name, approved=True, reason=reason[:500]))
            raise ValueError("the job ended without a result; the reason stays with its owner")
        reply = reply_from_text(raw.read_text(encoding="utf-8"), limit=most_characters(request.state))
        return owners.release(request, reply.tensors)

    def _decide(self, peer: Peer, job: object, name: str, *, refused: str = "") -> None:
        peer.decide(job, refused=refused)
        self.log.append(
            Verdict(client=peer.client.name, job=name, approved=not refused, reason=refused or "as agreed")
        )

    def _peer(self, client: str, owners: Owners) -> Peer:
        from fedpriv.engines.syft.peer import Peer

        if client not in owners.clients:
            raise ValueError(f"client must be one of {list(owners.clients)!s:.200}, got {client!r}")
        if client not in self._peers:
            owner = owners.clients[client]
            blank = (torch.zeros_like(owner.inputs[:1]), torch.zeros_like(owner.targets[:1]))
            self._peers[client] = Peer(
                owner, self._mock.get(client, blank), jobs_per_connection=self._jobs_per_connection
            )
        return self._peers[client]

    def __repr__(self) -> str:
        return f"SyftEngine(run_jobs={self.run_jobs}, review={self.review})"


def _fault(request: Request, reason: str, error: Exception | None = None) -> Fault:
    return Fault(client=request.client, reason=reason, round=request.round, error=error)
