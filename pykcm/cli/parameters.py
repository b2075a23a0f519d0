"""Click parameter types: users and ccaches as people type them, with their completion."""

import pwd
from typing import Any

import click
from click.shell_completion import CompletionItem

from pykcm.cli.completion import completions
from pykcm.cli.names import PREFIX, user_name
from pykcm.protocol.text import escape, unescape


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
