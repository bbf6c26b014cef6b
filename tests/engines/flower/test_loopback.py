"""A SuperLink and SuperNodes as real processes on loopback."""

import os
import socket
from pathlib import Path

import pytest
import torch

import attacks
import fedpriv
from fedpriv import Transcript
from fedpriv.engines.flower import Loopback
from fedpriv.engines.flower.loopback import HOST, free_ports, port_is_free
from tests.engines.flower.scenes import sample

ROOT = Path(__file__).parents[3]
TINY = Path(__file__).parent / "tiny_app"


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_superlink_starts_on_loopback_and_ends_with_the_block(tmp_path):
    with Loopback(num_clients=0, folder=tmp_path) as flower:
        pid, port = flower.processes["superlink"].pid, flower.port
        assert not port_is_free(port)
        assert alive(pid)
        with pytest.raises(ValueError, match=f"{HOST}:{port} is in use"), Loopback(port=port):
            pass
    assert not alive(pid)
    assert port_is_free(port)
    log = (tmp_path / "superlink.log").read_text()
    assert f"127.0.0.1:{port}" in log
    assert "0.0.0.0" not in log


def test_a_port_that_another_program_holds_is_one_sentence():
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match="expected a free port"), Loopback(port=port):
            pass


def test_free_ports_differ():
    assert len(set(free_ports(5))) == 5


@pytest.mark.parametrize("count", [-1, 1.5, True])
def test_the_number_of_nodes_is_checked(count):
    with pytest.raises(ValueError, match="num_clients must be a whole number"):
        Loopback(num_clients=count)


@pytest.mark.timeout(300)  # some 10 s of work in eight processes, more on a busy machine
def test_two_supernodes_answer_a_curious_superlink_and_their_samples_are_reconstructed(tmp_path):
    with Loopback(num_clients=2, folder=tmp_path, pythonpath=[ROOT]) as flower:
        flower.run(TINY, run_config={"transcript": str(tmp_path / "t.safetensors")}, timeout=240)
        pids = [process.pid for process in flower.processes.values()]
    assert not any(map(alive, pids))
    seen = Transcript.load(tmp_path / "t.safetensors")
    found = torch.cat([attacks.reconstruct(seen, client=c).inputs for c in seen.clients]).float()
    wanted = torch.cat([sample(0)[0], sample(1)[0]])
    assert float(torch.cdist(wanted, found).min(1).values.max()) < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_client_process_that_dies_is_a_fault_and_the_run_goes_on(tmp_path):
    with Loopback(num_clients=2, folder=tmp_path, pythonpath=[ROOT]) as flower:
        config = {"transcript": str(tmp_path / "t.safetensors"), "crash": True}
        log = flower.run(TINY, run_config=config, timeout=240)
    assert "round 0, client 'node-" in log
    assert len(Transcript.load(tmp_path / "t.safetensors")) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_example_project_runs_with_flwr_run_and_leaks_its_digits(tmp_path):
    path = tmp_path / "t.safetensors"
    config = {"transcript": str(path), "num-server-rounds": 1, "samples-per-client": 4}
    with Loopback(num_clients=2, folder=tmp_path, pythonpath=[ROOT]) as flower:
        flower.run(ROOT / "demos" / "flower_app", run_config=config, timeout=500)
    net = torch.nn.Sequential(
        *(torch.nn.Flatten(), torch.nn.Linear(64, 256), torch.nn.ReLU()),
        *(torch.nn.Linear(256, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)),
    )
    seen = Transcript.load(path, model=net)
    images = fedpriv.data.digits()[0].flatten(1)
    for client in seen.clients:
        found = attacks.reconstruct(seen, client=client)
        assert len(found.inputs) == 4
        assert float(torch.cdist(found.inputs.flatten(1).float(), images).min(1).values.max()) < 1e-2
