"""Clipping per layer, adaptively, and in the L1 norm with Laplace noise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.defenses import (
    AdaptiveClip,
    Averaging,
    Clip,
    Context,
    GaussianNoise,
    L1Clip,
    LaplaceNoise,
    LayerClip,
    Median,
)
from fedpriv.defenses.l1_clip import l1_norm
from fedpriv.defenses.pipeline import Pipeline
from fedpriv.defenses.vectors import joint_norm
from tests.defenses.conformance import DTYPES, seeded

N = 100_000
dtypes = st.sampled_from(DTYPES)


@given(
    values=st.lists(st.floats(-6e4, 6e4, allow_subnormal=False), min_size=3, max_size=20),
    dtype=dtypes,
    clip_norm=st.floats(0.01, 100.0),
)
@settings(max_examples=100, deadline=None)
def test_layers_and_the_whole_obey_their_bounds(values, dtype, clip_norm):
    t = torch.tensor(values, dtype=dtype)
    update = {"a.weight": t, "a.bias": t[0], "b.c.weight": t[1:], "gain": t[2]}
    clipped, report = LayerClip(clip_norm=clip_norm)(update)
    assert report.values["num_layers"] == 3
    assert joint_norm(clipped) <= clip_norm * (1 + 1e-12)
    bound = clip_norm / math.sqrt(3) * (1 + 1e-12)
    for names in (("a.weight", "a.bias"), ("b.c.weight",), ("gain",)):
        assert joint_norm({name: clipped[name] for name in names}) <= bound


def test_a_small_layer_is_left_alone_beside_a_large_one():
    update = {"0.weight": torch.tensor([0.3]), "1.weight": torch.tensor([100.0])}
    clipped, report = LayerClip(clip_norm=1.0)(update)
    assert torch.equal(clipped["0.weight"], update["0.weight"])
    assert clipped["1.weight"].item() == pytest.approx(1 / math.sqrt(2))
    assert (report.values["num_clipped"], report.values["clipped"]) == (1, True)


@given(
    values=st.lists(st.floats(-2e3, 2e3, allow_subnormal=False), min_size=1, max_size=20),
    dtype=dtypes,
    bound=st.floats(0.01, 100.0),
)
@settings(max_examples=100, deadline=None)
def test_the_l1_norm_obeys_its_bound(values, dtype, bound):
    update = {"w": torch.tensor(values, dtype=dtype), "b": torch.tensor(values[0], dtype=dtype)}
    clipped, report = L1Clip(l1_clip_norm=bound)(update)
    # float16 keeps no relative precision below 6e-5: half a unit of 6e-8 for each coordinate
    assert l1_norm(clipped) <= bound * (1 + 1e-12) + 21 * 3e-8 * (dtype == torch.float16)
    assert report.values["l1_norm_before"] == pytest.approx(l1_norm(update))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_moments_of_laplace_noise(dtype, weight):
    b = 1.5 * 2.0 * weight
    noise, report = LaplaceNoise(l1_clip_norm=2.0, noise_multiplier=1.5, generator=seeded(1))(
        {"w": torch.zeros(N, dtype=dtype)}, Context(largest_weight=weight)
    )
    z = noise["w"].double() / b
    assert report.values["noise_std"] == pytest.approx(math.sqrt(2) * b)
    # Central moments of Laplace with scale 1: 2, 24, 720, 40320. Standard errors over N draws: mean
    # sqrt(2/N), variance sqrt((24 - 4)/N), and by the delta method for kurtosis 6 = 24/4: sqrt(1188/N).
    assert abs(float(z.mean())) < 4 * math.sqrt(2 / N)
    assert abs(float(z.var()) - 2) < 4 * math.sqrt(20 / N)
    assert abs(float(z.pow(4).mean() / z.var() ** 2) - 6) < 4 * math.sqrt(1188 / N)


def test_laplace_clips_first_and_hides_scalars():
    noise = LaplaceNoise(l1_clip_norm=1.0, noise_multiplier=0.1, generator=seeded(4))
    draws = torch.stack([noise({"b": torch.tensor(1e6)})[0]["b"].double() for _ in range(1500)])
    assert abs(float(draws.mean()) - 1) < 4 * 0.1 * math.sqrt(2 / 1500)
    assert abs(float(draws.var()) - 0.02) < 4 * 0.01 * math.sqrt(20 / 1500)


def run_adaptively(clip, norms_of_rounds):
    """The bound of each round, for clients with these norms."""
    memory, bounds = {}, []
    for number, norms in enumerate(norms_of_rounds):
        for client, size in enumerate(norms):
            context = Context(round=number, client=str(client), memory=memory, generator=seeded(number))
            clipped, report = clip({"w": torch.tensor(size)}, context)
            assert clipped["w"].abs().item() <= report.values["clip_norm"] * (1 + 1e-6)
        bounds.append(report.values["clip_norm"])
    return bounds


def test_the_adaptive_bound_follows_the_formula():
    # Round 0: one of four within 1.0, so C *= exp(-0.2 (1/4 - 1/2)); round 1: all of four, exp(-0.2 / 2).
    bounds = run_adaptively(AdaptiveClip(initial_clip_norm=1.0), [[0.5, 2.0, 3.0, 4.0], [0.1] * 4, [9.0]])
    expected = [1.0, math.exp(0.05), math.exp(0.05 - 0.1)]
    assert bounds == pytest.approx(expected)


@pytest.mark.parametrize("quantile", [0.3, 0.8])
@pytest.mark.parametrize("count_noise_std", [0.0, 1.0])
def test_the_adaptive_bound_finds_the_quantile(quantile, count_noise_std):
    clip = AdaptiveClip(initial_clip_norm=1.0, quantile=quantile, count_noise_std=count_noise_std)
    norms = torch.rand(20, generator=seeded(8)) * 10  # quantile q of the norms is about 10 q
    bounds = run_adaptively(clip, [norms.tolist()] * 80)
    settled = sum(bounds[50:]) / 30
    found = float((norms <= settled).double().mean())
    assert abs(found - quantile) < 0.06


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LayerClip(clip_norm=0.0), "clip_norm must be a positive finite number"),
        (lambda: L1Clip(l1_clip_norm=-1.0), "l1_clip_norm must be a positive finite number"),
        (lambda: LaplaceNoise(l1_clip_norm=math.inf), "l1_clip_norm must be a positive finite number"),
        (lambda: LaplaceNoise(noise_multiplier=0.0), r"without noise use L1Clip\(l1_clip_norm=1.0\)"),
        (lambda: AdaptiveClip(quantile=1.0), "quantile must lie between 0 and 1"),
        (lambda: AdaptiveClip(learning_rate=0.0), "for a bound that stays use Clip"),
        (lambda: AdaptiveClip(count_noise_std=-1.0), "count_noise_std must be a finite number of 0 or more"),
        (lambda: AdaptiveClip(initial_clip_norm=math.nan), "clip_norm must be a positive finite number"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_noise_on_a_mean_needs_the_bound_of_its_own_norm():
    laplace, gaussian = LaplaceNoise(l1_clip_norm=2.0), GaussianNoise(clip_norm=1.0)
    assert Pipeline.of([L1Clip(l1_clip_norm=2.0), Averaging(), laplace])
    assert Pipeline.of([LayerClip(clip_norm=1.0), Averaging(), gaussian])
    for before in (Clip(clip_norm=1.0), L1Clip(l1_clip_norm=2.1)):
        with pytest.raises(ValueError, match=r"needs an L1Clip with l1_clip_norm of at most 2\.0 before it"):
            Pipeline.of([before, Averaging(), laplace])
    for before in (AdaptiveClip(), LayerClip(clip_norm=1.1)):
        with pytest.raises(ValueError, match=r"needs a Clip with clip_norm of at most 1\.0 before it"):
            Pipeline.of([before, Averaging(), gaussian])
    with pytest.raises(ValueError, match="after Median protects nobody"):
        Pipeline.of([Clip(), Median(), gaussian])


def test_noise_of_both_kinds_adds_in_variance():
    chain = [
        L1Clip(l1_clip_norm=2.0),
        GaussianNoise(clip_norm=1.0, noise_multiplier=2.0),  # variance 4 on each of two clients
        L1Clip(l1_clip_norm=2.0),
        Averaging(),
        LaplaceNoise(l1_clip_norm=2.0, noise_multiplier=1.0),  # scale 2 / 2, variance 2
    ]
    assert Pipeline.of(chain).noise_std({"a": 0.5, "b": 0.5}) == pytest.approx(math.sqrt(4 / 2 + 2))
