"""Containers with podman: the recipes and the statements of docs/containers.md."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.clients import Listed
from tests.e2e.kdc import REALM, Kdc

from . import images, machine
from .clients import LabelledClient
from .readme import commands_of

_DOCUMENT = Path(__file__).parents[2] / "docs/containers.md"
_DROP_IN = Path("/etc/systemd/system/pykcm.socket.d")

TGT = f"krbtgt/{REALM}"
BASE = 100000
LEVEL = "s0:c100,c200"
OTHER_LEVEL = "s0:c100,c300"
ALICE = f"Default principal: alice@{REALM}"
NOT_FOUND = "klist: Credentials cache 'KCM:{}' not found\n"


@pytest.fixture(scope="module")
def made_images(kdc: Kdc) -> None:
    """The images `localhost/app` and `localhost/pykcm`."""
    images.make_images(
        kdc.krb5_conf("default_ccache_name = KCM:", "kcm_socket = /run/kcm/kcm.sock"), kdc.keytab
    )


@pytest.fixture
def podman(made_images: None) -> Iterator[None]:
    """podman; containers and volumes are removed at the end."""
    yield
    print(machine.shell("podman logs kcm || true"))  # noqa: T201 - shown by pytest where the test failed
    machine.run("podman", "rm", "--all", "--force", "--time=0")
    machine.run("podman", "volume", "prune", "--force")


def start(name: str, *options: str, base: int = BASE, level: str = LEVEL, socket: str = "/run/kcm") -> None:
    """Start another container with the socket's folder."""
    common = (f"--name={name}", f"--uidmap=0:{base}:65536", f"--security-opt=label=level:{level}")
    volume = f"--volume={socket}:/run/kcm:ro"
    machine.run("podman", "run", "--detach", *common, volume, *options, "localhost/app", "sleep", "infinity")


