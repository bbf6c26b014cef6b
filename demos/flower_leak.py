"""Flower: two lines in an ordinary app, and its clients' images are on the server's screen
========================================================================================

The app in ``flower_app`` is Flower's quickstart with handwritten digits: three clients train on four pictures
each and send their models to the server, whose app has two lines more than it should. Then the same clients
switch on what Flower offers (two kinds of differential privacy, secure aggregation) and what fedpriv offers
as mods. For each, the server attacks what it saw of the first client. Everything runs in this process.
Flower draws its noise and the order of clients from global generators: these differ a little each time.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

import attacks
import fedpriv
from fedpriv.cli import scripts
from fedpriv.defenses import Clip, GaussianNoise, TopK
from fedpriv.wire.mechanisms import Clipped, Noised

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.clientapp.typing import Mod
    from flwr.serverapp.strategy import Strategy

TAKES = "25 s"
CLIENTS, SAMPLES, LR, SECONDS = 3, 4, 0.1, 8.0
CLIP_NORM = 0.05
"""On the change of the parameters; without clipping it is about 0.15 to 0.3 here."""


@contextlib.contextmanager
def flower_app() -> Iterator[dict[str, ModuleType]]:
    """The example's modules, with Flower's page of log a run switched off."""
    importlib.import_module("fedpriv.engines.flower")  # or the sentence that says what to install
    folder = str(scripts.find("demos")["flower_leak"].parent / "flower_app")
    logger = logging.getLogger("flwr")
    sys.path.insert(0, folder)
    app = {n: importlib.import_module(f"leak_app.{n}") for n in ("task", "client_app", "server_app")}
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield app
    finally:
        logger.setLevel(level)
        sys.path.remove(folder)


def known(**more: Any) -> fedpriv.Knowledge:
    """What the server knows of the task, besides what it reads off the messages."""
    return fedpriv.Knowledge(input_shape=(1, 8, 8), **more)


# %%
# The app as it is
# ----------------
# Both apps of ``flower_app`` run unchanged; the second of the two lines writes a transcript.
def quickstart(app: dict[str, ModuleType], out: Path) -> fedpriv.Transcript:
    """The example as it is: both apps, and the transcript that the second of the two lines wrote."""
    from fedpriv.engines.flower import run_in_process

    path = out / "flower_leak_transcript.safetensors"
    config = settings() | {"transcript": str(path)}
    run_in_process(app["server_app"].app, app["client_app"].app, num_clients=CLIENTS, run_config=config)
    seen = fedpriv.Transcript.load(path, model=app["task"].Net())
    return fedpriv.Transcript(seen, model=seen.model, loss_fn=seen.loss_fn, knowledge=known(learning_rate=LR))


def settings() -> dict[str, bool | float | int | str]:
    """The example's settings, as its pyproject.toml names them."""
    return {
        "num-server-rounds": 1,
        "fraction-train": 1.0,
        "local-epochs": 1,
        "lr": LR,
        "samples-per-client": SAMPLES,
    }


# %%
# The same clients with something switched on
# -------------------------------------------
# Mods are Flower's word for what acts on a client's messages. A strategy may be put around another.
def defended(
    app: dict[str, ModuleType],
    mods: list[Mod],
    knowledge: fedpriv.Knowledge,
    around: Any = lambda inner: inner,
) -> fedpriv.Transcript:
    """The same clients with mods; `around` puts a strategy of Flower's around FedAvg."""
    from flwr.app import ArrayRecord, ConfigRecord
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg

    from fedpriv.engines.flower import CuriousStrategy, run_in_process

    model = app["task"].Net()
    inner: Strategy = around(FedAvg(fraction_evaluate=0.0))
    strategy = CuriousStrategy(inner, model=model, loss_fn=cross_entropy, knowledge=knowledge)
    server, clients = ServerApp(), ClientApp(mods=mods)
    clients.train()(app["client_app"].train)

    @server.main()
    def main(grid: Any, context: Any) -> None:  # noqa: ARG001 (Flower's interface)
        config = ConfigRecord({"lr": LR})
        strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=1, train_config=config)

    run_in_process(server, clients, num_clients=CLIENTS, run_config=settings())
    return strategy.transcript


