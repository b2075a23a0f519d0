"""Messages of libselinux: all of them are logged, and the policy's go to the audit log as well."""

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

# Log levels by the type of message (SELINUX_ERROR and so on).
_LEVELS = {0: logging.ERROR, 1: logging.WARNING, 2: logging.INFO, 4: logging.INFO, 5: logging.INFO}
AVC = 3

# Compiled when it is first used: most kernels have no SELinux.
_AVC_MESSAGE = rb"avc: +(denied|granted) .* scontext=(\S+) tcontext=(\S+) "

# selinux_set_callback(3): this callback gets the messages, which otherwise go to standard error.
_CB_LOG = 0

# The callback is not variadic: it gets so many of a message's arguments.
_MOST_ARGUMENTS = 4
_LONGEST_MESSAGE = 4096

# Callbacks that C calls as long as the process lives: they must not be freed.
_callbacks: list[Any] = []


class Reporter:
    """Logs messages, and sends those of the policy as datagrams to a process that may write to the audit log.

    Nothing here raises or waits: if nobody receives a datagram, the record is missing in the audit log.
    """

    def __init__(self, audit_socket_path: str) -> None:
        self._audit_socket_path = audit_socket_path
        self._is_received = True

    def report(self, kind: int, message: bytes) -> None:
        """`kind`: one of libselinux's types of messages."""
        message = message.strip()
        if kind == AVC:
            self._report_avc(message)
        else:
            level = _LEVELS.get(kind, logging.WARNING)
            _OTHER_MESSAGES.write(level, None, "libselinux: %s", escape(message))

    def _report_avc(self, message: bytes) -> None:
        fields, level, source = {}, logging.WARNING, ""
        if found := re.match(_AVC_MESSAGE, message):
            result, source, target = map(escape, found.groups())
            fields = {"KCM_AVC": result, "KCM_SCONTEXT": source, "KCM_TCONTEXT": target}
            if result == "granted":
                level = logging.INFO
        # The kernel's audit log must not be flooded either.
        if _AVC_MESSAGES.write(level, source, "%s", escape(message), fields=fields):
            self._send(message)

    def _send(self, message: bytes) -> None:
        try:
            # A new socket for each message: they are rare, and the receiver may be restarted.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
                sending.setblocking(False)
                sending.sendto(message, self._audit_socket_path)
        except OSError as error:
            if self._is_received:
                _LOSSES.write(
                    logging.WARNING,
                    None,
                    "messages of the SELinux policy do not reach the audit log: %s: %s",
                    self._audit_socket_path,
                    error.strerror or error,
                )
            self._is_received = False
        else:
            self._is_received = True


def take_messages(report: Callable[[int, bytes], None]) -> None:
    """Make libselinux call `report` with the kind and the text of each message.

    If that fails, libselinux still writes to standard error, and a warning is logged.
    """
    # With ctypes, because the Python binding accepts no Python function.
    try:
        import ctypes  # noqa: PLC0415 - needed with SELinux only

        # Both save errno around the call, because libselinux uses its own value afterwards.
        libc = ctypes.CDLL(None, use_errno=True)
        arguments = [ctypes.c_void_p] * _MOST_ARGUMENTS
        function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, *arguments, use_errno=True)

        def format_message(template: bytes, values: tuple[int | None, ...]) -> bytes:
            if template.count(b"%") > _MOST_ARGUMENTS:
                return template
            buffer = ctypes.create_string_buffer(_LONGEST_MESSAGE)
            libc.snprintf(buffer, ctypes.c_size_t(len(buffer)), template, *map(ctypes.c_void_p, values))
            return buffer.value

        def on_message(kind: int, template: bytes, *values: int | None) -> int:
            # An error must neither reach C nor change a decision.
            try:
                report(kind, format_message(template, values))
            except Exception:
                log.exception("a message of libselinux was lost")
            return 0

        library = ctypes.CDLL("libselinux.so.1")
        library.selinux_set_callback.argtypes = [ctypes.c_int, function]
        library.selinux_set_callback.restype = None
        _callbacks.append(function(on_message))
        library.selinux_set_callback(_CB_LOG, _callbacks[-1])
    except (ImportError, OSError, AttributeError, MemoryError) as error:
        log.warning("libselinux's messages go to standard error, not to the audit log: %s", error)
