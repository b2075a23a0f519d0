"""What a peer may use, by the names."""

import pytest

from pykcm.peer.access import Access
from pykcm.peer.names import MAX_NAME
from pykcm.protocol.codes import Code
from tests.builders import peer, refused

USER = peer(1000)
ROOT = peer(0)
ACCESS = Access()


@pytest.mark.parametrize("name", [b"1000", b"1000:", b"1000:x y/\xff", b"1000:2000"])
def test_own_names(name: bytes) -> None:
    """A peer may read and change what is under its own UID's names."""
    assert ACCESS.collection_to_read(USER, name) == 1000
    assert ACCESS.collection_to_change(USER, name) == 1000


@pytest.mark.parametrize("name", [b"0", b"0:x", b"2000", b"2000:1000", b"10000", b"100", b"1", b"4294967294"])
def test_names_of_others(name: bytes) -> None:
    """Another UID's name reads as if it did not exist, and may not be created or changed."""
    with refused(Code.FCC_NOFILE):
        ACCESS.collection_to_read(USER, name)
    with refused(Code.FCC_PERM):
        ACCESS.collection_to_change(USER, name)


@pytest.mark.parametrize("name", [b"foobar", b"1000x", b"01000", b"+1000", b":1000", b"4294967295"])
def test_names_of_nobody(name: bytes) -> None:
    """A name that belongs to nobody is a bad one for everybody but root."""
    with refused(Code.CC_BADNAME):
        ACCESS.collection_to_read(USER, name)
    with refused(Code.CC_BADNAME):
        ACCESS.collection_to_change(USER, name)


@pytest.mark.parametrize(
    ("name", "uid"),
    [
        (b"0", 0),
        (b"0:x", 0),
        (b"1000", 1000),
        (b"1000:x", 1000),
        (b"4294967294", 2**32 - 2),
        (b"foobar", 0),
        (b"1000x", 0),
        (b"4294967295", 0),
    ],
)
def test_root(name: bytes, uid: int) -> None:
    """Root may use every name: one under a UID belongs to that UID, a free one to root."""
    assert ACCESS.collection_to_read(ROOT, name) == uid
    assert ACCESS.collection_to_change(ROOT, name) == uid


@pytest.mark.parametrize("uid", [0, 1000])
def test_length_of_names(uid: int) -> None:
    """A name has up to 1,024 bytes; a longer one is bad for root, too. None at all is the peer's own."""
    longest = b"%d:" % uid + b"x" * (MAX_NAME - len(b"%d:" % uid))
    assert len(longest) == 1024
    assert ACCESS.collection_to_change(peer(uid), longest) == uid
    assert ACCESS.collection_to_read(peer(uid), longest) == uid
    for decide in (ACCESS.collection_to_read, ACCESS.collection_to_change):
        with refused(Code.CC_BADNAME):
            decide(peer(uid), longest + b"x")
        assert decide(peer(uid), b"") == uid


def test_who_lists_all() -> None:
    """Only root lists everyone's ccaches, and only where it is configured."""
    assert not ACCESS.lists_all(ROOT)
    assert not ACCESS.lists_all(USER)
    everyones = Access(root_lists_all=True)
    assert everyones.lists_all(ROOT)
    assert not everyones.lists_all(USER)


def test_labels_share_all_so_far() -> None:
    """Under one UID every label may read and change every ccache."""
    labelled = USER._replace(label="u:r:t:s0:c1")
    for label in (None, "u:r:t:s0:c1", "u:r:t:s0:c2"):
        assert ACCESS.may_read(labelled, label)
        assert ACCESS.may_change(labelled, label)
