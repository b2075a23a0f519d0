"""`pykcmctl renew`: users renew their own TGTs, and leave ccaches out of renewal."""

from pykcm.client import KcmClient
from pykcm.protocol.credential import parse_credential
from pykcm.protocol.principal import is_tgs

from .clients import MitClient
from .conftest import USER
from .control import Pykcmctl, Said
from .daemon import Pykcmd
from .test_pykcmctl_as_user import UserCtl
from .waiting import wait_until

NAME = b"%d" % USER


def run_as(mit: MitClient, pykcmd: Pykcmd, *arguments: str) -> Said:
    """Run pykcmctl as the user, with the user's libkrb5."""
    environment = {name: str(mit.environment[name]) for name in ("KRB5_CONFIG", "KRB5_TRACE")}
    return Pykcmctl.run(UserCtl(pykcmd), *arguments, environment=environment)


def blobs(pykcmd: Pykcmd) -> list[bytes]:
    with KcmClient(pykcmd.socket_path) as kcm:
        return kcm.get_cred_list(NAME)


def test_user_renews_a_tgt(pykcmd: Pykcmd, ctl: Pykcmctl, mit: MitClient, several_uids: None) -> None:
    """The TGT is replaced in its place; service tickets, settings and the default stay."""
    mit.kinit("alice", "-l", "1h", "-r", "2h")
    mit.kvno("host/server.pykcm.test")
    before = blobs(pykcmd)
    (at,) = [number for number, blob in enumerate(before) if is_tgs(parse_credential(blob).equality.server)]
    old = parse_credential(before[at])
    # A TGT that is renewed in the second of its issue does not end later.
    wait_until(lambda: run_as(mit, pykcmd, "renew").status == 0)
    after = blobs(pykcmd)
    assert parse_credential(after[at]).endtime > old.endtime
    assert [*after[:at], *after[at + 1 :]] == [*before[:at], *before[at + 1 :]]
    assert [each["name"] for each in ctl.json("list")] == [f"KCM:{USER}"]
    assert ctl.json("list")[0]["default"]


def test_failed_renewal_says_what_kinit_says(
    pykcmd: Pykcmd, ctl: Pykcmctl, mit: MitClient, several_uids: None
) -> None:
    """A TGT that is not renewable stays, and the message has libkrb5's words."""
    mit.kinit("alice")
    before = blobs(pykcmd)
    said = run_as(mit, pykcmd, "renew", f"KCM:{USER}")
    assert said.status == 1
    assert said.errors.startswith(f"pykcmctl: KCM:{USER}: kinit: ")
    assert blobs(pykcmd) == before
    assert [each["name"] for each in ctl.json("list")] == [f"KCM:{USER}"]
    assert run_as(mit, pykcmd, "renew", f"KCM:{USER}:none").status == 5


def test_user_leaves_a_ccache_out(pykcmd: Pykcmd, ctl: Pykcmctl, mit: MitClient, several_uids: None) -> None:
    """The setting is an entry that klist does not show, and that libkrb5 and kinit keep; --on removes it."""
    mit.kinit("alice")
    before, listed = blobs(pykcmd), mit.klist()
    assert run_as(mit, pykcmd, "renew", "--off").status == 0
    (setting,) = [blob for blob in blobs(pykcmd) if blob not in before]
    credential = parse_credential(setting)
    assert str(credential.server) == "krb5_ccache_conf_data/pykcm_renewal@X-CACHECONF:"
    assert (credential.ticket, credential.times) == (b"no", (0, 0, 0, 0))
    mit.kvno("host/server.pykcm.test")
    assert setting in blobs(pykcmd)
    assert mit.klist() != listed
    assert "pykcm_renewal" in mit.run("klist", "-C").output
    mit.kinit("alice")
    assert setting in blobs(pykcmd)
    assert run_as(mit, pykcmd, "renew", "--on").status == 0
    assert setting not in blobs(pykcmd)
