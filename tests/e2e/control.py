"""Run pykcmctl as a process for one daemon."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .daemon import LIMIT, ROOT, memory_in

# The kernel's maximum for a child includes the memory that the parent had when it started the child.
_MEASURED = """
import atexit, pathlib, sys
from pykcm.cli.main import main
status, result = pathlib.Path("/proc/self/status"), pathlib.Path(sys.argv.pop(1))
atexit.register(lambda: result.write_text(status.read_text()))
main()
"""


class Said(NamedTuple):
    """The output and the exit status of a command."""

    status: int
    output: str
    errors: str


class Pykcmctl:
    """Runs `pykcmctl --socket …` with pipes for its output."""

    def __init__(self, control_path: Path) -> None:
        self.control_path = control_path

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pykcm.cli.main", "--socket", str(self.control_path), *arguments]

    def run(
        self,
        *arguments: str,
        stdin: str = "",
        uid: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Said:
        done = subprocess.run(
            self.argv(*arguments),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=3 * LIMIT,
            env={
                "PATH": os.environ["PATH"],
                "LC_ALL": "C.UTF-8",
                "PYTHONPATH": str(ROOT),
                "TZ": "UTC",
                **(environment or {}),
            },
            cwd="/",
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str, stdin: str = "") -> str:
        """The output of a command that must succeed."""
        said = self.run(*arguments, stdin=stdin)
        assert said.status == 0, said
        return said.output

    def peak(self, folder: Path, *arguments: str) -> int:
        """The largest memory in bytes of a command that must succeed; `folder` is for a temporary file."""
        status = folder / "status"
        subprocess.run(
            [sys.executable, "-c", _MEASURED, status, "--socket", self.control_path, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT)},
            cwd="/",
        )
        return memory_in(status, "VmHWM")

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--json"))
