"""Pairs of layers deeper in a model: heads of convolutional nets, blocks of a transformer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.exact.consistency import features
from attacks.exact.consistency.blocks import activation_between, find_pairs, tail_after
from fedpriv import Knowledge
from tests.attacks.consistency_scenes import faces, seen_of
from tests.attacks.scenes import normal, observe


class LeNet5(nn.Module):
    """LeCun et al. 1998 with rectifiers, as functions, for 28 × 28 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def front(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return torch.flatten(F.max_pool2d(F.relu(self.conv2(x)), 2), 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(self.front(x)))
        out: Tensor = self.fc3(F.relu(self.fc2(F.dropout(x, training=self.training))))
        return out


def images(n, seed=0):
    x, y = faces(n, seed=seed)
    return F.interpolate(x, size=28, mode="bilinear"), y


@pytest.mark.parametrize("n", [1, 8, 12])
def test_all_features_of_lenet_5(n):
    model = LeNet5().double().eval()
    x, y = images(n)
    found = features(seen_of(x, y, model=model))
    truth = model.front(x).detach()
    distances = torch.cdist(found.values, truth, compute_mode="donot_use_mm_for_euclid_dist")
    assert found.layer == "fc1"
    assert found.complete
    assert len(found) == n
    assert distances.amin(0).max() < 1e-8
    assert torch.equal(found.labels[distances.argmin(0)], y)
    assert found.remainder < 1e-9


def test_signals_are_the_gradients_by_the_features():
    model = LeNet5().double().eval()
    x, y = images(4)
    found = features(seen_of(x, y, model=model))
    values = model.front(x).detach().requires_grad_()
    loss = F.cross_entropy(model.fc3(F.relu(model.fc2(F.relu(model.fc1(values))))), y)
    (expected,) = torch.autograd.grad(loss, values)
    order = torch.cdist(found.values, values.detach()).argmin(0)
    assert torch.allclose(found.signals[order], expected, atol=1e-8)


class Tokens(nn.Module):
    """One transformer block over token ids; the loss sees their mean, so no token has its own output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(50, 32), nn.Parameter(torch.randn(6, 32))
        self.norm, self.up, self.down = nn.LayerNorm(32), nn.Linear(32, 128), nn.Linear(128, 32)
        self.head = nn.Linear(32, 5)

    def hidden(self, ids: Tensor) -> Tensor:
        x: Tensor = self.embed(ids) + self.place
        return x

    def forward(self, ids: Tensor) -> Tensor:
        x = self.hidden(ids)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        out: Tensor = self.head(torch.tanh(x).mean(1))
        return out


def test_the_tokens_of_a_transformer_block_are_a_batch():
    model = Tokens().double()
    ids = torch.stack([torch.randperm(50)[:6] for _ in range(3)])
    observation = observe(model, F.cross_entropy, ids, torch.tensor([0, 3, 1]), Knowledge(input_shape=(6,)))
    found = features(observation)
    truth = model.norm(model.hidden(ids)).detach().flatten(0, 1)
    assert found.layer == "up"
    assert len(found) == len(truth.unique(dim=0))
    assert torch.cdist(found.values, truth).amin(0).max() < 1e-6
    assert found.labels is None
    assert found.weights is None


def names(model, x):
    pairs = find_pairs(
        observe(model, F.mse_loss, x, torch.zeros_like(model(x)), Knowledge(input_shape=x.shape[1:]))
    )
    return pairs if isinstance(pairs, str) else [(p.first, p.second, p.raw) for p in pairs]


class Residual(nn.Module):
    """A perceptron block around which the input goes on."""

    def __init__(self, *, around_activation: bool) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.around_activation = around_activation

    def forward(self, x: Tensor) -> Tensor:
        a = torch.sigmoid(self.one(x))
        out: Tensor = self.out((a if self.around_activation else x) + self.two(a))
        return out


def test_a_residual_around_the_pair_is_followed_and_one_around_its_second_layer_is_refused():
    x = normal(3, 6, dtype=torch.float64)
    assert names(Residual(around_activation=False).double(), x) == [("one", "two", True)]
    assert isinstance(names(Residual(around_activation=True).double(), x), str)


def test_parameters_of_an_activation_are_followed_too():
    x = normal(3, 6, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(6, 8), nn.PReLU(8), nn.Identity(), nn.Linear(8, 2)).double()
    assert names(model, x) == [("0", "3", True)]
    observation = observe(model, F.mse_loss, x, torch.zeros(3, 2), Knowledge(input_shape=(6,)))
    (pair,) = find_pairs(observation)
    z = normal(5, 8, dtype=torch.float64)
    assert torch.equal(activation_between(observation, pair)(z), model[1](z))
    assert activation_between(observation, pair)(z.float()).dtype == torch.float32


def test_operations_in_place_spoil_nothing():
    x = normal(3, 6, dtype=torch.float64)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)
    )
    observation = observe(model.double(), F.mse_loss, x, torch.zeros(3, 2), Knowledge(input_shape=(6,)))
    pair = find_pairs(observation)[0]
    z = normal(5, 8, dtype=torch.float64).requires_grad_()
    assert torch.equal(activation_between(observation, pair)(z), z.relu())
    u, rows = normal(5, 8, dtype=torch.float64), normal(5, 6, dtype=torch.float64)
    assert torch.allclose(tail_after(observation, pair)(u, rows), model[4](u.relu()))


def test_a_weight_in_two_places_starts_no_pair():
    layer = nn.Linear(6, 6)
    model = nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(6, 2)).double()
    assert isinstance(names(model, normal(3, 6, dtype=torch.float64)), str)
