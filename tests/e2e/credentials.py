"""Credentials made from others for a test: libkrb5's own bytes with another field put in."""

from pykcm.protocol.credential import TIMES_AND_FLAGS, Credential, parse_credential
from pykcm.protocol.principal import Principal
from pykcm.protocol.wire import Reader, pack_data


def parse_all(blobs: list[bytes]) -> list[Credential]:
    return [parse_credential(blob) for blob in blobs]


def server_of(credential: Credential) -> str:
    """`host/server.pykcm.test`: the server without its realm."""
    return b"/".join(credential.server.components).decode()


def lasting_until(endtime: int, blob: bytes) -> bytes:
    """The credential with another end, in seconds since the epoch."""
    credential = parse_credential(blob)
    times = credential.times
    rest = (credential.is_skey, credential.flags)
    old = TIMES_AND_FLAGS.pack(*times, *rest)
    new = TIMES_AND_FLAGS.pack(*times._replace(endtime=endtime), *rest)
    assert blob.count(old) == 1
    return blob.replace(old, new)


def ticket_of(blob: bytes) -> bytes:
    """The ticket: it stands behind the times, flags, addresses and authdata."""
    credential = parse_credential(blob)
    before = TIMES_AND_FLAGS.pack(*credential.times, credential.is_skey, credential.flags)
    reader = Reader(blob, blob.index(before) + len(before))
    reader.typed_list()
    reader.typed_list()
    return reader.data()


def with_second_ticket(second_ticket: bytes, blob: bytes) -> bytes:
    """The credential with another second ticket: the last field of all."""
    end = pack_data(parse_credential(blob).second_ticket)
    assert blob.endswith(end)
    return blob[: -len(end)] + pack_data(second_ticket)


def with_client(client: Principal, blob: bytes) -> bytes:
    """The credential in another client's name: the first field of all."""
    old = parse_credential(blob).client.pack()
    assert blob.startswith(old)
    return client.pack() + blob[len(old) :]


def for_server(component: bytes, blob: bytes) -> bytes:
    """The credential for another server of the same realm, whose name has this one component."""
    credential = parse_credential(blob)
    begin = len(credential.client.pack())
    old = credential.server.pack()
    assert blob[begin:].startswith(old)
    new = credential.server._replace(components=(component,)).pack()
    return blob[:begin] + new + blob[begin + len(old) :]
