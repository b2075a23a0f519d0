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
    from pykcm.libraries import import_libraries  # noqa: PLC0415

    import_libraries()
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
