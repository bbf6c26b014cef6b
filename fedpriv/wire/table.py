"""How the columns of a table become the numbers that a model reads: public, because every client must agree.

A server that trains a model on tables has to tell its clients which columns there are, in which order their
values stand in a one-hot group, and by which numbers continuous columns are shifted and scaled. So an attack
may know it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import accumulate
from reprlib import repr as brief  # a hostile value can be long or deep
from typing import Any, TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Categorical:
    """A column with a few named values, encoded as one-hot.

    Parameters
    ----------
    name : str
    values : tuple of str
        At least two different ones, in the order of the encoding.
    """

    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the values."""
        _check_name(self.name)
        values = self.values if isinstance(self.values, list | tuple) else ()
        if not all(isinstance(value, str) for value in values):
            raise ValueError(f"column {self.name!r:.80} needs values that are text, got {brief(values)}")
        object.__setattr__(self, "values", tuple(values))
        if len(self.values) < 2 or len(set(self.values)) != len(self.values):
            raise ValueError(
                f"column {self.name!r:.80} needs at least two different values, got {brief(self.values)}; "
                f"leave out a column that is the same for everybody"
            )


@dataclass(frozen=True, kw_only=True)
class Continuous:
    """A column of numbers, encoded as ``(value - mean) / std``.

    Parameters
    ----------
    name : str
    low, high : float
        The range, in units of the column.
    mean, std : float
        By which the clients shift and scale.
    """

    name: str
    low: float
    high: float
    mean: float
    std: float

    def __post_init__(self) -> None:
        """Check the range."""
        _check_name(self.name)
        numbers = (self.low, self.high, self.mean, self.std)
        if not (all(map(_is_real, numbers)) and self.low < self.high and self.std > 0 and self._encodable):
            raise ValueError(
                f"column {self.name!r:.80} needs finite low < high and a positive std, of comparable sizes, "
                f"got (low, high, mean, std) = {brief(numbers)}"
            )

    @property
    def _encodable(self) -> bool:
        """Whether both ends of the range are float32 numbers after shifting and scaling, and differ."""
        low, high = ((end - self.mean) / self.std for end in (self.low, self.high))
        return max(abs(low), abs(high)) < 1e30 and high - low > 0


Column: TypeAlias = Categorical | Continuous
Cell: TypeAlias = str | float


