"""MIT's commands, as users run them."""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pykcm.client import KcmClient
from pykcm.protocol.credential import Credential

from .clients import Listed, MitClient
from .conftest import USER
from .credentials import lasting_until, parse_all, server_of
from .daemon import Pykcmd, effective_uid
from .kdc import REALM

TGT = f"krbtgt/{REALM}"
ALICE = f"alice@{REALM}"
BOB = f"bob@{REALM}"
OWN = f"KCM:{USER}"
NOT_FOUND = f"klist: Credentials cache '{OWN}' not found\n"

pytestmark = pytest.mark.usefixtures("pykcmd")


def test_kinit_with_password(mit: MitClient) -> None:
    """The TGT is listed in a ccache that is named after the UID."""
    assert mit.kinit_with_password("alice") == f"Password for {ALICE}: \n"
    assert mit.klist() == Listed(OWN, ALICE, [TGT])


def test_empty_collection(mit: MitClient) -> None:
    """It is reported as a missing default ccache, and its lists are empty."""
    assert mit.run("klist")[1:] == (1, NOT_FOUND)
    assert mit.run("klist", "-s")[1:] == (1, "")
    assert mit.klist_all() == []
    assert mit.klist_l() == []


def test_klist_s_distinguishes_valid_and_expired(mit: MitClient, pykcmd: Pykcmd) -> None:
    """`klist -s` exits 0 while the TGT is valid and 1 when it has expired; `-l` marks the ccache."""
    mit.kinit("alice")
    assert mit.run("klist", "-s")[1:] == (0, "")
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        name = kcm.get_default_cache()
        # Not longer ago than expired_retention: the daemon would remove it.
        ended = int(time.time()) - 60
        expired = [lasting_until(ended, blob) for blob in kcm.get_cred_list(name)]
        kcm.replace(name, 0, kcm.get_principal(name), expired)
    assert mit.run("klist", "-s")[1:] == (1, "")
    assert mit.klist_l() == [(ALICE, f"{OWN} (Expired)")]
    mit.kinit("alice")
    assert mit.run("klist", "-s")[1:] == (0, "")


def test_service_tickets_are_kept(mit: MitClient, pykcmd: Pykcmd) -> None:
    """A service ticket is stored after the TGT, in order, and the next kvno finds it."""
    mit.kinit("alice")
    assert mit.kvno("host/server.pykcm.test", "HTTP/www.pykcm.test") == [
        f"host/server.pykcm.test@{REALM}: kvno = 1",
        f"HTTP/www.pykcm.test@{REALM}: kvno = 1",
    ]
    listed = Listed(OWN, ALICE, [TGT, "host/server.pykcm.test", "HTTP/www.pykcm.test"])
    assert mit.klist() == listed
    # Only a KDC can issue the ticket, so without a KDC it must come from the ccache.
    assert mit.kvno("--cached-only", "host/server.pykcm.test") == [
        f"host/server.pykcm.test@{REALM}: kvno = 1"
    ]
    assert mit.run("kvno", "--cached-only", "nfs/files.pykcm.test").code == 1
    assert mit.klist() == listed


def test_second_principal_gets_its_own_ccache(mit: MitClient) -> None:
    """The new ccache is the default, and the first one remains."""
    mit.kinit("alice")
    mit.kinit("bob")
    bobs = mit.klist()
    assert re.fullmatch(rf"KCM:{USER}:\w+", bobs.ccache)
    assert bobs == Listed(bobs.ccache, BOB, [TGT])
    assert mit.klist_all() == [bobs, Listed(OWN, ALICE, [TGT])]
    assert mit.klist_l() == [(BOB, bobs.ccache), (ALICE, OWN)]


def test_kinit_of_known_principal_uses_its_ccache(mit: MitClient) -> None:
    """The ccache gets a new TGT and becomes the default again."""
    mit.kinit("alice")
    mit.kinit("bob")
    bobs = mit.klist().ccache
    mit.kinit("alice")
    assert mit.klist_l() == [(ALICE, OWN), (BOB, bobs)]


def test_kswitch_changes_the_default(mit: MitClient) -> None:
    """By principal and by ccache; the default is listed first."""
    mit.kinit("alice")
    mit.kinit("bob")
    bobs = mit.klist().ccache
    mit.kinit("carol")
    carols = mit.klist().ccache
    assert mit.ok("kswitch", "-p", "bob") == ""
    assert mit.klist().principal == BOB
    assert mit.klist_l() == [(BOB, bobs), (ALICE, OWN), (f"carol@{REALM}", carols)]
    assert mit.ok("kswitch", "-c", OWN) == ""
    assert mit.klist_l() == [(ALICE, OWN), (BOB, bobs), (f"carol@{REALM}", carols)]


