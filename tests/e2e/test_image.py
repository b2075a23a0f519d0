"""The container image, run with podman by the commands of docs/containers.md.

`scripts/image test` builds the image, and names its archive in PYKCM_IMAGE.
"""

import json
import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.vm.readme import commands_of

from .clients import Listed
from .conftest import public_folder
from .daemon import ROOT
from .kdc import REALM, Kdc
from .namespaces import BASE, Containers, why_no_containers
from .podman import Podman, why_no_podman
from .waiting import wait_until

yaml = pytest.importorskip("yaml", reason="PyYAML is missing")

IMAGE = os.environ.get("PYKCM_IMAGE")
DOCUMENT = ROOT / "docs/containers.md"
SECTION = "podman with the key in a secret"
MANIFEST = ROOT / "packaging/kubernetes/pykcm.yaml"
ALICE = Listed("KCM:0", f"alice@{REALM}", [f"krbtgt/{REALM}"])
DAEMON = 998

# Prints every file of the image with its mode.
_LIST = """
import json, os
paths = [os.path.join(at, name) for top in ("/usr", "/opt", "/etc", "/var") for at, _, names in os.walk(top)
         for name in names]
print(json.dumps([[path, os.lstat(path).st_mode] for path in paths]))
"""

pytestmark = pytest.mark.skipif(IMAGE is None, reason="no image: scripts/image test builds one")


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    """Podman with the image."""
    reason = why_no_podman() or why_no_containers()
    if reason:
        pytest.skip(reason)
    with public_folder() as folder:
        podman = Podman(folder)
        try:
            podman.run("load", "--quiet", "--input", str(IMAGE))
            yield podman
        finally:
            podman.close()


@pytest.fixture
def recipe(podman: Podman) -> Iterator[list[str]]:
    """Start the daemon by the section; yields the commands that follow."""
    run_daemon, *more = commands_of(DOCUMENT, SECTION)
    podman.shell(run_daemon)
    try:
        wait_until(lambda: serves(podman))
        yield more
        assert "Traceback" not in podman.run("logs", "kcm")
    finally:
        print(podman.run("logs", "kcm"))  # noqa: T201 - shown by pytest if the test fails
        podman.remove_containers()
        podman.run("volume", "prune", "--force")
        podman.run("secret", "rm", "--all")


def serves(podman: Podman, times: int = 1) -> bool:
    return podman.run("logs", "kcm").count("Serving") == times


def inspected(podman: Podman, template: str) -> str:
    return podman.run("inspect", f"--format={template}", "kcm").strip()


def folder_of(podman: Podman, volume: str) -> Path:
    return Path(podman.run("volume", "inspect", "--format={{.Mountpoint}}", volume).strip())


@pytest.fixture
def containers(podman: Podman, recipe: list[str], kdc: Kdc, folder: Path) -> Iterator[Containers]:
    """Containers of clients, with the socket's volume."""
    with ExitStack() as at_end:
        yield Containers(kdc, folder, folder_of(podman, "kcm-socket"), at_end)


def test_document_starts_a_daemon_that_serves(podman: Podman, recipe: list[str]) -> None:
    """The health check passes, and pykcmctl gets the statistics."""
    (check,) = recipe
    health, statistics = check.splitlines()
    podman.shell(health)
    assert "requests" in podman.shell(statistics).lower()
    assert inspected(podman, "{{.State.Health.Status}}") == "healthy"


def test_containers_share_tickets_by_uid(podman: Podman, containers: Containers) -> None:
    """Clients of the same mapping have tickets by their UID; those of another one are refused."""
    one, two = containers.mit(), containers.mit()
    one.kinit("alice")
    assert one.klist() == two.klist() == ALICE
    user = containers.mit(1000)
    assert user.klist_all() == []
    user.kinit("bob")
    assert user.klist().ccache == "KCM:1000"
    assert containers.mit(base=200000).run("kinit", "-k", "alice").code != 0
    assert "connection refused: UID 65534" in podman.run("logs", "kcm")


def test_tickets_survive_restarts(podman: Podman, containers: Containers) -> None:
    """A restart and a new container with the same volume and secret have the tickets."""
    client = containers.mit()
    client.kinit("alice")
    podman.run("restart", "kcm")
    wait_until(lambda: serves(podman, 2))
    assert client.klist() == ALICE
    podman.remove_containers()
    _, run_again = commands_of(DOCUMENT, SECTION)[0].split("\n", 1)
    podman.shell(run_again)
    wait_until(lambda: serves(podman))
    assert client.klist() == ALICE


