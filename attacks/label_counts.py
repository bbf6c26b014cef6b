"""Class labels of a whole batch out of the last linear layer's gradient, one named function a paper.

Under cross-entropy the gradient of the last bias is ``(sum_k softmax(z_k) - counts) / n``: what the model
expects minus what was there. The methods differ in how they guess the first part, and in what they do without
a bias. Each answer says how far it is to be believed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks.matching.unknown import input_shape_of
from attacks.replay import (
    compared_names,
    observed_vector,
    own_randomness,
    parameter_name,
    sent_state,
    sums_over_samples,
)
from fedpriv.wire import Observation

PROBES = 64
"""Random inputs on which the model's mean prediction is measured."""
PROBED_ROWS = 1024
"""The same where inputs are rows of a table: they are short, and their labels worth counting better."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """Labels in ascending order; which sample has which is not known.

    Parameters
    ----------
    values : int64 Tensor of shape (n,)
    confidence : Tensor of shape (n,)
        1 where the evidence is a whole number of samples, 0 half-way between two; no probability.
    source : str
        The method.
    """

    values: Tensor
    confidence: Tensor
    source: str


class Expected(NamedTuple):
    """Means over random inputs: the softmax of the outputs, and the sum of the last layer's inputs."""

    prediction: Tensor
    activation: float


@dataclass(frozen=True, eq=False)
class Head:
    """The last linear layer's gradient, averaged over local steps, in float64."""

    weight: Tensor | None
    bias: Tensor | None
    name: str

    @property
    def num_classes(self) -> int:
        """Outputs of the layer."""
        gradient = self.bias if self.weight is None else self.weight
        assert gradient is not None, "`head` refuses a frozen layer"
        return len(gradient)


def head(observation: Observation) -> Head:
    """The last linear layer, with what came back of it.

    Raises
    ------
    ValueError
        If there is no such layer, or it is frozen.
    """
    layers = [n for n, m in observation.model.named_modules() if isinstance(m, nn.Linear)]
    if not layers:
        raise ValueError("labels are read from a last linear layer, and the model has none")
    names = compared_names(observation)
    sizes = [observation.state[n].numel() for n in names]
    steps = 1 if observation.update.kind == "gradient" else observation.knowledge.local_steps
    parts = dict(zip(names, (observed_vector(observation) / steps).split(sizes), strict=True))
    weight, bias = (parts.get(parameter_name(layers[-1], kind)) for kind in ("weight", "bias"))
    if weight is None and bias is None:
        raise ValueError(f"labels are read from the last linear layer, but {layers[-1]!r} is frozen")
    if weight is not None:
        weight = weight.reshape(observation.state[parameter_name(layers[-1], "weight")].shape)
    return Head(weight, bias, layers[-1])


def yin(observation: Observation, num_samples: int) -> Labels:
    """The n classes with the most negative entry in the last weight gradient; all labels must differ.

    H. Yin et al., "See through Gradients", CVPR 2021, equation 6. Confidence is the gap to the next class.

    Examples
    --------
    >>> import fedpriv
    >>> model, loss = nn.Linear(4, 5), nn.functional.cross_entropy
    >>> x, y = torch.eye(4)[:2] + 0.1, torch.tensor([4, 1])
    >>> gradient = torch.autograd.grad(loss(model(x), y), model.parameters())
    >>> yin(fedpriv.Observation(model, gradient, loss), 2).values
    tensor([1, 4])
    """
    weight = _weight(head(observation))
    if num_samples > len(weight):
        raise ValueError(f"{num_samples} samples cannot all have different labels among {len(weight)}")
    lowest, order = weight.amin(1).sort()
    last = lowest[num_samples - 1]
    following = lowest[num_samples] if num_samples < len(weight) else torch.zeros_like(last)
    gap = ((following - last) / last.abs().clamp_min(1e-300)).clamp(0, 1) * float(last < 0)
    values = order[:num_samples].sort().values
    return Labels(
        values=values, confidence=gap.expand(num_samples), source="Yin et al. 2021, labels that all differ"
    )


