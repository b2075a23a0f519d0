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

import pyrage
import pytest

from pykcm.cli.files import LARGEST_CCACHE_FILE
from pykcm.client import KcmClient
from tests.builders import ALICE, TGS, credential_bytes, principal, service

from .clients import Listed, MitClient
from .conftest import OTHER, USER, public_folder, started, watched
from .control import Pykcmctl, peak_memory
from .daemon import Pykcmd, effective_uid
from .kdc import REALM

TGT = f"krbtgt/{REALM}"
HOST = "host/server.pykcm.test"

pytestmark = pytest.mark.usefixtures("several_uids")


@pytest.fixture
def ctl(pykcmd: Pykcmd) -> Pykcmctl:
    return Pykcmctl(pykcmd.control_path)


@pytest.fixture
def other_pykcmd() -> Iterator[Pykcmd]:
    """Another daemon, with its own database and key."""
    with public_folder() as folder, watched(Pykcmd(folder)) as daemon, started(daemon):
        yield daemon


@pytest.fixture
def other_ctl(other_pykcmd: Pykcmd) -> Pykcmctl:
    return Pykcmctl(other_pykcmd.control_path)


@pytest.fixture
def kept(folder: Path) -> Path:
    """A folder for exports."""
    path = folder / "kept"
    path.mkdir(0o700)
    return path


class Keys:
    """An age key: its public key, and a file with the secret key."""

    def __init__(self, folder: Path) -> None:
        key = pyrage.x25519.Identity.generate()
        self.recipient = str(key.to_public())
        self.path = folder / "identity"
        self.path.touch(0o600)
        self.path.write_text(f"# public key: {self.recipient}\n{key}\n")


@pytest.fixture
def keys(kept: Path) -> Keys:
    return Keys(kept)


def fill(daemon: Pykcmd, uid: int, *names: bytes) -> None:
    """Give the UID ccaches with these names, each with alice's TGT and a service ticket."""
    with effective_uid(uid), KcmClient(daemon.socket_path) as kcm:
        for name in names:
            tickets = [
                credential_bytes(server, ticket=name + b" " * 500) for server in (TGS, service(len(name)))
            ]
            kcm.replace(name, 7, ALICE, tickets)


def contents(daemon: Pykcmd, uid: int) -> list[tuple[bytes, object, int, list[bytes]]]:
    """All ccaches of the UID, in the order of the list."""
    with effective_uid(uid), KcmClient(daemon.socket_path) as kcm:
        names = [kcm.get_cache_by_uuid(uuid) for uuid in kcm.get_cache_uuid_list()]
        return [
            (name, kcm.get_principal(name), kcm.get_kdc_offset(name), kcm.get_cred_list(name))
            for name in names
        ]


def default_of(daemon: Pykcmd, uid: int) -> bytes:
    with effective_uid(uid), KcmClient(daemon.socket_path) as kcm:
        return kcm.get_default_cache()


def results(ctl: Pykcmctl, *arguments: str) -> list[tuple[str, str]]:
    """The result and ccache of each object that `import --json` or `migrate --json` prints."""
    return [(each["result"], each["name"]) for each in json.loads(ctl.run(*arguments, "--json").output)]


def test_export_is_imported_by_other_daemon(
    kdc: object,
    pykcmd: Pykcmd,
    mit: MitClient,
    mit_as: Callable[[int], MitClient],
    ctl: Pykcmctl,
    other_pykcmd: Pykcmd,
    other_ctl: Pykcmctl,
    kept: Path,
    keys: Keys,
) -> None:
    """All ccaches arrive unchanged, with their defaults; a second import changes nothing."""
    mit.kinit("alice")
    mit.kvno(HOST)
    mit.kinit("bob", "-c", f"KCM:{USER}:second")
    mit.ok("kswitch", "-c", f"KCM:{USER}:second")
    mit_as(OTHER).kinit("carol")
    file = str(kept / "export")
    assert ctl.run("export", "--recipient", keys.recipient, file).errors == "3 ccaches exported\n"
    assert (kept / "export").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in kept.iterdir()) == ["export", "identity"]

    arguments = ("import", "--identity", str(keys.path), file)
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


