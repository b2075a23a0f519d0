"""Checks of the storage: the state folder, the key, and free space."""

import os
import stat
from pathlib import Path

from pykcm.cli.doctor.environment import Environment
from pykcm.cli.doctor.results import Check, Result, failed, ok, skipped, warning
from pykcm.cli.doctor.systemd import SERVICE
from pykcm.cli.maintenance import NEW_KEY
from pykcm.cli.names import format_user
from pykcm.cli.output import shell_quote
from pykcm.config import Config
from pykcm.store.disk import CREDENTIAL, DATABASE, KEY, KEY_SIZE, PENDING_KEY

_MIB = 1024 * 1024

# Bytes and inodes. With less than _NO_SPACE, new tickets are refused soon.
_NO_SPACE = 4 * _MIB
_LITTLE_SPACE = 64 * _MIB
_FEW_INODES = 100


def _config_or_result(environment: Environment) -> Result | Config:
    """The configuration; or the result, if there is no state folder to check."""
    config = environment.config
    if config.store == "memory":
        return skipped('store = "memory" keeps nothing on disk')
    if not environment.path(config.state_dir).exists():
        return skipped(f"{config.state_dir} does not exist: the daemon was never started on this machine")
    return config


def state_folder(environment: Environment) -> Result:
    """Check that only the service's user may use the state folder; otherwise the daemon refuses to start."""
    config = _config_or_result(environment)
    if isinstance(config, Result):
        return config
    name = config.state_dir
    folder = environment.path(name)
    status = folder.stat()
    if not stat.S_ISDIR(status.st_mode):
        return failed(f"{name} is not a folder", f"ls -ld {shell_quote(name)}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        return failed(
            f"{name}: users other than its owner have access (mode {mode:04o}): the daemon refuses to start",
            f"chmod 0700 {shell_quote(name)}",
        )
    owner = environment.service_uid
    if owner is None:
        return ok(f"{name}: only {format_user(status.st_uid)} has access (mode {mode:04o})")
    user = environment.unit(SERVICE).user
    if status.st_uid != owner:
        return failed(
            f"{name} belongs to {format_user(status.st_uid)}, not to {user}: the daemon refuses to start",
            f"chown -R {user}: {shell_quote(name)}",
        )
    foreign = [each.name for each in sorted(folder.iterdir()) if each.lstat().st_uid not in {owner, 0}]
    if foreign:
        return failed(
            f"{name}: {', '.join(foreign)} in it does not belong to {user}",
            f"chown -R {user}: {shell_quote(name)}",
        )
    return ok(f"{name}: only {user} has access (mode {mode:04o})")


def key_source(environment: Environment) -> Result:
    """Check that there is a key, and that other users cannot read it."""
    config = _config_or_result(environment)
    if isinstance(config, Result):
        return config
    name = config.key_file or f"{config.state_dir}/{KEY}"
    file = environment.path(name)
    credential = environment.key_credential
    if credential is not None:
        if not _exists(file):
            return ok(f"the systemd credential {credential}")
        return warning(
            f"there are two keys: {SERVICE} uses the systemd credential {credential}, but the key file "
            f"{name} exists as well; delete it only when neither the database nor a backup needs it",
            # Nothing is deleted: the file may hold the only key of the database or of an older backup.
            f"mv {shell_quote(name)} {shell_quote(f'{name}.unused')}",
            environment.restart_command,
            f"systemctl is-active {SERVICE} || mv {shell_quote(f'{name}.unused')} {shell_quote(name)}",
        )
    if not _exists(file):
        if config.store == "postgresql":
            return failed(
                f"there is no key, neither {name} nor the systemd credential {CREDENTIAL}, and none is made: "
                "give this host the key of the others"
            )
        if _exists(environment.path(config.state_dir) / DATABASE):
            damaged = shell_quote(f"{config.state_dir}/damaged")
            return failed(
                f"there is a database, but no key: neither {name} nor the systemd credential {CREDENTIAL}; "
                "restore the key, or move the database away to start with an empty one",
                f"mkdir -m 0700 {damaged}",
                f"mv {shell_quote(f'{config.state_dir}/{DATABASE}')}* {damaged}/",
            )
        return ok("there is no key yet: the daemon makes one when it first starts")
    return _key_file_result(environment, config, name, file)


