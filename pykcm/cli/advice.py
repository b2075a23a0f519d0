"""Advice to start pykcmd and to read its log. Containers and some hosts have no systemd."""

from pathlib import Path

# It exists where systemd is the init: see sd_booted(3).
_BOOTED = Path("/run/systemd/system")


def _choose(with_systemd: str, without: str) -> str:
    return with_systemd if _BOOTED.is_dir() else without


def how_to_start(unit: str) -> str:
    """`unit`: the one that starts the daemon, or that listens for it."""
    return _choose(f"start it with `systemctl start {unit}`", "start pykcmd")


def how_to_restart() -> str:
    """A line among commands."""
    return _choose("systemctl restart pykcm.service", "# restart pykcmd")


def log_of_daemon() -> str:
    """The place of the log, after `see`."""
    return _choose("`journalctl -u pykcm.service`", "the log of pykcmd")


def state_of_daemon() -> str:
    """The place of the daemon's state and of the end of its log, after `see`."""
    return _choose("`systemctl status pykcm.service`", "the log of pykcmd")