def test_passphrase_encrypts_the_export(pykcmd: Pykcmd, ctl: Pykcmctl, kept: Path) -> None:
    """Only the right passphrase opens it, and in a pipe nothing is asked."""
    fill(pykcmd, USER, b"%d" % USER)
    before = contents(pykcmd, USER)
    for name, text in (("right", "open, Sesame\n"), ("wrong", "open, Barley\n")):
        (kept / name).touch(0o600)
        (kept / name).write_text(text)
    file = str(kept / "export")
    ctl.ok("export", "--passphrase-file", str(kept / "right"), file)
    secret = before[0][3][0]
    assert secret not in (kept / "export").read_bytes()
    ctl.ok("destroy", "--yes", "--uid", str(USER))
    wrong = ctl.run("import", "--passphrase-file", str(kept / "wrong"), file)
    assert (wrong.status, wrong.output) == (1, "")
    assert "wrong passphrase" in wrong.errors
    none = ctl.run("import", file)
    assert (none.status, none.output) == (2, "")
    assert "--passphrase-file" in none.errors
    assert contents(pykcmd, USER) == []
    ctl.ok("import", "--passphrase-file", str(kept / "right"), file)
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


def test_passphrase_is_asked_on_terminal(pykcmd: Pykcmd, ctl: Pykcmctl, kept: Path) -> None:
    """The passphrase is not shown; an export asks twice, and an import shows its progress."""
    fill(pykcmd, USER, b"%d" % USER)
    before = contents(pykcmd, USER)
    exporting = ctl.argv("export", str(kept / "export"))
    status, screen = on_terminal(exporting, "open, Sesame", "open, Barley", "open, Sesame", "open, Sesame")
    assert status == 0, screen
    assert screen.count("Passphrase: ") == 2
    assert "Sesame" not in screen
    ctl.ok("destroy", "--yes", "--uid", str(USER))
    status, screen = on_terminal(ctl.argv("import", str(kept / "export")), "open, Sesame")
    assert status == 0, screen
    assert "1/1" in screen
    assert "1 imported" in screen
    assert contents(pykcmd, USER) == before
    # An export is never written to a terminal.
    status, screen = on_terminal(ctl.argv("export", "--plain", "-"))
    assert status == 1
    assert "not printed on a terminal" in screen


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


def test_existing_files_are_kept(pykcmd: Pykcmd, ctl: Pykcmctl, kept: Path) -> None:
    """A file is overwritten only with --force; other kinds of files never are."""
    fill(pykcmd, USER, b"%d" % USER)
    (kept / "export").write_text("mine")
    (kept / "link").symlink_to(kept / "export")
    refused = ctl.run("export", "--plain", str(kept / "export"))
    assert refused.status == 1
    assert "--force" in refused.errors
    assert (kept / "export").read_text() == "mine"
    assert ctl.run("export", "--plain", "--force", str(kept / "link")).status == 1
    assert ctl.run("export", "--plain", "--force", "/dev/null").status == 1
    assert Path("/dev/null").is_char_device()
    (kept / "export").chmod(0o644)
    ctl.ok("export", "--plain", "--force", str(kept / "export"))
    assert (kept / "export").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in kept.iterdir()) == ["export", "link"]


def test_failed_export_leaves_no_file(stopped_pykcmd: Pykcmd, kept: Path) -> None:
    """Without the daemon or a key, no file appears."""
    ctl = Pykcmctl(stopped_pykcmd.control_path)
    assert ctl.run("export", "--plain", str(kept / "export")).status == 3
    with started(stopped_pykcmd):
        assert ctl.run("export", "--recipient", "age1nonsense", str(kept / "export")).status == 1
        assert ctl.run("export", str(kept / "export")).status == 2
        assert ctl.run("export", "--plain", str(kept / "none" / "export")).status == 1
    assert list(kept.iterdir()) == []


