"""The thread that waits for the disk, so that the event loop does not."""

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class DiskThread:
    """Does one piece of work after the other in a thread, with the connection that writes.

    `lock`: held by the one coroutine that uses this connection. `is_busy`: the connection is in use by the
    thread, or has changes that are not committed yet; the event loop must not use it.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.is_busy = False
        self._executor: concurrent.futures.ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Do the work in the thread; gives its result, or raises its exception.

        A caller that is cancelled waits for the end of the work and gets its result. Its next `await` raises
        CancelledError.
        """
        was_busy = self.is_busy
        self.is_busy = True
        try:
            future = self._submit(work)
            return work() if future is None else await _end_of(future)
        finally:
            self.is_busy = was_busy

    def close(self) -> None:
        """Wait for the end of the work; what comes later is done by its caller."""
        if self._executor is not None:
            self._executor.shutdown()

    def _submit(self, work: Callable[[], T]) -> "concurrent.futures.Future[T] | None":
        """None: no thread can be had."""
        try:
            if self._executor is None:
                executor = concurrent.futures.ThreadPoolExecutor(1, "pykcm-disk")
                # Where the thread cannot be started, the executor keeps the work for a later one.
                executor.submit(int)
                self._executor = executor
            return self._executor.submit(work)
        except RuntimeError:
            return None


async def _end_of(future: "concurrent.futures.Future[T]") -> T:
    done = asyncio.wrap_future(future)
    task = asyncio.current_task()
    is_cancelled = False
    while not done.done():
        try:
            # Cancelling the future itself would forget work that has not begun.
            await asyncio.shield(done)
        except asyncio.CancelledError:
            is_cancelled = True
            # The second one must not count for a timeout around the caller.
            if task is not None and task.cancelling():
                task.uncancel()
        except Exception:  # noqa: BLE001, S110 - raised below
            pass
    if is_cancelled and task is not None:
        task.cancel()
    return done.result()
