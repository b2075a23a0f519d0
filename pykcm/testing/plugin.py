"""The pytest plugin: the fixtures `krb5_realm` and `kcm_server`.

pytest loads it in each project of an interpreter that has pykcm. It imports nothing more until a test asks
for a fixture. `-p no:pykcm` switches it off.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pykcm.testing.environment import Part
    from pykcm.testing.realm import Realm
    from pykcm.testing.server import KcmServer

# The last lines of a log, which pytest shows with a failed test.
_LINES = 30


class _Environment:
    """The variables of one test; the fixture monkeypatch puts them back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._parts: list[Part] = []

    def add(self, part: "Part") -> None:
        from pykcm.testing.environment import environment_of  # noqa: PLC0415

        self._parts.append(part)
        for name, value in environment_of(*self._parts).items():
            self._monkeypatch.setenv(name, value)


@pytest.fixture
def _krb5_environment(monkeypatch: pytest.MonkeyPatch) -> _Environment:
    # By monkeypatch itself: if a test also uses it, variables are put back in the right order.
    return _Environment(monkeypatch)


@pytest.fixture(scope="session")
def krb5_session_realm() -> "Iterator[Realm]":
    """The KDC behind `krb5_realm`, for fixtures of a wider scope than one test.

    It sets no variables: give `krb5_session_realm.environment` to the processes that your fixture starts.
    Override it in conftest.py to choose the realm's name, users, services and lives:

        @pytest.fixture(scope="session")
        def krb5_session_realm():
            with Realm("CORP.TEST", users=["alice"], ticket_life=3600) as realm:
                yield realm
    """
    from pykcm.testing.guarded import KerberosMissingError  # noqa: PLC0415
    from pykcm.testing.realm import Realm  # noqa: PLC0415

    try:
        with Realm() as realm:
            yield realm
    except KerberosMissingError as missing:
        # Of the project that uses the plugin: its tests can make this a failure (PYKCM_TESTING_REQUIRED).
        pytest.skip(str(missing))


@pytest.fixture
def krb5_realm(
    krb5_session_realm: "Realm", _krb5_environment: _Environment, request: pytest.FixtureRequest
) -> "Iterator[Realm]":
    """A throw-away Kerberos realm, EXAMPLE.TEST, with a KDC on this machine; needs no root.

    KRB5_CONFIG, KRB5CCNAME and KRB5_KTNAME are set for the test and its child processes. There are the users
    alice and bob, and the services HTTP/localhost and host/localhost, whose keys are in `krb5_realm.keytab`.

        krb5_realm.kinit("alice")                            a TGT, in the ccache of the test
        krb5_realm.add_user("carol", "secret")               more principals
        krb5_realm.add_service("HTTP/www.example.test")
        krb5_realm.write_keytab(path, "carol")
        krb5_realm.set_lives(ticket=5)                       TGTs that end after 5 s
        krb5_realm.set_clock(-86400)                         the KDC and kinit live in the past
        krb5_realm.stop()                                    an outage

    After the test all of this is put back. The test is skipped if this machine has no MIT KDC; with
    PYKCM_TESTING_REQUIRED=1 it fails instead.
    """
    begin = len(krb5_session_realm.log)
    with krb5_session_realm.restored() as realm:
        _krb5_environment.add(realm)
        yield realm
        _add_log(request, "the KDC's log", realm.log[begin:])


@pytest.fixture(scope="session")
def kcm_session_server() -> "Iterator[KcmServer]":
    """The pykcmd behind `kcm_server`, for fixtures of a wider scope than one test.

    It sets no variables. Override it in conftest.py to choose options of pykcm.toml:
    `with KcmServer(max_uid_ccaches=4) as server: yield server`.
    """
    from pykcm.testing.server import KcmServer  # noqa: PLC0415

    with KcmServer() as server:
        yield server


@pytest.fixture
def kcm_server(
    kcm_session_server: "KcmServer", _krb5_environment: _Environment, request: pytest.FixtureRequest
) -> "Iterator[KcmServer]":
    """A private KCM server (pykcmd) without any ccache, and KRB5CCNAME=KCM: for the test; needs no root.

    KRB5_CONFIG is set as well. With `krb5_realm` in the same test, tickets of that realm are in this server.

        kcm_server.ccache("work")          the name of one more ccache, for KRB5CCNAME
        kcm_server.stop(); .start()        a host without a KCM server; its ccaches are gone afterwards
        kcm_server.log                     the daemon's log lines
    """
    kcm_session_server.clear()
    begin = len(kcm_session_server.log)
    _krb5_environment.add(kcm_session_server)
    yield kcm_session_server
    _add_log(request, "pykcmd's log", kcm_session_server.log[begin:])


def _add_log(request: pytest.FixtureRequest, title: str, log: str) -> None:
    """Let pytest show the end of a log if the test fails."""
    if log:
        request.node.add_report_section("teardown", title, "\n".join(log.splitlines()[-_LINES:]))
