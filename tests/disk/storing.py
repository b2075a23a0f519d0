"""A store in its own process, which can be killed and whose calls can fail.

    python -m tests.disk.storing DATABASE DURABILITY MODE

answers each line of its input with one line of JSON. The secrets are numbered, as in a test's own store.
"""

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pykcm.store.interface import StoreError
from pykcm.store.keys import Key
from pykcm.store.sqlcipher import writer
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Put, uid_container
from tests.storing import commit_changes, secrets_of

# Settings of its module that fix the way of the commit, on any disk.
MODES: dict[str, dict[str, float]] = {
    "in the event loop": {"_LARGE": math.inf, "_SLOW_ONES": math.inf},
    "in the thread": {"_LARGE": math.inf, "_SLOW_ONES": -1},
    "in slices": {"_LARGE": 0},
}

ROOT = Path(__file__).parent.parent.parent
UID = 1000


def key_for(database: Path) -> Key:
    return Key(bytes(range(32)), database.with_name("key"))


def value_of(number: int) -> bytes:
    """The value of secret `number`: more than one page."""
    return b"%d " % number * 1500


class Storing:
    """The process. Each method waits for its answer."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert self._ask("numbers") is not None

    def put(self, *numbers: int) -> int:
        """Commit these secrets together; returns 0 or the errno."""
        code: int = self._ask("put", *numbers)
        return code

    def numbers(self) -> list[int]:
        """The stored secrets in order, each of them complete; the negative errno if refused."""
        numbers: list[int] = self._ask("numbers")
        return numbers

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Close the store in order."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(60) == 0

    def _ask(self, *words: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*words, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the storing process has ended"
        return json.loads(answer)


@contextmanager
def storing(
    database: Path,
    environment: Mapping[str, str],
    durability: str = "full",
    mode: str = "in the event loop",
) -> Iterator[Storing]:
    """A process with the open store; it is killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.disk.storing", str(database), durability, mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**environment},
    )
    with process:
        try:
            yield Storing(process)
        finally:
            process.kill()


async def _serve(database: str, durability: str, mode: str) -> None:
    for name, value in MODES[mode].items():
        setattr(writer, name, value)
    path = Path(database)
    store = SQLCipherStore(path, key_for(path), durability)
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    # The event loop runs between the lines, as in the daemon.
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        command, *words = line.decode().split()
        answer = await _answer(store, command, [int(word) for word in words])
        print(json.dumps(answer), flush=True)  # noqa: T201
    store.close()


async def _answer(store: SQLCipherStore, command: str, numbers: list[int]) -> object:
    try:
        if command == "put":
            await commit_changes(
                store, [Put(uid_container(UID), str(number), value_of(number)) for number in numbers]
            )
            return 0
        secrets = await secrets_of(store, UID)
    except StoreError as error:
        return error.code if command == "put" else [-error.code]
    assert all(secret.value == value_of(int(secret.name)) for secret in secrets)
    return [int(secret.name) for secret in secrets]


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
