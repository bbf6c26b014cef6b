"""TabLeak: rows of a table, its alignment and vote against brute force, and what it refuses."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fedpriv
from attacks import NotIdentifiable
from attacks.labels import label_counts
from attacks.matching.inverting_gradients import InvertingGradients
from attacks.matching.pooling import align, pool
from attacks.matching.problem import Problem
from attacks.matching.softened import Numbers, Softened, solve_numbers
from attacks.matching.tableak import TabLeak
from fedpriv import Knowledge
from fedpriv.lab.cells import guess_typical, score_cells
from fedpriv.wire.table import Categorical, Continuous, TableSchema
from tests.attacks.scenes import observe, same, seeded, snapshot

SCHEMA = TableSchema(
    (
        Categorical(name="color", values=("red", "green", "blue")),
        Continuous(name="size", low=-3, high=5, mean=1, std=2),
        Categorical(name="shape", values=("round", "square")),
        Continuous(name="weight", low=0, high=10, mean=5, std=2.5),
    )
)


def rows(count, seed):
    """Valid rows, drawn from the whole of the schema."""
    draw = seeded(seed)
    colors = F.one_hot(torch.randint(3, (count,), generator=draw), 3)
    shapes = F.one_hot(torch.randint(2, (count,), generator=draw), 2)
    numbers = 4 * torch.rand(count, 2, generator=draw) - 2
    return torch.cat([colors, numbers[:, :1], shapes, numbers[:, 1:]], dim=1)


def scene(count, seed, outputs=2):
    x, y = rows(count, seed), torch.randint(outputs, (count,), generator=seeded(seed + 1))
    model = fedpriv.models.mlp([SCHEMA.width, 40, 40, outputs], generator=seeded(seed + 2))
    return observe(model, F.cross_entropy, x, y, Knowledge(num_samples=count, table=SCHEMA)), x, y


def test_rows_come_back_exactly_and_with_a_certificate():
    for seed in (11, 12, 13):
        observation, x, y = scene(3, seed)
        found = TabLeak(members=4, steps=200, rate=0.12)(observation, generator=seeded(seed))
        score = score_cells(found.inputs, x, SCHEMA)
        assert score.accuracy == 1.0 > score_cells(guess_typical(rows(500, 1), 3, SCHEMA), x, SCHEMA).accuracy
        assert float((found.inputs[score.assignment] - x).abs().max()) < 1e-4
        assert torch.equal(found.targets[score.assignment], y)
        assert found.certified.all()


def test_numbers_are_solved_for_only_where_the_categories_are_right():
    observation, x, y = scene(4, 32)
    problem = Problem.of(observation, dtype=torch.float64)
    near = x.clone()
    near[:, list(SCHEMA.numbers)] += 0.1
    for rows_, right in ((near, True), (near[:, [1, 2, 0, 3, 4, 5, 6]], False)):
        unknown = Numbers(problem, y, SCHEMA, rows_.double())
        solved = solve_numbers(unknown, generator=seeded(1), deadline=float("inf"))
        assert (solved is not None) == right
        if solved is not None:
            torch.testing.assert_close(solved, x.double(), atol=1e-5, rtol=0)


def test_a_table_of_categories_alone_needs_no_solving():
    schema = TableSchema(tuple(Categorical(name=str(i), values=("a", "b", "c")) for i in range(3)))
    x, y = schema.draw(4, seeded(5)).float(), torch.tensor([0, 1, 1, 0])
    model = fedpriv.models.mlp([schema.width, 40, 40, 2], generator=seeded(6))
    known = Knowledge(num_samples=4, table=schema)
    seen = observe(model, F.cross_entropy, x, y, known)
    for rows_, right in ((x, True), (x.roll(1, 1), False)):
        unknown = Numbers(Problem.of(seen, dtype=torch.float64), y, schema, rows_.double())
        solved = solve_numbers(unknown, generator=seeded(1), deadline=float("inf"))
        assert (solved is not None) == right


def test_softening_beats_the_search_for_images():
    shares = []
    for seed in range(20, 23):
        observation, x, _ = scene(6, seed)
        plain = InvertingGradients(starts=1, steps=120, rate=0.12)
        vote = TabLeak(members=4, steps=120, rate=0.12)
        found = [attack(observation, generator=seeded(seed)).inputs for attack in (plain, vote)]
        shares.append([score_cells(rows, x, SCHEMA).accuracy for rows in found])
    plain, vote = torch.tensor(shares).mean(0).tolist()
    assert vote > plain


def test_the_search_stays_among_mixtures_of_valid_rows():
    observation, _, y = scene(2, 30)
    softened = Softened(Problem.of(observation), y, SCHEMA, 0.5)
    free = 30 * torch.randn(5, 2 * SCHEMA.width, generator=seeded(1))
    found = softened.rows(free)
    for group in SCHEMA.groups:
        torch.testing.assert_close(found[..., group].sum(-1), torch.ones(5, 2))
        expected = (free.reshape(5, 2, -1)[..., group] / 0.5).softmax(-1)
        torch.testing.assert_close(found[..., group], expected)
    low, high = SCHEMA.bounds
    numbers = found[..., list(SCHEMA.numbers)].double()
    assert bool((numbers >= low - 1e-6).all() & (numbers <= high + 1e-6).all())
    assert float(numbers.amax()) > 1.9  # the bounds can be reached


def test_the_true_rows_have_objective_zero():
    observation, x, y = scene(4, 31)
    softened = Softened(Problem.of(observation), y, SCHEMA, 1.0)
    values = softened.objective_at(torch.stack([x, rows(4, 99)]))
    assert float(values[0]) < 1e-6 < float(values[1])


def distance(one, other):
    """Of two rows, as the docstring of `align` says it, cell by cell."""
    groups = sum((one[g] - other[g]).abs().sum() / 2 for g in SCHEMA.groups)
    return float(groups + sum(min(float((one[i] - other[i]).abs()), 1.0) for i in SCHEMA.numbers))


def test_alignment_is_the_best_of_all_orders_that_keep_labels():
    labels = torch.tensor([0, 0, 1, 1, 1])
    anchor, member = rows(5, 40), rows(5, 41)
    found = align(member[None], anchor, labels, SCHEMA)[0]
    allowed = [list(o) for o in permutations(range(5)) if torch.equal(labels[list(o)], labels)]
    cost = {tuple(o): sum(distance(anchor[i], member[j]) for i, j in enumerate(o)) for o in allowed}
    assert torch.equal(found, member[list(min(cost, key=cost.get))])


def test_alignment_undoes_any_shuffle():
    anchor, labels = rows(8, 42), torch.zeros(8, dtype=torch.int64)
    shuffled = torch.stack([anchor[torch.randperm(8, generator=seeded(k))] for k in range(3)])
    assert torch.equal(align(shuffled, anchor, labels, SCHEMA), anchor.expand(3, -1, -1))


def test_the_vote_is_majority_and_median_and_its_doubt_an_entropy():
    red, blue = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])
    square = torch.tensor([0, 1.0])
    members = torch.stack(
        [
            torch.cat([c, torch.tensor([n]), square, torch.tensor([0.25])])
            for c, n in ((red, -0.2), (blue, 0.1), (blue, 1.9))
        ]
    )[:, None]
    inputs, entropy = pool(members, SCHEMA)
    assert SCHEMA.decode(inputs) == [("blue", pytest.approx(1.2), "square", pytest.approx(5.625))]
    shares = torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)
    expected = float(-(shares * shares.log()).sum() / torch.tensor(3.0).log())
    spread = float(torch.tensor([-0.2, 0.1, 1.9]).std(unbiased=False))
    assert entropy[0].tolist() == pytest.approx([expected, spread, 0.0, 0.0], abs=1e-6)


def test_only_good_searches_vote():
    observation, _, _ = scene(5, 50)
    found = TabLeak(members=6, steps=60, trust=1.2).ensemble(observation, generator=seeded(2))
    assert torch.equal(found.votes, found.values <= 1.2 * found.values.min())
    assert torch.equal(found.inputs, pool(found.members[found.votes], SCHEMA)[0])


def test_the_same_seed_gives_the_same_rows_and_leaves_everything_alone():
    observation, _, _ = scene(3, 60)
    before, attack = snapshot(observation), TabLeak(members=2, steps=20)
    one, two = (attack(observation, generator=seeded(4)).inputs for _ in range(2))
    assert torch.equal(one, two)
    assert same(before, snapshot(observation))


def test_told_labels_are_used_and_said():
    observation, _, y = scene(4, 65)
    told = tuple(reversed(y.tolist()))
    found = TabLeak(members=1, steps=2, labels=told)(observation)
    assert tuple(found.targets.tolist()) == told
    assert "the labels were told, not found" in found.notes
    with pytest.raises(NotIdentifiable, match="3 labels were told for a batch of 4"):
        TabLeak(labels=told[:3])(observation)


def test_refusals():
    observation, x, y = scene(2, 70)
    known = Knowledge(num_samples=2, table=SCHEMA)
    untold = observe(observation.model, F.cross_entropy, x, y, Knowledge(num_samples=2))
    with pytest.raises(NotIdentifiable, match=r"set Knowledge\.table"):
        TabLeak()(untold)
    with pytest.raises(ValueError, match=r"set Knowledge\.table"):
        TabLeak().ensemble(untold, generator=seeded(0))
    short = Knowledge(num_samples=2, table=TableSchema(SCHEMA.columns[:2]))
    with pytest.raises(NotIdentifiable, match="rows of 4 numbers, but the model reads 7"):
        TabLeak()(observe(observation.model, F.cross_entropy, x, y, short))
    regression = fedpriv.models.mlp([7, 20, 20, 1])
    with pytest.raises(NotIdentifiable, match="takes no class labels"):
        TabLeak()(observe(regression, F.mse_loss, x, torch.zeros(2, 1), known))
    with pytest.raises(NotIdentifiable, match="one linear layer"):
        TabLeak()(observe(nn.Linear(7, 2), F.cross_entropy, x, y, known))


def test_nothing_is_computed_where_no_table_is_declared():
    class Untouchable(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(7, 2)

        def forward(self, _):
            raise AssertionError("the model was run")

    model = Untouchable()
    seen = fedpriv.Observation(model, [torch.ones_like(p) for p in model.parameters()], F.cross_entropy)
    assert "set Knowledge.table" in TabLeak().why_not((seen,))


def test_labels_are_counted_with_rows_of_the_table():
    """Random inputs that look like rows tell what the model answers to rows; normal ones do not."""
    wrong = {"declared": 0, "not declared": 0}
    for seed in range(80, 100):
        observation, x, y = scene(32, seed, outputs=3)
        untold = observe(observation.model, F.cross_entropy, x, y, Knowledge(num_samples=32))
        for name, seen in (("declared", observation), ("not declared", untold)):
            wrong[name] += not torch.equal(label_counts(seen, 32).values, y.sort().values)
    assert wrong["declared"] < wrong["not declared"]


@pytest.mark.parametrize("settings", [{"members": 0}, {"steps": 0}, {"rate": -1.0}, {"temperature": 0.0}])
def test_settings_out_of_range(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be positive"):
        TabLeak(**settings)


def test_distrust_of_all_is_refused():
    with pytest.raises(ValueError, match="trust must be 1 or more"):
        TabLeak(trust=0.5)
