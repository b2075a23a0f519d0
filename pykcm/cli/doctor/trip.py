"""A round trip as this user: a throw-away ccache is made, filled, read and destroyed."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from struct import pack

from pykcm.cli.doctor.outcomes import Check, Outcome, failed, ok, skipped, warning
from pykcm.cli.doctor.where import Where
from pykcm.client import KcmClient
from pykcm.config import Config
from pykcm.peer.identity import ROOT
from pykcm.protocol.codes import KcmError
from pykcm.protocol.principal import Principal
from pykcm.protocol.wire import pack_data

# In seconds: for whatever hangs, and for what users begin to feel.
_PATIENCE = 10.0
_SLOW = 0.05

_TRIES = 5

# .invalid is nobody's (RFC 2606).
_REALM = b"DOCTOR.INVALID"
_CLIENT = Principal(1, _REALM, (b"pykcmctl-doctor",))
_SERVER = Principal(2, _REALM, (b"throw-away",))

_LOG = "journalctl -u pykcm.service -n 20"


def round_trip(where: Where) -> Outcome:
    """What is stored can be read, and nothing of it stays."""
    path = where.path(where.client_socket)
    try:
        with KcmClient(path, _PATIENCE) as kcm:
            kcm.noop()
            limit = _limit(where)
            if limit is None:
                return skipped("root lists everyone's ccaches (root_lists_all): try it as another user")
            ccaches = len(kcm.get_cache_uuid_list())
            if limit and ccaches >= limit:
                # A further ccache would take an expired one's room.
                return warning(
                    f"this user has {ccaches} ccaches, the most that are allowed: not tried", "klist -l"
                )
            return _tried(kcm)
    except KcmError as error:
        return failed(f"the server refuses: {error}", _LOG)
    except OSError as error:
        return failed(f"{where.client_socket}: no answer: {error.strerror or error}", _LOG)


def _limit(where: Where) -> int | None:
    """How many ccaches the user may have, 0 for no limit; None where the user's cannot be counted."""
    config = where.config if where.daemon_is_here else Config(max_uid_ccaches=0)
    return None if config.root_lists_all and where.uid == ROOT else config.max_uid_ccaches


def _tried(kcm: KcmClient) -> Outcome:
    before = _collection(kcm)
    credential = _credential()
    with _throw_away(kcm) as name:
        kcm.store(name, credential)
        read = kcm.get_cred_list(name)
    if read != [credential]:
        return failed("what was stored came back as something else", _LOG)
    if _collection(kcm) != before:
        # Others of this UID may have been at work.
        return warning("the user's ccaches or their default changed meanwhile", "klist -l")
    return ok("a throw-away ccache was made, filled, read and destroyed")


def _collection(kcm: KcmClient) -> tuple[list[bytes], bytes | None]:
    """The UUIDs, and the default where it is one of them: otherwise any name will do."""
    uuids = kcm.get_cache_uuid_list()
    names = {kcm.get_cache_by_uuid(uuid) for uuid in uuids}
    default = kcm.get_default_cache()
    return uuids, default if default in names else None


@contextlib.contextmanager
def _throw_away(kcm: KcmClient) -> Iterator[bytes]:
    name = kcm.gen_new()
    kcm.initialize(name, _CLIENT)
    try:
        yield name
    finally:
        kcm.destroy(name)


def _credential() -> bytes:
    """A credential in ccache file format 4: its ticket is none, and ends in a minute."""
    now = int(time.time())
    key = pack(">h", 18) + pack_data(os.urandom(32))
    times = pack(">IIIIBI", now, now, now + 60, 0, 0, 0)
    no_lists = pack(">II", 0, 0)
    return _CLIENT.pack() + _SERVER.pack() + key + times + no_lists + pack_data(b"no ticket") + pack_data(b"")


def answer_time(where: Where) -> Outcome:
    """The server answers at once, when it runs."""
    try:
        first, best = _times(where.path(where.client_socket))
    except (OSError, KcmError) as error:
        return skipped(f"no answer: {getattr(error, 'strerror', None) or error}")
    return judged_time(first, best)


def judged_time(first: float, best: float) -> Outcome:
    """By the seconds to the first answer, which may start the daemon, and to the best one after it."""
    text = f"the first answer took {first * 1000:.1f} ms, the best one after it {best * 1000:.1f} ms"
    return warning(text, "uptime", "pykcmctl stats") if best > _SLOW else ok(text)


def _times(path: Path) -> tuple[float, float]:
    begin = time.perf_counter()
    with KcmClient(path, _PATIENCE) as kcm:
        kcm.noop()
        first = time.perf_counter() - begin
        times = []
        for _ in range(_TRIES):
            begin = time.perf_counter()
            kcm.noop()
            times.append(time.perf_counter() - begin)
    return first, min(times)


CHECKS = (Check("time to answer", answer_time), Check("round trip", round_trip))
