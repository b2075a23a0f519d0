"""What a check comes to."""

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from pykcm.cli.doctor.where import Where
from pykcm.cli.profile import ProfileError
from pykcm.config import ConfigError


class Level(StrEnum):
    """Only `failed` counts for the exit status."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


class Outcome(NamedTuple):
    """`text` says what was found; `remedy` are commands to paste, in their order."""

    level: Level
    text: str
    remedy: tuple[str, ...] = ()


def ok(text: str) -> Outcome:
    return Outcome(Level.OK, text)


def warning(text: str, *remedy: str) -> Outcome:
    return Outcome(Level.WARNING, text, remedy)


def failed(text: str, *remedy: str) -> Outcome:
    return Outcome(Level.FAILED, text, remedy)


def skipped(why: str) -> Outcome:
    return Outcome(Level.SKIPPED, why)


class Check(NamedTuple):
    """One thing to look at, by the name that the report has for it."""

    name: str
    run: Callable[[Where], Outcome]


def outcome_of(check: Check, where: Where) -> Outcome:
    """What the check comes to, also where it may not look at something, or has nothing to go by."""
    try:
        return check.run(where)
    except (ConfigError, ProfileError) as error:
        # Two checks of their own say so.
        return skipped(f"not known: {error}")
    except PermissionError as error:
        if where.uid == 0:
            return failed(f"{error.filename}: cannot be looked at: {error.strerror}")
        return skipped(f"needs root: {error.filename or 'it'} is not for other users")
    except OSError as error:
        return failed(f"{error.filename or check.name}: cannot be looked at: {error.strerror or error}")
