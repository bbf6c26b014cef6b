"""Text out of a transformer's gradient: every sequence, exactly, while tokens are fewer than the width.

Petrov, Dimitrov, Baader, Müller, Vechev, "DAGER: Exact Gradient Inversion for Large Language Models", NeurIPS
2024, arXiv 2405.15586. The gradient of the first query projection spans the vectors of all tokens of the
batch; a token at a position was there if and only if its vector lies in that span. The same test behind the
first attention joins the tokens to sequences.

We depart from it in five points. (i) The query's gradient of a decoder's first token is zero (softmax over
one score is constant), so the gradients of all projections that see the same vectors are stacked: query, key
and value. (ii) Thresholds and the rank follow from the precision of the update and the strength of each
token's signal. (iii) The test behind the attention uses the layer that tells contexts apart most clearly, not
always the next query; one block is enough. (iv) Labels and multiplicities are solved for, so that repeated
sequences and beginnings in common are told apart and the whole update can be replayed. (v) The rows of the
embedding's gradient, where it came back, name the tokens in advance.

One warning: "outside with probability one" is not true of the first test where token and position are added.
With tokens a and b seen at one position and a at another, b at the other lies in the span too, for a layer
norm only centers and scales. The test behind the attention rejects it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from attacks.base import Attack, Claim, NotIdentifiable, Observations
from attacks.exact.token_labels import IGNORED, label_prefixes, next_token_sequences, whole_sequences
from attacks.exact.token_model import TokenModel, watch_tokens
from attacks.exact.token_sequences import (
    Findings,
    Gap,
    Layer,
    choose_layers,
    grow_prefixes,
    tokens_in_span,
    try_sequences,
)
from attacks.exact.token_signals import Words

_MARGIN = 10.0
"""A certificate needs every rejected vector this many times as far from the span as every accepted one."""


@dataclass(frozen=True, kw_only=True)
class TokenSpanInversion(Attack):
    """Recover sequences of tokens from a transformer's gradient (DAGER).

    Parameters
    ----------
    max_sequences : int, default 100_000
        How many sequences may be tried where tokens see later ones (an encoder).
    use_embedding_gradient : bool, default True
        Whether to leave out tokens whose row in the embedding's gradient is zero.

    Examples
    --------
    >>> import fedpriv.transformer
    >>> model, loss = fedpriv.transformer.decoder(50, width=32), torch.nn.functional.cross_entropy
    >>> ids = torch.tensor([[7, 3, 9, 4], [3, 3, 20, 1]])
    >>> value = loss(model(ids[:, :-1]), ids[:, 1:])
    >>> gradient = torch.autograd.grad(value, model.parameters())
    >>> found = TokenSpanInversion()(fedpriv.Observation(model, gradient, loss))
    >>> found.inputs.tolist(), found.targets[:, -1].tolist()
    ([[3, 3, 20], [7, 3, 9]], [1, 4])
    """

    max_sequences: int = 100_000
    use_embedding_gradient: bool = True
    name: ClassVar[str] = "token span inversion"
    citation: ClassVar[str] = (
        "Petrov et al., DAGER: Exact Gradient Inversion for Large Language Models, NeurIPS 2024"
    )

    def __post_init__(self) -> None:
        """Check the budget."""
        if self.max_sequences < 1:
            raise ValueError(f"max_sequences must be 1 or more, got {self.max_sequences}; give a budget")

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`."""
        if not any(isinstance(m, nn.Embedding) for m in observations[-1].model.modules()):
            return "the model has no embedding of tokens"
        try:
            observations[-1].gradient()
        except ValueError as error:
            return str(error)
        prepared = _prepare(observations)
        return prepared if isinstance(prepared, str) else None

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:  # noqa: ARG002
        """See `Attack.run`."""
        prepared = _prepare(observations)
        if isinstance(prepared, str):
            raise NotIdentifiable(prepared)
        model, first, seconds = prepared
        vocabulary = self._candidates(model)
        choices, gap = tokens_in_span(model, first, vocabulary)
        if not choices:
            raise NotIdentifiable(
                "no token's vector lies in the span: the client used another model, or dropout"
            )
        # The query's gradient alone does not show the first token: there is nothing else to attend to.
        choices = [tokens or vocabulary.tolist() for tokens in choices] if model.causal else choices
        trials = self._assemble(model, seconds, choices, deadline)
        if not trials:
            raise NotIdentifiable(
                f"{sum(map(len, choices))} single tokens lie in the span, but no sequences of them fit the "
                f"layers behind; the gradient has rank {first.span.rank} at width "
                f"{first.span.basis.shape[1]}, and near the width nothing is determined{_bag(model)}"
            )
        second, found = max(trials, key=lambda trial: (trial[1].complete, len(trial[1].nodes)))
        return _claim(model, first, second, found, gap)

    def _assemble(
        self, model: TokenModel, layers: list[Layer], choices: list[list[int]], deadline: float
    ) -> list[tuple[Layer, Findings]]:
        """Sequences by each layer in turn, until one finds as many tokens as its rank says there are."""
        trials: list[tuple[Layer, Findings]] = []
        for layer in layers:
            if model.causal:
                found = grow_prefixes(model, layer, choices, deadline)
            else:
                found = try_sequences(model, layer, choices, self.max_sequences, deadline)
            if 0 < len(found.nodes) <= layer.span.rank:
                trials.append((layer, found))
            if found.complete or time.perf_counter() > deadline:
                break
        return trials

    def _candidates(self, model: TokenModel) -> Tensor:
        """Token ids worth a test: all, or those whose embedding received a gradient."""
        used = used_tokens(model) if self.use_embedding_gradient else None
        return torch.arange(model.vocabulary) if used is None else used


