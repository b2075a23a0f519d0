"""Messages for connections that cannot be made: one line each, with what to do."""

from pathlib import Path

import psycopg
import pytest

from pykcm.store.postgresql import failures
from pykcm.store.postgresql.failures import connection_failure

_TO_SERVER = 'connection to server at "127.0.0.1", port 5432 failed: '


@pytest.fixture
def set_enforcing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file of the kernel that says whether SELinux enforces its policy; without SELinux it is missing."""
    monkeypatch.setattr(failures, "_ENFORCING", tmp_path / "enforce")
    return tmp_path / "enforce"


def test_failures_of_several_hosts_are_one_line() -> None:
    """Each host's failure is in it once."""
    refused = "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?"
    text = (
        f"connection failed: {_TO_SERVER}{refused}\nMultiple connection attempts failed. All failures were:\n"
        f"- host: 'db1', port: '1': {refused}\n- host: 'db2', port: '2': {refused}"
    )
    reason = "Connection refused; Is the server running on that host and accepting TCP/IP connections"
    assert connection_failure(psycopg.OperationalError(text)) == (
        f"host: 'db1', port: '1': {reason}?; host: 'db2', port: '2': {reason}"
    )


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("fe_sendauth: no password supplied", "the pgpass file (passfile=, or the credential pykcm.pgpass)"),
        ('FATAL:  password authentication failed for user "pykcm"', "correct the role's password"),
        ('FATAL:  no pg_hba.conf entry for host "192.0.2.1", no encryption', "add a line for this host"),
        ('server certificate for "a" does not match host name "b"', "host= must be a name"),
        ("SSL error: certificate verify failed", "sslrootcert= must have the CA"),
        ("FATAL:  too many connections for role", "max_connections"),
        ("FATAL:  sorry, too many clients already", "max_connections"),
        ("timeout expired", "IPAddressAllow="),
        ("Operation not permitted", "pykcm.service needs IPAddressAllow="),
        ("could not create socket: Address family not supported by protocol", "needs its drop-in"),
        (
            "failed to resolve host 'db': [Errno -3] Temporary failure in name resolution",
            "the resolver's address",
        ),
        ('could not translate host name "db" to address: Name or service not known', "correct the name"),
    ],
)
def test_known_failure_has_a_remedy(text: str, remedy: str) -> None:
    """The reason is complete, and the remedy follows it."""
    said = connection_failure(psycopg.OperationalError(f"connection failed: {_TO_SERVER}{text}"))
    assert said.startswith(f"{_TO_SERVER}{text}; ")
    assert remedy in said


@pytest.mark.parametrize(("mode", "is_named"), [("1", True), ("0", False), (None, False)])
def test_denied_access_names_the_boolean_where_selinux_enforces(
    set_enforcing: Path, mode: str | None, is_named: bool
) -> None:
    """Elsewhere the kernel's own permissions have denied it."""
    if mode is not None:
        set_enforcing.write_text(mode)
    for reason in (
        f"{_TO_SERVER}Permission denied",
        "failed to resolve host 'db': [Errno -3] Temporary failure",
    ):
        said = connection_failure(psycopg.OperationalError(reason))
        assert ("setsebool -P pykcm_use_postgresql on" in said) is is_named


def test_password_file_in_memory_is_named_as_the_credential() -> None:
    """The path of the copy says nothing to an administrator."""
    text = 'FATAL:  password authentication failed\npassword retrieved from file "/proc/self/fd/7"'
    said = connection_failure(psycopg.OperationalError(text))
    assert "password retrieved from systemd credential pykcm.pgpass" in said
    assert "/proc/" not in said