def secagg(app: dict[str, ModuleType]) -> fedpriv.Transcript:
    """The same clients behind Flower's SecAgg+, which needs its older interfaces."""
    from flwr.common import ndarrays_to_parameters
    from flwr.server import LegacyContext, ServerConfig
    from flwr.server.strategy import FedAvg
    from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
    from flwr.serverapp import ServerApp

    from fedpriv.engines.flower import CuriousLegacyStrategy, run_in_process

    model = app["task"].Net()
    start = ndarrays_to_parameters([t.numpy() for t in model.state_dict().values()])
    inner = FedAvg(fraction_evaluate=0.0, initial_parameters=start)
    # It rounds at random to 2^22 steps from -8 to 8: noise of known size, the root of step^2 / 6 a client.
    std = 16 / 2**22 / (6 * CLIENTS) ** 0.5
    knowledge = known(learning_rate=LR, weighting="samples", noise_std=std)
    strategy = CuriousLegacyStrategy(inner, model=model, loss_fn=cross_entropy, knowledge=knowledge)
    server = ServerApp()

    @server.main()
    def main(grid: Any, context: Any) -> None:
        legacy = LegacyContext(context, config=ServerConfig(num_rounds=1), strategy=strategy)
        protocol = SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=1.0, max_weight=SAMPLES)
        DefaultWorkflow(fit_workflow=protocol)(grid, legacy)

    run_in_process(server, _legacy_client(app), num_clients=CLIENTS)
    return strategy.transcript


def _legacy_client(app: dict[str, ModuleType]) -> ClientApp:
    from flwr.client import NumPyClient
    from flwr.client.mod import secaggplus_mod
    from flwr.clientapp import ClientApp

    class Client(NumPyClient):
        """The example's training under the older interface."""

        def __init__(self, partition: int) -> None:
            self.partition = partition

        def fit(self, parameters: Any, config: Any) -> Any:  # noqa: ARG002 (Flower's interface)
            model = app["task"].Net()
            model.load_state_dict(dict(zip(model.state_dict(), map(torch.tensor, parameters), strict=True)))
            loader, _ = app["task"].load_data(self.partition, CLIENTS, SAMPLES)
            app["task"].train(model, loader, 1, LR)
            return [t.numpy() for t in model.state_dict().values()], SAMPLES, {}

    return ClientApp(
        lambda context: Client(int(context.node_config["partition-id"])).to_client(), [secaggplus_mod]
    )


def cases(app: dict[str, ModuleType], out: Path, seed: int) -> Iterator[tuple[str, fedpriv.Transcript]]:
    """What is switched on, and what the server then saw."""
    from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
    from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping

    from fedpriv.engines.flower import defense_mod

    yield "nothing (the quickstart)", quickstart(app, out)
    yield (
        "Flower: central DP",
        defended(
            app,
            [fixedclipping_mod],
            known(mechanisms=(Clipped(clip_norm=CLIP_NORM),)),
            lambda inner: DifferentialPrivacyClientSideFixedClipping(inner, 1.0, CLIP_NORM, CLIENTS),
        ),
    )
    local = LocalDpMod(clipping_norm=CLIP_NORM, sensitivity=CLIP_NORM, epsilon=8.0, delta=1e-5)
    std = float(CLIP_NORM * (2 * torch.log(torch.tensor(1.25e5))) ** 0.5 / 8.0)
    mechanisms = (Clipped(clip_norm=CLIP_NORM), Noised(std=std))
    yield "Flower: local DP, ε = 8", defended(app, [local], known(mechanisms=mechanisms, noise_std=std))
    yield "Flower: SecAgg+", secagg(app)
    for name, defense in {
        "fedpriv: Clip": Clip(clip_norm=CLIP_NORM),
        "fedpriv: TopK, a tenth": TopK(kept_fraction=0.1),
        "fedpriv: GaussianNoise": GaussianNoise(clip_norm=CLIP_NORM, noise_multiplier=0.1),
    }.items():
        mod = defense_mod(defense, seed=seed)
        yield name, defended(app, [mod], mod.knowledge(known()))


