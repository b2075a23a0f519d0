"""The environment that the tests give to the programs they start."""

import os
import subprocess
import sys
from pathlib import Path

# Starts another program, as a test does, which prints its environment.
_PROGRAM = """
import subprocess, sys
from tests.processes import clean_environment
clean_environment()
seen = (
    "import os, signal, sys, time; "
    "print(sorted(os.environ.keys() - {'PWD'}), sys.flags.optimize, time.timezone, "
    "signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGHUP).name)"
)
subprocess.run([sys.executable, "-c", seen], check=True)
"""


def test_programs_start_in_a_clean_environment() -> None:
    """A program gets neither Python's variables, nor the machine's time zone, nor ignored signals."""
    of_machine = {"PYTHONUNBUFFERED": "1", "PYTHONOPTIMIZE": "2", "TZ": "Asia/Kolkata", "LC_ALL": "C"}
    printed = subprocess.run(
        ["/bin/sh", "-c", "trap '' INT HUP; exec \"$@\"", "sh", sys.executable, "-c", _PROGRAM],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
        env={"PATH": os.environ["PATH"], **of_machine},
    ).stdout
    assert printed == "['LC_ALL', 'PATH', 'TZ'] 0 0 True SIG_DFL\n"


def test_this_process_has_a_clean_environment() -> None:
    """The tests run in a clean environment, even if they were started in another one."""
    assert [name for name in os.environ if name.startswith("PYTHON")] == []
    assert os.environ["TZ"] == "UTC"