def _exists(path: Path) -> bool:
    """Whether the path exists; raises PermissionError if that is unknown, unlike Path.exists()."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _key_file_result(environment: Environment, config: Config, name: str, file: Path) -> Result:
    status = file.stat()
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode) or status.st_size != KEY_SIZE:
        return failed(
            f"{name} is not a key of {KEY_SIZE} bytes: the daemon refuses to start",
            f"ls -l {shell_quote(name)}",
        )
    if mode & 0o077:
        return failed(
            f"{name}: others than its owner can read the key (mode {mode:04o}): the daemon refuses to start",
            f"chmod 0600 {shell_quote(name)}",
        )
    if environment.service_uid is not None and status.st_uid not in {environment.service_uid, 0}:
        user = environment.unit(SERVICE).user
        return failed(
            f"{name} belongs to {format_user(status.st_uid)}, not to {user}: the daemon refuses to start",
            f"chown {user}: {shell_quote(name)}",
        )
    if config.store != "postgresql" and Path(name).parent == Path(config.state_dir):
        return ok(f"the key file {name}, next to the database: a copy of the folder contains both")
    return ok(f"the key file {name}")


def pending_rekey(environment: Environment) -> Result:
    """Check that no rekey waits for the administrator to replace the key."""
    config = _config_or_result(environment)
    if isinstance(config, Result):
        return config
    if config.store == "postgresql":
        return skipped("hosts share the store: see the check of it")
    pending_key = f"{config.state_dir}/{PENDING_KEY}"
    if not _exists(environment.path(pending_key)):
        return ok("no rekey is in progress")
    credential = environment.key_credential
    # If the key file is next to the database, the daemon itself replaces it.
    place = (
        [f"systemd-creds encrypt --name={CREDENTIAL} {NEW_KEY} {credential}"]
        if credential is not None
        else [f"install -m 0600 -o pykcm -g pykcm {NEW_KEY} {shell_quote(config.key_file)}"]
        if config.key_file
        else []
    )
    return warning(
        f"{pending_key} exists: the last rekey has not ended, as the new key has not replaced the old one",
        *place,
        environment.restart_command,
    )


def disk_space(environment: Environment) -> Result:
    """Check that the disk has space for the database to grow."""
    config = _config_or_result(environment)
    if isinstance(config, Result):
        return config
    name = config.state_dir
    return space_result(name, os.statvfs(environment.path(name)))


def space_result(name: str, disk: os.statvfs_result) -> Result:
    """The result for a folder, from its statvfs()."""
    free = disk.f_bavail * disk.f_frsize
    if disk.f_flag & os.ST_RDONLY:
        return failed(
            f"{name}: the file system is read-only", f"findmnt -T {shell_quote(name)}", "dmesg | tail"
        )
    if free < _NO_SPACE:
        return failed(
            f"{name}: {free // 1024} KiB are free: new tickets are refused", f"df -h {shell_quote(name)}"
        )
    # File systems without a fixed number of inodes report 0.
    if disk.f_files and disk.f_favail < 1:
        return failed(f"{name}: no inode is free", f"df -i {shell_quote(name)}")
    if free < _LITTLE_SPACE:
        return warning(f"{name}: only {free // _MIB} MiB are free", f"df -h {shell_quote(name)}")
    if disk.f_files and disk.f_favail < _FEW_INODES:
        return warning(f"{name}: only {disk.f_favail} inodes are free", f"df -i {shell_quote(name)}")
    return ok(f"{name}: {free // _MIB} MiB are free")


CHECKS = (
    Check("state folder", state_folder),
    Check("key", key_source),
    Check("change of keys", pending_rekey),
    Check("disk space", disk_space),
)
