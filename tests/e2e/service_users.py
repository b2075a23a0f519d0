"""Users of services, who may make some requests: a host that has one, and requests of one."""

import os
import subprocess
import sys
from pathlib import Path

from .conftest import OTHER
from .daemon import LIMIT, ROOT

_PYKCMD = """
import pwd, sys, types
pwd.getpwnam = lambda name: {{"{user}": types.SimpleNamespace(pw_uid={uid})}}[name]
from pykcm.daemon import main
sys.exit(main())
"""

_ASK = "import sys; from tests.e2e.service_users import ask; ask(sys.argv[1:])"


def pykcmd_with(user: str) -> tuple[str, ...]:
    """The command of a pykcmd on a host on which this user has the UID OTHER."""
    return sys.executable, "-c", _PYKCMD.format(user=user, uid=OTHER)


def ask_as(uid: int, path: Path, request: str) -> str:
    """Return "answered" and the first item of the answer, or the error."""
    done = subprocess.run(
        [sys.executable, "-c", _ASK, str(uid), str(path), request],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=LIMIT,
    )
    return done.stdout


def ask(arguments: list[str]) -> None:
    """Make a request as the given UID; the process changes to it after its imports."""
    from pykcm.cli.client import ControlClient
    from pykcm.control.messages import ControlError

    uid, path, request = arguments
    become(int(uid))
    try:
        items = iter(ControlClient(path, patience=LIMIT).ask(request))
        first = next(items, "")
        # The answer to this one goes on for as long as the connection.
        if request != "renewals":
            list(items)
        print("answered", first)  # noqa: T201
    except ControlError as error:
        print(f"{error.code}: {error.message}")  # noqa: T201


def become(uid: int) -> None:
    """Change this process to the user, for ever."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
