"""Checks and their results."""

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from pykcm.cli.doctor.environment import Environment
from pykcm.cli.profile import ProfileError
from pykcm.config import ConfigError


class Level(StrEnum):
    """Only `failed` makes the exit status 1."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


class Result(NamedTuple):
    """`text` says what was found; `remedy` are shell commands to run in that order."""

    level: Level
    text: str
    remedy: tuple[str, ...] = ()


def ok(text: str) -> Result:
    return Result(Level.OK, text)


def warning(text: str, *remedy: str) -> Result:
    return Result(Level.WARNING, text, remedy)


def failed(text: str, *remedy: str) -> Result:
    return Result(Level.FAILED, text, remedy)


def skipped(reason: str) -> Result:
    return Result(Level.SKIPPED, reason)


class Check(NamedTuple):
    """A check, with its name in the report."""

    name: str
    run: Callable[[Environment], Result]


def run_check(check: Check, environment: Environment) -> Result:
    """The result of the check, also if it may not read a file or a configuration is unusable."""
    try:
        return check.run(environment)
    except (ConfigError, ProfileError) as error:
        # The checks "configuration" and "krb5.conf" report these.
        return skipped(f"depends on a configuration that cannot be used: {error}")
    except PermissionError as error:
        if environment.uid == 0:
            return failed(f"{error.filename}: cannot be examined: {error.strerror}")
        return skipped(f"needs root: other users may not read {error.filename or 'it'}")
    except OSError as error:
        return failed(f"{error.filename or check.name}: cannot be examined: {error.strerror or error}")
