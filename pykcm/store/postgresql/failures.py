"""Failures of connections and of calls: what an error of psycopg means, and what to do about it."""

import errno
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import errors

from pykcm.store.interface import StoreError

_ENFORCING = Path("/sys/fs/selinux/enforce")

_ALLOW = "setsebool -P pykcm_use_postgresql on"

# A copy in memory of the systemd credential has no other name.
_CREDENTIAL = re.compile(r'file "/proc/self/fd/\d+"')

# Text of psycopg before a message of libpq.
_PREFIX = re.compile(r"^connection (failed|is bad): (?=.)")

# The list of failures of several hosts. psycopg has the last one also at the beginning.
_FAILURES = "All failures were:\n"

# Texts for a server whose name cannot be resolved.
_UNRESOLVED = "failed to resolve host|could not translate host name"

# The text of psycopg where libpq may not create a socket, and gives no reason.
_NO_REASON = "no error details available"
_NO_SOCKET = "libpq cannot create a socket"

_PGPASS = (
    "the pgpass file (passfile=, or the credential pykcm.pgpass) is missing, cannot be read, may be read by "
    "other users, or has no line for this host, port, database and role"
)

NO_ANSWER = (
    "the server is silent, a firewall drops packets, or IPAddressAllow= of pykcm.service lacks its address"
)

# Parts of messages of libpq, psycopg and the server, and what to do. The first one that fits counts.
_REMEDIES = [
    ("no password supplied", _PGPASS),
    ("password authentication failed", "correct the role's password or the pgpass file"),
    ("no pg_hba.conf entry", "add a line for this host to the server's pg_hba.conf and reload it"),
    (
        "does not match host name",
        "host= must be a name of the server's certificate; hostaddr= has the address",
    ),
    ("certificate verify failed", "sslrootcert= must have the CA of the server's certificate"),
    ("permission denied for database", "GRANT CONNECT ON DATABASE to this role"),
    ("is not permitted to log in", "ALTER ROLE with LOGIN"),
    ("too many c", "raise the server's max_connections or the role's CONNECTION LIMIT"),
    ("timeout expired", NO_ANSWER),
    ("Operation not permitted", "pykcm.service needs IPAddressAllow= with the server's address"),
    (f"Address family not supported|{_NO_SOCKET}", "pykcm.service needs its drop-in postgresql.conf"),
    (
        _UNRESOLVED,
        "correct the name, or allow the resolver's address with IPAddressAllow= of pykcm.service",
    ),
]


def connection_failure(error: psycopg.Error) -> str:
    """The reason, with a remedy where one is known."""
    text = str(error).rpartition(_FAILURES)[2]
    text = _CREDENTIAL.sub("systemd credential pykcm.pgpass", text)
    text = text.replace(_NO_REASON, _NO_SOCKET)
    lines = [_PREFIX.sub("", line.strip(" \t-")) for line in text.splitlines()]
    reason = "; ".join(filter(None, lines)).rstrip(".?")
    return "; ".join([reason, *_remedies(reason)])


def _remedies(reason: str) -> Iterator[str]:
    known = next((remedy for part, remedy in _REMEDIES if re.search(part, reason)), None)
    if known is not None:
        yield known
    # "Permission denied" is the kernel's word, in contrast to the server's "permission denied".
    if re.search(f"Permission denied|{_NO_SOCKET}|{_UNRESOLVED}", reason) and _is_enforcing():
        yield f"SELinux may deny it: {_ALLOW}"


def _is_enforcing() -> bool:
    try:
        return _ENFORCING.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False


class LostAnswerError(Exception):
    """A statement was sent, and its outcome is not known."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(error.reason)
        self.error = error


class RepeatError(Exception):
    """Another transaction was in the way: nothing was changed, and another attempt may succeed."""


class PartialConflictError(Exception):
    """Some UIDs of an entry have other versions: nothing was changed."""


# SQLSTATEs of connections that end: what was sent may have been done.
_CONNECTION_ENDS = ("08", "57P")

# Beginnings of SQLSTATEs, the system's errno, and what to do.
_MEANINGS = [
    ("53100", errno.ENOSPC, "; the database's disk is full: make room on it"),
    ("53200", errno.ENOMEM, "; the database is out of memory"),
    ("57014", errno.ETIMEDOUT, "; the database takes too long: see to its load and locks"),
    ("25006", errno.EROFS, "; this server only reads: add target_session_attrs=read-write"),
    ("42501", errno.EACCES, "; `pykcmctl store init --sql` prints the GRANTs"),
    ("3F000", errno.EIO, "; there is no schema: run `pykcmctl store init`"),
    ("42P01", errno.EIO, "; there is no schema: run `pykcmctl store init`"),
    ("42703", errno.EIO, "; the schema has another version: run `pykcmctl store check`"),
]


def call_failure(database: str, error: psycopg.Error) -> Exception:
    """The error of a call that failed in the database of this name.

    It is a StoreError where nothing was changed; else LostAnswerError, RepeatError or PartialConflictError.
    """
    if isinstance(error, errors.DivisionByZero):
        return PartialConflictError()
    if isinstance(error, errors.SerializationFailure | errors.DeadlockDetected | errors.LockNotAvailable):
        return RepeatError()
    state = error.sqlstate or ""
    text = (error.diag.message_primary or str(error)).strip()
    if not state or state.startswith(_CONNECTION_ENDS):
        return LostAnswerError(StoreError(f"{database}: {text}", errno.ETIMEDOUT))
    for beginning, code, way_out in _MEANINGS:
        if state.startswith(beginning):
            return StoreError(f"{database}: {text}{way_out}", code)
    return StoreError(f"{database}: {text} (SQLSTATE {state})")
