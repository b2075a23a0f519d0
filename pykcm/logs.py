"""The log: its destination, the format of its lines, and the limit on lines that a user can cause."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from pykcm.protocol.text import printable

_MINUTE = 60.0

# Pairs of UID and kind with a count of their own. All further UIDs of a kind share one count, because a user
# may have a range of 65,536 subordinate UIDs.
_MOST_COUNTED = 512

# In seconds: a name is looked up again after this time.
_NAME_LIFETIME = 600.0
# In seconds: after a line has waited in vain, further lines do not wait for this time.
_SLOW = 60.0
_MOST_NAMES = 4096

Schedule = Callable[[float, Callable[[], None]], object]


class User(int):
    """A UID that a log line shows with its user's name, which is looked up when the line is written."""

    __slots__ = ()

    def __str__(self) -> str:
        name = _USER_NAMES.name(int(self))
        return f"UID {int(self)}" if name is None else f"{name} (UID {int(self)})"


class UserNames:
    """The names of users, looked up in a thread: a directory service may take long, and the daemon must not.

    A line waits for at most `patience` seconds, and in a minute at most one line waits in vain: a user with
    many UIDs does not delay the others. Until the name is known, lines have the UID alone.
    """

    def __init__(self, look_up: Callable[[int], str | None], patience: float = 0.02) -> None:
        self._look_up = look_up
        self._patience = patience
        # The names that were found, and the time of the look-up.
        self._known: dict[int, tuple[str | None, float]] = {}
        self._thread: threading.Thread | None = None
        self._waits_again = 0.0

    def name(self, uid: int) -> str | None:
        """The user's name; None: there is none, or it is not known yet."""
        name, asked = self._known.get(uid, (None, None))
        if asked is not None and time.monotonic() - asked < _NAME_LIFETIME:
            return name
        if self._thread is not None and self._thread.is_alive():
            return name
        if len(self._known) >= _MOST_NAMES:
            self._known.clear()
        self._thread = threading.Thread(target=self._ask, args=(uid,), name="user names", daemon=True)
        self._thread.start()
        if time.monotonic() >= self._waits_again:
            self._thread.join(self._patience)
            if self._thread.is_alive():
                self._waits_again = time.monotonic() + _SLOW
        return self._known.get(uid, (name, 0.0))[0]

    def _ask(self, uid: int) -> None:
        try:
            name = self._look_up(uid)
        except Exception:  # noqa: BLE001 - a line without the name is better than none
            name = None
        self._known[uid] = name, time.monotonic()


def _name_of(uid: int) -> str | None:
    import pwd  # noqa: PLC0415 - most daemons end without a line about a user

    try:
        return printable(pwd.getpwuid(uid).pw_name)
    except (KeyError, OverflowError):
        return None


_USER_NAMES = UserNames(_name_of)


class LimitedLog:
    """Log lines of one kind that a user can cause: at most `lines` a minute about each UID.

    After the minute, a summary gives the number of suppressed lines. `kind` names the lines in the summary,
    and `fields` are its journal fields. Only the event loop's thread may write.
    """

    def __init__(
        self, log: logging.Logger, kind: str, lines: int, fields: Mapping[str, object] | None = None
    ) -> None:
        self.log = log
        self.kind = kind
        self.lines = lines
        self.fields = {} if fields is None else fields

    def write(
        self,
        level: int,
        about: int | str | None,
        message: str,
        *args: object,
        fields: Mapping[str, object] | None = None,
        with_traceback: bool = False,
    ) -> bool:
        """Log one line, unless there were too many; returns whether it was logged.

        `about` is a UID, an SELinux context, or None for lines about neither. `fields` go to the journal.
        """
        if not self.counts(level, about):
            return False
        self.log.log(level, message, *args, extra=fields, exc_info=with_traceback, stacklevel=2)
        return True

    def counts(self, level: int, about: int | str | None) -> bool:
        """Count one more line, which the caller logs; returns whether it may be logged."""
        return LINE_COUNTS.count(self, level, about)


class _Key(msgspec.Struct, frozen=True):
    # Compared by identity: the code makes a fixed number of them.
    lines: LimitedLog
    about: int | str | None
    is_of_many: bool = False


class _Count:
    """The number of lines of one kind about one UID since `began`, in seconds of the clock."""

    __slots__ = ("began", "left_out", "level", "written")

    def __init__(self, began: float) -> None:
        self.began = began
        self.written = 0
        self.left_out = 0
        self.level = logging.INFO


