"""The exchange with a real KDC, in worker processes: the renewed TGT, and the reasons for failures."""

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pykcm.protocol.ccache_file import parse_ccache_file
from pykcm.protocol.credential import Credential, parse_credential
from pykcm.renew.failures import RenewalError
from pykcm.renew.pool import Pool
from pykcm.renew.workers import Spawner, load_libkrb5
from tests.e2e.kdc import REALM, SYSTEM_PATH, Kdc, find_libfaketime
from tests.ports import free_port

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

# In seconds.
LONG = 60.0


@contextmanager
def renewing(krb5_conf: str, folder: Path, timeout: float = LONG) -> Iterator[Callable[..., bytes]]:
    """A function that renews a TGT, with this krb5.conf."""
    path = folder / "worker.conf"
    path.write_text(krb5_conf)

    def load() -> Callable[[bytes, int], bytes]:
        os.environ["KRB5_CONFIG"] = str(path)
        return load_libkrb5()

    with closing(Spawner(timeout + LONG, load)) as spawner:

        def renew(credential: bytes, kdc_offset: int = 0) -> bytes:
            async def attempt() -> bytes:
                with closing(Pool(spawner, timeout, 1)) as pool:
                    return await pool.renew(credential, kdc_offset)

            return asyncio.run(attempt())

        yield renew


def tgt_of(kdc: Kdc, folder: Path, *options: str, conf: str | None = None) -> bytes:
    """A new TGT of alice, in ccache file format 4."""
    krb5_conf = folder / "client.conf"
    krb5_conf.write_text(conf or kdc.krb5_conf())
    ccache = folder / "ccache"
    kinit = ["kinit", *options, "-c", f"FILE:{ccache}", "-k", "-t", str(kdc.keytab), "alice"]
    environment = {"PATH": SYSTEM_PATH, "KRB5_CONFIG": str(krb5_conf)}
    subprocess.run(kinit, check=True, env=environment)
    return tickets_of(ccache)[0].blob


def tickets_of(ccache: Path) -> list[Credential]:
    credentials = map(parse_credential, parse_ccache_file(ccache.read_bytes()).credentials)
    return [each for each in credentials if each.server.realm != b"X-CACHECONF:"]


def failure(renew: Callable[..., bytes], *arguments: object) -> RenewalError:
    with pytest.raises(RenewalError) as raised:
        renew(*arguments)
    return raised.value


def test_tgt_is_renewed(each_kdc: Kdc, tmp_path: Path) -> None:
    """The renewed TGT is of the same client and server, valid for longer, and renewable once more."""
    with renewing(each_kdc.krb5_conf(), tmp_path) as renew:
        old = parse_credential(tgt_of(each_kdc, tmp_path, "-l", "10m", "-r", "1h"))
        while time.time() < old.issued + 1:
            time.sleep(0.01)
        new = parse_credential(renew(old.blob))
        assert (new.client, new.server) == (old.client, old.server)
        assert (new.endtime > old.endtime, new.times.renew_till) == (True, old.times.renew_till)
        assert parse_credential(renew(new.blob)).server == old.server


def test_ticket_that_is_not_renewable_is_refused(each_kdc: Kdc, tmp_path: Path) -> None:
    """The KDC's refusal is final."""
    with renewing(each_kdc.krb5_conf(), tmp_path) as renew:
        error = failure(renew, tgt_of(each_kdc, tmp_path, "-l", "10m"))
    assert (error.reason, error.again, error.code) == ("not-renewable", False, -1765328371)
    assert error.message.startswith("KDC can't fulfill requested option")


def test_no_kdc_answers(tmp_path: Path) -> None:
    """A KDC that does not run can be tried again."""
    with Kdc() as kdc:
        tgt = tgt_of(kdc, tmp_path, "-r", "1d")
        with renewing(kdc.krb5_conf(), tmp_path) as renew:
            kdc.stop()
            error = failure(renew, tgt)
            assert (error.reason, error.again) == ("unreachable", True)
            assert error.message == f"Cannot contact any KDC for realm '{REALM}'"
            kdc.start()
            assert renew(tgt)


def test_unknown_realm_is_unreachable(kdc: Kdc, tmp_path: Path) -> None:
    """Without a KDC in krb5.conf and in the DNS, the next attempt reads krb5.conf again."""
    tgt = tgt_of(kdc, tmp_path, "-r", "1d")
    with renewing("[libdefaults]\ndns_lookup_kdc = false\n", tmp_path) as renew:
        error = failure(renew, tgt)
        assert (error.reason, error.again) == ("unreachable", True)
        assert REALM in error.message
        (tmp_path / "worker.conf").write_text(kdc.krb5_conf())
        assert renew(tgt)


