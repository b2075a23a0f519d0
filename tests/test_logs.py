"""The log: the limit on lines that a user can cause, the format of lines, and their destination."""

import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from pykcm import logs
from pykcm.logs import LimitedLog, LineCounts, User, UserNames

LOG = logging.getLogger("pykcm.tests")


class FakeTime:
    """A clock and an event loop's call_later, whose time a test controls."""

    def __init__(self) -> None:
        self.now = 5000.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def clock(self) -> float:
        return self.now

    def call_later(self, delay: float, called: Callable[[], None]) -> None:
        self.due.append((self.now + delay, called))

    def pass_by(self, seconds: float) -> None:
        end = self.now + seconds
        while self.due and min(self.due, key=lambda each: each[0])[0] <= end:
            first = min(self.due, key=lambda each: each[0])
            self.due.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = end


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def counts(
    fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> LineCounts:
    """The counts of all LimitedLogs, with a fake clock."""
    caplog.set_level(logging.INFO)
    counts = LineCounts(fake_time.clock)
    monkeypatch.setattr(logs, "LINE_COUNTS", counts)
    return counts


@pytest.fixture
def running(counts: LineCounts, fake_time: FakeTime) -> Iterator[LineCounts]:
    """The counts of a running daemon, which writes summaries in time."""
    with counts.scheduled(fake_time.call_later):
        yield counts


def write(lines: LimitedLog, about: int | str | None, number: int = 1) -> int:
    """Write lines, and return the number of logged ones."""
    return sum(lines.write(logging.INFO, about, "a line about %s", about) for _ in range(number))


def summary(about: str, number: int, seconds: int, kind: str = "lines of a test") -> str:
    return f"{about}{number} further lines like it in the last {seconds} s were left out: {kind}"


@pytest.mark.usefixtures("counts")
def test_each_uid_and_kind_has_its_own_limit(caplog: pytest.LogCaptureFixture) -> None:
    """Many lines about one user reduce neither another user's lines nor those of another kind."""
    lines, others = LimitedLog(LOG, "lines of a test", 3), LimitedLog(LOG, "others", 2)
    assert write(lines, 1000, 50) == 3
    assert write(lines, 2000, 50) == 3
    assert write(others, 1000, 50) == 2
    assert len(caplog.records) == 8


@pytest.mark.usefixtures("running")
def test_summary_is_written_without_a_further_line(
    fake_time: FakeTime, caplog: pytest.LogCaptureFixture
) -> None:
    """After the minute, a summary has the number of suppressed lines, even if no further line comes."""
    lines = LimitedLog(LOG, "lines of a test", 2, {"KCM_REASON": "a quota"})
    write(lines, 1000, 12)
    fake_time.pass_by(59)
    assert len(caplog.records) == 2
    fake_time.pass_by(1)
    record = caplog.records[-1]
    assert record.getMessage() == summary("UID 1000: ", 10, 60)
    fields = {"KCM_UID": 1000, "KCM_REASON": "a quota", "KCM_LEFT_OUT": 10}
    assert fields.items() <= vars(record).items()
    fake_time.pass_by(3600)
    assert len(caplog.records) == 3
    assert not fake_time.due


@pytest.mark.usefixtures("running")
def test_summary_for_every_minute_of_a_flood(fake_time: FakeTime, caplog: pytest.LogCaptureFixture) -> None:
    """In each minute of a flood, the allowed lines and one summary are written, and each line is counted."""
    lines = LimitedLog(LOG, "lines of a test", 2)
    logged = 0
    for _ in range(300):
        logged += write(lines, 1000, 100)
        fake_time.pass_by(1)
    fake_time.pass_by(60)
    summaries = [record for record in caplog.records if "KCM_LEFT_OUT" in vars(record)]
    assert (logged, len(summaries)) == (10, 5)
    assert logged + sum(vars(each)["KCM_LEFT_OUT"] for each in summaries) == 300 * 100


@pytest.mark.usefixtures("running")
def test_each_user_has_its_own_minute(fake_time: FakeTime, caplog: pytest.LogCaptureFixture) -> None:
    """The minute of a user begins with the first line about that user."""
    lines = LimitedLog(LOG, "lines of a test", 1)
    write(lines, 1000, 3)
    fake_time.pass_by(20)
    write(lines, 2000, 4)
    caplog.clear()
    fake_time.pass_by(40)
    assert caplog.messages == [summary("UID 1000: ", 2, 60)]
    fake_time.pass_by(20)
    assert caplog.messages == [summary("UID 1000: ", 2, 60), summary("UID 2000: ", 3, 60)]


@pytest.mark.usefixtures("counts")
def test_next_line_brings_a_late_summary(fake_time: FakeTime, caplog: pytest.LogCaptureFixture) -> None:
    """Without an event loop, the summary is written before the next line about any user."""
    lines = LimitedLog(LOG, "lines of a test", 1)
    write(lines, "u:r:t:s0", 2)
    fake_time.pass_by(90)
    write(lines, 1000)
    assert caplog.messages[1:] == [summary("u:r:t:s0: ", 1, 90), "a line about 1000"]


def test_last_summaries_are_written_at_the_end(
    counts: LineCounts, fake_time: FakeTime, caplog: pytest.LogCaptureFixture
) -> None:
    """At the daemon's end, the summaries of all suppressed lines are written."""
    with counts.scheduled(fake_time.call_later):
        write(LimitedLog(LOG, "lines of a test", 1), 1000, 5)
        fake_time.pass_by(7)
    assert caplog.messages[1:] == [summary("UID 1000: ", 4, 7)]


@pytest.mark.usefixtures("running")
def test_many_uids_are_counted_together(
    counts: LineCounts, fake_time: FakeTime, caplog: pytest.LogCaptureFixture
) -> None:
    """The UIDs of a large subordinate range share a count: memory and lines stay few."""
    lines = LimitedLog(LOG, "lines of a test", 2)
    logged = sum(write(lines, uid, 2) for uid in range(100_000, 165_536))
    assert len(counts) < 600
    assert logged < 1200
    caplog.clear()
    fake_time.pass_by(60)
    assert caplog.messages == [summary("further UIDs: ", 2 * 65_536 - logged, 60)]
    assert len(counts) == 0
    assert write(lines, 165_535) == 1


@pytest.mark.usefixtures("counts")
def test_summary_has_the_level_of_its_lines(caplog: pytest.LogCaptureFixture) -> None:
    """A summary of errors is an error."""
    lines = LimitedLog(LOG, "lines of a test", 1)
    for level in (logging.INFO, logging.ERROR, logging.WARNING):
        lines.write(level, 1000, "a line")
    logs.LINE_COUNTS.summarize()
    assert caplog.records[-1].levelno == logging.ERROR


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The output of the log, with the daemon's settings."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.logThreads, logging.logMultiprocessing)
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    logs.set_up_logging()
    yield stderr
    root.handlers[:], root.level, logging.logThreads, logging.logMultiprocessing = before


def test_lines_of_libraries_are_limited(stderr: io.StringIO, counts: LineCounts) -> None:
    """Lines of libraries such as asyncio are limited; other lines of pykcm are not."""
    for _ in range(500):
        logging.getLogger("asyncio").error("socket.accept() out of system resource")
    for _ in range(500):
        logging.getLogger("pykcm.store").error("the disk is full")
    counts.summarize()
    text = stderr.getvalue()
    assert text.count("out of system resource") == 60
    assert text.count("the disk is full") == 500
    assert "440 further lines" in text


def test_hostile_text_cannot_forge_a_line(stderr: io.StringIO) -> None:
    """Text in messages and exceptions can neither begin a line nor control a terminal."""
    hostile = "a\npykcmd: info: forged \x1b[2J \x9b31m \u202e \u2028 \udcff"
    LOG.warning("%s", hostile)
    try:
        hostile.encode()
    except UnicodeEncodeError as error:
        error.reason = hostile
        LOG.exception("failed")
    lines = stderr.getvalue().split("\n")
    assert all(line.isprintable() for line in lines)
    assert [line for line in lines if line.startswith("pykcmd: info")] == []
    assert lines[0] == (
        r"pykcmd: warning: a\x0apykcmd: info: forged \x1b[2J \xc2\x9b31m \xe2\x80\xae \xe2\x80\xa8 \xff"
    )
    assert "  Traceback (most recent call last):" in lines


# The destination of the log


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Restore the settings of the log after the test."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.logThreads, logging.logMultiprocessing)
    yield
    root.handlers[:], root.level, logging.logThreads, logging.logMultiprocessing = before


class FakeJournalHandler(logging.Handler):
    """A replacement for the handler of systemd-python."""

    def __init__(self, **fields: str) -> None:
        super().__init__()
        self.fields = fields


def this_stderr() -> str:
    """Return the JOURNAL_STREAM of a stderr that is connected to the journal."""
    status = os.fstat(sys.stderr.fileno())
    return f"{status.st_dev}:{status.st_ino}"


@pytest.mark.usefixtures("restored_logging", "capfd")
def test_log_goes_to_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """If stderr is connected to the journal, lines go there with fields, under the command's name."""
    journal = SimpleNamespace(JournalHandler=FakeJournalHandler)
    monkeypatch.setitem(sys.modules, "systemd", SimpleNamespace(journal=journal))
    monkeypatch.setenv("JOURNAL_STREAM", this_stderr())
    logs.set_up_logging()
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, FakeJournalHandler)
    assert handler.fields == {"SYSLOG_IDENTIFIER": "pykcmd"}


