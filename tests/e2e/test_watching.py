"""watch, trace and stats with real clients."""

import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pykcm.cli.client import ControlClient
from pykcm.client import KcmClient
from pykcm.control.frames import encode
from pykcm.control.messages import request
from pykcm.protocol.principal import Principal
from tests.builders import ALICE, HTTP, credential_bytes

from .clients import MitClient
from .conftest import OTHER, USER
from .control import Pykcmctl
from .daemon import LIMIT, Pykcmd, effective_uid
from .flooding import flooding
from .following import Followed
from .kdc import REALM

NAME = f"KCM:{USER}"
END = f"{NAME}:end"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may use the control socket")


def test_watch_shows_events_of_real_clients(ctl: Pykcmctl, mit: MitClient) -> None:
    """Each line is printed as it happens, also to a pipe."""
    with Followed(ctl, "watch", "--json") as watch, Followed(ctl, "watch") as lines:

        def next_one() -> tuple[str, str, str | None]:
            event = watch.json()
            assert event["uid"] == USER
            assert abs(event["time"] - time.time()) < LIMIT
            return event["event"], event["ccache"], event.get("principal")

        mit.kinit("alice")
        assert next_one() == ("created", NAME, f"alice@{REALM}")
        assert re.fullmatch(rf"[0-9:.]+  {USER}  created  {NAME}  alice@{REALM}", lines.line())
        mit.kvno("host/server.pykcm.test")
        stored = watch.json()
        assert (stored["event"], stored["ccache"]) == ("stored", NAME)
        assert stored["server"] == f"host/server.pykcm.test@{REALM}"
        assert lines.line().endswith(f"stored  {NAME}  alice@{REALM}  host/server.pykcm.test@{REALM}")
        mit.klist()
        mit.kinit("bob")
        kind, second, principal = next_one()
        assert (kind, principal) == ("created", f"bob@{REALM}")
        assert next_one() == ("default", second, None)
        mit.ok("kswitch", "-p", "alice")
        assert next_one() == ("default", NAME, None)
        mit.kinit("alice")
        assert next_one() == ("replaced", NAME, f"alice@{REALM}")
        mit.ok("kdestroy", "-A")
        assert next_one()[:2] == ("destroyed", NAME)
        # As long as it is there, it takes the default's place.
        assert next_one() == ("default", second, None)
        assert next_one()[:2] == ("destroyed", second)
        assert watch.interrupt() == 0


def test_watch_shows_refusals(several_uids: None, ctl: Pykcmctl, mit_as: Callable[[int], MitClient]) -> None:
    """Access to another user's ccache is shown, and --uid filters other users."""
    mit, other = mit_as(USER), mit_as(OTHER)
    with Followed(ctl, "watch", "--json", "--uid", str(OTHER)) as watch:
        mit.kinit("alice")
        assert other.run("klist", ccache=NAME).code == 1
        refused = watch.json()
        assert (refused["event"], refused["uid"], refused["ccache"]) == ("refused", OTHER, NAME)
        assert (refused["reason"], refused["detail"]) == ("permission", "the name belongs to another user")


def test_trace_shows_requests_of_real_clients(ctl: Pykcmctl, mit: MitClient) -> None:
    """The requests of kinit, kvno and klist are shown in order, with their replies."""
    with (
        Followed(ctl, "trace", "--json", "--uid", str(USER)) as trace,
        Followed(ctl, "trace") as lines,
    ):

        def asked(do: Callable[[], object]) -> list[tuple[str, str]]:
            do()
            assert mit.run("klist", "-s", ccache=END).code == 1
            items = trace.until(ccache=END)[:-1]
            assert {item["uid"] for item in items} == {USER}
            assert len({(item["pid"], item["program"]) for item in items}) == 1
            assert all(0 < item["duration"] < LIMIT for item in items)
            last.append(items)
            return [(item["operation"], item["code"]) for item in items]

        last: list[list[dict[str, object]]] = []
        kinit = asked(lambda: mit.kinit("alice"))
        assert kinit[0] == ("GET_DEFAULT_CACHE", "OK")
        assert kinit[-1] == ("REPLACE", "OK")
        assert ("GET_PRINCIPAL", "FCC_NOFILE") in kinit
        asked_for = last[-1][-1]["asked"]
        assert isinstance(asked_for, dict)
        assert asked_for["principal"] == f"alice@{REALM}"
        host = "host/server.pykcm.test"
        kvno = asked(lambda: mit.kvno(host))
        assert kvno[-1] == ("STORE", "OK")
        stored = last[-1][-1]["asked"]
        assert isinstance(stored, dict)
        assert (stored["client"], stored["server"]) == (f"alice@{REALM}", f"{host}@{REALM}")
        looked_for = [
            (item["code"], item["asked"]["server"].rpartition("@")[0])  # type: ignore[index]
            for item in last[-1]
            if item["operation"] == "RETRIEVE"
        ]
        assert looked_for[-2:] == [("CC_NOTFOUND", host), ("OK", f"krbtgt/{REALM}")]
        klist = asked(mit.klist)
        assert [operation for operation, _ in klist][-2:] == ["GET_KDC_OFFSET", "GET_CRED_LIST"]
        flags = re.findall(r"Flags: (\w+)", mit.ok("klist", "-f"))
        line = lines.line()
        while "STORE" not in line:
            line = lines.line()
        words = line.split()
        assert (words[1], words[3], words[4]) == (str(USER), "STORE", "OK")
        assert re.fullmatch(r"\w+\[\d+\]", words[2])
        assert f"server={host}@{REALM}" in words
        # In the form of klist.
        assert f"ticket_flags={flags[1]}" in words
        assert trace.interrupt() == 0


