"""pykcm-audit: the relay of SELinux denials from the daemon to the kernel's audit log.

Writing to the audit log needs the capability CAP_AUDIT_WRITE. This program has that capability and nothing
else, so that the daemon, which has the secrets, needs none. systemd starts the program when the daemon has
sent a message. It ends when no more messages come.
"""

if __name__ == "__main__":
    from pykcm.interrupts import end_by_interrupts

    end_by_interrupts()

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
from pykcm.sockets.passed import ListenError, passed_descriptors
from pykcm.streams import end_output, open_standard_streams

log = logging.getLogger(__name__)

_DROPS = LimitedLog(log, "dropped messages", 1)
_FAILURES = LimitedLog(log, "messages that the kernel refused", 1)

# Seconds without a message until the program ends.
_IDLE = 10.0

# Printable, and without the quote that the kernel puts around a message: it cannot look like kernel text.
_LONGEST = 4096
_MESSAGE = re.compile(rb"avc: [ -&(-~]+")

# From linux/audit.h and linux/netlink.h.
_NETLINK_AUDIT = 9
_AUDIT_USER_AVC = 1107
_NLM_F_REQUEST_ACK = 0x1 | 0x4
_NLMSG_ERROR = 2

# A netlink header: the message's length with the header, type, flags, sequence number, port.
_HEADER = struct.Struct("=IHHII")
_ACKNOWLEDGEMENT = struct.Struct("=IHHIIi")  # an error message's header, and 0 or -errno

# In seconds. The kernel acknowledges a message before sendto() returns.
_ACKNOWLEDGEMENT_TIMEOUT = 5.0

EXIT_UNUSABLE = 1
EXIT_USAGE = 2

_HELP = """\
Usage: pykcm-audit [-h | --help]

Writes the SELinux denials that the daemon pykcmd sends to the kernel's audit log.

systemd starts it through pykcm-audit.socket. It ends after 10 s without a message.
"""


def main() -> int:
    """Run pykcm-audit; returns its exit status."""
    open_standard_streams()
    if len(sys.argv) > 1:
        return _explain(sys.argv[1:])
    set_up_logging("pykcm-audit")
    program = os.path.abspath(sys.argv[0])  # noqa: PTH100 - importing pathlib would take as long as all the rest
    try:
        with _passed_socket() as messages:
            messages.settimeout(_IDLE)
            relay(messages, lambda message: write_record(message, program))
    except ListenError as error:
        log.critical("cannot receive messages of the SELinux policy: %s", error)
        return EXIT_UNUSABLE
    except OSError as error:
        log.critical("cannot receive messages of the SELinux policy: %s", error.strerror or error)
        return EXIT_UNUSABLE
    return 0


def _explain(arguments: list[str]) -> int:
    """Print the help or a usage error; returns the exit status. Importing argparse would take too long."""
    if arguments[0] in {"-h", "--help"}:
        sys.stdout.write(_HELP)
        return 0 if end_output("pykcm-audit") else EXIT_UNUSABLE
    sys.stderr.write(f"pykcm-audit: unexpected arguments: {printable(' '.join(arguments))}; see --help\n")
    return EXIT_USAGE


def _passed_socket() -> socket.socket:
    """Return the socket that systemd passed; raises ListenError, OSError."""
    descriptors = passed_descriptors()
    if len(descriptors) != 1:
        raise ListenError(
            f"systemd passed {len(descriptors)} sockets and not one; it starts this program through "
            "pykcm-audit.socket"
        )
    fd, _ = descriptors[0]
    passed = socket.socket(fileno=fd)
    if (passed.family, passed.type) != (socket.AF_UNIX, socket.SOCK_DGRAM):
        raise ListenError(f"descriptor {fd} from LISTEN_FDS is not a Unix datagram socket")
    return passed


def relay(messages: socket.socket, write: Callable[[bytes], None]) -> None:
    """Pass each message to `write`, until none has come for the socket's timeout.

    A datagram that is not a message of the policy is dropped. `write` may raise OSError.
    """
    while True:
        try:
            # One byte more than the longest message, so that a longer one is noticed.
            message = messages.recv(_LONGEST + 1)
        except TimeoutError:
            LINE_COUNTS.summarize()
            return
        if len(message) > _LONGEST or not _MESSAGE.fullmatch(message):
            _DROPS.write(
                logging.WARNING, None, "dropped a datagram that is not a message of the SELinux policy"
            )
            continue
        try:
            write(message)
        except OSError as error:
            _FAILURES.write(
                logging.ERROR,
                None,
                "a message of the SELinux policy is lost, because the kernel refused it: %s",
                error.strerror or error,
            )


def write_record(message: bytes, program: str) -> None:
    """Write one USER_AVC record to the kernel's audit log, in the format of libaudit; raises OSError."""
    text = b'%s exe="%s" hostname=? addr=? terminal=?\0' % (message, os.fsencode(program))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_AUDIT) as kernel:
        kernel.settimeout(_ACKNOWLEDGEMENT_TIMEOUT)
        kernel.bind((0, 0))
        header = _HEADER.pack(_HEADER.size + len(text), _AUDIT_USER_AVC, _NLM_F_REQUEST_ACK, 1, 0)
        kernel.sendto(header + text, (0, 0))
        reply, (sender, _) = kernel.recvfrom(_ACKNOWLEDGEMENT.size)
    if sender != 0 or len(reply) < _ACKNOWLEDGEMENT.size:
        raise OSError(errno.EPROTO, "the kernel's reply is not an acknowledgement")
    _, kind, _, _, _, code = _ACKNOWLEDGEMENT.unpack(reply)
    if kind != _NLMSG_ERROR:
        raise OSError(errno.EPROTO, "the kernel's reply is not an acknowledgement")
    if code:
        raise OSError(-code, os.strerror(-code))


if __name__ == "__main__":
    sys.exit(main())
