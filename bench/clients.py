"""The times of real Kerberos programs, with each kind of ccache."""

import contextlib
import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import peers
from bench.paths import CACHE, SOURCES
from bench.processes import PATH, BenchError, environment, finish, output_of, say, wall_time
from bench.report import markdown_table, paragraph
from bench.rounds import Effort
from bench.servers import Pykcm
from tests.e2e.kdc import REALM, Kdc, missing_programs

_CONTEXTS = 200
_DOMAIN = "pykcm.test"
_GSSAPI = CACHE / "python"

_PYKCM, _FILE = "pykcm", "FILE:"

# The tasks, and the most time that each may take with pykcm, as a ratio to FILE:.
_KLIST, _KVNO, _GSSAPI_CONTEXTS = "klist", "kvno, ticket cached", f"{_CONTEXTS} GSSAPI contexts"
_GOALS = {_KLIST: 1.15, _KVNO: 1.2, _GSSAPI_CONTEXTS: 0.6}

# In each round: these programs take only milliseconds.
_RUNS_IN_A_ROUND = 20
_QUICK_RUNS = 3


@dataclass(frozen=True, slots=True)
class _CCache:
    """A kind of ccache; `name` is the value of KRB5CCNAME."""

    title: str
    name: str
    socket_path: Path
    krb5_conf: Path

    def environment(self, **more: str) -> dict[str, str]:
        return environment(KRB5CCNAME=self.name, KRB5_CONFIG=str(self.krb5_conf), **more)


class _ServicesKdc(Kdc):
    """A KDC that can have many services."""

    def add_services(self, services: list[str]) -> None:
        queries = "".join(f"addprinc -randkey {service}\n" for service in services)
        self._run(["kadmin.local", "-r", REALM, "-p", f"admin@{REALM}"], queries)


