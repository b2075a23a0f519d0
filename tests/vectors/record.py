"""Records the stock of wire vectors: what real clients say to pykcmd, and what it answers.

    .venv/bin/python -m tests.vectors.record [FOLDER]

Starts a throw-away KDC, for each client a daemon with an empty memory store, and between the two a proxy
that writes down every exchange. Then each command of `SESSIONS` is run, and what it said becomes one
file in FOLDER (default: beside this file), in place of those of an earlier recording. To record a new
command, add it to `SESSIONS`; to record another version of a client, run this where it is installed.

Needs root (Heimdal's clients want a mount namespace), MIT's KDC and clients, and Heimdal's clients.
"""

import argparse
import json
import multiprocessing
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from threading import Thread

from pykcm.protocol.opcodes import Opcode
from tests.e2e.clients import Client, HeimdalClient, MitClient, why_no_heimdal
from tests.e2e.daemon import Pykcmd
from tests.e2e.kdc import DELEGATE, PASSWORDS, Kdc, missing_programs
from tests.vectors import FOLDER, Exchange, ExchangeSet

# A user of no account.
UID = 20001
OTHER_UID = 20002

REQUEST_HEADER = Struct(">I")  # length
REPLY_HEADER = Struct(">II")  # length, outer status: not counted in the length
BYTES_PER_LINE = 48

# Stands for the path of the keytab that has every key.
KEYTAB = "ALL.KEYTAB"
BY_KEYTAB = ("-k", "-t", KEYTAB)


@dataclass(frozen=True)
class Step:
    """A command to run: `name` is its file's, `code` its exit code, `ccache` its KRB5CCNAME."""

    name: str
    command: tuple[str, ...]
    ccache: str | None = None
    stdin: str = ""
    code: int = 0

    def __str__(self) -> str:
        return (f"KRB5CCNAME={self.ccache} " if self.ccache else "") + " ".join(self.command)


HOST = "host/server.pykcm.test"
WWW = "HTTP/www.pykcm.test"
WORK = f"KCM:{UID}:work"

SESSIONS: dict[str, list[Step]] = {
    "mit": [
        Step("klist-of-nothing", ("klist",), code=1),
        Step("kinit-password", ("kinit", "alice"), stdin=PASSWORDS["alice"] + "\n"),
        Step("kinit-second-principal", ("kinit", "-r", "3d", *BY_KEYTAB, "bob")),
        Step("klist", ("klist", "-C", "-e", "-f")),
        Step("klist-A", ("klist", "-A")),
        Step("klist-l", ("klist", "-l")),
        Step("klist-s", ("klist", "-s")),
        Step("kvno", ("kvno", HOST)),
        Step("kvno-again", ("kvno", HOST)),
        Step("kvno-cached-only", ("kvno", "--cached-only", WWW), code=1),
        Step("kinit-R", ("kinit", "-R")),
        Step("kinit-to-a-named-ccache", ("kinit", *BY_KEYTAB, DELEGATE), ccache=WORK),
        Step("kvno-S4U2Self", ("kvno", "-U", "alice", DELEGATE), ccache=WORK),
        Step("kvno-user-to-user", ("kvno", "--u2u", WORK, DELEGATE)),
        Step("kvno-out-cache", ("kvno", "--out-cache", f"KCM:{UID}:out", WWW)),
        Step("kswitch-p", ("kswitch", "-p", "alice")),
        Step("kswitch-c", ("kswitch", "-c", WORK)),
        Step("klist-of-anothers", ("klist", f"KCM:{OTHER_UID}"), code=1),
        Step("kinit-to-anothers", ("kinit", *BY_KEYTAB, "alice"), ccache=f"KCM:{OTHER_UID}", code=1),
        Step("kinit-to-nobodys", ("kinit", *BY_KEYTAB, "alice"), ccache="KCM:foobar", code=1),
        Step("kdestroy", ("kdestroy",)),
        Step("klist-of-a-missing-default", ("klist",), code=1),
        Step("kdestroy-A", ("kdestroy", "-A")),
    ],
    "heimdal": [
        Step("klist-of-nothing", ("klist",), code=1),
        # An empty name goes out: Heimdal's library asks for the default only where no name is given.
        Step("klist-of-an-empty-name", ("klist", "--cache=KCM:"), code=1),
        Step("kinit", ("kinit", *BY_KEYTAB, "alice")),
        Step("kinit-second-principal", ("kinit", "--renewable", *BY_KEYTAB, "bob")),
        Step("klist", ("klist", "--verbose", "--hidden")),
        Step("klist-test", ("klist", "--test")),
        Step("klist-l", ("klist", "-l")),
        Step("klist-A", ("klist", "-A")),
        Step("kgetcred", ("kgetcred", HOST)),
        Step("kgetcred-again", ("kgetcred", HOST)),
        Step("kgetcred-cached-only", ("kgetcred", "--cached-only", WWW), code=1),
        Step("kdestroy-credential", ("kdestroy", f"--credential={HOST}")),
        Step("kinit-renew", ("kinit", "--renew")),
        Step("kinit-to-a-named-ccache", ("kinit", f"--cache={WORK}", *BY_KEYTAB, "carol")),
        Step("kinit-over-its-ccache", ("kinit", *BY_KEYTAB, "alice")),
        Step("kswitch-p", ("kswitch", "-p", "bob")),
        Step("kswitch-c", ("kswitch", "-t", "KCM", "-c", f"{UID}:work")),
        Step("kinit-to-anothers", ("kinit", f"--cache=KCM:{OTHER_UID}", *BY_KEYTAB, "alice"), code=1),
        Step("kdestroy", ("kdestroy",)),
        Step("klist-of-a-missing-default", ("klist",), code=1),
        Step("kdestroy-A", ("kdestroy", "-A")),
    ],
}


