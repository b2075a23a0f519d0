"""Fixtures of the tests inside the virtual machine (scripts/vm-test), where pykcm is installed: KDC, clients.

Everything is the machine's own: /etc, systemd, the policy. The machine's disk forgets it all at the end.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.kdc import Kdc

from . import machine
from .clients import LabelledClient

if "PYKCM_VM" not in os.environ:
    # They would change the machine that they run on.
    collect_ignore_glob = ["test_*.py"]

_KRB5_CONF = Path("/etc/krb5.conf")


@pytest.fixture(scope="session")
def kdc() -> Iterator[Kdc]:
    """A KDC, named in the machine's krb5.conf."""
    # Outside of the policy's domain for a KDC, which may not use a throw-away folder.
    for program in ("krb5kdc", "kadmin.local", "kdb5_util"):
        shutil.copy(f"/usr/sbin/{program}", "/usr/local/sbin/")
    machine.run("restorecon", "-R", "/usr/local/sbin")
    # The policy lets pykcm-renew connect to the port of Kerberos alone.
    with Kdc(port=88) as kdc:
        _KRB5_CONF.write_text(f"includedir /etc/krb5.conf.d/\n{kdc.krb5_conf()}")
        yield kdc


@pytest.fixture
def pykcm() -> Iterator[None]:
    """The service without stored data: its socket listens, and it does not run."""
    machine.start_afresh()
    yield
    print(machine.journal())  # noqa: T201 - shown by pytest where the test failed


@pytest.fixture
def client_as(kdc: Kdc, pykcm: None, tmp_path: Path) -> Callable[..., LabelledClient]:
    """A function that returns MIT's clients of a UID, at the level of a container or of the machine."""
    trace = tmp_path / "krb5.trace"
    trace.touch()
    trace.chmod(0o666)
    # Others must get there.
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(folder.stat().st_mode | 0o111)

    def client(uid: int, level: str | None = None) -> LabelledClient:
        return LabelledClient(uid, machine.SOCKET, _KRB5_CONF, kdc.keytab, trace, level)

    return client
