"""The daemon's event loop: asyncio's, with a selector that calls readers and writers by itself.

asyncio makes one iteration of its loop for each event, which costs 3 µs of the 14 µs that a server in Python
needs for an echo. This selector calls the functions that `add_reader` and `add_writer` have registered, and
waits again. It returns to asyncio only for asyncio's own work: calls that are due, and asyncio's own file
descriptors (of transports, and of the pipe with which threads and signals wake the loop).
"""

import asyncio
import os
import select
import selectors
from collections.abc import Callable
from contextvars import Context
from functools import partial
from time import monotonic
from typing import TypeVarTuple

# The most events taken from the kernel at once. An array of this length is allocated for each call.
_MOST_EVENTS = 128

_Callback = Callable[[], object]
_Ts = TypeVarTuple("_Ts")


class _CallingSelector(selectors.EpollSelector):
    """Calls `readers` and `writers`, by file descriptor. `failed` gets the exceptions that they raise.

    `returns`: whether `select` returns when it has called those that are ready. `after`: calls that are made
    once then; None while `select` calls nobody.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        super().__init__()
        self.readers: dict[int, _Callback] = {}
        self.writers: dict[int, _Callback] = {}
        self.returns = False
        self.after: list[_Callback] | None = None
        self._failed = failed
        # The same epoll instance. The base class does not give away its own object.
        self._epoll = select.epoll.fromfd(os.dup(self.fileno()))

    def close(self) -> None:
        self._epoll.close()
        self.readers.clear()
        self.writers.clear()
        super().close()

    def call(self, callbacks: dict[int, _Callback], fd: int, callback: _Callback) -> None:
        """Register a callback in `readers` or `writers`, in place of an earlier one."""
        is_watched = fd in self.readers or fd in self.writers
        callbacks[fd] = callback
        if is_watched:
            self._epoll.modify(fd, self._wanted(fd))
        else:
            self._epoll.register(fd, self._wanted(fd))

    def forget(self, callbacks: dict[int, _Callback], fd: int) -> bool:
        """Returns whether there was a callback."""
        if callbacks.pop(fd, None) is None:
            return False
        if wanted := self._wanted(fd):
            self._epoll.modify(fd, wanted)
        else:
            self._epoll.unregister(fd)
        return True

    def _wanted(self, fd: int) -> int:
        return (select.EPOLLIN if fd in self.readers else 0) | (select.EPOLLOUT if fd in self.writers else 0)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Call what is ready until asyncio has work; returns the events of its own descriptors."""
        # Local names: each request passes here.
        poll, readers, writers = self._epoll.poll, self.readers, self.writers
        until = None if timeout is None else monotonic() + timeout
        own: list[tuple[selectors.SelectorKey, int]] = []
        self.returns = timeout is not None and timeout <= 0
        while True:
            ready = poll(timeout, _MOST_EVENTS)
            self.after = []
            for fd, events in ready:
                try:
                    if events == select.EPOLLIN and fd in readers:
                        readers[fd]()
                    elif fd in readers or fd in writers:
                        self._call_both(fd, events)
                    else:
                        own += self._of_asyncio(fd, events)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001 - as asyncio does
                    self._failed(error)
            after, self.after = self.after, None
            if after:
                self._call_all(after)
            if own or self.returns or (until is not None and (timeout := until - monotonic()) <= 0):
                return own

    def _call_all(self, callbacks: list[_Callback]) -> None:
        for callback in callbacks:
            try:
                callback()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as asyncio does
                self._failed(error)

    def _call_both(self, fd: int, events: int) -> None:
        # Errors and the other end's end (EPOLLERR, EPOLLHUP) are for both.
        reader, writer = self.readers.get(fd), self.writers.get(fd)
        if reader is not None and events != select.EPOLLOUT:
            reader()
        # The reader may have removed the writer.
        if writer is not None and events != select.EPOLLIN and self.writers.get(fd) is writer:
            writer()

    def _of_asyncio(self, fd: int, events: int) -> list[tuple[selectors.SelectorKey, int]]:
        try:
            key = self.get_key(fd)
        except KeyError:
            # Its callback was removed by one that was called for the same events.
            return []
        ready = selectors.EVENT_READ if events & ~select.EPOLLOUT else 0
        ready |= selectors.EVENT_WRITE if events & ~select.EPOLLIN else 0
        return [(key, ready & key.events)]


class EventLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop on which a ready reader or writer costs one call."""

    def __init__(self) -> None:
        self._calling = _CallingSelector(self._report)
        super().__init__(self._calling)

    def _report(self, error: BaseException) -> None:
        self.call_exception_handler({"message": "a reader or writer raised an exception", "exception": error})

    def add_reader(self, fd: int, callback: Callable[[*_Ts], object], *args: *_Ts) -> None:  # type: ignore[override]
        self._calling.call(self._calling.readers, fd, partial(callback, *args) if args else callback)

    def remove_reader(self, fd: int) -> bool:  # type: ignore[override]
        # asyncio removes its own by this method, too.
        return self._calling.forget(self._calling.readers, fd) or super().remove_reader(fd)

    def add_writer(self, fd: int, callback: Callable[[*_Ts], object], *args: *_Ts) -> None:  # type: ignore[override]
        self._calling.call(self._calling.writers, fd, partial(callback, *args) if args else callback)

    def remove_writer(self, fd: int) -> bool:  # type: ignore[override]
        return self._calling.forget(self._calling.writers, fd) or super().remove_writer(fd)

    def call_after_readers(self, callback: _Callback) -> None:
        """Call once when all readers and writers that are ready now have been called.

        That is at most as late as with `call_soon`, and saves the iteration of asyncio's loop.
        """
        if self._calling.after is None:
            self.call_soon(callback)
        else:
            self._calling.after.append(callback)

    # These methods give asyncio work. If a reader or a writer calls one, `select` must return.

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._calling.returns = True
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self._calling.returns = True
        return super().call_at(when, callback, *args, context=context)

    def stop(self) -> None:
        self._calling.returns = True
        super().stop()
