"""A program that tries all operations on a ccache that it knows by name and UUIDs.

    trying.py [--as LABEL] SOCKET NAME CCACHE_UUID CREDENTIAL_UUID

prints what became of each operation as JSON: the name of the error, or null where it worked. Destroying is
the last. With --as the connection has that SELinux label, which must be allowed to make sockets of it.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from pykcm.client import KcmClient
from pykcm.protocol.codes import KcmError, name_of
from pykcm.protocol.principal import Principal
from pykcm.protocol.tag import Tag

MALLORY = Principal(1, b"PYKCM.TEST", (b"mallory",))


def main(socket: str, name: str, ccache: str, credential: str) -> dict[str, str | None]:
    theirs, own = name.encode(), b""
    with KcmClient(socket) as client:
        own = client.gen_new()
        client.initialize(own, MALLORY)
        attempts: dict[str, Callable[[], object]] = {
            "GET_CACHE_BY_UUID": lambda: client.get_cache_by_uuid(bytes.fromhex(ccache)),
            "GET_PRINCIPAL": lambda: client.get_principal(theirs),
            "GET_CRED_UUID_LIST": lambda: client.get_cred_uuid_list(theirs),
            "GET_CRED_BY_UUID": lambda: client.get_cred_by_uuid(theirs, bytes.fromhex(credential)),
            "GET_CRED_LIST": lambda: client.get_cred_list(theirs),
            "RETRIEVE": lambda: client.retrieve(theirs, 0, Tag()),
            "GET_KDC_OFFSET": lambda: client.get_kdc_offset(theirs),
            "SET_KDC_OFFSET": lambda: client.set_kdc_offset(theirs, 1),
            "REMOVE_CRED": lambda: client.remove_cred(theirs, 0, Tag()),
            "INITIALIZE": lambda: client.initialize(theirs, MALLORY),
            "REPLACE": lambda: client.replace(theirs, 0, MALLORY, []),
            "MOVE_CACHE onto it": lambda: client.move_cache(own, theirs),
            "MOVE_CACHE away": lambda: client.move_cache(theirs, own),
            "DESTROY": lambda: client.destroy(theirs),
        }
        results = {attempt: outcome(do) for attempt, do in attempts.items()}
        client.destroy(own)
    return results


def outcome(attempt: Callable[[], object]) -> str | None:
    try:
        attempt()
    except KcmError as error:
        return name_of(error.code)
    return None


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[0] == "--as":
        Path("/proc/thread-self/attr/sockcreate").write_text(arguments[1], encoding="ascii")
        del arguments[:2]
    print(json.dumps(main(*arguments)))  # noqa: T201
