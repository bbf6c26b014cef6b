"""Oracle: every operation on pointers gives what plain torch gives, values and gradients."""
# mypy: disable-error-code="attr-defined, operator, union-attr, arg-type, call-overload, var-annotated"
# (the hook adds methods to torch while the tests run)

import pytest
import torch
from torch.nn import functional as F

from fedpriv.pointers import PointerTensor


def _x():
    return torch.linspace(-1.0, 2.0, 12).reshape(3, 4)


def _setitem(x):
    y = x.clone()
    y[0] = 5.0
    y[1, 2] = -1
    y[y > 1.5] = 0.5
    y[:, 1] = y[:, 0]
    return y


def _view_write(x):
    y = x * 1.0
    y.view(-1)[2:7].mul_(3.0)
    y[0].add_(1)
    return y


def _inplace_views(x):
    return (x * 1.0).t_().unsqueeze_(0).squeeze_().contiguous()


OPERATIONS = {
    "arithmetic": lambda x: (2 - x) * x / 3 + x**2 - 1,
    "compare": lambda x: (x > 0.5).float() * x + (x == x) * 2,
    "matmul": lambda x: x @ x.t(),
    "sum": lambda x: x.sum(dim=0) + x.mean(1, keepdim=True),
    "index": lambda x: x[1] + x[:, 1:2].sum() + x[[0, 2]][1] + x[..., None].squeeze(-1)[2],
    "mask": lambda x: x[x > 0.3],
    "index by local tensor": lambda x: x[torch.tensor([2, 0])],
    "setitem": _setitem,
    "write through view": _view_write,
    "in-place views": _inplace_views,
    "softmax": lambda x: F.softmax(x, dim=1).log(),
    "sort": lambda x: x.sort(dim=1, descending=True)[0] + x.max(dim=1, keepdim=True).values,
    "split": lambda x: torch.cat([part.exp() for part in x.split(2, dim=1)], 0),
    "stack": lambda x: torch.stack(list(x)).std(0),
    "where": lambda x: torch.where(x > 0, x.abs().sqrt(), -x),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=1) / x.norm(),
    "svd": lambda x: torch.linalg.svdvals(x),
    "pad": lambda x: F.pad(x, (1, 1)).cumsum(1),
    "cast": lambda x: x.double().to(torch.float32) + x.long(),
    "like": lambda x: torch.ones_like(x) * x + x.new_full((4,), 2.0),
    "iterate": lambda x: sum(row * i for i, row in enumerate(x)),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_operation_agrees_with_plain_torch(bob, operation):
    local = _x().requires_grad_()
    remote = _x().requires_grad_().send(bob)
    expected, answer = operation(local), operation(remote)
    assert isinstance(answer, PointerTensor)
    assert answer.shape == expected.shape
    assert answer.stride() == expected.stride()
    weights = torch.linspace(0.5, 1.0, expected.numel()).reshape(expected.shape)
    (expected * weights).sum().backward()
    (answer * weights.send(bob)).sum().backward()
    assert torch.equal(answer.get(), expected.detach())
    assert torch.equal(remote.grad.get(), local.grad)


def test_numbers_of_a_public_pointer_may_be_read(bob):
    x = torch.tensor([3.0, 4.0]).send(bob)
    assert x.norm().item() == 5.0
    assert float(x[0]) == 3.0
    assert bool(x[0] < x[1])
    assert int(x.argmax()) == 1
    assert f"{x.sum():.2f}" == "7.00"
    assert torch.equal(x, x.clone())


def test_aliases_share_the_remote_storage(bob):
    x = torch.zeros(2, 3).send(bob)
    x.data[0, 0] = 1
    x.detach()[0, 1] = 2
    x.view(6)[5:].fill_(3)
    assert x.copy().get().tolist() == [[1, 2, 0], [0, 0, 3]]
    same = x
    same += 1
    assert same is x
    x.data = torch.ones(2, 3).send(bob)
    assert x.get().sum() == 6


def test_the_sent_tensor_is_copied(bob):
    x = torch.zeros(3)
    pointer = x.send(bob)
    pointer.add_(1)
    assert x.tolist() == [0, 0, 0]
    value = pointer.copy().get()
    pointer.add_(1)
    assert value.tolist() == [1, 1, 1]


def test_retain_graph_no_grad_and_second_derivatives(bob):
    def play(x):
        y = (x**3).sum()
        y.backward(retain_graph=True)
        y.backward()
        (first,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        with torch.no_grad():
            x.mul_(2)
        return x.grad, second, x.detach()

    local = play(_x().requires_grad_())
    remote = play(_x().requires_grad_().send(bob))
    for mine, theirs in zip(remote, local, strict=True):
        assert torch.equal(mine.get(), theirs)


def test_get_keeps_leaves_and_detaches_results(bob):
    x = torch.ones(2, requires_grad=True).send(bob)
    y = x * 2
    y.sum().backward()
    assert not y.get().requires_grad
    value = x.get()
    assert type(value) is torch.Tensor
    assert value.requires_grad
    assert value.grad.tolist() == [2, 2]


def test_send_takes_any_dtype_and_layout(bob):
    for value in (
        torch.tensor(3),
        torch.empty(0, 2),
        torch.ones(2, 3).t(),
        torch.arange(6)[::2],
        torch.tensor([True]),
        torch.ones(1, dtype=torch.float16),
        torch.ones(2, dtype=torch.complex64),
        torch.ones(1).expand(3),
    ):
        assert torch.equal(value.send(bob).get(), value)
    with pytest.raises(ValueError, match=r"dense tensors, got layout torch\.sparse_coo"):
        torch.eye(2).to_sparse().send(bob)
