"""Shell completion: of users and ccaches, and the command that prints a shell's script."""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import environ
from types import FrameType
from typing import Any, NoReturn

import click
from click.shell_completion import BashComplete, CompletionItem, get_completion_class, split_arg_string

from pykcm.cli.either_socket import EitherSocketClient
from pykcm.config import DEFAULT_CONTROL_SOCKET
from pykcm.control.messages import ControlError

# In seconds. A user who presses Tab does not wait for long.
_TIMEOUT = 1.0

# Users choose the names of their ccaches, and completions end up on root's command line.
_SAFE = re.compile(r"[A-Za-z0-9_.:@%+=,/][A-Za-z0-9_.:@%+=,/-]*", re.ASCII)

_MAX_COMPLETIONS = 200

_VARIABLE = "_PYKCMCTL_COMPLETE"


class _TimeoutError(Exception):
    """The daemon has not answered in time."""


def completions(
    context: click.Context, incomplete: str, value_of: Callable[[dict[str, Any]], str]
) -> list[CompletionItem]:
    """The values of all ccaches that begin with `incomplete`; none if the daemon does not answer in time."""
    found: dict[str, None] = {}
    try:
        with _time_limit():
            for ccache in _list_ccaches(context):
                value = value_of(ccache)
                if value.startswith(incomplete) and _SAFE.fullmatch(value):
                    found[value] = None
                if len(found) >= _MAX_COMPLETIONS:
                    break
    except (_TimeoutError, OSError, ControlError):
        pass
    return [CompletionItem(value) for value in found]


def _list_ccaches(context: click.Context) -> Iterator[dict[str, Any]]:
    options = context.find_root().params
    client = EitherSocketClient(
        options.get("path") or DEFAULT_CONTROL_SOCKET, kcm_path=options.get("kcm_path")
    )
    for item in client.ask("list"):
        if "ccache" in item:
            yield item["ccache"]


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise _TimeoutError after a second, by a signal: this process does nothing but complete."""
    previous = signal.signal(signal.SIGALRM, _raise_timeout)
    signal.setitimer(signal.ITIMER_REAL, _TIMEOUT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _raise_timeout(number: int, frame: FrameType | None) -> NoReturn:
    raise _TimeoutError


# Readline splits words at colons, and names of ccaches contain colons. So pykcmctl gets the whole line, and
# the part of the word that readline already has is removed from each completion.
_BASH = r"""
%(complete_func)s() {
    local IFS=$'\n' line=${COMP_LINE:0:COMP_POINT} word known='' response completion kind value
    word=${line##*[[:space:]]}
    [[ $COMP_WORDBREAKS != *:* || $word != *:* ]] || known=${word%%"${word##*:}"}
    COMPREPLY=()
    response=$(COMP_LINE=$line %(complete_var)s=bash_complete "$1" 2>/dev/null) || return 0
    while IFS=, read -r kind value; do
        case $kind in
        dir) compopt -o dirnames ;;
        file) compopt -o default ;;
        plain) COMPREPLY+=("${value#"$known"}") ;;
        esac
    done <<<"$response"
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    source_template = _BASH

    @staticmethod
    def _check_version() -> None:
        """Do nothing: the script may be meant for another machine's bash than the one found here."""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        return (words, "") if not words or line[-1:].isspace() else (words[:-1], words[-1])


click.shell_completion.add_completion_class(_Bash)


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print a completion script for a shell.

    The script completes commands, options, users and ccaches.
    """
    root = context.find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    # The script is pykcm's, so nothing needs to be escaped.
    click.echo(kind(root.command, {}, "pykcmctl", _VARIABLE).source().strip("\n"))  # noqa: TID251


COMMANDS = (completion_command,)
