"""Samples of the user's own: inputs and targets from one file, nothing unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

INPUTS = ("inputs", "x", "X", "data", "images", "x_train")
TARGETS = ("targets", "y", "Y", "labels", "target", "y_train")
LARGEST = 2**33
"""Bytes of an array; an audit needs a few hundred samples."""


def load_samples(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Read inputs (N, *shape) and targets (N, ...) from ``numpy.savez`` or safetensors.

    Parameters
    ----------
    path : Path
        Arrays called inputs or x, and targets or y (or labels), one sample a row. Inputs of bytes are divided
        by 255.

    Returns
    -------
    inputs : Tensor of shape (N, *shape), float32
    targets : Tensor of shape (N, ...)
        Float32 or int64.

    Raises
    ------
    ValueError
        If there is no such file, it is damaged, or the arrays are not there or do not fit each other.
    """
    import torch

    inputs, targets = (_read(path, names) for names in (INPUTS, TARGETS))
    if inputs.dim() == 0 or targets.dim() == 0 or len(inputs) != len(targets):
        raise ValueError(
            f"{path} must hold one target for each sample, got inputs {tuple(inputs.shape)} and targets "
            f"{tuple(targets.shape)}"
        )
    inputs = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs.float()
    if not inputs.isfinite().all() or not targets.isfinite().all():
        raise ValueError(f"{path} must hold finite numbers, got NaN or infinity; clean the data first")
    return inputs, targets.float() if targets.is_floating_point() else targets.long()


def _read(path: Path, names: tuple[str, ...]) -> torch.Tensor:
    """The array that has one of these names."""
    from safetensors import SafetensorError, safe_open

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
                return _read_entry(archive, entries[_chosen(path, names, entries)])
        with safe_open(str(path), framework="pt") as opened:
            stored = opened.keys()
            found: torch.Tensor = opened.get_tensor(_chosen(path, names, stored))
            return found
    except (SafetensorError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError(
            f"expected a file of numpy.savez or safetensors, got {path} ({error}); save it with "
            "numpy.savez(path, inputs=..., targets=...)"
        ) from error


def _chosen(path: Path, names: tuple[str, ...], stored: Iterable[str]) -> str:
    found = [name for name in names if name in stored]
    if not found:
        raise ValueError(
            f"{path} must hold arrays called inputs and targets (or x and y), got {sorted(stored)[:8]}; save "
            "it with numpy.savez(path, inputs=..., targets=...)"
        )
    return found[0]


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> torch.Tensor:
    from fedpriv.wire.npy import read_npy

    if entry.file_size > LARGEST:
        raise ValueError(
            f"{entry.filename} announces {entry.file_size:,} bytes, expected at most {LARGEST:,}; use a part"
        )
    with archive.open(entry) as stream:
        return read_npy(stream, entry.file_size, what=entry.filename)
