"""RENEW, pykcm's own operation: a TGT is replaced if its ccache still holds exactly that one."""

import asyncio
import errno

import pytest

from pykcm.ccaches.quotas import Quotas
from pykcm.protocol.codes import Code
from pykcm.store.interface import Store
from tests.builders import ALICE, BOB, HTTP, TGS, configuration, credential_bytes, refused
from tests.server.asking import Asking, Server

NAME = b"1000"
OLD = credential_bytes(times=(1000, 1000, 5000, 9000))
NEW = credential_bytes(times=(1000, 3000, 7000, 9000), ticket=b"renewed")
SERVICE = credential_bytes(HTTP)
ENTRY = configuration(b"key", b"value").blob


@pytest.fixture
def filled(alice: Asking) -> Asking:
    """Alice, with a ccache that has a TGT between other entries."""
    alice.replace(NAME, 7, ALICE, [ENTRY, OLD, SERVICE])
    return alice


def test_renewed_tgt_is_in_the_place_of_the_old_one(server: Server, filled: Asking) -> None:
    """The TGT is replaced where it stands, also after a restart; all else stays."""
    uuids = filled.get_cred_uuid_list(NAME)
    filled.renew(NAME, OLD, NEW)
    for asking in (filled, server.restarted().ask_as(1000)):
        assert asking.get_cred_list(NAME) == [ENTRY, NEW, SERVICE]
        assert asking.get_cred_uuid_list(NAME) == uuids
        assert asking.get_kdc_offset(NAME) == 7


def test_session_key_of_another_type_takes_the_place(filled: Asking) -> None:
    """A renewed TGT whose session key has another type replaces the old one, too."""
    new = credential_bytes(times=(1000, 3000, 7000, 9000), enctype=17)
    filled.renew(NAME, OLD, new)
    assert filled.get_cred_list(NAME) == [ENTRY, new, SERVICE]


def test_tgt_that_was_replaced_meanwhile_stays(filled: Asking) -> None:
    """After a kinit, or a renewal, the ccache does not hold the old TGT; in a missing ccache nothing is."""
    newer = credential_bytes(times=(2000, 2000, 6000, 9000))
    filled.replace(NAME, 0, ALICE, [newer])
    with refused(Code.CC_NOTFOUND):
        filled.renew(NAME, OLD, NEW)
    assert filled.get_cred_list(NAME) == [newer]
    filled.destroy(NAME)
    with refused(Code.FCC_NOFILE):
        filled.renew(NAME, OLD, NEW)


@pytest.mark.parametrize(
    "new",
    [
        credential_bytes(TGS, BOB, times=(1000, 3000, 7000, 9000)),
        SERVICE,
        credential_bytes(times=(1000, 3000, 4999, 9000)),
        credential_bytes(times=(1000, 3000, 7000, 9000), ticket=bytes(100_000)),
    ],
    ids=["other client", "other server", "ends earlier", "too large"],
)
def test_credential_that_is_not_the_renewed_tgt_is_refused(filled: Asking, new: bytes) -> None:
    """Only a TGT for the same client and server that ends later takes the place."""
    with refused(Code.CC_FORMAT):
        filled.renew(NAME, OLD, new)
    assert filled.get_cred_list(NAME) == [ENTRY, OLD, SERVICE]


def test_equal_tgt_in_another_place_is_kept(alice: Asking) -> None:
    """If the ccache has another TGT that equals the new one, neither is changed."""
    new = credential_bytes(times=(1000, 3000, 7000, 9000), enctype=17)
    other = credential_bytes(times=(1000, 1000, 4000, 9000), enctype=17)
    alice.replace(NAME, 0, ALICE, [OLD, other])
    with refused(Code.CC_FORMAT):
        alice.renew(NAME, OLD, new)
    assert alice.get_cred_list(NAME) == [OLD, other]


def test_service_ticket_is_not_replaced(filled: Asking) -> None:
    """A credential that is no TGT cannot be replaced in this way."""
    with refused(Code.CC_NOTFOUND):
        filled.renew(NAME, SERVICE, SERVICE)


def test_renewed_tgt_is_counted_at_the_quota(runner: asyncio.Runner, store: Store) -> None:
    """A larger TGT needs room as one that is stored; without it the old one stays."""
    limited = Server(runner, store, quotas=Quotas(max_uid_size=6000)).ask_as(1000)
    limited.replace(NAME, 0, ALICE, [OLD])
    with refused(errno.EDQUOT):
        limited.renew(NAME, OLD, credential_bytes(times=(1000, 3000, 7000, 9000), ticket=bytes(10_000)))
    assert limited.get_cred_list(NAME) == [OLD]
    limited.renew(NAME, OLD, NEW)
