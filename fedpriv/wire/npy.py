"""Arrays in NumPy's own format, read so that neither their bytes nor their header can do harm.

Nothing is unpickled: arrays of objects are refused by their header. The header is compared with what is there
before memory is taken, so a file of a hundred bytes cannot ask for a terabyte.
"""

from __future__ import annotations

import io
import math
from typing import IO

import numpy as np
import torch

_KINDS = "fiub"
_LONGEST_HEADER = 1 << 16
_HALVES = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))


def read_npy(
    stream: IO[bytes], size: int, *, what: str, shape: tuple[int, ...] | None = None
) -> torch.Tensor:
    """Read one array in ``.npy`` format.

    Parameters
    ----------
    stream : binary file
        At the first byte of the array.
    size : int
        Bytes that belong to the array, its header included.
    what : str
        How error messages call the array.
    shape : tuple of int, optional
        The only shape that is accepted.

    Returns
    -------
    Tensor

    Raises
    ------
    ValueError
        If it is not such an array, holds objects, or its header does not fit `size` or `shape`.

    Examples
    --------
    >>> data = to_npy(torch.tensor(0.5))
    >>> read_npy(io.BytesIO(data), len(data), what="a number")
    tensor(0.5000)
    """
    dtype, found, fortran, offset = _header(stream, what)
    if dtype.hasobject or dtype.kind not in _KINDS or (dtype.kind == "f" and dtype not in _HALVES):
        raise ValueError(
            f"{what} must hold real or whole numbers of at most 64 bits, got {dtype}; convert it first "
            "(nothing is unpickled)"
        )
    if shape is not None and found != shape:
        raise ValueError(f"{what} must have shape {shape}, got {found}; it belongs to another model")
    wanted = math.prod(found) * dtype.itemsize
    if wanted != size - offset:
        raise ValueError(
            f"{what} announces {wanted} bytes of shape {found}, but {size - offset} follow; it was cut or "
            "changed"
        )
    data = stream.read(wanted)
    if len(data) != wanted:
        raise ValueError(f"{what} ends after {len(data)} of {wanted} bytes; it was cut off")
    flat = np.frombuffer(data, dtype=dtype.newbyteorder("<")).astype(dtype.newbyteorder("="))
    return torch.from_numpy(flat.reshape(found, order="F" if fortran else "C").copy())


def to_npy(tensor: torch.Tensor) -> bytes:
    """Return `tensor` in ``.npy`` format.

    Raises
    ------
    ValueError
        If NumPy has no such numbers (bfloat16).
    """
    if tensor.dtype == torch.bfloat16:
        raise ValueError("NumPy has no bfloat16, so such tensors cannot be written; use .float() first")
    buffer = io.BytesIO()
    np.save(buffer, tensor.detach().cpu().contiguous().numpy(), allow_pickle=False)
    return buffer.getvalue()


def _header(stream: IO[bytes], what: str) -> tuple[np.dtype[np.generic], tuple[int, ...], bool, int]:
    """Dtype, shape, order of storage, and the number of bytes that were read."""
    head = io.BytesIO(stream.read(10))
    try:
        version = np.lib.format.read_magic(head)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} of the format")
        wide = version == (2, 0)
        head = io.BytesIO(head.getvalue() + stream.read(2 if wide else 0))
        length = int.from_bytes(head.getvalue()[8:], "little")
        if length > _LONGEST_HEADER:
            raise ValueError(f"a header of {length} bytes")
        head = io.BytesIO(head.getvalue() + stream.read(length))
        head.seek(8)
        read = np.lib.format.read_array_header_2_0 if wide else np.lib.format.read_array_header_1_0
        shape, fortran, dtype = read(head)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"{what} must be an array as numpy.save writes it ({str(error).partition(chr(10))[0]:.120}); "
            "save it with numpy.save or numpy.savez"
        ) from error
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"{what} must have a shape of whole numbers, got {shape!s:.100}; it was changed")
    return dtype, tuple(shape), fortran, head.tell()
