"""pykcmctl doctor with a real daemon: its results, and that it changes nothing."""

import json
import os
import socket
import time
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest

from pykcm.cli.doctor import round_trip
from pykcm.cli.doctor.command import all_groups
from pykcm.cli.doctor.environment import Environment
from pykcm.cli.doctor.results import Level, run_check
from pykcm.client import KcmClient
from tests.builders import ALICE, credential_bytes

from .conftest import USER
from .control import Pykcmctl
from .daemon import Pykcmd, effective_uid

Report = Callable[..., tuple[int, dict[str, dict[str, Any]]]]


@pytest.fixture
def doctor(stopped_pykcmd: Pykcmd) -> Report:
    """Runs the doctor for this daemon; returns the exit status and the checks by name."""
    pykcmd = stopped_pykcmd
    lines = {"socket_path": pykcmd.socket_path, "state_dir": pykcmd.state_dir}
    toml = "".join(f'{name} = "{path}"\n' for name, path in lines.items())
    pykcmd.configure(f"{toml}max_uid_ccaches = 3\n")

    conf = pykcmd.folder / "doctor.conf"
    conf.write_text(f"[libdefaults]\n    default_ccache_name = KCM:\n    kcm_socket = {pykcmd.socket_path}\n")

    def run() -> tuple[int, dict[str, dict[str, Any]]]:
        said = Pykcmctl(pykcmd.control_path).run(
            *("doctor", "--json", "--config", str(pykcmd.config_path)),
            environment={"KRB5_CONFIG": str(conf)},
        )
        assert not said.errors
        return said.status, {each["check"]: each for each in json.loads(said.output)}

    return run


def results(checks: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The checks that do not depend on the machine that runs the tests."""
    machines = {
        "socket unit",
        "control socket unit",
        "audit socket unit",
        "service unit",
        "other KCM servers",
        "SELinux",
        "AppArmor",
        "Heimdal",
        "other libraries",
        "logins",
    }
    return {name: check["outcome"] for name, check in checks.items() if name not in machines}


def test_healthy_daemon_passes_all_checks(pykcmd: Pykcmd, doctor: Report) -> None:
    status, checks = doctor()
    assert results(checks) == {
        "configuration": "ok",
        "socket": "ok",
        "control socket": "ok" if os.geteuid() == 0 else "warning",
        "krb5.conf": "ok",
        "kcm_socket": "ok",
        "default_ccache_name": "ok",
        "KRB5CCNAME": "ok",
        "krb5.conf.d": "skipped",
        "state folder": "ok",
        "key": "ok",
        "change of keys": "ok",
        **dict.fromkeys(
            ("quotas", "accounts", "default ccaches", "damaged ccaches", "clock"),
            "ok" if os.geteuid() == 0 else "skipped",
        ),
        "disk space": checks["disk space"]["outcome"],
        "shared store": "skipped",
        "renewal": "skipped",
        "time to answer": checks["time to answer"]["outcome"],
        "round trip": "ok",
    }
    assert status == any(check["outcome"] == "failed" for check in checks.values())
    assert pykcmd.process is not None
    assert f"process {pykcmd.process.pid} " in checks["socket"]["text"]


@pytest.mark.usefixtures("several_uids", "doctor")
def test_other_users_can_run_it(stopped_pykcmd: Pykcmd) -> None:
    """The round trip works for them, and checks that need root are skipped."""
    pykcmd = stopped_pykcmd
    pykcmd.start()
    assert pykcmd.state_dir.stat().st_mode & 0o077 == 0
    # In this process, because another user may not be able to run the tests' Python.
    with effective_uid(USER):
        results = {
            check.name: run_check(check, environment(pykcmd, uid=USER))
            for check in chain(*all_groups().values())
        }
    assert results["round trip"].level is Level.OK
    assert results["socket"].level is Level.OK
    for name in ("control socket", "key"):
        assert results[name].level is Level.SKIPPED
        assert results[name].text.startswith("needs root")
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        assert kcm.get_cache_uuid_list() == []


def test_missing_daemon_fails(stopped_pykcmd: Pykcmd, doctor: Report) -> None:
    """The exit status is 1, and the other checks work."""
    status, checks = doctor()
    assert status == 1
    assert checks["socket"]["outcome"] == "failed"
    assert checks["round trip"]["outcome"] == "failed"
    assert checks["default_ccache_name"]["outcome"] == "ok"


def test_socket_of_killed_daemon_is_reported(pykcmd: Pykcmd, doctor: Report) -> None:
    pykcmd.kill()
    status, checks = doctor()
    assert status == 1
    assert "nobody listens" in checks["socket"]["text"]
    assert f"rm -f {pykcmd.socket_path}" in checks["socket"]["remedy"]


@pytest.mark.usefixtures("doctor")
def test_text_has_a_line_for_each_check(pykcmd: Pykcmd) -> None:
    """Below a check that is not ok, its remedy is printed."""
    pykcmd.kill()
    said = Pykcmctl(pykcmd.control_path).run(
        "doctor",
        "--config",
        str(pykcmd.config_path),
        environment={"KRB5_CONFIG": str(pykcmd.folder / "doctor.conf")},
    )
    assert said.status == 1
    lines = said.output.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("  failed   socket ")]
    assert lines[at + 1].strip() == f"rm -f {pykcmd.socket_path}"
    assert lines[0] == "Problems"
    assert lines[-1].partition(" ")[2].startswith("problems, ")
    assert "\x1b" not in said.output


# The doctor within this process


def environment(pykcmd: Pykcmd, **more: Any) -> Environment:
    given: dict[str, Any] = {"config_file": pykcmd.config_path, "control_path": str(pykcmd.control_path)}
    return Environment(variables={"KRB5_CONFIG": str(pykcmd.folder / "doctor.conf")}, **given | more)


def everything(kcm: KcmClient) -> tuple[list[bytes], bytes, list[bytes]]:
    uuids = kcm.get_cache_uuid_list()
    names = [kcm.get_cache_by_uuid(uuid) for uuid in uuids]
    return uuids, kcm.get_default_cache(), [each for name in names for each in kcm.get_cred_list(name)]


@pytest.mark.usefixtures("doctor")
def test_round_trip_changes_nothing(pykcmd: Pykcmd) -> None:
    """The user's ccaches, their tickets and the default are the same afterwards."""
    with KcmClient(pykcmd.socket_path) as kcm:
        for name in (b"one", b"two"):
            full = b"%d:%s" % (os.geteuid(), name)
            kcm.initialize(full, ALICE)
            kcm.store(full, credential_bytes())
        kcm.set_default_cache(b"%d:one" % os.geteuid())
        before = everything(kcm)
        assert round_trip.round_trip(environment(pykcmd)).level is Level.OK
        assert everything(kcm) == before


def test_round_trip_is_skipped_at_the_limit(pykcmd: Pykcmd, doctor: Report) -> None:
    """At the limit of ccaches, another one would evict an expired ccache."""
    pykcmd.restart()
    uid = os.geteuid()
    with KcmClient(pykcmd.socket_path) as kcm:
        for name in (b"%d:old" % uid, b"%d:older" % uid, b"%d:oldest" % uid):
            kcm.initialize(name, ALICE)
            # Expired, but not long enough for the reaper.
            now = int(time.time())
            kcm.store(name, credential_bytes(times=(now - 200, now - 200, now - 100, now - 100)))
        before = everything(kcm)
        _, checks = doctor()
        assert checks["round trip"]["outcome"] == "warning"
        assert "not tried" in checks["round trip"]["text"]
        assert everything(kcm) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="the option is about root")
