"""Credentials for tests: libkrb5's bytes with one field replaced."""

from pykcm.protocol.credential import ENCTYPE, TIMES_AND_FLAGS, Credential, parse_credential
from pykcm.protocol.principal import Principal
from pykcm.protocol.wire import Reader, pack_data
from tests.builders import changed


def parse_all(blobs: list[bytes]) -> list[Credential]:
    return [parse_credential(blob) for blob in blobs]


def server_of(credential: Credential) -> str:
    """The server without its realm, such as `host/server.pykcm.test`."""
    return b"/".join(credential.server.components).decode()


def lasting_until(endtime: int, blob: bytes) -> bytes:
    """The credential with another end time, in seconds since the epoch."""
    credential = parse_credential(blob)
    times = credential.times
    rest = (credential.is_skey, credential.flags)
    old = TIMES_AND_FLAGS.pack(*times, *rest)
    new = TIMES_AND_FLAGS.pack(*times._replace(endtime=endtime), *rest)
    assert blob.count(old) == 1
    return blob.replace(old, new)


def ticket_of(blob: bytes) -> bytes:
    """The ticket, which follows the times, flags, addresses and authdata."""
    credential = parse_credential(blob)
    before = TIMES_AND_FLAGS.pack(*credential.times, credential.is_skey, credential.flags)
    reader = Reader(blob, blob.index(before) + len(before))
    reader.typed_list()
    reader.typed_list()
    return reader.data()


def session_key_of(blob: bytes) -> bytes:
    """The session key, which follows the two principals and its enctype."""
    credential = parse_credential(blob)
    before = len(credential.client.pack()) + len(credential.server.pack()) + ENCTYPE.size
    return Reader(blob, before).data()


def with_second_ticket(second_ticket: bytes, blob: bytes) -> bytes:
    """The credential with another second ticket, which is the last field."""
    end = pack_data(parse_credential(blob).second_ticket)
    assert blob.endswith(end)
    return blob[: -len(end)] + pack_data(second_ticket)


def with_client(client: Principal, blob: bytes) -> bytes:
    """The credential with another client, which is the first field."""
    old = parse_credential(blob).client.pack()
    assert blob.startswith(old)
    return client.pack() + blob[len(old) :]


def for_server(component: bytes, blob: bytes) -> bytes:
    """The credential for a server of the same realm whose name has this one component."""
    credential = parse_credential(blob)
    begin = len(credential.client.pack())
    old = credential.server.pack()
    assert blob[begin:].startswith(old)
    new = changed(credential.server, components=(component,)).pack()
    return blob[:begin] + new + blob[begin + len(old) :]
