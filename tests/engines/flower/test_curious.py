"""The curious server: what it records, and that it goes on where clients misbehave."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flwr.app import Message
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian
from torch import nn

import attacks
from fedpriv import Transcript
from fedpriv.engines.flower import CuriousLegacyStrategy, CuriousStrategy, InProcessGrid
from fedpriv.engines.flower.grid import context_for
from fedpriv.losses import squared_error
from tests.engines.flower.scenes import LR, client_app, fedavg, model, run, sample, server_app

ROOT = Path(__file__).parents[3]


def curious(strategy=None, **settings):
    return CuriousStrategy(strategy or fedavg(), model=model(), loss_fn=squared_error, **settings)


def test_a_plain_run_leaks_each_clients_sample_exactly():
    strategy = curious(names={2: "bob", 3: "alice"})
    run(strategy, client_app())
    assert set(strategy.transcript.clients) == {"bob", "alice"}  # Flower draws the order
    for k, name in enumerate(("bob", "alice")):
        found = attacks.reconstruct(strategy.transcript, client=name)
        assert torch.allclose(found.inputs.float(), sample(k)[0], atol=1e-5)
        assert torch.allclose(found.targets.float(), sample(k)[1], atol=1e-4)


def test_the_learning_rate_and_the_number_of_samples_are_read_off_the_messages():
    strategy = curious()
    run(strategy, client_app())
    assert strategy.transcript.knowledge.learning_rate == LR
    assert [update.num_samples for update in strategy.transcript.updates()] == [1, 1]


@pytest.mark.parametrize("make", [FedAvg, FedAdam, FedMedian])
def test_the_wrapped_strategy_does_exactly_what_it_does_alone(make):
    alone, wrapped = make(fraction_evaluate=0.0), make(fraction_evaluate=0.0)
    first, second = run(alone, client_app(), rounds=3), run(curious(wrapped), client_app(), rounds=3)
    for name, tensor in first.to_torch_state_dict().items():
        assert torch.equal(tensor, second.to_torch_state_dict()[name])


def test_every_round_is_recorded_with_the_model_that_was_sent_in_it():
    strategy = curious()
    run(strategy, client_app(), rounds=3)
    assert [e.update.round for e in strategy.exchanges] == [0, 0, 1, 1, 2, 2]
    first, second = strategy.exchanges[0], strategy.exchanges[2]
    mean = sum(e.update.tensors["weight"] for e in strategy.exchanges[:2]) / 2
    assert torch.equal(first.sent["weight"], model().weight.detach())
    assert torch.allclose(second.sent["weight"], mean)
    assert first.sent["weight"] is strategy.exchanges[1].sent["weight"]  # stored once


def spoiled(change):
    """Client 1 misbehaves in round 2."""
    return client_app(spoil=lambda k, number, t: change(t) if (k, number) == (1, 2) else t)


BAD = {
    "NaN": (lambda t: {**t, "bias": t["bias"] * torch.nan}, "'bias' contains NaN"),
    "infinite": (lambda t: {**t, "weight": t["weight"] / 0}, "'weight' contains NaN or infinity"),
    "shape": (lambda t: {**t, "weight": t["weight"].T}, r"must have shape \(1, 2\), got \(2, 1\)"),
    "other": (
        lambda t: {"conv.weight": t["weight"], "bias": t["bias"]},
        "'weight' is missing and 'conv.weight' is not in the model",
    ),
    "missing": (lambda t: {"weight": t["weight"]}, "but 'bias' is missing;"),
    "surplus": (lambda t: {**t, "more": t["bias"]}, "but 'more' is not in the model;"),
    "nothing": (lambda t: {}, "but 'weight', 'bias' are missing;"),  # noqa: ARG005
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_answer_is_one_sentence_and_the_run_goes_on_without_it(case, tmp_path):
    change, sentence = BAD[case]
    strategy = curious(path=tmp_path / "t.safetensors")
    arrays = run(strategy, spoiled(change), rounds=3)
    (fault,) = strategy.faults
    assert (fault.round, fault.client) == (1, "node-3")
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(fault.reason)
    assert len(strategy.exchanges) == 5
    assert all(bool(torch.isfinite(t).all()) for t in arrays.to_torch_state_dict().values())
    assert len(Transcript.load(tmp_path / "t.safetensors")) == 5


def test_a_client_that_raises_is_a_fault_with_its_reason():
    def fail(tensors):  # noqa: ARG001
        raise OSError("the disk is full")

    strategy = curious()
    run(strategy, spoiled(fail), rounds=3)
    assert [str(f) for f in strategy.faults] == ["round 1, client 'node-3': OSError: the disk is full"]
    assert len(strategy.exchanges) == 5


def test_if_nobody_answers_well_the_model_stays_and_the_run_goes_on():
    strategy = curious()
    app = client_app(spoil=lambda k, number, t: {} if number == 1 else t)  # noqa: ARG005
    run(strategy, app, rounds=2)
    assert [f.round for f in strategy.faults] == [0, 0]
    assert torch.equal(strategy.exchanges[0].sent["weight"], model().weight.detach())


class Unreliable(InProcessGrid):
    """A network that loses or repeats answers, or brings some that nobody asked for."""

    def __init__(self, deliver):
        app = client_app()
        super().__init__({n: (app, context_for(n, partition=n - 2, of=2)) for n in (2, 3)})
        self.deliver = deliver

    def pull_messages(self, message_ids):
        answers = sorted(super().pull_messages(message_ids), key=lambda m: m.metadata.src_node_id)
        return self.deliver(answers) if answers else []  # Flower asks for no evaluation as well


def over(grid, strategy, rounds=2):
    server_app(strategy, rounds)(grid, context_for(1))


def test_a_client_that_disconnects_is_named():
    strategy = curious()
    over(Unreliable(lambda answers: answers[:1]), strategy)
    assert [(f.round, f.client) for f in strategy.faults] == [(0, "node-3"), (1, "node-3")]
    assert "did not answer" in strategy.faults[0].reason
    assert len(strategy.exchanges) == 2


def test_of_two_answers_the_first_counts_and_the_second_moves_nothing():
    once, twice = curious(), curious()
    over(Unreliable(lambda answers: answers), once)
    over(Unreliable(lambda answers: [answers[0], *answers]), twice)
    assert "answered twice" in twice.faults[0].reason
    for a, b in zip(once.exchanges, twice.exchanges, strict=True):
        assert torch.equal(a.sent["weight"], b.sent["weight"])


def test_an_answer_that_nobody_asked_for_reaches_neither_record_nor_strategy():
    strategy = curious(fedavg(min_train_nodes=1, fraction_train=0.5))
    strategy.configure_train(1, _arrays(), _config(), Unreliable(list))
    (asked,) = strategy._questions
    (other,) = {2, 3} - {asked}
    stranger = Message(strategy._questions[asked].content, reply_to=_message(other))
    arrays, _ = strategy.aggregate_train(1, [stranger])
    assert arrays is None
    assert [f.reason.split(";")[0] for f in strategy.faults] == [
        "answered without being asked",
        "did not answer",
    ]


def _arrays():
    from fedpriv.engines.flower import to_record

    return to_record(model().state_dict())


def _config():
    from flwr.app import ConfigRecord

    return ConfigRecord({"lr": LR})


def _message(node):
    from flwr.app import RecordDict

    return Message(RecordDict({"arrays": _arrays()}), dst_node_id=node, message_type="train")


@pytest.mark.parametrize("name", ["t.safetensors", "stream"])
def test_a_run_that_is_killed_leaves_its_whole_rounds_on_disk(name, tmp_path):
    class Killed(BaseException):
        pass

    rounds = iter(range(9))

    def deliver(answers):
        if next(rounds) == 2:
            raise Killed
        return answers

    with pytest.raises(Killed):
        over(Unreliable(deliver), curious(path=tmp_path / name), rounds=3)
    assert [u.round for u in Transcript.load(tmp_path / name).updates()] == [0, 0, 1, 1]
    assert [file.name for file in tmp_path.iterdir()] == [name]


KILLED = """
import os, signal
from tests.engines.flower.scenes import client_app, fedavg, model, run
from fedpriv.engines.flower import CuriousStrategy
from fedpriv.losses import squared_error

