"""The pool of worker processes: an attempt that takes too long, or ends its worker, harms no other one."""

import asyncio
import contextlib
import os
import signal
import socket

from pykcm.control.frames import FrameError, FrameReader, FrameTypeError, encode
from pykcm.renew.failures import RenewalError
from pykcm.renew.workers import HELLO, LARGEST, OUTCOME, Job, Outcome, Spawner, error_of

# In seconds: a worker without work ends after this time, and its memory with it.
_IDLE = 30.0

# A worker ends after so many attempts: memory that libkrb5 may lose stays bounded.
_MOST_ATTEMPTS = 1000

# In seconds: a worker starts within this time, or the machine has no memory left.
_START = 10.0

_PIECE = 256 * 1024


class _Worker:
    """One worker process; `descriptor` (pidfd) names it, also when its PID is used again."""

    def __init__(self, connection: socket.socket) -> None:
        self.attempts = 0
        self.expiry: asyncio.TimerHandle | None = None
        self._connection = connection
        self._descriptor = -1
        self._reader = FrameReader(LARGEST)

    async def wait_until_started(self) -> None:
        """Raises OSError, EOFError, TimeoutError."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._connection, readable.set)
        try:
            async with asyncio.timeout(_START):
                await readable.wait()
        finally:
            loop.remove_reader(self._connection)
        message, descriptors, _, _ = socket.recv_fds(self._connection, len(HELLO), 1)
        if message != HELLO or len(descriptors) != 1:
            raise EOFError
        (self._descriptor,) = descriptors

    async def ask(self, job: Job) -> Outcome:
        """Raises OSError, EOFError, FrameError, FrameTypeError."""
        loop = asyncio.get_running_loop()
        self.attempts += 1
        await loop.sock_sendall(self._connection, encode(job))
        while not self._reader.has_frame():
            data = await loop.sock_recv(self._connection, _PIECE)
            if not data:
                raise EOFError
            self._reader.feed(data)
        return OUTCOME.decode(self._reader.take())

    def end(self) -> None:
        """Kill the process, whatever it does."""
        if self.expiry is not None:
            self.expiry.cancel()
        self._connection.close()
        if self._descriptor >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
            os.close(self._descriptor)
            self._descriptor = -1


class Pool:
    """Renews TGTs in worker processes, at most `most` at once, each for at most `timeout` seconds."""

    def __init__(self, spawner: Spawner, timeout: float, most: int) -> None:
        self._spawner = spawner
        self._timeout = timeout
        self._places = asyncio.Semaphore(most)
        self._idle: list[_Worker] = []

    def close(self) -> None:
        """End the workers without work. Those of cancelled attempts have ended."""
        while self._idle:
            self._idle.pop().end()

    async def renew(self, credential: bytes, kdc_offset: int) -> bytes:
        """Return the renewed TGT; raises RenewalError."""
        async with self._places:
            worker = await self._worker()
            keeps = False
            try:
                async with asyncio.timeout(self._timeout):
                    outcome = await worker.ask(Job(credential, kdc_offset))
                keeps = worker.attempts < _MOST_ATTEMPTS
            except TimeoutError:
                raise RenewalError(
                    "timeout", 0, f"no KDC answered within {self._timeout:g} s (krb5_auth_timeout)"
                ) from None
            except (OSError, EOFError, FrameError, FrameTypeError):
                raise RenewalError("internal", 0, "the worker process ended during the attempt") from None
            finally:
                self._put_back(worker) if keeps else worker.end()
        if outcome.credential is None:
            raise error_of(outcome)
        return outcome.credential

    async def _worker(self) -> _Worker:
        if self._idle:
            # The one that worked last: others come to their end.
            worker = self._idle.pop()
            assert worker.expiry is not None
            worker.expiry.cancel()
            return worker
        try:
            connection = self._spawner.spawn()
        except OSError as error:
            raise RenewalError("internal", 0, f"no worker process can be started: {error.strerror}") from None
        connection.setblocking(False)
        worker = _Worker(connection)
        try:
            await worker.wait_until_started()
        except (OSError, EOFError):
            worker.end()
            raise RenewalError("internal", 0, "a worker process did not start") from None
        except BaseException:
            worker.end()
            raise
        return worker

    def _put_back(self, worker: _Worker) -> None:
        self._idle.append(worker)
        worker.expiry = asyncio.get_running_loop().call_later(_IDLE, self._expire, worker)

    def _expire(self, worker: _Worker) -> None:
        self._idle.remove(worker)
        worker.end()
