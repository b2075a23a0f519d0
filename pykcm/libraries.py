"""The libraries that pykcmd uses, imported without modules that it does not need, or not at its start."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

# asyncio imports ssl where it can be imported. The daemon has only Unix sockets, and OpenSSL's libraries take
# 4 MiB of memory and 5 ms. msgspec prefers typing_extensions where it is installed, for what `typing` has as
# well: 6 ms of 113.
_UNNEEDED = ("ssl", "typing_extensions")

# Modules that asyncio, msgspec, pathlib and urllib import for functions that the daemon calls rarely or not.
# Together they take 12 % of the instructions of a start.
_NEEDED_LATER = (
    *("asyncio.sslproto", "asyncio.staggered", "inspect", "ipaddress", "locale", "msgspec.inspect"),
    *("ntpath", "textwrap", "tokenize"),
)


class _Deferred(ModuleType):
    """Stands for a module that is imported when something of it is used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


@contextmanager
def _replaced(modules: dict[str, ModuleType | None]) -> Iterator[None]:
    """Let imports of these modules find others meanwhile, or fail (None), if they are not imported yet."""
    missing = {name: module for name, module in modules.items() if name not in sys.modules}
    # The type of sys.modules does not have the None that makes an import fail.
    sys.modules.update(missing)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


def import_libraries() -> None:
    """Import asyncio, msgspec, pathlib and urllib; to be called before anything else imports them."""
    with _replaced(dict.fromkeys(_UNNEEDED) | {name: _Deferred(name) for name in _NEEDED_LATER}):
        import asyncio  # noqa: F401, PLC0415
        import pathlib  # noqa: F401, PLC0415
        import urllib.parse  # noqa: F401, PLC0415

        import msgspec  # noqa: F401, PLC0415