def test_silent_kdc_ends_at_the_timeout(kdc: Kdc, tmp_path: Path) -> None:
    """A KDC that takes requests and never answers costs no more than the timeout."""
    tgt = tgt_of(kdc, tmp_path, "-r", "1d")
    port = free_port()
    with (
        socket.create_server(("127.0.0.1", port)),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind(("127.0.0.1", port))
        with renewing(kdc.krb5_conf(port=port), tmp_path, timeout=0.5) as renew:
            error = failure(renew, tgt)
    assert (error.reason, error.again) == ("timeout", True)


@pytest.mark.skipif(find_libfaketime() is None, reason="libfaketime is missing")
def test_clock_of_the_kdc(tmp_path: Path) -> None:
    """With the ccache's KDC offset a TGT is renewed; without it the clocks differ too much."""
    with Kdc(clock_offset=3600) as kdc:
        tgt = tgt_of(kdc, tmp_path, "-l", "2h", "-r", "1d")
        with renewing(kdc.krb5_conf(), tmp_path) as renew:
            error = failure(renew, tgt)
            assert (error.reason, error.again) == ("clock", True)
            assert error.message.startswith("Clock skew too great")
            assert renew(tgt, 3600)


@pytest.mark.parametrize(
    ("lock", "unlock", "reason", "words"),
    [
        ("--expiration-time=2000-01-01", "--expiration-time=never", "locked", "Client's entry in database"),
        ("--attributes=+disallow-all-tix", "--attributes=-disallow-all-tix", "kdc", "KDC policy rejects"),
    ],
    ids=["expired", "no tickets"],
)
def test_locked_principal(
    tmp_path: Path, heimdal_kdc: Kdc, lock: str, unlock: str, reason: str, words: str
) -> None:
    """The TGT of a principal that has expired or is locked can be renewed when it is valid again."""
    with renewing(heimdal_kdc.krb5_conf(), tmp_path) as renew:
        tgt = tgt_of(heimdal_kdc, tmp_path, "-r", "1d")
        heimdal_kdc.admin(f"modify {lock} alice")
        try:
            error = failure(renew, tgt)
        finally:
            heimdal_kdc.admin(f"modify {unlock} alice")
        assert (error.reason, error.again, error.message[: len(words)]) == (reason, True, words)
        assert renew(tgt)


def test_end_of_the_renewable_life(tmp_path: Path) -> None:
    """After renew-until the KDC's refusal is final."""
    if find_libfaketime() is None:
        pytest.skip("libfaketime is missing")
    with Kdc() as kdc:
        tgt = tgt_of(kdc, tmp_path, "-l", "10s", "-r", "60s")
        kdc.stop()
        kdc.set_clock(3600)
        kdc.start()
        with renewing(kdc.krb5_conf(), tmp_path) as renew:
            error = failure(renew, tgt, 3600)
    assert (error.reason, error.again) == ("expired", False)


def test_foreign_ticket_is_not_sent(kdc: Kdc, tmp_path: Path) -> None:
    """libkrb5 would ask the wrong KDC to renew a TGT that another realm has issued."""
    tgt = parse_credential(tgt_of(kdc, tmp_path, "-r", "1d"))
    at = tgt.blob.index(REALM.encode(), tgt.blob.index(b"krbtgt") - 30)
    other = tgt.blob[:at] + b"OTHER.TEST" + tgt.blob[at + len(REALM) :]
    assert parse_credential(other).server.realm == b"OTHER.TEST"
    with renewing(kdc.krb5_conf(), tmp_path) as renew:
        error = failure(renew, other)
    assert (error.reason, error.again) == ("not-renewable", False)


def test_cross_realm_tgt_is_renewed(kdc: Kdc, tmp_path: Path) -> None:
    """The KDC that has issued a cross-realm TGT renews it."""
    service = f"krbtgt/OTHER.TEST@{REALM}"
    kdc.admin(f"addprinc -randkey -maxrenewlife 7d {service}")
    tgt_of(kdc, tmp_path, "-r", "1d")
    environment = {"PATH": SYSTEM_PATH, "KRB5_CONFIG": str(tmp_path / "client.conf")}
    subprocess.run(
        ["kvno", "-c", f"FILE:{tmp_path / 'ccache'}", service],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    (cross,) = (each for each in tickets_of(tmp_path / "ccache") if b"OTHER.TEST" in each.server.components)
    with renewing(kdc.krb5_conf(), tmp_path) as renew:
        new = parse_credential(renew(cross.blob))
    assert (new.client, new.server) == (cross.client, cross.server)


@pytest.mark.parametrize("length", [0, 1, 50, -1])
def test_damaged_credential_is_refused(kdc: Kdc, tmp_path: Path, length: int) -> None:
    """A credential that libkrb5 cannot read fails alone, and for good."""
    tgt = tgt_of(kdc, tmp_path, "-r", "1d")
    with renewing(kdc.krb5_conf(), tmp_path) as renew:
        error = failure(renew, tgt[:length])
        assert (error.reason, error.again) == ("not-renewable", False)
        assert renew(tgt)


ANSWERS = {
    "no Kerberos": b"nonsense",
    # The tag and the length of a TGS-REP, and nothing else.
    "truncated": bytes.fromhex("6d8202003082"),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_answer_that_cannot_be_read(kdc: Kdc, tmp_path: Path, answer: bytes) -> None:
    """A KDC that answers with nonsense fails the attempt, and the reason is the KDC."""
    tgt = tgt_of(kdc, tmp_path, "-r", "1d")
    with (
        answering_with(answer) as port,
        renewing(kdc.krb5_conf("udp_preference_limit = 1", port=port), tmp_path) as renew,
    ):
        error = failure(renew, tgt)
    assert (error.reason, error.again) == ("kdc", True)


@pytest.mark.parametrize(
    ("code", "reason", "again", "words"),
    [
        (18, "locked", True, "Client's credentials have been revoked"),
        (20, "revoked", False, "TGT has been revoked"),
        (23, "locked", True, "Password has expired"),
        (29, "unreachable", True, "A service is not available that is required to process the request"),
        (32, "expired", False, "Ticket expired"),
        (60, "kdc", True, "Generic error (see e-text)"),
    ],
)
def test_error_of_a_kdc(kdc: Kdc, tmp_path: Path, code: int, reason: str, again: bool, words: str) -> None:
    """Each error that a KDC sends has its reason, and libkrb5's words for it."""
    tgt = tgt_of(kdc, tmp_path, "-r", "1d")
    with (
        answering_with(krb_error(code)) as port,
        renewing(kdc.krb5_conf("udp_preference_limit = 1", port=port), tmp_path) as renew,
    ):
        error = failure(renew, tgt)
    assert (error.reason, error.again, error.message) == (reason, again, words)


def krb_error(code: int) -> bytes:
    """A KRB-ERROR of RFC 4120 with this code."""
    service = der(0xA0, der(0x02, b"\2")) + der(
        0xA1, der(0x30, der(0x1B, b"krbtgt") + der(0x1B, REALM.encode()))
    )
    fields = {
        0: der(0x02, b"\5"),
        1: der(0x02, b"\x1e"),
        4: der(0x18, time.strftime("%Y%m%d%H%M%SZ", time.gmtime()).encode()),
        5: der(0x02, b"\0"),
        6: der(0x02, bytes([code])),
        9: der(0x1B, REALM.encode()),
        10: der(0x30, service),
    }
    return der(0x7E, der(0x30, b"".join(der(0xA0 + number, each) for number, each in fields.items())))


def der(tag: int, value: bytes) -> bytes:
    assert len(value) < 128
    return bytes([tag, len(value)]) + value


def test_mits_kdc_renews_tgts_of_locked_principals(tmp_path: Path) -> None:
    """MIT's KDC looks at the TGT alone: one of a locked principal is renewed."""
    with Kdc() as kdc, renewing(kdc.krb5_conf(), tmp_path) as renew:
        tgt = tgt_of(kdc, tmp_path, "-r", "1d")
        kdc.admin("modprinc -allow_tix alice", "modprinc -expire yesterday alice")
        assert renew(tgt)
        kdc.admin(f"cpw -randkey krbtgt/{REALM}")
        error = failure(renew, tgt)
    assert (error.reason, error.again) == ("kdc", True)


@contextmanager
def answering_with(answer: bytes) -> Iterator[int]:
    """The port of a KDC that gives this answer to each request, over TCP."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(len(answer).to_bytes(4, "big") + answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            # This ends the call in the thread.
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
