"""The requests watch and trace: events of ccaches, and requests with their replies."""

import asyncio
import base64
import json
from typing import Any

import pytest

from pykcm.cli.watching import _event_line, _exchange_line, _json_item
from pykcm.control.frames import encode
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.control.trace_format import _LONGEST
from pykcm.protocol.codes import Code
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.principal import Principal
from pykcm.protocol.tag import Match, Tag
from pykcm.store.memory import MemoryStore
from tests.builders import (
    ALICE,
    BOB,
    HTTP,
    PID_OF_NOBODY,
    TGS,
    configuration,
    credential_bytes,
    principal_bytes,
    refused,
    typed_list,
)
from tests.control.controlling import Controlling
from tests.control.following import Following
from tests.peer.mcs import CONTAINER_1, CONTAINER_2, HOST, HOST_LOW, Mcs
from tests.server.asking import Asking, Server

ENDS = 1_800_000_000


def bare(item: dict[str, Any]) -> dict[str, Any]:
    """The item without its times."""
    return {key: value for key, value in item.items() if key not in {"time", "duration"}}


def test_watch_reports_each_event(server: Server, control: Controlling, alice: Asking) -> None:
    """The first item says that it has begun, then each event follows; closing it removes the watcher."""
    following = Following(server, control, "watch")
    assert following.first == {"watching": True}
    alice.initialize(b"1000", ALICE)
    alice.destroy(b"1000")
    created, destroyed = following.take(2)
    assert bare(created) == {
        "event": "created",
        "uid": 1000,
        "ccache": b"1000",
        "principal": "alice@PYKCM.TEST",
    }
    assert bare(destroyed)["event"] == "destroyed"
    assert created["time"] <= destroyed["time"]
    following.close()
    assert server.engine.watchers == []


@pytest.mark.parametrize("request_", ["watch", "trace"])
def test_watch_and_trace_end_with_an_internal_error(
    server: Server, control: Controlling, alice: Asking, monkeypatch: pytest.MonkeyPatch, request_: str
) -> None:
    """If an item cannot be made, watch and trace end with an error, and requests go on."""

    def fail(*_: object) -> None:
        raise RuntimeError("no item")

    for name in ("event_item", "exchange_item"):
        monkeypatch.setattr(f"pykcm.control.trace_format.{name}", fail)
    following = Following(server, control, request_)
    assert following.first
    alice.initialize(b"1000", ALICE)
    with pytest.raises(ControlError, match="an error in pykcm"):
        following.take(1)
    assert alice.get_principal(b"1000") == ALICE
    assert (server.engine.watchers, server.dispatcher.tracers) == ([], [])


def test_watch_with_uid_has_no_events_of_others(server: Server, control: Controlling, alice: Asking) -> None:
    """With `uid` there are no events of other UIDs."""
    following = Following(server, control, "watch", uid=2000)
    bob = server.ask_as(2000)
    alice.initialize(b"1000", ALICE)
    with refused(Code.FCC_PERM):
        alice.initialize(b"2000", ALICE)
    bob.initialize(b"2000", BOB)
    assert following.next()["uid"] == 2000
    with refused(Code.FCC_PERM):
        bob.initialize(b"1000", ALICE)
    assert bare(following.next()) == {
        "event": "refused",
        "uid": 2000,
        "ccache": b"1000",
        "reason": "permission",
        "detail": "the name belongs to another user",
    }


