"""Tickets of containers: with a daemon on the host, and with one in a container.

A container is a user namespace with a mapped range of UIDs, and its own view of the file system.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .clients import Listed, MitClient
from .conftest import client_files, started, watched
from .daemon import COMMAND, Pykcmd
from .kdc import REALM, Kdc
from .namespaces import (
    BASE,
    PATHS_INSIDE,
    RANGE,
    SOCKET_INSIDE,
    Containers,
    HeimdalInside,
    PykcmdInside,
    interpreter_folders,
    mit_in,
    why_no_containers,
)

TGT = f"krbtgt/{REALM}"
ALICE = f"alice@{REALM}"
BOB = f"bob@{REALM}"
SERVICE = "host/server.pykcm.test"

# The UID on the host of root in some containers; in most it is BASE.
OTHER_BASE = 200000

# An ordinary user of a container, and the user of a daemon in a container.
USER = 1000
DAEMON = 998

OVERFLOW = int(Path("/proc/sys/kernel/overflowuid").read_text())
STRANGER = (
    f"connection refused: UID {OVERFLOW} is the kernel's overflow UID: "
    "its real one has no mapping in this user namespace"
)


@pytest.fixture(autouse=True, scope="module")
def _containers_are_possible() -> None:
    reason = why_no_containers()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def socket_folder(folder: Path) -> Path:
    """The folder with the socket, which is all that containers get."""
    socket_folder = folder / "kcm"
    socket_folder.mkdir()
    return socket_folder


@pytest.fixture
def containers(kdc: Kdc, folder: Path, socket_folder: Path) -> Iterator[Containers]:
    """Makes containers, which end with the test."""
    with contextlib.ExitStack() as at_end:
        yield Containers(kdc, folder, socket_folder, at_end)


@pytest.fixture
def on_host(kdc: Kdc, folder: Path, socket_folder: Path) -> Callable[[int], MitClient]:
    """MIT's clients as the given UID outside of all containers."""
    socket_path = socket_folder / "kcm.sock"
    krb5_conf, trace = client_files(kdc, folder, socket_path)
    return lambda uid: MitClient(uid, socket_path, krb5_conf, kdc.keytab, trace)


# The daemon on the host


@pytest.fixture
def host_pykcmd(stopped_pykcmd: Pykcmd, socket_folder: Path) -> Iterator[Pykcmd]:
    """A daemon outside of all containers."""
    stopped_pykcmd.socket_path = socket_folder / "kcm.sock"
    with started(stopped_pykcmd) as daemon:
        yield daemon


@pytest.mark.usefixtures("host_pykcmd")
def test_containers_with_same_mapping_share_tickets(containers: Containers) -> None:
    """Root of a container is the UID that it is mapped to."""
    one, two = containers.mit(), containers.mit()
    one.kinit("alice")
    assert one.klist() == two.klist() == Listed(f"KCM:{BASE}", ALICE, [TGT])
    assert two.kvno(SERVICE) == [f"{SERVICE}@{REALM}: kvno = 1"]
    assert one.kvno("--cached-only", SERVICE) == [f"{SERVICE}@{REALM}: kvno = 1"]
    two.ok("kdestroy")
    assert one.klist_all() == []


@pytest.mark.usefixtures("host_pykcmd")
def test_containers_with_other_mapping_share_nothing(containers: Containers) -> None:
    """Other tickets cannot be reached by name either."""
    one, other = containers.mit(), containers.mit(base=OTHER_BASE)
    one.kinit("alice")
    assert other.klist_all() == []
    not_found = f"klist: Credentials cache 'KCM:{BASE}' not found\n"
    assert other.run("klist", ccache=f"KCM:{BASE}")[1:] == (1, not_found)
    assert other.run("kdestroy", ccache=f"KCM:{BASE}").code == 1
    other.kinit("bob")
    assert other.klist_all() == [Listed(f"KCM:{OTHER_BASE}", BOB, [TGT])]
    assert one.klist_all() == [Listed(f"KCM:{BASE}", ALICE, [TGT])]


@pytest.mark.usefixtures("host_pykcmd")
def test_root_of_host_does_not_share_with_containers(
    containers: Containers, on_host: Callable[[int], MitClient]
) -> None:
    """Root sees their tickets if it names the ccache."""
    inside, root = containers.mit(), on_host(0)
    inside.kinit("alice")
    assert root.run("klist")[1:] == (1, "klist: Credentials cache 'KCM:0' not found\n")
    assert root.klist_all() == []
    assert root.klist(ccache=f"KCM:{BASE}") == Listed(f"KCM:{BASE}", ALICE, [TGT])
    root.kinit("bob")
    assert inside.klist_all() == [Listed(f"KCM:{BASE}", ALICE, [TGT])]
    assert inside.run("klist", ccache="KCM:0").code == 1


