"""Where the log goes, and what a line looks like."""

import logging
import os
import sys
import time


class Throttle:
    """Lets so many lines a minute through about each UID: a user may cause thousands a second."""

    _MINUTE = 60.0

    def __init__(self, lines: int) -> None:
        self._lines = lines
        # When the UID's minute began, and how many lines there were in it.
        self._minutes: dict[int, tuple[float, int]] = {}

    def is_due(self, uid: int) -> bool:
        now = time.monotonic()
        began, lines = self._minutes.get(uid, (now, 0))
        if now - began >= self._MINUTE:
            began, lines = now, 0
        self._minutes[uid] = (began, lines + 1)
        return lines < self._lines


class _Lines(logging.Formatter):
    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        return f"{self._program}: {record.levelname.lower()}: {super().format(record)}"


def set_up_logging(program: str = "pykcmd") -> None:
    """To the journal with fields when stderr is the journal, else plain lines to stderr."""
    handler: logging.Handler | None = _journal_handler(program) if _stderr_is_journal() else None
    if handler is None:
        handler = logging.StreamHandler()
        handler.setFormatter(_Lines(program))
    # Not what the process is called or which thread it was: there is one of each.
    logging.logThreads = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level("info")


def set_level(level: str) -> None:
    """`level` as the configuration has it: debug, info, warning or error."""
    logging.getLogger().setLevel(level.upper())


def _stderr_is_journal() -> bool:
    """As sd_journal_stream_fd(3) tells: JOURNAL_STREAM names stderr's device and inode."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # AttributeError: there is no stderr
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _journal_handler(program: str) -> logging.Handler | None:
    try:
        from systemd import journal  # noqa: PLC0415 - optional
    except ImportError:
        return None
    handler: logging.Handler = journal.JournalHandler(SYSLOG_IDENTIFIER=program)
    return handler
