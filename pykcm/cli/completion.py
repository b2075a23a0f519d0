"""Completion in the shell: what is offered for a user or a ccache, and the scripts that shells are given."""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import environ
from types import FrameType
from typing import Any, NoReturn

import click
from click.shell_completion import BashComplete, CompletionItem, get_completion_class, split_arg_string

from pykcm.cli.client import ControlClient
from pykcm.config import DEFAULT_CONTROL_SOCKET
from pykcm.control.messages import ControlError

# In seconds: whoever presses Tab does not wait.
_PATIENCE = 1.0

# Users choose the names of their ccaches, and what is completed stands on root's command line.
_HARMLESS = re.compile(r"[A-Za-z0-9_.:@%+=,/][A-Za-z0-9_.:@%+=,/-]*", re.ASCII)

_MOST = 200

_VARIABLE = "_PYKCMCTL_COMPLETE"


class _LateError(Exception):
    pass


def offered(
    context: click.Context, incomplete: str, of: Callable[[dict[str, Any]], str]
) -> list[CompletionItem]:
    """What `of` makes of each ccache that the daemon has, where it goes on from `incomplete`.

    Nothing where the daemon cannot be asked, or not in time.
    """
    found: dict[str, None] = {}
    try:
        with _in_time():
            for ccache in _ccaches(context):
                value = of(ccache)
                if value.startswith(incomplete) and _HARMLESS.fullmatch(value):
                    found[value] = None
                if len(found) >= _MOST:
                    break
    except (_LateError, OSError, ControlError):
        pass
    return [CompletionItem(value) for value in found]


def _ccaches(context: click.Context) -> Iterator[dict[str, Any]]:
    path = context.find_root().params.get("path") or DEFAULT_CONTROL_SOCKET
    for item in ControlClient(path).ask("list"):
        if "ccache" in item:
            yield item["ccache"]


@contextmanager
def _in_time() -> Iterator[None]:
    """Raises _LateError after a while: this process is there for the completion alone."""
    before = signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _late(number: int, frame: FrameType | None) -> NoReturn:
    raise _LateError


# Readline parts words at colons, which names of ccaches are full of: so the line itself is handed over, and
# what readline already has is taken off what comes back.
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
        """The script is for whoever reads it, which need not be the bash that is found here."""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        return (words, "") if not words or line[-1:].isspace() else (words[:-1], words[-1])


click.shell_completion.add_completion_class(_Bash)


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the script by which a shell completes commands, options, users and ccaches.

    For bash: pykcmctl completion bash >/etc/bash_completion.d/pykcmctl
    """
    root = context.find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    # A script, of our own.
    click.echo(kind(root.command, {}, "pykcmctl", _VARIABLE).source().strip("\n"))  # noqa: TID251


COMMANDS = (completion_command,)
