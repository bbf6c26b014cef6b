"""Gram matrices against the gradients themselves, and the preconditioner against plain Gauss-Newton."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fedpriv
from attacks.matching import preconditioner
from attacks.matching.compose import difference
from attacks.matching.gauss_newton import GaussNewton
from attacks.matching.gram import GramProducts
from attacks.matching.objectives import Cosine, LayerSquaredError, SquaredError, TagDistance
from attacks.matching.preconditioner import Preconditioner
from attacks.matching.problem import Problem
from attacks.matching.unknowns import Energy, Unknowns
from fedpriv import Knowledge
from fedpriv.victims import lenet_dlg
from tests.attacks.scenes import normal, observe, seeded


class Shared(nn.Module):
    """The same weight twice: its gradient is no single product."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(40, 40), nn.Linear(40, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.first(torch.tanh(self.first(x)))))


class Borrowed(nn.Module):
    """A linear layer that is applied once, and whose weight is used once more behind its back."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(40, 40), nn.Linear(40, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)) @ self.first.weight)


def scene(model, n=3, width=40, seed=301, dtype=torch.float64):
    x = normal(n, width, seed=seed, dtype=dtype)
    y = torch.arange(n) % 3
    return observe(model.to(dtype), F.cross_entropy, x, y, Knowledge(num_samples=n)), y


@pytest.mark.parametrize("objective", [SquaredError(), LayerSquaredError(), Cosine()])
@pytest.mark.parametrize("body", [(nn.ReLU,), (nn.Tanh,), (nn.LayerNorm,)], ids=["relu", "tanh", "norm"])
def test_gram_gives_the_same_value_and_the_same_slope(objective, body):
    between = body[0](60) if body[0] is nn.LayerNorm else body[0]()
    layers = [nn.Linear(40, 60), between, nn.Linear(60, 50, bias=False), nn.Tanh(), nn.Linear(50, 3)]
    seen, y = scene(fedpriv.models.initialize(nn.Sequential(*layers), seeded(302)))
    problem = Problem.of(seen)
    gram = GramProducts.of(problem)
    assert gram is not None
    assert set(gram.layers) >= {"0"}
    unknowns = Unknowns(num_samples=3, input_shape=(40,), targets=y)
    points = unknowns.draw(2, seeded(303)).requires_grad_()
    values, slopes = [], []
    for way in (None, gram):
        energy = Energy(problem=problem, unknowns=unknowns, objective=objective, gram=way)
        values.append(energy(points))
        slopes.append(torch.autograd.grad(values[-1].sum(), points)[0])
    torch.testing.assert_close(values[0].detach(), values[1].detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-7, atol=1e-12)


def test_gram_serves_soft_targets_too():
    seen, _ = scene(fedpriv.models.mlp([40, 60, 3], generator=seeded(305)))
    problem = Problem.of(seen)
    gram = GramProducts.of(problem)
    soft = torch.rand(3, 3, generator=seeded(306), dtype=torch.float64).softmax(1).requires_grad_()
    x = normal(3, 40, seed=307, dtype=torch.float64)
    plain = SquaredError()([g[None] for g in problem.gradients(x, soft)], problem.observed)[0]
    sizes = torch.stack([o.square().sum() for o in problem.observed])
    value = SquaredError().of_products(*gram(x, soft), sizes)
    one, two = (torch.autograd.grad(v, soft)[0] for v in (plain, value))
    torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("model", [Shared, Borrowed], ids=["called twice", "used behind its back"])
def test_gram_is_left_out_where_a_weight_is_used_twice(model):
    seen, _ = scene(fedpriv.models.initialize(model(), seeded(311)), n=1)
    assert GramProducts.of(Problem.of(seen)) is None


def test_gram_is_left_out_where_it_does_not_pay_or_does_not_apply():
    seen, _ = scene(fedpriv.models.mlp([40, 60, 3], generator=seeded(312)), n=30)
    assert GramProducts.of(Problem.of(seen)) is None  # as many samples as entries
    x = torch.rand(1, 1, 8, 8, generator=seeded(313))
    known = Knowledge(num_samples=1, input_shape=(1, 8, 8))
    conv = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    assert GramProducts.of(Problem.of(observe(conv, F.cross_entropy, x, torch.tensor([0]), known))) is None


def test_an_objective_of_more_than_products_takes_the_gradients():
    seen, y = scene(fedpriv.models.mlp([40, 60, 3], generator=seeded(314)))
    problem = Problem.of(seen)
    unknowns = Unknowns(num_samples=3, input_shape=(40,), targets=y)
    points = unknowns.draw(1, seeded(315))
    energies = [
        Energy(problem=problem, unknowns=unknowns, objective=TagDistance(), gram=gram)
        for gram in (None, GramProducts.of(problem))
    ]
    assert torch.equal(energies[0](points), energies[1](points))


def lenet(seed, shape=(2, 12, 12)):
    model = lenet_dlg(shape, 4, generator=seeded(seed)).double()
    x = torch.rand(1, *shape, generator=seeded(seed + 1), dtype=torch.float64)
    known = Knowledge(num_samples=1, input_shape=shape)
    return Problem.of(observe(model, F.cross_entropy, x, torch.tensor([1]), known)), x


def test_the_preconditioner_inverts_the_normal_matrix(monkeypatch):
    monkeypatch.setattr(preconditioner, "EQUATIONS", 10**6)  # every equation is kept
    problem, x = lenet(321, (1, 6, 6))
    unknowns = Unknowns(num_samples=1, input_shape=(1, 6, 6), targets=torch.tensor([1]))

    def residual(point):
        return difference(problem, unknowns.split(point[None])[0][0], torch.tensor([1]))

    jacobian = torch.autograd.functional.jacobian(residual, x.flatten())
    normal_matrix = jacobian.T @ jacobian
    shift = 1e-3 * float(normal_matrix.diagonal().mean())
    solve = Preconditioner(problem=problem, unknowns=unknowns, chunk=7)
    exact = torch.linalg.inv(normal_matrix + shift * torch.eye(36, dtype=torch.float64))
    inverse = solve(x.flatten(), shift)
    found = torch.stack([inverse(row) for row in torch.eye(36, dtype=torch.float64)])
    torch.testing.assert_close(found, exact, rtol=1e-2, atol=1e-3 * float(exact.abs().max()))
    assert solve(x.flatten(), shift, 0.0) is None  # no time left


def test_preconditioned_gauss_newton_ends_where_the_plain_one_does_and_sooner():
    problem, x = lenet(331)
    unknowns = Unknowns(num_samples=1, input_shape=(2, 12, 12), targets=torch.tensor([1]))

    def residual(point):
        return difference(problem, unknowns.split(point[None])[0][0], torch.tensor([1]))

    start = (x + 0.05 * normal(1, 2, 12, 12, seed=332, dtype=torch.float64)).flatten()
    calls = []
    helper = Preconditioner(problem=problem, unknowns=unknowns)

    def precondition(*given):
        calls.append(given)
        return helper(*given)

    plain = GaussNewton()(residual, start, enough=1e-20)
    helped = GaussNewton()(residual, start, enough=1e-20, precondition=precondition)
    assert calls
    assert float((helped.point - x.flatten()).abs().max()) < 1e-6
    assert helped.value <= 1e-19
    assert helped.products < 0.6 * plain.products


def test_a_model_without_forward_derivatives_is_left_to_plain_steps():
    problem, x = lenet(341, (1, 6, 6))
    unknowns = Unknowns(num_samples=1, input_shape=(1, 6, 6), targets=torch.tensor([1]))

    class Refusing(Problem):
        def pure_gradients(self, inputs, targets):
            raise NotImplementedError("no forward derivative")

    settings = {name: getattr(problem, name) for name in Problem.__dataclass_fields__}
    refusing = Preconditioner(problem=Refusing(**settings), unknowns=unknowns)
    assert refusing(x.flatten(), 0.0) is None


def test_layer_norm_is_computed_one_candidate_at_a_time():
    layers = [nn.Linear(40, 60), nn.LayerNorm(60), nn.Linear(60, 50), nn.Tanh(), nn.Linear(50, 3)]
    seen, y = scene(fedpriv.models.initialize(nn.Sequential(*layers), seeded(351)))
    problem = Problem.of(seen)
    unknowns = Unknowns(num_samples=3, input_shape=(40,), targets=y)
    energy = Energy(problem=problem, unknowns=unknowns, objective=SquaredError())
    points = unknowns.draw(2, seeded(352)).requires_grad_()
    direction = torch.randn(points.shape, generator=seeded(353), dtype=torch.float64)
    slope = torch.autograd.grad(energy(points).sum(), points)[0]
    ahead, behind = (energy((points + s * direction).detach()).sum() for s in (1e-6, -1e-6))
    assert float((slope * direction).sum()) == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-6)
