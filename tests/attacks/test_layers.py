"""Layer by layer: exact images, exact reasons."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss, pad

import fedpriv
from attacks import NotIdentifiable
from attacks.exact.layers import LayerByLayerInversion, first_loss, go_back
from attacks.exact.layers.activations import Activation
from fedpriv.data import digits, faces, photographs
from fedpriv.victims import lenet_dlg


def observe(model, x, y, *, dtype=torch.float64, loss_fn=cross_entropy, **knowledge):
    model, x = model.to(dtype), x.to(dtype)
    trainable = [p for p in model.parameters() if p.requires_grad]
    gradient = torch.autograd.grad(loss_fn(model(x), y), trainable)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    knowledge = fedpriv.Knowledge(**{"input_shape": tuple(x.shape[1:]), **knowledge})
    return fedpriv.Observation(model, dict(zip(names, gradient, strict=True)), loss_fn, knowledge)


def psnr(found, truth):
    return float(-10 * torch.log10((found.double() - truth.double()).square().mean()))


def seeded(*layers, seed=0, bound=0.5):
    model = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return model


def noise(*shape, seed=5):
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", [11, 12, 13])
@pytest.mark.parametrize("kind", ["digit", "face"])
@pytest.mark.parametrize(("dtype", "wanted"), [(torch.float64, 200), (torch.float32, 90)])
def test_gray_image_through_lenet(seed, kind, dtype, wanted):
    generator = torch.Generator().manual_seed(seed)
    x = pad(digits()[0][seed * 90, None], (10, 10, 10, 10)) if kind == "digit" else faces()[seed * 7, None]
    label = torch.tensor([seed % 10])
    observation = observe(lenet_dlg(tuple(x.shape[1:]), generator=generator), x, label, dtype=dtype)
    found = LayerByLayerInversion()(observation)
    assert psnr(found.inputs, x) > wanted
    assert torch.equal(found.targets, label)
    assert found.certified.all()


@pytest.mark.parametrize("seed", [21, 22])
def test_color_image_through_lenet_from_float32(seed):
    x = photographs(1, generator=torch.Generator().manual_seed(seed))
    model = lenet_dlg((3, 32, 32), generator=torch.Generator().manual_seed(seed))
    found = LayerByLayerInversion()(observe(model, x, torch.tensor([3]), dtype=torch.float32))
    assert psnr(found.inputs, x) > 90
    assert found.certified.all()


CHAINS = {
    "tanh, dilation": seeded(nn.Conv2d(1, 8, 3, dilation=2), nn.Tanh(), nn.Flatten(), nn.Linear(128, 4)),
    "softplus, stride": seeded(nn.Conv2d(1, 9, 3, 2, 1), nn.Softplus(), nn.Flatten(), nn.Linear(144, 4)),
    "leaky ReLU, two": seeded(
        nn.Conv2d(1, 6, 3),
        nn.LeakyReLU(0.2),
        nn.Conv2d(6, 6, 3),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(96, 4),
    ),
    "ELU, groups": seeded(
        nn.Conv2d(1, 8, 3), nn.ELU(), nn.Conv2d(8, 8, 3, groups=2), nn.ELU(), nn.Flatten(), nn.Linear(128, 4)
    ),
    "linear layers with ReLU": seeded(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 4)),
    "nested, average pool behind a convolution": seeded(
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.AvgPool2d(2), nn.Sigmoid()),
        nn.Flatten(),
        nn.Linear(256, 4),
    ),
    "wide ReLU convolution": seeded(nn.Conv2d(1, 24, 3), nn.ReLU(), nn.Flatten(), nn.Linear(864, 4)),
    "batch norm and dropout in evaluation": seeded(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Dropout(), nn.Flatten(), nn.Linear(216, 4)
    ).eval(),
    "no bias at all": seeded(
        nn.Conv2d(1, 8, 3, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(288, 4, bias=False)
    ),
    "softmax behind the last layer": seeded(
        nn.Conv2d(1, 8, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(288, 4), nn.Softmax(dim=1)
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_exact_through_every_supported_layer(name):
    x = noise(1, 8, 8)
    found = LayerByLayerInversion()(observe(CHAINS[name], x, torch.tensor([2])))
    assert float((found.inputs - x).abs().max()) < 1e-7
    assert found.targets.tolist() == [2]
    assert found.certified.all(), found


def test_returned_parameters_after_one_step():
    x, model = faces()[3, None], lenet_dlg((1, 25, 25))
    gradient = torch.autograd.grad(cross_entropy(model(x), torch.tensor([7])), list(model.parameters()))
    after = {n: (p - 0.1 * g).detach() for (n, p), g in zip(model.named_parameters(), gradient, strict=True)}
    update = fedpriv.Update(kind="parameters", tensors=after)
    knowledge = fedpriv.Knowledge(input_shape=(1, 25, 25), learning_rate=0.1)
    found = LayerByLayerInversion()(fedpriv.Observation(model, update, cross_entropy, knowledge))
    assert psnr(found.inputs, x) > 60
    assert found.targets.tolist() == [7]


def test_squared_errors_need_no_label():
    x, y = noise(1, 8, 8), noise(4)
    found = LayerByLayerInversion()(observe(CHAINS["tanh, dilation"], x, y, loss_fn=mse_loss))
    assert float((found.inputs - x).abs().max()) < 1e-8
    assert float((found.targets - y).abs().max()) < 1e-8


def test_a_clipped_update_gives_the_same_image_without_certificate():
    x = noise(1, 8, 8)
    observation = observe(CHAINS["tanh, dilation"], x, torch.tensor([2]))
    scaled = {n: 0.3 * t for n, t in observation.update.tensors.items()}
    clipped = fedpriv.Observation(observation.model, scaled, cross_entropy, observation.knowledge)
    assert float((go_back(clipped).inputs - x).abs().max()) < 1e-8
    assert not LayerByLayerInversion(polish_steps=0)(clipped).certified.any()


def test_the_layer_that_loses_information_is_named_with_numbers():
    model = seeded(
        nn.Conv2d(1, 2, 3, 3), nn.Tanh(), nn.Conv2d(2, 8, 2), nn.Tanh(), nn.Flatten(), nn.Linear(32, 4)
    )
    observation = observe(model, noise(1, 9, 9), torch.tensor([1]))
    lost = first_loss(observation)
    # 2 maps of 3 x 3 outputs and 2 x 9 weight gradients, each patch is read once: 9 patches of 9 pixels.
    assert (lost.name, lost.equations, lost.unknowns) == ("Conv2d '0'", 36, 81)
    assert 18 <= lost.rank <= 36
    with pytest.raises(NotIdentifiable, match=r"Conv2d '0'.*information is lost here") as refusal:
        LayerByLayerInversion()(observation)
    known = refusal.value.determined["input of Conv2d '2'"]
    truth = model[:2](noise(1, 9, 9))
    torch.testing.assert_close(known, truth, rtol=1e-8, atol=1e-8)


def test_nothing_is_lost_is_none():
    assert first_loss(observe(CHAINS["tanh, dilation"], noise(1, 8, 8), torch.tensor([2]))) is None


def test_narrow_relu_loses_information_at_the_convolution():
    model = seeded(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))
    lost = first_loss(observe(model, noise(1, 8, 8), torch.tensor([0])))
    assert lost.name == "Conv2d '0'"
    assert lost.forward_known < lost.outputs
    assert lost.rank < lost.unknowns


REFUSED = {
    "max pooling": ([nn.MaxPool2d(2)], 36, "MaxPool2d '1'"),
    "GELU": ([nn.GELU()], 144, "GELU '1'.*monotonic"),
    "layer norm": ([nn.LayerNorm(6)], 144, "LayerNorm '1'"),
    "training batch norm": ([nn.BatchNorm2d(4)], 144, "BatchNorm2d '1'.*training"),
    "training dropout": ([nn.Dropout()], 144, "Dropout '1'.*training"),
    "reflecting": ([nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")], 144, "'1'.*reflect"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    layers, width, message = REFUSED[name]
    model = seeded(nn.Conv2d(1, 4, 3), *layers, nn.Flatten(), nn.Linear(width, 4))
    with pytest.raises(NotIdentifiable, match=message):
        LayerByLayerInversion()(observe(model, noise(1, 8, 8), torch.tensor([1])))


def test_a_model_without_linear_layer_is_refused():
    observation = observe(seeded(nn.Conv2d(1, 4, 8), nn.Flatten()), noise(1, 8, 8), torch.tensor([1]))
    with pytest.raises(NotIdentifiable, match="no linear layer"):
        LayerByLayerInversion()(observation)


def test_an_unknown_module_is_refused_by_name():
    class Gate(nn.Module):
        def forward(self, x):
            return x * x.mean()

    model = seeded(nn.Conv2d(1, 4, 3), Gate(), nn.Flatten(), nn.Linear(144, 4))
    with pytest.raises(NotIdentifiable, match=r"Gate '1', which is neither linear nor elementwise"):
        LayerByLayerInversion()(observe(model, noise(1, 8, 8), torch.tensor([1])))


def test_batch_of_two_is_refused():
    x = torch.cat([noise(1, 8, 8), noise(1, 8, 8, seed=6)])
    with pytest.raises(NotIdentifiable, match="at least 2 samples"):
        LayerByLayerInversion()(observe(CHAINS["tanh, dilation"], x, torch.tensor([2, 1])))


def test_frozen_last_layer_is_refused_and_other_frozen_layers_are_reported():
    def model():
        return seeded(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 4))

    frozen = model()
    frozen[3].requires_grad_(False)
    with pytest.raises(NotIdentifiable, match="'3' is frozen"):
        LayerByLayerInversion()(observe(frozen, noise(1, 8, 8), torch.tensor([2])))
    # 144 outputs for 64 pixels: the forward equations alone are enough, without the convolution's gradient.
    frozen = model()
    frozen[0].requires_grad_(False)
    found = LayerByLayerInversion()(observe(frozen, noise(1, 8, 8), torch.tensor([2])))
    assert float((found.inputs - noise(1, 8, 8)).abs().max()) < 1e-7


def test_wrong_model_is_noticed():
    right = observe(CHAINS["tanh, dilation"], noise(1, 8, 8), torch.tensor([2]))
    other = seeded(
        nn.Conv2d(1, 8, 3, dilation=2), nn.Tanh(), nn.Flatten(), nn.Linear(128, 4), seed=9
    ).double()
    wrong = fedpriv.Observation(other, right.update, cross_entropy, right.knowledge)
    with pytest.raises(NotIdentifiable, match="another model"):
        LayerByLayerInversion()(wrong)


def test_unknown_shape_asks_for_it():
    with pytest.raises(NotIdentifiable, match=r"set Knowledge\.input_shape"):
        LayerByLayerInversion()(
            observe(CHAINS["tanh, dilation"], noise(1, 8, 8), torch.tensor([2]), input_shape=None)
        )


def test_a_zero_update_says_so():
    observation = observe(CHAINS["tanh, dilation"], noise(1, 8, 8), torch.tensor([2]))
    zero = {n: torch.zeros_like(t) for n, t in observation.update.tensors.items()}
    with pytest.raises(NotIdentifiable, match="zero up to rounding"):
        LayerByLayerInversion()(
            fedpriv.Observation(observation.model, zero, cross_entropy, observation.knowledge)
        )


def test_noise_never_gets_a_certificate():
    observation = observe(CHAINS["tanh, dilation"], noise(1, 8, 8), torch.tensor([2]))
    generator = torch.Generator().manual_seed(0)
    noisy = {
        n: t + 1e-4 * torch.randn(t.shape, generator=generator, dtype=t.dtype)
        for n, t in observation.update.tensors.items()
    }
    knowledge = fedpriv.Knowledge(input_shape=(1, 8, 8), noise_std=1e-4)
    try:
        found = LayerByLayerInversion()(
            fedpriv.Observation(observation.model, noisy, cross_entropy, knowledge)
        )
    except NotIdentifiable:
        return
    assert not found.certified.any()


SMOOTH = (nn.Sigmoid, nn.Tanh, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.Softsign, nn.PReLU)


@pytest.mark.parametrize("kind", SMOOTH, ids=lambda kind: kind.__name__)
def test_activations_are_inverted_with_their_slopes(kind):
    module = kind()
    activation = Activation("a", module, {n: t.detach().double() for n, t in module.named_parameters()})
    assert activation.why_not() is None
    z = torch.linspace(-6, 6, 101, dtype=torch.float64)
    inverse = activation.invert(activation(z), 1e-12)
    assert inverse.known.all()
    torch.testing.assert_close(inverse.value, z, rtol=1e-9, atol=1e-9)
    slope = torch.autograd.functional.jacobian(lambda t: activation(t).sum(), z)
    torch.testing.assert_close(inverse.slope, slope, rtol=1e-7, atol=1e-9)


def test_relu_marks_what_it_hides():
    z = torch.tensor([-2.0, -1e-3, 0.5, 100.0, 1e5], dtype=torch.float64)
    inverse = Activation("a", nn.ReLU(), {}).invert(z.relu(), 1e-9)
    assert inverse.known.tolist() == [False, False, True, True, True]
    assert inverse.slope.tolist() == [0, 0, 1, 1, 1]
    torch.testing.assert_close(inverse.value[2:], z[2:])


def test_values_out_of_range_are_an_error():
    with pytest.raises(ValueError, match=r"Sigmoid 'a' returns .* but a value of 1.5"):
        Activation("a", nn.Sigmoid(), {}).invert(torch.tensor([0.5, 1.5], dtype=torch.float64), 1e-9)


@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("told", [True, False])
def test_signs_of_a_convolutional_network_are_refused_in_one_sentence(seed, told):
    """They drive tanh into saturation: all forward equations have weight zero, and no signal comes back."""
    generator = torch.Generator().manual_seed(seed)
    model = lenet_dlg((1, 8, 8), activation=nn.Tanh, generator=generator)
    images, labels = digits()
    x, y = images[seed : seed + 1], labels[seed : seed + 1]
    run = fedpriv.FederatedTrainer(
        model,
        cross_entropy,
        {"bob": (x, y)},
        lr=0.1,
        schedule="fedsgd",
        defenses=[fedpriv.defenses.SignSGD(scale=0.01)],
    ).run(rounds=1)
    (seen,) = run.transcript.observations("bob")
    if not told:
        known = fedpriv.Knowledge(input_shape=(1, 8, 8), num_samples=1)
        seen = fedpriv.Observation(seen.model, seen.update, seen.loss_fn, known, state=seen.state)
    with pytest.raises(NotIdentifiable, match="update was changed"):
        LayerByLayerInversion()(seen)
