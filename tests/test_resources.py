"""Limits on clients, from the configuration and the limits of the process."""

import resource

import pytest

from pykcm.config import Config
from pykcm.resources import limits_of
from pykcm.store.sqlcipher import online_copy

MIB = 1 << 20


@pytest.fixture
def limit_descriptors(monkeypatch: pytest.MonkeyPatch) -> "LimitDescriptors":
    """Set the limit of open files."""
    return LimitDescriptors(monkeypatch)


class LimitDescriptors:
    """Replaces the limit of open files that the process sees."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, number: int) -> None:
        self._monkeypatch.setattr(resource, "getrlimit", lambda _: (number, number))


@pytest.mark.parametrize(
    ("descriptors", "max_connections", "allowed", "is_logged"),
    [
        (65536, 4096, 4096, False),
        (4216, 4096, 4096, False),
        (4215, 4096, 4095, True),
        (1024, 0, 904, False),
        (10, 4096, 1, True),
        (resource.RLIM_INFINITY, 4096, 4096, False),
    ],
)
def test_connections_are_limited_by_descriptors(
    limit_descriptors: LimitDescriptors,
    caplog: pytest.LogCaptureFixture,
    descriptors: int,
    max_connections: int,
    allowed: int,
    is_logged: bool,
) -> None:
    """There are at most as many connections as descriptors; a limit below the option is logged."""
    limit_descriptors(descriptors)
    limits = limits_of(Config(max_connections=max_connections, max_uid_connections=1))
    assert limits.connections == allowed
    message = f"max_connections is {max_connections}, but descriptors allow only {allowed}"
    assert [each.partition(":")[0] for each in caplog.messages] == [message] * is_logged
    assert all(f": the limit of open files is {descriptors}; " in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("descriptors", "max_uid_connections", "allowed"),
    [(65536, 256, 256), (65536, 0, 16354), (256, 256, 34), (256, 0, 34), (256, 20, 20), (10, 256, 1)],
)
def test_user_has_at_most_a_quarter_of_the_connections(
    limit_descriptors: LimitDescriptors,
    caplog: pytest.LogCaptureFixture,
    descriptors: int,
    max_uid_connections: int,
    allowed: int,
) -> None:
    """A user has at most a quarter of the connections for which there are descriptors."""
    limit_descriptors(descriptors)
    limits = limits_of(Config(max_connections=0, max_uid_connections=max_uid_connections))
    assert limits.uid_connections == allowed
    message = f"max_uid_connections is {max_uid_connections}, but descriptors allow only {allowed}"
    assert [each.partition(":")[0] for each in caplog.messages] == [message] * (max_uid_connections > allowed)


def test_memory_for_requests_and_replies_is_bounded() -> None:
    """Memory for requests and replies is bounded, for all users together and for each user."""
    limits = limits_of(Config())
    assert (limits.bytes, limits.uid_bytes) == (40 * MIB, 30 * MIB)
    assert (limits.unread, limits.uid_unread) == (40 * MIB, 20 * MIB)
    # With small requests, one for each of many connections may wait.
    limits = limits_of(Config(max_request_size=64))
    assert (limits.bytes, limits.uid_bytes) == (40 * MIB, 8 * MIB)


def test_memory_bounds_fit_into_the_promised_size() -> None:
    """The cache, waiting requests and changes recorded for a rekey leave 70 of 200 MiB for the rest."""
    config = Config()
    size = config.collection_cache_size * MIB + limits_of(config).bytes + online_copy._MOST_RECORDED
    assert size <= 130 * MIB
