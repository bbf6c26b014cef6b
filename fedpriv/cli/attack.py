"""``fedpriv attack``: from a saved file to a reconstruction on disk."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpriv.cli.output import to_jsonable

if TYPE_CHECKING:
    from attacks import Reconstruction
    from fedpriv.wire import Observation, Transcript


def attack_file(
    file: Path, *, client: str | None, out: Path, time_budget: float
) -> tuple[dict[str, Any], str]:
    """Attack a saved transcript or observation and write what came out.

    Parameters
    ----------
    file : Path
        What `Transcript.save` or `Observation.save` wrote.
    client : str or None
        Whose data to reconstruct.
    out : Path
        Folder for ``NAME-reconstruction.json`` and ``.npz``.
    time_budget : float
        In seconds.

    Returns
    -------
    result : dict
        Everything known about the reconstruction, for JSON.
    text : str
        The same for a reader.
    """
    import attacks
    from fedpriv.wire import Observation

    seen = load(file)
    if isinstance(seen, Observation) and client not in (None, seen.update.sender):
        raise ValueError(
            f"expected --client {seen.update.sender}, or none, for {file} holds one update of that sender, "
            f"got {client!r}"
        )
    rec = attacks.reconstruct(seen, client=client, time_budget=time_budget)
    out.mkdir(parents=True, exist_ok=True)
    stem = out / "-".join(_plain(part) for part in (file.stem, client, "reconstruction") if part)
    files = [str(stem.with_name(stem.name + suffix)) for suffix in (".json", ".npz")]
    result = {"file": str(file), "client": client, **_describe(rec), "files": files}
    Path(files[0]).write_text(json.dumps(to_jsonable(result), indent=2) + "\n", encoding="utf-8")
    _write_arrays(rec, Path(files[1]))
    return result, _report(rec)


def load(file: Path) -> Transcript | Observation:
    """Read a transcript or an observation, whichever `file` holds."""
    from fedpriv.wire import Observation, Transcript

    return Observation.load(file) if _content(file) == "observation" else Transcript.load(file)


def _content(file: Path) -> str | None:
    """Return what the header says the file holds; None if damaged, of which `Transcript.load` says more."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as opened:
            header = json.loads((opened.metadata() or {})["fedpriv"])
        return str(header["content"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None


def _describe(rec: Reconstruction) -> dict[str, Any]:
    names = (
        "method",
        "citation",
        "num_samples",
        "residual",
        "certified",
        "inputs",
        "targets",
        "notes",
        "seconds",
    )
    return {name: getattr(rec, name) for name in names}


def _write_arrays(rec: Reconstruction, path: Path) -> None:
    import numpy as np

    tensors = {"inputs": rec.inputs, "targets": rec.targets, "certified": rec.certified}
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items() if tensor is not None}
    with path.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def _report(rec: Reconstruction) -> str:
    shape = " × ".join(map(str, rec.inputs.shape[1:])) or "one number"
    lines = [
        f"{len(rec.inputs)} of {rec.num_samples} samples ({shape} each) in {rec.seconds:.2f} s",
        f"certified: {int(rec.certified.sum())} (the replay matches and no other data would match)",
        f"residual:  {rec.residual:.1e} (relative distance of the replayed update from the observed one)",
        f"method:    {rec.method}",
        f"paper:     {rec.citation}",
    ]
    return "\n".join([*lines, *(f"note:      {note}" for note in rec.notes)])


def _plain(name: str) -> str:
    """Return a client's name as a part of a file name."""
    return re.sub(r"[^\w.-]+", "_", name)
