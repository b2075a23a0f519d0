"""The requests of the clients' programs, in their order."""

from pykcm.protocol.codes import Code
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.principal import Principal
from tests.builders import ALICE, BOB, TGS, credential_bytes
from tests.server.asking import Asking


def listed(asking: Asking) -> list[bytes]:
    """The names of the ccaches, as `klist -l` finds them."""
    return [asking.get_cache_by_uuid(uuid) for uuid in asking.get_cache_uuid_list()]


def kinit(asking: Asking) -> bytes:
    """MIT's kinit for alice with plain KCM: and a free default; return the ccache's name."""
    name = asking.get_default_cache()
    code, _ = asking.answer(Opcode.GET_PRINCIPAL, name + b"\0")
    assert code == Code.FCC_NOFILE, "kinit would make another ccache"
    asking.initialize(name, ALICE)
    asking.store(name, credential_bytes(TGS, ALICE))
    return name


def kinit_another(asking: Asking) -> bytes:
    """MIT's kinit for bob when the default is alice's: a new ccache, which becomes the default."""
    name = asking.gen_new()
    asking.initialize(name, BOB)
    asking.store(name, credential_bytes(TGS, BOB))
    asking.set_default_cache(name)
    return name


def klist(asking: Asking) -> tuple[bytes, Principal]:
    """MIT's klist with plain KCM:; return the default's name and principal. Raises KcmError."""
    name = asking.get_default_cache()
    return name, asking.get_principal(name)


def kdestroy(asking: Asking) -> bytes:
    """MIT's kdestroy with plain KCM:; return the ccache's name."""
    name = asking.get_default_cache()
    asking.destroy(name)
    return name


def fill(asking: Asking, name: bytes, *tickets: bytes) -> None:
    """Create the ccache for alice, with these tickets."""
    asking.initialize(name, ALICE)
    for each in tickets:
        asking.store(name, each)
