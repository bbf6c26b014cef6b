"""Defenses as mods of a Flower ClientApp: they act on the client, before anything leaves it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from logging import ERROR, INFO

import torch
from flwr.app import Context as FlowerContext
from flwr.app import Error, Message
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode
from flwr.supercore import log

from fedpriv.defenses import Context, Pipeline, Report
from fedpriv.defenses.pipeline import AnyDefense, apply_all
from fedpriv.engines.flower.arrays import from_record, only_record, to_record
from fedpriv.engines.flower.memory import read_memory, write_memory
from fedpriv.wire import Knowledge, Tensors
from fedpriv.wire.update import KINDS, Kind


class DefenseMod:
    """The mod that `defense_mod` makes; ``reports`` holds what the defenses did in this process."""

    def __init__(self, pipeline: Pipeline, *, kind: Kind, seed: int | None, arrays_key: str | None) -> None:
        self.pipeline, self.kind, self.seed, self.arrays_key = pipeline, kind, seed, arrays_key
        self.reports: list[Report] = []

    def __call__(self, msg: Message, ctxt: FlowerContext, call_next: ClientAppCallable) -> Message:
        """Let the app (or the next mod) answer, then defend what it answers."""
        if msg.metadata.message_type.split(".")[0] != "train":
            return call_next(msg, ctxt)
        try:
            key = self.arrays_key
            sent = from_record(only_record(msg.content, key, "the message"), what="the model that was sent")
        except ValueError as error:
            return _refusal(msg, error)
        answer = call_next(msg, ctxt)
        if answer.has_error():
            return answer
        try:
            record = only_record(answer.content, self.arrays_key, "the answer")
            layout = sent if self.kind == "parameters" else None
            answered = from_record(record, layout, what="the answer")
            defended = self._defended(answered, sent, ctxt)
        except ValueError as error:
            return _refusal(msg, error)
        name = next(key for key, value in answer.content.array_records.items() if value is record)
        answer.content[name] = to_record(defended)
        return answer

    def _defended(self, answered: Tensors, sent: Tensors, ctxt: FlowerContext) -> dict[str, torch.Tensor]:
        """The answer after all defenses, with the names, shapes and dtypes of the answer."""
        count, memory = read_memory(ctxt.state)
        client = f"partition-{ctxt.node_config.get('partition-id', ctxt.node_id)}"
        context = Context(round=count, client=client, generator=self._generator(client, count), memory=memory)
        # Whole numbers (batch counters) cannot be clipped or noised, so the client's own stay with it.
        real = {name: tensor for name, tensor in answered.items() if tensor.is_floating_point()}
        before = {n: sent[n] if self.kind == "parameters" else torch.zeros_like(t) for n, t in real.items()}
        vector, reports = apply_all(
            self.pipeline.on_client, {name: real[name] - before[name] for name in real}, context
        )
        write_memory(ctxt.state, count + 1, memory)
        self.reports.extend(reports)
        for report in reports:
            log(INFO, "%s: %s", report.defense, dict(report.values))
        return {n: before[n] + vector[n] if n in vector else sent.get(n, answered[n]) for n in answered}

    def _generator(self, client: str, count: int) -> torch.Generator | None:
        """Another stream for every client and message; counted here, so no server can ask for one twice."""
        if self.seed is None:
            return None
        digest = hashlib.sha256(f"{self.seed}/{client}/{count}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def knowledge(self, knowledge: Knowledge | None = None) -> Knowledge:
        """What the server knows of these defenses, which are public; give it to `CuriousStrategy`.

        Parameters
        ----------
        knowledge : Knowledge, optional
            What else it knows.
        """
        mechanisms, std = self.pipeline.knowledge({}), self.pipeline.noise_std({})
        return replace(knowledge or Knowledge(), mechanisms=mechanisms, noise_std=std)

    def __repr__(self) -> str:
        return f"defense_mod({', '.join(map(repr, self.pipeline.on_client))})"


def defense_mod(
    *defenses: AnyDefense, kind: Kind = "parameters", seed: int | None = None, arrays_key: str | None = None
) -> DefenseMod:
    """Turn defenses of an update into a mod: ``ClientApp(mods=[defense_mod(GaussianNoise())])``.

    Parameters
    ----------
    *defenses : Defense
        In the order in which they act: on after - before over all floating point tensors jointly, buffers and
        scalars included.
    kind : {"parameters", "gradient"}
        What the app answers with: its parameters after training (usual), or a gradient.
    seed : int, optional
        For repeatable lessons. By default the noise is fresh, as it must be where privacy counts.
    arrays_key : str, optional
        Which record of a message, if it holds several.

    Returns
    -------
    DefenseMod
        If several mods are given, Flower lets the *first* in the list act last on the answer.

    Raises
    ------
    ValueError
        If a defense cannot act here. At run time the mod answers with Flower's error message instead, so
        nothing leaves undefended.

    Notes
    -----
    A mod sees the arrays alone. What else the app answers, such as its loss and its number of samples,
    passes as it is. Error feedback and learned bounds are kept in ``context.state``.

    Examples
    --------
    >>> from fedpriv.defenses import Clip
    >>> defense_mod(Clip(clip_norm=1.0))
    defense_mod(Clip(clip_norm=1.0))
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    pipeline = Pipeline.of(defenses)
    if pipeline.on_data or pipeline.on_step:
        raise ValueError(
            f"{[*pipeline.on_data, *filter(None, [pipeline.on_step])]} acts inside the local training, which "
            "a mod cannot reach; use FederatedTrainer(..., engine=FlowerEngine(), defenses=[...])"
        )
    if pipeline.aggregator is not None:
        raise ValueError(
            f"{pipeline.aggregator} stands between the clients and the server, and a mod on the client; use "
            "Flower's SecAgg+, or FederatedTrainer(defenses=[...])"
        )
    if not pipeline.on_client:
        raise ValueError("defense_mod needs at least one defense, got none; for example Clip(clip_norm=1.0)")
    for defense in pipeline.on_client:
        if getattr(defense, "generator", None) is not None:
            raise ValueError(
                f"{defense} must come without a generator of its own: Flower may start a fresh process for "
                "each message, which would draw the same noise again; use defense_mod(..., seed=...)"
            )
    return DefenseMod(pipeline, kind=kind, seed=seed, arrays_key=arrays_key)


def _refusal(message: Message, error: ValueError) -> Message:
    """An error instead of an answer: nothing may leave that was not defended."""
    reason = f"the defense refused: {error}"
    log(ERROR, reason)
    return Message(Error(code=ErrorCode.MOD_FAILED_PRECONDITION, reason=reason), reply_to=message)
