"""One sample through a first linear layer with a bias, against the row with the largest bias gradient."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attacks
import fedpriv
from attacks import FirstLayerInversion, NotIdentifiable
from fedpriv import Knowledge, Observation, Update
from fedpriv.losses import cross_entropy_sum, squared_error
from tests.attacks.scenes import max_abs_error, normal, observe, random_visits, seeded

ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.Softplus, nn.Identity]


def largest_row(seen, prefix="1."):
    """Phong et al. as the paper has it."""
    gradient = seen.gradient()
    weight, bias = gradient[f"{prefix}weight"].double(), gradient[f"{prefix}bias"].double()
    row = bias.abs().argmax()
    return weight[row] / bias[row]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss_fn", [F.cross_entropy, cross_entropy_sum, F.mse_loss, squared_error])
def test_any_activation_and_loss(activation, loss_fn):
    model = fedpriv.models.mlp([6, 16, 4], activation=activation, generator=seeded(1))
    labels = loss_fn in (F.cross_entropy, cross_entropy_sum)
    x, y = normal(1, 6), torch.tensor([3]) if labels else normal(1, 4, seed=1)
    seen = observe(model, loss_fn, x, y)
    found = attacks.reconstruct(seen)
    assert found.method == "first-layer inversion"
    assert max_abs_error(found.inputs, x) < 1e-5
    assert max_abs_error(found.inputs, largest_row(seen)[None]) < 1e-5
    assert torch.equal(found.targets, y) if labels else max_abs_error(found.targets, y) < 1e-4
    assert found.certified.all(), found.notes
    assert "One sample, exactly" in str(attacks.identifiability(seen))


def test_soft_labels():
    model = fedpriv.models.mlp([6, 16, 3], activation=nn.Tanh, generator=seeded(1))
    x, y = normal(1, 6), torch.tensor([[0.2, 0.5, 0.3]])
    found = attacks.reconstruct(observe(model, F.cross_entropy, x, y))
    assert max_abs_error(found.inputs, x) < 1e-5
    # Only sum(y) softmax(z) - y shows in the gradient: any multiple of softmax(z) may be added to y.
    assert found.targets.is_floating_point()
    assert found.residual < 1e-5
    assert not found.certified.any()


def test_images_keep_their_shape():
    model = fedpriv.models.mlp([64, 32, 10], generator=seeded(1))
    x, y = normal(1, 1, 8, 8), torch.tensor([7])
    seen = observe(model, F.cross_entropy, x, y, Knowledge(input_shape=(1, 8, 8)))
    found = attacks.reconstruct(seen)
    assert found.inputs.shape == (1, 1, 8, 8)
    assert max_abs_error(found.inputs, x) < 1e-5
    assert found.targets.tolist() == [7]
    assert found.certified.all()


class Reshapes(nn.Module):
    def __init__(self, features=6):
        super().__init__()
        self.first = nn.Linear(features, 12)
        self.second = nn.Linear(12, 3)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x.reshape(len(x), -1))))


def test_flattening_inside_forward():
    x = normal(1, 2, 3)
    found = attacks.reconstruct(
        observe(Reshapes(), F.cross_entropy, x, torch.tensor([1]), Knowledge(input_shape=(2, 3)))
    )
    assert max_abs_error(found.inputs, x) < 1e-5


def test_returned_parameters_of_one_step():
    model = fedpriv.models.mlp([6, 16, 4], generator=seeded(1)).double()
    x, y = normal(1, 6, dtype=torch.float64), torch.tensor([0])
    trainer = fedpriv.FederatedTrainer(model, F.cross_entropy, {"bob": (x, y)}, lr=0.1)
    found = attacks.reconstruct(trainer.run(rounds=1).transcript)
    assert max_abs_error(found.inputs, x) < 1e-9
    assert found.certified.all()


def test_tied_weights_are_no_obstacle():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    model[4].weight = model[2].weight
    x = normal(1, 4)
    found = attacks.reconstruct(observe(model, F.cross_entropy, x, torch.tensor([5])))
    assert max_abs_error(found.inputs, x) < 1e-5
    assert found.targets.tolist() == [5]
    assert found.certified.all()


def test_dropout_and_batch_norm_leave_the_input_readable_and_the_evidence_alone():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    x = normal(1, 4)
    seen = observe(model, F.cross_entropy, x, torch.tensor([1]))
    state = torch.random.get_rng_state()
    found = attacks.reconstruct(seen)
    assert torch.equal(state, torch.random.get_rng_state())
    assert max_abs_error(found.inputs, x) < 1e-5


def test_the_visit_that_shows_most_is_used():
    x, y = normal(1, 4, dtype=torch.float64), torch.tensor([1])
    models = [
        fedpriv.models.mlp([4, 8, 3], activation=nn.Tanh, generator=seeded(s)).double() for s in range(3)
    ]
    seen = [observe(model, F.cross_entropy, x, y) for model in models]
    silent = Observation(models[0], [torch.zeros_like(p) for p in models[0].parameters()], F.cross_entropy)
    found = FirstLayerInversion()([*seen, silent])
    assert max_abs_error(found.inputs, x) < 1e-12


class NotFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x**2)


def convolutional():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3))


def dead():
    model = fedpriv.models.mlp([4, 5, 3], generator=seeded(0))
    with torch.no_grad():
        model[1].bias.fill_(-100.0)
    return model


@pytest.mark.parametrize(
    ("model", "x", "shape", "message"),
    [
        (convolutional(), normal(1, 1, 8, 8), (1, 8, 8), "first layer is Conv2d '0'"),
        (convolutional(), normal(1, 1, 8, 8), None, r"Conv2d '0'\) does not accept inputs of shape \(72,\)"),
        (nn.Conv1d(2, 3, 2), normal(1, 2, 2), (2, 2), "the model has no linear layer"),
        (NotFirst(), normal(1, 4), None, "no linear layer sees the raw input"),
        (nn.Linear(4, 3, bias=False), normal(1, 4), None, "has no bias, and only the bias gradient fixes"),
        (dead(), normal(1, 4), None, "zero up to rounding|neurons are dead|bias gradient .* vanishes"),
    ],
)
def test_refusals_by_name(model, x, shape, message):
    y = torch.tensor([1])
    loss_fn = (lambda o, t: F.cross_entropy(o.reshape(1, -1), t)) if x.dim() == 3 else F.cross_entropy
    seen = observe(model, loss_fn, x, y, Knowledge(input_shape=shape))
    with pytest.raises(NotIdentifiable, match=message):
        FirstLayerInversion()(seen)
    report = attacks.identifiability(seen)
    reason = next(a.reason for a in report.attacks if a.attack is FirstLayerInversion)
    assert re.search(message, str(reason))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_batch_is_refused_with_its_rank(n):
    model = fedpriv.models.mlp([8, 16, 10], activation=nn.Tanh, generator=seeded(1))
    seen = observe(model, F.cross_entropy, normal(n, 8), torch.arange(n))
    with pytest.raises(NotIdentifiable, match=f"rank {n}: it mixes at least {n} samples"):
        FirstLayerInversion()(seen)
    report = attacks.identifiability(seen)
    assert (report.rank, report.min_samples, report.max_samples) == (n, n, None)
    assert f"number of samples: at least {n}" in str(report)


def test_a_declared_batch_and_a_pooled_update_are_refused():
    model = fedpriv.models.mlp([4, 8, 3], generator=seeded(1))
    x, y = normal(1, 4), torch.tensor([1])
    with pytest.raises(NotIdentifiable, match="the update mixes 3 samples"):
        FirstLayerInversion()(observe(model, F.cross_entropy, x, y, Knowledge(num_samples=3)))
    named = observe(model, F.cross_entropy, x, y).gradient()
    pooled = Update(kind="gradient", tensors=named, sender="aggregator", contributors=("bob", "alice"))
    with pytest.raises(NotIdentifiable, match="mixes the data of 2 clients"):
        FirstLayerInversion()(Observation(model, pooled, F.cross_entropy))


def test_one_neuron_hides_the_count_unless_it_is_told():
    x, y = normal(1, 4), normal(1, 1)
    with pytest.raises(NotIdentifiable, match="one neuron"):
        FirstLayerInversion()(observe(nn.Linear(4, 1), squared_error, x, y))
    told = observe(nn.Linear(4, 1), squared_error, x, y, Knowledge(num_samples=1))
    assert max_abs_error(FirstLayerInversion()(told).inputs, x) < 1e-5


def test_a_mixture_that_looks_like_one_sample_is_not_certified():
    # Both samples lie on the same side of every ReLU, and the one output gives parallel gradients.
    model = fedpriv.models.mlp([3, 6, 1], generator=seeded(2))
    with torch.no_grad():
        model[1].bias.fill_(20.0)
    x, y = normal(2, 3), normal(2, 1, seed=1)
    mixed = FirstLayerInversion()(observe(model, squared_error, x, y))
    assert min(float((mixed.inputs - row).abs().max()) for row in x) > 0.01
    assert mixed.residual < 1e-5  # the replay cannot tell
    assert not mixed.certified.any()
    assert any("two samples whose mean this is" in note for note in mixed.notes)
    alone = observe(model, squared_error, x[:1], y[:1])
    assert not FirstLayerInversion()(alone).certified.any()
    told = observe(model, squared_error, x[:1], y[:1], Knowledge(num_samples=1))
    assert FirstLayerInversion()(told).certified.all()


def test_curvature_tells_one_sample_from_two_with_one_output():
    model = fedpriv.models.mlp([3, 6, 1], activation=nn.Tanh, generator=seeded(2))
    found = FirstLayerInversion()(observe(model, squared_error, normal(1, 3), normal(1, 1, seed=1)))
    assert max_abs_error(found.inputs, normal(1, 3)) < 1e-5
    assert found.certified.all(), found.notes


@pytest.mark.parametrize("kind", ["gradient", "parameters"])
def test_declared_noise_is_not_mistaken_for_samples(kind):
    model = fedpriv.models.mlp([64, 128, 10], activation=nn.Tanh, generator=seeded(1)).double()
    x, y = normal(1, 64, dtype=torch.float64), torch.tensor([3])
    clean, std, rate = observe(model, F.cross_entropy, x, y), 1e-3, 0.1
    noisy = {
        n: g + std * normal(*g.shape, seed=len(n), dtype=torch.float64) for n, g in clean.gradient().items()
    }
    if kind == "parameters":
        noisy = {n: clean.state[n] - rate * g for n, g in noisy.items()}
    knowledge = Knowledge(noise_std=std if kind == "gradient" else rate * std, learning_rate=rate)
    seen = Observation(model, Update(kind=kind, tensors=noisy), F.cross_entropy, knowledge)
    found = FirstLayerInversion()(seen)
    assert 1e-4 < max_abs_error(found.inputs, x) < 0.5
    assert not found.certified.any()
    assert "One sample, up to the noise" in str(attacks.identifiability(seen))


def test_several_outputs_of_a_linear_regression_leave_the_choice_of_attack():
    x, y = normal(2, 4, dtype=torch.float64), normal(2, 3, seed=1, dtype=torch.float64)
    found = attacks.reconstruct(random_visits(x, y, rounds=4))
    assert found.method == "moment inversion"
    assert max_abs_error(found.inputs, x) < 1e-7
