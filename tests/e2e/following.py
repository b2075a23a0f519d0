"""`pykcmctl watch` and `pykcmctl trace` as processes whose output is read line by line."""

import json
import os
import queue
import signal
import subprocess
import threading
import time
from types import TracebackType
from typing import IO, Any, Self

from .control import Pykcmctl
from .daemon import LIMIT, ROOT

_COUNTS = {"watch": "watchers", "trace": "tracers"}


class Followed:
    """A watch or trace with its output in a pipe; it receives events as soon as it is entered."""

    def __init__(self, pykcmctl: Pykcmctl, command: str, *options: str) -> None:
        self._pykcmctl = pykcmctl
        self._command = command
        self._options = options

    def __enter__(self) -> Self:
        before = self._followers()
        self.process = subprocess.Popen(
            self._pykcmctl.argv(self._command, *self._options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT), "TZ": "UTC"},
            cwd="/",
        )
        self._threads: list[threading.Thread] = []
        self._lines = self._reader(self.process.stdout)
        self._errors = self._reader(self.process.stderr)
        deadline = time.monotonic() + LIMIT
        while self._followers() == before:
            assert self.process.poll() is None, self._errors.get(timeout=LIMIT)
            assert time.monotonic() < deadline
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(LIMIT)
        # They still read what the process has printed.
        for thread in self._threads:
            thread.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def _followers(self) -> int:
        count: int = self._pykcmctl.json("stats")[_COUNTS[self._command]]
        return count

    def _reader(self, stream: IO[str] | None) -> "queue.Queue[str]":
        """A queue of the lines, which a thread reads as they are printed."""
        assert stream is not None
        lines: queue.Queue[str] = queue.Queue()

        def read() -> None:
            for line in stream:
                lines.put(line)

        self._threads.append(threading.Thread(target=read, daemon=True))
        self._threads[-1].start()
        return lines

    def line(self) -> str:
        return self._lines.get(timeout=LIMIT).rstrip("\n")

    def error(self) -> str:
        return self._errors.get(timeout=LIMIT).rstrip("\n")

    def json(self) -> dict[str, Any]:
        item: dict[str, Any] = json.loads(self.line())
        return item

    def until(self, **wanted: Any) -> list[dict[str, Any]]:
        """All items up to the first one with these values."""
        items = [self.json()]
        while not wanted.items() <= items[-1].items():
            items.append(self.json())
        return items

    def interrupt(self) -> int:
        """Send Ctrl-C; returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(LIMIT)
