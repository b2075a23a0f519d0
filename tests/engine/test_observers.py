"""Watchers and tracers: their errors affect no request, and without them nothing is done."""

import pytest

from pykcm.control.snapshots import unconstrained_default
from pykcm.engine.events import Event, Kind, Watch
from pykcm.protocol.codes import KcmError
from tests.builders import ALICE
from tests.engine.event_log import EventLog
from tests.server.asking import Asking, Server


@pytest.fixture
def broken_watch() -> Watch:
    """A watcher that raises an exception for each event."""

    def fail(_: Event) -> None:
        raise RuntimeError("a watcher fails")

    return Watch(fail, unconstrained_default)


def test_failing_watcher_is_removed_and_logged(
    server: Server, alice: Asking, broken_watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """The request succeeds, other watchers get its event, and the failing watcher is removed."""
    server.engine.watchers.append(broken_watch)
    events = EventLog(server)
    alice.initialize(b"1000", ALICE)
    assert events.take() == [(Kind.CREATED, b"1000", "")]
    assert alice.get_principal(b"1000") == ALICE
    assert caplog.text.count("an observer (pykcmctl watch or trace) is ended by an error in pykcm") == 1
    assert broken_watch not in server.engine.watchers


def test_failing_tracer_is_removed_and_logged(
    server: Server, alice: Asking, caplog: pytest.LogCaptureFixture
) -> None:
    """The request succeeds, and the failing tracer is removed."""

    def fail(_: object) -> None:
        raise RuntimeError("a watcher fails")

    server.dispatcher.tracers.append(fail)
    alice.initialize(b"1000", ALICE)
    assert alice.get_principal(b"1000") == ALICE
    assert caplog.text.count("an observer (pykcmctl watch or trace) is ended by an error in pykcm") == 1
    assert server.dispatcher.tracers == []


@pytest.mark.parametrize("method", ["before", "committed", "refused", "connection_refused"])
def test_error_in_any_method_ends_only_the_watcher(
    server: Server, alice: Asking, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """If any method of a watcher raises an exception, requests are answered, and the watcher is informed."""

    def fail(*_: object) -> None:
        raise RuntimeError("a watcher fails")

    watcher = Watch(lambda _: None, unconstrained_default)
    failures: list[bool] = []
    server.engine.watchers.add(watcher, lambda: failures.append(True))
    monkeypatch.setattr(Watch, method, fail)
    alice.initialize(b"1000", ALICE)
    with pytest.raises(KcmError):
        alice.get_principal(b"1001")
    server.dispatcher.connection_refused(1000, None, "for a test")
    alice.destroy(b"1000")
    assert failures == [True]
    assert watcher not in server.engine.watchers


def test_without_watchers_no_events_are_made(
    server: Server, alice: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without watchers and tracers nothing is compared and no event is made."""

    def never(*_: object) -> None:
        raise AssertionError("nobody watches")

    monkeypatch.setattr(Watch, "before", never)
    monkeypatch.setattr(server.dispatcher, "_tell_tracers", never)
    alice.initialize(b"1000", ALICE)
    assert alice.get_principal(b"1000") == ALICE
