"""``fedpriv attack``: from a saved file to a reconstruction on disk."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpriv.cli.output import to_jsonable
from fedpriv.cli.pictures import draw_images
from fedpriv.cli.reconstruction import report

if TYPE_CHECKING:
    from attacks import Reconstruction
    from fedpriv.cli.fit import Fit
    from fedpriv.wire import Observation, Transcript


def attack_file(
    file: Path,
    *,
    client: str | None,
    out: Path,
    time_budget: float,
    model: str | None = None,
    loss: str | None = None,
    before: Path | None = None,
    lr: float | None = None,
    local_steps: int | None = None,
    input_shape: str | None = None,
    num_samples: int | None = None,
    no_check: bool = False,
) -> tuple[dict[str, Any], str]:
    """Attack a saved transcript or observation and write what came out.

    Parameters
    ----------
    file : Path
        What `Transcript.save` or `Observation.save` wrote, or arrays of the user's own.
    client : str or None
        Whose data to reconstruct.
    out : Path
        Folder for ``NAME-reconstruction.json``, ``.npz`` and, for images, ``.png``.
    time_budget : float
        In seconds.
    model, loss : str or None
        ``module:factory``, and the name of a loss or ``module:function``.
    before : Path or None
        The model as it was sent, if `file` is a returned model.
    lr, local_steps, input_shape, num_samples
        What is known; written over what the file declares.
    no_check : bool
        Whether to leave out the replay check.

    Returns
    -------
    result : dict
        Everything known about the reconstruction, for JSON.
    text : str
        The same for a reader.
    """
    import attacks
    from fedpriv.cli.own import has_weights_of_model, in_options, knowledge_from
    from fedpriv.cli.shape import demand_shape
    from fedpriv.wire import Observation

    known = knowledge_from(lr, local_steps, input_shape, num_samples)
    seen = load(file, before=before, model=model, loss=loss, known=known)
    if isinstance(seen, Observation) and client not in (None, seen.update.sender):
        raise ValueError(
            f"expected --client {seen.update.sender}, or none, for {file} holds one update of that sender, "
            f"got {client!r}"
        )
    if input_shape is not None:
        demand_shape(seen.model, seen.knowledge.input_shape or ())
    fit = None if no_check else _checked(seen, client)
    try:
        rec = attacks.reconstruct(seen, client=client, time_budget=time_budget)
    except attacks.NotIdentifiable as refusal:
        raise ValueError(in_options(str(refusal))) from refusal
    files = _files(rec, out, file, client)
    result = {
        "file": str(file),
        "client": client,
        **_describe(rec),
        "replay_check": None if fit is None else fit.parameters,
        "files": files,
    }
    Path(files[0]).write_text(json.dumps(to_jsonable(result), indent=2) + "\n", encoding="utf-8")
    doubt = ""
    if isinstance(seen, Observation) and _content(file) is None:  # a file of the user's own
        doubt = _doubt(weightless=before is None and has_weights_of_model(seen))
    notes = [in_options(note) for note in (*(fit.notes if fit else ()), *rec.notes)]
    return result, report(rec, notes, files[1], doubt=doubt)


def _checked(seen: Transcript | Observation, client: str | None) -> Fit:
    """The replay check of the last visit; a ``ValueError`` names the parameter that disagrees."""
    from fedpriv.cli.fit import check_fit
    from fedpriv.wire import Observation

    visits = [seen] if isinstance(seen, Observation) else seen.observations(client)
    if not visits:
        raise ValueError(f"nothing of {client!r} alone crossed the wire; attack 'aggregator' instead")
    fit = check_fit(visits[-1])
    fit.demand()
    return fit


def load(
    file: Path,
    *,
    before: Path | None = None,
    model: str | None = None,
    loss: str | None = None,
    known: dict[str, object] | None = None,
) -> Transcript | Observation:
    """Read a transcript, an observation, or arrays of the user's own, whichever `file` holds."""
    from fedpriv.cli.own import named, own_observation, with_knowledge
    from fedpriv.wire import Observation, Transcript

    content = _content(file)
    if content is None and (file.suffix != ".safetensors" or model is not None):
        return own_observation(file, before=before, model=model, loss=loss, known=known or {})
    if before is not None:
        raise ValueError(f"{file} was saved by fedpriv and holds the model that was sent; leave out --before")
    net, loss_fn = named(model, loss)
    reader = Observation if content == "observation" else Transcript
    return with_knowledge(reader.load(file, model=net, loss_fn=loss_fn), known or {})


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


def _files(rec: Reconstruction, out: Path, file: Path, client: str | None) -> list[str]:
    """Names for the JSON, which is not written yet, the arrays, and for images the picture."""
    out.mkdir(parents=True, exist_ok=True)
    stem = "-".join(_plain(part) for part in (file.stem, client, "reconstruction") if part)
    described, arrays, picture = (out / f"{stem}{suffix}" for suffix in (".json", ".npz", ".png"))
    _write_arrays(rec, arrays)
    drawn = draw_images(rec.inputs, picture)
    return [str(path) for path in (described, arrays, drawn) if path]


def _write_arrays(rec: Reconstruction, path: Path) -> None:
    import numpy as np

    tensors = {"inputs": rec.inputs, "targets": rec.targets, "certified": rec.certified}
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items() if tensor is not None}
    with path.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def _doubt(*, weightless: bool) -> str:
    """What is most likely wrong with a file of the user's own if no replay comes near it."""
    if weightless:
        return (
            "The commonest reason: this model does not have the weights at which the gradient was computed. "
            "Put them into the file as before/NAME, or let --model load them."
        )
    return "Are the saved weights, --loss, --lr and --local-steps right, and was nothing added to the update?"


def _plain(name: str) -> str:
    """Return a client's name as a part of a file name."""
    return re.sub(r"[^\w.-]+", "_", name)
