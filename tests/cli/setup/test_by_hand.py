"""docs/install.md, "By hand": its commands do what `pykcmctl setup` does."""

import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest

from pykcm.cli.installation import Setup
from pykcm.cli.setup import apply
from tests.cli.setup.systems import PREFIX, ROOT, Recorder, files_in, make_setup, read

# Instead of systemd's programs.
STUBS = "".join(
    f'{name}() {{ echo "{name} $*" >>"$calls"; }}\n'
    for name in ("systemctl", "systemd-sysusers", "systemd-tmpfiles")
)


def commands_of_document() -> str:
    """Return the indented lines of the section."""
    section = (ROOT / "docs/install.md").read_text().split("\n## By hand\n")[1].split("\n## ")[0]
    return textwrap.dedent("".join(re.findall(r"^    .*\n", section, re.MULTILINE)))


def links_in(root: Path) -> dict[str, str]:
    """The links below /usr/local with their targets in the environment."""
    local = root / "usr/local"
    found = (path for path in local.rglob("*") if path.is_symlink())
    return {str(path.relative_to(local)): str(path.readlink()).removeprefix(str(root)) for path in found}


def test_commands_install_what_setup_installs(
    live_setup: Setup, folder: Path, run: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files, the links and systemd's commands are the same; the units have drop-ins for the programs."""
    apply(live_setup, run)
    root = make_setup(folder / "by-hand", PREFIX, monkeypatch).root
    # Every distribution has it.
    (root / "usr/local/bin").mkdir(parents=True)
    script = re.sub(r"(?<![\w=}])/(opt/pykcm|etc|usr/local)\b", rf"{root}/\1", commands_of_document())
    # They must not reach this machine.
    assert not re.search(r"(?<![\w=}])/\w+/", script.replace(f"{root}/", ""))
    calls = folder / "calls"
    subprocess.run(
        ["bash", "-eu", "-c", STUBS + script], env=os.environ | {"calls": str(calls)}, check=True, timeout=60
    )

    drop_ins = {name for name in files_in(root) if name.endswith(".service.d/program.conf")}
    assert files_in(root) - drop_ins == files_in(live_setup.root)
    assert links_in(root) == links_in(live_setup.root)
    units = live_setup.root / "etc/systemd/system"
    for unit in units.glob("*.service"):
        (program,) = re.findall(r"^ExecStart=.*\n", read(unit), re.MULTILINE)
        assert f"etc/systemd/system/{unit.name}.d/program.conf" in drop_ins
        assert read(root / f"etc/systemd/system/{unit.name}.d/program.conf").endswith(
            f"\nExecStart=\n{program}"
        )

    # Nothing of an earlier version runs.
    expected = [" ".join(argv) for argv in run.calls if "try-restart" not in argv]
    root_options = f" --root={live_setup.root}"
    assert calls.read_text().splitlines() == [command.replace(root_options, "") for command in expected]
