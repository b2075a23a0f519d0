"""TGTs for tests of renewal, and ccaches of many users with them."""

import subprocess
import time
from pathlib import Path

from pykcm.client import KcmClient
from pykcm.protocol.ccache_file import parse_ccache_file
from pykcm.protocol.credential import TIMES_AND_FLAGS, Credential, parse_credential
from tests.e2e.daemon import Pykcmd, effective_uid
from tests.e2e.kdc import SYSTEM_PATH, Kdc

# A ticket flag of RFC 4120.
_RENEWABLE = 0x00800000


def tickets_of(ccache: Path) -> list[Credential]:
    """The tickets of a ccache file."""
    credentials = map(parse_credential, parse_ccache_file(ccache.read_bytes()).credentials)
    return [each for each in credentials if each.server.realm != b"X-CACHECONF:"]


def new_tgt(kdc: Kdc, folder: Path, *options: str, user: str = "alice") -> bytes:
    """A TGT from the KDC, in ccache file format 4; `options` of kinit."""
    krb5_conf = folder / "new-tgt.conf"
    krb5_conf.write_text(kdc.krb5_conf())
    ccache = folder / "new-tgt"
    kinit = ["kinit", *options, "-c", f"FILE:{ccache}", "-k", "-t", str(kdc.keytab), user]
    subprocess.run(kinit, check=True, env={"PATH": SYSTEM_PATH, "KRB5_CONFIG": str(krb5_conf)})
    return tickets_of(ccache)[0].blob


def with_times(blob: bytes, begin: float, end: float) -> bytes:
    """The credential with other times beside the ticket, from `begin` to `end` seconds from now."""
    credential = parse_credential(blob)
    times = credential.times
    now = int(time.time())
    changed = times._replace(starttime=now + int(begin), endtime=now + int(end))
    rest = (credential.is_skey, credential.flags)
    old = TIMES_AND_FLAGS.pack(*times, *rest)
    assert blob.count(old) == 1
    return blob.replace(old, TIMES_AND_FLAGS.pack(*changed, *rest))


def as_renewable(blob: bytes) -> bytes:
    """The credential that is due, and has the flag of a renewable one beside its ticket."""
    credential = parse_credential(with_times(blob, -1000, 600))
    times = credential.times
    old = TIMES_AND_FLAGS.pack(*times, credential.is_skey, credential.flags)
    changed = times._replace(renew_till=times.endtime + 3600)
    new = TIMES_AND_FLAGS.pack(*changed, credential.is_skey, credential.flags | _RENEWABLE)
    return credential.blob.replace(old, new)


def store(daemon: Pykcmd, uid: int, name: str, tgt: bytes) -> None:
    """Fill the user's ccache with this TGT, in one operation."""
    with effective_uid(uid), KcmClient(daemon.socket_path) as kcm:
        kcm.replace(name.encode(), 0, parse_credential(tgt).client, [tgt])


def load(daemon: Pykcmd, uid: int, name: str) -> list[Credential]:
    """The credentials of a user's ccache."""
    with effective_uid(uid), KcmClient(daemon.socket_path) as kcm:
        return [parse_credential(blob) for blob in kcm.get_cred_list(name.encode())]
