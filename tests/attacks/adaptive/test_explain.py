"""The grade that is comparable behind defenses, and who is chosen by it."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

import attacks
import fedpriv
from attacks import front
from attacks.adaptive import NoisySearch, comparable, explains, unexplained
from attacks.base import Attack, Claim
from attacks.matching.dlg import DLG
from fedpriv.defenses import (
    Averaging,
    Clip,
    GaussianNoise,
    L1Clip,
    LaplaceNoise,
    LayerClip,
    RandomPruning,
    SignSGD,
    StochasticQuantization,
    TopK,
)
from tests.attacks.adaptive.scenes import FEW, counted, digits, mlp, psnr, seen_of, transcript
from tests.attacks.scenes import seeded

DEFENSES = [
    Clip(clip_norm=0.05),
    LayerClip(clip_norm=0.05),
    L1Clip(l1_clip_norm=1.0),
    TopK(kept_fraction=0.05),
    RandomPruning(kept_fraction=0.05),
    SignSGD(),
    StochasticQuantization(levels=256),
    GaussianNoise(clip_norm=20.0, noise_multiplier=1e-4),
    LaplaceNoise(l1_clip_norm=1e4, noise_multiplier=1e-7),
]


class Nonsense(Attack):
    """Claims a gray picture."""

    name: ClassVar[str] = "nonsense"
    citation: ClassVar[str] = "nobody"

    def why_not(self, observations):  # noqa: ARG002 (the interface)
        return None

    def run(self, observations, *, generator, deadline):  # noqa: ARG002 (the interface)
        return Claim(inputs=torch.full((1, 1, 8, 8), 0.5), targets=torch.tensor([0]))


@pytest.mark.parametrize("defense", DEFENSES, ids=lambda d: type(d).__name__)
def test_the_truth_explains_what_arrived_and_other_data_do_not(defense):
    (x, y), (other, label) = digits(1, seed=72), digits(1, seed=73)
    seen = tuple(seen_of(mlp(128, 32, seed=72), x, y, [defense], seed=72))
    assert comparable(seen, x)
    assert explains(seen, x, y)
    assert not explains(seen, other, label)
    assert unexplained(seen, x, y) < 0.8 * unexplained(seen, other, label)


def test_sums_and_random_models_are_not_compared():
    x, y = digits(2, seed=72)
    clients = {"ann": (x[:1], y[:1]), "bob": (x[1:], y[1:])}
    pooled = transcript(mlp(16, seed=72), clients, [Averaging()], seed=72).observations("aggregator")
    assert not comparable(tuple(pooled), x[:1])
    random = torch.nn.Sequential(*mlp(16, seed=72), torch.nn.Dropout(0.5))
    seen = seen_of(random, x[:1], y[:1], [Clip(clip_norm=0.05)], seed=72)
    assert not comparable(tuple(seen), x[:1])


def test_a_wrong_informed_answer_does_not_keep_the_plain_attacks_out(monkeypatch):
    x, y = digits(1, seed=72)
    seen = seen_of(mlp(128, seed=72), x, y, [Clip(clip_norm=0.05)], seed=72)
    monkeypatch.setattr(front, "for_mechanisms", lambda _: [Nonsense()])
    found = attacks.reconstruct(seen, time_budget=10)
    assert found.method != Nonsense.name
    assert psnr(lambda _: found, seen, x) > 80


@pytest.mark.parametrize("seed", FEW)
@pytest.mark.parametrize(
    "defense",
    [
        pytest.param(GaussianNoise(clip_norm=20.0, noise_multiplier=5e-5), marks=pytest.mark.slow),
        pytest.param(LaplaceNoise(l1_clip_norm=1e3, noise_multiplier=1e-5), marks=pytest.mark.slow),
        StochasticQuantization(levels=256),
    ],
    ids=["Gaussian", "Laplace", "quantization"],
)
def test_noise_behind_convolutions_hides_no_more_than_its_likelihood(defense, seed):
    """The most likely data explain the update at least as well as the true ones, and beat DLG's."""
    x, y = digits(1, seed=seed)
    model = fedpriv.victims.lenet_dlg((1, 8, 8), activation=torch.nn.Tanh, generator=seeded(seed))
    seen = tuple(counted(seen_of(model, x, y, [defense], seed=seed), 1))
    found = NoisySearch(starts=16)(seen, time_budget=60)
    assert unexplained(seen, found.inputs, found.targets) < 1.001 * unexplained(seen, x, y)
    assert torch.equal(found.targets, y)
    assert psnr(lambda _: found, seen, x) >= psnr(DLG(starts=1, steps=150), seen, x) - 0.5
