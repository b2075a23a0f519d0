"""The pool of worker processes: its limits, and attempts that take too long or end their worker."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pykcm.renew import pool as pool_module
from pykcm.renew import workers
from pykcm.renew.failures import RenewalError
from pykcm.renew.pool import Pool
from pykcm.renew.workers import Spawner, SpawnerError

# In Python 3.12 and later a fork warns if the tests' process has threads. The program has none.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

# In seconds: no test waits for so long unless it fails.
LONG = 60.0


def renew(credential: bytes, kdc_offset: int) -> bytes:
    """Stands for the exchange; the credential says what to do."""
    if credential == b"wait":
        time.sleep(10 * LONG)
    if credential == b"crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if credential == b"bug":
        raise ValueError(credential)
    if credential == b"refuse":
        raise RenewalError("revoked", -1765328364, "TGT has been revoked", again=False)
    if credential == b"memory":
        bytearray(1024 * 1024 * 1024)
    if credential == b"slow":
        time.sleep(0.2)
    if credential in {b"pid", b"slow"}:
        return b"%d" % os.getpid()
    return credential.upper() + b"%+d" % kdc_offset


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    """A spawner whose workers run `renew`."""
    with closing(Spawner(LONG, lambda: renew)) as spawner:
        yield spawner


@pytest.fixture
def pool(spawner: Spawner) -> Iterator[Callable[..., Pool]]:
    """A function that makes a pool; it is closed at the end."""
    pools: list[Pool] = []

    def make(timeout: float = LONG, most: int = 4) -> Pool:
        pools.append(Pool(spawner, timeout, most))
        return pools[-1]

    yield make
    for each in pools:
        each.close()


async def error_of(pool: Pool, credential: bytes) -> tuple[str, str]:
    with pytest.raises(RenewalError) as raised:
        await pool.renew(credential, 0)
    return raised.value.reason, raised.value.message


async def test_renewed_tgt_comes_back(pool: Callable[..., Pool]) -> None:
    """The worker gets the TGT and the KDC's offset, and its answer is returned, of any size."""
    renewing = pool()
    assert await renewing.renew(b"tgt", -5) == b"TGT-5"
    large = bytes(3 * 1024 * 1024)
    assert await renewing.renew(large, 0) == large + b"+0"


async def test_one_worker_does_consecutive_attempts(pool: Callable[..., Pool]) -> None:
    """A worker is used again, and attempts at the same time have workers of their own."""
    renewing = pool()
    first = await renewing.renew(b"pid", 0)
    assert await renewing.renew(b"pid", 0) == first
    assert len(set(await asyncio.gather(*(renewing.renew(b"slow", 0) for _ in range(3))))) == 3


async def test_no_more_attempts_than_allowed(pool: Callable[..., Pool]) -> None:
    """At most `most` workers exist, and further attempts wait for one."""
    renewing = pool(most=2)
    assert len(set(await asyncio.gather(*(renewing.renew(b"pid", 0) for _ in range(20))))) <= 2


