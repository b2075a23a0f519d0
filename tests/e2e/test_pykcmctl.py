"""pykcmctl with a real daemon: commands of an administrator, and their output."""

import base64
import json
import os
import pty
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from pykcm.cli.main import main
from pykcm.cli.names import format_user
from pykcm.client import KcmClient
from pykcm.protocol.principal import Principal
from tests.builders import TGS, credential_bytes, principal

from .clients import MitClient
from .conftest import OTHER, USER
from .control import Pykcmctl
from .credentials import session_key_of, ticket_of
from .daemon import LIMIT, Pykcmd, effective_uid
from .host import read

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may use the control socket")


def on_a_terminal(
    ctl: Pykcmctl, *arguments: str, typed: bytes = b"", columns: str = "200"
) -> tuple[int, str]:
    """The exit status of a command on a terminal, and its output."""
    ours, theirs = pty.openpty()
    os.write(ours, typed)
    environment = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "COLUMNS": columns,
        "TERM": "xterm",
        "TZ": "UTC",
    }
    with subprocess.Popen(
        ctl.argv(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd="/"
    ) as process:
        os.close(theirs)
        screen = read(ours)
        status = process.wait(LIMIT)
    os.close(ours)
    return status, screen


def test_list_shows_ccaches_of_all_users(mit_as: Callable[[int], MitClient], ctl: Pykcmctl) -> None:
    """Neither klist nor other KCM servers can show them."""
    mit_as(USER).kinit("alice")
    mit_as(USER).kvno("host/server.pykcm.test")
    mit_as(OTHER).kinit("bob")
    listed = ctl.json("list")
    assert [
        (each["uid"], each["name"], each["principal"], each["default"], each["tickets"]) for each in listed
    ] == [
        (USER, f"KCM:{USER}", "alice@PYKCM.TEST", True, 2),
        (OTHER, f"KCM:{OTHER}", "bob@PYKCM.TEST", True, 1),
    ]
    assert list(listed[0]) == [
        *("uid", "user", "name", "uuid", "principal", "default", "current_default", "tickets", "size"),
        *("expires", "tgt_expires", "renew_till", "label", "last_renewal", "states"),
    ]
    said = ctl.run("list", "--uid", str(OTHER))
    assert said.errors == ""
    (line,) = said.output.splitlines()
    user, who, name, expires, tickets, state = line.split("\t")
    assert (user, who, name, tickets) == (str(OTHER), "bob@PYKCM.TEST", f"KCM:{OTHER}", "1")
    assert datetime.fromisoformat(expires).timestamp() == listed[1]["expires"]
    assert state == "default"
    status, screen = on_a_terminal(ctl, "list")
    assert status == 0
    assert "2 ccaches of 2 users, " in screen
    assert "quota" not in screen
    assert "alice@PYKCM.TEST" in screen


def test_list_marks_the_default(mit_as: Callable[[int], MitClient], ctl: Pykcmctl) -> None:
    """The chosen default has one mark, and the ccache that replaces a missing one has another."""
    mit = mit_as(OTHER)
    mit.kinit("bob")
    mit.kinit("alice", ccache=f"KCM:{OTHER}:other")
    states = {line.split("\t")[2]: line.split("\t")[5] for line in ctl.ok("list").splitlines()}
    assert states == {f"KCM:{OTHER}": "default", f"KCM:{OTHER}:other": "-"}
    assert re.search(r"\* +default", on_a_terminal(ctl, "list")[1])
    mit.ok("kdestroy", "-c", f"KCM:{OTHER}")
    [row] = ctl.json("list")
    assert (row["default"], row["current_default"]) == (False, True)
    assert re.search(r"\+ +default", on_a_terminal(ctl, "list")[1])
    assert "(default, in place of the chosen one)" in ctl.ok("show", f"KCM:{OTHER}:other")


@pytest.mark.skipif(Path("/sys/fs/selinux/enforce").exists(), reason="there are labels here")
def test_list_shows_labels(mit_as: Callable[[int], MitClient], ctl: Pykcmctl) -> None:
    """`--label` adds a last column, which is - without SELinux; in JSON it is null."""
    mit_as(USER).kinit("alice")
    (plain,) = ctl.ok("list").splitlines()
    (labelled,) = ctl.ok("list", "--label").splitlines()
    assert labelled == f"{plain}\t-"
    (row,) = ctl.json("list", "--label")
    assert row["label"] is None


def test_show_prints_tickets_and_configuration(mit_as: Callable[[int], MitClient], ctl: Pykcmctl) -> None:
    """Tickets have names of enctypes and flags; configuration is separate."""
    user = mit_as(USER)
    user.kinit("alice")
    user.kvno("host/server.pykcm.test")
    lines = [line.split("\t") for line in ctl.ok("show", f"KCM:{USER}").splitlines()]
    tickets = [line for line in lines if line[0] == "ticket"]
    assert [line[1] for line in tickets] == [
        "krbtgt/PYKCM.TEST@PYKCM.TEST",
        "host/server.pykcm.test@PYKCM.TEST",
    ]
    assert all("aes256-cts-hmac-sha1-96" in line for line in tickets)
    assert ["principal", "alice@PYKCM.TEST"] in lines
    assert [line for line in lines if line[0] == "entry"]
    _, screen = on_a_terminal(ctl, "show", f"KCM:{USER}", columns="80")
    assert "Tickets: 2" in screen
    assert re.search(r"krbtgt/PYKCM\.TEST@PYKCM\.TEST +in ", screen)
    assert max(map(len, screen.splitlines())) <= 80


def test_show_json_has_no_secrets(mit_as: Callable[[int], MitClient], ctl: Pykcmctl) -> None:
    """`show --json` prints metadata; only --with-secrets prints keys and tickets, and says so on a screen."""
    user = mit_as(USER)
    user.kinit("alice")
    user.kvno("host/server.pykcm.test")
    stored = ctl.json("show", str(USER), "--with-secrets")
    assert set(stored) == {"version", "kdc_offset", "principal", "creds"}
    assert stored["principal"] == {"type": 1, "realm": "PYKCM.TEST", "components": ["alice"]}
    assert all(set(each) == {"uuid", "payload"} for each in stored["creds"])
    said = ctl.run("show", str(USER), "--json")
    assert (said.status, said.errors) == (0, "")
    for each in stored["creds"]:
        blob = base64.b64decode(each["payload"])
        for secret in filter(None, (session_key_of(blob), ticket_of(blob))):
            for form in (secret.hex(), base64.b64encode(secret).decode()[:-4]):
                assert form not in said.output
        assert each["payload"] not in said.output
    document = json.loads(said.output)
    assert document["principal"] == "alice@PYKCM.TEST"
    assert [each["uuid"] for each in document["credentials"]] == [each["uuid"] for each in stored["creds"]]
    servers = [each["server"] for each in document["credentials"] if not each["configuration"]]
    assert servers == ["krbtgt/PYKCM.TEST@PYKCM.TEST", "host/server.pykcm.test@PYKCM.TEST"]
    assert ctl.run("show", str(USER), "--json", "--with-secrets").errors == ""
    assert (
        "contains session keys and tickets"
        in on_a_terminal(ctl, "show", str(USER), "--json", "--with-secrets")[1]
    )
    assert "session keys" not in on_a_terminal(ctl, "show", str(USER), "--json")[1]
    assert ctl.run("show", str(USER), "--with-secrets").status == 2


def test_destroy_asks_and_destroys(mit_as: Callable[[int], MitClient], ctl: Pykcmctl) -> None:
    """It asks on a terminal, needs --yes elsewhere, and destroys only the given ccaches."""
    for uid, user in ((USER, "alice"), (OTHER, "bob")):
        mit_as(uid).kinit(user)
    unasked = ctl.run("destroy", f"KCM:{USER}")
    assert unasked.status == 2
    assert "--yes" in unasked.errors
    status, screen = on_a_terminal(ctl, "destroy", f"KCM:{USER}", typed=b"n\n")
    assert status == 1
    assert "Destroy KCM:" in screen
    assert mit_as(USER).klist().principal == "alice@PYKCM.TEST"
    status, _ = on_a_terminal(ctl, "destroy", f"KCM:{USER}", typed=b"y\n")
    assert status == 0
    assert mit_as(USER).klist_all() == []
    assert mit_as(OTHER).klist().principal == "bob@PYKCM.TEST"
    assert ctl.json("destroy", "--uid", str(OTHER), "--yes") == [{"uid": OTHER, "name": f"KCM:{OTHER}"}]
    assert ctl.run("destroy", f"KCM:{OTHER}", "--yes").status == 5


def test_switch_changes_the_default(mit_as: Callable[[int], MitClient], ctl: Pykcmctl) -> None:
    user = mit_as(USER)
    user.kinit("alice")
    user.kinit("bob")
    assert user.klist().principal == "bob@PYKCM.TEST"
    ctl.ok("switch", "--uid", str(USER), f"KCM:{USER}")
    assert user.klist().principal == "alice@PYKCM.TEST"


def test_missing_daemon_has_own_exit_status(stopped_pykcmd: Pykcmd) -> None:
    """Every command says that no daemon answers."""
    ctl = Pykcmctl(stopped_pykcmd.control_path)
    for command in (["list"], ["show", "0"], ["reap"], ["destroy", "--expired", "--yes"]):
        said = ctl.run(*command)
        assert said.status == 3, said
        assert "no daemon answers" in said.errors


def test_other_users_are_refused(
    pykcmd: Pykcmd, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other users cannot connect, and the message says what to do; the daemon refuses them as well."""
    monkeypatch.setattr("sys.argv", ["pykcmctl", "--socket", str(pykcmd.control_path), "stats"])

    def said() -> str:
        # In this process: not every UID may run this interpreter.
        with effective_uid(USER), pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 4
        return capsys.readouterr().err

    assert pykcmd.control_path.stat().st_mode & 0o777 == 0o600
    assert said() == f"pykcmctl: {pykcmd.control_path}: only root may use the control socket; try sudo\n"
    pykcmd.control_path.chmod(0o666)
    assert said() == f"pykcmctl: {pykcmd.control_path}: only root may use it; try sudo\n"
    assert f"control socket: {format_user(USER)} refused" in pykcmd.log


def test_long_list_is_streamed(pykcmd: Pykcmd, ctl: Pykcmctl, folder: Path) -> None:
    """Neither side holds a list of 5,000 ccaches with long names in memory."""
    pykcmd.stop()
    pykcmd.configure("max_uid_ccaches = 0\ncollection_cache_size = 1\n")
    pykcmd.start("--store", "memory", "--log-level", "warning")
    ticket = credential_bytes(TGS)
    # Nearly the longest principals that a list shows whole.
    client = principal("a" * 1000)
    with KcmClient(pykcmd.socket_path) as root:
        for number in range(5000):
            root.replace(b"%d" % (100_000 + number), 0, client, [ticket])
    before = pykcmd.peak_size
    assert len(ctl.json("list")) == 5000
    nothing = ctl.peak(folder, "list", "--json", "--uid", "0")
    assert ctl.peak(folder, "list", "--json") - nothing < 4_000_000
    assert pykcmd.peak_size - before < 4_000_000


def test_bad_input_does_not_stop_the_kcm_socket(pykcmd: Pykcmd, ctl: Pykcmctl) -> None:
    """The KCM socket answers while the control socket gets bad input repeatedly."""
    for junk in (b"\xff", b"\x5b" + b"\xff" * 8, b"GET / HTTP/1.0\r\n\r\n", b""):
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(pykcmd.control_path))
                sock.sendall(junk)
    with KcmClient(pykcmd.socket_path) as client:
        client.initialize(b"0", principal("root"))
    assert [each["principal"] for each in ctl.json("list")] == ["root@PYKCM.TEST"]


def test_connection_that_ends_is_reported(folder: Path) -> None:
    """An answer that ends in the middle is not reported as a missing daemon."""
    path = folder / "control.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        with subprocess.Popen(Pykcmctl(path).argv("list"), stderr=subprocess.PIPE, text=True) as process:
            accepted, _ = listening.accept()
            accepted.recv(1000)
            accepted.close()
            assert process.stderr is not None
            assert "ended before the end of the reply" in process.stderr.read()
    assert process.returncode == 3


def test_silent_daemon_is_waited_for(pykcmd: Pykcmd, ctl: Pykcmctl) -> None:
    """A message says that pykcmctl waits."""
    assert pykcmd.process is not None
    pykcmd.process.send_signal(signal.SIGSTOP)
    try:
        with subprocess.Popen(
            ctl.argv("list", "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert "has not answered yet; still waiting" in process.stderr.readline()
            pykcmd.process.send_signal(signal.SIGCONT)
            assert process.stdout.read() == "[]\n"
    finally:
        pykcmd.process.send_signal(signal.SIGCONT)
    assert process.returncode == 0


def test_missing_ccache_is_named(mit_as: Callable[[int], MitClient], ctl: Pykcmctl) -> None:
    """The message names the ccache; for a user's name or UID it names the option."""
    for arguments in (
        ["show"],
        ["destroy", "--yes"],
    ):
        for name, advice in (
            ("9999", "`pykcmctl list --wide --user 9999`"),
            ("root", "`pykcmctl list --wide --user root`"),
            ("9999:x", "`pykcmctl list --wide --user 9999`"),
            ("x", "`pykcmctl list --wide`"),
        ):
            said = ctl.run(*arguments, f"KCM:{name}")
            assert said.status == 5, said
            assert said.errors.startswith(f"pykcmctl: KCM:{name}: no such ccache; for ")
            assert said.errors.endswith(f"{advice}\n")
    said = ctl.run("switch", "--uid", str(USER), f"KCM:{USER}:x")
    assert (said.status, said.errors.partition("; ")[0]) == (5, f"pykcmctl: KCM:{USER}:x: no such ccache")
    said = ctl.run("switch", "--uid", str(USER), "KCM:9999")
    assert said.errors == f"pykcmctl: KCM:9999: the ccache does not belong to UID {USER}\n"


def test_destroy_says_how_many(mit_as: Callable[[int], MitClient], ctl: Pykcmctl) -> None:
    """Before it asks, it counts the ccaches, or the tickets of one."""
    mit_as(USER).kinit("alice")
    mit_as(USER).kinit("bob", ccache=f"KCM:{USER}:two")
    for arguments, question in (
        (["--uid", str(USER)], "Destroy 2 ccaches of "),
        ([f"KCM:{USER}:two"], f"Destroy KCM:{USER}:two of {format_user(USER)}, with 1 ticket?"),
    ):
        status, screen = on_a_terminal(ctl, "destroy", *arguments, typed=b"n\n")
        assert status == 1
        assert question in screen
    for arguments in (["--uid", str(OTHER)], ["--expired"]):
        status, screen = on_a_terminal(ctl, "destroy", *arguments)
        assert status == 0
        assert "nothing to destroy" in screen
    assert len(ctl.json("list")) == 2


def test_show_json_keeps_bytes_of_principal(pykcmd: Pykcmd, ctl: Pykcmctl) -> None:
    """Bytes that are not UTF-8 can be recovered from the JSON."""
    odd = (b"ol\xe9", b"ol\\xe9", "olé".encode())
    for number, component in enumerate(odd):
        with KcmClient(pykcmd.socket_path) as client:
            client.initialize(b"0:%d" % number, Principal(1, b"PYKCM.TEST", (component,)))
        (screen,) = ctl.json("show", f"0:{number}", "--with-secrets")["principal"]["components"]
        assert screen.encode(errors="surrogateescape") == component


@pytest.mark.parametrize("columns", [80, 120])
def test_list_has_one_line_for_each_ccache(
    mit_as: Callable[[int], MitClient], ctl: Pykcmctl, columns: int
) -> None:
    """No line is longer than the terminal is wide."""
    mit_as(USER).kinit("alice")
    mit_as(USER).kinit("bob", ccache=f"KCM:{USER}:{'long-name-' * 9}")
    status, screen = on_a_terminal(ctl, "list", columns=str(columns))
    assert status == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", screen).splitlines()
    assert len(lines) == 4
    assert max(map(len, lines)) <= columns
    assert f"KCM:{USER} " in lines[1]
    assert "bob@PYKCM.TEST" in lines[2]
    assert "…" in lines[2]
    assert re.search(r" in \d+ (h|min|d) ", lines[1])
