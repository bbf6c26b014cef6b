"""Fixtures: a hook that is undone after each test, and two workers."""

import pytest
import torch

from fedpriv.pointers import TorchHook, VirtualWorker


@pytest.fixture(autouse=True)
def one_thread():
    """Keep tiny operations from waiting for threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def hook():
    with TorchHook(torch) as hook:
        yield hook
    assert not hasattr(torch.Tensor, "send")


@pytest.fixture
def bob(hook):
    return VirtualWorker(hook, id="bob")


@pytest.fixture
def alice(hook):
    return VirtualWorker(hook, id="alice")
