"""An audit: whether a model, trained on these data behind these defenses, gives the data away.

A few rounds of federated training are played with samples of the data, the server's view is attacked with all
that this package has, and only then is the result compared with the truth.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import nn

import attacks
from fedpriv import FederatedTrainer
from fedpriv.defenses import Krum, Pipeline
from fedpriv.defenses.pipeline import AnyDefense
from fedpriv.lab.metrics import PSNR_CAP
from fedpriv.lab.scoring import score
from fedpriv.privacy import Unit, account_run
from fedpriv.progress import progress
from fedpriv.training import FedAvg, FedSGD
from fedpriv.training.state import Run
from fedpriv.wire import Transcript
from fedpriv.wire.observation import LossFn

THRESHOLD = 30.0
"""In dB: an error of 3 % of the range of the data."""
CLOSER = 6.0
"""By how many dB a leak must be closer than a guess that saw nothing: half the guess's error."""
DELTA = 1e-5
Clients: TypeAlias = dict[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How the clients train.

    Parameters
    ----------
    batch_size : int
        Samples of each client.
    people : int, default 1
        Clients in the round. Without an aggregator the server sees each alone, and the first is attacked.
    rounds : int, default 3
        Rounds on the same data: the worst case, for they add up.
    lr : float, default 0.1
    local_steps : int, default 1
        With one step clients send gradients, with more the parameters after them.
    """

    batch_size: int
    people: int = 1
    rounds: int = 3
    lr: float = 0.1
    local_steps: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)  # tensors have no single truth value
class Trial:
    """One attack, graded.

    Parameters
    ----------
    setting : Setting
    defended : bool
    truth : Tensor of shape (n, *shape)
    found : Tensor of shape (m, *shape) or None
        What the attack claims; None if it refused.
    psnr, guess_psnr : tuple of float
        In dB for each true sample, ``-inf`` where nothing was found; and for a guess that saw nothing.
    certified : int
        Samples that the server can prove.
    method, citation, refusal : str
        The attack that was best by its own account, or why all refused.
    epsilon : float
        Of all rounds at delta 1e-5, add/remove; infinite without an accounted noise.
    unit : str
        Whom it protects: ``"client"`` as a whole, or a single ``"sample"`` (DP-SGD); empty if nobody.
    """

    setting: Setting
    defended: bool
    truth: torch.Tensor
    found: torch.Tensor | None
    psnr: tuple[float, ...]
    guess_psnr: tuple[float, ...]
    certified: int
    method: str
    citation: str
    refusal: str
    epsilon: float
    unit: str

    def leaked(self, threshold: float = THRESHOLD) -> int:
        """True samples that came back with `threshold` dB and by `CLOSER` dB better than a guess."""
        pairs = zip(self.psnr, self.guess_psnr, strict=True)
        return sum(found >= min(max(threshold, guess + CLOSER), PSNR_CAP) for found, guess in pairs)


def audit(
    model: nn.Module,
    loss_fn: LossFn,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    *,
    settings: Sequence[Setting],
    defenses: Sequence[AnyDefense] = (),
    trials: int = 3,
    time_budget: float = 20.0,
    generator: torch.Generator,
) -> list[Trial]:
    """Attack every setting, first without and then with the defenses.

    The server knows the model, the loss, the defenses, the shape of a sample and how many samples there are.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    loss_fn : callable
    inputs : Tensor of shape (N, *shape)
    targets : Tensor of shape (N, ...)
    settings : sequence of Setting
    defenses : sequence
        As `FederatedTrainer` takes them; empty for a look at the undefended training alone.
    trials : int, default 3
        Random batches for each setting.
    time_budget : float, default 20.0
        Seconds for each attack.
    generator : torch.Generator
        Chooses batches, noise and the starts of searches.

    Returns
    -------
    list of Trial

    Raises
    ------
    ValueError
        If there are fewer samples than a setting needs, or the training cannot be run.

    Examples
    --------
    >>> import fedpriv
    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.rand(20, 6, generator=g), torch.arange(20) % 3
    >>> model = fedpriv.models.mlp([6, 16, 3], generator=g)
    >>> (trial,) = audit(
    ...     model, nn.functional.cross_entropy, x, y, settings=[Setting(batch_size=1)], trials=1, generator=g
    ... )
    >>> trial.leaked(), trial.certified, trial.epsilon
    (1, 1, inf)
    """
    for setting in settings:
        _check(setting, inputs, targets)
    auditor = _Auditor(model, loss_fn, inputs, targets, time_budget, generator)
    chains: list[Sequence[AnyDefense]] = [(), defenses] if defenses else [()]
    for setting in settings:
        auditor.check(setting, defenses)
    cases = [(chain, setting) for chain in chains for setting in settings for _ in range(trials)]
    return [auditor.trial(setting, chain) for chain, setting in progress(cases, description="attacks")]


@dataclass(frozen=True)
class _Auditor:
    """Plays, attacks, and only then grades."""

    model: nn.Module
    loss_fn: LossFn
    inputs: torch.Tensor
    targets: torch.Tensor
    time_budget: float
    generator: torch.Generator

    def trial(self, setting: Setting, defenses: Sequence[AnyDefense]) -> Trial:
        clients = self.clients(setting)
        run = self.trainer(setting, defenses, clients, self.generator).run(setting.rounds)
        aggregator = Pipeline.of(defenses).aggregator
        sender = next(iter(clients)) if aggregator is None else "aggregator"
        seen = [clients[sender]] if aggregator is None else list(clients.values())
        truth = torch.cat([inputs for inputs, _ in seen])
        told = setting.batch_size if isinstance(aggregator, Krum) else len(truth)  # it passes one client on
        claim, refusal = self.attacked(run.transcript, sender, told)
        grades = None if claim is None else score(claim.inputs, truth)
        epsilon, unit = _accounted(run, defenses)
        guess = score(torch.full_like(truth, float(truth.double().mean())), truth)
        return Trial(
            setting=setting,
            defended=bool(defenses),
            truth=truth,
            found=None if claim is None else claim.inputs,
            psnr=(-math.inf,) * len(truth) if grades is None else tuple(grades.psnr.tolist()),
            guess_psnr=tuple(guess.psnr.tolist()),
            certified=0 if claim is None else int(claim.certified.sum()),
            method="" if claim is None else claim.method,
            citation="" if claim is None else claim.citation,
            refusal=refusal,
            epsilon=epsilon,
            unit=unit,
        )

    def trainer(
        self, setting: Setting, defenses: Sequence[AnyDefense], clients: Clients, generator: torch.Generator
    ) -> FederatedTrainer:
        return FederatedTrainer(
            self.model,
            self.loss_fn,
            clients,
            lr=setting.lr,
            local_steps=setting.local_steps,
            schedule=FedSGD() if setting.local_steps == 1 else FedAvg(),
            defenses=defenses,
            generator=generator,
        )

    def check(self, setting: Setting, defenses: Sequence[AnyDefense]) -> None:
        """Refuse what cannot be trained before anything takes time."""
        empty = {f"client {k}": (self.inputs[:1], self.targets[:1]) for k in range(setting.people)}
        self.trainer(setting, defenses, empty, torch.Generator())

    def clients(self, setting: Setting) -> Clients:
        """Everybody's own samples, none twice."""
        count = setting.people * setting.batch_size
        chosen = torch.randperm(len(self.inputs), generator=self.generator)[:count].split(setting.batch_size)
        return {f"client {k}": (self.inputs[rows], self.targets[rows]) for k, rows in enumerate(chosen)}

    def attacked(
        self, transcript: Transcript, sender: str, num_samples: int
    ) -> tuple[attacks.Reconstruction | None, str]:
        """What the attack makes of the transcript and the number of samples, or why it refuses."""
        model, loss_fn = transcript.model, transcript.loss_fn
        knowledge = replace(transcript.knowledge, num_samples=num_samples)
        told = Transcript(transcript, model=model, loss_fn=loss_fn, knowledge=knowledge)
        budget, generator = self.time_budget, self.generator
        try:
            return attacks.reconstruct(told, client=sender, time_budget=budget, generator=generator), ""
        except attacks.NotIdentifiable as refusal:
            return None, str(refusal)


def _accounted(run: Run, defenses: Sequence[AnyDefense]) -> tuple[float, str]:
    """Epsilon and its unit: for a client as a whole where possible, else for one sample."""
    for unit in (Unit.CLIENT, Unit.SAMPLE) if defenses else ():
        with contextlib.suppress(ValueError):  # nothing in the chain is accounted for this unit
            return account_run(run, defenses, delta=DELTA, unit=unit).epsilon, unit.value
    return math.inf, ""


def _check(setting: Setting, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    needed = setting.people * setting.batch_size
    if len(inputs) != len(targets):
        raise ValueError(f"expected one target for each of {len(inputs)} samples, got {len(targets)} targets")
    if needed > len(inputs):
        raise ValueError(
            f"{setting.people} clients with {setting.batch_size} samples each need {needed} samples, "
            f"got {len(inputs)}; give more data or smaller batches"
        )
