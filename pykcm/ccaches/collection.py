"""A collection: the ccaches of one UID, their names, their default, and every change that is made to them.

Each method that changes something checks everything first and then changes, so that one which raises has
changed nothing; what it changed is recorded in `changes` until it is taken. A name that was chosen
(GEN_NEW, SET_DEFAULT_CACHE) but not initialised is no ccache yet: it has no principal, is not listed and
cannot be read; the default may name it all the same, as sshd's order of calls needs.
"""

import errno
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence

from pykcm.ccaches import room
from pykcm.ccaches.ccache import UNKNOWN_LABEL, CCache
from pykcm.ccaches.changes import (
    CCacheMoved,
    CCacheRemoved,
    CCacheWritten,
    Change,
    CredentialRemoved,
    CredentialsCleared,
    CredentialWritten,
    DefaultChanged,
    Removal,
)
from pykcm.ccaches.defaults import NOTHING_CHOSEN, Defaults, Follows
from pykcm.ccaches.expiry import EMPTY_LIFETIME
from pykcm.ccaches.quotas import NO_LIMITS, CCacheCount, Quotas, quota_excess
from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.credential import Credential
from pykcm.protocol.principal import Principal
from pykcm.protocol.tag import Tag
from pykcm.protocol.text import escape
from pykcm.protocol.wire import UUID_SIZE

_UID_SIZE = 4

# Bytes of memory that a collection, or one of its defaults, takes up beside the ccaches. Measured.
_OVERHEAD = 2000

# Gives the seconds since the epoch.
Clock = Callable[[], float]

# The option by which an expired ccache goes that is not in anyone's way.
EXPIRED = "expired_retention"


def uid_in(uuid: bytes) -> int:
    """The UID whose collection the ccache of this UUID is in: a UUID finds its ccache without an index."""
    return int.from_bytes(uuid[:_UID_SIZE])


