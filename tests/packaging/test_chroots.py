"""The shell functions of the chroots: what the network fails to deliver is asked for again."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A command that fails so often as its first argument says, and counts its runs.
FAILING = """\
failing() {
    echo run >>"$work/runs"
    echo "output $(wc -l <"$work/runs")"
    (($(wc -l <"$work/runs") > $1))
}
sleep() { :; }
"""

# An apt-get whose downloads fail so often as DOWNLOADS says, and whose packages then fail if PACKAGES is set.
APT_GET = """\
#!/bin/bash
echo "$*" >>"$WORK/runs"
if (($(wc -l <"$WORK/runs") <= DOWNLOADS)); then
    echo 'E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?'
    exit 100
fi
[[ -z $PACKAGES ]] || { echo 'E: Sub-process /usr/bin/dpkg returned an error code (1)'; exit 100; }
"""

# A debootstrap that fails once, leaves a file, and accepts none that is left.
DEBOOTSTRAP = """\
#!/bin/bash
[[ ! -e $4/left ]] || exit 2
mkdir -p "$4"
touch "$4/left"
echo run >>"$WORK/runs"
(($(wc -l <"$WORK/runs") > 1))
"""


def bash(script: str, work: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env=os.environ | {"work": str(work)} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("failures", "runs", "status"), [("0", 1, 0), ("1", 2, 0), ("2", 3, 0), ("3", 3, 1), ("9", 3, 1)]
)
def test_command_is_repeated_until_it_succeeds(tmp_path: Path, failures: str, runs: int, status: int) -> None:
    """It runs three times at most; the output of each run that failed is shown, and no other."""
    done = bash(f"source scripts/chroots.sh\n{FAILING}\nrepeatedly quietly failing {failures}", tmp_path)
    assert done.returncode == status, done.stderr
    assert (tmp_path / "runs").read_text() == "run\n" * runs
    printed = [line for line in done.stderr.splitlines() if line.startswith("output")]
    assert (done.stdout, printed) == ("", [f"output {i + 1}" for i in range(min(runs, int(failures)))])


def test_second_installation_begins_with_nothing(tmp_path: Path) -> None:
    """The remains of a failed debootstrap are removed before the next attempt."""
    write_program(tmp_path / "debootstrap", DEBOOTSTRAP)
    done = bash(
        "source scripts/chroots.sh\nsleep() { :; }\ntree=$work/tree release=trixie cache=$work\n"
        "repeatedly run_debootstrap",
        tmp_path,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        WORK=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs").read_text() == "run\n" * 2


@pytest.mark.parametrize(
    ("downloads", "packages", "runs", "status"),
    [("0", "", 1, 0), ("2", "", 3, 0), ("3", "", 3, 1), ("0", "fail", 1, 1), ("1", "fail", 2, 1)],
)
def test_failed_package_is_not_installed_again(
    tmp_path: Path, downloads: str, packages: str, runs: int, status: int
) -> None:
    """The test of the packages repeats downloads alone: a second attempt would hide a package's mistake."""
    write_program(tmp_path / "apt-get", APT_GET)
    text = (ROOT / "packaging/chroot-test").read_text()
    # The functions come before the first command that does something.
    functions = text[: text.index("\ntrap ")].replace("/recorder/", f"{tmp_path}/")
    done = bash(
        f"sleep() {{ :; }}\n{functions}\napt install pykcm",
        tmp_path,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        WORK=str(tmp_path),
        DOWNLOADS=downloads,
        PACKAGES=packages,
    )
    assert done.returncode == status, done.stdout
    lines = (tmp_path / "runs").read_text().splitlines()
    assert len(lines) == runs
    assert lines[0].endswith(" install pykcm")
