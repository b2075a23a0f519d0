"""The requests list and show."""

import asyncio
from typing import Any

import pytest

from pykcm.control.messages import ControlError, ErrorCode
from pykcm.protocol.codes import KcmError
from pykcm.protocol.principal import Principal
from pykcm.store.interface import Store
from pykcm.store.tree import Put, Secret, ccache_container, split_ccache_name
from tests.builders import ALICE, BOB, HTTP, TGS, credential_bytes, principal, service, ticket
from tests.control.controlling import Controlling
from tests.control.following import Following
from tests.peer.mcs import CONTAINER_1, CONTAINER_2, HOST, Mcs
from tests.server.asking import Server
from tests.storing import commit_changes, secrets_of

pytestmark = pytest.mark.usefixtures("bytes_alone")


CONFIGURATION = Principal(1, b"X-CACHECONF:", (b"krb5_ccache_conf_data", b"fast_avail"))
GSSPROXY = Principal(1, b"X-GSSPROXY:", (b"Encrypted", b"Credentials", b"v1"))
NO_TIMES = (0, 0, 0, 0)


def rows(control: Controlling, **arguments: Any) -> list[dict[str, Any]]:
    return [item["ccache"] for item in control.ask("list", **arguments) if "ccache" in item]


def names(control: Controlling, **arguments: Any) -> list[bytes]:
    return [row["name"] for row in rows(control, **arguments)]


def test_list_of_an_empty_store_has_no_rows(control: Controlling) -> None:
    """An empty store has no rows."""
    assert control.ask("list") == []
    assert control.summary == {"users": 0, "ccaches": 0, "size": 0}


def test_row_describes_a_ccache(server: Server, control: Controlling) -> None:
    """A row has the UID, the ccache, its tickets, and the end of its TGT."""
    client = server.ask_as(1000)
    client.initialize(b"1000:a", ALICE)
    tgt = credential_bytes(TGS, times=(1000, 1200, 5000, 9000))
    entries = [credential_bytes(each, times=NO_TIMES) for each in (CONFIGURATION, GSSPROXY, service(1))]
    blobs = [tgt, credential_bytes(HTTP), *entries]
    for blob in blobs:
        client.store(b"1000:a", blob)
    (uuid,) = client.get_cache_uuid_list()
    assert rows(control) == [
        {
            "uid": 1000,
            "name": b"1000:a",
            "uuid": uuid,
            "principal": "alice@PYKCM.TEST",
            "default": False,
            "current_default": True,
            "tickets": 2,
            "size": sum(map(len, blobs)) + len(ALICE.pack()),
            "expires": 5000,
            "tgt_expires": 5000,
            "renew_till": 9000,
            "label": None,
            "kdc_offset": 0,
            "last_renewal": 1200,
        }
    ]


def test_long_principals_are_short_text(server: Server, control: Controlling) -> None:
    """The text of a very long principal is its length."""
    client = server.ask_as(1000)
    longest, too_long = (Principal(1, b"R" * 24, (b"\xff" * size,)) for size in (1000, 1001))
    for name, client_principal in ((b"1000:a", longest), (b"1000:b", too_long)):
        client.initialize(name, client_principal)
        client.store(name, credential_bytes(client_principal, client_principal))
    assert [row["principal"] for row in rows(control)] == [str(longest), "(a principal of 1025 bytes)"]
    _, escape = control.ask("show", name=b"1000:b")
    credential = escape["credential"]
    assert (credential["client"], credential["server"]) == ("(a principal of 1025 bytes)",) * 2


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        ((1000, 0, 5000, 0), (5000, None, None)),
        ((1000, 1000, 5000, 9000), (5000, 9000, None)),
        ((1000, 1001, 0, 9000), (None, 9000, 1001)),
    ],
)
def test_times_of_a_row_are_those_of_the_tgt(
    server: Server, control: Controlling, times: tuple[int, int, int, int], wanted: tuple[int | None, ...]
) -> None:
    """Times that are not set are null; a TGT that begins after its authtime was renewed then."""
    client = server.ask_as(1000)
    client.initialize(b"1000", ALICE)
    client.store(b"1000", credential_bytes(TGS, times=times))
    (row,) = rows(control)
    assert (row["tgt_expires"], row["renew_till"], row["last_renewal"]) == wanted


