"""pykcmctl setup: it prints its plan, carries it out, and removes it again."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from pykcm.cli import main
from pykcm.cli.installation import MARK, SOCKETS, Setup
from pykcm.cli.setup import apply, run_command, show, undo
from tests.cli.setup.systems import PAGES, PREFIX, ROOT, Recorder, files_in, make_setup, read


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
    assert f"ExecStart={PREFIX}/bin/pykcmd\n" in (folder / "pykcm.service").read_text()
    assert not [path for path in folder.iterdir() if "/usr/bin/" in path.read_text()]
    assert (setup.root / "usr/local/bin/pykcmctl").readlink() == PREFIX / "bin/pykcmctl"


def test_apply_links_man_pages_and_completions(setup: Setup, run: Recorder) -> None:
    """Links below /usr/local lead man and the shells to the pages of the environment."""
    (setup.prefix / "share/man/man8/other.8").touch()
    apply(setup, run)
    local = setup.root / "usr/local"
    links = {str(path.relative_to(local)): path.readlink() for path in local.rglob("*") if path.is_symlink()}
    assert links == {name: PREFIX / name for name in ("bin/pykcmctl", *PAGES)}


def test_page_of_another_is_kept(setup: Setup, run: Recorder) -> None:
    """A completion that the administrator has written stays, and setup does the rest."""
    page = setup.root / "usr/local/share/zsh/site-functions/_pykcmctl"
    page.parent.mkdir(parents=True)
    page.write_text("of the administrator")
    apply(setup, run)
    assert (setup.root / "usr/local/share/man/man8/pykcmctl.8").is_symlink()
    undo(setup, run)
    assert files_in(setup.root) == {str(page.relative_to(setup.root))}
    assert page.read_text() == "of the administrator"


def test_link_to_page_of_another_version_is_removed(setup: Setup, run: Recorder) -> None:
    """If a version has no longer a man page, its link goes."""
    apply(setup, run)
    (setup.prefix / "share/man/man5/pykcm.toml.5").unlink()
    apply(setup, run)
    assert not os.path.lexists(setup.root / "usr/local/share/man/man5/pykcm.toml.5")


def test_environment_in_usr_local_needs_no_links(
    setup: Setup, folder: Path, run: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pip's files in /usr/local, setup neither refuses nor replaces or removes them."""
    made = make_setup(folder / "other", Path("/usr/local"), monkeypatch)
    before = files_in(made.root)
    apply(made, run)
    assert "ExecStart=/usr/local/bin/pykcmd\n" in read(made.root / "etc/systemd/system/pykcm.service")
    undo(made, run)
    assert files_in(made.root) == before


def test_folders_can_be_read_under_any_umask(setup: Setup, run: Recorder) -> None:
    """Everyone can enter the folders that setup makes: libkrb5 reads one of them for each user."""
    umask = os.umask(0o077)
    try:
        apply(setup, run)
    finally:
        os.umask(umask)
    for path in (*setup.files(), *setup.links()):
        below = [each for each in path.parents if each.is_relative_to(setup.root) and each != setup.root]
        assert {oct(each.stat().st_mode & 0o777) for each in below} == {"0o755"}


