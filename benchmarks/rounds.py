"""Several rounds on the same data: which batches two and three rounds give back that one does not.

Digits, enlarged to 16 x 16 pixels with a little noise so that no sample is a mixture of others, through a
network with two hidden layers of 128, gradients in float64. The rounds are models that have nothing to do
with each other, or steps of one training. Of every row two batches; an attack has ten seconds. Then what
comes back where certificates do not; and, of two rounds, how many of 64 first starts end at a sample, by
plain residuals and by evened ones.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

import attacks
import fedpriv
from attacks.exact.consistency.approach import solvable
from attacks.exact.consistency.problem import Samples
from attacks.exact.consistency.rounds import joined
from attacks.exact.consistency.search import search
from attacks.exact.consistency.spans import affine_set
from attacks.exact.consistency.stack import residual_on, sizes_evened
from attacks.exact.consistency.starts import fresh_starts, stretched
from fedpriv.lab.study import Cell, Results

ACTIVATIONS = {"GELU": nn.GELU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "ReLU": nn.ReLU}
WIDTH, ROUNDS, STARTS, BUDGET = 128, 3, 64, 10.0
SEEDS = (500, 501)  # chosen before looking
NEAR = 72  # samples of a batch that comes back without all its certificates
SIZES = (48, 56, 64, 72, 80, 90)
RELU_SIZES = SIZES[:4]
ROWS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("unrelated", "GELU", (64, 72, 80, 90)),
    ("unrelated", "tanh", (64, 72, 80, 90)),
    ("unrelated", "ReLU", RELU_SIZES),
    ("10 training steps apart", "GELU", (64, 72, 80, 90)),
    ("10 training steps apart", "ReLU", (48, 56, 64)),
    ("1 training step apart", "GELU", (64, 72, 80)),
)
"""Models, activation, sizes of the batch."""
SEARCHES = (
    *((activation, apart, (64, 72, 80)) for activation, apart in (("GELU", 1), ("tanh", 1), ("sigmoid", 10))),
    ("ReLU", 10, (48, 64, 72)),
)
"""Activation, training steps between the two rounds, sizes of the batch."""


def batch(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Different digits with some noise, and what they show."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = fedpriv.data.digits()
    chosen = torch.randperm(len(images), generator=generator)[:n]
    x = interpolate(images[chosen].double(), size=16, mode="bilinear")
    return x + 0.02 * torch.randn(x.shape, generator=generator, dtype=x.dtype), labels[chosen]


def fresh(x: Tensor, activation: str, seed: int) -> nn.Module:
    """A model at its default initialization."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [x[0].numel(), WIDTH, WIDTH, 10]
    return fedpriv.models.mlp(sizes, activation=ACTIVATIONS[activation], generator=generator).double()


def observe(model: nn.Module, x: Tensor, y: Tensor) -> fedpriv.Observation:
    """What the server sees of a round."""
    gradient = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()))
    return fedpriv.Observation(
        model, gradient, cross_entropy, fedpriv.Knowledge(input_shape=tuple(x.shape[1:]))
    )


def visits(models: str, activation: str, x: Tensor, y: Tensor, seed: int) -> list[fedpriv.Observation]:
    """`ROUNDS` rounds on the same data; the models are "unrelated", or so many steps at rate 0.1 apart."""
    if models == "unrelated":
        return [observe(fresh(x, activation, 1000 * (k + 1) + seed), x, y) for k in range(ROUNDS)]
    apart = int(models.split()[0])
    trainer = fedpriv.FederatedTrainer(
        fresh(x, activation, 1000 + seed), cross_entropy, {"bob": (x, y)}, lr=0.1, schedule=fedpriv.FedSGD()
    )
    seen = trainer.run(rounds=apart * (ROUNDS - 1) + 1).transcript.observations("bob")
    return seen[::apart]


def attack(models: str, activation: str, n: int) -> dict[str, Any]:
    """Shares of the batch recovered and certified with 1, 2 and 3 rounds: means over the seeds."""
    outcomes = torch.zeros(len(SEEDS), 2, ROUNDS)
    for i, seed in enumerate(SEEDS):
        x, y = batch(n, seed)
        seen = visits(models, activation, x, y, seed)
        for k in range(ROUNDS):
            try:
                found = attacks.ConsistencyPeeling()(seen[: k + 1], time_budget=BUDGET)
            except attacks.NotIdentifiable:
                continue
            outcomes[i, 0, k] = fedpriv.lab.score(found.inputs, x, data_range=1.0).recovered(psnr=60.0)
            outcomes[i, 1, k] = found.certified.sum() / n
    recovered, certified = outcomes.mean(0).tolist()
    return {"recovered_shares": recovered, "certified_shares": certified}


def came_back(x: Tensor, seen: list[fedpriv.Observation]) -> dict[str, Any]:
    """Samples that are found, the largest error of any, and whether all, some or none are certified."""
    found = attacks.ConsistencyPeeling()(seen, time_budget=60.0)
    far = torch.cdist(x.flatten(1), found.inputs.flatten(1)).amin(1)
    return {
        "spanned": int(torch.linalg.matrix_rank(x.flatten(1))),
        "came_back": int((far < 1e-3).sum()),
        "largest_error": float(far.max()),
        "certified": "all" if found.certified.all() else "some" if found.certified.any() else "none",
    }


def sigmoid(n: int, seed: int) -> dict[str, Any]:
    """Two unrelated rounds through sigmoid, whose spans are badly conditioned."""
    x, y = batch(n, seed)
    return came_back(x, visits("unrelated", "sigmoid", x, y, seed)[:2])


