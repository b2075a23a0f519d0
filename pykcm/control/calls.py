"""One request of the control socket in progress."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from pykcm.ccaches.collection import Collection
from pykcm.control.administration import Administration
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.engine.engine import to_the_end
from pykcm.peer.identity import Peer

T = TypeVar("T")


async def no_frames() -> bytes | None:
    """The `receive` of a client that sends nothing behind its request."""
    return None


class Call(msgspec.Struct):
    """One request: the peer, the arguments, and the `summary`, which goes with the end.

    `receive` returns the body of the next frame that the client sends behind its request, or None at the end
    of its stream. `patience`: after so many seconds in which the client reads nothing of its answer, the
    request is given up; None: never. It is set if other requests wait for the end of this one.
    """

    administration: Administration
    peer: Peer
    arguments: Any
    receive: Callable[[], Awaitable[bytes | None]] = no_frames
    summary: dict[str, Any] = {}
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
