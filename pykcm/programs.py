"""The entry points of the programs. They import the rest when SIGINT can no longer cause a traceback."""

from pykcm.interrupts import end_by_interrupts


def pykcmctl() -> int:
    """Run pykcmctl; returns its exit status."""
    end_by_interrupts()
    from pykcm.cli.main import main  # noqa: PLC0415

    return main()


def pykcmd() -> int:
    """Run pykcmd; returns its exit status."""
    end_by_interrupts()
    import gc  # noqa: PLC0415

    # A start makes hardly any garbage: looking for it takes 9 ms of 110. The daemon looks once it serves.
    gc.disable()
    # asyncio imports ssl where it can be imported. The daemon has only Unix sockets, and OpenSSL's libraries
    # take 4 MiB of memory and 5 ms.
    _import_without("ssl", "asyncio")
    # msgspec prefers typing_extensions where it is installed, for what `typing` has as well: 6 ms of 113.
    _import_without("typing_extensions", "msgspec")

    from pykcm import daemon  # noqa: PLC0415

    return daemon.main()


def pykcm_renew() -> int:
    """Run pykcm-renew; returns its exit status."""
    end_by_interrupts()
    from pykcm.renew.program import main  # noqa: PLC0415

    return main()


def pykcm_audit() -> int:
    """Run pykcm-audit; returns its exit status."""
    end_by_interrupts()
    from pykcm.audit import main  # noqa: PLC0415

    return main()


def _import_without(hidden: str, name: str) -> None:
    """Import a module, and make its import of another one fail, unless that is imported already."""
    import sys  # noqa: PLC0415

    if hidden in sys.modules:
        __import__(name)
        return
    sys.modules[hidden] = None  # type: ignore[assignment]
    try:
        __import__(name)
    finally:
        del sys.modules[hidden]
