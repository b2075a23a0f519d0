"""Renewal of many TGTs that are due at the same time: how long it takes, and how much memory."""

import os
import sys
import time
from pathlib import Path

from bench.processes import BenchError, Server, environment
from bench.report import markdown_table, paragraph
from bench.resources import MIB
from bench.rounds import Effort
from bench.servers import Pykcm
from bench.workloads import FIRST_UID
from pykcm.client import KcmClient
from pykcm.protocol.credential import parse_credential
from tests.e2e.daemon import effective_uid
from tests.e2e.kdc import Kdc, missing_programs
from tests.e2e.renewal.tickets import new_tgt, with_times

_CCACHES = 10_000
_FEW = 500
_CCACHES_OF_A_UID = 5

# In seconds: TGTs of this age are due, also with the random tenth of a life that pykcmd adds.
_AGE, _REST = 3600, 1800
# No measurement takes so long.
_LIMIT = 600.0

_ANSWER = "the daemon's answer: "
_TICKS = os.sysconf("SC_CLK_TCK")


class _Daemon(Pykcm):
    """pykcmd with a control socket."""

    def __init__(self, folder: Path) -> None:
        super().__init__("pykcm", folder)
        self.control_path = folder / "control.sock"

    def command(self) -> list[str]:
        return [*super().command(), "--control-socket-path", str(self.control_path)]


class _Renew(Server):
    """pykcm-renew; the daemon hands over TGTs as soon as it runs."""

    def __init__(self, folder: Path, daemon: _Daemon, krb5_conf: Path) -> None:
        folder.mkdir(mode=0o755)
        # It listens nowhere.
        super().__init__("pykcm-renew", folder, folder / "none")
        self._control_path = daemon.control_path
        self._krb5_conf = krb5_conf
        self._configuration = folder / "pykcm.toml"
        self._configuration.write_text("")

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "pykcm.renew.program", "--config", str(self._configuration)),
            *("--control-socket", str(self._control_path), "--log-level", "debug"),
        ]

    def _listens(self) -> bool:
        return "ready: " in self._log_path.read_text(errors="backslashreplace")

    def environment(self) -> dict[str, str]:
        return environment(KRB5_CONFIG=str(self._krb5_conf))

    def answers(self) -> tuple[int, int]:
        """The numbers of renewed TGTs, and of others, whose attempt has ended."""
        log = self._log_path.read_text(errors="backslashreplace")
        renewed = log.count(f"{_ANSWER}renewed")
        return renewed, log.count(_ANSWER) - renewed

    def processes(self) -> list[int]:
        return _descendants(self.pid)

    def unshared_size(self) -> int:
        """The memory of all processes in bytes; memory that they share counts once."""
        return sum(map(_proportional_size, self.processes()))


def measure_renewal(folder: Path, effort: Effort) -> str:
    """Measure and return the table; raises BenchError."""
    if os.geteuid() != 0:
        raise BenchError("renewal was not measured: only root can act as several users; run it as root")
    if missing := missing_programs():
        raise BenchError(f"renewal was not measured: {', '.join(missing)} missing (Debian: krb5-kdc)")
    number = _FEW if effort.is_quick else _CCACHES
    with Kdc() as kdc:
        daemon = _Daemon(folder / "pykcm")
        krb5_conf = folder / "krb5.conf"
        krb5_conf.write_text(kdc.krb5_conf())
        renew = _Renew(folder / "renew", daemon, krb5_conf)
        with daemon.running():
            _store(daemon, new_tgt(kdc, folder, "-l", "10h", "-r", "7d"), number)
            before = daemon.resident_size(), _cpu_time([daemon.pid]), _cpu_time([kdc.pid])
            with renew.running():
                figures = _wait(renew, number)
                size, cpu_time = daemon.resident_size(), _cpu_time([daemon.pid])
                kdc_time = _cpu_time([kdc.pid])
        lines = [
            ["all renewed", f"{figures['seconds']:.1f} s"],
            ["renewals a second", f"{number / figures['seconds']:,.0f}"],
            ["memory of pykcm-renew and its workers, at most", f"{figures['size'] / MIB:.1f} MiB"],
            ["its processes, at most", f"{figures['processes']:.0f}"],
            ["its CPU time for each renewal", f"{figures['cpu'] / number * 1000:.2f} ms"],
            ["memory that pykcmd takes in addition", f"{(size - before[0]) / MIB:.1f} MiB"],
            ["CPU time of pykcmd for each renewal", f"{(cpu_time - before[1]) / number * 1000:.2f} ms"],
            ["CPU time of the KDC for each renewal", f"{(kdc_time - before[2]) / number * 1000:.2f} ms"],
        ]
    about = (
        f"{number:,} ccaches of {number // _CCACHES_OF_A_UID:,} users, whose TGTs are due when pykcm-renew "
        "starts, and MIT's KDC on the same machine. At most 16 renewals at a time (`max_realm_renewals`). "
        f"The KDC shares the machine's {os.cpu_count()} cores with the others. It stands for a fake one, "
        "which would need the keys and the encryption of a real one as well; its CPU time is shown."
    )
    return f"{markdown_table(['renewal', 'figure'], lines)}\n{paragraph(about)}\n"


def _store(daemon: _Daemon, tgt: bytes, number: int) -> None:
    due = with_times(tgt, -_AGE, _REST)
    client = parse_credential(due).client
    for uid in range(FIRST_UID, FIRST_UID + number // _CCACHES_OF_A_UID):
        with effective_uid(uid), KcmClient(daemon.socket_path) as kcm:
            for ccache in range(_CCACHES_OF_A_UID):
                kcm.replace(b"%d:%d" % (uid, ccache), 0, client, [due])


def _wait(renew: _Renew, number: int) -> dict[str, float]:
    """Wait until all TGTs are renewed; returns the time, and the largest size of the processes."""
    began = time.monotonic()
    size, processes = 0, 0
    while True:
        size, processes = max(size, renew.unshared_size()), max(processes, len(renew.processes()))
        renewed, others = renew.answers()
        if others:
            raise BenchError(f"{others} TGTs were not renewed")
        if renewed >= number:
            break
        if time.monotonic() > began + _LIMIT:
            raise BenchError(f"only {renewed} TGTs were renewed within {_LIMIT:.0f} s")
        time.sleep(0.2)
    seconds = time.monotonic() - began
    return {"seconds": seconds, "size": size, "processes": processes, "cpu": _cpu_time(renew.processes())}


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(each for child in map(int, children) for each in _descendants(child))]


def _proportional_size(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))


def _cpu_time(pids: list[int]) -> float:
    """The CPU time of these processes in seconds."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum((int(each[11]) + int(each[12])) / _TICKS for each in fields)
