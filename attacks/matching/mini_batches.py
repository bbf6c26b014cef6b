"""Local training on mini-batches as a function of candidate images, for a guess of who was in which batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from attacks.label_evidence import head, mean_prediction
from attacks.matching.problem import Problem
from attacks.replay import observed_vector, sums_over_samples
from attacks.rounding import stored_rounding
from fedpriv.wire import Knowledge, Observation

_DRAWN = 200  # random orders among which the likely ones are looked for


@dataclass(frozen=True, eq=False, kw_only=True)
class MiniBatches(Problem):
    """A problem whose update is the sum of the gradients of local steps, each on some rows of the candidate.

    Parameters
    ----------
    batches : tuple of int64 Tensor
        For every local step the rows of the candidate batch that it takes. A candidate has one row for each
        sample, or one for each sample and pass over the data.
    """

    batches: tuple[Tensor, ...]

    @classmethod
    def guessed(cls, problem: Problem, order: Tensor, *, own_images: bool) -> MiniBatches:
        """The problem for one guess of the client's order.

        Parameters
        ----------
        problem : Problem
            Of the same observation.
        order : int64 Tensor of shape (passes, n)
            Which sample stands where in each pass over the data; see `draw_order`.
        own_images : bool
            Whether every pass has images of its own: then row ``pass * n + i`` is sample i in that pass.

        Examples
        --------
        >>> import fedpriv
        >>> model, loss = torch.nn.Linear(3, 2), torch.nn.functional.cross_entropy
        >>> data = torch.eye(3), torch.tensor([0, 1, 1])
        >>> trainer = fedpriv.FederatedTrainer(
        ...     model, loss, {"bob": data}, lr=0.1, local_steps=4, batch_size=2, schedule="fedavg"
        ... )
        >>> seen = trainer.run(rounds=1).transcript.observations("bob")[0]
        >>> problem = Problem.of(seen, num_samples=3)
        >>> order = torch.tensor([[0, 1, 2], [2, 1, 0]])
        >>> [b.tolist() for b in MiniBatches.guessed(problem, order, own_images=True).batches]
        [[0, 1], [2], [5, 4], [3]]
        """
        n, known = problem.num_samples, problem.observation.knowledge
        if order.shape != (num_passes(known, n), n):
            expected = (num_passes(known, n), n)
            raise ValueError(
                f"order must have shape {expected}, passes and samples, got {tuple(order.shape)}"
            )
        steps = split(order + n * torch.arange(len(order))[:, None] * own_images, known)
        values = {f.name: getattr(problem, f.name) for f in fields(Problem)}
        values["num_samples"] = n * (len(order) if own_images else 1)
        return cls(**values, batches=tuple(batch.to(problem.device) for batch in steps))

    def gradients(self, inputs: Tensor, targets: Tensor) -> list[Tensor]:
        """The sum of the gradients of all local steps, had these been the client's samples.

        Parameters
        ----------
        inputs : Tensor of shape (rows, *input_shape)
        targets : Tensor of shape (rows, ...)

        Returns
        -------
        list of Tensor
            In the order of `names`; differentiable in `inputs`.
        """
        differentiable = torch.is_grad_enabled() and inputs.requires_grad
        rate = self.observation.knowledge.learning_rate or 1.0
        here = {n: self.state[n] for n in self.moving}
        steps: list[Sequence[Tensor]] = []
        with torch.enable_grad():
            for rows in self.batches:
                here = {n: t if t.requires_grad else t.detach().requires_grad_() for n, t in here.items()}
                step = torch.autograd.grad(
                    self.loss(here, inputs[rows], targets[rows]),
                    list(here.values()),
                    create_graph=differentiable,
                    allow_unused=True,
                    materialize_grads=True,
                )
                steps.append(step)
                here = {n: t - rate * g for (n, t), g in zip(here.items(), step, strict=True)}
        total = [torch.stack(parts).sum(0) for parts in zip(*steps, strict=True)]
        return [g for n, g in zip(self.moving, total, strict=True) if n in self.names]

    def stacked_gradients(self, inputs: Tensor, targets: Tensor) -> list[Tensor]:
        """`gradients` of K candidates, one after the other; each result has the leading dimension K."""
        each = [self.gradients(x, t) for x, t in zip(inputs, targets, strict=True)]
        return [torch.stack(parts) for parts in zip(*each, strict=True)]


def num_passes(knowledge: Knowledge, num_samples: int) -> int:
    """How often local training goes through the data, a last pass that is not finished included.

    Examples
    --------
    >>> num_passes(Knowledge(local_steps=7, batch_size=4), 10)
    3
    """
    size = min(knowledge.batch_size or num_samples, num_samples)
    return math.ceil(knowledge.local_steps / math.ceil(num_samples / size))


def draw_order(passes: int, num_samples: int, generator: torch.Generator) -> Tensor:
    """A random order of the samples in every pass, shape (passes, n)."""
    return torch.stack([torch.randperm(num_samples, generator=generator) for _ in range(passes)])


def split(order: Tensor, knowledge: Knowledge) -> list[Tensor]:
    """The batches of the local steps, out of an order (passes, n).

    Examples
    --------
    >>> split(torch.tensor([[0, 2, 1], [2, 1, 0]]), Knowledge(local_steps=3, batch_size=2))
    [tensor([0, 2]), tensor([1]), tensor([2, 1])]
    """
    size = knowledge.batch_size or order.shape[1]
    return [batch for one_pass in order for batch in one_pass.split(size)][: knowledge.local_steps]


def likely_orders(
    problem: Problem, labels: Tensor, generator: torch.Generator, *, count: int
) -> list[Tensor]:
    """Random orders under which the last bias would have moved as it did, most likely first.

    The last bias sums, over the steps, prediction minus mean label of the batch. Where all batches have one
    size the labels' part is the same for every order. In a smaller last batch a sample weighs more, and in a
    last pass that was not finished some weigh nothing; then orders differ, and the best ones are taken.

    Parameters
    ----------
    problem : Problem
    labels : int64 Tensor of shape (n,)
    generator : torch.Generator
    count : int
        How many orders.

    Returns
    -------
    list of Tensor, each of shape (passes, n)
    """
    n, observation = problem.num_samples, problem.observation
    passes = num_passes(observation.knowledge, n)
    orders = [draw_order(passes, n, generator) for _ in range(max(count, _DRAWN))]
    bias = head(observation).bias
    if bias is None:
        return orders[:count]
    steps = observation.knowledge.local_steps
    wanted = steps * (_mean_prediction_on_the_path(observation) - bias)
    one_hot = torch.nn.functional.one_hot(labels, len(bias)).double().to(bias.device)
    probe = torch.zeros(2, len(bias), dtype=torch.float64)
    total = sums_over_samples(observation.loss_fn, probe, torch.zeros(2, dtype=torch.int64))

    def unlikely(order: Tensor) -> float:
        parts = [
            one_hot[b].sum(0) if total else one_hot[b].mean(0) for b in split(order, observation.knowledge)
        ]
        return round(float((torch.stack(parts).sum(0) - wanted).norm()), 9)  # ties stay in their order

    return sorted(orders, key=unlikely)[:count]


def _mean_prediction_on_the_path(observation: Observation) -> Tensor:
    """What the model answers on average before and after local training, the two ends of the path."""
    returned = {**observation.state, **observation.update.tensors}
    after = Observation(
        observation.model, observation.update, observation.loss_fn, observation.knowledge, state=returned
    )
    return torch.stack([mean_prediction(o).prediction for o in (observation, after)]).mean(0)


def why_no_local_training(observation: Observation) -> str | None:
    """Why this is not one client's local training, or None; needs no model to run."""
    known, update = observation.knowledge, observation.update
    if update.kind != "parameters":
        return "the update is one gradient and holds no local training; attacks.InvertingGradients matches it"
    if known.learning_rate is None:
        return "returned parameters can be replayed only with the learning rate; set Knowledge.learning_rate"
    if known.one_step:
        return "the client took a single step on all of its data; attacks.InvertingGradients matches it"
    if update.is_aggregate:
        return (
            f"the returned parameters are the average of {len(update.contributors)} clients' local training, "
            f"and clients who train apart cannot be replayed together"
        )
    if float(observed_vector(observation).norm()) <= 4 * stored_rounding(observation):
        return "the update is zero up to rounding: nothing of the data crossed the wire"
    return None
