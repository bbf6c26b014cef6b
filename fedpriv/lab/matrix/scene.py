"""The protocol that every row is measured in: five clients with digits, and one round of it under attack.

The attacked round is the first one, and every attacked batch holds one image (four for mixtures, which need
partners): the most exposed client. Training goes on with batches of eight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch.nn.functional import cross_entropy

import fedpriv
from fedpriv.defenses import Report
from fedpriv.defenses.pipeline import AnyDefense
from fedpriv.lab.matrix.entries import NONE, Entry
from fedpriv.lab.matrix.victims import Victim

BOB = "bob"
CLIENTS = (BOB, *(f"client {k}" for k in range(2, 6)))
BATCH = 8
"""Images in a step of the training whose accuracy is measured."""
TEST_IMAGES = 500
OTHERS = 9
"""Images that the identification game offers beside the true one."""
_ATTACKED_RATE = 0.1


@dataclass(frozen=True)
class World:
    """The data of one seed: what clients own, what accuracy is measured on, what identification offers.

    Parameters
    ----------
    images, labels : Tensor
        (n, 1, 8, 8) and (n,), the clients' data.
    test_images, test_labels : Tensor
        Nobody's.
    others : Tensor (9, 1, 8, 8)
        Nobody's either.
    """

    images: torch.Tensor
    labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    others: torch.Tensor

    def batches(self, size: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """For each client its first `size` images and labels."""
        share = {c: slice(k, None, len(CLIENTS)) for k, c in enumerate(CLIENTS)}
        return {c: (self.images[s][:size], self.labels[s][:size]) for c, s in share.items()}


@cache
def world(seed: int) -> World:
    """Shuffle the digits and deal them out."""
    images, labels = fedpriv.data.digits()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    test, other, own = order.tensor_split([TEST_IMAGES, TEST_IMAGES + OTHERS])
    return World(images[own], labels[own], images[test], labels[test], images[other])


@dataclass(frozen=True)
class Scene:
    """One attacked round: the evidence, and beside it the truth that only the lab holds.

    Parameters
    ----------
    seen : tuple of Observation
        What the server saw; with what an adaptive attack needs as a second one.
    images, labels : Tensor
        The truth: of Bob, or of everybody where the server sees one update of all.
    reports : tuple of Report
        What the defenses did in that round.
    """

    seen: tuple[fedpriv.Observation, ...]
    images: torch.Tensor
    labels: torch.Tensor
    reports: tuple[Report, ...]


def attacked_round(entry: Entry, victim: Victim, seed: int) -> Scene:
    """The first round of training with `entry`; model, data and random draws follow from `seed`."""
    batches = world(seed).batches(entry.batch)
    clients = batches if entry.pooled else {BOB: batches[BOB]}
    run = _run(entry, victim, clients, seed)
    seen = run.transcript.observations("aggregator" if entry.pooled else BOB)
    if entry.adaptive_needs:
        without = {name: data for name, data in clients.items() if name != BOB}
        seen = [*seen, *_run(entry, victim, without, seed).transcript.observations("aggregator")]
    return Scene(
        seen=tuple(_told_number(o, entry.batch) for o in seen),
        images=torch.cat([inputs for inputs, _ in clients.values()]),
        labels=torch.cat([targets for _, targets in clients.values()]),
        reports=tuple(run.reports),
    )


def change(entry: Entry, victim: Victim, scene: Scene, seed: int) -> float | None:
    """``|sent - plain| / |plain|``: what of Bob's plain gradient arrived changed; 0 if nothing happened.

    None for defenses that are part of the model, which has no plain twin.
    """
    if entry.inside is not None:
        return None
    plain = attacked_round(replace(NONE, batch=entry.batch), victim, seed).seen[0].gradient()
    first = scene.seen[0]
    known = replace(first.knowledge, local_steps=1)
    sent = with_knowledge(first, known).gradient()
    distance = sum(float((sent[n].double() - g.double()).square().sum()) for n, g in plain.items())
    return float((distance / sum(float(g.double().square().sum()) for g in plain.values())) ** 0.5)


def accuracy(
    entry: Entry, victim: Victim, seed: int, *, rate: float, rounds: int, validate: bool = False
) -> float:
    """Share of right answers after training with `entry` in FedSGD, or FedAvg with local steps.

    Parameters
    ----------
    rate : float
        Learning rate.
    validate : bool, default False
        Measure on the training images instead: for choosing the rate.
    """
    data = world(seed)
    trainer = fedpriv.FederatedTrainer(
        victim.model(_generator(seed), entry.inside),
        cross_entropy,
        data.batches(len(data.images)),
        lr=rate,
        schedule=_schedule(entry),
        local_steps=entry.local_steps,
        batch_size=BATCH,
        defenses=_defenses(entry, victim, BATCH, training=True),
        generator=_generator(seed + 1),
    )
    try:
        model = trainer.run(rounds=rounds, record=False).model.eval()
    except ValueError:
        return 0.0  # diverged: the update is not finite any more
    images, labels = (data.images, data.labels) if validate else (data.test_images, data.test_labels)
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).double().mean())


def with_knowledge(observation: fedpriv.Observation, known: fedpriv.Knowledge) -> fedpriv.Observation:
    """The same evidence for an attacker who knows something else."""
    return fedpriv.Observation(
        observation.model, observation.update, observation.loss_fn, known, state=observation.state
    )


def _told_number(observation: fedpriv.Observation, batch: int) -> fedpriv.Observation:
    """The size of a batch is part of the protocol, so everybody knows how many images there are."""
    count = batch * len(observation.update.contributors)
    return with_knowledge(observation, replace(observation.knowledge, num_samples=count))


def _run(
    entry: Entry, victim: Victim, clients: dict[str, tuple[torch.Tensor, torch.Tensor]], seed: int
) -> fedpriv.Run:
    return fedpriv.FederatedTrainer(
        victim.model(_generator(seed), entry.inside),
        cross_entropy,
        clients,
        lr=_ATTACKED_RATE,
        schedule=_schedule(entry),
        local_steps=entry.local_steps,
        defenses=_defenses(entry, victim, entry.batch),
        generator=_generator(seed + 1),
    ).run(rounds=1)


def _defenses(entry: Entry, victim: Victim, batch: int, *, training: bool = False) -> Sequence[AnyDefense]:
    stand_in = entry.trained_as if training else None
    return (stand_in or entry.recipe)(victim, batch)


def _schedule(entry: Entry) -> fedpriv.FedSGD | fedpriv.FedAvg:
    return fedpriv.FedSGD() if entry.local_steps == 1 else fedpriv.FedAvg()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
