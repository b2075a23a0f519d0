"""Coroutines that run at once, without a task, and continue when the future they wait for is done.

A task costs as much as a request that does not wait, and begins one iteration of the event loop later.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def step(
    coroutine: Coroutine[Any, Any, T], later: Callable[[T], None], failed: Callable[[], None]
) -> T | None:
    """Run `coroutine` until it waits; returns its result, or None if `later` gets it.

    The coroutine has no task: it cannot be cancelled, and must create a task for code that needs one (a
    timeout does). If it raises an exception, `failed` is called, and the event loop's exception handler gets
    the exception. KeyboardInterrupt and SystemExit are raised: they end the loop.
    """
    try:
        waited = coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    except BaseException as error:  # noqa: BLE001 - the client waits for a result, whatever happened
        _fail(error, failed)
        return None
    _Waiting(coroutine, later, failed).wait_for(waited)
    return None


class _Waiting(Generic[T]):
    __slots__ = ("_coroutine", "_failed", "_later")

    def __init__(
        self, coroutine: Coroutine[Any, Any, T], later: Callable[[T], None], failed: Callable[[], None]
    ) -> None:
        self._coroutine = coroutine
        self._later = later
        self._failed = failed

    def wait_for(self, waited: Any) -> None:
        if waited is None:  # asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            # A task does the same: it confirms the future's `yield`.
            waited._asyncio_future_blocking = False  # noqa: SLF001
            waited.add_done_callback(self._go_on)

    def _go_on(self, _: object = None) -> None:
        try:
            waited = self._coroutine.send(None)  # the future returns its result or raises its exception
        except StopIteration as end:
            self._later(end.value)
        except BaseException as error:  # noqa: BLE001 - as above
            _fail(error, self._failed)
        else:
            self.wait_for(waited)


def _fail(error: BaseException, failed: Callable[[], None]) -> None:
    failed()
    if isinstance(error, KeyboardInterrupt | SystemExit):
        raise error
    asyncio.get_running_loop().call_exception_handler(
        {"message": "an operation ended without a result", "exception": error}
    )
