"""Access between UIDs: users have none to each other's ccaches, root has all; with the messages users see."""

from collections.abc import Callable
from typing import Any

import pytest

from pykcm.client import KcmClient
from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.principal import Principal
from pykcm.protocol.tag import Tag

from .clients import HeimdalClient, Listed, MitClient
from .conftest import OTHER, USER
from .daemon import Pykcmd, effective_uid
from .kdc import PASSWORDS, REALM

TGT = f"krbtgt/{REALM}"
ALICE = f"alice@{REALM}"
BOB = f"bob@{REALM}"
OWN = f"KCM:{USER}"
NAMED = f"KCM:{USER}:work"

pytestmark = pytest.mark.usefixtures("several_uids", "pykcmd")


@pytest.fixture
def other(mit_as: Callable[[int], MitClient]) -> MitClient:
    """MIT's clients as another ordinary user."""
    return mit_as(OTHER)


@pytest.fixture
def root(mit_as: Callable[[int], MitClient]) -> MitClient:
    """MIT's clients as root."""
    return mit_as(0)


@pytest.fixture
def untouched(mit: MitClient) -> list[Listed]:
    """The user's ccaches before any other access."""
    mit.kinit("alice")
    mit.kvno("host/server.pykcm.test")
    mit.kinit("bob", ccache=NAMED)
    return mit.klist_all()


@pytest.mark.parametrize("ccache", [OWN, NAMED])
def test_ccache_of_other_user_is_not_found(
    untouched: list[Listed], mit: MitClient, other: MitClient, ccache: str
) -> None:
    """The answer is the same as for a ccache that does not exist."""
    not_found = f"Credentials cache '{ccache}' not found"
    assert other.run("klist", ccache=ccache)[1:] == (1, f"klist: {not_found}\n")
    assert other.run("klist", "-s", ccache=ccache)[1:] == (1, "")
    assert other.klist_all(ccache=ccache) == []
    assert other.klist_l(ccache=ccache) == []
    assert other.run("kvno", "host/server.pykcm.test", ccache=ccache)[1:] == (
        1,
        f"kvno: {not_found} while getting client principal name\n",
    )
    assert mit.klist_all() == untouched


@pytest.mark.parametrize("ccache", [OWN, NAMED, f"KCM:{USER}:not-there"])
def test_ccache_of_other_user_cannot_be_written(
    untouched: list[Listed], mit: MitClient, other: MitClient, ccache: str
) -> None:
    """`kinit` is refused, whether or not the ccache exists, and nothing changes."""
    ran = other.run("kinit", "-k", "-t", str(other.keytab), "carol", ccache=ccache)
    why = "Credentials cache permissions incorrect"
    assert ran[1:] == (1, f"kinit: Failed to store credentials: {why} while getting initial credentials\n")
    assert mit.klist_all() == untouched


@pytest.mark.parametrize("ccache", [OWN, NAMED])
def test_ccache_of_other_user_cannot_be_destroyed(
    untouched: list[Listed], mit: MitClient, other: MitClient, ccache: str
) -> None:
    ran = other.run("kdestroy", ccache=ccache)
    refusal = (
        "kdestroy: Credentials cache permissions incorrect while destroying cache\n"
        "Ticket cache \aNOT\a destroyed!\n"
    )
    assert ran[1:] == (1, refusal)
    assert mit.klist_all() == untouched


def test_ccache_of_other_user_cannot_be_the_default(
    untouched: list[Listed], mit: MitClient, other: MitClient
) -> None:
    ran = other.run("kswitch", "-c", NAMED)
    assert ran[1:] == (
        1,
        "kswitch: Credentials cache permissions incorrect while switching to credential cache\n",
    )
    assert mit.klist_all() == untouched
    assert other.run("klist")[1:] == (1, f"klist: Credentials cache 'KCM:{OTHER}' not found\n")


def test_collections_of_users_are_separate(untouched: list[Listed], mit: MitClient, other: MitClient) -> None:
    """Users list and destroy only the ccaches of their own collection."""
    assert other.klist_all() == []
    other.kinit("carol")
    assert other.klist_all() == [Listed(f"KCM:{OTHER}", f"carol@{REALM}", [TGT])]
    assert mit.klist_all() == untouched
    assert other.ok("kdestroy", "-A") == ""
    assert mit.klist_all() == untouched


