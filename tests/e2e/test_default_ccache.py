"""What moves the default and what does not, and a login service's order of calls, as sshd has it."""

import pytest

from pykcm.client import KcmClient
from pykcm.protocol.codes import Code, KcmError

from .clients import Listed, MitClient
from .conftest import USER
from .daemon import Pykcmd, effective_uid
from .kdc import REALM

TGT = f"krbtgt/{REALM}"


@pytest.mark.parametrize("restarts", [False, True])
def test_a_delegated_ticket_becomes_the_default(mit: MitClient, pykcmd: Pykcmd, *, restarts: bool) -> None:
    """GEN_NEW, SET_DEFAULT_CACHE, INITIALIZE, STORE: then it is the default, and the old one beside it."""
    mit.kinit("alice")
    old = mit.klist()
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        name = kcm.gen_new()
        # A name and nothing else: no ccache yet.
        assert name.startswith(b"%d:" % USER)
        assert len(kcm.get_cache_uuid_list()) == 1
        assert kcm.get_default_cache() == b"%d" % USER
        kcm.set_default_cache(name)
        assert kcm.get_default_cache() == name
        with pytest.raises(KcmError) as missing:
            kcm.get_principal(name)
        assert missing.value.code == Code.FCC_NOFILE
    ccache = f"KCM:{name.decode()}"
    assert mit.run("klist")[1:] == (1, f"klist: Credentials cache '{ccache}' not found\n")
    assert mit.klist_all() == [old]
    if restarts:
        pykcmd.restart()
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        (*_, ticket) = kcm.get_cred_list(b"%d" % USER)
        kcm.initialize(name, kcm.get_principal(b"%d" % USER))
        kcm.store(name, ticket)
    forwarded = Listed(ccache, f"alice@{REALM}", [TGT])
    assert mit.klist() == forwarded
    assert mit.klist_all() == [forwarded, old]
    assert mit.kvno("host/server.pykcm.test")
    assert mit.klist().tickets == [TGT, "host/server.pykcm.test"]


def test_initialize_never_moves_the_default(mit: MitClient, pykcmd: Pykcmd) -> None:
    """INITIALIZE of another ccache leaves the default where it is, even while that names no ccache."""
    mit.kinit("alice")
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        own = kcm.get_default_cache()
        principal = kcm.get_principal(own)
        kcm.initialize(kcm.gen_new(), principal)
        assert kcm.get_default_cache() == own
        kcm.destroy(own)
        kcm.initialize(kcm.gen_new(), principal)
        assert kcm.get_default_cache() == own
    assert mit.run("klist")[1:] == (1, f"klist: Credentials cache 'KCM:{USER}' not found\n")
    assert [listed.principal for listed in mit.klist_all()] == [f"alice@{REALM}"] * 2


@pytest.mark.parametrize("is_default", [False, True])
def test_a_default_that_is_moved(mit: MitClient, pykcmd: Pykcmd, *, is_default: bool) -> None:
    """MOVE_CACHE of the default takes the default along, of another does not; a restart keeps it."""
    mit.kinit("alice")
    mit.kinit("bob", "-c", f"KCM:{USER}:old")
    mit.kvno("host/server.pykcm.test", ccache=f"KCM:{USER}:old")
    if is_default:
        mit.ok("kswitch", "-c", f"KCM:{USER}:old")
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        kcm.move_cache(b"%d:old" % USER, b"%d:new" % USER)
    alices = Listed(f"KCM:{USER}", f"alice@{REALM}", [TGT])
    bobs = Listed(f"KCM:{USER}:new", f"bob@{REALM}", [TGT, "host/server.pykcm.test"])
    for _ in range(2):
        assert mit.klist_all() == ([bobs, alices] if is_default else [alices, bobs])
        assert mit.klist() == (bobs if is_default else alices)
        pykcmd.restart()


def test_logging_out(mit: MitClient, pykcmd: Pykcmd) -> None:
    """When the session's ccache is destroyed and it was the only one, plain kinit begins at `<uid>` again."""
    mit.kinit("alice", ccache=f"KCM:{USER}:other")
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        name = kcm.gen_new()
        kcm.set_default_cache(name)
        kcm.move_cache(b"%d:other" % USER, name)
    assert mit.klist() == Listed(f"KCM:{name.decode()}", f"alice@{REALM}", [TGT])
    assert mit.ok("kdestroy", "-c", f"KCM:{name.decode()}") == ""
    mit.kinit("bob")
    assert mit.klist_all() == [Listed(f"KCM:{USER}", f"bob@{REALM}", [TGT])]
