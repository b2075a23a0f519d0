"""The thread that waits for the disk, so that the event loop does not."""

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class DiskThread:
    """Runs one function after the other in a thread, with the connection that writes.

    `lock`: held by the coroutine that uses this connection. `is_busy`: the thread uses the connection, or
    there are changes that are not committed; the event loop must not use it.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.is_busy = False
        self._executor: concurrent.futures.ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Do the work in the thread; returns its result or raises its exception.

        A cancelled caller still waits for the end of the work and gets its result. Its next `await` raises
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
        """Wait for the end of the work. Later work is done in the caller's thread."""
        if self._executor is not None:
            self._executor.shutdown()

    def _submit(self, work: Callable[[], T]) -> "concurrent.futures.Future[T] | None":
        """Pass the work to the thread; returns None if no thread is available."""
        try:
            if self._executor is None:
                executor = concurrent.futures.ThreadPoolExecutor(1, "pykcm-disk")
                # If the thread cannot start, the executor keeps this call for a later thread, and not `work`.
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
            # Without the shield, work that has not begun would be cancelled.
            await asyncio.shield(done)
        except asyncio.CancelledError:
            is_cancelled = True
            # A timeout around the caller must not count this cancellation twice.
            if task is not None and task.cancelling():
                task.uncancel()
        except Exception:  # noqa: BLE001, S110 - raised below
            pass
    if is_cancelled and task is not None:
        task.cancel()
    return done.result()