def test_plan_with_problems_asks_for_their_solution(
    setup: Setup, run: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line does not advise a command that would be refused."""
    show(setup, run)
    assert capsys.readouterr().out.endswith(
        f"To do it: {setup.prefix}/bin/pykcmctl setup --root={setup.root} --apply\n"
    )
    (setup.prefix / "bin/pykcmd").unlink()
    show(setup, run)
    assert "\nNothing has been changed. Solve the problems above, and run " in capsys.readouterr().out


def test_apply_makes_users_before_sockets_are_enabled(setup: Setup, run: Recorder) -> None:
    """The commands run in the order that they need: users, folders, units."""
    apply(setup, run)
    option = f"--root={setup.root}"
    assert run.calls == [
        ("systemd-sysusers", option, "pykcm.conf"),
        ("systemd-tmpfiles", option, "--create", "pykcm.conf"),
        ("systemctl", option, "enable", *SOCKETS),
    ]


def test_apply_labels_files_before_systemd_reads_them(
    setup: Setup, run: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SELinux the files get the labels of their places first: systemd-sysusers may read them then."""
    enforce = setup.root / "sys/fs/selinux/enforce"
    enforce.parent.mkdir(parents=True)
    enforce.touch()
    monkeypatch.setattr(Setup, "is_live", lambda _: True)
    apply(setup, run)
    assert run.calls[0] == ("restorecon", *map(str, setup.files()))
    assert run.calls[1][0] == "systemd-sysusers"


def test_apply_again_changes_nothing(setup: Setup, run: Recorder) -> None:
    """A second run writes the same files, also under a strict umask."""
    apply(setup, run)
    before = {path: (path.read_bytes(), path.stat().st_mode) for path in setup.files()}
    apply(setup, run)
    assert {path: (path.read_bytes(), path.stat().st_mode) for path in setup.files()} == before
    assert {mode & 0o777 for _, mode in before.values()} == {0o644}


def test_undo_removes_all_that_apply_made(
    setup: Setup, run: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    """After --undo no file is left, and no unit is enabled; the state folder stays, and a line says so."""
    state = setup.root / "var/lib/pykcm"
    state.mkdir(parents=True)
    (state / "key").touch()
    apply(setup, run)
    run.calls.clear()
    undo(setup, run)
    assert files_in(setup.root) == {"var/lib/pykcm/key"}
    ((program, option, command, *units),) = run.calls
    assert (program, option, command) == ("systemctl", f"--root={setup.root}", "disable")
    installable = {path.name for path in (ROOT / "systemd").glob("*.*") if "[Install]" in read(path)}
    assert set(units) == installable >= {*SOCKETS, "pykcm-metrics.socket", "pykcm-renew.service"}
    output = capsys.readouterr().out
    assert "The tickets, their key and the users stay." in output
    assert f"    rm -r {state}\n" in output


def test_undo_after_environment_is_gone_removes_all(setup: Setup, run: Recorder) -> None:
    """Neither the units in the environment nor its programs are needed to remove the files."""
    apply(setup, run)
    shutil.rmtree(setup.prefix)
    undo(setup, run)
    assert files_in(setup.root) == set()


def test_undo_without_setup_changes_nothing(setup: Setup, run: Recorder) -> None:
    """--undo disables no units that setup did not install, and leaves files of others alone."""
    path = setup.root / "etc/systemd/system/pykcm.socket"
    path.parent.mkdir(parents=True)
    path.write_text("[Socket]\n")
    undo(setup, run)
    assert (path.read_text(), run.calls) == ("[Socket]\n", [])


@pytest.mark.parametrize("name", ["etc/systemd/system/pykcm.service", "usr/local/bin/pykcmctl"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_files_of_others_are_not_overwritten(
    setup: Setup, run: Recorder, name: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is not from setup stops it before anything is changed; a masked unit is a link."""
    path = setup.root / name
    path.parent.mkdir(parents=True)
    if kind == "file":
        path.write_text("an administrator's\n")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/nowhere")
    with pytest.raises(click.ClickException, match="nothing has been changed"):
        apply(setup, run)
    assert "move it away" in capsys.readouterr().err
    assert files_in(setup.root) == ({name} if kind != "folder" else set())
    assert run.calls == []
    undo(setup, run)
    assert os.path.lexists(path)


@pytest.mark.parametrize("task", [apply, undo])
def test_changed_file_is_kept_under_another_name(
    setup: Setup, run: Recorder, task: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither --apply nor --undo deletes what an administrator has written into a unit, not even twice."""
    apply(setup, run)
    unit = setup.root / "etc/systemd/system/pykcm.service"
    texts = [unit.read_text() + f"# change {number}\n" for number in (1, 2)]
    for text in texts:
        apply(setup, run)
        unit.write_text(text)
        task(setup, run)
    saved = [unit.with_name(f"{unit.name}.saved"), unit.with_name(f"{unit.name}.saved2")]
    assert [path.read_text() for path in saved] == texts
    assert f"{unit} has been changed: kept as {saved[1]}\n" in capsys.readouterr().out


def test_plan_names_changed_file(setup: Setup, run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an option, setup says that it would save the file."""
    apply(setup, run)
    unit = setup.root / "etc/systemd/system/pykcm.service"
    unit.write_text(unit.read_text() + "# change\n")
    capsys.readouterr()
    show(setup, run)
    assert f"would save {unit}\n" in capsys.readouterr().out


def test_apply_removes_files_of_another_version(setup: Setup, run: Recorder) -> None:
    """A unit that a new version does not have does not stay."""
    apply(setup, run)
    (setup.prefix / "share/pykcm/systemd/pykcm-audit.socket").unlink()
    apply(setup, run)
    assert not (setup.root / "etc/systemd/system/pykcm-audit.socket").exists()
    assert (setup.root / "etc/systemd/system/pykcm-audit.service").exists()


def test_link_to_removed_environment_is_replaced(
    setup: Setup, run: Recorder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pykcm has moved to another folder: the units and the link follow."""
    apply(setup, run)
    shutil.rmtree(setup.prefix)
    moved = make_setup(setup.root, Path("/opt/other"), monkeypatch)
    apply(moved, run)
    assert moved.link.readlink() == Path("/opt/other/bin/pykcmctl")
    assert (
        "ExecStart=/opt/other/bin/pykcmd\n" in (setup.root / "etc/systemd/system/pykcm.service").read_text()
    )


@pytest.mark.parametrize(
    ("prefix", "program"),
    [
        ("/opt/my env", '"/opt/my env/bin/pykcmd"'),
        ("/opt/100%", "/opt/100%%/bin/pykcmd"),
        ('/opt/a"b\\c', '"/opt/a\\"b\\\\c/bin/pykcmd"'),
    ],
)
def test_unusual_paths_are_quoted_in_units(
    setup: Setup, folder: Path, run: Recorder, monkeypatch: pytest.MonkeyPatch, prefix: str, program: str
) -> None:
    """Systemd would split a path with spaces, and take % for a specifier."""
    made = make_setup(folder / "other", Path(prefix), monkeypatch)
    apply(made, run)
    units = made.root / "etc/systemd/system"
    assert f"\nExecStart={program}\n" in (units / "pykcm.service").read_text()
    assert (
        f"\nExecStart={program.replace('pykcmd', 'pykcmctl')} metrics"
        in (units / "pykcm-metrics.service").read_text()
    )


def test_full_disk_leaves_no_incomplete_file(
    setup: Setup, run: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says how to go on; --undo takes the finished steps back."""

    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    write = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (full if to.suffix == ".service" else write)(self, to)
    )
    with pytest.raises(
        click.ClickException, match=r"pykcm-audit\.service: cannot be written: No space"
    ) as error:
        apply(setup, run)
    assert f"pykcmctl setup --root={setup.root} --apply` again" in str(error.value)
    assert not [name for name in files_in(setup.root) if name.endswith((".new", ".service"))]
    monkeypatch.undo()
    undo(setup, run)
    assert files_in(setup.root) == set()


def test_undo_goes_on_after_a_failed_command(setup: Setup, run: Recorder) -> None:
    """The files are removed, and the failure is reported at the end."""
    apply(setup, run)
    run.failing = "disable"
    with pytest.raises(click.ClickException, match=r"systemctl .* disable .* has failed"):
        undo(setup, run)
    assert files_in(setup.root) == set()


@pytest.mark.parametrize("line", ["includedir /etc/krb5.conf.d/", "includedir  /etc/krb5.conf.d", ""])
def test_missing_include_is_mentioned(
    setup: Setup, run: Recorder, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Debian's krb5.conf does not include the folder of the snippet."""
    (setup.root / "etc").mkdir(exist_ok=True)
    (setup.root / "etc/krb5.conf").write_text(f"{line}\n[libdefaults]\n")
    apply(setup, run)
    assert ("put `includedir /etc/krb5.conf.d/`" in capsys.readouterr().err) == (not line)


@pytest.mark.parametrize("other", ["sssd-kcm.socket", "heimdal-kcm.service"])
def test_other_server_keeps_its_socket(
    setup: Setup, run: Recorder, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With another KCM server enabled, the sockets are not enabled, and a message says how to replace it."""
    run.enabled.add(other)
    apply(setup, run)
    assert not [argv for argv in run.calls if "enable" in argv]
    assert f"systemctl mask {other}" in capsys.readouterr().err


def test_other_server_that_only_runs_keeps_its_socket(
    live_setup: Setup, run: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that was started by hand and is not enabled is not replaced either."""
    run.active.add("sssd-kcm.socket")
    apply(live_setup, run)
    assert not [argv for argv in run.calls if "enable" in argv]
    assert "sssd-kcm.socket, goes on serving" in capsys.readouterr().err


def test_second_apply_restarts_services_and_no_socket(live_setup: Setup, run: Recorder) -> None:
    """After an upgrade the services that run get the new program, and clients find the same socket."""
    apply(live_setup, run)
    (restarted,) = (argv for argv in run.calls if "try-restart" in argv)
    assert {"pykcm.service", "pykcm-metrics.service", "pykcm-renew.service"} == set(restarted[2:])


def test_undo_stops_sockets_before_services(live_setup: Setup, run: Recorder) -> None:
    """A socket would start its service again."""
    apply(live_setup, run)
    run.calls.clear()
    undo(live_setup, run)
    (stop,) = (argv for argv in run.calls if argv[:2] == ("systemctl", "stop"))
    kinds = [name.rpartition(".")[2] for name in stop[2:]]
    assert kinds == sorted(kinds, reverse=True)
    assert set(stop[2:]) == {
        path.name for path in (ROOT / "systemd").iterdir() if path.suffix in {".service", ".socket"}
    }
    assert run.calls[-1] == ("systemctl", "daemon-reload")


def test_failed_command_is_reported(setup: Setup, run: Recorder) -> None:
    """A command that fails ends setup with its name, and the two ways to go on."""
    run.failing = "systemd-sysusers"
    with pytest.raises(click.ClickException, match=r"systemd-sysusers .* has failed.* again, or .*--undo"):
        apply(setup, run)


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


def test_question_for_another_server_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Systemctl complains about a unit that does not exist, which is the usual case."""
    assert not run_command(("sh", "-c", "echo no such unit >&2; exit 1", "is-enabled"))
    assert capfd.readouterr() == ("", "")
