"""The front door: give it what the server saw, and it chooses the attack."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from attacks.adaptive import comparable, explains, for_mechanisms, see_through, unexplained
from attacks.base import (
    Attack,
    NotIdentifiable,
    Observations,
    Reconstruction,
    as_evidence,
    check_time_budget,
)
from attacks.exact.first_layer import FirstLayerInversion
from attacks.identify import ATTACKS
from attacks.refusals import Refusal, why
from fedpriv.wire import Observation, Transcript
from fedpriv.wire.mechanisms import Sparsified


def reconstruct(
    evidence: Observation | Sequence[Observation] | Transcript,
    client: str | None = None,
    time_budget: float = 60.0,
    generator: torch.Generator | None = None,
) -> Reconstruction:
    """Recover training data from an observation or from all that a transcript holds of one client.

    Every attack that applies is tried, cheapest first, until one returns a certificate; without one, the
    reconstruction with the smallest residual is returned. If no replay comes near the update, most likely
    because the model does not have the weights that were sent, the first layer's division is returned where
    it applies: it alone needs no weights.

    Where ``Knowledge.mechanisms`` declares defenses, the attacks that know them (`attacks.adaptive`) come
    first. The others get their try if none of these has a certificate or explains what arrived, as far as the
    declared noise lets anybody tell. Then a certificate counts first, and after it how little is left
    unexplained *through the defense* (`attacks.adaptive.unexplained`): behind a defense the plain residual
    says little, since wrong data may explain a changed update better than the true ones. Samples behind
    mixtures and single clients behind sums cannot be compared in this way; there an informed answer stands.
    For pruned updates residual and certificate are about the numbers that arrived; behind all other defenses
    the residual compares with an update without defense, and the notes say what is left where the comparison
    is fair.

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
        If the evidence does not determine the data; a ``ValueError`` whose message begins with the reason
        that says most. `attacks.identifiability` lists the others.
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
    trial = _Trial(generator=generator, deadline=start + time_budget)
    found = trial.run(for_mechanisms(observations), observations, _what_arrived)
    if _settled(observations, found):
        return min(found, key=_grade)
    informed = len(found)
    found += trial.run([attack() for attack in ATTACKS], observations)
    if not found:
        reasons = why(trial.refusals, trial.late, time_budget)
        raise NotIdentifiable(f"the data cannot be recovered; {reasons}", trial.determined)
    if not informed:
        return _weightless(found) or min(found, key=_grade)
    return min(
        found, key=lambda r: _grade(replace(r, residual=unexplained(observations, r.inputs, r.targets)))
    )


def _grade(found: Reconstruction) -> tuple[bool, bool, float]:
    """The smaller the better: by certificate first, then by residual."""
    return not bool(found.certified.all()), found.residual != found.residual, found.residual


def _weightless(found: Sequence[Reconstruction]) -> Reconstruction | None:
    """What the first layer's division gave, if every replay is far off; else None."""
    if any(bool(r.certified.any()) or r.residual <= _FAR_OFF for r in found):
        return None
    divided = next((r for r in found if r.method == FirstLayerInversion.name), None)
    return divided and replace(divided, notes=(_NEEDS_NO_WEIGHTS, *divided.notes))


_FAR_OFF = 0.1
"""Residual that no replay of a single sample has if model, weights and loss are right: there it is 1e-5."""
_NEEDS_NO_WEIGHTS = (
    "no replay comes near the update, so the inputs are those that need no weights of the model: the first "
    "layer's weight gradient divided by its bias gradient"
)


def _settled(observations: Observations, found: Sequence[Reconstruction]) -> bool:
    """Whether no plain attack can better what the informed ones found, or nobody could tell."""
    return any(
        bool(r.certified.all())
        or not comparable(observations, r.inputs)
        or explains(observations, r.inputs, r.targets)
        for r in found
    )


_NOTHING_LEFT = 1e-5
"""Residual below which a search has nothing to gain: what lacks a certificate then is not determined."""


@dataclass(kw_only=True)
class _Trial:
    """The attacks tried so far under one time budget, and why they refused."""

    generator: torch.Generator
    deadline: float
    refusals: list[Refusal] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    determined: dict[str, torch.Tensor] = field(default_factory=dict)

    def run(
        self,
        tried: Sequence[Attack],
        observations: Observations,
        view: Callable[[Observations], Observations] = lambda seen: seen,
    ) -> list[Reconstruction]:
        """What the attacks find in ``view(observations)``, up to the first with all certificates."""
        found: list[Reconstruction] = []
        for attack in tried:
            if attack.searches and any(r.residual <= _NOTHING_LEFT for r in found):
                continue
            remaining = self.deadline - time.perf_counter()
            if remaining <= 0:
                self.late.append(attack.name)
                continue
            try:
                seen = view(observations)
                result = attack(seen, generator=self.generator, time_budget=remaining)
            except NotIdentifiable as refusal:
                self.refusals.append(Refusal.of(attack, refusal))
                self.determined.update(refusal.determined)
                continue
            if seen is not observations:
                result = replace(result, notes=(*result.notes, _ARRIVED))
            found.append(result)
            if bool(result.certified.all()):
                break
        return found


_ARRIVED = "residual and certificate are about the numbers that arrived"


def _what_arrived(observations: Observations) -> Observations:
    """Pruned gradients without their zeros: replays are compared on what arrived. All else as it is."""
    known, kind = observations[0].knowledge, observations[0].update.kind
    one_gradient = kind == "gradient" or known.one_step
    return see_through(observations) if one_gradient and known.applied(Sparsified) else observations


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
