"""Between Flower's array records and named parameters, with checks."""

from __future__ import annotations

import torch
from flwr.app import Array, ArrayRecord, RecordDict

from fedpriv.wire import Tensors
from fedpriv.wire.loaders import from_array_record
from fedpriv.wire.npy import to_npy


def to_record(tensors: Tensors) -> ArrayRecord:
    """Named tensors as a Flower record; 0-d and non-contiguous tensors too.

    Parameters
    ----------
    tensors : mapping of str to Tensor

    Returns
    -------
    flwr.app.ArrayRecord

    Raises
    ------
    ValueError
        If NumPy has no such numbers (bfloat16).

    Examples
    --------
    >>> import torch
    >>> from_record(to_record({"scale": torch.tensor(0.5)}))["scale"]
    tensor(0.5000)
    """
    arrays = {}
    for name, tensor in tensors.items():
        try:
            data = to_npy(tensor)
        except ValueError as error:
            raise ValueError(f"{name!r} cannot be sent by Flower: {error}") from error
        dtype = str(tensor.dtype).removeprefix("torch.")
        arrays[name] = Array(
            dtype=dtype, shape=tuple(int(n) for n in tensor.shape), stype="numpy.ndarray", data=data
        )
    return ArrayRecord(arrays)


def from_record(
    record: ArrayRecord, layout: Tensors | None = None, *, what: str = "the record"
) -> dict[str, torch.Tensor]:
    """A Flower record as named tensors.

    Parameters
    ----------
    record : flwr.app.ArrayRecord
        With the names of a state dict, or with the numbers that Flower gives to a list of arrays.
    layout : mapping of str to Tensor, optional
        The names, shapes and order that the record must have, for example ``model.state_dict()``.
    what : str
        How error messages call the record.

    Returns
    -------
    dict of str to Tensor
        Copies, in the order of `layout`.

    Raises
    ------
    ValueError
        If names or shapes differ, an array is damaged or not of numbers, or a value is NaN or infinite.
    """
    return from_array_record(record, layout, what=what)


def only_record(content: RecordDict, key: str | None, what: str) -> ArrayRecord:
    """The record of arrays in a message: the one called `key`, or the only one.

    Raises
    ------
    ValueError
        If there is none, or several and none of that name.
    """
    records = dict(content.array_records)
    if key is not None and key in records:
        return records[key]
    if len(records) != 1:
        raise ValueError(
            f"{what} must hold one record of arrays, got {sorted(records)}; name it with arrays_key=..."
        )
    return next(iter(records.values()))
