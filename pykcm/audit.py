"""pykcm-audit: hands what the SELinux policy said of the daemon's clients to the kernel's audit log.

To write there takes the capability CAP_AUDIT_WRITE. So that the daemon, which has the secrets, needs none,
this program has that one and nothing else: systemd starts it when the daemon has sent something, and it ends
when nothing more comes.
"""

import errno
import logging
import os
import re
import socket
import struct
import sys
from collections.abc import Callable

from pykcm.logs import LINE_COUNTS, LimitedLog, set_up_logging
from pykcm.protocol.text import printable
from pykcm.streams import end_output, open_standard_streams

log = logging.getLogger(__name__)

_DROPS = LimitedLog(log, "messages that were dropped", 1)
_FAILURES = LimitedLog(log, "records that the kernel did not take", 1)

# Seconds without a message.
_IDLE = 10.0

# Printable, and without the quote that the kernel puts around it: nothing shall pass for the kernel's words.
_LONGEST = 4096
_MESSAGE = re.compile(rb"avc: [ -&(-~]+")

# Of linux/audit.h and linux/netlink.h.
_NETLINK_AUDIT = 9
_AUDIT_USER_AVC = 1107
_NLM_F_REQUEST_ACK = 0x1 | 0x4
_NLMSG_ERROR = 2

# A message's header: its length with the header, type, flags, sequence number, port.
_HEADER = struct.Struct("=IHHII")
_ACKNOWLEDGEMENT = struct.Struct("=IHHIIi")  # an error message's header, and 0 or -errno

# Seconds. The kernel acknowledges before the call that sends returns, unless something is wrong.
_PATIENCE = 5.0

# The first descriptor that systemd hands over.
_FIRST_FD = 3

EXIT_UNUSABLE = 1
EXIT_USAGE = 2

_HELP = """\
Usage: pykcm-audit [-h | --help]

Writes SELinux denials, which the daemon pykcmd sends it, to the kernel's audit log.

systemd starts it through pykcm-audit.socket; it ends when nothing has come for 10 s.
"""


def main() -> int:
    """Run pykcm-audit; returns its exit status."""
    open_standard_streams()
    if len(sys.argv) > 1:
        return _explain(sys.argv[1:])
    set_up_logging("pykcm-audit")
    program = os.path.abspath(sys.argv[0])  # noqa: PTH100 - pathlib would take as long as all the rest
    try:
        with _activated_socket() as imported:
            imported.settimeout(_IDLE)
            relay(imported, lambda message: write_record(message, program))
    except OSError as error:
        log.critical("cannot take messages of the SELinux policy: %s", error.strerror or error)
        return EXIT_UNUSABLE
    return 0


def _explain(arguments: list[str]) -> int:
    """Print the help; returns the exit status. Importing argparse would double the start-up time."""
    if arguments[0] in {"-h", "--help"}:
        sys.stdout.write(_HELP)
        return 0 if end_output("pykcm-audit") else EXIT_UNUSABLE
    sys.stderr.write(f"pykcm-audit: it takes no arguments: {printable(' '.join(arguments))}\n")
    return EXIT_USAGE


def _activated_socket() -> socket.socket:
    """The socket that systemd hands over; raises OSError."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        raise OSError(errno.EINVAL, "systemd starts this program, by pykcm-audit.socket")
    imported = socket.socket(fileno=_FIRST_FD)
    if (imported.family, imported.type) != (socket.AF_UNIX, socket.SOCK_DGRAM):
        raise OSError(errno.EINVAL, f"descriptor {_FIRST_FD} is not a Unix datagram socket")
    return imported


def relay(imported: socket.socket, write: Callable[[bytes], None]) -> None:
    """Write each message that comes until none has come for the socket's timeout.

    What is no message of the policy is dropped. `write` may raise OSError.
    """
    while True:
        try:
            # One byte more than may come, to see what is longer.
            message = imported.recv(_LONGEST + 1)
        except TimeoutError:
            LINE_COUNTS.summarize()
            return
        if len(message) > _LONGEST or not _MESSAGE.fullmatch(message):
            _DROPS.write(logging.WARNING, None, "dropped: what came is no message of the SELinux policy")
            continue
        try:
            write(message)
        except OSError as error:
            _FAILURES.write(
                logging.ERROR,
                None,
                "the kernel takes no record, and a message of the SELinux policy is lost: %s",
                error.strerror or error,
            )


def write_record(message: bytes, program: str) -> None:
    """One USER_AVC record in the kernel's audit log, as libaudit words it; raises OSError."""
    text = b'%s exe="%s" hostname=? addr=? terminal=?\0' % (message, os.fsencode(program))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_AUDIT) as kernel:
        kernel.settimeout(_PATIENCE)
        kernel.bind((0, 0))
        header = _HEADER.pack(_HEADER.size + len(text), _AUDIT_USER_AVC, _NLM_F_REQUEST_ACK, 1, 0)
        kernel.sendto(header + text, (0, 0))
        reply, (sender, _) = kernel.recvfrom(_ACKNOWLEDGEMENT.size)
    if sender != 0 or len(reply) < _ACKNOWLEDGEMENT.size:
        raise OSError(errno.EPROTO, "the answer is no acknowledgement")
    _, kind, _, _, _, code = _ACKNOWLEDGEMENT.unpack(reply)
    if kind != _NLMSG_ERROR:
        raise OSError(errno.EPROTO, "the answer is no acknowledgement")
    if code:
        raise OSError(-code, os.strerror(-code))


if __name__ == "__main__":
    sys.exit(main())