# The proxy


@contextmanager
def recording(upstream: Path, listening: Path, journal: Path) -> Iterator[None]:
    """Relay connections from `listening` to `upstream` and note their exchanges in `journal`.

    In a process of its own, as UID: the daemon takes the proxy's identity for the client's.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(listening))
        listening.chmod(0o666)
        listener.listen()
        process = multiprocessing.get_context("fork").Process(
            target=_relay_all, args=(listener, upstream, journal), daemon=True
        )
        process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _relay_all(listener: socket.socket, upstream: Path, journal: Path) -> None:
    os.setgroups([])
    os.setgid(UID)
    os.setuid(UID)
    while True:
        client, _ = listener.accept()
        Thread(target=_relay, args=(client, upstream, journal), daemon=True).start()


def _relay(client: socket.socket, upstream: Path, journal: Path) -> None:
    with client, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.connect(str(upstream))
        while request := _frame_of(client, REQUEST_HEADER):
            server.sendall(request)
            reply = _frame_of(server, REPLY_HEADER)
            # Before the client has the reply: when the command has ended, all of it has been noted.
            with journal.open("a") as file:
                file.write(json.dumps([request.hex(), reply.hex()]) + "\n")
            client.sendall(reply)


def _frame_of(sock: socket.socket, header: Struct) -> bytes:
    """The next frame, whole; empty at the end of the stream."""
    begin = sock.recv(header.size, socket.MSG_WAITALL)
    if len(begin) < header.size:
        return b""
    length = header.unpack(begin)[0]
    return begin + sock.recv(length, socket.MSG_WAITALL)


# The recording


def record(into: Path) -> None:
    """Run every session and write its exchange sets."""
    with Kdc() as kdc:
        for family, steps in SESSIONS.items():
            for old in into.glob(f"{family}-*.toml"):
                old.unlink()
            for number, recorded in enumerate(_record_session(kdc, family, steps), 1):
                path = into / f"{family}-{number:02}-{recorded.name}.toml"
                path.write_text(as_toml(recorded))
                sys.stdout.write(f"{path}: {len(recorded.exchanges)} exchanges\n")


def _record_session(kdc: Kdc, family: str, steps: list[Step]) -> Iterator[ExchangeSet]:
    with tempfile.TemporaryDirectory(prefix="pykcm-vectors-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        client = _CLIENTS[family](kdc, folder)
        version = _version_of(client)
        daemon = Pykcmd(folder, store="memory")
        journal = folder / "journal"
        journal.touch()
        journal.chmod(0o666)
        try:
            daemon.start()
            with recording(daemon.socket_path, client.socket_path, journal), journal.open() as noted:
                for step in steps:
                    _run(client, step)
                    exchanges = tuple(map(_exchange, noted))
                    if not exchanges:
                        raise RuntimeError(f"{step}: said nothing to the daemon")
                    yield ExchangeSet(step.name, version, str(step), UID, exchanges)
        finally:
            daemon.end()


def _run(client: Client, step: Step) -> None:
    command = [str(client.keytab) if word == KEYTAB else word for word in step.command]
    ran = client.run(*command, ccache=step.ccache, stdin=step.stdin)
    if ran.code != step.code:
        raise RuntimeError(f"{step}: exit code {ran.code}, not {step.code}:\n{ran.output}")


def _exchange(line: str) -> Exchange:
    request, reply = map(bytes.fromhex, json.loads(line))
    return Exchange(Opcode(int.from_bytes(request[6:8], "big")).name, request, reply)


def _client(kind: type[Client]) -> Callable[[Kdc, Path], Client]:
    def make(kdc: Kdc, folder: Path) -> Client:
        proxy, krb5_conf, trace = folder / "proxy.sock", folder / "krb5.conf", folder / "krb5.trace"
        krb5_conf.write_text(
            kdc.krb5_conf(f"kcm_socket = {proxy}", "default_ccache_name = KCM:", "default_cc_type = KCM")
        )
        trace.touch()
        trace.chmod(0o666)
        return kind(UID, proxy, krb5_conf, kdc.keytab, trace)

    return make


_CLIENTS = {"mit": _client(MitClient), "heimdal": _client(HeimdalClient)}


def _version_of(client: Client) -> str:
    if isinstance(client, MitClient):
        return "MIT krb5 " + client.ok("klist", "-V").split()[-1]
    # Its --version exits with 1, and says "kinit (Heimdal 7.8.…)" among other things.
    return client.run("kinit", "--version").output.partition("(")[2].partition(")")[0]


def as_toml(recorded: ExchangeSet) -> str:
    """The exchange set as a file of the stock."""
    lines = [
        f"client = {_quoted(recorded.client)}",
        f"command = {_quoted(recorded.command)}",
        f"uid = {recorded.uid}",
    ]
    for exchange in recorded.exchanges:
        lines += [
            "",
            "[[exchange]]",
            f"opcode = {_quoted(exchange.opcode)}",
            f"request = {_hex(exchange.request)}",
            f"reply = {_hex(exchange.reply)}",
        ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    # JSON's strings are TOML's too.
    return json.dumps(text)


def _hex(data: bytes) -> str:
    if len(data) <= BYTES_PER_LINE:
        return f'"{data.hex()}"'
    return '"""\n' + data.hex("\n", -BYTES_PER_LINE) + '"""'


def main() -> None:
    parser = argparse.ArgumentParser(description="Record the stock of wire vectors from real clients.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help=f"default: {FOLDER}")
    folder = parser.parse_args().folder
    if missing := missing_programs():
        parser.error(f"no KDC here: {', '.join(missing)} missing")
    if reason := why_no_heimdal():
        parser.error(reason)
    record(folder)


if __name__ == "__main__":
    main()
