"""The Kubernetes manifest and the units of Quadlet agree with the image and with pykcm's options."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pykcm.cli import main
from pykcm.config import load_config
from pykcm.store.disk import CREDENTIAL

yaml = pytest.importorskip("yaml", reason="PyYAML is missing")

PACKAGING = Path(__file__).parents[2] / "packaging"
CONTAINERFILE = (PACKAGING / "container" / "Containerfile").read_text()
QUADLET = PACKAGING / "quadlet"

_GENERATORS = ("/usr/libexec/podman/quadlet", "/usr/lib/podman/quadlet")


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    (document,) = yaml.safe_load_all((PACKAGING / "kubernetes" / "pykcm.yaml").read_text())
    assert (document["apiVersion"], document["kind"]) == ("apps/v1", "StatefulSet")
    return dict(document)


@pytest.fixture(scope="module")
def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    return dict(manifest["spec"]["template"]["spec"])


def containers(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = [*pod["initContainers"], *pod["containers"]]
    named = {each["name"]: each for each in found}
    assert len(named) == len(found)
    return named


def mounts(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in container["volumeMounts"]}


def health_check() -> list[str]:
    """The command of the image's health check."""
    found = re.search(r"HEALTHCHECK .* CMD (\[.*\])", CONTAINERFILE)
    assert found is not None
    return list(yaml.safe_load(found[1]))


def test_build_has_every_file_of_the_wheel() -> None:
    """The build of the image gets every file that packaging/backend.py puts into the wheel."""
    lines = (PACKAGING.parent / ".containerignore").read_text().splitlines()
    ignored = [line for line in lines if not line.startswith("#")]
    backend = (PACKAGING / "backend.py").read_text()
    names = [
        name
        for found in re.findall(r"^_(?:FOLDERS|DOCUMENTS) = \((.*?)\)$", backend, re.MULTILINE | re.DOTALL)
        for name in re.findall(r'"(.*?)"', found)
    ]
    assert {"systemd", "README.md"} <= set(names)
    # A file is left out with its folder.
    needed = {part for name in names for part in (name, name.partition("/")[0])}
    needed |= {"pyproject.toml", "pykcm", "packaging", "man"}
    assert not [name for name in needed if any(fnmatch.fnmatch(name, pattern) for pattern in ignored)]


