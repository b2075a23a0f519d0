"""An ordinary user's collection, read over the KCM socket as any KCM client does, and requests about it."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.collection import Collection
from pykcm.ccaches.defaults import Defaults
from pykcm.cli.advice import how_to_start
from pykcm.cli.client import NoKcmServerError
from pykcm.client import KcmClient
from pykcm.config import Config
from pykcm.control.administration import Administration
from pykcm.control.calls import Call
from pykcm.peer.access import Access
from pykcm.peer.identity import Peer
from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.credential import parse_stored_credential
from pykcm.protocol.text import escape_path
from pykcm.protocol.wire import FormatError

# In seconds, for each request.
_TIMEOUT = 30.0

# The ccache has gone since it was listed.
_GONE = {Code.FCC_NOFILE, Code.CC_END}

# KCM does not report quotas.
_NO_QUOTAS = Config(max_uid_ccaches=0, max_uid_size=0, max_uid_credentials=0)

T = TypeVar("T")


@contextmanager
def connected(path: str) -> Iterator[KcmClient]:
    """Yield a connection to the KCM server at `path`; raises NoKcmServerError, also if it ends."""
    try:
        with KcmClient(path, _TIMEOUT) as kcm:
            yield kcm
    except OSError as error:
        if isinstance(error, NoKcmServerError) or error.filename:
            raise
        if Path(path).exists() and not Path(path).is_socket():
            raise NoKcmServerError(
                f"{escape_path(path)}: is not a socket; set kcm_socket in krb5.conf or --kcm-socket to the "
                "KCM socket"
            ) from None
        raise NoKcmServerError(
            f"{escape_path(path)}: no KCM server answers: {error.strerror or error}; "
            f"{how_to_start('pykcm.socket')}, or set kcm_socket in krb5.conf or --kcm-socket to its socket"
        ) from None


def read_collection(kcm: KcmClient) -> Collection:
    """Return the caller's ccaches, as far as the server shows them; raises KcmError, OSError."""
    collection = Collection(os.geteuid(), time.time)
    ccaches: list[CCache] = []
    for uuid in _uuids(kcm):
        name = b""
        try:
            name = kcm.get_cache_by_uuid(uuid)
            ccaches.append(read_ccache(kcm, name, uuid))
        except (KcmError, FormatError) as error:
            if name and not (isinstance(error, KcmError) and error.code in _GONE):
                collection.unavailable[name] = uuid
    default = kcm.get_default_cache()
    collection.restore(ccaches, Defaults(default))
    if not collection.has(default):
        # The server has chosen no other one in its place.
        collection.keep_destroyed(None)
    return collection


def read_ccache(kcm: KcmClient, name: bytes, uuid: bytes) -> CCache:
    """Return one ccache; raises KcmError, FormatError, OSError."""
    ccache = CCache(uuid, name, kcm.get_principal(name))
    with suppress(KcmError):
        # Heimdal's server does not have this operation.
        ccache.kdc_offset = kcm.get_kdc_offset(name)
    for credential_uuid, blob in _credentials(kcm, name):
        credential = parse_stored_credential(blob)
        # Another server may keep credentials that equal each other: the last one counts.
        ccache.credentials.put(ccache.credentials.uuid_of_equal(credential) or credential_uuid, credential)
    return ccache


def _uuids(kcm: KcmClient) -> list[bytes]:
    try:
        return kcm.get_cache_uuid_list()
    except KcmError as error:
        # sssd's answer for a user without ccaches.
        if error.code == Code.FCC_NOFILE:
            return []
        raise


def _credentials(kcm: KcmClient, name: bytes) -> Iterable[tuple[bytes, bytes]]:
    """Return pairs of UUID and credential."""
    uuids = kcm.get_cred_uuid_list(name)
    # Heimdal's server does not have this operation, and no reply holds the largest ccaches.
    with suppress(KcmError):
        blobs = kcm.get_cred_list(name)
        if len(blobs) == len(uuids):
            return zip(uuids, blobs, strict=True)
    return [(uuid, kcm.get_cred_by_uuid(name, uuid)) for uuid in uuids]


class _NoRenewals:
    """The daemon does not tell users about renewals."""

    current = None


class _Parts(NamedTuple):
    """The parts of the daemon that the code of its requests uses here. The daemon has checked the labels."""

    config: Config
    access: Access
    renewals: _NoRenewals = _NoRenewals()


class UserCall(Call, kw_only=True):
    """A request that reads a collection of this process."""

    collection: Collection

    async def read(self, uid: int, function: Callable[[Collection], T]) -> T:
        return function(self.collection)


def user_call(arguments: Any, collection: Collection) -> UserCall:
    parts = cast("Administration", _Parts(_NO_QUOTAS, Access()))
    peer = Peer(collection.uid, os.getegid(), os.getpid(), None)
    return UserCall(parts, peer, arguments, collection=collection)
