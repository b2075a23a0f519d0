"""Users and ccaches as an administrator types and reads them."""

import functools
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from click.shell_completion import CompletionItem

from pykcm.cli.completion import completions
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.protocol.text import escape, printable, unescape

PREFIX = "KCM:"


class UidType(click.ParamType):  # type: ignore[type-arg]
    """Click parameter type: a UID, or the name of a user."""

    name = "uid|user"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if value.isascii() and value.isdigit() and int(value) < 2**32:
            return int(value)
        try:
            return pwd.getpwnam(value).pw_uid
        except (KeyError, ValueError):
            self.fail(f"there is no user {value!r}; give a name that `id` knows, or a number", param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete to users who have ccaches: to their names, or to UIDs if a digit was typed."""
        is_number = incomplete.isdigit()
        return completions(
            ctx,
            incomplete,
            lambda ccache: str(ccache["uid"] if is_number else user_name(ccache["uid"]) or ccache["uid"]),
        )


class CCacheType(click.ParamType):  # type: ignore[type-arg]
    """Click parameter type: the name of a ccache, with or without `KCM:`."""

    name = "ccache"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        if isinstance(value, bytes):
            return value
        name: str = value.removeprefix(PREFIX)
        if not name:
            self.fail("give the name of one ccache, such as KCM:1000; KCM: is a whole collection", param, ctx)
        # Accept names as `list` prints them, and raw ones, whose invalid UTF-8 arrives as surrogates.
        return unescape(name)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        prefix = "" if incomplete and not PREFIX.startswith(incomplete[: len(PREFIX)]) else PREFIX
        return completions(ctx, incomplete, lambda ccache: prefix + escape(ccache["name"]))


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
        elif error.code in {ErrorCode.STORE, ErrorCode.ARGUMENTS}:
            message = f"{format_ccache(name)}: {error.message}"
        else:
            raise
        raise ControlError(error.code, message) from None


def _advice(name: bytes) -> str:
    text = escape(name)
    if text.isdigit() or _is_user(name):
        return f"for the ccaches of this user: pykcmctl list --user {text}"
    return "for the names of all: pykcmctl list --wide"


def _is_user(name: bytes) -> bool:
    try:
        pwd.getpwnam(os.fsdecode(name))
    except (KeyError, ValueError):
        return False
    return True