# %%
# What the server makes of it
# ---------------------------
# The attack sees the transcript alone. The truth is used afterwards, to say how close it came.
def attack(seen: fedpriv.Transcript, app: dict[str, ModuleType]) -> tuple[dict[str, Any], torch.Tensor]:
    """Attack what the server saw of client 0, or of all where it saw only the mean; score with the truth."""
    data = [app["task"].load_data(k, CLIENTS, SAMPLES)[0].dataset.tensors for k in range(CLIENTS)]
    pooled = seen.senders == ("aggregator",)
    # Flower draws the order of the clients; the one with the smallest number has the first partition.
    sender = "aggregator" if pooled else min(seen.senders, key=lambda name: int(name.split("-")[1]))
    truth = [torch.cat(parts) for parts in zip(*(data if pooled else data[:1]), strict=True)]
    row: dict[str, Any] = {"saw": "the mean" if pooled else "each model", "samples": len(truth[0])}
    try:
        found = attacks.reconstruct(seen, client=sender, time_budget=SECONDS)
    except attacks.NotIdentifiable as error:
        return {**row, "refused": str(error), "recovered": 0.0, "psnr": None, "method": None}, truth[0][:0]
    if found.targets is not None and found.targets.dim() == 2:  # probabilities, where a label is not certain
        found = replace(found, targets=found.targets.argmax(1))
    score = fedpriv.lab.score(found, *truth, data_range=1.0)
    row |= {"recovered": score.recovered(30.0), "psnr": float(score.psnr.median()), "method": found.method}
    row |= {"certified": int(found.certified.sum()), "seconds": found.seconds, "refused": None}
    row["guess_psnr"] = float(score.baseline.psnr.median()) if score.baseline else None
    return row, found.inputs.reshape(-1, 1, 8, 8).float()


def main(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Run the app once for each case, attack, draw."""
    rows, drawn = {}, {}
    with flower_app() as app, torch.random.fork_rng():
        torch.manual_seed(seed)  # the app, like any quickstart, draws its weights and batches from there
        for name, seen in cases(app, out, seed):
            rows[name], images = attack(seen, app)
            if len(images):
                drawn[name.replace(": ", ":\n").replace(" (the quickstart)", "")] = images
        mine = app["task"].load_data(0, CLIENTS, SAMPLES)[0].dataset.tensors[0]
    title = "Above: the first client's pictures. Below: what the server makes of what it saw"
    picture = fedpriv.lab.compare_images(mine, drawn, out / "flower_leak.png", title=title, data_range=1.0)
    return {"seed": seed, "cases": rows, "files": [picture, out / "flower_leak_transcript.safetensors"]}


def report(result: dict[str, Any]) -> str:
    """The table and what it means."""
    lines = [
        f"  {'switched on':26}{'the server sees':>16}{'above 30 dB':>13}{'median PSNR':>13}{'certified':>11}"
    ]
    for name, row in result["cases"].items():
        psnr = "refused" if row["psnr"] is None else f"{row['psnr']:.1f} dB"
        recovered = f"{round(row['recovered'] * row['samples'])} of {row['samples']}"
        lines.append(f"  {name:26}{row['saw']:>16}{recovered:>13}{psnr:>13}{row.get('certified', 0):11d}")
    guess = next(row["guess_psnr"] for row in result["cases"].values() if row.get("guess_psnr") is not None)
    leaking = [name for name, row in result["cases"].items() if row["recovered"] > 0]
    lines += [
        "",
        f"A gray picture of the right brightness scores {guess:.1f} dB. Pictures came back with: "
        f"{', '.join(leaking) or 'nothing'}.",
        "Flower's central DP adds its noise on the server, which has seen every model by then: it protects\n"
        "from those who get the result, not from the server. Clipping alone shrinks an update and hides\n"
        "nothing in it. Secure aggregation hides who sent what, and its rounding spoils the exact attacks;\n"
        "what is left of the pictures in the mean of a few small clients stands in the table. Noise on the\n"
        "client hides them.",
    ]
    return "\n".join(lines)


# %%
# What it prints
# --------------
if __name__ == "__main__":
    from fedpriv.cli import run_script

    run_script(main, report)
