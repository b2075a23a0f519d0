"""Conversion between domain and store: changes to secrets, and secrets to a collection."""

import logging
from collections.abc import Iterable, Iterator, Sequence

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.changes import (
    CCacheCreated,
    CCacheMoved,
    CCacheRemoved,
    CCacheReplaced,
    Change,
    CredentialRemoved,
    CredentialsCleared,
    CredentialStored,
    CredentialWritten,
    DefaultChanged,
    ExpiryChanged,
    KdcOffsetChanged,
    LabelChanged,
    OldCredentialRemoved,
)
from pykcm.ccaches.collection import Collection
from pykcm.ccaches.defaults import NOTHING_CHOSEN, Defaults
from pykcm.ccaches.expiry import EMPTY_LIFETIME
from pykcm.logs import LimitedLog, User
from pykcm.protocol.codes import KcmError
from pykcm.protocol.credential import parse_stored_credential
from pykcm.protocol.text import escape
from pykcm.store import documents, tree
from pykcm.store.documents import UnreadableSecretError

log = logging.getLogger(__name__)

# The same lines come each time that the collection is read.
_UNREADABLE = LimitedLog(log, "secrets that cannot be read", 30)

# One slice looks at so many secrets, or restores so many bytes of credentials. Each credential counts as some
# more bytes.
_SECRETS_AT_ONCE = 4096
_SLICE = 512 * 1024
_CREDENTIAL = 1024


def secret_changes(uid: int, changes: Sequence[Change]) -> list[tree.SecretChange]:
    """Return the changes of secrets that store these changes of the UID's collection, in order."""
    todo: list[tree.SecretChange] = []
    for change in changes:
        match change:
            case CredentialWritten(ccache, uuid, credential) | CredentialStored(ccache, uuid, credential):
                todo.append(tree.Put(_container(uid, ccache), uuid.hex(), credential.blob))
            case CredentialRemoved(ccache, uuid) | OldCredentialRemoved(ccache, uuid):
                todo.append(tree.Delete(_container(uid, ccache), uuid.hex()))
            case CredentialsCleared(ccache):
                _insert_before_put(todo, [tree.DeleteContainer(_container(uid, ccache))])
            case (
                CCacheCreated(ccache)
                | CCacheReplaced(ccache)
                | KdcOffsetChanged(ccache)
                | LabelChanged(ccache)
                | ExpiryChanged(ccache)
            ):
                secret = tree.ccache_name(ccache.uuid, ccache.name)
                todo.append(
                    tree.Put(tree.ccaches_container(uid), secret, _ccache_json(ccache), ccache.expires)
                )
            case CCacheRemoved(uuid, name, was_last):
                todo.append(tree.DeleteContainer(tree.ccache_container(uid, uuid, name)))
                todo.append(_ccache_removed(uid, uuid, name, was_last=was_last))
            case CCacheMoved(ccache, target_uid, target, _, was_last):
                target_container = _container(target_uid, target)
                renamed = tree.RenameContainer(_container(uid, ccache), target_container)
                _insert_before_put(todo, [tree.DeleteContainer(target_container), renamed])
                todo.append(_ccache_removed(uid, ccache.uuid, ccache.name, was_last=was_last))
            case DefaultChanged(defaults):
                todo.append(_default_secret(uid, defaults))
    return todo


def _insert_before_put(todo: list[tree.SecretChange], containers: list[tree.SecretChange]) -> None:
    """Change containers of credentials before the Put of their ccache, if that is the last change.

    With the Put, the SQLCipher store adds the container if there is none.
    """
    at = len(todo) - bool(todo and tree.is_ccaches_container(todo[-1].container))
    todo[at:at] = containers


def _container(uid: int, ccache: CCache) -> str:
    return tree.ccache_container(uid, ccache.uuid, ccache.name)


def _ccache_removed(uid: int, uuid: bytes, name: bytes, *, was_last: bool) -> tree.SecretChange:
    container = tree.ccaches_container(uid)
    return (
        tree.DeleteContainer(container) if was_last else tree.Delete(container, tree.ccache_name(uuid, name))
    )


def _default_secret(uid: int, defaults: Defaults) -> tree.SecretChange:
    container = tree.uid_container(uid)
    if defaults == NOTHING_CHOSEN:
        # The container holds nothing else.
        return tree.DeleteContainer(container)
    name = defaults.shared
    document = documents.DefaultDocument(
        documents.VERSION,
        documents.to_text(b"%d" % uid if name is None else name),
        {range_: documents.to_text(each) for range_, each in defaults.by_range},
        None in defaults.destroyed,
        [range_ for range_, _ in defaults.by_range if range_ in defaults.destroyed],
    )
    return tree.Put(container, tree.DEFAULT, documents.encode(document))


def _ccache_json(ccache: CCache) -> bytes:
    return documents.encode(
        documents.CCacheDocument(
            documents.VERSION,
            ccache.kdc_offset,
            documents.to_principal_document(ccache.principal),
            ccache.label,
        )
    )


