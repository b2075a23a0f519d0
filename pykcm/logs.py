"""Where the log goes, and what a line looks like."""

import logging
import os
import sys


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"pykcmd: {record.levelname.lower()}: {super().format(record)}"


def set_up_logging() -> None:
    """To the journal with fields when stderr is the journal, else plain lines to stderr."""
    handler: logging.Handler | None = _journal_handler() if _stderr_is_journal() else None
    if handler is None:
        handler = logging.StreamHandler()
        handler.setFormatter(_Lines())
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
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _journal_handler() -> logging.Handler | None:
    try:
        from systemd import journal  # noqa: PLC0415 - optional
    except ImportError:
        return None
    handler: logging.Handler = journal.JournalHandler(SYSLOG_IDENTIFIER="pykcmd")
    return handler
