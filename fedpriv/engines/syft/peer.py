"""One owner and one server on PySyft's mock of a shared drive, kept quiet and reconnected when needed."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fedpriv
from fedpriv.engines.syft.review import DATASET
from fedpriv.training.clients import Client

_ENVIRONMENT = {"PRE_SYNC": "false"}  # else every look at a list of jobs syncs by itself


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the server sees of a job after both sides have synced.

    Parameters
    ----------
    status : str
        PySyft's word for it: ``"done"``, ``"rejected"``, ``"failed"``, ``"pending"``, ...
    reason : str
        What the owner wrote when it decided.
    files : dict of str to bytes
        The outputs that it can read.
    """

    status: str
    reason: str
    files: dict[str, bytes]


class Peer:
    """The two ends of one federation of PySyft: `owner` holds the data, `server` sends jobs.

    Parameters
    ----------
    client : Client
        Whose data it is.
    mock : (Tensor, Tensor)
        What everybody may see instead of the data.
    jobs_per_connection : int
        After so many jobs the pair is connected anew: PySyft reads its whole history in every sync, so that
        rounds become slower and slower.
    """

    def __init__(
        self, client: Client, mock: tuple[torch.Tensor, torch.Tensor], *, jobs_per_connection: int
    ) -> None:
        self.client, self.mock = client, mock
        self._jobs_per_connection = jobs_per_connection
        self._folder: Path | None = None
        self._count = 0

    def submit(self, script: str) -> str:
        """Server: send a job; its name."""
        if self._folder is None or self._count % self._jobs_per_connection == 0:
            self.connect()
        self._count += 1
        name = f"job-{self._count}"
        with quiet(), transport():
            self.server.submit_bash_job(self.owner.email, script, job_name=name)
        return name

    def received(self, name: str) -> Any:
        """Owner: the job of that name."""
        with quiet(), transport():
            self.owner.sync()
            return self.owner.jobs[name]

    def decide(self, job: Any, *, refused: str = "") -> None:
        """Owner: approve a job, or reject it with the reason."""
        with quiet(), transport():
            if refused:
                job.reject(refused)
            else:
                job.approve()

    def deposit(self, job: Any, file: str, text: str) -> None:
        """Owner: answer an approved job with a text that was computed here."""
        with tempfile.TemporaryDirectory() as folder, quiet(), transport():
            path = Path(folder) / file
            path.write_text(text, encoding="utf-8")
            job.accept_by_depositing_result(str(path))

    def execute(self, job: Any, *, timeout: int) -> Path:
        """Owner: run an approved job as a subprocess; its outputs, which nobody else sees yet."""
        package = str(Path(fedpriv.__file__).parents[1])
        paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        with quiet({"FEDPRIV_PYTHON": sys.executable, "PYTHONPATH": paths}), transport():
            self.owner.process_approved_jobs(stream_output=False, timeout=timeout)
        return Path(job.job_review_path) / "outputs"

    def replace_outputs(self, job: Any, file: str, text: str) -> None:
        """Owner: put one text in the place of everything that a job left."""
        from syft_permissions.spec.ruleset import PERMISSION_FILE_NAME

        outputs = Path(job.job_review_path) / "outputs"
        for path in outputs.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != PERMISSION_FILE_NAME:
                path.unlink()
        (outputs / file).write_text(text, encoding="utf-8")

    def share(self, job: Any) -> None:
        """Owner: let the server read the outputs of a job."""
        with quiet(), transport():
            job.share_outputs([self.server.email])

    def outcome(self, name: str) -> Outcome:
        """Server: what has become of a job."""
        with quiet(), transport():
            self.owner.sync()
            self.server.sync()
            job = self.server.jobs[name]
            files = {Path(path).name: Path(path).read_bytes() for path in job.output_paths}
            return Outcome(status=str(job.status), reason=str(job.review_reason or ""), files=files)

    def connect(self) -> None:
        """Connect anew, with an empty history."""
        self.close()
        self._folder = Path(tempfile.mkdtemp(prefix="fedpriv-syft-"))
        with quiet(), transport():
            from syft_rds import SyftRDSClient

            self.server, self.owner = SyftRDSClient.pair_with_mock_drive_service_connection(
                email1=_email(self.client.name),
                email2="server@fedpriv.example",
                base_path1=str(self._folder / "owner"),
                base_path2=str(self._folder / "server"),
                use_in_memory_cache=False,  # with it, jobs are never found
            )
            self.owner.create_dataset(
                name=DATASET,
                mock_path=_write(self._folder / "mock" / "data.npz", self.mock),
                private_path=_write(
                    self._folder / "private" / "data.npz", (self.client.inputs, self.client.targets)
                ),
                users=[self.server.email],
            )
            self.server.sync()

    def close(self) -> None:
        """Remove everything that was written."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


@contextlib.contextmanager
def quiet(environment: dict[str, str] | None = None) -> Iterator[None]:
    """Keep what PySyft prints and warns off the terminal, and set its environment meanwhile."""
    wanted = {**_ENVIRONMENT, **(environment or {})}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def transport() -> Iterator[None]:
    """Whatever PySyft raises means that the connection failed."""
    try:
        yield
    except Exception as error:
        raise ConnectionError(f"PySyft failed with {type(error).__name__}: {error!s:.200}") from error


def _email(name: str) -> str:
    """An address for a client; letters and digits alone, so that it can name a folder."""
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower())
    return f"{kept}@fedpriv.example"


def _write(path: Path, pair: tuple[torch.Tensor, torch.Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    inputs, targets = (tensor.detach().cpu().numpy() for tensor in pair)
    np.savez(path, inputs=inputs, targets=targets)
    return path
