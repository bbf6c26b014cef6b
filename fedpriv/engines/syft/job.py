"""What runs in the owner's subprocess: one request, on the private data set, without the owner's defenses.

The defenses act afterwards, in the owner's own process, before the result is shared: whoever wrote a job must
not be able to leave them out. Started as ``python -m fedpriv.engines.syft.job REPLY`` with the request as
text on standard input; see `fedpriv.engines.syft.review`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedpriv.engines.base import Request
from fedpriv.engines.syft.review import DATASET, read_body
from fedpriv.engines.text import reply_to_text
from fedpriv.training.clients import Client
from fedpriv.training.local import LocalTraining
from fedpriv.training.owners import Owners
from fedpriv.wire.records import context_of


def answer(program: dict[str, Any], request: Request, data: Path) -> str:
    """The reply to `request` on the arrays in the file `data`, as text."""
    model, loss_fn = context_of("the job", program, dict(request.state), None, None)
    with np.load(data, allow_pickle=False) as arrays:
        inputs, targets = (torch.from_numpy(arrays[name]) for name in ("inputs", "targets"))
    client = Client(name=request.client, inputs=inputs, targets=targets)
    training = LocalTraining(model=model, loss_fn=loss_fn, lr=1.0)  # the request brings the settings
    return reply_to_text(Owners(clients={client.name: client}, training=training).answer(request).reply)


def main() -> None:
    """Read the request, find the private file as PySyft gives it to a job, write the reply."""
    program, request = read_body(sys.stdin.read().strip("\n"))
    import syft

    data = Path(syft.resolve_dataset_file_path(DATASET))
    Path(sys.argv[1]).write_text(answer(program, request, data), encoding="utf-8")


if __name__ == "__main__":
    main()
