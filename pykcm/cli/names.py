"""Users and ccaches as people read them."""

import functools
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager

from pykcm.cli.advice import log_of_daemon
from pykcm.cli.output import shell_quote
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.peer.identity import ROOT
from pykcm.peer.names import owner_of
from pykcm.protocol.text import escape, printable

PREFIX = "KCM:"


@functools.cache
def user_name(uid: int) -> str | None:
    """The name of the user with this UID, or None."""
    try:
        # A directory service may have any names. The backslash in DOMAIN\\user is not an escape.
        return printable(pwd.getpwuid(uid).pw_name)
    except (KeyError, OverflowError):
        return None


def format_user(uid: int) -> str:
    name = user_name(uid)
    return f"UID {uid}" if name is None else f"{name} (UID {uid})"


def format_ccache(name: bytes) -> str:
    return PREFIX + escape(name)


@contextmanager
def naming_ccache(name: bytes) -> Iterator[None]:
    """Errors of requests about one ccache name it. A user's name in its place is recognised."""
    try:
        yield
    except ControlError as error:
        if error.code == ErrorCode.NOT_FOUND:
            message = f"{format_ccache(name)}: no such ccache; {_advice(name)}"
        elif error.code == ErrorCode.STORE:
            reason = error.message.removeprefix("EIO: ")
            advice = f"see {log_of_daemon()}"
            if "secrets cannot be read" in reason:
                advice += f"; `pykcmctl destroy {shell_quote(format_ccache(name))}` removes it"
            message = f"{format_ccache(name)}: {reason}; {advice}"
        elif error.code == ErrorCode.ARGUMENTS:
            message = f"{format_ccache(name)}: {error.message}"
        else:
            raise
        raise ControlError(error.code, message) from None


def _advice(name: bytes) -> str:
    if os.geteuid() != ROOT:
        return "for the names of yours: `pykcmctl list --wide`"
    text = escape(name)
    if "@" in text:
        return f"for the ccaches of this principal: `pykcmctl list --principal {shell_quote(text)}`"
    owner = owner_of(name)
    if _is_user(name) or owner is not None:
        user = text if owner is None else user_name(owner) or owner
        return f"for the ccaches of this user: `pykcmctl list --wide --user {user}`"
    return "for the names of all: `pykcmctl list --wide`"


def _is_user(name: bytes) -> bool:
    try:
        pwd.getpwnam(os.fsdecode(name))
    except (KeyError, ValueError):
        return False
    return True