class LineCounts:
    """The counts of all LimitedLogs. Their memory is bounded for any number of UIDs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        # Ordered by the beginning of their minutes.
        self._counts: dict[_Key, _Count] = {}
        self._schedule: Schedule | None = None
        self._is_scheduled = False

    def __len__(self) -> int:
        return len(self._counts)

    def clear(self) -> None:
        """Forget all lines, without a summary."""
        self._counts.clear()

    def count(self, lines: LimitedLog, level: int, about: int | str | None) -> bool:
        """Count one more line; returns whether it may be logged."""
        now = self.clock()
        self._end_minutes(now)
        key = _Key(lines, about)
        if key not in self._counts and len(self._counts) >= _MOST_COUNTED:
            key = _Key(lines, None, is_of_many=True)
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = _Count(now)
        if count.written < lines.lines:
            count.written += 1
            return True
        count.left_out += 1
        count.level = max(count.level, level)
        self._plan(now)
        return False

    def summarize(self) -> None:
        """Write the summaries of all suppressed lines, and set all counts to zero."""
        now = self.clock()
        counts, self._counts = self._counts, {}
        for key, count in counts.items():
            _write_summary(key, count, now)

    @contextmanager
    def scheduled(self, schedule: Schedule) -> Iterator[None]:
        """Write each summary after its minute, even if no further line comes, and the last ones at the end.

        `schedule` is an event loop's call_later.
        """
        self._schedule = schedule
        try:
            yield
        finally:
            self._schedule = None
            self._is_scheduled = False
            self.summarize()

    def _end_minutes(self, now: float) -> None:
        while self._counts:
            key, count = next(iter(self._counts.items()))
            if now - count.began < _MINUTE:
                return
            del self._counts[key]
            _write_summary(key, count, now)

    def _plan(self, now: float) -> None:
        """Schedule the next summary for the end of its minute."""
        if self._schedule is None or self._is_scheduled:
            return
        began = next((count.began for count in self._counts.values() if count.left_out), None)
        if began is not None:
            self._is_scheduled = True
            self._schedule(max(0.0, began + _MINUTE - now), self._on_time)

    def _on_time(self) -> None:
        self._is_scheduled = False
        now = self.clock()
        self._end_minutes(now)
        self._plan(now)


def _write_summary(key: _Key, count: _Count, now: float) -> None:
    if not count.left_out:
        return
    fields = {**key.lines.fields, "KCM_LEFT_OUT": count.left_out}
    if key.is_of_many:
        about = "further UIDs: "
    elif isinstance(key.about, int):
        about = f"{User(key.about)}: "
        fields["KCM_UID"] = key.about
    else:
        about = "" if key.about is None else f"{key.about}: "
    key.lines.log.log(
        count.level,
        "%s%d further lines like it in the last %.0f s were left out: %s",
        about,
        count.left_out,
        max(1.0, now - count.began),
        key.lines.kind,
        extra=fields,
    )


LINE_COUNTS = LineCounts()

# For example, asyncio logs a line for each accept() that fails.
_LIBRARIES = LimitedLog(logging.getLogger(__name__), "lines of libraries", 60)


def _is_due(record: logging.LogRecord) -> bool:
    """Filter of the log handler: also limits the lines that libraries log."""
    is_ours = record.name.partition(".")[0] in {"pykcm", "__main__"}
    return is_ours or LINE_COUNTS.count(_LIBRARIES, record.levelno, record.name)


class _Lines(logging.Formatter):
    """Formatter of lines without control characters: text from outside cannot begin a line."""

    def __init__(self, program: str | None = None) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if self._program is None else f"{self._program}: {record.levelname.lower()}: {text}"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        # The message of an exception may have several lines.
        return "\n".join(f"  {printable(line)}" for line in super().formatException(ei).split("\n"))


def set_up_logging(program: str = "pykcmd") -> None:
    """Log to the journal with fields if stderr is the journal, otherwise to stderr as plain lines."""
    handler: logging.Handler | None = _journal_handler(program) if _stderr_is_journal() else None
    if handler is None:
        handler = logging.StreamHandler()
        handler.setFormatter(_Lines(program))
    else:
        handler.setFormatter(_Lines())
    handler.addFilter(_is_due)
    # Records need neither the process nor the thread: there is one of each.
    logging.logThreads = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level("info")


def set_level(level: str) -> None:
    """Set the lowest level that is logged: debug, info, warning or error."""
    logging.getLogger().setLevel(level.upper())


def _stderr_is_journal() -> bool:
    """Whether JOURNAL_STREAM has stderr's device and inode; see sd_journal_stream_fd(3)."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # AttributeError: sys.stderr is None
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _journal_handler(program: str) -> logging.Handler | None:
    try:
        from systemd import journal  # noqa: PLC0415 - optional
    except ImportError:
        return None
    handler: logging.Handler = journal.JournalHandler(SYSLOG_IDENTIFIER=program)
    return handler
