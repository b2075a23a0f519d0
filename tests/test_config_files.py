"""The files of the configuration: missing and invalid ones, their order, and the command line over them."""

from pathlib import Path

import pytest

from pykcm.config import Config, load_config
from tests.test_config import conf_d, file, load, refusal

__all__ = ["file"]


@pytest.mark.parametrize(
    "content", [b"store", b"store = ", b"\xff\xfe", b"store = 'memory'\nstore = 'memory'\n"]
)
def test_file_that_is_not_toml_is_refused(file: Path, content: bytes) -> None:
    """The message names the file."""
    file.write_bytes(content)
    message = refusal(file)
    assert str(file) in message
    assert "TOML" in message


def test_missing_file_is_refused(file: Path) -> None:
    """A file that the command line names must exist."""
    message = refusal(file)
    assert str(file) in message
    assert "No such file or directory" in message


def test_folder_instead_of_file_is_refused(file: Path) -> None:
    """The message names the folder."""
    file.mkdir()
    assert str(file) in refusal(file)


def test_default_file_may_be_missing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the default file all options have their defaults, and conf.d next to it is still read."""
    monkeypatch.setattr("pykcm.config.DEFAULT_FILE", file)
    assert load_config() == Config()
    conf_d(file, "local.toml", 'store = "memory"')
    assert load_config().store == "memory"
    file.write_text("max_ccaches = 7")
    assert (load_config().store, load_config().max_ccaches) == ("memory", 7)


def test_conf_d_is_merged_in_order(file: Path) -> None:
    """Files in conf.d are read after the main file, in the order of their names; the last value wins."""
    conf_d(file, "20-later.toml", "max_ccaches = 20\nmax_uid_size = 20")
    conf_d(file, "10-earlier.toml", "max_ccaches = 10\nmax_ccache_size = 10")
    conf_d(file, "9-last.toml", "max_uid_ccaches = 9")
    config = load(file, "max_ccaches = 1\nmax_uid_size = 1\nmax_ccache_size = 1\nmax_uid_ccaches = 1\n")
    assert (config.max_ccaches, config.max_uid_size, config.max_ccache_size) == (20, 20, 10)
    assert config.max_uid_ccaches == 9


def test_conf_d_ignores_other_file_names(file: Path) -> None:
    """Files that do not end in `.toml`, such as backups of editors and packagers, are ignored."""
    for name in ("a.toml~", "b.toml.rpmsave", "c.txt", "README"):
        conf_d(file, name, "nonsense")
    assert load(file, "max_ccaches = 1").max_ccaches == 1


def test_conf_d_ignores_hidden_files(file: Path) -> None:
    """Hidden files in conf.d are ignored, also links to missing files."""
    folder = file.parent / "conf.d"
    folder.mkdir(exist_ok=True)
    (folder / ".hidden.toml").write_text("nonsense = 1")
    (folder / ".#edited.toml").symlink_to("user@host.1:2")
    file.write_text("")
    assert load_config(file) == Config()


def test_mistake_in_conf_d_is_reported_with_its_file(file: Path) -> None:
    """The message names the file in conf.d, even if a later file has a valid value."""
    first = conf_d(file, "10.toml", "max_ccaches = true")
    conf_d(file, "20.toml", "max_ccaches = 1")
    message = refusal(file, "max_ccaches = 1")
    assert str(first) in message
    assert "option max_ccaches:" in message


def test_file_named_conf_d_is_ignored(file: Path) -> None:
    """If `conf.d` is a file, it is not read."""
    (file.parent / "conf.d").write_text("max_ccaches = 7")
    assert load(file, "").max_ccaches == 0


def test_command_line_overrides_files(file: Path) -> None:
    """Options on the command line override all files; options that are not given there change nothing."""
    file.write_text('store = "sqlcipher"\nlog_level = "error"')
    conf_d(file, "a.toml", 'state_dir = "/srv/kcm"')
    config = load_config(file, {"store": "memory", "log_level": None, "state_dir": None, "socket_path": "/x"})
    assert (config.store, config.log_level) == ("memory", "error")
    assert (config.state_dir, config.socket_path) == ("/srv/kcm", "/x")


def test_mistake_on_the_command_line_is_reported(file: Path) -> None:
    """The message says that the option is from the command line."""
    message = refusal(file, "", {"socket_path": "/" + "x" * 200})
    assert "command line" in message
    assert "socket_path" in message
