"""Advice to start pykcmd and to read its log, with and without systemd."""

from pathlib import Path

import pytest

from pykcm.cli import advice
from pykcm.cli.client import NoKcmServerError
from pykcm.cli.main import main
from pykcm.cli.maintenance import _print_steps_of_all_hosts
from pykcm.cli.names import naming_ccache
from pykcm.cli.user_collection import connected
from pykcm.control.messages import ControlError, ErrorCode


@pytest.fixture(params=[True, False], ids=["systemd", "no systemd"])
def has_systemd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether this host has systemd."""
    monkeypatch.setattr(advice, "_BOOTED", tmp_path if request.param else tmp_path / "missing")
    return bool(request.param)


def test_missing_daemon(
    has_systemd: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no daemon answers, the message says how to start it on this host."""
    monkeypatch.setattr("sys.argv", ["pykcmctl", "--socket", str(tmp_path / "control.sock"), "stats"])
    with pytest.raises(SystemExit, match="3"):
        main()
    start = "start it with `systemctl start pykcm-control.socket`" if has_systemd else "start pykcmd"
    assert f"No such file or directory; {start}, or name its control socket" in one_line(capsys)


def test_missing_kcm_server(has_systemd: bool, tmp_path: Path) -> None:
    """Users without a KCM server get the same advice."""
    with pytest.raises(NoKcmServerError) as caught, connected(str(tmp_path / "kcm.sock")):
        pass
    start = "start it with `systemctl start pykcm.socket`" if has_systemd else "start pykcmd"
    assert f"No such file or directory; {start}, or set kcm_socket in krb5.conf" in str(caught.value)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_steps_after_rekey(has_systemd: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """The steps after a change of keys restart the daemon, or say that."""
    _print_steps_of_all_hosts({"place": "/k", "credential": False})
    restart = "systemctl restart pykcm.service" if has_systemd else "# restart pykcmd"
    assert f"\n    mv /k.next /k\n    {restart}\n" in capsys.readouterr().err


def test_unreadable_ccache(has_systemd: bool) -> None:
    """The error of a ccache that cannot be read names the log of this host."""
    with pytest.raises(ControlError) as caught, naming_ccache(b"1000"):
        raise ControlError(ErrorCode.STORE, "EIO: the disk is gone")
    log = "`journalctl -u pykcm.service`" if has_systemd else "the log of pykcmd"
    assert caught.value.message == f"KCM:1000: the disk is gone; see {log}"
