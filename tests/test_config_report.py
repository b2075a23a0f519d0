"""`pykcmd --check` and `--show-config`: every mistake, and the origin of every value."""

from pathlib import Path

import pytest

from pykcm.config import OPTIONS
from pykcm.config_report import mistakes, values
from pykcm.daemon import main


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "conf.d").mkdir()
    return tmp_path / "pykcm.toml"


def test_all_mistakes_of_all_files_are_reported(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each mistake is one line with file, line and option; a file that is not TOML hides no other."""
    file.write_text('max_ccaches = "5"\n\nnonsense = 1\n[kcm]\nmax_uid_ccaches = 1\n')
    broken, last = file.parent / "conf.d/1.toml", file.parent / "conf.d/2.toml"
    broken.write_text("a = 1\nstore = \n")
    last.write_text("# none\nstore = 7\n")
    first, second, third, fourth, fifth = mistakes(file)
    assert first.startswith(f"{file}:1: option max_ccaches: '5' is not")
    assert first.endswith("a number has no quotes: 5")
    assert second.startswith(f"{file}:3: option nonsense: unknown")
    assert third.startswith(f"{file}:4: section [kcm]:")
    assert str(broken) in fourth
    assert "line 2" in fourth
    assert fifth.startswith(f"{last}:2: option store: 7 is not")
    assert main(["--config", str(file), "--check"]) == 1
    assert capsys.readouterr().out.splitlines() == [first, second, third, fourth, fifth]


def test_valid_configuration_passes_the_check_silently(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check of a valid configuration ends with 0 and prints nothing."""
    file.write_text('reap_interval = "5m"\n')
    assert main(["--config", str(file), "--check"]) == 0
    assert capsys.readouterr().out == ""


def test_each_value_is_shown_with_its_origin(file: Path) -> None:
    """The last file that sets a value is its origin; the command line comes after all files."""
    later = file.parent / "conf.d/1.toml"
    file.write_text('max_ccaches = 1\nmax_uid_size = 2\nstore = "memory"\n')
    later.write_text("max_ccaches = 3\n")
    lines = values(file, {"store": "sqlcipher", "log_level": None})
    assert len(lines) == len(OPTIONS)
    assert f"max_ccaches = 3  # {later}" in lines
    assert f"max_uid_size = 2  # {file}" in lines
    assert 'store = "sqlcipher"  # command line' in lines
    assert 'log_level = "info"  # default' in lines
