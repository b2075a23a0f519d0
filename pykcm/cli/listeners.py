"""Check the process behind the control socket before it gets keys and tickets."""

import os
import socket
from pathlib import Path

from pykcm.control.messages import ControlError, ErrorCode
from pykcm.control.socket_folders import folder_of_others
from pykcm.peer.identity import ROOT, listener_of, uid_of
from pykcm.protocol.text import escape_path

# The user of pykcm.service.
_DAEMON_USER = "pykcm"


def check_listener(sock: socket.socket, path: str, daemon_uid: int | None = None) -> None:
    """Raise ControlError unless the listener behind the connected socket may be given secrets.

    It must run as root (systemd does), as the user `pykcm`, as `daemon_uid` or as the calling user. Otherwise
    the socket must be root's, and only root may have been able to put it there.
    """
    pid, uid = listener_of(sock)
    if uid in {ROOT, os.geteuid(), daemon_uid, uid_of(_DAEMON_USER)} or _is_roots(path):
        return
    process = f"process {pid}" if pid else "a process that cannot be seen from here"
    raise ControlError(
        ErrorCode.PERMISSION,
        f"{process} of UID {uid} listens at {escape_path(path)}, and that is neither root nor the user "
        f"{_DAEMON_USER} nor you: nothing was sent. If the daemon runs as that user, give --daemon-user",
    )


def _is_roots(path: str) -> bool:
    try:
        return (
            Path(path).stat().st_uid == ROOT and folder_of_others(path, {ROOT}, trusts_sticky=False) is None
        )
    except OSError:
        return False
