"""Limits on clients: connections, as many as the file descriptors allow, and memory."""

import logging
import resource
import sys

from pykcm.config import Config
from pykcm.control.administration import MOST_CONNECTIONS
from pykcm.protocol.framing import MAX_REPLY_SIZE
from pykcm.server.connections import Limits

log = logging.getLogger(__name__)

_KIB = 1024

# Memory for waiting and incomplete requests, of all UIDs and of one: enough for this number of requests of
# max_request_size, and at least this number of bytes.
_LARGE_REQUESTS = 4
_LEAST_FOR_REQUESTS = 40 * 1024 * 1024
_LARGE_REQUESTS_OF_UID = 3
_LEAST_FOR_REQUESTS_OF_UID = 8 * 1024 * 1024

# Memory for unread replies, of all UIDs and of one: enough for this number of replies of the maximum size.
_LARGE_REPLIES = 4
_LARGE_REPLIES_OF_UID = 2

# Connections that root may have in addition to max_connections.
_FOR_ROOT = 16

# Descriptors that are not available to KCM clients: the database and a copy of it, listening sockets, the
# event loop's descriptors, and those reserved for root and for the control socket.
_OWN_DESCRIPTORS = 40 + _FOR_ROOT + MOST_CONNECTIONS


def allow_many_descriptors() -> None:
    """Raise the limit of open files to the hard limit: each client needs a descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        # ValueError: Python raises it for EPERM, the result of a seccomp filter.
        log.warning(
            "the limit of open files stays at %d, although %d are allowed: %s; set LimitNOFILE=%d:%d",
            *(soft, hard, error, hard, hard),
        )


def limits_of(config: Config) -> Limits:
    """Return the limits on connections and their memory; logs a warning for options above them."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        descriptors = sys.maxsize
    most = max(1, descriptors - _OWN_DESCRIPTORS)
    if config.max_connections > most:
        _warn("max_connections", config.max_connections, most, descriptors)
    # A quarter, so that one user cannot take all connections.
    most_of_uid = max(1, most // 4)
    if config.max_uid_connections > most_of_uid:
        _warn("max_uid_connections", config.max_uid_connections, most_of_uid, descriptors)
    request = config.max_request_size * _KIB
    return Limits(
        connections=min(config.max_connections or most, most),
        uid_connections=min(config.max_uid_connections or most_of_uid, most_of_uid),
        for_root=_FOR_ROOT,
        bytes=max(_LARGE_REQUESTS * request, _LEAST_FOR_REQUESTS),
        uid_bytes=max(_LARGE_REQUESTS_OF_UID * request, _LEAST_FOR_REQUESTS_OF_UID),
        unread=_LARGE_REPLIES * MAX_REPLY_SIZE,
        uid_unread=_LARGE_REPLIES_OF_UID * MAX_REPLY_SIZE,
    )


def _warn(option: str, wanted: int, most: int, descriptors: int) -> None:
    log.warning(
        "%s is %d, but descriptors allow only %d: the limit of open files is %d; raise "
        "LimitNOFILE or lower %s",
        *(option, wanted, most, descriptors, option),
    )
