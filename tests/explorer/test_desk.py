"""Attacks in another process: progress, results, and an end at any time."""

from __future__ import annotations

import time

import pytest

from fedpriv.lab.explore import Choice, Data, Desk, Model

POINTS = Choice(data=Data.POINTS, model=Model.LINEAR, batch_size=2, visits=4)
LONG = Choice(data=Data.PHOTOGRAPHS, model=Model.LENET, batch_size=3, time_budget=200.0)


@pytest.fixture
def desk():
    made = Desk()
    yield made
    made.close()


def wait(desk, done, seconds=90.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job = desk.look()
        if done(job):
            return job
        time.sleep(0.05)
    raise AssertionError(f"nothing after {seconds} s: {job}")


def test_an_answer_comes_and_then_what_it_costs(desk):
    assert desk.look() is None
    job = desk.ask(POINTS)
    assert (job.number, job.over) == (1, False)
    wait(desk, lambda j: j.over)
    assert job.fault == ""
    assert job.answer.recovered == 2
    wait(desk, lambda j: j.settled)
    assert job.cost.measure == "test loss"


def test_a_long_attack_says_what_it_does_and_ends_at_once_when_canceled(desk):
    job = desk.ask(LONG)
    wait(desk, lambda j: j.stage == "attacking")
    process = desk._link.process
    start = time.monotonic()
    desk.cancel()
    assert process.poll() is not None
    assert time.monotonic() - start < 5.0
    assert (job.over, job.settled, job.fault) == (True, True, "canceled")
    assert 0.0 < job.fraction < 1.0
    following = desk.ask(POINTS)
    wait(desk, lambda j: j.over)
    assert following.number == 2
    assert following.answer.choice == POINTS


def test_a_process_that_dies_is_reported_and_replaced(desk):
    job = desk.ask(LONG)
    desk._link.process.kill()
    wait(desk, lambda j: j.over)
    assert "process ended" in job.fault
    assert desk.ask(POINTS).number == 2
    assert desk._link.alive()


def test_the_process_ends_with_the_desk():
    desk = Desk()
    process = desk._link.process
    del desk
    assert process.wait(timeout=20) != 0