def used_tokens(model: TokenModel) -> Tensor | None:
    """Ids whose row in the embedding's gradient is not zero, or None where that tells nothing.

    It tells nothing where the embedding is frozen, shared with the head, hidden by noise, or where parameters
    came back, whose small changes may be rounded away.
    """
    observation = model.observation
    gradient = observation.update.tensors.get(f"{model.embedding}.weight")
    if gradient is None or observation.update.kind != "gradient" or observation.knowledge.noise_std > 0:
        return None
    used = gradient.abs().amax(1).nonzero().reshape(-1)
    return used if len(used) else None


def _prepare(observations: Observations) -> tuple[TokenModel, Layer, list[Layer]] | str:
    """The model and the layers to test in, from the visit that suits best; or why there are none."""
    reason = ""
    for observation in reversed(observations):
        model = watch_tokens(observation)
        if isinstance(model, str):
            return model
        first = choose_layers(model, contextual=False)
        seconds = choose_layers(model, contextual=True) if not isinstance(first, str) else first
        if not isinstance(first, str) and not isinstance(seconds, str):
            return model, first[0], seconds
        reason = reason or f"{first if isinstance(first, str) else seconds}{_bag(model)}"
    return reason


def _bag(model: TokenModel) -> str:
    """What the embedding's gradient tells even where nothing else does, for messages."""
    used = used_tokens(model)
    return "" if used is None else f"; which {len(used)} words occur, the embedding's gradient still tells"


def _claim(model: TokenModel, first: Layer, second: Layer, found: Findings, gap: Gap) -> Claim:
    """Sequences with their labels, padded to one length."""
    labels = label_prefixes(model, found.nodes)
    notes = [
        f"{second.span.rank} different tokens in context, {first.span.rank} without, at width "
        f"{first.span.basis.shape[1]}; the order of the sequences in the batch leaves no trace",
    ]
    sequences: list[tuple[Words, list[int]]]
    per_token = model.token_targets
    if isinstance(labels, str):
        notes.append(f"targets were not recovered: {labels}")
        inner = {words[:-1] for words in found.nodes} if model.causal else set()
        sequences = [(words, []) for words in sorted(found.nodes) if words not in inner]
    elif per_token:
        sequences = next_token_sequences(labels)
    else:
        sequences = whole_sequences(labels)
    length = max(len(words) for words, _ in sequences)
    inputs = torch.full((len(sequences), length), model.padding)
    targets = torch.full((len(sequences), length), IGNORED)
    for row, (words, marks) in enumerate(sequences):
        inputs[row, : len(words)] = torch.tensor(words)
        targets[row, : len(marks)] = torch.tensor(marks)
    margin = min(found.gap.margin, gap.margin)
    assumed = None
    if not found.complete:
        assumed = (
            f"{len(found.nodes)} tokens in context were found, but the gradient has rank {second.span.rank}"
        )
    elif margin < _MARGIN:
        assumed = (
            f"the nearest rejected token is only {margin:.1f} times as far from the span as the farthest "
            f"accepted one, and a proof asks for {_MARGIN:.0f}"
        )
    known = None if isinstance(labels, str) else (targets if per_token else targets[:, 0])
    return Claim(inputs=inputs, targets=known, notes=tuple(notes), assumed=assumed)
