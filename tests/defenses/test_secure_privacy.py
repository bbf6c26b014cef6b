"""What the server can compute from all that it saw."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedpriv.defenses.secure_aggregation import Message, SecureAggregation, ServerView, Stage
from fedpriv.defenses.secure_aggregation.client import (
    KEY_SHARE,
    MASK_SHARE,
    pairwise_mask,
    self_mask,
)
from fedpriv.defenses.secure_aggregation.field import PRIME, reconstruct
from fedpriv.defenses.secure_aggregation.keys import KeyPair, expand
from tests.defenses.conformance import seeded
from tests.defenses.secure_scenes import Table, make_session, plain_sum, play_all, vectors
from tests.defenses.test_secure_sum import random_task

# p-values are uniform if a claim holds. All tests of uniformity together look at about 50 of them, so with
# this limit a false alarm would come for one choice of seeds in 200; the seeds were chosen before looking.
LIMIT = 1e-4


def assert_uniform(ring: np.ndarray) -> None:
    """Kolmogorov-Smirnov on the values, chi-square on the lowest and on the highest byte."""
    assert stats.kstest(ring / 2.0**64, "uniform").pvalue > LIMIT
    for shift in (0, 56):
        byte = ((ring >> np.uint64(shift)) & np.uint64(255)).astype(int)
        assert stats.chisquare(np.bincount(byte, minlength=256)).pvalue > LIMIT


def is_uniform(ring: np.ndarray) -> bool:
    try:
        assert_uniform(ring)
    except AssertionError:
        return False
    return True


def signed(ring: np.ndarray) -> np.ndarray:
    return ring.view(np.int64)


@pytest.mark.parametrize("neighbors", [None, 4])
def test_the_masked_vectors_are_uniform_and_independent(neighbors):
    session = make_session(8, 5 if neighbors is None else 3, length=6000, neighbors=neighbors)
    own = vectors(session)
    view = ServerView.of(play_all(session, own, seed=11).messages)
    masked = view.masked_vectors()
    assert not is_uniform(own[1])  # the test can tell
    for ring in masked.values():
        assert_uniform(ring)
    assert_uniform(masked["c1"] - masked["c2"])
    assert_uniform(sum(list(masked.values())[:-1], np.zeros(6000, dtype=np.uint64)))


def test_one_vector_has_another_mask_in_each_session_so_the_mean_over_sessions_says_nothing():
    """A constant vector, 300 sessions: what the server sees of one coordinate is uniform, too."""
    seen = []
    for seed in range(300):
        session = make_session(3, 2, length=20, seed=seed)
        own = {k: np.full(20, 7, dtype=np.uint64) for k in session.everyone}
        seen.append(ServerView.of(play_all(session, own, seed=seed).messages).masked_vectors()["c1"])
    assert_uniform(np.concatenate(seen))


def test_the_masked_vector_is_what_the_paper_says():
    """y_u = x_u + PRG(b_u) + sum over v < u of PRG(s_uv) - sum over v > u, from the clients' secrets."""
    table = Table(make_session(4, 3)).until(Stage.MASK)
    for u, client in table.clients.items():
        y = Message.from_bytes(table.ask(u), table.session, Stage.MASK, from_server=False).rows[u]
        expected = table.vectors[u].tolist()
        for v, other in table.clients.items():
            if v == u:
                mask, sign = self_mask(table.session, u, client._seed), 1
            else:
                label = table.session.bind("pair mask", min(u, v), max(u, v))
                mask = expand(other._masking.agree(client._masking.public, label, 32), 4)  # v's side of it
                sign = 1 if u > v else -1
            expected = [(e + sign * int(m)) % 2**64 for e, m in zip(expected, mask, strict=True)]
        assert np.frombuffer(y, dtype="<u8").tolist() == expected


def test_with_everything_it_has_the_server_removes_one_mask_of_each_client_and_not_the_other():
    session = make_session(5, 3, length=6000)
    own = vectors(session)
    played = play_all(session, own, {Stage.MASK: [5]}, seed=12)
    server, masked = played.server, ServerView.of(played.messages).masked_vectors()
    # It opens the self masks of the survivors and the pairwise masks with the lost client ...
    lost = KeyPair(server._secret(5, KEY_SHARE))
    for u in (1, 2, 3, 4):
        ring = masked[f"c{u}"] - self_mask(session, u, server._secret(u, MASK_SHARE))
        ring += pairwise_mask(session, lost, 5, u, server._mask_key(u))
        assert_uniform(ring)  # ... and the masks between survivors stay on every single vector.
    assert server.total().tolist() == plain_sum(own, (1, 2, 3, 4))
    assert_uniform(sum((masked[f"c{u}"] for u in (1, 2, 3)), np.zeros(6000, dtype=np.uint64)))


