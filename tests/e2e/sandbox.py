"""Restrict a process as systemd's sandbox does."""

import errno
import os
import platform
import resource
import sys

# The number of the system call socket(2).
_SOCKET = {"x86_64": 41, "aarch64": 198}

# Runs in the daemon's process before the daemon: a seccomp filter makes socket(2) fail, except for Unix
# sockets.
_RESTRICT = """
import ctypes, os, socket, struct, sys

def statement(code, jump_if, jump_else, value):
    return struct.pack("=HBBI", code, jump_if, jump_else, value)

LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERROR = 0x7FFF0000, 0x00050000
number, error = int(sys.argv[1]), int(sys.argv[2])
program = b"".join([
    statement(LOAD, 0, 0, 0),
    statement(EQUAL, 0, 3, number),
    statement(LOAD, 0, 0, 16),
    statement(EQUAL, 1, 0, socket.AF_UNIX),
    statement(RETURN, 0, 0, ERROR | error),
    statement(RETURN, 0, 0, ALLOW),
])
buffer = ctypes.create_string_buffer(program, len(program))
filter = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
prctl = ctypes.CDLL(None, use_errno=True).prctl
if prctl(38, 1, 0, 0, 0) or prctl(22, 2, filter, 0, 0):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.argv[3], sys.argv[3:])
"""


def only_unix_sockets(error: int = errno.EAFNOSUPPORT) -> tuple[str, ...] | None:
    """A prefix with which a command gets `error` for other sockets; None on an unknown machine."""
    number = _SOCKET.get(platform.machine())
    if number is None:
        return None
    return (sys.executable, "-c", _RESTRICT, str(number), str(error))


def refuse_more_files() -> None:
    """Forbid this process to raise its limit of open files, as under a seccomp filter."""
    really = resource.setrlimit

    def refuse(kind: int, limits: tuple[int, int]) -> None:
        if kind == resource.RLIMIT_NOFILE:
            raise ValueError(os.strerror(errno.EPERM))
        really(kind, limits)

    really(resource.RLIMIT_NOFILE, (500, 600))
    resource.setrlimit = refuse
