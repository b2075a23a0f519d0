"""`pykcmd` and `python -m pykcm`: the daemon, started at less cost than by an import of it."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Make an import of the module fail meanwhile, unless it is imported already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def main() -> int:
    """Run pykcmd; returns its exit status."""
    # A start makes hardly any garbage: looking for it takes 9 ms of 110. The daemon looks once it serves.
    gc.disable()
    # asyncio imports ssl where it can be imported. The daemon has only Unix sockets, and OpenSSL's libraries
    # take 4 MiB of memory and 5 ms.
    with _hidden("ssl"):
        import asyncio  # noqa: F401, PLC0415
    # msgspec prefers typing_extensions where it is installed, for what `typing` has as well: 6 ms of 113.
    with _hidden("typing_extensions"):
        import msgspec  # noqa: F401, PLC0415

    from pykcm import daemon  # noqa: PLC0415

    return daemon.main()


if __name__ == "__main__":
    sys.exit(main())
