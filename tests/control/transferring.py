"""Ccaches to import, and the answers of export and import."""

from collections.abc import Sequence
from typing import Any

from pykcm.protocol.principal import Principal
from tests.builders import ALICE, TGS, credential_bytes
from tests.control.controlling import Controlling
from tests.server.asking import Asking

# The tests' clock stands at 1500.
NEW, OLD, EXPIRED = 9000, 5000, 1400


def tgt(end: int = NEW, *, client: Principal = ALICE) -> bytes:
    return credential_bytes(TGS, client, times=(1, 1, end, 0))


def record(
    uid: int = 1000,
    name: bytes | None = b"1000",
    credentials: Sequence[bytes] = (tgt(),),
    principal: Principal = ALICE,
    **more: Any,
) -> dict[str, Any]:
    return {
        "uid": uid,
        "name": name,
        "principal": {
            "type": principal.name_type,
            "realm": principal.realm,
            "components": list(principal.components),
        },
        "credentials": list(credentials),
        **more,
    }


def outcomes(control: Controlling, *items: Any, label: str | None = None, **arguments: Any) -> list[str]:
    return [each["ccache"]["result"] for each in control.ask("import", *items, label=label, **arguments)]


def reason(control: Controlling, item: Any, **arguments: Any) -> str:
    """The reason why the ccache was not imported."""
    (answer,) = control.ask("import", item, **arguments)
    assert answer["ccache"]["result"] in {"refused", "skipped"}
    text: str = answer["ccache"]["reason"]
    return text


def exported(control: Controlling, **arguments: Any) -> list[Any]:
    head, *items = control.ask("export", **arguments)
    assert head == {"count": sum("ccache" in item for item in items)}
    return [item["ccache"] for item in items if "ccache" in item]


def contents(client: Asking, name: bytes) -> list[bytes]:
    return client.get_cred_list(name)
