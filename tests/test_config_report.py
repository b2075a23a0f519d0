"""`pykcmd --check` and `--show-config`: every mistake, and the origin of every value."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from pykcm.cli.names import format_user
from pykcm.config import OF_SSSD, OPTIONS, ConfigError, load_config
from pykcm.config_report import mistakes, values


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "conf.d").mkdir()
    return tmp_path / "pykcm.toml"


def check(file: Path) -> tuple[int, str]:
    """The exit status and output of `pykcmd --check`; it changes its process, as the umask."""
    argv = [sys.executable, "-m", "pykcm", "--config", str(file), "--check"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False, timeout=60)
    return done.returncode, done.stdout


def test_truth_value_in_quotes_has_a_hint(file: Path) -> None:
    """sssd.conf has "True". A number is not hinted to be a truth value."""
    file.write_text('tgt_renewal = "True"\nmax_ccaches = "true"\n')
    first, second = mistakes(file)
    assert first.endswith("; write true without quotes")
    assert "without quotes" not in second


def test_all_mistakes_of_all_files_are_reported(file: Path) -> None:
    """Each mistake is one line with file, line and option; a file that is not TOML hides no other."""
    file.write_text('max_ccaches = "5"\n\nnonsense = 1\n[kcm]\nmax_uid_ccaches = 1\n')
    broken, last = file.parent / "conf.d/1.toml", file.parent / "conf.d/2.toml"
    broken.write_text("a = 1\nstore = \n")
    last.write_text("# none\nstore = 7\n")
    first, second, third, fourth, fifth, *others = mistakes(file)
    assert others == []
    assert first.startswith(f"{file}:1: option max_ccaches: '5' is not")
    assert first.endswith("a number has no quotes: 5")
    assert second.startswith(f"{file}:3: option nonsense: unknown")
    assert third.startswith(f"{file}:4: section [kcm]:")
    assert str(broken) in fourth
    assert "line 2" in fourth
    assert fifth.startswith(f"{last}:2: option store: 7 is not")
    status, output = check(file)
    assert (status, output.splitlines()) == (1, [first, second, third, fourth, fifth])


def test_valid_configuration_passes_the_check_silently(file: Path) -> None:
    """The check of a valid configuration ends with 0 and prints nothing."""
    file.write_text('reap_interval = "5m"\n')
    assert check(file) == (0, "")


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


def test_mistakes_within_sections_are_reported(file: Path) -> None:
    """A copy of sssd.conf as TOML has its options in a section: each of them is checked, too."""
    file.write_text(
        'max_ccaches = 1\n[kcm]\nmax_ccaches = "7"\nkrb5_validate = true\n\n[domain.one]\nnonsense = 1\n'
    )
    section, number, renewal, *others = mistakes(file)
    assert section.startswith(f"{file}:2: section [kcm]: ")
    assert number.startswith(f"{file}:3: option max_ccaches: '7' is not ")
    assert number.endswith("; a number has no quotes: 7")
    assert renewal == f"{file}:4: option krb5_validate: {OF_SSSD['krb5_validate']}"
    assert any("option nonsense: unknown" in each for each in others)


@pytest.mark.parametrize("name", sorted(OF_SSSD))
def test_options_of_sssd_have_a_hint(file: Path, name: str) -> None:
    """The message says what to do, and proposes no option of another meaning."""
    file.write_text(f"{name} = 1\n")
    assert mistakes(file) == [f"{file}:1: option {name}: {OF_SSSD[name]}"]
    with pytest.raises(ConfigError, match=f"option {name}: an option of sssd"):
        load_config(file)


def test_missing_options_are_reported_with_the_others(file: Path) -> None:
    """An option that needs another one is a mistake of all files together."""
    (file.parent / "conf.d/1.toml").write_text('store = "postgresql"\n')
    file.write_text('nonsense = 1\nclient_keytab = "/etc/pykcm/client.keytab"\n')
    first, second, third = mistakes(file)
    assert "option nonsense" in first
    assert "option client_keytab" in second
    assert "option postgresql: it is missing" in third


@pytest.mark.parametrize(
    "connection",
    [
        "host=db1 password=secret dbname=pykcm",
        r"host=db1 PASSWORD = 'sec\\'ret secret' dbname=pykcm",
        "host=db1 sslpassword=secret dbname=pykcm",
        "postgresql://user:secret@db1/pykcm",
        "postgresql://db1/pykcm?user=u&password=secret&connect_timeout=5",
    ],
)
def test_passwords_are_not_shown(file: Path, connection: str) -> None:
    """Administrators paste what --show-config prints."""
    file.write_text(f'postgresql = """{connection}"""\n')
    (line,) = [each for each in values(file, {}) if each.startswith("postgresql = ")]
    assert "ret" not in line
    assert "***" in line
    assert "db1" in line
    assert "pykcm" in line


def test_unreadable_file_is_named_with_the_user(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says which file may not be read, and who asked."""
    file.write_text("max_ccaches = 1\n")

    def refuse(path: Path, mode: str) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    assert mistakes(file) == [f"{file}: Permission denied for {format_user(os.geteuid())}"]
