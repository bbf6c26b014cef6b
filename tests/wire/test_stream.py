"""A transcript that grows on disk: equal to the one in memory, whole rounds only, flat in memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import attacks
import fedpriv
from fedpriv.defenses import Averaging, SecureAggregation
from fedpriv.losses import squared_error
from fedpriv.wire import Exchange, Transcript, Update
from fedpriv.wire.stream import StreamedTranscript, TranscriptWriter
from fedpriv.wire.stream import writer as stream_writer
from fedpriv.wire.stream.folder import opened

X = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
CLIENTS = {"bob": (X[:2], X[:2, :1]), "alice": (X[2:], X[2:, :1]), "carol": (X[1:3], X[1:3, 1:])}
ROOT = Path(__file__).parents[2]


def trainer(**settings):
    torch.manual_seed(1)
    settings = {"lr": 0.1, "generator": torch.Generator().manual_seed(3), **settings}
    return fedpriv.FederatedTrainer(nn.Linear(2, 1), squared_error, CLIENTS, **settings)


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def secure():
    return SecureAggregation(threshold=2, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    "settings",
    [
        dict,
        lambda: {"schedule": "fedavg", "weights": "samples"},
        lambda: {"schedule": "fedsgd"},
        lambda: {"defenses": [Averaging()]},
        lambda: {"defenses": [secure()]},
        lambda: {"schedule": "fedavg", "clients_per_round": 2},
    ],
)
@pytest.mark.parametrize("part_bytes", [1, 2**25])
def test_a_streamed_run_is_the_run_in_memory(tmp_path, settings, part_bytes, monkeypatch):
    monkeypatch.setattr(stream_writer, "PART_BYTES", part_bytes)
    memory = trainer(**settings()).run(3)
    disk = trainer(**settings()).run(3, record=tmp_path / "run")
    assert isinstance(disk.transcript, StreamedTranscript)
    assert len(disk.transcript) == len(memory.transcript)
    assert disk.transcript.senders == memory.transcript.senders
    assert disk.transcript.clients == memory.transcript.clients
    assert disk.losses == memory.losses
    for a, b in zip(disk.transcript, memory.transcript, strict=True):
        assert same(a.sent, b.sent)
        assert same(a.update.tensors, b.update.tensors)
        assert (a.update.sender, a.update.round, a.update.num_samples, a.update.contributors) == (
            b.update.sender,
            b.update.round,
            b.update.num_samples,
            b.update.contributors,
        )
        assert a.messages == b.messages
    loaded = Transcript.load(tmp_path / "run")
    assert loaded.knowledge == memory.transcript.knowledge
    name = memory.transcript.senders[0]
    assert len(loaded.updates(name)) == len(memory.transcript.updates(name))
    assert [o.update.round for o in loaded.observations(name)] == [
        o.update.round for o in memory.transcript.observations(name)
    ]


def test_an_attack_reads_the_stream(tmp_path):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x = torch.rand(1, 4)
    clients = {"bob": (x, torch.tensor([2])), "alice": (torch.rand(1, 4), torch.tensor([0]))}
    loss_fn = nn.functional.cross_entropy
    run = fedpriv.FederatedTrainer(model, loss_fn, clients, lr=0.1).run(1, record=tmp_path / "run")
    found = attacks.reconstruct(run.transcript, client="bob", time_budget=5.0)
    torch.testing.assert_close(found.inputs.float(), x, rtol=1e-3, atol=1e-3)


def test_models_that_many_clients_share_are_stored_once(tmp_path):
    trainer(schedule="fedavg").run(2, record=tmp_path / "run")
    sizes = sorted(path.stat().st_size for path in (tmp_path / "run").glob("*.safetensors"))
    for path in (tmp_path / "run").glob("*.safetensors"):
        with opened(path) as file:
            assert file.get_slice("sent/weight").get_shape() == [1, 1, 2]
            assert file.get_slice("update/weight").get_shape() == [3, 1, 2]
    assert len(sizes) == 2


CHILD = """
import sys, torch, fedpriv
from fedpriv.losses import squared_error
from fedpriv.wire.stream import writer
torch.manual_seed(0)
x = torch.rand(4, 30)
clients = {f"client {k}": (x, x[:, :1]) for k in range(20)}
writer.PART_BYTES = 1
trainer = fedpriv.FederatedTrainer(torch.nn.Linear(30, 1), squared_error, clients, lr=1e-4)
print("ready", flush=True)
trainer.run(100000, record=sys.argv[1])
"""


def test_a_killed_run_is_readable_up_to_the_last_whole_round(tmp_path):
    folder = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], env=environment, stdout=subprocess.DEVNULL
    )
    index = folder / "index.jsonl"
    try:
        deadline = time.monotonic() + 60
        while not index.is_file() or len(index.read_text().splitlines()) < 3:
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.005)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    whole = len([line for line in index.read_text().splitlines(keepends=True) if line.endswith("\n")])
    transcript = Transcript.load(folder)
    assert len(transcript) == 20 * whole
    exchanges = list(transcript)
    assert [e.update.round for e in exchanges] == [r for r in range(whole) for _ in range(20)]
    assert len(transcript.observations("client 7")) == whole


def write(folder, rounds=2, model=None, **settings):
    model = model or nn.Linear(2, 1)
    writer = TranscriptWriter(folder, model=model, loss_fn=squared_error, **settings)
    for number in range(rounds):
        for sender in ("bob", "alice"):
            update = Update(kind="parameters", tensors=model.state_dict(), sender=sender, round=number)
            writer.write(Exchange(sent=model.state_dict(), update=update))
        writer.end_round()
    return writer


def test_a_round_that_is_not_over_is_left_out(tmp_path):
    writer = write(tmp_path / "run", rounds=1, part_bytes=1)
    state = nn.Linear(2, 1).state_dict()
    writer.write(Exchange(sent=state, update=Update(kind="parameters", tensors=state, sender="eve")))
    assert len(list((tmp_path / "run").glob("*.safetensors"))) == 3
    transcript = Transcript.load(tmp_path / "run")
    assert (len(transcript), transcript.senders) == (2, ("bob", "alice"))


def test_a_last_line_that_was_cut_is_a_round_that_was_not_over(tmp_path):
    write(tmp_path / "run")
    index = tmp_path / "run" / "index.jsonl"
    index.write_text(index.read_text()[:-5])
    assert len(Transcript.load(tmp_path / "run")) == 2


def damaged_index(line):
    def damage(folder):
        (folder / "index.jsonl").write_text(line + "\n")

    return damage


def cut_part(folder):
    part = folder / "00000001.safetensors"
    part.write_bytes(part.read_bytes()[:-4])


def other_bytes(folder):
    part = folder / "00000000.safetensors"
    part.write_bytes(b"\xff" * part.stat().st_size)


def no_index(folder):
    (folder / "index.jsonl").unlink()


def other_header(folder):
    (folder / "transcript.json").write_text('{"format": 1, "content": "transcript"}')


def cut_header(folder):
    (folder / "transcript.json").write_text('{"format": 1, "content"')


def no_header(folder):
    (folder / "transcript.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_part, r"must have \d+ bytes, got \d+; it was cut off or changed"),
        (other_bytes, "is not a whole safetensors file"),
        (no_index, "holds no whole round"),
        (no_header, r"has no transcript\.json"),
        (other_header, "must describe a streamed transcript of format 1"),
        (cut_header, "is not whole JSON"),
        (damaged_index("[]"), "must hold the lists"),
        (damaged_index('{"parts": []'), "is not whole JSON"),
        (
            damaged_index('{"parts": [["../x.safetensors", 5, 1]], "senders": [], "clients": []}'),
            "a part must be",
        ),
        (
            damaged_index('{"parts": [["0.safetensors", 5, true]], "senders": [], "clients": []}'),
            "a part must be",
        ),
        (damaged_index('{"parts": [["9.safetensors", 5, 1]], "senders": [], "clients": []}'), "got None"),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    write(tmp_path / "run", part_bytes=1)
    damage(tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        list(Transcript.load(tmp_path / "run"))


def test_a_hostile_row_is_refused(tmp_path):
    from safetensors.torch import save_file

    folder = tmp_path / "run"
    write(folder, rounds=1)
    part = folder / "00000000.safetensors"
    with opened(part) as file:
        rows = json.loads(file.metadata()["fedpriv"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    rows[1]["sent"] = ["../../etc/passwd", 0]
    save_file(tensors, str(part), metadata={"fedpriv": json.dumps(rows)})
    line = json.loads((folder / "index.jsonl").read_text())
    line["parts"][0][1] = part.stat().st_size
    (folder / "index.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match="must name the model that was sent"):
        list(Transcript.load(folder))


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty; name another"):
        trainer().run(1, record=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


MEMORY = """
import resource, sys, torch
from torch import nn
from fedpriv.wire import Exchange, FrozenTensors, Transcript, Update
from fedpriv.wire.stream import TranscriptWriter
folder, rounds = sys.argv[1], int(sys.argv[2])
model = nn.Linear(1000, 250, bias=False)  # 1 MB
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
writer = TranscriptWriter(folder, model=model, loss_fn=nn.functional.mse_loss)
start = peak()
for r in range(rounds):
    sent = FrozenTensors(model.state_dict())
    for k in range(20):
        update = Update(kind="gradient", tensors={"weight": torch.rand(250, 1000)}, sender=str(k), round=r)
        writer.write(Exchange(sent=sent, update=update))
    writer.end_round()
written = peak()
total = sum(float(e.update.tensors["weight"][0, 0]) for e in Transcript.load(folder))
print(start, written, peak())
"""


def memory_of(folder, rounds):
    """Peak memory in MB at the start, after writing, after reading it all."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folder), str(rounds)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(word) for word in done.stdout.split()]


def test_memory_stays_flat(tmp_path):
    start, written, read = memory_of(tmp_path / "run", rounds=8)  # a transcript of 168 MB
    assert written - start < 100
    assert read - start < 100


@pytest.mark.slow
def test_memory_stays_flat_for_a_gigabyte(tmp_path):
    start, written, read = memory_of(tmp_path / "run", rounds=50)
    assert sum(path.stat().st_size for path in (tmp_path / "run").iterdir()) > 1e9
    assert written - start < 100
    assert read - start < 100