@pytest.mark.parametrize("is_plain", [True, False], ids=["plain", "encrypted"])
def test_damaged_files_change_nothing(
    pykcmd: Pykcmd, ctl: Pykcmctl, kept: Path, keys: Keys, *, is_plain: bool
) -> None:
    """A changed byte or a missing end is found before anything is imported."""
    fill(pykcmd, USER, b"%d" % USER, b"%d:a" % USER)
    file = kept / "export"
    ctl.ok("export", *(["--plain"] if is_plain else ["--recipient", keys.recipient]), str(file))
    ctl.ok("destroy", "--yes", "--uid", str(USER))
    whole = file.read_bytes()
    damaged = kept / "damaged"
    options = [] if is_plain else ["--identity", str(keys.path)]
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


def test_dry_run_changes_nothing(pykcmd: Pykcmd, ctl: Pykcmctl, kept: Path) -> None:
    """It reports the same results as the import."""
    fill(pykcmd, USER, b"%d" % USER, b"%d:a" % USER)
    file = str(kept / "export")
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
    pykcmd: Pykcmd, ctl: Pykcmctl, other_pykcmd: Pykcmd, other_ctl: Pykcmctl, kept: Path
) -> None:
    """Ccaches beyond the quota are refused with the reason; a dry run reports the same."""
    fill(pykcmd, USER, *[b"%d:%d" % (USER, number) for number in range(5)])
    fill(pykcmd, OTHER, b"%d" % OTHER)
    ctl.ok("export", "--plain", str(kept / "export"))
    assert other_pykcmd.stop() == 0
    other_pykcmd.configure("max_uid_ccaches = 3\n")
    other_pykcmd.start()
    arguments = ("import", str(kept / "export"))
    expected = ["imported"] * 3 + ["refused"] * 2 + ["imported"]
    assert [result for result, _ in results(other_ctl, *arguments, "--dry-run")] == expected
    said = other_ctl.run(*arguments)
    assert said.status == 1
    lines = [line.split("\t") for line in said.output.splitlines()]
    assert [line[0] for line in lines] == expected
    assert lines[3][-1] == f"max_uid_ccaches reached by UID {USER}: 3 of 3"
    assert contents(other_pykcmd, USER) == contents(pykcmd, USER)[:3]
    assert contents(other_pykcmd, OTHER) == contents(pykcmd, OTHER)


def test_uid_limits_export_and_import(pykcmd: Pykcmd, ctl: Pykcmctl, kept: Path) -> None:
    fill(pykcmd, USER, b"%d" % USER)
    fill(pykcmd, OTHER, b"%d" % OTHER)
    assert ctl.run("export", "--plain", "--uid", str(USER), str(kept / "one")).errors == "1 ccache exported\n"
    ctl.ok("export", "--plain", str(kept / "all"))
    for uid in (USER, OTHER):
        ctl.ok("destroy", "--yes", "--uid", str(uid))
    assert results(ctl, "import", "--uid", str(OTHER), str(kept / "one")) == []
    assert results(ctl, "import", "--uid", str(OTHER), str(kept / "all")) == [("imported", f"KCM:{OTHER}")]
    assert contents(pykcmd, USER) == []


# Files of other kinds


def test_file_of_kinit_is_imported(pykcmd: Pykcmd, mit: MitClient, ctl: Pykcmctl) -> None:
    """A user's FILE: ccache becomes the user's default, with all its tickets, and works."""
    path = pykcmd.folder / "alices"
    path.mkdir(0o700)
    os.chown(path, USER, USER)
    file = f"FILE:{path}/cc"
    mit.kinit("alice", ccache=file)
    mit.kvno(HOST, ccache=file)
    assert mit.klist(ccache=file).tickets == [TGT, HOST]
    assert results(ctl, "import", file) == [("imported", f"KCM:{USER}")]
    assert mit.klist() == Listed(f"KCM:{USER}", f"alice@{REALM}", [TGT, HOST])
    mit.kvno("HTTP/www.pykcm.test")
    # Importing the file again does not remove tickets that were added meanwhile.
    assert results(ctl, "import", file) == [("skipped", f"KCM:{USER}")]
    assert len(mit.klist().tickets) == 3


