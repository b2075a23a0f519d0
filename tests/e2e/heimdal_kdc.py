"""A temporary Heimdal KDC with the realm, users and services of kdc.py; MIT's clients use it."""

import socket
import subprocess
import sys
from pathlib import Path

from .kdc import PASSWORDS, REALM, SERVICES, SYSTEM_PATH, Kdc
from .waiting import wait_until

_HEIMDAL = Path(sys.prefix, "heimdal", "usr")
_KADMIN = _HEIMDAL / "bin/kadmin.heimdal"
_KDC = _HEIMDAL / "lib/heimdal-servers/kdc"

_CONF = """\
[kdc]
    database = {{
        realm = {realm}
        dbname = {folder}/principals
        mkey_file = {folder}/mkey
        acl_file = {folder}/acl
        log_file = {folder}/log
    }}

[kadmin]
    default_keys = aes256-cts-hmac-sha1-96:pw-salt

[logging]
    kdc = 0-/FILE:{folder}/kdc.log
    default = 0-/FILE:{folder}/kdc.log
"""


class HeimdalKdc(Kdc):
    """The running KDC; `folder` and `keytab` as of MIT's KDC. All keys are random."""

    def _create(self) -> None:
        (self.folder / "krb5.conf").write_text(self.krb5_conf())
        self._conf.write_text(self.krb5_conf() + _CONF.format(folder=self.folder, realm=REALM))
        principals = (*PASSWORDS, *SERVICES)
        output = self.admin(
            f"init --realm-max-ticket-life=1d --realm-max-renewable-life=14d {REALM}",
            *(f"add --use-defaults --random-key {principal}" for principal in principals),
            *(f"ext_keytab --keytab={self.keytab} {principal}" for principal in principals),
        )
        if not self.keytab.exists():
            raise RuntimeError(f"the KDC's principals could not be made:\n{output}")
        self.keytab.chmod(0o644)

    @property
    def _conf(self) -> Path:
        return self.folder / "kdc.conf"

    def admin(self, *queries: str) -> str:
        command = [str(_KADMIN), "--local", f"--config-file={self._conf}", f"--realm={REALM}"]
        return self._run(command, "\n".join(queries) + "\n")

    def start(self) -> None:
        process = subprocess.Popen(
            [str(_KDC), f"--config-file={self._conf}", "--addresses=127.0.0.1", f"--ports={self.port}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            env={"PATH": SYSTEM_PATH, "LC_ALL": "C", "KRB5_CONFIG": str(self._conf)},
        )
        self._process = process
        wait_until(lambda: process.poll() is not None or self._listens())
        if process.poll() is not None:
            raise RuntimeError(f"Heimdal's KDC ended with exit code {process.returncode}")

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0


def why_no_heimdal_kdc() -> str | None:
    """Why Heimdal's KDC cannot run here; None if it can."""
    missing = [str(path) for path in (_KADMIN, _KDC) if not path.exists()]
    return f"{' and '.join(missing)} missing" if missing else None
