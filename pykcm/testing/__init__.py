"""Kerberos for the tests of applications: a realm with a KDC, and a KCM server, both thrown away afterwards.

With pytest there are the fixtures `krb5_realm` and `kcm_server` (`pytest --fixtures -k krb5`). Without it:

    with Realm() as realm, KcmServer() as server, activate(realm, server):
        realm.kinit("alice")
        ...  # this process and its children find the realm and the ccache

Nothing here needs root, and nothing outside of a temporary folder changes. See docs/testing.md.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pykcm.testing.environment import activate, environment_of
    from pykcm.testing.guarded import KerberosMissingError, NotStartedError
    from pykcm.testing.realm import Realm, RealmError
    from pykcm.testing.server import KcmServer

__all__ = [
    "KcmServer",
    "KerberosMissingError",
    "NotStartedError",
    "Realm",
    "RealmError",
    "activate",
    "environment_of",
]

_MODULES = {
    **dict.fromkeys(("activate", "environment_of"), "environment"),
    **dict.fromkeys(("KerberosMissingError", "NotStartedError"), "guarded"),
    **dict.fromkeys(("Realm", "RealmError"), "realm"),
    "KcmServer": "server",
}


def __getattr__(name: str) -> Any:
    """Import a name at its first use: pytest loads this package in every project of its interpreter."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
