"""The parts of blockwise inversion, each against its theorem or a plain oracle."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fedpriv
from attacks import NotIdentifiable
from attacks.matching.blocks.block import block_below, cut_at, shapes_of
from attacks.matching.blocks.choices import beliefs, simplex
from attacks.matching.blocks.known import deepest_cut
from attacks.matching.blocks.lifted import finish
from attacks.matching.blocks.linear_head import head_features
from attacks.matching.blocks.masks import PooledBatch, _nearest
from attacks.matching.blocks.newton import gauss_newton
from attacks.matching.blocks.softened import softened
from attacks.matching.blocks.top import Top
from tests.attacks.matching.block_scenes import observe, patches, small_network
from tests.attacks.scenes import seeded


def scene(seed, count=1, dtype=torch.float64):
    model, x = small_network(seed).to(dtype), patches(count, seed).to(dtype)
    y = torch.randperm(10, generator=seeded(seed))[:count]
    return model, x, y, observe(model, x, y)


POOLS = [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d((2, 3), (1, 2), (1, 0))]


@pytest.mark.parametrize("pool", POOLS, ids=repr)
def test_softened_layers_become_exact(pool):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), pool).double()
    soft, sharpness = softened(model)
    x = torch.randn(2, 2, 9, 11, generator=seeded(1), dtype=torch.float64)
    errors = []
    for sharpness.value in (1.0, 10.0, 1e6, float("inf")):
        errors.append(float((soft(x) - model(x)).detach().abs().max()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6
    assert errors[3] == 0
    assert isinstance(model[1], nn.ReLU)  # the model itself is left alone


def test_simplex_is_the_nearest_point():
    values = torch.randn(50, 5, generator=seeded(2), dtype=torch.float64) * 2
    found = simplex(values)
    assert float((found.sum(-1) - 1).abs().max()) < 1e-12
    assert float(found.min()) >= 0
    # Optimality: values - found is the same number on the support and not larger elsewhere.
    multiplier = (values - found).masked_fill(found == 0, -torch.inf).amax(-1, keepdim=True)
    assert float(((values - found - multiplier) * (found > 0)).abs().max()) < 1e-12
    assert float((values - found - multiplier).max()) < 1e-12


def test_choices_follow_from_exact_patches():
    """The true choices solve the program, whatever the start; no outputs are needed."""
    draw = seeded(3)
    patch = torch.randn(6, 4, 40, generator=draw, dtype=torch.float64)
    signals = torch.randn(5, 6, generator=draw, dtype=torch.float64)
    choice = F.one_hot(torch.randint(4, (5, 6), generator=draw), 4).double()
    sums = (choice * signals[..., None]).flatten(1) @ patch.flatten(0, 1)
    start = torch.full_like(choice, 0.25)
    found = beliefs(patch, sums, signals, torch.zeros_like(start), start, noise=1e-3, steps=300)
    assert torch.equal(found.argmax(-1), choice.argmax(-1))


def test_gauss_newton_solves_linear_equations_in_one_step():
    matrix = torch.randn(30, 12, generator=seeded(4), dtype=torch.float64)
    truth = torch.randn(1, 3, 2, 2, generator=seeded(5), dtype=torch.float64)

    def equations(x):
        return matrix @ (x - truth).flatten()

    found = gauss_newton(equations, torch.zeros_like(truth), steps=40, damping=0.0, deadline=float("inf"))
    assert float((found - truth).abs().max()) < 1e-9


def test_gauss_newton_copes_with_pixels_that_hardly_matter():
    """Columns of very different length: 25 steps are enough only with the diagonal divided out."""
    sizes = torch.logspace(0, -1.4, 24, dtype=torch.float64)
    matrix = torch.randn(240, 24, generator=seeded(10), dtype=torch.float64) * sizes
    truth = torch.randn(24, generator=seeded(11), dtype=torch.float64)

    def equations(x):
        return matrix @ (x - truth)

    found = gauss_newton(equations, torch.zeros(24).double(), steps=25, damping=0.0, deadline=float("inf"))
    assert float((found - truth).abs().max()) < 1e-6


def test_wrong_entries_of_a_mask_are_corrected():
    """A fifth of the entries is wrong; least squares would round to wrong masks."""
    masks = torch.randint(0, 2, (120, 12), generator=seeded(12)).double()
    space = torch.linalg.qr(masks).Q
    wrong = torch.rand(120, 12, generator=seeded(13)) < 0.2
    seen = torch.where(wrong, 1 - masks, masks)
    least_squares = (space @ (space.T @ seen) > 0.5).double()
    assert not torch.equal(least_squares, masks)
    found = _nearest(space, torch.ones_like(masks), seen, torch.ones_like(masks))
    assert float((found - masks).abs().max()) < 1e-2


@pytest.mark.parametrize("seed", [221, 222, 223, 224])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_features_of_a_batch_from_one_linear_layer(seed, dtype, limit):
    model, x, y, observation = scene(seed, 4, dtype)
    found = head_features(observation)
    truth = model[:-1](x).detach().double()
    order = [found.labels.tolist().index(label) for label in y.tolist()]
    assert float((found.values[order] - truth).abs().max()) < limit


def test_more_samples_than_the_classes_allow_are_refused():
    model = fedpriv.models.mlp([6, 30, 5], generator=seeded(6)).double()
    x = torch.randn(6, 6, generator=seeded(7), dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3, 4, 0])
    with pytest.raises(NotIdentifiable, match="rank"):
        head_features(observe(model, x, y))


@pytest.mark.parametrize("seed", [231, 232, 233])
def test_masks_of_a_batch_are_decoded_from_rough_maps(seed):
    """Maps that are 20 % off give the exact ones."""
    model, x, _, observation = scene_wide(seed)
    cut, _ = deepest_cut(observation, generator=seeded(), time_budget=100.0)
    pooled = PooledBatch.of(observation, cut.signals.flatten(1))
    order = [int(i) for i in torch.cdist(cut.values.flatten(1), model[:-1](x)).argmin(1)]
    maps = model[: pooled.depth](x[order]).detach()
    rough = maps + 0.2 * maps.std() * torch.randn(maps.shape, generator=seeded(seed), dtype=torch.float64)
    found = pooled.decode(rough)
    assert found is not None
    assert float((found - maps).abs().max()) < 1e-6
    assert pooled.decode(torch.randn(maps.shape, generator=seeded(seed), dtype=torch.float64)) is None


def scene_wide(seed):
    """Two images at four positions each, 64 channels."""
    model, x = small_network(seed, width=16).double(), patches(2, seed).double()
    y = torch.randperm(10, generator=seeded(seed))[:2]
    return model, x, y, observe(model, x, y)


def test_the_truth_solves_the_equations_of_the_top():
    model, x, y, observation = scene(241)
    depth = 7
    block = block_below(observation, cut_at(observation, depth, model[:depth](x).detach(), y))
    top = Top.of(block, shapes_of(observation), 1e-8)
    assert top is not None
    results = top.results(top.patches(x))
    choice = F.one_hot(results.argmax(-1), 9).double()
    reached = results.amax(-1)
    assert float((reached - top.outputs)[top.known].abs().max()) < 1e-12
    assert float(reached[~top.known].max()) <= 0
    left = top.gradient(top.patches(x), choice) - top.sums
    assert float(left.norm() / top.sums.norm()) < 1e-10


def test_the_exact_finish_from_a_rough_image():
    model, x, y, observation = scene(242)
    block = block_below(observation, cut_at(observation, 7, model[:7](x).detach(), y))
    top = Top.of(block, shapes_of(observation), 1e-8)
    rough = x + 0.1 * torch.randn(x.shape, generator=seeded(8), dtype=torch.float64)
    found = finish(top, rough, enough=1e-9)
    assert float((found.x - x).abs().max()) < 1e-6


def test_the_block_has_the_gradients_of_the_model():
    model, x, y, observation = scene(243, 2)
    block = block_below(observation, cut_at(observation, 7, model[:7](x).detach(), y))
    values, found, tapped = block.gradients(x, [2])
    assert torch.allclose(values, model[:7](x))
    assert torch.allclose(tapped[0], model[:2](x))
    for mine, (name, observed) in zip(found, block.observed.items(), strict=True):
        assert torch.allclose(mine, observed, atol=1e-12), name


def test_where_the_cut_is():
    """A head of two linear layers for a batch; patches for one image behind a pool."""
    *_, observation = scene(244)
    cut, _ = deepest_cut(observation, generator=seeded(), time_budget=100.0)
    assert (cut.depth, tuple(cut.values.shape)) == (7, (1, 48, 4, 4))
    layers = [nn.Conv2d(3, 4, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    head = [nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10)]
    model = fedpriv.models.initialize(nn.Sequential(*layers, *head), seeded(9)).double()
    x = patches(3, 245).double()
    cut, _ = deepest_cut(observe(model, x, torch.tensor([4, 4, 1])), generator=seeded(), time_budget=100.0)
    assert (cut.depth, tuple(cut.values.shape)) == (3, (3, 4, 3, 3))
    truth = model[:3](x).flatten(1).detach()
    assert float(torch.cdist(cut.values.flatten(1), truth).amin(0).max()) < 1e-8
