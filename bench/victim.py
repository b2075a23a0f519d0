"""A user who waits: asks over a held connection, over new ones and with klist, and prints how long it took.

    python victim.py SOCKET UID SECONDS [KRB5_CONF]

Starts as root and becomes the user. Measures for SECONDS, and until the standard input ends. Prints one JSON
object: lists of seconds by kind, and what failed. Imports nothing of pykcm, and starts fast.
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

# Longer than anybody may have to wait: then the attempt has failed.
_PATIENCE = 30.0

# Between two attempts, in seconds.
_PAUSE = 0.002


def connect(path: str) -> socket.socket:
    """Connect as clients of libkrb5 do, which wait where the queue is full."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.settimeout(_PATIENCE)
    return sock


def ask(sock: socket.socket) -> None:
    """One request and its reply."""
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
    """List the user's ccaches, of which there are none."""
    subprocess.run(
        ["/usr/bin/klist", "-l"],
        env={"KRB5_CONFIG": krb5_conf, "KRB5CCNAME": "KCM:", "LC_ALL": "C"},
        capture_output=True,
        check=False,
        timeout=_PATIENCE,
    )


def has_ended(descriptor: int) -> bool:
    """Whether a descriptor, on which nothing is sent, was closed at the other end."""
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
            why = f"{kind}: {error}"
            failed[why] = failed.get(why, 0) + 1

    def ask_anew() -> None:
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
        attempt("new", ask_anew)
        if krb5_conf and time.monotonic() >= next_klist:
            attempt("klist", klist, krb5_conf)
            next_klist = time.monotonic() + seconds / 10
        time.sleep(_PAUSE)
    print(json.dumps({"waits": waits, "failed": failed}))  # noqa: T201


if __name__ == "__main__":
    main()
