"""export and import between two daemons, and from files; a damaged file changes nothing."""

import io
import json
import os
import pty
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pykcm.client import KcmClient

from .clients import Listed, MitClient
from .conftest import OTHER, USER, public_folder, started, watched
from .control import Pykcmctl
from .daemon import Pykcmd, effective_uid
from .exports import AgeKey, contents, default_of, fill, results
from .kdc import REALM

TGT = f"krbtgt/{REALM}"
HOST = "host/server.pykcm.test"

pytestmark = pytest.mark.usefixtures("several_uids")


@pytest.fixture
def other_pykcmd() -> Iterator[Pykcmd]:
    """Another daemon, with its own database and key."""
    with public_folder() as folder, watched(Pykcmd(folder)) as daemon, started(daemon):
        yield daemon


@pytest.fixture
def other_ctl(other_pykcmd: Pykcmd) -> Pykcmctl:
    return Pykcmctl(other_pykcmd.control_path)


@pytest.fixture
def private_folder(folder: Path) -> Path:
    """A folder that only root may enter."""
    path = folder / "private"
    path.mkdir(0o700)
    return path


@pytest.fixture
def age_key(private_folder: Path) -> AgeKey:
    return AgeKey(private_folder)


def test_export_is_imported_by_other_daemon(
    kdc: object,
    pykcmd: Pykcmd,
    mit: MitClient,
    mit_as: Callable[[int], MitClient],
    ctl: Pykcmctl,
    other_pykcmd: Pykcmd,
    other_ctl: Pykcmctl,
    private_folder: Path,
    age_key: AgeKey,
) -> None:
    """All ccaches arrive unchanged, with their defaults; a second import changes nothing."""
    mit.kinit("alice")
    mit.kvno(HOST)
    mit.kinit("bob", "-c", f"KCM:{USER}:second")
    mit.ok("kswitch", "-c", f"KCM:{USER}:second")
    mit_as(OTHER).kinit("carol")
    file = str(private_folder / "export")
    assert ctl.run("export", "--recipient", age_key.recipient, file).errors == "3 ccaches exported\n"
    assert (private_folder / "export").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in private_folder.iterdir()) == ["export", "identity"]

    arguments = ("import", "--identity", str(age_key.path), file)
    names = [f"KCM:{USER}", f"KCM:{USER}:second", f"KCM:{OTHER}"]
    assert results(other_ctl, *arguments) == [("imported", name) for name in names]
    for uid in (USER, OTHER):
        assert contents(other_pykcmd, uid) == contents(pykcmd, uid)
    assert default_of(other_pykcmd, USER) == b"%d:second" % USER
    assert results(other_ctl, *arguments) == [("unchanged", name) for name in names]

    there = MitClient(USER, other_pykcmd.socket_path, mit.krb5_conf, mit.keytab, mit.trace)
    conf = Path(str(mit.krb5_conf))
    conf.write_text(conf.read_text().replace(str(pykcmd.socket_path), str(other_pykcmd.socket_path)))
    assert there.klist() == Listed(f"KCM:{USER}:second", f"bob@{REALM}", [TGT])
    there.kvno(HOST)


def test_passphrase_encrypts_the_export(pykcmd: Pykcmd, ctl: Pykcmctl, private_folder: Path) -> None:
    """Only the right passphrase opens it, and in a pipe nothing is asked."""
    fill(pykcmd, USER, b"%d" % USER)
    before = contents(pykcmd, USER)
    for name, text in (("right", "open, Sesame\n"), ("wrong", "open, Barley\n")):
        (private_folder / name).touch(0o600)
        (private_folder / name).write_text(text)
    file = str(private_folder / "export")
    ctl.ok("export", "--passphrase-file", str(private_folder / "right"), file)
    secret = before[0][3][0]
    assert secret not in (private_folder / "export").read_bytes()
    ctl.ok("destroy", "--yes", "--uid", str(USER))
    wrong = ctl.run("import", "--passphrase-file", str(private_folder / "wrong"), file)
    assert (wrong.status, wrong.output) == (1, "")
    assert "wrong passphrase" in wrong.errors
    none = ctl.run("import", file)
    assert (none.status, none.output) == (2, "")
    assert "--passphrase-file" in none.errors
    assert contents(pykcmd, USER) == []
    ctl.ok("import", "--passphrase-file", str(private_folder / "right"), file)
    assert contents(pykcmd, USER) == before


_PROMPT = re.compile(rb"(?:Passphrase|confirmation): ")