def test_kswitch_to_unknown_principal_fails(mit: MitClient) -> None:
    """The default does not change."""
    mit.kinit("alice")
    ran = mit.run("kswitch", "-p", "bob")
    assert ran[1:] == (1, "kswitch: Matching credential not found while searching for ccache for bob\n")
    assert mit.klist().principal == ALICE


def _destroy_default_of_two(mit: MitClient) -> tuple[str, str]:
    mit.kinit("alice")
    mit.kinit("bob")
    bobs = mit.klist().ccache
    assert mit.ok("kdestroy") == "Other credential caches present, use -A to destroy all\n"
    return bobs, f"klist: Credentials cache '{bobs}' not found\n"


def test_kdestroy_of_the_default_leaves_none(mit: MitClient) -> None:
    """Then klist says not found, and the other ccache is listed."""
    _, not_found = _destroy_default_of_two(mit)
    assert mit.run("klist")[1:] == (1, not_found)
    assert mit.run("klist", "-s").code == 1
    assert mit.klist_all() == [Listed(OWN, ALICE, [TGT])]
    assert mit.klist_l() == [(ALICE, OWN)]


def test_kswitch_replaces_missing_default(mit: MitClient) -> None:
    _destroy_default_of_two(mit)
    assert mit.ok("kswitch", "-p", "alice") == ""
    assert mit.klist() == Listed(OWN, ALICE, [TGT])


def test_kinit_fills_missing_default(mit: MitClient) -> None:
    """The other ccache stays."""
    bobs, _ = _destroy_default_of_two(mit)
    mit.kinit("carol")
    assert mit.klist_all() == [Listed(bobs, f"carol@{REALM}", [TGT]), Listed(OWN, ALICE, [TGT])]


def test_default_name_survives_last_ccache(mit: MitClient) -> None:
    """When the last ccache is destroyed, the default is still the chosen one."""
    bobs, not_found = _destroy_default_of_two(mit)
    assert mit.ok("kdestroy", "-c", OWN) == ""
    assert mit.run("klist")[1:] == (1, not_found)
    mit.kinit("bob")
    assert mit.klist() == Listed(bobs, BOB, [TGT])


def test_kdestroy_all_empties_the_collection(mit: MitClient) -> None:
    """The default is still the one that was chosen last."""
    for user in ("alice", "bob", "carol"):
        mit.kinit(user)
    chosen = mit.klist().ccache
    assert mit.ok("kdestroy", "-A") == ""
    assert mit.klist_l() == []
    assert mit.run("klist")[1:] == (1, f"klist: Credentials cache '{chosen}' not found\n")
    mit.kinit("carol")
    assert mit.klist() == Listed(chosen, f"carol@{REALM}", [TGT])


def test_kdestroy_of_one_principal_keeps_others(mit: MitClient) -> None:
    """`kdestroy -p` does not change the default."""
    mit.kinit("alice")
    mit.kinit("bob")
    bobs = mit.klist().ccache
    assert mit.ok("kdestroy", "-p", "alice") == ""
    assert mit.klist_l() == [(BOB, bobs)]
    assert mit.klist().principal == BOB


def test_kdestroy_without_ccache_says_so(mit: MitClient) -> None:
    assert mit.ok("kdestroy") == "kdestroy: No credentials cache found while destroying cache\n"


def test_second_kinit_replaces_tickets(mit: MitClient) -> None:
    """One TGT and no service ticket of the first kinit remain."""
    mit.kinit("alice")
    mit.kvno("host/server.pykcm.test")
    mit.kinit("alice")
    assert mit.klist_all() == [Listed(OWN, ALICE, [TGT])]


def test_configuration_entries_are_not_doubled(mit: MitClient) -> None:
    """libkrb5's configuration entries are kept once, and shown only by klist -C."""

    def entries() -> list[str]:
        lines = mit.ok("klist", "-C").splitlines()
        return sorted(line for line in lines if line.startswith("config: "))

    mit.kinit("alice")
    kept = entries()
    assert f"config: fast_avail({TGT}@{REALM}) = yes" in kept
    assert "config: " not in mit.ok("klist")
    mit.kinit("alice")
    assert entries() == kept
    assert mit.ok("kswitch", "-p", "alice") == ""
    assert entries() == kept


_SET_CONFIG = """
import ctypes, sys
krb5 = ctypes.CDLL("libkrb5.so.3")
class Data(ctypes.Structure):
    _fields_ = (("magic", ctypes.c_int), ("length", ctypes.c_uint), ("data", ctypes.c_char_p))
context, ccache = ctypes.c_void_p(), ctypes.c_void_p()
assert krb5.krb5_init_context(ctypes.byref(context)) == 0
assert krb5.krb5_cc_default(context, ctypes.byref(ccache)) == 0
for value in (None, b"one", b"two", None, None):
    data = None if value is None else ctypes.byref(Data(0, len(value), value))
    print(krb5.krb5_cc_set_config(context, ccache, None, b"pykcm", data))
"""


