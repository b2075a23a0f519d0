"""The operations: one small function for each opcode, and the table of them.

A function gets the context and the request's arguments, and returns the payload of the reply. It raises
errors as KcmError. It neither waits nor knows the store: the collection records its changes.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NoReturn

import msgspec

from pykcm.ccaches.ccache import uid_in
from pykcm.ccaches.collection import move
from pykcm.ccaches.renewal import why_no_renewal, with_setting_of
from pykcm.peer.access import Access
from pykcm.peer.identity import Peer
from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.credential import Credential
from pykcm.protocol.framing import MAX_REPLY_SIZE, Pieces, Sendable
from pykcm.protocol.messages import ARGUMENTS, NAME, Field, arguments_reader
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.principal import Principal, has_pseudo_realm
from pykcm.protocol.tag import Tag
from pykcm.protocol.wire import I32, pack_name
from pykcm.server.context import Context

NOTHING = b""


# Names and the collection


def noop(context: Context) -> bytes:
    return NOTHING


def get_name(context: Context, name: bytes) -> bytes:
    return pack_name(context.readable(name).name)


def resolve(context: Context, name: bytes) -> bytes:
    return NOTHING


def gen_new(context: Context) -> bytes:
    return pack_name(context.collection.unused_name())


def get_cache_uuid_list(context: Context) -> bytes:
    return b"".join(
        [
            ccache.uuid
            for collection in context.collections
            for ccache in collection
            if context.may_read(ccache)
        ]
    )


def get_cache_by_uuid(context: Context, uuid: bytes) -> bytes:
    ccache = context.collection.by_uuid(uuid)
    if ccache is None or not context.may_read(ccache):
        raise KcmError(Code.CC_END)
    return pack_name(ccache.name)


def get_default_cache(context: Context) -> bytes:
    return pack_name(context.default(context.collection).give())


def set_default_cache(context: Context, name: bytes) -> bytes:
    context.default(context.collection).set(name)
    return NOTHING


# One ccache


def initialize(context: Context, name: bytes, principal: Principal) -> bytes:
    return replace(context, name, 0, principal, [])


def replace(
    context: Context, name: bytes, kdc_offset: int, principal: Principal, credentials: list[Credential]
) -> bytes:
    context.check_creatable(name, context.collection)
    contents = with_setting_of(context.collection.get(name), principal, credentials)
    ccache = context.collection.replace(name, principal, kdc_offset, contents, context.peer.label)
    context.note_filled(ccache, context.collection, context.peer.label)
    return NOTHING


def destroy(context: Context, name: bytes) -> bytes:
    context.check_destroyable(name)
    # A plain kdestroy asks for the default and destroys it. As with DIR: and KEYRING:, no default is left.
    default = context.default(context.collection) if context.collection.uid == context.peer.uid else None
    was_default = default is not None and default.is_given(name)
    context.collection.destroy(name)
    context.session.destroyed(name)
    if default is not None and was_default:
        default.destroyed(name)
    return NOTHING


def move_cache(context: Context, old: bytes, new: bytes) -> bytes:
    label = context.changeable(old).label
    target = context.collections[-1]
    context.check_creatable(new, target)
    follows = partial(context.access.may_move_default, context.peer)
    moved = move(context.collection, old, target, new, follows)
    context.note_filled(moved, target, label)
    return NOTHING


def get_principal(context: Context, name: bytes) -> bytes:
    return context.readable(name).packed_principal


def get_kdc_offset(context: Context, name: bytes) -> bytes:
    return I32.pack(context.readable(name).kdc_offset)


def set_kdc_offset(context: Context, name: bytes, kdc_offset: int) -> bytes:
    context.collection.set_kdc_offset(context.changeable(name), kdc_offset)
    return NOTHING


def set_flags(context: Context, name: bytes, flags: int) -> bytes:
    return NOTHING


# Its credentials


def store(context: Context, name: bytes, credential: Credential) -> bytes:
    context.collection.store(context.changeable(name), credential)
    return NOTHING


def renew(context: Context, name: bytes, present: bytes, renewed: Credential) -> bytes:
    """Replace a TGT, if the ccache still holds exactly that one: a kinit at the same time is not undone."""
    ccache = context.changeable(name)
    found = next((each for each in ccache.credentials.tgts() if each[1].blob == present), None)
    if found is None:
        raise KcmError(Code.CC_NOTFOUND, "the ccache no longer holds the TGT that was renewed")
    reason = why_no_renewal(found[1], renewed)
    if reason or ccache.credentials.uuid_of_equal(renewed) not in {None, found[0]}:
        raise KcmError(Code.CC_FORMAT, reason or "the ccache has another TGT that equals the renewed one")
    context.collection.store_at(ccache, found[0], renewed)
    return NOTHING


def retrieve(context: Context, name: bytes, match_flags: int, tag: Tag) -> bytes:
    ccache = context.readable(name)
    if ccache.needs_kdc_offset:
        # Only MIT's client sends this request, and it asks for the offset only when it begins to iterate.
        raise KcmError(
            Code.CC_NOSUPP, f"KDC offset {ccache.kdc_offset} s: the client has to iterate to learn it"
        )
    credential = ccache.credentials.find(tag, match_flags)
    if credential is None:
        raise KcmError(Code.CC_NOTFOUND)
    return credential.blob


def remove_cred(context: Context, name: bytes, match_flags: int, tag: Tag) -> bytes:
    removed = context.collection.remove_credentials(context.changeable(name), tag, match_flags)
    # Heimdal's kdestroy reports a missing ticket. libkrb5 removes a configuration entry before it sets it
    # again, and fails if the removal does.
    if not removed and not (tag.server is not None and has_pseudo_realm(tag.server.identity)):
        raise KcmError(Code.CC_NOTFOUND)
    return NOTHING


def get_cred_uuid_list(context: Context, name: bytes) -> bytes:
    return b"".join(context.readable(name).credentials.uuids())


def get_cred_by_uuid(context: Context, name: bytes, uuid: bytes) -> bytes:
    try:
        credential = context.readable(name).credentials.get(uuid)
    except KcmError as error:
        raise _end_of_iteration(error) from None
    if credential is None:
        raise KcmError(Code.CC_END)
    return credential.blob


def _end_of_iteration(error: KcmError) -> KcmError:
    """An unknown UUID ends an iteration, whatever the reason is."""
    return KcmError(Code.CC_END, error.reason) if error.code == Code.FCC_NOFILE else error


def get_cred_list(context: Context, name: bytes) -> Pieces:
    payload = context.readable(name).credentials.packed
    if payload.size > MAX_REPLY_SIZE - 4:
        # This code makes the client believe that the server lacks the operation. Only here this is wanted:
        # the client then fetches the credentials one by one.
        raise KcmError(
            Code.FCC_INTERNAL,
            f"{payload.size} bytes are more than a client takes in one reply ({MAX_REPLY_SIZE})",
        )
    return payload


def not_supported(context: Context, *arguments: Any) -> NoReturn:
    raise KcmError(Code.CC_NOSUPP)


# Scopes: the UIDs whose collections an operation needs

# All UIDs that have ccaches, the peer's first.
EVERYONE = (-1,)


def own_collection(access: Access, peer: Peer, *arguments: Any) -> tuple[int, ...]:
    return (peer.uid,)


def no_collection(access: Access, peer: Peer, *arguments: Any) -> tuple[int, ...]:
    return ()


def named_to_read(access: Access, peer: Peer, name: bytes, *arguments: Any) -> tuple[int, ...]:
    return (access.collection_to_read(peer, name),)


def named_to_change(access: Access, peer: Peer, name: bytes, *arguments: Any) -> tuple[int, ...]:
    return (access.collection_to_change(peer, name),)


def named_by_uuid(access: Access, peer: Peer, name: bytes, *arguments: Any) -> tuple[int, ...]:
    try:
        return named_to_read(access, peer, name)
    except KcmError as error:
        raise _end_of_iteration(error) from None


def both_named_to_change(access: Access, peer: Peer, old: bytes, new: bytes) -> tuple[int, ...]:
    return (access.collection_to_change(peer, old), access.collection_to_change(peer, new))


def own_name_to_change(access: Access, peer: Peer, name: bytes) -> tuple[int, ...]:
    # Root may choose any user's ccache as the default. Root's own default moves.
    access.collection_to_change(peer, name)
    return (peer.uid,)


def listed_collections(access: Access, peer: Peer) -> tuple[int, ...]:
    return EVERYONE if access.lists_all(peer) else (peer.uid,)


def by_uuid(access: Access, peer: Peer, uuid: bytes) -> tuple[int, ...]:
    return (uid_in(uuid) if access.lists_all(peer) else peer.uid,)


Scope = Callable[..., tuple[int, ...]]


class Operation(msgspec.Struct, frozen=True):
    """The implementation of an opcode.

    `scope`: checks the name, and returns the UIDs whose collections the operation needs. `changes`: whether
    it may change something. `changes_by_label`: the same for peers with an SELinux label. `read_arguments`:
    reads `arguments` from a message.
    """

    name: str
    arguments: tuple[Field, ...]
    scope: Scope
    run: Callable[..., Sendable]
    changes: bool
    changes_by_label: bool
    read_arguments: Callable[[bytes], list[Any]]

    @property
    def names_ccache(self) -> bool:
        """Whether the first argument is a ccache's name."""
        return self.arguments[:1] == (NAME,)


