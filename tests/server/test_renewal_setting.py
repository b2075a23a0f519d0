"""A user who wants no renewal of a ccache has said so for the ccache, and not for one TGT."""

import pytest

from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.tag import Tag
from tests.builders import ALICE, BOB, HTTP, TGS, configuration, credential_bytes
from tests.server.asking import Asking, Server

NAME = b"1000"
TICKET = credential_bytes(TGS)
OTHER = configuration(b"fast_avail", b"yes").blob


def setting(value: bytes) -> bytes:
    return configuration(b"pykcm_renewal", value).blob


@pytest.fixture
def off(alice: Asking) -> Asking:
    """Alice, whose ccache is not to be renewed."""
    alice.replace(NAME, 0, ALICE, [OTHER, setting(b"no"), TICKET])
    return alice


def test_kinit_keeps_the_setting(server: Server, off: Asking) -> None:
    """REPLACE, as MIT's kinit sends it, keeps the setting and nothing else, also after a restart."""
    new = credential_bytes(HTTP)
    off.replace(NAME, 0, ALICE, [new])
    for asking in (off, server.restarted().ask_as(1000)):
        assert asking.get_cred_list(NAME) == [new, setting(b"no")]


def test_initialize_keeps_the_setting(off: Asking) -> None:
    """INITIALIZE, as Heimdal's kinit sends it, leaves the setting alone in the ccache."""
    off.initialize(NAME, ALICE)
    assert off.get_cred_list(NAME) == [setting(b"no")]


def test_other_principal_ends_the_setting(off: Asking) -> None:
    """A ccache of another principal is another one to its user."""
    off.replace(NAME, 0, BOB, [])
    off.replace(NAME, 0, ALICE, [])
    assert off.get_cred_list(NAME) == []


def test_destroyed_ccache_has_no_setting(off: Asking) -> None:
    """After kdestroy a new ccache of the same name is renewed."""
    off.destroy(NAME)
    off.replace(NAME, 0, ALICE, [TICKET])
    assert off.get_cred_list(NAME) == [TICKET]


def test_setting_among_the_new_contents_counts(off: Asking) -> None:
    """Contents that have an entry of their own, such as a copied ccache, are stored as they are."""
    off.replace(NAME, 0, ALICE, [setting(b"yes"), TICKET])
    assert off.get_cred_list(NAME) == [setting(b"yes"), TICKET]
    off.replace(NAME, 0, ALICE, [TICKET])
    assert off.get_cred_list(NAME) == [TICKET]


def test_removed_setting_stays_removed(off: Asking) -> None:
    """After `pykcmctl renew --on` a kinit brings nothing back."""
    entry = Tag(server=configuration(b"pykcm_renewal", b"").server)
    off.remove_cred(NAME, 0, entry)
    off.initialize(NAME, ALICE)
    assert off.get_cred_list(NAME) == []
    assert off.answer(Opcode.GET_PRINCIPAL, NAME + b"\0")[0] == 0
