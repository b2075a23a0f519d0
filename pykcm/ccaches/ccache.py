"""One ccache: whose tickets it holds, the KDC offset, and the credentials."""

from dataclasses import dataclass, field

from pykcm.ccaches.credentials import Credentials
from pykcm.protocol.principal import Principal


@dataclass(slots=True, eq=False)
class CCache:
    """A ccache that has been initialised.

    `uuid` is 16 bytes and stays as long as the name does; `name` is any bytes but NUL; `label` is the
    SELinux label of the peer that created it, None where there is no SELinux; `kdc_offset` is the KDC's
    clock less the client's, in seconds.
    """

    uuid: bytes
    name: bytes
    principal: Principal
    label: str | None = None
    kdc_offset: int = 0
    credentials: Credentials = field(default_factory=Credentials)
    packed_principal: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.packed_principal = self.principal.pack()

    @property
    def size(self) -> int:
        """Bytes that count towards quotas: the credentials' and the principal's."""
        return self.credentials.size + len(self.packed_principal)
