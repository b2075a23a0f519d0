"""Processes with MIT's or Heimdal's library that hold a ccache open, and read its principal on demand.

The usual clients end after their requests, but a login session or a service holds its ccache for days.
"""

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .clients import Client
from .daemon import LIMIT

MIT_LIBRARY = "libkrb5.so.3"
HEIMDAL_LIBRARY = "libkrb5.so.26"

# Changes to the user; asks once, and again for each line of stdin; prints each result, 0 for success.
# SIGPIPE has its default action, as in programs that are not Python.
_HOLD = """
import ctypes, os, signal, sys
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
library, uid = sys.argv[1], int(sys.argv[2])
if uid != os.geteuid():
    os.setgroups([]), os.setgid(uid), os.setuid(uid)
krb5 = ctypes.CDLL(library)
context, ccache, principal = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
assert krb5.krb5_init_context(ctypes.byref(context)) == 0
assert krb5.krb5_cc_default(context, ctypes.byref(ccache)) == 0
while True:
    print(krb5.krb5_cc_get_principal(context, ccache, ctypes.byref(principal)), flush=True)
    if not sys.stdin.readline():
        break
"""


class Holder:
    """A process that holds the default ccache of its user."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def result(self) -> int:
        """The last result of the library; fails if the process has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the process has ended: {self._process.wait(LIMIT)}"
        return int(line)

    def ask(self) -> int:
        """Make it ask for the principal again."""
        self._ask()
        return self.result()

    def signal_of_asking(self) -> int:
        """Make it ask; returns the signal that ends it."""
        self._ask()
        return -self._process.wait(LIMIT)

    def _ask(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()


@contextmanager
def holding(client: Client, library: str) -> Iterator[Holder]:
    """A process with the client's user and krb5.conf that holds its default ccache, and has asked once."""
    process = subprocess.Popen(
        client.with_socket([sys.executable, "-c", _HOLD, library, str(client.uid)]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=client.environment,
        cwd="/",
        text=True,
    )
    try:
        holder = Holder(process)
        assert holder.result() == 0
        yield holder
    finally:
        process.kill()
        process.communicate()


def has_library(name: str) -> bool:
    """Whether the library is installed."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