def install_gssapi() -> None:
    """Build python-gssapi for this interpreter, and install it into the cache."""
    say("building python-gssapi")
    unfinished = _GSSAPI.with_name("python.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    try:
        # With the user's environment, which may configure pip.
        output_of([*pip, "--target", unfinished, "gssapi"], env=os.environ)
    except BenchError as error:
        raise BenchError(
            f"python-gssapi cannot be built; check that gcc and libkrb5-dev are installed\n{error}"
        ) from error
    shutil.rmtree(_GSSAPI, ignore_errors=True)
    unfinished.rename(_GSSAPI)


def measure_clients(folder: Path, effort: Effort) -> str:
    """Measure, and return the table and the reasons for missing figures."""
    missing = missing_programs() + [p for p in ("kinit", "klist", "kvno") if not shutil.which(p, path=PATH)]
    if missing:
        packages = "krb5-kdc, krb5-admin-server, krb5-user"
        raise BenchError(f"clients was not measured: {', '.join(missing)} missing (Debian: {packages})")
    services = [f"host/s{i}.{_DOMAIN}" for i in range(_CONTEXTS)]
    notes: list[str] = []
    with contextlib.ExitStack() as at_end:
        try:
            kdc = at_end.enter_context(_ServicesKdc())
            kdc.add_services(services)
        except RuntimeError as error:
            raise BenchError(f"clients was not measured: {error}") from error
        ccaches = list(_ccaches(folder, kdc, effort, notes, at_end))
        kinit = ["kinit", "-k", "-t", str(kdc.keytab), "alice"]
        for ccache in ccaches:
            at_end.callback(finish, ["kdestroy", "-q"], env=ccache.environment())

        kvno = ["kvno", "-q"]
        ready = [ccache for ccache in ccaches if _works(ccache, kinit, notes)]
        ready = [ccache for ccache in ready if _works(ccache, [*kvno, services[0]], notes)]
        seconds = _measure(ready, _programs(services[0], effort), effort)
        if _GSSAPI.exists():
            ready = [ccache for ccache in ready if _works(ccache, [*kvno, *services], notes)]
            seconds |= _measure(ready, {_GSSAPI_CONTEXTS: _contexts}, effort)
        else:
            notes.append(
                "GSSAPI contexts were not measured: python-gssapi is missing; "
                "`scripts/bench --install` gets it."
            )
    notes.append(
        "The times of programs are from their start to their end, with a TGT and one ticket. The contexts "
        f"are made in one process with {_CONTEXTS} tickets; its start is not timed. No program asks the KDC. "
        f"{effort.rounds} rounds."
    )
    return _table(ccaches, seconds) + "\n" + "\n\n".join(map(paragraph, notes)) + "\n"


# By task and ccache: the median of each round.
_Seconds = dict[tuple[str, str], list[float]]


def _table(ccaches: list[_CCache], seconds: _Seconds) -> str:
    lines = []
    for task in dict.fromkeys(task for task, _ in seconds):
        values = [seconds.get((task, ccache.title)) for ccache in ccaches]
        times = [f"{median(rounds) * 1e3:,.2f} ms" if rounds else "-" for rounds in values]
        lines.append([task, *times, *_verdict(seconds, task)])
    header = ["wall time", *(ccache.title for ccache in ccaches), "ratio to FILE:", "goal", "met"]
    return markdown_table(header, lines)


def _verdict(seconds: _Seconds, task: str) -> list[str]:
    """The ratio of pykcm's time to that of FILE:, its goal, and whether it is met."""
    ours, file = seconds.get((task, _PYKCM)), seconds.get((task, _FILE))
    if not ours or not file:
        return ["", "", ""]
    ratio = median(ours) / median(file)
    return [f"{ratio:.2f}", f"at most {_GOALS[task]:g}", "yes" if ratio <= _GOALS[task] else "**no**"]


# The ccaches


def _ccaches(
    folder: Path, kdc: Kdc, effort: Effort, notes: list[str], at_end: contextlib.ExitStack
) -> Iterator[_CCache]:
    def configured(title: str, name: str, socket_path: Path) -> _CCache:
        krb5_conf = folder / f"{title.rstrip(':')}.conf"
        krb5_conf.write_text(kdc.krb5_conf(f"kcm_socket = {socket_path}"))
        return _CCache(title, name, socket_path, krb5_conf)

    pykcm = Pykcm("pykcm", folder / "pykcm")
    at_end.enter_context(pykcm.running())
    yield configured(_PYKCM, "KCM:", pykcm.socket_path)
    yield configured(_FILE, f"FILE:{folder}/ccache", pykcm.socket_path)
    if _join_new_session_keyring():
        yield configured("KEYRING:", "KEYRING:session:pykcm-bench", pykcm.socket_path)
    else:
        notes.append("KEYRING: was not measured: a session keyring cannot be made.")
    reason = "it was left out" if "sssd" in effort.without else peers.obstacle("sssd")
    if reason:
        notes.append(f"sssd-kcm was not measured: {reason}.")
        return
    sssd = peers.make("sssd", folder / "sssd")
    at_end.enter_context(sssd.running())
    yield configured("sssd", "KCM:", sssd.socket_path)


def _join_new_session_keyring() -> bool:
    """Give this process and its children a new session keyring, which ends with them; whether it worked."""
    try:
        return bool(ctypes.CDLL("libkeyutils.so.1").keyctl_join_session_keyring(None) > 0)
    except OSError:
        return False


def _works(ccache: _CCache, command: list[str], notes: list[str]) -> bool:
    """Whether the command succeeds with this ccache; adds its error to `notes`."""
    done = finish(command, env=ccache.environment())
    if done.returncode:
        notes.append(f"{ccache.title}, {' '.join(command[:2])}: {done.stderr.strip().splitlines()[-1]}")
        say(notes[-1])
    return done.returncode == 0


# Tasks that are timed

_Task = Callable[[_CCache], list[float]]


def _programs(service: str, effort: Effort) -> dict[str, _Task]:
    runs = _QUICK_RUNS if effort.is_quick else _RUNS_IN_A_ROUND

    def program(*words: str) -> _Task:
        path = shutil.which(words[0], path=PATH)
        assert path is not None
        return lambda ccache: [wall_time([path, *words[1:]], ccache.environment()) for _ in range(runs)]

    return {_KLIST: program("klist"), _KVNO: program("kvno", service)}


def _contexts(ccache: _CCache) -> list[float]:
    script: list[str | Path] = [sys.executable, SOURCES / "contexts.py", str(_CONTEXTS), _DOMAIN]
    return [float(output_of(script, env=ccache.environment(PYTHONPATH=str(_GSSAPI))))]


def _measure(ccaches: list[_CCache], tasks: dict[str, _Task], effort: Effort) -> _Seconds:
    seconds: _Seconds = {}
    for number in range(effort.rounds):
        say(f"{', '.join(tasks)}: round {number + 1} of {effort.rounds}")
        for title, task in tasks.items():
            for ccache in ccaches:
                seconds.setdefault((title, ccache.title), []).append(median(task(ccache)))
    return seconds
