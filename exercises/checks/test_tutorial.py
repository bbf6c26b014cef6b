"""Checks of the exercise `tutorial`."""

from __future__ import annotations

import torch


def bob(generator):
    points = torch.rand(2, 2, generator=generator, dtype=torch.float64)
    targets = torch.rand(2, generator=generator, dtype=torch.float64)
    models = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    return points, targets, models


def true_gradient(points, targets, theta):
    theta = theta.clone().requires_grad_()
    loss = ((points @ theta[:2] + theta[2] - targets) ** 2).sum()
    return torch.autograd.grad(loss, theta)[0]


def true_moments(points, targets):
    z = torch.cat([points, torch.ones(2, 1, dtype=points.dtype)], dim=1)
    return z.T @ z, z.T @ targets


def close(found, expected):
    return found.shape == expected.shape and torch.allclose(found.double(), expected, atol=1e-6)


def test_gradient(answer, generator):
    points, targets, models = bob(generator)
    found, expected = answer.gradient(points, targets, models[0]), true_gradient(points, targets, models[0])
    half = "half of the gradient: squares have a factor 2, and Bob sums, he does not take the mean"
    assert not close(2 * found, expected), half
    assert found.shape == (3,), (
        f"expected three numbers, for two weights and the bias, got shape {tuple(found.shape)}"
    )
    assert close(found, expected), (
        f"expected {expected.tolist()}, got {found.tolist()}: compare with torch.autograd.grad"
    )


def test_moments(answer, generator):
    points, targets, models = bob(generator)
    gradients = torch.stack([true_gradient(points, targets, theta) for theta in models])
    (a, c), (true_a, true_c) = answer.moments(models, gradients), true_moments(points, targets)
    assert not close(a, 2 * true_a), "your A is twice the true one: the gradient is 2 (A theta - c)"
    assert close(a, true_a), (
        f"expected A = {true_a.tolist()}, got {a.tolist()}: check A theta - c = g / 2 for each visit"
    )
    assert not close(c, -true_c), "c has the wrong sign: the gradient is 2 (A theta MINUS c)"
    assert close(c, true_c), f"expected c = {true_c.tolist()}, got {c.tolist()}"


def test_count(answer, generator):
    a, _ = true_moments(*bob(generator)[:2])
    found = answer.count(a)
    assert found == 2, f"Bob has 2 points, got {found}: the last row and column of A belong to the constant 1"


def test_points(answer, generator):
    points, targets, _ = bob(generator)
    found = answer.points(*true_moments(points, targets))
    assert found.shape == (2, 2), f"expected two points of two features, got shape {tuple(found.shape)}"
    mean = points.mean(dim=0)
    assert not close(found, mean.expand(2, 2)), (
        "both points are the mean: take the rank-one block into account as well"
    )
    ours = {tuple(round(v, 5) for v in p) for p in found.tolist()}
    theirs = {tuple(round(v, 5) for v in p) for p in points.tolist()}
    far = (found - mean).norm(dim=1).mean() / (points - mean).norm(dim=1).mean()
    assert not abs(float(far) - 2**0.5) < 1e-4, (
        "the points are too far apart by √2: the eigenvalue is 2 |d|², not |d|²"
    )
    assert ours == theirs, f"expected the points {sorted(theirs)}, got {sorted(ours)}"