def test_configuration_can_be_set_and_removed(mit: MitClient, folder: Path) -> None:
    """As with FILE:, removing a missing entry succeeds."""
    program = folder / "set_config.py"
    program.write_text(_SET_CONFIG)
    user_folder = folder / "user"
    user_folder.mkdir()
    os.chown(user_folder, USER, USER)
    for ccache in (f"FILE:{user_folder}/ccache", "KCM:"):
        mit.kinit("alice", ccache=ccache)
        before = mit.ok("klist", "-C", ccache=ccache)
        assert mit.ok("/usr/bin/python3", str(program), ccache=ccache).split() == ["0"] * 5
        assert mit.ok("klist", "-C", ccache=ccache) == before


def test_renewal_replaces_all_tickets(mit: MitClient, pykcmd: Pykcmd) -> None:
    """`kinit -R` leaves only the renewed TGT, renewable until the same time."""

    def tgt() -> Credential:
        with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
            (found,) = (c for c in parse_all(kcm.get_cred_list(b"%d" % USER)) if server_of(c) == TGT)
        return found

    began = int(time.time())
    mit.kinit("alice", "-r", "3d")
    # By the client's clock. The KDC's, in authtime, may already be a second later.
    assert began <= tgt().times.renew_till - 3 * 86400 <= int(time.time())
    mit.kvno("host/server.pykcm.test")
    before = tgt()
    assert mit.ok("kinit", "-R") == ""
    assert mit.klist() == Listed(OWN, ALICE, [TGT])
    assert "renew until" in mit.ok("klist")
    assert tgt().blob != before.blob
    assert tgt().times.renew_till == before.times.renew_till
    assert mit.kvno("host/server.pykcm.test")


def test_failed_renewal_changes_nothing(mit: MitClient) -> None:
    """`kinit -R` of a TGT that is not renewable fails."""
    mit.kinit("alice")
    mit.kvno("host/server.pykcm.test")
    kept = mit.klist()
    ran = mit.run("kinit", "-R")
    assert ran[1:] == (1, "kinit: KDC can't fulfill requested option while renewing credentials\n")
    assert mit.klist() == kept


@pytest.mark.parametrize(
    "residual",
    [
        b"session",
        b"a/b c",
        b"a:b:c",
        b"%41%",
        b"\xff\xfe",
        "Schlüssel".encode(),
        b"x" * 1000,
        b"..",
        b"'; --",
    ],
)
def test_ccache_names_can_be_chosen(mit: MitClient, residual: bytes) -> None:
    """A ccache KCM:<uid>:anything is created, listed, used and destroyed under that name."""
    ccache = b"KCM:%d:%s" % (USER, residual)
    escaped_name = ccache.decode(errors="backslashreplace")
    mit.kinit("bob", ccache=ccache)
    assert mit.klist(ccache=ccache) == Listed(escaped_name, BOB, [TGT])
    assert mit.ok("kvno", "host/server.pykcm.test", ccache=ccache)
    assert mit.klist_all() == [Listed(escaped_name, BOB, [TGT, "host/server.pykcm.test"])]
    # The only ccache is the default, although nobody has chosen it.
    assert mit.klist() == Listed(escaped_name, BOB, [TGT, "host/server.pykcm.test"])
    assert mit.ok("kdestroy", ccache=ccache) == ""
    assert mit.klist_l() == []


def test_too_long_name_is_refused(mit: MitClient) -> None:
    """A name of more than 1,024 bytes is refused as malformed."""
    ran = mit.run("kinit", "-k", "-t", str(mit.keytab), "bob", ccache=f"KCM:{USER}:" + "x" * 1024)
    assert ran.code == 1
    assert "Credential cache name malformed" in ran.output
    assert mit.klist_l() == []


def test_named_ccache_is_a_collection_of_one(mit: MitClient) -> None:
    """With KRB5CCNAME=KCM:<uid>:name, kinit writes there, and -A lists only that ccache."""
    mit.kinit("alice")
    mit.kinit("bob", ccache=f"{OWN}:work")
    assert mit.klist_all(ccache=f"{OWN}:work") == [Listed(f"{OWN}:work", BOB, [TGT])]
    assert mit.klist().principal == ALICE
    assert mit.klist_l() == [(ALICE, OWN), (BOB, f"{OWN}:work")]


def test_concurrent_clients_get_complete_ccaches(mit: MitClient) -> None:
    users = {f"{OWN}:{index}": ("alice", "bob", "carol")[index % 3] for index in range(12)}
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda item: mit.kinit(item[1], ccache=item[0]), users.items()))
        list(pool.map(lambda ccache: mit.ok("kvno", "host/server.pykcm.test", ccache=ccache), users))
    tickets = [TGT, "host/server.pykcm.test"]
    expected = [Listed(ccache, f"{user}@{REALM}", tickets) for ccache, user in users.items()]
    assert sorted(mit.klist_all()) == sorted(expected)
