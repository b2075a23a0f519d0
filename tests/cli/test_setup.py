"""pykcmctl setup: it prints its plan, carries it out, and removes it again."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pykcm.cli import main
from pykcm.cli.setup import MARK, SOCKETS, Setup, apply, show, undo

ROOT = Path(__file__).parents[2]


class Recorder:
    """Takes the place of systemd's commands. The units in `enabled` are enabled."""

    def __init__(self) -> None:
        self.enabled: set[str] = set()
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, argv: Sequence[str]) -> bool:
        if "is-enabled" in argv:
            return argv[-1] in self.enabled
        self.calls.append(tuple(argv))
        return True


@pytest.fixture
def run() -> Recorder:
    return Recorder()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        made = Path(name).resolve()
        made.chmod(0o711)
        yield made


@pytest.fixture
def setup(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """An empty system, and an environment with what the wheel installs."""
    prefix = folder / "venv"
    for name in ("systemd", "krb5.conf.d"):
        shutil.copytree(ROOT / name, prefix / "share" / "pykcm" / name)
    (prefix / "bin").mkdir()
    (prefix / "bin" / "pykcmctl").touch()
    (folder / "root").mkdir()
    monkeypatch.setattr("sys.prefix", str(prefix))
    return Setup(folder / "root", prefix)


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_plan_changes_nothing(setup: Setup, run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an option, every file and command is printed, and none is written or run."""
    show(setup, run)
    output = capsys.readouterr().out
    assert files_in(setup.root) == set()
    assert run.calls == []
    for path in setup.files():
        assert f"would write {path}\n" in output
    assert f"would run systemctl --root={setup.root} enable pykcm.socket pykcm-control.socket\n" in output


def test_apply_installs_every_unit_with_paths_of_environment(setup: Setup, run: Recorder) -> None:
    """All units are installed, and start the programs of the environment; nothing names /usr/bin."""
    apply(setup, run)
    units = {path.name for path in (ROOT / "systemd").iterdir() if path.suffix in {".service", ".socket"}}
    folder = setup.root / "etc/systemd/system"
    assert {path.name for path in folder.iterdir()} == units
    assert f"ExecStart={setup.prefix}/bin/pykcmd\n" in (folder / "pykcm.service").read_text()
    assert not [path for path in folder.iterdir() if "/usr/bin/" in path.read_text()]
    assert (setup.root / "usr/local/bin/pykcmctl").readlink() == setup.prefix / "bin/pykcmctl"


def test_apply_makes_users_before_sockets_are_enabled(setup: Setup, run: Recorder) -> None:
    """The commands run in the order that they need: users, folders, units."""
    apply(setup, run)
    option = f"--root={setup.root}"
    assert run.calls == [
        ("systemd-sysusers", option, "pykcm.conf"),
        ("systemd-tmpfiles", option, "--create", "pykcm.conf"),
        ("systemctl", option, "enable", *SOCKETS),
    ]


def test_apply_again_changes_nothing(setup: Setup, run: Recorder) -> None:
    """A second run writes the same files, also under a strict umask."""
    apply(setup, run)
    before = {path: (path.read_bytes(), path.stat().st_mode) for path in setup.files()}
    apply(setup, run)
    assert {path: (path.read_bytes(), path.stat().st_mode) for path in setup.files()} == before
    assert {mode & 0o777 for _, mode in before.values()} == {0o644}


def test_undo_removes_all_that_apply_made(setup: Setup, run: Recorder) -> None:
    """After --undo no file is left, and the sockets are disabled; the state folder stays."""
    state = setup.root / "var/lib/pykcm"
    state.mkdir(parents=True)
    (state / "key").touch()
    apply(setup, run)
    run.calls.clear()
    undo(setup, run)
    assert files_in(setup.root) == {"var/lib/pykcm/key"}
    optional = ("pykcm-metrics.socket", "pykcm-renew.service")
    assert run.calls == [("systemctl", f"--root={setup.root}", "disable", *SOCKETS, *optional)]


def test_undo_ends_every_unit(setup: Setup, run: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a running system each unit that setup installs is stopped: none keeps running without its file."""
    monkeypatch.setattr(Setup, "is_live", lambda _: True)
    apply(setup, run)
    run.calls.clear()
    undo(setup, run)
    ended = {word for argv in run.calls if "stop" in argv or "--now" in argv for word in argv}
    assert {path.name for path in setup.files() if path.suffix in {".service", ".socket"}} <= ended


def test_second_apply_restarts_services_and_no_socket(
    setup: Setup, run: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an upgrade the services that run get the new program, and clients find the same socket."""
    monkeypatch.setattr(Setup, "is_live", lambda _: True)
    apply(setup, run)
    (restarted,) = (argv for argv in run.calls if "try-restart" in argv)
    assert {"pykcm.service", "pykcm-metrics.service", "pykcm-renew.service"} == set(restarted[2:])


def test_undo_without_setup_changes_nothing(setup: Setup, run: Recorder) -> None:
    """--undo disables no units that setup did not install, and leaves files of others alone."""
    path = setup.root / "etc/systemd/system/pykcm.socket"
    path.parent.mkdir(parents=True)
    path.write_text("[Socket]\n")
    undo(setup, run)
    assert (path.read_text(), run.calls) == ("[Socket]\n", [])


@pytest.mark.parametrize("name", ["etc/systemd/system/pykcm.service", "usr/local/bin/pykcmctl"])
def test_files_of_others_are_not_overwritten(setup: Setup, run: Recorder, name: str) -> None:
    """A file that is not from setup stops it before anything is changed."""
    path = setup.root / name
    path.parent.mkdir(parents=True)
    path.write_text("an administrator's\n")
    with pytest.raises(click.ClickException, match=r"nothing has been changed.*move it away"):
        apply(setup, run)
    assert (files_in(setup.root), run.calls) == ({name}, [])


def test_setup_beside_package_is_refused(setup: Setup, run: Recorder) -> None:
    """Units in /etc would hide those of the package."""
    path = setup.root / "usr/lib/systemd/system/pykcm.socket"
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(click.ClickException, match="package is installed"):
        apply(setup, run)


def test_environment_that_users_cannot_enter_is_refused(setup: Setup, run: Recorder) -> None:
    """The daemon's user could not read the program."""
    setup.prefix.chmod(0o700)
    with pytest.raises(click.ClickException, match="users cannot enter"):
        apply(setup, run)


def test_environment_without_units_is_refused(setup: Setup, run: Recorder) -> None:
    """The message names the missing file."""
    (setup.prefix / "share/pykcm/systemd/pykcm.sysusers").unlink()
    with pytest.raises(click.ClickException, match=r"pykcm\.sysusers is missing"):
        show(setup, run)


@pytest.mark.parametrize("other", ["sssd-kcm.socket", "heimdal-kcm.service"])
def test_other_server_keeps_its_socket(
    setup: Setup, run: Recorder, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With another KCM server enabled, the sockets are not enabled, and a message says how to replace it."""
    run.enabled.add(other)
    apply(setup, run)
    assert not [argv for argv in run.calls if "enable" in argv]
    assert f"systemctl mask {other}" in capsys.readouterr().err


def test_failed_command_is_reported(setup: Setup) -> None:
    """A command that fails ends setup with its name."""
    with pytest.raises(click.ClickException, match=r"systemd-sysusers .* has failed"):
        apply(setup, lambda _: False)


def test_command_line_prints_plan_by_default(setup: Setup) -> None:
    """`pykcmctl setup` prints; --apply and --undo exclude each other."""
    arguments = ["setup", "--root", str(setup.root)]
    result = CliRunner().invoke(main.cli, arguments)
    assert (result.exit_code, files_in(setup.root)) == (0, set())
    assert "Nothing has been changed" in result.output
    assert CliRunner().invoke(main.cli, [*arguments, "--apply", "--undo"]).exit_code == 2


def test_files_are_marked(setup: Setup) -> None:
    """Each file says that setup overwrites it."""
    assert all(text.startswith(MARK) for text in setup.files().values())