def run_in(name: str, script: str, user: int = 0) -> tuple[int, str]:
    """Run commands in a container; returns the exit status and the output."""
    done = subprocess.run(
        ["podman", "exec", f"--user={user}", name, "sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=machine.PATIENCE,
    )
    return done.returncode, done.stdout


def says(output: str, ccache: str) -> bool:
    """Whether klist shows alice's tickets in this ccache."""
    return f"Ticket cache: {ccache}\n{ALICE}\n" in output and TGT in output


# The daemon on the host


@pytest.fixture
def listening_for_containers(pykcm: None) -> Iterator[list[str]]:
    """Let the socket unit also listen in /run/kcm, by the recipe; yields the commands that follow."""
    listen, *more = commands_of(_DOCUMENT, "podman on the host")
    machine.shell(listen)
    yield more
    (_DROP_IN / "containers.conf").unlink()
    machine.run("systemctl", "daemon-reload")


def test_recipe_of_a_daemon_on_the_host(
    listening_for_containers: list[str], podman: None, client_as: Callable[..., LabelledClient]
) -> None:
    """The recipe works, and each container sees the tickets that the document says."""
    run_apps, kinit, klist_outside = listening_for_containers
    machine.shell(run_apps)
    assert says(machine.shell(kinit), f"KCM:{BASE}")
    root = client_as(0)
    assert root.run("klist")[1:] == (1, NOT_FOUND.format(0))
    assert root.klist_all() == []
    assert says(machine.shell(klist_outside), f"KCM:{BASE}")

    assert run_in("app2", "kvno host/server.pykcm.test")[0] == 0
    assert "host/server.pykcm.test" in run_in("app1", "klist")[1]

    # An ordinary user, and the container's root, which is not root for the daemon.
    assert run_in("app1", "kinit -k bob", user=1000) == (0, "")
    assert root.klist(ccache=f"KCM:{BASE + 1000}").principal == f"bob@{REALM}"
    assert run_in("app1", f"klist KCM:{BASE + 1000}") == (1, NOT_FOUND.format(BASE + 1000))

    # The same UID at another level, and another mapping.
    start("level", level=OTHER_LEVEL)
    assert run_in("level", f"klist -A; klist KCM:{BASE}") == (1, NOT_FOUND.format(BASE))
    assert run_in("level", "kinit -k carol") == (0, "")
    start("mapping", base=200000)
    assert run_in("mapping", f"klist -A; klist KCM:{BASE}") == (1, NOT_FOUND.format(BASE))

    machine.run("systemctl", "restart", machine.SOCKET_UNIT)
    assert says(run_in("app1", "klist")[1], f"KCM:{BASE}")
    assert f"carol@{REALM}" in run_in("level", "klist")[1]


# The daemon in a container


@pytest.fixture
def recipe(podman: None) -> list[str]:
    """Start the daemon of the recipe; yields the commands that follow."""
    run_daemon, *more = commands_of(_DOCUMENT, "podman with two volumes")
    machine.shell(run_daemon)
    wait_until_serving()
    return more


def wait_until_serving(times: int = 1) -> None:
    machine.wait_until(lambda: log_of_daemon().count("Serving") == times, "the daemon serves")


def log_of_daemon() -> str:
    return machine.run("podman", "logs", "kcm")


@pytest.fixture
def on_host(recipe: list[str], kdc: Kdc, tmp_path: Path) -> Iterator[Callable[..., LabelledClient]]:
    """Clients outside of the containers that have the daemon's socket."""
    volume = machine.run("podman", "volume", "inspect", "--format={{.Mountpoint}}", "kcm-socket").strip()
    folder = Path("/run/of-kcm")
    folder.mkdir()
    # Users of the host do not get to podman's own folders. The policy has a domain for mount(8) that may not
    # mount a container's files.
    machine.run("busybox", "mount", "--bind", volume, str(folder))
    conf = tmp_path / "krb5.conf"
    conf.write_text(kdc.krb5_conf("default_ccache_name = KCM:", f"kcm_socket = {folder}/kcm.sock"))
    let_others_reach(tmp_path)

    def client(uid: int, level: str | None = None) -> LabelledClient:
        return LabelledClient(uid, folder / "kcm.sock", conf, kdc.keytab, Path("/dev/null"), level)

    yield client
    machine.run("busybox", "umount", str(folder))
    folder.rmdir()


def let_others_reach(path: Path) -> None:
    for folder in (path, *path.parents):
        folder.chmod(folder.stat().st_mode | 0o111)


def test_recipe_of_a_daemon_in_a_container(recipe: list[str], on_host: Callable[..., LabelledClient]) -> None:
    """The recipe works; users of the host have their UIDs of the daemon's namespace, or are refused."""
    run_apps, restart, klist, _ = recipe
    assert says(machine.shell(run_apps), "KCM:0")
    machine.shell(restart)
    wait_until_serving(times=2)
    assert says(machine.shell(klist), "KCM:0")
    assert "hidden from the daemon: ccaches are separated by UID only" in log_of_daemon()

    # The socket's owner is one of the container's own UIDs, but the folder is read-only.
    assert "Read-only file system" in run_in("app1", "rm /run/kcm/kcm.sock")[1]
    assert run_in("app1", "kinit -k bob", user=1000) == (0, "")
    assert on_host(BASE + 1000).klist_all() == [Listed("KCM:1000", f"bob@{REALM}", [TGT])]
    assert run_in("app2", "klist KCM:1000")[0] == 0
    # The kernel lets no container of another level connect.
    assert on_host(BASE + 1000, LEVEL).klist().ccache == "KCM:1000"
    assert "Permission denied" in on_host(BASE + 1000, OTHER_LEVEL).run("klist").output

    assert "connection refused" not in log_of_daemon()
    for uid in (0, 1000, BASE - 1):
        assert on_host(uid).run("klist").code == 1
    refused = "connection refused: UID 65534 is the kernel's overflow UID: its real one has no mapping"
    assert log_of_daemon().count(refused) == log_of_daemon().count("connection refused") == 1


def test_daemon_in_a_container_separates_levels(podman: None) -> None:
    """With the recipe for SELinux, containers of one UID at different levels do not share ccaches."""
    *_, run_daemon = commands_of(_DOCUMENT, "podman with two volumes")
    machine.shell(run_daemon)
    wait_until_serving()
    assert "ccaches are separated by SELinux level as well" in log_of_daemon()
    start("app1", socket="kcm-socket")
    start("level", level=OTHER_LEVEL, socket="kcm-socket")
    assert run_in("app1", "kinit -k alice") == (0, "")
    assert run_in("level", "klist -A; klist KCM:0") == (1, NOT_FOUND.format(0))
    assert run_in("level", "kinit -k bob") == (0, "")
    assert says(run_in("app1", "klist -A")[1], "KCM:0")
