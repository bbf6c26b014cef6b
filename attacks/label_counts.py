"""Class labels of a whole batch out of the last linear layer's gradient, one named function a paper.

Under cross-entropy the gradient of the last bias is ``(sum_k softmax(z_k) - counts) / n``: what the model
expects minus what was there. The methods differ in how they guess the first part, and in what they do without
a bias. Each answer says how far it is to be believed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.label_evidence import Head, head, mean_prediction, remembering
from attacks.replay import parameter_name, sums_over_samples
from fedpriv.wire import Observation


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


def yin(observation: Observation, num_samples: int) -> Labels:
    """The n classes with the most negative entry in the last weight gradient; all labels must differ.

    H. Yin et al., "See through Gradients", CVPR 2021, equation 6. Confidence is the gap to the next class.

    Examples
    --------
    >>> import fedpriv
    >>> from torch import nn
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
    if remembering(observation.model):
        return from_batch_norm(observation, num_samples)
    return geng(observation, num_samples)


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