def _table(rows: Iterable[tuple[Opcode, Scope, Callable[..., Sendable], bool]]) -> dict[int, Operation]:
    return {
        int(opcode): Operation(
            opcode.name,
            ARGUMENTS.get(opcode, ()),
            scope,
            run,
            changes,
            # A peer with a label may be given a new default of its range, which is stored.
            changes_by_label=changes or opcode == Opcode.GET_DEFAULT_CACHE,
            read_arguments=arguments_reader(ARGUMENTS.get(opcode, ())),
        )
        for opcode, scope, run, changes in rows
    }


_READS, _CHANGES = False, True

OPERATIONS = _table([
    (Opcode.NOOP, no_collection, noop, _READS),
    (Opcode.GET_NAME, named_to_read, get_name, _READS),
    (Opcode.RESOLVE, no_collection, resolve, _READS),
    (Opcode.GEN_NEW, own_collection, gen_new, _READS),
    (Opcode.INITIALIZE, named_to_change, initialize, _CHANGES),
    (Opcode.DESTROY, named_to_change, destroy, _CHANGES),
    (Opcode.STORE, named_to_change, store, _CHANGES),
    (Opcode.RETRIEVE, named_to_read, retrieve, _READS),
    (Opcode.GET_PRINCIPAL, named_to_read, get_principal, _READS),
    (Opcode.GET_CRED_UUID_LIST, named_to_read, get_cred_uuid_list, _READS),
    (Opcode.GET_CRED_BY_UUID, named_by_uuid, get_cred_by_uuid, _READS),
    (Opcode.REMOVE_CRED, named_to_change, remove_cred, _CHANGES),
    (Opcode.SET_FLAGS, no_collection, set_flags, _READS),
    (Opcode.MOVE_CACHE, both_named_to_change, move_cache, _CHANGES),
    (Opcode.GET_CACHE_UUID_LIST, listed_collections, get_cache_uuid_list, _READS),
    (Opcode.GET_CACHE_BY_UUID, by_uuid, get_cache_by_uuid, _READS),
    (Opcode.GET_DEFAULT_CACHE, own_collection, get_default_cache, _READS),
    (Opcode.SET_DEFAULT_CACHE, own_name_to_change, set_default_cache, _CHANGES),
    (Opcode.GET_KDC_OFFSET, named_to_read, get_kdc_offset, _READS),
    (Opcode.SET_KDC_OFFSET, named_to_change, set_kdc_offset, _CHANGES),
    (Opcode.GET_CRED_LIST, named_to_read, get_cred_list, _READS),
    (Opcode.REPLACE, named_to_change, replace, _CHANGES),
    (Opcode.RENEW, named_to_change, renew, _CHANGES),
    *[
        (opcode, no_collection, not_supported, _READS)
        for opcode in (
            Opcode.CHOWN,
            Opcode.CHMOD,
            Opcode.GET_INITIAL_TICKET,
            Opcode.GET_TICKET,
            Opcode.ADD_NTLM_CRED,
            Opcode.HAVE_NTLM_CRED,
            Opcode.DEL_NTLM_CRED,
            Opcode.DO_NTLM_AUTH,
            Opcode.GET_NTLM_USER_LIST,
        )
    ],
])  # fmt: skip
