"""Checks that use the server as this user: answer time, and a round trip with a temporary ccache."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from struct import pack

from pykcm.cli.doctor.environment import Environment
from pykcm.cli.doctor.results import Check, Result, failed, ok, skipped, warning
from pykcm.client import KcmClient
from pykcm.config import Config
from pykcm.peer.identity import ROOT
from pykcm.protocol.codes import KcmError
from pykcm.protocol.principal import Principal
from pykcm.protocol.wire import pack_data

# In seconds: when to give up, and what users begin to notice.
_REQUEST_TIMEOUT = 10.0
_SLOW = 0.05

_REPEATS = 5

# No realm ends in .INVALID (RFC 2606).
_REALM = b"DOCTOR.INVALID"
_CLIENT = Principal(1, _REALM, (b"pykcmctl-doctor",))
_SERVER = Principal(2, _REALM, (b"throw-away",))


def round_trip(environment: Environment) -> Result:
    """Check that a stored credential can be read and destroyed."""
    path = environment.path(environment.client_socket)
    try:
        with KcmClient(path, _REQUEST_TIMEOUT) as kcm:
            kcm.noop()
            limit = _ccache_limit(environment)
            if limit is None:
                return skipped("root lists the ccaches of all users (root_lists_all): run it as another user")
            ccaches = len(kcm.get_cache_uuid_list())
            if limit and ccaches >= limit:
                # A further ccache would evict an expired one.
                return warning(
                    f"not tried: this user has {ccaches} ccaches, as many as are allowed", "klist -l"
                )
            return _try_round_trip(environment, kcm)
    except KcmError as error:
        return failed(f"the server refuses a request: {error}", environment.log_command)
    except OSError as error:
        return failed(
            f"{environment.client_socket}: no answer: {error.strerror or error}", environment.log_command
        )


def _ccache_limit(environment: Environment) -> int | None:
    """How many ccaches the user may have, 0 for no limit; None if this user's ccaches cannot be counted."""
    config = environment.config if environment.daemon_is_here else Config(max_uid_ccaches=0)
    return None if config.root_lists_all and environment.uid == ROOT else config.max_uid_ccaches


def _try_round_trip(environment: Environment, kcm: KcmClient) -> Result:
    before = _collection(kcm)
    credential = _credential()
    with _temporary_ccache(kcm) as name:
        kcm.store(name, credential)
        read = kcm.get_cred_list(name)
    if read != [credential]:
        return failed("the credential that was read is not the one that was stored", environment.log_command)
    if _collection(kcm) != before:
        # Other processes of this user may have changed the collection.
        return warning("the user's ccaches or their default changed during the check", "klist -l")
    return ok("a temporary ccache was created, filled, read and destroyed")


def _collection(kcm: KcmClient) -> tuple[list[bytes], bytes | None]:
    """The UUIDs, and the name of the default ccache if it exists: a default without a ccache may change."""
    uuids = kcm.get_cache_uuid_list()
    names = {kcm.get_cache_by_uuid(uuid) for uuid in uuids}
    default = kcm.get_default_cache()
    return uuids, default if default in names else None


@contextlib.contextmanager
def _temporary_ccache(kcm: KcmClient) -> Iterator[bytes]:
    name = kcm.gen_new()
    kcm.initialize(name, _CLIENT)
    try:
        yield name
    finally:
        kcm.destroy(name)


def _credential() -> bytes:
    """A credential in ccache file format 4 that expires in a minute; its ticket is not valid."""
    now = int(time.time())
    key = pack(">h", 18) + pack_data(os.urandom(32))
    times = pack(">IIIIBI", now, now, now + 60, 0, 0, 0)
    no_lists = pack(">II", 0, 0)
    return _CLIENT.pack() + _SERVER.pack() + key + times + no_lists + pack_data(b"no ticket") + pack_data(b"")


def answer_time(environment: Environment) -> Result:
    """Check that a running server answers quickly."""
    try:
        first, best = _measure(environment.path(environment.client_socket))
    except (OSError, KcmError) as error:
        return skipped(f"no answer: {getattr(error, 'strerror', None) or error}")
    return time_result(first, best)


def time_result(first: float, best: float) -> Result:
    """The result for the first answer, which may start the daemon, and the best one, in seconds."""
    text = f"the first answer took {first * 1000:.1f} ms, the fastest one after it {best * 1000:.1f} ms"
    return warning(text, "uptime", "pykcmctl stats") if best > _SLOW else ok(text)


def _measure(path: Path) -> tuple[float, float]:
    begin = time.perf_counter()
    with KcmClient(path, _REQUEST_TIMEOUT) as kcm:
        kcm.noop()
        first = time.perf_counter() - begin
        times = []
        for _ in range(_REPEATS):
            begin = time.perf_counter()
            kcm.noop()
            times.append(time.perf_counter() - begin)
    return first, min(times)


CHECKS = (Check("time to answer", answer_time), Check("round trip", round_trip))
