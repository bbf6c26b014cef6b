"""Checks of the exercise `tutorial`."""

from __future__ import annotations

import torch
from expecting import close, integer, none_of, show, tensor, what


def bob(generator, count=2):
    points = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    targets = torch.rand(count, generator=generator, dtype=torch.float64)
    models = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    return points, targets, models


def true_gradient(points, targets, theta):
    theta = theta.clone().requires_grad_()
    loss = ((points @ theta[:2] + theta[2] - targets) ** 2).sum()
    return torch.autograd.grad(loss, theta)[0]


def true_moments(points, targets):
    z = torch.cat([points, torch.ones(len(points), 1, dtype=points.dtype)], dim=1)
    return z.T @ z, z.T @ targets


def test_gradient(answer, generator):
    points, targets, models = bob(generator)
    found = tensor(answer.gradient(points, targets, models[0]), (3,), " (two weights and the bias)")
    a, c = true_moments(points, targets)
    right = true_gradient(points, targets, models[0])
    mistakes = [
        (right / 2, "half of the gradient: squares have a factor 2, and Bob sums, he does not take the mean"),
        (2 * right, "twice the gradient: the factor 2 is in it twice"),
        (-right, "the sign is wrong: the error is f(x) - y, and this is the gradient, not minus it"),
        (2 * (a @ models[0] + c), "the sign of c is wrong: the gradient is 2 (A theta MINUS c)"),
    ]
    none_of(found, mistakes, right)
    assert close(found, right), f"expected {show(right)}, got {show(found)}: compare with torch.autograd.grad"


def test_moments(answer, generator):
    points, targets, models = bob(generator)
    gradients = torch.stack([true_gradient(points, targets, theta) for theta in models])
    found = answer.moments(models, gradients)
    assert isinstance(found, (tuple, list)), f"expected two results, A and c, got {what(found)}"
    assert len(found) == 2, f"expected two results, A and c, got {len(found)}"
    shapes = [tuple(item.shape) for item in found if isinstance(item, torch.Tensor)]
    assert shapes != [(3,), (3, 3)], "A and c are swapped: return A, c"
    a, c = tensor(found[0], (3, 3), " for A"), tensor(found[1], (3,), " for c")
    true_a, true_c = true_moments(points, targets)
    mistakes = [
        (2 * true_a, "your A is twice the true one: the gradient is 2 (A theta - c)"),
        (true_a / 2, "your A is half of the true one: the gradient is 2 (A theta - c)"),
        (-true_a, "your A has the wrong sign: g/2 = A theta - c"),
    ]
    none_of(a, mistakes, true_a)
    assert close(a, true_a), (
        f"expected A = {show(true_a)}, got {show(a)}: check A theta - c = g / 2 for each visit"
    )
    mistakes = [
        (-true_c, "c has the wrong sign: the gradient is 2 (A theta MINUS c)"),
        (2 * true_c, "your c is twice the true one: the gradient is 2 (A theta - c)"),
        (true_c / 2, "your c is half of the true one: the gradient is 2 (A theta - c)"),
    ]
    none_of(c, mistakes, true_c)
    assert close(c, true_c), (
        f"expected c = {show(true_c)}, got {show(c)}: A is right, and c = A theta - g / 2"
    )


def test_count(answer, generator):
    for count in (2, 1, 3, 5):
        a, _ = true_moments(*bob(generator, count)[:2])
        found = integer(answer.count(a))
        if count > 3:
            assert found != 3, "5 points, and the rank of A is 3 at most: look at one entry of A"
        assert found == count, (
            f"Bob has {count} point{'s' * (count > 1)}, got {found}: the last row and column of A "
            "belong to the "
            "constant 1"
        )


def pair(mean, step):
    return torch.stack([mean + step, mean - step])


def largest(block):
    values, vectors = torch.linalg.eigh(block)
    return vectors[:, -1] * values[-1].clamp(min=0).sqrt(), vectors, values


def test_points(answer, generator, monkeypatch):
    points, targets, _ = bob(generator)
    a, c = true_moments(points, targets)
    found = tensor(answer.points(a, c), (2, 2), " (two points of two features)")
    assert found.isfinite().all(), (
        "got NaN: the smaller eigenvalue is zero up to rounding, so its root may not exist; take "
        "the larger one, "
        "the last"
    )
    check_points(found, points, a)

    def flipped(matrix, eigh=torch.linalg.eigh):  # the sign of an eigenvector is nobody's choice
        values, vectors = eigh(matrix)
        return torch.return_types.linalg_eigh(
            (values, vectors * torch.tensor([-1.0, 1.0], dtype=matrix.dtype))
        )

    monkeypatch.setattr(torch.linalg, "eigh", flipped)
    again = tensor(answer.points(a, c))
    assert any(close(again, order) for order in (points, points.flip(0))), (
        "right by chance: eigenvectors are the columns of what eigh returns, vectors[:, -1], not the rows"
    )


def check_points(found, points, a):
    """Name the mistake in these points, if there is one."""
    if any(close(found, order) for order in (points, points.flip(0))):
        return
    mean, last = points.mean(dim=0), a[:-1, -1]
    assert not close(found.mean(dim=0), 2 * mean), (
        "their mean is twice the true one: the last column of A is the sum of the points, divide "
        "by their number"
    )
    assert not close(found, mean.expand(2, 2), 1e-7), (
        "both points are the mean: take the rank-one block into account as well"
    )
    assert not close(found[0], found[1], 1e-7), "both points are the same: m + d and m - d"
    step, vectors, values = largest(a[:-1, :-1] - 2 * torch.outer(mean, mean))
    size = (values[-1] / 2).sqrt()
    mistakes = [
        (pair(mean, step), "the points are too far apart by √2: the eigenvalue is 2 |d|², not |d|²"),
        (
            pair(mean, vectors[:, -1] * size**2),
            "the distance is squared: the eigenvalue is 2 |d|², take a root",
        ),
        (pair(mean, vectors[:, -1] * 2 * size**2), "take the root: the eigenvalue is 2 |d|², not |d|"),
        (
            pair(mean, vectors[:, -1]),
            "the direction is right, its length is 1: it is the root of eigenvalue / 2",
        ),
        (pair(mean, vectors[:, 0] * size), "the wrong eigenvector: that of the larger eigenvalue, the last"),
        (pair(mean, vectors[-1] * size), "eigenvectors are the columns, vectors[:, -1], not the rows"),
        (
            pair(mean, largest(a[:-1, :-1] - torch.outer(mean, mean))[0] / 2**0.5),
            "subtract 2 m m^T, not m m^T",
        ),
        (pair(mean, largest(a[:-1, :-1])[0] / 2**0.5), "subtract 2 m m^T from the block first"),
        (
            pair(mean, largest(a[:-1, :-1] - 2 * torch.outer(last, last))[0] / 2**0.5),
            "in 2 m m^T, m is the mean, not the sum",
        ),
    ]
    for wrong, sentence in mistakes:
        none_of(found, [(wrong, sentence), (wrong.flip(0), sentence)], points)
    raise AssertionError(
        f"expected the points {show(points)}, got {show(found)}: their sum is in the last column "
        "of A, and the "
        "block minus 2 m m^T is 2 d d^T"
    )