def test_number_of_watch_and_trace_is_limited(
    server: Server, control: Controlling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some connections are left for requests that end."""
    monkeypatch.setattr("pykcm.control.watching._MOST_FOLLOWERS", 2)
    first, second = Following(server, control, "watch"), Following(server, control, "trace")
    for request in ("watch", "trace"):
        with pytest.raises(ControlError) as caught:
            Following(server, control, request)
        assert caught.value.code == ErrorCode.BUSY
    first.close()
    third = Following(server, control, "trace")
    assert second.first == third.first == {"tracing": True}


def test_hidden_ccaches_are_neither_watched_nor_traced(runner: asyncio.Runner) -> None:
    """A peer that may not read a ccache gets neither its events nor requests about it."""
    server = Server(runner, MemoryStore(), policy=Mcs())
    control = Controlling(server)
    events = Following(server, control, "watch", CONTAINER_2)
    exchanges = Following(server, control, "trace", CONTAINER_2)
    all_events = Following(server, control, "watch", HOST)
    server.ask_as(1000, CONTAINER_1).initialize(b"1000:one", ALICE)
    # Users who can have no categories are shown what has all of them.
    server.ask_as(1000, HOST).initialize(b"1000:host", ALICE)
    server.ask_as(1000, HOST_LOW).get_principal(b"1000:host")
    server.ask_as(1000, CONTAINER_2).initialize(b"1000:two", BOB)
    assert events.next()["ccache"] == b"1000:two"
    assert exchanges.next()["ccache"] == b"1000:two"
    assert [(each["event"], each["ccache"]) for each in all_events.take(4)] == [
        ("created", b"1000:one"),
        ("default", b"1000:one"),
        ("created", b"1000:host"),
        ("created", b"1000:two"),
    ]


def test_trace_reports_each_request_with_its_reply(
    server: Server, control: Controlling, alice: Asking
) -> None:
    """Each request with its reply is an item; closing it removes the tracer."""
    following = Following(server, control, "trace")
    assert following.first == {"tracing": True}
    alice.initialize(b"1000", ALICE)
    blob = credential_bytes(HTTP, times=(1000, 1000, ENDS, 0))
    alice.store(b"1000", blob)
    match_flags = int(Match.KEYTYPE | Match.TIMES | 1 << 5)
    with refused(Code.CC_NOTFOUND):
        alice.retrieve(b"1000", match_flags, Tag(client=ALICE, server=TGS, enctype=18))
    assert alice.retrieve(b"1000", 0, Tag(server=HTTP)) == blob
    asked_by = {"uid": 1000, "pid": PID_OF_NOBODY}
    initialized, stored, not_found, found = map(bare, following.take(4))
    assert initialized == asked_by | {
        "operation": "INITIALIZE",
        "ccache": b"1000",
        "code": "OK",
        "asked": {"principal": "alice@PYKCM.TEST"},
        "request_size": 8 + 5 + len(principal_bytes(ALICE)),
        "reply_size": 12,
    }
    credential = {
        "client": "alice@PYKCM.TEST",
        "server": "HTTP/www.pykcm.test@PYKCM.TEST",
        "enctype": 18,
        "ticket_flags": 0x40E10000,
        "endtime": ENDS,
    }
    assert stored["asked"] == credential
    assert (not_found["code"], not_found["asked"]) == (
        "CC_NOTFOUND",
        {
            "match": ["TIMES", "KEYTYPE", "0x20"],
            "client": "alice@PYKCM.TEST",
            "server": "krbtgt/PYKCM.TEST@PYKCM.TEST",
            "enctype": 18,
        },
    )
    assert "answered" not in not_found
    assert found["answered"] == credential
    assert found["reply_size"] == 12 + len(blob)
    following.close()
    assert server.dispatcher.tracers == []


def test_trace_has_the_fields_of_every_operation(server: Server, control: Controlling, alice: Asking) -> None:
    """The fields of each request and reply have names."""
    following = Following(server, control, "trace")
    alice.replace(b"1000", 7, ALICE, [credential_bytes(TGS), credential_bytes(HTTP)])
    alice.get_cred_list(b"1000")
    (uuid, _) = alice.get_cred_uuid_list(b"1000")
    alice.get_cred_by_uuid(b"1000", uuid)
    (ccache_uuid,) = alice.get_cache_uuid_list()
    alice.get_cache_by_uuid(ccache_uuid)
    alice.get_principal(b"1000")
    alice.get_kdc_offset(b"1000")
    alice.get_default_cache()
    alice.answer(Opcode.SET_FLAGS, b"1000\0\0\0\0\5")
    alice.answer(999)
    alice.answer(Opcode.CHMOD)
    alice.answer(Opcode.STORE, b"no end")
    alice.move_cache(b"1000", b"1000:moved")
    traced = [
        (each["operation"], each.get("asked"), each.get("answered"), each["code"])
        for each in following.take(14)
    ]
    tgt = {
        "client": "alice@PYKCM.TEST",
        "server": "krbtgt/PYKCM.TEST@PYKCM.TEST",
        "enctype": 18,
        "ticket_flags": 0x40E10000,
        "endtime": 2**32 - 1,
    }
    assert traced == [
        ("REPLACE", {"kdc_offset": 7, "principal": "alice@PYKCM.TEST", "credentials": 2}, None, "OK"),
        ("GET_CRED_LIST", None, {"credentials": 2}, "OK"),
        ("GET_CRED_UUID_LIST", None, {"uuids": 2}, "OK"),
        ("GET_CRED_BY_UUID", {"uuid": uuid}, tgt, "OK"),
        ("GET_CACHE_UUID_LIST", None, {"uuids": 1}, "OK"),
        ("GET_CACHE_BY_UUID", {"uuid": ccache_uuid}, {"name": b"1000"}, "OK"),
        ("GET_PRINCIPAL", None, {"principal": "alice@PYKCM.TEST"}, "OK"),
        ("GET_KDC_OFFSET", None, {"kdc_offset": 7}, "OK"),
        ("GET_DEFAULT_CACHE", None, {"name": b"1000"}, "OK"),
        ("SET_FLAGS", {"flags": 5}, None, "OK"),
        ("999", None, None, "FCC_INTERNAL"),
        ("CHMOD", None, None, "CC_NOSUPP"),
        ("STORE", None, None, "CC_FORMAT"),
        ("MOVE_CACHE", {"to": b"1000:moved"}, None, "OK"),
    ]


def test_trace_with_uid_has_no_requests_of_others(
    server: Server, control: Controlling, alice: Asking
) -> None:
    """With `uid` there are no requests of other UIDs."""
    following = Following(server, control, "trace", uid=2000)
    alice.gen_new()
    server.ask_as(2000).noop()
    assert following.next()["operation"] == "NOOP"


CANARY = b"CANARY-0123456789-abcdefghijklmnopqrstuvwxyz"


def traces_of(secret: bytes) -> list[bytes]:
    """How a secret could show: as it is, in hex or in base64 at each offset, but for its ends."""
    encoded = [base64.b64encode(bytes(shift) + secret)[8:-8] for shift in range(3)]
    pieces = [secret[at : at + 6] for at in range(0, len(secret) - 6, 6)]
    return [*pieces, *[piece.hex().encode() for piece in pieces], *[each[:12] for each in encoded]]


def test_trace_and_watch_contain_no_secret(server: Server, control: Controlling, alice: Asking) -> None:
    """Keys, tickets, second tickets, authdata and configuration values do not appear in any form."""
    following = Following(server, control, "trace")
    events = Following(server, control, "watch")
    blob = credential_bytes(
        HTTP,
        key=CANARY,
        ticket=CANARY,
        second_ticket=CANARY,
        is_skey=True,
        authdata=[(1, CANARY)],
        addresses=[(2, CANARY)],
    )
    tag = Tag(server=HTTP, second_ticket=CANARY, authdata=typed_list([(1, CANARY)]), is_skey=True)
    match_flags = int(Match.SECOND_TICKET | Match.AUTHDATA | Match.IS_SKEY)
    alice.replace(b"1000", 0, ALICE, [blob])
    alice.store(b"1000", blob)
    alice.store(b"1000", configuration(b"password", CANARY).blob)
    assert alice.retrieve(b"1000", match_flags, tag) == blob
    alice.get_cred_list(b"1000")
    for uuid in alice.get_cred_uuid_list(b"1000"):
        alice.get_cred_by_uuid(b"1000", uuid)
    alice.remove_cred(b"1000", match_flags, tag)
    alice.answer(Opcode.STORE, b"1000\0" + blob[:-3])
    alice.answer(999, CANARY)
    items = following.take(11) + events.take(1)
    assert items[3]["answered"]["server"] == "HTTP/www.pykcm.test@PYKCM.TEST"
    lines = [_exchange_line(item) for item in items[:-1]] + [json.dumps(_json_item(item)) for item in items]
    said = encode(items) + "\n".join(lines).encode()
    assert said.count(b"RETRIEVE") == 3
    for trace in traces_of(CANARY):
        assert trace not in said
    # The search would find a secret.
    for form in (CANARY, CANARY.hex().encode(), base64.b64encode(b"x" + CANARY)):
        assert any(trace in form for trace in traces_of(CANARY))


def test_items_of_trace_are_bounded(server: Server, control: Controlling, alice: Asking) -> None:
    """Long names are cut, and of long principals there is only the length."""
    following = Following(server, control, "trace")
    huge = Principal(1, b"R", (b"x" * 5000,))
    assert alice.answer(Opcode.INITIALIZE, b"1000:" + b"y" * 1_000_000 + b"\0" + principal_bytes(huge))[0]
    item = following.next()
    assert len(item["ccache"]) == _LONGEST
    assert item["asked"] == {"principal": "(a principal of 5001 bytes)"}
    assert len(encode(item)) < 4 * _LONGEST


def test_slow_client_loses_items_and_gets_their_number(
    server: Server, control: Controlling, alice: Asking
) -> None:
    """A client that reads nothing loses items beyond the limit, and gets their number."""
    following = Following(server, control, "trace")
    server.answers([(1000, Opcode.NOOP, b"")] * 10_005)
    assert len(following.take(10_000)) == 10_000
    assert following.next() == {"lost": 5}


def test_lines_and_json_of_items() -> None:
    """Lines for people have all fields, and JSON has names as klist shows them."""
    event = {
        "time": 0.25,
        "event": "evicted",
        "uid": 4_000_000_000,
        "ccache": b"1000:\xff",
        "tickets": 2,
        "reason": "max_ccache_size",
    }
    line = _event_line(event)
    assert line.endswith("  4000000000  evicted  KCM:1000:\\xff  2 service tickets  (max_ccache_size)")
    assert _json_item(event) == event | {"ccache": "KCM:1000:\\xff"}
    assert _json_item({"lost": 3}) == {"event": "lost", "number": 3}
    exchange = {
        "time": 0.25,
        "uid": 4_000_000_000,
        "pid": 1,
        "program": "klist",
        "operation": "GET_CRED_BY_UUID",
        "ccache": b"1000",
        "code": "OK",
        "duration": 0.000_012,
        "request_size": 30,
        "reply_size": 500,
        "asked": {"uuid": b"\x0f" * 16},
        "answered": {"server": "a@B", "enctype": 18, "ticket_flags": 0x40E10000, "endtime": 0},
    }
    words = _exchange_line(exchange).split()[1:]
    assert words == [
        *("4000000000", "klist[1]", "GET_CRED_BY_UUID", "OK", "12.0", "µs", "KCM:1000"),
        f"uuid={'0f' * 16}",
        *("->", "server=a@B", "enctype=aes256-cts-hmac-sha1-96", "ticket_flags=FRIA", "endtime=-"),
    ]
    assert _json_item(exchange)["asked"] == {"uuid": "0f" * 16}
