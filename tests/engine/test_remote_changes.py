"""Watchers of one host see the others' changes, each once; nothing is asked while nobody watches."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from pykcm.engine import remote_changes
from pykcm.store.postgresql.database import Database
from pykcm.store.postgresql.sealing import Sealer
from pykcm.store.postgresql.store import PostgreSQLStore
from tests.builders import ALICE, BOB, HTTP, TGS, ticket
from tests.control.controlling import Controlling
from tests.control.following import Following
from tests.server.asking import Server
from tests.store.postgresql.conftest import KEY, conninfo, postgresql

__all__ = ["conninfo", "postgresql"]

ENDS = 1_800_000_000


class Hosts:
    """Two hosts with one store, in one event loop; `watched` is the one that is watched."""

    def __init__(self, runner: asyncio.Runner, conninfo: str) -> None:
        self.stores = [PostgreSQLStore(Database(conninfo, 20.0), Sealer([KEY])) for _ in range(2)]
        self.watched, self.other = (Server(runner, store) for store in self.stores)
        self.control = Controlling(self.watched)

    def watch(self, **arguments: Any) -> Following:
        following = Following(self.watched, self.control, "watch", **arguments)
        assert following.first == {"watching": True}
        return following


@pytest.fixture
def hosts(conninfo: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    """Two hosts, of which one asks for changes all the time."""
    monkeypatch.setattr(remote_changes, "_INTERVAL", 0.01)
    with asyncio.Runner() as runner:
        hosts = Hosts(runner, conninfo)
        yield hosts
        for store in hosts.stores:
            store.close()


def kinds(items: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
    return [(item["event"], item["ccache"]) for item in items]


def test_changes_of_another_host_have_the_usual_form(hosts: Hosts) -> None:
    """Created, stored, replaced, default and destroyed come with principal, server and renewal."""
    alice = hosts.other.ask_as(1000)
    following = hosts.watch()
    alice.replace(b"1000", 0, ALICE, [ticket(ends=ENDS).blob])
    [created] = following.take(1)
    time = created.pop("time")
    assert isinstance(time, float)
    assert created == {"event": "created", "uid": 1000, "ccache": b"1000", "principal": "alice@PYKCM.TEST"}
    alice.store(b"1000", ticket(HTTP, ends=ENDS).blob)
    [stored] = following.take(1)
    assert (stored["event"], "HTTP/" in stored["server"]) == ("stored", True)
    alice.replace(b"1000", 0, ALICE, [ticket(ends=ENDS + 60).blob])
    [replaced] = following.take(1)
    assert (replaced["event"], replaced["renewed"]) == ("replaced", True)
    alice.replace(b"1000:b", 0, BOB, [ticket(ends=ENDS).blob])
    assert kinds(following.take(1)) == [("created", b"1000:b")]
    alice.set_default_cache(b"1000:b")
    assert kinds(following.take(1)) == [("default", b"1000:b")]
    alice.destroy(b"1000")
    assert kinds(following.take(1)) == [("destroyed", b"1000")]
    following.close()


def test_ccaches_from_before_are_known(hosts: Hosts) -> None:
    """A ccache that was there before the watch is no event, and its end on another host is one."""
    alice = hosts.other.ask_as(1000)
    alice.replace(b"1000:a", 0, ALICE, [ticket(ends=ENDS).blob])
    alice.replace(b"1000:b", 0, ALICE, [ticket(ends=1).blob])
    following = hosts.watch()
    alice.destroy(b"1000:a")
    assert kinds(following.take(2)) == [("destroyed", b"1000:a"), ("default", b"1000:b")]
    alice.destroy(b"1000:b")
    assert kinds(following.take(1)) == [("expired", b"1000:b")]
    following.close()


def test_each_change_is_reported_once(hosts: Hosts) -> None:
    """Changes of this host and of another one in the same collection come once each, in any order."""
    following = hosts.watch()
    here, there = hosts.watched.ask_as(1000), hosts.other.ask_as(1000)
    for number in range(10):
        here.replace(b"1000:here%d" % number, 0, ALICE, [ticket(ends=ENDS).blob])
        there.replace(b"1000:there%d" % number, 0, ALICE, [ticket(ends=ENDS).blob])
        here.store(b"1000:there%d" % number, ticket(HTTP, ends=ENDS).blob)
        there.store(b"1000:here%d" % number, ticket(HTTP, ends=ENDS).blob)
    there.destroy(b"1000:here9")
    seen: list[tuple[str, bytes]] = []
    while ("destroyed", b"1000:here9") not in seen:
        seen += [each for each in kinds(following.take(1)) if each[0] != "default"]
    here.replace(b"1000:end", 0, ALICE, [])
    while seen[-1] != ("created", b"1000:end"):
        seen += [each for each in kinds(following.take(1)) if each[0] != "default"]
    assert len(seen) == len(set(seen))
    created = {name for kind, name in seen if kind == "created"}
    expected = {b"1000:%s%d" % (place, number) for place in (b"here", b"there") for number in range(10)}
    assert expected <= created
    following.close()


def test_watch_of_one_user_shows_no_other(hosts: Hosts) -> None:
    """`--uid` counts for other hosts' changes, too."""
    following = hosts.watch(uid=2000)
    for uid in (1000, 2000):
        hosts.other.ask_as(uid).replace(b"%d" % uid, 0, ALICE, [ticket(TGS, ends=ENDS).blob])
    assert kinds(following.take(1)) == [("created", b"2000")]
    following.close()


def test_nothing_is_asked_while_nobody_watches(hosts: Hosts) -> None:
    """After the last watch no task and no observer is left, and statistics count the clients alone."""
    one, two = hosts.watch(), hosts.watch()
    [stats] = hosts.control.ask("stats")
    assert stats["watchers"] == 2
    hosts.other.ask_as(1000).replace(b"1000", 0, ALICE, [ticket(ends=ENDS).blob])
    for following in (one, two):
        assert kinds(following.take(1)) == [("created", b"1000")]
    for following in (one, two):
        following.close()
    assert hosts.watched.engine.watchers == []
    calls = hosts.stores[0].statistics()["calls"]
    hosts.watched.runner.run(asyncio.sleep(0.05))
    assert hosts.stores[0].statistics()["calls"] == calls
    # A later watch begins again.
    following = hosts.watch()
    hosts.other.ask_as(1000).destroy(b"1000")
    assert kinds(following.take(1)) == [("destroyed", b"1000")]
    following.close()