@pytest.mark.usefixtures("host_pykcmd")
def test_user_of_container_is_the_mapped_uid(
    containers: Containers, on_host: Callable[[int], MitClient]
) -> None:
    """The container's root has no access to that user's tickets."""
    container = containers.new()
    root, user = mit_in(container), mit_in(container, USER)
    user.kinit("bob")
    of_user = Listed(f"KCM:{BASE + USER}", BOB, [TGT])
    assert user.klist_all() == mit_in(containers.new(), USER).klist_all() == [of_user]
    assert on_host(BASE + USER).klist_all() == [of_user]
    assert root.klist_all() == []
    assert root.run("klist", ccache=of_user.ccache).code == 1


def test_containers_find_restarted_daemon(containers: Containers, host_pykcmd: Pykcmd) -> None:
    """They find the new socket in their folder, and all tickets."""
    one, two = containers.mit(), containers.mit()
    one.kinit("alice")
    host_pykcmd.restart()
    assert two.klist() == Listed(f"KCM:{BASE}", ALICE, [TGT])
    assert two.kvno(SERVICE) == [f"{SERVICE}@{REALM}: kvno = 1"]
    host_pykcmd.kill()
    host_pykcmd.start()
    assert one.klist() == Listed(f"KCM:{BASE}", ALICE, [TGT, SERVICE])


@pytest.mark.usefixtures("host_pykcmd", "_heimdal_works")
def test_heimdal_in_container_uses_a_link(containers: Containers) -> None:
    """It shares tickets with MIT's clients in another container."""
    container = containers.new(folders=interpreter_folders())
    heimdal = HeimdalInside(0, *PATHS_INSIDE, container)
    heimdal.kinit("alice")
    listed = containers.mit().klist()
    assert re.fullmatch(rf"KCM:{BASE}:\w+", listed.ccache)
    assert heimdal.klist_all() == [listed] == [Listed(listed.ccache, ALICE, [TGT])]


# The daemon in a container


@pytest.fixture
def place_inside(containers: Containers, folder: Path, socket_folder: Path) -> Callable[[int], PykcmdInside]:
    """A daemon that is not yet started, as the given UID in its own container."""

    def place(uid: int) -> PykcmdInside:
        daemon_folder = folder / "daemon"
        daemon_folder.mkdir()
        container = containers.new(folders={str(daemon_folder): daemon_folder} | interpreter_folders())
        daemon = PykcmdInside(daemon_folder, container, uid, SOCKET_INSIDE)
        daemon.socket_path = socket_folder / "kcm.sock"
        for path in (daemon_folder, socket_folder):
            os.chown(path, BASE + uid, BASE + uid)
        return daemon

    return place


@pytest.fixture
def pykcmd_inside(place_inside: Callable[[int], PykcmdInside]) -> Iterator[PykcmdInside]:
    """A daemon in a container, as an ordinary user."""
    daemon = place_inside(DAEMON)
    with watched(daemon), started(daemon):
        yield daemon


@pytest.mark.usefixtures("pykcmd_inside")
def test_containers_with_mapping_of_daemon_share_tickets(
    containers: Containers, on_host: Callable[[int], MitClient]
) -> None:
    """By the UIDs that they and the daemon have in common."""
    one, two, user = containers.mit(), containers.mit(), containers.mit(USER)
    one.kinit("alice")
    assert one.klist() == two.klist() == Listed("KCM:0", ALICE, [TGT])
    assert two.kvno(SERVICE) == [f"{SERVICE}@{REALM}: kvno = 1"]
    assert one.klist().tickets == [TGT, SERVICE]
    user.kinit("bob")
    assert user.klist_all() == [Listed(f"KCM:{USER}", BOB, [TGT])]
    assert user.run("klist", ccache="KCM:0").code == 1


@pytest.mark.usefixtures("pykcmd_inside")
def test_root_of_daemons_namespace_is_root(containers: Containers) -> None:
    """It can use the ccaches of each mapped UID by name."""
    root, user = containers.mit(), containers.mit(USER)
    user.kinit("bob")
    assert root.klist_all() == []
    assert root.klist(ccache=f"KCM:{USER}") == user.klist()


