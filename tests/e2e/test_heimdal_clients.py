"""Heimdal's commands, and ccaches that both families of clients use.

Heimdal's kinit always makes a ccache with a new name. Then it moves it over the principal's ccache, or to
another new name if there is none, and makes that the default.
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


def test_kinit_with_password(heimdal: HeimdalClient) -> None:
    """The TGT is listed in the default ccache."""
    heimdal.ok("kinit", "--password-file=STDIN", "alice", stdin=PASSWORDS["alice"] + "\n")
    listed = heimdal.klist()
    assert re.fullmatch(rf"KCM:{USER}:\w+", listed.ccache)
    assert listed == Listed(listed.ccache, ALICE, [TGT])
    assert heimdal.klist_all() == [listed]


def test_empty_collection(heimdal: HeimdalClient) -> None:
    """`klist` says that there is no ccache; its lists are empty."""
    not_found = "heimtools: krb5_cc_get_principal: No credentials cache file found\n"
    assert heimdal.run("klist")[1:] == (1, not_found)
    assert heimdal.run("klist", "--test")[1:] == (1, not_found)
    assert heimdal.klist_all() == []
    assert heimdal.klist_l() == []


def test_service_tickets_are_kept(heimdal: HeimdalClient) -> None:
    """A service ticket is stored after the TGT, and only once."""
    heimdal.kinit("alice")
    assert heimdal.run("klist", "--test")[1:] == (0, "")
    for service in ("host/server.pykcm.test", "host/server.pykcm.test", "HTTP/www.pykcm.test"):
        assert heimdal.ok("kgetcred", service) == ""
    assert heimdal.klist().tickets == [TGT, "host/server.pykcm.test", "HTTP/www.pykcm.test"]


def test_second_kinit_replaces_the_ccache(heimdal: HeimdalClient) -> None:
    """Heimdal's kinit moves a new ccache over the principal's old one; one ccache with one TGT remains."""
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


def test_two_principals_are_listed(heimdal: HeimdalClient) -> None:
    """The later one is the default."""
    alices, bobs = _kinit_two(heimdal)
    assert (alices.principal, bobs.principal) == (ALICE, BOB)
    assert heimdal.klist_all() == [alices, bobs]
    assert heimdal.klist_l() == [(" ", ALICE, alices.ccache), ("*", BOB, bobs.ccache)]


def test_kswitch_changes_the_default(heimdal: HeimdalClient) -> None:
    """By principal and by ccache."""
    alices, bobs = _kinit_two(heimdal)
    heimdal.ok("kswitch", "-p", "alice")
    assert heimdal.klist() == alices
    heimdal.ok("kswitch", "-t", "KCM", "-c", bobs.ccache.removeprefix("KCM:"))
    assert heimdal.klist() == bobs


def test_kdestroy_removes_the_default(heimdal: HeimdalClient) -> None:
    """The other ccache can be chosen with kswitch; -A removes all ccaches."""
    alices, _ = _kinit_two(heimdal)
    heimdal.ok("kdestroy")
    assert heimdal.klist_all() == [alices]
    assert heimdal.run("klist").code == 1
    heimdal.ok("kswitch", "-p", "alice")
    assert heimdal.klist() == alices
    heimdal.kinit("bob")
    heimdal.ok("kdestroy", "-A")
    assert heimdal.klist_all() == []


def test_kdestroy_removes_one_credential(heimdal: HeimdalClient) -> None:
    """`kdestroy --credential` removes only that ticket, and reports a missing one."""
    heimdal.kinit("alice")
    heimdal.ok("kgetcred", "host/server.pykcm.test")
    assert heimdal.ok("kdestroy", "--credential=host/server.pykcm.test") == ""
    assert heimdal.klist().tickets == [TGT]
    ran = heimdal.run("kdestroy", "--credential=host/server.pykcm.test")
    assert ran.code == 1
    assert "Failed to remove principal host/server.pykcm.test" in ran.output
    assert heimdal.klist().tickets == [TGT]


def test_named_ccache_is_used(heimdal: HeimdalClient) -> None:
    """Commands with a ccache's name do not change the default."""
    heimdal.kinit("alice")
    alices = heimdal.klist()
    heimdal.kinit("bob", "-c", f"{OWN}:work")
    heimdal.ok("kswitch", "-p", "alice")
    heimdal.ok("kgetcred", "-c", f"{OWN}:work", "host/server.pykcm.test")
    assert heimdal.klist("-c", f"{OWN}:work") == Listed(f"{OWN}:work", BOB, [TGT, "host/server.pykcm.test"])
    assert heimdal.klist() == alices
    heimdal.ok("kdestroy", "-c", f"{OWN}:work")
    assert heimdal.klist_all() == [alices]


