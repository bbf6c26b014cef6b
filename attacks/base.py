"""What every attack shares: the template, the result, and a grader that the attack cannot influence."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch

from attacks.certificate import Verdict, judge
from attacks.threads import one_thread
from fedpriv.wire import Observation

Observations = tuple[Observation, ...]


class NotIdentifiable(ValueError):
    """The observation does not determine the data; the message says what it does determine, and why no more.

    Parameters
    ----------
    message : str
        One sentence or a few.
    determined : mapping, optional
        What *is* determined, as named tensors: for example the moments of the data.
    """

    def __init__(self, message: str, determined: dict[str, torch.Tensor] | None = None) -> None:
        super().__init__(message)
        self.determined: dict[str, torch.Tensor] = determined or {}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What an attack says it found, before anybody checked.

    Parameters
    ----------
    inputs : Tensor of shape (n, *input_shape)
    targets : Tensor of shape (n, ...) or None
    notes : tuple of str
        Assumptions that were made, for the reader.
    assumed : str or None
        An assumption that no replay can confirm (for example the number of samples). It forbids a
        certificate.
    """

    inputs: torch.Tensor
    targets: torch.Tensor | None = None
    notes: tuple[str, ...] = ()
    assumed: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """The outcome of an attack, graded by the base class.

    Parameters
    ----------
    inputs : Tensor of shape (n, *input_shape)
        Every sample that the attack claims.
    targets : Tensor of shape (n, ...) or None
        Their targets or class labels.
    method, citation : str
        The attack and its paper.
    residual : float
        Relative distance between the replayed and the observed update (0 is perfect; NaN: not replayable).
    certified : bool Tensor of shape (n,)
        Proof that the adversary herself can compute: the replay agrees to rounding *and* the Jacobian there
        has full column rank, so that no nearby data explain the update as well.
    notes : tuple of str
        Assumptions and the reason where a certificate was withheld.
    seconds : float
        Wall time of attack and grading.
    """

    inputs: torch.Tensor
    targets: torch.Tensor | None
    method: str
    citation: str
    residual: float
    certified: torch.Tensor
    notes: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    @property
    def num_samples(self) -> int:
        """How many samples were claimed."""
        return len(self.inputs)

    def __str__(self) -> str:
        samples = f"{self.num_samples} sample{'s' * (self.num_samples != 1)}"
        lines = [
            f"{samples} of shape {tuple(self.inputs.shape[1:])} by {self.method} in {self.seconds:.3f} s",
            f"residual {self.residual:.1e}, certified {int(self.certified.sum())} of {self.num_samples}",
            *self.notes,
        ]
        return "\n".join(lines)


class Attack(ABC):
    """Base class: hyperparameters in the constructor, evidence in the call.

    A subclass gives `name`, `citation`, `why_not` and `run`. Calling the attack checks applicability, runs
    it, replays what it claims, and issues residual and certificate.
    """

    name: ClassVar[str]
    citation: ClassVar[str]
    searches: ClassVar[bool] = False
    """Whether it drives the residual down step by step, so that it cannot better an answer without any."""

    @final
    @one_thread()
    def __call__(
        self,
        observations: Observation | Sequence[Observation],
        *,
        generator: torch.Generator | None = None,
        time_budget: float = 60.0,
    ) -> Reconstruction:
        """Attack one observation, or several of the same sender.

        Parameters
        ----------
        observations : Observation or sequence of Observation
            The evidence, in order.
        generator : torch.Generator, optional
            Source of all random choices; seed 0 if not given.
        time_budget : float, default 60.0
            Seconds after which the best result so far is returned.

        Returns
        -------
        Reconstruction

        Raises
        ------
        NotIdentifiable
            If the attack does not apply, with the reason.
        """
        start = time.perf_counter()
        evidence = as_evidence(observations)
        check_time_budget(time_budget)
        reason = self.why_not(evidence)
        if reason is not None:
            raise NotIdentifiable(f"{self.name} does not apply: {reason}")
        generator = generator or torch.Generator().manual_seed(0)
        claim = self.run(evidence, generator=generator, deadline=start + time_budget)

        def rerun(other: Observations) -> tuple[torch.Tensor, torch.Tensor | None]:
            again = self.run(other, generator=generator, deadline=start + time_budget)
            return again.inputs, again.targets

        # A second run is the dearest part of a proof: without a hope of one it is left out.
        verdict = judge(evidence, claim.inputs, claim.targets, None if claim.assumed else rerun)
        if claim.assumed and (bool(verdict.certified.any()) or not verdict.reason):
            nothing = torch.zeros_like(verdict.certified)
            verdict = Verdict(verdict.residual, nothing, f"no certificate: {claim.assumed}")
        return Reconstruction(
            inputs=claim.inputs,
            targets=claim.targets,
            method=self.name,
            citation=self.citation,
            residual=verdict.residual,
            certified=verdict.certified,
            notes=(*claim.notes, *([verdict.reason] if verdict.reason else [])),
            seconds=time.perf_counter() - start,
        )

    @abstractmethod
    def why_not(self, observations: Observations) -> str | None:
        """The reason why this attack cannot work here, or None if it can be tried. Must be cheap."""

    @abstractmethod
    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """Produce a claim; `deadline` is in terms of ``time.perf_counter()``."""


def check_time_budget(seconds: float) -> None:
    """Raise a ``ValueError`` unless `seconds` is positive."""
    if not seconds > 0:
        raise ValueError(f"time_budget must be a positive number of seconds, got {seconds}")


def as_evidence(observations: Observation | Sequence[Observation]) -> Observations:
    """One observation or several of one sender, as a tuple; ``ValueError`` if they do not belong together."""
    if isinstance(observations, Observation):
        return (observations,)
    evidence = tuple(observations) if isinstance(observations, Iterable) else ()
    if not evidence or not all(isinstance(o, Observation) for o in evidence):
        raise ValueError(
            f"expected an Observation or a non-empty sequence of them, got {type(observations).__name__}; "
            f"build one with fedpriv.Observation(model, gradient, loss_fn)"
        )
    senders = {o.update.sender for o in evidence}
    if len(senders) > 1:
        raise ValueError(f"the observations come from {sorted(senders)}; attack one sender at a time")
    return evidence
