"""Fixtures: KDCs of both kinds, and pykcm-renew as a process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.daemon import Pykcmd
from tests.e2e.heimdal_kdc import HeimdalKdc, why_no_heimdal_kdc
from tests.e2e.kdc import Kdc
from tests.renew.conftest import room_for_workers

from .program import PykcmRenew
from .slow_kdc import SlowKdc, slow_kdc

__all__ = ["room_for_workers"]

# For tests that hold requests at the KDC's proxy, or delay them: no attempt ends meanwhile.
PATIENT = "krb5_auth_timeout = 60\n"


@pytest.fixture(scope="session", autouse=True)
def krb5_package() -> None:
    """Without the package krb5 there is no renewal."""
    pytest.importorskip("krb5")


@pytest.fixture(scope="session")
def heimdal_kdc() -> Iterator[Kdc]:
    """Heimdal's KDC."""
    reason = why_no_heimdal_kdc()
    if reason:
        pytest.skip(reason)
    with HeimdalKdc() as kdc:
        yield kdc


@pytest.fixture(params=["mit", "heimdal"])
def each_kdc(request: pytest.FixtureRequest) -> Kdc:
    """MIT's KDC, and Heimdal's."""
    kdc: Kdc = request.getfixturevalue("kdc" if request.param == "mit" else "heimdal_kdc")
    return kdc


@pytest.fixture
def proxy(kdc: Kdc) -> Iterator[SlowKdc]:
    """A proxy of MIT's KDC that delays nothing, until a test says so."""
    with slow_kdc(kdc.port, 0) as proxy:
        yield proxy


@pytest.fixture
def renew(pykcmd: Pykcmd, kdc: Kdc, proxy: SlowKdc, folder: Path) -> Iterator[PykcmRenew]:
    """A pykcm-renew that is not yet started, for the running daemon and the proxy of MIT's KDC."""
    with watched_program(PykcmRenew(pykcmd, renewal_conf(kdc, folder, proxy.port))) as program:
        yield program


@contextmanager
def watched_program(program: PykcmRenew) -> Iterator[PykcmRenew]:
    """The program; it is ended, and its log is checked."""
    try:
        yield program
    finally:
        program.end()
        # pytest shows this if the test fails.
        print(f"--- {program.log_path}\n{program.log}")  # noqa: T201
    assert "Traceback" not in program.log


def renewal_conf(kdc: Kdc, folder: Path, port: int | None = None) -> Path:
    """The program's krb5.conf. It uses TCP, as for a proxy."""
    path = folder / "renew.conf"
    path.write_text(kdc.krb5_conf("udp_preference_limit = 1", port=port))
    return path