@pytest.mark.parametrize(
    "name", ["foobar", "0", f"{USER}x", f"0{USER}", f"+{USER}", "4294967295", "-1:x", ":"]
)
def test_foreign_names_cannot_be_created(mit: MitClient, root: MitClient, name: str) -> None:
    """A user cannot create a ccache whose name belongs to root or to nobody."""
    ran = mit.run("kinit", "-k", "-t", str(mit.keytab), "alice", ccache=f"KCM:{name}")
    why = "Credentials cache permissions incorrect" if name == "0" else "Credential cache name malformed"
    assert ran[1:] == (1, f"kinit: Failed to store credentials: {why} while getting initial credentials\n")
    assert mit.klist_l() == []
    assert root.klist_l() == []


def test_free_name_of_root_is_private(mit: MitClient, root: MitClient) -> None:
    """Users who know the name can neither read nor destroy the ccache."""
    root.kinit("alice", ccache="KCM:foobar")
    assert mit.run("klist", ccache="KCM:foobar")[1:] == (1, "klist: Credential cache name malformed\n")
    assert mit.run("kdestroy", ccache="KCM:foobar").code == 1
    assert root.klist(ccache="KCM:foobar") == Listed("KCM:foobar", ALICE, [TGT])


TAG = Tag(server=Principal(2, REALM.encode(), (b"krbtgt", REALM.encode())))
CAROL = Principal(1, REALM.encode(), (b"carol",))
REFUSED: dict[str, tuple[tuple[Any, ...], Code]] = {
    "get_name": ((), Code.FCC_NOFILE),
    "get_principal": ((), Code.FCC_NOFILE),
    "get_cred_uuid_list": ((), Code.FCC_NOFILE),
    "get_cred_list": ((), Code.FCC_NOFILE),
    "retrieve": ((1, TAG), Code.FCC_NOFILE),
    "get_kdc_offset": ((), Code.FCC_NOFILE),
    "initialize": ((CAROL,), Code.FCC_PERM),
    "replace": ((0, CAROL, []), Code.FCC_PERM),
    "remove_cred": ((0, TAG), Code.FCC_PERM),
    "set_kdc_offset": ((5,), Code.FCC_PERM),
    "set_default_cache": ((), Code.FCC_PERM),
    "destroy": ((), Code.FCC_PERM),
}


@pytest.mark.parametrize("operation", REFUSED)
def test_every_operation_by_name_is_refused(
    untouched: list[Listed], mit: MitClient, pykcmd: Pykcmd, operation: str
) -> None:
    """Reading another UID's name is answered as missing, changing it as forbidden."""
    arguments, code = REFUSED[operation]
    with effective_uid(OTHER), KcmClient(pykcmd.socket_path) as kcm:
        for name in (OWN, NAMED):
            with pytest.raises(KcmError) as refused:
                getattr(kcm, operation)(name.removeprefix("KCM:").encode(), *arguments)
            assert refused.value.code == code
    assert mit.klist_all() == untouched


def test_storing_and_moving_are_refused(untouched: list[Listed], mit: MitClient, pykcmd: Pykcmd) -> None:
    """Credentials cannot be stored in, and ccaches not moved from or to, another UID's collection."""
    name = b"%d" % USER
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        (blob, *_) = kcm.get_cred_list(name)
    with effective_uid(OTHER), KcmClient(pykcmd.socket_path) as kcm:
        own_name = kcm.gen_new()
        kcm.initialize(own_name, CAROL)
        with pytest.raises(KcmError) as refused:
            kcm.store(name, blob)
        assert refused.value.code == Code.FCC_PERM
        for target in (name, b"%d:new" % USER):
            with pytest.raises(KcmError) as refused:
                kcm.move_cache(own_name, target)
            assert refused.value.code == Code.FCC_PERM
        with pytest.raises(KcmError) as refused:
            kcm.move_cache(name, own_name)
        assert refused.value.code in {Code.FCC_NOFILE, Code.FCC_PERM}
        assert kcm.get_principal(own_name) == CAROL
    assert mit.klist_all() == untouched


