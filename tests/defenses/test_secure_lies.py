"""Servers and clients that lie, repeat themselves or change messages: what the others refuse."""

from __future__ import annotations

import pytest

from fedpriv.defenses.secure_aggregation import Message, Stage
from fedpriv.defenses.secure_aggregation.client import (
    Client,
)
from tests.defenses.secure_scenes import Table, make_session


@pytest.mark.parametrize("stage", [Stage.ADVERTISE, Stage.SHARE, Stage.MASK, Stage.UNMASK])
def test_no_client_answers_a_stage_twice(stage):
    table = Table(make_session(4, 3)).until(stage)
    table.ask(2)
    with pytest.raises(ValueError, match="each stage is answered once"):
        table.ask(2)


def test_a_client_that_refused_something_answers_nothing_any_more():
    table = Table(make_session(4, 3)).until(Stage.MASK)
    client, honest = table.clients[2], table.inbox[2]
    with pytest.raises(ValueError, match="it was cut"):
        client.mask(honest[:-1], table.vectors[2])
    with pytest.raises(ValueError, match="is done with this session"):
        client.mask(honest, table.vectors[2])


def test_a_message_of_an_earlier_session_or_a_second_one_is_refused_by_the_server():
    old, new = Table(make_session(4, 3, seed=1)), Table(make_session(4, 3, seed=2))
    replayed = old.ask(1)
    with pytest.raises(ValueError, match="an old message that is sent again"):
        new.server.receive(replayed)
    fresh = new.ask(1)
    new.server.receive(fresh)
    with pytest.raises(ValueError, match="client 1 has already sent"):
        new.server.receive(fresh)


def test_a_lost_client_cannot_come_back():
    table = Table(make_session(4, 3)).until(Stage.SHARE)
    late = table.ask(4)
    table.step(lost=(4,))
    with pytest.raises(ValueError, match="expected a message of"):
        table.server.receive(late)
    forged = Message(stage=Stage.MASK, session=table.session.id, sender=4, rows={4: bytes(32)}).to_bytes()
    with pytest.raises(ValueError, match="was lost before stage mask and cannot come back"):
        table.server.receive(forged)


def tampered(data, session, stage, change):
    message = Message.from_bytes(data, session, stage, from_server=True)
    return Message(stage=stage, session=session.id, sender=0, rows=change(dict(message.rows))).to_bytes()


def without(*clients):
    return lambda rows: {k: v for k, v in rows.items() if k not in clients}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(1, 3), "needs 3 clients that sent keys, got 2"),
        (without(2), "not in the list of keys with its own two keys"),
        (lambda rows: {**rows, 2: bytes(64)}, "not in the list of keys with its own two keys"),
        (lambda rows: {**rows, 3: rows[4]}, "holds a key twice"),
        (lambda rows: {**rows, 3: rows[3][32:] + rows[3][32:]}, "holds a key twice"),
        (lambda rows: {**rows, 3: bytes(64)}, "holds a key twice"),
        (lambda rows: {**rows, 3: bytes(32) + rows[3][32:]}, "a point of large order"),
    ],
)
def test_a_bad_list_of_keys_is_refused(change, message):
    table = Table(make_session(4, 3)).until(Stage.SHARE)
    with pytest.raises(ValueError, match=message):
        table.clients[2].share(tampered(table.inbox[2], table.session, Stage.ADVERTISE, change))


def test_a_key_of_small_order_for_the_masks_is_refused():
    table = Table(make_session(4, 3)).until(Stage.SHARE)
    bad = tampered(
        table.inbox[2], table.session, Stage.ADVERTISE, lambda rows: {**rows, 3: rows[3][:32] + bytes(32)}
    )
    table.inbox[2] = bad
    table.server.receive(table.clients[2].share(bad))
    table.step(lost=(2,))
    with pytest.raises(ValueError, match="a point of large order"):
        table.clients[2].mask(table.inbox[2], table.vectors[2])


def test_changed_or_misdirected_shares_do_not_open():
    for change in (
        lambda rows: {**rows, 3: rows[4], 4: rows[3]},
        lambda rows: {**rows, 3: rows[3][:-1] + bytes([rows[3][-1] ^ 1])},
    ):
        table = Table(make_session(4, 3)).until(Stage.MASK)
        table.inbox[2] = tampered(table.inbox[2], table.session, Stage.SHARE, change)
        table.step()
        with pytest.raises(ValueError, match="an encrypted share does not open"):
            table.clients[2].unmask(table.inbox[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(1, 3, 4), "needs 3 clients that sent a masked vector, got 1"),
        (without(1, 3), "needs 3 clients"),
        (without(2), "the survivors must be client 2 and others"),
    ],
)
def test_a_bad_list_of_survivors_is_refused(change, message):
    table = Table(make_session(4, 3)).until(Stage.UNMASK)
    with pytest.raises(ValueError, match=message):
        table.clients[2].unmask(tampered(table.inbox[2], table.session, Stage.MASK, change))


