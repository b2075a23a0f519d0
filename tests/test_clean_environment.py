"""The environment that the tests give to the programs they start."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

from tests.checkout import ROOT

# Starts another program, as a test does, which prints its environment.
_PROGRAM = """
import subprocess, sys
from tests.processes import clean_environment
clean_environment()
seen = (
    "import os, signal, sys, time; "
    "print(sorted(os.environ.keys() - {'PWD'}), sys.flags.optimize, time.timezone, "
    "signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGHUP).name, "
    "oct(os.umask(0)))"
)
subprocess.run([sys.executable, "-c", seen], check=True)
"""


def test_programs_start_in_a_clean_environment(tmp_path: Path) -> None:
    """A program gets neither Python's variables, nor the machine's time zone, umask and ignored signals.

    It does not get a folder for temporary files that only this user may enter.
    """
    tmp_path.chmod(0o700)
    of_machine = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONOPTIMIZE": "2",
        "TZ": "Asia/Kolkata",
        "LC_ALL": "C",
        "TMPDIR": str(tmp_path),
    }
    printed = subprocess.run(
        ["/bin/sh", "-c", "umask 077; trap '' INT HUP; exec \"$@\"", "sh", sys.executable, "-c", _PROGRAM],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **of_machine},
    ).stdout
    assert printed == "['LC_ALL', 'PATH', 'TZ'] 0 0 True SIG_DFL 0o22\n"


def test_this_process_has_a_clean_environment() -> None:
    """The tests run in a clean environment, even if they were started in another one."""
    assert [name for name in os.environ if name.startswith("PYTHON")] == []
    assert os.environ["TZ"] == "UTC"


def in_script(commands: str, cwd: Path, prefix: str = "umask 077;", **variables: str) -> list[str]:
    """The lines that a script prints with these commands after it has sourced scripts/environment.sh."""
    return subprocess.run(
        [
            "/bin/bash",
            "-euo",
            "pipefail",
            "-c",
            f"{prefix} source '{ROOT}/scripts/environment.sh'; {commands}",
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], **variables},
    ).stdout.splitlines()


def test_scripts_run_without_home(tmp_path: Path) -> None:
    """A script that has neither HOME nor a locale gets both, and a umask with which others can read files."""
    home = pwd.getpwuid(os.geteuid()).pw_dir
    assert in_script('echo "$HOME" "$LC_ALL" "$(umask)"', tmp_path) == [f"{home} C.UTF-8 0022"]


def test_scripts_run_with_closed_stdin(tmp_path: Path) -> None:
    """A script that is started without stdin reads its end."""
    assert in_script("readlink /proc/self/fd/0; cat", tmp_path, prefix="exec <&-;") == ["/dev/null"]


def test_caches_are_in_the_checkout_without_a_home_for_them(tmp_path: Path) -> None:
    """Caches are in the home of the user, or in the checkout if nobody can write there."""
    home = tmp_path / "home"
    assert in_script("cache_folder", tmp_path, HOME=str(home)) == [f"{home}/.cache/pykcm"]
    assert in_script("cache_folder", tmp_path, XDG_CACHE_HOME=str(home)) == [f"{home}/pykcm"]
    in_checkout = [f"{tmp_path}/.cache/pykcm"]
    assert in_script("cache_folder", tmp_path, HOME="/dev/null") == in_checkout
    # Not even root can write there.
    assert in_script("cache_folder", tmp_path, HOME="/proc/self") == in_checkout
