"""Models with one wrong rule each: a comparison with a right daemon must find it."""

from .collections_model import Answer, Asker, CCache, Collection, Model, Stored
from .credentials_model import AUTHDATA, NO_REALM, TIMES_EXACT, Credential, Tag


class AppendsAlways(Model):
    """A credential never replaces its equal."""

    def put(self, ccache: CCache, credential: Credential) -> None:
        ccache.credentials.append(Stored(credential))


class MovesReplacedCredentials(Model):
    """A credential that replaces its equal goes to the end."""

    def put(self, ccache: CCache, credential: Credential) -> None:
        kept = [each for each in ccache.credentials if not self.are_equal(each.credential, credential)]
        ccache.credentials = [*kept, Stored(credential)]


class ReplacesWhateverTheAuthdata(Model):
    """Authdata does not count when a credential replaces its equal."""

    def are_equal(self, one: Credential, other: Credential) -> bool:
        return super().are_equal(one, other._replace(authdata=one.authdata))


class InitializeChooses(Model):
    """INITIALIZE makes its ccache the default."""

    def initialize(self, asker: Asker, name: bytes, principal: bytes) -> Answer:
        answer = super().initialize(asker, name, principal)
        if not answer[0] and name:
            self.collection_of(asker, name).chosen = name
        return answer


class FindsUserToUserTickets(Model):
    """A ticket for a session key is found without IS_SKEY."""

    def matches(self, tag: Tag, credential: Credential) -> bool:
        return super().matches(tag, credential._replace(is_skey=False))


class IgnoresRareFlags(Model):
    """TIMES_EXACT, AUTHDATA and DONT_MATCH_REALM mean nothing."""

    def matches(self, tag: Tag, credential: Credential) -> bool:
        kept = tag.match_flags & ~(TIMES_EXACT | AUTHDATA | NO_REALM)
        return super().matches(tag._replace(match_flags=kept), credential)


class LosesTheDefaultOfAMove(Model):
    """MOVE_CACHE leaves the default where it was."""

    def rename(
        self, asker: Asker, source: Collection, moved: CCache, target: Collection, name: bytes
    ) -> None:
        chosen = source.chosen
        super().rename(asker, source, moved, target, name)
        source.chosen = chosen


class TakesTheFirstForTheDefault(Model):
    """The first ccache takes the place of a default that is gone."""

    def rank(self, collection: Collection, ccache: CCache) -> tuple[bool, int, bool]:
        return False, 0, False


class TakesLeadingZeros(Model):
    """A number with leading zeros, or beyond the largest UID, is a UID."""

    def owner(self, name: bytes) -> int | None:
        digits = name.split(b":")[0]
        return int(digits) if digits.isdigit() else None


class TakesLongNames(Model):
    """A name may be of any length."""

    def refusal(self, asker: Asker, name: bytes, code: int) -> int:
        return super().refusal(asker, name[:100], code)


class LosesTheLastCCache(Model):
    """A restart loses the last ccache of each UID."""

    def restart(self, *, persists: bool) -> None:
        super().restart(persists=persists)
        for collection in self.collections.values():
            del collection.ccaches[-1:]


class ChangesUUIDs(Model):
    """A restart gives other UUIDs to ccaches."""

    def restart(self, *, persists: bool) -> None:
        super().restart(persists=persists)
        for collection in self.collections.values():
            for ccache in collection.ccaches:
                ccache.uuid = None if ccache.uuid is None else bytes(16)


BROKEN = [
    AppendsAlways,
    MovesReplacedCredentials,
    ReplacesWhateverTheAuthdata,
    InitializeChooses,
    FindsUserToUserTickets,
    IgnoresRareFlags,
    LosesTheDefaultOfAMove,
    TakesTheFirstForTheDefault,
    TakesLeadingZeros,
    TakesLongNames,
    LosesTheLastCCache,
    ChangesUUIDs,
]
