"""Noise, quantization and signs: likelihood, repeated rounds, and the limit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linprog

import attacks
import fedpriv
from attacks.adaptive import NoisyInversion, QuantizedInversion, SignInversion, unexplained
from attacks.adaptive.center import center, smallest_range
from fedpriv.defenses import DPSGD, GaussianNoise, LaplaceNoise, SignSGD, StochasticQuantization
from tests.attacks.adaptive.scenes import FEW, SEEDS, digits, mlp, psnr, seen_of
from tests.attacks.scenes import seeded

CLIP = 20.0
"""Above every gradient here, so that the noise alone is measured."""


def noisy_draws(std, draws, *, rounds=1):
    """Mean squared errors of many draws of the noise on one small sample, and the bound."""
    generator = seeded(77)
    model = fedpriv.models.mlp([6, 24, 4], activation=torch.nn.Tanh, generator=generator).double()
    x, y = torch.rand(1, 6, generator=generator, dtype=torch.float64), torch.tensor([2])
    errors = []
    for draw in range(draws):
        defense = GaussianNoise(clip_norm=CLIP, noise_multiplier=std / CLIP)
        seen = seen_of(model, x, y, [defense], seed=1000 + draw, rounds=rounds, lr=1e-6)
        errors.append(float((NoisyInversion()(seen).inputs - x).square().mean()))
    bound = fedpriv.privacy.cramer_rao_bound(seen, x, y, noise_std=std)
    return fedpriv.lab.efficiency.attack_efficiency(bound, torch.tensor(errors))


@pytest.mark.parametrize(("rounds", "draws"), [(1, 25), pytest.param(4, 25, marks=pytest.mark.slow)])
def test_no_unbiased_attack_does_better_under_gaussian_noise(rounds, draws):
    found = noisy_draws(1e-4, draws, rounds=rounds)
    # 25 draws of a mean of 6 squares scatter by about 12 %: three standard errors on either side of one.
    assert abs(found.value - 1) < 3 * found.standard_error
    assert found.standard_error < 0.25


@pytest.mark.parametrize("seed", FEW)
def test_likelihood_sees_where_the_plain_attack_refuses(seed):
    x, y = digits(1, seed=seed)
    noise = GaussianNoise(clip_norm=1.0, noise_multiplier=0.01)
    seen = seen_of(mlp(128, seed=seed), x, y, [noise], seed=seed, rounds=6)
    plain = psnr(attacks.FirstLayerInversion(), seen[:1], x)
    one, six = (psnr(NoisyInversion(), seen[:n], x) for n in (1, 6))
    assert plain < 15 < one
    assert six > one + 4  # sqrt(6) in the error is 8 dB, less where training has moved on
    assert torch.equal(NoisyInversion()(seen).targets, y)


@pytest.mark.parametrize("seed", FEW)
def test_absolute_errors_beat_squares_under_laplace_noise(seed):
    x, y = digits(1, seed=seed)
    noise = LaplaceNoise(l1_clip_norm=1e3, noise_multiplier=1e-6)
    seen = seen_of(mlp(128, seed=seed), x, y, [noise], seed=seed)
    assert psnr(NoisyInversion(), seen, x) > psnr(attacks.FirstLayerInversion(), seen, x)


def test_kinks_of_relu_do_not_stop_the_likelihood():
    """The most likely sample explains each draw as well as the true one, on whichever side the start is."""
    generator = seeded(79)
    model = fedpriv.models.mlp([16, 24, 4], generator=generator).double()
    x, y = torch.rand(1, 16, generator=generator, dtype=torch.float64), torch.tensor([2])
    noise = GaussianNoise(clip_norm=CLIP, noise_multiplier=1e-2 / CLIP)
    for draw in range(8):
        seen = tuple(seen_of(model, x, y, [noise], seed=2000 + draw))
        found = NoisyInversion()(seen)
        assert unexplained(seen, found.inputs, found.targets) <= unexplained(seen, x, y), draw


@pytest.mark.parametrize("seed", FEW)
def test_strong_laplace_noise_does_not_freeze_the_weights(seed):
    x, y = digits(1, seed=seed)
    noise = LaplaceNoise(l1_clip_norm=50.0, noise_multiplier=2e-4)
    seen = tuple(seen_of(mlp(128, seed=seed), x, y, [noise], seed=seed))
    found = NoisyInversion()(seen)
    assert unexplained(seen, found.inputs, found.targets) <= 1.002 * unexplained(seen, x, y)
    assert psnr(lambda _: found, seen, x) > 10


def test_dp_sgd_with_a_batch_of_one_is_noise_on_a_clipped_gradient():
    x, y = digits(1, seed=40)
    defense = DPSGD(clip_norm=1.0, noise_multiplier=1e-3, denominator=1)
    seen = seen_of(mlp(128, seed=40), x, y, [defense], seed=40)
    assert psnr(NoisyInversion(), seen, x) > 30


@pytest.mark.parametrize("multiplier", [0.3, 1.0])
def test_noise_of_a_useful_privacy_level_holds(multiplier):
    """One digit from one round at the noise multipliers that people train with: no better than a guess."""
    x, y = digits(1, seed=40)
    noise = GaussianNoise(clip_norm=1.0, noise_multiplier=multiplier)
    found = NoisyInversion()(seen_of(mlp(128, seed=40), x, y, [noise], seed=40))
    score = fedpriv.lab.score(found, x)
    assert float(score.psnr) < float(score.baseline.psnr)
    assert not found.certified.any()


@pytest.mark.parametrize("seed", FEW)
def test_quantization_to_eight_bits_hides_little_and_rounds_undo_four(seed):
    x, y = digits(1, seed=seed)
    model = mlp(128, seed=seed)
    fine = seen_of(model, x, y, [StochasticQuantization(levels=256)], seed=seed)
    coarse = seen_of(model, x, y, [StochasticQuantization(levels=16)], seed=seed, rounds=8)
    assert psnr(attacks.FirstLayerInversion(), fine, x) < 15
    assert psnr(QuantizedInversion(), fine, x) > 28
    one, many = (psnr(QuantizedInversion(), coarse[:n], x) for n in (1, 8))
    assert many > one + 4
    assert many > 22


@pytest.mark.parametrize("seed", SEEDS)
def test_one_bit_a_number_gives_the_digit(seed):
    x, y = digits(1, seed=seed)
    seen = seen_of(mlp(512, 64, seed=seed), x, y, [SignSGD()], seed=seed, rounds=6)
    guess = float(fedpriv.lab.score(x, x).baseline.psnr)
    assert psnr(attacks.FirstLayerInversion(), seen[:1], x) < guess + 5
    attack = SignInversion(low=0.0, high=1.0)
    one, six = (psnr(attack, seen[:n], x) for n in (1, 6))
    assert one > 20
    assert six > one
    found = attack(seen)
    assert torch.equal(found.targets, y)
    assert not found.certified.any()


def test_the_smallest_range_holds_a_point_and_grows_with_the_data():
    """Against linear programming: the least maximum norm of a point in the polytope."""
    draw = torch.Generator().manual_seed(40)
    x = torch.rand(6, generator=draw).double()
    normals, offsets = (torch.randn(size, generator=draw).double() for size in ((30, 6), (30,)))
    side = torch.sign(normals @ x + offsets)[:, None]
    normals, offsets, signs = side * normals, side[:, 0] * offsets, torch.ones(6)
    # min r subject to normals x + offsets >= 0 and 0 <= x <= r
    bound = torch.cat([torch.eye(6), -torch.ones(6, 1)], 1).double()
    rows = torch.cat([torch.cat([-normals, torch.zeros(30, 1)], 1), bound])
    solved = linprog([0] * 6 + [1], rows.numpy(), torch.cat([offsets, torch.zeros(6)]).numpy())
    found = smallest_range(normals, offsets, signs)
    assert 0.999 * solved.fun <= found <= 1.06 * solved.fun
    assert smallest_range(normals, 7 * offsets, signs) == pytest.approx(7 * found, rel=0.06)


def test_the_declared_values_are_the_range_of_the_signs():
    x, y = digits(1, seed=40)
    seen = seen_of(mlp(256, 64, seed=40), x, y, [SignSGD()], seed=40)
    declared = [
        fedpriv.Observation(
            o.model, o.update, o.loss_fn, dataclasses.replace(o.knowledge, input_values=(0, 1)), state=o.state
        )
        for o in seen
    ]
    known = SignInversion(low=0.0, high=1.0)(seen)
    torch.testing.assert_close(SignInversion()(declared).inputs, known.inputs)
    assert psnr(SignInversion(), seen, x) > 10  # a guess has 8 to 9
    with pytest.raises(ValueError, match="both finite, or both left out, got 0 and None"):
        SignInversion(low=0)


def test_a_batch_under_noise_is_refused():
    x, y = digits(4, seed=40)
    noise = GaussianNoise(clip_norm=1.0, noise_multiplier=1e-3)
    seen = seen_of(mlp(128, seed=40), x, y, [noise], seed=40)
    with pytest.raises(attacks.NotIdentifiable, match="second singular value"):
        NoisyInversion()(seen)


def test_one_neuron_mixes_samples_without_a_trace():
    seen = seen_of_the_tutorial()
    with pytest.raises(attacks.NotIdentifiable, match="has one neuron"):
        NoisyInversion()(seen)


def seen_of_the_tutorial():
    x, y = torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0], [0.0]])
    trainer = fedpriv.FederatedTrainer(
        fedpriv.models.linear(2),
        fedpriv.losses.squared_error,
        {"bob": (x, y)},
        lr=0.1,
        defenses=[GaussianNoise(clip_norm=1.0, noise_multiplier=1e-3)],
    )
    return trainer.run(rounds=2).transcript.observations("bob")


def test_signs_without_relu_are_refused():
    x, y = digits(1, seed=40)
    seen = seen_of(mlp(64, seed=40, activation=torch.nn.Sigmoid), x, y, [SignSGD()], seed=40)
    with pytest.raises(attacks.NotIdentifiable, match="followed by Sigmoid: only ReLU"):
        SignInversion()(seen)


def test_the_center_satisfies_every_sign_and_lies_near_the_truth():
    generator = seeded(5)
    x = torch.rand(8, generator=generator, dtype=torch.float64)
    normals = torch.randn(4000, 8, generator=generator, dtype=torch.float64)
    offsets = torch.randn(4000, generator=generator, dtype=torch.float64)
    side = torch.sign(normals @ x + offsets)
    found = center(side[:, None] * normals, side * offsets, torch.ones(8), low=-5.0, high=5.0)
    assert bool((side * (normals @ found + offsets) > 0).all())
    assert float((found - x).abs().max()) < 0.02


def test_sequential_training_returns_parameters_and_hides_no_more():
    x, y = digits(1, seed=41)
    noise = GaussianNoise(clip_norm=1.0, noise_multiplier=1e-3)
    model = mlp(128, seed=41)
    trainer = fedpriv.FederatedTrainer(
        model, F.cross_entropy, {"bob": (x, y)}, lr=0.5, defenses=[noise], generator=seeded(3)
    )
    assert psnr(NoisyInversion(), trainer.run(rounds=1).transcript.observations("bob"), x) > 25
