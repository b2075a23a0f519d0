"""Heimdal's commands, and ccaches that both families of clients use.

Heimdal's kinit always makes a ccache of a new name, moves it to another new name or over the principal's
ccache that there is, and makes that the default.
"""

import re

import pytest

from .clients import HeimdalClient, Listed, MitClient
from .conftest import USER
from .daemon import Pykcmd
from .kdc import PASSWORDS, REALM

TGT = f"krbtgt/{REALM}"
ALICE = f"alice@{REALM}"
BOB = f"bob@{REALM}"
OWN = f"KCM:{USER}"

pytestmark = pytest.mark.usefixtures("pykcmd")


def test_kinit_with_a_password(heimdal: HeimdalClient) -> None:
    """A TGT got with a password is listed, in the default ccache."""
    heimdal.ok("kinit", "--password-file=STDIN", "alice", stdin=PASSWORDS["alice"] + "\n")
    listed = heimdal.klist()
    assert re.fullmatch(rf"KCM:{USER}:\w+", listed.ccache)
    assert listed == Listed(listed.ccache, ALICE, [TGT])
    assert heimdal.klist_all() == [listed]


def test_nothing_there_yet(heimdal: HeimdalClient) -> None:
    """`klist` of an empty collection says that there is no ccache; its lists are empty."""
    not_found = "heimtools: krb5_cc_get_principal: No credentials cache file found\n"
    assert heimdal.run("klist")[1:] == (1, not_found)
    assert heimdal.run("klist", "--test")[1:] == (1, not_found)
    assert heimdal.klist_all() == []
    assert heimdal.klist_l() == []


def test_service_tickets_are_kept(heimdal: HeimdalClient) -> None:
    """A service ticket is stored behind the TGT, and once only however often it is asked for."""
    heimdal.kinit("alice")
    assert heimdal.run("klist", "--test")[1:] == (0, "")
    for service in ("host/server.pykcm.test", "host/server.pykcm.test", "HTTP/www.pykcm.test"):
        assert heimdal.ok("kgetcred", service) == ""
    assert heimdal.klist().tickets == [TGT, "host/server.pykcm.test", "HTTP/www.pykcm.test"]


def test_kinit_twice_replaces(heimdal: HeimdalClient) -> None:
    """A second kinit moves a new ccache over the principal's old one: one ccache with one TGT stays."""
    heimdal.kinit("alice")
    ccache = heimdal.klist().ccache
    heimdal.ok("kgetcred", "host/server.pykcm.test")
    heimdal.kinit("alice")
    assert heimdal.klist_all() == [Listed(ccache, ALICE, [TGT])]


def _kinit_two(heimdal: HeimdalClient) -> tuple[Listed, Listed]:
    """Alice's ccache, and Bob's, which is the default."""
    heimdal.kinit("alice")
    alices = heimdal.klist()
    heimdal.kinit("bob")
    return alices, heimdal.klist()


def test_two_principals(heimdal: HeimdalClient) -> None:
    """Two principals' ccaches are both listed, the later one as the default."""
    alices, bobs = _kinit_two(heimdal)
    assert (alices.principal, bobs.principal) == (ALICE, BOB)
    assert heimdal.klist_all() == [alices, bobs]
    assert heimdal.klist_l() == [(" ", ALICE, alices.ccache), ("*", BOB, bobs.ccache)]


def test_kswitch(heimdal: HeimdalClient) -> None:
    """`kswitch` by principal and by ccache moves the default."""
    alices, bobs = _kinit_two(heimdal)
    heimdal.ok("kswitch", "-p", "alice")
    assert heimdal.klist() == alices
    heimdal.ok("kswitch", "-t", "KCM", "-c", bobs.ccache.removeprefix("KCM:"))
    assert heimdal.klist() == bobs


def test_kdestroy(heimdal: HeimdalClient) -> None:
    """`kdestroy` removes the default alone; what is left is there for kswitch; with -A everything goes."""
    alices, _ = _kinit_two(heimdal)
    heimdal.ok("kdestroy")
    assert heimdal.klist_all() == [alices]
    assert heimdal.run("klist").code == 1
    heimdal.ok("kswitch", "-p", "alice")
    assert heimdal.klist() == alices
    heimdal.kinit("bob")
    heimdal.ok("kdestroy", "-A")
    assert heimdal.klist_all() == []


def test_kdestroy_of_a_credential(heimdal: HeimdalClient) -> None:
    """`kdestroy --credential` removes that ticket alone, and says when there is none."""
    heimdal.kinit("alice")
    heimdal.ok("kgetcred", "host/server.pykcm.test")
    assert heimdal.ok("kdestroy", "--credential=host/server.pykcm.test") == ""
    assert heimdal.klist().tickets == [TGT]
    ran = heimdal.run("kdestroy", "--credential=host/server.pykcm.test")
    assert ran.code == 1
    assert "Failed to remove principal host/server.pykcm.test" in ran.output
    assert heimdal.klist().tickets == [TGT]