def test_tgt_of_the_principals_realm_counts(server: Server, control: Controlling) -> None:
    """Of several TGTs that of the principal's realm counts; without a TGT there are no times."""
    client = server.ask_as(1000)
    client.initialize(b"1000", ALICE)
    assert rows(control)[0]["tgt_expires"] is None
    other = principal("krbtgt/OTHER.TEST", name_type=2)
    client.store(b"1000", credential_bytes(other, times=(1, 1, 7000, 0)))
    assert rows(control)[0]["tgt_expires"] == 7000
    client.store(b"1000", credential_bytes(TGS, times=(1, 1, 6000, 0)))
    assert rows(control)[0]["tgt_expires"] == 6000


@pytest.mark.parametrize(("ends", "expires"), [([3000, 4000], 4000), ([3000, 0], None), ([], None)])
def test_ccache_without_a_tgt_expires_with_its_last_ticket(
    server: Server, control: Controlling, ends: list[int], expires: int | None
) -> None:
    """A ticket without an endtime never ends."""
    client = server.ask_as(1000)
    client.initialize(b"1000", ALICE)
    for number, end in enumerate(ends):
        client.store(b"1000", credential_bytes(service(number), times=(1, 1, end, 0)))
    (row,) = rows(control)
    assert (row["expires"], row["tgt_expires"]) == (expires, None)


def test_list_is_ordered_by_uid_with_use_and_totals(server: Server, control: Controlling) -> None:
    """Rows are by UID and in the collection's order; the use follows each UID, and totals the end."""
    for uid, name in ((2000, b"2000"), (0, b"backup"), (1000, b"1000:b"), (1000, b"1000:a")):
        server.ask_as(uid).initialize(name, BOB)
    items = control.ask("list")
    size = len(BOB.pack())
    assert [item["ccache"]["name"] if "ccache" in item else item["user"]["uid"] for item in items] == [
        *[b"backup", 0],
        *[b"1000:b", b"1000:a", 1000],
        *[b"2000", 2000],
    ]
    assert items[4]["user"] == {
        "uid": 1000,
        "ccaches": 2,
        "max_ccaches": 256,
        "size": 2 * size,
        "max_size": 16384 * 1024,
        "credentials": 0,
        "max_credentials": 8192,
        "missing_default": None,
        "near_ccaches": [],
    }
    assert control.summary == {"users": 3, "ccaches": 4, "size": 4 * size}
    assert names(control, uid=1000) == [b"1000:b", b"1000:a"]
    assert names(control, uid=3000) == []


def test_ccaches_near_their_own_quota_are_named(server: Server, control: Controlling) -> None:
    """By default a ccache may have 4 MiB."""
    client = server.ask_as(1000)
    large = credential_bytes(service(1), ticket=bytes(3_400_000))
    client.initialize(b"1000:small", ALICE)
    client.replace(b"1000:large", 0, ALICE, [large])
    [near] = control.ask("list")[-1]["user"]["near_ccaches"]
    assert near["size"] > len(large)
    assert near == {
        "name": b"1000:large",
        "size": near["size"],
        "max_size": 4096 * 1024,
        "credentials": 1,
        "max_credentials": 2048,
    }


def test_chosen_default_is_marked(server: Server, control: Controlling) -> None:
    """The ccache that the UID's chosen default names is marked."""
    client = server.ask_as(1000)
    for name in (b"1000:a", b"1000:b"):
        client.initialize(name, ALICE)
    assert [row["default"] for row in rows(control)] == [False, False]
    client.set_default_cache(b"1000:b")
    assert [row["default"] for row in rows(control)] == [False, True]


def test_current_default_is_marked(server: Server, control: Controlling) -> None:
    """The ccache that clients get as the default is marked, whether or not it was chosen."""
    client = server.ask_as(1000)
    for name, ends in ((b"1000:a", 3000), (b"1000:b", 4000), (b"1000:c", 2000)):
        client.replace(name, 0, ALICE, [ticket(ends=ends).blob])
    assert [row["current_default"] for row in rows(control)] == [False, True, False]
    client.set_default_cache(b"1000:c")
    assert [row["current_default"] for row in rows(control)] == [False, False, True]
    server.ask_as(1000).destroy(b"1000:c")
    assert [(row["default"], row["current_default"]) for row in rows(control)] == [
        (False, False),
        (False, True),
    ]
    [escape, *_] = control.ask("show", name=b"1000:b")
    assert escape["ccache"]["current_default"]