def test_a_survivor_without_shares_is_refused():
    table = Table(make_session(5, 3)).until(Stage.UNMASK, lost={Stage.SHARE: (5,)})
    with pytest.raises(ValueError, match="others that sent shares"):
        table.clients[2].unmask(
            tampered(table.inbox[2], table.session, Stage.MASK, lambda rows: {**rows, 5: b""})
        )


def with_a_wrong_share(table, client):
    """Holder 1 changes the last byte of its share of `client`'s secret; the others are honest."""
    rows = dict(Message.from_bytes(table.ask(1), table.session, Stage.UNMASK, from_server=False).rows)
    rows[client] = rows[client][:-1] + bytes([rows[client][-1] ^ 1])
    table.server.receive(
        Message(stage=Stage.UNMASK, session=table.session.id, sender=1, rows=rows).to_bytes()
    )
    table.step(lost=(1,))
    return table


def test_a_holder_that_sends_wrong_shares_is_noticed():
    table = with_a_wrong_share(Table(make_session(5, 3)).until(Stage.UNMASK), 3)
    with pytest.raises(ValueError, match=r"client 3's secret: the shares do not lie on one polynomial"):
        table.server.total()


def test_a_wrong_key_from_just_enough_holders_does_not_match_the_public_key():
    table = Table(make_session(5, 4)).until(Stage.UNMASK, lost={Stage.MASK: (5,)})
    with_a_wrong_share(table, 5)
    with pytest.raises(ValueError, match=r"do not belong to its public key|wrong share"):
        table.server.total()


class TestLyingServer:
    """What signatures are for."""

    def swap_keys(self, table):
        """The server puts its own keys in the place of client 3's in the list for client 2."""
        own = Client(make_session(4, 3), 3)
        own.advertise()
        pair = own._encryption.public + own._masking.public
        table.inbox[2] = tampered(
            table.inbox[2],
            table.session,
            Stage.ADVERTISE,
            lambda rows: {**rows, 3: pair + rows[3][64:]},
        )
        return own

    def test_without_signatures_it_reads_the_shares_meant_for_another_client(self):
        table = Table(make_session(4, 3)).until(Stage.SHARE)
        own = self.swap_keys(table)
        message = Message.from_bytes(table.ask(2), table.session, Stage.SHARE, from_server=False)
        own.session, own._inbox = table.session, {2: message.rows[3]}
        own._opening = {2: own._channel(2, table.clients[2]._encryption.public)[0]}
        assert len(own._opened(2)[0]) == 33  # a share of client 2's mask key, in the server's hands

    def test_with_signatures_the_swap_is_noticed(self):
        table = Table(make_session(4, 3, active=True)).until(Stage.SHARE)
        self.swap_keys(table)
        with pytest.raises(ValueError, match="the signature of client 3 on its keys is not valid"):
            table.ask(2)

    def test_with_signatures_two_lists_of_survivors_are_noticed(self):
        table = Table(make_session(5, 3, active=True)).until(Stage.CHECK)
        for k in (1, 2):  # are told that 5 is lost, the others that it is not
            table.inbox[k] = tampered(table.inbox[k], table.session, Stage.MASK, without(5))
        table.step()
        with pytest.raises(ValueError, match="must come from survivors"):
            table.ask(1)
        # Also if the server hides that 5 has signed: 3 and 4 have put their names under another list.
        table.inbox[2] = tampered(table.inbox[2], table.session, Stage.CHECK, without(5))
        with pytest.raises(ValueError, match="client 3 on its list of survivors is not valid"):
            table.ask(2)

    def test_too_few_signatures_are_not_enough(self):
        table = Table(make_session(5, 3, active=True)).until(Stage.UNMASK)
        table.inbox[2] = tampered(table.inbox[2], table.session, Stage.CHECK, without(1, 3, 4))
        with pytest.raises(ValueError, match="needs 3 clients that signed the list of survivors, got 2"):
            table.ask(2)

    def test_signatures_need_identities(self):
        with pytest.raises(ValueError, match="needs the client's identity and a directory"):
            Client(make_session(4, 3, active=True), 1)

    def test_an_old_signature_does_not_fit_a_new_session(self):
        old, new = (make_session(4, 3, active=True, seed=s) for s in (1, 2))
        past = Message.from_bytes(Table(old).ask(3), old, Stage.ADVERTISE, from_server=False).rows[3]
        table = Table(new).until(Stage.SHARE)
        table.inbox[2] = tampered(table.inbox[2], new, Stage.ADVERTISE, lambda rows: {**rows, 3: past})
        with pytest.raises(ValueError, match="the signature of client 3 on its keys"):
            table.ask(2)
