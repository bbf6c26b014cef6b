"""A whole batch out of the parameters that came back after several local steps of federated averaging.

Our own method, built on consistency and peeling. The setting is that of federated averaging (McMahan, Moore,
Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from Decentralized Data",
AISTATS 2017): a client takes E steps of gradient descent on all of its data and returns the parameters.
Dimitrov, Balunović, Konstantinov, Vechev, "Data Leakage in Federated Averaging", TMLR 2022, optimize images
until a simulated training matches; here equations are solved, and the simulation only corrects them.

1. The span of the inputs and their hyperplane are exact for any E (`change`).
2. The activations of the model that was sent lie in the row space of the second layer's change, which has at
   most n E dimensions, so each sample solves equations of its own (`whitened`, `candidates`).
3. Replayed training tells the drift; without it the space has n dimensions (`correct`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import Attack, Claim, NotIdentifiable, Observations
from attacks.exact.count import told_count
from attacks.exact.first_layer import MIXTURE, two_samples_fit
from attacks.exact.local_steps.candidates import best_apart, clearly_better, hunt
from attacks.exact.local_steps.change import Change, change_of, first_layer
from attacks.exact.local_steps.correct import NEARLY, Guess, correct
from attacks.exact.local_steps.targets import sharpened
from attacks.exact.local_steps.whitened import Whitened, efforts, whitened
from attacks.labels import recover_targets
from fedpriv.wire import Observation

_NEAR, _TWIN = 0.1, 1e-2  # distances, relative to the norm, of points that count as one sample
_TRUSTED = 0.1  # relative residual; above, corrections by replay do more harm than good


@dataclass(frozen=True, kw_only=True)
class LocalStepsInversion(Attack):
    """Recover a client's whole batch from its parameters after several local full-batch steps.

    Parameters
    ----------
    starts : int, default 64
        Starting points of each round of the search.
    patience : int, default 8
        Rounds of the search that bring no better batch before it ends.
    corrections : int, default 30
        Replays of the local training that may refine a batch; with 0 nothing is refined.

    Examples
    --------
    >>> import fedpriv
    >>> draw = torch.Generator().manual_seed(0)
    >>> model = fedpriv.models.mlp([12, 48, 32, 3], activation=torch.nn.GELU, generator=draw).double()
    >>> x, y = torch.rand(4, 12, generator=draw).double(), torch.tensor([2, 0, 1, 0])
    >>> loss = torch.nn.functional.cross_entropy
    >>> trainer = fedpriv.FederatedTrainer(
    ...     model, loss, {"bob": (x, y)}, lr=0.1, local_steps=5, schedule=fedpriv.FedAvg()
    ... )
    >>> found = LocalStepsInversion()(trainer.run(rounds=1).transcript.observations("bob"))
    >>> bool(torch.cdist(found.inputs, x).amin(0).max() < 1e-9), sorted(found.targets.tolist())
    (True, [0, 0, 1, 2])
    """

    starts: int = 64
    patience: int = 8
    corrections: int = 30
    name: ClassVar[str] = "local-steps inversion"
    citation: ClassVar[str] = "fedpriv's own method, for federated averaging (McMahan et al., AISTATS 2017)"

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, least in (("starts", 1), ("patience", 1), ("corrections", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(self, name)}")

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`; one visit that can be solved is enough."""
        reasons = [_why_not(observation) for observation in observations]
        return None if None in reasons else reasons[0]

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; of several visits the first that can be solved is taken."""
        for observation in observations:
            reason = _why_not(observation)
            if reason is None:
                break
        else:
            raise NotIdentifiable(str(reason))
        single = _single_sample(observation)
        if single is not None:
            return single
        change = change_of(observation)
        if isinstance(change, str):
            raise NotIdentifiable(change)
        return self._batch(observation, change, generator, deadline)

    def _batch(
        self, observation: Observation, change: Change, generator: torch.Generator, deadline: float
    ) -> Claim:
        n = change.num_samples
        space = whitened(change.second, change.second_bias, change.noise)
        points = tried = torch.zeros(0, n, dtype=torch.float64)
        best: Guess | None = None
        idle, turn = 0, 0
        while idle < self.patience and (turn == 0 or time.perf_counter() < deadline):
            count = self.starts * 2 ** min(idle, 2)
            new = hunt(change, space, points, turn=turn, count=count, generator=generator)
            before, points = points, _best(change, space, torch.cat([points, new]), all_count=idle >= 2)
            turn, settled = turn + 1, _same(points, before)
            idle = idle + 1 if settled else 0
            if len(points) < n or _same(points, tried):
                continue
            guess = correct(
                observation,
                change,
                points,
                most=self.corrections,
                generator=generator,
                deadline=deadline,
            )
            tried = points
            if guess is not None and (best is None or guess.residual < best.residual):
                best = guess
            if best is not None and (best.residual < NEARLY or not self.corrections):
                break
        return _claim(observation, change, points, best)


def _best(change: Change, space: Whitened, pool: Tensor, *, all_count: bool) -> Tensor:
    """The points of the pool (k, n) that are easiest to explain, at most n.

    Unless `all_count`, only those that are easy and far apart: where the rest is clearly harder, samples are
    missing, and where the equations are not sharp, one sample has several minima near it.
    """
    sizes, n = efforts(change, space, pool), change.num_samples
    chosen = best_apart(pool, sizes, most=2 * n, radius=_TWIN if all_count else _NEAR)
    return pool[chosen if all_count else chosen[: clearly_better(sizes[chosen])]][:n]


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two batches are the same up to order and a hundredth."""
    if len(a) != len(b):
        return False
    return bool((torch.cdist(a, b).amin(1) < _TWIN * a.norm(dim=1)).all())


