"""Why no connection to the database can be made: one line, with what to do about it."""

import re
from pathlib import Path

import psycopg

_ENFORCING = Path("/sys/fs/selinux/enforce")

_ALLOW = "setsebool -P pykcm_use_postgresql on"

# A copy in memory of the systemd credential has no other name.
_CREDENTIAL = re.compile(r'file "/proc/self/fd/\d+"')

# Text of psycopg before a message of libpq.
_PREFIX = re.compile(r"^connection (failed|is bad): (?=.)")

# Where psycopg lists the failures of several hosts, the last one is also at the beginning.
_FAILURES = "All failures were:\n"

_PGPASS = (
    "the pgpass file (passfile=, or the credential pykcm.pgpass) is missing, cannot be read, may be read by "
    "other users, or has no line for this host, port, database and role"
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
    ("Operation not permitted", "pykcm.service needs IPAddressAllow= with the server's address"),
    ("Address family not supported", "pykcm.service needs its drop-in postgresql.conf"),
    (
        "failed to resolve host|could not translate host name",
        "correct the name, or allow the resolver's address with IPAddressAllow= of pykcm.service",
    ),
]


def connection_failure(error: psycopg.Error) -> str:
    """The reason, with a remedy where one is known."""
    text = str(error).rpartition(_FAILURES)[2]
    text = _CREDENTIAL.sub("systemd credential pykcm.pgpass", text)
    lines = [_PREFIX.sub("", line.strip(" \t-")) for line in text.splitlines()]
    reason = "; ".join(filter(None, lines)).rstrip(".?")
    remedy = _remedy(reason)
    return f"{reason}; {remedy}" if remedy else reason


def _remedy(reason: str) -> str | None:
    # The kernel's word, in contrast to the server's "permission denied".
    if "Permission denied" in reason and _is_enforcing():
        return f"SELinux may deny it: {_ALLOW}"
    return next((remedy for part, remedy in _REMEDIES if re.search(part, reason)), None)


def _is_enforcing() -> bool:
    try:
        return _ENFORCING.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False
