"""Facts about ATen operations that privacy depends on: what they write, and what they reveal."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Operation", "operation"]

# The values of the result depend on the shape of the operand only.
_SHAPE_ONLY = frozenset(
    {
        "aten::zeros_like",
        "aten::ones_like",
        "aten::full_like",
        "aten::rand_like",
        "aten::randn_like",
        "aten::randint_like",
        "aten::new_zeros",
        "aten::new_ones",
        "aten::new_full",
    }
)
# Return numbers that depend on shapes and dtypes only.
_METADATA = frozenset({"aten::is_same_size", "aten::is_pinned", "aten::_fused_sdp_choice"})
# Write to running statistics (positions 3 and 4) when training (position 5), without saying so in the schema.
_HIDDEN_WRITES = frozenset({"aten::native_batch_norm", "aten::cudnn_batch_norm", "aten::miopen_batch_norm"})


@dataclass(frozen=True)
class Operation:
    """What is known of one operation before it runs.

    Attributes
    ----------
    name
        Qualified name without overload, as in ``aten::mean``.
    writes
        Positions and names of the arguments that it changes in place.
    shape_only
        Whether the result depends on the operands' shapes only.
    reads_out
        Whether it hands numbers, not tensors, to the caller.
    shapes_from_values
        Whether the shape of its result depends on values.
    """

    name: str
    writes: tuple[tuple[int, str], ...]
    shape_only: bool
    reads_out: bool
    shapes_from_values: bool

    def written(self, args: Any, kwargs: Any) -> list[torch.Tensor]:
        """List the tensors among the actual arguments that this operation changes.

        Parameters
        ----------
        args, kwargs
            The arguments of the call.

        Returns
        -------
        list of Tensor
            Changed in place by the call.
        """
        found: list[torch.Tensor] = []
        for position, name in self.writes:
            value = args[position] if position < len(args) else kwargs.get(name)
            items = value if isinstance(value, (list, tuple)) else (value,)
            found.extend(item for item in items if isinstance(item, torch.Tensor))
        if self.name in _HIDDEN_WRITES and len(args) > 5 and args[5]:
            found.extend(item for item in args[3:5] if isinstance(item, torch.Tensor))
        return found


@functools.cache
def operation(op: Any) -> Operation:
    """Look up the facts about an operation.

    Parameters
    ----------
    op
        A ``torch._ops.OpOverload``.

    Returns
    -------
    Operation
        Its facts, cached.

    Examples
    --------
    >>> operation(torch.ops.aten.add_.Tensor).writes
    ((0, 'self'),)
    >>> operation(torch.ops.aten._local_scalar_dense.default).reads_out
    True
    """
    schema = op._schema
    name = str(schema.name)
    writes = tuple(
        (position, str(argument.name))
        for position, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )
    numbers = any("Tensor" not in str(item.type) for item in schema.returns)
    tags = set(op.tags)
    return Operation(
        name=name,
        writes=writes,
        shape_only=name in _SHAPE_ONLY,
        reads_out=numbers and name not in _METADATA and not name.startswith("aten::_scaled_dot_product"),
        shapes_from_values=bool(tags & {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}),
    )
