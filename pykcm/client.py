"""A small synchronous client of the KCM protocol, for tests and tools.

    with KcmClient("/run/.heim_org.h5l.kcm-socket") as kcm:
        name = kcm.get_default_cache()
        print(kcm.get_principal(name))

Each operation is a method with the name of its opcode. Names, UUIDs and credentials are bytes. A credential
has the format of version 4 ccache files. A code other than 0 in a reply is raised as KcmError.
"""

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from pykcm.protocol.codes import KcmError
from pykcm.protocol.framing import MAX_REPLY_SIZE, pack_request
from pykcm.protocol.messages import ARGUMENTS, PAYLOAD, pack_arguments
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.principal import Principal
from pykcm.protocol.tag import Tag
from pykcm.protocol.wire import I32, U32, StoredReader
from pykcm.sockets.connecting import connect

_REPLY_HEADER = 8


class KcmClient:
    """A connection to a KCM server; raises OSError if no server listens.

    `timeout`: seconds to wait for the connection and for each reply; None means no limit.
    """

    def __init__(self, path: str | os.PathLike[str], timeout: float | None = 30.0) -> None:
        self._socket = connect(path, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def call(self, opcode: int, arguments: bytes = b"") -> bytes:
        """Send one request and return the payload of its reply; raises KcmError, ConnectionError."""
        self._socket.sendall(pack_request(opcode, arguments))
        header = self._receive(_REPLY_HEADER)
        size: int = U32.unpack_from(header)[0]
        # The server may be one other than pykcm.
        if not I32.size <= size <= MAX_REPLY_SIZE:
            raise ConnectionError(f"the KCM server announced a reply of {size} bytes")
        reply = self._receive(size)
        code: int = I32.unpack_from(reply)[0]
        if code:
            raise KcmError(code)
        return reply[I32.size :]

    def _receive(self, size: int) -> bytes:
        received = bytearray()
        while len(received) < size:
            chunk = self._socket.recv(min(size - len(received), 1 << 20))
            if not chunk:
                raise ConnectionError("the KCM server closed the connection")
            received += chunk
        return bytes(received)

    def _ask(self, opcode: Opcode, *values: Any) -> Any:
        payload = self.call(opcode, pack_arguments(ARGUMENTS[opcode], values))
        field = PAYLOAD[opcode]
        return None if field is None else field.read(StoredReader(payload))

    # The operations

    def noop(self) -> None:
        self._ask(Opcode.NOOP)

    def get_name(self, name: bytes) -> bytes:
        reply: bytes = self._ask(Opcode.GET_NAME, name)
        return reply

    def resolve(self, name: bytes) -> None:
        self._ask(Opcode.RESOLVE, name)

    def gen_new(self) -> bytes:
        """Return an unused name, without creating a ccache."""
        reply: bytes = self._ask(Opcode.GEN_NEW)
        return reply

    def initialize(self, name: bytes, principal: Principal) -> None:
        self._ask(Opcode.INITIALIZE, name, principal)

    def destroy(self, name: bytes) -> None:
        self._ask(Opcode.DESTROY, name)

    def store(self, name: bytes, credential: bytes) -> None:
        self._ask(Opcode.STORE, name, credential)

    def renew(self, name: bytes, present: bytes, renewed: bytes) -> None:
        """Replace a TGT by the one that it was renewed to; raises CC_NOTFOUND if it is no longer there.

        Only pykcm has this operation.
        """
        self._ask(Opcode.RENEW, name, present, renewed)

    def retrieve(self, name: bytes, match_flags: int, tag: Tag) -> bytes:
        """Return the first credential that matches; for `match_flags` see protocol.tag.Match."""
        reply: bytes = self._ask(Opcode.RETRIEVE, name, match_flags, tag)
        return reply

    def get_principal(self, name: bytes) -> Principal:
        reply: Principal = self._ask(Opcode.GET_PRINCIPAL, name)
        return reply

    def get_cred_uuid_list(self, name: bytes) -> list[bytes]:
        reply: list[bytes] = self._ask(Opcode.GET_CRED_UUID_LIST, name)
        return reply

    def get_cred_by_uuid(self, name: bytes, uuid: bytes) -> bytes:
        reply: bytes = self._ask(Opcode.GET_CRED_BY_UUID, name, uuid)
        return reply

    def remove_cred(self, name: bytes, match_flags: int, tag: Tag) -> None:
        """Remove all matching credentials; if there are none, raises CC_NOTFOUND.

        It raises nothing if `tag` is for a configuration entry.
        """
        self._ask(Opcode.REMOVE_CRED, name, match_flags, tag)

    def set_flags(self, name: bytes, flags: int) -> None:
        self._ask(Opcode.SET_FLAGS, name, flags)

    def move_cache(self, old: bytes, new: bytes) -> None:
        self._ask(Opcode.MOVE_CACHE, old, new)

    def get_cache_uuid_list(self) -> list[bytes]:
        reply: list[bytes] = self._ask(Opcode.GET_CACHE_UUID_LIST)
        return reply

    def get_cache_by_uuid(self, uuid: bytes) -> bytes:
        reply: bytes = self._ask(Opcode.GET_CACHE_BY_UUID, uuid)
        return reply

    def get_default_cache(self) -> bytes:
        reply: bytes = self._ask(Opcode.GET_DEFAULT_CACHE)
        return reply

    def set_default_cache(self, name: bytes) -> None:
        self._ask(Opcode.SET_DEFAULT_CACHE, name)

    def get_kdc_offset(self, name: bytes) -> int:
        reply: int = self._ask(Opcode.GET_KDC_OFFSET, name)
        return reply

    def set_kdc_offset(self, name: bytes, seconds: int) -> None:
        self._ask(Opcode.SET_KDC_OFFSET, name, seconds)

    def get_cred_list(self, name: bytes) -> list[bytes]:
        reply: list[bytes] = self._ask(Opcode.GET_CRED_LIST, name)
        return reply

    def replace(
        self, name: bytes, kdc_offset: int, principal: Principal, credentials: Sequence[bytes]
    ) -> None:
        self._ask(Opcode.REPLACE, name, kdc_offset, principal, list(credentials))
