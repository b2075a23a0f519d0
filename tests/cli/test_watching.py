"""Lines of trace, and the announcements of watch and trace."""

import os
import subprocess
from typing import Any

import pytest

from pykcm.cli import watching
from pykcm.cli.watching import _announce, _event_line, _exchange_line
from pykcm.processes import program_of
from pykcm.protocol.opcodes import Opcode

EXCHANGE: dict[str, Any] = {
    "time": 0.25,
    "uid": 4_000_000,
    "pid": 4711,
    "program": "klist",
    "code": "OK",
    "duration": 0.000_123_4,
    "request_size": 1,
    "reply_size": 1,
}


@pytest.mark.parametrize("code", ["OK", "FCC_INTERNAL", "EDQUOT"])
def test_columns_hold_for_every_operation(code: str) -> None:
    ends = {
        _exchange_line(EXCHANGE | {"operation": each.name, "code": code}).index("123.4 µs") for each in Opcode
    }
    assert len(ends) == 1


EVENTS: list[dict[str, Any]] = [
    {"event": "destroyed", "ccache": b"1000:12345", "principal": "alice@PYKCM.TEST"},
    {"event": "created", "ccache": b"1000", "principal": "alice@PYKCM.TEST"},
    {"event": "refused", "reason": "quota", "principal": "alice@PYKCM.TEST"},
]


def test_columns_of_events_hold_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users, events and ccaches of usual lengths begin in the same columns; so does what follows them."""
    items = [{"time": 1000.0, "uid": uid} | each for uid in (0, 4_000_000) for each in EVENTS]
    piped = [_event_line(item) for item in items]
    assert all(
        line.split("  ")[1:3] == [watching._user(item["uid"]), item["event"]]
        for line, item in zip(piped, items, strict=True)
    )
    monkeypatch.setattr(watching, "is_terminal", lambda: True)
    lines = [_event_line(item) for item in items]
    assert len({line.index("alice@") for line in lines}) == 1
    assert len({line.index(item["event"]) for line, item in zip(lines, items, strict=True)}) == 1
    assert len({line.index("KCM:") for line in lines if "KCM:" in line}) == 1


def test_line_has_user_program_and_pid() -> None:
    words = _exchange_line(EXCHANGE | {"operation": "NOOP"}).split()
    assert words[1:5] == ["4000000", "klist[4711]", "NOOP", "OK"]


def test_program_is_read_here_if_the_daemon_cannot() -> None:
    """Only for a process of the same user: the PID may be another process's by now."""
    item = {key: value for key, value in EXCHANGE.items() if key != "program"} | {"operation": "NOOP"}
    mine = item | {"pid": os.getpid(), "uid": os.geteuid()}
    assert watching._program(mine) == program_of(os.getpid()) != ""
    if os.geteuid() == 0:
        other = subprocess.Popen(["/bin/sleep", "60"], user=4_000_001)
        try:
            assert watching._program(item | {"pid": other.pid}) == ""
        finally:
            other.kill()
            other.wait()
    assert _exchange_line(item | {"pid": 0}).split()[2] == "process[?]"


@pytest.mark.parametrize(
    ("request_", "wanted", "text"),
    [
        ("watch", {}, "changes of ccaches of all users"),
        ("watch", {"uid": 0}, "changes of ccaches of root (UID 0)"),
        ("trace", {"errors": True, "operation": "STORE"}, "failing requests STORE of all users"),
        ("trace", {"ccache": b"1:x"}, "requests for KCM:1:x of all users"),
    ],
)
def test_subject_is_announced_only_on_a_terminal(
    request_: str,
    wanted: dict[str, Any],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _announce(request_, wanted, wanted.get("uid"))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    _announce(request_, wanted, wanted.get("uid"))
    assert capsys.readouterr().err == f"Waiting for {text}. End with Ctrl-C.\n"


def test_long_line_has_a_hanging_indent_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pipe, an item is one line."""
    line = _exchange_line(EXCHANGE | {"operation": "STORE", "ccache": b"1000", "asked": {"server": "a" * 40}})
    assert watching._fitted(line) == [line]
    monkeypatch.setattr(watching, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    first, second = watching._fitted(line)
    assert len(first) <= 80
    assert second == " " * 13 + "KCM:1000  server=" + "a" * 40