async def test_attempt_without_an_answer_ends_at_the_timeout(
    pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that waits for a KDC is killed, and the next attempt has another one."""
    renewing = pool(most=1)
    before = int(await renewing.renew(b"pid", 0))
    # Only this attempt has little time: on a loaded machine the others would need more.
    monkeypatch.setattr(renewing, "_timeout", 0.5)
    reason, message = await error_of(renewing, b"wait")
    assert (reason, "0.5 s" in message) == ("timeout", True)
    monkeypatch.setattr(renewing, "_timeout", LONG)
    assert int(await renewing.renew(b"pid", 0)) != before
    wait_until_gone(before)


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + LONG
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_crash_costs_one_attempt(pool: Callable[..., Pool]) -> None:
    """A worker that crashes fails its own attempt, and no other one."""
    renewing = pool()
    outcomes = await asyncio.gather(
        *(renewing.renew(each, 0) for each in (b"a", b"crash", b"b", b"crash", b"c")), return_exceptions=True
    )
    assert [each for each in outcomes if isinstance(each, bytes)] == [b"A+0", b"B+0", b"C+0"]
    assert {each.reason for each in outcomes if isinstance(each, RenewalError)} == {"internal"}
    assert await renewing.renew(b"d", 0) == b"D+0"


@pytest.mark.parametrize(
    ("credential", "name"), [(b"bug", "ValueError"), (b"memory", "MemoryError")], ids=["bug", "memory"]
)
async def test_bug_is_named_without_the_ticket(
    pool: Callable[..., Pool], credential: bytes, name: str
) -> None:
    """An unexpected exception fails the attempt; its message could quote the ticket, and stays away."""
    assert await error_of(pool(), credential) == ("internal", f"an error in pykcm-renew: {name}")


async def test_words_of_the_kdc_come_back(pool: Callable[..., Pool]) -> None:
    """The reason, the code, the message and whether to try again come from the worker."""
    with pytest.raises(RenewalError) as raised:
        await pool().renew(b"refuse", 0)
    error = raised.value
    assert (error.reason, error.code, error.again) == ("revoked", -1765328364, False)
    assert error.message == "TGT has been revoked"


async def test_cancelled_attempt_ends_its_worker(pool: Callable[..., Pool]) -> None:
    """A cancelled attempt leaves no process that goes on with it, and its place is free."""
    renewing = pool(most=1)
    pid = int(await renewing.renew(b"pid", 0))
    attempt = asyncio.create_task(renewing.renew(b"wait", 0))
    await asyncio.sleep(0)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    wait_until_gone(pid)
    assert await renewing.renew(b"a", 0) == b"A+0"


async def test_idle_worker_ends(pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without work ends after a while, and with it the memory that held tickets."""
    monkeypatch.setattr(pool_module, "_IDLE", 0.01)
    pid = int(await pool().renew(b"pid", 0))
    while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_worker_ends_after_many_attempts(
    pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is replaced after a number of attempts, so that lost memory is bounded."""
    monkeypatch.setattr(pool_module, "_MOST_ATTEMPTS", 3)
    renewing = pool()
    pids = [await renewing.renew(b"pid", 0) for _ in range(6)]
    assert pids[:3] == [pids[0]] * 3
    assert pids[3:] == [pids[3]] * 3
    assert pids[0] != pids[3]


def test_worker_ends_when_the_program_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker in a call of libkrb5 ends by itself soon after its pool could have killed it."""
    monkeypatch.setattr(workers, "_GRACE", 1.0)
    pid = os.fork()
    if pid == 0:
        # The child must not continue as a second pytest, whatever happens.
        try:
            os.setpgid(0, 0)
            spawner = Spawner(2.0, lambda: renew)

            async def attempt() -> None:
                renewing = Pool(spawner, LONG, 1)
                (tmp_path / "pid").write_bytes(await renewing.renew(b"pid", 0))
                (tmp_path / "pid").rename(tmp_path / "ready")
                await renewing.renew(b"wait", 0)

            asyncio.run(attempt())
        finally:
            os._exit(0)
    deadline = time.monotonic() + LONG
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_until_gone(int((tmp_path / "ready").read_bytes()))


async def test_attempt_fails_without_the_spawner(spawner: Spawner, pool: Callable[..., Pool]) -> None:
    """If no worker can be started, the attempt fails with a reason."""
    os.kill(spawner.pid, signal.SIGKILL)
    wait_until_zombie(spawner.pid)
    reason, _ = await error_of(pool(), b"a")
    assert reason == "internal"


def wait_until_zombie(pid: int) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_missing_library_is_reported() -> None:
    """A spawner that cannot load libkrb5 ends, and the program gets its message."""

    def load() -> Callable[[bytes, int], bytes]:
        raise SpawnerError("the package krb5 is missing")

    with pytest.raises(SpawnerError, match="the package krb5 is missing"):
        Spawner(LONG, load)
