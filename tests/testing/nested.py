"""pytest as a process of another project, which has pykcm installed."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

LIMIT = 100.0


class Outcome(NamedTuple):
    """The exit status and the output of a run of pytest."""

    status: int
    output: str

    @property
    def passed(self) -> int:
        return self._count("passed")

    @property
    def skipped(self) -> int:
        return self._count("skipped")

    def _count(self, word: str) -> int:
        found = re.search(rf"(\d+) {word}", self.output.splitlines()[-1])
        return int(found[1]) if found else 0


def run_pytest(folder: Path, source: str, *options: str, **variables: str) -> Outcome:
    """Run a module of tests in a folder of its own."""
    (folder / "test_application.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:anyio", "-rs", *options],
        cwd=folder,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    return Outcome(done.returncode, done.stdout)


def processes_in(folders: Iterable[str]) -> list[Path]:
    """The processes whose command line names one of the folders."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(folder in words for folder in folders):
            found.append(path)
    return found


def wait_until_gone(folder: str) -> None:
    """Wait until the folder is removed, and no process names it in its command line."""
    deadline = time.monotonic() + LIMIT
    while Path(folder).exists() or processes_in([folder]):
        assert time.monotonic() < deadline, folder
        # Nobody's children: nothing reports their end.
        time.sleep(0.01)
