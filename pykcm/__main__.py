"""`pykcmd` and `python -m pykcm`: the daemon, started at less cost than by an import of it."""

import gc
import sys


def main() -> int:
    """Run pykcmd; returns its exit status."""
    # A start makes hardly any garbage: looking for it takes 9 ms of 110. The daemon looks once it serves.
    gc.disable()
    # asyncio imports ssl where it can be imported. The daemon has only Unix sockets, and OpenSSL's libraries
    # take 4 MiB of memory and 5 ms.
    if "ssl" not in sys.modules:
        sys.modules["ssl"] = None  # type: ignore[assignment]
        import asyncio  # noqa: F401, PLC0415

        del sys.modules["ssl"]
    from pykcm import daemon  # noqa: PLC0415

    return daemon.main()


if __name__ == "__main__":
    sys.exit(main())