def on_terminal(argv: list[str], *answers: str) -> tuple[int, str]:
    """Run a command on a terminal and answer its prompts; returns the exit status and the output."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.execve(argv[0], argv, {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TERM": "xterm"})
        finally:
            os._exit(127)
    screen = b""
    prompts = 0
    with io.FileIO(terminal, "r+") as both, suppress(OSError):  # reading ends with an error
        while piece := both.read(4096):
            screen += piece
            while prompts < min(len(_PROMPT.findall(screen)), len(answers)):
                both.write(answers[prompts].encode() + b"\n")
                prompts += 1
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), screen.decode()


def test_passphrase_is_asked_on_terminal(pykcmd: Pykcmd, ctl: Pykcmctl, private_folder: Path) -> None:
    """The passphrase is not shown; an export asks twice, and an import shows its progress."""
    fill(pykcmd, USER, b"%d" % USER)
    before = contents(pykcmd, USER)
    exporting = ctl.argv("export", str(private_folder / "export"))
    status, screen = on_terminal(exporting, "open, Sesame", "open, Barley", "open, Sesame", "open, Sesame")
    assert status == 0, screen
    assert screen.count("Passphrase: ") == 2
    assert "Sesame" not in screen
    ctl.ok("destroy", "--yes", "--uid", str(USER))
    status, screen = on_terminal(ctl.argv("import", str(private_folder / "export")), "open, Sesame")
    assert status == 0, screen
    assert "1/1" in screen
    assert "1 imported" in screen
    assert contents(pykcmd, USER) == before
    # An export is never written to a terminal.
    status, screen = on_terminal(ctl.argv("export", "--plain", "-"))
    assert status == 1
    assert "an export is binary, and stdout is a terminal" in screen


def test_export_through_a_pipe(
    pykcmd: Pykcmd, ctl: Pykcmctl, other_pykcmd: Pykcmd, other_ctl: Pykcmctl
) -> None:
    """An export to stdout is imported from stdin."""
    fill(pykcmd, USER, b"%d" % USER)
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    with subprocess.Popen(
        ctl.argv("export", "--plain", "-"), stdout=subprocess.PIPE, env=environment
    ) as exporting:
        done = subprocess.run(
            other_ctl.argv("import", "-"),
            stdin=exporting.stdout,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
    assert (exporting.returncode, done.returncode) == (0, 0), done
    assert done.stdout.startswith("imported\t")
    assert contents(other_pykcmd, USER) == contents(pykcmd, USER)


def test_existing_files_are_kept(pykcmd: Pykcmd, ctl: Pykcmctl, private_folder: Path) -> None:
    """A file is overwritten only with --force; other kinds of files never are."""
    fill(pykcmd, USER, b"%d" % USER)
    (private_folder / "export").write_text("mine")
    (private_folder / "link").symlink_to(private_folder / "export")
    refused = ctl.run("export", "--plain", str(private_folder / "export"))
    assert refused.status == 1
    assert "--force" in refused.errors
    assert (private_folder / "export").read_text() == "mine"
    assert ctl.run("export", "--plain", "--force", str(private_folder / "link")).status == 1
    assert ctl.run("export", "--plain", "--force", "/dev/null").status == 1
    assert Path("/dev/null").is_char_device()
    (private_folder / "export").chmod(0o644)
    ctl.ok("export", "--plain", "--force", str(private_folder / "export"))
    assert (private_folder / "export").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in private_folder.iterdir()) == ["export", "link"]


def test_failed_export_leaves_no_file(stopped_pykcmd: Pykcmd, private_folder: Path) -> None:
    """Without the daemon or a key, no file appears."""
    ctl = Pykcmctl(stopped_pykcmd.control_path)
    assert ctl.run("export", "--plain", str(private_folder / "export")).status == 3
    with started(stopped_pykcmd):
        assert ctl.run("export", "--recipient", "age1nonsense", str(private_folder / "export")).status == 1
        assert ctl.run("export", str(private_folder / "export")).status == 2
        assert ctl.run("export", "--plain", str(private_folder / "none" / "export")).status == 1
    assert list(private_folder.iterdir()) == []


@pytest.mark.parametrize("is_plain", [True, False], ids=["plain", "encrypted"])
def test_damaged_files_change_nothing(
    pykcmd: Pykcmd, ctl: Pykcmctl, private_folder: Path, age_key: AgeKey, *, is_plain: bool
) -> None:
    """A changed byte or a missing end is found before anything is imported."""
    fill(pykcmd, USER, b"%d" % USER, b"%d:a" % USER)
    file = private_folder / "export"
    ctl.ok("export", *(["--plain"] if is_plain else ["--recipient", age_key.recipient]), str(file))
    ctl.ok("destroy", "--yes", "--uid", str(USER))
    whole = file.read_bytes()
    damaged = private_folder / "damaged"
    options = [] if is_plain else ["--identity", str(age_key.path)]
    size = len(whole)
    bad = [whole[:cut] for cut in (0, 1, 20, size // 3, size // 2, size - 40, size - 1)] + [whole + b"\0"]
    bad += [
        whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]
        for at in (0, 5, 40, size // 3, size // 2, size - 70, size - 20, size - 1)
    ]
    for each in bad:
        damaged.write_bytes(each)
        said = ctl.run("import", *options, str(damaged))
        assert (said.status, said.output) == (1, ""), said
        assert said.errors.count("\n") <= 4, said
        assert "Traceback" not in said.errors
        assert contents(pykcmd, USER) == []
    assert ctl.run("import", *options, str(file)).status == 0
    assert len(contents(pykcmd, USER)) == 2


def test_dry_run_changes_nothing(pykcmd: Pykcmd, ctl: Pykcmctl, private_folder: Path) -> None:
    """It reports the same results as the import."""
    fill(pykcmd, USER, b"%d" % USER, b"%d:a" % USER)
    file = str(private_folder / "export")
    ctl.ok("export", "--plain", file)
    ctl.ok("destroy", "--yes", f"KCM:{USER}:a")
    before = contents(pykcmd, USER)
    said = ctl.run("import", "--dry-run", file)
    assert [line.split("\t")[0] for line in said.output.splitlines()] == ["unchanged", "imported"]
    assert "nothing has changed" in said.errors
    as_json = json.loads(ctl.run("import", "--dry-run", "--json", file).output)
    assert [each["reason"] for each in as_json] == [None, None]
    assert contents(pykcmd, USER) == before


def test_import_stops_at_quota(
    pykcmd: Pykcmd, ctl: Pykcmctl, other_pykcmd: Pykcmd, other_ctl: Pykcmctl, private_folder: Path
) -> None:
    """Ccaches beyond the quota are refused with the reason; a dry run reports the same."""
    fill(pykcmd, USER, *[b"%d:%d" % (USER, number) for number in range(5)])
    fill(pykcmd, OTHER, b"%d" % OTHER)
    ctl.ok("export", "--plain", str(private_folder / "export"))
    assert other_pykcmd.stop() == 0
    other_pykcmd.configure("max_uid_ccaches = 3\n")
    other_pykcmd.start()
    arguments = ("import", str(private_folder / "export"))
    expected = ["imported"] * 3 + ["refused"] * 2 + ["imported"]
    assert [result for result, _ in results(other_ctl, *arguments, "--dry-run")] == expected
    said = other_ctl.run(*arguments)
    assert said.status == 1
    lines = [line.split("\t") for line in said.output.splitlines()]
    assert [line[0] for line in lines] == expected
    assert lines[3][-1] == f"max_uid_ccaches reached by the owner of KCM:{USER}:3: 3 of 3"
    assert contents(other_pykcmd, USER) == contents(pykcmd, USER)[:3]
    assert contents(other_pykcmd, OTHER) == contents(pykcmd, OTHER)


def test_uid_limits_export_and_import(pykcmd: Pykcmd, ctl: Pykcmctl, private_folder: Path) -> None:
    fill(pykcmd, USER, b"%d" % USER)
    fill(pykcmd, OTHER, b"%d" % OTHER)
    assert (
        ctl.run("export", "--plain", "--uid", str(USER), str(private_folder / "one")).errors
        == "1 ccache exported\n"
    )
    ctl.ok("export", "--plain", str(private_folder / "all"))
    for uid in (USER, OTHER):
        ctl.ok("destroy", "--yes", "--uid", str(uid))
    assert results(ctl, "import", "--uid", str(OTHER), str(private_folder / "one")) == []
    assert results(ctl, "import", "--uid", str(OTHER), str(private_folder / "all")) == [
        ("imported", f"KCM:{OTHER}")
    ]
    assert contents(pykcmd, USER) == []


def test_import_from_other_pykcm(
    pykcmd: Pykcmd, ctl: Pykcmctl, other_pykcmd: Pykcmd, other_ctl: Pykcmctl
) -> None:
    """KCM: with another server's socket imports a user's ccaches; the daemon's own socket is refused."""
    fill(pykcmd, USER, b"%d:a" % USER, b"%d" % USER)
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        kcm.set_default_cache(b"%d:a" % USER)
    there = f"KCM:{pykcmd.socket_path}"
    expected = [("imported", f"KCM:{USER}:a"), ("imported", f"KCM:{USER}")]
    assert results(other_ctl, "import", "--uid", str(USER), there) == expected
    assert contents(other_pykcmd, USER) == contents(pykcmd, USER)
    assert default_of(other_pykcmd, USER) == b"%d:a" % USER
    itself = ctl.run("import", "--uid", str(USER), there)
    assert itself.status == 1
    assert "pykcm itself" in itself.errors
