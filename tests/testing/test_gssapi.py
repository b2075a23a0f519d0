"""GSSAPI in the process of the tests: python-gssapi finds the realm, the ccaches and the keytab."""

from pathlib import Path
from typing import Any

import pytest

from pykcm.testing import KcmServer, Realm

gssapi: Any = pytest.importorskip("gssapi")


def exchange(initiator: Any) -> Any:
    """Complete a context with the service HTTP@localhost of this process; returns the service's side."""
    acceptor = gssapi.SecurityContext(usage="accept")
    token = initiator.step()
    while token and not (initiator.complete and acceptor.complete):
        token = acceptor.step(token)
        token = initiator.step(token) if token else None
    return acceptor


def initiator(**options: Any) -> Any:
    service = gssapi.Name("HTTP@localhost", gssapi.NameType.hostbased_service)
    return gssapi.SecurityContext(name=service, usage="initiate", **options)


@pytest.mark.parametrize("user", ["alice", "bob"])
def test_context_has_the_user_of_this_test(krb5_realm: Realm, kcm_server: KcmServer, user: str) -> None:
    """In each test, the process's GSSAPI uses that test's tickets, and none of the test before."""
    with pytest.raises(gssapi.exceptions.GSSError):
        initiator().step()
    krb5_realm.kinit(user)
    assert str(exchange(initiator()).initiator_name) == f"{user}@EXAMPLE.TEST"


@pytest.fixture
def developer_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of libkrb5 that a developer may have, and that no test can use."""
    for name in ("KRB5_CONFIG", "KRB5_KTNAME", "KRB5_CLIENT_KTNAME", "KRB5_KDC_PROFILE", "KRB5RCACHEDIR"):
        monkeypatch.setenv(name, "/nonexistent/of-the-developer")
    for name in ("KRB5CCNAME", "KRB5RCACHENAME", "KRB5RCACHETYPE"):
        monkeypatch.setenv(name, "unknown:")


def test_developer_settings_do_not_count(
    developer_settings: None, krb5_realm: Realm, kcm_server: KcmServer
) -> None:
    """A client and a service of the tests work with any settings of Kerberos around them."""
    krb5_realm.kinit("alice")
    assert str(exchange(initiator()).initiator_name) == "alice@EXAMPLE.TEST"


def test_password_and_client_keytab(krb5_realm: Realm, kcm_server: KcmServer) -> None:
    """GSSAPI gets tickets by itself with a password, or with keys of the client keytab."""
    name = gssapi.Name("alice@EXAMPLE.TEST", gssapi.NameType.kerberos_principal)
    password = krb5_realm.password("alice").encode()
    acquired = gssapi.raw.acquire_cred_with_password(name, password, usage="initiate").creds
    creds = gssapi.Credentials(base=acquired)
    assert str(exchange(initiator(creds=creds)).initiator_name) == "alice@EXAMPLE.TEST"
    krb5_realm.write_keytab(krb5_realm.client_keytab, "bob")
    assert str(exchange(initiator()).initiator_name) == "bob@EXAMPLE.TEST"


def test_delegated_tickets_can_be_stored(krb5_realm: Realm, kcm_server: KcmServer, tmp_path: Path) -> None:
    """A service gets the user's forwarded TGT, stores it in a ccache, and uses it."""
    krb5_realm.kinit("alice")
    flags = gssapi.RequirementFlag.delegate_to_peer | gssapi.RequirementFlag.mutual_authentication
    delegated = exchange(initiator(flags=flags)).delegated_creds
    ccache = f"FILE:{tmp_path}/delegated"
    delegated.store(store={"ccache": ccache}, usage="initiate", overwrite=True)
    creds = gssapi.Credentials(store={"ccache": ccache}, usage="initiate")
    assert str(exchange(initiator(creds=creds)).initiator_name) == "alice@EXAMPLE.TEST"


def test_expired_ticket_is_refused(krb5_realm: Realm, kcm_server: KcmServer, libfaketime: str) -> None:
    """With a ticket of the past, the context fails as it does for a user who has not logged in for a day."""
    krb5_realm.set_clock(-86400)
    krb5_realm.kinit("alice")
    with pytest.raises(gssapi.exceptions.GSSError, match=r"(?i)expired"):
        initiator().step()