def test_missing_default_is_named(server: Server, control: Controlling) -> None:
    """A chosen default without a ccache is named; the name that is only the UID is chosen by nobody."""

    def missing() -> bytes | None:
        (use,) = [item["user"] for item in control.ask("list", uid=1000) if "user" in item]
        name: bytes | None = use["missing_default"]
        return name

    client = server.ask_as(1000)
    for name in (b"1000:a", b"1000:b"):
        client.replace(name, 0, ALICE, [ticket().blob])
    assert missing() is None
    client.set_default_cache(b"1000:b")
    assert missing() is None
    server.ask_as(1000).destroy(b"1000:b")
    assert missing() == b"1000:b"
    assert [row["current_default"] for row in rows(control)] == [True]
    client.set_default_cache(b"1000:a")
    assert missing() is None
    # A plain kdestroy: no other ccache takes the place of this default.
    client.replace(b"1000", 0, ALICE, [ticket().blob])
    client.set_default_cache(b"1000")
    kdestroy = server.ask_as(1000)
    assert kdestroy.get_default_cache() == b"1000"
    kdestroy.destroy(b"1000")
    assert missing() == b"1000"
    assert [row["current_default"] for row in rows(control)] == [False]


def test_ccache_of_another_user_can_be_roots_current_default(server: Server, control: Controlling) -> None:
    """Root's own ccache is the current default only if the chosen one does not exist."""
    server.ask_as(0).replace(b"0:own", 0, ALICE, [ticket().blob])
    server.ask_as(1000).initialize(b"1000:x", BOB)
    server.ask_as(0).set_default_cache(b"1000:x")
    assert [row["current_default"] for row in rows(control, uid=0)] == [False]
    assert control.ask("list", uid=0)[-1]["user"]["missing_default"] is None
    server.ask_as(1000).destroy(b"1000:x")
    assert [row["current_default"] for row in rows(control, uid=0)] == [True]
    assert control.ask("list", uid=0)[-1]["user"]["missing_default"] == b"1000:x"
    [escape, *_] = control.ask("show", name=b"0:own")
    assert escape["ccache"]["current_default"]


def test_list_of_expired_ccaches_has_no_others(server: Server, control: Controlling) -> None:
    """With `expired`, only ccaches whose tickets have all ended are listed."""
    client = server.ask_as(1000)
    for name, end in ((b"1000:old", 1400), (b"1000:new", 1600), (b"1000:now", 1500)):
        client.initialize(name, ALICE)
        client.store(name, credential_bytes(TGS, times=(1, 1, end, 0)))
    client.initialize(b"1000:empty", ALICE)
    assert names(control, expired=True) == [b"1000:old", b"1000:now"]


def test_list_has_only_ccaches_that_the_peer_may_read(runner: asyncio.Runner, store: Store) -> None:
    """Root gets the ccaches that its label may read, each with its label."""
    server = Server(runner, store, policy=Mcs())
    control = Controlling(server)
    server.ask_as(1000, CONTAINER_1).initialize(b"1000:one", ALICE)
    server.ask_as(1000, CONTAINER_2).initialize(b"1000:two", ALICE)
    assert names(control, label=HOST) == [b"1000:one", b"1000:two"]
    assert names(control, label=CONTAINER_2) == [b"1000:two"]
    assert [row["label"] for row in rows(control, label=HOST)] == [CONTAINER_1, CONTAINER_2]
    for label, number in ((HOST, 2), (CONTAINER_2, 1)):
        used = control.ask("list", label=label)[-1]["user"]
        assert used["ccaches"] == number
        assert used["size"] == sum(row["size"] for row in rows(control, label=label))
    with pytest.raises(ControlError, match="no such ccache"):
        control.ask("show", name=b"1000:one", label=CONTAINER_2)


def test_list_leaves_no_collection_in_the_cache(server: Server, control: Controlling) -> None:
    """Collections that only an administrator reads do not stay in the cache."""
    for uid in (1000, 2000):
        server.ask_as(uid).initialize(b"%d" % uid, ALICE)
    server.collection_cache.drop(1000)
    assert len(rows(control)) == 2
    assert server.collection_cache.present(1000) is None
    assert server.collection_cache.present(2000) is not None


def damage(server: Server) -> None:
    """Make the only credential of 1000's only ccache unreadable."""
    secrets: list[Secret] = server.runner.run(secrets_of(server.store, 1000))
    (name,) = [secret.name for secret in secrets if "-" in secret.name]
    container = ccache_container(1000, *split_ccache_name(name))
    (credential,) = [secret.name for secret in secrets if secret.container == container]
    server.runner.run(commit_changes(server.store, [Put(container, credential, b"nonsense")]))
    server.collection_cache.drop(1000)


