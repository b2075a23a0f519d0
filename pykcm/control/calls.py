"""One request in progress, and the parts of the daemon that requests use."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pykcm.ccaches.collection import Collection
from pykcm.config import Config
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.engine.clock import ClockKeeper
from pykcm.engine.engine import Engine, to_the_end
from pykcm.engine.reaper import Reaper
from pykcm.peer.access import Access
from pykcm.peer.identity import Peer
from pykcm.server.connections import Connections
from pykcm.server.dispatcher import Dispatcher
from pykcm.server.fair_queue import FairQueue
from pykcm.store.copies import Copies
from pykcm.store.interface import Store

if TYPE_CHECKING:
    from pykcm.engine.renewals import Renewals

# The most open connections of the control socket, and the most of each user who is not an administrator.
MOST_CONNECTIONS = 64
MOST_CONNECTIONS_OF_OTHERS = 16

T = TypeVar("T")


class RenewalsOnDemand:
    """Makes the renewals when the first client asks for them: most daemons end without one."""

    def __init__(self, engine: Engine, config: Config) -> None:
        self._engine = engine
        self._config = config
        self.current: Renewals | None = None

    def start(self) -> "Renewals":
        if self.current is None:
            from pykcm.engine.renewal_attempts import settings_of  # noqa: PLC0415
            from pykcm.engine.renewals import Renewals  # noqa: PLC0415

            config = self._config
            settings = settings_of(
                *(config.renew_at, config.krb5_renew_interval, config.krb5_auth_timeout),
                *(config.max_renewals, config.max_realm_renewals),
            )
            self.current = Renewals(self._engine, settings)
        return self.current

    @property
    def are_needed(self) -> bool:
        """Whether an idle daemon has to wait for a renewal."""
        return self.current is not None and self.current.is_needed

    async def finish(self) -> None:
        """Tell the client when the next TGT is due, and stop."""
        if self.current is not None:
            await self.current.finish()


class Administration(NamedTuple):
    """The parts of the daemon that requests use; `copies` is None if the store has none."""

    config: Config
    engine: Engine
    dispatcher: Dispatcher
    store: Store
    copies: Copies | None
    access: Access
    reaper: Reaper
    connections: Connections
    fair_queue: FairQueue
    clock_keeper: ClockKeeper
    renewals: RenewalsOnDemand


async def no_frames() -> bytes | None:
    """The `receive` of a client that sends nothing behind its request."""
    return None


@dataclass
class Call:
    """One request: the peer, the arguments, and the `summary`, which goes with the end.

    `receive` returns the body of the next frame that the client sends behind its request, or None at the end
    of its stream. `patience`: after so many seconds in which the client reads nothing of its answer, the
    request is given up; None: never. It is set if other requests wait for the end of this one.
    """

    administration: Administration
    peer: Peer
    arguments: Any
    receive: Callable[[], Awaitable[bytes | None]] = no_frames
    summary: dict[str, Any] = field(default_factory=dict)
    patience: float | None = None

    async def read(self, uid: int, function: Callable[[Collection], T]) -> T:
        """Return the function's result for the UID's collection, which it must not change."""
        return await self.administration.engine.read((uid,), lambda collections: function(collections[uid]))

    async def change(self, uid: int, function: Callable[[Collection], T]) -> T:
        """Return the function's result for the UID's collection, once its changes are durable.

        See Engine.change. The change is completed even if the client closes the connection.
        """
        return await to_the_end(
            self.administration.engine.change((uid,), lambda collections: function(collections[uid]))
        )

    def sees(self, label: str | None) -> bool:
        """Whether a ccache of this SELinux label exists for the peer. Labels apply also to root."""
        return self.administration.access.may_read(self.peer, label)

    def check_changeable(self, label: str | None) -> None:
        """Raises ControlError if the policy does not let the peer read and change the ccache."""
        if not self.sees(label):
            raise ControlError(ErrorCode.NOT_FOUND, "there is no such ccache")
        if not self.administration.access.may_change(self.peer, label):
            raise ControlError(ErrorCode.PERMISSION, "the SELinux policy does not let this peer change it")

    def summarize_doubt(self) -> None:
        """Add a doubt about the clock to the summary: during a doubt, fewer ccaches count as expired."""
        doubt = self.administration.clock_keeper.clock.doubt()
        if doubt is not None:
            self.summary["clock_doubt"] = doubt._asdict()

    @property
    def is_unconfined(self) -> bool:
        """Whether the SELinux policy hides no ccache from the peer."""
        return self.administration.access.is_unconfined(self.peer)

    def check_unconfined(self) -> None:
        """Raises ControlError if the SELinux policy hides a ccache: the request would act on all of them."""
        if not self.is_unconfined:
            raise ControlError(ErrorCode.PERMISSION, "the SELinux policy hides some ccaches from this peer")

    def sees_answers_to(self, peer: Peer) -> bool:
        """Whether the peer of this request may know all that the daemon answers to `peer`."""
        return self.administration.access.may_trace(self.peer, peer)

    def moves_default(self, range_: str | None) -> bool:
        """Whether the peer may move the default of this SELinux range, or the shared one (None)."""
        return self.administration.access.may_administer_default(self.peer, range_)
