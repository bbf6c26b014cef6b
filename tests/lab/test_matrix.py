"""The matrix of defenses: rows checked by hand, files that come back, and no-ops that are seen."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import fedpriv
from fedpriv import defenses
from fedpriv.defenses import Aggregator, Clip, DataDefense, Defense, GaussianNoise, StepDefense
from fedpriv.defenses.base import Report
from fedpriv.lab import matrix
from fedpriv.lab.matrix import CONVNET, MLP, NONE, Entry, Leak, Limits, Plan, Row, entries, measure
from fedpriv.lab.matrix.cost import bytes_sent
from fedpriv.lab.matrix.limits import limits
from fedpriv.lab.matrix.measure import psnr_of
from fedpriv.lab.matrix.opponents import adaptive, ignorant, plain
from fedpriv.lab.matrix.scene import CLIENTS, accuracy, attacked_round, change
from fedpriv.lab.matrix.tables import flat, leaked_of, learned_of
from fedpriv.wire.mechanisms import Mechanism, Quantized, SignOnly, Sparsified

TINY = Plan(seeds=(41,), training_seeds=(41,), rates=(0.4,), rounds=2, seconds=2.0)
NUMBERS = 64 * 512 + 512 + 512 * 64 + 64 + 640 + 10


def entry(name: str) -> Entry:
    return next(e for e in entries(MLP) if e.name == name)


def of(name: str, *made: Defense) -> Entry:
    return Entry(defense=name, strength="", family="clipping", recipe=lambda *_: made)


class Nothing(Defense):
    """A defense that does nothing, as some tools ship."""

    def _apply(self, update, context):  # noqa: ARG002 (the interface)
        return update, {}


@pytest.fixture(scope="module")
def bare() -> Row:
    return measure(NONE, MLP, TINY)


def test_without_defense_all_leaks_and_nothing_is_changed(bare):
    assert bare.plain.psnr == bare.adaptive.psnr == bare.leak > 100
    assert bare.plain.identified == 1.0
    assert bare.does_nothing
    assert bare.bytes_per_round == 4 * NUMBERS
    assert 0 <= bare.accuracy_low <= bare.accuracy <= bare.accuracy_high <= 1
    assert bare.limits == Limits()
    assert 5 < bare.guess_psnr < 15  # a gray picture


def test_a_defense_that_does_nothing_is_shown_as_such(bare):
    idle = measure(of("idle", Nothing()), MLP, TINY)
    assert idle.does_nothing
    assert (idle.plain, idle.accuracy) == (bare.plain, bare.accuracy)
    loose = replace(bare, defense="loose clipping", change=change(of("", Clip(clip_norm=1e6)), MLP, attacked_round(of("", Clip(clip_norm=1e6)), MLP, 41), 41))  # fmt: skip # noqa: E501
    lines = matrix.record.table([bare, idle, loose]).splitlines()[2:]
    assert ["does nothing" in line for line in lines] == [False, True, True]  # none need not be told


def test_clipping_changes_the_update_and_hides_nothing():
    row = measure(entry("clipping 0.1"), MLP, TINY)
    assert row.change > 0.5
    assert not row.does_nothing
    assert row.plain.psnr > 100
    assert row.adaptive.attack == "inversion of a clipped update"


def test_the_informed_opponent_sees_what_the_ignorant_one_does_not():
    row = measure(entry("top-k 10.0%"), MLP, TINY)
    assert row.adaptive.psnr > 60 > 20 > row.plain.psnr
    assert row.bytes_per_round < 4 * NUMBERS * 0.15


@pytest.mark.parametrize("seed", [41, 42])
def test_who_knows_of_local_steps_does_no_worse_than_who_does_not(seed):
    scene = attacked_round(entry("local steps 5"), MLP, seed)
    informed, ignorant_one = (psnr_of(o(scene.seen, seconds=10.0).inputs, scene) for o in (adaptive, plain))
    assert informed >= ignorant_one - 0.1
    assert informed > 80


def test_opponents_get_what_the_server_saw_and_the_ignorant_one_no_mechanism():
    scene = attacked_round(entry("top-k 10.0%"), MLP, 41)
    (seen,) = scene.seen
    assert seen.knowledge.applied(Sparsified)
    assert ignorant(seen).knowledge.mechanisms == ()
    for opponent in (plain, adaptive):
        assert set(opponent.__annotations__) == {"seen", "seconds", "return"}


def test_pooled_rows_show_the_server_one_update_of_everybody():
    scene = attacked_round(entry("averaging"), MLP, 41)
    assert [set(o.update.contributors) for o in scene.seen] == [set(CLIENTS), set(CLIENTS) - {"bob"}]
    assert len(scene.images) == len(CLIENTS)
    assert entry("averaging").adaptive_needs


def test_noise_comes_with_its_limits():
    noise = of("noise", GaussianNoise(noise_multiplier=2.0))
    found = limits(noise, CONVNET, attacked_round(noise, CONVNET, 41), rounds=4)
    assert found.rero == fedpriv.privacy.rero_bound(prior_success=0.1, noise_multiplier=2.0)
    assert found.epsilon_round == fedpriv.privacy.epsilon(noise_multiplier=2.0, delta=1e-5)
    assert found.epsilon_training == fedpriv.privacy.epsilon(noise_multiplier=2.0, delta=1e-5, rounds=4)
    halved = of("noise", GaussianNoise(noise_multiplier=1.0))
    less = limits(halved, CONVNET, attacked_round(halved, CONVNET, 41), rounds=4)
    # Half the noise is a quarter of the error.
    assert less.cramer_rao_psnr - found.cramer_rao_psnr == pytest.approx(20 * math.log10(2))
    assert limits(entry("clipping 0.1"), MLP, attacked_round(NONE, MLP, 41), rounds=4) == Limits()


def test_accuracy_is_that_of_the_trained_model():
    assert accuracy(NONE, MLP, 41, rate=0.4, rounds=30) > 0.5 > accuracy(NONE, MLP, 41, rate=1e-6, rounds=1)
    assert accuracy(NONE, MLP, 41, rate=1e30, rounds=3) < 0.3  # diverged, and not an error


def test_every_defense_of_the_package_has_a_row():
    kinds = (DataDefense, StepDefense, Defense, Aggregator)
    public = [getattr(defenses, name) for name in defenses.__all__]
    expected = {
        c.__name__ for c in public if isinstance(c, type) and issubclass(c, kinds) and c not in kinds
    } | {"VariationalBottleneck", "Dropout"}
    used = {type(d).__name__ for e in entries(MLP) for d in e.recipe(MLP, e.batch)}
    used |= {type(e.inside(8)).__name__ for e in entries(MLP) if e.inside}
    assert used == expected


@pytest.mark.parametrize("victim", [MLP, CONVNET], ids=lambda victim: victim.name)
def test_the_layer_that_soteria_defends_exists(victim):
    model = victim.model(torch.Generator().manual_seed(0))
    assert isinstance(dict(model.named_modules())[victim.hidden], nn.Linear)


def observed(values: list[float], *mechanisms: Mechanism) -> fedpriv.Observation:
    known = fedpriv.Knowledge(mechanisms=mechanisms)
    update = [torch.tensor([values[:-1]]), torch.tensor(values[-1:])]
    return fedpriv.Observation(nn.Linear(len(values) - 1, 1), update, nn.functional.mse_loss, known)


def test_bytes_by_hand():
    values = [1.0, 0.0, 0.0, 2.0] + [0.0] * 60  # 64 numbers, 2 left
    pruned = Sparsified(kept_fraction=0.05, by_magnitude=True, error_feedback=False)
    assert bytes_sent(observed(values), ()) == 256
    assert bytes_sent(observed(values, pruned), ()) == 2 * 4 + 2  # two places of 6 bits
    assert bytes_sent(observed([1.0] * 64, pruned), ()) == 256  # never more than dense
    assert bytes_sent(observed([1.0] * 32 + [0.0] * 32, pruned), ()) == 32 * 4 + 8  # a mask is shorter
    assert (
        bytes_sent(observed(values, SignOnly(scale=1.0, error_feedback=False)), ()) == 13 + 4
    )  # 64 log2 3 / 8
    assert bytes_sent(observed(values, Quantized(levels=1)), ()) == 13 + 4
    shared = Report(defense="SecretSharing", values={"num_clients": 5})
    assert bytes_sent(observed(values), [shared]) == 5 * 64 * 8
    masked = Report(defense="SecureAggregation", values={"most_bytes_sent": 1234})
    assert bytes_sent(observed(values), [masked]) == 1234


LEAK = Leak(attack="an attack, named", psnr=12.3456789012345, psnr_low=-math.inf, psnr_high=1e-17, refused=1 / 3, identified=0.0)  # fmt: skip # noqa: E501
LIMIT = Limits(cramer_rao_psnr=math.inf, rero=0.1, epsilon_round=None, epsilon_training=1e300)


def row_of(**changes: Any) -> Row:
    values: dict[str, Any] = {
        "model": "MLP", "defense": 'odd "name", with commas', "strength": "", "family": "noise",
        "change": None,
        "bytes_per_round": 0.1 + 0.2, "rate": 0.4, "accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 1.0,
        "plain": LEAK, "adaptive": replace(LEAK, psnr=50.0), "guess_psnr": 8.5, "limits": LIMIT,
        "adaptive_needs": "more\nthan a line",
    }  # fmt: skip
    return Row(**{**values, **changes})


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_files_give_back_every_digit(kind, tmp_path):
    rows = [row_of(), row_of(change=0.0, limits=Limits(), strength="σ 0.1")]
    write, read = getattr(matrix, f"write_{kind}"), getattr(matrix, f"read_{kind}")
    assert read(write(rows, tmp_path / "new" / f"rows.{kind}")) == rows


def test_what_was_measured_comes_back_out_of_flat_columns():
    row = row_of()
    columns = flat(row)
    assert columns["plain_psnr"] == LEAK.psnr
    parts = vars(leaked_of(columns)) | vars(learned_of(columns))
    assert replace(row, **parts) == row
    with pytest.raises(KeyError, match="accuracy_low"):
        learned_of({"rate": 0.4, "accuracy": 0.9})


def test_a_table_of_something_else_is_refused(tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="a matrix has the columns"):
        matrix.read_csv(tmp_path / "other.csv")


def test_the_picture_shows_one_model_and_survives_refusals(tmp_path):
    families = ("contrast", "noise", "clipping", "compression", "training", "pooling")
    rows = [
        row_of(defense=f"{f} {k}", family=f, strength=s) for f in families for k in range(6) for s in "ab"
    ]
    picture = matrix.plot_fronts(rows, tmp_path / "fronts.png")
    assert picture.stat().st_size > 20_000
    assert matrix.plot_fronts(rows[:14], tmp_path / "few.png").exists()
    with pytest.raises(ValueError, match=r"rows of one model, got \['ConvNet', 'MLP'\]"):
        matrix.plot_fronts([*rows, row_of(model="ConvNet")], tmp_path / "two.png")
