"""A reaper, and ccaches for it."""

from pykcm.engine.reaper import Reaper
from tests.builders import ALICE, ticket
from tests.server.asking import Server

RETENTION = 1000
ENDS = 2000
DUE = ENDS + RETENTION
TICKET = ticket(ends=ENDS).blob
LASTING = ticket(ends=10 * ENDS).blob


def reaper_of(server: Server) -> Reaper:
    return Reaper(server.engine, RETENTION, server.clock)


def reap(server: Server, now: int = DUE) -> None:
    server.clock.now = now
    server.runner.run(reaper_of(server).reap())


def fill(server: Server, *uids: int, blob: bytes = TICKET) -> None:
    for uid in uids:
        server.ask_as(uid).replace(b"%d" % uid, 0, ALICE, [blob])
