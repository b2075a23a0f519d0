"""Reasons for which pykcmd does not start."""

import socket

import pytest

from .conftest import Daemon, end


def test_wrong_configuration_is_refused(daemon: Daemon) -> None:
    """The message about a mistake in the configuration names the file and suggests the option."""
    daemon.config.write_text("max_uid_ccache = 1\n")
    line = daemon.refusal()
    assert str(daemon.config) in line
    assert "max_uid_ccaches" in line


def test_missing_configuration_file_is_refused(daemon: Daemon) -> None:
    """The file that --config names must exist."""
    assert "nowhere.toml" in daemon.refusal("--config", "nowhere.toml")


def test_socket_of_a_running_server_is_kept(daemon: Daemon) -> None:
    """If a server listens at the socket's path, pykcmd does not start, and the server is not disturbed."""
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(daemon.socket_path))
        live.listen()
        assert str(daemon.socket_path) in daemon.refusal()
        assert daemon.socket_path.exists()
    assert not daemon.state_dir.exists()


def test_state_folder_in_use_is_refused(daemon: Daemon) -> None:
    """A second daemon does not start; the message names the process that uses the folder."""
    process = daemon.start()
    line = daemon.refusal("--socket-path", "other.sock")
    assert str(daemon.state_dir) in line
    assert str(process.pid) in line
    assert not (daemon.folder / "other.sock").exists()
    assert daemon.serves()
    assert end(process) == 0


@pytest.mark.parametrize("fault", ["wrong key", "missing key", "readable key", "open folder", "damaged"])
def test_unusable_store_is_refused(daemon: Daemon, fault: str) -> None:
    """The message about an unusable store names the file; no file changes, and no socket remains."""
    assert end(daemon.start()) == 0
    key, database = daemon.state_dir / "key", daemon.state_dir / "pykcm.db"
    named = {"missing key": key, "readable key": key, "open folder": daemon.state_dir}.get(fault, database)
    match fault:
        case "wrong key":
            key.write_bytes(bytes(32))
        case "missing key":
            key.unlink()
        case "readable key":
            key.chmod(0o644)
        case "open folder":
            daemon.state_dir.chmod(0o755)
        case "damaged":
            database.write_bytes(database.read_bytes()[:-1])

    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in daemon.state_dir.iterdir() if path.name != "lock"}

    before = files()
    assert str(named) in daemon.refusal()
    assert files() == before
    assert not daemon.socket_path.exists()
