"""Checks of the exercise `optimise`."""

from __future__ import annotations

import torch
from expecting import close, none_of, number, show, tensor


def gradient(generator):
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 3), (4,), (2, 4))]


def test_cosine_distance(answer, generator):
    a, b = gradient(generator), gradient(generator)
    candidate = [t.clone().requires_grad_() for t in a]
    result = answer.cosine_distance(candidate, b)
    found = number(result)
    flat_a, flat_b = (torch.cat([t.flatten() for t in g]) for g in (a, b))
    cosine = torch.nn.functional.cosine_similarity(flat_a, flat_b, dim=0)
    pairs = [(s.flatten(), t.flatten()) for s, t in zip(a, b, strict=True)]
    each = torch.stack([torch.nn.functional.cosine_similarity(s, t, dim=0) for s, t in pairs])
    squares = (flat_a @ flat_a) * (flat_b @ flat_b)
    one_vector = "a cosine per tensor: all parameters are one vector"
    lengths = sum(s.norm() for s, _ in pairs) * sum(t.norm() for _, t in pairs)
    mistakes = [
        (cosine, "this is the cosine; the distance is one minus it"),
        (1 + cosine, "one MINUS the cosine, not plus"),
        (-cosine, "this is minus the cosine; the distance is one minus it"),
        (1 - cosine.abs(), "opposite directions are 2 apart: no absolute value"),
        (1 - cosine**2, "the cosine is not squared: opposite directions are 2 apart"),
        (1 - each.mean(), one_vector),
        ((1 - each).sum(), one_vector),
        (1 - each.sum(), one_vector),
        (1 - flat_a @ flat_b / squares, "a length is the root of the sum of squares"),
        (
            1 - flat_a @ flat_b / lengths,
            "lengths do not add up, their squares do: add squares, then take the root",
        ),
        (1 - flat_a @ flat_b, "divide the inner product by both lengths"),
    ]
    none_of(found, mistakes, 1 - cosine)
    assert close(found, 1 - cosine), f"expected {show(1 - cosine)}, got {show(found)}: 1 - a·b / (|a| |b|)"
    for factor, distance in ((3, 0), (-2, 2)):
        found = number(answer.cosine_distance([factor * t for t in a], a))
        assert abs(found - distance) < 1e-6, (
            f"the distance of {factor} g from g is {distance}, got {show(found)}: lengths do not "
            "count, signs do"
        )
    assert isinstance(result, torch.Tensor), (
        "expected a Tensor that can be differentiated: no float(), no .item()"
    )
    assert result.requires_grad, (
        "the result is not differentiable: no detach(), no_grad(), float() or .item()"
    )


def test_total_variation(answer, generator):
    images = torch.rand(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    found = tensor(answer.total_variation(images), (2,), " (one number for each of 2 images)")
    down, across = images.diff(dim=-2), images.diff(dim=-1)

    def mean(differences):
        return differences.mean(dim=(1, 2, 3))

    right = mean(down.abs()) + mean(across.abs())
    sums = down.abs().sum(dim=(1, 2, 3)) + across.abs().sum(dim=(1, 2, 3))
    mistakes = [
        (mean(down) + mean(across), "take absolute differences: a mirrored image varies as much"),
        (mean(down).abs() + mean(across).abs(), "take absolute differences first, then the mean"),
        (mean(down.abs()), "horizontal neighbors are missing"),
        (mean(across.abs()), "vertical neighbors are missing"),
        (sums, "the means of the differences, not their sums"),
        (right / 2, "half of it: the two means are added"),
        (mean(down**2) + mean(across**2), "absolute differences, not squares"),
        (
            sums / images[0].numel(),
            "there are fewer differences than pixels: divide by the number of differences",
        ),
        (
            sums / (down[0].numel() + across[0].numel()),
            "a mean for each direction, then the sum: they have different numbers of neighbors",
        ),
        (3 * right, "the mean over the channels as well, not their sum"),
    ]
    none_of(found, mistakes, right)
    assert close(found, right), (
        f"expected {show(right)}, got {show(found)}: mean |vertical differences| + mean "
        "|horizontal differences|"
    )


def test_choose(answer, generator):
    candidates = torch.rand(5, 2, 2, generator=generator)
    first = torch.tensor([0.3, torch.nan, 0.02, 0.5, 0.1])[torch.randperm(5, generator=generator)]
    for shift in range(5):
        residuals = first.roll(shift)
        found = answer.choose(candidates.clone(), residuals.clone())
        assert not (isinstance(found, torch.Tensor) and found.shape == ()), (
            "expected one candidate, got one number: the index of a start? candidates[index]"
        )
        found = tensor(found, (2, 2), " (one candidate)")
        best, worst = (int(residuals.nan_to_num(nan=nan).argmin()) for nan in (9.0, -9.0))
        assert not torch.equal(found, candidates[worst]), "NaN is not small: that start diverged"
        assert not torch.equal(found, candidates[int(residuals.nan_to_num(nan=0).argmax())]), (
            "this start has the largest residual; a good one has a small residual"
        )
        assert not torch.equal(found, candidates.mean(dim=0)), "a mean of pictures is no picture"
        assert torch.equal(found, candidates[best]), f"the smallest residual is that of start {best}"
