"""The requests of pykcm-renew at a real daemon: TGTs that are due go out, and come back renewed."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pykcm.cli.client import Answer, ControlClient
from pykcm.client import KcmClient
from pykcm.control.messages import ControlError
from pykcm.logs import User
from pykcm.protocol.credential import Credential, parse_credential
from tests.builders import ALICE, HTTP, TGS, configuration, credential_bytes, ticket

from .activation import launch_with, listening
from .conftest import OTHER
from .control import Pykcmctl
from .daemon import LIMIT, ROOT, Pykcmd
from .following import Followed
from .service_users import ask_as, pykcmd_with

# The tests' own UID: its clients are those of the daemon's user.
UID = os.geteuid()
NAME = b"%d" % UID


def tgt(begins_in: int, ends_in: int, ticket: bytes = b"ticket") -> Credential:
    now = int(time.time())
    times = (now + begins_in, now + begins_in, now + ends_in, now + 86400)
    return parse_credential(credential_bytes(times=times, flags=0x40E10000, ticket=ticket))


DUE = -5000, 1000


def store(daemon: Pykcmd, *credentials: Credential, name: bytes = NAME) -> None:
    with KcmClient(daemon.socket_path) as kcm:
        kcm.replace(name, 0, ALICE, [each.blob for each in credentials])


def stored(daemon: Pykcmd, name: bytes = NAME) -> list[Credential]:
    with KcmClient(daemon.socket_path) as kcm:
        return [parse_credential(each) for each in kcm.get_cred_list(name)]


@contextmanager
def renewing(path: Path) -> Iterator[tuple[Answer, Iterator[Any]]]:
    """The request `renewals` in progress: its answer, and its items after the first one."""
    answer = ControlClient(path, patience=LIMIT).ask("renewals")
    items = iter(answer)
    assert "renewals" in next(items)
    try:
        yield answer, items
    finally:
        answer.close()


def hand_back(path: Path, *results: dict[str, Any]) -> list[dict[str, Any]]:
    return [each["renewed"] for each in ControlClient(path, patience=LIMIT).ask("renewed", frames=results)]


def test_due_tgt_is_offered_and_replaced(pykcmd: Pykcmd, ctl: Pykcmctl) -> None:
    """A TGT that was stored a moment ago is offered if it is due; its renewal changes nothing else."""
    config, service, old = configuration(b"key", b"value"), ticket(HTTP, ends=2**31), tgt(*DUE)
    with renewing(pykcmd.control_path) as (_, items), Followed(ctl, "watch", "--json") as watch:
        store(pykcmd, config, tgt(-10, 5000), name=NAME + b":later")
        store(pykcmd, config, old, service)
        offer = next(items)["tgt"]
        assert parse_credential(offer["credential"]) == old
        assert (offer["uid"], offer["ccache"], offer["realm"]) == (UID, NAME, TGS.realm)
        assert (offer["client"], offer["server"]) == (str(ALICE), str(TGS))
        assert (offer["end"], offer["renew_until"]) == (old.endtime, old.times.renew_till)
        new = tgt(0, 5000, b"renewed")
        result = {"id": offer["id"], "credential": new.blob}
        assert hand_back(pykcmd.control_path, result, result) == [
            {"id": offer["id"], "result": "renewed", "next_attempt": None},
            {"id": offer["id"], "result": "unknown", "next_attempt": None},
        ]
        assert stored(pykcmd) == [config, new, service]
        event = watch.until(event="stored")[-1]
        assert (event["ccache"], event["renewed"]) == (f"KCM:{UID}", True)
    assert f"{User(UID)}: KCM:{UID}: TGT of {ALICE} renewed until" in pykcmd.log


def test_failure_is_logged_and_tried_again(pykcmd: Pykcmd) -> None:
    """The log has the KDC's words, and the TGT is offered again after the pause."""
    store(pykcmd, tgt(*DUE))
    with renewing(pykcmd.control_path) as (_, items):
        first = next(items)["tgt"]
        words = "Client's credentials have been revoked\n\x1b[2J"
        failure = {"reason": "locked", "code": -1765328366, "message": words}
        before = time.time()
        (answer,) = hand_back(pykcmd.control_path, {"id": first["id"], "failure": failure})
        assert answer["result"] == "failed"
        assert before < answer["next_attempt"] < time.time() + 2
        again = next(items)["tgt"]
        assert again["id"] != first["id"]
        assert again["credential"] == first["credential"]
    line = (
        f"{User(UID)}: KCM:{UID}: TGT of {ALICE} not renewed: locked: Client's credentials have been revoked"
    )
    assert line in pykcmd.log
    assert "\x1b" not in pykcmd.log


