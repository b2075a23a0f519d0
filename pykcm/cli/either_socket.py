"""The client of pykcmctl's commands: over the control socket, or for ordinary users over the KCM socket."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pykcm.cli.client import Answer, ControlClient
from pykcm.cli.profile import ProfileError, read_profile
from pykcm.config import DEFAULT_CONTROL_SOCKET, DEFAULT_SOCKET
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.peer.identity import ROOT

if TYPE_CHECKING:
    from pykcm.cli.user_client import UserClient

# The requests that UserClient answers.
_USER_REQUESTS = {"destroy", "export", "import", "list", "show", "switch", "watch"}


class EitherSocketClient(ControlClient):
    """Sends requests over the control socket if the caller may use it.

    Otherwise, users see and change their own ccaches over the KCM socket at `kcm_path` (None: where libkrb5's
    clients find it). The daemon decides about each KCM request as it does for klist and kinit.
    """

    def __init__(self, *arguments: Any, kcm_path: str | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._kcm_path = kcm_path
        self._is_decided = False
        self._user_client: UserClient | None = None

    def ask(self, name: str, /, *, frames: Iterable[Any] = (), **arguments: Any) -> Answer:
        if name in _USER_REQUESTS:
            if not self._is_decided:
                self._user_client = self._choose()
                self._is_decided = True
            if self._user_client is not None:
                return self._user_client.ask(name, arguments, frames)
        return super().ask(name, frames=frames, **arguments)

    def _choose(self) -> "UserClient | None":
        """The client of the KCM socket, or None if requests go over the control socket."""
        if os.geteuid() == ROOT or not self._is_refused():
            return None
        # Imported late: an administrator needs neither it nor the domain.
        from pykcm.cli.user_client import UserClient  # noqa: PLC0415

        return UserClient(kcm_socket_path() if self._kcm_path is None else self._kcm_path)

    def _is_refused(self) -> bool:
        """Whether the control socket refuses the caller. The default one may be missing, as in containers."""
        try:
            for _ in super().ask("list", uid=os.geteuid(), expired=True):
                pass
        except ControlError as error:
            return error.code == ErrorCode.PERMISSION
        except OSError as error:
            is_missing = error.errno in {errno.ENOENT, errno.ECONNREFUSED}
            is_default = os.fspath(self.path) == DEFAULT_CONTROL_SOCKET
            return error.errno in {errno.EACCES, errno.EPERM} or (is_missing and is_default)
        return False


def kcm_socket_path() -> str:
    """The path of the KCM socket that libkrb5's clients connect to; raises ControlError."""
    files = os.environ.get("KRB5_CONFIG") or "/etc/krb5.conf"
    try:
        found = read_profile(files.split(":"), Path).get("libdefaults", "kcm_socket")
    except (OSError, ProfileError) as error:
        raise ControlError(
            ErrorCode.INTERNAL, f"krb5.conf cannot be read: {error}; or name the socket with --kcm-socket"
        ) from None
    return DEFAULT_SOCKET if found is None else found.value