def test_the_server_has_no_shares_of_what_it_would_need():
    """Of survivors it gets seed shares alone, of lost clients key shares alone, all others are encrypted."""
    played = play_all(make_session(5, 3), vectors(make_session(5, 3)), {Stage.MASK: [5]})
    view = ServerView.of(played.messages)
    for message in view.of_stage(Stage.UNMASK).values():
        kinds = {client: row[:1] for client, row in message.rows.items()}
        assert kinds == {1: MASK_SHARE, 2: MASK_SHARE, 3: MASK_SHARE, 4: MASK_SHARE, 5: KEY_SHARE}
    with pytest.raises(ValueError, match="the wrong kind of share"):
        played.server._secret(1, KEY_SHARE)
    sealed = [row for m in view.of_stage(Stage.SHARE).values() for row in m.rows.values()]
    assert len(set(sealed)) == 20
    plain = [row[1:] for m in view.of_stage(Stage.UNMASK).values() for row in m.rows.values()]
    assert not any(share in row for share in plain for row in sealed)


def test_a_vector_that_comes_late_keeps_its_self_mask():
    """The server declares 5 lost, learns its key, then receives its vector: the reason for two masks."""
    table = Table(make_session(5, 3, length=6000)).until(Stage.MASK)
    late = Message.from_bytes(table.ask(5), table.session, Stage.MASK, from_server=False).rows[5]
    table.step(lost=(5,))
    table.step(lost=(5,))
    key = KeyPair(table.server._secret(5, KEY_SHARE))
    ring = np.frombuffer(late, dtype="<u8").astype(np.uint64)
    for other in (1, 2, 3, 4):
        ring -= pairwise_mask(table.session, key, 5, other, table.server._mask_key(other))
    assert_uniform(ring)
    ring -= self_mask(table.session, 5, table.clients[5]._seed)  # with the seed it would be open
    assert ring.tolist() == table.vectors[5].tolist()


def test_below_the_threshold_every_seed_is_still_possible():
    """Two shares of three: a third one exists for each seed, so for each vector of the client."""
    table = Table(make_session(5, 3)).until(Stage.UNMASK)
    rows = {
        k: Message.from_bytes(table.ask(k), table.session, Stage.UNMASK, from_server=False).rows
        for k in (1, 2)
    }
    known = {k: int.from_bytes(rows[k][4][1:], "big") for k in (1, 2)}
    with pytest.raises(ValueError, match="3 shares are needed"):
        reconstruct({k: rows[k][4][1:] for k in (1, 2)}, 3)
    for seed in (bytes(32), b"\xff" * 32, table.clients[4]._seed):
        third = (int.from_bytes(seed, "big") - 3 * known[1] + 3 * known[2]) % PRIME
        forged = {k: v.to_bytes(33, "big") for k, v in {**known, 3: third}.items()}
        assert reconstruct(forged, 3) == seed


def test_an_unfinished_session_gives_the_server_nothing():
    table = Table(make_session(5, 3, length=6000)).until(Stage.UNMASK)
    for k in (1, 2):
        table.server.receive(table.ask(k))
    with pytest.raises(ValueError, match=r"needs 3 clients to complete stage unmask, got 2 of 5"):
        table.server.close()
    with pytest.raises(ValueError, match="has not come to its end"):
        table.server.total()
    total = sum(
        np.frombuffer(table.server._received[Stage.MASK][k].rows[k], dtype="<u8") for k in range(1, 6)
    )
    assert_uniform(total)


def test_reused_seeds_would_give_away_the_difference_of_two_updates():
    """Why they are refused: the same masks in two sessions cancel."""
    session = make_session(3, 2, length=50)
    first, second = vectors(session, 1), vectors(session, 2)
    seen = [
        ServerView.of(play_all(session, own, seed=9).messages).masked_vectors() for own in (first, second)
    ]
    assert (seen[0]["c1"] - seen[1]["c1"]).tolist() == (first[1] - second[1]).tolist()


def test_the_recorded_view_holds_no_update_in_any_usual_form():
    """Neither its float bytes nor its fixed-point bytes occur in what the server saw."""
    updates, weights = random_task(4, seed=2)
    blob = b"".join(SecureAggregation(generator=seeded(5)).aggregate(updates, weights).messages)
    for name, update in updates.items():
        values = np.concatenate([tensor.numpy().reshape(-1) for tensor in update.values()])
        steps = np.round(values * weights[name] * 2**32).astype(np.int64)
        for single in (*values, *(values * weights[name]), *steps):
            assert single.tobytes() not in blob
