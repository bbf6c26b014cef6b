"""Exact parts first, then the block below them alone: softened, then lifted to an exact finish.

What a gradient gives away in closed form is taken (`known`): labels, the features of the last layers, the
input of the last convolution. What remains is a block of layers whose output and whose backward signal are
known. Its input is sought with softened kinks (`smooth`), and, where the block ends in a convolution with
max pooling, strides or an activation, finished to rounding with the choices of the pooling as unknowns of
their own (`lifted`). Where nothing is exact, it is smoothed gradient matching of the whole network.

Cosine distance, total variation and signed Adam are those of J. Geiping, H. Bauermeister, H. Dröge, M.
Moeller, "Inverting Gradients - How easy is it to break privacy in federated learning?", NeurIPS 2020,
https://arxiv.org/abs/2003.14053; the rest is ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import Attack, Claim, Observations
from attacks.exact.layers.polish import polish
from attacks.exact.layers.pooled import pooled_convolution
from attacks.matching.blocks.answers import Answer, Begin, misfit_of, tolerance_of
from attacks.matching.blocks.applies import why_no_blocks
from attacks.matching.blocks.block import Block, Cut, block_below, cut_at, shapes_of
from attacks.matching.blocks.known import deepest_cut
from attacks.matching.blocks.lifted import finish, why_not_lifted
from attacks.matching.blocks.masks import PooledBatch
from attacks.matching.blocks.smooth import BlockEnergy, Weights, search_smoothed
from attacks.matching.blocks.top import Top
from attacks.matching.blocks.whole import match_whole
from fedpriv.wire import Observation


@dataclass(frozen=True, kw_only=True)
class BlockwiseInversion(Attack):
    """Recover images from convolutional networks: exact values first, then the block below them.

    Parameters
    ----------
    steps : int, default 300
        Of the smoothed search, for one start.
    rate : float, default 0.3
        Its step size; made for inputs of about unit variance.
    sharpen : tuple of float, default (1.0, 60.0)
        First and last sharpness of the softened layers, relative to the spread of what they see.
    weights : tuple of Weights
        Of the terms of the objective, one start for each: textured images want other weights than smooth
        ones. The next is tried where the one before did not end exactly.
    rough : tuple of Weights
        The same for the search that only has to show the masks of a batch behind a global average pool.
    rounds : int, default 40
        At most, of the alternation that follows a search.
    repeats : int, default 4
        Further searches, each from the best point so far, where no start ended exactly.
    watch : callable, optional
        ``watch(stage, inputs)`` is called after every step, with ``"masks"``, ``"search"`` or ``"finish"``
        and the batch at that moment. A certificate runs the attack twice, and both are shown.

    Examples
    --------
    >>> import fedpriv
    >>> from torch import nn
    >>> layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 4)]
    >>> model = fedpriv.models.initialize(nn.Sequential(*layers), torch.Generator().manual_seed(0))
    >>> x, loss = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8), nn.functional.cross_entropy
    >>> gradient = torch.autograd.grad(loss(model(x), torch.tensor([2])), model.parameters())
    >>> known = fedpriv.Knowledge(input_shape=(1, 8, 8))
    >>> found = BlockwiseInversion(steps=60, repeats=0)(fedpriv.Observation(model, gradient, loss, known))
    >>> found.inputs.shape, found.targets
    (torch.Size([1, 1, 8, 8]), tensor([2]))
    """

    steps: int = 300
    rate: float = 0.3
    sharpen: tuple[float, float] = (1.0, 60.0)
    weights: tuple[Weights, ...] = (
        Weights(),
        Weights(values=3.0, variation=0.05),
        Weights(values=3.0, variation=0.2),
    )
    rough: tuple[Weights, ...] = (
        Weights(values=1.0, rows=3.0, variation=0.15),
        Weights(values=3.0, rows=3.0, variation=0.05),
    )
    rounds: int = 40
    repeats: int = 4
    watch: Callable[[str, Tensor], None] | None = field(default=None, compare=False)
    name: ClassVar[str] = "blockwise inversion"
    searches: ClassVar[bool] = True
    citation: ClassVar[str] = (
        "fedpriv, exact cut, smoothed search and lifted pooling choices; after Geiping et al., Inverting "
        "Gradients, NeurIPS 2020"
    )

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`."""
        return why_no_blocks(observations[-1])

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; of several visits the last one is taken."""
        observation = observations[-1]
        left = max(deadline - time.perf_counter(), 0.1)
        cut, notes = deepest_cut(observation, generator=generator, time_budget=left / 3)
        if cut is None:
            found = match_whole(
                observation,
                variation=self.weights[-1].variation,
                steps=2 * self.steps,
                rate=self.rate,
                sharpen=self.sharpen,
                generator=generator,
                deadline=deadline,
            )
            return replace(found, notes=("nothing inside the network is exact: " + "; ".join(notes),))
        if cut.depth == 0:
            return Claim(inputs=cut.values, targets=cut.targets)
        begin = self._begin(observation, cut, deadline)
        answer = self._solved(observation, begin, deadline)
        inputs = answer.x
        if answer.exact:
            inputs = polish(observation, inputs, cut.targets, deadline=deadline)
        return Claim(inputs=inputs, targets=cut.targets, notes=(*begin.notes, answer.note))

    def _begin(self, observation: Observation, cut: Cut, deadline: float) -> Begin:
        """The block to solve and where to start; behind a pool, a first search shows the masks of a batch."""
        block = block_below(observation, cut)
        start = torch.zeros(len(cut.values), *block.input_shape, dtype=torch.float64)
        try:
            if pooled_convolution(observation)[0] >= cut.depth:
                return Begin(block, start)
        except ValueError:  # the model ends otherwise
            return Begin(block, start)
        try:
            pooled = PooledBatch.of(observation, cut.signals.flatten(1))
        except ValueError as reason:
            return Begin(block, start, notes=(str(reason),))
        for weights in self.rough:
            x, stopped = self._search(block, start, weights, deadline, rough=pooled)
            maps = pooled.decode(block.forward(x, pooled.depth))
            if maps is not None:
                deeper = cut_at(observation, pooled.depth, maps, cut.targets)
                return Begin(block_below(observation, deeper), x, stopped)
            if stopped or time.perf_counter() > deadline:
                break
        return Begin(block, x, stopped, (f"the masks of {pooled.layer} were not decoded",))

    def _solved(self, observation: Observation, begin: Begin, deadline: float) -> Answer:
        """Search with every weights; then the exact finish, and searching again from where it stops."""
        block, tolerance = begin.block, tolerance_of(observation)
        top = Top.of(block, shapes_of(observation), tolerance)
        reason = "the block does not end in a convolution" if top is None else why_not_lifted(top)
        # Without an exact finish what fits best can be noise: only the weights that smooth most are taken
        # then, and smoothness counts among the answers.
        order = self.weights if reason is None else self.weights[-1:]
        smoothness = 0.0 if reason is None else order[0].variation
        best: Answer | None = None
        for attempt in range(len(order) + self.repeats):
            again = best is not None and attempt >= len(order)
            x, weights = begin.x, order[attempt % len(order)]
            if best is not None and again:
                x, weights = best.x, best.weights
            stopped = begin.stopped
            if not stopped:
                x, stopped = self._search(block, x, weights, deadline, again=again)
            answers = [Answer(x, weights, misfit_of(block, x, smoothness), f"no exact finish: {reason}")]
            if top is not None and reason is None and not stopped:
                lifted = finish(
                    top,
                    x,
                    rounds=self.rounds,
                    enough=tolerance,
                    deadline=deadline,
                    watch=self._watch("finish"),
                )
                note = f"the weight gradient of {top.layer} is explained up to {lifted.error:.1e}"
                exact, stopped = lifted.error < max(30 * tolerance, 1e-6), lifted.interrupted
                misfit = 0.0 if exact else misfit_of(block, lifted.x)
                answers = [replace(answers[0], note=note), Answer(lifted.x, weights, misfit, note, exact)]
            best = min([*answers, *([best] if best else [])], key=lambda answer: answer.error)
            if best.exact or stopped or time.perf_counter() > deadline:
                break
        assert best is not None  # there is at least one start
        return replace(best, note=f"{best.note}; interrupted") if stopped else best

    def _search(
        self,
        block: Block,
        x: Tensor,
        weights: Weights,
        deadline: float,
        *,
        rough: PooledBatch | None = None,
        again: bool = False,
    ) -> tuple[Tensor, bool]:
        """The smoothed search, and whether Ctrl-C ended it.

        `rough`: shorter and softer, with the row space of the last convolution; `again`: shorter, with
        smaller steps and less softened.
        """
        energy = BlockEnergy(block=block.to(torch.float32), weights=weights, pooled=rough)
        first, last = self.sharpen
        steps, rate = self.steps, self.rate
        if rough is not None:
            steps, last = 2 * steps // 3, last / 3
        if again:
            steps, rate, first = steps // 2, rate / 3, (first * last) ** 0.5
        stage = "search" if rough is None else "masks"
        found = search_smoothed(
            energy,
            block.sharpness,
            x.float().reshape(1, -1),
            steps=steps,
            rate=rate,
            sharpen=(first, last),
            deadline=deadline,
            describe="block" if rough is None else "network",
            watch=self._watch(stage, energy.inputs),
        )
        return energy.inputs(found.point).double(), found.stopped == "interrupted"

    def _watch(
        self, stage: str, inputs: Callable[[Tensor], Tensor] | None = None
    ) -> Callable[[Tensor], None] | None:
        """What a search shows its points to; `inputs` makes batches of them."""
        watch = self.watch
        if watch is None:
            return None

        def seen(points: Tensor) -> None:
            watch(stage, points.clone() if inputs is None else inputs(points[0]).clone())

        return seen
