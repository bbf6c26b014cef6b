"""TAG: search for token embeddings, then take the nearest tokens.

J. Deng, Y. Wang, J. Li, C. Wang, C. Shang, H. Liu, S. Rajasekaran, C. Ding, "TAG: Gradient Attack on
Transformer-based Language Models", Findings of EMNLP 2021, https://arxiv.org/abs/2103.06819, algorithm 1:
minimize equation 5 over embeddings and soft labels by Adam, then decode.

We depart from it in two points. Several starts run together and the worse half is dropped. The gradient of
the token embedding itself is not compared: its rows name the tokens outright, which is no optimization any
more (`attacks.TokenSpanInversion` uses what is exact). Only models that predict once for a sequence are
attacked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks.base import Attack, Claim, Observations
from attacks.exact.token_model import TokenModel, watch_tokens
from attacks.matching.objectives import TagDistance
from attacks.matching.optimizers import Adam
from attacks.matching.problem import Problem
from attacks.matching.schedules import CosineDecay
from attacks.matching.search import Halving, search
from attacks.matching.unknowns import Energy, Unknowns
from attacks.replay import State, observed_vector, own_randomness, parameter_name, sent_state
from attacks.rounding import stored_rounding
from fedpriv.wire import Observation

NEAREST = "TAG takes the nearest tokens and rules out no others"


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenProblem(Problem):
    """A problem whose inputs (n, T, width) stand where the token embedding answers.

    Parameters
    ----------
    embedding : str
        Name of the layer whose output is replaced.
    filler : int
        A token id that the model does not take for padding.
    """

    embedding: str
    filler: int

    def loss(self, parameters: State, inputs: Tensor, targets: Tensor) -> Tensor:
        """See `Problem.loss`."""
        layer = self.observation.model.get_submodule(self.embedding)
        handle = layer.register_forward_hook(_answering(inputs))
        ids = torch.full(inputs.shape[:2], self.filler, device=inputs.device)
        try:
            outputs = functional_call(self.observation.model, {**self.state, **parameters}, (ids,))
        finally:
            handle.remove()
        return self.observation.loss_fn(outputs, targets)


@dataclass(frozen=True, kw_only=True)
class TagInversion(Attack):
    """Token embeddings by Adam on the TAG distance, then the nearest tokens (Deng et al. 2021).

    Parameters
    ----------
    starts : int, default 4
    steps : int, default 400
    rate : float, default 0.05
        Step size, times the standard deviation of the embedding's entries is what it moves.
    alpha : float, default 0.01
        Weight of the absolute difference at the first layer.
    """

    starts: int = 4
    steps: int = 400
    rate: float = 0.05
    alpha: float = 0.01
    name: ClassVar[str] = "TAG"
    searches: ClassVar[bool] = True
    citation: ClassVar[str] = (
        "Deng et al., TAG: Gradient Attack on Transformer-based Language Models, EMNLP 2021"
    )

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`; of several visits the last one is taken."""
        observation = observations[-1]
        if float(observed_vector(observation).norm()) <= 4 * stored_rounding(observation):
            return "the update is zero up to rounding: nothing of the data crossed the wire"
        model = watch_tokens(observation)
        if isinstance(model, str):
            return model
        if model.token_targets:
            return "the model predicts at every token; attacks.TokenSpanInversion applies there"
        knowledge = observation.knowledge
        if knowledge.input_shape is None or (knowledge.num_samples or observation.update.num_samples) is None:
            return (
                "the number of sequences and their length are needed; "
                "set Knowledge.num_samples and Knowledge.input_shape"
            )
        return None

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`."""
        model = cast("TokenModel", watch_tokens(observations[-1]))
        problem, table = _problem(model)
        size = float(table.std())
        unknowns = Unknowns(
            num_samples=problem.num_samples,
            input_shape=problem.input_shape,
            target_shape=(_num_classes(model),),
            to_targets=lambda free: (free / size).softmax(-1),
        )
        found = search(
            Energy(problem=problem, unknowns=unknowns, objective=TagDistance(alpha=self.alpha)),
            size * unknowns.draw(self.starts, generator, like=problem.observed[0]),
            optimizer=Adam(),
            rate=self.rate * size,
            steps=self.steps,
            schedule=CosineDecay(),
            halving=Halving(at=(0.25, 0.5)),
            deadline=deadline,
            describe=self.name,
        )
        vectors, targets = unknowns.split(found.point[None])
        tokens = nearest_tokens(vectors[0], table)
        return Claim(inputs=tokens, targets=targets[0].argmax(1), assumed=NEAREST)


def nearest_tokens(vectors: Tensor, table: Tensor) -> Tensor:
    """The ids whose embeddings have the largest cosine with `vectors` (n, T, width).

    Examples
    --------
    >>> table = torch.tensor([[1.0, 0.0], [0.0, 9.0]])
    >>> nearest_tokens(torch.tensor([[[0.1, 0.9], [3.0, 1.0]]]), table)
    tensor([[1, 0]])
    """
    unit = nn.functional.normalize(table, dim=1)
    return (nn.functional.normalize(vectors, dim=-1) @ unit.T).argmax(-1)


def _problem(model: TokenModel) -> tuple[TokenProblem, Tensor]:
    """The problem and the embedding's table (vocabulary, width)."""
    observation = model.observation
    weight = parameter_name(model.embedding, "weight")
    plain = Problem.of(observation, keep=lambda name: name != weight)
    table = plain.state[weight]
    problem = TokenProblem(
        observation=observation,
        num_samples=plain.num_samples,
        input_shape=(plain.input_shape[0], table.shape[1]),
        names=plain.names,
        observed=plain.observed,
        dtype=plain.dtype,
        embedding=model.embedding,
        filler=next(i for i in range(model.vocabulary) if i != model.padding),
    )
    return problem, table.detach()


def _num_classes(model: TokenModel) -> int:
    return _outputs(model.observation).shape[1]


def _outputs(observation: Observation) -> Tensor:
    shape = cast("tuple[int, ...]", observation.knowledge.input_shape)
    with torch.no_grad(), own_randomness():
        ids = torch.ones(1, shape[0], dtype=torch.int64)
        outputs: Tensor = functional_call(observation.model, sent_state(observation), (ids,))
    return outputs


def _answering(inputs: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def answer(_: nn.Module, __: tuple[Tensor, ...], ___: Tensor) -> Tensor:
        return inputs

    return answer