class Collection:
    """The ccaches of one UID.

    `unavailable` holds the names of ccaches whose secrets cannot be read, each with its UUID: they are
    not listed, answer EIO, keep their name, and can only be destroyed. `unavailable_labels` has the labels
    of those of them whose label is known.
    """

    def __init__(
        self,
        uid: int,
        clock: Clock,
        quotas: Quotas = NO_LIMITS,
        ccache_count: CCacheCount | None = None,
        removal_clock: Clock | None = None,
    ) -> None:
        self.uid = uid
        self.unavailable: dict[bytes, bytes] = {}
        self.unavailable_labels: dict[bytes, str | None] = {}
        self._clock = clock
        self._removal_clock = removal_clock or clock
        self._quotas = quotas
        self._ccache_count = ccache_count or CCacheCount()
        self._own_name = b"%d" % uid
        self._ccaches: dict[bytes, CCache] = {}
        self._by_uuid: dict[bytes, CCache] = {}
        self._defaults = NOTHING_CHOSEN
        # Of all ccaches together.
        self._size = 0
        self._credentials = 0
        self._changes: list[Change] = []
        self._changed_size = 0
        self._changed_number = 0
        self._removals: list[Removal] = []

    def __len__(self) -> int:
        return len(self._ccaches)

    def __iter__(self) -> Iterator[CCache]:
        return iter(self._ccaches.values())

    def take_changes(self) -> list[Change]:
        """What has changed since the last call, in order."""
        changes = self._changes
        if changes:
            self._changes = []
        return changes

    def take_changed_size(self) -> int:
        """The bytes that the changes since the last call write and delete, about."""
        size, self._changed_size = self._changed_size, 0
        return size

    def take_changed_number(self) -> int:
        """How many ccaches more the changes since the last call have made; negative: how many less."""
        number, self._changed_number = self._changed_number, 0
        return number

    def take_removals(self) -> list[Removal]:
        """What has gone since the last call without anybody's asking: the changes tell how."""
        removals = self._removals
        if removals:
            self._removals = []
        return removals

    def restore(self, ccaches: Sequence[CCache], defaults: Defaults = NOTHING_CHOSEN) -> None:
        """Fill an empty collection with what is stored, in stored order; no change is recorded."""
        for ccache in ccaches:
            self._ccaches[ccache.name] = ccache
            self._by_uuid[ccache.uuid] = ccache
            self._count_in(ccache)
        shared = None if defaults.shared == self._own_name else defaults.shared
        self._defaults = defaults._replace(shared=shared)

    def copy(self, ccache_count: CCacheCount | None = None) -> "Collection":
        """Another one with the same ccaches, for trying what a change would do: nothing is recorded of it.

        `ccache_count`: what it counts in; None: as many as there are now.
        """
        ccache_count = ccache_count or CCacheCount(self._ccache_count.total)
        copied = Collection(self.uid, self._clock, self._quotas, ccache_count, self._removal_clock)
        copied.unavailable = dict(self.unavailable)
        copied.unavailable_labels = dict(self.unavailable_labels)
        copied.restore([ccache.copy() for ccache in self], self._defaults)
        return copied

    @property
    def ccache_count(self) -> CCacheCount:
        """What it counts its ccaches in."""
        return self._ccache_count

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self._clock()

    @property
    def removal_time(self) -> float:
        """Seconds since the epoch: a ccache may be removed as expired if it has expired by then.

        It is earlier than `now` while the clock is in doubt.
        """
        return self._removal_clock()

    @property
    def size(self) -> int:
        """Bytes of all its ccaches, as quotas count them."""
        return self._size

    @property
    def footprint(self) -> int:
        """Bytes of memory that it takes up, about."""
        return self._size + _OVERHEAD * (1 + len(self._defaults.own))

    # Reading

    def get(self, name: bytes) -> CCache | None:
        """The ccache of this name; raises EIO where its secrets cannot be read."""
        ccache = self._ccaches.get(name)
        if ccache is None and name in self.unavailable:
            raise KcmError(errno.EIO, "the ccache's secrets cannot be read")
        return ccache

    def by_uuid(self, uuid: bytes) -> CCache | None:
        return self._by_uuid.get(uuid)

    @property
    def default_name(self) -> bytes:
        """The chosen name of the default that peers share, whether or not a ccache has it."""
        shared = self._defaults.shared
        return self._own_name if shared is None else shared

    def own_default(self, whose: str) -> bytes | None:
        """The chosen name of the default that peers of this SELinux range have of their own."""
        return self._defaults.of(whose)

    @property
    def own_defaults(self) -> tuple[tuple[str, bytes], ...]:
        """All of those, by range."""
        return self._defaults.own

    def is_default(self, name: bytes) -> bool:
        """Whether it is chosen as the shared default, or as that of some peers of their own."""
        return name == self.default_name or any(name == own for _, own in self._defaults.own)

    def is_destroyed(self, whose: str | None) -> bool:
        """Whether the user of this default destroyed it, so that no other ccache takes its place."""
        return whose in self._defaults.destroyed

    def has(self, name: bytes) -> bool:
        """Whether the name is taken by a ccache, readable or not."""
        return name in self._ccaches or name in self.unavailable

    def label_of(self, name: bytes) -> str | None:
        """The label of the ccache that has this name; UNKNOWN_LABEL where that cannot be read."""
        ccache = self._ccaches.get(name)
        return self.unavailable_labels.get(name, UNKNOWN_LABEL) if ccache is None else ccache.label

    def unused_name(self) -> bytes:
        """A name under this UID that nothing has."""
        while True:
            name = b"%s:%s" % (self._own_name, secrets.token_hex(4).encode())
            defaults = {self._defaults.shared, *(own for _, own in self._defaults.own)}
            if not self.has(name) and name not in defaults:
                return name

    # Changing

    def set_default(self, name: bytes, whose: str | None = None) -> None:
        """Move the default that peers share, or the one that peers of the range `whose` have of their own."""
        if whose is None:
            self._set_defaults(self._defaults.with_shared(None if name == self._own_name else name))
        else:
            self._set_defaults(self._defaults.with_own(whose, name, self.has))

    def keep_destroyed(self, whose: str | None) -> None:
        """Let no other ccache take the place of this default, which its user has destroyed.

        That ends when a ccache of its name is made, another is chosen, or the last ccache goes.
        """
        self._set_defaults(self._defaults.with_destroyed(whose))

    def forget_destroyed(self, whose: str | None) -> None:
        """Let another ccache take the place of this default again."""
        self._set_defaults(self._defaults.without_destroyed({whose}))

    def _set_defaults(self, defaults: Defaults) -> None:
        if defaults != self._defaults:
            self._defaults = defaults
            self._changes.append(DefaultChanged(*defaults))

    def initialize(self, name: bytes, principal: Principal, label: str | None) -> CCache:
        """Create the ccache, or empty it: no credentials, KDC offset 0. Never moves the default."""
        return self.replace(name, principal, 0, (), label)

    def replace(
        self,
        name: bytes,
        principal: Principal,
        kdc_offset: int,
        credentials: Sequence[Credential],
        label: str | None,
    ) -> CCache:
        """Give the ccache these contents, all of them or none; created where it is missing.

        Of credentials that equal each other the last one counts, as if they had been stored in turn.
        """
        last_of_equals = list({credential.equality: credential for credential in credentials}.values())
        ccache = CCache(self._new_ccache_uuid(), name, principal, label, kdc_offset, self._empty_expires())
        size = ccache.size + sum(credential.size for credential in last_of_equals)
        plan = self.plan_room(name, size, len(last_of_equals))
        self.fill(ccache, last_of_equals)
        self.make_room(plan, ccache)
        return ccache

    def plan_room(self, name: bytes, size: int, credentials: int, *, is_moved: bool = False) -> room.Plan:
        """Plan the removals for a ccache of this size and number of credentials; raises EDQUOT.

        Its own service tickets stay. One that is moved here from another UID makes no more ccaches in all.
        """
        overwritten = self.get(name)
        grows = size if overwritten is None else size - overwritten.size
        wanted = room.Wanted()
        if overwritten is None:
            total = self._ccache_count.total
            wanted = wanted._replace(
                max_ccaches=0 if total is None or is_moved else total + 1,
                max_uid_ccaches=len(self._ccaches) + len(self.unavailable) + 1,
            )
        if grows > 0:
            wanted = wanted._replace(max_ccache_size=size, max_uid_size=self._size + grows)
        more = credentials if overwritten is None else credentials - len(overwritten.credentials)
        if more > 0:
            wanted = wanted._replace(
                max_ccache_credentials=credentials, max_uid_credentials=self._credentials + more
            )
        return self._plan(name, wanted)

    def make_room(self, plan: room.Plan, ccache: CCache) -> None:
        """Carry out a plan, once the change is made that needs it: `ccache` is the one written.

        Not before, so that a collection that is never without a ccache does not seem to have been.
        """
        for removed, reason in plan.ccaches:
            self._remove_unasked(removed, reason)
        if plan.tickets:
            self._removals.append(Removal(ccache.name, plan.tickets_reason, len(plan.tickets)))
            self._remove(ccache, plan.tickets)

    def fill(self, ccache: CCache, credentials: Sequence[Credential]) -> None:
        """Take in a new ccache, or put it in the place of the one of its name; no quota is asked.

        One that is overwritten hands on what stays with the name: its UUID and label.
        """
        overwritten = self._put_in_place(ccache)
        self._fill_in(
            ccache, credentials, [] if overwritten is None else list(overwritten.credentials.uuids())
        )

    def take_over(self, moved: CCache, name: bytes) -> CCache:
        """Take in a ccache with the contents of another one, which then has to be handed over (see below).

        It is put in the place of the one of this name; no quota is asked.
        """
        ccache = CCache(
            self._new_ccache_uuid(),
            name,
            moved.principal,
            moved.label,
            moved.kdc_offset,
            moved.empty_expires,
            # The same object: nothing grows with the number of credentials.
            moved.credentials,
        )
        self._put_in_place(ccache)
        return ccache

    def hand_over(self, name: bytes, uid: int, target: CCache) -> None:
        """Remove the ccache, whose credentials are `target`'s now, in the collection of `uid`."""
        ccache = self._ccaches[name]
        self._take_out(ccache)
        self._removed(CCacheMoved(ccache.uuid, name, uid, target))

    def _put_in_place(self, ccache: CCache) -> CCache | None:
        """Put the ccache into the place of the one of its name, which is given back."""
        overwritten = self._ccaches.get(ccache.name)
        if overwritten is None:
            self._count(1)
            self._set_defaults(self._defaults.filled(ccache.name, self._own_name))
        else:
            ccache.uuid = overwritten.uuid
            ccache.label = overwritten.label
            self._count_out(overwritten)
            self._changed_size += overwritten.size
        # In place: a ccache that is overwritten keeps its place in the list.
        self._ccaches[ccache.name] = ccache
        self._by_uuid[ccache.uuid] = ccache
        self._count_in(ccache)
        self._changes.append(CCacheWritten(ccache))
        return overwritten

    def relabel(self, ccache: CCache, label: str | None) -> None:
        """Give the ccache this label, whatever the creator's was."""
        ccache.label = label
        self._changes.append(CCacheWritten(ccache))

    def destroy(self, name: bytes) -> None:
        """Remove the ccache. A default that named it goes on naming it."""
        ccache = self._ccaches.get(name)
        if ccache is not None:
            self._take_out(ccache)
            self._changed_size += ccache.size
            uuid = ccache.uuid
        elif name in self.unavailable:
            uuid = self.unavailable.pop(name)
            self.unavailable_labels.pop(name, None)
        else:
            raise KcmError(Code.FCC_NOFILE)
        self._removed(CCacheRemoved(uuid, name))

    def _take_out(self, ccache: CCache) -> None:
        del self._ccaches[ccache.name]
        del self._by_uuid[ccache.uuid]
        self._count_out(ccache)

    def _removed(self, change: CCacheRemoved | CCacheMoved) -> None:
        self._count(-1)
        is_empty = not self._ccaches and not self.unavailable
        self._changes.append(change._replace(was_last=is_empty))
        if is_empty:
            self._set_defaults(self._defaults.without_destroyed(self._defaults.destroyed))

    def rename(self, old: bytes, new: bytes, follows: Follows) -> None:
        """Give the ccache another name, in place of the one that has it, with the defaults that follow it."""
        self.hand_over(old, self.uid, self.take_over(self._ccaches[old], new))
        moved = self._defaults.moved(old, new, self._own_name, follows)
        self._set_defaults(moved.filled(new, self._own_name))

    def remove_expired(self, uuids: Iterable[bytes], until: int, most: int = 0) -> tuple[int, bool]:
        """Remove those of these ccaches that expired at `until`, in seconds since the epoch, or before.

        `most`: so many bytes are removed together, or a single larger ccache; 0: no limit. Gives how many
        ccaches were removed, and whether there are more.
        """
        before, size = len(self), 0
        for uuid in uuids:
            ccache = self._by_uuid.get(uuid)
            if ccache is None or ccache.expires is None or ccache.expires > until:
                continue
            if most and size and size + ccache.size > most:
                return before - len(self), True
            size += ccache.size
            self._remove_unasked(ccache, EXPIRED)
        return before - len(self), False

    def write_expiries(self) -> None:
        """Record every ccache as written: the store then has the expiry that follows from its credentials."""
        self._changes += map(CCacheWritten, self)

    def store(self, ccache: CCache, credential: Credential) -> None:
        """Replace the stored credential that equals this one where it stands, else add it at the end."""
        credentials = ccache.credentials
        uuid = credentials.uuid_of_equal(credential)
        replaced = None if uuid is None else credentials.get(uuid)
        grows = credential.size - (0 if replaced is None else replaced.size)
        plan = room.NOTHING
        # What shrinks is always right.
        if grows > 0 or replaced is None:
            added = int(replaced is None)
            wanted = room.Wanted(
                max_ccache_size=ccache.size + grows,
                max_uid_size=self._size + grows,
                max_ccache_credentials=added and len(credentials) + 1,
                max_uid_credentials=added and self._credentials + 1,
            )
            if room.is_needed(self._quotas, wanted):
                plan = self._plan(ccache.name, wanted, room.service_tickets(ccache, uuid))
        latest_end = credentials.latest_end
        self._put(ccache, uuid or secrets.token_bytes(UUID_SIZE), credential)
        if plan is not room.NOTHING:
            self.make_room(plan, ccache)
        if credentials.latest_end != latest_end:
            self._expiry_changed(ccache)

    def remove_credentials(self, ccache: CCache, tag: Tag, match_flags: int) -> int:
        """Remove every match; tells how many there were."""
        latest_end = ccache.credentials.latest_end
        matches = ccache.credentials.find_all(tag, match_flags)
        self._remove(ccache, matches)
        if ccache.credentials.latest_end != latest_end:
            self._expiry_changed(ccache)
        return len(matches)

    def set_kdc_offset(self, ccache: CCache, kdc_offset: int) -> None:
        if kdc_offset != ccache.kdc_offset:
            ccache.kdc_offset = kdc_offset
            self._changes.append(CCacheWritten(ccache))

    # What the changes have in common

    def _count_in(self, ccache: CCache) -> None:
        self._size += ccache.size
        self._credentials += len(ccache.credentials)

    def _count_out(self, ccache: CCache) -> None:
        self._size -= ccache.size
        self._credentials -= len(ccache.credentials)

    def _put(self, ccache: CCache, uuid: bytes, credential: Credential) -> None:
        credentials = ccache.credentials
        size, count = credentials.size, len(credentials)
        credentials.put(uuid, credential)
        self._changed_size += credential.size
        self._size += credentials.size - size
        self._credentials += len(credentials) - count
        self._changes.append(CredentialWritten(ccache, uuid, credential))

    def _remove(self, ccache: CCache, uuids: Iterable[bytes]) -> None:
        self._count_out(ccache)
        before = ccache.size
        for uuid in uuids:
            ccache.credentials.remove(uuid)
            self._changes.append(CredentialRemoved(ccache, uuid))
        self._count_in(ccache)
        self._changed_size += before - ccache.size

    def _remove_unasked(self, ccache: CCache, reason: str) -> None:
        self._removals.append(Removal(ccache.name, reason, is_empty=not ccache.has_tickets))
        self.destroy(ccache.name)

    def _expiry_changed(self, ccache: CCache) -> None:
        ccache.empty_expires = self._empty_expires()
        self._changes.append(CCacheWritten(ccache))

    def _empty_expires(self) -> int:
        return int(self._clock()) + EMPTY_LIFETIME

    def _fill_in(self, ccache: CCache, credentials: Sequence[Credential], taken: list[bytes]) -> None:
        """Put credentials into a ccache without any, over those that are stored under the UUIDs `taken`.

        One after the other takes the place of a stored one: to write over is cheaper for the store than to
        delete and to add.
        """
        if taken and not credentials:
            self._changes.append(CredentialsCleared(ccache))
            return
        left = iter(taken)
        for credential in credentials:
            self._put(ccache, next(left, None) or secrets.token_bytes(UUID_SIZE), credential)
        for uuid in left:
            self._changes.append(CredentialRemoved(ccache, uuid))

    def _new_ccache_uuid(self) -> bytes:
        return self.uid.to_bytes(_UID_SIZE) + secrets.token_bytes(UUID_SIZE - _UID_SIZE)

    def _count(self, more: int) -> None:
        self._changed_number += more
        if self._ccache_count.total is not None:
            self._ccache_count.total += more

    def _plan(self, name: bytes, wanted: room.Wanted, tickets: Iterable[room.Ticket] = ()) -> room.Plan:
        """What has to go so that there may be what is wanted; raises EDQUOT. `name`: the ccache written."""
        if not room.is_needed(self._quotas, wanted):
            return room.NOTHING
        ccache = self._ccaches.get(name)
        quotas = self._quotas.at_least(
            0 if ccache is None else ccache.size,
            self._size,
            0 if ccache is None else len(ccache.credentials),
            self._credentials,
        )
        others = [ccache for ccache in self if ccache.name != name]
        plan = room.make_plan(quotas, wanted, room.removable_ccaches(others, self.removal_time), tickets)
        if plan.lacking:
            whose = {
                "max_ccaches": "all users together",
                "max_ccache_size": f"ccache {escape(name)}",
                "max_ccache_credentials": f"ccache {escape(name)}",
            }
            owner = whose.get(plan.lacking, f"UID {self.uid}")
            excess = quota_excess(
                plan.lacking, getattr(wanted, plan.lacking), getattr(self._quotas, plan.lacking)
            )
            raise KcmError(errno.EDQUOT, f"{plan.lacking} reached by {owner}: {excess}")
        return plan


def move(
    source: Collection,
    old: bytes,
    target: Collection,
    new: bytes,
    follows: Follows = lambda _whose: True,
) -> None:
    """MOVE_CACHE: `new` takes the contents of `old`, created or overwritten; `old` is gone.

    Defaults that named `old` and follow it name `new`, unless `new` is in another UID's collection.
    """
    moved = source.get(old)
    if moved is None:
        raise KcmError(Code.FCC_NOFILE)
    target.get(new)
    if old == new:
        return
    if target is source:
        source.rename(old, new, follows)
        return
    plan = target.plan_room(new, moved.size, len(moved.credentials), is_moved=True)
    renamed = target.take_over(moved, new)
    target.make_room(plan, renamed)
    source.hand_over(old, target.uid, renamed)
