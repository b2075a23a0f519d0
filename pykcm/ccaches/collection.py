"""A collection: the ccaches of one UID, and every change that is made to them.

Each method that changes something checks everything first and then changes, so that one which raises has
changed nothing. The collection records its changes until they are taken. A name that was chosen (GEN_NEW,
SET_DEFAULT_CACHE) but not initialised is no ccache yet: it has no principal, is not listed and cannot be
read. The default may name it, because sshd sets the default before it creates the ccache.
"""

import os
from collections.abc import Callable, Iterable, Sequence

import msgspec

from pykcm.ccaches import eviction
from pykcm.ccaches.ccache import CCache, new_ccache_uuid
from pykcm.ccaches.changes import (
    EXPIRED,
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
from pykcm.ccaches.defaults import NOTHING_CHOSEN, Defaults, Follows
from pykcm.ccaches.expiry import empty_expires
from pykcm.ccaches.lookup import CCacheLookup
from pykcm.ccaches.quotas import NO_LIMITS, CCacheCount, Quotas, Use
from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.credential import Credential
from pykcm.protocol.principal import Principal
from pykcm.protocol.tag import Tag
from pykcm.protocol.wire import UUID_SIZE

# Bytes of memory that a collection takes up without its ccaches, and the default of one range. Measured.
_OVERHEAD = 2000

# Gives the seconds since the epoch.
Clock = Callable[[], float]


class Collection(CCacheLookup):
    """The ccaches of one UID. `clock` and `removal_clock` give `now` and `removal_time`."""

    def __init__(
        self,
        uid: int,
        clock: Clock,
        quotas: Quotas = NO_LIMITS,
        ccache_count: CCacheCount | None = None,
        removal_clock: Clock | None = None,
    ) -> None:
        super().__init__(uid, clock, removal_clock or clock)
        self._room = eviction.Room(quotas, ccache_count or CCacheCount())
        self._changes: list[Change] = []

    @property
    def has_changed(self) -> bool:
        """Whether there are changes to take."""
        return bool(self._changes)

    def take_changes(self) -> list[Change]:
        """The changes since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes

    def restore(self, ccaches: Sequence[CCache], defaults: Defaults = NOTHING_CHOSEN) -> None:
        """Fill an empty collection with what is stored, in stored order; no change is recorded."""
        for ccache in ccaches:
            self._insert(ccache)
            self._room.count_in(ccache)
        shared = None if defaults.shared == self.own_name else defaults.shared
        self._defaults = msgspec.structs.replace(defaults, shared=shared)

    def copy(self, ccache_count: CCacheCount | None = None) -> "Collection":
        """Return a copy, on which a change can be tried: the copy records nothing for the store.

        `ccache_count`: counts its ccaches; None: a new one with the present number.
        """
        ccache_count = ccache_count or CCacheCount(self._room.ccache_count.total)
        copied = Collection(self.uid, self._clock, self._room.quotas, ccache_count, self._removal_clock)
        copied.unavailable = dict(self.unavailable)
        copied.unavailable_labels = dict(self.unavailable_labels)
        copied.restore([ccache.copy() for ccache in self], self._defaults)
        return copied

    @property
    def ccache_count(self) -> CCacheCount:
        """Counts the ccaches of all collections."""
        return self._room.ccache_count

    @property
    def use(self) -> Use:
        """Its use of the quotas that a UID has."""
        return Use(len(self) + len(self.unavailable), self._room.size, self._room.credentials)

    @property
    def footprint(self) -> int:
        """About how many bytes of memory it takes up."""
        return self._room.size + _OVERHEAD * (1 + len(self._defaults.by_range))

    # Defaults

    def set_default(self, name: bytes, range_: str | None = None) -> None:
        """Choose the default of this SELinux range, or the one that peers share (None)."""
        if range_ is None:
            self._set_defaults(self._defaults.with_shared(None if name == self.own_name else name))
        else:
            self._set_defaults(self._defaults.with_range(range_, name, self.has))

    def keep_destroyed(self, range_: str | None) -> None:
        """Let no other ccache take the place of this default, which its user has destroyed.

        That ends when a ccache of its name is created, another is chosen, or the last ccache is removed.
        """
        self._set_defaults(self._defaults.with_destroyed(range_))

    def forget_destroyed(self, range_: str | None) -> None:
        """Let another ccache take the place of this default again."""
        self._set_defaults(self._defaults.without_destroyed({range_}))

    def _set_defaults(self, defaults: Defaults) -> None:
        if defaults != self._defaults:
            self._changes.append(DefaultChanged(defaults, self._defaults))
            self._defaults = defaults

    # Contents of a ccache

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
        last_of_equals = list({each.equality: each for each in credentials}.values())
        expires = empty_expires(self._clock())
        ccache = CCache(new_ccache_uuid(self.uid), name, principal, label, kdc_offset, expires)
        size = ccache.size + sum(credential.size for credential in last_of_equals)
        plan = self.plan_room(name, size, len(last_of_equals))
        self.fill(ccache, last_of_equals)
        self.make_room(plan, ccache)
        return ccache

    def fill(self, ccache: CCache, credentials: Sequence[Credential]) -> None:
        """Add a new ccache, or put it in the place of the one of its name; no quota is checked.

        The UUID and the label of an overwritten ccache stay with the name.
        """
        overwritten = self._put_in_place(ccache)
        old_uuids = [] if overwritten is None else list(overwritten.credentials.uuids())
        if old_uuids and not credentials:
            self._changes.append(CredentialsCleared(ccache))
            return
        # A new credential takes the place of an old one: the store overwrites at less cost than it deletes
        # and adds.
        left = iter(old_uuids)
        self._room.count_out(ccache)
        for credential in credentials:
            uuid = next(left, None) or os.urandom(UUID_SIZE)
            ccache.credentials.put(uuid, credential)
            self._changes.append(CredentialWritten(ccache, uuid, credential))
        self._room.count_in(ccache)
        self._changes += [OldCredentialRemoved(ccache, uuid) for uuid in left]

    def store(self, ccache: CCache, credential: Credential) -> None:
        """Replace the stored credential that equals this one where it stands, else add it at the end."""
        self.store_at(ccache, ccache.credentials.uuid_of_equal(credential), credential)

    def store_at(self, ccache: CCache, uuid: bytes | None, credential: Credential) -> None:
        """Replace the stored credential of this UUID where it stands; None: add it at the end."""
        replaced = None if uuid is None else ccache.credentials.get(uuid)
        wanted = self._room.wanted_for_credential(ccache, credential, replaced)
        plan = self._plan(ccache.name, wanted, eviction.service_tickets(ccache, uuid))
        latest_end = ccache.credentials.latest_end
        self._put(ccache, uuid or os.urandom(UUID_SIZE), credential, replaced)
        if plan is not eviction.NOTHING:
            self.make_room(plan, ccache)
        self._note_latest_end(ccache, latest_end)

    def renew(self, ccache: CCache, uuid: bytes, renewed: Credential) -> None:
        """Replace the credential of this UUID where it stands, and nothing else; no quota is checked.

        Raises ValueError if an equal credential has another UUID.
        """
        latest_end = ccache.credentials.latest_end
        self._put(ccache, uuid, renewed, ccache.credentials.get(uuid))
        self._note_latest_end(ccache, latest_end)

    def remove_credentials(self, ccache: CCache, tag: Tag, match_flags: int) -> int:
        """Remove every match; returns how many there were."""
        latest_end = ccache.credentials.latest_end
        matches = ccache.credentials.find_all(tag, match_flags)
        self._remove(ccache, matches)
        self._note_latest_end(ccache, latest_end)
        return len(matches)

    def set_kdc_offset(self, ccache: CCache, kdc_offset: int) -> None:
        before = ccache.kdc_offset
        if kdc_offset != before:
            ccache.kdc_offset = kdc_offset
            self._changes.append(KdcOffsetChanged(ccache, before))

    def relabel(self, ccache: CCache, label: str | None) -> None:
        """Give the ccache this label, whatever its creator's was."""
        before = ccache.label
        if label != before:
            ccache.label = label
            self._changes.append(LabelChanged(ccache, before))

    def write_expiries(self) -> None:
        """Record the expiry of every ccache, so that the store has what follows from the credentials."""
        self._changes += map(ExpiryChanged, self)

    # Removal

    def destroy(self, name: bytes, reason: str = "") -> None:
        """Remove the ccache. A default that named it still does. `reason` as in CCacheRemoved."""
        ccache = self._ccaches.get(name)
        label = self.label_of(name)
        if ccache is not None:
            self._take_out(ccache)
            uuid = ccache.uuid
        elif name in self.unavailable:
            uuid = self.unavailable.pop(name)
            self.unavailable_labels.pop(name, None)
        else:
            raise KcmError(Code.FCC_NOFILE)
        self._removed(CCacheRemoved(uuid, name, self.is_empty, ccache, label, reason))

    def remove_expired(self, uuids: Iterable[bytes], until: int, most: int = 0) -> tuple[int, bool]:
        """Remove those of these ccaches that expired at `until`, in seconds since the epoch, or before.

        `most`: so many bytes are removed together, or a single larger ccache; 0: no limit. Returns how many
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
            self.destroy(ccache.name, EXPIRED)
        return before - len(self), False

    # Moves

    def take_over(self, moved: CCache, name: bytes) -> tuple[CCache, CCache | None]:
        """Add a ccache with the contents of another one, which then has to be handed over (see below).

        It is put in the place of the one of this name, which is returned as well; no quota is checked.
        """
        ccache = CCache(
            new_ccache_uuid(self.uid),
            name,
            moved.principal,
            moved.label,
            moved.kdc_offset,
            moved.empty_expires,
            # The same object: nothing grows with the number of credentials.
            moved.credentials,
        )
        return ccache, self._put_in_place(ccache, moved.name)

    def hand_over(self, name: bytes, uid: int, target: CCache, overwritten: CCache | None) -> None:
        """Remove the ccache, whose credentials are `target`'s now, in the collection of `uid`."""
        ccache = self._ccaches[name]
        self._take_out(ccache)
        self._removed(CCacheMoved(ccache, uid, target, overwritten, self.is_empty))

    def rename(self, old: bytes, new: bytes, follows: Follows) -> CCache:
        """Give the ccache another name, in place of the one that has it, with the defaults that follow it."""
        renamed, overwritten = self.take_over(self._ccaches[old], new)
        self.hand_over(old, self.uid, renamed, overwritten)
        defaults = self._defaults.after_rename(old, new, self.own_name, follows)
        self._set_defaults(defaults.after_creation(new, self.own_name))
        return renamed

    # Quotas

    def plan_room(self, name: bytes, size: int, credentials: int, *, is_moved: bool = False) -> eviction.Plan:
        """Plan the removals for a ccache of this size and number of credentials; raises EDQUOT.

        Its own service tickets stay. One that is moved here from another UID makes no more ccaches in all.
        """
        wanted = self._room.wanted_for_contents(
            self.get(name), size, credentials, len(self) + len(self.unavailable), is_moved=is_moved
        )
        return self._plan(name, wanted)

    def make_room(self, plan: eviction.Plan, ccache: CCache) -> None:
        """Carry out a plan after the change that needs it; `ccache` is the one that was written.

        Before the change the removals could empty the collection, and record its last ccache as removed.
        """
        for removed, reason in plan.ccaches:
            self.destroy(removed.name, reason)
        if plan.tickets:
            self._remove(ccache, plan.tickets, plan.tickets_reason)

    def _plan(
        self, name: bytes, wanted: eviction.Wanted, tickets: Iterable[eviction.Ticket] = ()
    ) -> eviction.Plan:
        if self._room.is_enough(wanted):
            return eviction.NOTHING
        others = (ccache for ccache in self if ccache.name != name)
        return self._room.plan(wanted, name, self._ccaches.get(name), others, self.removal_time, tickets)

    # Steps that several changes share

    def _put_in_place(self, ccache: CCache, moved_from: bytes | None = None) -> CCache | None:
        """Put the ccache into the place of the one of its name, which is returned."""
        overwritten = self._ccaches.get(ccache.name)
        if overwritten is not None:
            ccache.uuid = overwritten.uuid
            ccache.label = overwritten.label
            self._room.count_out(overwritten)
        self._insert(ccache)
        self._room.count_in(ccache)
        if overwritten is None:
            self._changes.append(CCacheCreated(ccache, moved_from))
            self._room.ccache_count.add(1)
            self._set_defaults(self._defaults.after_creation(ccache.name, self.own_name))
        else:
            self._changes.append(CCacheReplaced(ccache, overwritten, moved_from))
        return overwritten

    def _put(self, ccache: CCache, uuid: bytes, credential: Credential, replaced: Credential | None) -> None:
        size = ccache.credentials.size
        ccache.credentials.put(uuid, credential)
        self._room.size += ccache.credentials.size - size
        self._room.credentials += replaced is None
        self._changes.append(CredentialStored(ccache, uuid, credential, replaced))

    def _take_out(self, ccache: CCache) -> None:
        self._delete(ccache)
        self._room.count_out(ccache)

    def _removed(self, change: CCacheRemoved | CCacheMoved) -> None:
        self._changes.append(change)
        self._room.ccache_count.add(-1)
        if change.was_last:
            self._set_defaults(self._defaults.without_destroyed(self._defaults.destroyed))

    def _remove(self, ccache: CCache, uuids: Iterable[bytes], reason: str = "") -> None:
        self._room.count_out(ccache)
        for uuid in uuids:
            removed = ccache.credentials.remove(uuid)
            self._changes.append(CredentialRemoved(ccache, uuid, removed, reason))
        self._room.count_in(ccache)

    def _note_latest_end(self, ccache: CCache, before: int | None) -> None:
        if ccache.credentials.latest_end != before:
            ccache.empty_expires = empty_expires(self._clock())
            self._changes.append(ExpiryChanged(ccache))


def move(
    source: Collection,
    old: bytes,
    target: Collection,
    new: bytes,
    follows: Follows = lambda _range: True,
) -> CCache:
    """MOVE_CACHE: `new` takes the contents of `old`, created or overwritten; `old` is removed. Returns `new`.

    Defaults that named `old` and follow it name `new`, unless `new` is in another UID's collection.
    """
    moved = source.get(old)
    if moved is None:
        raise KcmError(Code.FCC_NOFILE)
    target.get(new)
    if old == new:
        return moved
    if target is source:
        return source.rename(old, new, follows)
    plan = target.plan_room(new, moved.size, len(moved.credentials), is_moved=True)
    renamed, overwritten = target.take_over(moved, new)
    target.make_room(plan, renamed)
    source.hand_over(old, target.uid, renamed, overwritten)
    return renamed
