"""Systems and environments that pykcmctl setup refuses before it changes anything."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import pykcm
from pykcm.cli import main
from pykcm.cli.installation import Setup
from pykcm.cli.setup import apply, show, undo
from tests.cli.setup.systems import Recorder, files_in, make_setup


def refused(setup: Setup) -> str:
    """The reasons why setup refuses, in lines."""
    return "\n".join(setup.refusals())


def test_setup_beside_package_is_refused(
    setup: Setup, run: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Units in /etc would hide those of the package."""
    path = setup.root / "usr/lib/systemd/system/pykcm.socket"
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(click.ClickException, match="nothing has been changed"):
        apply(setup, run)
    assert "problem: pykcm's package is installed" in capsys.readouterr().err


def test_environment_that_users_cannot_enter_is_refused(setup: Setup) -> None:
    """The daemon's user could not read the program."""
    setup.prefix.chmod(0o700)
    assert f"users cannot enter {setup.prefix}: install" in refused(setup)


def test_library_that_users_cannot_read_is_refused(setup: Setup) -> None:
    """Pip under a strict umask installs libraries for root alone."""
    library = setup.prefix / "library.py"
    library.touch(0o600)
    library.chmod(0o600)
    assert f"users cannot read {library}: install pykcm again with `umask 022`" in refused(
        replace(setup, needed=(library,))
    )


@pytest.mark.parametrize("prefix", ["/home/me/venv", "/root/venv", "/tmp/venv"])
def test_environment_that_services_do_not_see_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, setup: Setup, prefix: str
) -> None:
    """The units have ProtectHome= and PrivateTmp=; the program would be missing for them."""
    made = make_setup(folder / "other", Path(prefix), monkeypatch)
    assert f"{prefix}: services do not see /{prefix.split('/')[1]}: install" in refused(made)


def test_python_that_services_do_not_see_is_refused(
    setup: Setup, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter of an environment may be elsewhere than the environment."""
    python = setup.root / "root/.local/python3"
    python.parent.mkdir(parents=True)
    python.touch()
    assert "/root/.local/python3: services do not see /root" in refused(replace(setup, needed=(python,)))


def test_environment_outside_of_root_is_refused(setup: Setup, run: Recorder) -> None:
    """With --root, the units' programs must be in that system."""
    shutil.move(setup.prefix, setup.root.with_name("environment"))
    outside = replace(setup, prefix=setup.root.with_name("environment"))
    assert "pykcmd is missing: install pykcm in that system, at the same path" in refused(outside)


def test_missing_systemd_is_refused(
    setup: Setup, run: Recorder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without systemd nothing is written."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(click.ClickException, match="nothing has been changed"):
        apply(setup, run)
    assert "problem: systemctl is missing: setup is for hosts with systemd\n" in capsys.readouterr().err
    assert (files_in(setup.root), run.calls) == (set(), [])


@pytest.mark.parametrize("task", [apply, undo])
def test_user_without_rights_is_refused(
    setup: Setup, run: Recorder, monkeypatch: pytest.MonkeyPatch, task: Any
) -> None:
    """Only root may change this system: the exit status is that of other commands without permission."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(click.ClickException, match="only root can do this: try sudo") as refusal:
        task(replace(setup, root=Path("/")), run)
    assert (refusal.value.exit_code, run.calls) == (4, [])


def test_unprintable_path_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, setup: Setup) -> None:
    """A newline would end the line of the unit."""
    assert "units cannot have the path" in refused(
        make_setup(folder / "other", Path("/opt/a\nb"), monkeypatch)
    )


def test_environment_without_units_is_refused(setup: Setup, run: Recorder) -> None:
    """The message names the missing file."""
    (setup.prefix / "share/pykcm/systemd/pykcm.sysusers").unlink()
    with pytest.raises(click.ClickException, match=r"pykcm\.sysusers: is missing"):
        show(setup, run)


def test_folder_that_users_cannot_enter_is_named_once(setup: Setup) -> None:
    """Pip under a strict umask: of all folders in it, the first one is named, with the remedy."""
    folders = [setup.prefix / name for name in ("lib", "lib/python3", "lib/python3/site-packages")]
    for folder in folders:
        folder.mkdir()
        folder.chmod(0o700)
    reasons = [*replace(setup, needed=(folders[2], folders[2] / "..")).refusals()]
    assert reasons == [f"users cannot enter {folders[0]}: install pykcm again with `umask 022`"]


def test_program_in_checkout_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users must be able to read a checkout that is installed with `pip install --editable`."""
    checked: list[Setup] = []
    monkeypatch.setattr("pykcm.cli.setup.show", lambda setup, _: checked.append(setup))
    assert CliRunner().invoke(main.cli, ["setup"]).exit_code == 0
    assert Path(pykcm.__file__).parent in checked[0].needed