def test_krb5ccname_kcm_is_the_default_ccache(heimdal: HeimdalClient) -> None:
    """With KRB5CCNAME=KCM: every command uses the default ccache."""
    heimdal.kinit("alice", ccache="KCM:")
    alices = heimdal.klist()
    assert heimdal.ok("kgetcred", "host/server.pykcm.test", ccache="KCM:") == ""
    assert heimdal.klist(ccache="KCM:").principal == ALICE
    assert heimdal.klist(ccache="KCM:").tickets == [TGT, "host/server.pykcm.test"]
    assert heimdal.klist_all(ccache="KCM:") == [Listed(alices.ccache, ALICE, [TGT, "host/server.pykcm.test"])]
    assert heimdal.ok("kdestroy", ccache="KCM:") == ""
    assert heimdal.klist_all() == []


def test_restart_keeps_tickets(heimdal: HeimdalClient, pykcmd: Pykcmd) -> None:
    """Tickets, names and the default remain after a restart, and work."""
    alices, _ = _kinit_two(heimdal)
    heimdal.ok("kswitch", "-p", "alice")
    heimdal.ok("kgetcred", "host/server.pykcm.test")
    before = heimdal.klist_all(), heimdal.klist()
    pykcmd.restart()
    assert (heimdal.klist_all(), heimdal.klist()) == before
    assert heimdal.klist() == Listed(alices.ccache, ALICE, [TGT, "host/server.pykcm.test"])
    heimdal.ok("kgetcred", "HTTP/www.pykcm.test")
    assert heimdal.klist().tickets == [TGT, "host/server.pykcm.test", "HTTP/www.pykcm.test"]


def test_renewal_replaces_the_tgt(heimdal: HeimdalClient) -> None:
    heimdal.kinit("alice", "--renewable", "--renewable-life=3d")
    before = heimdal.klist()
    heimdal.ok("kinit", "--renew")
    assert heimdal.klist() == before
    assert "renewable" in heimdal.ok("klist", "-v")
    assert heimdal.ok("kgetcred", "host/server.pykcm.test") == ""


def test_mit_uses_ccache_of_heimdal(heimdal: HeimdalClient, mit: MitClient) -> None:
    """MIT's commands list, use and destroy a ccache of Heimdal's kinit."""
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


def test_heimdal_uses_ccaches_of_mit(heimdal: HeimdalClient, mit: MitClient) -> None:
    """Heimdal's commands list, use, switch and destroy ccaches of MIT's kinit."""
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


def test_heimdals_kinit_replaces_ccache_of_mit(heimdal: HeimdalClient, mit: MitClient) -> None:
    """Heimdal's kinit of the same principal replaces the contents."""
    mit.kinit("alice")
    mit.kvno("host/server.pykcm.test")
    heimdal.kinit("alice")
    assert mit.klist_all() == [Listed(OWN, ALICE, [TGT])]
    assert mit.run("klist", "-s").code == 0
    mit.kinit("alice")
    assert heimdal.klist_all() == [Listed(OWN, ALICE, [TGT])]