@dataclass(frozen=True)
class TableSchema:
    """The columns of a table, in the order of their encoding.

    Parameters
    ----------
    columns : tuple of Categorical or Continuous

    Examples
    --------
    >>> schema = TableSchema(
    ...     (
    ...         Categorical(name="sex", values=("female", "male")),
    ...         Continuous(name="age", low=0, high=100, mean=40, std=20),
    ...     )
    ... )
    >>> schema.encode([("male", 60.0)])
    tensor([[0., 1., 1.]])
    >>> schema.decode(torch.tensor([[0.2, 0.7, 9.0]]))
    [('male', 100.0)]
    """

    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        """Check that there are columns and that their names differ."""
        object.__setattr__(self, "columns", tuple(self.columns))
        if not self.columns or not all(isinstance(c, Categorical | Continuous) for c in self.columns):
            raise ValueError("columns must be a non-empty sequence of Categorical and Continuous columns")
        if len({c.name for c in self.columns}) != len(self.columns):
            raise ValueError(f"two columns have the same name: {brief([c.name for c in self.columns])}")

    @cached_property
    def places(self) -> tuple[slice, ...]:
        """Where each column stands in an encoded row."""
        widths = [len(c.values) if isinstance(c, Categorical) else 1 for c in self.columns]
        return tuple(slice(end - width, end) for end, width in zip(accumulate(widths), widths, strict=True))

    @property
    def width(self) -> int:
        """Numbers in an encoded row."""
        return int(self.places[-1].stop)

    @property
    def groups(self) -> tuple[slice, ...]:
        """The places of the one-hot groups."""
        pairs = zip(self.columns, self.places, strict=True)
        return tuple(place for column, place in pairs if isinstance(column, Categorical))

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The places of the continuous columns."""
        pairs = zip(self.columns, self.places, strict=True)
        return tuple(place.start for column, place in pairs if isinstance(column, Continuous))

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest encoded value of each continuous column, two float64 tensors."""
        columns = [c for c in self.columns if isinstance(c, Continuous)]
        low = torch.tensor([(c.low - c.mean) / c.std for c in columns], dtype=torch.float64)
        high = torch.tensor([(c.high - c.mean) / c.std for c in columns], dtype=torch.float64)
        return low, high

    def encode(self, rows: Sequence[Sequence[Cell]]) -> Tensor:
        """Rows of cells, one for each column, as float32 of shape (n, width).

        Raises
        ------
        ValueError
            If a row has another length, or a cell is not one of its column's values.
        """
        encoded = torch.zeros(len(rows), self.width)
        for index, row in enumerate(rows):
            if len(row) != len(self.columns):
                raise ValueError(f"expected {len(self.columns)} cells in row {index}, got {len(row)}")
            for column, place, cell in zip(self.columns, self.places, row, strict=True):
                if isinstance(column, Continuous):
                    encoded[index, place] = (float(cell) - column.mean) / column.std
                elif cell in column.values:
                    encoded[index, place.start + column.values.index(str(cell))] = 1.0
                else:
                    raise ValueError(
                        f"row {index} has {cell!r} in column {column.name!r}, "
                        f"whose values are {column.values}"
                    )
        return encoded

    def nearest(self, inputs: Tensor) -> Tensor:
        """Valid rows nearest to `inputs` (..., width): one 1 in each group, numbers inside their range."""
        self._check(inputs)
        result = inputs.detach().clone()
        for group in self.groups:
            chosen = inputs[..., group].argmax(-1, keepdim=True)
            result[..., group] = torch.zeros_like(inputs[..., group]).scatter_(-1, chosen, 1.0)
        low, high = (bound.to(inputs) for bound in self.bounds)
        where = list(self.numbers)
        result[..., where] = inputs[..., where].detach().maximum(low).minimum(high)
        return result

    def decode(self, inputs: Tensor) -> list[tuple[Cell, ...]]:
        """The cells of encoded rows (n, width), valid or nearly so."""
        rows = self.nearest(inputs).double()
        decoded = []
        for row in rows:
            cells: list[Cell] = []
            for column, place in zip(self.columns, self.places, strict=True):
                if isinstance(column, Categorical):
                    cells.append(column.values[int(row[place].argmax())])
                else:
                    cells.append(float(row[place]) * column.std + column.mean)
            decoded.append(tuple(cells))
        return decoded

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Valid rows (count, width) in float64: all values of a column as likely, numbers normal.

        What someone tries who knows the columns and nothing of how often their values occur.
        """
        drawn = torch.randn(count, self.width, generator=generator, dtype=torch.float64)
        return self.nearest(drawn)  # of equally distributed numbers each is as often the largest

    def to_json(self) -> list[dict[str, Any]]:
        """The columns as plain JSON values."""
        return [asdict(column) for column in self.columns]

    @classmethod
    def from_json(cls, values: Any) -> TableSchema:
        """Read back what `to_json` wrote; a ``ValueError`` names what does not belong there."""
        if not isinstance(values, list) or not all(isinstance(column, dict) for column in values):
            raise ValueError(f"a table must be a list of objects, one a column, got {brief(values)}")
        columns: list[Column] = []
        for column in values:
            kind = Categorical if "values" in column else Continuous
            if set(column) != {field.name for field in fields(kind)}:
                raise ValueError(
                    f"a column has the keys name and values, or name, low, high, mean and std, "
                    f"got {brief(list(column))}"
                )
            columns.append(kind(**column))
        return cls(tuple(columns))

    def _check(self, inputs: Tensor) -> None:
        if inputs.dim() < 1 or inputs.shape[-1] != self.width or not inputs.is_floating_point():
            raise ValueError(
                f"expected encoded rows of {self.width} numbers each, "
                f"got a tensor of shape {tuple(inputs.shape)} and type {inputs.dtype}"
            )


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"a column needs a name, got {brief(name)}")


def _is_real(value: object) -> bool:
    """Whether `value` is a finite number (and no whole number too large to become one)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