def test_damaged_ccache_is_listed(server: Server, control: Controlling) -> None:
    """A damaged ccache is in the list, without unknown values; `show` of it is an I/O error."""
    client = server.ask_as(1000)
    client.initialize(b"1000", ALICE)
    client.store(b"1000", credential_bytes(TGS))
    damage(server)
    (row,) = rows(control)
    assert (row["name"], row["principal"], row["default"], row["tgt_expires"]) == (b"1000", None, True, None)
    assert rows(control, expired=True) == []
    with pytest.raises(KcmError, match="cannot be read"):
        control.ask("show", name=b"1000")
    control.ask("destroy", name=b"1000")
    assert rows(control) == []


@pytest.mark.parametrize("offset", [-10800, 10800, 40 * 86400, -40 * 86400, 5])
def test_times_are_corrected_by_the_kdc_offset(server: Server, control: Controlling, offset: int) -> None:
    """The times of a row are by this machine's clock, for a KDC's clock that is ahead or behind."""
    tgt = credential_bytes(TGS, times=(10**9, 10**9 + 10, 10**9 + 20, 10**9 + 30))
    server.ask_as(1000).replace(b"1000", offset, ALICE, [tgt])
    (row,) = rows(control)
    times = row["last_renewal"], row["tgt_expires"], row["renew_till"]
    assert times == tuple(10**9 + later - offset for later in (10, 20, 30))


def test_show_has_ccache_and_credentials(server: Server, control: Controlling) -> None:
    """The ccache, then its credentials in stored order; configuration is marked, payloads are optional."""
    client = server.ask_as(1000)
    client.initialize(b"1000", ALICE)
    client.set_kdc_offset(b"1000", -5)
    entries = [credential_bytes(each, times=NO_TIMES) for each in (CONFIGURATION, GSSPROXY, service(1))]
    blobs = [credential_bytes(TGS), *entries]
    for blob in blobs:
        client.store(b"1000", blob)
    head, *credentials = control.ask("show", name=b"1000")
    (row,) = rows(control)
    about = {"kdc_offset": -5, "principal_type": 1, "realm": b"PYKCM.TEST", "components": [b"alice"]}
    assert head == {"ccache": row | about}
    tgt, *others = [each["credential"] for each in credentials]
    assert tgt == {
        "uuid": client.get_cred_uuid_list(b"1000")[0],
        "client": "alice@PYKCM.TEST",
        "server": "krbtgt/PYKCM.TEST@PYKCM.TEST",
        "configuration": False,
        "enctype": 18,
        "flags": 0x40E10000,
        "times": [1000, 1000, 2**32 - 1, 2**32 - 1],
        "size": len(blobs[0]),
    }
    assert [each["configuration"] for each in others] == [True, True, True]
    escape = control.ask("show", name=b"1000", payload=True)[1:]
    assert [each["payload"] for each in escape if "payload" in each] == blobs
    assert [list(each) for each in escape] == [["credential"], ["payload"]] * len(blobs)


@pytest.mark.parametrize("name", [b"1000:missing", b"backup", b"99999999999"])
def test_show_of_a_missing_ccache_is_not_found(control: Controlling, name: bytes) -> None:
    """A name without a ccache is not found."""
    with pytest.raises(ControlError) as caught:
        control.ask("show", name=name)
    assert caught.value.code == ErrorCode.NOT_FOUND


def test_list_and_show_are_snapshots(server: Server, control: Controlling) -> None:
    """Rows are made one by one, but all show the collection as it was at one moment."""
    client = server.ask_as(1000)
    for name in (b"1000:a", b"1000:b"):
        client.replace(name, 0, ALICE, [credential_bytes(TGS), credential_bytes(HTTP)])
    listing = Following(server, control, "list")
    showing = Following(server, control, "show", name=b"1000:a", payload=True)
    client.destroy(b"1000:a")
    client.initialize(b"1000:b", BOB)
    row, user = (listing.next() for _ in range(2))
    assert (row["ccache"]["principal"], row["ccache"]["tickets"]) == (str(ALICE), 2)
    assert user["user"]["ccaches"] == 2
    payloads = [each["payload"] for each in showing.take(4) if "payload" in each]
    assert payloads == [credential_bytes(TGS), credential_bytes(HTTP)]