@pytest.mark.usefixtures("restored_logging")
@pytest.mark.parametrize("reason", ["no library", "another stream", "no stream"])
def test_log_goes_to_stderr_without_a_journal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """Without a journal or systemd-python, lines of the set level and above go to stderr as plain text."""
    match reason:
        case "no library":
            monkeypatch.setitem(sys.modules, "systemd", None)
            monkeypatch.setenv("JOURNAL_STREAM", this_stderr())
        case "another stream":
            monkeypatch.setenv("JOURNAL_STREAM", "1:2")
        case "no stream":
            monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    logs.set_up_logging()
    logging.getLogger("pykcm").debug("not shown")
    logging.getLogger("pykcm").info("shown")
    logs.set_level("error")
    logging.getLogger("pykcm").warning("not shown any more")
    assert capfd.readouterr().err == "pykcmd: info: shown\n"


def test_lines_name_users() -> None:
    """A user with an account has its name and UID, and one without the UID alone."""
    assert f"{User(0)}: KCM:0" == "root (UID 0): KCM:0"
    assert str(User(4_000_000_001)) == "UID 4000000001"


def test_slow_directory_service_delays_no_line() -> None:
    """While one look-up hangs, lines have the UID alone and start no further one; later they have names."""
    asked: list[int] = []
    begun, answers = threading.Event(), threading.Event()

    def look_up(uid: int) -> str:
        asked.append(uid)
        begun.set()
        assert answers.wait(60)
        return f"user{uid}"

    names = UserNames(look_up, patience=0.001)
    assert names.name(1) is None
    assert begun.wait(60)
    assert [names.name(uid) for uid in (1, 2)] == [None, None]
    assert asked == [1]
    answers.set()
    deadline = time.monotonic() + 60
    while names.name(1) is None:
        assert time.monotonic() < deadline
    assert names.name(1) == "user1"


def test_slow_directory_service_delays_one_line_a_minute() -> None:
    """After one line waited in vain, the look-ups of other users are not waited for."""
    answers = {1: threading.Event(), 2: threading.Event()}

    def look_up(uid: int) -> None:
        assert answers[uid].wait(60)

    names = UserNames(look_up, patience=0.001)
    assert names.name(1) is None
    answers[1].set()
    assert names._thread is not None
    names._thread.join(60)
    names._patience = 20.0
    begun = time.monotonic()
    assert names.name(2) is None
    assert time.monotonic() - begun < 10
    answers[2].set()
