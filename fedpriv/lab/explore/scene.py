"""One round or a few, as the page shows it before anybody attacks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

import fedpriv
from fedpriv.lab.explore.choice import Choice
from fedpriv.lab.explore.federation import (
    LEARNING_RATE,
    Samples,
    federation,
    loss_of,
    protections,
    victim,
)
from fedpriv.training import FedSGD
from fedpriv.wire import Observation

AGGREGATOR = "aggregator"


@dataclass(frozen=True, kw_only=True, eq=False)  # tensors have no single truth value
class Scene:
    """What happened: the truth, which only the page may show, and what crossed the wire.

    Parameters
    ----------
    choice : Choice
    people : mapping of str to (Tensor, Tensor)
        Everybody's inputs and targets.
    observations : list of Observation
        All that the server may use, one a visit.
    sender : str
        Who sent the updates: ``"bob"``, or the aggregator.
    noise_std : float
        Of the noise on each number that was sent.
    losses : tuple of (float, float)
        Mean loss on everybody's data before the first visit and after the last.
    """

    choice: Choice
    people: dict[str, Samples]
    observations: list[Observation]
    sender: str
    noise_std: float
    losses: tuple[float, float]

    @property
    def truth(self) -> Samples:
        """Everybody's inputs and targets in one batch."""
        inputs, targets = zip(*self.people.values(), strict=True)
        return torch.cat(inputs), torch.cat(targets)

    @property
    def numbers_sent(self) -> int:
        """Numbers in one update."""
        return sum(t.numel() for t in self.observations[0].update.tensors.values())

    @property
    def norm(self) -> float:
        """L2 norm of the last update, as it arrived."""
        tensors = self.observations[-1].update.tensors.values()
        return float(torch.stack([t.double().square().sum() for t in tensors]).sum().sqrt())


def observe(choice: Choice) -> Scene:
    """Let the people answer the server as often as chosen.

    With noise the server is told the number of samples, as FedAvg does; without, it finds out.

    Examples
    --------
    >>> scene = observe(Choice(batch_size=2, people=3))
    >>> scene.sender, len(scene.truth[0]), scene.observations[0].update.contributors
    ('aggregator', 6, ('bob', 'alice', 'carol'))
    """
    generator = torch.Generator().manual_seed(choice.seed)
    people = federation(choice)
    model, loss_fn = victim(choice, generator), loss_of(choice)
    trainer = fedpriv.FederatedTrainer(
        model,
        loss_fn,
        people,
        lr=LEARNING_RATE,
        schedule=FedSGD(),
        defenses=protections(choice),
        generator=generator,
    )
    run = trainer.run(rounds=choice.visits)
    sender = AGGREGATOR if choice.people > 1 else next(iter(people))
    observations = run.transcript.observations(sender)
    if choice.noise_multiplier:
        observations = [_told(o, choice.people * choice.batch_size) for o in observations]
    truth = [torch.cat(part) for part in zip(*people.values(), strict=True)]
    with torch.no_grad():
        losses = [float(loss_fn(m(truth[0]), truth[1])) for m in (model, run.model)]
    return Scene(
        choice=choice,
        people=people,
        observations=observations,
        sender=sender,
        noise_std=observations[-1].knowledge.noise_std,
        losses=(losses[0], losses[1]),
    )


def _told(observation: Observation, num_samples: int) -> Observation:
    """The same evidence for a server that knows the number of samples."""
    knowledge = replace(observation.knowledge, num_samples=num_samples)
    return Observation(
        observation.model, observation.update, observation.loss_fn, knowledge, state=observation.state
    )