def test_uuids_of_other_uid_find_nothing(untouched: list[Listed], pykcmd: Pykcmd) -> None:
    """Knowing the UUIDs of ccaches and credentials does not help."""
    name = b"%d" % USER
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        ccaches = kcm.get_cache_uuid_list()
        (tgt, *_) = kcm.get_cred_uuid_list(name)
        assert kcm.get_cred_by_uuid(name, tgt)
    with effective_uid(OTHER), KcmClient(pykcmd.socket_path) as kcm:
        assert kcm.get_cache_uuid_list() == []
        for ccache in ccaches:
            with pytest.raises(KcmError) as refused:
                kcm.get_cache_by_uuid(ccache)
            assert refused.value.code == Code.CC_END
        own_name = kcm.gen_new()
        kcm.initialize(own_name, CAROL)
        for where in (name, own_name):
            with pytest.raises(KcmError) as refused:
                kcm.get_cred_by_uuid(where, tgt)
            assert refused.value.code in {Code.CC_END, Code.FCC_NOFILE}


def test_heimdals_clients_are_refused_as_well(
    untouched: list[Listed], mit: MitClient, heimdal_as: Callable[[int], HeimdalClient]
) -> None:
    """Heimdal's commands cannot read, write or destroy another user's ccache either."""
    heimdal = heimdal_as(OTHER)
    ran = heimdal.run("klist", "-c", OWN)
    assert ran.code == 1
    assert "alice" not in ran.output
    assert ran.output == "heimtools: krb5_cc_get_principal: No credentials cache file found\n"
    ran = heimdal.run("kinit", "--password-file=STDIN", "-c", OWN, "carol", stdin=PASSWORDS["carol"] + "\n")
    refusal = "Credentials cache file permissions incorrect"
    assert ran[1:] == (1, f"kinit.heimdal: krb5_cc_move: {refusal}\n")
    assert heimdal.run("kdestroy", "-c", OWN)[1:] == (1, f"kdestroy.heimdal: krb5_cc_destroy: {refusal}\n")
    assert heimdal.klist_all() == []
    assert mit.klist_all() == untouched


def test_root_reads_tickets_of_user(untouched: list[Listed], root: MitClient) -> None:
    """With KRB5CCNAME=KCM:<uid>, root's klist shows that user's tickets, and kvno uses them."""
    assert root.klist(ccache=OWN) in untouched
    assert root.klist(ccache=NAMED) in untouched
    assert root.kvno("HTTP/www.pykcm.test", ccache=OWN) == [f"HTTP/www.pykcm.test@{REALM}: kvno = 1"]


def test_root_lists_own_collection(untouched: list[Listed], root: MitClient) -> None:
    """It contains `0` and free names, but no users' ccaches."""
    assert root.klist_all() == []
    root.kinit("carol")
    root.kinit("bob", ccache="KCM:foobar")
    expected = [Listed("KCM:0", f"carol@{REALM}", [TGT]), Listed("KCM:foobar", BOB, [TGT])]
    assert root.klist_all() == expected
    assert root.ok("kdestroy", "-A") == ""
    assert root.klist_l() == []
    assert root.klist(ccache=OWN) in untouched


def test_ccache_of_root_for_user_belongs_to_user(mit: MitClient, other: MitClient, root: MitClient) -> None:
    """The user can list, use and destroy a ccache that root created under `<uid>`."""
    root.kinit("alice", ccache=OWN)
    root.kinit("bob", ccache=NAMED)
    assert mit.klist_all() == [Listed(OWN, ALICE, [TGT]), Listed(NAMED, BOB, [TGT])]
    assert mit.kvno("host/server.pykcm.test")
    assert other.klist_all() == []
    assert root.klist_l() == []
    assert mit.ok("kdestroy", "-A") == ""
    assert root.run("klist", ccache=OWN).output == f"klist: Credentials cache '{OWN}' not found\n"


def test_root_destroys_ccache_of_user(untouched: list[Listed], mit: MitClient, root: MitClient) -> None:
    """By name; the user's other ccaches stay."""
    assert root.ok("kdestroy", "-c", NAMED) == ""
    assert mit.klist_all() == untouched[:1]


def test_root_lists_all_ccaches_if_configured(
    untouched: list[Listed], mit: MitClient, other: MitClient, root: MitClient, pykcmd: Pykcmd
) -> None:
    """With root_lists_all, root's klist -A shows all ccaches; users still see only their own."""
    other.kinit("carol")
    pykcmd.configure("root_lists_all = true\n")
    pykcmd.restart()
    # By name: otherwise kinit uses any ccache of the principal, which may be another user's.
    root.kinit("bob", ccache="KCM:0")
    everyones = [*untouched, *other.klist_all(), Listed("KCM:0", BOB, [TGT])]
    assert root.klist_all()[0] == Listed("KCM:0", BOB, [TGT])
    assert sorted(root.klist_all()) == sorted(everyones)
    assert mit.klist_all() == untouched
