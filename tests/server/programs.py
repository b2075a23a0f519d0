"""What the clients' programs ask for, in their order."""

from pykcm.protocol.codes import Code
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.principal import Principal
from tests.builders import ALICE, BOB, TGS, credential_bytes
from tests.server.asking import Asking


def listed(asking: Asking) -> list[bytes]:
    """The names of the ccaches, as `klist -l` finds them."""
    return [asking.get_cache_by_uuid(uuid) for uuid in asking.get_cache_uuid_list()]


def kinit(asking: Asking) -> bytes:
    """MIT's kinit for alice, with plain KCM: and the default free; gives the ccache's name."""
    name = asking.get_default_cache()
    code, _ = asking.answer(Opcode.GET_PRINCIPAL, name + b"\0")
    assert code == Code.FCC_NOFILE, "kinit would make another ccache"
    asking.initialize(name, ALICE)
    asking.store(name, credential_bytes(TGS, ALICE))
    return name


def kinit_another(asking: Asking) -> bytes:
    """MIT's kinit for bob, when the default is alice's: a new ccache, and the default moves."""
    name = asking.gen_new()
    asking.initialize(name, BOB)
    asking.store(name, credential_bytes(TGS, BOB))
    asking.set_default_cache(name)
    return name


def klist(asking: Asking) -> tuple[bytes, Principal]:
    """MIT's klist with plain KCM:, the default's name and whose it is; raises KcmError."""
    name = asking.get_default_cache()
    return name, asking.get_principal(name)
