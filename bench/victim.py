"""The measured user of an attacked daemon: times its requests and prints the times.

    python victim.py SOCKET UID SECONDS [KRB5_CONF]

It is started as root and changes to the UID. It makes requests over an open connection and over new ones,
and runs klist, for SECONDS and until its standard input ends. It prints one JSON object: lists of seconds by
kind of request, and the number of failures by reason. It imports nothing of pykcm, so that it starts fast.
"""

import json
import os
import select
import socket
import struct
import subprocess
import sys
import time

_GET_DEFAULT_CACHE = struct.pack(">IBBH", 4, 2, 0, 20)

# In seconds; a request that takes longer has failed.
_TIMEOUT = 30.0

# Between two requests, in seconds.
_PAUSE = 0.002


def connect(path: str) -> socket.socket:
    """Connect as libkrb5 does: it waits while the queue of connections is full."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.settimeout(_TIMEOUT)
    return sock


def ask(sock: socket.socket) -> None:
    """Send one request and receive its reply."""
    sock.sendall(_GET_DEFAULT_CACHE)
    header = _receive(sock, 8)
    _receive(sock, struct.unpack(">II", header)[0])


def _receive(sock: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = sock.recv(size - len(received))
        if not piece:
            raise ConnectionError("closed by the server")
        received += piece
    return received


def klist(krb5_conf: str) -> None:
    """Run klist; the user has no ccaches."""
    subprocess.run(
        ["/usr/bin/klist", "-l"],
        env={"KRB5_CONFIG": krb5_conf, "KRB5CCNAME": "KCM:", "LC_ALL": "C"},
        capture_output=True,
        check=False,
        timeout=_TIMEOUT,
    )


def has_ended(descriptor: int) -> bool:
    """Whether the other end of a descriptor was closed; nothing is ever sent on it."""
    return bool(select.select([descriptor], [], [], 0)[0])


def main() -> None:
    path, uid, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    krb5_conf = sys.argv[4] if len(sys.argv) > 4 else ""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    waits: dict[str, list[float]] = {"held": [], "new": [], "klist": []}
    failed: dict[str, int] = {}

    def attempt(kind: str, function: object, *arguments: object) -> None:
        begin = time.perf_counter()
        try:
            function(*arguments)  # type: ignore[operator]
            waits[kind].append(time.perf_counter() - begin)
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = f"{kind}: {error}"
            failed[reason] = failed.get(reason, 0) + 1

    def connect_and_ask() -> None:
        with connect(path) as sock:
            ask(sock)

    begin = time.perf_counter()
    held = connect(path)
    ask(held)
    waits["new"].append(time.perf_counter() - begin)
    end = time.monotonic() + seconds
    next_klist = 0.0
    while time.monotonic() < end or not has_ended(sys.stdin.fileno()):
        attempt("held", ask, held)
        attempt("new", connect_and_ask)
        if krb5_conf and time.monotonic() >= next_klist:
            attempt("klist", klist, krb5_conf)
            next_klist = time.monotonic() + seconds / 10
        time.sleep(_PAUSE)
    print(json.dumps({"waits": waits, "failed": failed}))  # noqa: T201


if __name__ == "__main__":
    main()
