"""The record of a ccache, as exports hold it, and its header, as the control socket sends it."""

from typing import Annotated, Any

import msgspec

from pykcm.control.frames import FrameType
from pykcm.control.messages import LARGEST_MESSAGE
from pykcm.protocol.principal import Principal
from pykcm.protocol.wire import MAX_STORED_COMPONENTS

# In bytes: a ccache's credentials, in an export.
LARGEST_RECORD = 64 * 1024 * 1024 - 256 * 1024

# Of one ccache.
_MOST_CREDENTIALS = 1 << 15

# A frame that is a byte string is a credential; no other frame begins so.
_BYTE_STRINGS = (0xC4, 0xC5, 0xC6)

# In bytes.
_LONGEST_PRINCIPAL = 1024

Uid = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class PrincipalRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A principal in its parts."""

    type: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    realm: bytes
    components: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=MAX_STORED_COMPONENTS)]

    @classmethod
    def of(cls, principal: Principal) -> "PrincipalRecord":
        return cls(principal.name_type, principal.realm, principal.components)

    @property
    def principal(self) -> Principal:
        return Principal(self.type, self.realm, self.components)


class CCacheRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole ccache; `credentials` in stored order, each in ccache format 4; `kdc_offset` in seconds.

    `name` None: the daemon chooses one. `label` is the SELinux label of its creator. `default`: it is the one
    that the processes of the UID share; `default_of`: the SELinux ranges whose own default it is.
    """

    uid: Uid
    principal: PrincipalRecord
    credentials: list[bytes]
    name: bytes | None = None
    kdc_offset: Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)] = 0
    label: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    default: bool = False
    default_of: Annotated[list[str], msgspec.Meta(max_length=64)] = []

    def __repr__(self) -> str:
        # The credentials hold session keys.
        return f"<CCacheRecord of UID {self.uid}, {self.principal.principal}>"

    @property
    def header(self) -> "CCacheHeader":
        """The ccache without its credentials."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return CCacheHeader(**fields | {"credentials": len(self.credentials)})


class CCacheHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A ccache as it is sent: `credentials` frames follow, one for each. Other fields: see CCacheRecord."""

    uid: Uid
    principal: PrincipalRecord
    credentials: Annotated[int, msgspec.Meta(ge=0, le=_MOST_CREDENTIALS)]
    name: bytes | None = None
    kdc_offset: Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)] = 0
    label: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    default: bool = False
    default_of: Annotated[list[str], msgspec.Meta(max_length=64)] = []


HEADER = FrameType(CCacheHeader, LARGEST_MESSAGE)


def is_credential(frame: bytes) -> bool:
    """Whether a frame behind an import is a credential."""
    return frame[0] in _BYTE_STRINGS


def principal_text(principal: Principal) -> str:
    """The principal as text for people; if it is longer than any in use, only its length."""
    size = len(principal.realm) + sum(map(len, principal.components))
    return str(principal) if size <= _LONGEST_PRINCIPAL else f"(a principal of {size} bytes)"


def to_item(record: CCacheRecord) -> dict[str, Any]:
    """The record as builtin types, with the fields that have their default value."""
    item: dict[str, Any] = msgspec.to_builtins(record, builtin_types=(bytes,))
    return item


def read_record(item: Any) -> CCacheRecord:
    """Raises msgspec.ValidationError, which names the field."""
    record: CCacheRecord = msgspec.convert(item, CCacheRecord, builtin_types=(bytes,))
    return record
