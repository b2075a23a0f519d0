"""The listener of the control socket, which is checked before it gets keys and tickets."""

import os
import pwd
import socket
from pathlib import Path

from pykcm.control.messages import ControlError, ErrorCode
from pykcm.control.socket_folders import folder_of_others
from pykcm.peer.identity import ROOT, listener_of
from pykcm.protocol.text import escape_path

# Whom the unit runs the daemon as.
_DAEMON_USER = "pykcm"


def check_listener(sock: socket.socket, path: str, daemon_uid: int | None = None) -> None:
    """Raises ControlError unless the connected socket's other end is a daemon that may be given secrets.

    That is one of root's (also systemd, which listens for a service), of the user `pykcm`, of `daemon_uid` or
    of the user who asks; or any at a socket of root's that nobody but root can have put there.
    """
    pid, uid = listener_of(sock)
    if uid in {ROOT, os.geteuid(), daemon_uid, _uid_of(_DAEMON_USER)} or _is_roots(path):
        return
    process = f"process {pid}" if pid else "a process that cannot be seen from here"
    raise ControlError(
        ErrorCode.PERMISSION,
        f"{escape_path(path)}: {process} of UID {uid} listens there, neither root nor the user "
        f"{_DAEMON_USER} nor you: nothing was handed over. If the daemon runs as that user, "
        "name the user with --daemon-user",
    )


def _uid_of(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def _is_roots(path: str) -> bool:
    try:
        return (
            Path(path).stat().st_uid == ROOT and folder_of_others(path, {ROOT}, trusts_sticky=False) is None
        )
    except OSError:
        return False
