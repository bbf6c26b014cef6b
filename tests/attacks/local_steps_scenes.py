"""What the tests of several local steps share: a client, the attack before it is graded, and the verdict."""

from __future__ import annotations

import time

import torch.nn.functional as F

import fedpriv
from attacks.exact.local_steps import LocalStepsInversion
from tests.attacks.consistency_scenes import model_for
from tests.attacks.scenes import seeded


def returned(x, y, *, steps, lr, loss_fn=F.cross_entropy, model=None, batch_size=None, **settings):
    """What the server sees of a client who took so many local steps."""
    trainer = fedpriv.FederatedTrainer(
        model or model_for(x, **settings),
        loss_fn,
        {"bob": (x, y)},
        lr=lr,
        local_steps=steps,
        batch_size=batch_size,
        schedule=fedpriv.FedAvg(),
        generator=seeded(0),
    )
    return trainer.run(rounds=1).transcript.observations("bob")[0]


def claim_of(observation, *, corrections=30, seconds=30.0):
    """What the attack claims, before it is graded."""
    attack = LocalStepsInversion(corrections=corrections)
    return attack.run((observation,), generator=seeded(), deadline=time.perf_counter() + seconds)
