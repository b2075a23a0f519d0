"""Models that are wrong in one rule each: the driver has to find that out."""

from .collections_model import Answer, Asker, CCache, Collection, Credential, Model, Tag


class AppendsAlways(Model):
    """A credential never replaces its equal."""

    def put(self, ccache: CCache, credential: Credential) -> None:
        ccache.credentials.append(credential)


class InitializeChooses(Model):
    """INITIALIZE makes its ccache the default."""

    def initialize(self, asker: Asker, name: bytes, principal: bytes) -> Answer:
        answer = super().initialize(asker, name, principal)
        if not answer[0]:
            self.collection_of(asker, name).chosen = name
        return answer


class FindsUserToUserTickets(Model):
    """A ticket for a session key is found by those who do not ask for one."""

    def matches(self, tag: Tag, credential: Credential) -> bool:
        return super().matches(tag, credential._replace(is_skey=False))


class LosesTheDefaultOfAMove(Model):
    """MOVE_CACHE leaves the default where it was."""

    def move(self, asker: Asker, old: bytes, new: bytes) -> Answer:
        chosen = {uid: collection.chosen for uid, collection in self.collections.items()}
        answer = super().move(asker, old, new)
        for uid, collection in self.collections.items():
            collection.chosen = chosen[uid]
        return answer


class TakesTheFirstForTheDefault(Model):
    """The first ccache takes the place of a default that is gone."""

    def rank(self, collection: Collection, ccache: CCache) -> tuple[bool, int, bool]:
        return False, 0, False


BROKEN = [
    AppendsAlways,
    InitializeChooses,
    FindsUserToUserTickets,
    LosesTheDefaultOfAMove,
    TakesTheFirstForTheDefault,
]