def test_unusable_file_is_named(ctl: Pykcmctl, folder: Path) -> None:
    """A file that is missing or not a ccache is named in one line."""
    (folder / "text").write_text("no ccache")
    for name, reason in (("nothing", "No such file or directory"), ("text", "not a ccache file")):
        said = ctl.run("import", f"FILE:{folder}/{name}")
        assert said == (1, "", f"Error: FILE:{folder}/{name}: {reason}\n")


def test_folder_of_kinit_is_imported(pykcmd: Pykcmd, mit: MitClient, ctl: Pykcmctl) -> None:
    """All ccaches of a DIR: collection are imported, and the primary one is the default."""
    path = pykcmd.folder / "alices"
    path.mkdir(0o700)
    os.chown(path, USER, USER)
    collection = f"DIR:{path}"
    for user in ("alice", "bob"):
        mit.kinit(user, ccache=collection)
    mit.ok("kswitch", "-p", "bob", ccache=collection)
    assert [result for result, _ in results(ctl, "import", collection)] == ["imported", "imported"]
    assert mit.klist().principal == f"bob@{REALM}"
    assert sorted(each.principal for each in mit.klist_all()) == [f"alice@{REALM}", f"bob@{REALM}"]


def test_unreadable_files_of_folder_are_reported(pykcmd: Pykcmd, mit: MitClient, ctl: Pykcmctl) -> None:
    """The other files are imported, and the exit status is 1."""
    path = pykcmd.folder / "alices"
    path.mkdir(0o700)
    os.chown(path, USER, USER)
    collection = f"DIR:{path}"
    mit.kinit("alice", ccache=collection)
    mit.kinit("bob", ccache=collection)
    (path / "tktbroken").write_bytes(b"\5\4\0\0nonsense")
    (path / "tktempty").touch()
    (path / "tktlink").symlink_to(path / "tkt")
    (path / "tktdangling").symlink_to(path / "tktnone")
    (path / "tktfolder").mkdir()
    os.mkfifo(path / "tktpipe")
    (path / "tktlarge").touch()
    os.truncate(path / "tktlarge", LARGEST_CCACHE_FILE + 1)
    for each in path.glob("tkt*"):
        os.chown(each, USER, USER, follow_symlinks=False)
    for options in (["--dry-run"], []):
        said = ctl.run("import", "--json", *options, collection)
        assert said.status == 1
        found = {each["name"].rpartition("/")[2]: each for each in json.loads(said.output)}
        reasons = {name: each["reason"] for name, each in found.items() if each["result"] == "failed"}
        assert sorted(reasons) == [
            *("tktbroken", "tktdangling", "tktempty", "tktfolder", "tktlarge", "tktlink", "tktpipe")
        ]
        assert {reasons["tktlink"], reasons["tktdangling"]} == {
            "a symbolic link, which is not followed: name the file that it leads to"
        }
        assert "empty" in reasons["tktempty"]
        assert "too large" in reasons["tktlarge"]
        assert [each["result"] for each in found.values()].count("imported") == 2
    assert sorted(each.principal for each in mit.klist_all()) == [f"alice@{REALM}", f"bob@{REALM}"]
    assert ctl.run("import", collection).status == 1
    for each in reasons:
        (path / each).rmdir() if each == "tktfolder" else (path / each).unlink()
    assert [result for result, _ in results(ctl, "import", collection)] == ["unchanged", "unchanged"]


def test_unreadable_folder_is_named(ctl: Pykcmctl, folder: Path) -> None:
    """A path that is missing or not a folder is named in one line."""
    (folder / "file").write_text("no folder")
    for name, reason in (("none", "No such file or directory"), ("file", "Not a directory")):
        said = ctl.run("import", f"DIR:{folder}/{name}")
        assert said == (1, "", f"Error: DIR:{folder}/{name}: {reason}\n")


