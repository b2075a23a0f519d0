"""Events and exchanges as items for a client: names and numbers, never the bytes of a key or ticket.

Every item is bounded, because many wait for a slow client.
"""

import time
from typing import Any

from pykcm.control.records import principal_text
from pykcm.engine.events import Event
from pykcm.protocol.codes import KcmError, name_of
from pykcm.protocol.credential import NO_AUTHDATA, Credential, parse_stored_credential
from pykcm.protocol.messages import (
    BLOB,
    BLOBS,
    CREDENTIAL,
    CREDENTIALS,
    FLAGS,
    NAME,
    OFFSET,
    PAYLOAD,
    PRESENT,
    PRINCIPAL,
    TAG,
    UUID,
    UUIDS,
    Field,
)
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.principal import read_principal
from pykcm.protocol.tag import Match, Tag
from pykcm.protocol.wire import I32, U32, UUID_SIZE, StoredReader
from pykcm.server.dispatcher import Exchange

# In bytes: no name that is accepted is longer.
_LONGEST = 1024

_HEADER = 4
_REPLY_HEADER = 12


def event_item(event: Event) -> dict[str, Any]:
    item: dict[str, Any] = {"time": event.time, "event": str(event.kind), "uid": event.uid}
    if event.ccache:
        item["ccache"] = event.ccache[:_LONGEST]
    if event.principal is not None:
        item["principal"] = principal_text(event.principal)
    if event.server is not None:
        item["server"] = principal_text(event.server)
    if event.is_renewed:
        item["renewed"] = True
    if event.tickets is not None:
        item["tickets"] = event.tickets
    if event.reason:
        item["reason"] = event.reason
    if event.detail:
        item["detail"] = event.detail[:_LONGEST]
    return item


def exchange_item(exchange: Exchange, program: str = "") -> dict[str, Any]:
    """The item's `asked` has the fields of the request by name, and `answered` those of the reply."""
    operation, arguments, peer = exchange.operation, exchange.arguments, exchange.peer
    payload = exchange.payload
    item: dict[str, Any] = {
        "time": time.time(),
        "uid": peer.uid,
        "pid": peer.pid,
        **({"program": program} if program else {}),
        "operation": str(exchange.frame.opcode) if operation is None else operation.name,
        "code": name_of(exchange.code),
        "duration": exchange.duration / 1e9,
        "request_size": _HEADER + len(exchange.frame.message),
        "reply_size": _REPLY_HEADER + (len(payload) if isinstance(payload, bytes) else payload.size),
    }
    asked: dict[str, Any] = {}
    if operation is not None:
        fields = list(zip(operation.arguments, arguments, strict=False))
        if fields and operation.names_ccache:
            item["ccache"] = fields.pop(0)[1][:_LONGEST]
        for field, value in fields:
            asked |= _argument(exchange.frame.opcode, field, value)
    if asked:
        item["asked"] = asked
    if not exchange.code and (answered := _answered(exchange)):
        item["answered"] = answered
    if exchange.reason:
        item["reason"] = exchange.reason[:_LONGEST]
    return item


def _argument(opcode: int, field: Field, value: Any) -> dict[str, Any]:
    if field is NAME:
        return {"to": value[:_LONGEST]}
    if field is PRINCIPAL:
        return {"principal": principal_text(value)}
    if field is CREDENTIAL:
        return _credential(value)
    if field is PRESENT:
        return {}
    if field is CREDENTIALS:
        return {"credentials": len(value)}
    if field is TAG:
        return _tag(value)
    if field is UUID:
        return {"uuid": value}
    if field is OFFSET:
        return {"kdc_offset": value}
    assert field is FLAGS
    return {"flags": value} if opcode == Opcode.SET_FLAGS else {"match": _match(value)}


def _answered(exchange: Exchange) -> dict[str, Any]:
    field = PAYLOAD.get(exchange.frame.opcode)
    payload = exchange.payload
    if field is BLOBS:
        first = payload if isinstance(payload, bytes) else payload.pieces[0]
        return {"credentials": U32.unpack_from(first)[0]}
    if field is None or not isinstance(payload, bytes):
        return {}
    if field is NAME:
        return {"name": payload[:-1]}
    if field is UUIDS:
        return {"uuids": len(payload) // UUID_SIZE}
    if field is PRINCIPAL:
        return {"principal": principal_text(read_principal(StoredReader(payload)))}
    if field is OFFSET:
        return {"kdc_offset": I32.unpack(payload)[0]}
    assert field is BLOB
    try:
        return _credential(parse_stored_credential(payload))
    except KcmError:
        return {}


def _credential(credential: Credential) -> dict[str, Any]:
    return {
        "client": principal_text(credential.client),
        "server": principal_text(credential.server),
        "enctype": credential.enctype,
        "ticket_flags": credential.flags,
        "endtime": credential.endtime,
    }


def _tag(tag: Tag) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if tag.client is not None:
        asked["client"] = principal_text(tag.client)
    if tag.server is not None:
        asked["server"] = principal_text(tag.server)
    if tag.enctype:
        asked["enctype"] = tag.enctype
    if tag.flags:
        asked["ticket_flags"] = tag.flags
    if tag.times.endtime:
        asked["endtime"] = tag.times.endtime
    # The ticket and the data themselves are left out: they are secret.
    if tag.second_ticket:
        asked["second_ticket"] = True
    if tag.authdata != NO_AUTHDATA:
        asked["authdata"] = True
    return asked


def _match(match_flags: int) -> list[str]:
    """The names of the flags, and flags without a name as a number."""
    names = [flag.name for flag in Match if match_flags & flag and flag.name is not None]
    unknown = match_flags & ~sum(Match)
    return [*names, hex(unknown)] if unknown else names