def test_a_ccache_by_name(heimdal: HeimdalClient) -> None:
    """Commands that are given a ccache's name use that one and leave the default alone."""
    heimdal.kinit("alice")
    alices = heimdal.klist()
    heimdal.kinit("bob", "-c", f"{OWN}:work")
    heimdal.ok("kswitch", "-p", "alice")
    heimdal.ok("kgetcred", "-c", f"{OWN}:work", "host/server.pykcm.test")
    assert heimdal.klist("-c", f"{OWN}:work") == Listed(f"{OWN}:work", BOB, [TGT, "host/server.pykcm.test"])
    assert heimdal.klist() == alices
    heimdal.ok("kdestroy", "-c", f"{OWN}:work")
    assert heimdal.klist_all() == [alices]


def test_plain_kcm_in_the_environment(heimdal: HeimdalClient) -> None:
    """With KRB5CCNAME=KCM: every command works on the default ccache, as without it."""
    heimdal.kinit("alice", ccache="KCM:")
    alices = heimdal.klist()
    assert heimdal.ok("kgetcred", "host/server.pykcm.test", ccache="KCM:") == ""
    assert heimdal.klist(ccache="KCM:").principal == ALICE
    assert heimdal.klist(ccache="KCM:").tickets == [TGT, "host/server.pykcm.test"]
    assert heimdal.klist_all(ccache="KCM:") == [Listed(alices.ccache, ALICE, [TGT, "host/server.pykcm.test"])]
    assert heimdal.ok("kdestroy", ccache="KCM:") == ""
    assert heimdal.klist_all() == []


def test_a_restart_in_between(heimdal: HeimdalClient, pykcmd: Pykcmd) -> None:
    """Tickets, names and the default are there after a restart, and can be used."""
    alices, _ = _kinit_two(heimdal)
    heimdal.ok("kswitch", "-p", "alice")
    heimdal.ok("kgetcred", "host/server.pykcm.test")
    before = heimdal.klist_all(), heimdal.klist()
    pykcmd.restart()
    assert (heimdal.klist_all(), heimdal.klist()) == before
    assert heimdal.klist() == Listed(alices.ccache, ALICE, [TGT, "host/server.pykcm.test"])
    heimdal.ok("kgetcred", "HTTP/www.pykcm.test")
    assert heimdal.klist().tickets == [TGT, "host/server.pykcm.test", "HTTP/www.pykcm.test"]


def test_renewing(heimdal: HeimdalClient) -> None:
    """`kinit --renew` puts a renewed TGT in the place of the old one."""
    heimdal.kinit("alice", "--renewable", "--renewable-life=3d")
    before = heimdal.klist()
    heimdal.ok("kinit", "--renew")
    assert heimdal.klist() == before
    assert "renewable" in heimdal.ok("klist", "-v")
    assert heimdal.ok("kgetcred", "host/server.pykcm.test") == ""


def test_mit_uses_what_heimdal_made(heimdal: HeimdalClient, mit: MitClient) -> None:
    """A ccache that Heimdal's kinit made is listed, used and destroyed by MIT's commands."""
    heimdal.kinit("alice")
    heimdal.ok("kgetcred", "host/server.pykcm.test")
    assert mit.klist() == heimdal.klist()
    assert mit.klist().tickets == [TGT, "host/server.pykcm.test"]
    assert mit.run("klist", "-s").code == 0
    assert mit.kvno("--cached-only", "host/server.pykcm.test") == [
        f"host/server.pykcm.test@{REALM}: kvno = 1"
    ]
    assert mit.kvno("HTTP/www.pykcm.test") == [f"HTTP/www.pykcm.test@{REALM}: kvno = 1"]
    assert mit.ok("kdestroy") == ""
    assert heimdal.klist_all() == []


def test_heimdal_uses_what_mit_made(heimdal: HeimdalClient, mit: MitClient) -> None:
    """Ccaches that MIT's kinit made are listed, used, switched and destroyed by Heimdal's commands."""
    mit.kinit("alice")
    mit.kinit("bob")
    mit.kvno("host/server.pykcm.test")
    bobs = mit.klist()
    assert heimdal.klist() == bobs
    heimdal.ok("kgetcred", "HTTP/www.pykcm.test")
    assert mit.klist().tickets == [TGT, "host/server.pykcm.test", "HTTP/www.pykcm.test"]
    heimdal.ok("kswitch", "-p", "alice")
    assert mit.klist() == Listed(OWN, ALICE, [TGT])
    heimdal.ok("kdestroy", "-A")
    assert mit.klist_l() == []


def test_heimdals_kinit_over_mits(heimdal: HeimdalClient, mit: MitClient) -> None:
    """Heimdal's kinit of a principal that MIT's kinit gave a ccache replaces that one's contents."""
    mit.kinit("alice")
    mit.kvno("host/server.pykcm.test")
    heimdal.kinit("alice")
    assert mit.klist_all() == [Listed(OWN, ALICE, [TGT])]
    assert mit.run("klist", "-s").code == 0
    mit.kinit("alice")
    assert heimdal.klist_all() == [Listed(OWN, ALICE, [TGT])]
