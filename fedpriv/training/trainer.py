"""`FederatedTrainer`: federated training that records all that crosses the wire."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from fedpriv.defenses import Pipeline
from fedpriv.defenses.pipeline import AnyDefense
from fedpriv.defenses.randomness import draw_seed, given_or_fresh
from fedpriv.engines.base import OPERATIONS, Engine
from fedpriv.engines.local import LocalEngine
from fedpriv.progress import progress
from fedpriv.training.checks import check_answers, check_engine, check_model, check_together
from fedpriv.training.clients import WEIGHTINGS, Client, clients_from
from fedpriv.training.local import LocalTraining
from fedpriv.training.owners import Owners
from fedpriv.training.public import public_knowledge
from fedpriv.training.rounds import Log, Round
from fedpriv.training.schedules import Schedule, schedule_from
from fedpriv.training.seeding import seeded
from fedpriv.training.settings import check_count, check_rate
from fedpriv.training.state import RoundResult, Run, ServerState, fitting, load, state_of
from fedpriv.wire import Knowledge, Transcript
from fedpriv.wire.observation import LossFn

if TYPE_CHECKING:
    from fedpriv.wire.stream import TranscriptWriter


class FederatedTrainer:
    """Trains one model on the data of several clients.

    Parameters
    ----------
    model : nn.Module
        Copied; its values are where training starts and its train or eval mode is kept.
    loss_fn : callable
        ``loss_fn(outputs, targets)`` giving one number.
    clients : mapping of str to (Tensor, Tensor)
        Client name to ``(inputs, targets)``, one sample a row: local tensors, or pointers to tensors on the
        client's worker (there the local training runs on the worker).
    lr : float
        Learning rate of plain SGD, on the clients and, in `FedSGD`, on the server.
    schedule : Schedule or {"sequential", "fedsgd", "fedavg"}, optional
        Who is asked when. By default `Sequential`, as in the tutorial, or `FedAvg` if `defenses` holds an
        aggregator, which needs clients that answer the same model.
    local_steps : int, default 1
        Gradient steps of a client before it answers.
    batch_size : int, optional
        Samples in each step; by default all.
    clients_per_round : int, optional
        Size of the random set of clients of each round; by default all, in the order given.
    weights : {"uniform", "samples"}, default "uniform"
        Weights of the clients in a mean. ``"uniform"`` is the default because it tells the server nothing
        about anybody's data; with ``"samples"`` (the paper's choice) the number of samples crosses the wire.
        `Sequential` takes no mean and ignores it.
    defenses : sequence of DataDefense, StepDefense, Defense or Aggregator
        In the order in which they act: first those on the data and the steps of local training, then those
        on each client's update, the aggregator, and those on the mean. See `fedpriv.defenses`.
    generator : torch.Generator, optional
        Start of all randomness (batches, sampling, noise, shares, dropout); by default fresh entropy.
    engine : Engine, optional
        What brings requests to the clients and answers back: by default `fedpriv.engines.LocalEngine`, which
        calls them in this process. See `fedpriv.engines`.
    min_answers : int, optional
        How many clients must answer properly in a round. By default all: the first fault (no answer, NaN,
        another model's parameters) stops the run with a sentence. With a number, clients at fault are left
        out, their weight goes to the others, and ``run.faults`` says who and why.
    allowed : sequence of str, optional
        The owners' allow-list: which of the operations ``"gradient"`` and ``"local_update"`` they answer; by
        default both. Nothing else exists.

    Raises
    ------
    ValueError
        If an argument is out of range, or schedule and defenses do not go together.

    Notes
    -----
    Rounds stream: without an aggregator and with ``record=False`` memory does not grow with the number of
    clients. An aggregator holds the updates of the round's clients, as it would in reality.

    Examples
    --------
    >>> from fedpriv.losses import squared_error
    >>> x, y = torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0], [0.0]])
    >>> trainer = FederatedTrainer(nn.Linear(2, 1), squared_error, {"bob": (x, y), "alice": (x, y)}, lr=0.1)
    >>> run = trainer.run(rounds=3)
    >>> run.transcript, len(run.losses)
    (Transcript(6 exchanges with bob, alice), 6)
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        clients: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
        *,
        lr: float,
        schedule: Schedule | str | None = None,
        local_steps: int = 1,
        batch_size: int | None = None,
        clients_per_round: int | None = None,
        weights: str = "uniform",
        defenses: Sequence[AnyDefense] = (),
        generator: torch.Generator | None = None,
        engine: Engine | None = None,
        min_answers: int | None = None,
        allowed: Sequence[str] = tuple(OPERATIONS),
    ) -> None:
        check_model(model, loss_fn)
        check_rate(lr)
        check_count("local_steps", local_steps)
        check_count("batch_size", 1 if batch_size is None else batch_size)
        if weights not in WEIGHTINGS:
            raise ValueError(f"weights must be one of {list(WEIGHTINGS)}, got {weights!r}")
        self.clients = clients_from(clients)
        self.pipeline = Pipeline.of(defenses)
        self.schedule = schedule_from(schedule, aggregated=self.pipeline.aggregator is not None)
        self.weights = weights
        self.clients_per_round = len(self.clients) if clients_per_round is None else clients_per_round
        self.training = LocalTraining(
            model=copy.deepcopy(model),
            loss_fn=loss_fn,
            lr=lr,
            local_steps=local_steps,
            batch_size=batch_size,
            on_data=self.pipeline.on_data,
            on_step=self.pipeline.on_step,
        )
        self.min_answers = min_answers
        self.engine = LocalEngine() if engine is None else engine
        self._seed = draw_seed(given_or_fresh(generator))
        check_together(self.clients, self.clients_per_round, self.schedule, self.pipeline, local_steps)
        check_answers(min_answers, self.clients_per_round)
        self._owners = Owners(
            clients={client.name: client for client in self.clients},
            training=self.training,
            pipeline=self.pipeline,
            allowed=tuple(allowed),
        )
        check_engine(self.engine, self._owners)
        self.engine.prepare(self._owners)

    def initial_state(self) -> ServerState:
        """The state before the first round; the same each time it is asked for."""
        return state_of(self.training.model, round=0, seed=self._seed)

    def round(self, state: ServerState, *, record: bool = True) -> tuple[ServerState, RoundResult]:
        """Run one round.

        Parameters
        ----------
        state : ServerState
            From `initial_state` or an earlier round; not changed.
        record : bool, default True
            Whether to keep exchanges and reports.

        Returns
        -------
        state : ServerState
            The state for the next round.
        result : RoundResult
            What crossed the wire, the losses, and what the defenses did. The same state gives the same
            result, except where a defense was given a generator of its own.
        """
        return self._round(state, Log(record=record))

    def _round(self, state: ServerState, log: Log) -> tuple[ServerState, RoundResult]:
        generator = torch.Generator().manual_seed(state.seed)
        memory = copy.deepcopy(state.memory)
        current = Round(
            number=state.round,
            engine=self.engine,
            owners=replace(self._owners, generator=generator, memory=memory),
            weighting=self.weights,
            generator=generator,
            log=log,
            min_answers=self.min_answers,
        )
        with seeded(generator, self.training.model):
            after = self.schedule.run_round(current, state, self._select(generator))
        current.demand_answers()
        return after.next_round(seed=draw_seed(generator), memory=memory), log.result()

    def run(
        self,
        rounds: int = 10,
        *,
        record: bool | str | os.PathLike[str] = True,
        state: ServerState | None = None,
    ) -> Run:
        """Run several rounds.

        Parameters
        ----------
        rounds : int, default 10
            How many.
        record : bool or path, default True
            Whether to keep transcript and reports in memory. A path is a new folder to which the transcript
            is streamed while the training runs: memory stays flat, and whatever happens to the process, the
            rounds that were over can be read with `Transcript.load`. Reports are not kept then.
        state : ServerState, optional
            Where to start: by default `initial_state`, or the state of an earlier run.

        Returns
        -------
        Run
            Model, losses, transcript, reports, and the last state.
        """
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
            raise ValueError(f"rounds must be a whole number of 0 or more, got {rounds!r}")
        state = self.initial_state() if state is None else fitting(state, self.initial_state())
        writer = None if isinstance(record, bool) else self._writer(record)
        results = []
        for _ in progress(range(rounds), description="rounds"):
            log = Log(record=record is not False, sink=writer.write if writer else None)
            state, result = self._round(state, log)
            if writer:
                writer.end_round()
            results.append(result)
        model = copy.deepcopy(self.training.model)
        load(model, state)
        return Run(
            model=model,
            losses=[loss for result in results for loss in result.losses],
            round_losses=[sum(result.losses) / len(result.losses) for result in results],
            transcript=self._transcript(results, writer),
            reports=[report for result in results for report in result.reports],
            state=state,
            faults=[fault for result in results for fault in result.faults],
        )

    def _transcript(self, results: Sequence[RoundResult], writer: TranscriptWriter | None) -> Transcript:
        model, loss_fn = copy.deepcopy(self.training.model), self.training.loss_fn
        if writer and results:
            return Transcript.load(writer.folder, model=model, loss_fn=loss_fn)
        visits = [exchange for result in results for exchange in result.exchanges]
        return Transcript(visits, model=model, loss_fn=loss_fn, knowledge=self.knowledge())

    def _writer(self, folder: str | os.PathLike[str]) -> TranscriptWriter:
        from fedpriv.wire.stream import TranscriptWriter

        t = self.training
        return TranscriptWriter(folder, model=t.model, loss_fn=t.loss_fn, knowledge=self.knowledge())

    def knowledge(self) -> Knowledge:
        """What the server knows because it wrote the protocol: the public settings, never anybody's data.

        The noise is that of the update as the server gets it; where it depends on who takes part (mean with
        ``weights="samples"``), that of a round with the first `clients_per_round` clients. Noise inside
        several local steps adds up to first order in the learning rate.
        """
        return public_knowledge(
            self.training,
            self.pipeline,
            self.clients,
            kind=self.schedule.kind,
            weighting=self.weights,
            clients_per_round=self.clients_per_round,
        )

    def __repr__(self) -> str:
        t = self.training
        return (
            f"FederatedTrainer({type(t.model).__name__}, {len(self.clients)} clients, lr={t.lr}, "
            f"schedule={self.schedule}, local_steps={t.local_steps}, batch_size={t.batch_size}, "
            f"clients_per_round={self.clients_per_round}, weights={self.weights!r}, pipeline={self.pipeline})"
        )

    def _select(self, generator: torch.Generator) -> tuple[Client, ...]:
        """The round's random set of clients, in the order in which they were given."""
        if self.clients_per_round == len(self.clients):
            return self.clients
        chosen = torch.randperm(len(self.clients), generator=generator)[: self.clients_per_round]
        return tuple(self.clients[k] for k in sorted(chosen.tolist()))
