"""The parts of the daemon that requests of the control socket use. They exist before its first connection."""

from typing import TYPE_CHECKING

import msgspec

from pykcm.config import Config
from pykcm.engine.clock import ClockKeeper
from pykcm.engine.engine import Engine
from pykcm.engine.reaper import Reaper
from pykcm.peer.access import Access
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


class Administration(msgspec.Struct, frozen=True):
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
