"""What libselinux says: all of it goes to the log, and what the policy audits to the audit log as well."""

import logging
import re
import socket
from collections.abc import Callable
from typing import Any

from pykcm.logs import LimitedLog
from pykcm.protocol.text import escape

log = logging.getLogger(__name__)

# Lines that users cause: each request that the policy denies is audited.
_AVC_MESSAGES = LimitedLog(log, "messages of the SELinux policy", 60)
_OTHER_MESSAGES = LimitedLog(log, "messages of libselinux", 60)
_LOSSES = LimitedLog(log, "messages that did not reach the audit log", 1)

# A message's kind (SELINUX_ERROR and so on), and the level that it is logged at.
_LEVELS = {0: logging.ERROR, 1: logging.WARNING, 2: logging.INFO, 4: logging.INFO, 5: logging.INFO}
AVC = 3

_AVC_MESSAGE = re.compile(rb"avc: +(denied|granted) .* scontext=(\S+) tcontext=(\S+) ")

# selinux_set_callback(3): what is called for a message, instead of writing it to standard error.
_CB_LOG = 0

# Of a message's arguments, so many reach a callback that has no variable number of them.
_MOST_ARGUMENTS = 4
_LONGEST_MESSAGE = 4096

# C calls what is in here as long as the process lives.
_kept: list[Any] = []


class Reporter:
    """Logs messages, and sends those of the policy on, as datagrams, to whoever may write to the audit log.

    Nothing here raises or waits: when nobody takes a datagram, a record is missing in the audit log.
    """

    def __init__(self, audit_socket_path: str) -> None:
        self._audit_socket_path = audit_socket_path
        self._is_heard = True

    def report(self, kind: int, message: bytes) -> None:
        """`kind` is one of libselinux's types of messages."""
        message = message.strip()
        if kind == AVC:
            self._report_avc(message)
        else:
            level = _LEVELS.get(kind, logging.WARNING)
            _OTHER_MESSAGES.write(level, None, "libselinux: %s", escape(message))

    def _report_avc(self, message: bytes) -> None:
        fields, level, source = {}, logging.WARNING, ""
        if found := _AVC_MESSAGE.match(message):
            result, source, target = map(escape, found.groups())
            fields = {"KCM_AVC": result, "KCM_SCONTEXT": source, "KCM_TCONTEXT": target}
            if result == "granted":
                level = logging.INFO
        # The kernel's audit log must not be flooded either.
        if _AVC_MESSAGES.write(level, source, "%s", escape(message), fields=fields):
            self._send(message)

    def _send(self, message: bytes) -> None:
        try:
            # A socket for each: these are rare, and whoever listens comes and goes.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
                sending.setblocking(False)
                sending.sendto(message, self._audit_socket_path)
        except OSError as error:
            if self._is_heard:
                _LOSSES.write(
                    logging.WARNING,
                    None,
                    "messages of the SELinux policy do not reach the audit log: %s: %s",
                    self._audit_socket_path,
                    error.strerror or error,
                )
            self._is_heard = False
        else:
            self._is_heard = True


def take_messages(report: Callable[[int, bytes], None]) -> None:
    """From now on libselinux calls `report` with the kind and the text of each message.

    Where that cannot be had, it goes on writing to standard error, and the log says so.
    """
    # By ctypes: the Python binding takes no function of Python's.
    try:
        import ctypes  # noqa: PLC0415 - without SELinux nobody needs it

        # Both save errno around what is called: libselinux goes on with its own afterwards.
        libc = ctypes.CDLL(None, use_errno=True)
        arguments = [ctypes.c_void_p] * _MOST_ARGUMENTS
        function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, *arguments, use_errno=True)

        def put_together(form: bytes, values: tuple[int | None, ...]) -> bytes:
            if form.count(b"%") > _MOST_ARGUMENTS:
                return form
            buffer = ctypes.create_string_buffer(_LONGEST_MESSAGE)
            libc.snprintf(buffer, ctypes.c_size_t(len(buffer)), form, *map(ctypes.c_void_p, values))
            return buffer.value

        def called(kind: int, form: bytes, *values: int | None) -> int:
            # Whatever is wrong with a message must not reach C, nor change a decision.
            try:
                report(kind, put_together(form, values))
            except Exception:
                log.exception("a message of libselinux is lost")
            return 0

        library = ctypes.CDLL("libselinux.so.1")
        library.selinux_set_callback.argtypes = [ctypes.c_int, function]
        library.selinux_set_callback.restype = None
        _kept.append(function(called))
        library.selinux_set_callback(_CB_LOG, _kept[-1])
    except (ImportError, OSError, AttributeError, MemoryError) as error:
        log.warning("libselinux's messages go to standard error, and not to the audit log: %s", error)
