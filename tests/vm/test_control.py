"""pykcmctl and the control socket under systemd and an enforcing policy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import machine
from .clients import LabelledClient

CONTROL = Path("/run/pykcm/control.sock")
CONTROL_UNIT = "pykcm-control.socket"
PYKCMCTL = "/usr/bin/pykcmctl"
USER, OTHER = 1000, 1001
ONE, TWO = "s0:c1,c2", "s0:c3,c4"

ClientAs = Callable[..., LabelledClient]


@pytest.fixture(autouse=True)
def control(pykcm: None) -> None:
    """Restart the unit of the control socket."""
    machine.run("systemctl", "restart", CONTROL_UNIT)


def listed(output: str) -> list[tuple[str, str]]:
    """Return the principals and labels of a list."""
    ccaches: list[dict[str, Any]] = json.loads(output)
    return sorted((each["principal"], each["label"].partition(":container_t:")[2]) for each in ccaches)


def test_control_socket_is_only_for_root() -> None:
    """The socket belongs to root, and its type is not available to confined domains."""
    status = CONTROL.stat()
    assert (status.st_uid, status.st_mode & 0o777) == (0, 0o600)
    assert machine.run("stat", "--format=%C", str(CONTROL)).split(":")[2] == "pykcm_control_runtime_t"
    assert machine.run("systemctl", "is-enabled", CONTROL_UNIT) == "enabled\n"


def test_pykcmctl_starts_an_idle_daemon() -> None:
    """A daemon that has ended for idleness is started by pykcmctl, as by a client."""
    assert machine.main_pid() == 0
    # A daemon that starts slowly is waited for, which pykcmctl says on stderr.
    assert json.loads(machine.shell(f"{PYKCMCTL} list --json 2>/dev/null")) == []
    assert machine.main_pid()


def test_list_shows_the_ccaches_of_readable_levels(client_as: ClientAs) -> None:
    """The machine's root lists all ccaches with labels; root at a level lists those that it may read."""
    for level, principal in ((ONE, "alice"), (TWO, "bob")):
        client_as(USER, level).kinit(principal)
    assert listed(machine.run(PYKCMCTL, "list", "--json")) == [
        ("alice@PYKCM.TEST", ONE),
        ("bob@PYKCM.TEST", TWO),
    ]
    inside = client_as(0, TWO)
    assert listed(inside.ok(PYKCMCTL, "list", "--json")) == [("bob@PYKCM.TEST", TWO)]
    hidden = inside.run(PYKCMCTL, "destroy", "--yes", "KCM:1000")
    assert hidden.code == 5
    assert hidden.output.startswith("pykcmctl: KCM:1000: no such ccache; ")
    assert inside.run(PYKCMCTL, "destroy", "--yes", "--uid", str(USER)).code == 0
    assert listed(machine.run(PYKCMCTL, "list", "--json")) == [("alice@PYKCM.TEST", ONE)]


def test_other_users_list_their_own_ccaches(client_as: ClientAs) -> None:
    """The control socket refuses them: pykcmctl goes over the KCM socket, at the user's own level."""
    client_as(USER, ONE).kinit("alice")
    client_as(OTHER, ONE).kinit("bob")
    rows = json.loads(client_as(USER, ONE).ok(PYKCMCTL, "list", "--json"))
    assert [(each["uid"], each["principal"]) for each in rows] == [(USER, "alice@PYKCM.TEST")]
    assert json.loads(client_as(USER, TWO).ok(PYKCMCTL, "list", "--json")) == []


def test_other_users_are_refused_what_is_for_root(client_as: ClientAs) -> None:
    """The message says that only root may use the control socket."""
    for command in ("stats", "trace", "reap"):
        refused = client_as(USER).run(PYKCMCTL, command)
        assert refused.code == 4
        assert "only root" in refused.output


def test_doctor_finds_nothing_after_an_installation(client_as: ClientAs) -> None:
    """On a machine that was set up by the documents' commands, all checks are good."""
    client_as(USER).kinit("alice")
    checks = json.loads(machine.run(PYKCMCTL, "doctor", "--json"))
    # The machine's users have no accounts, and its sshd is not part of pykcm.
    checks = [each for each in checks if each["check"] not in {"accounts", "logins"}]
    assert [each for each in checks if each["outcome"] not in {"ok", "skipped"}] == []