def test_round_trip_is_skipped_if_root_lists_all(pykcmd: Pykcmd, doctor: Report) -> None:
    """With root_lists_all, root's own ccaches cannot be counted."""
    pykcmd.configure(pykcmd.config_path.read_text() + "root_lists_all = true\n")
    pykcmd.restart()
    _, checks = doctor()
    assert checks["round trip"]["outcome"] == "skipped"


@pytest.mark.usefixtures("doctor")
def test_round_trip_compares_the_credential(pykcmd: Pykcmd, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the server returns another credential the check fails, and the ccache is destroyed."""
    read = KcmClient.get_cred_list
    monkeypatch.setattr(KcmClient, "get_cred_list", lambda kcm, name: [each[:-1] for each in read(kcm, name)])
    assert round_trip.round_trip(environment(pykcmd)).level is Level.FAILED
    with KcmClient(pykcmd.socket_path) as kcm:
        assert kcm.get_cache_uuid_list() == []


@pytest.mark.usefixtures("several_uids", "doctor")
def test_refused_request_fails_with_code(pykcmd: Pykcmd) -> None:
    pykcmd.configure("max_ccaches = 1\n")
    pykcmd.restart()
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        kcm.initialize(b"%d" % USER, ALICE)
        kcm.store(b"%d" % USER, credential_bytes())
    result = round_trip.round_trip(environment(pykcmd))
    assert result.level is Level.FAILED
    assert "EDQUOT" in result.text


@pytest.mark.usefixtures("doctor")
def test_silent_server_has_a_timeout(pykcmd: Pykcmd, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts connections but does not answer does not block the doctor."""
    pykcmd.stop()
    monkeypatch.setattr(round_trip, "_REQUEST_TIMEOUT", 0.1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(pykcmd.socket_path))
        silent.listen()
        assert round_trip.round_trip(environment(pykcmd)).level is Level.FAILED
        assert round_trip.answer_time(environment(pykcmd)).level is Level.SKIPPED


@pytest.mark.usefixtures("doctor")
def test_answer_time_is_reported(pykcmd: Pykcmd) -> None:
    """The first and the fastest answer are reported; only the latter decides."""
    assert round_trip.answer_time(environment(pykcmd)).text.startswith("the first answer took ")
    assert round_trip.time_result(2.0, 0.001).level is Level.OK
    assert round_trip.time_result(0.06, 0.06).level is Level.WARNING