def test_trace_contains_no_secrets(pykcmd: Pykcmd, ctl: Pykcmctl) -> None:
    """The control socket sends no key and no ticket, whatever clients request."""
    canary = b"CANARY-IN-THE-TICKET"
    name = b"%d" % USER
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.connect(str(pykcmd.control_path))
        raw.sendall(encode(request("trace", {})))
        assert raw_until(raw, b"tracing")
        with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
            blob = credential_bytes(HTTP, key=canary, ticket=canary, authdata=[(1, canary)])
            kcm.replace(name, 0, ALICE, [blob])
            kcm.store(name, blob)
            for uuid in kcm.get_cred_uuid_list(name):
                kcm.get_cred_by_uuid(name, uuid)
            kcm.initialize(b"%d:end" % USER, Principal(1, b"R", (b"the-end",)))
        said = raw_until(raw, b"the-end")
    assert b"GET_CRED_BY_UUID" in said
    assert b"CANARY" not in said
    assert b"CANARY".hex().encode() not in said


def raw_until(sock: socket.socket, mark: bytes) -> bytes:
    sock.settimeout(LIMIT)
    said = b""
    while mark not in said:
        piece = sock.recv(1 << 16)
        assert piece
        said += piece
    return said


def test_watch_ends_or_reconnects_with_daemon(pykcmd: Pykcmd, ctl: Pykcmctl, mit: MitClient) -> None:
    """It ends with the status for a missing daemon; with --reconnect it waits and reports the gap."""
    with Followed(ctl, "watch") as once, Followed(ctl, "watch", "--json", "--reconnect") as again:
        assert pykcmd.stop() == 0
        assert once.process.wait(LIMIT) == 3
        assert "pykcmctl watch --reconnect" in once.error()
        assert "waiting" in again.error()
        pykcmd.start()
        assert "connected again" in again.error()
        assert again.json() == {"event": "lost", "number": None}
        mit.kinit("alice")
        assert again.json()["event"] == "created"
        assert again.interrupt() == 0


def test_missing_daemon_is_reported(pykcmd: Pykcmd, ctl: Pykcmctl) -> None:
    """With --reconnect as well, because the path may be wrong."""
    assert pykcmd.stop() == 0
    for command in (["watch"], ["watch", "--reconnect"], ["trace"], ["stats"], ["metrics"]):
        said = ctl.run(*command)
        assert (said.status, said.output) == (3, "")
        assert "no daemon" in said.errors


def test_closed_watcher_is_forgotten(ctl: Pykcmctl) -> None:
    """The daemon notices it at once, without another event."""
    with Followed(ctl, "watch") as watch:
        assert ctl.json("stats")["watchers"] == 1
        watch.process.kill()
        deadline = time.monotonic() + LIMIT
        while ctl.json("stats")["watchers"]:
            assert time.monotonic() < deadline


def test_stats_of_real_clients(ctl: Pykcmctl, mit: MitClient) -> None:
    """Counts and durations of operations, since the start or for an interval."""
    mit.kinit("alice")
    stats = ctl.json("stats")
    replace = stats["operations"]["REPLACE"]
    assert replace["count"] == 1
    assert 0 < replace["p50"] <= replace["p99"] <= replace["longest"]
    assert (stats["failing"], stats["ccaches"], stats["commits"]["count"]) == ("", 1, 1)
    (line,) = [line for line in ctl.ok("stats").splitlines() if line.startswith("REPLACE")]
    assert line.split("\t")[1:4] == ["1", "0", "0"]
    (line,) = [line for line in ctl.ok("stats").splitlines() if line.startswith("GET_PRINCIPAL")]
    assert int(line.split("\t")[2]) == stats["operations"]["GET_PRINCIPAL"]["not_found"] > 0
    over = ctl.json("stats", "--interval", "10ms")
    assert over["operations"]["REPLACE"]["count"] == 0
    assert 0.01 <= over["interval"] < LIMIT
    assert ctl.run("stats", "--interval", "soon").status == 2


def test_stalled_watcher_is_bounded(several_uids: None, stopped_pykcmd: Pykcmd) -> None:
    """During a flood, watchers that do not read cost bounded memory and delay nobody."""
    stopped_pykcmd.start("--log-level", "warning")
    client = ControlClient(stopped_pykcmd.control_path)
    silent = [iter(client.ask(request)) for request in ("watch", "trace", "trace")]
    for items in silent:
        next(items)
    _flood_those(silent[1], stopped_pykcmd)
    del items, silent
    assert stopped_pykcmd.stop() == 0


def _flood_those(tracing: Iterator[Any], stopped_pykcmd: Pykcmd) -> None:
    with (
        flooding(stopped_pykcmd, 100),
        effective_uid(OTHER),
        KcmClient(stopped_pykcmd.socket_path, timeout=LIMIT) as kcm,
    ):
        name = b"%d" % OTHER
        kcm.initialize(name, ALICE)
        # More than the queues hold: from here on, nothing more is kept.
        for _ in range(10_000):
            assert kcm.get_principal(name) == ALICE
        full = stopped_pykcmd.resident_size
        waits = []
        for _ in range(5_000):
            begun = time.monotonic()
            assert kcm.get_principal(name) == ALICE
            waits.append(time.monotonic() - begun)
        # Other load on the machine may hold up a few of them.
        assert sorted(waits)[-10] < 2
        assert stopped_pykcmd.resident_size - full < 32 << 20
    # A watcher that reads again is told how many events were lost.
    lost = next(item["lost"] for item in tracing if "lost" in item)
    assert lost > 1000


def test_each_json_line_is_an_object(ctl: Pykcmctl, mit: MitClient) -> None:
    with Followed(ctl, "trace", "--json") as trace:
        mit.kinit("alice")
        first = json.loads(trace.line())
        assert set(first) >= {"time", "uid", "pid", "operation", "code", "duration"}
