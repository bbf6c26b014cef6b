"""A model, its data and its gradient, as somebody brings them from other software."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

LR = 0.1


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 5)
        )


def net(seed=0):
    torch.manual_seed(seed)
    return Net()


def batch(n=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n) % 5


def gradient(model, data=None):
    inputs, labels = data or batch()
    loss = cross_entropy(model(inputs), labels)
    return dict(
        zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True)
    )


def after(model, data=None):
    step = gradient(model, data)
    return {name: (p - LR * step[name]).detach() for name, p in model.named_parameters()}


def arrays(tensors, prefix=""):
    return {prefix + name: tensor.detach().numpy() for name, tensor in tensors.items()}


def good():
    return arrays(gradient(net()))


def spoil(step, name, change):
    return {n: change(t) if n == name else t for n, t in step.items()}


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))