def test_keytab_is_refused(ctl: Pykcmctl, kept: Path) -> None:
    """A keytab begins with the same byte as a ccache."""
    for content, said in ((b"\5\2" + bytes(40), "not an export"), (b"\5\4" + bytes(40), "name it FILE:")):
        (kept / "file").write_bytes(content)
        assert said in ctl.run("import", str(kept / "file")).errors


def test_source_without_path_is_wrong_usage(ctl: Pykcmctl) -> None:
    for kind in ("FILE", "DIR", "KCM"):
        said = ctl.run("import", f"{kind}:")
        assert said.status == 2
        assert f"write a path behind {kind}:" in said.errors


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


def test_migrate_imports_files_of_all_users(
    pykcmd: Pykcmd, mit_as: Callable[[int], MitClient], ctl: Pykcmctl
) -> None:
    """Each file is reported; a damaged one makes the exit status 1."""
    folder = pykcmd.folder / "run"
    for uid, user in ((USER, "alice"), (OTHER, "bob")):
        (folder / str(uid)).mkdir(0o700, parents=True)
        os.chown(folder / str(uid), uid, uid)
        folder.chmod(0o755)
        mit_as(uid).kinit(user, ccache=f"FILE:{folder}/{uid}/krb5cc")
    uids = ("--uid", str(USER), "--uid", str(OTHER))
    arguments = ("migrate", "--from", "files", *uids, "--path", f"FILE:{folder}/%{{uid}}/krb5cc")
    done = json.loads(ctl.ok(*arguments, "--json"))
    assert [(each["result"], each["uid"], each["principal"]) for each in done] == [
        ("imported", USER, f"alice@{REALM}"),
        ("imported", OTHER, f"bob@{REALM}"),
    ]
    assert mit_as(OTHER).klist() == Listed(f"KCM:{OTHER}", f"bob@{REALM}", [TGT])
    (folder / str(USER) / "krb5cc").write_bytes(b"\5\4")
    broken = ctl.run(*arguments)
    assert broken.status == 1
    assert [line.split("\t")[0] for line in broken.output.splitlines()] == ["failed", "unchanged"]


# Memory


@pytest.mark.timeout(300)
def test_transfer_needs_little_memory(stopped_pykcmd: Pykcmd, kept: Path, keys: Keys) -> None:
    """Neither side holds all of 5,000 ccaches and 20 MB at once."""
    stopped_pykcmd.configure('durability = "normal"\ncollection_cache_size = 4\nlog_level = "warning"\n')
    stopped_pykcmd.start("--log-level", "warning")
    tickets = [
        credential_bytes(TGS, principal("alice"), ticket=bytes([number]) * 1900) for number in range(2)
    ]
    tickets[1] = credential_bytes(service(1), ticket=bytes(1900))
    uids = range(3_000_000, 3_005_000)
    for uid in uids:
        with effective_uid(uid), KcmClient(stopped_pykcmd.socket_path) as kcm:
            kcm.replace(b"%d" % uid, 0, ALICE, tickets)
    # Restarted, so that the memory used while filling does not count.
    stopped_pykcmd.stop()
    stopped_pykcmd.start("--log-level", "warning")
    ctl = Pykcmctl(stopped_pykcmd.control_path)
    process = stopped_pykcmd.process
    assert process is not None
    status = Path(f"/proc/{process.pid}/status")
    at_rest = peak_memory(status)
    seal = ("--recipient", keys.recipient)
    nothing = ctl.peak(kept, "export", "--uid", "0", *seal, str(kept / "nothing"))
    file = kept / "export"
    assert ctl.peak(kept, "export", *seal, str(file)) - nothing < 6_000_000
    assert file.stat().st_size > 20_000_000
    ctl.ok("destroy", "--yes", "--uid", str(uids[0]))
    importing = ctl.peak(kept, "import", "--identity", str(keys.path), str(file))
    assert importing - nothing < 10_000_000
    assert peak_memory(status) - at_rest < 20_000_000
