"""Checks of the exercise `optimise`."""

from __future__ import annotations

import torch


def gradient(generator):
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 3), (4,), (2, 4))]


def test_cosine_distance(answer, generator):
    a, b = gradient(generator), gradient(generator)
    found = answer.cosine_distance(a, b)
    assert found.numel() == 1, (
        f"expected one number for all parameters together, got shape {tuple(found.shape)}"
    )
    flat_a, flat_b = (torch.cat([t.flatten() for t in g]) for g in (a, b))
    cosine = torch.nn.functional.cosine_similarity(flat_a, flat_b, dim=0)
    each = [
        torch.nn.functional.cosine_similarity(s.flatten(), t.flatten(), dim=0)
        for s, t in zip(a, b, strict=True)
    ]
    mean = 1 - torch.stack(each).mean()
    assert not torch.isclose(found, cosine), "this is the cosine; the distance is one minus it"
    assert not torch.isclose(found, mean), "a mean of cosines per tensor: all parameters are one vector"
    assert torch.isclose(found, 1 - cosine), f"expected {float(1 - cosine):.4f}, got {float(found):.4f}"
    scaled = answer.cosine_distance([3 * t for t in a], a)
    assert abs(float(scaled)) < 1e-9, "the distance of 3 g from g is zero: lengths do not count"


def test_total_variation(answer, generator):
    images = torch.rand(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    found = answer.total_variation(images)
    assert found.shape == (2,), f"expected one number for each of 2 images, got shape {tuple(found.shape)}"
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean(dim=(1, 2, 3))
    across = (images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3))
    signed = answer.total_variation(images.flip(-1))
    assert torch.allclose(found, signed), "a mirrored image varies as much: take absolute differences"
    assert not torch.allclose(found, down), "horizontal neighbors are missing"
    assert not torch.allclose(found, across), "vertical neighbors are missing"
    assert torch.allclose(found, down + across), f"expected {(down + across).tolist()}, got {found.tolist()}"


def test_choose(answer, generator):
    candidates = torch.rand(5, 2, 2, generator=generator)
    residuals = torch.tensor([0.3, torch.nan, 0.02, 0.5, 0.1])[torch.randperm(5, generator=generator)]
    found = answer.choose(candidates, residuals)
    assert found.shape == (2, 2), f"expected one candidate, got shape {tuple(found.shape)}"
    best = int(residuals.nan_to_num(nan=9.0).argmin())
    assert not torch.equal(found, candidates[int(residuals.isnan().nonzero())]), (
        "NaN is not small: that start diverged"
    )
    assert not torch.equal(found, candidates.mean(dim=0)), "a mean of pictures is no picture"
    assert torch.equal(found, candidates[best]), f"the smallest residual is that of start {best}"
