"""Renewals: attempts to renew TGTs, which a client makes, and what becomes of them.

The client (pykcm-renew) gets each TGT when it is due, asks the KDC, and hands the new one back. A new TGT
replaces the old one only if the ccache still holds exactly that one.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NoReturn, TypeVar

from pykcm.ccaches.renewal import ENDS_NO_LATER, why_no_renewal
from pykcm.engine.clock import ClockSteps
from pykcm.engine.engine import Engine, to_the_end
from pykcm.engine.renewal_attempts import (
    PAUSE,
    Attempt,
    BusyError,
    Client,
    Failure,
    Found,
    HandedBack,
    Offer,
    Replacement,
    Settings,
    answers_of,
    find_tgt,
    log_failure,
    log_renewal,
    next_attempt,
    replace_tgt,
)
from pykcm.engine.renewal_index import RenewalIndex
from pykcm.engine.renewal_queue import RenewalQueue, Tgt
from pykcm.engine.renewal_sharing import RenewalLease
from pykcm.protocol.codes import KcmError
from pykcm.protocol.credential import Credential, parse_credential
from pykcm.protocol.text import printable
from pykcm.store.interface import StoreError

log = logging.getLogger(__name__)

T = TypeVar("T")

# In seconds: how long the client may take to read its offers when the daemon ends.
_PATIENCE_AT_END = 1.0

# In seconds: an idle daemon waits so long for a TGT to be due.
_SOON = 10.0

# In seconds: the clock may be set meanwhile, and the machine may sleep.
_LONGEST_WAIT = 30.0


class Renewals:
    """Offers TGTs that are due to one client at a time, and takes new ones.

    `renewed`: the number of TGTs renewed; `unchanged`: of new ones that came too late; `failures`: of failed
    attempts, by reason.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings = Settings(),  # noqa: B008 - it cannot be changed
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._clock_steps = ClockSteps(clock, steady)
        self._jitter = jitter
        self._queue = RenewalQueue(settings.most, settings.most_of_realm)
        self.index = RenewalIndex(engine, self._queue, settings.schedule, self._wake, jitter)
        self._client: Client | None = None
        self._sharing = engine.store.sharing
        self._has_no_client = asyncio.Event()
        self._has_no_client.set()
        self._attempts: dict[bytes, Attempt] = {}
        self._has_begun = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._searching: asyncio.Task[None] | None = None
        self._is_ending = False
        self.renewed = 0
        self.unchanged = 0
        self.failures: Counter[str] = Counter()

    @property
    def trying(self) -> int:
        """The number of attempts in progress."""
        return self._queue.trying

    @property
    def ready(self) -> int:
        """The number of TGTs that are due and wait for their turn."""
        return self._queue.ready

    def statistics(self) -> dict[str, Any]:
        """The state and counts since the start, as the request `stats` gives them."""
        return {
            "client": self._client is not None,
            "known": len(self.index),
            "due": self._queue.ready,
            "trying": self._queue.trying,
            "next_due": self.next_due,
            "renewed": self.renewed,
            "unchanged": self.unchanged,
            "failures": dict(self.failures),
        }

    @property
    def is_searching(self) -> bool:
        """Whether collections have to be read: there may be more TGTs than are known."""
        is_beginning = self._searching is not None and not self._searching.done()
        return is_beginning or self.index.is_reading

    @property
    def next_due(self) -> float | None:
        """When the next TGT is due; None: none is going to be."""
        if self._queue.ready or self._queue.trying or self.is_searching:
            return self._clock()
        return self._queue.next_due

    @property
    def is_needed(self) -> bool:
        """Whether an idle daemon has to wait: an attempt is in progress, or a TGT is due soon.

        With a shared store it always does: it may have to take over from another host.
        """
        if self._sharing is not None:
            return self._client is not None
        due = self.next_due
        return self._client is not None and due is not None and due <= self._clock() + _SOON

    async def wait_until_free(self, patience: float) -> None:
        """Wait until there is no client, but at most so many seconds: it may just have been killed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._has_no_client.wait()

    @contextmanager
    def connected(self, may_renew: Callable[[str | None], bool]) -> Iterator[AsyncIterator[Offer]]:
        """Within it, there is a client, which takes the offers; raises BusyError if there is another one.

        A client that gave no result in time gives way to the next one: its offers end with BusyError.
        `may_renew`: whether the client may read and change ccaches of this SELinux label. When the client
        has gone, its attempts end, and their TGTs are due again at once. There are no more offers after
        `finish`.
        """
        if self._client is not None:
            if not self._client.is_silent:
                raise BusyError
            log.warning("another client renews TGTs now, because the one before it gave no result in time")
            self._leave(self._client)
        client = self._client = Client(may_renew)
        self._has_no_client.clear()
        client.tasks.update(self._begin())
        try:
            yield self._offers(client)
        finally:
            self._leave(client)

    def _leave(self, client: Client) -> None:
        """End all attempts of the client, if it has not gone before."""
        if self._client is not client:
            return
        self._client = None
        self._has_no_client.set()
        client.offers.clear()
        client.arrived.set()
        for task in client.tasks:
            task.cancel()
        for attempt in list(self._attempts.values()):
            self._lose(attempt)

    async def _offers(self, client: Client) -> AsyncIterator[Offer]:
        while not self._is_ending:
            while client.offers:
                yield client.offers.popleft()
            if self._client is not client:
                raise BusyError
            client.arrived.clear()
            if self._clock_steps.is_set():
                await self.index.reschedule()
                self._clock_steps.accept()
            self._fill(client)
            if not client.offers:
                await self._wait(client)

    async def finish(self) -> None:
        """End the offers and all work, because the daemon ends."""
        self._is_ending = True
        self._wake()
        await self.wait_until_free(_PATIENCE_AT_END)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_PATIENCE_AT_END)

    def _begin(self) -> list[asyncio.Task[NoReturn]]:
        """Find all TGTs; returns the task that does so for this client, if other hosts may do it, too."""
        if not self._has_begun:
            self._has_begun = True
            self._engine.report_changes_to(self.index)
            self._start(self.index.run())
            if self._sharing is None:
                self._searching = self._start(self.index.search())
        if self._sharing is None:
            return []
        self.index.is_active = False
        lease = RenewalLease(self._sharing, self._begin_for_all, self.index.read_again, self._end_for_all)
        return [self._start(lease.run())]

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _begin_for_all(self) -> None:
        self.index.is_active = True
        self.index.read_again(await self._engine.store.uids())

    def _end_for_all(self) -> None:
        self.index.is_active = False
        self.index.clear()

    def _wake(self) -> None:
        if self._client is not None:
            self._client.arrived.set()

    async def _wait(self, client: Client) -> None:
        due = self._queue.next_due
        pause = _LONGEST_WAIT if due is None else min(_LONGEST_WAIT, max(0.0, due - self._clock()))
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await client.arrived.wait()

    # Attempts

    def _fill(self, client: Client) -> None:
        """Begin as many attempts as there may be."""
        while (tgt := self._queue.take(self._clock())) is not None:
            task = asyncio.create_task(self._offer(client, tgt))
            client.tasks.add(task)
            task.add_done_callback(partial(self._after_offer, client, tgt))

    async def _offer(self, client: Client, tgt: Tgt) -> bool:
        """Offer a TGT to the client, if its ccache still holds it; returns whether it was offered."""
        if tgt.end <= self._clock():
            tgt.due = None
            return False
        try:
            found = await self._engine.read((tgt.uid,), partial(find_tgt, tgt))
        except StoreError:
            tgt.due = self._clock() + PAUSE
            return False
        if self.index.is_known(tgt) and found is not None and client.may_renew(found.label):
            self._attempt(client, tgt, found)
            return True
        if self.index.is_known(tgt):
            self.index.remove(tgt)
            if found is None:
                self.index.read_again((tgt.uid,))
        return False

    def _after_offer(self, client: Client, tgt: Tgt, task: asyncio.Task[bool]) -> None:
        """Put a TGT back that was not offered. The task may have been cancelled before its first step."""
        client.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None and not task.cancelled() and task.result():
            return
        if error is not None:
            log.error("a TGT was not offered by an error in pykcm", exc_info=error)
            tgt.failures += 1
            tgt.due = self._next_attempt(tgt, tgt.failures)
        self._end(tgt)

    def _attempt(self, client: Client, tgt: Tgt, found: Found) -> None:
        offer = Offer.of(tgt, found, self._clock())
        timer = asyncio.get_running_loop().call_later(self._settings.patience, self._give_up, offer.id)
        attempt = Attempt(client, tgt, offer, found.principal, timer)
        self._attempts[offer.id] = attempt
        client.offers.append(offer)
        client.arrived.set()

    def _put_back(self, tgt: Tgt) -> None:
        """Put a TGT into the queue again, if its ccache still holds it."""
        if self.index.is_known(tgt):
            self._queue.put(tgt)

    def _take(self, id_: bytes) -> Attempt | None:
        attempt = self._attempts.pop(id_, None)
        if attempt is not None:
            attempt.timer.cancel()
        return attempt

    def _end(self, tgt: Tgt, answers: bool | None = None) -> None:
        """End an attempt; `answers`: whether a KDC has answered it, if that is known."""
        if answers is not None:
            self._queue.realms.note(tgt.realm, answers=answers)
        self._queue.end(tgt)
        self._put_back(tgt)
        self._wake()

    def _lose(self, attempt: Attempt) -> None:
        """End an attempt whose client has gone. The TGT may be the reason, if that happens again."""
        self._take(attempt.offer.id)
        tgt = attempt.tgt
        self.failures["lost"] += 1
        tgt.losses += 1
        tgt.note(self._clock(), "lost", "pykcm-renew ended during the attempt")
        tgt.due = self._clock() if tgt.losses == 1 else self._next_attempt(tgt, tgt.losses - 1)
        self._end(tgt)

    def _give_up(self, id_: bytes) -> None:
        attempt = self._take(id_)
        if attempt is None:
            return
        client = attempt.client
        client.is_silent = True
        if attempt.offer in client.offers:
            # The client has not even read it.
            client.offers.remove(attempt.offer)
        self._fail(attempt, Failure("lost", "pykcm-renew gave no result in time"))

    def _next_attempt(self, tgt: Tgt, failures: int) -> float | None:
        return next_attempt(self._clock(), tgt.end, failures, self._jitter())

    # Results

    async def hand_back(self, id_: bytes, result: bytes | Failure) -> HandedBack:
        """Take the result of an attempt: the renewed TGT, or a failure."""
        attempt = self._take(id_)
        if attempt is None:
            return HandedBack("unknown")
        attempt.client.is_silent = False
        if isinstance(result, Failure):
            return HandedBack("failed", self._fail(attempt, result))
        try:
            new = parse_credential(result)
            reason = why_no_renewal(attempt.offer.credential, new)
        except KcmError as error:
            reason = f"it cannot be read: {error}"
        if reason == ENDS_NO_LATER:
            # The KDC grants shorter lives than before. Near the end of the old TGT a new one ends later.
            failure = Failure("kdc", "the TGT that the KDC returned ends no later than the present one")
            return HandedBack("refused", self._fail(attempt, failure))
        if reason:
            message = f"pykcm-renew handed back a ticket that is not the renewed TGT: {reason}"
            return HandedBack("refused", self._fail(attempt, Failure("refused", message)))
        return await to_the_end(self._replace(attempt, new))

    async def _replace(self, attempt: Attempt, new: Credential) -> HandedBack:
        tgt = attempt.tgt
        may_renew = (lambda _: False) if self._client is None else self._client.may_renew
        try:
            replacement = await self._engine.change(
                (tgt.uid,), partial(replace_tgt, tgt, attempt.offer, new, may_renew)
            )
        except StoreError as error:
            return HandedBack("failed", self._fail(attempt, Failure("store", str(error))))
        except BaseException:
            self._fail(attempt, Failure("internal", "an error in pykcm"))
            raise
        if replacement is Replacement.HAS_EQUAL:
            failure = Failure("refused", "the ccache has another TGT that equals the renewed one")
            return HandedBack("refused", self._fail(attempt, failure))
        if replacement is Replacement.DONE:
            self.renewed += 1
            stored = self.index.of_ccache(tgt.uid, tgt.ccache).get(tgt.uuid)
            if stored is not None:
                stored.note(self._clock(), "renewed")
            log_renewal(attempt, new)
        else:
            self.unchanged += 1
            # The index may be wrong about this ccache.
            self.index.remove(tgt)
            self.index.read_again((tgt.uid,))
        self._end(tgt, answers=True)
        return HandedBack(replacement.value)

    def _fail(self, attempt: Attempt, failure: Failure) -> float | None:
        """Note a failure, and return when the next attempt is."""
        tgt = attempt.tgt
        self.failures[failure.reason] += 1
        tgt.failures += 1
        tgt.note(self._clock(), failure.reason, printable(failure.message))
        tgt.is_final = not failure.again
        tgt.due = self._next_attempt(tgt, tgt.failures) if failure.again else None
        log_failure(attempt, failure, self._clock())
        self._end(tgt, answers_of(failure.reason))
        return tgt.due
