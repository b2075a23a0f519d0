"""Requests of an ordinary user about their own ccaches, answered over the KCM socket.

The daemon decides about each KCM request as it does for klist and kinit: nothing that the control socket
refuses becomes possible. The items have the form of the control socket's, and the same code makes them.
"""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from pykcm.cli.client import Answer
from pykcm.cli.names import format_ccache, format_user
from pykcm.cli.user_collection import connected, read_collection, user_call
from pykcm.cli.user_events import watch_collection
from pykcm.client import KcmClient
from pykcm.control.calls import Call
from pykcm.control.listing import ListArguments, ShowArguments, list_ccaches, show_ccache
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.control.modify import DestroyArguments, SwitchArguments
from pykcm.control.transfer import ExportArguments, ImportArguments, export_ccaches
from pykcm.control.watching import WatchArguments
from pykcm.peer.names import collection_of, owner_of
from pykcm.protocol.codes import Code, KcmError

_CODES = {
    Code.FCC_NOFILE: ErrorCode.NOT_FOUND,
    Code.FCC_PERM: ErrorCode.PERMISSION,
    errno.EDQUOT: ErrorCode.QUOTA,
    errno.EIO: ErrorCode.STORE,
}


class UserAnswer(Answer):
    """An answer that this process makes; `summary` is complete after the last item."""

    def __init__(self, items: Iterator[Any], summary: dict[str, Any]) -> None:
        self.summary = summary
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        with _named_errors():
            yield from self._items

    def close(self) -> None: ...


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except KcmError as error:
        text = error.reason or str(error)
        if error.code == Code.FCC_NOFILE:
            text = "there is no such ccache"
        elif error.code == errno.EDQUOT:
            text = "the server refused it: your quota is used up; destroy ccaches that you do not need"
        raise ControlError(_CODES.get(error.code, ErrorCode.INTERNAL), text) from None


class UserClient:
    """Answers requests about the ccaches of the calling user, by a KCM server at `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.uid = os.geteuid()

    def ask(self, name: str, arguments: dict[str, Any], frames: Iterable[Any] = ()) -> Answer:
        """Answer one of USER_REQUESTS. Items are made while they are read."""
        summary: dict[str, Any] = {}
        answer = getattr(self, f"_{name}")
        items = answer(arguments, summary, frames) if name == "import" else answer(arguments, summary)
        return UserAnswer(items, summary)

    # Requests: each gets its arguments, and fills the summary.

    def _list(self, arguments: dict[str, Any], summary: dict[str, Any]) -> Iterator[Any]:
        wanted = self._own(msgspec.convert(_given(arguments), ListArguments))
        yield from self._read(list_ccaches, wanted, summary)

    def _show(self, arguments: dict[str, Any], summary: dict[str, Any]) -> Iterator[Any]:
        wanted = msgspec.convert(_given(arguments), ShowArguments)
        self._check_owner(wanted.name)
        yield from self._read(show_ccache, wanted, summary)

    def _export(self, arguments: dict[str, Any], summary: dict[str, Any]) -> Iterator[Any]:
        wanted = self._own(msgspec.convert(_given(arguments), ExportArguments))
        yield from self._read(export_ccaches, wanted, summary)

    def _destroy(self, arguments: dict[str, Any], summary: dict[str, Any]) -> Iterator[Any]:
        wanted = msgspec.convert(_given(arguments), DestroyArguments)
        if wanted.name is not None:
            self._check_owner(wanted.name)
            with connected(self.path) as kcm:
                kcm.destroy(wanted.name)
            yield {"uid": self.uid, "name": wanted.name}
            return
        wanted = self._own(wanted)
        with connected(self.path) as kcm:
            names = self._names(kcm, only_expired=wanted.expired)
        # On another connection: a server keeps no default for a client that asked for it and destroys it.
        with connected(self.path) as kcm:
            for name in names:
                try:
                    kcm.destroy(name)
                except KcmError as error:
                    if error.code != Code.FCC_NOFILE:
                        raise
                else:
                    yield {"uid": self.uid, "name": name}

    def _switch(self, arguments: dict[str, Any], summary: dict[str, Any]) -> Iterator[Any]:
        wanted = self._own(msgspec.convert(_given(arguments), SwitchArguments))
        self._check_owner(wanted.name)
        with connected(self.path) as kcm:
            # A default need not exist for KCM.
            kcm.get_principal(wanted.name)
            kcm.set_default_cache(wanted.name)
        yield from ()

    def _import(
        self, arguments: dict[str, Any], summary: dict[str, Any], frames: Iterable[Any]
    ) -> Iterator[Any]:
        # Imported late: no other request needs it.
        from pykcm.cli.user_import import import_frames  # noqa: PLC0415

        wanted = msgspec.convert(_given(arguments), ImportArguments)
        with connected(self.path) as kcm:
            yield from import_frames(kcm, wanted, frames, summary)

    def _watch(self, arguments: dict[str, Any], summary: dict[str, Any]) -> Iterator[Any]:
        self._own(msgspec.convert(_given(arguments), WatchArguments))
        for item in watch_collection(self.path):
            yield item | {"uid": self.uid}

    def _read(
        self, request: Callable[[Call], AsyncIterator[Any]], wanted: Any, summary: dict[str, Any]
    ) -> Iterator[Any]:
        with connected(self.path) as kcm:
            call = user_call(wanted, read_collection(kcm))

        async def collect() -> list[Any]:
            return [item async for item in request(call)]

        items = asyncio.run(collect())
        summary.update(call.summary)
        for item in items:
            yield msgspec.to_builtins(item, builtin_types=(bytes,))

    def _names(self, kcm: KcmClient, *, only_expired: bool) -> list[bytes]:
        collection = read_collection(kcm)
        if not only_expired:
            return [each.name for each in collection] + list(collection.unavailable)
        return [each.name for each in collection if each.has_expired(collection.now)]

    def _own(self, wanted: Any) -> Any:
        """Return the arguments with the calling user's UID; raises ControlError if they have another one."""
        if wanted.uid not in {None, self.uid}:
            raise ControlError(
                ErrorCode.PERMISSION,
                f"{format_user(wanted.uid)}: only root may see and change other users' ccaches; try sudo",
            )
        return msgspec.structs.replace(wanted, uid=self.uid)

    def _check_owner(self, name: bytes) -> None:
        owner = collection_of(name)
        if owner_of(name) is None:
            raise ControlError(ErrorCode.NOT_FOUND, "the name belongs to no user")
        if owner != self.uid:
            raise ControlError(
                ErrorCode.PERMISSION,
                f"{format_ccache(name)}: belongs to {format_user(owner)}, and only root may see and change "
                "other users' ccaches; try sudo",
            )


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}