@pytest.mark.usefixtures("pykcmd_inside")
def test_mapped_users_of_host_are_served(containers: Containers, on_host: Callable[[int], MitClient]) -> None:
    """A mapped user of the host is the UID of the daemon's namespace, up to the last one."""
    on_host(BASE + USER).kinit("alice")
    assert containers.mit(USER).klist_all() == [Listed(f"KCM:{USER}", ALICE, [TGT])]
    last = on_host(BASE + RANGE - 1)
    last.kinit("bob")
    assert last.klist_all() == [Listed(f"KCM:{RANGE - 1}", BOB, [TGT])]


def assert_refused(client: MitClient) -> None:
    """The client reports that it is not served, before or after it has sent a request."""
    ran = client.run("klist")
    assert ran.code == 1
    assert re.fullmatch("klist: (Connection reset by peer|Broken pipe) while resolving ccache\n", ran.output)


@pytest.mark.parametrize("uid", [0, USER, BASE - 1, BASE + RANGE, BASE + OVERFLOW])
def test_unmapped_users_of_host_are_refused(
    on_host: Callable[[int], MitClient], pykcmd_inside: PykcmdInside, uid: int
) -> None:
    """Users of the host whose UID has no mapping are refused, also root, and the log says why.

    The user with the overflow UID of the daemon's namespace is refused as well, because it cannot be
    distinguished from them.
    """
    stranger = on_host(uid)
    assert_refused(stranger)
    assert stranger.run("kinit", "-k", "-t", str(stranger.keytab), "alice").code == 1
    assert STRANGER in pykcmd_inside.log


def test_unmapped_containers_are_refused(containers: Containers, pykcmd_inside: PykcmdInside) -> None:
    """All of their users are refused, and the log says why, once."""
    container = containers.new(OTHER_BASE)
    for uid in (0, USER, 2, 3, 4):
        assert_refused(mit_in(container, uid))
    assert pykcmd_inside.log.count("refused:") == pykcmd_inside.log.count(STRANGER) == 1


def test_overflow_uid_is_refused(containers: Containers, pykcmd_inside: PykcmdInside) -> None:
    """The overflow UID of a container with the daemon's mapping is refused, other users are not."""
    assert_refused(containers.mit(OVERFLOW))
    assert STRANGER in pykcmd_inside.log
    neighbour = containers.mit(OVERFLOW - 1)
    neighbour.kinit("alice")
    assert neighbour.klist().ccache == f"KCM:{OVERFLOW - 1}"


@pytest.mark.parametrize("uid", [DAEMON, 0])
def test_daemon_in_container_can_be_restarted(
    containers: Containers, place_inside: Callable[[int], PykcmdInside], uid: int
) -> None:
    """As root or as an ordinary user of its container: tickets and clients survive."""
    with watched(place_inside(uid)) as daemon, started(daemon):
        one, two = containers.mit(), containers.mit(USER)
        one.kinit("alice")
        two.kinit("bob")
        assert daemon.socket_path.stat().st_uid == BASE + uid
        daemon.restart()
        assert one.klist_all() == [Listed("KCM:0", ALICE, [TGT])]
        assert two.klist_all() == [Listed(f"KCM:{USER}", BOB, [TGT])]
        daemon.kill()
        daemon.start()
        assert one.kvno(SERVICE) == [f"{SERVICE}@{REALM}: kvno = 1"]


def with_mount(daemon: PykcmdInside, mount: str) -> None:
    """Start the daemon with one more mount, which the container's root may make."""
    hide = ("unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh")
    daemon.command = (*daemon.container.inside(0), *hide, *COMMAND)


def test_daemon_does_not_start_without_proc(place_inside: Callable[[int], PykcmdInside]) -> None:
    """Without /proc, it cannot know which UIDs are mapped."""
    daemon = place_inside(0)
    with watched(daemon):
        with_mount(daemon, "mount -t tmpfs tmpfs /proc")
        refused = daemon.refusal()
    assert refused.code == 1
    assert re.fullmatch("pykcmd: critical: peers cannot be identified: .*/proc/.*\n", refused.message)


@pytest.mark.parametrize("kernel_has_it", [True, False])
def test_hidden_selinux_is_logged(place_inside: Callable[[int], PykcmdInside], kernel_has_it: bool) -> None:
    """If the kernel's SELinux is hidden from containers, the log says that labels are not used."""
    daemon = place_inside(0)
    filesystems = daemon.folder / "filesystems"
    filesystems.write_text("nodev\tproc\n" + "nodev\tselinuxfs\n" * kernel_has_it)
    with_mount(daemon, f"mount --bind {filesystems} /proc/filesystems")
    with watched(daemon), started(daemon):
        assert ("hidden from the daemon: ccaches are separated by UID only" in daemon.log) == kernel_has_it
