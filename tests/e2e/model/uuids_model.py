"""UUIDs in the model: the server chooses them, replies show them, and from then on they stay the same."""

from .collections_model import END, NOFILE, Answer, Asker, CCache, Model, Stored

_SIZE = 16


def _split(uuids: bytes) -> list[bytes]:
    return [uuids[at : at + _SIZE] for at in range(0, len(uuids), _SIZE)]


def ccache_by_uuid(model: Model, asker: Asker, uuid: bytes) -> Answer:
    """The answer of GET_CACHE_BY_UUID, if the UUIDs of all ccaches are known."""
    for ccache in model.collections[asker.uid].ccaches:
        if ccache.uuid == uuid:
            return 0, ccache.name + b"\0"
    return END, b""


def accepts_ccache(model: Model, asker: Asker, uuid: bytes, answer: Answer) -> bool:
    """Whether GET_CACHE_BY_UUID may answer so: a ccache whose UUID is not known yet may have this one."""
    if answer == ccache_by_uuid(model, asker, uuid):
        return True
    collection = model.collections[asker.uid]
    ccache = collection.find(answer[1].removesuffix(b"\0"))
    is_known = any(each.uuid == uuid for each in collection.ccaches)
    if answer[0] or ccache is None or ccache.uuid is not None or is_known:
        return False
    ccache.uuid = uuid
    return True


def ccache_list(model: Model, asker: Asker) -> Answer:
    """The answer of GET_CACHE_UUID_LIST, as far as the UUIDs are known."""
    return 0, b"".join([each.uuid or bytes(_SIZE) for each in model.collections[asker.uid].ccaches])


def accepts_ccaches(model: Model, asker: Asker, answer: Answer) -> bool:
    """Whether GET_CACHE_UUID_LIST may answer so; the model then knows these UUIDs."""
    ccaches = model.collections[asker.uid].ccaches
    uuids = _split(answer[1])
    if answer[0] or not _fit(uuids, [each.uuid for each in ccaches]):
        return False
    for ccache, uuid in zip(ccaches, uuids, strict=True):
        ccache.uuid = uuid
    return True


def credential_list(model: Model, asker: Asker, name: bytes) -> Answer:
    """The code of GET_CRED_UUID_LIST; its payload is known as far as the UUIDs are."""
    ccache = model.read(asker, name)
    return (ccache, b"") if isinstance(ccache, int) else (0, b"".join(map(_known, ccache.credentials)))


def accepts_credentials(model: Model, asker: Asker, name: bytes, answer: Answer) -> bool:
    """Whether GET_CRED_UUID_LIST may answer so; the model then knows these UUIDs."""
    ccache = model.read(asker, name)
    if isinstance(ccache, int):
        return answer == (ccache, b"")
    uuids = _split(answer[1])
    if answer[0] or not _fit(uuids, [each.uuid for each in ccache.credentials]):
        return False
    ccache.credentials = [
        each._replace(uuid=uuid) for each, uuid in zip(ccache.credentials, uuids, strict=True)
    ]
    return True


def credential_by_uuid(model: Model, asker: Asker, name: bytes, uuid: bytes) -> Answer:
    """The answer of GET_CRED_BY_UUID, if the UUIDs of all credentials are known."""
    ccache = _ccache_to_iterate(model, asker, name)
    if isinstance(ccache, int):
        return ccache, b""
    for each in ccache.credentials:
        if each.uuid == uuid:
            return 0, each.credential.blob
    return END, b""


def accepts_credential(model: Model, asker: Asker, name: bytes, uuid: bytes, answer: Answer) -> bool:
    """Whether GET_CRED_BY_UUID may answer so: a credential whose UUID is not known yet may have this one."""
    if answer == credential_by_uuid(model, asker, name, uuid):
        return True
    ccache = _ccache_to_iterate(model, asker, name)
    if isinstance(ccache, int) or answer[0] or any(each.uuid == uuid for each in ccache.credentials):
        return False
    for place, each in enumerate(ccache.credentials):
        if each.uuid is None and each.credential.blob == answer[1]:
            ccache.credentials[place] = each._replace(uuid=uuid)
            return True
    return False


def _ccache_to_iterate(model: Model, asker: Asker, name: bytes) -> CCache | int:
    """The ccache; a missing one is the end of an iteration."""
    ccache = model.read(asker, name)
    if ccache == NOFILE and not name and not model.owns(asker, model.default(asker)):
        # Root's default is another UID's ccache: the reply is that of any operation without a name.
        return NOFILE
    return END if ccache == NOFILE else ccache


def _known(stored: Stored) -> bytes:
    return stored.uuid or bytes(_SIZE)


def _fit(uuids: list[bytes], known: list[bytes | None]) -> bool:
    """Whether the UUIDs are as many as known, all different, and the same where one is known."""
    return (
        len(uuids) == len(known)
        and len(set(uuids)) == len(uuids)
        and all(len(uuid) == _SIZE for uuid in uuids)
        and all(was in {None, uuid} for was, uuid in zip(known, uuids, strict=True))
    )
