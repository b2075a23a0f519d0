"""The daemon's own configuration."""

import os
import stat

from pykcm.cli.doctor.outcomes import Check, Outcome, failed, ok, skipped, warning
from pykcm.cli.doctor.systemd import KCM_SOCKET
from pykcm.cli.doctor.where import Where
from pykcm.cli.output import quoted
from pykcm.config import Config, ConfigError


def configuration(where: Where) -> Outcome:
    """Everything in it is right, and the service's user may read it."""
    try:
        files = where.config_files
        config = where.config
    except ConfigError as error:
        if isinstance(error.__cause__, PermissionError) and where.uid != 0:
            return skipped(f"needs root: {error}")
        return failed(
            f"{error}: the daemon does not start with it",
            f"${{EDITOR:-vi}} {quoted(str(error).partition(':')[0])}",
            "systemctl restart pykcm.service",
        )
    if where.service_uid is not None:
        unreadable = [str(file) for file in files if not _readable(where, file.stat())]
        if unreadable:
            return failed(
                f"the service's user may not read {', '.join(unreadable)}",
                f"chmod o+r {' '.join(map(quoted, unreadable))}",
            )
    unused = _unused_path(where, config)
    if unused is not None:
        return unused
    return ok(
        f"read from {', '.join(map(str, files))}" if files else "no file: all options have their defaults"
    )


def _readable(where: Where, status: os.stat_result) -> bool:
    # A file of a group is taken for one that the administrator has given to the service's.
    others = status.st_mode & stat.S_IROTH or (status.st_mode & stat.S_IRGRP and status.st_gid)
    return bool(others) or status.st_uid == where.service_uid


def _unused_path(where: Where, config: Config) -> Outcome | None:
    """Under systemd it is the unit that says where to listen."""
    listen = where.unit(KCM_SOCKET).listen
    if not listen or config.socket_path in (Config().socket_path, *listen):
        return None
    return warning(
        f"socket_path is {config.socket_path}, but systemd listens at {', '.join(listen)}: the unit counts",
        f"mkdir -p /etc/systemd/system/{KCM_SOCKET}.d",
        f"printf '[Socket]\\nListenStream=\\nListenStream=%s\\n' {quoted(config.socket_path)} "
        f">/etc/systemd/system/{KCM_SOCKET}.d/path.conf",
        "systemctl daemon-reload",
        f"systemctl restart {KCM_SOCKET}",
    )


CHECKS = (Check("configuration", configuration),)
