"""The front door: give it what the server saw, and it chooses the attack."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from attacks.base import NotIdentifiable, Reconstruction, as_evidence, check_time_budget
from attacks.identify import ATTACKS
from fedpriv.wire import Observation, Transcript


def reconstruct(
    evidence: Observation | Sequence[Observation] | Transcript,
    client: str | None = None,
    time_budget: float = 60.0,
    generator: torch.Generator | None = None,
) -> Reconstruction:
    """Recover training data from an observation or from all that a transcript holds of one client.

    Every attack that applies is tried, cheapest first, until one returns a certificate; without one, the
    reconstruction with the smallest residual is returned.

    Parameters
    ----------
    evidence : Observation, sequence of Observation, or Transcript
        What the server saw.
    client : str, optional
        Whose data to recover. May be left out if there is one sender only.
    time_budget : float, default 60.0
        Seconds.
    generator : torch.Generator, optional
        Source of all random choices; seed 0 if not given.

    Returns
    -------
    Reconstruction
        Samples, residual, and a certificate for each that is provably right.

    Raises
    ------
    NotIdentifiable
        If the evidence does not determine the data; a ``ValueError`` whose message says why.
    ValueError
        If the client is unknown or the evidence is of the wrong kind.

    Examples
    --------
    >>> import fedpriv
    >>> model, loss = torch.nn.Linear(3, 2), torch.nn.functional.cross_entropy
    >>> value = loss(model(torch.tensor([[1.0, 2.0, 3.0]])), torch.tensor([1]))
    >>> rec = reconstruct(fedpriv.Observation(model, torch.autograd.grad(value, model.parameters()), loss))
    >>> [round(v, 4) for v in rec.inputs[0].tolist()], rec.targets.tolist(), rec.certified.tolist()
    ([1.0, 2.0, 3.0], [1], [True])
    """
    start = time.perf_counter()
    check_time_budget(time_budget)
    observations = as_evidence(_of_client(evidence, client) if isinstance(evidence, Transcript) else evidence)
    sender = observations[0].update.sender
    if client not in (None, sender):
        raise ValueError(f"client must be {sender!r}, who sent this evidence, or left out, got {client!r}")
    generator = generator or torch.Generator().manual_seed(0)
    found: list[Reconstruction] = []
    refusals: list[str] = []
    determined: dict[str, torch.Tensor] = {}
    for attack in ATTACKS:
        remaining = time_budget - (time.perf_counter() - start)
        if remaining <= 0:
            refusals.append(f"{attack.name}: no time left of {time_budget} s")
            continue
        try:
            result = attack()(observations, generator=generator, time_budget=remaining)
        except NotIdentifiable as refusal:
            refusals.append(str(refusal))
            determined.update(refusal.determined)
            continue
        if bool(result.certified.all()):
            return result
        found.append(result)
    if not found:
        raise NotIdentifiable("the data cannot be recovered; " + "; ".join(refusals), determined)
    return min(found, key=lambda r: (r.residual != r.residual, r.residual))


def _of_client(transcript: Transcript, client: str | None) -> list[Observation]:
    """The observations of one client, or a refusal that says to whom the updates can be attributed."""
    if client is None:
        if len(transcript.senders) != 1:
            raise ValueError(
                f"the transcript holds updates from {list(transcript.senders)}; "
                f"say whose data to recover with client=..."
            )
        client = transcript.senders[0]
    observations = transcript.observations(client)
    if not observations:
        pooled = sorted({e.update.sender for e in transcript if client in e.update.contributors})
        raise NotIdentifiable(
            f"nothing that {client!r} alone computed reached the server: it only received the average over "
            f"{list(transcript.clients)} from {pooled}; attack client={pooled[0]!r} to see what the pooled "
            f"update reveals, though no longer of whom"
        )
    return observations
