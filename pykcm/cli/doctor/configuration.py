"""Checks of the configuration: that of the daemon, and that of SELinux."""

import os
import stat

from pykcm.cli.doctor.environment import SELINUX_MODE, Environment
from pykcm.cli.doctor.results import Check, Result, failed, ok, skipped, warning
from pykcm.cli.doctor.systemd import KCM_SOCKET
from pykcm.cli.output import shell_quote
from pykcm.config import Config, ConfigError
from pykcm.peer.selinux import PolicyUnusableError

# The daemon's context, if pykcm's policy module is installed.
_DAEMON = "system_u:system_r:pykcm_t:s0"


def configuration(environment: Environment) -> Result:
    """Check that the configuration is valid, and that the service's user may read it."""
    try:
        files = environment.config_files
        config = environment.config
    except ConfigError as error:
        if isinstance(error.__cause__, PermissionError) and environment.uid != 0:
            return skipped(f"needs root: {error}")
        file, *_ = str(error).partition(":")
        return failed(
            f"{error}: the daemon refuses to start",
            # A mistake of all files together names none.
            f"${{EDITOR:-vi}} {shell_quote(file if file.startswith('/') else str(files[0]))}",
            environment.restart_command,
        )
    if environment.service_uid is not None:
        unreadable = [str(file) for file in files if not _readable(environment, file.stat())]
        if unreadable:
            return failed(
                f"the service's user may not read {', '.join(unreadable)}",
                f"chmod o+r {' '.join(map(shell_quote, unreadable))}",
            )
    unused = _unused_path(environment, config)
    if unused is not None:
        return unused
    return ok(
        f"read from {', '.join(map(str, files))}" if files else "no file: all options have their defaults"
    )


def _readable(environment: Environment, status: os.stat_result) -> bool:
    # If a group other than root's may read the file, assume that it is the group of the service.
    is_shared = status.st_mode & stat.S_IROTH or (status.st_mode & stat.S_IRGRP and status.st_gid)
    return bool(is_shared) or status.st_uid == environment.service_uid


def _unused_path(environment: Environment, config: Config) -> Result | None:
    """A warning if socket_path is set, but systemd listens somewhere else."""
    listen = environment.unit(KCM_SOCKET).listen
    if not listen or config.socket_path in (Config().socket_path, *listen):
        return None
    return warning(
        f"socket_path is {config.socket_path}, but {KCM_SOCKET} listens at {', '.join(listen)}, which counts",
        f"mkdir -p /etc/systemd/system/{KCM_SOCKET}.d",
        f"printf '[Socket]\\nListenStream=\\nListenStream=%s\\n' {shell_quote(config.socket_path)} "
        f">/etc/systemd/system/{KCM_SOCKET}.d/path.conf",
        "systemctl daemon-reload",
        f"systemctl restart {KCM_SOCKET}",
    )


def selinux(environment: Environment) -> Result:
    """Check libselinux's binding, for the Python that runs this, and pykcm's policy module."""
    if not environment.has_selinux:
        return ok("the kernel has no SELinux: labels are not used")
    if not environment.daemon_is_here:
        return skipped("pykcm is not installed here")
    try:
        policy = environment.load_policy()
    except PolicyUnusableError as error:
        return failed(
            f"{error}: the daemon refuses to start",
            "apt-get install python3-selinux || dnf install python3-libselinux",
        )
    is_enforcing = environment.path(SELINUX_MODE).read_text(encoding="ascii").strip() == "1"
    mode = "enforcing" if is_enforcing else "permissive"
    if not policy.has_context(_DAEMON):
        return warning(
            f"{mode}, and pykcm's policy module is not installed: the daemon is not confined, and confined "
            "users and services may not connect; docs/selinux.md says how to install the module"
        )
    return ok(f"{mode}, with pykcm's policy module, and libselinux can query the policy")


CHECKS = (Check("configuration", configuration),)
SELINUX_CHECKS = (Check("SELinux", selinux),)
