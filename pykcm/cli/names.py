"""Users and ccaches as an administrator writes and reads them."""

import functools
import pwd
from typing import Any

import click
from click.shell_completion import CompletionItem

from pykcm.cli.completion import offered
from pykcm.protocol.text import escape, printable, unescape

PREFIX = "KCM:"


class UidType(click.ParamType):  # type: ignore[type-arg]
    """A UID, or the name of a user."""

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
        """Those who have ccaches, by name unless a number is begun."""
        is_number = incomplete.isdigit()
        return offered(
            ctx,
            incomplete,
            lambda ccache: str(ccache["uid"] if is_number else user_of(ccache["uid"]) or ccache["uid"]),
        )


class CCacheType(click.ParamType):  # type: ignore[type-arg]
    """A ccache's name, with or without `KCM:`."""

    name = "ccache"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        if isinstance(value, bytes):
            return value
        name: str = value.removeprefix(PREFIX)
        if not name:
            self.fail("a name such as KCM:1000 is needed: KCM: alone is a whole collection", param, ctx)
        # As list has it, --json included, or as it is: bytes that are no text come here as surrogates.
        return unescape(name)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        prefix = "" if incomplete and not PREFIX.startswith(incomplete[: len(PREFIX)]) else PREFIX
        return offered(ctx, incomplete, lambda ccache: prefix + escape(ccache["name"]))


@functools.cache
def user_of(uid: int) -> str | None:
    """The name of the user that has this UID."""
    try:
        # A directory may have names of any kind. A backslash in one (DOMAIN\\user) is no escape.
        return printable(pwd.getpwuid(uid).pw_name)
    except (KeyError, OverflowError):
        return None


def user_shown(uid: int) -> str:
    name = user_of(uid)
    return f"UID {uid}" if name is None else f"{name} (UID {uid})"


def ccache_shown(name: bytes) -> str:
    return PREFIX + escape(name)
