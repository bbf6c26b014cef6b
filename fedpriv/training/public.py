"""What the server knows about a training because it wrote the protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedpriv.defenses import Pipeline
from fedpriv.defenses.variational import model_knowledge
from fedpriv.training.clients import WEIGHTINGS, Client
from fedpriv.training.local import LocalTraining
from fedpriv.wire import Knowledge
from fedpriv.wire.update import Kind


def public_knowledge(
    training: LocalTraining,
    pipeline: Pipeline,
    clients: Sequence[Client],
    *,
    kind: Kind,
    weighting: str,
    clients_per_round: int,
) -> Knowledge:
    """See `FederatedTrainer.knowledge`; `kind` is what a client returns."""
    weights = WEIGHTINGS[weighting](clients[:clients_per_round])
    returned = kind == "parameters"
    step_scale = training.lr * math.sqrt(training.local_steps) if returned else 1.0
    in_model = model_knowledge(training.model)
    shapes = {tuple(client.inputs.shape[1:]) for client in clients}
    return Knowledge(
        input_shape=shapes.pop() if len(shapes) == 1 else None,
        learning_rate=training.lr,
        local_steps=training.local_steps,
        batch_size=training.batch_size,
        noise_std=pipeline.noise_std(weights, step_scale=step_scale),
        weighting=weighting if pipeline.aggregator is not None else None,
        mechanisms=(*in_model, *pipeline.knowledge(weights, step_scale=step_scale)),
    )