def test_killed_client_is_noticed_at_once(pykcmd: Pykcmd) -> None:
    """When the client is killed, the next one gets its TGTs; a second client at the same time is refused."""
    store(pykcmd, tgt(*DUE))
    program = (
        "import sys; from pathlib import Path; from tests.e2e.test_renewal_requests import renewing\n"
        "with renewing(Path(sys.argv[1])) as (_, items):\n"
        "    print(next(items)['tgt']['id'].hex(), flush=True)\n"
        "    sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(pykcmd.control_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as client:
        assert client.stdout is not None
        lost = client.stdout.readline().strip()
        with pytest.raises(ControlError) as refused, renewing(pykcmd.control_path):
            pass
        assert refused.value.code == "busy"
        client.kill()
    with renewing(pykcmd.control_path) as (_, items):
        offer = next(items)["tgt"]
        assert offer["id"].hex() != lost
        (answer,) = hand_back(pykcmd.control_path, {"id": bytes.fromhex(lost), "credential": b"x"})
        assert answer["result"] == "unknown"


@pytest.mark.parametrize(
    ("result", "code"),
    [
        ({}, "arguments"),
        ({"id": b"short", "credential": b""}, "arguments"),
        ({"id": bytes(16)}, "arguments"),
        ({"id": bytes(16), "credential": b"", "failure": {"reason": "kdc"}}, "arguments"),
        ({"id": bytes(16), "failure": {"reason": "bored"}}, "arguments"),
        ({"id": bytes(16), "failure": {"reason": "kdc", "message": "x" * 513}}, "arguments"),
        ({"id": bytes(16), "credential": bytes(1024 * 1024)}, "malformed"),
    ],
)
def test_invalid_result_is_an_error(pykcmd: Pykcmd, result: dict[str, Any], code: str) -> None:
    """A frame that is no result ends the request with an error; attempts go on."""
    store(pykcmd, tgt(*DUE))
    with renewing(pykcmd.control_path) as (_, items):
        offer = next(items)["tgt"]
        with pytest.raises(ControlError) as refused:
            hand_back(pykcmd.control_path, result)
        assert refused.value.code == code
        done = hand_back(pykcmd.control_path, {"id": offer["id"], "credential": tgt(0, 5000).blob})
        assert done[0]["result"] == "renewed"


def test_renewal_may_be_switched_off(stopped_pykcmd: Pykcmd) -> None:
    """With tgt_renewal = false no TGT leaves the daemon."""
    stopped_pykcmd.configure("tgt_renewal = false\n")
    stopped_pykcmd.start()
    store(stopped_pykcmd, tgt(*DUE))
    with pytest.raises(ControlError) as refused, renewing(stopped_pykcmd.control_path):
        pass
    assert refused.value.code == "unsupported"
    assert stopped_pykcmd.stop() == 0


def test_renewal_user_may_make_only_its_two_requests(several_uids: None, stopped_pykcmd: Pykcmd) -> None:
    """The user of the option renewal_user gets TGTs that are due, and nothing else of the daemon."""
    stopped_pykcmd.command = pykcmd_with("renewer")
    stopped_pykcmd.configure('renewal_user = "renewer"\n')
    # The folder of RuntimeDirectory=, here open to every user.
    runtime = stopped_pykcmd.folder / "pykcm-renew"
    runtime.mkdir()
    path = runtime / "control.sock"
    stopped_pykcmd.start(environment={"RUNTIME_DIRECTORY": f"/run/other:{runtime}"})
    # The unit's SupplementaryGroups=.
    path.chmod(0o666)
    store(stopped_pykcmd, tgt(*DUE))
    allowed = "permission: only root may make the request '{}' (this user may make: renewals, renewed)"
    for uid, request, said in (
        (OTHER, "renewals", "answered {'renewals': "),
        (OTHER, "renewed", "answered"),
        *((OTHER, name, allowed.format(name)) for name in ("list", "show", "destroy", "export", "stats")),
        (OTHER + 1, "renewals", "permission: only root may use it"),
        (0, "renewals", "answered {'renewals': "),
    ):
        output = ask_as(uid, path, request)
        assert output.startswith(said), (uid, request, output)
    assert stopped_pykcmd.stop() == 0
    assert not path.exists()


def test_idle_daemon_tells_when_the_next_tgt_is_due(stopped_pykcmd: Pykcmd) -> None:
    """The client does not keep an idle daemon running; the end of its stream has the time of the next one."""
    stopped_pykcmd.configure("responder_idle_timeout = 1\n")
    with (
        listening(stopped_pykcmd.socket_path) as kcm,
        listening(stopped_pykcmd.control_path) as control,
    ):
        later = tgt(-100, 5000)
        with renewing_after(stopped_pykcmd, later, kcm, control) as (answer, items):
            assert list(items) == []
            begin, end = later.times.starttime, later.endtime
            assert begin + (end - begin) * 0.5 <= answer.summary["next_due"] <= begin + (end - begin) * 0.6
        assert stopped_pykcmd.wait() == 0
        assert "idle for 1 s" in stopped_pykcmd.log


def test_idle_daemon_stays_for_an_attempt(stopped_pykcmd: Pykcmd) -> None:
    """While an attempt is in progress, the daemon does not end for idleness."""
    stopped_pykcmd.configure("responder_idle_timeout = 0.2\n")
    with (
        listening(stopped_pykcmd.socket_path) as kcm,
        listening(stopped_pykcmd.control_path) as control,
    ):
        with renewing_after(stopped_pykcmd, tgt(*DUE), kcm, control) as (answer, items):
            offer = next(items)["tgt"]
            time.sleep(1)
            assert stopped_pykcmd.running
            result = {"id": offer["id"], "credential": tgt(0, 5000).blob}
            assert hand_back(stopped_pykcmd.control_path, result)[0]["result"] == "renewed"
            assert list(items) == []
            assert answer.summary["next_due"] > time.time() + 1000
        assert stopped_pykcmd.wait() == 0


@contextmanager
def renewing_after(
    daemon: Pykcmd, credential: Credential, *sockets: Any
) -> Iterator[tuple[Answer, Iterator[Any]]]:
    """Start the daemon, store the TGT, and make the request `renewals`."""
    # The open connection keeps the daemon from being idle.
    with KcmClient(daemon.socket_path) as kcm:
        launch_with(daemon, sockets, environment={"LISTEN_FDNAMES": "kcm:control"})
        kcm.replace(NAME, 0, ALICE, [credential.blob])
        renewal = renewing(daemon.control_path)
        renewed = renewal.__enter__()
    try:
        yield renewed
    finally:
        renewal.__exit__(None, None, None)


def test_stopped_daemon_ends_the_stream(pykcmd: Pykcmd) -> None:
    """SIGTERM ends the stream in order, and names the time of the next TGT, or nothing."""
    with renewing(pykcmd.control_path) as (answer, items):
        assert pykcmd.stop() == 0
        assert list(items) == []
        assert answer.summary == {"next_due": None}
