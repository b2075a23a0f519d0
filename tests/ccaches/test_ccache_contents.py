"""STORE, REMOVE_CRED, SET_KDC_OFFSET and REPLACE: the contents of a ccache, and the recorded changes."""

from pykcm.ccaches.changes import (
    CCacheCreated,
    CCacheReplaced,
    CredentialRemoved,
    CredentialsCleared,
    CredentialStored,
    CredentialWritten,
    KdcOffsetChanged,
    OldCredentialRemoved,
)
from pykcm.ccaches.collection import Collection
from pykcm.protocol.tag import Match, Tag
from tests.builders import ALICE, BOB, HTTP, TGS, configuration, credential, service, tag_for
from tests.ccaches.contents import blobs, create, existing, names


def test_store_replaces_an_equal_credential_in_place(collection: Collection) -> None:
    """STORE replaces an equal credential in its place, with its UUID; any other goes to the end."""
    ccache = collection.initialize(b"1000", ALICE, None)
    collection.store(ccache, credential(TGS))
    collection.store(ccache, credential(HTTP))
    uuid, _ = ccache.credentials.uuids()
    renewed = credential(TGS, ticket=b"renewed")
    stored = ccache.credentials.get(uuid)
    collection.take_changes()

    collection.store(ccache, renewed)
    assert blobs(ccache) == [renewed.blob, credential(HTTP).blob]
    assert collection.take_changes() == [CredentialStored(ccache, uuid, renewed, stored)]

    # A ticket for S4U2Proxy, which differs in its second ticket alone.
    proxied = credential(TGS, second_ticket=b"evidence")
    collection.store(ccache, proxied)
    assert blobs(ccache) == [renewed.blob, credential(HTTP).blob, proxied.blob]


def test_remove_credentials_removes_every_match(collection: Collection) -> None:
    """REMOVE_CRED removes every match, returns their number, and keeps the order of the others."""
    ccache = collection.initialize(b"1000", ALICE, None)
    for each in (credential(HTTP), credential(TGS), credential(HTTP, BOB)):
        collection.store(ccache, each)
    (first, one), _, (third, three) = ccache.credentials.items()
    collection.take_changes()

    assert collection.remove_credentials(ccache, tag_for(HTTP), 0) == 2
    assert blobs(ccache) == [credential(TGS).blob]
    assert collection.take_changes() == [
        CredentialRemoved(ccache, first, one),
        CredentialRemoved(ccache, third, three),
    ]

    assert collection.remove_credentials(ccache, tag_for(HTTP), 0) == 0
    assert collection.take_changes() == []


def test_remove_spares_user_to_user_tickets(collection: Collection) -> None:
    """Without MATCH_IS_SKEY a user-to-user ticket is never removed by accident."""
    ccache = collection.initialize(b"1000", ALICE, None)
    collection.store(ccache, credential(HTTP, is_skey=True))
    collection.remove_credentials(ccache, tag_for(HTTP), 0)
    assert len(ccache.credentials) == 1
    collection.remove_credentials(ccache, Tag(server=HTTP, is_skey=True), Match.IS_SKEY)
    assert len(ccache.credentials) == 0


def test_configuration_entry_is_replaced(collection: Collection) -> None:
    """libkrb5 sets a configuration entry by REMOVE_CRED and STORE: only the new entry is left."""
    ccache = collection.initialize(b"1000", ALICE, None)
    for value in (b"yes", b"no"):
        entry = configuration(b"fast_avail", value)
        collection.remove_credentials(ccache, tag_for(entry.server), 0)
        collection.store(ccache, entry)
    assert blobs(ccache) == [configuration(b"fast_avail", b"no").blob]


def test_same_kdc_offset_is_no_change(collection: Collection) -> None:
    """The KDC offset is kept; setting the same one again records no change."""
    ccache = collection.initialize(b"1000", ALICE, None)
    collection.take_changes()
    collection.set_kdc_offset(ccache, -120)
    assert ccache.kdc_offset == -120
    assert collection.take_changes() == [KdcOffsetChanged(ccache, 0)]
    collection.set_kdc_offset(ccache, -120)
    assert collection.take_changes() == []


def test_replace_creates_a_ccache(collection: Collection) -> None:
    """REPLACE of a missing ccache creates it with all given credentials, in their order."""
    given = [credential(TGS), credential(HTTP)]
    ccache = collection.replace(b"1000", BOB, 42, given, "label")
    assert (ccache.principal, ccache.kdc_offset, ccache.label) == (BOB, 42, "label")
    assert list(ccache.credentials) == given
    first, second = ccache.credentials.uuids()
    assert collection.take_changes() == [
        CCacheCreated(ccache),
        CredentialWritten(ccache, first, given[0]),
        CredentialWritten(ccache, second, given[1]),
    ]


def test_replace_removes_the_old_contents(collection: Collection) -> None:
    """REPLACE of an existing ccache keeps name, UUID and place, and nothing of the old contents."""
    create(collection, b"1000", b"1000:other")
    before = existing(collection, b"1000")
    collection.store(before, credential(HTTP))
    after = collection.replace(b"1000", BOB, 1, [credential(TGS)], None)
    assert after.uuid == before.uuid
    assert names(collection) == [b"1000", b"1000:other"]
    assert blobs(after) == [credential(TGS).blob]


def test_replace_overwrites_stored_credentials(collection: Collection) -> None:
    """REPLACE overwrites the stored credentials one by one, and removes those that are left over."""
    three = [credential(server) for server in (TGS, HTTP, service(1))]
    ccache = collection.replace(b"1000", ALICE, 0, three, None)
    first, second, third = ccache.credentials.uuids()
    collection.take_changes()

    one = credential(service(2))
    overwritten = ccache
    ccache = collection.replace(b"1000", ALICE, 0, [one], None)
    assert list(ccache.credentials.items()) == [(first, one)]
    assert collection.take_changes() == [
        CCacheReplaced(ccache, overwritten),
        CredentialWritten(ccache, first, one),
        OldCredentialRemoved(ccache, second),
        OldCredentialRemoved(ccache, third),
    ]

    overwritten = ccache
    ccache = collection.replace(b"1000", ALICE, 0, three, None)
    again = list(ccache.credentials.uuids())
    assert again[0] == first
    assert len({first, second, third, *again}) == 5
    written = [CredentialWritten(ccache, uuid, each) for uuid, each in zip(again, three, strict=True)]
    assert collection.take_changes() == [CCacheReplaced(ccache, overwritten), *written]

    overwritten = ccache
    ccache = collection.replace(b"1000", ALICE, 0, [], None)
    assert collection.take_changes() == [CCacheReplaced(ccache, overwritten), CredentialsCleared(ccache)]


def test_replace_keeps_the_last_of_equal_credentials(collection: Collection) -> None:
    """Of credentials that equal each other the last one counts, in the place of the first."""
    renewed = credential(TGS, ticket=b"renewed")
    ccache = collection.replace(b"1000", ALICE, 0, [credential(TGS), credential(HTTP), renewed], None)
    assert list(ccache.credentials) == [renewed, credential(HTTP)]
