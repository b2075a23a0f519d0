"""How much clients may take up, as configured and as the process's own limits allow it."""

import resource

import pytest

from pykcm.config import Config
from pykcm.resources import limits_of
from pykcm.store.sqlcipher import online_copy

MIB = 1 << 20


@pytest.fixture
def limit_descriptors(monkeypatch: pytest.MonkeyPatch) -> "LimitDescriptors":
    """Sets how many files the process may have open."""
    return LimitDescriptors(monkeypatch)


class LimitDescriptors:
    """Pretends that the process may have so many open files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, number: int) -> None:
        self._monkeypatch.setattr(resource, "getrlimit", lambda _: (number, number))


@pytest.mark.parametrize(
    ("descriptors", "max_connections", "allowed", "is_told"),
    [
        (65536, 4096, 4096, False),
        (4216, 4096, 4096, False),
        (4215, 4096, 4095, True),
        (1024, 0, 904, False),
        (10, 4096, 1, True),
        (resource.RLIM_INFINITY, 4096, 4096, False),
    ],
)
def test_connections_have_descriptors(
    limit_descriptors: LimitDescriptors,
    caplog: pytest.LogCaptureFixture,
    descriptors: int,
    max_connections: int,
    allowed: int,
    is_told: bool,
) -> None:
    """There are never more connections than descriptors, and the log says where that is less than wanted."""
    limit_descriptors(descriptors)
    limits = limits_of(Config(max_connections=max_connections, max_uid_connections=1))
    assert limits.connections == allowed
    told = f"max_connections is {max_connections}, but descriptors allow only {allowed}"
    assert [message.partition(":")[0] for message in caplog.messages] == [told] * is_told
    assert all(f": the limit of open files is {descriptors}; " in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("descriptors", "max_uid_connections", "allowed"),
    [(65536, 256, 256), (65536, 0, 16354), (256, 256, 34), (256, 0, 34), (256, 20, 20), (10, 256, 1)],
)
def test_a_user_has_a_quarter_of_the_descriptors(
    limit_descriptors: LimitDescriptors,
    caplog: pytest.LogCaptureFixture,
    descriptors: int,
    max_uid_connections: int,
    allowed: int,
) -> None:
    """No user has more than a quarter of the connections for which there are descriptors."""
    limit_descriptors(descriptors)
    limits = limits_of(Config(max_connections=0, max_uid_connections=max_uid_connections))
    assert limits.uid_connections == allowed
    told = f"max_uid_connections is {max_uid_connections}, but descriptors allow only {allowed}"
    assert [message.partition(":")[0] for message in caplog.messages] == [told] * (
        max_uid_connections > allowed
    )


def test_memory() -> None:
    """Requests and replies of all users together, and of each, are bounded, at the default in 200 MiB."""
    limits = limits_of(Config())
    assert (limits.bytes, limits.uid_bytes) == (40 * MIB, 30 * MIB)
    assert (limits.unread, limits.uid_unread) == (40 * MIB, 20 * MIB)
    # Where requests are small, many connections may still have one waiting each.
    limits = limits_of(Config(max_request_size=64))
    assert (limits.bytes, limits.uid_bytes) == (40 * MIB, 8 * MIB)


def test_what_is_held_at_most_fits_into_the_promised_size() -> None:
    """The cache, waiting requests and changes recorded for a rekey leave 70 of 200 MiB for the rest."""
    config = Config()
    held = config.collection_cache_size * MIB + limits_of(config).bytes + online_copy._MOST_RECORDED
    assert held <= 130 * MIB