def wainakh(observation: Observation, num_samples: int) -> Labels:
    """Counts from the row sums of the last weight gradient; needs no bias.

    A. Wainakh et al., "User-Level Label Leakage from Gradients in Federated Learning" (LLG), PoPETs 2022: one
    sample of class i lowers row i by its *impact*, and all samples raise it by an *offset*, which is measured
    on random inputs here. The paper takes impacts off one by one; we choose the impact at which all counts
    come nearest to whole numbers, within a factor of four around that of random inputs, and round them
    together.
    """
    rows = _weight(head(observation)).sum(1)
    measured = mean_prediction(observation)
    if not measured.activation > 0:
        raise ValueError("the last layer's inputs have no positive mean, so its rows do not show labels")
    shares = rows / (num_samples if _is_sum(observation, len(rows)) else 1) / measured.activation
    factors = torch.logspace(-0.6, 0.6, 241, dtype=torch.float64, device=rows.device)
    counts = num_samples * (measured.prediction - factors[:, None] * shares)
    distance = (counts - counts.round().clamp_min(0)).square().sum(1)
    best = counts[int(distance.argmin())]
    return _rounded(best, num_samples, "Wainakh et al. 2022, rows of the last layer")


def geng(observation: Observation, num_samples: int) -> Labels:
    """Counts from the bias gradient and the mean prediction on random inputs: ``n (p - gradient)``.

    J. Geng et al., "Towards General Deep Leakage in Federated Learning", arXiv 2110.09074, section 3.2; they
    use the weights' sums where there is no bias, here `wainakh` does.
    """
    return _from_bias(
        observation, num_samples, [mean_prediction(observation).prediction], "Geng et al. 2021, bias"
    )


def from_batch_norm(observation: Observation, num_samples: int) -> Labels:
    """As `geng`, but the mean prediction is measured on features as batch norm remembers them.

    What enters the last layer of batch norm is replaced by N(running mean, running variance); so a trained
    network is asked about features as its data give, and not about noise.

    Raises
    ------
    ValueError
        If no layer remembers statistics.
    """
    expected = mean_prediction(observation, as_remembered=True)
    return _from_bias(
        observation, num_samples, [expected.prediction], "bias, features as batch norm remembers them"
    )


def from_local_training(observation: Observation, num_samples: int) -> Labels:
    """Counts over several local steps: the mean prediction is that of the model before and after them.

    D. Dimitrov et al., "Data Leakage in Federated Averaging", TMLR 2022, section 4.3, with the two ends of
    the path only.
    """
    if observation.update.kind != "parameters":
        raise ValueError("only parameters that were returned show the model after local training")
    returned = {**observation.state, **observation.update.tensors}
    after = Observation(
        observation.model, observation.update, observation.loss_fn, observation.knowledge, state=returned
    )
    predictions = [mean_prediction(o).prediction for o in (observation, after)]
    return _from_bias(observation, num_samples, predictions, "Dimitrov et al. 2022, bias of local training")


def soft_label(observation: Observation) -> Tensor:
    """The probabilities that one sample was trained on, hard or soft: ``softmax(W h + b) - gradient of b``.

    Y. Wang, J. Liang, R. He, "Towards Eliminating Hard Label Constraints in Gradient Inversion Attacks",
    ICLR 2024, for a last layer with a bias: there h is the weight gradient divided by the bias gradient.

    Returns
    -------
    Tensor of shape (1, classes), float64

    Raises
    ------
    ValueError
        If the layer has no bias gradient, or shows more than one sample.
    """
    found = head(observation)
    if found.weight is None or found.bias is None:
        raise ValueError(
            "a soft label is read from weight and bias gradient of the last layer, one is missing"
        )
    values = torch.linalg.svdvals(found.weight)
    if len(values) > 1 and float(values[1]) > 1e-3 * float(values[0]):
        raise ValueError("the last layer's gradient mixes several samples, a soft label is read from one")
    features = found.bias @ found.weight / found.bias.square().sum()
    weight, bias = (observation.state[parameter_name(found.name, k)].double() for k in ("weight", "bias"))
    return ((weight @ features + bias).softmax(0) - found.bias)[None]


def label_counts(observation: Observation, num_samples: int) -> Labels:
    """The method that fits the observation: by the bias where there is one, else `wainakh`.

    For one sample the bias gradient is negative at its label alone (iDLG).
    """
    found = head(observation)
    if found.bias is None:
        return wainakh(observation, num_samples)
    if num_samples == 1 and observation.knowledge.local_steps == 1 and int((found.bias < 0).sum()) == 1:
        label = (found.bias < 0).nonzero().reshape(-1)
        return Labels(values=label, confidence=torch.ones(1), source="Zhao et al. 2020, sign of the bias")
    if observation.update.kind == "parameters" and observation.knowledge.local_steps > 1:
        return from_local_training(observation, num_samples)
    if _remembering(observation.model):
        return from_batch_norm(observation, num_samples)
    return geng(observation, num_samples)