def _why_not(observation: Observation) -> str | None:
    if all(torch.equal(t, observation.state[n]) for n, t in observation.update.tensors.items()):
        return "the update is zero up to rounding: nothing of the data crossed the wire"
    seen = first_layer(observation)
    if isinstance(seen, str):
        return seen
    if seen[0].rank == 1:
        return None
    change = change_of(observation)
    return change if isinstance(change, str) else None


def _single_sample(observation: Observation) -> Claim | None:
    """The only sample, if there is one: the only point of the hyperplane, exactly, whatever the steps."""
    seen = first_layer(observation)
    if isinstance(seen, str) or seen[0].rank != 1:
        return None
    span, shape = seen
    assert span.plane is not None  # `first_layer` has looked
    inputs = (span.rows / span.plane[:, None]).reshape(1, *shape)
    targets, notes = recover_targets(observation, inputs)
    if targets is not None:
        targets = sharpened(observation, inputs, targets)
    alone = told_count((observation,)) == 1 or not two_samples_fit(observation, inputs, targets)
    return Claim(inputs=inputs, targets=targets, notes=notes, assumed=None if alone else MIXTURE)


def _claim(observation: Observation, change: Change, points: Tensor, best: Guess | None) -> Claim:
    """What was found, with a sentence where the batch is not whole or its replay does not fit."""
    n = change.num_samples
    if best is None:
        if not len(points):
            raise NotIdentifiable(f"none of {n} samples was found")
        why = "and no targets fit to them" if len(points) == n else "so their training cannot be replayed"
        note = f"{len(points)} of {n} different samples were found, {why}"
        return Claim(inputs=change.inputs(points), notes=(note,))
    notes: tuple[str, ...] = ()
    if not best.exact:
        known = observation.knowledge
        notes = (
            f"replaying {known.local_steps} local steps at learning rate {known.learning_rate:g} leaves "
            f"{best.residual:.1e} of the update unexplained: a declared setting may be wrong, or the steps "
            f"were too large to be undone",
        )
    rows = best.rows()
    coordinates = best.coordinates if best.exact or best.residual < _TRUSTED else points
    return Claim(inputs=change.inputs(coordinates)[rows], targets=best.targets[rows], notes=notes)