def test_key_is_the_secret(podman: Podman, recipe: list[str]) -> None:
    """The volume has no key, and another secret does not open the database."""
    state = folder_of(podman, "kcm-state")
    assert not list(state.glob("key*"))
    assert list(state.iterdir())
    podman.remove_containers()
    podman.run("secret", "rm", "pykcm.key")
    podman.shell(commands_of(DOCUMENT, SECTION)[0])
    wait_until(lambda: inspected(podman, "{{.State.Status}}") == "exited")
    assert inspected(podman, "{{.State.ExitCode}}") != "0"
    assert "Serving" not in podman.run("logs", "kcm")


def test_daemon_has_no_privileges(podman: Podman, recipe: list[str]) -> None:
    """It is UID 998 without capabilities, and cannot write outside of its volumes."""
    status = Path("/proc", inspected(podman, "{{.State.Pid}}"), "status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == [str(BASE + DAEMON)] * 4
    assert {fields[name] for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    code = "import os; os.open('/opt/pykcm/x', os.O_CREAT)"
    done = podman.attempt(shlex.join(["podman", "exec", "--user=0", "kcm", "python", "-c", code]))
    assert (done.returncode, "Read-only file system" in done.stdout) == (1, True)


def test_stop_ends_daemon_at_once(podman: Podman, recipe: list[str]) -> None:
    """SIGTERM ends it with status 0; podman does not have to kill it."""
    podman.run("stop", "--time=60", "kcm")
    assert inspected(podman, "{{.State.ExitCode}}") == "0"


def test_container_of_the_manifest_serves(podman: Podman, kdc: Kdc, folder: Path) -> None:
    """It serves with the arguments, user and volumes of packaging/kubernetes, as fsGroup leaves them."""
    (kcm,) = yaml.safe_load(MANIFEST.read_text())["spec"]["template"]["spec"]["initContainers"]
    context = kcm["securityContext"]
    gid = BASE + context["runAsGroup"]
    options = ["--name=kcm", f"--user={context['runAsUser']}:{context['runAsGroup']}", "--read-only"]
    for mount in kcm["volumeMounts"]:
        volume = folder / mount["name"]
        volume.mkdir()
        if mount["name"] == "key":
            key = volume / "pykcm.key"
            key.write_bytes(b"k" * 32)
            os.chown(key, BASE, gid)
            key.chmod(0o440)
        os.chown(volume, BASE, gid)
        volume.chmod(0o2775)
        options.append(f"--volume={volume}:{mount['mountPath']}")
    namespace = [f"--uidmap=0:{BASE}:65536", "--network=none", "--cap-drop=all"]
    podman.run("run", "--detach", *options, *namespace, "localhost/pykcm", *kcm["args"])
    try:
        wait_until(lambda: serves(podman))
        podman.run("exec", "kcm", *kcm["startupProbe"]["exec"]["command"])
        with ExitStack() as at_end:
            client = Containers(kdc, folder, folder / "socket", at_end).mit(1000)
            client.kinit("bob")
            assert client.klist().ccache == "KCM:1000"
        (state,) = (path for path in (folder / "state").iterdir())
        assert state.stat().st_mode & 0o777 == 0o700
        assert not list(state.glob("key*"))
    finally:
        print(podman.run("logs", "kcm"))  # noqa: T201 - shown by pytest if the test fails
        podman.remove_containers()


def test_health_check_fails_without_an_answer(podman: Podman, recipe: list[str]) -> None:
    """A daemon that is there, but stands still, is unhealthy."""
    pid = int(inspected(podman, "{{.State.Pid}}"))
    os.kill(pid, signal.SIGSTOP)
    try:
        assert podman.attempt("podman healthcheck run kcm").returncode != 0
    finally:
        os.kill(pid, signal.SIGCONT)


def test_image_has_no_shell_and_no_package_manager(podman: Podman) -> None:
    """The only program in the usual folders is Python, and no file is setuid."""
    program = shlex.join(["--entrypoint=/usr/bin/python3", "localhost/pykcm", "-c", _LIST])
    found = json.loads(podman.shell(f"podman run --rm --network=none {program}"))
    paths = {Path(path) for path, _ in found}
    assert not [path for path, mode in found if mode & 0o6000]
    programs = {
        path.name for path in paths if path.parent.name in {"bin", "sbin"} and "opt" not in path.parts
    }
    assert programs == {"python3", "python3.13"}
    assert not {"sh", "bash", "apt-get", "dpkg", "pip"} & {path.name for path in paths}
    assert Path("/var/lib/dpkg/status.d/libsqlcipher1") in paths
    assert Path("/etc/ssl/certs/ca-certificates.crt") in paths
