"""Receives connections of KCM clients: identifies the peer, and checks the limits."""

import logging
import socket

from pykcm.logs import LimitedLog, User
from pykcm.peer.identity import Kernel, PeerRefusedError, identify
from pykcm.server.client_socket import ClientSocket, Parts
from pykcm.sockets.acceptor import AcceptRates

log = logging.getLogger(__name__)

# Lines that users cause.
_STRANGERS = LimitedLog(log, "connections refused, peer not known", 1)
_TOO_FAST = LimitedLog(log, "connections refused, faster than they can be served", 1)


class ClientReception:
    """Makes a ClientSocket for each connection, or closes it at once."""

    def __init__(self, parts: Parts, kernel: Kernel, rates: AcceptRates) -> None:
        self._parts = parts
        self._kernel = kernel
        self._rates = rates
        # UIDs that were refused for want of room in this iteration of the event loop.
        self._without_room: set[int] = set()

    def take(self, sock: socket.socket) -> None:
        parts = self._parts
        try:
            peer = identify(sock, self._kernel)
        except PeerRefusedError as refusal:
            self._refuse_stranger(refusal)
            sock.close()
            return
        too_many = self._rates.count(peer.uid)
        if too_many:
            parts.connections.refused += 1
            if too_many == 1:
                _TOO_FAST.write(
                    logging.WARNING,
                    peer.uid,
                    "%s: connections refused: this user connects faster than can be served",
                    User(peer.uid),
                    fields={"KCM_UID": peer.uid},
                )
            sock.close()
        elif not self._has_room(peer.uid):
            parts.dispatcher.connection_refused(peer.uid, peer.label, "no room for another connection")
            sock.close()
        else:
            sock.setblocking(False)
            client = ClientSocket(parts, sock, peer)
            parts.connections.add(client)
            client.begin()

    def _has_room(self, uid: int) -> bool:
        connections = self._parts.connections
        if uid in self._without_room:
            # Nothing has changed since, and the search for an idle connection is expensive.
            connections.refused += 1
            return False
        if connections.has_room(uid):
            return True
        if not self._without_room:
            self._parts.loop.call_soon(self._without_room.clear)
        self._without_room.add(uid)
        return False

    def caught_up(self) -> None:
        self._rates.caught_up()

    async def settled(self) -> None:
        """Return at once: each connection is served or closed when it is taken."""

    def _refuse_stranger(self, refusal: PeerRefusedError) -> None:
        self._parts.connections.unidentified += 1
        _STRANGERS.write(
            logging.WARNING,
            refusal.uid,
            "connection refused: %s",
            refusal,
            fields={"KCM_UID": refusal.uid},
        )
        self._parts.dispatcher.connection_refused(refusal.uid, None, str(refusal))
