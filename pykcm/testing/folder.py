"""A temporary folder that is removed when this process ends, however it ends."""

import os
import re
import secrets
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path

# On Debian, the administrator's programs are not in the PATH of ordinary users.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# In bytes: the path of a Unix socket has at most 107, and KRB5_CONFIG separates its paths by colons.
_LONGEST = 80
_PLAIN_PATH = re.compile(r"[\w/.+@-]+", re.ASCII)

# $1 is the folder's mode, $2 its path. Without a line, the input ends when no process has its other end any
# more: neither this one nor a program that uses the folder. Nobody makes files in it then.
_KEEPER = """
mkdir -m "$1" -- "$2" || exit
echo made
read -r line || rm -rf -- "$2" 2>/dev/null
"""


class TemporaryFolder:
    """A folder with a short path, which needs no quotes in configuration files.

    Another process makes it, and removes it if this process is killed, at any moment. Programs that use the
    folder inherit `lease`: it is removed after their end.
    """

    def __init__(self) -> None:
        self.path = _free_path()
        # Root's tests may run programs as other users.
        mode = "755" if os.geteuid() == 0 else "700"
        # In a session of its own, so that Ctrl-C in a terminal does not end it.
        keeper = subprocess.Popen(  # noqa: S603 - its words are from here
            ["/bin/sh", "-c", _KEEPER, "pykcm-testing", mode, str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": SYSTEM_PATH, "LC_ALL": "C"},
            cwd="/",
            start_new_session=True,
        )
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        with keeper.stdout as output:
            answer = output.readline().decode(errors="backslashreplace").strip()
        self.lease = keeper.stdin.fileno()
        # The end of the interpreter closes `lease`.
        self._finalizer = weakref.finalize(self, _remove, self.path, keeper, os.getpid())
        self._finalizer.atexit = False
        if answer != "made":
            self.remove()
            raise OSError(f"a temporary folder could not be made: {answer}")

    def remove(self) -> None:
        """Remove the folder, after the end of the programs that use it."""
        self._finalizer()


def _free_path() -> Path:
    name = f"pykcm-{secrets.token_hex(6)}"
    path = Path(tempfile.gettempdir()) / name
    if len(bytes(path)) > _LONGEST or not _PLAIN_PATH.fullmatch(str(path)):
        path = Path("/tmp") / name  # noqa: S108 - the folder is new, or making it fails
    return path


def _remove(path: Path, keeper: "subprocess.Popen[bytes]", owner: int) -> None:
    if os.getpid() != owner:
        # A fork of the process: the folder is not its own.
        return
    shutil.rmtree(path, ignore_errors=True)
    # A line ends the keeper even if a fork of this process has the pipe as well.
    keeper.communicate(b"removed\n")
