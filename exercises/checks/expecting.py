"""Sentences for answers of a wrong kind, and for answers that are wrong in a known way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import fedpriv


def what(found: object) -> str:
    """Name what came, with what is usually the reason."""
    if found is None:
        return "None: is there a return?"
    if callable(found):
        return "a function: call it, with ( )"
    kind = type(found).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def tensor(found: object, shape: Sequence[int] | None = None, of: str = "") -> Tensor:
    """Return `found` if it is a tensor of numbers, here, of this shape."""
    if isinstance(found, (list, tuple)):
        several = any(isinstance(item, Tensor) for item in found)
        hint = "put them into one with torch.stack" if several else "make one with torch.tensor"
        raise AssertionError(f"expected a Tensor{of}, got {what(found)}: {hint}")
    assert isinstance(found, Tensor), f"expected a Tensor{of}, got {what(found)}"
    assert not isinstance(found, fedpriv.PointerTensor), "the result is still at a worker: get it"
    if shape is not None:
        assert found.shape == tuple(shape), (
            f"expected shape {tuple(shape)}{of}, got shape {tuple(found.shape)}"
        )
    return found.detach()


def number(found: object) -> float:
    """Return `found` if it is one number: of Python, or a tensor with one element."""
    if isinstance(found, Tensor):
        found = tensor(found)
        assert found.numel() == 1, f"expected one number, got a Tensor of shape {tuple(found.shape)}"
        found = found.item()
    assert isinstance(found, (int, float)), f"expected one number, got {what(found)}"
    assert not isinstance(found, bool), f"expected one number, got {found}"
    assert found == found, "got NaN, not a number"
    return float(found)


def integer(found: object) -> int:
    """Return `found` if it is an integer: of Python, or a tensor of integers with one element."""
    if isinstance(found, Tensor):
        found = tensor(found)
        assert found.numel() == 1, f"expected one int, got a Tensor of shape {tuple(found.shape)}"
        found = found.item()
    assert not isinstance(found, float), f"expected an int, got {found:.4g}, a float: round it, then int()"
    assert isinstance(found, int), f"expected an int, got {what(found)}"
    assert not isinstance(found, bool), f"expected an int, got {found}"
    return found


def integers(found: object) -> list[int]:
    """Return `found` as a list if it lists integers; a tensor of them will do."""
    if isinstance(found, Tensor):
        found = tensor(found)
        assert found.dim() == 1, f"expected a list of int, got a Tensor of shape {tuple(found.shape)}"
        found = found.tolist()
    assert isinstance(found, (list, tuple)), f"expected a list of int, got {what(found)}" + (
        ": use sorted()" if isinstance(found, set) else ""
    )
    assert not found or not all(isinstance(item, bool) for item in found), (
        "got truth values, not indices: nonzero() says where they are true"
    )
    return [integer(item) for item in found]


def truths(found: object, shape: Sequence[int], each: str) -> Tensor:
    """Return `found` if it is a tensor of truth values of this shape."""
    wanted = f"expected {torch.Size(shape).numel()} truth values (bool), one for each {each}"
    if isinstance(found, (list, tuple)):
        raise AssertionError(f"{wanted}, got {what(found)}: make a Tensor with torch.tensor")
    assert isinstance(found, Tensor), f"{wanted}, got {what(found)}"
    kind = str(found.dtype).removeprefix("torch.")
    indices = ": indices? Return the comparison itself" if found.dtype == torch.int64 else ""
    assert found.dtype == torch.bool, f"{wanted}, got shape {tuple(found.shape)}, {kind}{indices}"
    assert found.shape == tuple(shape), f"{wanted}, got shape {tuple(found.shape)}"
    return found


def update(found: object, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `found` if it has a tensor of the right shape for every name of `like`."""
    assert isinstance(found, Mapping), f"expected a dictionary from names to tensors, got {what(found)}"
    assert found.keys() == like.keys(), f"expected the names {sorted(like)}, got {sorted(map(str, found))}"
    return {name: tensor(found[name], like[name].shape, f" for {name!r}") for name in like}


def close(found: Any, expected: Any, atol: float = 1e-6) -> bool:
    """Tell whether numbers, tensors or updates are the same up to rounding."""
    if isinstance(expected, Mapping):
        return all(close(found[name], expected[name], atol) for name in expected)
    a, b = (torch.as_tensor(item).double() for item in (found, expected))
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=atol)


def none_of(found: Any, mistakes: Iterable[tuple[Any, str]], right: Any, atol: float = 1e-6) -> None:
    """Fail with the sentence of the mistake that gives `found`, unless the right answer is the same."""
    for wrong, sentence in mistakes:
        assert close(found, right, atol) or not close(found, wrong, atol), sentence


def show(numbers: Any) -> str:
    """Write numbers for a reader, with four digits."""
    if isinstance(numbers, Tensor):
        numbers = numbers.detach().tolist()
    if isinstance(numbers, (list, tuple)):
        return "[" + ", ".join(show(item) for item in numbers) + "]"
    return f"{numbers:.4g}"