def test_selector_finds_pods(manifest: dict[str, Any]) -> None:
    """Kubernetes refuses a set whose selector does not match its own pods."""
    spec = manifest["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


def test_every_mount_has_a_volume(manifest: dict[str, Any], pod: dict[str, Any]) -> None:
    """Each mounted volume exists, and each volume is mounted."""
    names = [each["name"] for each in pod["volumes"]]
    names += [each["metadata"]["name"] for each in manifest["spec"]["volumeClaimTemplates"]]
    mounted = {name for each in containers(pod).values() for name in mounts(each)}
    assert sorted(mounted) == sorted(names)


def test_pod_security_is_restricted(pod: dict[str, Any]) -> None:
    """The manifest satisfies the Pod Security Standard "restricted", and more."""
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    kinds = {kind for each in pod["volumes"] for kind in each if kind != "name"}
    assert kinds <= {"emptyDir", "secret"}
    for container in containers(pod).values():
        context = container["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
        assert context["runAsUser"] > 0
        assert {"cpu", "memory"} == container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]


def test_only_daemon_has_key_and_state(pod: dict[str, Any]) -> None:
    """The application gets the socket's folder, read-only, and nothing else."""
    kcm, app = (containers(pod)[name] for name in ("kcm", "app"))
    assert mounts(app).keys() == {"socket"}
    assert mounts(app)["socket"]["readOnly"]
    assert mounts(kcm).keys() == {"socket", "state", "key"}
    secret = next(each["secret"] for each in pod["volumes"] if each["name"] == "key")
    assert secret["defaultMode"] == 0o440
    assert f"{mounts(kcm)['key']['mountPath']} " in re.sub(
        r"CREDENTIALS_DIRECTORY=(\S+)", r"\1 ", CONTAINERFILE
    )


def test_daemon_is_the_user_of_the_image(pod: dict[str, Any]) -> None:
    """The manifest and Quadlet's secret have the UID of the Containerfile."""
    user = re.search(r"^USER (\d+):\1$", CONTAINERFILE, re.MULTILINE)
    assert user is not None
    context = containers(pod)["kcm"]["securityContext"]
    uid = int(user[1])
    assert (context["runAsUser"], context["runAsGroup"], pod["securityContext"]["fsGroup"]) == (uid, uid, uid)
    assert f"Secret={CREDENTIAL},uid={uid},gid={uid},mode=0400\n" in (QUADLET / "pykcm.container").read_text()


def test_daemon_accepts_its_arguments(pod: dict[str, Any], tmp_path: Path) -> None:
    """Pykcmd knows the options, and the sockets and the state are in the mounted folders."""
    kcm = containers(pod)["kcm"]
    config = tmp_path / "pykcm.toml"
    shutil.copy(PACKAGING / "container" / "pykcm.toml", config)
    options = subprocess.run(
        [sys.executable, "-m", "pykcm", "--config", str(config), *kcm["args"], "--show-config"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    folders = {name: each["mountPath"] for name, each in mounts(kcm).items()}
    assert re.search(rf'^socket_path = "{folders["socket"]}/kcm\.sock"', options, re.MULTILINE)
    # Not the folder itself, which fsGroup makes writable for the group.
    state = re.search(rf'^state_dir = "({folders["state"]}/\w+)"', options, re.MULTILINE)
    assert state is not None
    assert f'control_socket_path = "{state[1]}/' in options


def test_health_checks_are_commands_of_pykcmctl(pod: dict[str, Any]) -> None:
    """The image, the manifest and Quadlet check the same, with options that pykcmctl knows."""
    program, *arguments = health_check()
    assert program == "pykcmctl"
    with main.cli.make_context("pykcmctl", list(arguments)) as context:
        assert main.cli.get_command(context, arguments[-1]) is not None
    socket = load_config(PACKAGING / "container" / "pykcm.toml").socket_path
    assert f"--kcm-socket={socket}" in arguments
    kcm = containers(pod)["kcm"]
    for probe in ("startupProbe", "livenessProbe"):
        assert kcm[probe]["exec"]["command"][1:] == arguments
    command = re.search(r"^HealthCmd=(.*)$", (QUADLET / "pykcm.container").read_text(), re.MULTILINE)
    assert command is not None
    assert yaml.safe_load(command[1]) == health_check()


def test_quadlet_has_its_volumes() -> None:
    """Each volume that the container mounts has a unit, with the name that docs/containers.md uses."""
    text = (QUADLET / "pykcm.container").read_text()
    volumes = re.findall(r"^Volume=(\S+\.volume):", text, re.MULTILINE)
    assert sorted(volumes) == sorted(path.name for path in QUADLET.glob("*.volume"))
    units = "".join((QUADLET / each).read_text() for each in volumes)
    assert re.findall(r"^VolumeName=(.*)$", units, re.MULTILINE) == ["kcm-socket", "kcm-state"]


def test_generator_accepts_quadlet_files() -> None:
    """Podman's generator makes a service that runs the container as docs/containers.md does by hand."""
    programs = [os.environ.get("PYKCM_QUADLET", ""), *_GENERATORS]
    generator = next((each for each in programs if each and Path(each).exists()), None)
    if generator is None:
        pytest.skip("no generator of Quadlet: podman is missing, or older than 4.4")
    done = subprocess.run(
        [generator, "-dryrun"],
        env={"QUADLET_UNIT_DIRS": str(QUADLET), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "unsupported" not in done.stderr
    (command,) = re.findall(r"^ExecStart=(.* run .*)$", done.stdout, re.MULTILINE)
    document = (PACKAGING.parent / "docs/containers.md").read_text()
    section = document[document.index("### podman with the key in a secret") :]
    for option in (
        "--read-only",
        "no-new-privileges",
        f"{CREDENTIAL},uid=998,gid=998,mode=0400",
        "kcm-state:/var/lib/pykcm",
    ):
        assert option in section
        assert option in command
    assert "--network none" in command
    assert "--cap-drop all" in command
    assert "--uidmap 0:100000:65536" in command
