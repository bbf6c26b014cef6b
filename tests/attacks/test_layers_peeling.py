"""Patch peeling: the last convolution's input, exact, and refusals that say why."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fedpriv
from attacks import NotIdentifiable
from attacks.exact.layers import peel_patches
from fedpriv.data import photographs
from fedpriv.victims import conv_small

MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).reshape(3, 1, 1)
DEVIATION = torch.tensor([0.2470, 0.2435, 0.2616]).reshape(3, 1, 1)


def patch(seed, count=1):
    return (photographs(count, generator=torch.Generator().manual_seed(seed)) - MEAN) / DEVIATION


def observe(model, x, y, dtype=torch.float64):
    model, x = model.to(dtype), x.to(dtype)
    gradient = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()))
    return fedpriv.Observation(
        model, gradient, cross_entropy, fedpriv.Knowledge(input_shape=tuple(x.shape[1:]))
    )


@pytest.mark.parametrize("seed", [31, 32, 33, 34])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_last_convolution_of_conv_small(seed, dtype, limit):
    model, x = conv_small(generator=torch.Generator().manual_seed(seed)), patch(seed)
    found = peel_patches(observe(model, x, torch.tensor([seed % 10]), dtype))
    model, x = model.double(), x.double()
    features = model[:7](x).detach().requires_grad_()
    outputs = model[7](features)
    loss = cross_entropy(model[8:](outputs), torch.tensor([seed % 10]))
    (signal,) = torch.autograd.grad(loss, features)
    features, outputs = features.detach(), outputs.detach()
    assert found.features.shape == (1, 128, 5, 5)
    assert float((found.features - features).abs().max()) < limit
    assert float((found.outputs - outputs).abs().max()) < limit
    assert float((found.signal - signal).norm() / signal.norm()) < 10 * limit
    assert not found.unseen.any()


def test_sixteen_positions_with_stride_one():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 5, 2, 2), nn.Tanh(), nn.AvgPool2d(4), nn.Conv2d(16, 192, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, 10),
    )  # fmt: skip
    x = patch(3)
    found = peel_patches(observe(model, x, torch.tensor([4])))
    truth = model[:3](x.double()).detach()
    assert float((found.features - truth).abs().max()) < 1e-10


def test_two_images_are_refused():
    with pytest.raises(NotIdentifiable, match="at least 2 samples"):
        peel_patches(observe(conv_small(), patch(1, 2), torch.tensor([1, 2])))


def test_few_channels_are_refused_with_the_number_found():
    with pytest.raises(NotIdentifiable, match=r"patches"):
        peel_patches(observe(conv_small(width=1), patch(1), torch.tensor([1])))


def test_wrong_model_is_refused():
    right = observe(conv_small(), patch(1), torch.tensor([1]))
    other = conv_small(generator=torch.Generator().manual_seed(5)).double()
    with pytest.raises(NotIdentifiable, match="Conv2d '7'"):
        peel_patches(fedpriv.Observation(other, right.update, cross_entropy, right.knowledge))


OTHER_ENDINGS = {
    "Tanh '1'": [nn.Conv2d(3, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
    "before the linear layer stands ReLU '1'": [nn.Conv2d(3, 8, 32), nn.ReLU(), nn.Flatten()],
    r"AvgPool2d '2' leaves \(2, 2\) places": [nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AvgPool2d(15), nn.Flatten()],
    "one group": [nn.Conv2d(3, 9, 3, groups=3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
}


@pytest.mark.parametrize("message", OTHER_ENDINGS)
def test_other_endings_are_refused_by_name(message):
    body = nn.Sequential(*OTHER_ENDINGS[message])
    width = body(patch(1)).shape[1]
    with pytest.raises(NotIdentifiable, match=message):
        peel_patches(observe(nn.Sequential(*body, nn.Linear(width, 4)), patch(1), torch.tensor([1])))