def spoil(k, number, tensors):
    if (k, number) == (1, 3):
        os.kill(os.getpid(), signal.SIGKILL)
    return tensors

strategy = CuriousStrategy(fedavg(), model=model(), loss_fn=squared_error, path={path!r})
run(strategy, client_app(spoil=spoil), rounds=5)
"""


def test_a_process_that_is_really_killed_leaves_a_transcript_to_attack(tmp_path):
    path = str(tmp_path / "stream")
    done = subprocess.run(
        [sys.executable, "-c", KILLED.format(path=path)], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    seen = Transcript.load(path)
    assert sorted(u.round for u in seen.updates()) == [0, 0, 1, 1]
    assert len(attacks.reconstruct(seen, client=seen.clients[0]).inputs) == 1


def test_a_streamed_transcript_is_the_same_and_takes_no_memory(tmp_path):
    kept, streamed = curious(), curious(path=tmp_path / "stream")
    for strategy in (kept, streamed):
        over(Unreliable(list), strategy, rounds=3)
    assert streamed.exchanges == ()
    assert len(streamed.transcript) == 6
    assert streamed.transcript.knowledge == kept.transcript.knowledge
    for a, b in zip(kept.transcript, streamed.transcript, strict=True):
        assert torch.equal(a.update.tensors["weight"], b.update.tensors["weight"])


def test_without_a_model_it_records_and_says_what_a_transcript_needs():
    strategy = CuriousStrategy(fedavg())
    run(strategy, client_app())
    assert len(strategy.exchanges) == 2
    with pytest.raises(ValueError, match="model=net"):
        _ = strategy.transcript
    with pytest.raises(ValueError, match="loss_fn=cross_entropy"):
        CuriousStrategy(fedavg(), path="t.safetensors")


def test_a_server_that_sends_another_model_than_it_declares_is_stopped_with_a_sentence():
    with pytest.raises(ValueError, match=r"sent in round 0 must have the 4 names"):
        run(CuriousStrategy(fedavg(), model=nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))), client_app())


def test_the_two_interfaces_of_flower_are_told_apart():
    with pytest.raises(ValueError, match="CuriousLegacyStrategy"):
        CuriousStrategy(LegacyFedAvg())
    with pytest.raises(ValueError, match="use CuriousStrategy"):
        CuriousLegacyStrategy(fedavg())