def dependent(n: int, seed: int) -> dict[str, Any]:
    """One round of more digits than their 8 x 8 pixels have dimensions: as they are, without noise."""
    images, labels = fedpriv.data.digits()
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:n]
    x, y = images[chosen].double(), labels[chosen]
    return came_back(x, visits("unrelated", "GELU", x, y, seed)[:1])


def first_hits(activation: str, apart: int, n: int) -> dict[str, int]:
    """How many of the first starts end at a sample; nothing of the truth is used before counting."""
    x, y = batch(n, SEEDS[0])
    ways = solvable(visits(f"{apart} training steps apart", activation, x, y, SEEDS[0])[:2])
    assert not isinstance(ways, str), ways
    evidence = joined([visit.evidence for visit in ways])
    nothing, generator = Samples.none(evidence), torch.Generator().manual_seed(0)
    origin, directions = affine_set(evidence.plane, nothing.duals_1)
    problem = residual_on(evidence, origin, directions, nothing.duals_2, torch.float32)

    def points(count: int) -> Tensor:
        drawn = stretched(fresh_starts(evidence, nothing, count, generator), origin, generator)
        return ((drawn - origin) @ directions.T).float()

    starts, typical = points(STARTS), points(8 * WIDTH)
    truth = x.flatten(1) @ evidence.one.rows.T
    hits = {}
    for name, equations in (("plain", problem), ("evened", sizes_evened(problem, typical))):
        ends = origin + search(equations, starts)[0].double() @ directions
        hits[name] = int((torch.cdist(ends, truth).amin(1) < 1e-2 * ends.norm(dim=1)).sum())
    return hits


def attack_key(models: str, activation: str, n: int) -> str:
    """Name of a cell."""
    return f"{models}, {activation}, {n} samples"


def search_key(activation: str, apart: int, n: int) -> str:
    """Name of a cell."""
    return f"first starts, {activation}, {apart} steps, {n} samples"


def cells() -> list[Cell]:
    """Attacks with up to three rounds; batches at the end of certificates; first starts."""
    return [
        *(
            Cell(
                attack_key(models, activation, n),
                partial(attack, models, activation, n),
                quick=(models, activation, n) == ("unrelated", "GELU", 72),
            )
            for models, activation, sizes in ROWS
            for n in sizes
        ),
        *(
            Cell(
                f"{name}, {NEAR} samples, seed {seed}",
                partial(run, NEAR, seed),
                quick=True,
                bands={"largest_error": 1e-5},  # rounding, much enlarged by the condition
            )
            for name, run in (("sigmoid, two rounds", sigmoid), ("dependent", dependent))
            for seed in SEEDS
        ),
        # A start between two samples goes to either side; the search computes in float32.
        *(
            Cell(
                search_key(activation, apart, n),
                partial(first_hits, activation, apart, n),
                quick=n == sizes[0] and apart == 1,
                bands={"plain": 8, "evened": 8},
            )
            for activation, apart, sizes in SEARCHES
            for n in sizes
        ),
    ]


def tables(results: Results) -> dict[str, str]:
    """Shares recovered with 1 / 2 / 3 rounds; hits of the first starts."""
    shares = [f"| models | | n = {' | '.join(map(str, SIZES))} |", "|---" * (2 + len(SIZES)) + "|"]
    for models, activation, sizes in ROWS:
        shown = [
            " / ".join(f"{s:.2g}" for s in results[attack_key(models, activation, n)]["recovered_shares"])
            if n in sizes
            else ""
            for n in SIZES
        ]
        shares.append(f"| {models} | {activation} | {' | '.join(shown)} |")
    starts = ["| | steps between | n | plain | power −1/4 |", "|---|---|---|---|---|"]
    for activation, apart, sizes in SEARCHES:
        rows = [results[search_key(activation, apart, n)] for n in sizes]
        columns = [" / ".join(str(row[name]) for row in rows) for name in ("plain", "evened")]
        starts.append(f"| {activation} | {apart} | {' / '.join(map(str, sizes))} | {' | '.join(columns)} |")
    return {"shares": "\n".join(shares), "starts": "\n".join(starts)}


def sentences(results: Results) -> dict[str, list[str]]:
    """Words of the pages that carry these numbers."""
    shares = {n: results[attack_key("unrelated", "ReLU", n)]["recovered_shares"] for n in RELU_SIZES}
    whole = [max(n for n, share in shares.items() if share[k] == 1) for k in range(ROUNDS)]
    part = min(n for n, share in shares.items() if share[0] < 1)
    limit = (
        f"ReLU batches come back up to {whole[0] / WIDTH:.2f} of the width, and no more at {part / WIDTH:.2f}"
    )
    near, over = (
        [results[f"{name}, {NEAR} samples, seed {seed}"] for seed in SEEDS]
        for name in ("sigmoid, two rounds", "dependent")
    )
    error = f"{max(row['largest_error'] for row in near):.0e}".replace("e-0", "e-")
    certified = " or ".join(sorted({row["certified"] for row in near}))
    back, found = (
        "all" if all(row["came_back"] == NEAR for row in rows) else "not all" for rows in (near, over)
    )
    spanned = " or ".join(sorted({str(row["spanned"]) for row in over}))
    return {
        "README.md": [f"half the width (with ReLU before {part / WIDTH:.2f} of it;"],
        "docs/attacks/consistency_peeling.md": [limit],
        "docs/consistency_peeling.md": [
            limit,
            f"With ReLU {whole[0]} samples come back from one round, {whole[1]} from two and"
            f" {whole[2]} from three",
            f"of {NEAR} sigmoid samples at width {WIDTH}, {back} found with errors up to {error}, only"
            f" {certified} are certified",
            f"{NEAR} digits of 64 pixels span {spanned} dimensions, and {found} of them come back from a"
            f" single round, {over[0]['certified']} with a certificate",
        ],
    }
