"""A user's ccache, through pykcm's own client."""

from contextlib import AbstractContextManager

from pykcm.client import KcmClient
from tests.builders import ALICE, credential_bytes, principal
from tests.e2e.credentials import parse_all, server_of
from tests.e2e.daemon import effective_uid

from . import machine

USER = 1000
NAME = b"%d" % USER


def connected(uid: int = USER) -> AbstractContextManager[KcmClient]:
    """Connect as the user."""
    with effective_uid(uid):
        return KcmClient(machine.SOCKET, timeout=machine.PATIENCE)


def begin() -> None:
    """Make an empty ccache."""
    with connected() as kcm:
        kcm.initialize(NAME, ALICE)


def ticket_for(server: str) -> bytes:
    return credential_bytes(principal(server))


def servers() -> list[str]:
    """Return the servers of the ccache's tickets, in order."""
    with connected() as kcm:
        return [server_of(credential) for credential in parse_all(kcm.get_cred_list(NAME))]
