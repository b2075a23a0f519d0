"""Where tickets are kept: the state folder, the key, and room on the disk."""

import os
import stat
from pathlib import Path

from pykcm.cli.doctor.outcomes import Check, Outcome, failed, ok, skipped, warning
from pykcm.cli.doctor.systemd import SERVICE
from pykcm.cli.doctor.where import Where
from pykcm.cli.maintenance import NEW_KEY
from pykcm.cli.output import quoted
from pykcm.config import Config
from pykcm.store.names import CREDENTIAL, DATABASE, KEY, KEY_SIZE, SUCCESSOR

# Where LoadCredentialEncrypted= looks for a credential that is named without a path.
_CREDENTIAL_STORES = (
    "/etc/credstore.encrypted",
    "/run/credstore.encrypted",
    "/usr/local/lib/credstore.encrypted",
    "/usr/lib/credstore.encrypted",
)

_MIB = 1024 * 1024

# Below the first one new tickets are soon refused, below the second one nearly so.
_FULL = 4 * _MIB
_TIGHT = 64 * _MIB
_FEW_INODES = 100


def _no_folder(where: Where) -> Outcome | Config:
    """The configuration, where there is a state folder to look at."""
    config = where.config
    if config.store == "memory":
        return skipped("the memory store keeps nothing on disk")
    if not where.path(config.state_dir).exists():
        return skipped(
            f"{config.state_dir} is not there: the daemon has never been started, or is not of this machine"
        )
    return config


def state_folder(where: Where) -> Outcome:
    """It is the service's alone, as the daemon demands."""
    config = _no_folder(where)
    if isinstance(config, Outcome):
        return config
    name = config.state_dir
    folder = where.path(name)
    status = folder.stat()
    if not stat.S_ISDIR(status.st_mode):
        return failed(f"{name}: is no folder", f"ls -ld {quoted(name)}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        return failed(
            f"{name}: others than its owner have access (mode {mode:04o}): the daemon does not start",
            f"chmod 0700 {quoted(name)}",
        )
    owner = where.service_uid
    if owner is None:
        return ok(f"{name}: of UID {status.st_uid} alone (mode {mode:04o})")
    user = where.unit(SERVICE).user
    if status.st_uid != owner:
        return failed(
            f"{name}: belongs to UID {status.st_uid}, not to {user}: the daemon does not start",
            f"chown -R {user}: {quoted(name)}",
        )
    strangers = [each.name for each in sorted(folder.iterdir()) if each.lstat().st_uid not in {owner, 0}]
    if strangers:
        return failed(
            f"{name}: {', '.join(strangers)} in it belongs to others than {user}",
            f"chown -R {user}: {quoted(name)}",
        )
    return ok(f"{name}: of {user} alone (mode {mode:04o})")


def key_source(where: Where) -> Outcome:
    """There is a key, and nobody else can read it."""
    config = _no_folder(where)
    if isinstance(config, Outcome):
        return config
    name = config.key_file or f"{config.state_dir}/{KEY}"
    file = where.path(name)
    credential = _credential(where)
    if credential is not None:
        if not _exists(file):
            return ok(f"the systemd credential {credential}")
        return warning(
            f"the systemd credential {credential} counts, but the key file {name} is still there",
            f"systemctl restart {SERVICE} && shred -u {quoted(name)}",
        )
    if not _exists(file):
        if _exists(where.path(config.state_dir) / DATABASE):
            damaged = quoted(f"{config.state_dir}/damaged")
            return failed(
                f"there is a database, but no key: neither {name} nor the systemd credential {CREDENTIAL}; "
                "put the key back, or move the database away to begin with an empty one",
                f"mkdir -m 0700 {damaged}",
                f"mv {quoted(f'{config.state_dir}/{DATABASE}')}* {damaged}/",
            )
        return ok("none yet: the first start makes one")
    return _judged_file(where, config, name, file)


def _credential(where: Where) -> str | None:
    """The credential that the service is given, by its file."""
    for folder in _CREDENTIAL_STORES:
        name = f"{folder}/{CREDENTIAL}"
        if _exists(where.path(name)):
            return name
    return None


def _exists(path: Path) -> bool:
    """Raises PermissionError where that cannot be known: Path.exists() of newer Pythons says no then."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _judged_file(where: Where, config: Config, name: str, file: Path) -> Outcome:
    status = file.stat()
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode) or status.st_size != KEY_SIZE:
        return failed(
            f"{name}: is no key of {KEY_SIZE} bytes: the daemon does not start", f"ls -l {quoted(name)}"
        )
    if mode & 0o077:
        return failed(
            f"{name}: others than its owner can get at the key (mode {mode:04o}): the daemon does not start",
            f"chmod 0600 {quoted(name)}",
        )
    if where.service_uid is not None and status.st_uid not in {where.service_uid, 0}:
        user = where.unit(SERVICE).user
        return failed(
            f"{name}: belongs to UID {status.st_uid}, not to {user}: the daemon does not start",
            f"chown {user}: {quoted(name)}",
        )
    if Path(name).parent == Path(config.state_dir):
        return ok(f"the key file {name}; it lies beside the database, so a copy of the folder has both")
    return ok(f"the key file {name}")


def change_of_keys(where: Where) -> Outcome:
    """None waits for the administrator to put the new key in its place."""
    config = _no_folder(where)
    if isinstance(config, Outcome):
        return config
    successor = f"{config.state_dir}/{SUCCESSOR}"
    if not _exists(where.path(successor)):
        return ok("none is under way")
    credential = _credential(where)
    # The daemon itself makes the one that is beside the database.
    place = (
        [f"systemd-creds encrypt --name={CREDENTIAL} {NEW_KEY} {credential}"]
        if credential is not None
        else [f"install -m 0600 -o pykcm -g pykcm {NEW_KEY} {quoted(config.key_file)}"]
        if config.key_file
        else []
    )
    return warning(
        f"{successor}: the last rekey has not ended: the new key has to be put where the old one is",
        *place,
        f"systemctl restart {SERVICE}",
    )


def disk_space(where: Where) -> Outcome:
    """The database can grow."""
    config = _no_folder(where)
    if isinstance(config, Outcome):
        return config
    name = config.state_dir
    return judged_space(name, os.statvfs(where.path(name)))


def judged_space(name: str, disk: os.statvfs_result) -> Outcome:
    """What the file system of the folder says, as statvfs() has it."""
    room = disk.f_bavail * disk.f_frsize
    if disk.f_flag & os.ST_RDONLY:
        return failed(f"{name}: on a disk that is read-only", f"findmnt -T {quoted(name)}", "dmesg | tail")
    if room < _FULL:
        return failed(
            f"{name}: {room // 1024} KiB are free: new tickets are refused", f"df -h {quoted(name)}"
        )
    # Some file systems have no fixed number of them, and say 0.
    if disk.f_files and disk.f_favail < 1:
        return failed(f"{name}: no inode is free", f"df -i {quoted(name)}")
    if room < _TIGHT:
        return warning(f"{name}: only {room // _MIB} MiB are free", f"df -h {quoted(name)}")
    if disk.f_files and disk.f_favail < _FEW_INODES:
        return warning(f"{name}: only {disk.f_favail} inodes are free", f"df -i {quoted(name)}")
    return ok(f"{name}: {room // _MIB} MiB are free")


CHECKS = (
    Check("state folder", state_folder),
    Check("key", key_source),
    Check("change of keys", change_of_keys),
    Check("disk space", disk_space),
)