def restore(collection: Collection, secrets: Sequence[tree.Secret]) -> None:
    """Fill an empty collection from its secrets.

    A secret that cannot be read makes its own ccache unavailable; it is logged and kept.
    """
    for _ in restoring(collection, secrets):
        pass


def restoring(collection: Collection, secrets: Sequence[tree.Secret]) -> Iterator[None]:
    """Like restore, but yields after every few milliseconds of work."""
    found = _Found(collection)
    credentials: list[tree.Secret] = []
    for number, secret in enumerate(secrets, 1):
        if not found.takes(secret):
            credentials.append(secret)
        if not number % _SECRETS_AT_ONCE:
            yield
    size = 0
    for secret in credentials:
        size += _CREDENTIAL + len(secret.value)
        if size > _SLICE:
            size = 0
            yield
        found.take_credential(secret)
    _limit_empty(found.ccaches.values(), collection.now)
    collection.restore(list(found.ccaches.values()), found.defaults)


class _Found:
    """The ccaches, by their credentials' container, and the defaults that a UID's secrets contain."""

    def __init__(self, collection: Collection) -> None:
        self.defaults = NOTHING_CHOSEN
        self.ccaches: dict[str, CCache] = {}
        self._collection = collection
        self._taken: set[tuple[str, bytes]] = set()
        self._ccaches_container = tree.ccaches_container(collection.uid)
        self._uid_container = tree.uid_container(collection.uid)

    def takes(self, secret: tree.Secret) -> bool:
        """Take the secret of a ccache or of the defaults; returns False for another one."""
        try:
            if secret.container == self._ccaches_container:
                self._take_ccache(_ccache(secret))
            elif secret.container == self._uid_container and secret.name == tree.DEFAULT:
                self.defaults = _defaults(documents.read_default(_value(secret)))
            else:
                return False
        except (UnreadableSecretError, ValueError) as error:
            _set_aside(self._collection, secret.name, secret, error)
        return True

    def _take_ccache(self, ccache: CCache) -> None:
        identifiers = {("name", ccache.name), ("UUID", ccache.uuid)}
        if not self._taken.isdisjoint(identifiers):
            raise ValueError("another ccache has its name or UUID")
        self._taken |= identifiers
        self.ccaches[tree.ccache_container(self._collection.uid, ccache.uuid, ccache.name)] = ccache

    def take_credential(self, secret: tree.Secret) -> None:
        owner = self.ccaches.get(secret.container)
        if owner is None:
            return
        try:
            credential = parse_stored_credential(_value(secret))
            uuid = tree.credential_uuid(secret.name)
            # No version writes two equal ones; the first one counts.
            if owner.credentials.uuid_of_equal(credential) is None:
                owner.credentials.put(uuid, credential)
        except (KcmError, UnreadableSecretError, ValueError) as error:
            del self.ccaches[secret.container]
            self._collection.unavailable_labels[owner.name] = owner.label
            _set_aside(self._collection, secret.container.rpartition("/")[2], secret, error)


def _value(secret: tree.Secret) -> bytes:
    """The secret's value; raises UnreadableSecretError where the store could not read it."""
    if secret.damage:
        raise UnreadableSecretError(secret.damage)
    return secret.value


def _limit_empty(ccaches: Iterable[CCache], now: float) -> None:
    """Give an expiry to ccaches without tickets that an older version stored as never expiring.

    That version took an entry that is no ticket for one that never ends.
    """
    for ccache in ccaches:
        if ccache.expires is None and not ccache.has_tickets:
            ccache.empty_expires = int(now) + EMPTY_LIFETIME


def _defaults(document: documents.DefaultDocument) -> Defaults:
    by_range = tuple((range_, documents.from_text(each)) for range_, each in document.by_range.items())
    destroyed: set[str | None] = {
        range_ for range_ in document.destroyed_ranges if range_ in document.by_range
    }
    if document.destroyed:
        destroyed.add(None)
    return Defaults(documents.from_text(document.name), by_range, frozenset(destroyed))


def _ccache(secret: tree.Secret) -> CCache:
    uuid, name = tree.split_ccache_name(secret.name)
    document = documents.read_ccache(_value(secret))
    principal = documents.from_principal_document(document.principal)
    # This expiry counts only without tickets.
    return CCache(uuid, name, principal, document.label, document.kdc_offset, empty_expires=secret.expires)


def _set_aside(collection: Collection, ccache: str, secret: tree.Secret, error: Exception) -> None:
    name = None
    outcome = "its ccache is unavailable until it is destroyed"
    try:
        uuid, name = tree.split_ccache_name(ccache)
        collection.unavailable[name] = uuid
    except ValueError:
        # A secret that belongs to no ccache stays where it is.
        outcome = "the default is forgotten" if ccache == tree.DEFAULT else "nothing leads to it"
    _UNREADABLE.write(
        logging.ERROR,
        collection.uid,
        "%s: %ssecret %s/%s cannot be read (%s): %s",
        User(collection.uid),
        "" if name is None else f"ccache KCM:{escape(name)}: ",
        escape(secret.container.encode()),
        escape(secret.name.encode()),
        error,
        outcome,
        fields={"KCM_UID": collection.uid, "KCM_CCACHE": "" if name is None else escape(name)},
    )
