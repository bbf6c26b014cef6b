"""The equations of one layer against matrices that autograd builds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attacks.exact.layers.chain import Segment
from attacks.exact.layers.maps import linear_map
from attacks.exact.layers.precondition import convolution_preconditioner
from attacks.exact.layers.system import SegmentEquations

CONVOLUTIONS = {
    "plain": (nn.Conv2d(2, 3, 3), (2, 5, 6)),
    "stride and padding": (nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 6, 5)),
    "uneven": (nn.Conv2d(1, 4, (3, 2), stride=(2, 1), padding=(0, 1)), (1, 7, 5)),
    "dilation": (nn.Conv2d(2, 3, 3, dilation=2, padding=2), (2, 5, 5)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2, padding=1, stride=2), (4, 5, 6)),
    "depthwise": (nn.Conv2d(3, 6, 2, groups=3), (3, 4, 4)),
    "same": (nn.Conv2d(2, 2, 3, padding="same", bias=False), (2, 4, 4)),
    "one dimension": (nn.Conv1d(2, 5, 4, stride=3, padding=2), (2, 11)),
    "three dimensions": (nn.Conv3d(1, 3, 2), (1, 3, 4, 3)),
    "linear": (nn.Linear(7, 4), (7,)),
}


def make(module, in_shape, *, output=True, masked=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    state = {
        n: torch.randn(t.shape, generator=generator, dtype=torch.float64)
        for n, t in module.named_parameters()
    }
    segment = Segment(maps=(linear_map("layer", module, state, in_shape),), activation=None)
    x = torch.randn(1, *in_shape, generator=generator, dtype=torch.float64)
    signal = torch.randn(1, *segment.out_shape, generator=generator, dtype=torch.float64)
    weight = torch.rand(1, *segment.out_shape, generator=generator, dtype=torch.float64) if masked else None
    if masked:
        weight = weight * (weight > 0.3)
    z = torch.func.functional_call(module, state, (x,))
    parameters = {n: t.requires_grad_() for n, t in state.items()}
    again = torch.func.functional_call(module, parameters, (x,))
    gradient = torch.autograd.grad((again * signal).sum(), list(parameters.values()))
    named = {f"layer.{n}": g for n, g in zip(parameters, gradient, strict=True)}
    state = {n: t.detach() for n, t in state.items()}
    segment = Segment(maps=(linear_map("layer", module, state, in_shape),), activation=None)
    equations = SegmentEquations(
        segment=segment, signal=signal, gradient=named, output=z if output else None, weight=weight
    )
    return equations, x, state


def oracle(equations, module, state):
    """The same equations as one dense matrix, by differentiating the layer and its weight gradient."""

    def both(flat):
        x = flat.reshape(1, *equations.segment.in_shape)
        w = {n: t.clone() for n, t in state.items()}

        def weighted(weight):
            return (
                torch.func.functional_call(module, {**w, "weight": weight}, (x,)) * equations.signal
            ).sum()

        outputs = torch.func.functional_call(module, w, (x,))
        if equations.weight is not None:
            outputs = outputs * equations.weight
        blocks = [outputs.reshape(-1)] if equations.output is not None else []
        return torch.cat([*blocks, torch.func.grad(weighted)(w["weight"]).reshape(-1)])

    unknowns = torch.Size(equations.segment.in_shape).numel()
    return torch.func.jacfwd(both)(torch.zeros(unknowns, dtype=torch.float64))


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("masked", [False, True])
def test_operator_and_transpose_agree_with_a_dense_matrix(name, masked):
    module, in_shape = CONVOLUTIONS[name]
    equations, x, state = make(module, in_shape, masked=masked)
    matrix = oracle(equations, module, state)
    found = torch.cat([b[0] for b in equations.apply(x)])
    torch.testing.assert_close(found, matrix @ x.reshape(-1), rtol=1e-11, atol=1e-11)
    values = torch.randn(len(matrix), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    parts = [p[None] for p in values.split([len(b[0]) for b in equations.apply(x)])]
    torch.testing.assert_close(
        equations.transpose(parts).reshape(-1), matrix.T @ values, rtol=1e-11, atol=1e-11
    )
    side = torch.cat([b[0] for b in equations.right_hand_side()])
    torch.testing.assert_close(side, matrix @ x.reshape(-1), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("output", [False, True])
def test_solution_and_rank_agree_with_the_dense_matrix(name, output):
    module, in_shape = CONVOLUTIONS[name]
    equations, x, state = make(module, in_shape, output=output)
    rank = int(torch.linalg.matrix_rank(oracle(equations, module, state), rtol=1e-9))
    solution = equations.solve()
    assert solution.rank == rank
    assert solution.determined == (rank == x.numel())
    assert solution.residual < 1e-12
    if solution.determined:
        torch.testing.assert_close(solution.x, x, rtol=1e-6, atol=1e-6)


def test_rank_of_a_system_too_large_to_count_is_estimated(monkeypatch):
    module = nn.Conv2d(4, 4, 2, stride=2)
    equations, x, _ = make(module, (4, 12, 12), output=False)
    exact = equations.solve()
    monkeypatch.setattr("attacks.exact.layers.system.DENSE_ENTRIES", 0)
    estimated = equations.solve()
    assert exact.rank < x.numel()
    assert abs(estimated.rank - exact.rank) < 0.1 * x.numel()
    assert not estimated.determined
    assert (exact.counted, estimated.counted) == (True, False)


@pytest.mark.parametrize("name", [n for n in CONVOLUTIONS if n not in ("linear", "same")])
def test_preconditioner_is_the_inverse_of_the_average_channel_block(name):
    module, in_shape = CONVOLUTIONS[name]
    equations, x, state = make(module, in_shape, masked=True)
    layer, places = equations.segment.maps[0], x[0, 0].numel()
    matrix = oracle(equations, module, state)
    normal = (matrix.T @ matrix).reshape(in_shape[0], places, in_shape[0], places)
    per_group = in_shape[0] // module.groups
    solve = convolution_preconditioner(layer, equations.signal, equations.weight, (1.0, 1.0))
    for group in range(module.groups):
        channels = range(group * per_group, (group + 1) * per_group)
        block = sum(normal[c, :, c] for c in channels) / per_group
        if float(torch.linalg.cond(block)) > 1e4:
            continue
        image = torch.zeros_like(x)
        image[0, group * per_group] = (block @ x[0, group * per_group].reshape(-1)).reshape(in_shape[1:])
        found = solve(image)[0, group * per_group]
        ratio = found / x[0, group * per_group]  # it may differ by one factor for each group
        assert float((ratio / ratio.mean() - 1).abs().max()) < 1e-2
