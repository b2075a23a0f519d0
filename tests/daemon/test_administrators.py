"""The users who may make every request on the control socket."""

import os

import pytest

from pykcm.daemon import _administrators


@pytest.mark.parametrize(
    ("activated", "manager", "starts"),
    [(False, None, True), (True, None, False), (True, "4711", True), (False, "4711", True)],
)
def test_user_who_started_the_daemon_administers_it(
    monkeypatch: pytest.MonkeyPatch, *, activated: bool, manager: str | None, starts: bool
) -> None:
    """By hand or with their own systemd. The system's systemd starts it as a user who did not."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("MANAGERPID", raising=False)
    if manager is not None:
        monkeypatch.setenv("MANAGERPID", manager)
    assert _administrators(activated=activated) == ({0, 1000} if starts else {0})