def mean_prediction(observation: Observation, *, as_remembered: bool = False) -> Expected:
    """What the model answers on average to random inputs.

    They are standard normal, or valid rows where the observation declares a table: a one-hot row is much
    shorter than a normal one, and a ReLU network's prediction depends on the length.
    """
    shape = input_shape_of(observation)
    generator = torch.Generator().manual_seed(0)
    state = sent_state(observation)
    like = next((t for t in state.values() if t.is_floating_point()), torch.zeros(1))
    table = observation.knowledge.table
    if table is None or table.width != math.prod(shape):
        inputs = torch.randn(PROBES, *shape, generator=generator, dtype=torch.float64).to(like)
    else:
        inputs = table.draw(PROBED_ROWS, generator).reshape(-1, *shape).to(like)
    normalizers, features = _remembering(observation.model), list[Tensor]()
    if as_remembered and not normalizers:
        raise ValueError("no layer of the model remembers the statistics of its inputs")
    modules = dict(observation.model.named_modules())

    def remember(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        features.append(args[0])

    hooks = [modules[head(observation).name].register_forward_pre_hook(remember)]
    if as_remembered:
        memory = _from_memory(state, normalizers[-1], generator)
        hooks.append(modules[normalizers[-1]].register_forward_pre_hook(memory))
    try:
        with torch.no_grad(), own_randomness():
            outputs = functional_call(observation.model, state, (inputs,)).double()
    finally:
        for handle in hooks:
            handle.remove()
    if outputs.dim() != 2:
        raise ValueError(f"labels are counted for outputs of shape (n, classes), got {tuple(outputs.shape)}")
    activation = float(features[0].double().flatten(1).sum(1).mean())
    return Expected(outputs.softmax(1).mean(0), activation)


def _from_memory(
    state: dict[str, Tensor], name: str, generator: torch.Generator
) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
    mean, variance = state[f"{name}.running_mean"].clone(), state[f"{name}.running_var"].clone()

    def replaced(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        shape = (1, -1, *[1] * (args[0].dim() - 2))
        noise = torch.randn(args[0].shape, generator=generator, dtype=torch.float64).to(args[0])
        return (mean.reshape(shape) + variance.sqrt().reshape(shape) * noise,)

    return replaced


def _remembering(model: nn.Module) -> list[str]:
    """Layers with running statistics, in the model's order."""
    return [n for n, m in model.named_modules() if isinstance(getattr(m, "running_var", None), Tensor)]


def _weight(found: Head) -> Tensor:
    if found.weight is None:
        raise ValueError(f"labels are read from the weight of {found.name!r} here, but it is frozen")
    return found.weight


def _from_bias(observation: Observation, num_samples: int, predictions: list[Tensor], source: str) -> Labels:
    bias = head(observation).bias
    if bias is None:
        raise ValueError("the last linear layer has no bias gradient; attacks.labels.wainakh needs none")
    prediction = torch.stack(predictions).mean(0)
    scale = 1 if _is_sum(observation, len(bias)) else num_samples
    return _rounded(num_samples * prediction - scale * bias, num_samples, source)


def _is_sum(observation: Observation, num_classes: int) -> bool:
    """Whether the loss sums over samples."""
    probe = torch.zeros(2, num_classes, dtype=torch.float64)
    return sums_over_samples(observation.loss_fn, probe, torch.zeros(2, dtype=torch.int64))


def _rounded(expected: Tensor, num_samples: int, source: str) -> Labels:
    """The whole numbers nearest to `expected` whose sum is the number of samples."""
    counts = expected.clamp_min(0).floor()
    while int(counts.sum()) > num_samples:
        surplus = (counts - expected).masked_fill(counts == 0, float("-inf"))
        counts[int(surplus.argmax())] -= 1
    while int(counts.sum()) < num_samples:
        counts[int((expected - counts).argmax())] += 1
    each = (1 - 2 * (expected - counts).abs()).clamp(0, 1)
    whole = counts.to(torch.int64)
    values = torch.arange(len(whole), device=whole.device).repeat_interleave(whole)
    return Labels(values=values, confidence=each.repeat_interleave(whole), source=source)
