"""export and import: tickets from one daemon to another; a file that is not as written changes nothing."""

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
    """Another daemon, with another database and key."""
    with public_folder() as folder, watched(Pykcmd(folder)) as daemon, started(daemon):
        yield daemon


@pytest.fixture
def other_ctl(other_pykcmd: Pykcmd) -> Pykcmctl:
    return Pykcmctl(other_pykcmd.control_path)


@pytest.fixture
def kept(folder: Path) -> Path:
    """Where a test's exports go."""
    path = folder / "kept"
    path.mkdir(0o700)
    return path


class Keys:
    """An age key: the public one, and a file with the secret one."""

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
    """Give the UID ccaches of these names, of alice's, with a TGT and a service ticket each."""
    with effective_uid(uid), KcmClient(daemon.socket_path) as kcm:
        for name in names:
            tickets = [
                credential_bytes(server, ticket=name + b" " * 500) for server in (TGS, service(len(name)))
            ]
            kcm.replace(name, 7, ALICE, tickets)


def contents(daemon: Pykcmd, uid: int) -> list[tuple[bytes, object, int, list[bytes]]]:
    """All that the UID has, in the order in which it is listed."""
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
    """What `import --json` or `migrate --json` says: result and ccache of each."""
    return [(each["result"], each["name"]) for each in json.loads(ctl.run(*arguments, "--json").output)]


def test_to_another_daemon(
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
    """Everybody's ccaches arrive as they were, with their defaults, and once more they are unchanged."""
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


def test_with_a_passphrase(pykcmd: Pykcmd, ctl: Pykcmctl, kept: Path) -> None:
    """The passphrase opens it, another one does not, and without one nothing is asked of a pipe."""
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
    """Run a command on a terminal, answer each of its prompts, and give exit status and what was shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.execve(argv[0], argv, {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TERM": "xterm"})
        finally:
            os._exit(127)
    escape = b""
    prompts = 0
    with io.FileIO(terminal, "r+") as both, suppress(OSError):  # reading ends with an error
        while piece := both.read(4096):
            escape += piece
            while prompts < min(len(_PROMPT.findall(escape)), len(answers)):
                both.write(answers[prompts].encode() + b"\n")
                prompts += 1
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), escape.decode()


def test_on_a_terminal(pykcmd: Pykcmd, ctl: Pykcmctl, kept: Path) -> None:
    """The passphrase is asked for, twice for an export, and not shown; an import shows how far it is."""
    fill(pykcmd, USER, b"%d" % USER)
    before = contents(pykcmd, USER)
    exporting = ctl.argv("export", str(kept / "export"))
    status, escape = on_terminal(exporting, "open, Sesame", "open, Barley", "open, Sesame", "open, Sesame")
    assert status == 0, escape
    assert escape.count("Passphrase: ") == 2
    assert "Sesame" not in escape
    ctl.ok("destroy", "--yes", "--uid", str(USER))
    status, escape = on_terminal(ctl.argv("import", str(kept / "export")), "open, Sesame")
    assert status == 0, escape
    assert "1/1" in escape
    assert "1 imported" in escape
    assert contents(pykcmd, USER) == before
    # Nobody's tickets are written to a screen.
    status, escape = on_terminal(ctl.argv("export", "--plain", "-"))
    assert status == 1
    assert "not printed on a terminal" in escape


def test_through_a_pipe(pykcmd: Pykcmd, ctl: Pykcmctl, other_pykcmd: Pykcmd, other_ctl: Pykcmctl) -> None:
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


def test_files_are_not_overwritten(pykcmd: Pykcmd, ctl: Pykcmctl, kept: Path) -> None:
    """A file that is there stays, unless --force is given; what is no file always does."""
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


def test_nothing_half_is_left(stopped_pykcmd: Pykcmd, kept: Path) -> None:
    """Where the daemon or a key is missing, no file appears."""
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
    """A byte that is another anywhere, or a file that ends too early, is seen before anything is imported."""
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


def test_dry_run(pykcmd: Pykcmd, ctl: Pykcmctl, kept: Path) -> None:
    """It says of each what would become of it, and changes nothing."""
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


def test_quota(pykcmd: Pykcmd, ctl: Pykcmctl, other_pykcmd: Pykcmd, other_ctl: Pykcmctl, kept: Path) -> None:
    """Beyond the quota each is refused with the reason, the others are taken, and a dry run says the same."""
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


def test_one_users(pykcmd: Pykcmd, ctl: Pykcmctl, kept: Path) -> None:
    """--uid exports, and imports, what is that user's and no more."""
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


def test_a_file_of_kinits(pykcmd: Pykcmd, mit: MitClient, ctl: Pykcmctl) -> None:
    """A user's FILE: ccache becomes that user's default, with all that is in it, and works."""
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
    # What has come by since is not taken away by what the file still has.
    assert results(ctl, "import", file) == [("skipped", f"KCM:{USER}")]
    assert len(mit.klist().tickets) == 3


def test_a_file_that_cannot_be_imported(ctl: Pykcmctl, folder: Path) -> None:
    """What is missing, or no ccache, is named in one line."""
    (folder / "text").write_text("no ccache")
    for name, reason in (("nothing", "No such file or directory"), ("text", "not a ccache file")):
        said = ctl.run("import", f"FILE:{folder}/{name}")
        assert said == (1, "", f"Error: FILE:{folder}/{name}: {reason}\n")


def test_a_folder_of_kinits(pykcmd: Pykcmd, mit: MitClient, ctl: Pykcmctl) -> None:
    """All ccaches of a DIR: collection are there, the primary one the default."""
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


def test_a_folder_with_files_that_cannot_be_read(pykcmd: Pykcmd, mit: MitClient, ctl: Pykcmctl) -> None:
    """A file that is no ccache is reported with its reason; the others are imported, and the status is 1."""
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


def test_a_folder_that_cannot_be_read(ctl: Pykcmctl, folder: Path) -> None:
    """A folder that is missing or no folder is named in one line."""
    (folder / "file").write_text("no folder")
    for name, reason in (("none", "No such file or directory"), ("file", "Not a directory")):
        said = ctl.run("import", f"DIR:{folder}/{name}")
        assert said == (1, "", f"Error: DIR:{folder}/{name}: {reason}\n")


def test_a_keytab(ctl: Pykcmctl, kept: Path) -> None:
    """It begins as a ccache does, and is none."""
    for content, said in ((b"\5\2" + bytes(40), "not an export"), (b"\5\4" + bytes(40), "name it FILE:")):
        (kept / "file").write_bytes(content)
        assert said in ctl.run("import", str(kept / "file")).errors


def test_a_source_without_a_path(ctl: Pykcmctl) -> None:
    """It is not taken for a server or a file that is not there."""
    for kind in ("FILE", "DIR", "KCM"):
        said = ctl.run("import", f"{kind}:")
        assert said.status == 2
        assert f"write a path behind {kind}:" in said.errors


def test_another_pykcm(pykcmd: Pykcmd, ctl: Pykcmctl, other_pykcmd: Pykcmd, other_ctl: Pykcmctl) -> None:
    """KCM: with another server's socket brings a user's ccaches; the daemon's own socket is refused."""
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


def test_migrate_files(pykcmd: Pykcmd, mit_as: Callable[[int], MitClient], ctl: Pykcmctl) -> None:
    """Every user's file comes over, each reported; one that is broken makes the exit status 1."""
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
def test_memory(stopped_pykcmd: Pykcmd, kept: Path, keys: Keys) -> None:
    """Of 5,000 ccaches and 20 MB neither side holds more than a part at any time."""
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
    # Begun anew, so that what it was filled with does not count.
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
